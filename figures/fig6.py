"""Fig. 6, the architecture, drawn from the table that `tables.fig6.fig6_table` measures on the model.

`python -m figures.fig6` redraws it from its table.
"""
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

from . import MM, STYLE, WIDTH, caption, nothing, read, save

KINDS = {                       # kind of a part -> label, colour
    "input": ("input", "#EEEEEE"),
    "shared": ("shared by both modalities", "#BFD9EA"),
    "own": ("one for each modality", "#F9DFB3"),
    "head": ("head", "#BFE3D6"),
    "loss": ("term of training", "#F4C7C3"),
    "reading": ("read from the model", "#E4D7F0"),
}
ADAPTED = "#D55E00"             # the rim of what test-time adaptation may change
PLACES = {                      # part -> centre x, y of its box, in units of columns and rows
    "mammogram": (0, 2), "histology tile": (0, 0),
    "patch embedding": (1, 1), "frozen blocks": (2, 1), "transformer blocks": (3, 1), "MixStyle": (2, 0),
    "mammography adapters": (3, 2), "histopathology adapters": (3, 0),
    "layer norm": (4, 1),
    "lesion mask": (5, 3), "mammography neck": (5, 2), "histopathology neck": (5, 0), "lesion neck": (5, 1),
    "classification": (6, 2), "grading": (6, 0), "alignment": (6, 1), "IRM": (7, 1), "heatmap": (6, 3),
    "conclusion": (7, 2),
}
ARROW = {"arrowstyle": "-|>", "lw": 0.7, "color": "#555555", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
HALF = (0.4, 0.33)              # half width and height of a box


def amount(n):
    """A number of parameters: 447 k, 85.8 M."""
    if n < 1000:
        return f"{n:.0f}"
    return f"{n / 1000:.0f} k" if n < 1e6 else f"{n / 1e6:.1f} M"


def _box(ax, row, x, y):
    """One part: name, how many, output shape, parameters; a dashed rim where adaptation may change it."""
    rim = {"ec": "#555555", "lw": 0.6}
    if row["adapted"]:
        rim = {"ec": ADAPTED, "ls": "--", "lw": 1.2}
    corner = (x - HALF[0], y - HALF[1])
    rounded = "round,pad=0,rounding_size=0.06"
    colour = KINDS[row["kind"]][1]
    outline = FancyBboxPatch(corner, 2 * HALF[0], 2 * HALF[1], boxstyle=rounded, fc=colour, zorder=2, **rim)
    ax.add_patch(outline)
    name = row["name"].replace(" ", "\n", 1)
    if row["count"] > 1:
        name += f" × {row['count']}"
    middle = {"ha": "center", "va": "center", "zorder": 3}
    ax.text(x, y + 0.1, name, fontsize=6, fontweight="bold", linespacing=1.1, **middle)
    size = row["shape"].replace(" x ", " × ")
    if row["parameters"]:
        size += f"\n{amount(row['parameters'])} parameters"
    ax.text(x, y - 0.18, size, fontsize=5.3, color="#333333", linespacing=1.25, **middle)


def arrow(ax, source, target, both_ways=False):
    """An arrow between two boxes: from the right to the left side, or between those of one column from above
    or below. both_ways: what the target gives goes back to the source."""
    (x0, y0), (x, y) = source, target
    how = ARROW | {"arrowstyle": "<|-|>"} if both_ways else ARROW
    if x0 == x:
        up = np.sign(y - y0) * HALF[1]
        ax.annotate("", (x, y - up), (x0, y0 + up), arrowprops=how, zorder=1)
    else:
        ax.annotate("", (x - HALF[0], y), (x0 + HALF[0], y0), arrowprops=how, zorder=1)


def place(names):
    """Centre of the box of every part; one that PLACES does not know still appears, in a row below."""
    places = {}
    unknown = 0
    for name in names:
        if name in PLACES:
            places[name] = PLACES[name]
        else:
            places[name] = (unknown, -1)
            unknown += 1
    return places


def fig6(ax, table):
    """The parts as boxes (colour: kind, dashed: adapted at test time), and arrows for what feeds what.

    table: columns of `tables.fig6.fig6_table`.
    """
    if not len(table):
        return nothing(ax, "the model has not been measured yet: run 05_evaluate")
    table = table.fillna({"inputs": ""})
    places = place(table.name)
    for _, row in table.iterrows():
        x, y = places[row["name"]]
        _box(ax, row, x, y)
        sources = [name.strip() for name in row["inputs"].split(",")]
        for source in filter(None, sources):
            arrow(ax, places[source], (x, y), row["name"].endswith("adapters"))
    ys = [y for _, y in places.values()]
    ax.set(xlim=(-0.45, 7.45), ylim=(min(ys) - 0.45, max(ys) + 0.45))
    ax.set_axis_off()
    encoder = table[table.kind == "shared"].parameters.sum()
    adapters = table[table.name.str.endswith("adapters")].parameters.sum()
    share = f"{100 * adapters / encoder:.1f} %"
    total = amount(table.parameters.sum())
    behind = "each trained block" if (table.name == "frozen blocks").any() else "each block"
    ax.set_title(f"{total} parameters; residual bottlenecks, one for each modality beside {behind}, "
                 f"have {share} of the shared encoder's")
    return ax


def draw():
    """Draws Fig. 6 from figures/fig6/fig6.csv into figures/fig6/fig6.png and returns the Figure."""
    table = read("fig6")
    with plt.style.context(STYLE):
        fig, ax = plt.subplots(figsize=(WIDTH, 98 * MM))
        fig6(ax, table)
        handles = []
        for label, colour in KINDS.values():
            handles.append(plt.Rectangle((0, 0), 1, 1, fc=colour, ec="#555555", label=label))
        changed = {"fc": "white", "ec": ADAPTED, "ls": "--", "label": "changed by test-time adaptation"}
        handles.append(plt.Rectangle((0, 0), 1, 1, **changed))
        fig.legend(handles=handles, ncols=4, loc="outside lower center")
        caption(fig, "", [])                                # no patient and no phantom has a part in it
        return save(fig, "fig6")


if __name__ == "__main__":
    draw()
