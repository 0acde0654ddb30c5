"""Loosely coupled fusion: every subset of modalities, with what is in it below (after UpSet plots).

Redraw from the CSVs: `python -m figures.fusion`.
"""
import matplotlib.pyplot as plt
import numpy as np

from . import MM, STYLE, WIDTH, caption, letter, nothing, read, save

WAYS = {   # way -> marker, colour, filled
    "weighted logits": ("o", "#0072B2", True), "mean of probabilities": ("o", "#E69F00", False),
    "alone": ("s", "#999999", False), "early concatenation": ("*", "#D55E00", True)}
MODALITIES = ("copy number", "clinical", "bag", "graph")


def order(table):
    """The subsets from worst to best by the fused macro-F1."""
    return table[table.way == "weighted logits"].sort_values("f1").subset.tolist()


def scores(ax, table):
    """Macro-F1 of every subset, with 95 % intervals of the fused one."""
    if not len(table):
        return nothing(ax)
    place = {subset: i for i, subset in enumerate(order(table))}
    for way, (marker, colour, filled) in WAYS.items():
        rows = table[(table.way == way) & table.subset.isin(place)]
        x = rows.subset.map(place)
        if way == "weighted logits":
            ax.vlines(x, rows.f1_low, rows.f1_high, color=colour, lw=0.8, alpha=0.6)
        size = 7 if marker == "*" else 4
        face = colour if filled else "none"
        ax.plot(x, rows.f1, marker, color=colour, ms=size, mfc=face, ls="none", label=way)
    ax.set(ylabel="macro-F1, PAM50", xticks=[], xlim=(-0.6, len(place) - 0.4))
    ax.grid(axis="y")
    return ax


def members(ax, table):
    """Which modalities each subset holds: filled dots, joined."""
    if not len(table):
        return nothing(ax, "")
    for x, subset in enumerate(order(table)):
        held = [MODALITIES.index(m) for m in subset.split(" + ")]
        ax.plot([x] * len(MODALITIES), range(len(MODALITIES)), "o", color="#DDDDDD", ms=5)
        ax.plot([x] * len(held), held, "o-", color="#333333", ms=5, lw=1.2)
    ax.set(yticks=range(len(MODALITIES)), xticks=[], xlim=(-0.6, len(order(table)) - 0.4),
           ylim=(len(MODALITIES) - 0.5, -0.5))
    ax.set_yticklabels(MODALITIES)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def slide(ax, table):
    """The slide as a bag, as a graph, and both, with intervals."""
    rows = table
    if len(table):
        rows = table[(table.way == "weighted logits") & table.subset.isin(["bag", "graph", "bag + graph"])]
    if not len(rows):
        return nothing(ax)
    x = np.arange(len(rows))
    interval = [rows.f1 - rows.f1_low, rows.f1_high - rows.f1]
    ax.errorbar(x, rows.f1, interval, fmt="o", color="#0072B2", ms=5, lw=1, capsize=2)
    ax.set(xticks=x, xlim=(-0.5, len(rows) - 0.5), ylabel="macro-F1, PAM50", title="The slide, read twice")
    ax.set_xticklabels(rows.subset.replace("bag + graph", "both"))
    ax.grid(axis="y")
    return ax


def draw():
    """Draws figures/fusion/fusion.png from figures/fusion/fusion_subsets.csv and returns the Figure."""
    table = read("fusion_subsets")
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 95 * MM))
        left, right = fig.add_gridspec(1, 2, width_ratios=[3.6, 1])
        rows = left.subgridspec(2, 1, height_ratios=[2.2, 1], hspace=0.02)
        top = letter_on(scores(fig.add_subplot(rows[0]), table), "a")
        members(fig.add_subplot(rows[1]), table)
        letter_on(slide(fig.add_subplot(right), table), "b")
        handles, labels = top.get_legend_handles_labels()
        if handles:
            fig.legend(handles, labels, ncols=4, loc="outside upper center")
        caption(fig, "Lines: 95 % bootstrap intervals over test patients of five folds. "
                     "Dots below: the modalities of a subset.", [table])
        return save(fig, "fusion")


def letter_on(ax, text):
    """The Axes, with its letter."""
    letter(ax, text, x=16)
    return ax


if __name__ == "__main__":
    draw()
