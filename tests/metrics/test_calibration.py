"""calibration: closed forms, two libraries beside ours, and the law that split-conformal coverage follows."""
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats as dist
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics.calibration import brier_parts, conformal_sets, conformal_threshold, decision_curve

NAN = float("nan")


@pytest.fixture
def cases():
    rng = np.random.default_rng(0)
    p = rng.random(500)
    return (rng.random(500) < p ** 2).astype(int), p


def test_calibration_error_by_hand():
    p, y = [.25, .25, .55, .75, .75], [0, 0, 1, 1, 1]
    assert stats.ece(y, p, bins=2) == pytest.approx(.29)
    r = stats.reliability(y, p, bins=2)
    assert np.abs(r.observed - r.predicted).max() == pytest.approx(.3167, abs=1e-4)
    assert list(r.count) == [2, 3] and np.isnan(stats.reliability([1], [.9], bins=2).observed[0])
    assert stats.ece([0, 1], [0., 1.]) == 0                                 # 1 belongs to the last bin
    assert stats.ece_shift([0, 1], [0, 1], y, p, bins=2) == pytest.approx(.29)


@pytest.mark.parametrize("bins", [2, 3, 7, 10, 20])
def test_a_probability_on_an_edge_is_in_the_bin_that_begins_there(bins):
    for k in range(bins):
        assert stats.reliability([1], [k / bins], bins).count[k] == 1
    assert stats.reliability([1], [1.0], bins).count[-1] == 1
    p, y = np.arange(bins) / bins, np.arange(bins) % 2
    assert stats.ece(y, p, bins) == pytest.approx(np.abs(y - p).mean())


def test_nullable_types_of_pandas_are_numbers_and_na_is_nan():
    y, p = pd.Series([0, 1, 1, 0], dtype="Int64"), pd.Series([.1, .9, .8, .3], dtype="Float64")
    assert stats.auc(y, p) == 1 and stats.kappa(y, y, weights="linear") == 1
    assert stats.brier(y, p) == pytest.approx(stats.brier([0, 1, 1, 0], [.1, .9, .8, .3]))
    assert stats.concordance(pd.Series([1, 2, 3], dtype="Int64"), [1, 1, 0], p[:3]) == pytest.approx(1 / 3)
    assert stats.bootstrap(stats.auc, y, p, n=20).value == 1
    assert stats.mean_sd(pd.Series([1, None, 3], dtype="Float64")).n == 2
    for labels in (pd.Series([0, 1, None], dtype="Int64"), pd.Series([True, False, None], dtype="boolean"),
                   [0, 1, None]):
        with pytest.raises(Problem, match="Labels must be 0 or 1"):
            stats.auc(labels, [.1, .2, .3])
    for scores in (pd.Series([.1, None, .3], dtype="Float64"), [.1, pd.NA, .3], [.1, None, .3]):
        with pytest.raises(Problem, match="Scores hold NaN"):
            stats.ece([0, 1, 1], scores)
    with pytest.raises(Problem, match="Scores must be numbers"):
        stats.auc([0, 1], ["a", "b"])


def test_calibration_error_is_that_of_torchmetrics(cases):
    y, p = cases
    theirs = binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=15, norm="l1")
    assert stats.ece(y, p) == pytest.approx(float(theirs), abs=1e-6)


def test_bins_of_equal_mass_are_those_of_scikit_learn(cases):
    y, p = cases
    r = stats.reliability(y, p, equal="mass", bins=15)
    observed, predicted = calibration_curve(y, p, n_bins=15, strategy="quantile")
    assert r.observed == pytest.approx(observed) and r.predicted == pytest.approx(predicted)
    assert set(r.count) == {33, 34}
    gap = np.average(np.abs(observed - predicted), weights=r.count)
    assert stats.ece(y, p, equal="mass") == pytest.approx(gap)
    tied = stats.reliability([0, 1, 1, 0], [.3] * 4, 3, "mass")
    assert list(tied.count) == [0, 0, 4], "ties stay together"


def test_brier_score_and_its_parts(cases):
    y, p = cases
    assert stats.brier(y, p) == pytest.approx(brier_score_loss(y, p))
    coarse = np.round(p, 1)                                     # 0, .1, ...: one probability in each bin
    parts = brier_parts(y, coarse, bins=11)
    assert parts.within == pytest.approx(0, abs=1e-12) and parts.uncertainty == pytest.approx(y.var())
    values, counts = np.unique(coarse, return_counts=True)
    observed = np.array([y[coarse == value].mean() for value in values])
    share = counts / len(y)
    assert parts.reliability == pytest.approx((share * (observed - values) ** 2).sum())
    assert parts.resolution == pytest.approx((share * (observed - y.mean()) ** 2).sum())


