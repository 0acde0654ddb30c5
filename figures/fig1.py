"""Fig. 1 a-i: is the image malignant? Ours against six learners on radiomic features. Redraw from the CSVs: `python -m figures.fig1`."""
import matplotlib.pyplot as plt

from . import BASELINES, MM, STYLE, WIDTH, caption, letter, nothing, present, read, save

SHORT = {"radiomics_lr": "LR", "radiomics_rf": "RF", "radiomics_svm": "SVM", "radiomics_xgboost": "XGBoost",
         "radiomics_lightgbm": "LightGBM", "radiomics_mlp": "MLP", "ours": "ours"}
MEASURES = {"accuracy": "accuracy", "f1": "F1", "sensitivity": "sensit.", "specificity": "specif."}
SMALL = {"fontsize": 5.5, "title_fontsize": 6, "borderaxespad": 0.1, "labelspacing": 0.25}      # legends with numbers
NOTE = ("Score: $p_2 + p_3$ of every image, mammogram or tissue, whose label says malignant or not; same images for all methods, "
        "as trained.\n"
        "a-c, g-i: measured in each run (fold and seed), averaged over runs. d-f: images of all runs together. [ ] and black bars: 95 %\n"
        "interval, patients resampled; resampling adds to calibration errors, so that the interval of a small ECE may lie above it.")


def number(value):
    return "–" if value != value else f"{value:.2f}".replace("-", "−")


def interval(row, value, low="low", high="high"):
    """"0.85 [0.81, 0.89]" of a row of a table."""
    return f"{number(row[value])} [{number(row[low])}, {number(row[high])}]"


def lines(ax, table, x, y, label, **how):
    """A line a method, ours thickest and on top; label(first row of the method) is what the legend says."""
    for method in present(SHORT, table.method):
        g, own = table[table.method == method], method == "ours"
        ax.plot(g[x], g[y], color=BASELINES[method][1], lw=1.6 if own else 0.9, zorder=3 if own else 2,
                label=f"{SHORT[method]} {label(g.iloc[0])}", **how)
    ax.grid()


def several(n, what):
    """"1 run", "12 runs"."""
    return f"{n} {what}" + ("s" if n != 1 else "")


def cohort(table):
    """What a panel says of its cohort: "external test: 2042 images, 272 patients, 12 runs"."""
    row = table.iloc[0]
    return f"{row.cohort}\n{several(row.images, 'image')}, {several(row.patients, 'patient')}, {several(row.runs, 'run')}"


def roc(ax, table):
    """Panels a-c: mean ROC curves with the AUC."""
    if not len(table):
        return nothing(ax)
    lines(ax, table, "fpr", "tpr", lambda row: interval(row, "auc"))
    ax.plot([0, 1], [0, 1], ":", color="#999999", lw=0.7)
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="1 − specificity", ylabel="sensitivity", title=cohort(table))
    ax.legend(loc="lower right", title="AUC", **SMALL)
    return ax


def reliability(ax, table):
    """Panels d-f: observed against predicted share of malignant images, with ECE and, after Δ, its shift against training."""
    if not len(table):
        return nothing(ax)
    training = (table.cohort == "training").all()
    shift = lambda row: "" if training or row["shift"] != row["shift"] else f", Δ {row['shift']:+.2f}".replace("-", "−")
    lines(ax, table.dropna(subset=["observed"]), "predicted", "observed", lambda row: interval(row, "ece") + shift(row), marker="o", ms=2)
    ax.plot([0, 1], [0, 1], ":", color="#999999", lw=0.7)
    ax.set(xlim=(0, 1), ylim=(0, 1.55), yticks=[0, 0.25, 0.5, 0.75, 1], xlabel="predicted probability", ylabel="share malignant")
    ax.set_title(table.cohort.iloc[0])
    ax.legend(loc="upper left", title="ECE" if training else "ECE, Δ to training", **SMALL)
    return ax


