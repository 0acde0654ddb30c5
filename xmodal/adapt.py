"""Test-time adaptation: configure, step, reset. Unlabelled target images in, the same model out, adapted; labels never enter."""
import pandas as pd
import torch

from .config import CONDITIONS, MODALITIES, Problem

PROBE = 2           # batches on which the stopping rule reads entropy and diversity
PROGRESS = 0.005    # relative fall of the entropy that counts as progress
PATIENCE = 3        # steps without progress before it stops
COLLAPSE = 0.7      # stop where predictions hold less than this share of the diversity that they began with


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
            features.setdefault(m, []).append(model.tokens(images, m).mean(1))
    for m, parts in features.items():
        f = torch.cat(parts).float()
        if len(f) > 1:
            model.necks[m].running_mean.copy_(f.mean(0))
            model.necks[m].running_var.copy_(f.var(0))


def logits_of(model, x):
    out = model(x)
    return torch.cat([out[m].logits for m in MODALITIES if m in out])


@torch.no_grad()
def survey(model, batches):
    """(entropy, diversity) of the predictions over all batches."""
    logits = torch.cat([logits_of(model, x) for x in batches])
    return float(entropy(logits)), float(diversity(logits))


def adapt(model, batches, how="causal", steps=50, lr=1e-3, anchor=1.0, watch=None):
    """Adapts `model` in place to unlabelled target batches (each a dict modality -> images) and returns the trajectory.

    how: "source" changes nothing; "adabn" takes the target's BatchNorm statistics; "tent" (Wang et al. 2021) then also lowers
    the entropy of the predictions by the necks' affine parameters, in one pass over the batches; "causal" is Eq. 5 with the sign
    put right (correction 2): entropy + anchor * |theta - theta_source|^2, over necks and adapters, for at most `steps` steps and
    with a label-free stopping rule (correction 7): it ends at the last step that lowered the entropy, once `PATIENCE` in a row
    do not, or before the predictions lose their diversity. watch(step): called after each step, for evaluation; it must not change the model.
    Returns a table: step, entropy, diversity, stopped (the step whose weights the model ends with).
    """
    if how not in CONDITIONS:
        raise Problem(f"There is no adaptation {how!r}; choose one of {', '.join(CONDITIONS)}.")
    batches = list(batches)
    if not batches:
        raise Problem("There are no target images to adapt to; give at least one batch.")
    keep_source(model)
    watch = watch or (lambda step: None)
    probe = batches[:PROBE]
    rows = [(0, *survey(model.eval(), probe))]
    watch(0)
    chosen = 0
    if how != "source":
        parameters = configure(model, how)
        recalibrate(model, batches)
        chosen = 1
        rows.append((1, *survey(model, probe)))
        watch(1)
    if how in ("tent", "causal"):
        chosen = descend(model, batches, probe, parameters, how, steps, lr, anchor, rows, watch)
    model.requires_grad_(True)
    table = pd.DataFrame(rows, columns=["step", "entropy", "diversity"])
    return table.assign(stopped=table.step == chosen)


def descend(model, batches, probe, parameters, how, steps, lr, anchor, rows, watch):
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
        rows.append((step, *survey(model, probe)))
        watch(step)
        if how == "causal" and rows[-1][2] < COLLAPSE * rows[0][2]:
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
