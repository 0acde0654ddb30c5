"""What is done and asked after training: temperature, sets of stated coverage, free response, readers.

What is fitted here is fitted to the validation patients of a run's source domains, never to its target.
"""
import numpy as np
import pandas as pd
from scipy.special import expit, logit

from .. import stats
from ..cohort import label_set
from ..methods import LOCALISERS, OURS, UNTOUCHED
from ..metrics.weighted import BINS
from .common import FOLD_AND_SEED, RUN, decided, tidy
from .fig4 import unseen_mammograms
from .fig5 import READERS, simulated_readers

METHODS = (UNTOUCHED, "erm", OURS)
ALPHA = 0.1                             # of the sets: the truth is to be missing from so many
RATES = (0.125, 0.25, 0.5)              # false boxes an image
SAFE = 1e-6                             # a probability lies between this and 1 less this


def _mean(_, values):
    return values.mean()


def _by_patient(values, patient, n, seed):
    """The mean of (N,) values with its 95 % interval, patients resampled."""
    return stats.bootstrap(_mean, np.zeros(len(values)), np.asarray(values, float), patient, n, seed)


def beside(interval, low, high, names):
    """Which of three names says where an interval lies: below `low`, above `high`, or neither."""
    if interval.high < low:
        return names[0]
    return names[1] if interval.low > high else names[2]


def _as_trained(predictions, methods):
    """The decided rows of the methods as trained, with probabilities that have a logit."""
    rows = predictions[(predictions.condition == "source") & predictions.method.isin(methods)]
    rows = decided(rows)
    return rows.assign(p=rows.p.clip(SAFE, 1 - SAFE))


# ---- calibration before and after ------------------------------------------------------------------------

def _tempered(rows):
    """Target rows with `t`, the temperature of their run, and `after`, the probability with it."""
    tables = []
    for _, run in rows.groupby(RUN):
        validation, target = run[run.split == "validation"], run[run.split == "target"]
        if len(target) and validation.y.nunique() == 2:
            t = stats.temperature(logit(validation.p), validation.y.astype(int))
            tables.append(target.assign(t=t, after=expit(logit(target.p) / t)))
    return pd.concat(tables, ignore_index=True) if tables else rows.iloc[:0].assign(t=[], after=[])


def _brier_parts(rows, column):
    """Murphy's parts of the Brier score, in each seed and averaged."""
    return np.mean([stats.brier_parts(run.y, run[column], BINS) for _, run in rows.groupby("seed")], axis=0)


def fig1_temperature(predictions, n=1000, seed=42, methods=METHODS):
    """Calibration on each unseen domain before and after one temperature, fitted to source validation.

    The binary score p2 + p3, on its logit. Columns method, held_out, temperature (mean over seeds), and for
    before and after: ece with its interval (debiased), brier and its reliability, resolution; uncertainty;
    change (of the Brier score, after less before) with low and high, patients resampled, and in a word what
    that interval says of it; images, patients.
    """
    table = []
    rows = _tempered(_as_trained(predictions, methods))
    for (method, held_out), group in rows.groupby(["method", "held_out"]):
        row = {"method": method, "held_out": held_out, "temperature": group.t.mean()}
        for column, name in (("p", "before"), ("after", "after")):
            error = stats.debiased_ece(group.y, group[column], group.patient, BINS, runs=group.seed)
            row |= {f"ece_{name}": error.value, f"ece_{name}_low": error.low, f"ece_{name}_high": error.high}
            parts = _brier_parts(group, column)
            row |= {f"brier_{name}": ((group[column] - group.y) ** 2).mean(), f"reliability_{name}": parts[0],
                    f"resolution_{name}": parts[1], "uncertainty": parts[2]}
        change = (group.after - group.y) ** 2 - (group.p - group.y) ** 2
        interval = _by_patient(change, group.patient, n, seed)
        row |= {"change": interval.value, "low": interval.low, "high": interval.high,
                "word": beside(interval, 0, 0, ("helps", "harms", "not distinguished")),
                "images": group["sample"].nunique(), "patients": group.patient.nunique()}
        table.append(row)
    return pd.DataFrame(table) if table else tidy([], ["method", "held_out"])


# ---- sets ------------------------------------------------------------------------------------------------

def _sets(run, split):
    """Rows of one split of a run, with `covered`, whether the set holds the truth, and its `classes`."""
    validation, rows = run[run.split == "validation"], run[run.split == split]
    if validation.empty or rows.empty:
        return rows.assign(covered=np.nan, classes=np.nan).iloc[:0]
    both = [np.column_stack([1 - part.p, part.p]) for part in (validation, rows)]
    sets = stats.conformal_sets(both[0], validation.y.astype(int).to_numpy(), both[1], ALPHA)
    covered = sets[np.arange(len(rows)), rows.y.astype(int)]
    return rows.assign(covered=covered.astype(float), classes=sets.sum(1))


def _fall(is_target, covered):
    """Coverage of the target less that of the source test."""
    return covered[is_target == 1].mean() - covered[is_target == 0].mean()


