"""The tables of Fig. 1, whether an image is malignant, and the resampling behind them: predictions in, tidy tables out.

Only what all methods have in common is compared: a run or an image that one of them lacks is left out for all. Intervals
(95 %, percentiles) resample patients: all rows of a patient, in all runs, come and go together. So a measure is computed from rows
with weights, (B, N) for B resamples at once, of which the first is the data as they are.
"""
import numpy as np
import pandas as pd

from .. import stats
from ..methods import CLASSIC, OURS
from ..metrics.weighted import BINS, GRID, calibration_error, interval, ranking, resamples, share, steps
from .common import decided

COHORTS = {"target": "external test", "source test": "internal validation", "train": "training"}
LEARNERS = (*CLASSIC, OURS)                                                 # Fig. 1
FOLD_AND_SEED = ["held_out", "seed"]
AT_ONCE = 50_000_000                                                         # weights of rows in memory, 0.4 GB


# ---- Fig. 1: is the image malignant? -----------------------------------------------------------------------------

def scores(predictions, methods=LEARNERS):
    """p2 + p3 of every image whose label says malignant or not, as trained: a row an image and run, a column a method.

    Index held_out, seed, split, patient, sample, modality, y. Only rows that every method with any run has.
    """
    rows = decided(predictions[(predictions.condition == "source") & predictions.method.isin(methods)])
    wide = rows.pivot(index=[*FOLD_AND_SEED, "split", "patient", "sample", "modality", "y"], columns="method", values="p").dropna().clip(0, 1)
    return wide.reindex(columns=[m for m in methods if m in wide])


def runs_of(wide, split):
    """(run, y, patients, rows) of one split of every run in `scores`."""
    part = wide[wide.index.get_level_values("split") == split]
    for run, g in part.groupby(level=FOLD_AND_SEED):
        yield run, g.index.get_level_values("y").to_numpy().astype(bool), g.index.get_level_values("patient"), g


def thresholds(wide):
    """{(run, method): threshold} by Youden's index on the run's validation patients, who chose its epoch too; never the target."""
    return {(run, m): stats.youden(y, g[m]).threshold for run, y, _, g in runs_of(wide, "validation") for m in wide}


def measures(y, p, w, threshold):
    """{measure: (B,)} of one run: y (N,) booleans, p (N,) probabilities, w (B, N) weights."""
    auc, precision = ranking(y, p, w)
    called = p >= threshold
    found = {"auc": auc, "ap": precision, "inb": share(stats.case_benefit(y, p), w)}
    hit, called_share, ill = share(y & called, w), share(called, w), share(y, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        calls = {"accuracy": share(y == called, w), "f1": 2 * hit / (ill + called_share), "sensitivity": hit / ill,
                 "specificity": share(~y & ~called, w) / (1 - ill)}
    return found | {k: v if np.isfinite(threshold) else v * np.nan for k, v in calls.items()}


def fig1_measures(wide, n=1000, seed=42):
    """{(split, method, measure): (1 + n,)}. Rankings and calls are measured in each run and averaged over runs (folds and seeds
    weigh the same), since scores of two runs need not share a scale. Probabilities do, if they mean anything: the calibration error
    is that of the images of all runs put together, as it is too high where bins hold few.
    """
    people = np.unique(wide.index.get_level_values("patient").astype(str))
    weights, chosen = resamples(people, n, seed), thresholds(wide)
    parts = np.array_split(weights, 1 + len(weights) * len(wide) // AT_ONCE)
    found = [fig1_part(wide, people, part, chosen) for part in parts]
    return {key: np.concatenate([f[key] for f in found]) for key in found[0]}


def fig1_part(wide, people, weights, chosen):
    """As `fig1_measures` for (B, people) `weights` of the patients `people`, at the thresholds `chosen`."""
    found = {}
    for split in COHORTS:
        together = [(run, y, g, weights[:, np.searchsorted(people, np.asarray(who, str))]) for run, y, who, g in runs_of(wide, split)]
        for method in wide if together else ():
            for run, y, g, w in together:
                p = g[method].to_numpy()
                some = measures(y, p, w, chosen.get((run, method), np.nan)) if split == "target" else {"auc": ranking(y, p, w)[0]}
                for name, values in some.items():
                    found.setdefault((split, method, name), []).append(values)
            y, p, w = (np.concatenate(parts, axis=-1) for parts in zip(*((y, g[method], w) for _, y, g, w in together)))
            found[split, method, "ece"] = [calibration_error(y, p, w)]
    return {key: pd.DataFrame(values).mean().to_numpy() for key, values in found.items()}     # undefined in a run: not counted


def about(wide, split):
    """What every row of a table of Fig. 1 says of its cohort."""
    index = wide.index[wide.index.get_level_values("split") == split]
    level = lambda name: index.get_level_values(name)
    return {"cohort": COHORTS[split], "runs": len(set(zip(level("held_out"), level("seed")))), "images": level("sample").nunique(),
            "patients": level("patient").nunique(), "seeds": " ".join(map(str, sorted(set(level("seed")))))}


def roc(y, p):
    """Sensitivity at the false positive rates of GRID; nan where a class is missing."""
    tp, fp = (a[0] for a in steps(y, p, np.ones((1, len(y)))))
    return np.interp(GRID, np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])) if tp[-1] and fp[-1] else GRID * np.nan


