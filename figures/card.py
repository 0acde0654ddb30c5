"""The reasoning card of one patient, from a row as in fig5.csv.

It is no panel of a figure: 06_interpret and its browser show it.
"""
import json
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from xmodal.config import CLASSES as NAMES
from xmodal.tables.cases import from_uri

from . import MM, STYLE, WIDTH
from .fig4 import FOUND, TRUTH, box, overlay, picture
from .fig5 import probabilities, tiles


def conclusion(row):
    """The text beside the pictures: conclusion, grade, lesion box, and the entropy of the four classes."""
    p = np.array([row[f"p{c}"] for c in range(len(NAMES))])
    entropy = float(-(p * np.log(np.clip(p, 1e-12, 1))).sum())
    corners = json.loads(row["box"])
    pixels = ", ".join(f"{value:.0f}" for value in corners)
    paragraphs = [
        str(row["conclusion"]),
        f"Grade (ordinal head): {NAMES[int(row['grade'])]}.",
        f"Lesion box: {pixels} px." if corners else "No lesion box.",
        f"Uncertainty: {entropy:.2f} of at most {np.log(len(NAMES)):.2f} nats.",
    ]
    glued = [text.replace(" %", "\u00a0%") for text in paragraphs]     # no line begins with a per cent sign
    return "\n\n".join(textwrap.fill(text, 44) for text in glued)


def draw_boxes(ax, row):
    """The true boxes and, broken, the predicted one on a mammogram."""
    for corners in json.loads(row["truth_boxes"]):
        box(ax, corners, TRUTH)
    predicted = json.loads(row["box"])
    if predicted:
        box(ax, predicted, FOUND, "--")
    ax.set_title("true box, found: broken", fontsize=6.5)


def card(row, phantom=False):
    """The card as a Figure, not saved: mammogram, attention, weighted patches, probabilities, conclusion."""
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 62 * MM), layout="none")
        image = from_uri(row["image"])
        left = picture(fig.add_axes([0.01, 0.34, 0.185, 0.5]), image)
        middle = overlay(fig.add_axes([0.205, 0.34, 0.185, 0.5]), image, from_uri(row["heat"]))
        draw_boxes(left, row)
        middle.set_title("attention", fontsize=6.5)
        for k, tile in tiles(row):
            patch = picture(fig.add_axes([0.01 + 0.0745 * (k - 1), 0.07, 0.072, 0.21]), tile)
            patch.set_xlabel(f"{row[f'w{k}']:.2g}", fontsize=6)
        bars = probabilities(fig.add_axes([0.49, 0.34, 0.15, 0.5]), row, 6)
        bars.set(xlim=(0, 1.2), xticks=[0, 0.5, 1], xlabel="probability")
        text = "the tissue that the hottest\nregion calls up, with weights"
        fig.text(0.405, 0.17, text, fontsize=6.5, va="center")
        fig.text(0.68, 0.85, conclusion(row), fontsize=6.5, va="top", linespacing=1.3)
        title = row["case"]
        if row["truth"] >= 0:
            title += f", truly {NAMES[int(row['truth'])]}"
        if phantom:
            title += "   (phantom data)"
        fig.suptitle(title, fontsize=7.5, x=0.01, y=0.985, ha="left")
        plt.close(fig)
        return fig
