"""What is asked of paired patients: subtype and survival, from few or all training patients.

Both are read from frozen embeddings or by a network trained end to end. B patients, N patches, D_p patch
features, G genes, D width.
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
from ..runtime.files import atomic
from ..stats import concordance
from .genes import CURATED, select, take
from .study import Descent, fit

FOLDS = 5


# ---- what goes in ------------------------------------------------------------------------------------------

def parted(label, seed):
    """[(train, test) row numbers] of five folds with equal shares of the classes `label` (N,).

    Raises `Problem` if a class is too small.
    """
    names, members = np.unique(label, return_counts=True)
    if members.min() < FOLDS:
        smallest = names[members.argmin()]
        raise Problem(f"{members.min()} patients of class {smallest} do not part into {FOLDS} folds; "
                      "leave the class out.")
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(label, label))


def folds(cohort, seed):
    """[(train, test) row numbers] of five folds of patients with equal shares of the subtypes."""
    return parted(cohort.subtype, seed)


def draw_patches(bag, n, seed=0, slide="the slide"):
    """n patch features of a bag (N, D_p) in the order of the slide; drawn without replacement where N >= n.

    Raises `Problem` for a slide without patches.
    """
    if not len(bag):
        raise Problem(f"{slide} has no patch with tissue; look at its overview, lower the share of tissue, "
                      "or leave the patient out.")
    rng = np.random.default_rng([seed, 2])
    return bag[np.sort(rng.choice(len(bag), n, replace=len(bag) < n))]


def spread(x, axes=0):
    """Standard deviation over `axes`; 1 where nothing varies, so that a new value stays as it is."""
    deviation = x.std(axes)
    return np.where(deviation > 1e-6, deviation, deviation.dtype.type(1))


def scaled(x, train, axes=0):
    """x (B, ...) with mean 0 and deviation 1 over `axes` of its rows `train`."""
    return (x - x[train].mean(axes)) / spread(x[train], axes)


class Inputs(NamedTuple):
    """A cohort as the networks read it. Patches are scaled by the training patients when a batch is read."""
    bags: torch.Tensor         # (B, N, D_p) as drawn, perhaps in a file
    mean: torch.Tensor         # (D_p,)
    deviation: torch.Tensor    # (D_p,)
    expression: torch.Tensor   # (B, G), scaled
    genes: list                # the G genes that were chosen on patients whose labels are known
    device: str = "cpu"        # where batches go

    def batch(self, rows):
        """(bags (b, N, D_p), expression (b, G)) of the patients `rows`."""
        bags = (self.bags[rows].float() - self.mean) / self.deviation
        return bags.to(self.device), self.expression[rows].to(self.device)


def prepare(cohort, train, settings, seed, curated=CURATED, known=None, store=None):
    """`Inputs` of a cohort with expression, bags and subtype.

    train: row numbers of its training patients. known: of those whose subtype may be used to choose genes;
    None: all of `train`. store: file for the patches that are drawn, or None.
    """
    known = train if known is None else known
    genes = select(cohort.expression.iloc[known], cohort.subtype[known], curated, seed)
    expression = take(cohort.expression, genes).to_numpy(np.float32)
    bags = drawn_bags(cohort, settings.patches, seed, store)
    total = np.zeros((2, bags.shape[2]))
    for i in train:
        bag = np.asarray(bags[i], float)
        total += bag.sum(0), (bag ** 2).sum(0)
    mean, square = total / (len(train) * settings.patches)
    deviation = np.sqrt(np.maximum(square - mean ** 2, 0))
    deviation[deviation < 1e-6] = 1                       # where nothing varies a new value stays as it is
    return Inputs(torch.from_numpy(bags), torch.tensor(mean).float(), torch.tensor(deviation).float(),
                  torch.tensor(scaled(expression, train)), genes)


def drawn_bags(cohort, patches, seed, store=None):
    """Array (B, N, D_p) of `patches` patches of every slide. One slide is held in memory at a time.

    With `store`, a path, it is float16 in that file, read from there page by page and not drawn twice.
    """
    if store and store.exists():
        return np.load(store, mmap_mode="c")
    shape = (len(cohort), patches, cohort.bags[0].shape[1])
    if not store:
        return _draw_into(np.empty(shape, np.float32), cohort, seed)
    with atomic(store) as partial:
        _draw_into(np.lib.format.open_memmap(partial, "w+", np.float16, shape), cohort, seed).flush()
    return np.load(store, mmap_mode="c")


def _draw_into(array, cohort, seed):
    """`array` (B, N, D_p), filled slide by slide."""
    for i, name in enumerate(cohort.patient):
        array[i] = draw_patches(cohort.bags[i], array.shape[1], seed, f"The slide of {name}")
    return array


# ---- what is asked -----------------------------------------------------------------------------------------

@torch.no_grad()
def through(model, inputs, size=64):
    """What a model gives for every patient, `size` at a time: a list of the parts of its output, on the CPU.

    model: a function of bags and expression, whose output is a tensor or several, each (B, ...).
    """
    parts = []
    for rows in torch.arange(len(inputs.bags)).split(size):
        output = model(*inputs.batch(rows))
        parts.append(output if isinstance(output, tuple) else (output,))
    return [torch.cat(part).cpu() for part in zip(*parts)]


def encode(model, inputs):
    """The two embeddings (B, D) of every patient as arrays."""
    return [z.numpy() for z in through(model, inputs)]


def shots(cohort, train, task, n, seed):
    """n training patients of every class, or of every time bin; all of them where a group has fewer."""
    if task == "subtype":
        group = cohort.subtype
    else:
        group = np.digitize(cohort.time, cuts(cohort.time[train], cohort.event[train]))
    rng = np.random.default_rng([seed, 3])
    drawn = [rng.permutation(train[group[train] == g])[:n] for g in np.unique(group[train])]
    return np.sort(np.concatenate(drawn))


def probe(z, cohort, train, task):
    """Scores (B,) of a linear model on frozen embeddings z (B, d).

    The score is the probability of subtype 1, or the risk of discrete-time survival.
    """
    z = scaled(z, train)
    if task == "subtype":
        model = LogisticRegression(C=0.05, max_iter=1000).fit(z[train], cohort.subtype[train])
        return model.predict_proba(z)[:, 1]
    return DiscreteHazard().fit(z[train], cohort.time[train], cohort.event[train]).risk(z)


def end_to_end(net, inputs, cohort, train, task, settings, seed):
    """Scores (B,) of a network (`mil.ABMIL`, `mil.PORPOISE`) trained with the labels of the task."""
    device = inputs.device
    outputs = 1 if task == "subtype" else 4
    model = net(inputs.bags.shape[2], inputs.expression.shape[1], settings.width, outputs).to(device)
    edges = cuts(cohort.time[train], cohort.event[train]) if task == "survival" else ()
    subtype = torch.as_tensor(cohort.subtype, device=device).float()
    time_bin = torch.as_tensor(np.digitize(cohort.time, edges), device=device)
    event = torch.as_tensor(cohort.event, device=device)

    def objective(rows):
        rows = train[rows]
        logits = model(*inputs.batch(rows))
        if task == "subtype":
            return {"task": F.binary_cross_entropy_with_logits(logits[:, 0], subtype[rows])}
        return {"task": discrete_nll(logits, time_bin[rows], event[rows])}

    descent = Descent(settings.epochs, settings.batch, settings.lr, weight_decay=1e-3)
    fit(model, objective, len(train), descent, seed)
    p = through(model, inputs)[0].sigmoid().numpy()
    return p[:, 0] if task == "subtype" else discrete_risk(p)


def steps_of(epochs, patients, batch):
    """How many steps `study.fit` takes; a last batch of one patient is left out."""
    return epochs * max((patients + batch - 2) // batch, 1)


class Outcome(NamedTuple):
    """Follow-up of B patients."""
    time: np.ndarray     # (B,)
    event: np.ndarray    # (B,) 1 death seen, 0 censored


def cox_risk(net, z, outcome, train, settings, seed, device="cpu"):
    """Risks (B,) of a network trained under the Cox loss on the rows `train` of z (B, d).

    net() makes the network, (B, d) -> (B, 1).
    """
    seed_everything(seed)
    z, time, event = (torch.tensor(v, dtype=torch.float32, device=device) for v in (z, *outcome))
    model = net().to(device)

    def objective(rows):
        rows = train[rows]
        return {"cox": cox_loss(model(z[rows]).squeeze(1), time[rows], event[rows])}

    batch = max(settings.batch, 64)        # the loss compares the patients of a batch
    descent = Descent(settings.epochs, batch, settings.lr, weight_decay=1e-2)
    fit(model, objective, len(train), descent, seed)
    with torch.no_grad():
        return model(z).squeeze(1).cpu().numpy()


def score(cohort, test, task, scores):
    """{"accuracy", "f1"} (macro) of the subtype, or {"c_index"}, on the test patients."""
    if task == "survival":
        return {"c_index": concordance(cohort.time[test], cohort.event[test], scores[test])}
    truth = cohort.subtype[test]
    predicted = (scores[test] > 0.5).astype(int)
    return {"accuracy": float((truth == predicted).mean()), "f1": f1_score(truth, predicted, average="macro")}


def recovered(z, factors, train, test):
    """{factor: R2} of ridge regressions of known factors (B, k) on frozen embeddings z (B, D).

    Fitted on `train`; R2 is 1 - residual / total variance on `test`. 0 is no better than the mean.
    """
    z = scaled(z, train)
    r2 = {}
    for name, truth in factors.items():
        model = RidgeCV(np.logspace(-1, 4, 12)).fit(z[train], truth[train])
        predicted = model.predict(z[test]).reshape(truth[test].shape)
        residual = ((truth[test] - predicted) ** 2).sum()
        total = ((truth[test] - truth[train].mean(0)) ** 2).sum()
        r2[name] = float(1 - residual / total)
    return r2
