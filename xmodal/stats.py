"""Statistics: numpy in, small named results out; intervals by resampling patients. Scores are higher for class 1.

Undefined results (one class only, nothing to compare) are nan; NaN or ill-shaped input raises `Problem`. The names of
`calibration`, `detection`, `embeddings` and `readers` are here too.
"""
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats as dist

from .config import Problem
from .metrics.calibration import (  # noqa: F401
    NAN, binary, brier, brier_parts, case_benefit, conformal_sets, conformal_threshold, decision_curve, ece,
    ece_shift, integrated_net_benefit, net_benefit, reliability, temperature,
)
from .metrics.detection import box_average_precision, dice, free_response, froc, froc_score, iou  # noqa: F401
from .metrics.embeddings import davies_bouldin, intra_pair_similarity, modality_gap, silhouette, unit  # noqa: F401
from .metrics.readers import compare_readers, obuchowski_rockette, wafroc_wins  # noqa: F401
from .metrics.weighted import auc, auc_by_group, average_precision, draws, kappa  # noqa: F401


# ---- discrimination ----------------------------------------------------------------------------------------------

def pr_trapezoid(y, p):
    """Area under the precision-recall curve by the trapezoid rule, which is too high between few scores. Without positives: nan."""
    from sklearn.metrics import precision_recall_curve
    y, p = binary(y, p)
    if not y.any():
        return NAN
    precision, recall, _ = precision_recall_curve(y, p)
    return float(-np.trapezoid(precision, recall))


def _called(y, p, threshold):
    y, p = binary(y, p)
    return y, p >= threshold


def accuracy(y, p, threshold=0.5):
    """Share of the cases on the right side of the threshold; positive means p >= threshold. No cases: nan."""
    y, called = _called(y, p, threshold)
    return float((y == called).mean()) if len(y) else NAN


def f1(y, p, threshold=0.5):
    """Harmonic mean of precision and sensitivity, 2 TP / (2 TP + FP + FN). No positives, neither true nor called: nan."""
    y, called = _called(y, p, threshold)
    return float(2 * (y & called).sum() / (y.sum() + called.sum())) if y.any() or called.any() else NAN


def sensitivity(y, p, threshold=0.5):
    """Share of the positives with p >= threshold. Without positives: nan."""
    y, called = _called(y, p, threshold)
    return float(called[y].mean()) if y.any() else NAN


def specificity(y, p, threshold=0.5):
    """Share of the negatives with p < threshold. Without negatives: nan."""
    y, called = _called(y, p, threshold)
    return float((~called[~y]).mean()) if not y.all() else NAN


class DeLong(NamedTuple):
    z: float
    p: float            # two-sided
    auc_p: float
    auc_q: float
    var_p: float
    var_q: float


def delong(y, p, q):
    """Compares the AUCs of two scores on the same cases (DeLong 1988). Equal scores: z 0, p 1. Under two of a class: nan."""
    (y, p), (_, q) = binary(y, p), binary(y, q)
    scores = np.column_stack([p, q])
    m, n = y.sum(), (~y).sum()
    if min(m, n) < 2:
        return DeLong(*[NAN] * 6)
    ranks = lambda rows: dist.rankdata(scores[rows], axis=0)                # midranks
    everyone = ranks(slice(None))
    over_neg = (everyone[y] - ranks(y)) / n                                 # share of negatives below each positive
    over_pos = 1 - (everyone[~y] - ranks(~y)) / m                           # share of positives above each negative
    a, b = over_neg.mean(0)
    cov = np.cov(over_neg.T) / m + np.cov(over_pos.T) / n
    spread = cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]
    z = (a - b) / np.sqrt(spread) if spread > 1e-15 else (0.0 if a == b else NAN)
    return DeLong(float(z), float(2 * dist.norm.sf(abs(z))), float(a), float(b), cov[0, 0], cov[1, 1])


class Youden(NamedTuple):
    threshold: float    # positive means p >= threshold
    sensitivity: float
    specificity: float


def youden(y, p):
    """The threshold with the largest sensitivity + specificity - 1; of equals the highest threshold. One class only: nan."""
    y, p = binary(y, p)
    if y.all() or not y.any():
        return Youden(NAN, NAN, NAN)
    thresholds = np.unique(p)[::-1]
    sensitivity = (p[y] >= thresholds[:, None]).mean(1)
    specificity = (p[~y] < thresholds[:, None]).mean(1)
    best = np.argmax(np.round(sensitivity + specificity, 12))
    return Youden(float(thresholds[best]), float(sensitivity[best]), float(specificity[best]))


def concordance(time, event, risk):
    """Harrell's C: of the pairs whose order of events is known, the share in which the earlier had the higher risk.

    time: (N,) any unit; event: (N,) 1 seen, 0 censored; risk: (N,) higher means an earlier event. Equal risks count 1/2.
    A censoring at the time of an event is later than it; two events at one time are no pair. No pair: nan.
    """
    time, event, risk = np.asarray(time, float), np.asarray(event), np.asarray(risk, float)
    if not (time.shape == event.shape == risk.shape and time.ndim == 1) or np.isnan(time).any() or np.isnan(risk).any():
        raise Problem("time, event and risk must have one shape and no NaN; drop the incomplete rows.")
    if not np.isin(event, (0, 1)).all():
        raise Problem("An event is 1 (seen) or 0 (censored); drop the rows where that is open or NaN.")
    event = event.astype(bool)
    first = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    score = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    return float(score[first].mean()) if first.any() else NAN


