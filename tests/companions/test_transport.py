"""Optimal transport: anchors with right marginals, fused Gromov-Wasserstein against closed forms and POT."""
import itertools
import math

import numpy as np
import ot
import pytest
import torch

from xmodal.companions import transport
from xmodal.config import Problem

# ---- several anchors per sample ----------------------------------------------------------------------------

def scores(n, k, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).uniform(-1, 1, (n, k)))


HOW = [{}, {"sharpness": 0.01}, {"sharpness": 100.0}, {"damping": 0.01, "sharpness": 50.0}, {"damping": 0.99}]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("n, k, chosen", [(48, 16, 8), (30, 64, 32), (64, 12, 3), (20, 5, 4), (32, 8, 1)])
def test_marginals_of_multi_sk_hold(n, k, chosen, how):
    p = transport.multi_sk(scores(n, k).float(), chosen, **how)
    assert (p.sum(1) - chosen).abs().max() < 1e-6
    assert (p.sum(0) - n * chosen / k).abs().max() < 1e-6
    assert p.min() >= 0 and p.max() <= 1 + 1e-6, "no anchor is taken more than once"


def test_one_anchor_a_sample_is_plain_sinkhorn():
    x = scores(24, 6)
    theirs = ot.sinkhorn(np.ones(24), np.full(6, 4.0), -x.numpy(), reg=0.1, numItermax=10000, stopThr=1e-12)
    np.testing.assert_allclose(transport.multi_sk(x, 1, sharpness=10.0), theirs, atol=1e-7)


def test_multi_sk_is_algorithm_1_with_all_its_channels():
    """The printed three-way scaling of a (K, N, K) tensor, against the two channels that ours keeps of it."""
    n, k, chosen, damping = 12, 5, 2, 0.25
    x = scores(n, k)
    channels = [x] * chosen + [damping * x] * (k - chosen)
    tensor = torch.exp(10 * torch.stack(channels))                       # channel, sample, anchor
    for _ in range(5000):
        tensor = tensor / tensor.sum(2, keepdim=True)
        tensor = tensor / tensor.sum(1, keepdim=True) * n / k
        tensor = tensor / tensor.sum(0, keepdim=True)
    p = transport.multi_sk(x, chosen, damping)
    torch.testing.assert_close(p, tensor[:chosen].sum(0), atol=1e-6, rtol=0)


def test_more_similar_anchors_are_taken_and_impossible_numbers_refused():
    x = scores(40, 8)
    p = transport.multi_sk(x, 4)
    assert np.corrcoef(x.flatten(), p.flatten())[0, 1] > 0.8
    batched = transport.multi_sk(torch.stack([x, -x]), 4)
    torch.testing.assert_close(batched[0], p, atol=1e-6, rtol=0)
    for chosen in (0, 8):
        with pytest.raises(Problem, match="1 to 7"):
            transport.multi_sk(x, chosen)


# ---- fused Gromov-Wasserstein ------------------------------------------------------------------------------

def space(high, low, cost):
    return transport.Space(*(torch.as_tensor(x, dtype=torch.float64) for x in (high, low, cost)))


@pytest.mark.parametrize("c, d, alpha", [(2.0, 0.5, 0.1), (1.0, 1.0, 0.3), (0.2, 1.7, 0.9)])
def test_fgw_of_two_points_is_the_closed_form(c, d, alpha):
    two = np.array([[0.0, 1], [1, 0]])
    spaces = space(c * two, d * two, two)
    loss = float(transport.fgw_loss(spaces, transport.fgw_plan(spaces, alpha, epsilon=0), alpha))
    assert loss == pytest.approx(alpha * (c - d) ** 2 / 2, abs=1e-9)


def distance(x, y):
    return np.linalg.norm(x[:, None] - y[None], axis=2)


def points(seed, n=4, dim=6):
    """Two sets of points as tensors, the distances within each, and the cost between them."""
    rng = np.random.default_rng(seed)
    a, b = (0.4 * rng.normal(size=(n, dim)) for _ in range(2))
    return torch.as_tensor(a), torch.as_tensor(b), distance(a, a), distance(b, b), distance(a, b) ** 2


def test_fgw_loss_and_plan_are_those_of_pot():
    _, _, high, low, cost = points(0)
    spaces = space(high, low, cost)
    plan = transport.fgw_plan(spaces, 0.1, epsilon=0.5, iterations=1000, starts=1)
    theirs, log = ot.gromov.entropic_fused_gromov_wasserstein(cost, high, low, epsilon=0.5, alpha=0.1,
                                                              max_iter=1000, log=True)
    np.testing.assert_allclose(plan, theirs, atol=1e-6)
    assert float(transport.fgw_loss(spaces, plan, 0.1)) == pytest.approx(float(log["fgw_dist"]), abs=1e-6)
    structure = 0
    for i, j, k, m in itertools.product(range(4), repeat=4):
        structure += (high[i, k] - low[j, m]) ** 2 * plan[i, j] * plan[k, m]
    by_hand = 0.6 * (torch.as_tensor(cost) * plan).sum() + 0.4 * structure
    assert float(transport.fgw_loss(spaces, plan, 0.4)) == pytest.approx(float(by_hand))


