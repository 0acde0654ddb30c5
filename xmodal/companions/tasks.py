"""What is asked of paired patients: subtype and survival, from few or all training patients, on frozen embeddings or end to end.

B patients, N patches, D_p patch features, G genes, D width.
"""
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from ..config import Problem
from ..stats import concordance
from ..survival import DiscreteHazard, cuts, discrete_nll, discrete_risk
from .genes import select, take
from .study import fit

FOLDS = 5


# ---- what goes in ------------------------------------------------------------------------------------------------

def folds(cohort, seed):
    """[(train, test) row numbers] of five folds of patients with equal shares of the subtypes."""
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(cohort.patient, cohort.subtype))

def draw_patches(bag, n, seed=0, slide="the slide"):
    """n patch features of a bag (N, D_p), without replacement where there are enough, in the order of the slide (for PPEG).

    Raises `Problem` for a slide without patches.
    """
    if not len(bag):
        raise Problem(f"{slide} has no patch with tissue; look at its overview, lower the share of tissue, or leave the patient out.")
    rng = np.random.default_rng([seed, 2])
    return bag[np.sort(rng.choice(len(bag), n, replace=len(bag) < n))]


class Inputs(NamedTuple):
    """A cohort as the networks read it, scaled by its training patients."""
    bags: torch.Tensor         # (B, N, D_p)
    expression: torch.Tensor   # (B, G)
    genes: list                # the G genes that were chosen on the training patients


def prepare(cohort, train, settings, seed, device="cpu"):
    """`Inputs` of a cohort with expression (a DataFrame), bags and subtype; train: row numbers of its training patients."""
    genes = select(cohort.expression.iloc[train], cohort.subtype[train], seed=seed)
    bags = np.stack([draw_patches(bag, settings.patches, seed, f"The slide of {name}") for bag, name in zip(cohort.bags, cohort.patient)])
    x = take(cohort.expression, genes).to_numpy(np.float32)
    scaled = lambda v, axes: (v - v[train].mean(axes)) / (v[train].std(axes) + 1e-6)
    return Inputs(torch.tensor(scaled(bags, (0, 1)), device=device), torch.tensor(scaled(x, 0), device=device), genes)


# ---- what is asked -----------------------------------------------------------------------------------------------

@torch.no_grad()
def encode(model, inputs, batch=64):
    """The two embeddings (B, D) of every patient as arrays."""
    parts = [model(b, e) for b, e in zip(inputs.bags.split(batch), inputs.expression.split(batch))]
    return [torch.cat(z).cpu().numpy() for z in zip(*parts)]


def shots(cohort, train, task, n, seed):
    """n training patients of every class, or of every time bin; all of those where there are fewer."""
    group = cohort.subtype if task == "subtype" else np.digitize(cohort.time, cuts(cohort.time[train], cohort.event[train]))
    rng = np.random.default_rng([seed, 3])
    return np.sort(np.concatenate([rng.permutation(train[group[train] == g])[:n] for g in np.unique(group[train])]))


def probe(z, cohort, train, task):
    """Scores (B,) of a linear model on frozen embeddings z (B, d): the probability of subtype 1, or the risk of discrete-time survival."""
    z = (z - z[train].mean(0)) / (z[train].std(0) + 1e-6)
    if task == "subtype":
        return LogisticRegression(C=0.05, max_iter=1000).fit(z[train], cohort.subtype[train]).predict_proba(z)[:, 1]
    return DiscreteHazard().fit(z[train], cohort.time[train], cohort.event[train]).risk(z)


def end_to_end(net, inputs, cohort, train, task, settings, seed):
    """Scores (B,) of a network (`mil.ABMIL`, `mil.PORPOISE`) trained with the labels of the task."""
    model = net(inputs.bags.shape[2], inputs.expression.shape[1], settings.width, 1 if task == "subtype" else 4).to(inputs.bags.device)
    edges = cuts(cohort.time[train], cohort.event[train]) if task == "survival" else ()
    target = lambda v: torch.as_tensor(v, device=inputs.bags.device)
    label, which, event = target(cohort.subtype).float(), target(np.digitize(cohort.time, edges)), target(cohort.event)

    def objective(rows):
        rows = train[rows]
        logits = model(inputs.bags[rows], inputs.expression[rows])
        return {"task": F.binary_cross_entropy_with_logits(logits[:, 0], label[rows]) if task == "subtype" else
                discrete_nll(logits, which[rows], event[rows])}

    fit(model, objective, len(train), settings.epochs, settings.batch, settings.lr, seed, weight_decay=1e-3)
    with torch.no_grad():
        p = model(inputs.bags, inputs.expression).sigmoid().cpu().numpy()
    return p[:, 0] if task == "subtype" else discrete_risk(p)


def score(cohort, test, task, scores):
    """{"accuracy", "f1"} (macro) of the subtype, or {"c_index"}, on the test patients."""
    if task == "survival":
        return {"c_index": concordance(cohort.time[test], cohort.event[test], scores[test])}
    truth, found = cohort.subtype[test], (scores[test] > 0.5).astype(int)
    return {"accuracy": float((truth == found).mean()), "f1": f1_score(truth, found, average="macro")}


def recovered(z, factors, train, test):
    """{factor: R2} of ridge regressions of known factors (B, k) on frozen embeddings z (B, D): fitted on train, 1 - residual / total
    variance on test. 0 is no better than the mean."""
    z = (z - z[train].mean(0)) / (z[train].std(0) + 1e-6)
    found = {}
    for name, f in factors.items():
        guess = RidgeCV(np.logspace(-1, 4, 12)).fit(z[train], f[train]).predict(z[test]).reshape(f[test].shape)
        found[name] = float(1 - ((f[test] - guess) ** 2).sum() / ((f[test] - f[train].mean(0)) ** 2).sum())
    return found
