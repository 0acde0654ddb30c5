"""Fig. 5, grading: four cases, one a class. Redraw from the CSV: `python -m figures.fig5`."""
import textwrap

import matplotlib.pyplot as plt

from xmodal.cases import from_uri
from xmodal.config import CLASSES as NAMES

from . import CLASSES, MM, STYLE, WIDTH, caption, letter, nothing, read, save
from .fig4 import overlay, picture


def case(ax, row):
    """One case, from left to right: mammogram, attention map, retrieved patches with their weights, class probabilities, conclusion."""
    ax.set_axis_off()
    image = from_uri(row["image"])
    picture(ax.inset_axes([0, 0, 0.155, 1]), image)
    overlay(ax.inset_axes([0.165, 0, 0.155, 1]), image, from_uri(row["heat"]))
    tiles = [k for k in range(1, 6) if isinstance(row[f"tile{k}"], str) and row[f"tile{k}"]]
    for k in tiles:
        first = k == 1                                                      # the best large, the others beside it, two by two
        spot = [0.333, 0.08, 0.142, 0.92] if first else [0.483 + 0.068 * (k % 2), 0.58 if k < 4 else 0.08, 0.064, 0.42]
        tile = picture(ax.inset_axes(spot), from_uri(row[f"tile{k}"]))
        tile.text(0.5, -0.03, f"{row[f'w{k}']:.2g}", transform=tile.transAxes, ha="center", va="top", fontsize=5)
    bars = ax.inset_axes([0.70, 0.24, 0.12, 0.76])
    p = [row[f"p{c}"] for c in range(len(NAMES))]
    bars.barh(range(len(NAMES)), p, color=CLASSES, height=0.7)
    for c, value in enumerate(p):
        bars.text(value + 0.03, c, f"{100 * value:.0f} %", va="center", fontsize=6)
    bars.set(xlim=(0, 1), ylim=(len(NAMES) - 0.5, -0.5), yticks=range(len(NAMES)), xticks=[0, 0.5, 1], xlabel="probability")
    bars.set_yticklabels([("✓ " if c == row["truth"] else "") + name for c, name in enumerate(NAMES)])
    right = row["predicted"] == row["truth"]
    words = textwrap.wrap(str(row["conclusion"]).replace(" %", "\u00a0%"), 26)
    ax.text(0.865, 0.97, "\n".join(words), transform=ax.transAxes, va="top", fontsize=6, linespacing=1.35)
    ax.set_title(f"{row['case']}: truly {NAMES[int(row['truth'])]}, called {NAMES[int(row['predicted'])]}" + ("" if right else " (wrong)"),
                 loc="left", x=0.03, color="black" if right else "#B22222")
    return ax


def draw():
    """Draws Fig. 5 from figures/fig5/fig5.csv into figures/fig5/fig5.png and returns the Figure."""
    table = read("fig5")
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(max(len(table), 1), 1, figsize=(WIDTH, max(len(table), 1) * 35 * MM), squeeze=False)
        for ax, k, (_, row) in zip(axes[:, 0], "abcdefghijkl", table.iterrows()):
            letter(case(ax, row), k)
        if not len(table):
            nothing(axes[0, 0])
        caption(fig, "Mammogram, attention, retrieved patches with their weights, joint prediction (✓: true class).", [table])
        return save(fig, "fig5")


if __name__ == "__main__":
    draw()
