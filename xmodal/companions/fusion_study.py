"""The study of loosely coupled fusion: every subset of modalities on five folds, its baselines, and the clinical arm on survival."""
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from ..config import Problem
from ..metrics.survival import ridge_cox
from ..record import seed_everything
from ..stats import auc, bootstrap, concordance
from .fusion import Arm, Columns, Concatenated, Fusion, Inputs, clinical_columns, having, subsets
from .pictures import PAM50
from .study import computed_once, fit
from .tasks import FOLDS, cox_risk, parted

ALONE, FUSED, MEAN, CONCATENATED = "alone", "weighted logits", "mean of probabilities", "early concatenation"


# ---- the study ---------------------------------------------------------------------------------------------------

def train_arm(name, inputs, present, y, train, settings, seed):
    """An `Arm` trained alone, on the training patients who have its modality."""
    seed_everything(seed)
    rows = train[present[name][train]]
    if len(rows) < 2:
        raise Problem(f"{len(rows)} training patients have {name}; leave this modality out.")
    arm = Arm(name, inputs.features[name], settings).to(inputs.device)
    goal = torch.as_tensor(y, device=inputs.device)
    fit(arm, lambda i: {"cross-entropy": F.cross_entropy(arm(inputs.batch(name, rows[i])), goal[rows[i]])}, len(rows), settings.epochs,
        settings.batch, settings.lr, seed, settings.weight_decay)
    return arm.requires_grad_(False)


def train_concatenated(names, inputs, present, y, train, settings, seed):
    """The early-concatenation baseline for the modalities `names`."""
    seed_everything(seed)
    model = Concatenated({name: inputs.features[name] for name in names}, settings).to(inputs.device)
    goal, there = torch.as_tensor(y, device=inputs.device), _tensors(present, inputs.device)
    call = lambda rows: model({m: inputs.batch(m, rows) for m in names}, {m: there[m][rows] for m in names})
    fit(model, lambda i: {"cross-entropy": F.cross_entropy(call(train[i]), goal[train[i]])}, len(train), settings.epochs, settings.batch,
        settings.lr, seed, settings.weight_decay)
    return call


def _tensors(present, device):
    return {name: torch.as_tensor(mask, device=device) for name, mask in present.items()}


def missing(n, share, seed):
    """{name: (n,) bool} of modalities present, each lacking in a share of the patients; slides lack as bag and as graph together, and
    nobody lacks everything (then the clinical record is there)."""
    rng = np.random.default_rng([seed, 9])
    copy, clinical, slide = rng.random((3, n)) >= share
    return {"copy number": copy, "clinical": clinical | ~(copy | slide), "bag": slide, "graph": slide}


def one(cohort, present, train, valid, test, settings, seed, device="cpu"):
    """({"probabilities": a row a test patient, subset and way of fusing; "weights"}, state) of one fold, as `study.computed_once` takes them."""
    inputs, y, names = Inputs(cohort, train, settings, seed, device), cohort.pam50, tuple(present)
    arms = nn.ModuleDict({name: train_arm(name, inputs, present, y, train, settings, seed) for name in names})
    with torch.no_grad():
        groups = np.array_split(np.arange(len(y)), 1 + len(y) // 64)
        logits = {name: torch.cat([arm(inputs.batch(name, rows)) for rows in groups]) for name, arm in arms.items()}
    there, goal = _tensors(present, device), torch.as_tensor(y, device=device)
    cut = lambda parts, rows: {name: v[rows] for name, v in parts.items()}
    fusion = Fusion().to(device).add(cut(logits, valid), cut(there, valid), goal[valid], names)
    rows = []
    for subset in subsets(names):
        known = test[np.any([present[m][test] for m in subset], axis=0)]
        rows += _probabilities(cohort, subset, known, {m: logits[m][known] for m in subset}, {m: there[m][known] for m in subset}, fusion)
    whole = train_concatenated(names, inputs, present, y, train, settings, seed)
    with torch.no_grad():
        rows.append(_frame(cohort, names, test, CONCATENATED, whole(test).softmax(1)))
    learned = [(m, fusion.weight[m].item(), *fusion.bias[m].tolist()) for m in names]
    weights = pd.DataFrame(learned, columns=["modality", "weight", *PAM50])
    state = {f"arms.{k}": v for k, v in arms.state_dict().items()} | {f"fusion.{k}": v for k, v in fusion.state_dict().items()}
    return {"probabilities": pd.concat(rows, ignore_index=True), "weights": weights}, state


@torch.no_grad()
def _probabilities(cohort, subset, rows, logits, present, fusion):
    """Frames of a subset: fused, the mean of probabilities, and the classifier alone where the subset is one modality."""
    count = torch.stack([present[m] for m in subset]).sum(0)
    mean = torch.stack([present[m][:, None] * logits[m].softmax(1) for m in subset]).sum(0) / count[:, None]
    ways = [(ALONE, logits[subset[0]].softmax(1))] if len(subset) == 1 else [(MEAN, mean)]
    return [_frame(cohort, subset, rows, way, p) for way, p in [*ways, (FUSED, fusion(logits, present).softmax(1))]]


def _frame(cohort, subset, rows, way, p):
    table = pd.DataFrame(p.cpu().numpy(), columns=[f"p{c}" for c in range(p.shape[1])])
    return table.assign(patient=cohort.patient[rows], truth=cohort.pam50[rows], subset=" + ".join(subset), way=way)


def study(cohort, settings, seed, folder, present=None, device="cpu"):
    """The tables {name: DataFrame} of five folds of patients (three to train, one to fit the fusion on, one to test), with column
    fold; each is kept in folder/fold_<k>. present: {modality: (N,) bool}, or what the cohort has. Raises `Problem` for a patient without
    any, and for a class with fewer than five patients."""
    given, digest = present or having(cohort), cohort.digest()
    nobody = np.flatnonzero(~np.any(list(given.values()), axis=0))
    if len(nobody):
        raise Problem(f"{len(nobody)} patients, among them {cohort.patient[nobody[0]]}, have no modality; leave them out with Cohort.select.")
    parts = [test for _, test in parted(cohort.pam50, seed)]
    found = {}
    for k in range(FOLDS):
        test, valid = parts[k], parts[(k + 1) % FOLDS]
        train = np.sort(np.concatenate([parts[(k + j) % FOLDS] for j in (2, 3, 4)]))
        config = {"fold": k, "seed": seed, "cohort": digest, "settings": asdict(settings),
                  "present": {m: np.packbits(v).tobytes().hex() for m, v in given.items()}}
        tables = computed_once(folder / f"fold_{k}", config, lambda: one(cohort, given, train, valid, test, settings, seed, device))
        for name, table in tables.items():
            found.setdefault(name, []).append(table.assign(fold=k))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}


