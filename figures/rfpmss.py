"""RFPMSS: retrieval, ablations (Tables 3-5), attention against lesions (Fig. 4), anchors (Fig. 5-7).

Shi et al. 2025. Redraw from the CSVs: `python -m figures.rfpmss`.
"""
import json

import matplotlib.pyplot as plt
import numpy as np

from xmodal.tables.cases import from_uri

from . import CLASSES, MM, STYLE, WIDTH, caption, letter, nothing, read, save
from .cases import FOUND, TRUTH, box, overlay, picture

LABELS = {"normal": CLASSES[0], "benign": CLASSES[1], "malignant": CLASSES[3]}
MODALITIES = {"mammogram": "#0072B2", "magnified": "#56B4E9", "ultrasound": "#E69F00", "report": "#000000"}
PANELS = ("table1", "table3", "table4a", "table4b", "table5", "fig4", "fig5", "fig5d", "fig7")


def bars(ax, table, title, measure="R@10"):
    """One bar per row, with its 95 % interval if the table has one; dotted: what random order gives."""
    if not len(table):
        return nothing(ax)
    y = np.arange(len(table))[::-1]
    values = table[measure]
    low = table.get(f"{measure}_low", values)
    high = table.get(f"{measure}_high", values)
    ax.barh(y, values, xerr=((values - low).clip(0), (high - values).clip(0)), color="#56B4E9", height=0.7,
            error_kw={"lw": 0.6, "ecolor": "#555555"})
    digits = 2 if measure == "auc" else 1
    for i, value, end in zip(y, values, high):
        ax.text(end, i, f" {value:.{digits}f}", va="center", fontsize=5.5)
    if "n" in table and measure.startswith("R@"):
        ax.axvline(100 * int(measure[2:]) / table.n.iloc[0], color="#D55E00", ls=":", lw=0.8)
    ax.set(yticks=y, title=title, xlabel={"auc": "AUC"}.get(measure, f"{measure} (%)"))
    ax.margins(x=0.18)
    if "name" in table:
        names = table.name
    else:
        names = [f"K {k}, K' {chosen}" for k, chosen in zip(table.anchors, table.chosen)]
    ax.set_yticklabels(names, fontsize=6)
    return ax


def fig4(fig, table):
    """Six studies at evenly spaced ranks of IoU: true boxes green, the box of the attention orange."""
    for k, row in enumerate(table.itertuples()):
        ax = fig.add_subplot(1, max(len(table), 1), k + 1)
        overlay(ax, from_uri(row.image), from_uri(row.heat))
        for corners in json.loads(row.boxes):
            box(ax, corners, TRUTH)
        if json.loads(row.box):
            box(ax, json.loads(row.box), FOUND, "--")
        ax.set_title(f"{row.lesion_type}\nIoU {row.iou:.2f}", fontsize=6)


def fig5(ax, table, part, title):
    """t-SNE of one kind of feature, coloured by label."""
    g = table[table.part == part] if len(table) else table
    if not len(g):
        return nothing(ax)
    for label, colour in LABELS.items():
        ax.plot(*g.loc[g.label == label, ["x", "y"]].to_numpy().T, ".", ms=3, color=colour, label=label)
    ax.set(xticks=[], yticks=[], title=title)
    return ax


def fig5d(ax, table):
    """How much malignant studies take of each anchor, one line per modality."""
    if not len(table):
        return nothing(ax)
    for modality, colour in MODALITIES.items():
        g = table[table.modality == modality]
        ax.plot(g.anchor, g.share, "-o", ms=2, lw=0.8, color=colour, label=modality)
    ax.set(xlabel="anchor", ylabel="assignment", ylim=(0, 1), title="Anchors of malignant studies")
    ax.legend(fontsize=5, ncols=2)
    return ax


def fig7(ax, table, name):
    """The two studies that are most `name` (alike or apart), and below them the anchors that they take.

    Green is taken, yellow is not; framed in red where the two differ.
    """
    ax.set_axis_off()
    ax.set_title(f"most {name}")
    pair = table[table.pair == name] if len(table) else table
    if not len(pair):
        return nothing(ax)
    for k, row in enumerate(pair.itertuples()):
        inner = picture(ax.inset_axes([0.02 + 0.5 * k, 0.42, 0.46, 0.56]), from_uri(row.image))
        inner.set_title(row.label, fontsize=6, pad=1)
    taken = np.array([json.loads(row.assigned) for row in pair.itertuples()])
    grid = ax.inset_axes([0.02, 0.05, 0.96, 0.28])
    grid.imshow(np.where(taken[..., None] == 1, (0.0, 0.62, 0.45), (0.94, 0.89, 0.26)), aspect="auto")
    for k in np.flatnonzero(taken[0] != taken[1]):
        grid.add_patch(plt.Rectangle((k - 0.5, -0.5), 1, 2, fill=False, ec="#B22222", lw=1.2))
    grid.set(xticks=[], yticks=[])
    return ax


def draw():
    """Draws the figure from figures/rfpmss/*.csv into figures/rfpmss/rfpmss.png and returns the Figure."""
    tables = {k: read(f"rfpmss_{k}") for k in PANELS}
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 215 * MM))
        rows = fig.subfigures(4, 1, height_ratios=[1, 0.72, 0.9, 1.05])
        a, b, c = rows[0].subplots(1, 3)
        letter(bars(a, tables["table1"], "Report and study"), "a", x=20)
        letter(bars(b, tables["table3"], "Sites apart or joint (Table 3)"), "b", x=20)
        letter(bars(c, tables["table4a"], "Loss terms (Table 4a)"), "c", x=20)
        if len(tables["fig4"]):
            fig4(rows[1], tables["fig4"])
        d, e, f, g = rows[2].subplots(1, 4)
        letter(fig5(d, tables["fig5"], "study", "studies"), "d")
        letter(fig5(e, tables["fig5"], "views", "images"), "e")
        letter(fig5(f, tables["fig5"], "report", "reports"), "f")
        d.legend(fontsize=5, loc="best")
        letter(fig5d(g, tables["fig5d"]), "g", x=20)
        h, i, j, k = rows[3].subplots(1, 4)
        letter(bars(h, tables["table4b"], "Anchors (Table 4b, Fig. 6)"), "h", x=20)
        letter(bars(i, tables["table5"], "Modules (Table 5)", "auc"), "i", x=20)
        letter(fig7(j, tables["fig7"], "alike"), "j")
        letter(fig7(k, tables["fig7"], "apart"), "k")
        note = ("each bar one training of one seed, whiskers 95 % over patients; dotted: random order\n"
                "Fig. 4 in the second row, cases at evenly spaced ranks of IoU")
        caption(rows[3], note, tables.values())
        return save(fig, "rfpmss")


if __name__ == "__main__":
    draw()
