"""K-MaT: Table 2, Table 3, Fig. 2 a and b of Zeng and Albarqouni 2026; the plan; the control.

Redraw from the CSVs: `python -m figures.kmat`.
"""
import matplotlib.pyplot as plt
import numpy as np

from . import CLASSES, MM, SPARE, STYLE, WIDTH, caption, letter, nothing, read, save

METHODS = {"zero-shot": "zero-shot", "coop": "CoOp", "kgcoop": "KgCoOp", "cocoop": "CoCoOp",
           "biomedcoop": "BiomedCoOp", "kmat": "K-MaT"}
SWITCHES = {"1": "none", "2": "CSC", "3": "CSC MSC", "4": "CSC MSC fgw", "5": "CSC MSC anc",
            "6": "MSC anc fgw", "7": "CSC anc fgw", "8": "CSC MSC anc fgw"}
ENDS = {"high": ("high end", "#0072B2", "o"), "low": ("low end", "#D55E00", "s"),
        "h": ("harmonic mean", "#000000", "D")}
COLOURS = (CLASSES[0], CLASSES[1], CLASSES[3], CLASSES[2], "#CC79A7", "#999999")


ARMS = {"CoOp": ("#999999", "--"), "K-MaT": ("#0072B2", "-"), "neither": (SPARE[0], ":"),
        "transport": (SPARE[2], "-"), "descriptions": ("#E69F00", "-"), "exchanged": ("#D55E00", "--"),
        "one modality": ("#56B4E9", "-")}


def scores(ax, table, names, title, measure="acc"):
    """One row per method: accuracy of both ends and their harmonic mean, mean and sd over seeds.

    Of several pairs their mean is drawn.
    """
    if not len(table):
        return nothing(ax)
    pair = table.pair.iloc[-1]
    table = table[table.pair == pair]
    title = f"{title}, {pair}"
    table = table[table.method.astype(str).isin(names)]
    y = np.arange(len(table))[::-1]
    for k, (end, (label, colour, marker)) in enumerate(ENDS.items()):
        deviation = table[f"{end}_{measure}_sd"].fillna(0)
        ax.errorbar(table[f"{end}_{measure}"], y + 0.18 * (1 - k), xerr=deviation, fmt=marker, ms=3, lw=0.7,
                    color=colour, label=label)
    right = {"xycoords": ("axes fraction", "data"), "fontsize": 6}
    for i, h in zip(y, table[f"h_{measure}"]):
        ax.annotate(f"{h:.1f}", (1.01, i), va="center", **right)
    ax.annotate("H", (1.01, len(table) - 0.4), fontweight="bold", **right)
    ax.set(yticks=y, xlim=(0, 100), ylim=(-0.6, len(table) - 0.4), title=title)
    ax.set_xlabel({"acc": "accuracy (%)", "f1": "macro-F1 (%)"}[measure])
    ax.set_yticklabels([names[str(m)] for m in table.method])
    ax.grid(axis="x")
    return ax


def fig2a(ax, table):
    """t-SNE of the class embeddings: colours are classes, shapes ends; hollow is without L_fgw."""
    if not len(table):
        return nothing(ax)
    for (run, end, c), g in table.groupby(["run", "end", "class"]):
        face = COLOURS[c] if run == "with" else "none"
        ax.scatter(g.x, g.y, marker=ENDS[end][2], s=22, facecolors=face, edgecolors=COLOURS[c], lw=0.9)
    handles = []
    for end in ("high", "low"):
        label, _, marker = ENDS[end]
        handles += ax.plot([], [], marker, color="#555555", ms=4, label=label)
    handles += ax.plot([], [], "o", mfc="none", mec="#555555", ms=4, label="without L_fgw")
    for c, name in sorted(set(zip(table["class"], table.name))):
        handles += ax.plot([], [], "s", color=COLOURS[c], ms=4, label=name)
    ax.legend(handles=handles, fontsize=5.5, loc="best")
    ax.set(xticks=[], yticks=[], title="Class embeddings without anchors, t-SNE")
    return ax


