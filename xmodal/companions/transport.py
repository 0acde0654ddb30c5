"""Optimal transport: Sinkhorn, several anchors per sample (Multi-SK), fused Gromov-Wasserstein.

Sources: Cuturi 2013 (Sinkhorn); Swetha et al. 2023 and RFPMSS, Algorithm 1 (Multi-SK); Vayer et al. 2019
(fused Gromov-Wasserstein), solved by POT.
"""
import logging
import math
from typing import NamedTuple

import numpy as np
import torch

from ..config import Problem

log = logging.getLogger(__name__)


# ---- assignments of samples to anchors ---------------------------------------------------------------------

def sinkhorn(x, sharpness=10.0, iterations=5000, tolerance=1e-9):
    """Similarities x (..., N, K) -> P = exp(sharpness * x), scaled, as float64.

    Every row of P sums to 1 and every column to N / K.
    """
    log_p = sharpness * x.double()
    column = math.log(x.shape[-2] / x.shape[-1])
    for _ in range(iterations):
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        excess = log_p.logsumexp(-2, keepdim=True) - column
        log_p = log_p - excess
        if excess.abs().max() < tolerance:
            break
    return log_p.exp()


def multi_sk(x, chosen, damping=0.25, sharpness=10.0, iterations=2000, tolerance=1e-9):
    """Multi-SK: similarities x (..., N, K) -> P in [0, 1], float64.

    Every row of P sums to `chosen` (K'), every column to N K' / K. Algorithm 1 of RFPMSS scales a tensor of K
    channels, of which the first K' hold exp(sharpness x) and the others exp(damping sharpness x), in three
    ways: rows of a channel to 1, its columns to N / K, and every sample and anchor over the channels to 1. P
    is the sum of the first K' channels. (As printed the exponent has the sign of a cost; x is a similarity.)
    Channels that start alike stay alike: call them T (the first K') and O (the others). The third scaling
    then says K' T + (K - K') O = 1, and where all three hold, P = K' T has the log odds (1 - damping)
    sharpness x + u_i + v_j. Scaling in turns converges slowly; instead u and v are computed by Newton's
    method on the convex function whose gradient is the error of the marginals, with steps damped as for
    logistic losses (Bach 2010).

    With K' = 1 a row that sums to 1 holds no entry above 1, so nothing has to be shared out among channels,
    and P is plain Sinkhorn's. (The channels would give the same marginals with softer entries.) Raises
    `Problem` unless 1 <= K' < K.
    """
    n, k = x.shape[-2:]
    if not 1 <= chosen < k:
        raise Problem(f"Of {k} anchors each sample can be given 1 to {k - 1}, not {chosen}; "
                      "change the number of chosen anchors.")
    if chosen == 1:
        return sinkhorn(x, sharpness, tolerance=tolerance)
    odds = (1 - damping) * sharpness * x.double()
    odds = odds - odds.mean((-2, -1), keepdim=True) + math.log(chosen / (k - chosen))
    for _ in range(iterations):
        p = odds.sigmoid()
        rows = p.sum(-1, keepdim=True) - chosen
        columns = (p.sum(-2) - n * chosen / k).unsqueeze(-1)
        worst = max(rows.abs().max(), columns.abs().max())
        if worst < tolerance:
            return p
        odds = odds + _newton(p * (1 - p), rows, columns)
    log.warning("Multi-SK stopped %.1e from its marginals after %d steps; lower the sharpness.",
                worst, iterations)
    return p


def _newton(weights, rows, columns):
    """The step (..., N, K) = du_i + dv_j of Newton's method.

    weights: second derivatives (..., N, K); rows (..., N, 1) and columns (..., K, 1): the excess of the sums.
    The rows are eliminated. A constant added to v and subtracted from u changes nothing; v does not move
    along it.
    """
    k = weights.shape[-1]
    total = weights.sum(-1, keepdim=True).clamp_min(1e-30)
    matrix = torch.diag_embed(weights.sum(-2)) - weights.mT @ (weights / total)
    scale = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    matrix = matrix + scale / k + 1e-14 * torch.eye(k).to(matrix)
    dv = torch.linalg.solve(matrix, weights.mT @ (rows / total) - columns)
    step = dv.mT - (rows + weights @ dv) / total
    size = step.abs().amax((-2, -1), keepdim=True).clamp_min(1e-12)
    return step * torch.log1p(size) / size


# ---- fused Gromov-Wasserstein ------------------------------------------------------------------------------

STARTS = 25     # of the solver: the product of the weights, and all 24 assignments of four points


class Space(NamedTuple):
    """Two sets of points as fused Gromov-Wasserstein sees them: distances within, cost between them."""
    high: torch.Tensor    # (N, N)
    low: torch.Tensor     # (M, M)
    cost: torch.Tensor    # (N, M)


def fgw_loss(space, plan, alpha):
    """(1 - alpha) <M, G> + alpha sum |D_ik - D_jl|^2 G_ij G_kl of a plan G (N, M), as printed for K-MaT."""
    p, q = plan.sum(1), plan.sum(0)
    within = p @ space.high.square() @ p + q @ space.low.square() @ q
    structure = within - 2 * (space.high @ plan @ space.low * plan).sum()
    return (1 - alpha) * (space.cost * plan).sum() + alpha * structure


