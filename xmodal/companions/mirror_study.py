"""The study of MIRROR: its ablations and four other methods on folds of patients, over seeds.

Results are computed once and kept. B patients, D width.
"""
import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..record import seed_everything
from ..runtime.checkpoints import checkpoint_path
from .genes import CURATED
from .mil import ABMIL, PORPOISE
from .mirror import TERMS, Mirror, Settings, Tangle, pretrain
from .pictures import Cohort, SlideFiles
from .study import computed_once
from .tasks import (
    FOLDS,
    encode,
    end_to_end,
    folds,
    prepare,
    probe,
    recovered,
    score,
    shots,
    steps_of,
    through,
)

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


def setting(settings):
    """"all" or, say, "10-shot"."""
    return f"{settings.shots}-shot" if settings.shots else "all"


@dataclass
class Fold:
    """One fold of patients and how methods are trained on it; `inputs` are prepared when first asked for.

    Where `settings.shots` says so, labels are known of a few patients of each class only, and genes are
    chosen by these alone.
    """
    cohort: Cohort
    train: np.ndarray      # row numbers
    test: np.ndarray
    settings: Settings
    seed: int
    device: str
    curated: list          # genes that are read whatever elimination says
    store: Path | None     # file for the patches that are drawn; None: in memory

    @functools.cached_property
    def inputs(self):
        inputs = prepare(self.cohort, self.train, self.settings, self.seed, self.curated,
                         self.known("subtype"), self.store)
        return inputs._replace(device=self.device)

    def known(self, task):
        """Row numbers of the training patients whose label of a task is used."""
        if not self.settings.shots:
            return self.train
        return shots(self.cohort, self.train, task, self.settings.shots, self.seed)

    def as_long(self, patients):
        """`settings` with which so few patients are trained on for at least as many steps as all are."""
        batch = self.settings.batch
        steps = steps_of(self.settings.epochs, len(self.train), batch)
        return replace(self.settings, epochs=-(-steps // steps_of(1, patients, batch)))


def embeddings(name, inputs, train, settings, seed, resume=None):
    """(embeddings {side: (B, D)}, model or None, history) of a method that is trained without labels.

    "linear" is the data themselves. resume: path of a checkpoint, as `study.fit` takes it.
    """
    if name == "linear":
        mean_patch = through(lambda bags, _: bags.mean(1), inputs)[0]
        return {"slide": mean_patch.numpy(), "rna": inputs.expression.numpy()}, None, pd.DataFrame()
    shape = inputs.bags.shape[2], inputs.expression.shape[1]
    if name == "TANGLE":
        model = Tangle(*shape, settings)
    else:
        model = Mirror(*shape, settings, ABLATIONS[name], printed=name == "retention as printed")
    model = model.to(inputs.device)
    history = pretrain(model, inputs, train, settings, seed, resume)
    return dict(zip(("slide", "rna"), encode(model, inputs))), model, history


def tasks(name, z, fold):
    """Table of a method on the test patients: columns task, setting ("all" or "10-shot"), measure, value.

    z: its embeddings {side: (B, D)}, empty for a supervised method.
    """
    cohort = fold.cohort
    rows = []
    for task in ("subtype", "survival"):
        known = fold.known(task)
        if name in SUPERVISED:
            scores = end_to_end(SUPERVISED[name], fold.inputs, cohort, known, task,
                                fold.as_long(len(known)), fold.seed)
        else:
            scores = probe(np.concatenate(list(z.values()), 1), cohort, known, task)
        measures = score(cohort, fold.test, task, scores)
        rows += [(task, setting(fold.settings), measure, value) for measure, value in measures.items()]
    return pd.DataFrame(rows, columns=["task", "setting", "measure", "value"])


def train_method(name, fold, place, config):
    """(tables, state) of one method on one fold, as `study.computed_once` takes them.

    A training that was cut goes on from the checkpoint in the folder `place`.
    """
    cohort, test, inputs = fold.cohort, fold.test, fold.inputs
    seed_everything(fold.seed)
    z, model, history = {}, None, pd.DataFrame()
    if name not in SUPERVISED:
        z, model, history = embeddings(name, inputs, fold.train, fold.settings, fold.seed,
                                       checkpoint_path(place, config))
    tables = {"tasks": tasks(name, z, fold)}
    if model:
        tables["history"] = history
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
        attention = through(lambda bags, _: model.slide.attention_map(bags), inputs)[0].numpy()
        tables["attention"] = pd.DataFrame(attention[test]).assign(patient=cohort.patient[test])
        tables["genes"] = pd.DataFrame({"gene": inputs.genes})
    return tables, model.state_dict() if model else {}


def study(cohort, methods, settings, seed, folder, device="cpu", curated=CURATED):
    """The tables {name: DataFrame} of methods on folds, with columns method, seed, fold and setting.

    methods: {name of ABLATIONS or BASELINES: numbers of its folds}. Each result is kept in
    folder/<method>/<setting>/seed_<n>/fold_<k> and not trained twice. curated: genes that are read whatever
    elimination says. Patches that are drawn from slides on disk are kept in a file in `folder`.
    """
    digest = cohort.digest()
    store = None
    if isinstance(cohort.bags, SlideFiles):
        store = folder / f"patches_{settings.patches}_{seed}_{digest[:12]}.npy"
    results = {}
    for k, (train, test) in enumerate(folds(cohort, seed)):
        fold = Fold(cohort, train, test, settings, seed, device, list(curated), store)
        for name in (name for name, numbers in methods.items() if k in numbers):
            config = {"method": name, "fold": k, "seed": seed, "cohort": digest, "curated": list(curated),
                      "settings": asdict(settings)}
            method = name.replace(", ", "_").replace(" ", "_")
            place = folder / method / setting(settings) / f"seed_{seed}" / f"fold_{k}"
            tables = computed_once(place, config, functools.partial(train_method, name, fold, place, config))
            for table, rows in tables.items():
                rows = rows.assign(method=name, seed=seed, fold=k, setting=setting(settings))
                results.setdefault(table, []).append(rows)
    return {table: pd.concat(rows, ignore_index=True) for table, rows in results.items()}


@dataclass(frozen=True)
class Job:
    """Some methods on one fold of one seed."""
    methods: tuple
    seed: int
    fold: int
    few: bool = False


def plan(seeds):
    """The jobs of the study.

    BASELINES and TABLE3 on all folds of all seeds; with few labels BASELINES and MIRROR on those of the first
    seed; REMOVED on its first two folds.
    """
    jobs = [Job((*BASELINES, *TABLE3), seed, k) for seed in seeds for k in range(FOLDS)]
    jobs += [Job((*BASELINES, "MIRROR"), seeds[0], k, few=True) for k in range(FOLDS)]
    return jobs + [Job(REMOVED, seeds[0], k) for k in range(2)]


def run(cohorts, settings, folder, device, curated, job):
    """The tables of one job. cohorts: {seed: Cohort}."""
    methods = dict.fromkeys(job.methods, (job.fold,))
    settings = replace(settings, shots=FEW if job.few else 0)
    return study(cohorts[job.seed], methods, settings, job.seed, folder, device, curated)


def compare(cohorts, settings, folder, device="cpu", curated=CURATED, each=map):
    """The tables {name: DataFrame} of the whole `plan`. cohorts: {seed: Cohort}.

    each(function, items) runs the jobs; give one that runs them side by side in processes.
    """
    job = functools.partial(run, cohorts, settings, folder, device, list(curated))
    results = {}
    for tables in each(job, plan(list(cohorts))):
        for name, rows in tables.items():
            results.setdefault(name, []).append(rows)
    return {name: pd.concat(rows, ignore_index=True) for name, rows in results.items()}
