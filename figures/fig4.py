"""Fig. 4, localisation: a-d boxes, e-h attention, i-l numbers.

`python -m figures.fig4` redraws it from its tables.
"""
import json

import matplotlib.pyplot as plt
import numpy as np

from xmodal.tables.cases import from_uri

from . import BASELINES, DOMAINS, MM, STYLE, WIDTH, caption, letter, nothing, present, read, save
from .cases import MAPS, TRUTH, box, number, overlay, pairs_by_label, patches, picture, small_maps, true_box

LOCALISERS = {                  # method -> label, colour
    "densenet_mammography": ("CNN", BASELINES["densenet_mammography"][1]),
    "fusion_localiser": BASELINES["fusion_localiser"],
    "ours": BASELINES["ours"],
}
TYPES = ("distortion", "mass", "asymmetry", "calcification")
MILLIMETRES = ("<5", "5-10", "10-15", "15-20", ">20", "unknown")
NOTE = (
    "a-d: in each group the cases at the same four quantiles of the IoU of ours, worst on the left; the IoU\n"
    "below. e-h: the case of the median IoU (white: box of ours): attention on mammogram and tissue, the\n"
    "patches that the hottest region calls up, other maps (✓: the hottest patch touches the lesion), and r,\n"
    "the correlation of the attention with that by other tissue and by random weights. i-l: a mammogram's\n"
    "strongest box, right from an IoU of 0.5. Lines, [ ]: 95 %, by patient; band, ±: sd over runs. Below k,\n"
    "l: images."
)


def fig4a(ax, table):
    """Panels a-d, cases of one lesion type: true boxes (broken), those of the localisers, and their IoU."""
    if not len(table):
        return nothing(ax)
    ax.set_axis_off()
    for k, (_, row) in enumerate(table.iterrows()):
        image = from_uri(row["image"])
        sub = picture(ax.inset_axes([0.25 * k + 0.003, 0.11, 0.244, 0.89]), image)
        for i, (method, (_, colour)) in enumerate(LOCALISERS.items()):
            text = row[f"box_{method}"]         # NaN where the method has not run, "[]" for no box
            corners = json.loads(text) if isinstance(text, str) else []
            if corners:
                box(sub, corners, colour)
            x = 0.25 * k + 0.045 + 0.08 * i
            iou = ax.text(x, 0.09, number(row[f"iou_{method}"]), transform=ax.transAxes)
            iou.set(color=colour, fontsize=5.5, ha="center", va="top")
        for corners in json.loads(row["truth_boxes"]):
            true_box(sub, corners, len(image))
    ax.set_title(table.lesion_type.iloc[0])
    return ax


def case(ax, row):
    """Panels e-h, one case: attention on the mammogram with true and predicted box, and on the best tile;
    the patches that it calls up; the other maps, and how often chance would hit."""
    ax.set_axis_off()
    image = from_uri(row["image"])
    top = overlay(ax.inset_axes([0, 0.55, 0.62, 0.42]), image, from_uri(row["heat"]))
    for corners in json.loads(row["truth_boxes"]):
        true_box(top, corners, len(image))
    text = "no lesion outlined"
    predicted = json.loads(row["box"])
    if predicted:
        box(top, predicted, "white")
        text = f"IoU {number(row['iou'])}   Dice {number(row['dice'])}"
    plate = {"facecolor": "black", "alpha": 0.6, "lw": 0, "pad": 1.5}
    top.text(0.03, 0.03, text, transform=top.transAxes, color="white", fontsize=6, bbox=plate)
    overlay(ax.inset_axes([0.64, 0.67, 0.36, 0.3]), from_uri(row["tile"]), from_uri(row["tile_heat"]))
    for k, tile in patches(row):
        picture(ax.inset_axes([0.2 * k - 0.195, 0.41, 0.19, 0.13]), tile)
    small_maps(ax, row, [0, 0.02, 1, 0.36], 6)
    ax.set_title(row["title"] + pairs_by_label(row).replace(", ", ",\n"))
    return ax


