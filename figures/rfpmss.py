"""RFPMSS: retrieval, ablations (Tables 3-5), attention against lesions (Fig. 4), anchors (Fig. 5-7) of Shi et al. 2025.

Redraw from the CSVs: `python -m figures.rfpmss`."""
import json

import matplotlib.pyplot as plt
import numpy as np

from xmodal.tables.cases import from_uri

from . import CLASSES, MM, STYLE, WIDTH, caption, letter, nothing, read, save
from .fig4 import FOUND, TRUTH, box, overlay, picture

LABELS = {"normal": CLASSES[0], "benign": CLASSES[1], "malignant": CLASSES[3]}
MODALITIES = {"mammogram": "#0072B2", "magnified": "#56B4E9", "ultrasound": "#E69F00", "report": "#000000"}
PANELS = ("table1", "table3", "table4a", "table4b", "table5", "fig4", "fig5", "fig5d", "fig7")


def bars(ax, table, title, measure="R@10"):
    """A bar a row, with its 95 % interval where the table has one; a dotted line at what random order gives."""
    if not len(table):
        return nothing(ax)
    y = np.arange(len(table))[::-1]
    low, high = (table.get(f"{measure}_{end}", table[measure]) for end in ("low", "high"))
    ax.barh(y, table[measure], xerr=((table[measure] - low).clip(0), (high - table[measure]).clip(0)), color="#56B4E9", height=0.7,
            error_kw={"lw": 0.6, "ecolor": "#555555"})
    for i, value, end in zip(y, table[measure], high):
        ax.text(end, i, f" {value:.1f}" if measure != "auc" else f" {value:.2f}", va="center", fontsize=5.5)
    if "n" in table and measure.startswith("R@"):
        ax.axvline(100 * int(measure[2:]) / table.n.iloc[0], color="#D55E00", ls=":", lw=0.8)
    ax.set(yticks=y, title=title, xlabel={"auc": "AUC"}.get(measure, f"{measure} (%)"))
    ax.margins(x=0.18)
    names = table.name if "name" in table else [f"K {k}, K' {c}" for k, c in zip(table.anchors, table.chosen)]
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
    """How much malignant studies take of each anchor, a line a modality."""
    if not len(table):
        return nothing(ax)
    for modality, colour in MODALITIES.items():
        g = table[table.modality == modality]
        ax.plot(g.anchor, g.share, "-o", ms=2, lw=0.8, color=colour, label=modality)
    ax.set(xlabel="anchor", ylabel="assignment", ylim=(0, 1), title="Anchors of malignant studies")
    ax.legend(fontsize=5, ncols=2)
    return ax


def fig7(ax, pair, title):
    """Two studies, and below them the anchors they take: green taken, yellow not; framed in red where they differ."""
    ax.set_axis_off()
    ax.set_title(title)
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
    t = {k: read(f"rfpmss_{k}") for k in PANELS}
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 215 * MM))
        rows = fig.subfigures(4, 1, height_ratios=[1, 0.72, 0.9, 1.05])
        for k, (ax, name, title, measure) in enumerate(zip(rows[0].subplots(1, 3), ("table1", "table3", "table4a"), (
                "Report and study", "Sites apart or joint (Table 3)", "Loss terms (Table 4a)"), ("R@10", "R@10", "R@10"))):
            letter(bars(ax, t[name], title, measure), "abc"[k], x=20)
        if len(t["fig4"]):
            fig4(rows[1], t["fig4"])
        axes = rows[2].subplots(1, 4)
        for k, (part, title) in enumerate((("study", "studies"), ("views", "images"), ("report", "reports"))):
            letter(fig5(axes[k], t["fig5"], part, title), "def"[k])
        axes[0].legend(fontsize=5, loc="best")
        letter(fig5d(axes[3], t["fig5d"]), "g", x=20)
        axes = rows[3].subplots(1, 4)
        letter(bars(axes[0], t["table4b"], "Anchors (Table 4b, Fig. 6)"), "h", x=20)
        letter(bars(axes[1], t["table5"], "Modules (Table 5)", "auc"), "i", x=20)
        for ax, name, mark in ((axes[2], "alike", "j"), (axes[3], "apart", "k")):
            letter(fig7(ax, t["fig7"][t["fig7"].pair == name] if len(t["fig7"]) else t["fig7"], f"most {name}"), mark)
        caption(rows[3], "each bar one training of one seed, whiskers 95 % over patients; dotted: random order\n"
                         "Fig. 4 in the second row, cases at evenly spaced ranks of IoU", t.values())
        return save(fig, "rfpmss")


if __name__ == "__main__":
    draw()
