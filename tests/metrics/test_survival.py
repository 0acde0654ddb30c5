"""survival: closed forms, scikit-survival and lifelines beside ours.

And the two traps: the sign of the risk, tied times.
"""
import warnings

import numpy as np
import pytest
import torch

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics import survival

warnings.filterwarnings("ignore", category=FutureWarning)


def tied(seed, n=80, months=15):
    """Times in whole months, so that events and censorings meet; risk rises as time falls."""
    rng = np.random.default_rng(seed)
    time = rng.integers(1, months, n).astype(float)
    event = rng.random(n) < 0.6
    return time, event, rng.normal(size=n) - 0.2 * time


@pytest.fixture(scope="module")
def lung():
    from lifelines.datasets import load_lung
    return load_lung()[["time", "status", "age", "sex", "ph.ecog"]].dropna()


# ---- sign ----------------------------------------------------------------------------------------------

def test_concordance_of_lung_is_the_published_one_and_higher_risk_means_earlier(lung):
    from lifelines import CoxPHFitter
    risk = CoxPHFitter().fit(lung, "time", "status").predict_partial_hazard(lung)
    assert stats.concordance(lung.time, lung.status, risk) == pytest.approx(0.637135493, abs=1e-6)
    assert stats.concordance(lung.time, lung.status, -risk) == pytest.approx(1 - 0.637135493, abs=1e-6)


def test_every_risk_of_the_house_points_the_same_way():
    time, event = np.arange(1.0, 41.0), np.ones(40)
    x = -time[:, None] / 10                                     # a feature that is high for early deaths
    risk = survival.DiscreteHazard(C=10).fit(x, time, event).risk(x)
    assert stats.concordance(time, event, risk) == pytest.approx(1)
    assert survival.uno(time, event, risk) == pytest.approx(1)
    high, low = survival.discrete_risk([[0.9, 0.9], [0.1, 0.1]])
    assert high > low


# ---- ties ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(5))
def test_weighted_statistics_agree_with_scikit_survival_where_times_are_tied(seed):
    from sksurv.metrics import brier_score, concordance_index_censored, concordance_index_ipcw
    from sksurv.util import Surv
    time, event, risk = tied(seed)
    y = Surv.from_arrays(event, time)
    alive = np.random.default_rng(seed).random(len(time))
    harrell = concordance_index_censored(event, time, risk)[0]
    assert stats.concordance(time, event, risk) == pytest.approx(harrell, abs=1e-12)
    uno = concordance_index_ipcw(y, y, risk, tau=12)[0]
    assert survival.uno(time, event, risk, 12) == pytest.approx(uno, abs=1e-12)
    brier = brier_score(y, y, alive, 7.0)[1][0]
    assert survival.brier(time, event, alive, 7.0) == pytest.approx(brier, abs=1e-12)


CODES = ([1, 2, 1, 2], [1, 0, float("nan"), 1], ["dead", "alive", "dead", "dead"], ["1", "0", "1", "1"],
         [1, -1, 1, 1], [1, 0, None, 1], [1, 0, 0.5, 1])


TIME, RISK = [1., 2, 3, 4], [4., 3, 2, 1]


@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("measure, arguments", [
    (survival.cuts, {"time": TIME, "bins": 2}), (survival.still_observed, {"time": TIME, "at": 2}),
    (survival.uno, {"time": TIME, "risk": RISK}), (stats.concordance, {"time": TIME, "risk": RISK}),
    (survival.brier, {"time": TIME, "survival": [.5] * 4, "at": 2}),
    (survival.ridge_cox, {"time": TIME, "x": np.eye(4)}),
    (survival.DiscreteHazard(2).fit, {"time": TIME, "x": np.eye(4)})], ids=str)
def test_an_event_is_one_or_zero_in_all_of_survival(measure, arguments, code):
    with pytest.raises(Problem, match="1 .seen. or 0"):
        measure(event=code, **arguments)


@pytest.mark.parametrize("code", CODES, ids=str)
def test_an_event_is_one_or_zero_also_in_training(code):
    time, risk = torch.tensor(TIME), torch.tensor(RISK)
    with pytest.raises(Problem, match="1 .seen. or 0"):
        survival.uno(TIME, [1, 1, 1, 0], RISK, train=(TIME, code))
    if not {str, type(None)} & set(map(type, code)):
        event = torch.tensor(code, dtype=torch.float)
        with pytest.raises(Problem, match="1 .seen. or 0"):
            survival.cox_loss(risk, time, event)
        with pytest.raises(Problem, match="1 .seen. or 0"):
            survival.discrete_nll(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), event)


def test_booleans_and_whole_floats_are_events_too():
    time, risk = [1., 2, 3, 4], [4., 1, 2, 3]
    values = [survival.uno(time, np.array([1, 1, 0, 1], kind), risk, tau=4) for kind in (int, bool, float)]
    assert len(set(values)) == 1


def test_a_column_is_not_broadcast():
    time, event, risk = tied(0)
    column = risk[:, None]
    tensors = [torch.tensor(values) for values in (column, time, event)]
    for measure, arguments in (
            (survival.uno, (time, event, column)), (stats.concordance, (time, event, column)),
            (survival.brier, (time, event, np.full((80, 1), .5), 7.0)),
            (survival.uno, (time[:, None], event, risk)), (survival.cox_loss, tensors),
            (survival.ridge_cox, (column[:-1], time, event))):
        with pytest.raises(Problem):
            measure(*arguments)


