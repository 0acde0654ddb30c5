"""Statistics: numpy in, small named results out; intervals by resampling patients.

Scores are higher for class 1. Undefined results (one class only, nothing to compare) are nan; NaN or
ill-shaped input raises `Problem`. The measures of the wing `metrics` can be called from here too: no other
file passes on names.
"""
# ruff: noqa: F401
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats as dist

from .config import Problem
from .metrics.calibration import (
    binary,
    brier,
    brier_parts,
    case_benefit,
    conformal_sets,
    conformal_threshold,
    decision_curve,
    ece,
    ece_shift,
    integrated_net_benefit,
    net_benefit,
    numbers,
    plain,
    reliability,
    temperature,
)
from .metrics.detection import box_average_precision, dice, free_response, froc, froc_score, iou
from .metrics.embeddings import davies_bouldin, intra_pair_similarity, modality_gap, silhouette, unit
from .metrics.readers import compare_readers, obuchowski_rockette, wafroc_wins
from .metrics.weighted import (
    accuracy,
    auc,
    auc_by_group,
    average_precision,
    draws,
    f1,
    kappa,
    pr_trapezoid,
    sensitivity,
    specificity,
    youden,
)

# ---- discrimination ------------------------------------------------------------------------------------

class DeLong(NamedTuple):
    z: float
    p: float            # two-sided
    auc_p: float
    auc_q: float
    var_p: float
    var_q: float


def delong(y, p, q):
    """Compares the AUCs of two scores on the same cases (DeLong 1988).

    y: (N,) 0/1; p, q: (N,) scores. Equal scores: z 0, p 1. Fewer than two cases of a class: nan.

    >>> test = delong([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9], [0.1, 0.6, 0.4, 0.9])
    >>> f"{test.auc_p:.2f} against {test.auc_q:.2f}, z {test.z:.2f}, p {test.p:.2f}"
    '1.00 against 0.75, z 0.71, p 0.48'
    """
    y, p = binary(y, p)
    y, q = binary(y, q)
    positives, negatives = y.sum(), (~y).sum()
    if min(positives, negatives) < 2:
        return DeLong(*[np.nan] * 6)
    scores = np.column_stack([p, q])
    ranks = dist.rankdata(scores, axis=0)                           # equal scores share their mean rank
    ranks_of_positives = dist.rankdata(scores[y], axis=0)
    ranks_of_negatives = dist.rankdata(scores[~y], axis=0)
    negatives_below = (ranks[y] - ranks_of_positives) / negatives   # for each positive, their share
    positives_above = 1 - (ranks[~y] - ranks_of_negatives) / positives
    auc_p, auc_q = negatives_below.mean(0)
    covariance = np.cov(negatives_below.T) / positives + np.cov(positives_above.T) / negatives
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance > 1e-15:
        z = (auc_p - auc_q) / np.sqrt(variance)
    else:
        z = 0.0 if auc_p == auc_q else np.nan
    p_value = 2 * dist.norm.sf(abs(z))
    return DeLong(float(z), float(p_value), float(auc_p), float(auc_q), covariance[0, 0], covariance[1, 1])


def concordance(time, event, risk):
    """Harrell's C: of the pairs whose order of events is known, the share in which the earlier had the higher
    risk.

    time: (N,) any unit; event: (N,) 1 seen, 0 censored; risk: (N,) higher means an earlier event. Equal risks
    count 1/2. A censoring at the time of an event is later than it; two events at one time are no pair. No
    pair: nan.

    >>> concordance(time=[1, 2, 3], event=[1, 1, 0], risk=[0.9, 0.2, 0.5])
    0.6666666666666666
    """
    time, event, risk = numbers(time, "Times"), plain(event), numbers(risk, "Risks")
    one_shape = time.shape == event.shape == risk.shape and time.ndim == 1
    if not one_shape or np.isnan(time).any() or np.isnan(risk).any():
        raise Problem("time, event and risk must have one shape and no NaN; drop the incomplete rows.")
    if not np.isin(event, (0, 1)).all():
        raise Problem("An event is 1 (seen) or 0 (censored); drop the rows where that is open or NaN.")
    event = event.astype(bool)
    outlived = (time[:, None] < time) | ((time[:, None] == time) & ~event)
    comparable = event[:, None] & outlived
    score = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    return float(score[comparable].mean()) if comparable.any() else np.nan


# ---- intervals and comparisons -------------------------------------------------------------------------

class Interval(NamedTuple):
    value: float        # on the data as they are
    low: float          # 95 % interval
    high: float
    skipped: int        # resamples without a value (say, of one class only), left out of the percentiles


def _numbered(groups, rows):
    """The sorted names of the groups, and for each of the rows the number of its group."""
    groups = np.asarray(groups)
    if groups.shape != (rows,) or pd.isna(groups).any():
        raise Problem("Give the patient of every row, without NaN.")
    return np.unique(groups, return_inverse=True)


def _on_resamples(metric, y, p, group, counts):
    """metric(y, p) with the rows of group g taken counts[b, g] times: (B, G) -> (B,)."""
    if metric is auc:                           # the same numbers, for many resamples at once
        truth, scores = binary(y, p, runs=True)
        runs = scores.reshape(len(y), -1).T
        return np.mean([auc_by_group(truth, run, group, counts) for run in runs], axis=0)
    values = []
    for count in counts:
        rows = np.repeat(np.arange(len(y)), count[group])
        values.append(metric(y[rows], p[rows]))
    return np.array(values, float)


