"""The study of loosely coupled fusion: subsets of modalities, baselines, and survival of held-out regions.

N patients, C classes.
"""
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from ..config import Problem
from ..metrics.survival import ridge_cox
from ..record import seed_everything
from ..stats import auc, bootstrap, concordance
from .fusion import Arm, Columns, Concatenated, Fusion, cut, subsets
from .fusion_inputs import Inputs, clinical_columns, having
from .pictures import PAM50
from .study import Descent, computed_once, fit
from .tasks import FOLDS, Outcome, cox_risk, parted

ALONE, FUSED, MEAN, CONCATENATED = "alone", "weighted logits", "mean of probabilities", "early concatenation"


# ---- the study ---------------------------------------------------------------------------------------------

class Rows(NamedTuple):
    """Row numbers of the patients of one fold."""
    train: np.ndarray
    valid: np.ndarray      # the fusion is fitted on them
    test: np.ndarray


def train_arm(name, inputs, present, y, train, settings, seed):
    """An `Arm` trained alone, on the training patients who have its modality."""
    seed_everything(seed)
    rows = train[present[name][train]]
    if len(rows) < 2:
        raise Problem(f"{len(rows)} training patients have {name}; leave this modality out.")
    arm = Arm(name, inputs.features[name], settings).to(inputs.device)
    truth = torch.as_tensor(y, device=inputs.device)

    def objective(i):
        return {"cross-entropy": F.cross_entropy(arm(inputs.batch(name, rows[i])), truth[rows[i]])}

    descent = Descent(settings.epochs, settings.batch, settings.lr, settings.weight_decay)
    fit(arm, objective, len(rows), descent, seed)
    return arm.requires_grad_(False)


def train_concatenated(names, inputs, present, y, train, settings, seed):
    """The early-concatenation baseline for the modalities `names`: a function from row numbers to logits."""
    seed_everything(seed)
    model = Concatenated({name: inputs.features[name] for name in names}, settings).to(inputs.device)
    truth = torch.as_tensor(y, device=inputs.device)
    has = _tensors(present, inputs.device)

    def logits(rows):
        return model({m: inputs.batch(m, rows) for m in names}, cut(has, names, rows))

    def objective(i):
        return {"cross-entropy": F.cross_entropy(logits(train[i]), truth[train[i]])}

    descent = Descent(settings.epochs, settings.batch, settings.lr, settings.weight_decay)
    fit(model, objective, len(train), descent, seed)
    return logits


def _tensors(present, device):
    return {name: torch.as_tensor(mask, device=device) for name, mask in present.items()}


def missing(n, share, seed):
    """{modality: (n,) bool} of patients who have it; each modality lacks in a share of the patients.

    Slides lack as bag and as graph together. Nobody lacks everything: then the clinical record is given.
    """
    rng = np.random.default_rng([seed, 9])
    copy, clinical, slide = rng.random((3, n)) >= share
    return {"copy number": copy, "clinical": clinical | ~(copy | slide), "bag": slide, "graph": slide}


def train_fold(cohort, present, rows, settings, seed, device="cpu"):
    """(tables, state) of one fold, as `study.computed_once` takes them. rows: `Rows`.

    Tables "probabilities", one row per test patient, subset and way of fusing, and "weights".
    """
    inputs = Inputs(cohort, rows.train, settings, seed, device)
    y = cohort.pam50
    names = tuple(present)
    arms = nn.ModuleDict()
    for name in names:
        arms[name] = train_arm(name, inputs, present, y, rows.train, settings, seed)
    logits = _logits(arms, inputs, len(y))
    has = _tensors(present, device)
    truth = torch.as_tensor(y[rows.valid], device=device)
    fusion = Fusion().to(device)
    fusion.add(cut(logits, names, rows.valid), cut(has, names, rows.valid), truth, names)
    frames = []
    for subset in subsets(names):
        known = rows.test[np.any([present[m][rows.test] for m in subset], axis=0)]
        frames += _probabilities(cohort, known, cut(logits, subset, known), cut(has, subset, known), fusion)
    concatenated = train_concatenated(names, inputs, present, y, rows.train, settings, seed)
    with torch.no_grad():
        frames.append(_frame(cohort, names, rows.test, CONCATENATED, concatenated(rows.test).softmax(1)))
    learned = [(m, fusion.weight[m].item(), *fusion.bias[m].tolist()) for m in names]
    tables = {"probabilities": pd.concat(frames, ignore_index=True),
              "weights": pd.DataFrame(learned, columns=["modality", "weight", *PAM50])}
    state = {f"arms.{k}": v for k, v in arms.state_dict().items()}
    state |= {f"fusion.{k}": v for k, v in fusion.state_dict().items()}
    return tables, state


