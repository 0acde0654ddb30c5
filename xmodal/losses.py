"""One function an objective of Table 1, and `Objective`, which adds them up. All reduce to a mean over the images they apply to."""
import torch
import torch.nn.functional as F
from torch import nn

from .config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem

# ---- what is learned ---------------------------------------------------------------------------------------------

def set_cross_entropy(logits, allowed):
    """Eq. 6 on partial labels: -log of the summed probability of the allowed classes. logits (N, C), allowed (N, C) bool.

    With one allowed class a row it is the usual cross-entropy; with all of them it is 0. Raises `Problem` where a row allows none.
    """
    if len(logits) == 0:
        return logits.sum()
    if not allowed.any(1).all():
        raise Problem("A row of labels allows no class; give it the classes its dataset leaves open.")
    return (logits.logsumexp(1) - logits.masked_fill(~allowed, -torch.inf).logsumexp(1)).mean()


def dice_ce(logits, mask, ce_weight=0.5):
    """Eq. 7 on masks (correction 6): soft Dice + ce_weight * binary cross-entropy. logits and mask (N, H, W)."""
    if len(logits) == 0:
        return logits.sum()
    p, y = logits.sigmoid().flatten(1), mask.flatten(1).to(logits)
    dice = (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)      # the ones keep an empty mask defined
    return (1 - dice).mean() + ce_weight * F.binary_cross_entropy_with_logits(logits.flatten(1), y)


def ordinal(score, cutpoints, y):
    """Eq. 8-9 (correction 3): P(Y <= k) = sigmoid(theta_k - score), rising in k. score (N,), cutpoints (K-1,) rising, y (N,) in 0..K-1.

    The sum over cut-points, averaged over images.
    """
    if len(score) == 0:
        return score.sum()
    below = (y[:, None] <= torch.arange(len(cutpoints), device=y.device)).to(score)
    return F.binary_cross_entropy_with_logits(cutpoints - score[:, None], below, reduction="none").sum(1).mean()


def info_nce(z_m, z_p, ids_m, ids_p, tau=0.07, symmetric=False, printed=False):
    """Eq. 2 (correction 4): each mammogram against its patient's tissue, negatives are other patients' in the batch.

    z_m (B, D), z_p (C, D) features, compared by cosine; ids_m (B,), ids_p (C,) patient numbers, equal for a positive pair.
    -log e^{s+} / (e^{s+} + sum e^{s-}), averaged over an anchor's positives, then over the anchors that have one; 0 if none has.
    symmetric: also tissue against mammograms, and the mean of both. printed: Eq. 2 as printed, without the positive below.
    """
    if symmetric:
        return (info_nce(z_m, z_p, ids_m, ids_p, tau, printed=printed) + info_nce(z_p, z_m, ids_p, ids_m, tau, printed=printed)) / 2
    similarity = F.normalize(z_m, dim=1) @ F.normalize(z_p, dim=1).T / tau
    positive = ids_m[:, None] == ids_p[None, :]
    negatives = similarity.masked_fill(positive, -1e9).logsumexp(1, keepdim=True)
    loss = negatives - similarity
    loss = loss if printed else F.softplus(loss)
    anchors = positive.any(1)
    if not anchors.any():
        return similarity.sum() * 0
    return ((loss * positive).sum(1)[anchors] / positive.sum(1)[anchors]).mean()


# ---- what must hold at every site --------------------------------------------------------------------------------

def scale_gradient(logits, y):
    """d/dw of the mean loss of w * logits at w = 1: mean over rows of sum_c (p_c - q_c) logit_c, in closed form.

    y: (N,) classes for logits (N, C); (N, C) bool allowed sets; or (N,) floats for binary logits (N,).
    q is the label, or the model's own posterior within the allowed set.
    """
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits, y = logits.flatten(), y.flatten().to(logits)
        return ((logits.sigmoid() - y) * logits).mean()
    p = logits.softmax(1)
    allowed = y if y.ndim == 2 else F.one_hot(y, logits.shape[1]).bool()
    q = logits.masked_fill(~allowed, -torch.inf).softmax(1)
    return ((p - q) * logits).sum(1).mean()


def irm_penalty(logits, y):
    """The penalty of Eq. 4 for one domain: its squared gradient norm with respect to a dummy scale, estimated without bias as the
    product of the gradients of two half-batches (even and odd rows). Arguments as for `scale_gradient`; 0 for fewer than two rows.
    Source: Arjovsky et al. 2019, section 3.2."""
    if len(logits) < 2:
        return logits.sum() * 0
    return scale_gradient(logits[0::2], y[0::2]) * scale_gradient(logits[1::2], y[1::2])


def coral(features):
    """Mean over pairs of domains of the squared distances between their means and covariances. features: list of (n_d, D).
    Source: Sun and Saenko 2016, as averaged in DomainBed."""
    moments = [(f.mean(0), torch.cov(f.T)) for f in features if len(f) > 1]
    pairs = [(a, b) for i, a in enumerate(moments) for b in moments[:i]]
    if not pairs:
        return sum(f.sum() for f in features) * 0
    return sum((a[0] - b[0]).square().mean() + (a[1] - b[1]).square().mean() for a, b in pairs) / len(pairs)


def group_dro(losses, weights, present, eta):
    """Sagawa et al. 2020: the losses (P,) of the domains `present` (P,), weighted by `weights` (domains,), which grow by
    exp(eta * loss) first, in place."""
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


# ---- how they are added ------------------------------------------------------------------------------------------

