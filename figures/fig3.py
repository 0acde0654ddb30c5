"""Fig. 3, leave one domain out. Redraw from the CSVs: `python -m figures.fig3`."""
import matplotlib.pyplot as plt
import numpy as np

from xmodal.config import CLASSES as NAMES

from . import (
    CONDITIONS,
    DOMAINS,
    METHODS,
    MM,
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
)

LESIONS = {"mass": "mass", "calcification": "calc.", "distortion": "dist.", "asymmetry": "asym."}
NOTE = ("j: by breast density, below it images. k: malignant images with a lesion of one type (how many: below it) against all images "
        "without a malignant finding.\nj, k: open dots are sensitivity or specificity, where a stratum has one class. Lines: 95 %, "
        "by patient. l: bars are sd over seeds and domains.")
SHORT = [name.replace("invasive", "inv.").replace("benign", "ben.").replace("normal", "norm.") for name in NAMES]


def fig3_held_out(ax, table, labels=True):
    """Panels a-d: AUC of each method on one unseen domain: seeds (small), their mean and its 95 % interval by patient."""
    if not len(table):
        return nothing(ax)
    methods = present(METHODS, table.method)[::-1]
    for i, method in enumerate(methods):
        g, colour = table[table.method == method], METHODS[method][1]
        ax.plot([g.low.iloc[0], g.high.iloc[0]], [i, i], color=colour, lw=1.6, solid_capstyle="round")
        ax.plot(g.auc, np.full(len(g), i + 0.28), "o", ms=1.8, color=colour, alpha=0.7, mew=0)
        ax.plot(g["mean"].iloc[0], i, "D" if method.startswith("ours") else "o", ms=4, color=colour, mec="white", mew=0.5)
    ax.axvline(0.5, color="#BBBBBB", lw=0.6, ls=":")
    ax.grid(axis="x")
    ax.set(yticks=range(len(methods)), ylim=(-0.6, len(methods) - 0.3), xlabel="AUC on the unseen domain")
    ax.set_yticklabels([METHODS[m][0] for m in methods] if labels else [])
    ax.set_title(f"{DOMAINS[table.held_out.iloc[0]][0]}\n{table.images.iloc[0]} images of {table.patients.iloc[0]} patients", fontsize=6.5)
    return ax


def fig3e(ax, table):
    """Panel e: AUC of ours, a row a held-out fold, a column a domain; the framed cell is the unseen one."""
    if not len(table):
        return nothing(ax)
    rows, columns = present(DOMAINS, table.held_out), present(DOMAINS, table.domain)
    grid = table.pivot(index="held_out", columns="domain", values="mean").reindex(index=rows, columns=columns)
    ax.imshow(grid, vmin=0.5, vmax=1, aspect="auto")
    for cell in table.itertuples():
        x, y = columns.index(cell.domain), rows.index(cell.held_out)
        spread = f"\n± {cell.sd:.2f}" if cell.sd == cell.sd else ""
        dark = cell.mean <= 0.75
        ax.text(x, y, f"{cell.mean:.2f}{spread}", ha="center", va="center", color="white" if dark else "black", fontsize=6.5)
        if cell.split == "target":
            ax.add_patch(plt.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fill=False, ec="#D55E00", lw=1.6))
    names = lambda keys: [DOMAINS[k][0] for k in keys]
    ax.set(xticks=range(len(columns)), yticks=range(len(rows)), xlabel="evaluated on", ylabel="held out")
    ax.set_xticklabels(names(columns))
    ax.set_yticklabels(names(rows))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("AUC of ours (framed: unseen domain)")
    return ax


def fig3f(ax, table):
    """Panel f: distribution over folds and seeds of source AUC - target AUC, with the Holm-adjusted paired t-test against ours."""
    if not len(table):
        return nothing(ax)
    methods = present(METHODS, table.method)
    top = table.gap.max() + 0.06 * (table.gap.max() - table.gap.min() + 0.1)
    for i, method in enumerate(methods):
        g, colour = table[table.method == method], METHODS[method][1]
        box_of(ax, g.gap, i, 0.55, colour)
        ax.plot(i + np.linspace(-0.18, 0.18, len(g)) if len(g) > 1 else [i], g.gap, "o", ms=2, color=colour, mew=0)
        ax.text(i, top, p_text(g.p_t_holm.iloc[0]).replace("p = ", "").replace("p ", ""), ha="center", va="bottom", fontsize=6)
    ax.axhline(0, color="#888888", lw=0.6)
    ax.grid(axis="y")
    ax.set(xticks=range(len(methods)), xlim=(-0.6, len(methods) - 0.4), ylabel="source AUC − target AUC")
    ax.set_xticklabels([METHODS[m][0] for m in methods], rotation=35, ha="right", rotation_mode="anchor")
    ax.set_title("Domain gap of each fold and seed (numbers: Holm p against ours)", fontsize=7, pad=11)
    return ax


