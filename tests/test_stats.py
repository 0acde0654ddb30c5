"""stats: published values, closed forms, libraries beside ours, and what must not change an answer."""
import doctest
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as dist

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics import calibration, comparisons, miscalibration, ordering, weighted

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


@pytest.mark.parametrize("module", [stats, weighted, calibration, comparisons, miscalibration, ordering])
def test_the_examples_in_the_docstrings_are_true(module):
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed


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


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_in_parts_is_that_at_once(cohort, method, monkeypatch):
    y, p, patient = cohort
    at_once = stats.bootstrap(stats.auc, y, p, patient, n=50, method=method)
    for module in (stats, weighted):
        monkeypatch.setattr(module, "AT_ONCE", 200)
    assert stats.bootstrap(stats.auc, y, p, patient, n=50, method=method) == at_once


def test_bca_of_many_patients_leaves_some_out_at_a_time(monkeypatch):
    """The mean of 3,000: by blocks of 3 and one by one the interval is the same but for .1 of its width."""
    values = np.random.default_rng(0).exponential(size=3000)
    blocks = stats.bootstrap(mean_score, np.zeros(3000), values, method="bca", n=500)
    assert len(np.concatenate(list(stats._all_but_some(3000)))) == 1000
    monkeypatch.setattr(stats, "LEFT_OUT", 3000)
    one_by_one = stats.bootstrap(mean_score, np.zeros(3000), values, method="bca", n=500)
    assert blocks[1:3] == pytest.approx(one_by_one[1:3], abs=.1 * width(one_by_one))


def test_bootstrap_of_many_rows_needs_no_table_of_all_draws():
    """1,000 resamples of 200,000 patients would be 1.6 GB; here 60 of them, in two parts."""
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    y = rng.random(200_000) < p
    tracemalloc.start()
    interval = stats.bootstrap(stats.auc, y, p, n=60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6
    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(5 / 6, abs=.004), "by integration, as positives are as likely as p"


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


# ---- small things ----------------------------------------------------------------------------------------

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


def test_the_mean_auc_counts_decided_rows_of_domains_with_both_labels():
    y = [0, 1, NAN, 0, 1, 1, 1, 1]
    p = [0.1, 0.9, 0.5, 0.7, 0.3, 0.3, 0.4, 0.5]
    domains = ["a", "a", "a", "b", "b", "b", "c", "c"]
    assert stats.mean_auc(y, p, domains) == 0.5                  # 1 in a, 0 in b, none in c
    assert np.isnan(stats.mean_auc([1, 1], [0.2, 0.3], ["a", "a"]))