def test_who_says_the_prevalence_is_calibrated_and_useless(cases):
    y, _ = cases
    prevalence = np.full(500, y.mean())
    parts = brier_parts(y, prevalence)
    assert (parts.reliability, parts.resolution) == pytest.approx((0, 0))
    assert stats.brier(y, prevalence) == pytest.approx(parts.uncertainty)


# ---- decision curves -----------------------------------------------------------------------------------

def test_net_benefit_of_treating_all_and_none():
    y = np.repeat([1, 0], [14, 86])
    assert stats.net_benefit(y, np.ones(100), .25) == pytest.approx(-.1466667, abs=1e-7)
    assert stats.net_benefit(y, np.zeros(100), [.1, .25]) == pytest.approx([0, 0])
    assert stats.net_benefit(y, y, [.1, .5]) == pytest.approx([.14, .14])
    with pytest.raises(Problem):
        stats.net_benefit(y, y, 1)


def test_a_probability_at_a_threshold_is_treated():
    """At k / 100 for every k, as np.linspace would not."""
    thresholds = np.arange(1, 100) / 100
    curve = decision_curve([1, 1], [.3, .7], thresholds)
    treated = (np.array([.3, .7]) >= thresholds[:, None]).mean(1)
    np.testing.assert_array_equal(curve.model, treated)
    assert decision_curve([1], [.29]).model[29] == 1


def test_net_benefit_of_a_published_model():
    """df_binary of dcurves: 750 patients, 105 with cancer.

    At .25, its model `cancerpredmarker` treats 72 of those and 72 others.
    """
    patients = [72, 33, 72, 573]
    y = np.repeat([1, 1, 0, 0], patients)
    p = np.repeat([.3, .2, .3, .2], patients)
    curve = decision_curve(y, p, [.1, .25])
    assert curve.model[1] == pytest.approx(.064) and curve.treat_all[1] == pytest.approx(-.1466667, abs=1e-7)
    assert curve.model[0] == pytest.approx(curve.treat_all[0])              # everyone is treated at .1


def test_integrated_net_benefit_is_the_integral(cases):
    y, p = cases
    steps = np.unique(np.clip(p, .1, .3))
    for scores in (p, np.ones(500)):
        integral = 0
        for low, high in zip(np.append(.1, steps), np.append(steps, .3)):
            if high > low:
                integral += integrate.quad(lambda t: stats.net_benefit(y, scores, t), low, high, limit=5)[0]
        assert stats.integrated_net_benefit(y, scores) == pytest.approx(integral / .2, abs=1e-9)
    assert stats.integrated_net_benefit(y, y) == pytest.approx(y.mean())    # an oracle gains every positive
    assert stats.integrated_net_benefit(y, np.zeros(500)) == 0


# ---- after training ------------------------------------------------------------------------------------

def calibrated(classes):
    """Logits of two kinds of cases and labels in exactly the frequencies that these logits say."""
    shares = np.array([[3, 1, 4], [2, 5, 1]])[:, :classes]
    logits = np.log(shares / shares.sum(1, keepdims=True))
    y = np.concatenate([np.repeat(np.arange(classes), row) for row in shares])
    return np.repeat(logits, shares.sum(1), axis=0), y


@pytest.mark.parametrize("k", [.25, 1, 3.7])
@pytest.mark.parametrize("classes", [2, 3])
def test_temperature_of_k_times_calibrated_logits_is_k(k, classes):
    logits, y = calibrated(classes)
    assert stats.temperature(k * logits, y) == pytest.approx(k, rel=1e-9)
    if classes == 2:
        assert stats.temperature(k * (logits[:, 1] - logits[:, 0]), y) == pytest.approx(k, rel=1e-9)


def test_temperature_ends_somewhere():
    assert stats.temperature([-1., 1.], [0, 1]) == .01                      # all right: the surer the better
    assert stats.temperature([-1., 1.], [1, 0]) == 100                      # all wrong
    assert stats.temperature([0., 0.], [1, 0]) == 100                       # nothing said


@pytest.mark.parametrize("n, alpha", [(9, .1), (50, .1), (200, .2)])
def test_split_conformal_coverage_is_beta(n, alpha):
    """Coverage given the calibration cases is that of the k-th of n uniform scores.

    That is Beta(k, n + 1 - k) (Vovk 2012).
    """
    rng = np.random.default_rng(n)
    k = int(np.ceil(round((n + 1) * (1 - alpha), 9)))
    coverage = [conformal_threshold(rng.random(n), alpha) for _ in range(2000)]
    assert dist.kstest(coverage, dist.beta(k, n + 1 - k).cdf).pvalue > .01
    assert k / (n + 1) >= 1 - alpha


