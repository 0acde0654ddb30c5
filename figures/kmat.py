"""K-MaT: Table 2, Table 3, Fig. 2 a and b of Zeng and Albarqouni 2026.

Redraw from the CSVs: `python -m figures.kmat`.
"""
import matplotlib.pyplot as plt
import numpy as np

from . import CLASSES, MM, STYLE, WIDTH, caption, letter, nothing, read, save

METHODS = {"zero-shot": "zero-shot", "coop": "CoOp", "kgcoop": "KgCoOp", "cocoop": "CoCoOp",
           "biomedcoop": "BiomedCoOp", "kmat": "K-MaT"}
SWITCHES = {"1": "none", "2": "CSC", "3": "CSC MSC", "4": "CSC MSC fgw", "5": "CSC MSC anc",
            "6": "MSC anc fgw", "7": "CSC anc fgw", "8": "CSC MSC anc fgw"}
ENDS = {"high": ("high end", "#0072B2", "o"), "low": ("low end", "#D55E00", "s"),
        "h": ("harmonic mean", "#000000", "D")}
COLOURS = (CLASSES[0], CLASSES[1], CLASSES[3], CLASSES[2], "#CC79A7", "#999999")


def scores(ax, table, names, title, measure="acc"):
    """One row per method: accuracy of both ends and their harmonic mean, mean and sd over seeds."""
    if not len(table):
        return nothing(ax)
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


def draw():
    """Draws the figure from figures/kmat/*.csv into figures/kmat/kmat.png and returns the Figure."""
    tables = {k: read(f"kmat_{k}") for k in ("table2", "table3", "fig2a", "fig2b")}
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(2, 2, figsize=(WIDTH, 125 * MM))
        letter(scores(axes[0, 0], tables["table2"], METHODS, "Methods (Table 2)"), "a", x=20)
        letter(scores(axes[0, 1], tables["table3"], SWITCHES, "Parts of K-MaT (Table 3)"), "b", x=20)
        letter(fig2a(axes[1, 0], tables["fig2a"]), "c")
        letter(fig2b(axes[1, 1], tables["fig2b"]), "d", x=20)
        if len(tables["table2"]):
            fig.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
        first = tables["table2"].iloc[0] if len(tables["table2"]) else {"model": "", "seeds": 0}
        note = f"image-text model: {first['model']}; mean and sd over {first['seeds']} seeds"
        caption(fig, note, tables.values())
        return save(fig, "kmat")


if __name__ == "__main__":
    draw()
