"""The pieces of a case: pictures, boxes, attention and the maps beside it, from a row as in fig4e.csv."""
import json

import matplotlib.pyplot as plt
import pandas as pd

from xmodal.tables.cases import from_uri

TRUTH = "#009E73"               # the colour of a true box
FOUND = "#D55E00"               # and of a predicted one
MAPS = {                        # map -> label of the small pictures of e-h, and of the bars
    "attention": ("attention", "#0072B2"),
    "token_norm": ("token norm", "#E69F00"),
    "grad_cam": ("Grad-CAM", "#CC79A7"),
    "decoder": ("decoder", "#009E73"),
    "other_tissue": ("other tissue", "#56B4E9"),
    "random_weights": ("random weights", "#999999"),
}


def picture(ax, image, **how):
    """An image without ticks; grey where it has one channel."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, **how)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def overlay(ax, image, heat):
    """A mammogram or tile under its attention map, stretched to the same size."""
    picture(ax, image)
    height, width = image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    shown = {"cmap": "inferno", "vmin": 0, "vmax": 255, "interpolation": "bilinear"}
    ax.imshow(heat, alpha=0.15 + 0.55 * heat / 255, extent=extent, **shown)
    return ax


def box(ax, corners, colour, style="-", gap=0.0):
    """The outline of a box x0, y0, x1, y1 (pixels; pixel centres are whole numbers), `gap` pixels outside."""
    x0, y0, x1, y1 = corners
    corner = (x0 - 0.5 - gap, y0 - 0.5 - gap)
    size = (x1 - x0 + 2 * gap, y1 - y0 + 2 * gap)
    ax.add_patch(plt.Rectangle(corner, *size, fill=False, ec=colour, lw=1.0, ls=style))


def true_box(ax, corners, size):
    """A true box on a picture `size` pixels high: drawn around the lesion, over all others, and with an arrow
    at it where it is small, so that no predicted box hides it."""
    gap = size / 48
    box(ax, corners, TRUTH, "--", gap)
    x0, y0, x1, y1 = corners
    if max(x1 - x0, y1 - y0) < size / 8:
        room_right = x1 + gap < 0.8 * size
        tip, tail = ((x1 + gap, y0 - gap), 14) if room_right else ((x0 - gap, y0 - gap), -14)
        arrow = {"arrowstyle": "-|>", "color": TRUTH, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", tip, (tail, 9), textcoords="offset points", arrowprops=arrow | {"mutation_scale": 6})


def draw_boxes(ax, row, size):
    """The true boxes and the predicted one on a mammogram `size` pixels high."""
    predicted = json.loads(row["box"])
    if predicted:
        box(ax, predicted, FOUND)
    for corners in json.loads(row["truth_boxes"]):
        true_box(ax, corners, size)


def warned(table):
    """True where any case is of a model that has seen phantoms only."""
    return "trained_on" in table and bool((table["trained_on"] == "phantom").any())


def pairs_by_label(row):
    """What a title adds where the tissue is not the patient's own but of one with the same label."""
    return ", pairs by label" if row.get("pairs") == "label" else ""


def number(value):
    """Two decimals, "–" for none."""
    return "–" if pd.isna(value) else f"{value:.2f}"


def patches(row):
    """The patches that a case retrieved as (rank from 1 to 5, image), best first; some may be missing."""
    for k in range(1, 6):
        uri = row[f"tile{k}"]
        if isinstance(uri, str) and uri:
            yield k, from_uri(uri)


def small_maps(ax, row, place, size, columns=3):
    """The maps beside the attention as small pictures in `place` (x, y, width, height), with their names and
    whether they hit the lesion; after them the checks of the attention. size: of the text in points."""
    beside = [name for name in MAPS if name != "attention" and isinstance(row.get(f"map_{name}"), str)]
    if not beside:
        return
    x, y, width, height = place
    down = -(-len(beside) // columns)
    for i, name in enumerate(beside):
        left = x + width * (i % columns) / columns
        bottom = y + height * (1 - (i // columns + 1) / down)
        spot = ax.inset_axes([left, bottom, 0.95 * width / columns, 0.72 * height / down])
        spot.imshow(from_uri(row[f"map_{name}"]), cmap="inferno", vmin=0, vmax=255)
        spot.set(xticks=[], yticks=[])
        spot.set_title(MAPS[name][0].removesuffix(" weights") + hit(row, name), fontsize=size - 1, pad=1)
    spot = [x + width * (columns - 1) / columns, y] if len(beside) % columns else [x, y - 0.1]
    ax.text(*spot, checks(row), transform=ax.transAxes, fontsize=size - 1, va="bottom", linespacing=1.2)


def hit(row, name):
    """" ✓" where the hottest patch of a map touches the lesion, " ✗" where not, "" without a lesion."""
    value = row[f"hit_{name}"]
    if pd.isna(value):
        return ""
    return " ✓" if value > 0.5 else " ✗"


def checks(row):
    """The checks of an attention map: hit, chance, and likeness with other tissue and random weights."""
    lines = []
    if pd.notna(row["chance"]):
        lines += ["attention" + hit(row, "attention"), f"chance {100 * row['chance']:.0f} %"]
    return "\n".join([*lines, f"r other {number(row['swap'])}", f"r random {number(row['random'])}"])
