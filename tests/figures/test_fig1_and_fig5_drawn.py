"""Fig. 1 and Fig. 5 say what their tables say, and any number of cases is drawn."""
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figure_text import text_of
from small_runs import card, columns, study

import figures
from figures import fig1, fig5
from xmodal import config
from xmodal.tables import common
from xmodal.tables.cards import fig5_case
from xmodal.tables.fig1 import LEARNERS, fig1_tables
from xmodal.tables.fig5 import GRADERS, fig5_tables, fig5r


def write(tables):
    for name, table in tables.items():
        common.write(table, name, "lesson")


def pictures():
    """The bytes of both figures as they were drawn last."""
    return [(config.FIGURES / name).read_bytes() for name in ("fig1/fig1.png", "fig5/fig5_numbers.png")]


@pytest.fixture(scope="module")
def tables():
    return fig1_tables(study(), n=200) | fig5_tables(study(), n=200)


def test_fig1_says_what_the_tables_say(home, tables):
    write(tables)
    text = text_of(fig1.draw())
    for panel, value in (("fig1a", "auc"), ("fig1d", "ece"), ("fig1h", "ap"), ("fig1i", "inb")):
        row = tables[panel].query("method == 'ours'").iloc[0]
        assert f"ours {row[value]:.2f} [{row.low:.2f}, {row.high:.2f}]" in text
    for part in ("phantom data", "treat all", "prevalence", "external test"):
        assert part in text


def test_fig5_says_what_the_tables_say(home, tables):
    write(tables)
    text = text_of(fig5.draw_numbers())
    row = tables["fig5n"].iloc[0]
    assert "Simulated readers" in text and "phantom data" in text
    assert f"{row.readings} readings of {row.patients} patients, 4 runs" in text
    assert f"{100 * row['value']:.0f} %\n({row['count']})" in text


def test_drawn_again_they_are_the_same_bytes(home, tables):
    write(tables)
    fig1.draw()
    fig5.draw_numbers()
    before = pictures()
    fig1.draw()
    fig5.draw()
    assert pictures() == before and not plt.get_fignums()


def test_without_tables_every_panel_says_so(home):
    def silent_panels():
        return [text_of(fig).count("no finished runs") for fig in (fig1.draw(), fig5.draw_numbers())]

    assert silent_panels() == [9, 6]
    nothing = study().iloc[:0]
    write(fig1_tables(nothing, n=2) | fig5_tables(nothing, n=2))
    assert silent_panels() == [9, 6]


def test_panel_r_is_drawn_where_nobody_is_malignant():
    rows = pd.DataFrame({"held_out": "bach", "seed": 42, "patient": list("abc"), "truth": [0, 1, 1],
                         "malignant": [.2, .4, .6]})
    ax = fig5.fig5r(plt.figure().subplots(), fig5r(rows, np.ones((3, 3)), rows))
    assert not ax.texts and len(ax.lines) == 3, "the curves, and no best threshold"
    plt.close("all")


@pytest.mark.parametrize("many", [3, 13])
def test_any_number_of_cases_is_drawn(home, many):
    """Twelve at most, each with its true class; in two columns."""
    rows = []
    for i in range(many):
        called_normal = columns(card(np.eye(4)[0], weights=(.1,) * (1 + i % 5)))
        rows.append(fig5_case(f"case{i:02d}", i % 4, called_normal, "label", "phantom"))
    common.write(pd.DataFrame(rows), "fig5", "lesson")
    fig = fig5.draw_cases()
    text = text_of(fig)
    shown = min(many, 12)
    assert set(re.findall(r"case\d\d", text)) == {f"case{i:02d}" for i in range(shown)}
    assert text.count("(wrong)") == sum(i % 4 != 0 for i in range(shown))
    assert text.count("pairs by label") == shown and "trained on phantoms" in text
    assert len([ax for ax in fig.axes if ax.get_subplotspec()]) == 2 * -(-shown // 2)


def test_learners_and_graders_have_a_label_and_a_colour():
    assert set(LEARNERS) == set(fig1.SHORT) and set(GRADERS) | {"ours_ordinal"} <= set(fig5.GRADERS)
    assert {*LEARNERS, *GRADERS} <= set(figures.BASELINES)
    assert len({figures.BASELINES[method][1] for method in LEARNERS}) == len(LEARNERS)