def fig4_maps(ax, table):
    """How often each map's hottest patch touches the lesion (the pointing game), on one unseen domain.

    Dashed: a random patch.
    """
    if not len(table):
        return nothing(ax, "no outlined mammogram with tissue beside it")
    names = present(MAPS, table["map"])
    for i, name in enumerate(names):
        row = table[table["map"] == name].iloc[0]
        ax.barh(i, row.hit, 0.65, color=MAPS[name][1], alpha=0.75)
        ax.hlines(i, row.low, row.high, color="black", lw=0.8)
        text = f"{row.hit:.2f} [{row.low:.2f}, {row.high:.2f}], {row.times_chance:.1f} × chance"
        ax.text(1.02, i, text, va="center", fontsize=6)
    row = table.iloc[0]
    ax.axvline(row.chance, color="#555555", ls="--", lw=0.8)
    ax.grid(axis="x")
    ax.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), xlabel="share of hits")
    ax.set_yticklabels([MAPS[name][0] for name in names])
    images = f"{row.images} mammograms of {row.patients} patients"
    ax.set_title(f"{DOMAINS[row.domain][0]}, unseen: {images}", fontsize=7)
    own = table[table["map"] == "attention"].iloc[0]
    text = f"attention: r with other tissue {number(own.swap)}, with random weights {number(own.random)}"
    ax.set_xlabel(f"share of hits (dashed: chance)\n{text}")
    return ax


def draw_maps():
    """Draws the pointing game of all maps from figures/fig4/fig4_maps.csv into figures/fig4/fig4_maps.png and
    returns the Figure."""
    table = read("fig4_maps")
    domains = present(DOMAINS, table.domain) if len(table) else [""]
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(1, len(domains), figsize=(WIDTH, 55 * MM), squeeze=False)
        for ax, domain in zip(axes[0], domains):
            fig4_maps(ax, table[table.domain == domain] if len(table) else table)
        caption(fig, "Pointing game; lines and [ ]: 95 %, by patient." if len(table) else "", [table])
        return save(fig, "fig4_maps")


def fig4i(ax, table):
    """Panel i: share of the images by IoU, misses apart on the left, with the mean and its interval."""
    if not len(table):
        return nothing(ax)
    methods = present(LOCALISERS, table.method)
    for m, method in enumerate(methods):
        label, colour = LOCALISERS[method]
        bins = table[table.method == method]
        width = (bins.high - bins.low).max()
        centre = np.where(bins.high == 0, -width / 2, (bins.low + bins.high) / 2)
        centre = centre + (m - (len(methods) - 1) / 2) * width * 0.27
        mean, low, high = bins[["mean", "mean_low", "mean_high"]].iloc[0]
        label = f"{label} {mean:.2f} [{low:.2f}, {high:.2f}]"
        ax.bar(centre, 100 * bins.share, width * 0.27, color=colour, label=label)
    ax.axvline(0, color="#888888", lw=0.6)
    ax.grid(axis="y")
    ax.set(xticks=[-0.05, 0.2, 0.4, 0.6, 0.8, 1], xlabel="IoU", ylabel="images (%)")
    ax.set_xticklabels(["none", 0.2, 0.4, 0.6, 0.8, 1])
    ax.set_ylim(top=2 * ax.get_ylim()[1])                # the legend stands above the bars
    ax.legend(loc="upper right", title="mean IoU", title_fontsize=6.5, alignment="left")
    return ax


def equal_f1(ax):
    """Lines on which F1 is the same, behind a plot of precision by recall."""
    recall = np.linspace(0.01, 1, 200)
    for f1 in (0.2, 0.4, 0.6, 0.8):
        precision = f1 * recall / np.where(2 * recall > f1, 2 * recall - f1, np.nan)
        inside = precision <= 1
        ax.plot(recall[inside], precision[inside], color="#BBBBBB", lw=0.6, ls=":")
        ax.text(1.01, f1 / (2 - f1), f"F1 {f1}", fontsize=5.5, color="#888888", va="center")


