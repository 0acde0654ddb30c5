"""Test-time adaptation (not augmentation): configure, recalibrate, step, adapt, reset. Labels never enter.

Unlabelled target images in, the same model out, adapted. Eq. 5 with the sign put right (correction 2):

    L(theta) = H(f_theta(x)) + anchor * |theta - theta_source|^2

theta: the necks' affine parameters and the adapters; H: the entropy of the predictions. The necks are
BatchNorm (correction 5), and a rule that needs no labels says when to stop (correction 7).
"""
import pandas as pd
import torch

from . import config
from .cohort import malignant
from .config import CONDITIONS, MODALITIES, Problem
from .loaders import Images, sweep
from .model import pool
from .predict import load_model, predict
from .record import load_run, run_dir, seed_everything, update_run
from .stats import auc

PROBE = 2           # batches on which the stopping rule reads entropy and diversity
PROGRESS = 0.005    # relative fall of the entropy that counts as progress
PATIENCE = 3        # steps without progress before it stops
COLLAPSE = 0.95     # it stops where the diversity falls below this share of what it was once recalibrated


def configure(model, how):
    """Freezes all parameters but those that `how` may change by gradients, and returns these.

    "adabn": none; "tent": the necks' affine parameters; "causal": these and the adapters.
    """
    model.eval()
    model.requires_grad_(False)
    parts = {"adabn": [], "tent": [model.necks], "causal": [model.necks, model.adapters]}[how]
    parameters = [p for part in parts for p in part.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    return parameters


@torch.no_grad()
def recalibrate(model, batches):
    """AdaBN (Li et al. 2016): the necks' running mean and variance become those of all target batches."""
    features = {}
    for x in batches:
        for modality, images in x.items():
            features.setdefault(modality, []).append(pool(model.tokens(images, modality)))
    for modality, parts in features.items():
        f = torch.cat(parts).float()
        if len(f) > 1:
            model.necks[modality].running_mean.copy_(f.mean(0))
            model.necks[modality].running_var.copy_(f.var(0))


def step(model, batch, optimiser, parameters=(), source=(), anchor=0.0):
    """One gradient step on Eq. 5 for a batch. parameters: theta; source: theta_source.

    An anchor of 0 leaves the entropy alone, as for Tent.
    """
    loss = entropy(logits_of(model, batch))
    if anchor:
        loss = loss + anchor * sum((p - s).square().sum() for p, s in zip(parameters, source))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def adapt(model, batches, how="causal", steps=50, lr=1e-3, anchor=10.0, watch=None):
    """Adapts `model` in place to unlabelled target batches (each a dict modality -> images).

    how: "source" changes nothing; "adabn" takes the target's BatchNorm statistics; "tent" (Wang et al. 2021)
    then also lowers the entropy by the necks' affine parameters, in one pass over the batches; "causal" is
    Eq. 5 over necks and adapters, for at most `steps` steps, with a stopping rule (`descend`).
    watch(step, logits): is shown the logits of the first `PROBE` batches after each step, for evaluation.
    Returns one row per step: step, entropy, diversity, stopped (the step whose weights the model ends with).
    """
    if how not in CONDITIONS:
        raise Problem(f"There is no adaptation {how!r}; choose one of {', '.join(CONDITIONS)}.")
    batches = list(batches)
    if not batches:
        raise Problem("There are no target images to adapt to; give at least one batch.")
    keep_source(model)
    model.eval()
    trajectory = Trajectory(model, batches, watch)
    trajectory.read(0)
    chosen = 0
    if how != "source":
        parameters = configure(model, how)
        recalibrate(model, batches)
        trajectory.read(1)
        chosen = 1
    if how == "tent":
        chosen = pass_once(model, batches, parameters, lr, trajectory)
    if how == "causal":
        chosen = descend(model, batches, parameters, steps, lr, anchor, trajectory)
    model.requires_grad_(True)
    table = pd.DataFrame(trajectory.rows, columns=["step", "entropy", "diversity"])
    return table.assign(stopped=table.step == chosen)


def pass_once(model, batches, parameters, lr, trajectory):
    """Tent: one gradient step on the entropy for each batch. Returns the last step."""
    optimiser = torch.optim.Adam(parameters, lr=lr)
    last = 1 + len(batches)
    for number in range(2, last + 1):
        step(model, batches[number % len(batches)], optimiser)
        trajectory.read(number)
    return last


def descend(model, batches, parameters, steps, lr, anchor, trajectory):
    """Steps on Eq. 5, the batches in turn, until the stopping rule ends it (correction 7).

    It goes back to the last step that made progress, once `PATIENCE` steps in a row make none, or once the
    predictions lose their diversity. Returns that step.
    """
    source = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    _, best_entropy, recalibrated_diversity = trajectory.rows[-1]
    best_weights = weights(model)
    chosen = 1
    for number in range(2, 2 + steps):
        step(model, batches[number % len(batches)], optimiser, parameters, source, anchor)
        _, reached_entropy, reached_diversity = trajectory.read(number)
        if reached_diversity < COLLAPSE * recalibrated_diversity:
            break
        if reached_entropy < (1 - PROGRESS) * best_entropy:
            best_entropy = reached_entropy
            best_weights = weights(model)
            chosen = number
        if number - chosen == PATIENCE:
            break
    model.load_state_dict(best_weights)
    return chosen


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


# ---- what is read without labels -------------------------------------------------------------------------

class Trajectory:
    """One row (step, entropy, diversity) per step, of the predictions for the first `PROBE` batches."""

    def __init__(self, model, batches, watch):
        self.model = model
        self.probe = batches[:PROBE]
        self.watch = watch
        self.rows = []

    @torch.no_grad()
    def read(self, step):
        """Adds the row of the model as it is now, shows its logits to `watch`, and returns the row."""
        logits = torch.cat([logits_of(self.model, x) for x in self.probe])
        if self.watch:
            self.watch(step, logits)
        row = (step, float(entropy(logits)), float(diversity(logits)))
        self.rows.append(row)
        return row


def logits_of(model, x):
    """Logits (N, 4) of a batch, the images of both modalities one after the other."""
    out = model(x)
    return torch.cat([out[m].logits for m in MODALITIES if m in out])


def entropy(logits):
    """H of Eq. 5: mean Shannon entropy of the softmax predictions, in nats. logits (N, C)."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def diversity(logits):
    """Entropy of the mean prediction, in nats: 0 where all images get the same class. logits (N, C)."""
    p = logits.softmax(1).mean(0)
    return -(p * p.clamp_min(1e-12).log()).sum()


# ---- one run ---------------------------------------------------------------------------------------------

def adapt_run(profile, method, held_out, seed, table, batch=64):
    """Adapts a recorded run to its held-out domain in every way, and adds predictions and trajectories to it.

    The images come in an order drawn from the seed. Labels are read after each step, and only for the column
    `auc` of the trajectory. A run that was adapted before is loaded. Returns `record.Run`.
    """
    run = load_run(run_dir(profile, method, held_out, seed))
    if run.trajectory is not None:
        return run
    seed_everything(seed)
    target = table[table.domain == held_out].sample(frac=1, random_state=seed)
    images = Images(config.DATA / profile.name)
    model = load_model(profile, run)
    parts = []
    batches = []
    for rows, x in sweep(target, images, batch):
        parts.append(rows)
        batches.append({modality: pixels.to(profile.device) for modality, pixels in x.items()})
    truth = malignant(pd.concat(parts[:PROBE]).allowed)
    predictions = []
    trajectories = []
    for how in CONDITIONS[1:]:
        scores = []

        def watch(step, logits):
            p = logits.softmax(1)[:, 2:].sum(1).cpu().numpy()
            scores.append(auc(truth, p))

        trajectory = adapt(model, batches, how, watch=watch)
        trajectories.append(trajectory.assign(condition=how, domain=held_out, auc=scores))
        predictions.append(predict(model, target.assign(split="target"), images, condition=how)[0])
        reset(model)
    predictions = pd.concat(predictions, ignore_index=True)
    trajectories = pd.concat(trajectories, ignore_index=True)
    update_run(run.folder, predictions, trajectories)
    return load_run(run.folder)
