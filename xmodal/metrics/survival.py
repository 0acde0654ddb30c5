"""Survival: discrete-time hazards, and concordance and Brier score weighted for censoring.

Higher risk means an earlier event.

times in any unit, event 1 seen and 0 censored, N patients, K bins. Where an event and a censoring share a
time, the event was first, as in `stats.concordance`: the censoring distribution must then not count that
event as at risk.
"""
import numpy as np
import torch
import torch.nn.functional as F

from ..config import Problem
from .inputs import finite
from .ordering import checked, pairs_of_events


def seen(event):
    """A tensor of 1 (seen) and 0 (censored) as booleans, or `Problem`."""
    if not ((event == 0) | (event == 1)).all():
        raise Problem("An event is 1 (seen) or 0 (censored); recode other codes, as 1 and 2, "
                      "and drop the rows where it is open or NaN.")
    return event.bool()


# ---- discrete time -------------------------------------------------------------------------------------

def cuts(time, event, bins=4):
    """(bins - 1,) inner edges of time that part the seen events of the training patients into equal shares.

    Raises `Problem` where there are too few events to do so.
    """
    time, event = checked(time, event)
    edges = np.quantile(time[event], np.arange(1, bins) / bins) if event.any() else np.array([np.nan])
    if not (np.diff(edges) > 0).all() or len(edges) < bins - 1:
        times = len(np.unique(time[event]))
        raise Problem(f"{int(event.sum())} events at {times} times do not part into {bins} bins; "
                      "use fewer bins.")
    return edges


def discrete_nll(logits, which, event):
    """Negative log likelihood of discrete hazards, mean over N.

    logits: (N, K) of dying in a bin when alive at its start; which: (N,) bin of the last contact; event:
    (N,). It is a binary cross-entropy summed over the bins lived through (Zadeh and Schmid 2020).
    """
    if logits.ndim != 2 or not which.shape == event.shape == logits.shape[:1]:
        raise Problem(f"Logits {tuple(logits.shape)}, bins {tuple(which.shape)} and events "
                      f"{tuple(event.shape)} do not go together; give one bin and event for each patient.")
    bins = torch.arange(logits.shape[1], device=logits.device)
    lived = (bins <= which[:, None]).to(logits)
    died = ((bins == which[:, None]) & seen(event)[:, None]).to(logits)
    loss = F.binary_cross_entropy_with_logits(logits, died, reduction="none")
    return (loss * lived).sum(1).mean()


def discrete_risk(hazards):
    """(N, K) hazards -> (N,) risk: minus the expected number of bins survived."""
    hazards = finite(hazards, "Hazards")
    if hazards.ndim != 2 or (hazards < 0).any() or (hazards > 1).any():
        raise Problem(f"Hazards {hazards.shape} must be (N, K) probabilities of dying in a bin; "
                      "pass logits through a sigmoid first.")
    return -np.cumprod(1 - hazards, axis=1).sum(1)


class DiscreteHazard:
    """Linear discrete-time survival: a logistic regression on one row for each patient and bin lived through.

    Source: Singer and Willett 1993.
    """

    def __init__(self, bins=4, C=0.05):
        from sklearn.linear_model import LogisticRegression
        self.bins = bins
        self.model = LogisticRegression(C=C, max_iter=1000)

    def _rows(self, x):
        """(N * K, D + K): each patient with each bin marked."""
        x = finite(x, "Features")
        return np.column_stack([np.repeat(x, self.bins, axis=0), np.tile(np.eye(self.bins), (len(x), 1))])

    def fit(self, x, time, event):
        """x (N, D) standardised features. Raises `Problem` where there are too few events."""
        time, event = checked(time, event)
        if len(x) != len(time):
            raise Problem(f"{len(x)} rows of features and {len(time)} times do not go together; "
                          "give one row for each patient.")
        last_bin = np.digitize(time, cuts(time, event, self.bins))
        bins = np.arange(self.bins)
        lived = (bins <= last_bin[:, None]).ravel()
        died = ((bins == last_bin[:, None]) & event[:, None]).ravel()
        self.model.fit(self._rows(x)[lived], died[lived])
        return self

    def risk(self, x):
        """(N,)"""
        hazards = self.model.predict_proba(self._rows(x))[:, 1]
        return discrete_risk(hazards.reshape(len(x), self.bins))


# ---- proportional hazards ------------------------------------------------------------------------------