class Uncertainty(nn.Module):
    """Eq. 10: sum over tasks of L_t / (2 sigma_t^2) + log sigma_t, every sigma learned from 1. tasks: their names."""

    def __init__(self, tasks):
        super().__init__()
        self.log_sigma = nn.ParameterDict({t: nn.Parameter(torch.zeros(())) for t in tasks})

    def forward(self, losses):
        """losses: task -> scalar. Tasks that are absent (no label in the batch) are left out, sigma included."""
        return sum(loss * torch.exp(-2 * self.log_sigma[t]) / 2 + self.log_sigma[t] for t, loss in losses.items())

    def sigmas(self):
        return {t: float(s.detach().exp()) for t, s in self.log_sigma.items()}


class Objective(nn.Module):
    """The whole objective of a method. A weight of 0 switches a term off; `ramp` anneals the invariance terms from 0 to 1.

    forward(out, y): the model's output and the targets of `loaders.PairedBatches` -> scalar; `.parts` keeps each term for the log.
    """

    def __init__(self, width, domains, align=0.0, irm=0.0, coral=0.0, dann=0.0, dro=0.0, tau=0.07, lambda_ce=0.5):
        super().__init__()
        self.weights = {"align": align, "irm": irm, "coral": coral, "dann": dann}
        self.dro, self.tau, self.lambda_ce, self.ramp, self.parts = dro, tau, lambda_ce, 1.0, {}
        self.uncertainty = Uncertainty(("cls", "loc", "grade"))
        self.which_domain = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, domains)) if dann else None
        self.register_buffer("group_weights", torch.full((domains,), 1 / domains) if dro else None)

    def forward(self, out, y):
        streams = [m for m in MODALITIES if m in out]
        logits, z, score = (torch.cat([getattr(out[m], k) for m in streams]) for k in ("logits", "z", "score"))
        allowed, domain, grade = (torch.cat([y[m][k] for m in streams]) for k in ("allowed", "domain", "grade"))
        present = domain.unique()
        members = [domain == d for d in present]
        tasks = {"cls": self.classification(logits, allowed, members, present, out, y)}
        if (grade >= 0).any():
            tasks["grade"] = ordinal(score[grade >= 0], out["cutpoints"], grade[grade >= 0])
        if MAMMOGRAPHY in out and y[MAMMOGRAPHY]["localised"].any():
            tasks["loc"] = self.localisation(out[MAMMOGRAPHY].mask, y[MAMMOGRAPHY])
        terms = {"align": lambda: self.alignment(out, y),
                 "irm": lambda: sum(irm_penalty(logits[d], allowed[d]) for d in members),
                 "coral": lambda: coral([z[d] for d in members]),
                 "dann": lambda: F.cross_entropy(self.which_domain(Reverse.apply(z)), domain)}
        terms = {name: term() for name, term in terms.items() if self.weights[name]}
        self.parts = {name: value.detach() for name, value in {**tasks, **terms}.items()}
        ramp = lambda name: 1.0 if name == "align" else self.ramp
        return self.uncertainty(tasks) + sum(self.weights[name] * ramp(name) * term for name, term in terms.items())

    def classification(self, logits, allowed, members, present, out, y):
        """Eq. 6 as the mean (or the GroupDRO mixture) over domains, halved with that of the joint prediction where there are pairs."""
        losses = torch.stack([set_cross_entropy(logits[d], allowed[d]) for d in members])
        loss = group_dro(losses, self.group_weights, present, self.dro) if self.dro else losses.mean()
        return (loss + set_cross_entropy(out["both"].logits, y["both"])) / 2 if "both" in out else loss

    def localisation(self, logits, y):
        """Eq. 7 on the mammograms whose lesions are outlined, or that are known to have none."""
        known = y["localised"]
        mask = F.adaptive_max_pool2d(y["mask"][known].float().unsqueeze(1), logits.shape[-2:]).squeeze(1)  # max: small lesions stay
        return dice_ce(logits[known], mask, self.lambda_ce)

    def alignment(self, out, y):
        """Eq. 2 on whole images, and on the lesions alone where they are outlined (lesion-centric sampling)."""
        if not all(m in out for m in MODALITIES):
            return out["cutpoints"].sum() * 0
        z_p, ids_m, ids_p = out[HISTOPATHOLOGY].z, y[MAMMOGRAPHY]["id"], y[HISTOPATHOLOGY]["id"]
        loss = info_nce(out[MAMMOGRAPHY].z, z_p, ids_m, ids_p, self.tau, symmetric=True)
        lesion = y[MAMMOGRAPHY]["mask"].flatten(1).any(1)
        return (loss + info_nce(out["lesion"][lesion], z_p, ids_m[lesion], ids_p, self.tau)) / 2 if lesion.any() else loss

    def table(self):
        """Rows of Table 1: component, objective, equation, supervision, weight."""
        weight = lambda name: self.weights[name]
        return [
            ("Classification", "set cross-entropy", "Eq. 6", "image or slide label, as the set of classes it allows", "1 / (2 sigma_cls^2)"),
            ("Localisation", "soft Dice + %g binary cross-entropy" % self.lambda_ce, "Eq. 7", "lesion outlines, where there are any", "1 / (2 sigma_loc^2)"),
            ("Grading", "ordinal, cumulative link", "Eq. 8-9", "ordered diagnosis, where the label fixes one", "1 / (2 sigma_grade^2)"),
            ("Cross-modal alignment", "InfoNCE, tau %g" % self.tau, "Eq. 2", "same patient (or same label), and lesion crops", weight("align")),
            ("Domain generalisation", "IRM penalty + MixStyle", "Eq. 3-4", "which site an image comes from", weight("irm")),
            ("Test-time adaptation", "entropy + anchor to the source", "Eq. 5", "none: unlabelled target images", "at test time"),
        ]
