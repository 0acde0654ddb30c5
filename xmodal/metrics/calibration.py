"""Do probabilities mean what they say, and does acting on them help?

Calibration, decision curves, temperature and conformal sets, also called through `stats`. Undefined results
(no cases, one class only) are nan; NaN or ill-shaped input raises `Problem`.
"""
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from ..config import Problem
from .inputs import classes, finite, numbers, plain, probabilities, shares

# ---- calibration ---------------------------------------------------------------------------------------

def equal_edges(bins):
    """(bins - 1,) where bins of equal width between 0 and 1 meet. np.linspace is off by a bit at 0.3."""
    return np.arange(1, bins) / bins


class Reliability(NamedTuple):
    predicted: np.ndarray   # (bins,) mean probability in each bin, nan where it is empty
    observed: np.ndarray    # (bins,) share of positives
    count: np.ndarray       # (bins,) cases


def reliability(y, p, bins=10, equal="width"):
    """Observed frequency against predicted probability in bins [lower, upper), the last closed.

    y: (N,) 0/1. p: (N,) probabilities of class 1. equal: "width", or "mass" for bins between quantiles of p,
    which hold equally many cases but for ties: equal probabilities share a bin.
    """
    y, p = probabilities(y, p)
    if equal not in ("width", "mass"):
        raise Problem(f'Bins are of equal "width" or of equal "mass", not {equal!r}.')
    if equal == "mass" and len(p):
        inner_edges = np.quantile(p, np.arange(1, bins) / bins)
    else:
        inner_edges = equal_edges(bins)
    bin_of = np.digitize(p, inner_edges)
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(bin_of, p, bins) / count
        observed = np.bincount(bin_of, y, bins) / count
    return Reliability(predicted, observed, count)


def ece(y, p, bins=15, equal="width"):
    """Expected calibration error: mean |observed - predicted| over bins of probability, weighted by cases.

    Bins as in `reliability`. Chance adds to it; `miscalibration.debiased_ece` takes that off. No cases: nan.
    Source: Naeini et al. 2015; equal mass: Nixon et al. 2019.

    >>> ece([0, 1, 1, 1], [0.25, 0.25, 0.75, 0.75], bins=2)
    0.25
    """
    curve = reliability(y, p, bins, equal)
    cases = curve.count.sum()
    if not cases:
        return np.nan
    gap = np.abs(curve.observed - curve.predicted)
    return float(np.nansum(gap * curve.count) / cases)


def ece_shift(y, p, y_target, p_target, bins=15, equal="width"):
    """Calibration error on the target less that on the source; negative where the target's is smaller."""
    return ece(y_target, p_target, bins, equal) - ece(y, p, bins, equal)


def brier(y, p):
    """Brier score: mean squared distance of the probabilities from the labels, 0 to 1. No cases: nan."""
    y, p = probabilities(y, p)
    return float(((p - y) ** 2).mean()) if len(y) else np.nan


class BrierParts(NamedTuple):
    reliability: float  # squared gap between predicted and observed, 0 is calibrated
    resolution: float   # how far the bins' observed shares lie from the share of all, larger is better
    uncertainty: float  # variance of the labels
    within: float       # what is lost by binning; 0 where a bin holds one probability


def brier_parts(y, p, bins=10):
    """Murphy's decomposition (1973) over bins of equal width.

    The Brier score is reliability - resolution + uncertainty + within.
    """
    curve = reliability(y, p, bins)
    y = plain(y)
    if not len(y):
        return BrierParts(*[np.nan] * 4)
    prevalence = y.mean()
    off_diagonal = float(np.nansum(curve.count * (curve.predicted - curve.observed) ** 2) / len(y))
    resolution = float(np.nansum(curve.count * (curve.observed - prevalence) ** 2) / len(y))
    uncertainty = float(prevalence * (1 - prevalence))
    within = brier(y, p) - (off_diagonal - resolution + uncertainty)
    return BrierParts(off_diagonal, resolution, uncertainty, within)


# ---- usefulness ----------------------------------------------------------------------------------------

def net_benefit(y, p, thresholds):
    """Net benefit of treating where p >= t: TP/N - FP/N * t/(1 - t) (Vickers 2006).

    p: (N,) probabilities of class 1. Of the same shape as `thresholds`, which lie in [0, 1).
    To treat all is p = 1, to treat none has net benefit 0. No cases: nan.
    """
    y, p = probabilities(y, p)
    t = numbers(thresholds, "Thresholds")
    if not ((t >= 0) & (t < 1)).all():
        raise Problem("Decision thresholds lie in [0, 1).")
    if not len(y):
        return np.full(t.shape, np.nan) if t.ndim else np.nan
    true_positives = y.sum() - np.searchsorted(np.sort(p[y]), t)
    false_positives = (~y).sum() - np.searchsorted(np.sort(p[~y]), t)
    benefit = true_positives / len(y) - false_positives / len(y) * t / (1 - t)
    return benefit if t.ndim else float(benefit)


