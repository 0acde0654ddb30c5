"""RFPMSS: retrieval, ablations (Tables 3-5), attention against lesions (Fig. 4), anchors (Fig. 5-7).

Shi et al. 2025. Redraw from the CSVs: `python -m figures.rfpmss`.
"""
import json

import matplotlib.pyplot as plt
import numpy as np

from xmodal.tables.cases import from_uri

from . import CLASSES, MM, STYLE, WIDTH, caption, letter, nothing, read, save
from .cases import FOUND, TRUTH, box, overlay, picture

LABELS = {"normal": CLASSES[0], "benign": CLASSES[1], "malignant": CLASSES[3],
          "unmethylated": CLASSES[0], "methylated": CLASSES[3], "": "#BBBBBB"}
MODALITIES = {"mammogram": "#0072B2", "magnified": "#56B4E9", "ultrasound": "#E69F00", "report": "#000000"}
SITES = ("#0072B2", "#E69F00")
PANELS = ("table1", "table3", "table4a", "table4b", "table5", "control", "fig4", "fig5", "fig5d",
          "fig7")


def gaps(ax, table, title, measure="R@10"):
    """Each row's mean difference from RFPMSS over seeds with its 95 % interval, one mark per site.

    Behind a name stands its mean at the first site.
    """
    if not len(table):
        return nothing(ax)
    names = list(dict.fromkeys(table.name))
    sites = list(dict.fromkeys(table.site))
    digits = 2 if measure == "auc" else 0
    labels = []
    for name in names:
        own = table[(table.name == name) & (table.site == sites[0])].iloc[0]
        labels.append(f"{name} ({own[measure]:.{digits}f})")
    for k, site in enumerate(sites):
        rows = table[table.site == site]
        y = len(names) - 1 - np.arange(len(rows)) + 0.15 - 0.3 * k
        gap = rows[f"{measure}_difference"]
        ends = (gap - rows[f"{measure}_low"], rows[f"{measure}_high"] - gap)
        ax.errorbar(gap, y, xerr=np.nan_to_num(ends), fmt="os"[k % 2], ms=3, lw=0.8, color=SITES[k % 2],
                    label=f"tested at {site}")
    ax.axvline(0, color="#777777", lw=0.6)
    ax.set(yticks=np.arange(len(names))[::-1], title=title, ylim=(-0.6, len(names) - 0.4))
    ax.set_xlabel("difference of AUC" if measure == "auc" else f"difference of {measure}, points")
    ax.set_yticklabels(labels, fontsize=5.5)
    return ax


def control(ax, table):
    """Neighbours of the same cluster over the clusters' distance, one line per arm; mean and range."""
    if not len(table):
        return nothing(ax)
    table = table[table.measure.str.contains("neighbours")]
    colours = ("#999999", "#000000", "#0072B2", "#D55E00")
    for (arm, g), colour in zip(table.groupby("arm", sort=False), colours):
        of_dose = g.groupby("dose").value
        ax.plot(of_dose.mean(), "-o", ms=2, lw=0.9, color=colour, label=arm)
        ax.fill_between(of_dose.min().index, of_dose.min(), of_dose.max(), color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="distance of the clusters, SD", ylabel="neighbours of the same cluster", ylim=(0, 1))
    ax.set_title("Control: clusters kept")
    ax.legend(fontsize=5)
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
    labels = g.label.fillna("")
    for label, colour in LABELS.items():
        xy = g.loc[labels == label, ["x", "y"]].to_numpy()
        if len(xy):
            ax.plot(*xy.T, ".", ms=3, color=colour, label=label or "not known")
    ax.set(xticks=[], yticks=[], title=title)
    return ax


def fig5d(ax, table):
    """How much the studies of one label take of each anchor, one line per modality."""
    if not len(table):
        return nothing(ax)
    for modality, colour in MODALITIES.items():
        g = table[table.modality == modality]
        ax.plot(g.anchor, g.share, "-o", ms=2, lw=0.8, color=colour, label=modality)
    title = f"Anchors of {table.label.iloc[0]} studies"
    ax.set(xlabel="anchor", ylabel="assignment", ylim=(0, 1), title=title)
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
        fig = plt.figure(figsize=(WIDTH, 225 * MM))
        rows = fig.subfigures(4, 1, height_ratios=[1, 1, 0.66, 0.95])
        a, b, c = rows[0].subplots(1, 3)
        letter(gaps(a, tables["table1"], "Other objectives (Table 1)"), "a", x=20)
        letter(gaps(b, tables["table4a"], "Loss terms (Table 4a)"), "b", x=20)
        letter(gaps(c, tables["table5"], "Modules (Table 5)", "auc"), "c", x=20)
        a.legend(fontsize=5, loc="upper left")
        d, e, f = rows[1].subplots(1, 3)
        letter(gaps(d, tables["table3"], "Sites apart or joint (Table 3)"), "d", x=20)
        letter(gaps(e, tables["table4b"], "Anchors (Table 4b, Fig. 6)"), "e", x=20)
        letter(control(f, tables["control"]), "f", x=20)
        if len(tables["fig4"]):
            fig4(rows[2], tables["fig4"])
        g, h, i, j = rows[3].subplots(1, 4)
        letter(fig5(g, tables["fig5"], "study", "studies"), "g")
        g.legend(fontsize=5, loc="best")
        letter(fig5d(h, tables["fig5d"]), "h", x=20)
        letter(fig7(i, tables["fig7"], "alike"), "i")
        letter(fig7(j, tables["fig7"], "apart"), "j")
        note = ("a-e: mean difference from RFPMSS over seeds, whiskers 95 %; in brackets the mean at the "
                "site of training\nf: mean and range over seeds. Third row, Fig. 4: cases at evenly spaced "
                "ranks of IoU")
        caption(rows[3], note, tables.values())
        return save(fig, "rfpmss")


if __name__ == "__main__":
    draw()
