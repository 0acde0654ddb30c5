"""The tables of Fig. 1 a-i: is an image malignant? Ours against classic learners.

Those read radiomic features; and a linear probe reads the pretrained encoder as it is.

Only what all methods have in common is compared: a fold and seed, or an image, that one of them lacks is left
out for all. Intervals (95 %, percentiles) resample patients: all rows of a patient, in all runs, come and go
together. So a measure is computed from rows with weights, (B, N) for B resamples at once, of which the first
is the data as they are.
"""
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import stats
from ..methods import CLASSIC, OURS, UNTOUCHED
from ..metrics.miscalibration import Shift, shift
from ..metrics.weighted import BINS, GRID, calls, ranking, resamples, share, steps, with_interval
from .common import FOLD_AND_SEED, decided

COHORTS = {"target": "external test", "source test": "internal validation", "train": "training"}
LEARNERS = (UNTOUCHED, *CLASSIC, OURS)
AT_ONCE = 50_000_000        # weights of rows in memory, 0.4 GB


class Fold(NamedTuple):
    """The N images of one split of one fold and seed."""
    key: tuple                  # held_out, seed
    y: np.ndarray               # (N,) booleans, malignant or not
    patients: pd.Index          # (N,)
    scores: pd.DataFrame        # (N, methods)


def scores(predictions, methods=LEARNERS):
    """p2 + p3 of every image whose label says malignant or not, as trained.

    One row per image, fold and seed, one column per method; index held_out, seed, split, patient, sample,
    modality, y. Only rows that every method with any run has.
    """
    rows = decided(predictions[(predictions.condition == "source") & predictions.method.isin(methods)])
    index = [*FOLD_AND_SEED, "split", "patient", "sample", "modality", "y", "domain"]
    wide = rows.pivot(index=index, columns="method", values="p").dropna().clip(0, 1)
    return wide.reindex(columns=[m for m in methods if m in wide])


def folds(wide, split):
    """The `Fold` of every fold and seed in `scores`, for one split."""
    in_split = wide[wide.index.get_level_values("split") == split]
    for key, rows in in_split.groupby(level=FOLD_AND_SEED):
        y = rows.index.get_level_values("y").to_numpy().astype(bool)
        yield Fold(key, y, rows.index.get_level_values("patient"), rows)


# ---- measures and their resamples ------------------------------------------------------------------------

def thresholds(wide):
    """{((held_out, seed), method): threshold} by Youden's index on the validation patients; never the target.

    The validation patients of a run chose its epoch too.
    """
    chosen = {}
    for fold in folds(wide, "validation"):
        for method in wide:
            chosen[fold.key, method] = stats.youden(fold.y, fold.scores[method]).threshold
    return chosen


def measures(y, p, w, threshold):
    """{measure: (B,)} of one run: y (N,) booleans, p (N,) probabilities, w (B, N) weights.

    NaN threshold: no calls.
    """
    auc, average_precision = ranking(y, p, w)
    at_threshold = calls(y, p >= threshold, w)
    if not np.isfinite(threshold):
        at_threshold = {name: values * np.nan for name, values in at_threshold.items()}
    return {"auc": auc, "ap": average_precision, "inb": share(stats.case_benefit(y, p), w), **at_threshold}


def fig1_measures(wide, n=1000, seed=42):
    """{(split, method, measure): (1 + n,)} on the data and on n resamples of the patients.

    They are measured in each run and averaged over folds and seeds, which weigh the same, since scores of two
    runs need not share a scale.
    """
    people = np.unique(wide.index.get_level_values("patient").astype(str))
    weights = resamples(people, n, seed)
    chosen = thresholds(wide)
    fitting_in_memory = np.array_split(weights, 1 + len(weights) * len(wide) // AT_ONCE)
    parts = [fig1_part(wide, people, part, chosen) for part in fitting_in_memory]
    measured = {}
    for key in parts[0]:
        measured[key] = np.concatenate([part[key] for part in parts])
    return measured


def fig1_part(wide, people, weights, chosen):
    """As `fig1_measures` for (B, people) `weights` of the patients `people`, at the thresholds `chosen`."""
    measured = {}               # (split, method, measure): a list of (B,), one for each fold and seed
    for split in COHORTS:
        in_split = list(folds(wide, split))
        if not in_split:
            continue
        patients = [np.searchsorted(people, np.asarray(fold.patients, str)) for fold in in_split]
        fold_weights = [weights[:, patient] for patient in patients]
        for method in wide:
            for fold, w in zip(in_split, fold_weights):
                p = fold.scores[method].to_numpy()
                if split == "target":
                    values = measures(fold.y, p, w, chosen.get((fold.key, method), np.nan))
                else:
                    values = {"auc": ranking(fold.y, p, w)[0]}
                for name in values:
                    measured.setdefault((split, method, name), []).append(values[name])
    # undefined in a run: not counted
    return {key: pd.DataFrame(values).mean().to_numpy() for key, values in measured.items()}


# ---- curves ----------------------------------------------------------------------------------------------

def roc(y, p):
    """Sensitivity at the false positive rates of GRID; nan where a class is missing."""
    tp, fp = (cumulated[0] for cumulated in steps(y, p, np.ones((1, len(y)))))
    if not tp[-1] or not fp[-1]:
        return GRID * np.nan
    return np.interp(GRID, np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1]))


