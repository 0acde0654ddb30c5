"""Fig. 3, leave one domain out. `python -m figures.fig3` redraws it from its tables."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from . import (
    CONDITIONS,
    DOMAINS,
    MARKERS,
    METHODS,
    MM,
    SHORT_CLASSES,
    STYLE,
    WIDTH,
    box_of,
    caption,
    letter,
    nothing,
    p_text,
    present,
    read,
    save,
    spread,
)
from .strata import fig3j, fig3k, fig3l

NOTE = (
    "j: by breast density, below it images. k: malignant images with a lesion of one type "
    "(how many: below it) against all images without a malignant finding.\n"
    "j, k: open dots are sensitivity or specificity, where a stratum has one class. Lines: 95 %, by patient. "
    "l: a dot is a run, a line the mean of a domain's."
)


def fig3_held_out(ax, table, labels=True):
    """Panels a-d: AUC of each method on one unseen domain.

    Small dots are seeds; below them, their mean with its 95 % interval by patient. labels: name the methods.
    """
    if not len(table):
        return nothing(ax)
    methods = present(METHODS, table.method)[::-1]
    for i, method in enumerate(methods):
        runs = table[table.method == method]
        colour = METHODS[method][1]
        mean = runs.iloc[0]                                 # mean and interval stand in every row of a method
        ax.plot([mean.low, mean.high], [i, i], color=colour, lw=1.6, solid_capstyle="round")
        ax.plot(runs.auc, np.full(len(runs), i + 0.28), "o", ms=1.8, color=colour, alpha=0.7, mew=0)
        ax.plot(mean["mean"], i, MARKERS[method], ms=4, color=colour, mec="white", mew=0.5)
    ax.axvline(0.5, color="#BBBBBB", lw=0.6, ls=":")
    ax.grid(axis="x")
    ax.set(yticks=range(len(methods)), ylim=(-0.6, len(methods) - 0.3), xlabel="AUC on the unseen domain")
    names = [METHODS[method][0] for method in methods]
    ax.set_yticklabels(names if labels else [])
    first = table.iloc[0]
    size = f"{first.images} images of {first.patients} patients"
    ax.set_title(f"{DOMAINS[first.held_out][0]}\n{size}", fontsize=6.5)
    return ax


def fig3e(ax, table):
    """Panel e: AUC of ours, one row per held-out fold, one column per domain; the unseen cell is framed."""
    if not len(table):
        return nothing(ax)
    rows = present(DOMAINS, table.held_out)
    columns = present(DOMAINS, table.domain)
    grid = table.pivot(index="held_out", columns="domain", values="mean").reindex(index=rows, columns=columns)
    ax.imshow(grid, vmin=0.5, vmax=1, aspect="auto")
    for cell in table.itertuples():
        x = columns.index(cell.domain)
        y = rows.index(cell.held_out)
        sd = "" if pd.isna(cell.sd) else f"\n± {cell.sd:.2f}"
        colour = "white" if cell.mean <= 0.75 else "black"
        ax.text(x, y, f"{cell.mean:.2f}{sd}", ha="center", va="center", color=colour, fontsize=6.5)
        if cell.split == "target":
            ax.add_patch(plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fill=False, ec="#D55E00", lw=1.6))
    ax.set(xticks=range(len(columns)), yticks=range(len(rows)), xlabel="evaluated on", ylabel="held out")
    ax.set_xticklabels([DOMAINS[domain][0] for domain in columns])
    ax.set_yticklabels([DOMAINS[domain][0] for domain in rows])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("AUC of ours (framed: unseen domain)")
    return ax


def fig3f(ax, table):
    """Panel f: source AUC - target AUC by fold and seed, with Holm's p of the paired t-test against ours."""
    if not len(table):
        return nothing(ax)
    methods = present(METHODS, table.method)
    top = table.gap.max() + 0.06 * (table.gap.max() - table.gap.min() + 0.1)
    for i, method in enumerate(methods):
        runs = table[table.method == method]
        colour = METHODS[method][1]
        box_of(ax, runs.gap, i, 0.55, colour)
        ax.plot(spread(i, len(runs), 0.18), runs.gap, "o", ms=2, color=colour, mew=0)
        p = p_text(runs.p_t_holm.iloc[0]).replace(" ", "")
        ax.text(i, top, p, ha="center", va="bottom", fontsize=5)
    ax.axhline(0, color="#888888", lw=0.6)
    ax.grid(axis="y")
    ax.set(xticks=range(len(methods)), xlim=(-0.6, len(methods) - 0.4), ylabel="source AUC − target AUC")
    labels = [METHODS[method][0].removeprefix("pretrained, ") for method in methods]
    ax.set_xticklabels(labels, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_title("Domain gap of each run (p: against ours over folds, Holm)", fontsize=7, pad=11)
    return ax


def change_text(row):
    """" +0.02 [-0.01, +0.05], p = 0.16" from a row of panel g; "" where there is no test."""
    if pd.isna(row.get("difference")):
        return ""
    interval = "" if pd.isna(row.p_t) else f" [{row.difference_low:+.2f}, {row.difference_high:+.2f}]"
    return f" {row.difference:+.2f}{interval}, {p_text(row.p_t_holm)}".replace("-", "−").rstrip(", ")


def fig3g(ax, table):
    """Panel g: AUC of ours on each unseen domain as trained and after each adaptation; boxes over seeds.

    In the legend: by how much an adaptation changes the mean AUC, with p of the paired t-test over folds.
    """
    if not len(table):
        return nothing(ax)
    domains = present(DOMAINS, table.held_out)
    conditions = present(CONDITIONS, table.condition)
    step = 0.8 / len(conditions)
    for k, condition in enumerate(conditions):
        label, colour = CONDITIONS[condition]
        runs = table[table.condition == condition]
        for i, domain in enumerate(domains):
            values = runs.auc[runs.held_out == domain].dropna()
            x = i - 0.4 + step * (k + 0.5)
            box_of(ax, values, x, step * 0.8, colour)
            ax.plot(np.full(len(values), x), values, "o", ms=2, color=colour, mew=0)
        change = change_text(runs.iloc[0]) if len(runs) else ""
        ax.plot([], [], "s", ms=4, color=colour, alpha=0.6, label=label + change)
    ax.grid(axis="y")
    ax.set(xticks=range(len(domains)), xlim=(-0.5, len(domains) - 0.5), ylabel="AUC of ours")
    ax.set_xticklabels([DOMAINS[domain][0] for domain in domains])
    ax.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=5.5, columnspacing=0.6)
    ax.set_title(f"Test-time adaptation (seeds: {table.seed.nunique()}; p over folds, Holm)")
    return ax


