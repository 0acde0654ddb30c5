"""Reader studies: several readers reading the same cases, compared as Obuchowski and Rockette do. Used through `stats`.

The figure of merit of a reader is the mean of a table (M, N): how each diseased case fared against each healthy one, from 0 to 1.
For ratings that is the area under the ROC curve, for marks on images the weighted alternative free-response one (wAFROC).
"""
from typing import NamedTuple

import numpy as np
from scipy import stats as dist

from ..config import Problem

NAN = float("nan")


class ObuchowskiRockette(NamedTuple):
    f: float            # F statistic of "the modalities have the same mean figure of merit"
    df: float           # its denominator degrees of freedom; the numerator's are modalities - 1
    p: float
    difference: float   # mean merit of the first modality - of the second (in sorted order), with its 95 % interval
    low: float
    high: float
    var: float          # covariances of the merits over cases: same reader, same modality
    cov1: float         # same reader, other modality
    cov2: float         # other reader, same modality
    cov3: float         # other reader, other modality


def wins(diseased, healthy):
    """(..., M) and (..., N) ratings -> (..., M, N): 1 where the diseased case is rated higher, 1/2 where equal, else 0."""
    diseased, healthy = np.asarray(diseased, float)[..., None], np.asarray(healthy, float)[..., None, :]
    return (diseased > healthy) + 0.5 * (diseased == healthy)


def wafroc_wins(lesions, healthy, weights):
    """The table (..., M, N) whose mean is the wAFROC figure of merit (Chakraborty and Zhai 2016).

    lesions: (..., M, L) ratings of the lesions of each diseased case, -inf where there was no mark (or no lesion); healthy: (..., N)
    highest rating of a mark on each healthy case, -inf without marks; weights: (M, L) of the lesions, 1 in sum over a case, 0 for no
    lesion. Marks beside the lesions of a diseased case do not count. Raises `Problem` for NaN and other sums.
    """
    lesions, healthy, weights = (np.asarray(x, float) for x in (lesions, healthy, weights))
    if np.isnan(lesions).any() or np.isnan(healthy).any() or lesions.shape[-2:] != weights.shape:
        raise Problem(f"Ratings {lesions.shape} and weights {weights.shape} do not go together, or hold NaN; -inf says unmarked.")
    if (weights < 0).any() or not np.allclose(weights.sum(1), 1):
        raise Problem("The weights of the lesions of a case are not negative and sum to 1.")
    return sum(weights[:, l, None] * wins(lesions[..., l], healthy) for l in range(weights.shape[1]))


def _jackknife(table):
    """(M, N) -> (M + N,) figures of merit, each with one case left out."""
    (m, n), total = table.shape, table.sum()
    return np.concatenate([(total - table.sum(1)) / ((m - 1) * n), (total - table.sum(0)) / (m * (n - 1))])


def _covariances(tables):
    """(T, R, M, N) -> Var, Cov1, Cov2, Cov3 of the figures of merit, by jackknife over cases."""
    T, R, m, n = tables.shape
    cases = m + n
    cov = np.cov([_jackknife(table) for row in tables for table in row]) * (cases - 1) ** 2 / cases
    modality, reader = np.divmod(np.arange(T * R), R)
    same_m, same_r = modality[:, None] == modality, reader[:, None] == reader
    masks = same_m & same_r, ~same_m & same_r, same_m & ~same_r, ~same_m & ~same_r
    return [float(cov[mask].mean()) for mask in masks]


