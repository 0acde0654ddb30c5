"""Two methods on the same cases: do they differ? And p-values of a whole family of such tests.

What is compared must be independent: patients, or folds of other patients; never images of one patient, nor
seeds of one fold.
"""
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as dist

from ..config import Problem
from .inputs import binary, labels_alike, numbers, patients, zero_or_one

# ---- areas under the curve -----------------------------------------------------------------------------

class DeLong(NamedTuple):
    z: float
    p: float            # two-sided
    auc_p: float
    auc_q: float
    var_p: float
    var_q: float
    low: float          # 95 % interval of auc_p - auc_q
    high: float


def _placements(y, scores):
    """(N, S) scores -> (N,): how a case ranks among those of the other class, averaged over S runs.

    For a positive the share of the negatives that score less, for a negative that of the positives that score
    more.
    """
    positives, negatives = y.sum(), (~y).sum()
    scores = scores.reshape(len(y), -1)
    ranks = dist.rankdata(scores, axis=0)                           # equal scores share their mean rank
    placed = np.empty(scores.shape)
    placed[y] = (ranks[y] - dist.rankdata(scores[y], axis=0)) / negatives
    placed[~y] = 1 - (ranks[~y] - dist.rankdata(scores[~y], axis=0)) / positives
    return placed.mean(1)


def _covariance_of_aucs(y, excess, group):
    """(2, 2) covariance of two AUCs. excess: (N, 2) placements less their AUC; group: (N,) patient numbers.

    Source: Obuchowski 1997; of one row a patient it is DeLong's.
    """
    def parts(rows):
        """(G, 2) what each patient adds to the AUCs by these rows, and the number of patients with any."""
        sums = np.zeros((group.max() + 1, 2))
        np.add.at(sums, group[rows], excess[rows])
        return sums / rows.sum(), len(np.unique(group[rows]))

    of_positives, with_positives = parts(y)
    of_negatives, with_negatives = parts(~y)
    by_positives = of_positives.T @ of_positives * with_positives / (with_positives - 1)
    by_negatives = of_negatives.T @ of_negatives * with_negatives / (with_negatives - 1)
    patients_in_all = len(np.unique(group))
    by_both = of_positives.T @ of_negatives * patients_in_all / (patients_in_all - 1)
    return by_positives + by_negatives + by_both + by_both.T


def delong(y, p, q, groups=None):
    """Compares the AUCs of two scores on the same cases (DeLong 1988).

    y: (N,) 0/1; p, q: (N,) scores, or (N, S) the scores of S runs, whose AUCs are averaged; groups: (N,)
    patient of each row, where patients have several (Obuchowski 1997); None: every row by itself. Equal
    scores: z 0, p 1. Fewer than two patients with a case of a class: nan.

    >>> test = delong([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9], [0.1, 0.6, 0.4, 0.9])
    >>> f"{test.auc_p:.2f} against {test.auc_q:.2f}, z {test.z:.2f}, p {test.p:.2f}"
    '1.00 against 0.75, z 0.71, p 0.48'
    """
    y, p = binary(y, p, runs=True)
    y, q = binary(y, q, runs=True)
    group = patients(np.arange(len(y)) if groups is None else groups, len(y))[1]
    if min(len(np.unique(group[y])), len(np.unique(group[~y]))) < 2:
        return DeLong(*[np.nan] * 8)
    placed = np.column_stack([_placements(y, p), _placements(y, q)])
    auc_p, auc_q = placed[y].mean(0)
    covariance = _covariance_of_aucs(y, placed - [auc_p, auc_q], group)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance > 1e-15:
        z = (auc_p - auc_q) / np.sqrt(variance)
    else:
        z = 0.0 if auc_p == auc_q else np.nan
    half = dist.norm.ppf(0.975) * np.sqrt(max(variance, 0))
    return DeLong(float(z), float(2 * dist.norm.sf(abs(z))), float(auc_p), float(auc_q), covariance[0, 0],
                  covariance[1, 1], float(auc_p - auc_q - half), float(auc_p - auc_q + half))


# ---- calls ---------------------------------------------------------------------------------------------

class McNemar(NamedTuple):
    statistic: float    # chi squared with one degree of freedom; the smaller discordant count if exact
    p: float


def mcnemar(y, a, b, exact=False, correction=True):
    """Do two classifiers err equally often? y, a, b: (N,) true labels and two predictions of labels.

    Labels are whole numbers or names; where the true ones are 0 and 1, so are the predicted ones. No
    disagreement: 0, p 1.

    >>> mcnemar(y=[1, 1, 1, 1, 1], a=[1, 1, 1, 1, 0], b=[0, 0, 0, 0, 1], exact=True)
    McNemar(statistic=1.0, p=0.375)
    """
    y, a, b = labels_alike(y, a, b)
    if zero_or_one(y) and not (zero_or_one(a) and zero_or_one(b)):
        raise Problem("Where true labels are 0 and 1, so are predicted ones; leave out those that are open.")
    only_a_right = int(((a == y) & (b != y)).sum())
    only_b_right = int(((a != y) & (b == y)).sum())
    discordant = only_a_right + only_b_right
    if exact:
        p = float(dist.binomtest(only_a_right, discordant).pvalue) if discordant else 1.0
        return McNemar(float(min(only_a_right, only_b_right)), p)
    gap = max(abs(only_a_right - only_b_right) - bool(correction), 0)   # equal counts give 0, also corrected
    statistic = gap ** 2 / discordant if discordant else 0.0
    return McNemar(float(statistic), float(dist.chi2.sf(statistic, 1)))


# ---- means over independent units ----------------------------------------------------------------------

class PairedMean(NamedTuple):
    difference: float   # mean over the units
    low: float          # 95 % interval
    high: float
    p: float            # two-sided
    units: int          # how many are independent


def paired_mean(differences, units=None):
    """Is the mean difference zero? Student's t over independent units.

    differences: (N,), NaN left out; units: (N,) the independent unit of each, say the fold of every run: its
    differences are averaged first, as seeds of one fold share their patients. (None: every one by itself.)
    Fewer than two units, or no spread among them: interval and p are nan.

    >>> test = paired_mean([0.1, 0.3, 0.2, 0.4, 0.0, 0.2], ["a", "a", "b", "b", "c", "c"])
    >>> f"{test.difference:.2f} [{test.low:.2f}, {test.high:.2f}] over {test.units} units, p {test.p:.3f}"
    '0.20 [-0.05, 0.45] over 3 units, p 0.074'
    """
    differences = numbers(differences, "Differences")
    _, unit = patients(np.arange(len(differences)) if units is None else units, len(differences))
    known = ~np.isnan(differences)
    means = pd.Series(differences[known]).groupby(unit[known]).mean().to_numpy()
    mean = float(means.mean()) if len(means) else np.nan
    if len(means) < 2 or np.ptp(means) < 1e-12:
        return PairedMean(mean, np.nan, np.nan, np.nan, len(means))
    test = dist.ttest_1samp(means, 0)
    low, high = test.confidence_interval(0.95)
    return PairedMean(mean, float(low), float(high), float(test.pvalue), len(means))


# ---- several tests -------------------------------------------------------------------------------------

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
