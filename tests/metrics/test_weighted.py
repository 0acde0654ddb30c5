"""weighted: a measure of weighted rows is the plain one of rows repeated as often as their weights say."""
import numpy as np
import pandas as pd
import pytest

from xmodal import stats
from xmodal.metrics import weighted


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


def test_the_weighted_calibration_error_is_the_plain_one_of_repeated_rows(rows):
    y, p, _, w = rows
    measured = weighted.calibration_error(y, p, w)
    assert_same_as_plain(measured, lambda y, p: stats.ece(y, p, weighted.BINS), y, p, w)


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
