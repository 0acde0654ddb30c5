"""comparisons: errors of the first kind by simulation, where images of a patient or seeds of a fold agree."""
import numpy as np
import pandas as pd
import pytest
from scipy import stats as dist
from test_stats import REFERENCE, needs_reference

from xmodal import stats
from xmodal.config import Problem

NAN = float("nan")


def two_scores(seed, people=60, images=4):
    """Labels, two equally good scores, and patients: the images of a patient are alike."""
    rng = np.random.default_rng(seed)
    y = np.arange(people) % 3 == 0
    p, q = (y + rng.normal(size=people) for _ in range(2))
    rows = np.repeat(np.arange(people), images)
    noise = 0.3 * rng.normal(size=(2, len(rows)))
    return y[rows], p[rows] + noise[0], q[rows] + noise[1], rows


def test_delong_by_patient_errs_in_five_of_a_hundred_and_by_image_in_many_more():
    by_patient, by_image = [], []
    for seed in range(200):
        y, p, q, patient = two_scores(seed)
        by_patient.append(stats.delong(y, p, q, patient).p < .05)
        by_image.append(stats.delong(y, p, q).p < .05)
    assert np.mean(by_patient) < 0.10 and np.mean(by_image) > 0.20


def test_delong_of_one_row_a_patient_is_delongs_and_copies_are_no_news():
    y, p, q, _ = two_scores(0, images=1)
    names = [f"p{i}" for i in range(60)]
    assert stats.delong(y, p, q, names) == pytest.approx(stats.delong(y, p, q))
    copies = stats.delong(*(np.repeat(values, 3) for values in (y, p, q, names)))
    assert copies == pytest.approx(stats.delong(y, p, q))


def test_delong_by_patient_is_the_spread_of_the_bootstrap_also_where_patients_have_both_classes():
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(150), 4)
    y = rng.random(600) < np.repeat(rng.random(150), 4)
    p, q = y + rng.normal(size=(2, 600)) + np.repeat(rng.normal(size=(2, 150)), 4, axis=1)
    test = stats.delong(y, p, q, patient)
    counts = stats.draws(150, 400)
    resampled = [stats.auc_by_group(y, scores, patient, counts) for scores in (p, q)]
    assert np.sqrt(test.var_p) == pytest.approx(resampled[0].std(), rel=.12)
    half = 1.96 * (resampled[0] - resampled[1]).std()
    assert (test.high - test.low) / 2 == pytest.approx(half, rel=.12)
    assert (test.low + test.high) / 2 == pytest.approx(test.auc_p - test.auc_q)


def test_delong_of_several_runs_is_of_their_mean_auc():
    y, p, q, patient = two_scores(2)
    runs = np.column_stack([p, q])
    test = stats.delong(y, runs, p, patient)
    assert test.auc_p == pytest.approx(stats.auc(y, runs)) and test.auc_q == pytest.approx(stats.auc(y, p))
    half = stats.delong(y, q, p, patient)
    assert test.z == pytest.approx(half.z), "half the difference, half its error"
    with pytest.raises(Problem, match="patient of every row"):
        stats.delong(y, p, q, patient[:3])


def test_folds_are_the_units_and_not_their_seeds():
    """Four folds with three seeds each, no difference: taken as twelve pairs they err in a fifth of cases."""
    of_folds, of_pairs = [], []
    fold = np.repeat(np.arange(4), 3)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        gap = np.repeat(rng.normal(size=4), 3) + 0.3 * rng.normal(size=12)
        of_folds.append(stats.paired_mean(gap, fold).p < .05)
        of_pairs.append(stats.paired_mean(gap).p < .05)
    assert np.mean(of_folds) < 0.09 and np.mean(of_pairs) > 0.18


