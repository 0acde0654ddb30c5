"""Fig. 1 a-i: is the image malignant? Ours against six learners on radiomic features.

`python -m figures.fig1` redraws it from its tables.
"""
import matplotlib.pyplot as plt
import pandas as pd

from . import BASELINES, DASHES, MARKERS, MM, STYLE, WIDTH, caption, letter, nothing, present, read, save

SHORT = {
    "linear_probe": "untouched",
    "radiomics_lr": "LR", "radiomics_rf": "RF", "radiomics_svm": "SVM", "radiomics_xgboost": "XGBoost",
    "radiomics_lightgbm": "LightGBM", "radiomics_mlp": "MLP", "ours": "ours",
}
MEASURES = {"accuracy": "accuracy", "f1": "F1", "sensitivity": "sensit.", "specificity": "specif."}
# legends with numbers: in a panel, or below it
SMALL = {"fontsize": 5.5, "title_fontsize": 6, "borderaxespad": 0.1, "labelspacing": 0.25}
BELOW = {"fontsize": 5, "title_fontsize": 6, "labelspacing": 0.2, "handlelength": 3,
         "loc": "upper center", "bbox_to_anchor": (0.45, -0.15)}
NOTE = (
    "Score: $p_2 + p_3$ of every image, mammogram or tissue, whose label says malignant or not; "
    "same images for all methods, as trained.\n"
    "a-c, g-i: measured in each run (fold and seed), averaged over runs. d-f: images of all runs together; "
    "ECE: in each domain of\n"
    "each run, without what chance adds, then averaged. [ ] and black bars: 95 % interval, by patient."
)


def number(value):
    """Two decimals, "–" for none."""
    return "–" if pd.isna(value) else f"{value:.2f}".replace("-", "−")


def interval(row, value, low="low", high="high"):
    """"0.85 [0.81, 0.89]" from three columns of a row."""
    return f"{number(row[value])} [{number(row[low])}, {number(row[high])}]"


def lines(ax, table, x, y, label):
    """One line per method, ours thickest and on top.

    label: a function of a method's first row, which gives the numbers in the legend.
    """
    for method in present(SHORT, table.method):
        points = table[table.method == method]
        look = {"lw": 1.6, "zorder": 3} if method == "ours" else {"lw": 0.9, "zorder": 2}
        look |= {"ls": DASHES.get(method, "-"), "marker": MARKERS[method], "ms": 2.2, "mew": 0}
        text = f"{SHORT[method]} {label(points.iloc[0])}"
        every = max(len(points) // 8, 1)                    # a marker on every eighth part of the line
        ax.plot(points[x], points[y], color=BASELINES[method][1], label=text, markevery=every, **look)
    ax.grid()


def several(n, what):
    """"1 run", "12 runs"."""
    return f"{n} {what}" + ("s" if n != 1 else "")


def cohort(table):
    """The title of a panel: "external test", and below it "2042 images, 272 patients, 12 runs"."""
    row = table.iloc[0]
    counts = (several(row.images, "image"), several(row.patients, "patient"), several(row.runs, "run"))
    return f"{row.cohort}\n{', '.join(counts)}"


def roc(ax, table):
    """Panels a-c: mean ROC curves with the AUC."""
    if not len(table):
        return nothing(ax)
    lines(ax, table, "fpr", "tpr", lambda row: interval(row, "auc"))
    ax.plot([0, 1], [0, 1], ":", color="#999999", lw=0.7)
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="1 − specificity", ylabel="sensitivity", title=cohort(table))
    ax.legend(title="AUC", **BELOW)
    return ax


def ece_and_shift(row):
    """The calibration error of a row and, outside the training cohort, its shift from training."""
    text = interval(row, "ece")
    if row.cohort == "training" or pd.isna(row["shift"]):
        return text
    return text + f", Δ {row['shift']:+.2f}".replace("-", "−")


def reliability(ax, table):
    """Panels d-f: observed against predicted share of malignant images, with ECE and its shift (Δ)."""
    if not len(table):
        return nothing(ax)
    lines(ax, table.dropna(subset=["observed"]), "predicted", "observed", ece_and_shift)
    ax.plot([0, 1], [0, 1], ":", color="#999999", lw=0.7)
    ax.set(xlim=(0, 1), ylim=(0, 1.02), yticks=[0, 0.25, 0.5, 0.75, 1])
    ax.set(xlabel="predicted probability", ylabel="share malignant", title=table.cohort.iloc[0])
    title = "ECE" if (table.cohort == "training").all() else "ECE, Δ to training"
    ax.legend(title=title, **BELOW)
    return ax