# ---- intervals and comparisons -----------------------------------------------------------------------------------

class Interval(NamedTuple):
    value: float        # on the data as they are
    low: float          # 95 % interval
    high: float
    skipped: int        # resamples on which the metric is not defined (say, one class only); left out of the percentiles


def _over(metric, y, p, group, counts):
    """metric(y, p) with group g taken counts[b, g] times: (B, G) -> (B,)."""
    if metric is auc:                                                       # the same numbers, many resamples at once
        truth, scores = binary(y, p, runs=True)
        return np.mean([auc_by_group(truth, column, group, counts) for column in scores.reshape(len(y), -1).T], axis=0)
    return np.array([metric(y[rows], p[rows]) for rows in (np.repeat(np.arange(len(y)), c[group]) for c in counts)], float)


def _bca(value, resampled, left_out):
    """(2,) percentiles of the resamples that correct for bias and for a spread that changes with the value (Efron 1987)."""
    bias = special.ndtri(((resampled < value) + 0.5 * (resampled == value)).mean())
    gaps = np.nanmean(left_out) - left_out[~np.isnan(left_out)]             # one group left out; undefined: not counted
    skew = (gaps ** 3).sum() / (6 * (gaps ** 2).sum() ** 1.5) if gaps.any() else 0.0
    shifted = bias + special.ndtri([0.025, 0.975])
    return 100 * special.ndtr(bias + shifted / (1 - skew * shifted))


def bootstrap(metric, y, p, groups=None, n=1000, seed=42, method="percentile"):
    """95 % interval of metric(y, p) from n resamples, with replacement, of whole groups.

    y: (N,), p: (N, ...); groups: (N,) patient of each row (None: every row by itself). The draw follows the sorted
    group names, so the order of the rows does not matter. method: "percentile" (2.5th and 97.5th), or "bca",
    bias-corrected and accelerated by leaving out one group at a time. Undefined on every resample, or with "bca" as
    given, for one group or beyond all resamples: nan. No rows, a row without a patient: `Problem`.
    """
    y, p = np.asarray(y), np.asarray(p)
    if len(y) == 0 or len(y) != len(p):
        raise Problem(f"Cannot resample {len(y)} labels and {len(p)} scores; give one score a label, and at least one.")
    groups = np.arange(len(y)) if groups is None else np.asarray(groups)
    if groups.shape != y.shape[:1] or pd.isna(groups).any() or n < 1 or method not in ("percentile", "bca"):
        raise Problem('Give every row the patient it is of, at least one resample, and the method "percentile" or "bca".')
    names, group = np.unique(groups, return_inverse=True)
    value, values, at = float(metric(y, p)), _over(metric, y, p, group, draws(len(names), n, seed)), np.array([2.5, 97.5])
    good = values[~np.isnan(values)]
    if method == "bca" and len(good):
        at = _bca(value, good, _over(metric, y, p, group, 1 - np.eye(len(names), dtype=int))) if len(names) > 1 else at * NAN
    low, high = np.percentile(good, at) if len(good) and np.isfinite(at).all() else (NAN, NAN)
    return Interval(value, float(low), float(high), int(n - len(good)))


class McNemar(NamedTuple):
    statistic: float    # chi squared with one degree of freedom; the smaller discordant count if exact
    p: float


def mcnemar(y, a, b, exact=False, correction=True):
    """Do two classifiers err equally often? y, a, b: (N,) true labels and two predictions. No disagreement: 0, p 1."""
    y, a, b = map(np.asarray, (y, a, b))
    if not (y.shape == a.shape == b.shape) or pd.isna([y, a, b]).any():
        raise Problem("y, a and b must have one shape and no NaN: a true label and two predictions a case.")
    only_a, only_b = int(((a == y) & (b != y)).sum()), int(((a != y) & (b == y)).sum())
    total = only_a + only_b
    if exact:
        return McNemar(float(min(only_a, only_b)), float(dist.binomtest(only_a, total).pvalue) if total else 1.0)
    gap = max(abs(only_a - only_b) - bool(correction), 0)                   # equal counts must give 0, also corrected
    statistic = gap ** 2 / total if total else 0.0
    return McNemar(float(statistic), float(dist.chi2.sf(statistic, 1)))


def bonferroni(p):
    """(K,) p-values -> adjusted by the number of tests that are not NaN, at most 1."""
    p = np.asarray(p, dtype=float)
    return np.minimum(p * (~np.isnan(p)).sum(), 1.0)


def holm(p):
    """(K,) p-values -> adjusted by Holm's step-down rule (1979); NaN stays NaN and is not counted."""
    p = np.asarray(p, dtype=float)
    adjusted, known = np.full(p.shape, NAN), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


class MeanSD(NamedTuple):
    mean: float
    sd: float           # sample standard deviation (n - 1); nan for one value
    n: int

    def __str__(self):
        return "–" if not self.n else f"{self.mean:.3f}" + (f" ± {self.sd:.3f}" if self.n > 1 else "")


def mean_sd(values):
    """Mean and sample standard deviation of the values that are not NaN."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    return MeanSD(float(values.mean()) if len(values) else NAN, float(values.std(ddof=1)) if len(values) > 1 else NAN, len(values))


def domain_gap(source_auc, target_auc):
    """How much AUC is lost on the way to the target; negative where the target is the easier one. NaN where either is."""
    return np.asarray(source_auc, dtype=float) - np.asarray(target_auc, dtype=float)