def fig1_sets(predictions, n=1000, seed=42, methods=METHODS):
    """Conformal sets of {malignant, not malignant} that are to hold the truth in 1 - ALPHA of the cases.

    Calibrated on source validation. That promise holds for patients like those, as the source test shows, and
    says nothing of an unseen domain. Columns method, held_out, coverage (there) with low and high,
    source_coverage (of the source test, by the same thresholds), difference with its interval and word, size
    (mean number of classes), decided (share of sets of one class), images, patients. Intervals resample
    patients.
    """
    rows = _as_trained(predictions, methods)
    table = []
    for (method, held_out), group in rows.groupby(["method", "held_out"]):
        of_splits = []
        for split in ("source test", "target"):
            of_splits.append(pd.concat([_sets(run, split) for _, run in group.groupby("seed")]))
        source, target = of_splits
        if source.empty or target.empty:
            continue
        both = pd.concat(of_splits)
        is_target = (both.split == "target").to_numpy(int)
        interval = _by_patient(target.covered, target.patient, n, seed)
        fall = stats.bootstrap(_fall, is_target, both.covered.to_numpy(), both.patient, n, seed)
        table.append((method, held_out, *interval[:3], source.covered.mean(), *fall[:3],
                      beside(fall, 0, 0, ("falls", "rises", "not distinguished")),
                      target.classes.mean(), (target.classes == 1).mean(), target["sample"].nunique(),
                      target.patient.nunique()))
    return tidy(table, ["method", "held_out", "coverage", "low", "high", "source_coverage", "difference",
                        "difference_low", "difference_high", "word", "size", "decided", "images", "patients"])


# ---- free response ---------------------------------------------------------------------------------------

def fig4_froc(predictions, methods=LOCALISERS):
    """Sensitivity of the boxes at RATES false boxes an image, on unseen mammograms.

    Predictions hold the strongest box of a mammogram and no other. Counted are mammograms with an outlined
    lesion, and those that are normal. Columns method, false_per_image, sensitivity (mean over runs), sd,
    runs, images.
    """
    rows = unseen_mammograms(predictions, methods)
    rows = rows[rows.has_mask | (rows.allowed == label_set("normal"))]
    table = []
    for method, group in rows.groupby("method"):
        at_rate = {rate: [] for rate in RATES}
        for _, run in group.groupby(FOLD_AND_SEED):
            false = run.box_score[run.box_score.notna() & ~run.hit]
            on_lesion = run.box_score.where(run.hit, 0)[run.has_mask]
            for rate in RATES:
                curve = (false, on_lesion, len(on_lesion), len(run))
                at_rate[rate].append(stats.froc_score(*curve, at=rate))
        for rate, values in at_rate.items():
            mean = stats.mean_sd(values)
            table.append((method, rate, mean.mean, mean.sd, mean.n, group["sample"].nunique()))
    return tidy(table, ["method", "false_per_image", "sensitivity", "sd", "runs", "images"])


# ---- simulated readers -----------------------------------------------------------------------------------

def reader_table(rows, seed=42):
    """What the readers of `simulated_readers` say, as `stats.obuchowski_rockette` takes it.

    rows: `fig5.readings`. A patient is one case; what the AI says of her is averaged over the runs.
    """
    people = rows.groupby("patient").agg(truth=("truth", "max"), severity=("severity", "mean"))
    classes_of = simulated_readers(people.truth, people.severity, people.index, seed)
    tables = []
    for modality, classes in classes_of.items():
        for reader, rating in enumerate(classes):
            tables.append(pd.DataFrame({
                "reader": reader, "modality": modality, "case": people.index,
                "truth": (people.truth >= 2).astype(int), "rating": rating}))
    return pd.concat(tables, ignore_index=True)


def fig5_readers(rows, seed=42):
    """Do simulated readers tell malignant patients apart better with AI? By Obuchowski and Rockette.

    One row per answer to what is random: readers and cases, cases only, or readers only. Columns random,
    readers, patients, auc_with, auc_without, difference, low, high, f, df, p. Empty with fewer than two
    patients of a kind.
    """
    columns = ["random", "readers", "patients", "auc_with", "auc_without", "difference", "low", "high", "f",
               "df", "p"]
    malignant = rows[rows.truth >= 2].patient.nunique()
    if min(malignant, rows[rows.truth < 2].patient.nunique()) < 2:
        return tidy([], columns)
    frame = reader_table(rows, seed)
    aucs = {}
    for modality, ratings in frame.groupby("modality"):
        of_readers = [stats.auc(reader.truth, reader.rating) for _, reader in ratings.groupby("reader")]
        aucs[modality] = np.mean(of_readers)
    table = []
    for random in ("readers and cases", "cases", "readers"):
        test = stats.obuchowski_rockette(frame, random)
        row = (random, READERS, frame["case"].nunique(), aucs["readers with AI"], aucs["readers without AI"])
        table.append((*row, test.difference, test.low, test.high, test.f, test.df, test.p))
    return tidy(table, columns)