def course(ax, table, column):
    """One half of panel h: a column by adaptation step, one colour per domain."""
    for domain in present(DOMAINS, table.held_out):
        runs = table[table.held_out == domain]
        name, colour = DOMAINS[domain]
        for _, run in runs.groupby("seed"):
            ax.plot(run.step, run[column], color=colour, lw=0.5, alpha=0.5)
            chosen = run[run.stopped.astype(bool)]
            ax.plot(chosen.step, chosen[column], "o", ms=3.2, mfc="white", mec=colour, mew=0.9, zorder=3)
        steps = runs.groupby("step")[column].agg(["mean", "size"])
        complete = steps[steps["size"] == runs.seed.nunique()]              # steps that every seed took
        ax.plot(complete.index, complete["mean"], color=colour, lw=1.4, label=name)
    ax.grid(axis="y")


def fig3h(ax, table):
    """Panel h: entropy and AUC by adaptation step, each seed (thin) and the mean; rings: the chosen step."""
    if not len(table):
        return nothing(ax, "no adaptation has been run")
    ax.set_axis_off()
    left = ax.inset_axes([0.11, 0.0, 0.36, 1])
    right = ax.inset_axes([0.64, 0.0, 0.36, 1])
    course(left, table, "entropy_nats")
    left.set(xlabel="adaptation step", ylabel="entropy (nats)")
    course(right, table, "auc")
    right.set(xlabel="adaptation step", ylabel="AUC (evaluation only)")
    left.legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.2, -0.45))
    probes = f"; {table.probe_images.max():.0f} probe images" if "probe_images" in table else ""
    ax.set_title(f"Causal adaptation (rings: the rule's stop{probes})")
    return ax


