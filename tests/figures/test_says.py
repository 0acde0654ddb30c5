"""says: every number that the paper prints stands beside ours, or "not measured"."""
import pandas as pd
import pytest
from small_runs import study

from figures import says
from xmodal.tables.fig1 import fig1_tables
from xmodal.tables.fig3 import fig3i
from xmodal.tables.fig5 import fig5_tables

LETTERS = {1: "abcdefghi", 2: "abcdef", 3: "abcdefghijkl", 4: "ijkl", 5: "mnopqr"}


def nothing_measured():
    tables = {}
    for figure, letters in LETTERS.items():
        tables |= {f"fig{figure}{letter}": pd.DataFrame() for letter in letters}
    return tables | {"fig3i": fig3i(study().iloc[:0])}


def test_without_runs_nothing_is_measured():
    table = says.beside(nothing_measured())
    assert (table["we measured"] == says.NOT).all() and (table != "").all(axis=None)
    assert {f"fig{n}" for n in LETTERS} <= set(table.panel.str[:4]) and "abstract" in set(table.panel)
    assert not table.duplicated().any()


def test_what_is_measured_stands_beside_what_the_paper_says():
    fig1, fig5 = fig1_tables(study(), n=200), fig5_tables(study(), n=200)
    cells = says.beside(nothing_measured() | fig1 | fig5).set_index(["panel", "quantity"])
    row = fig1["fig1a"].query("method == 'ours'").iloc[0]
    auc = cells.loc["fig1a", "AUC, external test, ours"]
    assert auc["paper says"] == "0.85 [0.81, 0.89]"
    assert auc["we measured"] == f"{row.auc:.3f} [{row.low:.3f}, {row.high:.3f}]"
    assert cells.loc["fig1a", "AUC, external test, SVM"]["we measured"] == says.NOT, "it did not run"
    kappa = fig5["fig5p"].query("condition == 'AI alone'").iloc[0]
    measured = cells.loc["fig5p", "Cohen's kappa, AI alone"]["we measured"]
    assert measured == f"{kappa['mean']:.3f} [{kappa.low:.3f}, {kappa.high:.3f}]"


def test_shares_of_a_confusion():
    confusion = pd.DataFrame({"method": "ours", "held_out": "bach", "truth": [0, 0, 1, 1],
                              "predicted": [0, 1, 0, 1], "images": [6, 2, 1, 1]})
    table = says.with_shares(confusion)
    assert table.share.tolist() == [0.75, 0.25, 0.5, 0.5] and table.accuracy.unique() == [0.7]


@pytest.mark.parametrize("column, text", [
    ("a", "0.375 ± 0.177"), ("a low high", "0.250 [0.100, 0.300]"), ("a low", "0.250 ± 0.100"),
    ("range a", "0.250 to 0.500"), ("sum a", "0.750"), ("max a", "0.500"), ("n", "34"), ("p", "< 0.001")])
def test_a_cell_of_ours_as_text(column, text):
    table = pd.DataFrame({"a": [0.25, 0.5], "low": 0.1, "high": 0.3, "n": 34, "p": 1e-5})
    assert says.measured(table, "n == 34", column) == text
    assert says.measured(table, "n == 35", column) == says.NOT
