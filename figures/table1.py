"""Table 1, the objectives, drawn from the table that the loss object gives.

`python -m figures.table1` redraws it from its table.
"""
import textwrap

import matplotlib.pyplot as plt

from . import MM, STYLE, WIDTH, nothing, read, save

COLUMNS = {                     # column -> left edge, width in letters
    "component": (0.0, 24),
    "objective": (0.185, 26),
    "equation": (0.41, 9),
    "supervision": (0.50, 42),
    "weight": (0.80, 24),
}
SYMBOLS = {
    "sigma_cls": "σ(cls)", "sigma_loc": "σ(loc)", "sigma_grade": "σ(grade)",
    "^2": "²", "lambda": "λ", "tau": "τ",
}


def printed(value, width):
    """A cell as text with Greek letters, in lines of at most `width` letters."""
    for word, symbol in SYMBOLS.items():
        value = value.replace(word, symbol)
    return "\n".join(textwrap.wrap(value, width, break_on_hyphens=False))


def table1(ax, table):
    """One line per objective, ruled as in print.

    table: columns component, objective, equation, supervision, weight.
    """
    ax.set_axis_off()
    if not len(table):
        return nothing(ax, "the objective has not been written yet: run 05_evaluate")
    ax.set(xlim=(0, 1), ylim=(len(table) + 0.4, -0.8))
    for name, (x, width) in COLUMNS.items():
        ax.text(x, -0.3, name.capitalize(), fontweight="bold", va="center")
        for i, value in enumerate(table[name].astype(str)):
            ax.text(x, i + 0.5, printed(value, width), va="center", linespacing=1.2, fontsize=6.5)
    for y, lw in ((-0.7, 1.0), (0, 0.6), (len(table), 1.0)):
        ax.axhline(y, color="black", lw=lw)
    return ax


def draw():
    """Draws Table 1 from figures/table1/table1.csv into figures/table1/table1.png and returns the Figure."""
    table = read("table1")
    with plt.style.context(STYLE):
        fig, ax = plt.subplots(figsize=(WIDTH, (12 + 9 * max(len(table), 1)) * MM))
        table1(ax, table)
        return save(fig, "table1")


if __name__ == "__main__":
    draw()