@torch.no_grad()
def _logits(arms, inputs, n):
    """{modality: (n, C)} of every patient, some 64 at a time."""
    groups = np.array_split(np.arange(n), 1 + n // 64)
    logits = {}
    for name, arm in arms.items():
        logits[name] = torch.cat([arm(inputs.batch(name, rows)) for rows in groups])
    return logits


@torch.no_grad()
def _probabilities(cohort, rows, logits, present, fusion):
    """Frames of a subset of modalities, those in `logits`.

    One is fused; the other is of the modality alone, or the mean of the probabilities.
    """
    subset = tuple(logits)
    if len(subset) == 1:
        way, simple = ALONE, logits[subset[0]].softmax(1)
    else:
        count = torch.stack([present[m] for m in subset]).sum(0)
        total = torch.stack([present[m][:, None] * logits[m].softmax(1) for m in subset]).sum(0)
        way, simple = MEAN, total / count[:, None]
    return [_frame(cohort, subset, rows, way, simple),
            _frame(cohort, subset, rows, FUSED, fusion(logits, present).softmax(1))]


def _frame(cohort, subset, rows, way, p):
    table = pd.DataFrame(p.cpu().numpy(), columns=[f"p{c}" for c in range(p.shape[1])])
    return table.assign(patient=cohort.patient[rows], truth=cohort.pam50[rows], subset=" + ".join(subset),
                        way=way)


def study(cohort, settings, seed, folder, present=None, device="cpu"):
    """The tables {name: DataFrame} of `train_fold` on five folds of patients, with column fold.

    Three fifths of the patients train, one fits the fusion, one tests. Each fold is kept in folder/fold_<k>.
    present: {modality: (N,) bool}, or what the cohort has. Raises `Problem` for a patient without any, and
    for a class with fewer than five patients.
    """
    present = present or having(cohort)
    digest = cohort.digest()
    nobody = np.flatnonzero(~np.any(list(present.values()), axis=0))
    if len(nobody):
        raise Problem(f"{len(nobody)} patients, among them {cohort.patient[nobody[0]]}, have no modality; "
                      "leave them out with Cohort.select.")
    masks = {m: np.packbits(mask).tobytes().hex() for m, mask in present.items()}
    parts = [test for _, test in parted(cohort.pam50, seed)]
    results = {}
    for k in range(FOLDS):
        train = np.concatenate([parts[(k + j) % FOLDS] for j in (2, 3, 4)])
        rows = Rows(np.sort(train), parts[(k + 1) % FOLDS], parts[k])
        config = {"fold": k, "seed": seed, "cohort": digest, "settings": asdict(settings), "present": masks}
        make = partial(train_fold, cohort, present, rows, settings, seed, device)
        for name, table in computed_once(folder / f"fold_{k}", config, make).items():
            results.setdefault(name, []).append(table.assign(fold=k))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in results.items()}


# ---- the tables of its figure ------------------------------------------------------------------------------

def macro_auc(truth, p):
    """Mean over the classes present of the AUC of one class against the others."""
    return float(np.nanmean([auc((truth == c).astype(int), p[:, c]) for c in np.unique(truth)]))


def accuracy(truth, p):
    """Share of patients whose likeliest class is the true one."""
    return float((p.argmax(1) == truth).mean())


def macro_f1(truth, guess, classes=len(PAM50)):
    """Mean over the classes that occur, in truth or guess, of F1 = 2 TP / (2 TP + FP + FN).

    The same as scikit-learn's, in a fraction of its time.
    """
    table = np.bincount(truth * classes + guess, minlength=classes * classes).reshape(classes, classes)
    seen = table.sum(0) + table.sum(1)
    return float((2 * np.diag(table)[seen > 0] / seen[seen > 0]).mean())


def _f1(truth, p):
    return macro_f1(truth, p.argmax(1))


def measures(probabilities, n=200, seed=42):
    """One row per subset and way: patients, and accuracy, f1 (macro) and auc, each with `_low` and `_high`.

    These bound a 95 % bootstrap interval over patients.
    """
    rows = []
    for (subset, way), group in probabilities.groupby(["subset", "way"], sort=False):
        p = group.filter(regex=r"^p\d$").to_numpy()
        row = {"subset": subset, "way": way, "patients": len(group)}
        for name, metric in (("accuracy", accuracy), ("f1", _f1), ("auc", macro_auc)):
            value, low, high, _ = bootstrap(metric, group.truth.to_numpy(), p, n=n, seed=seed)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- the clinical arm on survival --------------------------------------------------------------------------

def held_out_regions(table, settings, seed=42, device="cpu"):
    """Survival from clinical columns, each region held out in turn.

    region, patients, events, and the C-index of the clinical encoder under the Cox loss (`encoder`) and of a
    ridge Cox model (`cox`), with 95 % intervals over patients. table: columns, `time`, `event`, `region`.
    Regions with fewer than five events are trained on and not reported.
    """
    columns = table.drop(columns=["time", "event", "region"])
    outcome = Outcome(table.time.to_numpy(float), table.event.to_numpy(int))
    place = table.region.to_numpy()
    rows = []
    for region in sorted(set(place)):
        test = np.flatnonzero(place == region)
        train = np.flatnonzero(place != region)
        events = int(outcome.event[test].sum())
        if events < 5:
            continue
        z = clinical_columns(columns, train)
        network = partial(_survival_network, z.shape[1], settings)
        by_encoder = cox_risk(network, z, outcome, train, settings, seed, device)
        by_cox = z @ ridge_cox(z[train], outcome.time[train], outcome.event[train], alpha=50)
        row = {"region": region, "patients": len(test), "events": events}
        for name, risk in (("encoder", by_encoder), ("cox", by_cox)):
            value, low, high, _ = bootstrap(_c_index, np.column_stack(outcome)[test], risk[test], n=200)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _survival_network(features, settings):
    return nn.Sequential(Columns(features, settings), nn.Linear(settings.width, 1))


def _c_index(outcome, risk):
    return concordance(outcome[:, 0], outcome[:, 1], risk)
