"""One function for each objective of Table 1, in the paper's order; `objective.Objective` adds them up.
Each is a mean over the images it applies to; where there are none it is a 0 that has a gradient."""
import torch
import torch.nn.functional as F
from torch import nn

from .config import Problem

# ---- Eq. 2: alignment ------------------------------------------------------------------------------------

def info_nce(z_m, z_p, ids_m, ids_p, tau=0.07, symmetric=False, printed=False):
    """Eq. 2 (correction 4): each mammogram against its patient's tissue; negatives are of other patients.

        L = -log e^{s+} / (e^{s+} + sum e^{s-}),   s = cos(z_m, z_p) / tau

    averaged over the positives of an anchor, then over the anchors that have one; 0 if none has.
    z_m (B, D), z_p (C, D) features; ids_m (B,), ids_p (C,) patient numbers, equal for a positive pair.
    symmetric: also tissue against mammograms, and the mean of both. printed: Eq. 2 as the paper prints it,
    without the positive in the denominator.
    """
    if symmetric:
        of_mammograms = info_nce(z_m, z_p, ids_m, ids_p, tau, printed=printed)
        of_tissue = info_nce(z_p, z_m, ids_p, ids_m, tau, printed=printed)
        return (of_mammograms + of_tissue) / 2
    similarity = F.normalize(z_m, dim=1) @ F.normalize(z_p, dim=1).T / tau
    positive = ids_m[:, None] == ids_p[None, :]
    negatives = similarity.masked_fill(positive, -1e9).logsumexp(1, keepdim=True)
    loss = negatives - similarity
    if not printed:
        loss = F.softplus(loss)
    anchors = positive.any(1)
    if not anchors.any():
        return similarity.sum() * 0
    return ((loss * positive).sum(1)[anchors] / positive.sum(1)[anchors]).mean()


# ---- Eq. 4: what must hold at every site -----------------------------------------------------------------

def irm_penalty(logits, y):
    """The penalty of Eq. 4 for one domain: its squared gradient with respect to a dummy scale w.

        |d/dw L(w f(x), y)|^2 at w = 1

    Estimated without bias, as the product of the gradients of two half-batches (even and odd rows). Arguments
    as for `scale_gradient`; 0 for fewer than two rows. Source: Arjovsky et al. 2019, section 3.2.
    """
    if len(logits) < 2:
        return logits.sum() * 0
    return scale_gradient(logits[0::2], y[0::2]) * scale_gradient(logits[1::2], y[1::2])


def scale_gradient(logits, y):
    """d/dw of the mean loss of w * logits at w = 1, in closed form: the mean over rows of

        sum_c (p_c - q_c) logit_c

    where p is the softmax, and q the label, or p within the allowed set. y: (N,) classes for logits (N, C);
    (N, C) bool allowed sets; or (N,) floats for binary logits (N,).
    """
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = logits.flatten()
        y = y.flatten().to(logits)
        return ((logits.sigmoid() - y) * logits).mean()
    p = logits.softmax(1)
    allowed = y if y.ndim == 2 else F.one_hot(y, logits.shape[1]).bool()
    q = logits.masked_fill(~allowed, -torch.inf).softmax(1)
    return ((p - q) * logits).sum(1).mean()


# ---- Eq. 6 to 9: classification, localisation, grading ---------------------------------------------------

def set_cross_entropy(logits, allowed):
    """Eq. 6 on partial labels, averaged over images: logits (N, C), allowed (N, C) bool.

        L = -log sum_{c allowed} p_c

    With one allowed class per row it is the usual cross-entropy; with all classes allowed it is 0. Raises
    `Problem` where a row allows none.
    """
    if len(logits) == 0:
        return logits.sum()
    if not allowed.any(1).all():
        raise Problem("A row of labels allows no class; give it the classes its dataset leaves open.")
    return (logits.logsumexp(1) - logits.masked_fill(~allowed, -torch.inf).logsumexp(1)).mean()


def dice_ce(logits, mask, ce_weight=0.5):
    """Eq. 7 on masks (correction 6): soft Dice and binary cross-entropy. logits and mask (N, H, W).

        L = 1 - 2 sum p y / (sum p + sum y) + ce_weight * BCE(p, y)
    """
    if len(logits) == 0:
        return logits.sum()
    p = logits.sigmoid().flatten(1)
    y = mask.flatten(1).to(logits)
    dice = (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)      # the ones keep an empty mask defined
    return (1 - dice).mean() + ce_weight * F.binary_cross_entropy_with_logits(logits.flatten(1), y)


def localisation(logits, mask, ce_weight=0.5):
    """`dice_ce` of lesion logits (N, h, w) and outlines (N, S, S), which are brought to the logits' size by
    their maximum, so that small lesions stay."""
    mask = F.adaptive_max_pool2d(mask.float().unsqueeze(1), logits.shape[-2:]).squeeze(1)
    return dice_ce(logits, mask, ce_weight)


def ordinal(score, cutpoints, y):
    """Eq. 8-9 (correction 3): the binary cross-entropy at each cut-point, summed, averaged over images.

        P(Y <= k) = sigmoid(theta_k - score), which rises with k

    score (N,), cutpoints (K-1,) rising, y (N,) in 0..K-1.
    """
    if len(score) == 0:
        return score.sum()
    below = (y[:, None] <= torch.arange(len(cutpoints), device=y.device)).to(score)
    loss = F.binary_cross_entropy_with_logits(cutpoints - score[:, None], below, reduction="none")
    return loss.sum(1).mean()


# ---- the comparisons: CORAL, GroupDRO, DANN --------------------------------------------------------------

def coral(features):
    """Squared distance between the means and the covariances of two domains, averaged over pairs of domains.
    features: list of (n_d, D), one per domain. Source: Sun and Saenko 2016, as averaged in DomainBed."""
    moments = [(f.mean(0), torch.cov(f.T)) for f in features if len(f) > 1]
    distances = []
    for i, (mean, cov) in enumerate(moments):
        for other_mean, other_cov in moments[:i]:
            distances.append((mean - other_mean).square().mean() + (cov - other_cov).square().mean())
    if not distances:
        return sum(f.sum() for f in features) * 0
    return sum(distances) / len(distances)


def group_dro(losses, weights, present, eta):
    """The losses (P,) of the domains `present` (P,), weighted by `weights` (domains,), which first grow by
    exp(eta * loss), in place. Source: Sagawa et al. 2020."""
    with torch.no_grad():
        weights[present] *= torch.exp(eta * losses)
        weights /= weights.sum()
    return (weights[present] * losses).sum()


class Reverse(torch.autograd.Function):
    """Identity forward, gradient times -1 backward (Ganin et al. 2016)."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


# ---- Eq. 10: how they are added --------------------------------------------------------------------------

class Uncertainty(nn.Module):
    """Eq. 10: every task has a sigma, learned from 1. tasks: their names.

        L = sum_t L_t / (2 sigma_t^2) + log sigma_t
    """

    def __init__(self, tasks):
        super().__init__()
        self.log_sigma = nn.ParameterDict({t: nn.Parameter(torch.zeros(())) for t in tasks})

    def forward(self, losses):
        """losses: task -> scalar. A task without a label in the batch is left out with its sigma."""
        total = 0
        for task, loss in losses.items():
            log_sigma = self.log_sigma[task]
            total = total + (loss * torch.exp(-2 * log_sigma) / 2 + log_sigma)
        return total

    def sigmas(self):
        return {t: float(s.detach().exp()) for t, s in self.log_sigma.items()}
