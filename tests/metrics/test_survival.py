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


def test_the_cox_loss_falls_when_risks_are_turned_the_right_way():
    from torchsurv.loss.cox import neg_partial_log_likelihood
    time, event, risk = (torch.tensor(v) for v in tied(0))
    assert neg_partial_log_likelihood(risk, event, time) < neg_partial_log_likelihood(-risk, event, time)


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


# ---- a regularised Cox model ---------------------------------------------------------------------------

@pytest.mark.parametrize("ties", [False, True])
def test_ridge_cox_finds_the_coefficients_of_scikit_survival(ties):
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv
    rng = np.random.default_rng(3)
    x = rng.normal(size=(120, 4))
    time = rng.exponential(np.exp(-x @ [1, -0.5, 0, 0.3])) + 0.01
    time, event = np.ceil(time * 10) / 10 if ties else time, rng.random(120) < 0.7
    theirs = CoxPHSurvivalAnalysis(alpha=5.0, ties="efron").fit(x, Surv.from_arrays(event, time)).coef_
    assert survival.ridge_cox(x, time, event, alpha=5.0) == pytest.approx(theirs, abs=2e-3)


def test_ridge_cox_on_real_expression_is_scikit_survivals():
    """Desmedt's 198 patients and 76 probes, as `mirror.rna_arm` calls it."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    from data_scripts import breast_expression
    genes, time, event = breast_expression.load("desmedt")
    z, time, event = ((genes - genes.mean()) / genes.std()).to_numpy(), time.to_numpy(), event.to_numpy()
    theirs = CoxPHSurvivalAnalysis(alpha=76, ties="efron").fit(z, Surv.from_arrays(event == 1, time)).coef_
    assert survival.ridge_cox(z, time, event, alpha=76) == pytest.approx(theirs, abs=1e-3)