def fgw_plan(space, alpha=0.1, epsilon=0.1, iterations=100, starts=STARTS, seed=0):
    """The coupling (N, M) of uniform weights that minimises `fgw_loss` - epsilon * entropy; epsilon 0:
    without entropy.

    The problem is not convex. It is solved from the product of the weights and, where N = M, from one-to-one
    assignments, the diagonal first and then others, none twice; else from random plans. The best of `starts`
    solutions is returned, detached, on the device of the space. STARTS try all assignments of up to four
    points; 3 missed the least loss for a quarter of random sets of four points where structure alone counts.
    Raises `Problem` where exp(-cost / epsilon) is zero.
    """
    if starts < 1:
        raise Problem(f"A plan is sought from at least one start, not {starts}.")
    cost, high, low = (t.detach().cpu().double().numpy() for t in (space.cost, space.high, space.low))
    begun = np.stack(list(_starts(*cost.shape, starts, seed)))
    if epsilon:
        plans = _entropic(cost, high, low, begun, alpha, epsilon, iterations)
    else:
        plans = [_exact(cost, high, low, start, alpha) for start in begun]
    on_cpu = Space(*map(torch.as_tensor, (high, low, cost)))
    values = []
    for plan in plans:
        if not abs(plan.sum() - 1) < 1e-3:
            raise Problem(f"Costs up to {cost.max():.3g} are too large for a temperature of {epsilon}: "
                          "no plan is above zero; take unit vectors, or a higher temperature.")
        entropy = -(plan * np.log(np.maximum(plan, 1e-300))).sum()
        values.append(float(fgw_loss(on_cpu, torch.as_tensor(plan), alpha)) - epsilon * entropy)
    return torch.as_tensor(plans[int(np.argmin(values))]).to(space.cost)


def _exact(cost, high, low, start, alpha):
    """POT's solution (N, M) without entropy from one start."""
    import ot
    return ot.gromov.fused_gromov_wasserstein(cost, high, low, loss_fun="square_loss", alpha=alpha,
                                              symmetric=True, G0=start)


def _entropic(cost, high, low, plans, alpha, epsilon, iterations):
    """The solutions (S, N, M) from all starts at once, by projected gradients (Peyre et al. 2016) as in POT:
    the gradient at the last plan is projected on the marginals, until no plan changes."""
    constant = (high ** 2).mean(1)[:, None] + (low ** 2).mean(1)
    shift = torch.zeros(1, *cost.shape, dtype=torch.float64)      # begins where it last ended
    for _ in range(iterations):
        gradient = (1 - alpha) * cost + 2 * alpha * (constant - 2 * high @ plans @ low)
        projected, shift = _projected(torch.as_tensor(-gradient / epsilon), shift)
        change = np.abs(projected - plans).max()
        plans = projected
        if not change > 1e-9:
            break
    return plans


def _projected(log_kernel, shift, iterations=100):
    """Kernels (S, N, M) scaled to uniform marginals, as an array, and the logs of their scales, which are
    sought from `shift` on. NaN where a row of a kernel is zero.

    By Newton's method: where hardly any weight lies beside one entry of each row, Sinkhorn's turns need more
    than 10,000 steps.
    """
    _, n, m = log_kernel.shape
    x = log_kernel + shift
    x = x - x.logsumexp(2, keepdim=True) - math.log(n)
    x = x - x.logsumexp(1, keepdim=True) - math.log(m)
    for _ in range(iterations):
        p = x.exp()
        rows = p.sum(2, keepdim=True) - 1 / n
        columns = (p.sum(1) - 1 / m).unsqueeze(2)
        if max(rows.abs().max(), columns.abs().max()) < 1e-12:
            break
        x = x + _newton(p, rows, columns)
    empty = (log_kernel.exp().sum(2) == 0)[..., None]
    return x.exp().masked_fill(empty, math.nan).numpy(), x - log_kernel


def _starts(n, m, count, seed):
    """Plans (n, m) with uniform marginals to start from."""
    p = np.full(n, 1 / n)
    q = np.full(m, 1 / m)
    rng = np.random.default_rng([seed, n, m])
    yield np.outer(p, q)
    if n != m:
        from ot import emd
        for _ in range(count - 1):
            yield emd(p, q, rng.random((n, m)))
        return
    tried = set()
    assignment = np.arange(n)
    while len(tried) < min(count - 1, math.factorial(n)):
        if tuple(assignment) not in tried:
            tried.add(tuple(assignment))
            yield np.eye(n)[assignment] / n
        assignment = rng.permutation(n)


def _distance(a, b):
    """Euclidean distances (N, M) of points (N, D) and (M, D)."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def fgw_space(high, low):
    """The `Space` of class embeddings high and low (C, D); its gradient reaches `low` alone."""
    high = high.detach()
    between = (high[:, None] - low[None]).square().sum(2)
    return Space(_distance(high, high), _distance(low, low), between)


def fgw(high, low, alpha=0.1, epsilon=0.1, iterations=100, starts=STARTS, plan=None):
    """K-MaT's alignment loss of class embeddings high and low (C, D), a scalar.

    plan: a coupling (C, C), or None to solve for it.
    Its gradient reaches `low` alone. The plan is held fixed in the gradient; by the envelope theorem this is
    the gradient of the minimised entropic objective.
    """
    space = fgw_space(high, low)
    if plan is None:
        plan = fgw_plan(space, alpha, epsilon, iterations, starts)
    return fgw_loss(space, plan, alpha)
