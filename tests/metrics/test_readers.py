"""readers: published studies, definitions written out, and what must not change an answer."""
import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, t
from test_stats import REFERENCE, needs_reference

from xmodal import stats
from xmodal.config import Problem

NAN = float("nan")


def van_dyke():
    return pd.read_csv(REFERENCE / "VanDyke.csv").rename(columns={"treatment": "modality"})


@needs_reference
def test_obuchowski_rockette_on_van_dyke():
    r = stats.obuchowski_rockette(van_dyke())
    covariances = (.00080229, .00034661, .00034407, .00023903)
    assert (r.var, r.cov1, r.cov2, r.cov3) == pytest.approx(covariances, abs=5e-9)
    assert (r.f, r.df, r.p) == pytest.approx((4.4563, 15.26, .05167), rel=1e-3)
    assert r.difference == pytest.approx(-.04380032, abs=1e-8)
    assert (r.low, r.high) == pytest.approx((-.08796, .00036), abs=1e-5)


@needs_reference
def test_fixed_readers_and_fixed_cases_on_van_dyke():
    readers_fixed = stats.obuchowski_rockette(van_dyke(), random="cases")
    assert readers_fixed.f == pytest.approx(5.47595, abs=1e-5)
    assert readers_fixed.p == pytest.approx(.0193, abs=5e-5)
    cases_fixed = stats.obuchowski_rockette(van_dyke(), random="readers")
    assert (cases_fixed.f, cases_fixed.df) == pytest.approx((8.70, 4), abs=5e-3)
    assert cases_fixed.p == pytest.approx(.0420, abs=5e-5)
    for r in (readers_fixed, cases_fixed):                      # the interval leaves 0 out, as p says
        assert r.high < 0 and r.difference == pytest.approx(-.04380032, abs=1e-8)


def dataset01():
    """RJafroc's dataset01, 2 modalities x 5 readers.

    Lesions (2, 5, 89, 2), healthy (2, 5, 96), weights (89, 2).
    """
    outside = pd.read_csv(REFERENCE / "ds01_NL.txt", sep=" ")
    on_lesions = pd.read_csv(REFERENCE / "ds01_LL.txt", sep=" ")
    weights = pd.read_csv(REFERENCE / "ds01_w.txt", sep=" ")
    healthy = np.full((2, 5, 96), -np.inf)
    for m, r, case, _, rating in outside.itertuples(index=False):
        if case <= 96:
            healthy[m - 1, r - 1, case - 1] = max(healthy[m - 1, r - 1, case - 1], rating)
    lesions = np.full((2, 5, 89, 2), -np.inf)
    for m, r, case, lesion, rating in on_lesions.itertuples(index=False):
        lesions[m - 1, r - 1, case - 1, lesion - 1] = rating
    return lesions, healthy, weights.replace(-np.inf, 0).to_numpy()


@needs_reference
def test_free_response_study_of_tomosynthesis():
    tables = stats.wafroc_wins(*dataset01())
    merits = np.array([[.760270365, .840619148, .817152388, .815308989, .827832397],
                       [.642585440, .704997659, .751843399, .772442650, .683696161]])
    assert tables.mean((2, 3)) == pytest.approx(merits, abs=1e-9)
    r = stats.compare_readers(tables)
    assert (r.f, r.df, r.p) == pytest.approx((10.298825, 24.702758, .0036685784), rel=1e-6)


def test_one_lesion_a_case_makes_wafroc_an_auc():
    rng = np.random.default_rng(0)
    diseased = rng.integers(1, 6, 30)
    healthy = rng.integers(0, 5, 20)
    table = stats.wafroc_wins(diseased[:, None], healthy, np.ones((30, 1)))
    auc = stats.auc(np.repeat([1, 0], [30, 20]), np.concatenate([diseased, healthy]))
    assert table.mean() == pytest.approx(auc)


def test_wafroc_by_hand():
    """Two lesions weighing 1/4 and 3/4, the second unmarked.

    Of two healthy cases one is marked at the rating of the first lesion, one unmarked.
    """
    unmarked = -np.inf
    table = stats.wafroc_wins([[3, unmarked]], [3, unmarked], [[.25, .75]])
    assert table.tolist() == [[.125, .25 + .375]], "unmarked against unmarked is a tie"


@pytest.mark.parametrize("lesions, healthy, weights", [
    ([[3, NAN]], [3], [[.25, .75]]), ([[3, 1]], [NAN], [[.25, .75]]), ([[3, 1]], [3], [[.25, .25]]),
    ([[3, 1]], [3], [[1.5, -.5]]), ([[3, 1]], [3], [[1.]])])
def test_wafroc_refuses_bad_ratings_and_weights(lesions, healthy, weights):
    with pytest.raises(Problem):
        stats.wafroc_wins(lesions, healthy, weights)


def reader_study(noise=1., seed=0, cases=30):
    rng = np.random.default_rng(seed)
    names = ["reader", "modality", "case"]
    grid = pd.MultiIndex.from_product([range(3), list("AB"), range(cases)], names=names)
    grid = grid.to_frame(index=False)
    grid["truth"] = grid.case % 2
    return grid.assign(rating=grid.truth + noise * rng.normal(size=len(grid)).round(1))


def aucs(frame):
    """The AUC of each modality (rows) and reader (columns)."""
    by_reader = frame.groupby(["modality", "reader"])[["truth", "rating"]]
    return by_reader.apply(lambda group: stats.auc(group.truth, group.rating)).unstack()


