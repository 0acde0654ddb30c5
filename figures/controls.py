"""The controls: one panel for each mechanism and dial, and below its title whether its rules hold; and what
more patients bring.

Redraw from the CSVs: `python -m figures.controls`.
"""
import textwrap

import matplotlib.pyplot as plt
import numpy as np

from xmodal.controls.power import SIZES, power_law
from xmodal.controls.verdict import DOSE_RESPONSE, NEGATIVE, POSITIVE

from . import MM, STYLE, WIDTH, caption, letter, nothing, read, save

COLUMNS = 4                     # of panels
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
GREY = "#999999"
SHORT = {POSITIVE: "pos", NEGATIVE: "neg", DOSE_RESPONSE: "dose"}
# Arms that others are compared with.
PLAIN = ("chance", "stated", "as trained", "ERM", "none", "no change", "best fixed place", "classes",
         "not aligned", "without", "before", "quiet", "whole")


def panel(ax, table, verdict):
    """The value of each arm over the doses: mean, and one dot per seed. Title, and what `summary` says.

    Doses stand at equal distances.
    """
    if not len(table):
        return nothing(ax, "this control has not been run: 07_controls")
    doses = sorted(set(table.dose))
    place = dict(zip(doses, range(len(doses))))
    colours = iter(COLOURS)
    for arm in dict.fromkeys(table.arm):
        rows = table[table.arm == arm]
        look = {"color": GREY, "ls": "--"} if arm in PLAIN else {"color": next(colours)}
        mean = rows.groupby("dose").value.mean()
        ax.plot(mean.index.map(place), mean, lw=1, label=arm, **look)
        ax.plot(rows.dose.map(place), rows.value, ".", ms=2.5, color=look["color"])
    ax.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses])
    ax.set_xlabel(textwrap.fill(table.dial.iloc[0], 34), fontsize=5.5)
    ax.set_ylabel(textwrap.fill(table.measure.iloc[0], 24), fontsize=5.5)
    ax.set_title(f"{table.title.iloc[0]}\n{verdict}", fontsize=5.5)
    ax.legend(fontsize=4.5, handlelength=1.2, labelspacing=0.2, borderpad=0.2, columnspacing=0.8,
              ncols=1 + (table.arm.nunique() > 4))
    return ax


def summary(name, verdicts, again):
    """How many rules of a control hold, by kind, and with fresh seeds: "pos 2/3, dose 1/1, again 1/3"."""
    mine = verdicts[verdicts.control == name]
    parts = [f"{SHORT[kind]} {share(rows)}" for kind, rows in mine.groupby("kind", sort=False)]
    if len(again) and (again.control == name).any():
        parts.append(f"again {share(again[again.control == name])}")
    return ", ".join(parts)


def share(verdicts):
    """The rules that hold, of all: "2/3"."""
    return f"{(verdicts.verdict == 'holds').sum()}/{len(verdicts)}"


def draw():
    """Draws the figure from figures/controls/*.csv into figures/controls/controls.png; returns the Figure."""
    verdicts, again = read("controls_verdicts"), read("controls_verdicts_again")
    names = list(dict.fromkeys(verdicts.control)) if len(verdicts) else []
    lines = max(1, -(-len(names) // COLUMNS))
    with plt.style.context(STYLE):
        fig, axes = plt.subplots(lines, COLUMNS, figsize=(WIDTH, 48 * MM * lines), squeeze=False)
        tables = []
        for k, ax in enumerate(axes.flat):
            if k >= max(len(names), 1):
                ax.set_axis_off()
                continue
            tables.append(read(f"controls_{names[k]}") if names else verdicts)
            verdict = summary(names[k], verdicts, again) if names else ""
            letter(panel(ax, tables[-1], verdict), "abcdefghijklmnopqrstuvwxyz"[k], x=24, gap=8)
        text = "dots: seeds; rules that hold, of all, by kind; again: positive ones on 20 fresh seeds"
        caption(fig, text, tables)
        return save(fig, "controls")


# ---- what more patients bring ------------------------------------------------------------------------------

def curve(ax, table, column):
    """A measure against the patients learnt from: dots are seeds; the line is 1 - value = a n^-b through
    their means, dashed where it goes beyond them. Thin lines are the sizes of public sets."""
    sizes = np.array(sorted(set(table.patients)))
    wide = np.geomspace(sizes[0], 10_000, 60)
    for (method, rows), colour in zip(table.groupby("method"), COLOURS):
        label = "with alignment" if method == "align_only" else "without"
        means = rows.groupby("patients")[column].mean()
        a, b = power_law(sizes, means[sizes])
        fitted = 1 - a * wide ** -b
        measured = wide <= sizes[-1]
        ax.plot(rows.patients, rows[column], ".", ms=3, color=colour)
        ax.plot(wide[measured], fitted[measured], lw=1, color=colour, label=label)
        ax.plot(wide[~measured], fitted[~measured], "--", lw=1, color=colour)
    for size in SIZES.values():
        ax.axvline(size, lw=0.4, color=GREY, zorder=0)
    ax.set(xscale="log", xlabel="patients learnt from")
    ax.legend(fontsize=5)
    return ax


def draw_scaling():
    """Draws figures/controls/controls_scaling.png from the table beside it; returns the Figure."""
    table = read("controls_scaling")
    with plt.style.context(STYLE):
        fig, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 55 * MM))
        if len(table):
            curve(left, table, "r_at_10").set_ylabel("R@10 among 70 unseen patients")
            left.axhline(table.chance_at_10.mean(), ls=":", lw=0.8, color="black")
            curve(right, table, "auc").set_ylabel("AUC, unseen patients, same site")
        else:
            nothing(left, "make scaling has not been run")
        letter(left, "a")
        letter(right, "b")
        sizes = ", ".join(f"{name} {size}" for name, size in SIZES.items())
        text = f"dots: seeds; lines: 1 - value = a n^-b; thin lines: {sizes}; none of these has pairs"
        caption(fig, text, [table])
        return save(fig, "controls_scaling")


if __name__ == "__main__":
    draw()
    draw_scaling()
