"""One function for each objective of Table 1, in the paper's order, and `Objective`, which adds them up.
Each is a mean over the images it applies to; where there are none it is a 0 that has a gradient."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem
from .methods import Method

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


class Rows(NamedTuple):
    """A batch as one table: the mammograms and then the tiles, one row per image."""
    logits: torch.Tensor     # (B, 4)
    z: torch.Tensor          # (B, D)
    score: torch.Tensor      # (B,)
    allowed: torch.Tensor    # (B, 4) bool
    domain: torch.Tensor     # (B,) numbers of domains
    grade: torch.Tensor      # (B,), -1 where it is unknown


def one_table(out, y):
    """`Rows` of a batch, from what the model says (`out`) and the targets (`y`) of each modality."""
    streams = [m for m in MODALITIES if m in out]
    columns = []
    for name in ("logits", "z", "score"):
        columns.append(torch.cat([getattr(out[m], name) for m in streams]))
    for name in ("allowed", "domain", "grade"):
        columns.append(torch.cat([y[m][name] for m in streams]))
    return Rows(*columns)


class Objective(nn.Module):
    """The whole objective of a method: Eq. 10 over the tasks, and the terms that the method switches on.

        L = L_tasks + align * L_align + ramp * (irm * L_IRM + coral * L_CORAL + dann * L_DANN)

    domains: their number. switches: a row of `methods.METHODS`; a weight of 0 switches a term off. `.ramp`
    anneals the terms of domain generalisation from 0 to 1; `.parts` has all terms of the last batch.
    """

    def __init__(self, width, domains, switches=Method(), tau=0.07, lambda_ce=0.5):
        super().__init__()
        self.weights = {name: getattr(switches, name) for name in ("align", "irm", "coral", "dann")}
        self.dro = switches.dro
        self.tau, self.lambda_ce = tau, lambda_ce
        self.ramp = 1.0
        self.parts = {}
        self.uncertainty = Uncertainty(("cls", "loc", "grade"))
        self.which_domain = None
        if switches.dann:
            self.which_domain = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, domains))
        self.register_buffer("group_weights", torch.full((domains,), 1 / domains) if switches.dro else None)

    def forward(self, out, y):
        """out: what the model returns; y: the targets of `loaders.PairedBatches`. Returns a scalar."""
        rows = one_table(out, y)
        present = rows.domain.unique()
        members = [rows.domain == d for d in present]
        tasks = self.tasks(rows, present, members, out, y)
        terms = self.terms(rows, members, out, y)
        self.parts = {name: value.detach() for name, value in {**tasks, **terms}.items()}
        task_loss = self.uncertainty(tasks)
        term_loss = 0
        for name, term in terms.items():
            ramp = 1.0 if name == "align" else self.ramp
            term_loss = term_loss + self.weights[name] * ramp * term
        return task_loss + term_loss

    def tasks(self, rows, present, members, out, y):
        """name -> loss of each task with a label in the batch. members: the rows of each domain present."""
        tasks = {"cls": self.classification(rows, present, members, out, y)}
        graded = rows.grade >= 0
        if graded.any():
            tasks["grade"] = ordinal(rows.score[graded], out["cutpoints"], rows.grade[graded])
        if MAMMOGRAPHY in out and y[MAMMOGRAPHY]["localised"].any():
            tasks["loc"] = self.localisation(out[MAMMOGRAPHY].mask, y[MAMMOGRAPHY])
        return tasks

    def terms(self, rows, members, out, y):
        """name -> loss of each term that is switched on."""
        terms = {}
        if self.weights["align"]:
            terms["align"] = self.alignment(out, y)
        if self.weights["irm"]:
            terms["irm"] = sum(irm_penalty(rows.logits[d], rows.allowed[d]) for d in members)
        if self.weights["coral"]:
            terms["coral"] = coral([rows.z[d] for d in members])
        if self.weights["dann"]:
            terms["dann"] = F.cross_entropy(self.which_domain(Reverse.apply(rows.z)), rows.domain)
        return terms

    def classification(self, rows, present, members, out, y):
        """Eq. 6 as the mean (or GroupDRO's mixture) over domains, averaged with that of the pairs, if any."""
        losses = torch.stack([set_cross_entropy(rows.logits[d], rows.allowed[d]) for d in members])
        loss = group_dro(losses, self.group_weights, present, self.dro) if self.dro else losses.mean()
        if "both" in out:
            loss = (loss + set_cross_entropy(out["both"].logits, y["both"])) / 2
        return loss

    def localisation(self, logits, y):
        """Eq. 7 on the mammograms whose lesions are outlined, or that are known to have none."""
        known = y["localised"]
        mask = y["mask"][known].float().unsqueeze(1)
        mask = F.adaptive_max_pool2d(mask, logits.shape[-2:]).squeeze(1)      # max: small lesions stay
        return dice_ce(logits[known], mask, self.lambda_ce)

    def alignment(self, out, y):
        """Eq. 2 on whole images, and on the lesions alone where they are outlined."""
        if not all(m in out for m in MODALITIES):
            return out["cutpoints"].sum() * 0
        z_p = out[HISTOPATHOLOGY].z
        ids_m, ids_p = (y[m]["id"] for m in MODALITIES)
        outlined = y[MAMMOGRAPHY]["mask"].flatten(1).any(1)
        loss = info_nce(out[MAMMOGRAPHY].z, z_p, ids_m, ids_p, self.tau, symmetric=True)
        if outlined.any():
            loss = (loss + info_nce(out["lesion"][outlined], z_p, ids_m[outlined], ids_p, self.tau)) / 2
        return loss

    def table(self):
        """Rows of Table 1: component, objective, equation, supervision, weight."""
        return [
            ("Classification", "set cross-entropy", "Eq. 6",
             "image or slide label, as the set of classes it allows", "1 / (2 sigma_cls^2)"),
            ("Localisation", "soft Dice + %g binary cross-entropy" % self.lambda_ce, "Eq. 7",
             "lesion outlines, where there are any", "1 / (2 sigma_loc^2)"),
            ("Grading", "ordinal, cumulative link", "Eq. 8-9",
             "ordered diagnosis, where the label fixes one", "1 / (2 sigma_grade^2)"),
            ("Cross-modal alignment", "InfoNCE, tau %g" % self.tau, "Eq. 2",
             "same patient (or same label), and lesion crops", self.weights["align"]),
            ("Domain generalisation", "IRM penalty + MixStyle", "Eq. 3-4",
             "which site an image comes from", self.weights["irm"]),
            ("Test-time adaptation", "entropy + anchor to the source", "Eq. 5",
             "none: unlabelled target images", "at test time"),
        ]