def test_costs_beyond_the_temperature_are_no_silent_zero():
    _, _, high, low, cost = points(0)
    with pytest.raises(Problem, match="too large for a temperature"):
        transport.fgw_plan(space(20 * high, 20 * low, 400 * cost), 0.1, epsilon=0.1)


def test_marginals_are_exact_where_sinkhorn_s_turns_need_ten_thousand_steps():
    """The costs between class embeddings of a trained K-MaT: nearly all weight lies on the diagonal."""
    cost = np.array([[0.33, 1.46, 1.35], [1.65, 0.52, 1.32], [1.41, 1.43, 0.52]])
    apart = 1.2 * (1 - np.eye(3))
    plan = transport.fgw_plan(space(apart, apart, cost), 0.1, epsilon=0.1, starts=7)
    for axis in (0, 1):
        np.testing.assert_allclose(plan.sum(axis), 1 / 3, atol=1e-10)
    assert plan.diagonal().sum() > 0.99


def test_more_starts_never_find_worse_and_sometimes_better():
    losses = []
    for seed in range(12):
        _, _, high, low, cost = points(seed, n=5, dim=2)
        spaces = space(high, low, 0 * cost)                    # structure alone: many local minima
        for starts in (1, 8):
            plan = transport.fgw_plan(spaces, 1.0, epsilon=0, starts=starts)
            losses.append(float(transport.fgw_loss(spaces, plan, 1.0)))
    single, many = np.reshape(losses, (-1, 2)).T
    assert (many <= single + 1e-9).all() and (many < single - 1e-3).any()


def least_by_trying_all(spaces, alpha):
    """The least loss of all one-to-one assignments, among which the optimum of two metric spaces lies."""
    n = len(spaces.high)
    losses = []
    for assignment in itertools.permutations(range(n)):
        plan = torch.eye(n, dtype=torch.float64)[list(assignment)] / n
        losses.append(float(transport.fgw_loss(spaces, plan, alpha)))
    return min(losses)


@pytest.mark.parametrize("n, alpha", [(3, 1.0), (4, 1.0), (4, 0.5), (4, 0.1)])
def test_by_default_up_to_four_points_get_the_best_of_all_plans(n, alpha):
    """Also two copies of one set of points in different orders, whose structures differ by nothing."""
    for seed in range(8):
        _, _, high, low, cost = points(seed, n, dim=2)
        order = np.random.default_rng(seed).permutation(n)
        for other in (low, high[order][:, order]):
            spaces = space(high, other, cost)
            loss = float(transport.fgw_loss(spaces, transport.fgw_plan(spaces, alpha, epsilon=0), alpha))
            assert loss <= least_by_trying_all(spaces, alpha) + 1e-9


def test_starts_are_as_many_as_asked_for_and_none_comes_twice():
    for n, count in ((2, 25), (4, 25), (4, 3), (7, 10)):
        starts = list(transport._starts(n, n, count, 0))
        assert len({start.tobytes() for start in starts}) == len(starts) == min(count, 1 + math.factorial(n))
    np.testing.assert_allclose(list(transport._starts(4, 4, 2, 0))[1], np.eye(4) / 4)
    assert len(list(transport._starts(3, 5, 4, 0))) == 4
    _, _, high, low, cost = points(0)
    with pytest.raises(Problem, match="at least one start"):
        transport.fgw_plan(space(high, low, cost), starts=0)


def test_the_gradient_of_fgw_is_that_of_the_entropic_objective_and_reaches_the_low_end_only():
    a, b, *_ = points(3, n=3)
    a.requires_grad_()
    b.requires_grad_()
    transport.fgw(a, b, 0.3, epsilon=0.5, iterations=2000, starts=1).backward()
    assert a.grad is None

    def entropic(low):
        between = (a[:, None] - low[None]).square().sum(2)
        spaces = transport.Space(torch.cdist(a, a), torch.cdist(low, low), between)
        plan = transport.fgw_plan(spaces, 0.3, epsilon=0.5, iterations=2000, starts=1)
        return float(transport.fgw_loss(spaces, plan, 0.3).detach() + 0.5 * (plan * plan.log()).sum())

    for i, j in ((0, 0), (1, 2), (2, 5)):
        step = torch.zeros_like(b)
        step[i, j] = 1e-5
        slope = (entropic(b.detach() + step) - entropic(b.detach() - step)) / 2e-5
        assert slope == pytest.approx(float(b.grad[i, j]), rel=1e-3, abs=1e-5)
