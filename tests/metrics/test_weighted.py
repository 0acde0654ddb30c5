"""weighted: plain measures are those of libraries and by hand; their twins those of repeated rows."""
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics import weighted

NAN = float("nan")


@pytest.fixture
def scores():
    """Labels and coarse scores (many ties)."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 100)
    return y, np.round(rng.random(100) * 0.6 + 0.3 * y, 1)


# ---- plain ---------------------------------------------------------------------------------------------

def test_auc_counts_ties_as_one_half(scores):
    y, p = scores
    assert stats.auc(y, p) == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
    assert stats.auc([0, 1], [0.5, 0.5]) == 0.5
    assert stats.auc([0, 1, 1], [0.1, 0.1, 0.9]) == 0.75


def test_auc_of_several_runs_is_their_mean(scores):
    y, p = scores
    assert stats.auc(y, np.column_stack([p, 1 - p])) == pytest.approx(0.5)


def test_infinite_scores_tie_too():
    inf = float("inf")
    assert stats.auc([0, 1, 0, 1], [-inf, -inf, inf, inf]) == .5 and stats.auc([0, 1], [-inf, inf]) == 1


def test_two_areas_under_the_precision_recall_curve(scores):
    y, p = scores
    precision, recall, _ = metrics.precision_recall_curve(y, p)
    assert stats.average_precision(y, p) == pytest.approx(metrics.average_precision_score(y, p))
    assert stats.pr_trapezoid(y, p) == pytest.approx(metrics.auc(recall, precision))


def test_two_areas_under_the_precision_recall_curve_by_hand():
    """A positive above a negative above a positive: steps 1/2 * 1 + 1/2 * 2/3.

    The trapezoid goes over (1/2, 1), (1/2, 1/2), (1, 2/3).
    """
    y, p = [1, 0, 1], [.9, .5, .1]
    assert stats.average_precision(y, p) == pytest.approx(5 / 6)
    assert stats.pr_trapezoid(y, p) == pytest.approx(1 / 2 + 7 / 24)


def test_where_all_scores_tie_the_trapezoid_flatters():
    """One step at the prevalence; the trapezoid goes to it from (0, 1)."""
    y, p = [1, 0, 0, 0], [.5] * 4
    assert stats.average_precision(y, p) == .25 and stats.pr_trapezoid(y, p) == .625


@pytest.mark.parametrize("threshold", [.3, .5])
def test_calls_at_a_threshold_are_those_of_scikit_learn(scores, threshold):
    y, p = scores
    called = p >= threshold
    assert stats.accuracy(y, p, threshold) == pytest.approx(metrics.accuracy_score(y, called))
    assert stats.f1(y, p, threshold) == pytest.approx(metrics.f1_score(y, called))
    assert stats.sensitivity(y, p, threshold) == pytest.approx(metrics.recall_score(y, called))
    assert stats.specificity(y, p, threshold) == pytest.approx(metrics.recall_score(1 - y, ~called))


def test_youden_picks_the_separating_threshold():
    assert stats.youden([0, 0, 1, 1], [.1, .4, .6, .9]) == (.6, 1, 1)
    assert stats.youden([0, 1, 0, 1], [.1, .4, .6, .9]) == (.9, .5, 1), "of equals the highest"


def test_undefined_is_nan():
    assert np.isnan(stats.auc([1, 1], [0.2, 0.3])) and np.isnan(stats.auc([], []))
    assert np.isnan(stats.average_precision([0, 0], [0.2, 0.3]))
    assert np.isnan(stats.pr_trapezoid([0, 0], [.1, .2])) and np.isnan(stats.pr_trapezoid([], []))
    assert np.isnan(stats.youden([0, 0], [0.1, 0.2]).threshold)


def test_calls_where_a_class_is_missing():
    assert np.isnan(stats.accuracy([], [])) and np.isnan(stats.f1([0, 0], [.1, .2]))
    assert stats.f1([0, 0], [.1, .9]) == 0
    assert np.isnan(stats.sensitivity([0, 0], [.1, .9])) and stats.specificity([0, 0], [.1, .9]) == .5
    assert np.isnan(stats.specificity([1, 1], [.1, .9]))
    assert stats.sensitivity([1, 1], [.1, .5]) == .5, "the threshold is positive"


@pytest.mark.parametrize("measure", [
    stats.auc, stats.average_precision, stats.pr_trapezoid, stats.accuracy, stats.f1, stats.sensitivity,
    stats.specificity, stats.youden])
@pytest.mark.parametrize("y, p", [
    ([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, NAN]), ([0, NAN], [0.1, 0.2]),
    ([[0, 1]], [[0.1, 0.2]])])
def test_bad_scores_are_a_problem(measure, y, p):
    with pytest.raises(Problem):
        measure(y, p)


@pytest.mark.parametrize("measure", [stats.accuracy, stats.f1, stats.sensitivity, stats.specificity])
def test_calls_are_of_probabilities_at_one_finite_threshold(measure):
    for p, threshold in (([-1., 2], .5), ([.1, 1.1], .5), ([.1, .9], NAN), ([.1, .9], [.2, .5])):
        with pytest.raises(Problem):
            measure([0, 1], p, threshold)
    assert measure([0, 1], [0, 1]) == measure([0, 1], [False, True]) == 1, "calls are probabilities too"
    assert measure([0, 1], [-1e-9, 1 + 1e-9]) == 1, "sums of probabilities miss 1 by rounding"


@pytest.mark.parametrize("measure", [stats.average_precision, stats.pr_trapezoid])
def test_infinite_scores_have_no_precision(measure):
    with pytest.raises(Problem, match="finite"):
        measure([0, 1], [1, float("inf")])


def test_youden_is_the_best_of_all_thresholds_also_of_a_hundred_thousand(scores):
    y, p = scores
    best = stats.youden(y, p)
    for threshold in np.unique(p):
        gain = stats.sensitivity(y, p, threshold) + stats.specificity(y, p, threshold)
        assert gain <= best.sensitivity + best.specificity + 1e-12
    assert best.sensitivity == stats.sensitivity(y, p, best.threshold)
    assert best.specificity == stats.specificity(y, p, best.threshold)
    rng = np.random.default_rng(0)
    y = rng.random(100_000) < .3
    tracemalloc.start()
    threshold = stats.youden(y, y + rng.normal(size=100_000)).threshold
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6 and threshold == pytest.approx(.5, abs=.1), "two normals cross half way"


def test_weighted_kappa():
    counts = np.array([[7, 7, 2, 3], [2, 8, 3, 7], [1, 5, 4, 9], [2, 8, 9, 14]])
    a, b = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices((4, 4)))
    assert stats.kappa(a, b) == pytest.approx(.12933, abs=1e-5)
    assert stats.kappa(a, b, "linear") == pytest.approx(.237381, abs=1e-6)
    assert stats.kappa(a, b, "quadratic") == pytest.approx(.332046, abs=1e-6)


def test_kappa_keeps_the_distance_of_a_grade_nobody_gave():
    """Quadratic kappa = 1 - observed / expected squared distance, with the true grades 0, 1, 3."""
    a, b = [0, 1, 3, 3, 0], [0, 3, 3, 1, 1]
    observed = np.mean(np.subtract(a, b) ** 2)
    expected = np.mean(np.subtract.outer(a, b) ** 2)
    assert stats.kappa(a, b, "quadratic") == pytest.approx(1 - observed / expected)
    assert np.isnan(stats.kappa([1, 1], [1, 1])) and np.isnan(stats.kappa([], []))


@pytest.mark.parametrize("a, b, weights", [
    ([0, 1], [0], None), ([0, NAN], [0, 1], None), ([0, 1], [1, 0], "cubic"),
    ([0., .5], [.5, 0.], "quadratic"), ([.1, .2], [.2, .1], None), ([0, float("inf")], [0, 1], None),
    (["b", "c"], ["b", "c"], "linear"), (["0", "1"], [0, 1], None), ([[0], [1]], [[0], [1]], None)])
def test_kappa_refuses_what_is_missing(a, b, weights):
    with pytest.raises(Problem):
        stats.kappa(a, b, weights)


# ---- weighted ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def rows():
    """Labels, scores with ties, patients, and weights of 20 resamples."""
    rng = np.random.default_rng(3)
    y, patient = rng.random(90) < 0.4, rng.integers(0, 30, 90).astype(str)
    p = np.round(np.clip(0.3 * y + 0.7 * rng.random(90), 0, 1), 2)
    return y, p, patient, weighted.resamples(patient, n=20)


def repeated(weights):
    """The row numbers of each resample."""
    return [np.repeat(np.arange(len(counts)), counts.astype(int)) for counts in weights]


def assert_same_as_plain(measured, plain, y, p, w):
    expected = [plain(y[resample], p[resample]) for resample in repeated(w)]
    np.testing.assert_allclose(measured, expected, rtol=1e-10)


def test_draws_in_parts_are_the_draws(monkeypatch):
    at_once = weighted.draws(30, 50, seed=3)
    drawn = np.random.default_rng(3).integers(30, size=(50, 30))
    assert np.array_equal(at_once, [np.bincount(row, minlength=30) for row in drawn])
    monkeypatch.setattr(weighted, "AT_ONCE", 100)
    parts = list(weighted.draws_in_parts(30, 50, seed=3))
    assert len(parts) == 17 and np.array_equal(np.concatenate(parts), at_once)


def test_a_resample_draws_as_many_patients_as_there_are_each_alike():
    """Counts of n draws from n patients: mean 1, variance 1 - 1/n, by the closed form of the multinomial."""
    drawn = weighted.draws(20, 20_000)
    assert drawn.shape == (20_000, 20) and (drawn.sum(1) == 20).all()
    assert np.allclose(drawn.mean(0), 1, atol=0.03) and np.allclose(drawn.var(0), 1 - 1 / 20, atol=0.04)


def test_resamples_are_of_whole_patients_and_begin_with_the_data(rows):
    _, _, patient, w = rows
    assert w.shape == (21, 90) and (w[0] == 1).all() and not (w[1:] == 1).all()
    of_patient = pd.DataFrame(w.T).groupby(patient)
    assert (of_patient.nunique() == 1).all(axis=None), "all rows of a patient come and go together"
    drawn = of_patient.first()
    assert (drawn.sum() == len(drawn)).all(), "as many patients as there are"


def test_weighted_rankings_are_the_plain_ones_of_repeated_rows(rows):
    y, p, _, w = rows
    auc, average_precision = weighted.ranking(y, p, w)
    assert_same_as_plain(auc, stats.auc, y, p, w)
    assert_same_as_plain(average_precision, stats.average_precision, y, p, w)


@pytest.mark.parametrize("name", ["accuracy", "f1", "sensitivity", "specificity"])
def test_weighted_calls_are_the_plain_ones_of_repeated_rows(rows, name):
    y, p, _, w = rows
    assert_same_as_plain(weighted.calls(y, p >= 0.5, w)[name], getattr(stats, name), y, p, w)


def test_the_weighted_net_benefit_is_the_plain_one_of_repeated_rows(rows):
    y, p, _, w = rows
    measured = weighted.share(stats.case_benefit(y, p), w)
    assert_same_as_plain(measured, stats.integrated_net_benefit, y, p, w)


@pytest.mark.parametrize("quadratic", [False, True])
def test_weighted_agreement_is_kappa_of_repeated_rows(rows, quadratic):
    rng, w = np.random.default_rng(5), rows[3]
    truth = rng.integers(0, 4, 90)
    called = np.where(rng.random(90) < 0.6, truth, rng.integers(0, 4, 90))
    weights = "quadratic" if quadratic else None
    expected = [stats.kappa(truth[resample], called[resample], weights) for resample in repeated(w)]
    np.testing.assert_allclose(weighted.agreement(truth, called, w, quadratic), expected, rtol=1e-10)


def test_the_interval_is_that_of_the_plain_bootstrap(rows):
    """The same draw of patients as `stats.bootstrap`, so the same percentiles."""
    y, p, patient, _ = rows
    auc, _ = weighted.ranking(y, p, weighted.resamples(patient, 300, seed=1))
    bootstrap = stats.bootstrap(stats.auc, y, p, patient, 300, seed=1)
    assert weighted.interval(auc) == pytest.approx(bootstrap[:3], rel=1e-12)


def test_one_class_only_is_undefined_and_no_error():
    auc, average_precision = weighted.ranking(np.zeros(4, bool), np.arange(4) / 4, np.ones((3, 4)))
    assert np.isnan(auc).all() and np.isnan(average_precision).all()