def fig1g(ax, table):
    """Panel g: accuracy, F1, sensitivity, specificity with 95 % intervals; validation chose the threshold."""
    if not len(table):
        return nothing(ax)
    methods = present(SHORT, table.method)
    step = 0.8 / len(methods)
    for k, method in enumerate(methods):
        measured = table[table.method == method].set_index("measure").reindex(MEASURES)
        x = [i - 0.4 + step * (k + 0.5) for i in range(len(MEASURES))]
        ax.bar(x, measured["value"], step * 0.9, color=BASELINES[method][1], label=SHORT[method])
        ax.vlines(x, measured.low, measured.high, color="black", lw=0.7)
    ax.axhline(0.8, color="#B22222", ls="--", lw=0.6)
    ax.grid(axis="y")
    ax.set(ylim=(0, 1.02), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1], xticks=range(len(MEASURES)), ylabel="share")
    ax.set_xticklabels(MEASURES.values())
    ax.legend(**BELOW, ncols=2)
    ax.text(
        3.45, 0.8, "the paper's clinical threshold",
        ha="right", va="bottom", fontsize=5.5, color="#B22222",
    )
    ax.set_title(f"{table.cohort.iloc[0]}, threshold from validation")
    return ax


def fig1h(ax, table):
    """Panel h: mean precision-recall curves with average precision and, in brackets, the trapezoid area."""
    if not len(table):
        return nothing(ax)
    lines(ax, table, "recall", "precision", lambda row: f"{interval(row, 'ap')} ({number(row.trapezoid)})")
    prevalence = table.prevalence.iloc[0]
    ax.axhline(prevalence, color="#999999", ls=":", lw=0.7)
    label = f"prevalence {100 * prevalence:.0f} %"
    ax.text(0.99, prevalence - 0.01, label, ha="right", va="top", fontsize=5.5, color="#555555")
    ax.set(xlim=(0, 1), ylim=(0, 1.01), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.set(xlabel="recall (sensitivity)", ylabel="precision", title=table.cohort.iloc[0])
    ax.legend(title="average precision (trapezoid)", **BELOW)
    return ax


def fig1i(ax, table):
    """Panel i: mean decision curves with the net benefit averaged over thresholds from 0.1 to 0.3 (grey)."""
    if not len(table):
        return nothing(ax)
    ax.axvspan(0.1, 0.3, color="#EEEEEE", lw=0)
    curve = table[table.method == table.method.iloc[0]]            # treating all is the same for every method
    treat_all = curve.treat_all[curve.threshold.between(0.0999, 0.3001)].mean()
    label = f"treat all {number(treat_all)}"
    ax.plot(curve.threshold, curve.treat_all, "--", color="black", lw=0.8, label=label)
    ax.axhline(0, color="black", ls=":", lw=0.8, label="treat none 0")
    lines(ax, table, "threshold", "net_benefit", lambda row: interval(row, "inb"))
    top = table.net_benefit.max()
    ax.set(xlim=(0, 0.6), ylim=(-0.1 * top, 1.05 * top))
    ax.set(xlabel="threshold probability", ylabel="net benefit per image", title=table.cohort.iloc[0])
    ax.legend(title="mean net benefit, 0.1–0.3", **BELOW)
    return ax


def draw():
    """Draws Fig. 1 from figures/fig1/*.csv into figures/fig1/fig1.png and returns the Figure.

    A panel whose methods did not run stays empty.
    """
    panels = {
        "a": roc, "b": roc, "c": roc, "d": reliability, "e": reliability, "f": reliability,
        "g": fig1g, "h": fig1h, "i": fig1i,
    }
    tables = {name: read(f"fig1{name}") for name in panels}
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(3, 3, figsize=(WIDTH, 250 * MM))
        for ax, (name, panel) in zip(axes.flat, panels.items()):
            letter(panel(ax, tables[name]), name, x=16)
        caption(fig, NOTE, tables.values())
        return save(fig, "fig1")


if __name__ == "__main__":
    draw()
