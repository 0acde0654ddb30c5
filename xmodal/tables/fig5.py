"""The tables of Fig. 5 m-r: the class of a patient in numbers. The cards a-l are in `cards`.

A *reading* is a patient of a run's source test (neither trained on nor asked for the epoch) with both
modalities and a known class, called by the largest of the four probabilities. A run has but some 25 of them,
so the readings of all runs are counted together; intervals (95 %) resample patients, all readings of a
patient at once. In the panels `rows` are what `readings` returns, and `w` the weights of `resamples` for
them.
"""
import itertools

import numpy as np
import pandas as pd

from .. import stats
from ..config import CLASSES
from ..methods import OURS, UNTOUCHED
from ..metrics.weighted import BINS, GRID, agreement, resamples, share, with_interval
from .cases import PROBABILITIES
from .common import FOLD_AND_SEED, adjusted
from .verdicts import normal_p, word

# the methods of panel q
GRADERS = (OURS, UNTOUCHED, "late_fusion", "early_fusion", "vit_pathology", "swin_mammography",
           "densenet_mammography")
READING = [*FOLD_AND_SEED, "patient"]
READERS = 5             # simulated, see `simulated_readers`
NOISE = 0.46            # sd of what a reader sees, in classes
TRUST = 0.3             # how far a reader with AI moves to the AI's class


def readings(predictions, method=OURS, split="source test"):
    """The joint predictions of a method as trained, of patients of known class: one row per run and patient.

    With columns called (class), severity (expected class) and malignant (p2 + p3).
    """
    rows = predictions[(predictions.method == method) & (predictions.split == split)]
    rows = rows[(rows.condition == "source") & (rows.modality == "both") & (rows.truth >= 0)]
    rows = rows.assign(**rows[PROBABILITIES].clip(0, 1))                    # they sum to 1 but for rounding
    p = rows[PROBABILITIES].to_numpy()
    malignant = (rows.p2 + rows.p3).clip(0, 1)
    rows = rows.assign(called=p.argmax(1), severity=p @ np.arange(len(CLASSES)), malignant=malignant)
    return rows.reset_index(drop=True)


def reading_counts(rows):
    """What every row of a table says of the readings behind it."""
    return {
        "readings": len(rows),
        "patients": rows.patient.nunique(),
        "runs": len(rows[FOLD_AND_SEED].drop_duplicates()),
        "seeds": " ".join(map(str, sorted(rows.seed.unique()))),
    }


# ---- m-o: accuracy, confusion, reliability of ours -------------------------------------------------------

def fig5m(rows, w):
    """Fig. 5 m: accuracy of ours by mammographic finding ("none" where there is no lesion) and true class."""
    finding = rows.lesion_type.replace("", "none").to_numpy()
    truth = rows.truth.to_numpy()
    cells = []
    for name, label in itertools.product(sorted(set(finding)), range(len(CLASSES))):
        cell = (finding == name) & (truth == label)
        if cell.any():
            accuracy = with_interval(share((rows.called == label)[cell], w[:, cell]))
            cells.append({"finding": name, "truth": label, **accuracy, **reading_counts(rows[cell])})
    return pd.DataFrame(cells)


def fig5n(rows, w):
    """Fig. 5 n: four-class confusion of ours: readings, and their share of the true class."""
    truth, called = rows.truth.to_numpy(), rows.called.to_numpy()
    cells = []
    for true_class, predicted in itertools.product(range(len(CLASSES)), repeat=2):
        of_class = truth == true_class
        hit = (called == predicted)[of_class]
        cells.append({"truth": true_class, "predicted": predicted, "count": int(hit.sum()),
                      **with_interval(share(hit, w[:, of_class]))})
    return pd.DataFrame(cells).assign(**reading_counts(rows))


