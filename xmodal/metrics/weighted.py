"""Measures and their weighted twins side by side.

A plain measure is of (N,) rows. Its twin is of the same rows with (B, N) weights: a weight says how often a
row was drawn, so that it measures B resamples at once.
"""
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..config import CLASSES, Problem
from .inputs import binary, finite, labels_alike, probabilities, whole

BINS = 10                       # of probability, for calibration
GRID = np.arange(101) / 100     # where curves are drawn


# ---- resamples of patients -----------------------------------------------------------------------------

AT_ONCE = 8_000_000             # draws in memory


def draws_in_parts(groups, n=1000, seed=42):
    """The rows of `draws`, some at a time: memory grows with the groups and not with the resamples."""
    rng = np.random.default_rng(seed)
    at_once = max(1, AT_ONCE // max(groups, 1))
    for start in range(0, n, at_once):
        rows = min(at_once, n - start)
        drawn = rng.integers(groups, size=(rows, groups))
        drawn += groups * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)


def draws(groups, n=1000, seed=42):
    """(n, groups) how often each group comes in each of n resamples with replacement."""
    return np.concatenate(list(draws_in_parts(groups, n, seed)))


def resamples(patients, n=1000, seed=42):
    """(1 + n, N) weights of the rows of (N,) patients: ones, then how often each patient was drawn."""
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    as_they_are = np.ones((1, len(names)))
    return np.concatenate([as_they_are, draws(len(names), n, seed)])[:, patient]


def interval(values):
    """(1 + n,) a measure on the data and on the resamples -> (value, low, high), a 95 % interval.

    Resamples on which the measure is undefined do not count.
    """
    low, high = pd.Series(values[1:]).quantile([0.025, 0.975])
    return float(values[0]), low, high


def with_interval(values, names=("value", "low", "high")):
    """{"value": .., "low": .., "high": ..} of a measure on the data and on the resamples."""
    return dict(zip(names, interval(values)))


# ---- shares --------------------------------------------------------------------------------------------

def share(hit, w):
    """(N,) booleans or numbers, (B, N) weights -> (B,) weighted means, nan without weight.

    The plain twin is the mean.
    """
    with np.errstate(invalid="ignore"):
        return w @ np.asarray(hit, float) / w.sum(1)


# ---- ranking -------------------------------------------------------------------------------------------

def auc(y, p):
    """Area under the ROC curve: how often a positive scores above a negative, ties one half.

    y: (N,) 0/1. p: (N,) scores, or (N, S) the scores of S runs, whose AUCs are averaged. One class only: nan.

    >>> auc([0, 1, 0, 1], [0.1, 0.4, 0.3, 0.2])
    0.75
    """
    y, p = binary(y, p, runs=True)
    if y.all() or not y.any():
        return np.nan
    one_group = np.zeros(len(y), int)
    taken_once = np.ones((1, 1))
    runs = p.reshape(len(y), -1).T
    return float(np.mean([auc_by_group(y, run, one_group, taken_once)[0] for run in runs]))


def auc_by_group(y, p, group, counts):
    """(B,) AUCs of (N,) booleans and scores where the rows of group g are taken counts[b, g] times.

    group: (N,), counts: (B, G) whole numbers, so that their sums are exact in any order. Ties count 1/2; nan
    where a class is not taken.
    """
    negative = np.flatnonzero(~y)[np.argsort(p[~y], kind="stable")]
    below = np.searchsorted(p[negative], p[y], "left")      # for each positive, how many negatives score less
    up_to = np.searchsorted(p[negative], p[y], "right")     # and how many score no more
    aucs = []
    parts = 1 + len(counts) * len(y) // 200_000
    fitting_the_cache = np.array_split(counts, min(parts, max(len(counts), 1)))
    for part in fitting_the_cache:
        taken = np.ascontiguousarray(part.T, dtype=float)
        positives = taken[group[y]]
        negatives = np.zeros((len(negative) + 1, len(part)))
        np.cumsum(taken[group[negative]], axis=0, out=negatives[1:])
        with np.errstate(invalid="ignore"):
            twice_the_wins = np.einsum("ib,ib->b", positives, negatives[below] + negatives[up_to])
            aucs.append(twice_the_wins / 2 / (positives.sum(0) * negatives[-1]))
    return np.concatenate(aucs)


def average_precision(y, p):
    """Area under the precision-recall curve as a sum of steps, which ties do not flatter.

    Without positives: nan.
    """
    from sklearn.metrics import average_precision_score
    y, p = binary(y, p)
    p = finite(p, "Scores")
    return float(average_precision_score(y, p)) if y.any() else np.nan


def pr_trapezoid(y, p):
    """Area under the precision-recall curve by the trapezoid rule, which is too high between few scores.

    y: (N,) 0/1; p: (N,) scores. Without positives: nan.
    """
    from sklearn.metrics import precision_recall_curve
    y, p = binary(y, p)
    p = finite(p, "Scores")
    if not y.any():
        return np.nan
    precision, recall, _ = precision_recall_curve(y, p)
    return float(-np.trapezoid(precision, recall))


def steps(y, p, w):
    """(B, K) weights of the positives, and of the negatives, that score at least as much as the k-th highest.

    K: the number of distinct scores.
    """
    order = np.argsort(-p, kind="stable")
    p, y, w = p[order], y[order], w[:, order]
    last_of_equals = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    return np.cumsum(w * y, axis=1)[:, last_of_equals], np.cumsum(w * ~y, axis=1)[:, last_of_equals]


