"""Fig. 4, localisation: four cases. Redraw from the CSV: `python -m figures.fig4`."""
import json

import matplotlib.pyplot as plt

from xmodal.cases import from_uri

from . import MM, STYLE, WIDTH, caption, letter, nothing, read, save

TRUTH, FOUND = "#009E73", "#D55E00"


def picture(ax, image, **how):
    """An image without ticks; grey where it has one channel."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, **how)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def overlay(ax, image, heat):
    """A mammogram under its attention map, stretched to the same size."""
    picture(ax, image)
    ax.imshow(heat, cmap="inferno", alpha=0.15 + 0.55 * heat / 255, vmin=0, vmax=255, interpolation="bilinear",
              extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5))
    return ax


def box(ax, corners, colour, style="-"):
    """The outline of a box x0, y0, x1, y1 (pixels; pixel centres are whole numbers)."""
    x0, y0, x1, y1 = corners
    ax.add_patch(plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=1.2, ls=style))


def case(ax, row):
    """One case: the mammogram with true and predicted boxes, IoU and Dice; below, the attention map and the patches it calls up."""
    ax.set_axis_off()
    image, heat = from_uri(row["image"]), from_uri(row["heat"])
    top, middle = picture(ax.inset_axes([0, 0.555, 1, 0.44]), image), overlay(ax.inset_axes([0, 0.105, 1, 0.44]), image, heat)
    for corners in json.loads(row["truth_boxes"]):
        box(top, corners, TRUTH)
        box(middle, corners, TRUTH)
    if found := json.loads(row["predicted_box"]):
        box(top, found, FOUND, "--")
    number = lambda name: "–" if row[name] != row[name] else f"{row[name]:.2f}"
    top.text(0.03, 0.03, f"IoU {number('iou')}   Dice {number('dice')}" if found else "no lesion outlined", transform=top.transAxes, color="white",
             fontsize=6.5, bbox={"facecolor": "black", "alpha": 0.6, "lw": 0, "pad": 1.5})
    tiles = json.loads(row["tiles"])[:5]
    for k, tile in enumerate(tiles):
        picture(ax.inset_axes([k / 5 + 0.005, 0, 0.19, 0.09]), from_uri(tile), aspect="equal")
    ax.set_title(row["title"])
    return ax


def draw():
    """Draws Fig. 4 from figures/fig4/fig4.csv into figures/fig4/fig4.png and returns the Figure."""
    table = read("fig4")
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(1, max(len(table), 1), figsize=(WIDTH, 112 * MM if len(table) else 30 * MM), squeeze=False)
        for ax, k, (_, row) in zip(axes[0], "abcdefgh", table.iterrows()):
            letter(case(ax, row), k)
        if not len(table):
            nothing(axes[0, 0])
        lines = [plt.Line2D([], [], color=TRUTH, label="true lesion"), plt.Line2D([], [], color=FOUND, ls="--", label="predicted box")]
        fig.legend(handles=lines, ncols=2, loc="outside upper center")
        caption(fig, "Middle: cross-modal attention. Bottom: the histology patches it calls up, best first.", [table])
        return save(fig, "fig4")


if __name__ == "__main__":
    draw()
