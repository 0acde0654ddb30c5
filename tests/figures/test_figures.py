"""figures: every panel draws from its table, also from an empty one; phantom data are called so."""
import importlib
import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figure_text import text_of
from figures_home import write_study
from matplotlib.figure import Figure

import figures
from figures import card, fig1, fig2, fig3, fig4, fig6, table1
from xmodal import config, methods
from xmodal.config import HOME, Problem
from xmodal.tables import common

matplotlib.use("Agg")
DRAWN = ("fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "table1")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """FIGURES with the CSVs of a small study."""
    root = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setattr(config, "RUNS", root / "runs")
    patch.setattr(config, "FIGURES", root / "figures")
    write_study()
    yield root
    patch.undo()


@pytest.fixture(scope="module")
def drawn(home):
    """Each figure, drawn once."""
    return {name: importlib.import_module(f"figures.{name}").draw() for name in DRAWN}


def test_a_matplotlibrc_of_the_users_own_changes_no_figure():
    with plt.style.context(figures.STYLE):
        style = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.family": "fantasy", "savefig.dpi": 30}):
        with plt.style.context(figures.STYLE):
            assert dict(matplotlib.rcParams) == style


@pytest.fixture
def ax():
    """An empty Axes in a figure of its own."""
    _, made = plt.subplots()
    yield made
    plt.close("all")


# ---- whole figures -----------------------------------------------------------------------------------------

def test_figures_are_written_and_closed(drawn):
    for name, fig in drawn.items():
        folder = config.FIGURES / name
        assert isinstance(fig, Figure)
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert not list(folder.glob("*partial*"))
    assert not plt.get_fignums()


def test_a_figure_is_redrawn_from_its_tables_to_the_same_bytes(drawn):
    path = config.FIGURES / "fig3" / "fig3.png"
    before = path.read_bytes()
    fig3.draw()
    assert path.read_bytes() == before


def test_phantom_data_are_called_so(drawn):
    for name in ("fig1", "fig2", "fig3", "fig4", "fig5"):
        assert "phantom data" in text_of(drawn[name])


def test_public_data_are_not_called_phantom(home, tmp_path, monkeypatch):
    table = figures.read("fig3e").drop(columns="data")
    monkeypatch.setattr(config, "FIGURES", tmp_path)
    common.write(table, "fig3e", "paper")
    assert "phantom" not in text_of(fig3.draw())


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_to_draw_is_said(tmp_path, monkeypatch, name):
    monkeypatch.setattr(config, "FIGURES", tmp_path)
    text = text_of(importlib.import_module(f"figures.{name}").draw())
    assert any(reason in text for reason in ("no finished runs", "no runs to compare", "run 05_evaluate"))
    assert (tmp_path / name / f"{name}.png").exists()


def test_a_damaged_table_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "FIGURES", tmp_path)
    (tmp_path / "fig3").mkdir()
    (tmp_path / "fig3" / "fig3e.csv").write_bytes(b"\x00\xff\xfe,\n\"")
    with pytest.raises(Problem, match="fig3e.csv"):
        fig3.draw()
    with pytest.raises(Problem, match="05_evaluate"):
        figures.read("fig3f", needed=True)


def test_the_map_of_panels_is_true(home):
    """figures/README.md names functions that exist, and every CSV of the main paper and no other."""
    text = (HOME / "figures" / "README.md").read_text()
    for module, name in re.findall(r"`(fig\d|table1|kmat|mirror|rfpmss|fusion)\.(\w+)`", text):
        assert callable(getattr(importlib.import_module(f"figures.{module}"), name))
    paper = text.partition("The companion systems")[0]
    for module, name in re.findall(r"`tables\.(\w+)\.(\w+)`", paper):
        assert callable(getattr(importlib.import_module(f"xmodal.tables.{module}"), name))
    assert {path.name for path in config.FIGURES.glob("*/*.csv")} == set(re.findall(r"(\w+\.csv)`", paper))


def test_it_runs_as_a_command_without_model_or_images(home):
    """`python -m figures.fig3` loads no torch, and needs nothing but the CSVs."""
    modules = ", ".join(f"figures.{name}" for name in (*DRAWN, "says"))
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=HOME, check=True)


def test_every_method_of_the_package_has_a_colour_of_its_own():
    trained = {name for name in methods.MAIN if name not in methods.ABLATIONS}
    assert {*trained, methods.UNTOUCHED, "ours_tta"} == set(figures.METHODS)
    assert len({colour for _, colour in figures.METHODS.values()}) == len(figures.METHODS)
    assert set(figures.DOMAINS) == set(config.DOMAINS)
    assert set(figures.CONDITIONS) == set(config.CONDITIONS)


def test_a_method_of_ones_own_is_drawn_in_a_spare_colour_under_its_name():
    """One row in `methods.METHODS` is all that it takes."""
    code = ("import xmodal.config, pathlib, sys; text = pathlib.Path('xmodal/methods.py').read_text(); "
            "text = text.replace('METHODS = {', 'METHODS = {\\n    \"vrex\": Method(),', 1); "
            "module = type(sys)('xmodal.methods'); module.__package__ = 'xmodal'; "
            "sys.modules['xmodal.methods'] = module; exec(text, module.__dict__); import figures; "
            "from xmodal.tables import verdicts; assert verdicts.LABELS['vrex'] == 'vrex'; "
            "label, colour = figures.METHODS['vrex']; assert label == 'vrex' and 'vrex' in figures.MARKERS; "
            "assert [c for _, c in figures.METHODS.values()].count(colour) == 1")
    subprocess.run([sys.executable, "-c", code], cwd=HOME, check=True)


# ---- panels ------------------------------------------------------------------------------------------------

PANELS = {
    "fig1a": fig1.roc, "fig1d": fig1.reliability,
    "fig1g": fig1.fig1g, "fig1h": fig1.fig1h, "fig1i": fig1.fig1i,
    "fig2e": fig2.fig2e, "fig2f": fig2.fig2f,
    "fig3a": fig3.fig3_held_out, "fig3e": fig3.fig3e, "fig3f": fig3.fig3f,
    "fig3g": fig3.fig3g, "fig3h": fig3.fig3h, "fig3i": fig3.fig3i,
    "fig3j": fig3.fig3j, "fig3k": fig3.fig3k, "fig3l": fig3.fig3l,
    "fig4a": fig4.fig4a, "fig4i": fig4.fig4i, "fig4j": fig4.fig4j,
    "fig4k": fig4.fig4k, "fig4l": fig4.fig4l,
    "fig6": fig6.fig6, "table1": table1.table1,
}


def test_headers_without_rows_are_drawn_as_nothing(home):
    for name, panel in PANELS.items():
        _, ax = plt.subplots()
        assert panel(ax, figures.read(name).iloc[:0]) is ax
        plt.close()


@pytest.mark.parametrize("name", ["fig3a", "fig3f", "fig3g", "fig3h", "fig2f"])
def test_one_run_alone_draws(home, ax, name):
    """One method, one seed: boxes of one point, no sd, no test."""
    table = figures.read(name)
    run = table[(table.seed == 42) & (table.held_out == "cbis_ddsm")]
    if "method" in run:
        run = run[run.method == "ours"]
    PANELS[name](ax, run)
    ax.figure.savefig(config.FIGURES / "one.png")


def test_panel_a_draws_what_the_table_says(home, ax):
    table = figures.read("fig3a")
    fig3.fig3_held_out(ax, table)
    intervals = set()
    for line in ax.lines:
        x = line.get_xdata()
        if len(x) == 2 and line.get_linestyle() == "-" and line.get_linewidth() > 1:
            intervals.add((round(x[0], 6), round(x[1], 6)))
    assert set(zip(table.low.round(6), table.high.round(6))) <= intervals
    labels = [label.get_text() for label in ax.get_yticklabels()][::-1]
    assert labels == [figures.METHODS[method][0] for method in figures.present(figures.METHODS, table.method)]


def test_confusion_panel_shows_shares_and_counts(home, ax):
    table = figures.read("fig3i")
    fig3.fig3i(ax, table)
    invasive = table[(table.method == "ours") & (table.truth == 3)]
    right = invasive[invasive.predicted == 3].iloc[0].images
    assert f"{100 * right / invasive.images.sum():.0f} %\n({right})" in text_of(ax.figure)


def test_a_stratum_of_one_class_is_an_open_dot(home, ax):
    table = figures.read("fig3j")
    assert set(table.measure[table.density == "A"]) == {"sensitivity"}
    fig3.fig3j(ax, table)
    lines = [line for half in ax.child_axes for line in half.lines]
    dots = [line for line in lines if line.get_marker() not in ("None", "", None) and len(line.get_xdata())]
    is_open = [line.get_markerfacecolor() == "white" for line in dots]
    assert sum(is_open) == (table.measure != "AUC").sum() == 4
    assert {round(float(line.get_ydata()[0]), 6) for line in dots} == set(table.value.round(6))


def test_bars_and_legends_of_the_localisers_say_what_the_tables_say(home, ax):
    table = figures.read("fig4l")
    fig4.fig4l(ax, table)
    assert sorted(round(bar.get_height(), 6) for bar in ax.patches) == sorted(table.value.round(6))
    assert "unknown\n" in text_of(ax)
    assert "CNN" in text_of(ax)
    curves = figures.read("fig4j")
    fig = plt.figure()
    fig4.fig4j(fig.gca(), curves)
    ours = curves[curves.method == "ours"].iloc[0]
    assert f"ours {ours.ap:.2f} ± {ours.ap_sd:.2f}" in text_of(fig)


def test_a_localiser_that_has_not_run_is_left_out(home, ax):
    table = figures.read("fig4a")
    cases = table[table.panel == "b"]
    fig4.fig4a(ax, cases.assign(box_fusion_localiser=np.nan, iou_fusion_localiser=np.nan))
    assert text_of(ax).count("–") == 4


def test_cases_show_overlap_and_truth_pairs_and_the_checks_of_their_maps(drawn):
    lesions = text_of(drawn["fig4"])
    assert "IoU 0.61   Dice 0.75" in lesions
    assert "no lesion outlined" in lesions and lesions.count("pairs by label") == 1
    for part in ("token norm ✓", "Grad-CAM ✓", "decoder ✓", "other tissue ✓", "random ✓", "chance 6 %",
                 "r other 0.25", "r random 0.12"):
        assert part in lesions, part
    assert "p3: truly invasive, called normal (wrong), pairs by label" in text_of(drawn["fig5"])


def test_the_maps_are_compared_beside_chance(home):
    text = text_of(fig4.draw_maps())
    row = figures.read("fig4_maps").query("map == 'grad_cam'").iloc[0]
    assert f"{row.hit:.2f} [{row.low:.2f}, {row.high:.2f}], {row.times_chance:.1f} × chance" in text
    assert "r with other tissue 0.25, with random weights 0.12" in text and "phantom data" in text


def test_fig2_names_the_run_that_it_shows(drawn):
    text = text_of(drawn["fig2"])
    assert "one run, BACH held out, seed 42" in text and "of the 4 runs of ours" in text


def test_a_card_says_what_it_had_and_that_its_model_saw_phantoms(home):
    row = figures.read("fig5").iloc[0]
    text = text_of(card.card(row))
    assert "trained on phantoms" in text and "pairs by label" in text and "No lesion box" in text
    assert "no lesion found" in text and "found: red" not in text, "no box, no colour of a box"
    only = row.copy()
    for name in ("image", "heat", "tile_heat"):
        only[name] = np.nan
    only["p0"] = np.nan
    text = text_of(card.card(only.drop([name for name in row.index if name.startswith("map_")])))
    assert "no mammogram" in text and "lesion box" not in text and "nan" not in text
    assert "phantoms" not in text_of(card.card(row.replace({"phantom": "public"})))
