"""The study of MIRROR: its ablations and four other methods on folds of patients.

Results are computed once and kept. B patients, D width.
"""
import functools
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch

from ..record import seed_everything
from .genes import CURATED
from .mil import ABMIL, PORPOISE
from .mirror import TERMS, Mirror, Settings, Tangle, pretrain
from .pictures import Cohort
from .study import computed_once
from .tasks import FOLDS, encode, end_to_end, folds, prepare, probe, recovered, score, shots

ABLATIONS = {   # what is trained -> its terms; the first four are the rows of Table III
    "alignment": ("align",),
    "alignment, retention": ("align", "retention"),
    "alignment, clustering": ("align", "style", "cluster"),
    "MIRROR": TERMS,
    "retention": ("retention",),
    "no alignment": TERMS[1:],
    "no style": ("align", "retention", "cluster"),
    "no cluster": ("align", "retention", "style"),
    "retention as printed": TERMS,
}
TABLE3 = tuple(ABLATIONS)[:4]
REMOVED = tuple(ABLATIONS)[4:]
BASELINES = ("ABMIL", "PORPOISE", "linear", "TANGLE")
SUPERVISED = {"ABMIL": ABMIL, "PORPOISE": PORPOISE}
FEW = 10               # patients of each class, or of each time bin, in the few-shot setting


@dataclass
class Fold:
    """One fold of patients and how methods are trained on it; `inputs` are prepared when first asked for."""
    cohort: Cohort
    train: np.ndarray      # row numbers
    test: np.ndarray
    settings: Settings
    seed: int
    device: str
    curated: list          # genes that are read whatever elimination says

    @functools.cached_property
    def inputs(self):
        return prepare(self.cohort, self.train, self.settings, self.seed, self.device, self.curated)


def embeddings(name, inputs, train, settings, seed):
    """(embeddings {side: (B, D)}, model or None) of a method that is trained without labels.

    "linear" is the data themselves.
    """
    if name == "linear":
        return {"slide": inputs.bags.mean(1).cpu().numpy(), "rna": inputs.expression.cpu().numpy()}, None
    shape = inputs.bags.shape[2], inputs.expression.shape[1]
    if name == "TANGLE":
        model = Tangle(*shape, settings)
    else:
        model = Mirror(*shape, settings, ABLATIONS[name], printed=name == "retention as printed")
    model = model.to(inputs.bags.device)
    pretrain(model, inputs, train, settings, seed)
    return dict(zip(("slide", "rna"), encode(model, inputs))), model


def tasks(name, z, fold):
    """Table of a method on the test patients: columns task, setting ("all" or "10-shot"), measure, value.

    z: its embeddings {side: (B, D)}, empty for a supervised method.
    """
    cohort = fold.cohort
    rows = []
    for task in ("subtype", "survival"):
        few = shots(cohort, fold.train, task, FEW, fold.seed)
        for setting, known in (("all", fold.train), ("10-shot", few)):
            if name in SUPERVISED:
                network = SUPERVISED[name]
                scores = end_to_end(network, fold.inputs, cohort, known, task, fold.settings, fold.seed)
            else:
                scores = probe(np.concatenate(list(z.values()), 1), cohort, known, task)
            measures = score(cohort, fold.test, task, scores)
            rows += [(task, setting, measure, value) for measure, value in measures.items()]
    return pd.DataFrame(rows, columns=["task", "setting", "measure", "value"])


def train_method(name, fold):
    """(tables, state) of one method on one fold, as `study.computed_once` takes them."""
    cohort, test, inputs = fold.cohort, fold.test, fold.inputs
    seed_everything(fold.seed)
    z, model = {}, None
    if name not in SUPERVISED:
        z, model = embeddings(name, inputs, fold.train, fold.settings, fold.seed)
    tables = {"tasks": tasks(name, z, fold)}
    if z and cohort.factors:
        rows = []
        for side in z:
            r2 = recovered(z[side], cohort.factors, fold.train, test)
            rows += [(side, factor, value) for factor, value in r2.items()]
        tables["factors"] = pd.DataFrame(rows, columns=["side", "factor", "r2"])
    if name in ("MIRROR", "TANGLE"):
        rna = pd.DataFrame(z["rna"][test])
        tables["rna"] = rna.assign(patient=cohort.patient[test], subtype=cohort.subtype[test])
    if name == "MIRROR":
        with torch.no_grad():
            maps = [model.slide.attention_map(bags) for bags in inputs.bags[test].split(64)]
        attention = torch.cat(maps).cpu().numpy()
        tables["attention"] = pd.DataFrame(attention).assign(patient=cohort.patient[test])
        tables["genes"] = pd.DataFrame({"gene": inputs.genes})
    return tables, model.state_dict() if model else {}


def study(cohort, methods, settings, seed, folder, device="cpu", curated=CURATED):
    """The tables {name: DataFrame} of methods on folds, with columns method and fold.

    methods: {name of ABLATIONS or BASELINES: numbers of its folds}. Each result is kept in
    folder/<method>/fold_<k> and not trained twice. curated: genes that are read whatever elimination says.
    """
    digest = cohort.digest()
    results = {}
    for k, (train, test) in enumerate(folds(cohort, seed)):
        fold = Fold(cohort, train, test, settings, seed, device, curated)
        for name in (name for name, numbers in methods.items() if k in numbers):
            config = {"method": name, "fold": k, "seed": seed, "cohort": digest, "curated": curated,
                      "settings": asdict(settings)}
            place = folder / name.replace(", ", "_").replace(" ", "_") / f"fold_{k}"
            tables = computed_once(place, config, functools.partial(train_method, name, fold))
            for table, rows in tables.items():
                results.setdefault(table, []).append(rows.assign(method=name, fold=k))
    return {table: pd.concat(rows, ignore_index=True) for table, rows in results.items()}


def compare(cohort, settings, seed, folder, device="cpu", curated=CURATED, each=map):
    """Tables as of `study`, twice: of BASELINES and TABLE3 on all folds, and of REMOVED on the first two.

    each(function, items) runs the folds; give one that runs them side by side in processes.
    """
    run = functools.partial(study, cohort, settings=settings, seed=seed, folder=folder, device=device,
                            curated=curated)
    everywhere = dict.fromkeys((*BASELINES, *TABLE3), range(FOLDS))
    on_two = dict.fromkeys(REMOVED, range(2))
    jobs = [dict.fromkeys(everywhere, (k,)) for k in range(FOLDS)]
    jobs += [dict.fromkeys(on_two, (k,)) for k in range(2)]
    list(each(run, jobs))                             # what is trained is kept, and read below
    return run(everywhere), run(on_two)