def cox_loss(risk, time, event):
    """Negative log partial likelihood per patient, with Efron's method where events share a time. No event:
    0.

    risk: log hazards, time, event: tensors (N,). A patient who is censored at the time of an event is at risk
    of it.
    """
    if not risk.shape == time.shape == event.shape or risk.ndim != 1 or not risk.isfinite().all():
        raise Problem("risk, time and event must be tensors of one length, and the risks finite; lower the "
                      "learning rate, or look for values without bounds.")
    if time.isnan().any():
        raise Problem("A time is NaN; drop the incomplete rows.")
    latest_first = torch.argsort(time, descending=True)
    risk, time, event = risk[latest_first], time[latest_first], seen(event)[latest_first]
    if not event.any():
        return risk.sum() * 0
    _, moment, patients = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    at_risk = risk.logcumsumexp(0)[patients.cumsum(0) - 1]                  # (moments,) log of the sum
    risk, moment = risk[event], moment[event]
    tied = torch.bincount(moment, minlength=len(patients))
    first = (tied.cumsum(0) - tied)[moment]
    tie = torch.arange(len(risk), device=risk.device) - first               # 0, 1, ... among events of a time
    share = torch.zeros_like(at_risk).index_add(0, moment, (risk - at_risk[moment]).exp())
    left = torch.log1p(-tie.to(risk) / tied[moment] * share[moment])        # Efron: the tied leave one by one
    return (at_risk[moment] + left - risk).sum() / len(time)


def ridge_cox(x, time, event, alpha=1.0):
    """(D,) coefficients of a Cox model on x (N, D), with a ridge penalty.

    They minimise the negative log partial likelihood + alpha / 2 * their squared norm.
    """
    time, event = checked(time, event)
    x = finite(x, "Features")
    if x.ndim != 2 or len(x) != len(time):
        raise Problem(f"Features {x.shape} and {len(time)} times do not go together; "
                      "give one row of features for each patient.")
    x, time, event = (torch.as_tensor(values) for values in (x, time, event))
    weight = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = cox_loss(x @ weight, time, event) + alpha / 2 / len(x) * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach().numpy()


# ---- weighted for censoring ----------------------------------------------------------------------------

def still_observed(time, event, at):
    """Kaplan-Meier estimate of the probability of not being censored up to and at each time of `at`.

    After the last of the times it is not known: NaN, unless it was 0 by then.
    """
    time, event = checked(time, event)
    steps, censored = np.unique(time[~event], return_counts=True)
    longer = len(time) - np.searchsorted(np.sort(time), steps, side="right")
    at_risk = longer + censored                                     # those with an event then have left
    survival = np.append(1.0, np.cumprod(1 - censored / at_risk))
    known = survival[np.searchsorted(steps, at, side="right")]
    beyond = np.asarray(at) > time.max(initial=-np.inf)
    return np.where(beyond & (known > 0), np.nan, known)


def uno(time, event, risk, tau=None, train=None):
    """Uno's C (2011): concordance of the pairs whose earlier time, before tau, is an event. No pair: nan.

    Each pair is weighted by the squared inverse probability of not being censored by then, estimated on
    train: (time, event). Raises `Problem` where that is 0 or beyond their follow-up, for which a smaller tau
    is needed.
    """
    time, event, risk = checked(time, event, risk)
    before_tau = time[event] < (np.inf if tau is None else tau)
    pairs, in_order = (counts[before_tau] for counts in pairs_of_events(time, event, risk))
    chance = still_observed(*((time, event) if train is None else train), time[event][before_tau])
    if not (chance > 0).all():
        raise Problem("Nobody is still observed at the time of the last events; "
                      "pass tau, a time before which some are.")
    weight = chance ** -2.0
    return float((weight * in_order).sum() / (weight * pairs).sum()) if pairs.any() else np.nan


def brier(time, event, survival, at, train=None):
    """Brier score at one time, weighted for censoring (Graf et al. 1999).

    survival: (N,) predicted probability of living past `at`; train: (time, event) to estimate the censoring
    on. Raises `Problem` where nobody is followed beyond `at`.
    """
    time, event, survival = checked(time, event, survival)
    at = finite(at, "The time")
    if at.ndim or ((survival < 0) | (survival > 1)).any():
        raise Problem("The Brier score is of one time, and of probabilities between 0 and 1 of living past "
                      "it; ask for one time after the other.")
    train = (time, event) if train is None else train
    dead = (time <= at) & event
    alive = time > at
    observed_until_own = still_observed(*train, time[dead])
    observed_until_at = still_observed(*train, at)
    if not alive.any() or not (observed_until_own > 0).all() or not observed_until_at > 0:
        raise Problem(f"Nobody is followed beyond {at:g}; ask for an earlier time.")
    weight = alive / observed_until_at
    weight[dead] = 1 / observed_until_own
    return float((weight * (alive - survival) ** 2).mean())
