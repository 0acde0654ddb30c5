"""Fig. 6, the architecture, drawn from the table that `tables.fig6.fig6_table` measures on the model. Redraw: `python -m figures.fig6`."""
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from . import MM, STYLE, WIDTH, caption, nothing, read, save

KINDS = {"input": "#EEEEEE", "shared": "#BFD9EA", "own": "#F9DFB3", "head": "#BFE3D6"}
WORDS = {"input": "input", "shared": "shared by both modalities", "own": "one for each modality", "head": "head"}
PLACES = {   # part -> centre x, y of its box, in units of columns and rows
    "mammogram": (0, 2), "histology tile": (0, 0), "patch embedding": (1, 1), "transformer blocks": (2, 1), "mammography adapters": (3, 2),
    "histopathology adapters": (3, 0), "layer norm": (4, 1), "lesion mask": (5, 2), "mammography neck": (5, 1), "histopathology neck": (5, 0),
    "classification": (6, 1), "grading": (6, 0),
}
ARROW = {"arrowstyle": "-|>", "lw": 0.7, "color": "#555555", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
HALF = (0.4, 0.33)             # half width and height of a box


def amount(n):
    """A number of parameters: 447 k, 85.8 M."""
    return f"{n:.0f}" if n < 1000 else f"{n / 1000:.0f} k" if n < 1e6 else f"{n / 1e6:.1f} M"


def _box(ax, row, x, y):
    """One part: name, how many, output shape, parameters; a dashed rim where test-time adaptation may change it."""
    rim = {"ec": "#D55E00", "ls": "--", "lw": 1.2} if row["adapted"] else {"ec": "#555555", "lw": 0.6}
    ax.add_patch(FancyBboxPatch((x - HALF[0], y - HALF[1]), 2 * HALF[0], 2 * HALF[1], boxstyle="round,pad=0,rounding_size=0.06",
                                fc=KINDS[row["kind"]], zorder=2, **rim))
    name = row["name"].replace(" ", "\n", 1) + (f" × {row['count']}" if row["count"] > 1 else "")
    ax.text(x, y + 0.1, name, ha="center", va="center", fontsize=6, fontweight="bold", linespacing=1.1, zorder=3)
    lines = row["shape"].replace(" x ", " × ") + (f"\n{amount(row['parameters'])} parameters" if row["parameters"] else "")
    ax.text(x, y - 0.18, lines, ha="center", va="center", fontsize=5.3, color="#333333", linespacing=1.25, zorder=3)


def fig6(ax, table):
    """The parts as boxes (colour: kind, dashed: adapted at test time) and what feeds what as arrows. table: columns of `tables.fig6.fig6_table`."""
    if not len(table):
        return nothing(ax, "the model has not been measured yet: run 05_evaluate")
    table = table.fillna({"inputs": ""})
    spare = iter(range(len(table)))
    places = {name: PLACES.get(name) or (next(spare), -1) for name in table.name}   # a part added later still appears, below
    for _, row in table.iterrows():
        _box(ax, row, *places[row["name"]])
        for source in filter(None, map(str.strip, row["inputs"].split(","))):
            (x0, y0), (x1, y1) = places[source], places[row["name"]]
            ax.annotate("", (x1 - HALF[0], y1), (x0 + HALF[0], y0), arrowprops=ARROW, zorder=1)
    ys = [y for _, y in places.values()]
    ax.set(xlim=(-0.45, 6.45), ylim=(min(ys) - 0.45, max(ys) + 0.45))
    ax.set_axis_off()
    encoder = table[table.kind == "shared"].parameters.sum()
    adapters = table[table.name.str.endswith("adapters")].parameters.sum()
    ax.set_title(f"{amount(table.parameters.sum())} parameters; adapters follow every block and have "
                 f"{100 * adapters / encoder:.1f} % of the shared encoder's")
    return ax


def draw():
    """Draws Fig. 6 from figures/fig6/fig6.csv into figures/fig6/fig6.png and returns the Figure."""
    table = read("fig6")
    with plt.style.context(STYLE):
        fig, ax = plt.subplots(figsize=(WIDTH, 78 * MM))
        fig6(ax, table)
        handles = [plt.Rectangle((0, 0), 1, 1, fc=KINDS[k], ec="#555555", label=WORDS[k]) for k in KINDS]
        handles.append(plt.Rectangle((0, 0), 1, 1, fc="white", ec="#D55E00", ls="--", label="changed by test-time adaptation"))
        fig.legend(handles=handles, ncols=5, loc="outside lower center")
        caption(fig, "", [])                                                # no patient and no phantom has a part in it
        return save(fig, "fig6")


if __name__ == "__main__":
    draw()
