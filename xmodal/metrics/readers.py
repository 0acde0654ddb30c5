"""Reader studies: several readers reading the same cases, compared as Obuchowski and Rockette do.

The figure of merit of a reader is the mean of a table (M, N): how each diseased case fared against each
healthy one, from 0 to 1. For ratings that is the area under the ROC curve, for marks on images the weighted
alternative free-response one (wAFROC).
"""
from typing import NamedTuple

import numpy as np
from scipy import stats as dist

from ..config import Problem
from .inputs import numbers, zero_or_one

COLUMNS = ("reader", "modality", "case", "truth", "rating")
ROUNDING = 1e-12    # what is smaller beside a figure of merit, or a variance, is no difference


class ObuchowskiRockette(NamedTuple):
    f: float            # F statistic of "the modalities have the same mean figure of merit"
    df: float           # its denominator degrees of freedom; the numerator's are modalities - 1
    p: float
    difference: float   # mean merit of the first modality (in sorted order) - that of the second
    low: float          # 95 % interval of the difference
    high: float
    var: float          # covariances of the merits over cases: same reader, same modality
    cov1: float         # same reader, other modality
    cov2: float         # other reader, same modality
    cov3: float         # other reader, other modality


def wins(diseased, healthy):
    """(..., M) and (..., N) ratings -> (..., M, N): 1 where the diseased case is rated higher, ties 1/2, else
    0."""
    diseased = numbers(diseased, "Ratings")[..., None]
    healthy = numbers(healthy, "Ratings")[..., None, :]
    return (diseased > healthy) + 0.5 * (diseased == healthy)


def wafroc_wins(lesions, healthy, weights):
    """The table (..., M, N) whose mean is the wAFROC figure of merit (Chakraborty and Zhai 2016).

    lesions: (..., M, L) ratings of the lesions of each diseased case, -inf where there was no mark (or no
    lesion); healthy: (..., N) highest rating of a mark on each healthy case, -inf without marks; weights: (M,
    L) of the lesions, with sum 1 over a case, 0 for no lesion. Marks beside the lesions of a diseased case do
    not count. Raises `Problem` for NaN and other sums.
    """
    lesions = numbers(lesions, "Ratings")
    healthy = numbers(healthy, "Ratings")
    weights = numbers(weights, "Weights")
    if np.isnan(lesions).any() or np.isnan(healthy).any() or lesions.shape[-2:] != weights.shape:
        raise Problem(f"Ratings {lesions.shape} and weights {weights.shape} do not go together, or hold NaN; "
                      "-inf says unmarked.")
    if (weights < 0).any() or not np.allclose(weights.sum(1), 1):
        raise Problem("The weights of the lesions of a case are not negative and sum to 1.")
    return sum(weights[:, k, None] * wins(lesions[..., k], healthy) for k in range(weights.shape[1]))


# ---- the comparison ------------------------------------------------------------------------------------

def _jackknife(table):
    """(M, N) -> (M + N,) figures of merit, each with one case left out."""
    diseased, healthy = table.shape
    total = table.sum()
    without_diseased = (total - table.sum(1)) / ((diseased - 1) * healthy)
    without_healthy = (total - table.sum(0)) / (diseased * (healthy - 1))
    return np.concatenate([without_diseased, without_healthy])


def _covariances(tables):
    """(T, R, M, N) -> Var, Cov1, Cov2, Cov3 of the figures of merit, by jackknife over cases."""
    modalities, readers, diseased, healthy = tables.shape
    cases = diseased + healthy
    merits = [_jackknife(table) for of_modality in tables for table in of_modality]
    cov = np.cov(merits) * (cases - 1) ** 2 / cases
    modality, reader = np.divmod(np.arange(modalities * readers), readers)
    same_modality = modality[:, None] == modality
    same_reader = reader[:, None] == reader
    masks = (same_modality & same_reader, ~same_modality & same_reader,
             same_modality & ~same_reader, ~same_modality & ~same_reader)
    return [float(cov[mask].mean()) for mask in masks]


def _mean_squares(merit):
    """(T, R) figures of merit -> the mean square of modalities, and that of modalities times readers."""
    modalities, readers = merit.shape
    by_modality = merit.mean(1, keepdims=True)
    by_reader = merit.mean(0, keepdims=True)
    grand = merit.mean()
    of_modality = readers * ((by_modality - grand) ** 2).sum() / (modalities - 1)
    interaction = ((merit - by_modality - by_reader + grand) ** 2).sum() / ((modalities - 1) * (readers - 1))
    return of_modality, interaction if interaction > ROUNDING ** 2 else 0.0


def _excess(larger, smaller, scale):
    """larger - smaller, or 0 where that is negative or rounding beside `scale`."""
    excess = larger - smaller
    return excess if excess > ROUNDING * scale else 0.0


