"""The tables of the figure of loosely coupled fusion: scores of subsets, paired differences, missing
modalities.

A unit is what is independent: a seed, with patients, start and split of its own, or of real patients a fold.
"""
import numpy as np
import pandas as pd

from ..stats import auc, paired_mean
from .fusion_study import ALONE, FUSED, MEAN
from .pictures import PAM50

MEASURES = ("accuracy", "f1", "auc")


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


def scores(probabilities):
    """One row per unit, subset and way: patients, accuracy, f1 (macro), auc (macro).

    probabilities: as of `fusion_study.study`, with column unit.
    """
    rows = []
    for (unit, subset, way), group in probabilities.groupby(["unit", "subset", "way"], sort=False):
        p, truth = group.filter(regex=r"^p\d$").to_numpy(), group.truth.to_numpy()
        rows.append((unit, subset, way, len(group), accuracy(truth, p), macro_f1(truth, p.argmax(1)),
                     macro_auc(truth, p)))
    return pd.DataFrame(rows, columns=["unit", "subset", "way", "patients", *MEASURES])


def summary(table, by):
    """One row per group of the columns `by`: the mean over units of each measure, `_low` and `_high`.

    These bound a 95 % interval (Student's t over units). table: as of `scores` or `by_missing`.
    """
    rows = []
    for key, group in table.groupby(by, sort=False):
        row = dict(zip(by, key)) | {"units": group.unit.nunique()}
        for name in MEASURES:
            mean = paired_mean(group[name], group.unit)
            row |= {name: mean.difference, f"{name}_low": mean.low, f"{name}_high": mean.high}
        rows.append(row)
    return pd.DataFrame(rows)


def lacking(subset, names):
    """How many modalities a subset of `names` lacks; bag and graph are one, the slide. None for half a slide.

    >>> lacking(["clinical", "bag", "graph"], ["copy number", "clinical", "bag", "graph"])
    1
    """
    slide = {"bag", "graph"} & set(names)
    held = slide & set(subset)
    if held and held != slide:
        return None
    columns = set(names) - slide
    return len(columns - set(subset)) + (bool(slide) and not held)


def by_missing(table, names):
    """One row per unit, way and number of `missing` modalities: the mean of each measure over the subsets
    that lack so many.

    table: as of `scores`. A modality alone is also the mean of its probabilities, and stands there.
    """
    count = [lacking(subset.split(" + "), names) for subset in table.subset]
    rows = table.assign(missing=count, way=table.way.replace(ALONE, MEAN)).dropna(subset="missing")
    means = rows.groupby(["unit", "missing", "way"], sort=False)[list(MEASURES)].mean().reset_index()
    return means.astype({"missing": int})


def against(table, by, reference=FUSED):
    """Paired differences: one row per group of the columns `by`, other way and measure.

    `difference` is the mean over units of the way `reference` less the `other` one, with a 95 % interval
    `low` to `high`. table: as of `scores` or `by_missing`.
    """
    rows = []
    for key, group in table.groupby(by, sort=False):
        wide = group.pivot(index="unit", columns="way", values=list(MEASURES))
        ways = [way for way in group.way.unique() if way != reference]
        for other in ways:
            for name in MEASURES:
                mean = paired_mean(wide[name][reference] - wide[name][other])
                rows.append((*key, reference, other, name, mean.difference, mean.low, mean.high, mean.units))
    return pd.DataFrame(rows, columns=[*by, "way", "other", "measure", "difference", "low", "high", "units"])
