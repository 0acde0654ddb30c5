"""config and methods: one place for each path and each name."""
import pytest

from xmodal import config, methods
from xmodal.config import Problem


@pytest.mark.parametrize("name, suffix, path", [
    ("fig3f", ".csv", "fig3/fig3f.csv"),
    ("fig10a", ".csv", "fig10/fig10a.csv"),
    ("fig6", ".csv", "fig6/fig6.csv"),
    ("table1", ".csv", "table1/table1.csv"),
    ("fig1", ".png", "fig1/fig1.png"),
    ("fig5_numbers", ".png", "fig5/fig5_numbers.png"),
    ("kmat_table2", ".csv", "kmat/kmat_table2.csv"),
    ("mirror_fig3a", ".csv", "mirror/mirror_fig3a.csv"),
    ("kmat", ".png", "kmat/kmat.png")])
def test_the_path_of_a_panel_follows_from_its_name(home, name, suffix, path):
    assert config.panel_path(name, suffix) == home / "figures" / path


@pytest.mark.parametrize("name", ["", "fig", "figa", "fig3ab", "figure3", "kmats", "clip_table2", "../fig3f",
                                  "fig3/f"])
def test_a_name_that_is_no_panel_is_refused(name):
    with pytest.raises(Problem, match="no panel .*; call it like fig3f"):
        config.panel_path(name)


def test_every_method_that_figures_draw_has_a_label():
    labelled = {*methods.MAIN, *methods.ABLATIONS, methods.ADAPTED, methods.UNTOUCHED}
    assert labelled == set(methods.METHOD_LABELS)
    assert {*methods.BASELINES, methods.OURS, methods.UNTOUCHED} == set(methods.BASELINE_LABELS)
    assert {*methods.MAIN, *methods.ABLATIONS, *methods.ON_LESS_DATA} == set(methods.METHODS)


def test_shares_are_per_cents_of_the_training_patients():
    assert methods.SHARES == {"ours_25": 25, "ours_50": 50, "ours_75": 75, "ours": 100}


def test_a_profile_without_settings_of_its_own_is_a_problem():
    for named in ("paper", config.profile("paper")):
        assert config.settings_of({"lesson": 1, "paper": 2}, named) == 2
    with pytest.raises(Problem, match="for the profiles lesson, paper and none for pilot"):
        config.settings_of({"lesson": 1, "paper": 2}, config.profile("pilot"))
