"""Test-time adaptation (not augmentation): configure, step, reset. Unlabelled target images in, the same model out, adapted; labels never enter."""
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
COLLAPSE = 0.95     # stop where predictions hold less than this share of the diversity they had once recalibrated


def configure(model, how):
    """Freezes everything but what `how` may change, and returns it: the BatchNorm necks' affine (tent), and the adapters (causal)."""
    model.eval()
    model.requires_grad_(False)
    parts = {"adabn": [], "tent": [model.necks], "causal": [model.necks, model.adapters]}[how]
    parameters = [p for part in parts for p in part.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    return parameters


def entropy(logits):
    """Mean Shannon entropy of the softmax predictions, nats. logits (N, C)."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def diversity(logits):
    """Entropy of the mean prediction, nats: 0 where everything is called the same."""
    p = logits.softmax(1).mean(0)
    return -(p * p.clamp_min(1e-12).log()).sum()


@torch.no_grad()
def recalibrate(model, batches):
    """AdaBN (Li et al. 2016): the necks' running mean and variance become those of the target, over all batches."""
    features = {}
    for x in batches:
        for m, images in x.items():
            features.setdefault(m, []).append(pool(model.tokens(images, m)))
    for m, parts in features.items():
        f = torch.cat(parts).float()
        if len(f) > 1:
            model.necks[m].running_mean.copy_(f.mean(0))
            model.necks[m].running_var.copy_(f.var(0))


def logits_of(model, x):
    out = model(x)
    return torch.cat([out[m].logits for m in MODALITIES if m in out])


@torch.no_grad()
def survey(model, probe, step, watch):
    """(step, entropy, diversity) of the predictions on the probe batches, which `watch` is shown too."""
    logits = torch.cat([logits_of(model, x) for x in probe])
    watch(step, logits)
    return step, float(entropy(logits)), float(diversity(logits))


def adapt(model, batches, how="causal", steps=50, lr=1e-3, anchor=10.0, watch=None):
    """Adapts `model` in place to unlabelled target batches (each a dict modality -> images) and returns the trajectory.

    how: "source" changes nothing; "adabn" takes the target's BatchNorm statistics; "tent" (Wang et al. 2021) then also lowers
    the entropy of the predictions by the necks' affine parameters, in one pass over the batches; "causal" is Eq. 5 with the sign
    put right (correction 2): entropy + anchor * |theta - theta_source|^2, over necks and adapters, for at most `steps` steps and
    with a label-free stopping rule (correction 7): it ends at the last step that lowered the entropy, once `PATIENCE` in a row
    do not, or before the predictions lose their diversity. watch(step, logits): shown the logits of the first `PROBE` batches after
    each step, for evaluation.
    Returns a table: step, entropy, diversity, stopped (the step whose weights the model ends with).
    """
    if how not in CONDITIONS:
        raise Problem(f"There is no adaptation {how!r}; choose one of {', '.join(CONDITIONS)}.")
    batches = list(batches)
    if not batches:
        raise Problem("There are no target images to adapt to; give at least one batch.")
    keep_source(model)
    probe, chosen = batches[:PROBE], 0
    look = lambda step: survey(model, probe, step, watch or (lambda step, logits: None))
    model.eval()
    rows = [look(0)]
    if how != "source":
        parameters = configure(model, how)
        recalibrate(model, batches)
        chosen = 1
        rows.append(look(1))
    if how in ("tent", "causal"):
        chosen = descend(model, batches, parameters, how, steps, lr, anchor, rows, look)
    model.requires_grad_(True)
    table = pd.DataFrame(rows, columns=["step", "entropy", "diversity"])
    return table.assign(stopped=table.step == chosen)


def descend(model, batches, parameters, how, steps, lr, anchor, rows, look):
    """Gradient steps on the entropy, one batch a step in turn; appends a row a step and returns the step that was kept."""
    source = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    best, kept, chosen = rows[-1][1], weights(model), 1
    for step in range(2, 2 + (len(batches) if how == "tent" else steps)):
        loss = entropy(logits_of(model, batches[step % len(batches)]))
        if how == "causal":
            loss = loss + anchor * sum((p - s).square().sum() for p, s in zip(parameters, source))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rows.append(look(step))
        if how == "causal" and rows[-1][2] < COLLAPSE * rows[1][2]:
            break
        if how == "tent" or rows[-1][1] < (1 - PROGRESS) * best:
            best, kept, chosen = rows[-1][1], weights(model), step
        if step - chosen == PATIENCE:
            break
    model.load_state_dict(kept)
    return chosen


def weights(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def keep_source(model):
    """Remembers the weights that `reset` brings back; a second adaptation does not overwrite them."""
    if getattr(model, "source_weights", None) is None:
        model.source_weights = weights(model)


def reset(model):
    """Puts back the source weights, bit for bit. A model that was never adapted stays as it is. Returns the model."""
    if getattr(model, "source_weights", None) is not None:
        model.load_state_dict(model.source_weights)
        model.source_weights = None
    return model


# ---- one run -----------------------------------------------------------------------------------------------------

def adapt_run(profile, method, held_out, seed, table, batch=64):
    """Adapts a recorded run to its held-out domain in every way, and adds the target predictions and trajectories to its folder.

    The images come in an order drawn from the seed. Labels are read after each step, for the AUC column of the trajectory only.
    """
    run = load_run(run_dir(profile, method, held_out, seed))
    if run.trajectory is not None:
        return run
    seed_everything(seed)
    target = table[table.domain == held_out].sample(frac=1, random_state=seed)
    images, model = Images(config.DATA / profile.name), load_model(profile, run)
    parts, batches = zip(*[(rows, {m: i.to(profile.device) for m, i in x.items()}) for rows, x in sweep(target, images, batch)])
    truth = malignant(pd.concat(parts[:PROBE]).allowed)
    predictions, trajectories = [], []
    for how in CONDITIONS[1:]:
        scores = []
        watch = lambda step, logits: scores.append(auc(truth, logits.softmax(1)[:, 2:].sum(1).cpu().numpy()))
        trajectory = adapt(model, batches, how, watch=watch)
        trajectories.append(trajectory.assign(condition=how, domain=held_out, auc=scores))
        predictions.append(predict(model, target.assign(split="target"), images, condition=how)[0])
        reset(model)
    update_run(run.folder, pd.concat(predictions, ignore_index=True), pd.concat(trajectories, ignore_index=True))
    return load_run(run.folder)
