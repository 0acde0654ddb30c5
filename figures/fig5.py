"""Fig. 5, grading: a-l the cases, m-r the numbers. Redraw from the CSVs: `python -m figures.fig5`."""

import matplotlib.pyplot as plt
import numpy as np

from xmodal import config
from xmodal.config import CLASSES as NAMES
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
)
from .fig1 import SMALL, interval, number, several
from .fig4 import overlay, picture

OURS = METHODS["ours"][1]
GRADERS = {**BASELINES, "ours_ordinal": ("ours, ordinal head", METHODS["ours_tta"][1])}
NOTE = ("Readings: patients of the source test (not trained on) with both modalities, once in each run; all runs together.\n"
        "[ ] and lines: 95 % interval, patients resampled. Class: the largest of four probabilities; a method of one modality averages\n"
        "the patient's images. q: only runs that all methods have.")


def probabilities(ax, row, size):
    """Bars of the four class probabilities, with a tick at the true class where it is known; size of the text in points."""
    p = [row[f"p{c}"] for c in range(len(NAMES))]
    ax.barh(range(len(NAMES)), p, color=CLASSES, height=0.7)
    for c, value in enumerate(p):
        ax.text(value + 0.04, c, f"{100 * value:.0f} %", va="center", fontsize=size)
    ax.set(xlim=(0, 1), ylim=(len(NAMES) - 0.5, -0.5), yticks=range(len(NAMES)), xticks=[])
    ax.set_yticklabels([("✓ " if c == row["truth"] else "") + name for c, name in enumerate(NAMES)], fontsize=size)
    return ax


def card(ax, row):
    """One case on half the width: mammogram, attention map, the retrieved patches (best large), class probabilities."""
    image = from_uri(row["image"])
    picture(ax.inset_axes([0, 0, 0.26, 0.9]), image)
    overlay(ax.inset_axes([0.27, 0, 0.26, 0.9]), image, from_uri(row["heat"]))
    for k in (k for k in range(1, 6) if isinstance(row[f"tile{k}"], str) and row[f"tile{k}"]):
        spot = [0.545, 0.3, 0.17, 0.6] if k == 1 else [0.545 + 0.039 * (k - 2), 0.06, 0.037, 0.2]
        picture(ax.inset_axes(spot), from_uri(row[f"tile{k}"]))
    bars = probabilities(ax.inset_axes([0.85, 0.1, 0.1, 0.8]), row, 5.5)
    bars.spines["bottom"].set_visible(False)
    right = row["predicted"] == row["truth"]
    ax.set_title(f"{row['case']}: truly {NAMES[int(row['truth'])]}, called {NAMES[int(row['predicted'])]}" + ("" if right else " (wrong)"),
                 loc="left", x=0.05, fontsize=6.5, color="black" if right else "#B22222")
    return ax


def of(table):
    """"288 readings of 157 patients, 12 runs" from the first row."""
    row = table.iloc[0]
    return f"{several(row.readings, 'reading')} of {several(row.patients, 'patient')}, {several(row.runs, 'run')}"


def fig5m(ax, table):
    """Panel m: accuracy by imaging finding and true class, with intervals; below, how many readings."""
    if not len(table):
        return nothing(ax)
    findings = sorted(set(table.finding), key=lambda f: (f == "none", f))
    for c, name in enumerate(NAMES):
        g = table[table.truth == c]
        x = np.array([findings.index(f) for f in g.finding]) + 0.2 * (c - 1.5)
        ax.bar(x, g["value"], 0.18, color=CLASSES[c], label=name)
        ax.vlines(x, g.low, g.high, color="black", lw=0.7)
        for at, n in zip(x, g.readings):
            ax.text(at, -0.02, n, ha="center", va="top", fontsize=5)
    ax.grid(axis="y")
    ax.set(ylim=(-0.09, 1.2), yticks=[0, 0.25, 0.5, 0.75, 1], xticks=range(len(findings)), ylabel="accuracy of ours")
    ax.set_xticklabels([f if f != "none" else "no finding" for f in findings], fontsize=6)
    ax.legend(ncols=4, loc="upper center", fontsize=6, columnspacing=0.6)
    ax.set_title("By finding and true class (readings below)")
    return ax


