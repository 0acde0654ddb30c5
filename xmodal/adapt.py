"""Test-time adaptation (not augmentation): configure, recalibrate, step, adapt, reset. Labels never enter.

Unlabelled target images in, the same model out, adapted. Eq. 5 with the sign put right (correction 2):

    L(theta) = H(f_theta(x)) + BALANCE * KL(held, mean f_theta(x))
               + anchor / n * |theta_BN - theta_BN_source|^2

theta: the necks (BatchNorm, correction 5) and adapters of the target's modality. As in Eq. 5 the last term
holds the necks alone: beside n target images the source counts as `anchor` images. The statistics are then a
weighted mean, the affine parameters are drawn back after each step. Nothing in Eq. 5 keeps the adapters from
calling every image the same, so `held`, the mean prediction after recalibration, is held. A uniform mean
would be wrong wherever the target has another mix of diagnoses. When to stop is correction 7, see `descend`.

Two modes. Whole-target, here: all target images are adapted to at once, then predicted. Streaming, `stream`:
batch by batch, as they come. Heads, attention, `lesion_neck` (training alone uses it) and `token_means` (of
source images, by their definition) stay as they are.
"""
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F

from .config import CONDITIONS, MAMMOGRAPHY, Problem
from .layers import Statistics
from .model import pool

STEPS = 10          # at most; the paper's Methods say 5 to 10
LR = 1e-3
BALANCE = 10.0      # less lets the mean prediction drift before the predictions tell more
ANCHOR = 32.0       # images that the source counts as
PROBE = 2           # batches on which the stopping rule reads; the steps do not see them
PROGRESS = 0.002    # rise of the information, in nats, that counts as progress
PATIENCE = 3        # steps without progress before it stops


class Target(NamedTuple):
    """Target images, and what the source model makes of them."""
    batches: list       # of dicts modality -> images, or what `model.early` made of them
    features: list      # of dicts modality -> (B, D) pooled tokens


class Answer(NamedTuple):
    """What the heads say of B images."""
    logits: torch.Tensor    # (B, 4)
    score: torch.Tensor     # (B,) severity


# ---- what the model says ---------------------------------------------------------------------------------

def look(model, batches):
    """`Target` of batches. Only for a model that is not adapted."""
    batches = list(batches)
    if not batches:
        raise Problem("There are no target images to adapt to; give at least one batch.")
    model.eval()
    with torch.no_grad():
        return Target(batches, [features_of(model, x) for x in batches])


def features_of(model, x):
    """A batch -> modality -> pooled tokens (B, D)."""
    return {modality: pool(model.tokens(images, modality)) for modality, images in x.items()}


def answers(model, features, necks=None):
    """Pooled tokens of each modality -> modality -> `Answer`. necks: others than the model's own."""
    out = {}
    for modality, feature in features.items():
        z = (necks or model.necks)[modality](feature)
        head = model.fuse(z, None) if modality == MAMMOGRAPHY else model.fuse(None, z)
        out[modality] = Answer(model.classify(head), model.grade(head))
    return out


def together(answered):
    """Logits (N, 4) of all images that `answers` were given for."""
    return torch.cat([answer.logits for answer in answered.values()])


def logits_of(model, x):
    """Logits (N, 4) of a batch, the images of both modalities one after the other."""
    return together(answers(model, features_of(model, x)))


def entropy(logits):
    """H of Eq. 5: mean Shannon entropy of the softmax predictions, in nats. logits (N, C)."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def mean_prediction(logits):
    """Logits (N, C) -> (C,), none of it zero."""
    return logits.softmax(1).mean(0).clamp_min(1e-12)


def diversity(logits):
    """Entropy of the mean prediction, in nats: 0 where all images get the same class. logits (N, C)."""
    p = mean_prediction(logits)
    return -(p * p.log()).sum()


def information(logits):
    """Mutual information of image and class, in nats: diversity less entropy. logits (N, C).

    Predictions that sharpen raise it, predictions that collapse into one class lower it.
    """
    return float(diversity(logits).detach() - entropy(logits).detach())


# ---- what moves ------------------------------------------------------------------------------------------

def configure(model, how):
    """Freezes all parameters but those that `how` may change by gradients, and returns these.

    "source" and "adabn": none; "tent": the necks' affine parameters; "causal": these and the adapters.
    """
    model.eval()
    model.requires_grad_(False)
    parts = {"source": [], "adabn": [], "tent": [model.necks], "causal": [model.necks, model.adapters]}[how]
    parameters = [p for part in parts for p in part.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    return parameters


def thaw(model, trained):
    """Undoes `configure`: these parameters, and no others, take gradients again."""
    model.requires_grad_(False)
    for p in trained:
        p.requires_grad_(True)


def recalibrate(model, features, anchor=0.0):
    """The necks take the statistics of all target features, a list of dicts modality -> (B, D)."""
    statistics = Statistics(model.necks, anchor)
    for f in features:
        statistics.add(f)
    statistics.write(model.necks)
    return statistics


def step(logits, optimiser, held=None):
    """One gradient step on the entropy of logits (N, 4).

    held (4,): the mean prediction that is held; None leaves the entropy alone, as for Tent.
    """
    loss = entropy(logits)
    if held is not None:
        loss = loss + BALANCE * F.kl_div(mean_prediction(logits).log(), held, reduction="sum")
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def reset(model):
    """Puts back the source weights, bit for bit, and returns the model. One never adapted stays as it is."""
    if getattr(model, "source_weights", None) is not None:
        model.load_state_dict(model.source_weights)
        model.source_weights = None
    return model


def keep_source(model):
    """Remembers the weights that `reset` brings back; a second adaptation does not overwrite them."""
    if getattr(model, "source_weights", None) is None:
        model.source_weights = weights(model)


def weights(model):
    """A copy of the model's parameters and running statistics."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# ---- whole-target ----------------------------------------------------------------------------------------