def _error_and_df(interaction, covariances, shape, random):
    """The error term of F and its degrees of freedom, from (T, R) `shape`; what varies is `random`."""
    modalities, readers = shape
    var, cov1, cov2, cov3 = covariances
    between_readers = _excess(cov2, cov3, var)
    if random == "cases":
        return _excess(var, cov1, var) + (readers - 1) * between_readers, np.inf
    if random == "readers":
        error = interaction
    elif random == "readers and cases":
        error = interaction + readers * between_readers
    else:
        raise Problem(f'Random are "readers and cases", "cases" or "readers", not {random!r}.')
    if interaction == 0:                                        # all readers differ alike between modalities
        return error, np.inf
    return error, error ** 2 / (interaction ** 2 / ((modalities - 1) * (readers - 1)))


def compare_readers(tables, random="readers and cases"):
    """`ObuchowskiRockette` of modalities by a figure of merit. tables: (T, R, M, N), one (M, N) per modality
    and reader.

    random: what the answer is to hold beyond this study: "readers and cases" (F, Hillis 2007), "cases" (these
    readers only: df is inf and f * (T - 1) is chi squared), or "readers" (these cases only: F on (T - 1)(R -
    1)). Cov2 - Cov3 enters as max(., 0). Where all readers have the same difference, its variance comes from
    the cases alone: df is inf. Where nothing varies, so that there is no error to test against: nan. Raises
    `Problem` for NaN, or fewer than two of anything.
    """
    tables = numbers(tables, "Tables")
    if tables.ndim != 4 or min(tables.shape) < 2 or not np.isfinite(tables).all():
        raise Problem(f"Tables {tables.shape} must be (modalities, readers, diseased, healthy) cases, "
                      "at least two of each, without NaN.")
    merit = tables.mean((2, 3))
    modalities, readers = merit.shape
    covariances = _covariances(tables)
    of_modality, interaction = _mean_squares(merit)
    error, df = _error_and_df(interaction, covariances, merit.shape, random)
    by_modality = merit.mean(1)
    difference = float(by_modality[0] - by_modality[1])
    if not error > 0:                                                       # readers agree to the last digit
        return ObuchowskiRockette(np.nan, np.nan, np.nan, difference, np.nan, np.nan, *covariances)
    f = of_modality / error
    half = dist.t.ppf(0.975, df) * np.sqrt(2 * error / readers)
    if df == np.inf:
        p = dist.chi2.sf(f * (modalities - 1), modalities - 1)
    else:
        p = dist.f.sf(f, modalities - 1, df)
    return ObuchowskiRockette(float(f), float(df), float(p), difference,
                              float(difference - half), float(difference + half), *covariances)


# ---- ratings -------------------------------------------------------------------------------------------

def _ratings(frame):
    """Tidy ratings -> (modalities, readers, cases) ratings, and (cases,) booleans: which are diseased.

    `Problem` unless every reader read every case in every modality.
    """
    missing = set(COLUMNS) - set(frame.columns)
    if missing:
        raise Problem(f"The reader table has no column {sorted(missing)[0]!r}; "
                      "it needs reader, modality, case, truth and rating.")
    truth = numbers(frame["truth"], "The truth")
    frame = frame.assign(truth=truth, rating=numbers(frame["rating"], "Ratings"))
    if frame[list(COLUMNS)].isna().any(axis=None) or not zero_or_one(truth):
        raise Problem("The reader table holds NaN, or a truth that is not 0 or 1; "
                      "name every reader, modality and case, and drop what was not rated in all of them.")
    cube = frame.pivot_table(index=["modality", "reader"], columns="case", values="rating", aggfunc="mean")
    cube = cube.sort_index()
    sizes = [len(level) for level in cube.index.levels]
    twice = frame.duplicated(["modality", "reader", "case"]).any()
    if len(cube) != np.prod(sizes) or cube.isna().any(axis=None) or twice:
        raise Problem("The reader table is not fully crossed; "
                      "give every reader, modality and case exactly one rating.")
    truth = frame.groupby("case")["truth"].agg(["min", "max"]).loc[cube.columns]
    diseased = truth["max"].sum()
    healthy = (truth["max"] == 0).sum()
    if (truth["min"] != truth["max"]).any() or min(diseased, healthy, *sizes) < 2:
        raise Problem("The reader table needs one truth for each case, two cases of each kind, "
                      "two readers and two modalities.")
    return cube.to_numpy().reshape(*sizes, -1), truth["max"].to_numpy().astype(bool)


def obuchowski_rockette(frame, random="readers and cases"):
    """Multi-reader multi-case comparison of modalities by empirical AUC.

    frame: one row per rating, columns reader, modality, case, truth (0/1), rating (higher: more suspicious);
    fully crossed. random: see `compare_readers`. Covariances by jackknife over cases; `difference` compares
    the first two modalities. Raises `Problem` where a column or a rating is missing. Source: Obuchowski &
    Rockette 1995; Hillis 2007, 2014.
    """
    ratings, truth = _ratings(frame)
    return compare_readers(wins(ratings[..., truth], ratings[..., ~truth]), random)
