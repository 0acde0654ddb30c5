"""ordering: pairs counted one by one, a library beside ours, and memory that does not grow with the pairs."""
import tracemalloc

import numpy as np
import pytest

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics import ordering, survival

NAN = float("nan")


def one_by_one(time, event, risk):
    """For each event the number of its pairs, and of those in order: every pair looked at."""
    pairs, in_order = [], []
    for i in np.flatnonzero(event):
        outlived = (time > time[i]) | ((time == time[i]) & ~event)
        pairs.append(outlived.sum())
        in_order.append((risk[outlived] < risk[i]).sum() + (risk[outlived] == risk[i]).sum() / 2)
    return pairs, in_order


@pytest.mark.parametrize("n", [1, 2, 3, 8, 61])
@pytest.mark.parametrize("values", [2, 6, 1000])
def test_pairs_are_those_counted_one_by_one(n, values):
    """Of few values most are tied, of many none is."""
    for seed in range(4):
        rng = np.random.default_rng([seed, n, values])
        time, risk = rng.integers(values, size=(2, n)).astype(float)
        event = rng.random(n) < 0.6
        counted = ordering.pairs_of_events(time, event, risk)
        np.testing.assert_array_equal(counted, one_by_one(time, event, risk))


def test_infinite_times_and_risks_are_ordered_too():
    inf = float("inf")
    assert stats.concordance([1, 2, inf], [1, 1, 0], [inf, 0, -inf]) == 1
    assert stats.concordance([1, 2, inf], [1, 1, 0], [inf, inf, inf]) == .5


def test_a_hundred_thousand_patients_fit_in_a_hundred_megabytes():
    """The pairs would need 10^10 numbers."""
    rng = np.random.default_rng(0)
    n = 100_000
    risk = rng.normal(size=n)
    time = np.ceil(100 * rng.exponential(np.exp(-risk)))
    event = (rng.random(n) < 0.5).astype(int)
    tracemalloc.start()
    harrell = stats.concordance(time, event, risk)
    uno = survival.uno(time, event, risk, tau=np.quantile(time, 0.9))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    some = slice(2000)
    assert harrell == pytest.approx(stats.concordance(time[some], event[some], risk[some]), abs=0.02)
    assert 0.6 < uno < 0.8


# ---- concordance ---------------------------------------------------------------------------------------

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
