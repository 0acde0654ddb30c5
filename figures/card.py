"""The reasoning card of one patient, from a row as in fig5.csv.

It is no panel of a figure: 00_start_here, 06_interpret and its browser show it.
"""
import json
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from xmodal.config import CLASSES as NAMES, FROM_PHANTOMS
from xmodal.tables.cases import from_uri

from . import MM, STYLE, WIDTH
from .cases import draw_boxes, overlay, pairs_by_label, patches, picture, small_maps
from .fig5 import probabilities

LONGEST = 50      # characters of a case's name, so that it does not run into the warning beside it


def conclusion(row):
    """The text beside the pictures: conclusion, grade, lesion box, and the entropy of the four classes."""
    p = np.array([row[f"p{c}"] for c in range(len(NAMES))], float)
    paragraphs = [str(row["conclusion"]), f"Grade (ordinal head): {NAMES[int(row['grade'])]}."]
    corners = json.loads(row["box"])
    if corners:
        pixels = ", ".join(f"{value:.0f}" for value in corners)
        paragraphs.append(f"Lesion box: {pixels} px{row.get('lesion_size', '')}.")
    elif present(row, "image"):
        paragraphs.append("No lesion box.")
    if np.isfinite(p).all():
        entropy = float(-(p * np.log(np.clip(p, 1e-12, 1))).sum())
        paragraphs.append(f"Uncertainty: {entropy:.2f} of at most {np.log(len(NAMES)):.2f} nats.")
    glued = [text.replace(" %", "\u00a0%") for text in paragraphs]     # no line begins with a per cent sign
    return "\n\n".join(textwrap.fill(text, 44) for text in glued)


def present(row, column):
    """True where a case has this picture."""
    return isinstance(row[column], str) and bool(row[column])


def absent(ax, text):
    """A place on the card without a picture, and why."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color("#CCCCCC")
    ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=6, color="#777777", transform=ax.transAxes)


def two_places(fig, x, row, column, name):
    """The axes at x and beside it, and the picture in a column of the case; None, and they say so, without
    one."""
    axes = [fig.add_axes([x + shift, 0.42, 0.16, 0.44]) for shift in (0, 0.17)]
    if present(row, column):
        return *axes, from_uri(row[column])
    absent(axes[0], f"no {name}")
    absent(axes[1], "no attention\nwithout it")
    return *axes, None


def mammogram(fig, row):
    """The mammogram with its boxes and, beside it, under the attention."""
    left, middle, image = two_places(fig, 0.01, row, "image", "mammogram")
    if image is None:
        return
    draw_boxes(picture(left, image), row, len(image))
    title = "found: red" if json.loads(row["box"]) else "no lesion found"
    if json.loads(row["truth_boxes"]):
        title = f"true box: green, broken;\n{title}"
    left.set_title(title, fontsize=5.5)
    if present(row, "heat"):
        overlay(middle, image, from_uri(row["heat"]))
        middle.set_title("attention", fontsize=6)
    else:
        absent(middle, "no attention\nwithout tissue")


def tissue(fig, row):
    """The best tile and the attention on it; below, the weighted patches."""
    left, right, tile = two_places(fig, 0.35, row, "tile", "tissue")
    if tile is None:
        return
    picture(left, tile).set_title("best tile" if present(row, "tile_heat") else "a tile", fontsize=6)
    if not present(row, "tile_heat"):
        absent(right, "no attention\nwithout a\nmammogram")
        return
    overlay(right, tile, from_uri(row["tile_heat"])).set_title("attention in tissue", fontsize=6)
    for k, patch in patches(row):
        spot = picture(fig.add_axes([0.35 + 0.066 * (k - 1), 0.13, 0.063, 0.19]), patch)
        spot.set_xlabel(f"{row[f'w{k}']:.2g}", fontsize=5.5)
    fig.text(0.35, 0.345, "patches that the hottest region calls up, with weights", fontsize=5.5)


def card(row):
    """The card as a Figure, not saved: mammogram, attention, tissue, the maps beside the attention,
    probabilities, conclusion. A card of a model that has only seen phantoms says so."""
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 72 * MM), layout="none")
        mammogram(fig, row)
        tissue(fig, row)
        small_maps(fig.add_axes([0.01, 0.03, 0.33, 0.33], frameon=False, xticks=[], yticks=[]), row,
                   [0, 0, 1, 1], 5.5)
        bars = probabilities(fig.add_axes([0.765, 0.58, 0.1, 0.28]), row, 6)
        bars.set(xlim=(0, 1.2), xticks=[0, 0.5, 1], xlabel="probability")
        fig.text(0.7, 0.42, conclusion(row), fontsize=6, va="top", linespacing=1.25)
        title = row["case"] if len(row["case"]) <= LONGEST else row["case"][:LONGEST - 1] + "…"
        if row["truth"] >= 0:
            title += f", truly {NAMES[int(row['truth'])]}"
        fig.suptitle(title + pairs_by_label(row), fontsize=7.5, x=0.01, y=0.985, ha="left", parse_math=False)
        if row["trained_on"] == "phantom":
            fig.text(0.99, 0.985, FROM_PHANTOMS, fontsize=6.5, color="#B22222", ha="right", va="top")
        plt.close(fig)
        return fig
