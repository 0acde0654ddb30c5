"""stats: published values, closed forms, libraries beside ours, and what must not change an answer."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as dist
from sklearn import metrics
from sklearn.metrics import roc_auc_score

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics import weighted

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "data" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason=f"reference tables are not at {REFERENCE}")
NAN = float("nan")


@pytest.fixture
def cohort():
    """40 patients with 1-4 rows each, coarse scores (many ties)."""
    rng = np.random.default_rng(0)
    patient = np.repeat([f"p{i:02d}" for i in range(40)], rng.integers(1, 5, 40))
    y = (np.unique(patient, return_inverse=True)[1] % 2).astype(int)
    return y, np.round(rng.random(len(y)) * 0.6 + 0.3 * y, 1), patient


# ---- discrimination ----------------------------------------------------------------------------------------------

def test_auc_counts_ties_as_one_half(cohort):
    y, p, _ = cohort
    assert stats.auc(y, p) == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert stats.auc([0, 1], [0.5, 0.5]) == 0.5
    assert stats.auc([0, 1, 1], [0.1, 0.1, 0.9]) == 0.75


def test_auc_of_several_runs_is_their_mean(cohort):
    y, p, _ = cohort
    assert stats.auc(y, np.column_stack([p, 1 - p])) == pytest.approx(0.5)


def test_undefined_is_nan_and_bad_input_is_a_problem():
    assert np.isnan(stats.auc([1, 1], [0.2, 0.3])) and np.isnan(stats.auc([], []))
    assert np.isnan(stats.average_precision([0, 0], [0.2, 0.3]))
    assert np.isnan(stats.youden([0, 0], [0.1, 0.2]).threshold)
    assert np.isnan(stats.delong([0, 1, 1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]).p)
    assert np.isnan(stats.delong([], [], []).z)


@pytest.mark.parametrize("measure", [stats.auc, stats.average_precision, stats.pr_trapezoid, stats.accuracy, stats.f1, stats.sensitivity,
                                     stats.specificity, stats.youden, lambda y, p: stats.delong(y, p, p),
                                     lambda y, p: stats.delong(y, [.1, .2], p)])
def test_bad_scores_are_a_problem(measure):
    for y, p in [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, NAN]), ([0, NAN], [0.1, 0.2]), ([[0, 1]], [[0.1, 0.2]])]:
        with pytest.raises(Problem):
            measure(y, p)


def test_two_areas_under_the_precision_recall_curve(cohort):
    y, p, _ = cohort
    precision, recall, _ = metrics.precision_recall_curve(y, p)
    assert stats.average_precision(y, p) == pytest.approx(metrics.average_precision_score(y, p))
    assert stats.pr_trapezoid(y, p) == pytest.approx(metrics.auc(recall, precision))
    # positive above negative above positive: steps 1/2 * 1 + 1/2 * 2/3; the trapezoid goes over (1/2, 1), (1/2, 1/2), (1, 2/3)
    assert stats.average_precision([1, 0, 1], [.9, .5, .1]) == pytest.approx(5 / 6)
    assert stats.pr_trapezoid([1, 0, 1], [.9, .5, .1]) == pytest.approx(1 / 2 + 7 / 24)
    # all tied: one step at the prevalence; the trapezoid from (0, 1) flatters
    assert stats.average_precision([1, 0, 0, 0], [.5] * 4) == .25 and stats.pr_trapezoid([1, 0, 0, 0], [.5] * 4) == .625
    assert np.isnan(stats.pr_trapezoid([0, 0], [.1, .2])) and np.isnan(stats.pr_trapezoid([], []))


@pytest.mark.parametrize("threshold", [.3, .5])
def test_calls_at_a_threshold_are_those_of_scikit_learn(cohort, threshold):
    y, p, _ = cohort
    called = p >= threshold
    assert stats.accuracy(y, p, threshold) == pytest.approx(metrics.accuracy_score(y, called))
    assert stats.f1(y, p, threshold) == pytest.approx(metrics.f1_score(y, called))
    assert stats.sensitivity(y, p, threshold) == pytest.approx(metrics.recall_score(y, called))
    assert stats.specificity(y, p, threshold) == pytest.approx(metrics.recall_score(1 - y, ~called))


def test_calls_where_a_class_is_missing():
    assert np.isnan(stats.accuracy([], [])) and np.isnan(stats.f1([0, 0], [.1, .2])) and stats.f1([0, 0], [.1, .9]) == 0
    assert np.isnan(stats.sensitivity([0, 0], [.1, .9])) and stats.specificity([0, 0], [.1, .9]) == .5
    assert np.isnan(stats.specificity([1, 1], [.1, .9])) and stats.sensitivity([1, 1], [.1, .5]) == .5   # the threshold is positive


def test_infinite_scores_tie_too():
    inf = float("inf")
    assert stats.auc([0, 1, 0, 1], [-inf, -inf, inf, inf]) == .5 and stats.auc([0, 1], [-inf, inf]) == 1


@needs_reference
def test_delong_on_aneurysm_data():
    table = pd.read_csv(REFERENCE / "aSAH.csv")
    y = (table.outcome == "Poor").astype(int)
    r = stats.delong(y, table.wfns, table.s100b)
    assert (r.auc_p, r.auc_q) == pytest.approx((.823678861789, .731368563686), abs=1e-11)
    assert (r.var_p, r.var_q) == pytest.approx((.00146991470882363, .00266868245717244), rel=1e-10)
    assert (r.z, r.p) == pytest.approx((2.20898359144091, .0271757822291882), rel=1e-10)
    assert stats.delong(y, table.ndka, table.s100b).var_p == pytest.approx(.0031908105493913, rel=1e-10)


def test_delong_by_hand():
    # Positives beat (1, 1, .5) and (1, 1, 1) of two negatives ...: components by counting pairs
    y, p = np.array([1, 1, 1, 0, 0]), np.array([3, 2, 1, 2, 0])
    over_neg, over_pos = np.array([1, .75, .5]), np.array([.5, 1])
    r = stats.delong(y, p, p)
    assert r.auc_p == pytest.approx(.75) and (r.z, r.p) == (0, 1)
    assert r.var_p == pytest.approx(over_neg.var(ddof=1) / 3 + over_pos.var(ddof=1) / 2)
    assert stats.delong(y, p, -p).z == pytest.approx(-stats.delong(y, -p, p).z)


def test_youden_picks_the_separating_threshold():
    assert stats.youden([0, 0, 1, 1], [.1, .4, .6, .9]) == (.6, 1, 1)
    assert stats.youden([0, 1, 0, 1], [.1, .4, .6, .9]) == (.9, .5, 1)     # of equals the highest


def test_concordance_of_the_lung_data():
    lifelines = pytest.importorskip("lifelines", reason="lifelines is in the test extra")
    from lifelines.datasets import load_lung
    lung = load_lung()[["time", "status", "age", "sex", "ph.ecog"]].dropna()
    risk = lifelines.CoxPHFitter().fit(lung, "time", "status").predict_partial_hazard(lung)
    assert stats.concordance(lung.time, lung.status, risk) == pytest.approx(.637135493, abs=1e-8)


def test_concordance_sign_censoring_and_ties():
    assert stats.concordance([1, 2, 3], [1, 1, 1], [3, 2, 1]) == 1          # higher risk, shorter time
    assert stats.concordance([1, 2, 3], [1, 1, 1], [5, 5, 5]) == .5
    assert stats.concordance([1, 2, 3], [0, 1, 0], [9, 2, 1]) == 1          # the first is censored: one pair left
    assert stats.concordance([2, 2], [1, 0], [2, 1]) == 1                   # censored later than the event of its time
    assert np.isnan(stats.concordance([2, 2], [1, 1], [2, 1])) and np.isnan(stats.concordance([], [], []))
    for bad in (([1, NAN], [1, 1], [1, 2]), ([1, 2], [1, NAN], [1, 2]), ([1, 2], [1, 2], [1, 2]), ([1, 2], [1], [1, 2])):
        with pytest.raises(Problem):
            stats.concordance(*bad)


# ---- intervals and comparisons -----------------------------------------------------------------------------------

def test_bootstrap_at_once_equals_one_by_one(cohort):
    y, p, patient = cohort
    fast = stats.bootstrap(stats.auc, y, p, patient, n=50)
    slow = stats.bootstrap(lambda y, p: stats.auc(y, p), y, p, patient, n=50)
    assert fast == pytest.approx(slow, abs=1e-12)
    assert fast.low < fast.value < fast.high and fast.value == stats.auc(y, p)


def test_bootstrap_does_not_see_the_order_of_patients(cohort):
    y, p, patient = cohort
    order = np.random.default_rng(1).permutation(len(y))
    assert stats.bootstrap(stats.auc, y, p, patient, n=200) == pytest.approx(
        stats.bootstrap(stats.auc, y[order], p[order], patient[order], n=200), abs=1e-12)


def test_bootstrap_by_patient_is_wider_when_rows_repeat(cohort):
    y, p, _ = cohort
    y, p, patient = np.tile(y, 4), np.tile(p, 4), np.tile(np.arange(len(y)), 4)
    width = lambda i: i.high - i.low
    by_row, by_patient = stats.bootstrap(stats.auc, y, p), stats.bootstrap(stats.auc, y, p, patient)
    assert width(by_patient) == pytest.approx(2 * width(by_row), rel=.15)   # 4 copies: sqrt(4)
    assert by_patient == stats.bootstrap(stats.auc, y, p, patient)
    assert by_patient != stats.bootstrap(stats.auc, y, p, patient, seed=1)


def test_bootstrap_covers_a_mean():
    values = np.random.default_rng(3).normal(size=400)
    i = stats.bootstrap(lambda y, p: p.mean(), np.zeros(400), values, n=2000)
    assert (i.high - i.low) == pytest.approx(2 * 1.96 * values.std() / 20, rel=.06)


def test_bootstrap_skips_and_counts_degenerate_resamples():
    i = stats.bootstrap(stats.auc, [0, 1], [.2, .8], n=1000)
    assert 400 < i.skipped < 600 and (i.low, i.high) == (1, 1)              # half of the draws hold one class
    assert np.isnan(stats.bootstrap(stats.auc, [1, 1], [.2, .8], n=10).low)
    for bad in (([], []), ([0, 1], [.1]), ([0, 1], [.1, .2], [1]), ([0, 1], [.1, .2], ["a", None]), ([0, 1], [.1, .2], [0, NAN])):
        with pytest.raises(Problem):
            stats.bootstrap(stats.auc, *bad)
    with pytest.raises(Problem):
        stats.bootstrap(stats.auc, [0, 1], [.1, .2], method="basic")


def test_bca_interval_is_that_of_scipy_on_the_same_resamples(cohort):
    y, p, patient = cohort
    names, group = np.unique(patient, return_inverse=True)
    draws = weighted.draws(len(names), 300)
    rows = lambda people: np.concatenate([np.flatnonzero(group == g) for g in people])
    metric = lambda y, p: stats.sensitivity(y, p, .4)
    of = lambda people: metric(y[rows(people)], p[rows(people)])
    resampled = np.array([of(np.repeat(np.arange(len(names)), d)) for d in draws])
    known = type("Known", (), {"bootstrap_distribution": resampled})
    theirs = dist.bootstrap((np.arange(len(names)),), of, n_resamples=0, method="BCa", vectorized=False, bootstrap_result=known)
    ours = stats.bootstrap(metric, y, p, patient, n=300, method="bca")
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-12)
    assert ours[1:3] != stats.bootstrap(metric, y, p, patient, n=300)[1:3]


def test_bca_at_once_equals_one_by_one_and_does_not_see_the_order(cohort):
    y, p, patient = cohort
    order, bca = np.random.default_rng(1).permutation(len(y)), dict(n=50, method="bca")
    fast = stats.bootstrap(stats.auc, y, p, patient, **bca)
    assert fast == pytest.approx(stats.bootstrap(lambda y, p: stats.auc(y, p), y, p, patient, **bca), abs=1e-12)
    assert fast == pytest.approx(stats.bootstrap(stats.auc, y[order], p[order], patient[order], **bca), abs=1e-12)


def test_bca_of_a_skewed_mean_leans_to_its_tail():
    values = np.random.default_rng(0).exponential(size=60)
    plain, bca = (stats.bootstrap(lambda y, p: p.mean(), np.zeros(60), values, method=m) for m in ("percentile", "bca"))
    assert bca.low > plain.low and bca.high > plain.high and bca.value == plain.value


def test_bca_without_spread_is_a_point_and_of_one_patient_nothing():
    assert stats.bootstrap(stats.auc, [0, 0, 1, 1], [.1, .2, .8, .9], method="bca")[:3] == (1, 1, 1)
    assert np.isnan(stats.bootstrap(stats.auc, [0, 1], [.2, .8], ["a", "a"], method="bca")[1:3]).all()
    assert stats.bootstrap(stats.auc, [0, 1], [.2, .8], ["a", "a"])[:3] == (1, 1, 1)


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


def test_mcnemar_and_kappa_refuse_what_is_missing():
    for call in (lambda: stats.mcnemar([0, 1], [0, 1], [0]), lambda: stats.mcnemar([0, NAN], [0, 1], [0, 1]),
                 lambda: stats.kappa([0, 1], [0]), lambda: stats.kappa([0, NAN], [0, 1]), lambda: stats.kappa([0, 1], [1, 0], "cubic"),
                 lambda: stats.kappa([0., .5], [.5, 0.], "quadratic")):
        with pytest.raises(Problem):
            call()


def test_weighted_kappa():
    counts = np.array([[7, 7, 2, 3], [2, 8, 3, 7], [1, 5, 4, 9], [2, 8, 9, 14]])
    a, b = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices((4, 4)))
    assert stats.kappa(a, b) == pytest.approx(.12933, abs=1e-5)
    assert stats.kappa(a, b, "linear") == pytest.approx(.237381, abs=1e-6)
    assert stats.kappa(a, b, "quadratic") == pytest.approx(.332046, abs=1e-6)


def test_kappa_keeps_the_distance_of_a_grade_nobody_gave():
    a, b = [0, 1, 3, 3, 0], [0, 3, 3, 1, 1]
    # quadratic kappa = 1 - observed / expected squared distance, with the true grades 0, 1, 3
    observed, expected = np.mean(np.subtract(a, b) ** 2), np.mean(np.subtract.outer(a, b) ** 2)
    assert stats.kappa(a, b, "quadratic") == pytest.approx(1 - observed / expected)
    assert np.isnan(stats.kappa([1, 1], [1, 1])) and np.isnan(stats.kappa([], []))


def test_corrections_for_many_tests():
    assert stats.bonferroni([.01, .2, NAN, .6]) == pytest.approx([.03, .6, NAN, 1], nan_ok=True)
    assert stats.holm([.01, .04, .03, .005]) == pytest.approx([.03, .06, .06, .02])   # 3x, 1x kept at .06, 2x, 4x
    assert stats.holm([.5, NAN, .5]) == pytest.approx([1, NAN, 1], nan_ok=True)


def test_mean_sd():
    assert stats.mean_sd([1, 2, 3, NAN])[:3] == (2, 1, 3)
    assert str(stats.mean_sd([.5])) == "0.500" and str(stats.mean_sd([])) == "–" and str(stats.mean_sd([0, 1])) == "0.500 ± 0.707"


def test_domain_gap():
    assert stats.domain_gap(.9, .8) == pytest.approx(.1) and stats.domain_gap(.7, .8) < 0 and np.isnan(stats.domain_gap(NAN, .8))


# ---- what must not change an answer ------------------------------------------------------------------------------

ON_SCORES = {"auc": stats.auc, "average precision": stats.average_precision, "trapezoid": stats.pr_trapezoid, "accuracy": stats.accuracy,
             "f1": stats.f1, "sensitivity": stats.sensitivity, "specificity": stats.specificity, "youden": stats.youden,
             "delong": lambda y, p: stats.delong(y, p, p ** 2 - p), "mcnemar": lambda y, p: stats.mcnemar(y, p > .3, p > .6),
             "kappa": lambda y, p: stats.kappa((3 * p).astype(int), 2 * y, "quadratic"),
             "concordance": lambda y, p: stats.concordance(p, y, -p ** 2),
             "silhouette": lambda y, p: stats.silhouette(np.column_stack([p, p ** 2]), y),
             "davies_bouldin": lambda y, p: stats.davies_bouldin(np.column_stack([p, p ** 2]), y),
             "pairs": lambda y, p: stats.intra_pair_similarity(np.column_stack([p, y]), np.column_stack([y, p])),
             "gap": lambda y, p: stats.modality_gap(np.column_stack([p, y]), np.column_stack([y, 2 * p]))}


@pytest.mark.parametrize("name", ON_SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_cases_does_not_matter(name, seed, cohort):
    y, p, _ = cohort
    order = np.random.default_rng(seed).permutation(len(y))
    assert ON_SCORES[name](y[order], p[order]) == pytest.approx(ON_SCORES[name](y, p), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["auc", "average precision", "trapezoid"])
def test_only_the_order_of_the_scores_matters(name, cohort):
    y, p, _ = cohort
    assert ON_SCORES[name](y, np.exp(5 * p) - 3) == pytest.approx(ON_SCORES[name](y, p))
    assert stats.auc(y, -p) == pytest.approx(1 - stats.auc(y, p)) and stats.auc(1 - y, p) == pytest.approx(1 - stats.auc(y, p))


def test_a_resample_draws_as_many_patients_as_there_are_each_alike():
    """Counts of n draws from n patients: mean 1, variance 1 - 1/n, by the closed form of the multinomial."""
    drawn = weighted.draws(20, 20_000)
    assert drawn.shape == (20_000, 20) and (drawn.sum(1) == 20).all()
    assert np.allclose(drawn.mean(0), 1, atol=0.03) and np.allclose(drawn.var(0), 1 - 1 / 20, atol=0.04)
