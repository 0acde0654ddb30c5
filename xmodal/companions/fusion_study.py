"""The study of loosely coupled fusion: every subset of modalities, and baselines.

Every arm is trained once and lies in a folder of its own, from which it is read when a modality is added; a
training that was cut goes on. N patients, C classes.
"""
import functools
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from ..config import Problem
from ..record import seed_everything
from ..runtime.checkpoints import checkpoint_path
from .fusion import Arm, Concatenated, Fusion, Settings, cut, subsets
from .fusion_inputs import Inputs, having
from .pictures import PAM50, Cohort
from .study import Descent, computed_once, fit, tensors
from .tasks import FOLDS, parted, scaled

ALONE, FUSED, MEAN = "alone", "weighted logits", "mean of probabilities"
CONCATENATED, HIDDEN = "early concatenation", "concatenation, parts hidden in training"
LINEAR = "logistic regression"
HIDE = 0.3         # share of the modalities that HIDDEN does without in training


# ---- one fold ----------------------------------------------------------------------------------------------

class Rows(NamedTuple):
    """Row numbers of the patients of one fold."""
    train: np.ndarray
    valid: np.ndarray      # the fusion is fitted on them, and the concatenations are trained on them too
    test: np.ndarray


@dataclass
class Fold:
    """One fold of patients and what is trained on it; `inputs` are prepared when first asked for."""
    cohort: Cohort
    present: dict          # {modality: (N,) bool}
    rows: Rows
    settings: Settings
    seed: int
    device: str = "cpu"

    @functools.cached_property
    def inputs(self):
        return Inputs(self.cohort, self.rows.train, self.settings, self.seed, self.device)

    @functools.cached_property
    def truth(self):
        return torch.as_tensor(self.cohort.pam50, device=self.device)

    @functools.cached_property
    def has(self):
        """`present` as tensors."""
        return {m: torch.as_tensor(mask, device=self.device) for m, mask in self.present.items()}

    def config(self, names, rows):
        """What a model of the modalities `names`, trained on the patients `rows`, depends on."""
        inputs = {name: self.inputs.digest(name) for name in names}
        present = {name: self.present[name][rows].astype(int).tolist() for name in names}
        return {"inputs": inputs, "present": present, "rows": rows.tolist(), "seed": self.seed,
                "classes": self.cohort.pam50[rows].tolist(), "settings": asdict(self.settings)}


def _trained(model, logits, rows, fold, place, config):
    """`model`, whose logits(row numbers) are (B, C), trained once and kept in the folder `place`.

    A training that was cut goes on from its checkpoint.
    """
    settings = fold.settings

    def objective(i):
        return {"cross-entropy": F.cross_entropy(logits(rows[i]), fold.truth[rows[i]])}

    def cosine(epoch):
        return (1 + math.cos(math.pi * epoch / settings.epochs)) / 2

    def make():
        descent = Descent(settings.epochs, settings.batch, settings.lr, settings.weight_decay,
                          schedule=cosine)
        resume = checkpoint_path(place, config)
        history = fit(model, objective, len(rows), descent, fold.seed, resume)
        return {"history": history}, model.state_dict()

    computed_once(place, config, make)
    model.load_state_dict(tensors(place))
    return model.eval().requires_grad_(False)


def train_arm(name, fold, folder):
    """An `Arm` trained alone, on the training patients who have its modality; kept in folder/<name>."""
    rows = fold.rows.train[fold.present[name][fold.rows.train]]
    if len(rows) < 2:
        raise Problem(f"{len(rows)} training patients have {name}; leave this modality out.")
    seed_everything(fold.seed)
    arm = Arm(name, fold.inputs.features[name], fold.settings).to(fold.device)
    place = folder / name.replace(" ", "_")
    return _trained(arm, lambda i: arm(fold.inputs.batch(name, i)), rows, fold, place,
                    fold.config([name], rows))


def train_concatenated(names, fold, folder, hide=0.0):
    """The baseline that trains all encoders at once: a function from row numbers and a subset to logits.

    It learns from the training patients and from those on whom the fusion is fitted. hide: share of the
    modalities that a patient is shown without in training, drawn anew for every batch.
    """
    rows = np.sort(np.concatenate([fold.rows.train, fold.rows.valid]))
    seed_everything(fold.seed)
    features = {name: fold.inputs.features[name] for name in names}
    model = Concatenated(features, fold.settings).to(fold.device)

    def logits(i, subset=names):
        inputs = {name: fold.inputs.batch(name, i) for name in names}
        has = {name: fold.has[name][i] & (name in subset) for name in names}
        if model.training and hide:
            has = _some(has, hide)
        return model(inputs, has)

    place = folder / ("concatenated_hidden" if hide else "concatenated")
    _trained(model, logits, rows, fold, place, {**fold.config(names, rows), "hide": hide})
    return logits


def _some(has, hide):
    """`has` {modality: (B,)} without a share `hide` of it; bag and graph of a slide go together."""
    shown = {}
    for name, mask in has.items():
        if name == "graph" and "bag" in shown:
            shown[name] = mask & shown["bag"]
        else:
            shown[name] = mask & (torch.rand(len(mask)) >= hide).to(mask.device)
    return shown