def fig3g(ax, table):
    """Panel g: AUC of ours on each unseen domain as trained and after each adaptation; boxes over seeds."""
    if not len(table):
        return nothing(ax)
    domains, conditions = present(DOMAINS, table.held_out), present(CONDITIONS, table.condition)
    step = 0.8 / len(conditions)
    for k, condition in enumerate(conditions):
        label, colour = CONDITIONS[condition]
        for i, domain in enumerate(domains):
            values, x = table.auc[(table.held_out == domain) & (table.condition == condition)].dropna(), i - 0.4 + step * (k + 0.5)
            box_of(ax, values, x, step * 0.8, colour)
            ax.plot(np.full(len(values), x), values, "o", ms=2, color=colour, mew=0)
        ax.plot([], [], "s", ms=4, color=colour, alpha=0.6, label=label)
    ax.grid(axis="y")
    ax.set(xticks=range(len(domains)), xlim=(-0.5, len(domains) - 0.5), ylabel="AUC of ours")
    ax.set_xticklabels([DOMAINS[d][0] for d in domains])
    ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, -0.32))
    ax.set_title(f"Test-time adaptation (seeds: {table.seed.nunique()})")
    return ax


def fig3h(ax, table):
    """Panel h: entropy and AUC by adaptation step, a thin line a seed, the mean thick; a ring where the stopping rule chose."""
    if not len(table):
        return nothing(ax, "no adaptation has been run")
    ax.set_axis_off()
    insets = [ax.inset_axes([0.11, 0.0, 0.36, 1]), ax.inset_axes([0.64, 0.0, 0.36, 1])]
    for sub, column, label in zip(insets, ("entropy_nats", "auc"), ("entropy (nats)", "AUC (evaluation only)")):
        for domain in present(DOMAINS, table.held_out):
            g, (name, colour) = table[table.held_out == domain], DOMAINS[domain]
            for _, one in g.groupby("seed"):
                sub.plot(one.step, one[column], color=colour, lw=0.5, alpha=0.5)
                chosen = one[one.stopped.astype(bool)]
                sub.plot(chosen.step, chosen[column], "o", ms=3.2, mfc="white", mec=colour, mew=0.9, zorder=3)
            complete = g.groupby("step")[column].agg(["mean", "size"]).query(f"size == {g.seed.nunique()}")
            sub.plot(complete.index, complete["mean"], color=colour, lw=1.4, label=name)
        sub.grid(axis="y")
        sub.set(xlabel="adaptation step", ylabel=label)
    insets[0].legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.2, -0.45))
    ax.set_title("Causal adaptation (rings: where the label-free rule stops)")
    return ax