def fig5o(rows):
    """Fig. 5 o: reliability of ours in 10 bins of equal width.

    Each class against the others, and "confidence", the largest probability against being right, whose
    calibration error is the overall one (Guo et al. 2017). ece is debiased (`miscalibration`), measured in
    each domain of the readings and averaged; plain_ece: with what chance adds.
    """
    curves = {}                                     # name: what was true, with which probability
    for label, name in enumerate(CLASSES):
        curves[name] = (rows.truth == label, rows[f"p{label}"])
    curves["confidence"] = (rows.truth == rows.called, rows[PROBABILITIES].max(axis=1))
    tables = []
    for name, (y, p) in curves.items():
        y, p = y.to_numpy(), p.to_numpy()
        curve = stats.reliability(y, p, BINS)
        error = stats.debiased_ece(y, p, rows.patient, BINS, runs=rows.domain)
        tables.append(pd.DataFrame({
            "of": name, "bin": range(BINS), "predicted": curve.predicted, "observed": curve.observed,
            "rows": curve.count, "ece": error.value, "low": error.low, "high": error.high,
            "plain_ece": error.plain}))
    return pd.concat(tables, ignore_index=True).assign(**reading_counts(rows))


# ---- p, q: agreement with the true class -----------------------------------------------------------------

def _nearest_class(severity):
    return np.clip(np.rint(severity), 0, len(CLASSES) - 1).astype(int)


def simulated_readers(truth, severity, patients, seed=42):
    """Simulated readers: {condition: (READERS, N) classes}.

    Nobody read anything; this only gives panel p something to draw.

    A reader sees the true class plus normal noise of sd NOISE = 0.46 classes, the same whenever she meets the
    patient, and says the nearest class. That noise gives the kappa of about 0.72 which the paper prints for
    readers without AI, and is the only number fitted. With AI she moves 30 % of the way to the AI's expected
    class (N,), the weight that people give to advice (Yaniv and Kleinberger 2000). Nothing is fitted to what
    AI adds, so it may as well harm.
    """
    names, patient = np.unique(np.asarray(patients, str), return_inverse=True)
    noise = np.random.default_rng([seed, READERS]).normal(size=(READERS, len(names)))[:, patient]
    seen = np.asarray(truth) + NOISE * noise
    advised = seen + TRUST * (np.asarray(severity) - seen)
    return {"readers without AI": _nearest_class(seen), "readers with AI": _nearest_class(advised)}


def fig5p(rows, w, seed=42):
    """Fig. 5 p: Cohen's kappa with the true class of `simulated_readers` without and with AI, and of ours.

    One row per condition and reader; kappa is the reader's own, mean (low, high) that of the condition's
    readers. gain: mean less that of the condition before, with its interval and two-sided bootstrap p (no
    smaller than 2 / resamples); relative: gain / that mean.
    """
    called = simulated_readers(rows.truth, rows.severity, rows.patient, seed)
    called["AI alone"] = rows.called.to_numpy()[None]
    table = []
    mean_before = None
    for condition, of_readers in called.items():
        kappas = np.stack([agreement(rows.truth, of_reader, w) for of_reader in of_readers])
        mean = kappas.mean(0)
        gain = np.full(len(mean), np.nan)
        p = np.nan
        if mean_before is not None:
            gain = mean - mean_before
            one_sided = min((gain[1:] <= 0).mean(), (gain[1:] >= 0).mean())
            p = min(2 * max(one_sided, 1 / max(len(gain) - 1, 1)), 1)
        summary = {**with_interval(mean, ("mean", "low", "high")),
                   **with_interval(gain, ("gain", "gain_low", "gain_high")),
                   "relative": gain[0] / (mean - gain)[0], "p": p}
        for i, kappa in enumerate(kappas):
            table.append({"condition": condition, "reader": i + 1, "kappa": kappa[0], **summary})
        mean_before = mean
    return pd.DataFrame(table).assign(**reading_counts(rows))


def shared_readings(predictions, methods=GRADERS):
    """Readings that every method with any run has: the called classes, and "true class".

    One row per reading, one column per method. Index held_out, seed, patient. The patients are those with a
    joint prediction in the run. A method of one modality calls the largest of its mean probabilities over the
    patient's images.
    """
    rows = predictions[(predictions.split == "source test") & (predictions.condition == "source")]
    rows = rows[rows.method.isin(methods)]
    joint = rows[(rows.modality == "both") & (rows.truth >= 0)]
    of_one_modality = rows[(rows.modality != "both") & ~rows.method.isin(joint.method.unique())]
    p = pd.concat([joint, of_one_modality]).groupby([*READING, "method"])[PROBABILITIES].mean()
    called = pd.Series(p.to_numpy().argmax(1), p.index, dtype=int).unstack("method")
    truth = joint.groupby(READING)["truth"].max().rename("true class")
    return called.join(truth, how="inner").dropna().astype(int)


