"""Survival: discrete-time hazards, and concordance and Brier score weighted for censoring.

Higher risk means an earlier event.

times in any unit, event 1 seen and 0 censored, N patients, K bins. Where an event and a censoring share a
time, the event was first, as in `stats.concordance`: the censoring distribution must then not count that
event as at risk.
"""
import warnings

import numpy as np
import torch
import torch.nn.functional as F

from ..config import Problem


def _checked(time, event, *others):
    """The arrays as floats and booleans of one length, or `Problem`."""
    time, event = np.asarray(time, float), np.asarray(event).astype(bool)
    others = [np.asarray(values, float) for values in others]
    lengths = {len(values) for values in (time, event, *others)}
    if len(lengths) > 1 or any(np.isnan(values).any() for values in (time, *others)):
        raise Problem("time, event and risk must have one length and no NaN; drop the incomplete rows.")
    return time, event, *others


# ---- discrete time -------------------------------------------------------------------------------------

def cuts(time, event, bins=4):
    """(bins - 1,) inner edges of time that part the seen events of the training patients into equal shares.

    Raises `Problem` where there are too few events to do so.
    """
    time, event = _checked(time, event)
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
    bins = torch.arange(logits.shape[1], device=logits.device)
    lived = (bins <= which[:, None]).to(logits)
    died = ((bins == which[:, None]) & (event[:, None] > 0)).to(logits)
    loss = F.binary_cross_entropy_with_logits(logits, died, reduction="none")
    return (loss * lived).sum(1).mean()


def discrete_risk(hazards):
    """(N, K) hazards -> (N,) risk: minus the expected number of bins survived."""
    return -np.cumprod(1 - np.asarray(hazards, float), axis=1).sum(1)


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
        return np.column_stack([np.repeat(x, self.bins, axis=0), np.tile(np.eye(self.bins), (len(x), 1))])

    def fit(self, x, time, event):
        """x (N, D) standardised features. Raises `Problem` where there are too few events."""
        time, event = _checked(time, event)
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
    """torchsurv's negative log partial likelihood per patient, Efron's ties. No event: 0.

    risk: log hazards, time, event: tensors (N,).
    """
    from torchsurv.loss.cox import neg_partial_log_likelihood
    if not event.any():
        return risk.sum() * 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Ties in `time`")          # Efron's method is what is wanted
        return neg_partial_log_likelihood(risk, event.bool(), time, reduction="sum") / len(risk)


def ridge_cox(x, time, event, alpha=1.0):
    """(D,) coefficients of a Cox model on x (N, D), with a ridge penalty.

    They minimise the negative log partial likelihood + alpha / 2 * their squared norm.
    """
    time, event = _checked(time, event)
    x, time, event = (torch.tensor(np.asarray(values), dtype=torch.float32) for values in (x, time, event))
    weight = torch.zeros(x.shape[1], requires_grad=True)
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
    """Kaplan-Meier estimate of the probability of not being censored up to and at each time of `at`."""
    time, event = _checked(time, event)
    steps = np.unique(time[~event])
    censored = ((time[None] == steps[:, None]) & ~event).sum(1)
    at_risk = (time[None] > steps[:, None]).sum(1) + censored       # those with an event then have left
    survival = np.cumprod(1 - censored / np.maximum(at_risk, 1))
    return np.concatenate([[1.0], survival])[np.searchsorted(steps, at, side="right")]


def uno(time, event, risk, tau=None, train=None):
    """Uno's C (2011): concordance of the pairs whose earlier time, before tau, is an event. No pair: nan.

    Each pair is weighted by the squared inverse probability of not being censored by then, estimated on
    train: (time, event). torchsurv 0.2 has it too, but differs from scikit-survival, and from this, where
    times are tied. Raises `Problem` where the probability is 0, for which a smaller tau is needed.
    """
    time, event, risk = _checked(time, event, risk)
    case = event & (time < (np.inf if tau is None else tau))
    chance = still_observed(*(train or (time, event)), time[case])
    if (chance <= 0).any():
        raise Problem("Nobody is still observed at the time of the last events; "
                      "pass tau, a time before which some are.")
    first = (time[case, None] < time) | ((time[case, None] == time) & ~event)
    score = (risk[case, None] > risk) + 0.5 * (risk[case, None] == risk)
    weight = first * chance[:, None] ** -2.0
    return float((weight * score).sum() / weight.sum()) if weight.any() else np.nan


def brier(time, event, survival, at, train=None):
    """Brier score at one time, weighted for censoring (Graf et al. 1999).

    survival: (N,) predicted probability of living past `at`; train: (time, event) to estimate the censoring
    on.
    """
    time, event, survival = _checked(time, event, survival)
    train = train or (time, event)
    dead = (time <= at) & event
    alive = time > at
    observed_until_own = still_observed(*train, time)
    observed_until_at = still_observed(*train, np.array([at]))[0]
    if (observed_until_own[dead] <= 0).any() or (alive.any() and observed_until_at <= 0):
        raise Problem(f"Nobody is observed up to {at}; ask for an earlier time.")
    weight_of_dead = np.where(dead, 1 / np.maximum(observed_until_own, 1e-12), 0)
    weight_of_alive = np.where(alive, 1 / max(observed_until_at, 1e-12), 0)
    weight = weight_of_dead + weight_of_alive
    return float((weight * (alive - survival) ** 2).mean())