def fig5n(ax, table):
    """Panel n: confusion matrix, shares of the true class (readings in brackets)."""
    if not len(table):
        return nothing(ax)
    counts, shares = (table.pivot(index="truth", columns="predicted", values=v).to_numpy() for v in ("count", "value"))
    ax.imshow(np.nan_to_num(shares), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for y, x in np.ndindex(counts.shape):
        ax.text(x, y, f"{100 * shares[y, x]:.0f} %\n({counts[y, x]})" if counts[y].sum() else "–", ha="center", va="center", fontsize=6,
                color="white" if shares[y, x] > 0.55 else "black")
    ax.set(xticks=range(len(NAMES)), yticks=range(len(NAMES)), xlabel="called by ours", ylabel="true class")
    ax.set_xticklabels(NAMES)
    ax.set_yticklabels(NAMES, rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{of(table)}\naccuracy {100 * np.trace(counts) / counts.sum():.0f} %")
    return ax


def fig5o(ax, table):
    """Panel o: reliability of each class's probability and of the confidence (the largest probability), with ECE."""
    if not len(table):
        return nothing(ax)
    for name, colour in {**dict(zip(NAMES, CLASSES)), "confidence": "black"}.items():
        g = table[(table.of == name) & (table.rows > 0)]
        if len(g):
            ax.plot(g.predicted, g.observed, "o-", ms=2, color=colour, lw=1.6 if name == "confidence" else 0.9,
                    label=f"{name} {interval(g.iloc[0], 'ece')}")
    ax.plot([0, 1], [0, 1], ":", color="#999999", lw=0.7)
    ax.grid()
    ax.set(xlim=(0, 1), ylim=(0, 1.5), yticks=[0, 0.25, 0.5, 0.75, 1], xlabel="predicted probability of ours", ylabel="observed share")
    ax.legend(loc="upper left", title="ECE; confidence: largest probability, if right", **SMALL)
    return ax


def fig5p(ax, table):
    """Panel p: Cohen's kappa with the true class; dots are simulated readers, bars their mean."""
    if not len(table):
        return nothing(ax)
    conditions = list(dict.fromkeys(table.condition))
    for i, condition in enumerate(conditions):
        g, colour = table[table.condition == condition], OURS if condition == "AI alone" else "#999999" if i == 0 else "#56B4E9"
        row = g.iloc[0]
        ax.bar(i, row["mean"], 0.6, color=colour, alpha=0.6)
        ax.vlines(i, row.low, row.high, color="black", lw=0.8)
        ax.plot(i + np.linspace(-0.2, 0.2, len(g)) if len(g) > 1 else [i], g.kappa, "o", ms=2.5, color=colour, mec="black", mew=0.3)
        gain = interval(row, "gain", "gain_low", "gain_high").replace(" [", "\n[")
        gain = "" if row.gain != row.gain else f"\n\ngain {gain}\n{p_text(row.p)}"
        ax.text(i, 0.03, f"{interval(row, 'mean')}{gain}", ha="center", va="bottom", fontsize=5.5)
    ax.grid(axis="y")
    ax.set(ylim=(0, 1), xticks=range(len(conditions)), ylabel="Cohen's κ with the true class")
    ax.set_xticklabels([c.replace("readers ", "readers\n").replace("AI alone", "AI (ours)\nalone") for c in conditions])
    ax.set_title("Simulated readers: true class + noise;\nwith AI 30 % of the way to what it says", color="#B22222")
    return ax


def fig5q(ax, table):
    """Panel q: quadratic weighted kappa of each method on the same readings, with its interval."""
    if not len(table):
        return nothing(ax)
    methods = present(GRADERS, table.method)[::-1]
    for i, method in enumerate(methods):
        row, (label, colour) = table[table.method == method].iloc[0], GRADERS[method]
        ax.barh(i, row.qwk, 0.65, color=colour, alpha=0.75)
        ax.hlines(i, row.low, row.high, color="black", lw=0.8)
        ax.text(1.03, i, interval(row, "qwk"), va="center", fontsize=6)
    ax.grid(axis="x")
    ax.set(xlim=(min(0, table.low.min()), 1), yticks=range(len(methods)), xlabel="quadratic weighted κ with the true class")
    ax.set_yticklabels([GRADERS[m][0].replace(", ", ",\n") for m in methods])
    ax.set_title(of(table))
    return ax


def fig5r(ax, table):
    """Panel r: sensitivity, specificity and Youden's index by threshold; dashed, the threshold that validation chose."""
    if not len(table):
        return nothing(ax)
    row = table.iloc[0]
    for name, colour in (("sensitivity", "#D55E00"), ("specificity", "#009E73"), ("youden", OURS)):
        label = "Youden's index" if name == "youden" else name
        found = interval(row, f"{name}_at", f"{name}_at_low", f"{name}_at_high")
        ax.plot(table.threshold, table[name], color=colour, label=f"{label} {found}")
    if table.youden.notna().any():                           # else all patients are malignant, or none is
        best = table.loc[table.youden.idxmax()]
        ax.plot(best.threshold, best.youden, "o", ms=3, mfc="white", mec=OURS)
        ax.annotate(f"best here: {best.threshold:.2f}", (best.threshold, best.youden), (-5, 3), textcoords="offset points", ha="right",
                    fontsize=5.5)
    ax.vlines(row.chosen, 0, 1.02, color="#555555", ls="--", lw=0.7)
    ax.grid()
    ax.set(xlim=(0, 1), ylim=(0, 1.45), yticks=[0, 0.25, 0.5, 0.75, 1], xlabel="threshold of malignancy, $p_2 + p_3$ of ours")
    ax.legend(loc="upper right", title=f"at {number(row.chosen)}, chosen on validation patients (dashed)", **SMALL)
    return ax


def draw_cases():
    """Draws Fig. 5 a-l from figures/fig5/fig5.csv into figures/fig5/fig5.png and returns the Figure: twelve cases at most, in two
    columns."""
    table = read("fig5").head(12)
    down = max(-(-len(table) // 2), 1)
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(down, 2, figsize=(WIDTH, (down * 27 + 8) * MM), squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, k, (_, row) in zip(axes.T.flat, "abcdefghijkl", table.iterrows()):
            letter(card(ax, row), k)
        if not len(table):
            nothing(axes[0, 0])
        caption(fig, "Mammogram, attention, retrieved patches (best first), joint prediction (✓: true class).", [table])
        return save(fig, "fig5")


def draw_numbers():
    """Draws Fig. 5 m-r from figures/fig5/fig5m.csv to fig5r.csv into figures/fig5/fig5_numbers.png and returns the Figure."""
    panels = {"m": fig5m, "n": fig5n, "o": fig5o, "p": fig5p, "q": fig5q, "r": fig5r}
    tables = {k: read(f"fig5{k}") for k in panels}
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(3, 2, figsize=(WIDTH, 200 * MM))
        for ax, (k, panel) in zip(axes.flat, panels.items()):
            letter(panel(ax, tables[k]), k, x=16)
        caption(fig, NOTE, tables.values())
        return save(fig, "fig5_numbers")


def draw():
    """Draws the cases, which 06_interpret writes, and the numbers where 05_evaluate has written them; returns the cases' Figure."""
    if any((config.FIGURES / "fig5").glob("fig5[m-r].csv")):
        draw_numbers()
    return draw_cases()


if __name__ == "__main__":
    draw()
