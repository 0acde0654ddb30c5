"""The control of K-MaT: one dial, its doses, and rules that were written before the result.

The dial is the share of ultrasound in a low-end picture (`kmat.phantom_pair`). At 0 both ends are the same
pictures and nothing is to be carried over; at 1 the low end is ultrasound. Prompts are trained once, since no
low-end picture is trained on, and read every dose. The rules and their bounds, the textbook cases, the
captions and the training's length were set on 2026-11-28, before a low-end result of any learned prompt was
seen. Probes, zero-shot and descriptions had been seen at both ends, and epochs and learning rate were set by
the training loss and the high-end accuracy of seed 42.
"""
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from .. import config
from ..controls.verdict import DOSE_RESPONSE, NEGATIVE, POSITIVE, Control, Rule, measure
from . import kmat
from .prompts import Texts

GAPS = (0.0, 0.33, 0.67, 1.0)
RULES = (
    Rule(POSITIVE, "K-MaT reads ultrasound better than CoOp", "K-MaT", "CoOp", 1.0, 0.02),
    Rule(POSITIVE, "transport alone teaches prompts that nothing else reaches", "transport", "neither", 1.0,
         0.05),
    Rule(POSITIVE, "so do descriptions alone", "descriptions", "neither", 1.0, 0.05),
    Rule(POSITIVE, "with the descriptions of other classes it is lost", "K-MaT", "exchanged", 1.0, 0.05),
    Rule(NEGATIVE, "where the low end is the high end it gains nothing", "one modality", "CoOp", 0.0, 0.03),
    Rule(DOSE_RESPONSE, "it gains the more the wider the gap", "K-MaT", "CoOp"),
)
CONTROL = Control("kmat_gap", "K-MaT", "share of ultrasound in a low-end picture", "accuracy at the low end",
                  GAPS, None, RULES)


def exchanged(texts):
    """`texts` whose anchors belong to another class: those of class c + 1 stand at class c."""
    other = object.__new__(Texts)
    anchors = texts.anchors.roll(-1, 1)
    vars(other).update(vars(texts), anchors=anchors, sentences=["exchanged", *texts.sentences])
    return other


def control_table(profile, pairs, texts, ours, seeds, settings=None):
    """The table of the control, with `verdict.COLUMNS`.

    pairs: {gap: `kmat.phantom_pair` of that gap}; ours: K-MaT with its chosen weights. Runs that `kmat.run`
    and `kmat.ablation` have made are read back, others are made.
    """
    settings = settings or config.settings_of(kmat.SETTINGS, profile)
    pair = pairs[1.0]
    alone = replace(pair, low=pair.high, name=f"{pair.name}_alone")
    arms = {"CoOp": (pair, "coop", kmat.METHODS["coop"], texts),
            "K-MaT": (pair, "kmat", ours, texts),
            "neither": (pair, "row_3", kmat.ABLATION["3"], texts),
            "transport": (pair, "row_4", kmat.ABLATION["4"], texts),
            "descriptions": (pair, "row_5", replace(kmat.ABLATION["5"], anchor=ours.anchor), texts),
            "exchanged": (pair, "exchanged", ours, exchanged(texts)),
            "one modality": (alone, "kmat", ours, Texts(texts.model, alone))}
    runs = {}
    for arm, (where, name, method, own_texts) in arms.items():
        runs[arm] = kmat.run(profile, where, own_texts, name, method, seeds, settings)
    read = partial(accuracies, pairs, runs, texts.model)
    return measure(replace(CONTROL, run=read), seeds)


def accuracies(pairs, runs, model, gap, seed):
    """{arm: accuracy} on the low end of a gap, by the stored class embeddings of a seed."""
    features, labels = _test(pairs[gap], pairs[gap].low, model)
    values = {}
    for arm, of_seeds in runs.items():
        low = of_seeds[seed]["embeddings"].query("end == 'low'").filter(regex=r"^d\d+$")
        guessed = (features @ torch.tensor(low.to_numpy(), dtype=features.dtype).T).argmax(1)
        values[arm] = float((guessed == labels).float().mean())
    return values


def measured_gap(pairs, model):
    """How far the ends of each pair {gap: pair} lie apart in the test pictures' features, one row per gap.

    Columns gap; distance between the centres of both ends, unit features (Liang et al. 2022); agreement, the
    mean cosine between the directions of a class from its centre at both ends; probe, the accuracy of a
    linear probe of the low end (five folds), the ceiling of what a prompt can reach; high_probe, that of a
    probe of the high end's training pictures at the low end.
    """
    rows = []
    first = pairs[max(pairs)]                           # all pairs have its high end, which is read once
    high, high_labels = _test(first, first.high, model)
    train, train_rows = first.high.features(model, "train")
    for gap, pair in sorted(pairs.items()):
        low, low_labels = _test(pair, pair.low, model)
        probe = LogisticRegression(C=10, max_iter=1000)
        ceiling = cross_val_score(probe, low, low_labels, cv=5).mean()
        carried = probe.fit(train.cpu(), pair.labels(train_rows)).score(low, low_labels)
        agreement = torch.cosine_similarity(_directions(high, high_labels), _directions(low, low_labels))
        rows.append((gap, float((high.mean(0) - low.mean(0)).norm()), float(agreement.mean()), ceiling,
                     carried))
    return pd.DataFrame(rows, columns=["gap", "distance", "agreement", "probe", "high_probe"])


def _test(pair, end, model):
    """(features, labels) of the test pictures of an end."""
    features, rows = end.features(model, "test")
    return features.cpu(), pair.labels(rows)


def _directions(features, labels):
    """(C, D): the mean of each class less the mean of all."""
    means = [features[labels == c].mean(0) for c in labels.unique()]
    return torch.stack(means) - features.mean(0)


def as_classifiers(pair, texts):
    """What texts alone classify of the test pictures: end, accuracy of the hand-written prompts, of the mean
    descriptions, and of those of exchanged classes, in percent. No choice rests on it."""
    rows = []
    for k, end in enumerate((pair.high, pair.low)):
        features, labels = _test(pair, end, texts.model)
        accuracy = []
        for w in (texts.plain[k], texts.anchors[k], exchanged(texts).anchors[k]):
            guessed = (features @ w.cpu().T).argmax(1)
            accuracy.append(100 * float(np.mean((guessed == labels).numpy())))
        rows.append((end.name, *accuracy))
    return pd.DataFrame(rows, columns=["end", "plain", "descriptions", "exchanged"])