def precision_recall(y, p):
    """Precision of the smallest set of highest scores that reaches each recall of GRID; nan without positives."""
    tp, fp = (a[0] for a in steps(y, p, np.ones((1, len(y)))))
    return (tp / (tp + fp))[np.searchsorted(tp, GRID * tp[-1] - 1e-9)] if tp[-1] else GRID * np.nan


def averaged(wide, split, curve):
    """{method: mean over runs of curve(y, p)}, runs where it is undefined left out."""
    found = list(runs_of(wide, split))
    return {m: pd.DataFrame([np.atleast_1d(curve(y, g[m].to_numpy())) for _, y, _, g in found]).mean().to_numpy() for m in wide}


def fig1_roc(wide, found, split):
    """Fig. 1 a-c: mean over runs of the ROC curves; auc, low, high: mean over runs and its interval."""
    tables = [pd.DataFrame({"method": m, "fpr": GRID, "tpr": tpr, **dict(zip(("auc", "low", "high"), interval(found[split, m, "auc"]))),
                            **about(wide, split)}) for m, tpr in averaged(wide, split, roc).items()]
    return pd.concat(tables, ignore_index=True)


def fig1_reliability(wide, found, split):
    """Fig. 1 d-f: share of malignant images by predicted probability, the images of all runs put together; ece: its mean gap
    to the diagonal; shift: ece less that of the training images. Both with intervals."""
    tables = []
    y = np.concatenate([y for _, y, _, _ in runs_of(wide, split)])
    for m in wide:
        curve = stats.reliability(y, np.concatenate([g[m] for _, _, _, g in runs_of(wide, split)]), BINS)
        shift = found[split, m, "ece"] - found.get(("train", m, "ece"), np.nan)
        tables.append(pd.DataFrame({"method": m, "bin": range(BINS), "predicted": curve.predicted, "observed": curve.observed,
                                    "rows": curve.count, **dict(zip(("ece", "low", "high"), interval(found[split, m, "ece"]))),
                                    **dict(zip(("shift", "shift_low", "shift_high"), interval(shift))), **about(wide, split)}))
    return pd.concat(tables, ignore_index=True)


def fig1g(wide, found, split="target"):
    """Fig. 1 g: accuracy, F1, sensitivity and specificity at the threshold that validation chose (`threshold`: its mean over runs)."""
    chosen = pd.Series(thresholds(wide)).groupby(level=-1).mean()
    return pd.DataFrame([{"method": m, "measure": name, **dict(zip(("value", "low", "high"), interval(found[split, m, name]))),
                          "threshold": chosen.get(m, np.nan), **about(wide, split)}
                         for m in wide for name in ("accuracy", "f1", "sensitivity", "specificity")])


def fig1h(wide, found, split="target"):
    """Fig. 1 h: mean over runs of the precision-recall curves. ap (average precision, with its interval) and trapezoid are two
    estimates of the area below, the second too high between few scores; prevalence is what chance reaches."""
    area = averaged(wide, split, stats.pr_trapezoid)
    prevalence = averaged(wide, split, lambda y, p: y.mean())
    tables = [pd.DataFrame({"method": m, "recall": GRID, "precision": curve, "trapezoid": area[m][0], "prevalence": prevalence[m][0],
                            **dict(zip(("ap", "low", "high"), interval(found[split, m, "ap"]))), **about(wide, split)})
              for m, curve in averaged(wide, split, precision_recall).items()]
    return pd.concat(tables, ignore_index=True)


def fig1i(wide, found, split="target"):
    """Fig. 1 i: mean over runs of the net benefit a case by threshold probability; inb is its mean from 0.1 to 0.3, with its interval,
    and relative that number against the best of the other methods (-0.1: a tenth less; NaN where that is not above zero)."""
    inb = {m: found[split, m, "inb"][0] for m in wide}
    best = {m: max((inb[o] for o in wide if o != m), default=np.nan) for m in wide}
    relative = {m: inb[m] / best[m] - 1 if best[m] > 0 else np.nan for m in wide}
    t = np.linspace(0, 0.6, 61)
    treat_all = averaged(wide, split, lambda y, p: stats.decision_curve(y, p, t).treat_all)
    tables = [pd.DataFrame({"method": m, "threshold": t, "net_benefit": curve, "treat_all": treat_all[m],
                            **dict(zip(("inb", "low", "high"), interval(found[split, m, "inb"]))), "relative": relative[m],
                            **about(wide, split)}) for m, curve in averaged(wide, split, lambda y, p: stats.net_benefit(y, p, t)).items()]
    return pd.concat(tables, ignore_index=True)


def fig1(predictions, n=1000, seed=42):
    """{"fig1a": table, ...}: all panels of Fig. 1, ours and the radiomics learners; n: bootstrap resamples.

    a-c, d-f: external test (the domain that the fold held out), internal validation (patients of the source domains who were neither
    trained on nor chose the epoch; the split "source test", not the split "validation"), training. g-i: external test. A cohort
    that no run has gives an empty table.
    """
    wide = scores(predictions)
    found = fig1_measures(wide, n, seed) if len(wide) else {}
    there = lambda split: any(key[0] == split for key in found)
    make = lambda panel, split: panel(wide, found, split) if there(split) else pd.DataFrame({"method": []})
    return {**{f"fig1{k}": make(fig1_roc, split) for k, split in zip("abc", COHORTS)},
            **{f"fig1{k}": make(fig1_reliability, split) for k, split in zip("def", COHORTS)},
            **{f"fig1{k}": make(panel, "target") for k, panel in zip("ghi", (fig1g, fig1h, fig1i))}}