def fig4j(ax, table):
    """Panel j: precision by recall, mean and sd over runs; in the legend the average precision."""
    if not len(table):
        return nothing(ax)
    equal_f1(ax)
    for method in present(LOCALISERS, table.method):
        label, colour = LOCALISERS[method]
        curve = table[table.method == method]
        label = f"{label} {curve.ap.iloc[0]:.2f}"
        if curve.ap_sd.notna().any():
            label += f" ± {curve.ap_sd.iloc[0]:.2f}"
        low = curve.precision - curve.sd
        high = np.minimum(curve.precision + curve.sd, 1)
        ax.plot(curve.recall, curve.precision, color=colour, lw=1.3, label=label)
        ax.fill_between(curve.recall, low, high, color=colour, alpha=0.15, lw=0)
    ax.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    ax.legend(loc="upper right", title="average precision", title_fontsize=6.5, alignment="left")
    return ax


def groups(ax, table, column, order, ylabel):
    """Means of the localisers in each group of a column, with intervals; below each group its images."""
    if not len(table):
        return nothing(ax)
    methods = present(LOCALISERS, table.method)
    names = [name for name in order if (table[column] == name).any()]
    for m, method in enumerate(methods):
        label, colour = LOCALISERS[method]
        means = table[table.method == method].set_index(column).reindex(names)
        x = np.arange(len(names)) + (m - (len(methods) - 1) / 2) * 0.26
        ax.bar(x, means.value, 0.24, color=colour, alpha=0.75, label=label)
        ax.vlines(x, means.low, means.high, color="#333333", lw=0.9)
        for at, value in zip(x, means.value):
            if value < 0.005:                           # a bar of no height is drawn as a 0, not as nothing
                ax.text(at, 0.01, "0", ha="center", va="bottom", fontsize=5.5, color=colour)
    images = table.groupby(column)["images"].max()
    ax.grid(axis="y")
    ax.set(xticks=range(len(names)), ylim=(0, 1), ylabel=ylabel)
    ax.set_xticklabels([f"{name}\n{images[name]}" for name in names])
    ax.legend(ncols=3, loc="upper left")
    return ax


def fig4k(ax, table):
    """Panel k: Dice of the predicted lesion mask, by lesion type."""
    return groups(ax, table, "lesion_type", TYPES, "Dice")


def fig4l(ax, table):
    """Panel l: sensitivity by lesion diameter."""
    groups(ax, table, "diameter_mm", MILLIMETRES, "sensitivity")
    if len(table):
        unknown = ", unknown without pixel spacing" if "unknown" in set(table.diameter_mm) else ""
        ax.set_xlabel(f"lesion diameter (mm{unknown})")
    return ax


def rows_of(table, panel):
    """The rows of one panel in a table that several panels share; also of a table that was not written."""
    return table[table.panel == panel] if len(table) else table


def draw():
    """Draws Fig. 4 from figures/fig4/fig4?.csv into figures/fig4/fig4.png and returns the Figure.

    A panel whose methods did not run stays empty.
    """
    tables = {name: read(f"fig4{name}") for name in "aeijkl"}
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 262 * MM))
        rows = fig.add_gridspec(4, 1, height_ratios=[0.62, 0.62, 1.75, 2.1], hspace=0.05)
        for i, name in enumerate("abcd"):
            ax = fig.add_subplot(rows[i // 2].subgridspec(1, 2)[i % 2])
            letter(fig4a(ax, rows_of(tables["a"], name)), name)
        middle = rows[2].subgridspec(1, 4)
        for i, name in enumerate("efgh"):
            ax = fig.add_subplot(middle[i])
            cases = rows_of(tables["e"], name)
            letter(case(ax, cases.iloc[0]) if len(cases) else nothing(ax), name)
        spots = rows[3].subgridspec(2, 2, hspace=0.02)
        for spot, name, panel in zip(spots, "ijkl", (fig4i, fig4j, fig4k, fig4l)):
            letter(panel(fig.add_subplot(spot), tables[name]), name, x=14)
        handles = [plt.Line2D([], [], color=TRUTH, ls="--", label="truth")]
        handles += [plt.Line2D([], [], color=colour, label=label) for label, colour in LOCALISERS.values()]
        fig.legend(handles=handles, ncols=4, loc="outside upper center")
        caption(fig, NOTE if any(map(len, tables.values())) else "", tables.values())
        return save(fig, "fig4")


if __name__ == "__main__":
    draw()