def test_conformal_sets_cover_the_truth():
    """Over many splits the truth is in the set in k / (n + 1) of the new cases.

    Up to 4 standard errors of a beta-binomial.
    """
    rng = np.random.default_rng(0)
    n, alpha = 49, .2
    coverage = []
    for _ in range(400):
        p = rng.dirichlet(np.ones(4), size=n + 20)
        y = (rng.random(n + 20)[:, None] > p.cumsum(1)).sum(1)
        sets = conformal_sets(p[:n], y[:n], p[n:], alpha)
        coverage.append(sets[np.arange(20), y[n:]].mean())
    four_errors = 4 * dist.betabinom(20, 40, 10).std() / 20 / 20
    assert np.mean(coverage) == pytest.approx(40 / 50, abs=four_errors)


def test_too_few_cases_exclude_nothing():
    assert conformal_threshold([.1] * 8, .1) == np.inf and conformal_threshold([], .1) == np.inf
    assert conformal_threshold(np.arange(9.), .1) == 8, "10 x .9 is 9 also in floating point"
    assert conformal_sets([[.9, .1]], [0], [[.99, .01]]).all()


# ---- degenerate input ----------------------------------------------------------------------------------

@pytest.mark.parametrize("measure", [stats.ece, stats.brier, stats.integrated_net_benefit])
def test_no_cases_are_nan_one_class_and_ties_are_not(measure):
    assert np.isnan(measure([], []))
    assert np.isfinite(measure([1, 1], [.5, .5])) and np.isfinite(measure([0, 0], [.2, .3]))
    shapes = [([0, 1], [.1]), ([0, 1], [[.1, .2]] * 2)]
    values = [([0, 2], [.1, .2]), ([0, 1], [.1, NAN]), ([0, NAN], [.1, .2])]
    for y, p in shapes + values:
        with pytest.raises(Problem):
            measure(y, p)


@pytest.mark.parametrize("measure, arguments", [
    (stats.ece, ([0, 1], [-2., 3.])), (stats.brier, ([0, 1], [0, 1.5])),
    (stats.ece, ([0, 1], [.1, .2], 15, "size")), (stats.net_benefit, ([0, 1], [.1, .2], [.1, NAN])),
    (stats.integrated_net_benefit, ([0, 1], [.1, .2], .3, .1)),
    (stats.temperature, ([.1, NAN], [0, 1])), (stats.temperature, ([.1, np.inf], [0, 1])),
    (stats.temperature, ([], [])), (stats.temperature, ([[.1, .2]], [2])),
    (stats.temperature, ([.1], [0, 1])),
    (conformal_threshold, ([.1, NAN],)), (conformal_threshold, ([.1], 0)),
    (stats.net_benefit, ([0, 1], [-1., 2], .3)), (decision_curve, ([0, 1], [-1., 2])),
    (stats.case_benefit, ([0, 1], [.1, 1.5])), (stats.integrated_net_benefit, ([0, 1], [-3., 3])),
    (conformal_sets, ([[2., -1]], [0], [[.5, .5]])), (conformal_sets, ([[.5, .5]], [0], [[.5, NAN]])),
    (conformal_sets, ([[.5, .5]], [0], [[3., 4]])), (conformal_sets, ([[.5, .5]], [.5], [[.5, .5]])),
    (conformal_sets, ([[.5, .5]], ["a"], [[.5, .5]])), (conformal_sets, ([[.5, .5]], [0], [[.2, .3, .5]])),
    (conformal_sets, ([[.2, .2]], [0], [[.5, .5]])), (conformal_sets, ([[.5, .5]], [NAN], [[.5, .5]])),
    (conformal_sets, ([[.5, .5]], [2], [[.5, .5]])), (conformal_sets, ([.5], [0], [.5]))])
def test_bad_input_is_a_problem(measure, arguments):
    with pytest.raises(Problem):
        measure(*arguments)


def test_empty_parts_are_nan():
    assert np.isnan(brier_parts([], [])).all()
    assert np.isnan(stats.net_benefit([], [], [.1, .2])).all() and np.isnan(stats.net_benefit([], [], .2))
    assert np.isnan(stats.ece_shift([], [], [0, 1], [0, 1]))


def ece_of_equal_mass(y, p):
    return stats.ece(y, p, equal="mass")


def net_benefit_at_30(y, p):
    return stats.net_benefit(y, p, .3)


def temperature_of_probabilities(y, p):
    return stats.temperature(np.log(p / (1 - p)), y)


@pytest.mark.parametrize("measure", [
    stats.ece, ece_of_equal_mass, stats.brier, brier_parts, stats.integrated_net_benefit, net_benefit_at_30,
    temperature_of_probabilities])
def test_order_of_the_cases_does_not_matter(measure, cases):
    y, p = cases
    order = np.random.default_rng(1).permutation(500)
    assert measure(y[order], p[order]) == pytest.approx(measure(y, p), rel=1e-9, abs=1e-12)
