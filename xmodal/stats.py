"""Statistics: numpy in, small named results out; intervals by resampling patients. Scores are higher for class 1.

Undefined results (one class only, nothing to compare) are nan; NaN or ill-shaped input raises `Problem`.
"""
from typing import NamedTuple

import numpy as np
from scipy import stats as dist

from .config import Problem
from .readers import froc_score, obuchowski_rockette  # noqa: F401  (part of this module's names)

NAN = float("nan")


def _binary(y, p):
    """(N,) labels 0/1 as booleans and (N, ...) finite scores, or `Problem`."""
    y, p = np.asarray(y), np.asarray(p, dtype=float)
    if y.ndim != 1 or len(y) != len(p):
        raise Problem(f"Labels {y.shape} and scores {p.shape} do not go together; give one score a label.")
    if not np.isin(y, (0, 1)).all():
        raise Problem("Labels must be 0 or 1; drop the rows whose label is open or NaN.")
    if np.isnan(p).any():
        raise Problem("Scores hold NaN; drop those rows or find out where they come from.")
    return y.astype(bool), p


# ---- discrimination ----------------------------------------------------------------------------------------------

def _auc_of(y, p, weights):
    """(N,) booleans, (N,) scores, (B, N) row weights -> (B,) AUCs, nan where a class has no weight. Ties count 1/2."""
    order = np.argsort(p, kind="stable")
    starts = np.flatnonzero(np.diff(p[order], prepend=-np.inf))             # where a new score begins; ties in one step
    weights = weights[:, order]
    pos = np.add.reduceat(weights * y[order], starts, axis=1)
    neg = np.add.reduceat(weights * ~y[order], starts, axis=1)
    below = np.cumsum(neg, axis=1) - neg
    with np.errstate(invalid="ignore"):
        return (pos * (below + neg / 2)).sum(1) / (pos.sum(1) * neg.sum(1))


def auc(y, p):
    """Area under the ROC curve: how often a positive scores above a negative, ties one half. One class only: nan.

    y: (N,) 0/1. p: (N,) scores, or (N, S) the scores of S runs, whose AUCs are averaged.
    """
    y, p = _binary(y, p)
    if y.all() or not y.any():
        return NAN
    weights = np.ones((1, len(y)), dtype=np.int64)
    return float(np.mean([_auc_of(y, column, weights)[0] for column in p.reshape(len(y), -1).T]))


def average_precision(y, p):
    """Area under the precision-recall curve as a sum of steps. Without positives: nan."""
    from sklearn.metrics import average_precision_score
    y, p = _binary(y, p)
    return float(average_precision_score(y, p)) if y.any() else NAN


class DeLong(NamedTuple):
    z: float
    p: float            # two-sided
    auc_p: float
    auc_q: float
    var_p: float
    var_q: float


def delong(y, p, q):
    """Compares the AUCs of two scores on the same cases (DeLong 1988). Equal scores: z 0, p 1. Under two of a class: nan."""
    y, scores = _binary(y, np.column_stack([p, q]))
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
    y, p = _binary(y, p)
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
    time, event, risk = np.asarray(time, float), np.asarray(event).astype(bool), np.asarray(risk, float)
    if not (time.shape == event.shape == risk.shape) or np.isnan(time).any() or np.isnan(risk).any():
        raise Problem("time, event and risk must have one shape and no NaN; drop the incomplete rows.")
    first = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    score = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    return float(score[first].mean()) if first.any() else NAN


# ---- intervals and comparisons -----------------------------------------------------------------------------------

class Interval(NamedTuple):
    value: float        # on the data as they are
    low: float          # 2.5th percentile over the resamples
    high: float         # 97.5th
    skipped: int        # resamples on which the metric is not defined (say, one class only); left out of the percentiles


