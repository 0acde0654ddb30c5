"""What the paper prints beside what we measured.

`paper_says.csv` has one row per number that the abstract and Fig. 1-5 print. Its columns are panel, quantity,
paper (what is printed) and where our number stands: `table` (the panel's table), `rows` (a pandas query that
selects rows of it) and `column`. Three names in `column` are a value and its interval, two a mean and its sd.
For a single name the mean ± sd over the selected rows is taken, unless range, sum or max stands before it.
A number that only the paper's own cases or readers could give has no table.
"""
import pandas as pd

from xmodal import config
from xmodal.stats import mean_sd

NOT = "not measured"
P_VALUES = ("p", "p_t", "p_t_holm")


def number(value):
    """Three decimals; whole numbers as they are."""
    return f"{value:.3f}" if isinstance(value, float) and value != int(value) else str(int(value))


def summary(values, how):
    """A column over several rows as text; how: "range", "sum" or "max"."""
    if how == "range":
        return f"{number(values.min())} to {number(values.max())}"
    return number(float(values.agg(how)))


def first_row(row, names):
    """A value with its interval (three columns), or a mean with its sd (two), as text."""
    texts = [f"{row[name]:.3f}" for name in names]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(names) == 3 else " ± ".join(texts)


def measured(table, rows, column):
    """One cell of ours as text; "not measured" where the table is empty or has no such row."""
    how = ""
    names = column.split()
    if names[0] in ("range", "sum", "max"):
        how, *names = names
    selected = table.query(rows) if len(table) else table
    if not len(selected) or selected[names[0]].isna().all():
        return NOT
    selected = selected.dropna(subset=names[:1])
    values = selected[names[0]]
    if how:
        return summary(values, how)
    if len(names) > 1:
        return first_row(selected.iloc[0], names)
    if names[0] in P_VALUES:
        p = values.iloc[0]
        return "< 0.001" if p < 0.001 else f"{p:.3f}"
    return number(values.iloc[0]) if values.nunique() == 1 else str(mean_sd(values))


def with_shares(confusion):
    """The table of Fig. 3 i with two more columns, from its counts: share of the true class, and accuracy."""
    images = confusion.images
    right = images * (confusion.truth == confusion.predicted)
    matrix = [confusion.method, confusion.held_out]
    of_class = images.groupby([*matrix, confusion.truth]).transform("sum")
    total = images.groupby(matrix).transform("sum")
    return confusion.assign(share=images / of_class, accuracy=right.groupby(matrix).transform("sum") / total)


def beside(tables):
    """Every number that the paper prints in the abstract and Fig. 1-5, beside ours.

    tables: {"fig1a": table, ...} of this evaluation. Columns: panel, quantity, paper says, we measured;
    no cell is empty.
    """
    unseen = pd.concat([tables[f"fig3{panel}"] for panel in "abcd"])
    tables = {**tables, "fig3a-d": unseen, "fig3i": with_shares(tables["fig3i"])}
    printed = pd.read_csv(config.HOME / "figures" / "paper_says.csv", dtype=str, keep_default_na=False)
    ours = []
    for row in printed.itertuples():
        ours.append(measured(tables[row.table], row.rows, row.column) if row.table else NOT)
    return printed[["panel", "quantity"]].assign(**{"paper says": printed.paper, "we measured": ours})
