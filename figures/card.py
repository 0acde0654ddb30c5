"""The reasoning card of one patient, from a row as in fig5.csv. Not a panel: 06_interpret and its browser show it."""
import json
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from xmodal.config import CLASSES as NAMES
from xmodal.tables.cases import from_uri

from . import MM, STYLE, WIDTH
from .fig4 import FOUND, TRUTH, box, overlay, picture
from .fig5 import probabilities


def words(row):
    """What stands beside the pictures: the conclusion, grade, lesion box, and how unsure the prediction is (entropy of the classes)."""
    p = np.array([row[f"p{c}"] for c in range(len(NAMES))])
    entropy = float(-(p * np.log(np.clip(p, 1e-12, 1))).sum())
    found = json.loads(row["box"])
    lines = [str(row["conclusion"]), f"Grade (ordinal head): {NAMES[int(row['grade'])]}.",
             f"Lesion box: {', '.join(f'{v:.0f}' for v in found)} px." if found else "No lesion box.",
             f"Uncertainty: {entropy:.2f} of at most {np.log(len(NAMES)):.2f} nats."]
    return "\n\n".join(textwrap.fill(line.replace(" %", "\u00a0%"), 44) for line in lines)


def card(row, phantom=False):
    """The card as a Figure (not saved): mammogram with boxes, attention, tissue patches with weights, probabilities, words."""
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 62 * MM), layout="none")
        image = from_uri(row["image"])
        left = picture(fig.add_axes([0.01, 0.34, 0.185, 0.5]), image)
        middle = overlay(fig.add_axes([0.205, 0.34, 0.185, 0.5]), image, from_uri(row["heat"]))
        for corners in json.loads(row["truth_boxes"]):
            box(left, corners, TRUTH)
        if found := json.loads(row["box"]):
            box(left, found, FOUND, "--")
        left.set_title("true box, found: broken", fontsize=6.5)
        middle.set_title("attention", fontsize=6.5)
        for k in range(1, 6):
            if isinstance(row[f"tile{k}"], str) and row[f"tile{k}"]:
                tile = picture(fig.add_axes([0.01 + 0.0745 * (k - 1), 0.07, 0.072, 0.21]), from_uri(row[f"tile{k}"]))
                tile.set_xlabel(f"{row[f'w{k}']:.2g}", fontsize=6)
        probabilities(fig.add_axes([0.49, 0.34, 0.15, 0.5]), row, 6).set(xlim=(0, 1.2), xticks=[0, 0.5, 1], xlabel="probability")
        fig.text(0.405, 0.17, "the tissue that the hottest\nregion calls up, with weights", fontsize=6.5, va="center")
        fig.text(0.68, 0.85, words(row), fontsize=6.5, va="top", linespacing=1.3)
        truth = f", truly {NAMES[int(row['truth'])]}" if row["truth"] >= 0 else ""
        fig.suptitle(f"{row['case']}{truth}" + ("   (phantom data)" if phantom else ""), fontsize=7.5, x=0.01, y=0.985, ha="left")
        plt.close(fig)
        return fig