def precision_recall(y, p):
    """Precision of the smallest set of highest scores that reaches each recall of GRID.

    Without positives: nan.
    """
    tp, fp = (cumulated[0] for cumulated in steps(y, p, np.ones((1, len(y)))))
    if not tp[-1]:
        return GRID * np.nan
    return (tp / (tp + fp))[np.searchsorted(tp, GRID * tp[-1] - 1e-9)]


def averaged(wide, split, curve):
    """{method: mean over folds and seeds of curve(y, p)}, those where it is undefined left out."""
    in_split = list(folds(wide, split))
    means = {}
    for method in wide:
        curves = [np.atleast_1d(curve(fold.y, fold.scores[method].to_numpy())) for fold in in_split]
        means[method] = pd.DataFrame(curves).mean().to_numpy()
    return means


# ---- panels: measured is what `fig1_measures` returns ----------------------------------------------------

def cohort_counts(wide, split):
    """What every row of a table says of its cohort: name, and numbers of runs, images and patients."""
    index = wide.index[wide.index.get_level_values("split") == split]
    seeds = index.get_level_values("seed")
    return {
        "cohort": COHORTS[split],
        "runs": len(set(zip(index.get_level_values("held_out"), seeds))),
        "images": index.get_level_values("sample").nunique(),
        "patients": index.get_level_values("patient").nunique(),
        "seeds": " ".join(map(str, sorted(set(seeds)))),
    }


def fig1_roc(wide, measured, split):
    """Fig. 1 a-c: mean over runs of the ROC curves; auc, low, high: mean over runs and its interval."""
    counts = cohort_counts(wide, split)
    tables = []
    for method, tpr in averaged(wide, split, roc).items():
        auc = with_interval(measured[split, method, "auc"], ("auc", "low", "high"))
        tables.append(pd.DataFrame({"method": method, "fpr": GRID, "tpr": tpr, **auc, **counts}))
    return pd.concat(tables, ignore_index=True)


def calibration_errors(wide, split):
    """{method: `CalibrationError`} in a split: the mean over runs and their domains, never pooled."""
    rows = wide[wide.index.get_level_values("split") == split].reset_index()
    run = rows.held_out + " " + rows.domain + " " + rows.seed.astype(str)
    y = rows.y.astype(bool)
    return {method: stats.debiased_ece(y, rows[method], rows.patient, BINS, runs=run) for method in wide}


def by_domain(wide, split):
    """{method: "bach 0.12 [0.08, 0.17], ..."} the calibration errors in the domains of a split."""
    texts = {}
    for domain, rows in wide[wide.index.get_level_values("split") == split].groupby(level="domain"):
        for method, error in calibration_errors(rows, split).items():
            text = f"{domain} {error.value:.2f} [{error.low:.2f}, {error.high:.2f}]"
            texts.setdefault(method, []).append(text)
    return {method: ", ".join(parts) for method, parts in texts.items()}


