"""Loosely coupled fusion: every subset of modalities, with what is in it below (after UpSet plots).

Redraw from the CSVs: `python -m figures.fusion`.
"""
import matplotlib.pyplot as plt

from . import MM, STYLE, WIDTH, caption, letter, nothing, read, save

WAYS = {   # way -> marker, colour, filled
    "weighted logits": ("o", "#0072B2", True), "mean of probabilities": ("o", "#E69F00", False),
    "alone": ("s", "#999999", False), "early concatenation": ("*", "#D55E00", True),
    "concatenation, parts hidden in training": ("^", "#009E73", False)}
ARMS = {   # of the control -> colour, line
    "bag": ("#999999", "--"), "graph": ("#009E73", ":"),
    "bag and graph of shuffled places": ("#E69F00", "-."), "bag and graph": ("#0072B2", "-")}
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


def missing(ax, table):
    """Accuracy of every way by the number of modalities that a patient lacks, with intervals over seeds."""
    if not len(table):
        return nothing(ax)
    ways = [way for way in WAYS if way in set(table.way)]
    for k, way in enumerate(ways):
        marker, colour, filled = WAYS[way]
        rows = table[table.way == way].sort_values("missing")
        interval = [rows.accuracy - rows.accuracy_low, rows.accuracy_high - rows.accuracy]
        x = rows.missing + 0.08 * (k - (len(ways) - 1) / 2)
        face = colour if filled else "none"
        ax.errorbar(x, rows.accuracy, interval, fmt=marker, color=colour, mfc=face, ms=5, lw=0.9, ls="-")
    counts = sorted(table.missing.unique())
    ax.set(xticks=counts, xlabel="modalities missing", ylabel="accuracy, PAM50")
    ax.grid(axis="y")
    return ax


def control(ax, table):
    """The score of a slide by how much the class depends on the arrangement; dots are seeds."""
    if not len(table):
        return nothing(ax)
    doses = sorted(table.dose.unique())
    for arm, (colour, line) in ARMS.items():
        rows = table[table.arm == arm]
        mean = rows.groupby("dose").value.mean()
        ax.plot(range(len(doses)), mean.loc[doses], line, color=colour, lw=1.2, label=arm)
        ax.plot(rows.dose.map(doses.index), rows.value, ".", color=colour, ms=3, alpha=0.5)
    ax.set(xticks=range(len(doses)), xlabel=table.dial.iloc[0], ylabel=table.measure.iloc[0])
    ax.set_xticklabels([f"{dose:g}" for dose in doses])
    ax.grid(axis="y")
    ax.legend(fontsize=6, loc="lower left")
    return ax


def draw():
    """Draws figures/fusion/fusion.png from fusion_subsets.csv, fusion_missing.csv and fusion_control.csv and
    returns the Figure."""
    subsets, lacking, doses = (read(f"fusion_{name}") for name in ("subsets", "missing", "control"))
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 150 * MM))
        above, below = fig.add_gridspec(2, 1, height_ratios=[1.5, 1])
        rows = above.subgridspec(2, 1, height_ratios=[2.2, 1], hspace=0.02)
        top = letter_on(scores(fig.add_subplot(rows[0]), subsets), "a")
        members(fig.add_subplot(rows[1]), subsets)
        columns = below.subgridspec(1, 2)
        letter_on(missing(fig.add_subplot(columns[0]), lacking), "b")
        letter_on(control(fig.add_subplot(columns[1]), doses), "c")
        handles, labels = top.get_legend_handles_labels()
        if handles:
            fig.legend(handles, labels, ncols=3, loc="outside upper center")
        text = "a, b: means over seeds (real patients: folds) with 95 % intervals over them. Dots below a: " \
               "the modalities of a subset.\nc: lines are means, dots seeds."
        caption(fig, text, [subsets, lacking, doses])
        return save(fig, "fusion")


def letter_on(ax, text):
    """The Axes, with its letter."""
    letter(ax, text, x=16)
    return ax


if __name__ == "__main__":
    draw()
