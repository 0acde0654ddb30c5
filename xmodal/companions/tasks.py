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
from ..metrics.survival import DiscreteHazard, cox_loss, cuts, discrete_nll, discrete_risk
from ..record import seed_everything
from ..stats import concordance
from .genes import CURATED, select, take
from .study import fit

FOLDS = 5


# ---- what goes in ------------------------------------------------------------------------------------------------

def parted(label, seed):
    """[(train, test) row numbers] of five folds with equal shares of the classes `label` (N,). Raises `Problem` if one is too small."""
    names, members = np.unique(label, return_counts=True)
    if members.min() < FOLDS:
        raise Problem(f"{members.min()} patients of class {names[members.argmin()]} do not part into {FOLDS} folds; leave the class out.")
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(label, label))


def folds(cohort, seed):
    """[(train, test) row numbers] of five folds of patients with equal shares of the subtypes."""
    return parted(cohort.subtype, seed)


def draw_patches(bag, n, seed=0, slide="the slide"):
    """n patch features of a bag (N, D_p), without replacement where there are enough, in the order of the slide (for PPEG).

    Raises `Problem` for a slide without patches.
    """
    if not len(bag):
        raise Problem(f"{slide} has no patch with tissue; look at its overview, lower the share of tissue, or leave the patient out.")
    rng = np.random.default_rng([seed, 2])
    return bag[np.sort(rng.choice(len(bag), n, replace=len(bag) < n))]


def spread(x, axes=0):
    """Standard deviation over `axes`, and 1 where nothing varies, so that a value new to the training patients stays what it is."""
    found = x.std(axes)
    return np.where(found > 1e-6, found, found.dtype.type(1))


def scaled(x, train, axes=0):
    """x (B, ...) with mean 0 and deviation 1 over `axes` of its rows `train`."""
    return (x - x[train].mean(axes)) / spread(x[train], axes)


class Inputs(NamedTuple):
    """A cohort as the networks read it, scaled by its training patients."""
    bags: torch.Tensor         # (B, N, D_p)
    expression: torch.Tensor   # (B, G)
    genes: list                # the G genes that were chosen on the training patients


def prepare(cohort, train, settings, seed, device="cpu", curated=CURATED):
    """`Inputs` of a cohort with expression (a DataFrame), bags and subtype; train: row numbers of its training patients."""
    genes = select(cohort.expression.iloc[train], cohort.subtype[train], curated, seed)
    bags = np.stack([draw_patches(bag, settings.patches, seed, f"The slide of {name}") for bag, name in zip(cohort.bags, cohort.patient)])
    x = take(cohort.expression, genes).to_numpy(np.float32)
    return Inputs(torch.tensor(scaled(bags, train, (0, 1)), device=device), torch.tensor(scaled(x, train), device=device), genes)


# ---- what is asked -----------------------------------------------------------------------------------------------

def batches(inputs, size=64):
    """(bags, expression) of `size` patients at a time."""
    return zip(inputs.bags.split(size), inputs.expression.split(size))


@torch.no_grad()
def encode(model, inputs):
    """The two embeddings (B, D) of every patient as arrays."""
    return [torch.cat(z).cpu().numpy() for z in zip(*(model(*batch) for batch in batches(inputs)))]


def shots(cohort, train, task, n, seed):
    """n training patients of every class, or of every time bin; all of those where there are fewer."""
    group = cohort.subtype if task == "subtype" else np.digitize(cohort.time, cuts(cohort.time[train], cohort.event[train]))
    rng = np.random.default_rng([seed, 3])
    return np.sort(np.concatenate([rng.permutation(train[group[train] == g])[:n] for g in np.unique(group[train])]))


def probe(z, cohort, train, task):
    """Scores (B,) of a linear model on frozen embeddings z (B, d): the probability of subtype 1, or the risk of discrete-time survival."""
    z = scaled(z, train)
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
        p = torch.cat([model(*batch) for batch in batches(inputs)]).sigmoid().cpu().numpy()
    return p[:, 0] if task == "subtype" else discrete_risk(p)


def cox_risk(net, z, time, event, train, settings, seed, device="cpu"):
    """Risks (B,) of the network that net() makes, (B, d) -> (B, 1), trained under the Cox loss on the rows `train` of z (B, d)."""
    seed_everything(seed)
    z, time, event = (torch.tensor(v, dtype=torch.float32, device=device) for v in (z, time, event))
    model = net().to(device)
    fit(model, lambda i: {"cox": cox_loss(model(z[train[i]]).squeeze(1), time[train[i]], event[train[i]])}, len(train), settings.epochs,
        max(settings.batch, 64), settings.lr, seed, weight_decay=1e-2)        # the loss compares the patients of a batch
    with torch.no_grad():
        return model(z).squeeze(1).cpu().numpy()


def score(cohort, test, task, scores):
    """{"accuracy", "f1"} (macro) of the subtype, or {"c_index"}, on the test patients."""
    if task == "survival":
        return {"c_index": concordance(cohort.time[test], cohort.event[test], scores[test])}
    truth, found = cohort.subtype[test], (scores[test] > 0.5).astype(int)
    return {"accuracy": float((truth == found).mean()), "f1": f1_score(truth, found, average="macro")}


def recovered(z, factors, train, test):
    """{factor: R2} of ridge regressions of known factors (B, k) on frozen embeddings z (B, D): fitted on train, 1 - residual / total
    variance on test. 0 is no better than the mean."""
    z, found = scaled(z, train), {}
    for name, f in factors.items():
        guess = RidgeCV(np.logspace(-1, 4, 12)).fit(z[train], f[train]).predict(z[test]).reshape(f[test].shape)
        found[name] = float(1 - ((f[test] - guess) ** 2).sum() / ((f[test] - f[train].mean(0)) ** 2).sum())
    return found
