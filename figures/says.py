"""What the paper prints beside what we measured.

`paper_says.csv` has a row a printed number of the abstract and of Fig. 1-5: panel, quantity, what the paper prints, and where our
number stands: the panel's table, the rows in it (a pandas query) and the columns. Three columns are a value and its interval, two
a mean and its sd; of one column over several rows the mean ± sd is taken, or what a word before it says (range, sum, max). Numbers
that only the paper's own cases or readers could give have no table.
"""
import pandas as pd

from xmodal import config
from xmodal.stats import mean_sd

NOT = "not measured"


def number(value):
    """Three decimals; whole numbers as they are."""
    return f"{value:.3f}" if isinstance(value, float) and value != int(value) else str(int(value))


def measured(table, rows, column):
    """One cell of ours as text; "not measured" where the table is empty or has no such row."""
    how, names = (column.split()[0], column.split()[1:]) if column.split()[0] in ("range", "sum", "max") else ("", column.split())
    found = table.query(rows) if len(table) else table
    if not len(found) or found[names[0]].isna().all():
        return NOT
    found = found.dropna(subset=names[:1])
    values = [found[name] for name in names]
    if how:
        return f"{number(values[0].min())} to {number(values[0].max())}" if how == "range" else number(float(values[0].agg(how)))
    if len(names) > 1:
        first = [f"{v.iloc[0]:.3f}" for v in values]
        return f"{first[0]} [{first[1]}, {first[2]}]" if len(names) == 3 else " ± ".join(first)
    value = values[0].iloc[0]
    if names[0] in ("p", "p_t", "p_t_holm"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return number(value) if values[0].nunique() == 1 else str(mean_sd(values[0]))


def with_shares(confusion):
    """The table of Fig. 3 i with the share of each true class, and the accuracy, that its counts come to."""
    images, right = confusion.images, confusion.images * (confusion.truth == confusion.predicted)
    total = lambda counts, *by: counts.groupby([confusion[c] for c in ("method", "held_out", *by)]).transform("sum")
    return confusion.assign(share=images / total(images, "truth"), accuracy=total(right) / total(images))


def beside(tables):
    """Every number that the paper prints in the abstract and Fig. 1-5, beside ours. tables: {"fig1a": table, ...} of this evaluation.

    Columns panel, quantity, paper says, we measured; no cell is empty.
    """
    tables = {**tables, "fig3a-d": pd.concat([tables[f"fig3{k}"] for k in "abcd"]), "fig3i": with_shares(tables["fig3i"])}
    lookup = lambda row: measured(tables[row.table], row.rows, row.column) if row.table else NOT
    printed = pd.read_csv(config.HOME / "figures" / "paper_says.csv", dtype=str, keep_default_na=False)
    return printed[["panel", "quantity"]].assign(**{"paper says": printed.paper, "we measured": [lookup(r) for r in printed.itertuples()]})
