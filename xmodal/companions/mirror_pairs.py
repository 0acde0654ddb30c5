"""MIRROR's losses on real pairs: expression and methylation of the same samples (data_scripts.tcga_pairs).

No published slides with expression lie here; two real sides of the same samples do. What the losses promise
without any label is asked of samples that no training saw. The rules and settings were written on 2026-11-28,
before any result; none was changed afterwards.
"""
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.model_selection import KFold

from ..controls.verdict import NEGATIVE, POSITIVE, Rule
from ..record import seed_everything
from . import mirror_study
from .measures import hits, over_folds
from .mirror import SETTINGS
from .study import computed_once
from .tasks import FOLDS, prepare

SET = replace(SETTINGS["lesson"], patches=25, epochs=60, batch=32)
CLOSE = 5            # a partner counts as met among so many of the unseen samples
DRAWS = 20           # of hidden genes, over which the rebuilding is averaged
RULES = (
    Rule(POSITIVE, "alignment meets the partner of an unseen sample", "alignment", "pairs shuffled",
         bound=0.1),
    Rule(POSITIVE, "retention rebuilds hidden genes of an unseen sample", "rebuilt", "mean", bound=0.05),
    Rule(NEGATIVE, "the other terms leave what alignment meets", "MIRROR", "alignment", bound=0.05),
)


def trained(inputs, name, train, seed, shuffled=False, settings=SET):
    """The model of a row of `mirror_study.ABLATIONS`, trained on the samples `train`.

    shuffled: each bag is paired with the expression of another training sample.
    """
    seed_everything(seed)
    if shuffled:
        order = torch.arange(len(inputs.expression))
        order[train] = order[train][torch.randperm(len(train))]
        inputs = inputs._replace(expression=inputs.expression[order])
    return mirror_study.embeddings(name, inputs, train, settings, seed)[1]


@torch.no_grad()
def met(model, inputs, test):
    """How often the partner of a test sample is among the CLOSE nearest, in either direction: 0 to 1."""
    sides = model(*inputs.batch(test))
    z = [F.normalize(head(side), dim=1) for head, side in zip(model.align, sides)]
    similarity = (z[0] @ z[1].T).numpy()
    return float((hits(similarity, CLOSE).mean() + hits(similarity.T, CLOSE).mean()) / 2)


@torch.no_grad()
def rebuilt(model, inputs, test):
    """R2 of hidden genes of test samples, over the mean of the training samples as the guess."""
    expression = inputs.expression[test]
    error = np.mean([float(model.of_hidden_genes(expression)) for _ in range(DRAWS)])
    return 1 - error / float(expression.square().mean())


def one_run(cohort, seed, train, test, settings=SET):
    """{arm: value} of one fold."""
    inputs = prepare(cohort, train, settings, seed, list(cohort.expression))
    aligned = trained(inputs, "alignment", train, seed, settings=settings)
    shuffled = trained(inputs, "alignment", train, seed, shuffled=True, settings=settings)
    whole = trained(inputs, "MIRROR", train, seed, settings=settings)
    return {"alignment": met(aligned, inputs, test), "pairs shuffled": met(shuffled, inputs, test),
            "MIRROR": met(whole, inputs, test), "rebuilt": rebuilt(whole, inputs, test), "mean": 0.0,
            "chance": CLOSE / len(test)}


def study(cohort, folder, seeds, settings=SET):
    """Table with one row per seed and fold, and a column per arm; computed once and kept in `folder`."""
    config = {"cohort": cohort.digest(), "seeds": list(seeds), "settings": asdict(settings)}

    def make():
        rows = []
        for seed in seeds:
            folds = KFold(FOLDS, shuffle=True, random_state=seed).split(cohort.patient)
            for fold, (train, test) in enumerate(folds):
                rows.append({"seed": seed, "fold": fold, **one_run(cohort, seed, train, test, settings)})
        return {"pairs": pd.DataFrame(rows)}, {"none": torch.zeros(0)}

    return computed_once(folder, config, make)["pairs"]


def judge(table):
    """One row per rule of `study`'s table: sentence, difference with a 95 % interval, runs, verdict."""
    rows = []
    for rule in RULES:
        mean = over_folds((table[rule.arm] - table[rule.against]).to_numpy())
        holds = mean.difference >= rule.bound and mean.low > 0
        if rule.kind == NEGATIVE:
            holds = abs(mean.difference) <= rule.bound
        rows.append({"kind": rule.kind, "sentence": rule.sentence, **mean._asdict(),
                     "verdict": "holds" if holds else "does not hold"})
    return pd.DataFrame(rows)