def fig1g(ax, table):
    """Panel g: accuracy, F1, sensitivity, specificity at the threshold of the validation patients; bars end at the 95 % interval."""
    if not len(table):
        return nothing(ax)
    methods = present(SHORT, table.method)
    step = 0.8 / len(methods)
    for k, method in enumerate(methods):
        g = table[table.method == method].set_index("measure").reindex(MEASURES)
        x = [i - 0.4 + step * (k + 0.5) for i in range(len(MEASURES))]
        ax.bar(x, g["value"], step * 0.9, color=BASELINES[method][1], label=SHORT[method])
        ax.vlines(x, g.low, g.high, color="black", lw=0.7)
    ax.axhline(0.8, color="#B22222", ls="--", lw=0.6)
    ax.grid(axis="y")
    ax.set(ylim=(0, 1.2), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1], xticks=range(len(MEASURES)), ylabel="share")
    ax.set_xticklabels(MEASURES.values())
    ax.legend(ncols=4, loc="upper center", fontsize=5.5, labelspacing=0.2)
    ax.text(3.45, 0.8, "the paper's clinical threshold", ha="right", va="bottom", fontsize=5.5, color="#B22222")
    ax.set_title(f"{table.cohort.iloc[0]}, threshold from validation")
    return ax


def fig1h(ax, table):
    """Panel h: mean precision-recall curves; AUPR as average precision, and in brackets by the trapezoid rule."""
    if not len(table):
        return nothing(ax)
    lines(ax, table, "recall", "precision", lambda row: f"{interval(row, 'ap')} ({number(row.trapezoid)})")
    level = table.prevalence.iloc[0]
    ax.axhline(level, color="#999999", ls=":", lw=0.7)
    ax.text(0.99, level - 0.01, f"prevalence {100 * level:.0f} %", ha="right", va="top", fontsize=5.5, color="#555555")
    ax.set(xlim=(0, 1), ylim=(-0.1, 1.01), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1], xlabel="recall (sensitivity)", ylabel="precision")
    ax.set_title(table.cohort.iloc[0])
    ax.legend(loc="lower left", title="average precision (trapezoid)", **SMALL)
    return ax


def fig1i(ax, table):
    """Panel i: mean decision curves with the net benefit averaged over thresholds from 0.1 to 0.3 (grey)."""
    if not len(table):
        return nothing(ax)
    ax.axvspan(0.1, 0.3, color="#EEEEEE", lw=0)
    one = table[table.method == table.method.iloc[0]]
    everyone = one.treat_all[one.threshold.between(0.0999, 0.3001)].mean()
    ax.plot(one.threshold, one.treat_all, "--", color="black", lw=0.8, label=f"treat all {number(everyone)}")
    ax.axhline(0, color="black", ls=":", lw=0.8, label="treat none 0")
    lines(ax, table, "threshold", "net_benefit", lambda row: interval(row, "inb"))
    top = table.net_benefit.max()
    ax.set(xlim=(0, 0.6), ylim=(-0.1 * top, 1.75 * top), xlabel="threshold probability", ylabel="net benefit per image")
    ax.set_title(table.cohort.iloc[0])
    ax.legend(loc="upper right", title="mean net benefit, 0.1–0.3", **SMALL)
    return ax


def draw():
    """Draws Fig. 1 from figures/fig1/*.csv into figures/fig1/fig1.png and returns the Figure. What did not run is an empty panel."""
    tables = {k: read(f"fig1{k}") for k in "abcdefghi"}
    panels = dict(zip("abcdefghi", (roc, roc, roc, reliability, reliability, reliability, fig1g, fig1h, fig1i)))
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(3, 3, figsize=(WIDTH, 195 * MM))
        for ax, (k, panel) in zip(axes.flat, panels.items()):
            letter(panel(ax, tables[k]), k, x=16)
        caption(fig, NOTE, tables.values())
        return save(fig, "fig1")


if __name__ == "__main__":
    draw()