def compare_readers(tables, random="readers and cases"):
    """`ObuchowskiRockette` of modalities by a figure of merit. tables: (T, R, M, N), one (M, N) a modality and reader.

    random: what the answer is to hold beyond this study: "readers and cases" (F, Hillis 2007), "cases" (these readers only: df is inf
    and f * (T - 1) is chi squared), or "readers" (these cases only: F on (T - 1)(R - 1)). Cov2 - Cov3 enters as max(., 0). Where nothing
    varies, so that there is no error to test against: nan. Raises `Problem` for NaN, or under two of anything.
    """
    tables = np.asarray(tables, float)
    if tables.ndim != 4 or min(tables.shape) < 2 or np.isnan(tables).any():
        raise Problem(f"Tables {tables.shape} must be (modalities, readers, diseased, healthy) cases, at least two of each, without NaN.")
    theta, (T, R) = tables.mean((2, 3)), tables.shape[:2]
    var, cov1, cov2, cov3 = _covariances(tables)
    by_t, by_r, grand = theta.mean(1, keepdims=True), theta.mean(0, keepdims=True), theta.mean()
    ms_t = R * ((by_t - grand) ** 2).sum() / (T - 1)
    ms_tr = ((theta - by_t - by_r + grand) ** 2).sum() / ((T - 1) * (R - 1))
    df = (T - 1) * (R - 1)
    if random == "cases":
        error, df = var - cov1 + (R - 1) * max(cov2 - cov3, 0.0), np.inf
    elif random in ("readers", "readers and cases"):
        error = ms_tr + (R * max(cov2 - cov3, 0.0) if random != "readers" else 0.0)
        df = error ** 2 / (ms_tr ** 2 / df) if ms_tr > 0 else NAN
    else:
        raise Problem(f'Random are "readers and cases", "cases" or "readers", not {random!r}.')
    difference = float(by_t[0, 0] - by_t[1, 0])
    if not error > 0 or np.isnan(df):                                       # readers agree to the last digit
        return ObuchowskiRockette(NAN, NAN, NAN, difference, NAN, NAN, var, cov1, cov2, cov3)
    f, half = ms_t / error, dist.t.ppf(0.975, df) * np.sqrt(2 * error / R)
    p = dist.chi2.sf(f * (T - 1), T - 1) if df == np.inf else dist.f.sf(f, T - 1, df)
    return ObuchowskiRockette(*map(float, (f, df, p, difference, difference - half, difference + half, var, cov1, cov2, cov3)))


def _ratings(frame):
    """Tidy ratings -> (modalities, readers, cases) ratings and (cases,) booleans; `Problem` unless fully crossed."""
    missing = {"reader", "modality", "case", "truth", "rating"} - set(frame.columns)
    if missing:
        raise Problem(f"The reader table has no column {sorted(missing)[0]!r}; it needs reader, modality, case, truth and rating.")
    cube = frame.pivot_table(index=["modality", "reader"], columns="case", values="rating", aggfunc="mean").sort_index()
    truth = frame.groupby("case")["truth"].agg(["min", "max"]).loc[cube.columns]
    sizes = [len(level) for level in cube.index.levels]
    if len(cube) != np.prod(sizes) or cube.isna().any(axis=None) or frame.duplicated(["modality", "reader", "case"]).any():
        raise Problem("The reader table is not fully crossed; give every reader, modality and case exactly one rating.")
    if (truth["min"] != truth["max"]).any() or truth["max"].sum() < 2 or (truth["max"] == 0).sum() < 2 or min(sizes) < 2:
        raise Problem("The reader table needs one truth a case, two cases of each kind, two readers and two modalities.")
    return cube.to_numpy().reshape(*sizes, -1), truth["max"].to_numpy().astype(bool)


def obuchowski_rockette(frame, random="readers and cases"):
    """Multi-reader multi-case comparison of modalities by empirical AUC.

    frame: a row a rating, columns reader, modality, case, truth (0/1), rating (higher: more suspicious); fully crossed.
    random: see `compare_readers`. Covariances by jackknife over cases; `difference` compares the first two modalities.
    Raises `Problem` where a column or a rating is missing. Source: Obuchowski & Rockette 1995; Hillis 2007, 2014.
    """
    ratings, truth = _ratings(frame)
    return compare_readers(wins(ratings[..., truth], ratings[..., ~truth]), random)