def fig5q(predictions, n=1000, seed=42):
    """Fig. 5 q: quadratic weighted kappa with the true class of each method on the same readings.

    `ours_ordinal` is the ordinal head of ours. difference: less that of ours, with interval, p and word.
    """
    table = shared_readings(predictions)
    if not len(table):
        return pd.DataFrame({"method": []})
    called = {method: table[method] for method in GRADERS if method in table}
    if OURS in table:
        called["ours_ordinal"] = readings(predictions).set_index(READING)["grade_pred"].reindex(table.index)
    w = resamples(table.index.get_level_values("patient"), n, seed)
    truth = table["true class"]
    kappas = {method: agreement(truth, classes, w, quadratic=True) for method, classes in called.items()}
    kappa_of_ours = kappas.get(OURS, np.full(n + 1, np.nan))
    counts = reading_counts(table.reset_index())
    rows = []
    for method, kappa in kappas.items():
        qwk = with_interval(kappa, ("qwk", "low", "high"))
        gap = with_interval(kappa - kappa_of_ours, ("difference", "difference_low", "difference_high"))
        rows.append({"method": method, **qwk, **gap, "p": normal_p(kappa - kappa_of_ours), **counts})
    rows = adjusted(pd.DataFrame(rows), ["p"], "Holm over the methods against ours")
    tests = rows[["difference", "difference_low", "difference_high", "p_holm"]]
    return rows.assign(word=[word(*test, margin=0) for test in tests.to_numpy(float)])


# ---- r: the threshold for malignancy ---------------------------------------------------------------------

def fig5r(rows, w, validation):
    """Fig. 5 r: sensitivity, specificity and Youden's index of ours for malignancy by threshold.

    On p2 + p3 of the joint prediction. chosen: the mean over runs of the thresholds that each run's own
    validation patients give (those of another run may be tested here); sensitivity_at, specificity_at,
    youden_at: what they achieve. Runs that give none do not count there. validation: `readings` of those
    patients.
    """
    y = (rows.truth >= 2).to_numpy()
    p = rows.malignant.to_numpy()
    sensitivity = np.array([stats.sensitivity(y, p, t) for t in GRID])
    specificity = np.array([stats.specificity(y, p, t) for t in GRID])
    chosen = {}
    for fold_and_seed, group in validation.groupby(FOLD_AND_SEED):
        chosen[fold_and_seed] = stats.youden(group.truth >= 2, group.malignant).threshold
    threshold = np.array([chosen.get(key, np.nan) for key in zip(rows.held_out, rows.seed)])
    positive, negative = y & np.isfinite(threshold), ~y & np.isfinite(threshold)
    hit = share((p >= threshold)[positive], w[:, positive])
    clear = share((p < threshold)[negative], w[:, negative])
    achieved = {}
    for name, values in (("sensitivity", hit), ("specificity", clear), ("youden", hit + clear - 1)):
        achieved |= with_interval(values, (f"{name}_at", f"{name}_at_low", f"{name}_at_high"))
    chosen = pd.Series(chosen, dtype=float)
    curve = pd.DataFrame({"threshold": GRID, "sensitivity": sensitivity, "specificity": specificity,
                          "youden": sensitivity + specificity - 1})
    return curve.assign(chosen=chosen[np.isfinite(chosen)].mean(), **achieved, **reading_counts(rows))


def fig5_tables(predictions, n=1000, seed=42):
    """{"fig5m": table, ...}: panels m to r of Fig. 5. What no run gives is an empty table."""
    tables = {f"fig5{letter}": pd.DataFrame({"method": []}) for letter in "mnopqr"}
    tables["fig5q"] = fig5q(predictions, n, seed)
    rows = readings(predictions)
    if len(rows):
        w = resamples(rows.patient, n, seed)
        tables |= {"fig5m": fig5m(rows, w), "fig5n": fig5n(rows, w), "fig5o": fig5o(rows)}
        tables["fig5p"] = fig5p(rows, w, seed)
        tables["fig5r"] = fig5r(rows, w, readings(predictions, split="validation"))
    return tables