def adapt(model, batches, how="causal", steps=STEPS, lr=LR, anchor=ANCHOR, watch=None):
    """Adapts `model` in place to all unlabelled target batches, dicts modality -> images, or a `Target`.

    how: "source" changes nothing; "adabn" takes the target's BatchNorm statistics; "tent" (Wang et al. 2021)
    then also lowers the entropy by the necks' affine parameters, in one pass over the batches; "causal" is
    Eq. 5 over necks and adapters, for at most `steps` steps, with a stopping rule (`descend`).
    watch(step, logits): is shown the logits of the probe, the first `PROBE` batches, after each step.
    Returns one row per step: step, entropy, diversity, probe_images (on which both are read), stopped (the
    step whose weights the model ends with).
    """
    if how not in CONDITIONS:
        raise Problem(f"There is no adaptation {how!r}; choose one of {', '.join(CONDITIONS)}.")
    target = batches if isinstance(batches, Target) else look(model, batches)
    keep_source(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    parameters = configure(model, how)
    trajectory = Trajectory(model, target, watch)
    trajectory.read(0)
    chosen = 0
    if how != "source":
        statistics = recalibrate(model, target.features, anchor if how == "causal" else 0.0)
        trajectory.read(1)
        chosen = 1
    if how == "tent":
        chosen = pass_once(model, target, torch.optim.Adam(parameters, lr=lr), trajectory)
    if how == "causal":
        chosen = descend(model, target, statistics, steps, torch.optim.Adam(parameters, lr=lr), trajectory)
    thaw(model, trained)
    table = trajectory.table()
    return table.assign(stopped=table.step == chosen)


def pass_once(model, target, optimiser, trajectory):
    """Tent: one gradient step on the entropy for each batch. Returns the last step."""
    for number, features in enumerate(target.features, 2):
        step(together(answers(model, features)), optimiser)
        trajectory.read(number)
    return number


def descend(model, target, statistics, steps, optimiser, trajectory):
    """Steps on Eq. 5, the batches in turn, with a stopping rule (correction 7). Returns the step chosen.

    It goes on while the `information` of the predictions for the probe rises by `PROGRESS`, ends when
    `PATIENCE` steps bring no progress, and goes back to the step where the information was highest. The steps
    do not see the probe where there are other batches. Entropy or diversity alone makes no rule: both fall
    while predictions sharpen, so a floor under the diversity ends what goes well, and a falling entropy
    praises a collapse.
    """
    free = slice(PROBE, None) if len(target.batches) > PROBE else slice(None)
    batches = target.batches[free]
    with torch.no_grad():
        held = [mean_prediction(together(answers(model, f))) for f in target.features[free]]
    best = trajectory.information
    best_weights = weights(model)
    chosen = 1
    for number in range(2, 2 + steps):
        k = number % len(batches)
        step(logits_of(model, batches[k]), optimiser, held[k])
        statistics.draw_back(model.necks, optimiser.param_groups[0]["lr"])
        trajectory.read(number, moved=True)
        if trajectory.information > best + PROGRESS:
            best = trajectory.information
            best_weights = weights(model)
            chosen = number
        if number - chosen == PATIENCE:
            break
    model.load_state_dict(best_weights)
    return chosen


class Trajectory:
    """One row (step, entropy, diversity, images) per step, of what is said of the first `PROBE` batches."""

    def __init__(self, model, target, watch):
        self.model = model
        self.batches = target.batches[:PROBE]
        self.features = target.features[:PROBE]
        self.watch = watch
        self.rows = []

    @torch.no_grad()
    def read(self, step, moved=False):
        """Adds the row of the model as it is now, and shows its logits to `watch`. moved: adapters too."""
        features = self.features
        if moved:
            features = [features_of(self.model, x) for x in self.batches]
        logits = torch.cat([together(answers(self.model, f)) for f in features])
        self.information = information(logits)
        if self.watch:
            self.watch(step, logits)
        self.rows.append((step, float(entropy(logits)), float(diversity(logits)), len(logits)))

    def table(self):
        """The rows as a table."""
        return pd.DataFrame(self.rows, columns=["step", "entropy", "diversity", "probe_images"])
