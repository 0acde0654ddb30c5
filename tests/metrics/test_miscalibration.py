"""miscalibration: coverage by simulation, closed forms, patients as the units."""
import numpy as np
import pytest

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics.miscalibration import CalibrationError, debiased_ece, shift

BINS = 10


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# slope and shift of the true log odds over those that the model says
TRUTHS = {"calibrated": (1, 0), "too sure": (0.5, 0), "not sure enough": (2, 0), "too high": (1, -1)}


def cases(truth, people, images, seed):
    """Labels and probabilities of people with some images each; the images of one share what decides."""
    rng = np.random.default_rng([seed, people, images])
    x = rng.normal(0, 1.5, (people, 1)) + 0.5 * rng.normal(size=(people, images))
    slope, moved = TRUTHS[truth]
    y = rng.random((people, 1)) < sigmoid(slope * x + moved)
    return y.ravel().astype(int), sigmoid(x).ravel(), np.repeat(np.arange(people), images)


def true_error(truth, images):
    """The calibration error over the bins, of a quarter of a million people."""
    return 0.0 if truth == "calibrated" else stats.ece(*cases(truth, 250_000, images, 99)[:2], bins=BINS)


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("people, images", [(60, 1), (300, 1), (100, 4)])
def test_the_interval_covers_the_truth(truth, people, images):
    """100 studies each: at least 90 of 100 where 95 are meant is within what chance does (p .01)."""
    true = true_error(truth, images)
    covered, estimates, plain = [], [], []
    for seed in range(100):
        error = debiased_ece(*cases(truth, people, images, seed), bins=BINS)
        assert 0 <= error.low <= error.value <= error.high <= 1 and error.value <= error.plain
        covered.append(error.low <= true <= error.high)
        estimates.append(error.value)
        plain.append(error.plain)
    assert np.mean(covered) >= 0.90
    if truth == "calibrated":
        assert np.mean(estimates) < 0.5 * np.mean(plain), "most of what chance adds is gone"


def test_a_percentile_bootstrap_of_the_plain_error_leaves_the_truth_out():
    for seed in range(10):
        y, p, patient = cases("calibrated", 150, 1, seed)
        assert stats.bootstrap(stats.ece, y, p, patient, n=100).low > 0


def test_the_plain_error_is_the_old_one_and_large_gaps_lose_nothing():
    y = np.repeat([1, 0], [900, 100])
    p = np.full(1000, 0.25)
    error = debiased_ece(y, p)
    assert error.plain == pytest.approx(stats.ece(y, p)) and error.value == pytest.approx(0.65, abs=1e-6)
    half = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert (error.value - error.low, error.high - error.value) == pytest.approx((half, half), rel=0.1)


def test_copies_of_a_patient_are_no_news():
    y, p, patient = cases("too high", 80, 1, 5)
    once = debiased_ece(y, p, patient)
    copies = debiased_ece(np.repeat(y, 3), np.repeat(p, 3), np.repeat(patient, 3))
    assert copies == pytest.approx(once)
    runs = debiased_ece(y, np.column_stack([p, p]), patient)
    assert runs == pytest.approx(once, rel=0.1), "two runs that say the same are one"
    assert debiased_ece(np.repeat(y, 3), np.repeat(p, 3)).high < once.high, "copies as if they were news"


def test_domains_are_measured_apart_as_together_their_errors_cancel():
    """p = .5 at sites of prevalence .2 and .8."""
    y = np.repeat([1, 0, 1, 0], [40, 160, 160, 40])
    p = np.full(400, 0.5)
    site = np.repeat([0, 1], 200)
    assert debiased_ece(y, p).value == 0
    for each in (0, 1):
        assert debiased_ece(y[site == each], p[site == each]).value == pytest.approx(0.3, abs=1e-6)
    assert debiased_ece(y, p, runs=site).value == pytest.approx(0.3, abs=1e-6)


def test_runs_in_columns_are_runs_in_rows():
    y, p, patient = cases("too sure", 60, 2, 3)
    other = cases("too high", 60, 2, 3)[1][::-1]
    columns = debiased_ece(y, np.column_stack([p, other]), patient)
    rows = debiased_ece(np.tile(y, 2), np.append(p, other), np.tile(patient, 2), runs=np.repeat([0, 1], 120))
    assert columns == pytest.approx(rows)
    assert columns.plain == pytest.approx((stats.ece(y, p) + stats.ece(y, other)) / 2)


def test_the_order_of_the_cases_does_not_matter():
    y, p, patient = cases("too sure", 100, 4, 1)
    order = np.random.default_rng(1).permutation(len(y))
    assert debiased_ece(y[order], p[order], patient[order]) == pytest.approx(debiased_ece(y, p, patient))


def test_a_shift_is_the_difference_and_its_interval_covers():
    source, target = CalibrationError(.05, .02, .09, .08), CalibrationError(.20, .14, .28, .22)
    moved = shift(source, target)
    assert moved.value == pytest.approx(.15)
    assert moved.low == pytest.approx(.15 - np.hypot(.06, .04))
    assert moved.high == pytest.approx(.15 + np.hypot(.08, .03))
    true = true_error("too high", 1)
    covered = []
    for seed in range(100):
        source = debiased_ece(*cases("calibrated", 200, 1, seed), bins=BINS)
        target = debiased_ece(*cases("too high", 100, 1, 1000 + seed), bins=BINS)
        moved = shift(source, target)
        covered.append(moved.low <= true <= moved.high)
    assert np.mean(covered) >= 0.90


def test_of_no_cases_or_one_patient_there_is_no_error():
    assert np.isnan(debiased_ece([], [])).all()
    assert np.isnan(debiased_ece([0, 1], [.2, .8], ["a", "a"])).all()
    for y, p, groups in (([0, 1], [-1, 2], None), ([0, 2], [.1, .2], None), ([0, 1], [.1, .2], ["a", None])):
        with pytest.raises(Problem):
            debiased_ece(y, p, groups)
