"""Fig. 5, grading: a-l the cases, m-r the numbers. `python -m figures.fig5` redraws it from its tables."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from xmodal import config
from xmodal.config import CLASSES as NAMES, FROM_PHANTOMS
from xmodal.tables.cases import from_uri

from . import (
    BASELINES,
    CLASSES,
    METHODS,
    MM,
    STYLE,
    WIDTH,
    caption,
    letter,
    nothing,
    p_text,
    present,
    read,
    save,
    spread,
)
from .cases import draw_boxes, overlay, pairs_by_label, patches, picture, small_maps, warned
from .fig1 import SMALL, interval, number, several

OURS = METHODS["ours"][1]
GRADERS = {**BASELINES, "ours_ordinal": ("ours, ordinal head", METHODS["ours_tta"][1])}
LABELS = {"none": "no finding"}                             # of findings; the others are their own labels
CONDITIONS = {
    "readers without AI": "readers\nwithout AI", "readers with AI": "readers\nwith AI",
    "AI alone": "AI (ours)\nalone",
}
CASES = (
    "Mammogram (green, broken: true box; red: found) and attention; the best tile and attention on it; the\n"
    "patches that the hottest region calls up; other maps (✓: the hottest patch touches the lesion); r: the\n"
    "correlation of the attention with that by other tissue and by random weights; joint prediction."
)
NOTE = (
    "Readings: patients of the source test (not trained on) with both modalities, once in each run; "
    "all runs together.\n"
    "[ ] and lines: 95 % interval, patients resampled. Class: the largest of four probabilities; "
    "a method of one modality averages\n"
    "the patient's images. q: only runs that all methods have."
)


def probabilities(ax, row, size):
    """Bars of the four class probabilities, with a tick at a known true class; size of the text in points."""
    shares = np.array([row[f"p{c}"] for c in range(len(NAMES))], float)
    ax.barh(range(len(NAMES)), np.nan_to_num(shares), color=CLASSES, height=0.7)
    for c, share in enumerate(shares):
        text = f"{100 * share:.0f} %" if np.isfinite(share) else "–"
        ax.text(np.nan_to_num(share) + 0.04, c, text, va="center", fontsize=size)
    labels = list(NAMES)
    if row["truth"] in range(len(NAMES)):
        labels[int(row["truth"])] = f"✓ {labels[int(row['truth'])]}"
    ax.set(xlim=(0, 1), ylim=(len(NAMES) - 0.5, -0.5), yticks=range(len(NAMES)), xticks=[])
    ax.set_yticklabels(labels, fontsize=size)
    return ax


def card(ax, row):
    """One case on half the width: mammogram with true and predicted box and attention, the best tile with and
    without its map, the retrieved patches, the maps beside the attention, probabilities."""
    image = from_uri(row["image"])
    tile = from_uri(row["tile"])
    draw_boxes(picture(ax.inset_axes([0, 0.36, 0.2, 0.55]), image), row, len(image))
    overlay(ax.inset_axes([0.205, 0.36, 0.2, 0.55]), image, from_uri(row["heat"]))
    picture(ax.inset_axes([0.41, 0.36, 0.16, 0.55]), tile)
    overlay(ax.inset_axes([0.575, 0.36, 0.16, 0.55]), tile, from_uri(row["tile_heat"]))
    for k, patch in patches(row):
        picture(ax.inset_axes([0.74 + 0.052 * (k - 1), 0.36, 0.05, 0.12]), patch)
    small_maps(ax, row, [0, -0.03, 1, 0.34], 5.5, columns=6)
    bars = probabilities(ax.inset_axes([0.86, 0.54, 0.09, 0.37]), row, 5)
    bars.spines["bottom"].set_visible(False)
    right = row["predicted"] == row["truth"]
    title = f"{row['case']}: truly {NAMES[int(row['truth'])]}, called {NAMES[int(row['predicted'])]}"
    if not right:
        title += " (wrong)"
    title += pairs_by_label(row)
    ax.set_title(title, loc="left", x=0.05, fontsize=6.5, color="black" if right else "#B22222")
    return ax


def size_of(table):
    """"288 readings of 157 patients, 12 runs" from the first row."""
    row = table.iloc[0]
    readings = several(row.readings, "reading")
    return f"{readings} of {several(row.patients, 'patient')}, {several(row.runs, 'run')}"


def fig5m(ax, table):
    """Panel m: accuracy by imaging finding and true class, with intervals; below, how many readings."""
    if not len(table):
        return nothing(ax)
    findings = sorted(set(table.finding) - {"none"})
    if "none" in set(table.finding):
        findings.append("none")                             # patients without a finding come last
    for c, name in enumerate(NAMES):
        cells = table[table.truth == c]
        x = np.array([findings.index(finding) for finding in cells.finding]) + 0.2 * (c - 1.5)
        ax.bar(x, cells["value"], 0.18, color=CLASSES[c], label=name)
        ax.vlines(x, cells.low, cells.high, color="black", lw=0.7)
        for centre, readings in zip(x, cells.readings):
            ax.text(centre, -0.02, readings, ha="center", va="top", fontsize=5)
    ax.grid(axis="y")
    ax.set(ylim=(-0.09, 1.2), yticks=[0, 0.25, 0.5, 0.75, 1], xticks=range(len(findings)))
    ax.set_ylabel("accuracy of ours")
    ax.set_xticklabels([LABELS.get(finding, finding) for finding in findings], fontsize=6)
    ax.legend(ncols=4, loc="upper center", fontsize=6, columnspacing=0.6)
    ax.set_title("By finding and true class (readings below)")
    return ax


def fig5n(ax, table):
    """Panel n: confusion matrix, shares of the true class (readings in brackets)."""
    if not len(table):
        return nothing(ax)
    counts = table.pivot(index="truth", columns="predicted", values="count").to_numpy()
    shares = table.pivot(index="truth", columns="predicted", values="value").to_numpy()
    ax.imshow(np.nan_to_num(shares), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for y, x in np.ndindex(counts.shape):
        text = f"{100 * shares[y, x]:.0f} %\n({counts[y, x]})" if counts[y].sum() else "–"
        colour = "white" if shares[y, x] > 0.55 else "black"
        ax.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)
    ax.set(xticks=range(len(NAMES)), yticks=range(len(NAMES)), xlabel="called by ours", ylabel="true class")
    ax.set_xticklabels(NAMES)
    ax.set_yticklabels(NAMES, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{size_of(table)}\naccuracy {100 * np.trace(counts) / counts.sum():.0f} %")
    return ax


def fig5o(ax, table):
    """Panel o: reliability of each class's probability and of the confidence (the largest one), with ECE.

    The area of a dot goes with the readings in its bin; the numbers below are those of the confidence.
    """
    if not len(table):
        return nothing(ax)
    colours = dict(zip(NAMES, CLASSES)) | {"confidence": "black"}
    for name, colour in colours.items():
        bins = table[(table.of == name) & (table.rows > 0)]
        if len(bins):
            width = 1.6 if name == "confidence" else 0.9
            label = f"{name} {interval(bins.iloc[0], 'ece')}"
            ax.plot(bins.predicted, bins.observed, "-", color=colour, lw=width, label=label)
            ax.scatter(bins.predicted, bins.observed, 30 * bins.rows / table.rows.max(), color=colour, lw=0)
    for row in table[(table.of == "confidence") & (table.rows > 0)].itertuples():
        ax.text(row.predicted, -0.03, row.rows, ha="center", va="top", fontsize=5)
    ax.plot([0, 1], [0, 1], ":", color="#999999", lw=0.7)
    ax.grid()
    ax.set(xlim=(0, 1.02), ylim=(-0.12, 1.6), yticks=[0, 0.25, 0.5, 0.75, 1])
    ax.set(xlabel="predicted probability of ours (numbers: readings by confidence)", ylabel="observed share")
    ax.legend(loc="upper left", title="ECE; confidence: largest probability, if right", **SMALL)
    return ax


def gain_text(row):
    """What readers gain with help, as lines below their kappa; "" where nothing can be gained."""
    if pd.isna(row.gain):
        return ""
    gain = interval(row, "gain", "gain_low", "gain_high").replace(" [", "\n[")
    return f"\ngain {gain}\n{p_text(row.p)}"


def fig5p(ax, table):
    """Panel p: Cohen's kappa with the true class; dots are simulated readers, bars their mean."""
    if not len(table):
        return nothing(ax)
    conditions = list(table.condition.unique())
    colours = ["#999999"] + ["#56B4E9"] * (len(conditions) - 1)
    for i, condition in enumerate(conditions):
        colour = OURS if condition == "AI alone" else colours[i]
        readers = table[table.condition == condition]
        row = readers.iloc[0]                               # mean, interval and gain stand in every row
        ax.bar(i, row["mean"], 0.6, color=colour, alpha=0.6)
        ax.vlines(i, row.low, row.high, color="black", lw=0.8)
        x = spread(i, len(readers), 0.2)
        ax.plot(x, readers.kappa, "o", ms=2.5, color=colour, mec="black", mew=0.3)
        ax.text(i, 1.02, interval(row, "mean") + gain_text(row), ha="center", va="bottom", fontsize=5.5)
    ax.grid(axis="y")
    ax.set(ylim=(0, 1.42), yticks=[0, 0.25, 0.5, 0.75, 1], xticks=range(len(conditions)))
    ax.set_ylabel("Cohen's κ with the true class")
    ax.set_xticklabels([CONDITIONS.get(name, name) for name in conditions])
    title = "Simulated readers: true class + noise;\nwith AI 30 % of the way to what it says"
    ax.set_title(title, color="#B22222")
    return ax


