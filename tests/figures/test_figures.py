"""figures: every panel draws from its table, from an empty one, and says that phantom data are phantom data."""
import importlib
import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_common_fig2_fig3 import write_runs
from test_fig1_fig5 import study
from test_fig3_fig4 import Pictures, boxed, read

import figures
from figures import fig1, fig2, fig3, fig4, fig6, table1
from xmodal import config, methods, model, record
from xmodal.config import HOME, Problem
from xmodal.losses import Objective
from xmodal.tables import (
    common,
    fig1 as fig1_tables,
    fig2 as fig2_tables,
    fig3 as fig3_tables,
    fig4 as fig4_tables,
    fig5 as fig5_tables,
    fig6 as fig6_tables,
    table1 as table1_tables,
)

matplotlib.use("Agg")
DRAWN = ("fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "table1")


def words(fig):
    """All text in a figure, or in the panel of an Axes."""
    return " ".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def write_cases():
    rng = np.random.default_rng(0)
    image, heat, tile = (rng.integers(0, 256, s, dtype=np.uint8) for s in ((32, 32), (4, 4), (8, 8, 3)))
    found = [fig4_tables.fig4_case("p1", "a mass", "mass", image, heat, [[3, 3, 9, 9]], [4, 4, 9, 9], .61, .75, [tile] * 5),
             fig4_tables.fig4_case("p2", "an asymmetry", "asymmetry", image, heat, [[3, 3, 9, 9]], None, 0., 0., [tile])]
    graded = [fig5_tables.fig5_case(f"p{c}", c, image, heat, [tile] * (5 - c), [.1] * 5, np.eye(4)[0], "Most likely normal (100 %).") for c in range(4)]
    common.write(pd.DataFrame(found).assign(panel=["f", "g"]), "fig4e", "lesson")
    common.write(pd.DataFrame(graded), "fig5", "lesson")


def write_lesions():
    """Fig. 3 j-l and Fig. 4 a-d, i-l, of made-up strata and boxes."""
    rows = pd.concat([read(m, s, held_out=d) for m in ("ours", "erm", "ours_25") for s in (42, 1234) for d in ("cbis_ddsm", "inbreast")])
    rows = rows[(rows.density != "A") | (rows.y == 1)]                      # a stratum of one class
    boxes = pd.concat([boxed(m, s) for m in methods.LOCALISERS for s in (42, 1234)], ignore_index=True)
    one = boxes[boxes.seed == 42]
    cohort = one[one.method == "ours"][["sample", "patient"]].assign(boxes="[[10, 10, 20, 20]]")
    tables = {"fig3j": fig3_tables.fig3j(rows, n=20), "fig3k": fig3_tables.fig3k(rows, n=20), "fig3l": fig3_tables.fig3l(rows),
              "fig4a": fig4_tables.fig4a(one, cohort, Pictures()), **fig4_tables.fig4(boxes, n=20)}
    for name, table in tables.items():
        common.write(table, name, "lesson")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """FIGURES with the CSVs of a small study; umap is replaced by t-SNE, as it takes long to compile."""
    root, patch = tmp_path_factory.mktemp("home"), pytest.MonkeyPatch()
    patch.setattr(config, "RUNS", root / "runs")
    patch.setattr(config, "FIGURES", root / "figures")
    write_runs(("erm", "mixstyle", "mixstyle_irm", "ours"), ("cbis_ddsm", "bach"))
    predictions, runs = record.collect("lesson"), common.runs("lesson", ["mixstyle_irm", "ours"])
    after, before = (fig2_tables.fig2_map(fig2_tables.patient_pairs(runs[m, "bach", 42].embeddings), "tsne") for m in ("ours", "mixstyle_irm"))
    tables = {"fig2a": before, "fig2b": after, "fig2c": before, "fig2d": after, "fig2e": fig2_tables.fig2e(fig2_tables.patient_pairs(runs["ours", "bach", 42].embeddings)),
              "fig2f": fig2_tables.fig2f(runs), "fig3e": fig3_tables.fig3e(predictions), "fig3f": fig3_tables.fig3f(predictions), "fig3g": fig3_tables.fig3g(predictions),
              "fig3h": fig3_tables.fig3h(runs), "fig3i": fig3_tables.fig3i(predictions), "fig6": fig6_tables.fig6_table(model.build("lesson")),
              "table1": table1_tables.table1(Objective(8, 3, methods.Method(align=.25)))}
    tables |= {f"fig3{k}": fig3_tables.fig3_held_out(predictions, d, n=50) for k, d in zip("abcd", figures.DOMAINS)}
    for name, table in tables.items():
        common.write(table, name, "lesson")
    for name, table in {**fig1_tables.fig1(study(), n=10), **fig5_tables.fig5(study(), n=10)}.items():
        common.write(table, name, "lesson")
    write_cases()
    write_lesions()
    yield root
    patch.undo()


@pytest.fixture(scope="module")
def drawn(home):
    """Each figure, drawn once."""
    return {name: importlib.import_module(f"figures.{name}").draw() for name in DRAWN}


def test_figures_are_written_and_closed(drawn):
    for name, fig in drawn.items():
        folder = config.FIGURES / name
        assert isinstance(fig, Figure) and (folder / f"{name}.png").stat().st_size > 10_000
        assert not [p for p in folder.iterdir() if "partial" in p.name]
    assert not plt.get_fignums()


def test_a_figure_is_redrawn_from_its_tables_to_the_same_bytes(drawn):
    path = config.FIGURES / "fig3" / "fig3.png"
    before = path.read_bytes()
    fig3.draw()
    assert path.read_bytes() == before


def test_phantom_data_are_called_so(drawn):
    assert all("phantom data" in words(drawn[name]) for name in ("fig1", "fig2", "fig3", "fig4", "fig5"))


def test_public_data_are_not_called_phantom(home, tmp_path, monkeypatch):
    table = figures.read("fig3e").drop(columns="data")
    monkeypatch.setattr(config, "FIGURES", tmp_path)
    common.write(table, "fig3e", "paper")
    assert "phantom" not in words(fig3.draw())


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_to_draw_is_said(tmp_path, monkeypatch, name):
    monkeypatch.setattr(config, "FIGURES", tmp_path)
    fig = importlib.import_module(f"figures.{name}").draw()
    assert any(w in words(fig) for w in ("no finished runs", "no runs to compare", "run 05_evaluate")) and (tmp_path / name / f"{name}.png").exists()


def test_headers_without_rows_are_drawn_as_nothing(home):
    for panel, table in ((fig1.roc, "fig1a"), (fig1.reliability, "fig1d"), (fig1.fig1g, "fig1g"), (fig1.fig1h, "fig1h"), (fig1.fig1i, "fig1i"),
                         (fig3.fig3_held_out, "fig3a"), (fig3.fig3e, "fig3e"), (fig3.fig3f, "fig3f"), (fig3.fig3g, "fig3g"), (fig3.fig3h, "fig3h"),
                         (fig3.fig3i, "fig3i"), (fig3.fig3j, "fig3j"), (fig3.fig3k, "fig3k"), (fig3.fig3l, "fig3l"), (fig4.fig4a, "fig4a"),
                         (fig4.fig4i, "fig4i"), (fig4.fig4j, "fig4j"), (fig4.fig4k, "fig4k"), (fig4.fig4l, "fig4l"), (fig2.fig2e, "fig2e"), (fig2.fig2f, "fig2f"), (fig6.fig6, "fig6"), (table1.table1, "table1")):
        _, ax = plt.subplots()
        assert panel(ax, figures.read(table).iloc[:0]) is ax
        plt.close()


def test_one_run_alone_draws(home):
    """One method, one seed: boxes of one point, no sd, no test."""
    for panel, name in ((fig3.fig3_held_out, "fig3a"), (fig3.fig3f, "fig3f"), (fig3.fig3g, "fig3g"), (fig3.fig3h, "fig3h"), (fig2.fig2f, "fig2f")):
        table = figures.read(name)
        one = table[(table.seed == 42) & (table.held_out == "cbis_ddsm") & (table.get("method", "ours") == "ours")]
        fig, ax = plt.subplots()
        panel(ax, one)
        fig.savefig(config.FIGURES / "one.png")
        plt.close()


def test_panel_a_draws_what_the_table_says(home):
    table = figures.read("fig3a")
    _, ax = plt.subplots()
    fig3.fig3_held_out(ax, table)
    drawn = {(round(l.get_xdata()[0], 6), round(l.get_xdata()[1], 6)) for l in ax.lines if len(l.get_xdata()) == 2 and l.get_linestyle() == "-" and l.get_linewidth() > 1}
    assert {(round(a, 6), round(b, 6)) for a, b in zip(table.low, table.high)} <= drawn
    assert [t.get_text() for t in ax.get_yticklabels()][::-1] == [figures.METHODS[m][0] for m in figures.present(figures.METHODS, table.method)]
    plt.close()


def test_confusion_panel_shows_shares_and_counts(home):
    table = figures.read("fig3i")
    fig, ax = plt.subplots()
    fig3.fig3i(ax, table)
    cell = table[(table.method == "ours") & (table.truth == 3) & (table.predicted == 3)].iloc[0]
    of = table[(table.method == "ours") & (table.truth == 3)].images.sum()
    assert f"{100 * cell.images / of:.0f} %\n({cell.images})" in words(fig)
    plt.close()


def test_every_method_of_the_package_has_a_colour_of_its_own():
    from xmodal.methods import METHODS
    assert {*(m for m in METHODS if m not in methods.SHARES), "ours", "ours_tta"} == set(figures.METHODS)    # shares: Fig. 3 l only
    assert len({colour for _, colour in figures.METHODS.values()}) == len(figures.METHODS)
    assert set(figures.DOMAINS) == set(config.DOMAINS) and set(figures.CONDITIONS) == set(config.CONDITIONS)


def test_a_stratum_of_one_class_is_an_open_dot(home):
    table = figures.read("fig3j")
    assert set(table.measure[table.density == "A"]) == {"sensitivity"}
    _, ax = plt.subplots()
    fig3.fig3j(ax, table)
    dots = [line for sub in ax.child_axes for line in sub.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert sum(line.get_markerfacecolor() == "white" for line in dots) == (table.measure != "AUC").sum() == 4
    assert {round(float(line.get_ydata()[0]), 6) for line in dots} == set(table.value.round(6))
    plt.close()


def test_bars_and_legends_of_the_localisers_say_what_the_tables_say(home):
    table = figures.read("fig4l")
    _, ax = plt.subplots()
    fig4.fig4l(ax, table)
    assert sorted(round(p.get_height(), 6) for p in ax.patches) == sorted(table.value.round(6))
    assert "unknown\n" in words(ax) and "CNN" in words(ax)
    fig4.fig4j(plt.figure().gca(), figures.read("fig4j"))
    ours = figures.read("fig4j").query("method == 'ours'").iloc[0]
    assert f"ours {ours.ap:.2f} ± {ours.ap_sd:.2f}" in words(plt.gcf())
    plt.close("all")


def test_a_localiser_that_has_not_run_is_left_out(home):
    table = figures.read("fig4a")
    _, ax = plt.subplots()
    fig4.fig4a(ax, table[table.panel == "b"].assign(box_fusion_localiser=np.nan, iou_fusion_localiser=np.nan))
    assert words(ax).count("–") == 4
    plt.close()


def test_cases_show_overlap_and_truth(drawn):
    assert "IoU 0.61   Dice 0.75" in words(drawn["fig4"]) and "no lesion outlined" in words(drawn["fig4"])
    assert "p3: truly invasive, called normal (wrong)" in words(drawn["fig5"])


def test_a_damaged_table_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "FIGURES", tmp_path)
    (tmp_path / "fig3").mkdir()
    (tmp_path / "fig3" / "fig3e.csv").write_bytes(b"\x00\xff\xfe,\n\"")
    with pytest.raises(Problem, match="fig3e.csv"):
        fig3.draw()
    with pytest.raises(Problem, match="05_evaluate"):
        figures.read("fig3f", needed=True)


def test_the_map_of_panels_is_true(home):
    """figures/README.md: every function in it exists; so does every CSV of the main paper, and every one that is written is in it."""
    text = (HOME / "figures" / "README.md").read_text()
    for module, name in re.findall(r"`(fig\d|table1|kmat|mirror|rfpmss|fusion)\.(\w+)`", text):
        assert callable(getattr(importlib.import_module(f"figures.{module}"), name))
    text = text.partition("The companion systems")[0]
    assert {p.name for p in config.FIGURES.glob("*/*.csv")} == {name for name in re.findall(r"(\w+\.csv)`", text)}


def test_it_runs_as_a_command_without_model_or_images(home):
    """`python -m figures.fig3` loads no torch, and needs nothing but the CSVs."""
    code = "import sys, figures.fig1, figures.says, figures.fig2, figures.fig3, figures.fig4, figures.fig5, figures.fig6, figures.table1; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=HOME, check=True)