def _bca(value, resampled, left_out):
    """(2,) percentiles that correct for bias and for a spread that changes with the value (Efron 1987).

    value: on the data; resampled: (n,) on the resamples; left_out: (G,) without one group each.
    """
    share_below = ((resampled < value) + 0.5 * (resampled == value)).mean()
    bias = special.ndtri(share_below)
    gaps = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    skew = (gaps ** 3).sum() / (6 * (gaps ** 2).sum() ** 1.5) if gaps.any() else 0.0
    shifted = bias + special.ndtri([0.025, 0.975])
    return 100 * special.ndtr(bias + shifted / (1 - skew * shifted))


def bootstrap(metric, y, p, groups=None, n=1000, seed=42, method="percentile"):
    """95 % interval of metric(y, p) from n resamples, with replacement, of whole groups.

    y: (N,), p: (N, ...); groups: (N,) patient of each row (None: every row by itself). The draw follows the
    sorted group names, so the order of the rows does not matter. method: "percentile" (2.5th and 97.5th), or
    "bca", bias-corrected and accelerated by leaving out one group at a time. Undefined on every resample, or
    with "bca" as given, for one group or beyond all resamples: nan. No rows, a row without a patient:
    `Problem`.

    >>> bootstrap(auc, [0, 1, 0, 1], [0.1, 0.4, 0.3, 0.2], groups=["a", "a", "b", "b"], n=100)
    Interval(value=0.75, low=0.0, high=1.0, skipped=0)
    """
    y, p = plain(y), plain(p)
    if len(y) == 0 or len(y) != len(p):
        raise Problem(f"Cannot resample {len(y)} labels and {len(p)} scores; "
                      "give one score for each label, and at least one.")
    if n < 1 or method not in ("percentile", "bca"):
        raise Problem('Give at least one resample, and the method "percentile" or "bca".')
    names, group = _numbered(np.arange(len(y)) if groups is None else groups, len(y))
    value = float(metric(y, p))
    values = _on_resamples(metric, y, p, group, draws(len(names), n, seed))
    values = values[~np.isnan(values)]
    percentiles = np.array([2.5, 97.5])
    if method == "bca" and len(values):
        percentiles = np.full(2, np.nan)
        if len(names) > 1:
            all_but_one = 1 - np.eye(len(names), dtype=int)
            percentiles = _bca(value, values, _on_resamples(metric, y, p, group, all_but_one))
    skipped = int(n - len(values))
    if skipped == n or np.isnan(percentiles).any():
        return Interval(value, np.nan, np.nan, skipped)
    low, high = np.percentile(values, percentiles)
    return Interval(value, float(low), float(high), skipped)


class McNemar(NamedTuple):
    statistic: float    # chi squared with one degree of freedom; the smaller discordant count if exact
    p: float


def mcnemar(y, a, b, exact=False, correction=True):
    """Do two classifiers err equally often? y, a, b: (N,) true labels and two predictions.

    No disagreement: 0, p 1.

    >>> mcnemar(y=[1, 1, 1, 1, 1], a=[1, 1, 1, 1, 0], b=[0, 0, 0, 0, 1], exact=True)
    McNemar(statistic=1.0, p=0.375)
    """
    y, a, b = map(plain, (y, a, b))
    if not (y.shape == a.shape == b.shape) or pd.isna([y, a, b]).any():
        raise Problem("y, a and b must have one shape and no NaN: "
                      "for each case its true label and two predictions.")
    only_a_right = int(((a == y) & (b != y)).sum())
    only_b_right = int(((a != y) & (b == y)).sum())
    discordant = only_a_right + only_b_right
    if exact:
        p = float(dist.binomtest(only_a_right, discordant).pvalue) if discordant else 1.0
        return McNemar(float(min(only_a_right, only_b_right)), p)
    gap = max(abs(only_a_right - only_b_right) - bool(correction), 0)   # equal counts give 0, also corrected
    statistic = gap ** 2 / discordant if discordant else 0.0
    return McNemar(float(statistic), float(dist.chi2.sf(statistic, 1)))


def bonferroni(p):
    """(K,) p-values -> adjusted by the number of tests that are not NaN, at most 1."""
    p = numbers(p, "p-values")
    return np.minimum(p * (~np.isnan(p)).sum(), 1.0)


def holm(p):
    """(K,) p-values -> adjusted by Holm's step-down rule (1979); NaN stays NaN and is not counted.

    >>> holm([0.5, 0.125, 0.25]).tolist()
    [0.5, 0.375, 0.5]
    """
    p = numbers(p, "p-values")
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    tests_left = np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * tests_left), 1.0)
    return adjusted


class MeanSD(NamedTuple):
    mean: float
    sd: float           # sample standard deviation (n - 1); nan for one value
    n: int

    def __str__(self):
        if not self.n:
            return "–"
        return f"{self.mean:.3f} ± {self.sd:.3f}" if self.n > 1 else f"{self.mean:.3f}"


def mean_sd(values):
    """Mean and sample standard deviation of the values that are not NaN."""
    values = numbers(values, "Values")
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else np.nan
    sd = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    return MeanSD(mean, sd, len(values))


def domain_gap(source_auc, target_auc):
    """How much AUC is lost on the way to the target; negative where the target is the easier one.

    Where either AUC is NaN: NaN.
    """
    return numbers(source_auc, "AUCs") - numbers(target_auc, "AUCs")