def bootstrap(metric, y, p, groups=None, n=1000, seed=42):
    """95 % percentile interval of metric(y, p) from n resamples, with replacement, of whole groups.

    y: (N,), p: (N, ...); groups: (N,) patient of each row (None: every row by itself). The draw follows the sorted
    group names, so the order of the rows does not matter. Undefined on every resample: nan. No rows: `Problem`.
    """
    y, p = np.asarray(y), np.asarray(p)
    if len(y) == 0 or len(y) != len(p):
        raise Problem(f"Cannot resample {len(y)} labels and {len(p)} scores; give one score a label, and at least one.")
    names, group = np.unique(np.arange(len(y)) if groups is None else np.asarray(groups), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    if metric is auc:                                                       # the same numbers, many resamples at once
        truth, scores = _binary(y, p)
        columns, parts = scores.reshape(len(y), -1).T, np.array_split(draws, 1 + draws.shape[0] * len(y) // 5_000_000)
        values = np.concatenate([np.mean([_auc_of(truth, column, part[:, group]) for column in columns], axis=0) for part in parts])
    else:
        values = np.array([metric(y[rows], p[rows]) for rows in (np.repeat(np.arange(len(y)), d[group]) for d in draws)], float)
    good = values[~np.isnan(values)]
    low, high = np.percentile(good, [2.5, 97.5]) if len(good) else (NAN, NAN)
    return Interval(float(metric(y, p)), float(low), float(high), int(n - len(good)))


class McNemar(NamedTuple):
    statistic: float    # chi squared with one degree of freedom; the smaller discordant count if exact
    p: float


def mcnemar(y, a, b, exact=False, correction=True):
    """Do two classifiers err equally often? y, a, b: (N,) true labels and two predictions. No disagreement: 0, p 1."""
    y, a, b = map(np.asarray, (y, a, b))
    if not (y.shape == a.shape == b.shape):
        raise Problem("y, a and b must have one shape: a true label and two predictions a case.")
    only_a, only_b = int(((a == y) & (b != y)).sum()), int(((a != y) & (b == y)).sum())
    total = only_a + only_b
    if exact:
        return McNemar(float(min(only_a, only_b)), float(dist.binomtest(only_a, total).pvalue) if total else 1.0)
    gap = max(abs(only_a - only_b) - bool(correction), 0)                   # equal counts must give 0, also corrected
    statistic = gap ** 2 / total if total else 0.0
    return McNemar(float(statistic), float(dist.chi2.sf(statistic, 1)))


def kappa(a, b, weights=None):
    """Cohen's kappa of two readings; weights None, "linear" or "quadratic" (integer grades, also those nobody used).

    Both constant and equal, or no readings: nan.
    """
    from sklearn.metrics import cohen_kappa_score
    a, b = np.asarray(a), np.asarray(b)
    labels = np.unique(np.concatenate([a, b])) if len(a) else []
    if len(labels) < 2:
        return NAN
    if weights:                                                             # distances are between grades, not ranks
        labels = np.arange(labels.min(), labels.max() + 1)
    return float(cohen_kappa_score(a, b, labels=labels, weights=weights))


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


# ---- calibration and usefulness ----------------------------------------------------------------------------------

class Reliability(NamedTuple):
    predicted: np.ndarray   # (bins,) mean probability in each bin, nan where it is empty
    observed: np.ndarray    # (bins,) share of positives
    count: np.ndarray       # (bins,) cases


def reliability(y, p, bins=10):
    """Observed frequency against predicted probability in equal-width bins [lower, upper), the last closed."""
    y, p = _binary(y, p)
    if len(p) and (p.min() < 0 or p.max() > 1):
        raise Problem("Calibration needs probabilities between 0 and 1; pass scores through a sigmoid first.")
    which = np.digitize(p, np.linspace(0, 1, bins + 1)[1:-1])
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(np.bincount(which, p, bins) / count, np.bincount(which, y, bins) / count, count)


def ece(y, p, bins=15):
    """Expected calibration error of binary probabilities: mean gap |observed - predicted| over the bins, weighted by cases."""
    r = reliability(y, p, bins)
    return float(np.nansum(np.abs(r.observed - r.predicted) * r.count) / r.count.sum()) if r.count.sum() else NAN


def net_benefit(y, p, thresholds):
    """Net benefit of treating where p >= t: TP/N - FP/N * t/(1 - t) (Vickers 2006). Same shape as `thresholds`, in [0, 1)."""
    y, p = _binary(y, p)
    t = np.asarray(thresholds, dtype=float)
    if ((t < 0) | (t >= 1)).any():
        raise Problem("Decision thresholds lie in [0, 1).")
    if not len(y):
        return np.full(t.shape, NAN)
    treated = p >= t[..., None]
    benefit = (treated & y).mean(-1) - (treated & ~y).mean(-1) * t / (1 - t)
    return benefit if t.ndim else float(benefit)


# ---- embeddings and overlap --------------------------------------------------------------------------------------

def unit(z):
    """(N, D) rows scaled to length 1; a row of zeros stays zero."""
    z = np.asarray(z, dtype=float)
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)


def intra_pair_similarity(z_m, z_p):
    """Mean cosine between the two embeddings of a patient. z_m, z_p: (N, D), row i of both is patient i. No pairs: nan."""
    return float((unit(z_m) * unit(z_p)).sum(1).mean()) if len(z_m) else NAN


def modality_gap(z_m, z_p):
    """Distance between the modalities' mean directions on the unit sphere, 0 to 2 (Liang et al. 2022). (N, D), (M, D)."""
    return float(np.linalg.norm(unit(z_m).mean(0) - unit(z_p).mean(0))) if len(z_m) and len(z_p) else NAN


def silhouette(z, labels):
    """Mean silhouette coefficient, -1 to 1, Euclidean. Needs 2 to N - 1 labels, else nan."""
    from sklearn.metrics import silhouette_score
    return float(silhouette_score(z, labels)) if 2 <= len(np.unique(labels)) < len(labels) else NAN


def davies_bouldin(z, labels):
    """Davies-Bouldin index, lower is better separated. Needs 2 to N - 1 labels, else nan."""
    from sklearn.metrics import davies_bouldin_score
    return float(davies_bouldin_score(z, labels)) if 2 <= len(np.unique(labels)) < len(labels) else NAN


def domain_gap(source_auc, target_auc):
    """How much AUC is lost on the way to the target; negative where the target is the easier one."""
    return np.asarray(source_auc, dtype=float) - np.asarray(target_auc, dtype=float)


def iou(a, b):
    """Intersection over union of boxes (..., 4) as x0, y0, x1, y1. A missing (NaN) box or two empty ones: nan."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    area = lambda box: np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1)
    both = area(np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = both / (area(a) + area(b) - both)
    return overlap if overlap.ndim else float(overlap)


def dice(a, b):
    """Dice overlap of two boolean masks of one shape. Both empty: nan, as there is nothing to find."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else NAN
