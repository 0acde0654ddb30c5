"""stats: published values, closed forms, libraries beside ours, and what must not change an answer."""
import doctest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as dist

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics import calibration, weighted

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "data" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason=f"no reference tables at {REFERENCE}")
NAN = float("nan")


@pytest.fixture
def cohort():
    """40 patients with 1-4 rows each, coarse scores (many ties)."""
    rng = np.random.default_rng(0)
    patient = np.repeat([f"p{i:02d}" for i in range(40)], rng.integers(1, 5, 40))
    y = (np.unique(patient, return_inverse=True)[1] % 2).astype(int)
    return y, np.round(rng.random(len(y)) * 0.6 + 0.3 * y, 1), patient


@pytest.mark.parametrize("module", [stats, weighted, calibration])
def test_the_examples_in_the_docstrings_are_true(module):
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed


# ---- discrimination --------------------------------------------------------------------------------------

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


def test_concordance_of_the_lung_data():
    lifelines = pytest.importorskip("lifelines", reason="lifelines is in the test extra")
    from lifelines.datasets import load_lung
    lung = load_lung()[["time", "status", "age", "sex", "ph.ecog"]].dropna()
    risk = lifelines.CoxPHFitter().fit(lung, "time", "status").predict_partial_hazard(lung)
    assert stats.concordance(lung.time, lung.status, risk) == pytest.approx(.637135493, abs=1e-8)


def test_concordance_sign_censoring_and_ties():
    assert stats.concordance([1, 2, 3], [1, 1, 1], [3, 2, 1]) == 1, "higher risk, shorter time"
    assert stats.concordance([1, 2, 3], [1, 1, 1], [5, 5, 5]) == .5
    assert stats.concordance([1, 2, 3], [0, 1, 0], [9, 2, 1]) == 1, "the first is censored: one pair left"
    assert stats.concordance([2, 2], [1, 0], [2, 1]) == 1, "censored later than the event of its time"
    assert np.isnan(stats.concordance([2, 2], [1, 1], [2, 1])) and np.isnan(stats.concordance([], [], []))


@pytest.mark.parametrize("time, event, risk", [
    ([1, NAN], [1, 1], [1, 2]), ([1, 2], [1, NAN], [1, 2]), ([1, 2], [1, 2], [1, 2]), ([1, 2], [1], [1, 2])])
def test_concordance_refuses_what_is_missing(time, event, risk):
    with pytest.raises(Problem):
        stats.concordance(time, event, risk)


# ---- intervals -------------------------------------------------------------------------------------------

def auc_one_by_one(y, p):
    return stats.auc(y, p)


def mean_score(_, p):
    return p.mean()


def sensitivity_at_40(y, p):
    return stats.sensitivity(y, p, .4)


def width(interval):
    return interval.high - interval.low


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_at_once_equals_one_by_one(cohort, method):
    y, p, patient = cohort
    at_once = stats.bootstrap(stats.auc, y, p, patient, n=50, method=method)
    one_by_one = stats.bootstrap(auc_one_by_one, y, p, patient, n=50, method=method)
    assert at_once == pytest.approx(one_by_one, abs=1e-12)
    assert at_once.low < at_once.value < at_once.high and at_once.value == stats.auc(y, p)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_does_not_see_the_order_of_patients(cohort, method):
    y, p, patient = cohort
    order = np.random.default_rng(1).permutation(len(y))
    shuffled = stats.bootstrap(stats.auc, y[order], p[order], patient[order], n=200, method=method)
    ordered = stats.bootstrap(stats.auc, y, p, patient, n=200, method=method)
    assert ordered == pytest.approx(shuffled, abs=1e-12)


def test_bootstrap_by_patient_is_wider_when_rows_repeat(cohort):
    y, p, _ = cohort
    patient = np.tile(np.arange(len(y)), 4)
    y, p = np.tile(y, 4), np.tile(p, 4)
    by_row = stats.bootstrap(stats.auc, y, p)
    by_patient = stats.bootstrap(stats.auc, y, p, patient)
    assert width(by_patient) == pytest.approx(2 * width(by_row), rel=.15), "4 copies: sqrt(4)"
    assert by_patient == stats.bootstrap(stats.auc, y, p, patient)
    assert by_patient != stats.bootstrap(stats.auc, y, p, patient, seed=1)


def test_bootstrap_covers_a_mean():
    values = np.random.default_rng(3).normal(size=400)
    interval = stats.bootstrap(mean_score, np.zeros(400), values, n=2000)
    assert width(interval) == pytest.approx(2 * 1.96 * values.std() / 20, rel=.06)


def test_bootstrap_skips_and_counts_degenerate_resamples():
    interval = stats.bootstrap(stats.auc, [0, 1], [.2, .8], n=1000)
    assert 400 < interval.skipped < 600, "half of the draws hold one class"
    assert (interval.low, interval.high) == (1, 1)
    assert np.isnan(stats.bootstrap(stats.auc, [1, 1], [.2, .8], n=10).low)