# ---- the tables of its figure ------------------------------------------------------------------------------------

def macro_auc(truth, p):
    """Mean over the classes present of the AUC of one class against the others."""
    return float(np.nanmean([auc((truth == c).astype(int), p[:, c]) for c in np.unique(truth)]))


def macro_f1(truth, guess, classes=len(PAM50)):
    """Mean over the classes that occur, in truth or guess, of F1 = 2 TP / (2 TP + FP + FN); scikit-learn's, at a fraction of its time."""
    table = np.bincount(truth * classes + guess, minlength=classes * classes).reshape(classes, classes)
    seen = table.sum(0) + table.sum(1)
    return float((2 * np.diag(table)[seen > 0] / seen[seen > 0]).mean())


def measures(probabilities, n=200, seed=42):
    """A row a subset and way: patients, and accuracy, macro-F1 and AUC, each with the bounds of a 95 % bootstrap interval over patients."""
    score = {"accuracy": lambda y, p: float((p.argmax(1) == y).mean()), "f1": lambda y, p: macro_f1(y, p.argmax(1)), "auc": macro_auc}
    rows = []
    for (subset, way), g in probabilities.groupby(["subset", "way"], sort=False):
        p, row = g.filter(regex=r"^p\d$").to_numpy(), {"subset": subset, "way": way, "patients": len(g)}
        for name, metric in score.items():
            value, low, high, _ = bootstrap(metric, g.truth.to_numpy(), p, n=n, seed=seed)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- the clinical arm on survival --------------------------------------------------------------------------------

def held_out_regions(table, settings, seed=42, device="cpu"):
    """Survival from clinical columns, each region held out in turn: region, patients, events, and the C-index of the clinical encoder under
    the Cox loss and of a ridge Cox model, with 95 % intervals over patients. table: columns, `time`, `event`, `region`. Regions with fewer
    than five events are trained on and not reported."""
    rows, columns = [], table.drop(columns=["time", "event", "region"])
    time, event, place = table.time.to_numpy(float), table.event.to_numpy(int), table.region.to_numpy()
    for region in sorted(set(place)):
        test, train = np.flatnonzero(place == region), np.flatnonzero(place != region)
        if event[test].sum() < 5:
            continue
        z = clinical_columns(columns, train)
        model = lambda: nn.Sequential(Columns(z.shape[1], settings), nn.Linear(settings.width, 1))
        risks = {"encoder": cox_risk(model, z, time, event, train, settings, seed, device),
                 "cox": z @ ridge_cox(z[train], time[train], event[train], alpha=50)}
        row = {"region": region, "patients": len(test), "events": int(event[test].sum())}
        for name, risk in risks.items():
            metric = lambda y, p: concordance(y[:, 0], y[:, 1], p)
            value, low, high, _ = bootstrap(metric, np.column_stack([time, event])[test], risk[test], n=200)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