def test_a_horizon_beyond_the_follow_up_has_no_brier_score():
    """As in scikit-survival, a horizon lies before the last time; so do those of the training patients."""
    time, event, _ = tied(0)
    alive = np.full(80, 0.5)
    for at in (time.max(), time.max() + 1, [3.0, 5.0], np.arange(80.0), float("nan"), float("inf")):
        with pytest.raises(Problem):
            survival.brier(time, event, alive, at)
    short = (time / 4, np.ones(80))
    with pytest.raises(Problem, match="earlier time"):
        survival.brier(time, event, alive, 7.0, train=short)
    with pytest.raises(Problem, match="pass tau"):
        survival.uno(time, event, -time, train=short)
    with pytest.raises(Problem):
        survival.brier(time, event, alive + 1, 7.0)


def test_after_the_last_time_it_is_not_known_who_is_observed():
    seen_last = survival.still_observed([1, 2, 3.0], [1, 0, 1], [2, 3, 4])
    assert seen_last[:2] == pytest.approx([.5, .5]) and np.isnan(seen_last[2])
    assert survival.still_observed([1, 2, 3.0], [1, 1, 0], [4]) == [0]


def test_tensors_with_gradients_are_a_problem_and_no_traceback():
    time, event, risk = (torch.tensor(v, dtype=torch.float64) for v in tied(0))
    plain = survival.uno(time, event, risk, 12)
    assert plain == survival.uno(*tied(0), 12)
    with pytest.raises(Problem, match="detach"):
        survival.uno(time, event, risk.requires_grad_(), 12)
    with pytest.raises(Problem, match="detach"):
        survival.discrete_risk(torch.rand(3, 4, requires_grad=True))
    with pytest.raises(Problem, match="sigmoid"):
        survival.discrete_risk([[2.0, -1.0]])


def test_at_a_tied_time_the_event_leaves_before_the_censoring():
    """Five patients, an event and a censoring at 2.

    Of the four who are observed until 2 one dies, so one of three is censored.
    """
    time = np.array([1, 2, 2, 3, 4.0])
    event = np.array([1, 1, 0, 1, 0])
    assert survival.still_observed(time, event, [1, 2, 3]) == pytest.approx([1, 2 / 3, 2 / 3])


def test_without_censoring_the_weights_are_one():
    time, event, risk = tied(1)
    all_seen = np.ones_like(event)
    assert survival.uno(time, all_seen, risk) == pytest.approx(stats.concordance(time, all_seen, risk))
    alive = np.random.default_rng(1).random(len(time))
    assert survival.brier(time, all_seen, alive, 7) == pytest.approx((((time > 7) - alive) ** 2).mean())


def test_where_nobody_is_observed_any_more_it_is_said():
    time = np.array([1.0, 2, 3, 3])
    event = np.array([1, 0, 0, 1])
    assert survival.uno(time, event, -time, tau=3) == 1
    with pytest.raises(Problem, match="pass tau"):
        survival.uno(time, event, -time)
    with pytest.raises(Problem, match="one length"):
        survival.uno(time, event, [np.nan] * 4)


@pytest.mark.parametrize("seed", range(3))
def test_censoring_moves_harrells_c_and_not_unos(seed):
    """A marker of early deaths alone: censoring hides the late pairs that it cannot order.

    That flatters Harrell's C.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=1500)
    early = rng.random(1500) < 1 / (1 + np.exp(-3 * x))
    death = np.where(early, rng.exponential(2, 1500), 4 + rng.exponential(4, 1500))
    limit = rng.uniform(0, 14, 1500)
    whole = survival.uno(death, np.ones(1500), x, tau=10)
    time, event = np.minimum(death, limit), death <= limit
    assert stats.concordance(time, event, x) > whole + 0.015
    assert survival.uno(time, event, x, tau=10) == pytest.approx(whole, abs=0.01)


# ---- discrete time -------------------------------------------------------------------------------------

def test_discrete_likelihood_is_the_product_of_survived_and_died():
    logits = torch.tensor([[0.3, -1.0, 0.5, 0.0], [0.1, 0.2, -0.4, 1.0]])
    h = logits.sigmoid()
    died = h[0, 2] * (1 - h[0, 0]) * (1 - h[0, 1])
    censored = (1 - h[1, 0]) * (1 - h[1, 1])
    expected = float(-(died.log() + censored.log()) / 2)
    loss = survival.discrete_nll(logits, torch.tensor([2, 1]), torch.tensor([1, 0]))
    assert loss == pytest.approx(expected, rel=1e-6)


def test_discrete_hazards_without_features_are_the_shares_that_die_in_a_bin():
    rng = np.random.default_rng(0)
    time, event = rng.exponential(10, 4000), rng.random(4000) < 0.7
    which = np.digitize(time, survival.cuts(time, event))
    model = survival.DiscreteHazard(C=1e6).fit(np.zeros((4000, 1)), time, event)
    hazards = model.model.predict_proba(model._rows(np.zeros((1, 1))))[:, 1]
    dying = [(event & (which == k)).sum() / (which >= k).sum() for k in range(4)]
    assert hazards == pytest.approx(dying, abs=2e-3)


def test_too_few_events_for_the_bins_are_said():
    with pytest.raises(Problem, match="use fewer bins"):
        survival.cuts([1.0, 1, 1, 2], [1, 1, 1, 0])
    with pytest.raises(Problem, match="use fewer bins"):
        survival.cuts([1.0, 2], [0, 0])