def fig2b(ax, table):
    """Accuracy of each class on the low end with and without L_fgw, one dot per seed."""
    if not len(table):
        return nothing(ax)
    classes = list(dict.fromkeys(table.name))
    for k, (run, colour) in enumerate((("without", "#999999"), ("with", "#0072B2"))):
        rows = table[table.run == run]
        x = np.array([classes.index(name) for name in rows.name]) + 0.36 * k - 0.18
        mean = rows.groupby("name").accuracy.mean()[classes]
        bars = np.arange(len(classes)) + 0.36 * k - 0.18
        ax.bar(bars, mean, 0.34, color=colour, alpha=0.5, label=f"{run} L_fgw")
        ax.plot(x, rows.accuracy, ".", color=colour)
    ax.set(xticks=range(len(classes)), ylim=(0, 100), ylabel="accuracy, low end (%)",
           title="Each class on the low end, without anchors")
    ax.set_xticklabels(classes)
    ax.legend()
    return ax


def plan(ax, table):
    """Which low-end class the plan couples with each high-end class, without anchors: mean share over seeds,
    and of how many seeds the largest share is there."""
    if not len(table):
        return nothing(ax)
    classes = list(dict.fromkeys(table.high))
    share = table.pivot_table(index="high", columns="low", values="share").loc[classes, classes]
    most = table.pivot_table(index="high", columns="low", values="most", aggfunc="sum").loc[classes, classes]
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(classes)):
        for j in range(len(classes)):
            dark = "white" if share.iloc[i, j] > 0.6 else "black"
            text = f"{share.iloc[i, j]:.2f}\n{int(most.iloc[i, j])} of {table.seed.nunique()}"
            ax.text(j, i, text, ha="center", va="center", color=dark, fontsize=6)
    ax.set(xticks=range(len(classes)), yticks=range(len(classes)), xlabel="low end", ylabel="high end",
           title="The plan without anchors: share, seeds")
    ax.set_xticklabels(classes)
    ax.set_yticklabels(classes)
    return ax


def control(ax, table):
    """Accuracy at the low end of every arm over the gap, mean over seeds; dots are seeds."""
    if not len(table):
        return nothing(ax)
    for arm, rows in table.groupby("arm", sort=False):
        colour, dashes = ARMS[arm]
        rows = rows[rows.dose == 0] if arm == "one modality" else rows
        mean = rows.groupby("dose").value.mean()
        ax.plot(rows.dose, rows.value, ".", ms=2, color=colour)
        ax.plot(mean.index, mean, dashes, marker="o", ms=3, color=colour, label=arm)
    ax.set(xlabel=table.dial.iloc[0], ylabel="accuracy, low end", ylim=(0, 1), title="Control: the gap")
    ax.legend(fontsize=5, ncols=2)
    return ax


def draw():
    """Draws the figure from figures/kmat/*.csv into figures/kmat/kmat.png and returns the Figure."""
    names = ("table2", "table3", "fig2a", "fig2b", "plan", "control")
    tables = {name: read(f"kmat_{name}") for name in names}
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(3, 2, figsize=(WIDTH, 185 * MM))
        letter(scores(axes[0, 0], tables["table2"], METHODS, "Methods (Table 2)"), "a", x=20)
        letter(scores(axes[0, 1], tables["table3"], SWITCHES, "Parts (Table 3)"), "b", x=20)
        letter(fig2a(axes[1, 0], tables["fig2a"]), "c")
        letter(fig2b(axes[1, 1], tables["fig2b"]), "d", x=20)
        letter(plan(axes[2, 0], tables["plan"]), "e", x=30)
        letter(control(axes[2, 1], tables["control"]), "f", x=20)
        if len(tables["table2"]):
            fig.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
        first = tables["table2"].iloc[-1] if len(tables["table2"]) else {"model": "", "seeds": 0}
        note = f"image-text model: {first['model']}; mean and sd over {first['seeds']:.0f} seeds"
        caption(fig, note, tables.values())
        return save(fig, "kmat")


if __name__ == "__main__":
    draw()