def fig1_reliability(wide, measured, split):
    """Fig. 1 d-f: share of malignant images by predicted probability, the images of all runs put together.

    ece: the debiased gap to the diagonal (`miscalibration`), measured in every domain of every run and
    averaged; by_domain: averaged over the runs of each domain; plain_ece: with what chance adds. shift: ece
    less that of the training images, taken as of other patients. All with intervals.
    """
    counts = cohort_counts(wide, split)
    errors = calibration_errors(wide, split)
    in_training = calibration_errors(wide, "train")
    of_domains = by_domain(wide, split)
    in_split = list(folds(wide, split))
    y = np.concatenate([fold.y for fold in in_split])
    tables = []
    for method in wide:
        curve = stats.reliability(y, np.concatenate([fold.scores[method] for fold in in_split]), BINS)
        error = errors[method]
        moved = Shift(0.0, 0.0, 0.0) if split == "train" else shift(in_training[method], error)
        tables.append(pd.DataFrame({
            "method": method, "bin": range(BINS), "predicted": curve.predicted, "observed": curve.observed,
            "rows": curve.count, "ece": error.value, "low": error.low, "high": error.high,
            "plain_ece": error.plain, "by_domain": of_domains[method],
            "shift": moved.value, "shift_low": moved.low, "shift_high": moved.high, **counts}))
    return pd.concat(tables, ignore_index=True)


def fig1g(wide, measured, split="target"):
    """Fig. 1 g: accuracy, F1, sensitivity and specificity at the threshold that validation chose.

    `threshold` is its mean over runs.
    """
    chosen = pd.Series(thresholds(wide)).groupby(level=-1).mean()
    counts = cohort_counts(wide, split)
    rows = []
    for method in wide:
        for name in ("accuracy", "f1", "sensitivity", "specificity"):
            rows.append({"method": method, "measure": name, **with_interval(measured[split, method, name]),
                         "threshold": chosen.get(method, np.nan), **counts})
    return pd.DataFrame(rows)


def fig1h(wide, measured, split="target"):
    """Fig. 1 h: mean over runs of the precision-recall curves.

    ap (average precision, with its interval) and trapezoid are two estimates of the area below, the second
    too high between few scores; prevalence is what chance reaches.
    """
    counts = cohort_counts(wide, split)
    area = averaged(wide, split, stats.pr_trapezoid)
    prevalence = averaged(wide, split, lambda y, _: y.mean())
    tables = []
    for method, precision in averaged(wide, split, precision_recall).items():
        ap = with_interval(measured[split, method, "ap"], ("ap", "low", "high"))
        tables.append(pd.DataFrame({
            "method": method, "recall": GRID, "precision": precision,
            "trapezoid": area[method][0], "prevalence": prevalence[method][0], **ap, **counts}))
    return pd.concat(tables, ignore_index=True)


def fig1i(wide, measured, split="target"):
    """Fig. 1 i: mean over runs of the net benefit per case by threshold probability.

    inb is its mean from 0.1 to 0.3, with its interval, and relative that number against the best of the other
    methods (-0.1: a tenth less; NaN where that is not above zero).
    """
    counts = cohort_counts(wide, split)
    t = np.linspace(0, 0.6, 61)
    treat_all = averaged(wide, split, lambda y, p: stats.decision_curve(y, p, t).treat_all)
    net_benefit = averaged(wide, split, lambda y, p: stats.net_benefit(y, p, t))
    inb = {method: measured[split, method, "inb"][0] for method in wide}
    tables = []
    for method in wide:
        best_other = max((inb[other] for other in wide if other != method), default=np.nan)
        relative = inb[method] / best_other - 1 if best_other > 0 else np.nan
        mean_benefit = with_interval(measured[split, method, "inb"], ("inb", "low", "high"))
        tables.append(pd.DataFrame({
            "method": method, "threshold": t, "net_benefit": net_benefit[method],
            "treat_all": treat_all[method], **mean_benefit, "relative": relative, **counts}))
    return pd.concat(tables, ignore_index=True)


def fig1_tables(predictions, n=1000, seed=42):
    """{"fig1a": table, ...}: all panels of Fig. 1; n: bootstrap resamples.

    a-c, d-f: external test (the domain that the fold held out), internal validation (patients of the source
    domains who were neither trained on nor chose the epoch; the split "source test", not the split
    "validation"), training. g-i: external test. A cohort that no run has gives an empty table.
    """
    wide = scores(predictions)
    measured = fig1_measures(wide, n, seed) if len(wide) else {}
    splits_with_runs = {split for split, _, _ in measured}
    panels = [*zip("abc", [fig1_roc] * 3, COHORTS), *zip("def", [fig1_reliability] * 3, COHORTS),
              ("g", fig1g, "target"), ("h", fig1h, "target"), ("i", fig1i, "target")]
    tables = {}
    for letter, panel, split in panels:
        tables[f"fig1{letter}"] = pd.DataFrame({"method": []})
        if split in splits_with_runs:
            tables[f"fig1{letter}"] = panel(wide, measured, split)
    return tables