class DecisionCurve(NamedTuple):
    thresholds: np.ndarray  # (K,)
    model: np.ndarray       # (K,) net benefit of treating where p >= t
    treat_all: np.ndarray   # (K,); to treat none has net benefit 0


def decision_curve(y, p, thresholds=np.arange(100) / 100):
    """Net benefit of the model and of treating all over (K,) thresholds."""
    model = net_benefit(y, p, thresholds)
    treat_all = net_benefit(y, np.ones(len(y)), thresholds)
    return DecisionCurve(numbers(thresholds, "Thresholds"), model, treat_all)


def _lost_up_to(t):
    """The integral of t / (1 - t), what a false positive loses at threshold t, from 0."""
    return -t - np.log1p(-t)


def case_benefit(y, p, low=0.1, high=0.3):
    """(N,) what each case adds to the net benefit, averaged over the thresholds from low to high, exactly.

    A case is treated up to the threshold p; a positive then gains 1 and a negative loses t / (1 - t), whose
    integral is -t - ln(1 - t).
    """
    y, p = probabilities(y, p)
    if not 0 <= low < high < 1:
        raise Problem(f"Decision thresholds go up and lie in [0, 1); {low} to {high} do not.")
    treated_up_to = np.clip(p, low, high)
    gain_of_positive = treated_up_to - low
    gain_of_negative = _lost_up_to(low) - _lost_up_to(treated_up_to)
    return np.where(y, gain_of_positive, gain_of_negative) / (high - low)


def integrated_net_benefit(y, p, low=0.1, high=0.3):
    """Mean net benefit over the thresholds from low to high, exactly. No cases: nan."""
    gain = case_benefit(y, p, low, high)
    return float(gain.mean()) if len(gain) else np.nan


# ---- after training ------------------------------------------------------------------------------------

def temperature(logits, y):
    """The number by which logits must be divided to be calibrated (Guo et al. 2017).

    It minimises the mean cross-entropy.
    logits: (N, K), or (N,) of class 1; y: (N,) classes. From 0.01 to 100: the lower end where every case is
    right, the upper end where the logits are no better than none. Raises `Problem` for NaN, infinities and no
    cases.
    """
    logits = finite(logits, "Logits")
    if logits.ndim == 1:
        logits = np.column_stack([np.zeros(len(logits)), logits])
    y = classes(y, logits)
    if not len(y):
        raise Problem("A temperature needs cases; give logits and classes of some.")
    logit_of_truth = np.take_along_axis(logits, y[:, None], 1).mean()

    def slope(log_t):
        """Of the cross-entropy in b = 1 / temperature; it grows with b, so that it is 0 only once."""
        p = special.softmax(logits * np.exp(-log_t), axis=1)
        return (p * logits).sum(1).mean() - logit_of_truth

    low, high = np.log([0.01, 100])
    if slope(high) >= 0:
        return 100.0
    if slope(low) <= 0:
        return 0.01
    return float(np.exp(optimize.brentq(slope, low, high, xtol=1e-14)))


def conformal_threshold(scores, alpha=0.1):
    """The score that a new, exchangeable case does not exceed with probability of at least 1 - alpha.

    This is split conformal prediction.
    scores: (n,) how strange each calibration case looks, say 1 - the probability of its true class. The
    threshold is their k-th smallest, k = ceil((n + 1)(1 - alpha)); its coverage is Beta(k, n + 1 - k). Too
    few cases: inf, which excludes nothing (Vovk 2012).
    """
    scores = numbers(scores, "Scores")
    if scores.ndim != 1 or np.isnan(scores).any() or not 0 < alpha < 1:
        raise Problem("Conformal calibration needs (n,) scores without NaN "
                      "and an error rate between 0 and 1.")
    k = int(np.ceil((len(scores) + 1) * (1 - alpha) - 1e-9))
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else float("inf")


def conformal_sets(p, y, p_new, alpha=0.1):
    """(M, K) booleans: the classes that remain possible for M new cases.

    On average the true class is among them in at least 1 - alpha of the cases.
    p: (n, K) probabilities and y: (n,) true classes of the calibration cases; p_new: (M, K).
    """
    p, p_new = shares(p, "Probabilities"), shares(p_new, "New probabilities")
    if p.shape[1] != p_new.shape[1]:
        raise Problem(f"Probabilities {p.shape} and new ones {p_new.shape} must be of the same classes.")
    strangeness = 1 - p[np.arange(len(p)), classes(y, p)]
    return 1 - p_new <= conformal_threshold(strangeness, alpha)
