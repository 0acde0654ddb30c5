"""The weights of K-MaT's losses and of its rivals', cross-validated on the high end."""
import copy
from dataclasses import replace

import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold

from .. import config
from ..config import Problem
from ..runtime.checkpoints import checkpoint_path
from . import study
from .kmat import METHODS, NOTHING, SETTINGS, configured, place, training
from .prompts import learn

SEARCHED = ("anchor", "keep", "mean", "distil")
FACTORS = (0.0, 0.1, 1.0, 10.0, 100.0)


def scaled(method, factor):
    """A method whose searched weights are multiplied by a factor."""
    return replace(method, **{name: factor * getattr(method, name) for name in SEARCHED})


def choose(profile, pair, texts, name, seeds, settings=None, factors=FACTORS):
    """(method `name` with its weights, table of what was tried: factor, seed, accuracy).

    Cross-validated on training and validation pictures of the high end alone: they are parted into folds by
    patient, each seed holds out one of them, draws its shots from the others and is scored on its own. The
    factor of the best mean accuracy is taken, of equal ones the first. lambda_fgw stays 1, see `high_end_of`.
    A method without such weights comes back as it is, with None.
    """
    method = METHODS[name]
    if scaled(method, 2.0) == method:
        return method, None
    settings = settings or config.settings_of(SETTINGS, profile)
    seeds = list(seeds)
    judged, judged_texts = high_end_of(method, texts)
    configuration = {**configured(profile, pair, texts, method, settings, seeds), "factors": list(factors)}
    folder = place(profile, pair, f"choice_{name}", seeds)

    def make():
        resume = checkpoint_path(folder, configuration)
        methods = {factor: scaled(judged, factor) for factor in factors}
        tried = validated(pair, judged_texts, methods, settings, seeds, resume)
        return {"tried": tried}, NOTHING

    tried = study.computed_once(folder, configuration, make)["tried"]
    best = tried.groupby("factor", sort=False).accuracy.mean().idxmax()
    return scaled(method, float(best)), tried


def high_end_of(method, texts):
    """(method, texts) with which the high end's prompts alone are trained as `method` trains them.

    With contexts of their own they do not feel lambda_fgw, as they are detached there, and of L_anc, a mean
    over both ends, they feel one half. So low-end prompts, which nothing reads here, can be left out.
    """
    if not method.msc:
        return method, texts
    alone = copy.copy(texts)
    alone.anchors = texts.anchors[[0, 0]]
    return replace(method, msc=False, fgw=0.0, anchor=method.anchor / 2), alone


def validated(pair, texts, methods, settings, seeds, resume=None):
    """Table of factor, seed, accuracy of {factor: method}, each on the fold of the high end that its seed
    holds out. All are trained side by side."""
    parts = [pair.high.features(texts.model, split) for split in ("train", "validation")]
    features = torch.cat([part for part, _ in parts])
    rows = pd.concat([rows for _, rows in parts])
    labels = pair.labels(rows)
    folds = _folds(pair, rows, labels, len(seeds))
    trainings, held_out = [], []
    for factor, method in methods.items():
        for seed, (rest, own) in zip(seeds, folds):
            trainings.append(training(pair, method, settings, seed, (features[rest], labels[rest])))
            held_out.append((factor, seed, own))
    members, _ = learn(trainings, texts, settings, resume)
    scores = []
    with torch.no_grad():
        for prompts, (factor, seed, own) in zip(members, held_out):
            right = prompts.logits(features[own], 0).argmax(1).cpu() == labels[own]
            scores.append((factor, seed, float(right.float().mean())))
    return pd.DataFrame(scores, columns=["factor", "seed", "accuracy"])


def _folds(pair, rows, labels, seeds):
    """[(rest, held out) row numbers] of as many folds of patients as there are seeds, of at least three."""
    count = max(3, seeds)
    fewest = rows.groupby("label").patient.nunique().min()
    if fewest < count:
        raise Problem(f"{fewest} patients of a class in {pair.high.name} do not part into {count} folds; "
                      "give fewer seeds, or more patients.")
    parted = StratifiedGroupKFold(count, shuffle=True, random_state=0).split(labels, labels, rows.patient)
    return list(parted)