def train_fold(fold, folder):
    """(tables, state) of one fold, as `study.computed_once` takes them; its models are kept in `folder`.

    Tables "probabilities", one row per test patient, subset and way of fusing, and "weights".
    """
    names = tuple(fold.present)
    cohort, test = fold.cohort, fold.rows.test
    arms = {name: train_arm(name, fold, folder) for name in names}
    logits = {name: all_logits(name, arm, fold) for name, arm in arms.items()}
    fusion = fused(names, logits, fold)
    concatenated = {CONCATENATED: train_concatenated(names, fold, folder),
                    HIDDEN: train_concatenated(names, fold, folder, HIDE)}
    frames = []
    for subset in subsets(names):
        rows = test[np.any([fold.present[m][test] for m in subset], axis=0)]
        if not len(rows):
            continue
        frames += _probabilities(cohort, rows, cut(logits, subset, rows), cut(fold.has, subset, rows), fusion)
        for way, model in concatenated.items():
            frames.append(_frame(cohort, subset, rows, way, in_groups(functools.partial(model, subset=subset),
                                                                      rows)))
    learned = [(m, fusion.weight[m].item(), *fusion.bias[m].tolist()) for m in names]
    tables = {"probabilities": pd.concat(frames, ignore_index=True),
              "weights": pd.DataFrame(learned, columns=["modality", "weight", *PAM50])}
    return tables, fusion.state_dict()


def in_groups(model, rows):
    """(N, C) logits of model(row numbers), some 64 patients at a time."""
    with torch.no_grad():
        return torch.cat([model(group) for group in np.array_split(rows, 1 + len(rows) // 64)])


def all_logits(name, arm, fold):
    """(N, C) logits of an arm for every patient."""
    return in_groups(lambda rows: arm(fold.inputs.batch(name, rows)), np.arange(len(fold.cohort)))


def fused(names, logits, fold):
    """A `Fusion` of the modalities `names`, fitted on the validation patients who have any of them."""
    valid = fold.rows.valid
    return Fusion().to(fold.device).add(cut(logits, names, valid), cut(fold.has, names, valid),
                                        fold.truth[valid], names)


@torch.no_grad()
def _probabilities(cohort, rows, logits, present, fusion):
    """Frames of a subset of modalities, those in `logits`.

    One is fused; the other is of the modality alone, or the mean of the probabilities.
    """
    subset = tuple(logits)
    count = torch.stack([present[m] for m in subset]).sum(0)
    total = torch.stack([present[m][:, None] * logits[m].softmax(1) for m in subset]).sum(0)
    way = ALONE if len(subset) == 1 else MEAN
    return [_frame(cohort, subset, rows, way, (total / count[:, None]).log()),
            _frame(cohort, subset, rows, FUSED, fusion(logits, present))]


def _frame(cohort, subset, rows, way, logits):
    p = logits.softmax(1).cpu().numpy()
    table = pd.DataFrame(p, columns=[f"p{c}" for c in range(p.shape[1])])
    return table.assign(patient=cohort.patient[rows], truth=cohort.pam50[rows], subset=" + ".join(subset),
                        way=way)


# ---- all folds ---------------------------------------------------------------------------------------------

def parts_of(cohort, seed):
    """The `Rows` of each of five folds: three fifths train, one fits the fusion, one tests.

    Raises `Problem` for a class with fewer than five patients.
    """
    tested = [test for _, test in parted(cohort.pam50, seed)]
    folds = []
    for k in range(FOLDS):
        train = np.concatenate([tested[(k + j) % FOLDS] for j in (2, 3, 4)])
        folds.append(Rows(np.sort(train), tested[(k + 1) % FOLDS], tested[k]))
    return folds


def study(cohort, settings, seed, folder, present=None, device="cpu", folds=range(FOLDS)):
    """The tables {name: DataFrame} of `train_fold` on the folds of `parts_of`, with column fold.

    Each fold is kept in folder/fold_<k>. present: {modality: (N,) bool}, or what the cohort has. Raises
    `Problem` for a patient without any, and for a class with fewer than five patients.
    """
    present = present or having(cohort)
    nobody = np.flatnonzero(~np.any(list(present.values()), axis=0))
    if len(nobody):
        raise Problem(f"{len(nobody)} patients, among them {cohort.patient[nobody[0]]}, have no modality; "
                      "leave them out with Cohort.select.")
    digest = cohort.digest()
    masks = {m: np.packbits(mask).tobytes().hex() for m, mask in present.items()}
    parts = parts_of(cohort, seed)
    results = {}
    for k in folds:
        fold = Fold(cohort, present, parts[k], settings, seed, device)
        config = {"fold": k, "seed": seed, "cohort": digest, "settings": asdict(settings), "present": masks}
        place = folder / f"fold_{k}"
        for name, table in computed_once(place, config, functools.partial(train_fold, fold, place)).items():
            results.setdefault(name, []).append(table.assign(fold=k))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in results.items()}


def linear(cohort, name, seed):
    """Probabilities, laid out as those of `study`, of logistic regression on the further table `name`.

    It learns from all patients of the other four folds; its penalty is chosen among them by
    cross-validation.
    """
    frames = []
    for k, rows in enumerate(parts_of(cohort, seed)):
        train = np.concatenate([rows.train, rows.valid])
        x = scaled(cohort.more[name].to_numpy(), train)
        penalties = {"C": np.logspace(-4, 0, 5)}
        model = GridSearchCV(LogisticRegression(max_iter=2000), penalties, scoring="neg_log_loss", cv=3)
        model.fit(x[train], cohort.pam50[train])
        p = torch.as_tensor(model.predict_proba(x[rows.test]))
        frames.append(_frame(cohort, (name,), rows.test, LINEAR, p.log()).assign(fold=k))
    return pd.concat(frames, ignore_index=True)
