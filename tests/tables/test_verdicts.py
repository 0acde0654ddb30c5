"""verdicts: a word needs a difference with its interval, and whether training helps at all comes first."""
import numpy as np
import pandas as pd
import pytest

from xmodal import stats
from xmodal.methods import UNTOUCHED
from xmodal.tables import common, fig3, verdicts


def of(table, **values):
    """The rows of a table that have these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


@pytest.fixture(scope="module")
def beside_untouched(collected):
    """The predictions, and those of a probe that says what ours says."""
    skilled = collected[collected.method == "ours"]
    return pd.concat([collected, skilled[skilled.condition == "source"].assign(method=UNTOUCHED)])


# ---- tests against ours ----------------------------------------------------------------------------------

def test_a_method_of_one_seed_is_compared_with_ours_of_that_seed(collected):
    """Of the seeds that both have."""
    seed_42 = of(collected, seed=42)
    erm_of_one_seed = collected[(collected.method != "erm") | (collected.seed == 42)]
    columns = ["patients", "auc_ours", "auc", "z", "p_delong", "chi2", "p_mcnemar"]
    alone, short, full = (of(verdicts.against_ours(rows), method="erm").reset_index()[columns]
                          for rows in (seed_42, erm_of_one_seed, collected))
    pd.testing.assert_frame_equal(short, alone)
    assert not short.auc_ours.equals(full.auc_ours)


def test_tests_against_ours(collected):
    table = verdicts.against_ours(collected)
    assert len(table) == 4 * 6 and "ours" not in set(table.method)
    assert (table.p_delong_bonferroni >= table.p_delong_holm - 1e-12).all()
    row = of(table, held_out="bach", method="erm").iloc[0]
    assert row.p_delong_bonferroni == pytest.approx(min(1, 24 * row.p_delong)) and row.patients == 24
    assert set(table.family) == {"Holm over all domains and methods against ours, 24 tests"}
    assert (table.low <= table.difference).all() and (table.difference <= table.high).all()


def test_the_test_is_of_the_auc_that_the_table_shows(collected):
    """By image, mean over seeds; and it counts patients."""
    shown = of(fig3.fig3_held_out(collected, "bach", n=20), method="ours")["mean"].iloc[0]
    row = of(verdicts.against_ours(collected), held_out="bach", method="erm").iloc[0]
    assert row.auc_ours == pytest.approx(shown) and row.images == 48
    rows = common.contenders(collected).query("held_out == 'bach'")
    y, p, patient = fig3._by_seed(rows[rows.method == "ours"])
    q = fig3._by_seed(rows[rows.method == "erm"])[1]
    assert row.p_delong == pytest.approx(stats.delong(y, p.to_numpy(), q.to_numpy(), patient).p)


def test_table_of_methods(collected):
    table = verdicts.lodo(collected)
    assert list(table.columns) == ["bach", "camelyon", "cbis_ddsm", "inbreast"]
    assert table.loc["ours", "bach"].n == 2


@pytest.mark.parametrize("difference, low, high, p, expected", [
    (0.1, 0.05, 0.15, 0.001, "better"), (-0.1, -0.15, -0.05, 0.001, "worse"),
    (0.01, -0.01, 0.02, 0.3, "tie"), (0.01, -0.04, 0.06, 0.3, "not distinguished"),
    (0.1, 0.05, 0.15, 0.06, "not distinguished"), (0.0, np.nan, np.nan, np.nan, "")])
def test_a_word_follows_from_the_adjusted_p_and_the_margin(difference, low, high, p, expected):
    assert verdicts.word(difference, low, high, p) == expected


def test_the_verdict_prints_the_difference_behind_each_word():
    rows = [("erm", .6, .2, .1, .3, .001), ("irm", .9, -.1, -.15, -.05, .002), ("dann", .7, .1, -.1, .3, .3)]
    tests = pd.DataFrame(rows, columns=["method", "auc", "difference", "low", "high", "p"])
    tests = tests.assign(held_out="bach", word=verdicts.worded(tests, "p"))
    [sentence] = verdicts.verdict(tests)
    assert "better than 1 of 3 methods (ERM +0.200 [+0.100, +0.300])" in sentence
    assert "worse than 1 of 3 methods (IRM −0.100 [−0.150, −0.050])" in sentence
    assert "within ±0.03 of 0 of 3 methods, and not distinguished from 1 of 3 methods." in sentence
    assert verdicts.verdict(tests.iloc[:0]) == []
    assert "no AUC is defined" in verdicts.verdict(tests.assign(auc=np.nan))[0]


# ---- all unseen domains together -------------------------------------------------------------------------

def test_means_are_of_the_auc_that_the_domains_show(beside_untouched):
    table = verdicts.unseen_means(beside_untouched, n=30).set_index("method")
    by_domain = verdicts.lodo(beside_untouched)
    for method in ("erm", "ours"):
        assert table.auc[method] == pytest.approx(np.mean([value.mean for value in by_domain.loc[method]]))
    gap = table.auc["erm"] - table.auc["ours"]
    assert table.minus_ours["erm"] == pytest.approx(gap) == table.minus_untouched["erm"]
    assert table.ours_low["erm"] <= gap <= table.ours_high["erm"] and table.domains["erm"] == 4
    assert np.isnan(table.minus_ours["ours"]) and np.isnan(table.minus_untouched[UNTOUCHED])


def test_a_difference_is_of_the_runs_that_both_have(beside_untouched):
    short = beside_untouched[(beside_untouched.method != "erm") | (beside_untouched.held_out == "bach")]
    row = verdicts.unseen_means(short, n=5).set_index("method").loc["erm"]
    by_domain = verdicts.lodo(beside_untouched).bach
    gap = by_domain["erm"].mean - by_domain["ours"].mean
    assert row.domains == 1 and row.minus_ours == pytest.approx(gap)


def test_whether_training_beats_doing_nothing_is_said_first(beside_untouched):
    """Equal to ours: nothing that was trained is better."""
    sentence = verdicts.first_sentence(verdicts.unseen_means(beside_untouched, n=100))
    assert sentence.startswith("Training does not beat doing nothing (pretrained, untouched: mean AUC 0.")
    assert "none of 7 trained methods is better" in sentence
    assert sentence.endswith("+0.000 [+0.000, +0.000]: no difference.")
    exchanged = beside_untouched.method.replace({"erm": UNTOUCHED, UNTOUCHED: "erm"})
    poor = beside_untouched.assign(method=exchanged)
    sentence = verdicts.first_sentence(verdicts.unseen_means(poor, n=100))
    assert sentence.startswith("Training beats doing nothing") and "ours 0." in sentence


def test_without_the_probe_nothing_is_claimed(collected):
    assert "is not known" in verdicts.first_sentence(verdicts.unseen_means(collected, n=5))
    assert "is not known" in verdicts.first_sentence(verdicts.unseen_means(collected.iloc[:0], n=5))
    assert verdicts.against_ours(collected.iloc[:0]).empty