def fig5q(ax, table):
    """Panel q: quadratic weighted kappa of each method on the same readings, with its interval."""
    if not len(table):
        return nothing(ax)
    methods = present(GRADERS, table.method)[::-1]
    for i, method in enumerate(methods):
        row = table[table.method == method].iloc[0]
        ax.barh(i, row.qwk, 0.65, color=GRADERS[method][1], alpha=0.75)
        ax.hlines(i, row.low, row.high, color="black", lw=0.8)
        ax.text(1.03, i, interval(row, "qwk"), va="center", fontsize=6)
    ax.grid(axis="x")
    ax.set(xlim=(min(0, table.low.min()), 1), yticks=range(len(methods)))
    ax.set_xlabel("quadratic weighted κ with the true class")
    ax.set_yticklabels([GRADERS[method][0].replace(", ", ",\n") for method in methods])
    ax.set_title(size_of(table))
    return ax


def fig5r(ax, table):
    """Panel r: sensitivity, specificity, Youden's index by threshold; dashed: what validation chose."""
    if not len(table):
        return nothing(ax)
    row = table.iloc[0]
    curves = {
        "sensitivity": ("sensitivity", "#D55E00"),
        "specificity": ("specificity", "#009E73"),
        "youden": ("Youden's index", OURS),
    }
    for name, (label, colour) in curves.items():
        chosen = interval(row, f"{name}_at", f"{name}_at_low", f"{name}_at_high")
        ax.plot(table.threshold, table[name], color=colour, label=f"{label} {chosen}")
    if table.youden.notna().any():              # it is NaN where all patients are malignant, or none is
        best = table.loc[table.youden.idxmax()]
        ax.plot(best.threshold, best.youden, "o", ms=3, mfc="white", mec=OURS)
        ax.annotate(
            f"best here: {best.threshold:.2f}", (best.threshold, best.youden), (-5, 3),
            textcoords="offset points", ha="right", fontsize=5.5,
        )
    ax.vlines(row.chosen, 0, 1.02, color="#555555", ls="--", lw=0.7)
    ax.grid()
    ax.set(xlim=(0, 1), ylim=(0, 1.45), yticks=[0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel("threshold of malignancy, $p_2 + p_3$ of ours")
    title = f"at {number(row.chosen)}, chosen on validation patients (dashed)"
    ax.legend(loc="upper right", title=title, **SMALL)
    return ax


def draw_cases():
    """Draws Fig. 5 a-l from figures/fig5/fig5.csv into figures/fig5/fig5.png and returns the Figure.

    Twelve cases at most, in two columns.
    """
    table = read("fig5").head(12)
    down = max(-(-len(table) // 2), 1)
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(down, 2, figsize=(WIDTH, (down * 36 + 14) * MM), squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, name, (_, row) in zip(axes.T.flat, "abcdefghijkl", table.iterrows()):
            letter(card(ax, row), name)
        if not len(table):
            nothing(axes[0, 0])
        text = CASES if len(table) else ""
        if warned(table):
            text += "\n" + FROM_PHANTOMS
        caption(fig, text, [table])
        return save(fig, "fig5")


def draw_numbers():
    """Draws Fig. 5 m-r from fig5m.csv to fig5r.csv into figures/fig5/fig5_numbers.png; returns the Figure."""
    panels = {"m": fig5m, "n": fig5n, "o": fig5o, "p": fig5p, "q": fig5q, "r": fig5r}
    tables = {name: read(f"fig5{name}") for name in panels}
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(3, 2, figsize=(WIDTH, 200 * MM))
        for ax, (name, panel) in zip(axes.flat, panels.items()):
            letter(panel(ax, tables[name]), name, x=16)
        caption(fig, NOTE, tables.values())
        return save(fig, "fig5_numbers")


def draw():
    """Draws the cases, and the numbers where 05_evaluate has written them; returns the cases' Figure."""
    if any((config.FIGURES / "fig5").glob("fig5[m-r].csv")):
        draw_numbers()
    return draw_cases()


if __name__ == "__main__":
    draw()
