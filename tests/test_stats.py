"""stats and readers: published values, closed forms, and what must not change an answer."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from xmodal import stats
from xmodal.config import Problem

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
    assert np.isnan(stats.ece([], [])) and np.isnan(stats.net_benefit([], [], 0.2))
    for y, p in [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, NAN]), ([0, NAN], [0.1, 0.2])]:
        with pytest.raises(Problem):
            stats.auc(y, p)


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
    assert np.isnan(stats.concordance([2, 2], [1, 1], [2, 1]))


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
    with pytest.raises(Problem):
        stats.bootstrap(stats.auc, [], [])


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


# ---- calibration, usefulness, embeddings, overlap ----------------------------------------------------------------

def test_calibration_error():
    p, y = [.25, .25, .55, .75, .75], [0, 0, 1, 1, 1]
    assert stats.ece(y, p, bins=2) == pytest.approx(.29)
    r = stats.reliability(y, p, bins=2)
    assert np.abs(r.observed - r.predicted).max() == pytest.approx(.3167, abs=1e-4)
    assert list(r.count) == [2, 3] and np.isnan(stats.reliability([1], [.9], bins=2).observed[0])
    assert stats.ece([0, 1], [0., 1.]) == 0                                 # 1 belongs to the last bin
    with pytest.raises(Problem):
        stats.ece([0, 1], [-2., 3.])


def test_net_benefit_of_treating_all_and_none():
    y = np.repeat([1, 0], [14, 86])
    assert stats.net_benefit(y, np.ones(100), .25) == pytest.approx(-.1466667, abs=1e-7)
    assert stats.net_benefit(y, np.zeros(100), [.1, .25]) == pytest.approx([0, 0])
    assert stats.net_benefit(y, y, [.1, .5]) == pytest.approx([.14, .14])
    with pytest.raises(Problem):
        stats.net_benefit(y, y, 1)


def test_embedding_measures():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20, 5))
    assert stats.intra_pair_similarity(z, 3 * z) == pytest.approx(1) and stats.intra_pair_similarity(z, -z) == pytest.approx(-1)
    assert stats.modality_gap(z, 2 * z) == pytest.approx(0)
    assert stats.modality_gap([[1, 0]], [[-3, 0]]) == pytest.approx(2)
    tight = np.repeat([[0, 0], [10, 0]], 5, axis=0) + rng.normal(size=(10, 2)) * .01
    labels = np.repeat([0, 1], 5)
    assert stats.silhouette(tight, labels) > .99 and stats.davies_bouldin(tight, labels) < .01
    assert np.isnan(stats.silhouette(tight, np.zeros(10))) and np.isnan(stats.davies_bouldin(tight, np.arange(10)))


def test_overlap():
    assert stats.iou([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    assert stats.iou([0, 0, 1, 1], [2, 2, 3, 3]) == 0 and np.isnan(stats.iou([NAN] * 4, [0, 0, 1, 1]))
    assert stats.iou(np.zeros((3, 4)), np.ones((3, 4))).shape == (3,)
    assert stats.dice([1, 1, 0], [0, 1, 1]) == .5 and np.isnan(stats.dice([0, 0], [0, 0]))
    assert stats.domain_gap(.9, .8) == pytest.approx(.1)


# ---- reader studies ----------------------------------------------------------------------------------------------

@needs_reference
def test_obuchowski_rockette_on_van_dyke():
    r = stats.obuchowski_rockette(pd.read_csv(REFERENCE / "VanDyke.csv").rename(columns={"treatment": "modality"}))
    assert (r.var, r.cov1, r.cov2, r.cov3) == pytest.approx((.00080229, .00034661, .00034407, .00023903), abs=5e-9)
    assert (r.f, r.df, r.p) == pytest.approx((4.4563, 15.26, .05167), rel=1e-3)
    assert r.difference == pytest.approx(-.04380032, abs=1e-8)
    assert (r.low, r.high) == pytest.approx((-.08796, .00036), abs=1e-5)


def reader_study(noise=1., seed=0, cases=30):
    rng = np.random.default_rng(seed)
    grid = pd.MultiIndex.from_product([range(3), list("AB"), range(cases)], names=["reader", "modality", "case"]).to_frame(index=False)
    grid["truth"] = grid.case % 2
    return grid.assign(rating=grid.truth + noise * rng.normal(size=len(grid)).round(1))


def test_obuchowski_rockette_in_small():
    frame = reader_study()
    auc = frame.groupby(["modality", "reader"])[["truth", "rating"]].apply(lambda g: stats.auc(g.truth, g.rating)).unstack()
    r = stats.obuchowski_rockette(frame)
    assert r.difference == pytest.approx(auc.loc["A"].mean() - auc.loc["B"].mean())
    # covariances from the definition: (n - 1)^2 / n times the covariance of the leave-one-case-out AUCs
    left = np.array([[[stats.auc(g.truth, g.rating) for c in range(30) for g in [frame[(frame.modality == m) & (frame.reader == k)
                     & (frame.case != c)]]] for k in range(3)] for m in "AB"]).reshape(6, 30)
    assert r.var == pytest.approx(np.diag(np.cov(left)).mean() * 29 ** 2 / 30)
    assert r.p == pytest.approx(stats.obuchowski_rockette(frame.sample(frac=1, random_state=1)).p)


def test_obuchowski_rockette_never_subtracts_error():
    """F by its definition, from mean squares by hand; Cov2 - Cov3 counts only where it is positive."""
    signs = set()
    for seed in range(6):
        frame = reader_study(seed=seed)
        cells = frame.groupby(["modality", "reader"])[["truth", "rating"]].apply(lambda g: stats.auc(g.truth, g.rating)).unstack().to_numpy()
        gap, r = cells[0] - cells[1], stats.obuchowski_rockette(frame)
        ms_t, ms_tr = 3 * gap.mean() ** 2 / 2, gap.var(ddof=1) / 2
        error = ms_tr + 3 * max(r.cov2 - r.cov3, 0)
        assert r.f == pytest.approx(ms_t / error) and r.df == pytest.approx(2 * (error / ms_tr) ** 2)
        assert r.high - r.difference == pytest.approx(t.ppf(.975, r.df) * np.sqrt(2 * error / 3))
        signs.add(r.cov2 > r.cov3)
    assert signs == {True, False}


def test_obuchowski_rockette_refuses_holes():
    frame = reader_study()
    for bad in (frame.iloc[1:], frame.drop(columns="case"), frame.assign(truth=0), pd.concat([frame, frame.iloc[:1]])):
        with pytest.raises(Problem):
            stats.obuchowski_rockette(bad)
    same = frame.assign(rating=frame.truth)                                 # everyone perfect: no error to test against
    assert np.isnan(stats.obuchowski_rockette(same).p)


def test_froc_score():
    fp, tp = [.8, .6], [1, 1, 0, 0, .8, .8, 0]
    assert stats.froc_score(fp, tp, 4, 2) == pytest.approx(.95833333, abs=1e-8)
    assert stats.froc_score(fp, tp, 4, 2, at=.25) == .75
    assert stats.froc_score([], [.9, 0], 2, 5) == .5 and np.isnan(stats.froc_score([], [], 0, 1))