@pytest.mark.parametrize("y, p, groups", [
    ([], [], None), ([0, 1], [.1], None), ([0, 1], [.1, .2], [1]), ([0, 1], [.1, .2], ["a", None]),
    ([0, 1], [.1, .2], [0, NAN])])
def test_bootstrap_refuses_what_is_missing(y, p, groups):
    with pytest.raises(Problem):
        stats.bootstrap(stats.auc, y, p, groups)


@pytest.mark.parametrize("wrong", [{"method": "basic"}, {"n": 0}])
def test_bootstrap_refuses_other_methods_and_no_resamples(wrong):
    with pytest.raises(Problem):
        stats.bootstrap(stats.auc, [0, 1], [.1, .2], **wrong)


def test_bca_interval_is_that_of_scipy_on_the_same_resamples(cohort):
    y, p, patient = cohort
    names, group = np.unique(patient, return_inverse=True)
    people = np.arange(len(names))

    def of(drawn):
        rows = np.concatenate([np.flatnonzero(group == person) for person in drawn])
        return sensitivity_at_40(y[rows], p[rows])

    resampled = np.array([of(np.repeat(people, counts)) for counts in weighted.draws(len(names), 300)])
    known = type("Known", (), {"bootstrap_distribution": resampled})
    theirs = dist.bootstrap(
        (people,), of, n_resamples=0, method="BCa", vectorized=False, bootstrap_result=known)
    ours = stats.bootstrap(sensitivity_at_40, y, p, patient, n=300, method="bca")
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-12)
    assert ours[1:3] != stats.bootstrap(sensitivity_at_40, y, p, patient, n=300)[1:3]


def test_bca_of_a_skewed_mean_leans_to_its_tail():
    values = np.random.default_rng(0).exponential(size=60)
    plain = stats.bootstrap(mean_score, np.zeros(60), values)
    bca = stats.bootstrap(mean_score, np.zeros(60), values, method="bca")
    assert bca.low > plain.low and bca.high > plain.high and bca.value == plain.value


def test_bca_without_spread_is_a_point_and_of_one_patient_nothing():
    assert stats.bootstrap(stats.auc, [0, 0, 1, 1], [.1, .2, .8, .9], method="bca")[:3] == (1, 1, 1)
    one_patient = ([0, 1], [.2, .8], ["a", "a"])
    assert np.isnan(stats.bootstrap(stats.auc, *one_patient, method="bca")[1:3]).all()
    assert stats.bootstrap(stats.auc, *one_patient)[:3] == (1, 1, 1)


# ---- comparisons -----------------------------------------------------------------------------------------

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


def test_mean_sd():
    assert stats.mean_sd([1, 2, 3, NAN])[:3] == (2, 1, 3)
    assert str(stats.mean_sd([.5])) == "0.500" and str(stats.mean_sd([])) == "–"
    assert str(stats.mean_sd([0, 1])) == "0.500 ± 0.707"


def test_domain_gap():
    assert stats.domain_gap(.9, .8) == pytest.approx(.1) and stats.domain_gap(.7, .8) < 0
    assert np.isnan(stats.domain_gap(NAN, .8))


# ---- what must not change an answer ----------------------------------------------------------------------

def two_dimensions(a, b):
    return np.column_stack([a, b])


ON_SCORES = {
    "auc": stats.auc, "average precision": stats.average_precision, "trapezoid": stats.pr_trapezoid,
    "accuracy": stats.accuracy, "f1": stats.f1, "sensitivity": stats.sensitivity,
    "specificity": stats.specificity, "youden": stats.youden,
}


def other_measures(y, p):
    """Measures of other things than scores, of things made from scores."""
    return [
        *stats.delong(y, p, p ** 2 - p), *stats.mcnemar(y, p > .3, p > .6),
        stats.kappa((3 * p).astype(int), 2 * y, "quadratic"), stats.concordance(p, y, -p ** 2),
        stats.silhouette(two_dimensions(p, p ** 2), y), stats.davies_bouldin(two_dimensions(p, p ** 2), y),
        stats.intra_pair_similarity(two_dimensions(p, y), two_dimensions(y, p)),
        stats.modality_gap(two_dimensions(p, y), two_dimensions(y, 2 * p)),
    ]


@pytest.mark.parametrize("measure", [*ON_SCORES.values(), other_measures], ids=[*ON_SCORES, "others"])
@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_cases_does_not_matter(measure, seed, cohort):
    y, p, _ = cohort
    order = np.random.default_rng(seed).permutation(len(y))
    assert measure(y[order], p[order]) == pytest.approx(measure(y, p), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["auc", "average precision", "trapezoid"])
def test_only_the_order_of_the_scores_matters(name, cohort):
    y, p, _ = cohort
    assert ON_SCORES[name](y, np.exp(5 * p) - 3) == pytest.approx(ON_SCORES[name](y, p))
    assert stats.auc(y, -p) == pytest.approx(1 - stats.auc(y, p))
    assert stats.auc(1 - y, p) == pytest.approx(1 - stats.auc(y, p))
