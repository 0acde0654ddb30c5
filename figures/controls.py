"""The controls: one panel for each mechanism and dial, and below its title whether its rules hold.

Redraw from the CSVs: `python -m figures.controls`.
"""
import textwrap

import matplotlib.pyplot as plt

from . import MM, STYLE, WIDTH, caption, letter, nothing, read, save

COLUMNS = 4                     # of panels
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
GREY = "#999999"
# Arms that others are compared with.
PLAIN = ("chance", "stated", "as trained", "ERM", "none", "no change", "best fixed place", "classes",
         "not aligned", "without", "before", "quiet", "whole")


def panel(ax, table, verdicts):
    """The value of each arm over the doses: mean, and one dot per seed. Title, and the verdicts of its rules.

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
    ax.set_title(f"{table.title.iloc[0]}\n{summary(verdicts)}", fontsize=5.5)
    ax.legend(fontsize=4.5, handlelength=1.2, labelspacing=0.2, borderpad=0.2)
    return ax


def summary(verdicts):
    """How many rules of each kind hold: "positive 2/3, negative 1/1, dose 1/1"."""
    parts = []
    for kind, rows in verdicts.groupby("kind", sort=False):
        parts.append(f"{kind.split('-')[0]} {(rows.verdict == 'holds').sum()}/{len(rows)}")
    return ", ".join(parts)


def draw():
    """Draws the figure from figures/controls/*.csv into figures/controls/controls.png; returns the Figure."""
    verdicts = read("controls_verdicts")
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
            mine = verdicts[verdicts.control == names[k]] if names else verdicts
            letter(panel(ax, tables[-1], mine), "abcdefghijklmnopqrstuvwxyz"[k], x=24, gap=8)
        caption(fig, "dots: seeds; rules that hold, of all, by kind", tables)
        return save(fig, "controls")


if __name__ == "__main__":
    draw()