def fig3i(ax, table):
    """Panel i: four-class confusion matrices, a column pair a domain, shares of the true class (images in brackets)."""
    if not len(table):
        return nothing(ax, "no runs of MixStyle or ours\non CBIS-DDSM or INbreast")
    ax.set_axis_off()
    pairs = [(d, m) for d in present(DOMAINS, table.held_out) for m in present(METHODS, table.method)]
    pairs = [(d, m) for d, m in pairs if ((table.held_out == d) & (table.method == m)).any()]
    for k, (domain, method) in enumerate(pairs):
        sub = ax.inset_axes([0.03 + 0.97 * k / len(pairs), 0, 0.97 / len(pairs) - 0.03, 1])
        g = table[(table.held_out == domain) & (table.method == method)]
        counts = g.pivot(index="truth", columns="predicted", values="images").to_numpy()
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        sub.imshow(share, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for y, x in np.ndindex(share.shape):
            sub.text(x, y, f"{100 * share[y, x]:.0f} %\n({counts[y, x]})", ha="center", va="center", fontsize=5.5,
                     color="white" if share[y, x] > 0.55 else "black")
        accuracy = np.trace(counts) / counts.sum()
        sub.set(xticks=range(4), yticks=range(4), xlabel="predicted")
        sub.set_xticklabels(SHORT, fontsize=6)
        sub.set_yticklabels(SHORT if k == 0 else [], fontsize=6, rotation=90, va="center")
        sub.tick_params(length=0, pad=2)
        sub.spines[:].set_visible(False)
        sub.set_title(f"{DOMAINS[domain][0]}, {METHODS[method][0]}\naccuracy {100 * accuracy:.0f} %", fontsize=6.5)
        if k == 0:
            sub.set_ylabel("true class", labelpad=8)
    return ax


def strata(ax, table, column, order, note):
    """Panels j and k: AUC of each method in each stratum of the unseen mammograms, a half a domain, with its 95 % interval by patient.

    A stratum of one class shows its sensitivity or specificity as an open dot. Below each stratum: its images."""
    if not len(table):
        return nothing(ax)
    ax.set_axis_off()
    domains, methods = present(DOMAINS, table.held_out), present(METHODS, table.method)
    for k, domain in enumerate(domains):
        sub = ax.inset_axes([0.1 + 0.9 * k / len(domains), 0, 0.9 / len(domains) - 0.03, 1])
        here = table[table.held_out == domain]
        groups = [g for g in order if (here[column] == g).any()]
        for m, method in enumerate(methods):
            label, colour = METHODS[method]
            for row in here[here.method == method].itertuples():
                x = groups.index(getattr(row, column)) + (m - (len(methods) - 1) / 2) * 0.25
                sub.plot([x, x], [row.low, row.high], color=colour, lw=1.4, solid_capstyle="round")
                sub.plot(x, row.value, "o", ms=3.6, color=colour, mfc=colour if row.measure == "AUC" else "white", mew=0.8)
            sub.plot([], [], "o", ms=3.6, color=colour, label=label)
        images = here.groupby(column)[note].max()
        sub.axhline(0.5, color="#BBBBBB", lw=0.6, ls=":")
        sub.grid(axis="y")
        sub.set(xticks=range(len(groups)), xlim=(-0.5, len(groups) - 0.5), ylim=(0.15, 1.12), yticks=[0.2, 0.4, 0.6, 0.8, 1])
        sub.set_ylabel("AUC" if k == 0 else "")
        sub.set_xticklabels([f"{LESIONS.get(g, g)}\n{images[g]}" for g in groups], fontsize=6)
        sub.tick_params(axis="y", labelleft=k == 0)
        sub.set_title(DOMAINS[domain][0], fontsize=6.5, loc="left")
    sub.legend(ncols=2, loc="upper right", borderpad=0)
    return ax


def fig3j(ax, table):
    """Panel j: by breast density; below each letter its images."""
    return strata(ax, table, "density", "ABCD", "images")


def fig3k(ax, table):
    """Panel k: by lesion type; below each type its malignant images, which are held against all that are not malignant."""
    return strata(ax, table, "lesion_type", LESIONS, "malignant")


def fig3l(ax, table):
    """Panel l: AUC on the unseen domain by share of the training patients: each domain's mean over seeds, and mean and sd over all runs."""
    if not len(table):
        return nothing(ax)
    for domain in present(DOMAINS, table.held_out):
        mean = table[table.held_out == domain].groupby("share")["auc"].mean()
        ax.plot(mean.index, mean, "o-", ms=2, lw=0.8, color=DOMAINS[domain][1], label=DOMAINS[domain][0])
    runs = table.groupby("share").agg(mean=("mean", "first"), sd=("sd", "first"), n=("auc", "count"))
    ax.errorbar(runs.index, runs["mean"], runs.sd, fmt="D-", ms=4, color="black", mec="white", mew=0.5, lw=1.4, capsize=2, label="all")
    ax.grid(axis="y")
    ax.set(xticks=runs.index, xlabel="% of the training patients (runs)", ylabel="AUC of ours")
    ax.set_xticklabels([f"{share}\n({n})" for share, n in runs.n.items()])
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.45, 1.0), borderpad=0)
    return ax


def draw():
    """Draws Fig. 3 from figures/fig3/*.csv into figures/fig3/fig3.png and returns the Figure. What did not run is an empty panel."""
    tables = {k: read(f"fig3{k}") for k in "abcdefghijkl"}
    with plt.style.context(STYLE):
        fig = plt.figure(figsize=(WIDTH, 258 * MM))
        rows = fig.add_gridspec(5, 1, height_ratios=[1.15, 1.1, 0.95, 0.95, 0.95], hspace=0.08)
        top = rows[0].subgridspec(1, 4)
        shared = named = None
        for i, k in enumerate("abcd"):
            shared = fig.add_subplot(top[i], sharex=shared)
            methods = present(METHODS, tables[k].get("method", []))         # named once, where all panels have the same
            letter(fig3_held_out(shared, tables[k], labels=methods != named), k, x=10)
            named = methods or named
        middle, lower = (rows[i].subgridspec(1, 2, width_ratios=[1, 1.25]) for i in (1, 2))
        last = rows[4].subgridspec(1, 3, width_ratios=[1.1, 1.1, 0.8])
        spots = (middle[0], middle[1], lower[0], lower[1], rows[3], last[0], last[1], last[2])
        for spot, k, panel in zip(spots, "efghijkl", (fig3e, fig3f, fig3g, fig3h, fig3i, fig3j, fig3k, fig3l)):
            letter(panel(fig.add_subplot(spot), tables[k]), k, x=14, gap=6 if k in "fjk" else 2)
        caption(fig, NOTE if len(tables["j"]) or len(tables["k"]) else "", tables.values())
        return save(fig, "fig3")


if __name__ == "__main__":
    draw()