def confusion(ax, counts):
    """One matrix of panel i: shares of the true class, images in brackets. counts: true x predicted class."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for y, x in np.ndindex(shares.shape):
        text = f"{100 * shares[y, x]:.0f} %\n({counts[y, x]})" if counts[y].sum() else "–"
        colour = "white" if shares[y, x] > 0.55 else "black"
        ax.text(x, y, text, ha="center", va="center", fontsize=5, color=colour)
    ax.set(xticks=range(4), yticks=range(4), xlabel="predicted")
    ax.set_xticklabels(SHORT_CLASSES, fontsize=6)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)


def fig3i(ax, table):
    """Panel i: four-class confusion matrices, one per domain and method."""
    if not len(table):
        return nothing(ax, "no runs of these methods\non CBIS-DDSM or INbreast")
    ax.set_axis_off()
    matrices = {}
    for domain in present(DOMAINS, table.held_out):
        of_domain = table[table.held_out == domain]
        for method in present(METHODS, of_domain.method):
            cells = of_domain[of_domain.method == method]
            counts = cells.pivot(index="truth", columns="predicted", values="images").to_numpy()
            matrices[domain, method] = counts
    width = 0.97 / len(matrices)
    for k, ((domain, method), counts) in enumerate(matrices.items()):
        sub = ax.inset_axes([0.03 + 0.97 * k / len(matrices), 0, width - 0.03, 1])
        confusion(sub, counts)
        sub.set_yticklabels(SHORT_CLASSES if k == 0 else [], fontsize=6, rotation=90, va="center")
        accuracy = np.trace(counts) / counts.sum()
        title = f"{DOMAINS[domain][0]}\n{METHODS[method][0]}\naccuracy {100 * accuracy:.0f} %"
        sub.set_title(title, fontsize=6)
        if k == 0:
            sub.set_ylabel("true class", labelpad=8)
    return ax


def draw_top(fig, row, tables):
    """Panels a-d, on one scale; methods are named once where neighbouring panels have the same."""
    spots = row.subgridspec(1, 4)
    ax = named = None
    for i, name in enumerate("abcd"):
        ax = fig.add_subplot(spots[i], sharex=ax)
        methods = present(METHODS, tables[name].get("method", []))
        letter(fig3_held_out(ax, tables[name], labels=methods != named), name, x=10)
        named = methods or named


def draw():
    """Draws Fig. 3 from figures/fig3/*.csv into figures/fig3/fig3.png; without runs a panel is empty."""
    tables = {name: read(f"fig3{name}") for name in "abcdefghijkl"}
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 258 * MM))
        rows = fig.add_gridspec(5, 1, height_ratios=[1.2, 1.25, 1.05, 0.95, 1.1], hspace=0.08)
        draw_top(fig, rows[0], tables)
        middle = rows[1].subgridspec(1, 2, width_ratios=[1, 1.25])
        lower = rows[2].subgridspec(1, 2, width_ratios=[1, 1.25])
        last = rows[4].subgridspec(1, 3, width_ratios=[1.1, 1.1, 0.8])
        panels = {
            "e": (fig3e, middle[0]), "f": (fig3f, middle[1]), "g": (fig3g, lower[0]), "h": (fig3h, lower[1]),
            "i": (fig3i, rows[3]), "j": (fig3j, last[0]), "k": (fig3k, last[1]), "l": (fig3l, last[2]),
        }
        for name, (panel, spot) in panels.items():
            gap = 6 if name in "fjk" else 2
            letter(panel(fig.add_subplot(spot), tables[name]), name, x=14, gap=gap)
        caption(fig, NOTE if len(tables["j"]) or len(tables["k"]) else "", tables.values())
        return save(fig, "fig3")


if __name__ == "__main__":
    draw()