def _before(cumulated):
    """(B, K) cumulated weights, each one step earlier."""
    return np.pad(cumulated, ((0, 0), (1, 0)))[:, :-1]


def ranking(y, p, w):
    """The weighted twins of `auc` and of `average_precision`: (B,) and (B,)."""
    tp, fp = steps(y, p, w)
    new_tp = tp - _before(tp)
    new_fp = fp - _before(fp)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (new_fp * (tp + _before(tp)) / 2).sum(1) / (tp[:, -1] * fp[:, -1])
        precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
        return area, (precision * new_tp).sum(1) / tp[:, -1]


# ---- calls at a threshold ------------------------------------------------------------------------------

def positive_calls(y, p, threshold):
    """(N,) booleans: the labels, and p >= threshold, of probabilities p or of calls themselves (0 or 1)."""
    y, p = probabilities(y, p)
    threshold = finite(threshold, "The threshold")
    if threshold.ndim:
        raise Problem("A call is made at one threshold; ask for one after the other.")
    return y, p >= threshold


def accuracy(y, p, threshold=0.5):
    """Share of the cases on the right side of the threshold; positive means p >= threshold. No cases: nan."""
    y, called = positive_calls(y, p, threshold)
    return float((y == called).mean()) if len(y) else np.nan


def f1(y, p, threshold=0.5):
    """Harmonic mean of precision and sensitivity, 2 TP / (2 TP + FP + FN).

    Where no case is positive and none is called positive: nan.
    """
    y, called = positive_calls(y, p, threshold)
    if not y.any() and not called.any():
        return np.nan
    return float(2 * (y & called).sum() / (y.sum() + called.sum()))


def sensitivity(y, p, threshold=0.5):
    """Share of the positives with p >= threshold. Without positives: nan."""
    y, called = positive_calls(y, p, threshold)
    return float(called[y].mean()) if y.any() else np.nan


def specificity(y, p, threshold=0.5):
    """Share of the negatives with p < threshold. Without negatives: nan."""
    y, called = positive_calls(y, p, threshold)
    return float((~called[~y]).mean()) if not y.all() else np.nan


class Youden(NamedTuple):
    threshold: float    # positive means p >= threshold
    sensitivity: float
    specificity: float


def youden(y, p):
    """The threshold with the largest sensitivity + specificity - 1; of equally good ones the highest.

    y: (N,) 0/1; p: (N,) scores. One class only: nan.

    >>> youden([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9])
    Youden(threshold=0.6, sensitivity=1.0, specificity=1.0)
    """
    y, p = binary(y, p)
    if y.all() or not y.any():
        return Youden(np.nan, np.nan, np.nan)
    thresholds = np.unique(p)[::-1]
    sensitivities = (y.sum() - np.searchsorted(np.sort(p[y]), thresholds)) / y.sum()
    specificities = np.searchsorted(np.sort(p[~y]), thresholds) / (~y).sum()
    best = np.argmax(np.round(sensitivities + specificities, 12))
    return Youden(float(thresholds[best]), float(sensitivities[best]), float(specificities[best]))


def calls(y, called, w):
    """The weighted twins of `accuracy`, `f1`, `sensitivity` and `specificity`: {name: (B,)}.

    y, called: (N,) booleans, truly positive and called positive; w: (B, N).
    """
    both = share(y & called, w)
    called_share = share(called, w)
    prevalence = share(y, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"accuracy": share(y == called, w), "f1": 2 * both / (prevalence + called_share),
                "sensitivity": both / prevalence, "specificity": share(~y & ~called, w) / (1 - prevalence)}


# ---- agreement -----------------------------------------------------------------------------------------

def kappa(a, b, weights=None):
    """Cohen's kappa of two readings of (N,) cases.

    weights: None, "linear" or "quadratic" (of integer grades, also those nobody used). Both constant and
    equal, or no readings: nan. NaN, numbers that are not whole, weights for names: `Problem`.

    >>> kappa([0, 1, 2, 2], [0, 1, 2, 1], weights="quadratic")
    0.8
    """
    from sklearn.metrics import cohen_kappa_score
    a, b = labels_alike(a, b)
    if weights not in (None, "linear", "quadratic"):
        raise Problem(f'The weights are None, "linear" or "quadratic", not {weights!r}.')
    labels = np.unique(np.concatenate([a, b])) if len(a) else []
    if len(labels) < 2:
        return np.nan
    if weights:                                                 # distances are between grades, not ranks
        if not whole(labels):
            raise Problem("Weighted kappa needs grades that are whole numbers, not names.")
        a, b, labels = a.astype(int), b.astype(int), labels.astype(int)
        labels = np.arange(labels.min(), labels.max() + 1)
    return float(cohen_kappa_score(a, b, labels=labels, weights=weights))


def agreement(truth, called, w, quadratic=False):
    """The weighted twin of `kappa`, plain or quadratic: (N,) classes, (B, N) weights -> (B,)."""
    size = len(CLASSES)
    cell = np.asarray(truth, int) * size + np.asarray(called, int)
    observed = (w @ np.eye(size * size)[cell]).reshape(-1, size, size)
    of_truth, of_called = observed.sum(2, keepdims=True), observed.sum(1, keepdims=True)
    expected = of_truth * of_called / observed.sum((1, 2), keepdims=True)
    grade = np.arange(size)
    cost = (grade[:, None] - grade) ** 2 if quadratic else grade[:, None] != grade
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (cost * observed).sum((1, 2)) / (cost * expected).sum((1, 2))
