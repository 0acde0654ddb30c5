"""Statistics: numpy in, small named results out; intervals by resampling patients.

Scores are higher for class 1. Undefined results (one class only, nothing to compare) are nan; NaN or
ill-shaped input raises `Problem`. The measures of the wing `metrics` can be called from here too: no other
file passes on names.
"""
# ruff: noqa: F401
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from .config import Problem
from .metrics.calibration import (
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
    reliability,
    temperature,
)
from .metrics.comparisons import bonferroni, delong, holm, mcnemar, paired_mean
from .metrics.detection import box_average_precision, dice, free_response, froc, froc_score, iou
from .metrics.embeddings import davies_bouldin, intra_pair_similarity, modality_gap, silhouette, unit
from .metrics.inputs import binary, numbers, patients, plain
from .metrics.miscalibration import debiased_ece
from .metrics.ordering import concordance
from .metrics.readers import compare_readers, obuchowski_rockette, wafroc_wins
from .metrics.weighted import (
    AT_ONCE,
    accuracy,
    auc,
    auc_by_group,
    average_precision,
    draws,
    draws_in_parts,
    f1,
    kappa,
    pr_trapezoid,
    sensitivity,
    specificity,
    youden,
)


class Interval(NamedTuple):
    value: float        # on the data as they are
    low: float          # 95 % interval
    high: float
    skipped: int        # resamples without a value (say, of one class only), left out of the percentiles


LEFT_OUT = 1000     # more groups than that are left out some at a time


def _all_but_some(groups):
    """Parts (B, G) of 1, with 0 where a group is left out: each of G in turn, or of many some neighbours."""
    left_out = np.array_split(np.arange(groups), min(groups, LEFT_OUT))
    at_once = max(1, AT_ONCE // groups)
    for start in range(0, len(left_out), at_once):
        part = left_out[start:start + at_once]
        counts = np.ones((len(part), groups), int)
        for row, some in enumerate(part):
            counts[row, some] = 0
        yield counts


def _on_resamples(metric, y, p, group, counts):
    """metric(y, p) with the rows of group g taken counts[b, g] times: parts (B, G) -> (all B,)."""
    return np.concatenate([_on_part(metric, y, p, group, part) for part in counts])


def _on_part(metric, y, p, group, counts):
    """`_on_resamples` of one part (B, G): (B,)."""
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
    "bca", bias-corrected and accelerated by leaving out one group at a time, or of more than 1,000 groups one
    part in 1,000. Undefined on every resample, or
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
    names, group = patients(np.arange(len(y)) if groups is None else groups, len(y))
    value = float(metric(y, p))
    values = _on_resamples(metric, y, p, group, draws_in_parts(len(names), n, seed))
    values = values[~np.isnan(values)]
    percentiles = np.array([2.5, 97.5])
    if method == "bca" and len(values):
        percentiles = np.full(2, np.nan)
        if len(names) > 1:
            percentiles = _bca(value, values, _on_resamples(metric, y, p, group, _all_but_some(len(names))))
    skipped = int(n - len(values))
    if skipped == n or np.isnan(percentiles).any():
        return Interval(value, np.nan, np.nan, skipped)
    low, high = np.percentile(values, percentiles)
    return Interval(value, float(low), float(high), skipped)


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


def mean_auc(y, p, domains):
    """The mean over domains of the AUC of probabilities p (N,). Rows whose label is open (y NaN) and
    domains with patients of one class do not count."""
    table = pd.DataFrame({"y": y, "p": np.asarray(p), "domain": np.asarray(domains)}).dropna(subset="y")
    return float(pd.Series([auc(d.y, d.p) for _, d in table.groupby("domain")], dtype=float).mean())
