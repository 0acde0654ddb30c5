"""Each objective against a closed form or another implementation, and the formulas that fail as printed."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xmodal import losses
from xmodal.config import Problem

torch.manual_seed(0)


# ---- Eq. 6: classification -------------------------------------------------------------------------------

def test_set_cross_entropy_of_single_classes_is_the_usual_one():
    logits = torch.randn(8, 4)
    y = torch.arange(8) % 4
    ours = losses.set_cross_entropy(logits, F.one_hot(y, 4).bool())
    assert torch.allclose(ours, F.cross_entropy(logits, y))


def test_set_cross_entropy_is_minus_log_of_the_summed_probability():
    logits = torch.randn(3, 4)
    allowed = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1]]).bool()
    by_hand = -(logits.softmax(1) * allowed).sum(1).log().mean()
    assert torch.allclose(losses.set_cross_entropy(logits, allowed), by_hand)
    says_nothing = losses.set_cross_entropy(logits[1:2], allowed[1:2])
    assert says_nothing == 0, "a label that allows all classes costs nothing"


def test_a_row_that_allows_no_class_is_refused():
    with pytest.raises(Problem, match="allows no class"):
        losses.set_cross_entropy(torch.randn(1, 4), torch.zeros(1, 4).bool())


# ---- Eq. 7: localisation ---------------------------------------------------------------------------------

def test_dice_ce_of_a_sure_right_mask_is_zero_and_of_a_sure_wrong_one_is_not():
    mask = torch.zeros(2, 8, 8)
    mask[:, 2:5, 3:6] = 1
    right = (mask * 2 - 1) * 50
    assert losses.dice_ce(right, mask) < 1e-3
    assert losses.dice_ce(-right, mask) > 1
    p = torch.full((1, 1, 2), 0.5)                     # one of two pixels, probability one half each
    by_hand = (1 - (2 * 0.5 + 1) / (1 + 1 + 1)) + 0.5 * np.log(2)
    half = losses.dice_ce(torch.logit(p), torch.tensor([[[1.0, 0.0]]]))
    assert half.item() == pytest.approx(by_hand, rel=1e-5)


# ---- Eq. 2: alignment ------------------------------------------------------------------------------------

def test_info_nce_with_one_positive_each_is_cross_entropy_over_the_batch():
    m = torch.randn(6, 5)
    p = torch.randn(6, 5)
    ids = torch.arange(6)
    similarity = F.normalize(m, dim=1) @ F.normalize(p, dim=1).T / 0.07
    assert torch.allclose(losses.info_nce(m, p, ids, ids), F.cross_entropy(similarity, ids))
    both = (F.cross_entropy(similarity, ids) + F.cross_entropy(similarity.T, ids)) / 2
    assert torch.allclose(losses.info_nce(m, p, ids, ids, symmetric=True), both)


def test_info_nce_does_not_change_when_patients_are_permuted():
    m = torch.randn(7, 5)
    p = torch.randn(9, 5)
    ids_m = torch.tensor([0, 0, 1, 2, 3, 4, 9])
    ids_p = torch.tensor([0, 1, 1, 2, 3, 4, 5, 6, 7])
    order = torch.randperm(9)
    permuted = losses.info_nce(m, p[order], ids_m, ids_p[order])
    assert torch.allclose(losses.info_nce(m, p, ids_m, ids_p), permuted)


def test_info_nce_counts_no_other_tissue_of_the_same_patient_as_a_negative():
    m = torch.randn(1, 5)
    p = torch.randn(1, 5)
    assert losses.info_nce(m, p.repeat(3, 1), torch.zeros(1), torch.zeros(3)).item() == pytest.approx(0)


def test_info_nce_without_any_pair_is_zero_and_trainable():
    m = torch.randn(2, 5, requires_grad=True)
    loss = losses.info_nce(m, torch.randn(2, 5), torch.tensor([0, 1]), torch.tensor([2, 3]))
    loss.backward()
    assert loss == 0 and torch.isfinite(m.grad).all()


def test_correction_4_printed_info_nce_has_no_lower_bound_and_ours_has():
    """Eq. 2 as printed divides by the negatives only: a good model drives it below zero without end."""
    m = torch.eye(4)
    ids = torch.arange(4)
    worse = losses.info_nce(m, m, ids, ids, tau=1.0, printed=True)
    better = losses.info_nce(m, m, ids, ids, tau=0.01, printed=True)
    assert better < worse < 1 and better < -50
    assert 0 <= losses.info_nce(m, m, ids, ids, tau=0.01) < 1e-6


# ---- Eq. 4: IRM ------------------------------------------------------------------------------------------

def autograd_scale_gradient(logits, loss):
    w = torch.ones((), requires_grad=True)
    return torch.autograd.grad(loss(logits * w), w)[0]


def test_scale_gradient_is_what_autograd_finds():
    logits = torch.randn(10, 4)
    y = torch.randint(4, (10,))
    by_class = autograd_scale_gradient(logits, lambda z: F.cross_entropy(z, y))
    assert torch.allclose(losses.scale_gradient(logits, y), by_class, atol=1e-6)
    allowed = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]).bool().repeat(5, 1)
    by_set = autograd_scale_gradient(logits, lambda z: losses.set_cross_entropy(z, allowed))
    assert torch.allclose(losses.scale_gradient(logits, allowed), by_set, atol=1e-6)
    binary = torch.randn(10)
    labels = torch.randint(2, (10,)).float()
    of_two = autograd_scale_gradient(binary, lambda z: F.binary_cross_entropy_with_logits(z, labels))
    assert torch.allclose(losses.scale_gradient(binary, labels), of_two, atol=1e-6)


def test_irm_penalty_is_the_product_of_two_half_batches_and_unbiased():
    """Its mean over many batches is the squared gradient of the whole; that of their squares is larger."""
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(4000, 4, generator=g)
    y = torch.randint(4, (4000,), generator=g)
    whole = losses.scale_gradient(logits, y).square()
    batches = [torch.randperm(4000, generator=g)[:16] for _ in range(4000)]
    ours = torch.stack([losses.irm_penalty(logits[b], y[b]) for b in batches])
    squared = torch.stack([losses.scale_gradient(logits[b], y[b]).square() for b in batches])
    assert abs(ours.mean() - whole) < 4 * ours.std() / len(batches) ** 0.5
    assert squared.mean() - whole > 4 * squared.std() / len(batches) ** 0.5
    even = losses.scale_gradient(logits[0:8:2], y[0:8:2])
    odd = losses.scale_gradient(logits[1:8:2], y[1:8:2])
    assert losses.irm_penalty(logits[:8], y[:8]) == even * odd


# ---- Eq. 8-9: grading ------------------------------------------------------------------------------------

def test_ordinal_is_binary_cross_entropy_at_every_cutpoint():
    theta = torch.tensor([-1.0, 0.5, 2.0])
    p = torch.sigmoid(theta - 0.3)
    by_hand = -(torch.log(1 - p[0]) + torch.log(1 - p[1]) + torch.log(p[2]))
    assert torch.allclose(losses.ordinal(torch.tensor([0.3]), theta, torch.tensor([2])), by_hand)


def test_correction_3_printed_ordinal_is_no_cumulative_probability_and_ours_is():
    """sigma(s - theta_k) falls with k, but P(Y <= k) must rise; ours rises, and grades with the score."""
    theta = torch.tensor([-1.0, 0.0, 1.0])
    printed = torch.sigmoid(0.2 - theta)
    ours = torch.sigmoid(theta - 0.2)
    assert (printed.diff() < 0).all() and (ours.diff() > 0).all()
    y = torch.tensor([3])
    assert losses.ordinal(torch.tensor([4.0]), theta, y) < losses.ordinal(torch.tensor([-4.0]), theta, y)


# ---- Eq. 10: uncertainty weighting -----------------------------------------------------------------------

def test_uncertainty_starts_as_half_the_sum_and_learns_the_closed_form_sigma():
    weigh = losses.Uncertainty(("cls", "loc"))
    parts = {"cls": torch.tensor(2.0), "loc": torch.tensor(0.5)}
    assert weigh(parts).item() == pytest.approx(1.25)
    optimiser = torch.optim.SGD(weigh.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        weigh(parts).backward()
        optimiser.step()
    assert weigh.sigmas()["cls"] == pytest.approx(2.0 ** 0.5, rel=1e-3)   # d/d sigma = 0 at sigma^2 = L
    assert weigh.sigmas()["loc"] == pytest.approx(0.5 ** 0.5, rel=1e-3)


# ---- the comparisons -------------------------------------------------------------------------------------

def test_group_dro_moves_weight_to_the_worse_domain():
    weights = torch.full((2,), 0.5)
    of_domains = torch.tensor([1.0, 3.0])
    loss = losses.group_dro(of_domains, weights, torch.tensor([0, 1]), eta=0.5)
    expected = torch.tensor([np.exp(0.5), np.exp(1.5)]) / (np.exp(0.5) + np.exp(1.5))
    assert torch.allclose(weights, expected.float())
    assert torch.allclose(loss, (expected * of_domains).sum().float())


def test_coral_is_zero_for_equal_and_positive_for_shifted_or_scaled_domains():
    f = torch.randn(50, 3)
    assert losses.coral([f, f]) == 0
    assert losses.coral([f, f + 1]).item() == pytest.approx(1.0, rel=1e-5)
    assert losses.coral([f, f * 2]) > 0.1


def test_reversal_turns_the_gradient_around():
    x = torch.ones(3, requires_grad=True)
    losses.Reverse.apply(x).sum().backward()
    assert (x.grad == -1).all()
