"""How many pairs of patients are in order, counted without making the pairs.

In n log^2 n steps, with n numbers in memory.
"""
import numpy as np

from ..config import Problem
from .inputs import events, numbers


def lower_and_before(place, rank):
    """(N,) for each i, how many j have both place[j] < place[i] and rank[j] < rank[i]; whole numbers (N,).

    The rows are laid out by place. In turn halves of 1, 2, 4, ... rows are compared with the half before
    them, so that every pair meets once, in a sorted half.
    """
    order = np.lexsort((-rank, place))          # of one place the highest first: none before it is lower
    rank = rank[order].astype(np.int64)
    ranks = rank.max(initial=0) + 1
    row = np.arange(len(rank))
    count = np.zeros(len(rank), np.int64)
    half = 1
    while half < len(rank):
        start = row // (2 * half) * ranks       # apart by more than any rank
        second = row // half % 2 == 1
        first_halves = np.sort((start + rank)[~second])
        up_to_rank = np.searchsorted(first_halves, (start + rank)[second])
        count[second] += up_to_rank - np.searchsorted(first_halves, start[second])
        half *= 2
    back = np.empty_like(count)
    back[order] = count
    return back


def pairs_of_events(time, event, risk):
    """For each event (E,), in the order of the rows: its pairs, and how many of them are in order.

    A pair is a patient who outlived it, also one who was censored at that time; it is in order where the
    event had the higher risk, and counts 1/2 where the risks are equal.
    """
    numbered = np.unique(time, return_inverse=True)[1].astype(np.int64)
    moment = 2 * numbered + ~event              # a censoring comes after the events of its time
    rank = np.unique(risk, return_inverse=True)[1].astype(np.int64)
    outlived_by = len(time) - np.searchsorted(np.sort(moment), moment, "right")
    lower = lower_and_before(-moment, rank)
    moments = moment.max(initial=0) + 1
    code = np.sort(rank * moments + moment)
    of_its_rank = np.searchsorted(code, (rank + 1) * moments)
    equal = of_its_rank - np.searchsorted(code, rank * moments + moment, "right")
    return outlived_by[event], (lower + equal / 2)[event]


def checked(time, event, *others):
    """(N,) times and other numbers as floats and (N,) events as booleans, without NaN, or `Problem`."""
    time, event = numbers(time, "Times"), events(event)
    others = [numbers(values, "Risks") for values in others]
    one_shape = all(values.shape == time.shape for values in (event, *others))
    if not one_shape or time.ndim != 1 or any(np.isnan(values).any() for values in (time, *others)):
        raise Problem("time, event and risk must have one length, be no columns, and hold no NaN; "
                      "drop the incomplete rows.")
    return time, event, *others


def concordance(time, event, risk):
    """Harrell's C: of the pairs whose order of events is known, the share in which the earlier had the higher
    risk.

    time: (N,) any unit; event: (N,) 1 seen, 0 censored; risk: (N,) higher means an earlier event. Equal risks
    count 1/2. A censoring at the time of an event is later than it; two events at one time are no pair. No
    pair: nan.

    >>> concordance(time=[1, 2, 3], event=[1, 1, 0], risk=[0.9, 0.2, 0.5])
    0.6666666666666666
    """
    pairs, in_order = pairs_of_events(*checked(time, event, risk))
    return float(in_order.sum() / pairs.sum()) if pairs.any() else np.nan