def test_obuchowski_rockette_in_small():
    """Var by its definition: (n - 1)^2 / n times the variance of the leave-one-case-out AUCs."""
    frame = reader_study()
    auc = aucs(frame)
    r = stats.obuchowski_rockette(frame)
    assert r.difference == pytest.approx(auc.loc["A"].mean() - auc.loc["B"].mean())
    left_out = [aucs(frame[frame.case != case]).to_numpy().ravel() for case in range(30)]
    assert r.var == pytest.approx(np.var(left_out, axis=0, ddof=1).mean() * 29 ** 2 / 30)
    assert r.p == pytest.approx(stats.obuchowski_rockette(frame.sample(frac=1, random_state=1)).p)


def test_obuchowski_rockette_never_subtracts_error():
    """F by its definition, from mean squares by hand; Cov2 - Cov3 counts only where it is positive."""
    signs = set()
    for seed in range(6):
        frame = reader_study(seed=seed)
        auc = aucs(frame)
        gap = (auc.loc["A"] - auc.loc["B"]).to_numpy()
        r = stats.obuchowski_rockette(frame)
        ms_t = 3 * gap.mean() ** 2 / 2
        ms_tr = gap.var(ddof=1) / 2
        error = ms_tr + 3 * max(r.cov2 - r.cov3, 0)
        assert r.f == pytest.approx(ms_t / error) and r.df == pytest.approx(2 * (error / ms_tr) ** 2)
        assert r.high - r.difference == pytest.approx(t.ppf(.975, r.df) * np.sqrt(2 * error / 3))
        signs.add(r.cov2 > r.cov3)
    assert signs == {True, False}


def test_obuchowski_rockette_refuses_holes():
    frame = reader_study()
    twice = pd.concat([frame, frame.iloc[:1]])
    for bad in (frame.iloc[1:], frame.drop(columns="case"), frame.assign(truth=0), twice):
        with pytest.raises(Problem):
            stats.obuchowski_rockette(bad)
    with pytest.raises(Problem):
        stats.obuchowski_rockette(frame, random="everything")
    for bad in (np.ones((2, 3, 4)), np.ones((2, 1, 4, 4)), np.full((2, 3, 4, 4), NAN)):
        with pytest.raises(Problem):
            stats.compare_readers(bad)


@pytest.mark.parametrize("column, value", [
    ("reader", NAN), ("modality", None), ("case", NAN), ("truth", NAN), ("rating", NAN), ("truth", 2),
    ("truth", "ill"), ("rating", "high")])
def test_who_has_no_name_or_no_truth_is_not_left_out_in_silence(column, value):
    frame = reader_study().astype({column: object})
    frame.loc[frame.reader == 2, column] = value
    with pytest.raises(Problem):
        stats.obuchowski_rockette(frame)
    single = reader_study().astype({column: object})
    single.loc[0, column] = value
    with pytest.raises(Problem):
        stats.obuchowski_rockette(single)


def test_nullable_columns_are_read():
    frame = reader_study()
    nullable = frame.convert_dtypes().astype({"truth": "Int64"})
    assert stats.obuchowski_rockette(nullable) == stats.obuchowski_rockette(frame)


def equal_differences(readers=4, gap=0.1):
    """Tables of two modalities, the second better by `gap` for each of the readers alike."""
    rng = np.random.default_rng(0)
    case = rng.random((12, 15))
    own = 0.2 * rng.random((readers, 12, 15))
    own -= own.mean((1, 2), keepdims=True)
    first = case + own
    better = 0.3 * rng.random((12, 15))
    return np.stack([first, first + better - better.mean() + gap])


def test_where_all_readers_differ_alike_the_cases_alone_are_the_error():
    """MS(modality) = R gap^2 / 2 over R (Cov2 - Cov3): chi squared with one degree of freedom."""
    r = stats.compare_readers(equal_differences())
    assert r.cov2 > r.cov3 and r.difference == pytest.approx(-0.1) and r.df == np.inf
    assert r.f == pytest.approx(0.1 ** 2 / 2 / (r.cov2 - r.cov3))
    assert r.p == pytest.approx(chi2.sf(r.f, 1))
    assert (r.low + r.high) / 2 == pytest.approx(-0.1) and (r.p < .05) == (r.high < 0)
    readers = stats.compare_readers(equal_differences(), random="readers")
    assert np.isnan(readers.p), "nothing varies among the readers, so that rounding is no error term"
    near = equal_differences()
    near[1, 0] += 1e-4
    assert stats.compare_readers(near).p == pytest.approx(r.p, rel=0.01)


@pytest.mark.parametrize("random", ["readers and cases", "cases", "readers"])
def test_two_modalities_that_are_the_same_cannot_be_told_apart(random):
    same = equal_differences()[[0, 0]]
    r = stats.compare_readers(same, random=random)
    assert r.difference == 0 and not r.p < 1


@pytest.mark.parametrize("random", ["readers and cases", "cases", "readers"])
def test_where_everyone_is_perfect_there_is_no_error_to_test_against(random):
    frame = reader_study()
    perfect = frame.assign(rating=frame.truth)
    assert np.isnan(stats.obuchowski_rockette(perfect, random=random).p)


@pytest.mark.parametrize("random", ["readers and cases", "cases", "readers"])
def test_order_of_the_ratings_does_not_matter_and_modalities_change_sign(random):
    frame = reader_study()
    r = stats.obuchowski_rockette(frame, random)
    assert stats.obuchowski_rockette(frame.sample(frac=1, random_state=3), random) == pytest.approx(r)
    other_way_round = frame.assign(modality=frame.modality.map({"A": "B", "B": "A"}))
    swapped = stats.obuchowski_rockette(other_way_round, random)
    assert (swapped.p, swapped.difference, swapped.low) == pytest.approx((r.p, -r.difference, -r.high))