def test_the_paired_mean_is_students():
    values = [.1, .3, .2, .4, NAN]
    test = stats.paired_mean(values)
    theirs = dist.ttest_1samp(values[:4], 0)
    assert (test.p, test.units) == (pytest.approx(theirs.pvalue), 4)
    assert (test.low, test.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert np.isnan(stats.paired_mean([.1, .1, .1]).p) and np.isnan(stats.paired_mean([.1]).low)
    assert np.isnan(stats.paired_mean([]).difference)
    with pytest.raises(Problem):
        stats.paired_mean([.1, .2], ["a", None])


@pytest.mark.parametrize("y, a, b", [
    ([0, 1], [.2, .8], [0, 1]), ([0, 1], [0, 1], [0, 2]), ([0, 1], [0, 1], [0, -1]),
    ([0, 1], [0, 1], ["0", "1"]), ([0, 1.5], [0, 1], [0, 1]), ([[0, 1]], [[0, 1]], [[0, 1]]),
    ([0, 1], [0, float("inf")], [0, 1])])
def test_mcnemar_refuses_what_are_no_labels(y, a, b):
    with pytest.raises(Problem):
        stats.mcnemar(y, a, b)


def test_mcnemar_takes_any_names():
    by_numbers = stats.mcnemar([2, 2, 3], [2, 1, 3], [1, 1, 3])
    assert stats.mcnemar(list("bbc"), list("bac"), list("aac")) == by_numbers
    assert stats.mcnemar([True, False], [1.0, 0.0], [0, 0]).p == stats.mcnemar([1, 0], [1, 0], [0, 0]).p


# ---- published values and closed forms -----------------------------------------------------------------

@needs_reference
def test_delong_on_aneurysm_data():
    table = pd.read_csv(REFERENCE / "aSAH.csv")
    y = (table.outcome == "Poor").astype(int)
    test = stats.delong(y, table.wfns, table.s100b)
    assert (test.auc_p, test.auc_q) == pytest.approx((.823678861789, .731368563686), abs=1e-11)
    assert (test.var_p, test.var_q) == pytest.approx((.00146991470882363, .00266868245717244), rel=1e-10)
    assert (test.z, test.p) == pytest.approx((2.20898359144091, .0271757822291882), rel=1e-10)
    assert stats.delong(y, table.ndka, table.s100b).var_p == pytest.approx(.0031908105493913, rel=1e-10)


def test_delong_by_hand():
    """Positives beat (1, 1, .5) and (1, 1, 1) of two negatives ...: components by counting pairs."""
    y, p = np.array([1, 1, 1, 0, 0]), np.array([3, 2, 1, 2, 0])
    of_positives, of_negatives = np.array([1, .75, .5]), np.array([.5, 1])
    test = stats.delong(y, p, p)
    assert test.auc_p == pytest.approx(.75) and (test.z, test.p) == (0, 1)
    assert test.var_p == pytest.approx(of_positives.var(ddof=1) / 3 + of_negatives.var(ddof=1) / 2)
    assert stats.delong(y, p, -p).z == pytest.approx(-stats.delong(y, -p, p).z)


def test_delong_of_too_few_is_nan_and_of_bad_scores_a_problem():
    assert np.isnan(stats.delong([0, 1, 1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]).p)
    assert np.isnan(stats.delong([], [], []).z)
    for p, q in (([.1], [.1, .2]), ([.1, .2], [.1]), ([.1, NAN], [.1, .2]), ([.1, .2], [.1, NAN])):
        with pytest.raises(Problem):
            stats.delong([0, 1], p, q)
    for y in ([0, 2], [0, NAN]):
        with pytest.raises(Problem):
            stats.delong(y, [.1, .2], [.1, .2])


def table_2x2(both, only_a, only_b, neither):
    """Labels and two predictions whose agreement table is the one given."""
    a = np.repeat([1, 1, 0, 0], [both, only_a, only_b, neither])
    b = np.repeat([1, 0, 1, 0], [both, only_a, only_b, neither])
    return np.ones_like(a), a, b


def test_mcnemar_of_approval_ratings():
    y, a, b = table_2x2(794, 150, 86, 570)
    assert stats.mcnemar(y, a, b).statistic == pytest.approx(16.8178, abs=1e-4)
    assert stats.mcnemar(y, a, b, correction=False).statistic == pytest.approx(17.35593, abs=1e-5)
    assert stats.mcnemar(y, a, b, exact=True).p == pytest.approx(3.715936e-05, rel=1e-6)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_mcnemar_of_equal_errors_is_nothing(n, exact):
    result = stats.mcnemar(*table_2x2(5, n, n, 5), exact=exact)
    assert result.p == pytest.approx(1) and (exact or result.statistic == 0)


@pytest.mark.parametrize("y, a, b", [([0, 1], [0, 1], [0]), ([0, NAN], [0, 1], [0, 1])])
def test_mcnemar_refuses_what_is_missing(y, a, b):
    with pytest.raises(Problem):
        stats.mcnemar(y, a, b)


def test_corrections_for_many_tests():
    assert stats.bonferroni([.01, .2, NAN, .6]) == pytest.approx([.03, .6, NAN, 1], nan_ok=True)
    # 3 x .01; 1 x .04, but not below the .06 of 2 x .03; 4 x .005
    assert stats.holm([.01, .04, .03, .005]) == pytest.approx([.03, .06, .06, .02])
    assert stats.holm([.5, NAN, .5]) == pytest.approx([1, NAN, 1], nan_ok=True)
