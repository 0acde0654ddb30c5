"""survival: the Cox model against Efron's sum and scikit-survival, also where events and censorings tie."""
import numpy as np
import pytest
import torch
from test_survival import tied

from xmodal.config import Problem
from xmodal.metrics import survival


def efron(risk, time, event):
    """The negative log partial likelihood per patient, written as Efron's sum."""
    total = 0.0
    for moment in np.unique(time[event]):
        dying = event & (time == moment)
        at_risk = np.exp(risk[time >= moment]).sum()            # also who is censored then
        for i, own in enumerate(risk[dying]):
            total += np.log(at_risk - i / dying.sum() * np.exp(risk[dying]).sum()) - own
    return total / len(time)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cox_loss_is_efrons_sum_where_events_and_censorings_share_times(seed, dtype):
    time, event, risk = tied(seed)
    loss = survival.cox_loss(torch.tensor(risk, dtype=dtype), torch.tensor(time), torch.tensor(event))
    digits = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert float(loss) == pytest.approx(efron(risk, time, event), rel=digits)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_who_is_censored_at_the_time_of_an_event_was_at_risk_of_it(order):
    """No two events tie. -log(e^0 / (e^0 + e^1 + e^2)) of one event among three, whatever their order."""
    risk, time = torch.tensor([0., 1, 2])[order], torch.tensor([5., 5, 7])[order]
    event = torch.tensor([1, 0, 0])[order]
    expected = np.log(np.exp([0, 1, 2]).sum()) / 3
    assert float(survival.cox_loss(risk, time, event)) == pytest.approx(expected, rel=1e-6)


def test_where_events_tie_and_censorings_do_not_the_cox_loss_is_torchsurvs():
    from torchsurv.loss.cox import neg_partial_log_likelihood
    time, event, risk = (torch.tensor(v, dtype=torch.float32) for v in tied(1))
    time = time + 0.5 * (1 - event)                                 # torchsurv 0.2 may drop who is censored
    theirs = neg_partial_log_likelihood(risk, event.bool(), time, reduction="sum") / len(risk)
    assert float(survival.cox_loss(risk, time, event)) == pytest.approx(float(theirs), rel=1e-5)


def test_the_gradient_of_the_cox_loss_is_right_and_large_risks_overflow_nothing():
    time, event, risk = (torch.tensor(v) for v in tied(2, n=12, months=4))
    assert torch.autograd.gradcheck(lambda r: survival.cox_loss(r, time, event), risk.requires_grad_())
    large = torch.tensor([-400., 0, 400, 400], requires_grad=True)
    survival.cox_loss(large, torch.tensor([1., 2, 2, 2]), torch.tensor([1, 1, 1, 0])).backward()
    assert large.grad.isfinite().all()
    nobody = survival.cox_loss(large, torch.tensor([1., 2, 3, 4]), torch.zeros(4))
    assert nobody == 0 and nobody.requires_grad


def test_the_cox_loss_falls_when_risks_are_turned_the_right_way():
    time, event, risk = (torch.tensor(v) for v in tied(0))
    assert survival.cox_loss(risk, time, event) < survival.cox_loss(-risk, time, event)


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
    assert survival.ridge_cox(x, time, event, alpha=5.0) == pytest.approx(theirs, abs=1e-4)


def test_ridge_cox_on_real_expression_is_scikit_survivals():
    """Desmedt's 198 patients and 76 probes, as `mirror.rna_arm` calls it."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    from data_scripts import breast_expression
    genes, time, event = breast_expression.load("desmedt")
    z, time, event = ((genes - genes.mean()) / genes.std()).to_numpy(), time.to_numpy(), event.to_numpy()
    theirs = CoxPHSurvivalAnalysis(alpha=76, ties="efron").fit(z, Surv.from_arrays(event == 1, time)).coef_
    assert survival.ridge_cox(z, time, event, alpha=76) == pytest.approx(theirs, abs=1e-4)


def test_ridge_cox_where_a_censoring_shares_its_time_with_an_event_is_scikit_survivals():
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    time = np.repeat(np.arange(1.0, 31.0), 2)                       # of each two one dies, one is censored
    event = np.tile([1, 0], 30)[rng.permutation(2)[np.arange(60) % 2] + np.arange(60) // 2 * 2]
    theirs = CoxPHSurvivalAnalysis(alpha=2.0, ties="efron").fit(x, Surv.from_arrays(event == 1, time)).coef_
    assert survival.ridge_cox(x, time, event, alpha=2.0) == pytest.approx(theirs, abs=1e-4)
    with pytest.raises(Problem, match="finite"):
        survival.ridge_cox(np.where(x > 2, np.inf, x), time, event)
