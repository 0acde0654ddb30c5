"""Measures and their weighted twins side by side: each plain measure of (N,) rows, and the same from rows with (B, N) weights."""
import numpy as np
import pandas as pd

from ..config import CLASSES, Problem
from .calibration import NAN, binary

BINS, GRID = 10, np.linspace(0, 1, 101)


def resamples(patients, n=1000, seed=42):
    """(1 + n, N) weights of rows that belong to these (N,) patients: ones, then how often each patient was drawn."""
    names, which = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return np.concatenate([np.ones((1, len(names))), draws(len(names), n, seed)])[:, which]


def interval(values):
    """(1 + n,) a measure on the data and on the resamples -> (value, low, high); resamples where it is undefined do not count."""
    return (float(values[0]), *pd.Series(values[1:]).quantile([0.025, 0.975]))


def share(hit, w):
    """(N,) booleans or numbers, (B, N) weights -> (B,) weighted means, nan without weight."""
    with np.errstate(invalid="ignore"):
        return w @ np.asarray(hit, float) / w.sum(1)


def steps(y, p, w):
    """(B, K) weights of the positives, and of the negatives, that score at least the k-th highest of the K distinct scores."""
    order = np.argsort(-p, kind="stable")
    last = np.flatnonzero(np.append(p[order][1:] != p[order][:-1], True))
    w, y = w[:, order], y[order]
    return np.cumsum(w * y, axis=1)[:, last], np.cumsum(w * ~y, axis=1)[:, last]


def ranking(y, p, w):
    """(B,) areas under the ROC curve, and (B,) average precisions; as `stats.auc` and `stats.average_precision` for equal weights."""
    tp, fp = steps(y, p, w)
    before = lambda a: np.pad(a, ((0, 0), (1, 0)))[:, :-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = ((fp - before(fp)) * (tp + before(tp)) / 2).sum(1) / (tp[:, -1] * fp[:, -1])
        precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
        return auc, (precision * (tp - before(tp))).sum(1) / tp[:, -1]


def calibration_error(y, p, w):
    """(B,) expected calibration errors over bins of equal width; as `stats.ece` for equal weights."""
    which = np.digitize(p, np.linspace(0, 1, BINS + 1)[1:-1])[:, None] == np.arange(BINS)
    with np.errstate(invalid="ignore"):
        return np.abs(w @ (which * (y - p)[:, None])).sum(1) / w.sum(1)     # count * (observed - predicted) of each bin


def agreement(truth, called, w, quadratic=False):
    """(B,) Cohen's kappas, or quadratic weighted ones, of (N,) classes with (B, N) weights; as `stats.kappa` for equal weights."""
    size = len(CLASSES)
    pairs = np.eye(size * size)[np.asarray(truth, int) * size + np.asarray(called, int)]
    seen, k = (w @ pairs).reshape(-1, size, size), np.arange(size)
    expected = seen.sum(2, keepdims=True) * seen.sum(1, keepdims=True) / seen.sum((1, 2), keepdims=True)
    cost = (k[:, None] - k) ** 2 if quadratic else k[:, None] != k
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (cost * seen).sum((1, 2)) / (cost * expected).sum((1, 2))


def with_interval(values, names=("value", "low", "high")):
    """{"value": .., "low": .., "high": ..} of a measure on the data and on the resamples."""
    return dict(zip(names, interval(values)))


def auc_by_group(y, p, group, counts):
    """(N,) booleans, scores and groups, (B, G) -> (B,) AUCs where the rows of group g are taken counts[b, g] times. Ties count 1/2; nan
    where a class is not taken. Counts are whole numbers, so their sums are exact in any order."""
    negative = np.flatnonzero(~y)[np.argsort(p[~y], kind="stable")]
    lower, upper = (np.searchsorted(p[negative], p[y], side) for side in ("left", "right"))  # negatives below, without and with ties
    found = []
    for part in np.array_split(counts, 1 + len(counts) * len(y) // 200_000):   # what stays in the processor's cache
        taken = np.ascontiguousarray(part.T, dtype=float)
        below, positive = np.zeros((len(negative) + 1, len(part))), taken[group[y]]
        np.cumsum(taken[group[negative]], axis=0, out=below[1:])
        with np.errstate(invalid="ignore"):
            found.append(np.einsum("ib,ib->b", positive, below[lower] + below[upper]) / 2 / (positive.sum(0) * below[-1]))
    return np.concatenate(found)


def auc(y, p):
    """Area under the ROC curve: how often a positive scores above a negative, ties one half. One class only: nan.

    y: (N,) 0/1. p: (N,) scores, or (N, S) the scores of S runs, whose AUCs are averaged.
    """
    y, p = binary(y, p, runs=True)
    if y.all() or not y.any():
        return NAN
    once = np.zeros(len(y), int), np.ones((1, 1))
    return float(np.mean([auc_by_group(y, column, *once)[0] for column in p.reshape(len(y), -1).T]))


def average_precision(y, p):
    """Area under the precision-recall curve as a sum of steps, which ties do not flatter. Without positives: nan."""
    from sklearn.metrics import average_precision_score
    y, p = binary(y, p)
    return float(average_precision_score(y, p)) if y.any() else NAN


def draws(groups, n=1000, seed=42):
    """(n, groups) how often each group comes in each of n resamples with replacement."""
    taken = np.random.default_rng(seed).integers(groups, size=(n, groups)) + groups * np.arange(n)[:, None]
    return np.bincount(taken.ravel(), minlength=n * groups).reshape(n, groups)


def kappa(a, b, weights=None):
    """Cohen's kappa of two readings; weights None, "linear" or "quadratic" (integer grades, also those nobody used).

    Both constant and equal, or no readings: nan. NaN, or weights of what are no integers: `Problem`.
    """
    from sklearn.metrics import cohen_kappa_score
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or pd.isna([a, b]).any() or weights not in (None, "linear", "quadratic"):
        raise Problem('Give two readings of every case, without NaN, and the weights None, "linear" or "quadratic".')
    labels = np.unique(np.concatenate([a, b])) if len(a) else []
    if len(labels) < 2:
        return NAN
    if weights:                                                             # distances are between grades, not ranks
        if not np.issubdtype(labels.dtype, np.integer):
            raise Problem(f"Weighted kappa needs grades that are integers, not {labels.dtype}.")
        labels = np.arange(labels.min(), labels.max() + 1)
    return float(cohen_kappa_score(a, b, labels=labels, weights=weights))
