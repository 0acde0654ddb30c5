"""The tables of Fig. 5 m-r: the class of patients who have both modalities. Predictions in, tidy tables out.

A *reading* is a patient of a run's source test (neither trained on nor asked for the epoch) with both modalities and a known class,
called by the largest of the four probabilities. A run has but some 25 of them, so the readings of all runs are counted together;
intervals (95 %) resample patients, all readings of a patient at once.
"""
import itertools
import json

import numpy as np
import pandas as pd

from .. import stats
from ..config import CLASSES, MAMMOGRAPHY
from ..explain import card_of, conclude, patch_picture
from ..methods import OURS
from ..metrics.weighted import (
    BINS,
    GRID,
    agreement,
    calibration_error,
    interval,
    resamples,
    share,
    with_interval,
)
from ..predict import strongest_box
from .cases import at_quantile, to_uri
from .fig1 import FOLD_AND_SEED

GRADERS = (OURS, "late_fusion", "early_fusion", "vit_pathology", "swin_mammography", "densenet_mammography")   # Fig. 5 q
P, KEY = [f"p{c}" for c in range(len(CLASSES))], [*FOLD_AND_SEED, "patient"]
READERS, NOISE, TRUST = 5, 0.46, 0.3                                        # the simulated readers, see `readers`


def readings(predictions, method=OURS, split="source test"):
    """The joint predictions of a method as trained, of patients whose class is known, a row a run and patient."""
    rows = predictions.query("method == @method and split == @split and condition == 'source' and modality == 'both' and truth >= 0")
    rows = rows.assign(**rows[P].clip(0, 1))                                 # sums to 1 but for rounding
    p = rows[P].to_numpy()
    rows = rows.assign(called=p.argmax(1), severity=p @ np.arange(len(CLASSES)), malignant=(rows.p2 + rows.p3).clip(0, 1))
    return rows.reset_index(drop=True)


def about(rows):
    """What every row of a table of Fig. 5 says of its readings."""
    return {"readings": len(rows), "patients": rows.patient.nunique(), "runs": len(rows[FOLD_AND_SEED].drop_duplicates()),
            "seeds": " ".join(map(str, sorted(rows.seed.unique())))}


def fig5m(rows, w):
    """Fig. 5 m: accuracy of ours by imaging finding (mammography; "none" where there is no lesion) and true class."""
    finding, truth = rows.lesion_type.replace("", "none").to_numpy(), rows.truth.to_numpy()
    cells = [(f, c, (finding == f) & (truth == c)) for f in sorted(set(finding)) for c in range(len(CLASSES))]
    return pd.DataFrame([{"finding": f, "truth": c, **with_interval(share((rows.called == c)[cell], w[:, cell])), **about(rows[cell])}
                         for f, c, cell in cells if cell.any()])


def fig5n(rows, w):
    """Fig. 5 n: four-class confusion of ours: readings, and their share of the true class."""
    truth, called, out = rows.truth.to_numpy(), rows.called.to_numpy(), []
    for t, c in itertools.product(range(len(CLASSES)), repeat=2):
        own = truth == t
        hit = (called == c)[own]
        out.append({"truth": t, "predicted": c, "count": int(hit.sum()), **with_interval(share(hit, w[:, own]))})
    return pd.DataFrame(out).assign(**about(rows))


def fig5o(rows, w):
    """Fig. 5 o: reliability of ours: each class against the others, and "confidence", the largest probability against being right,
    whose calibration error is the overall one (Guo et al. 2017). 10 bins of equal width."""
    pairs = {name: (rows.truth == c, rows[P[c]]) for c, name in enumerate(CLASSES)}
    pairs["confidence"] = (rows.truth == rows.called, rows[P].max(axis=1))
    tables = []
    for name, (y, p) in pairs.items():
        y, p = y.to_numpy(), p.to_numpy()
        curve = stats.reliability(y, p, BINS)
        tables.append(pd.DataFrame({"of": name, "bin": range(BINS), "predicted": curve.predicted, "observed": curve.observed,
                                    "rows": curve.count, **with_interval(calibration_error(y, p, w), ("ece", "low", "high"))}))
    return pd.concat(tables, ignore_index=True).assign(**about(rows))


def readers(truth, severity, patients, seed=42):
    """Simulated readers: {condition: (READERS, N) classes}. Nobody read anything; this only gives panel p something to draw.

    A reader sees the true class plus normal noise of sd NOISE = 0.46 classes, the same whenever she meets the patient, and says the
    nearest class. That noise gives the kappa of about 0.72 which the paper prints for readers without AI, and is the only number
    fitted. With AI she moves 30 % of the way to the AI's expected class (N,), the weight that people give to advice (Yaniv and
    Kleinberger 2000). Nothing is fitted to what AI adds, so it may as well harm.
    """
    names, which = np.unique(np.asarray(patients, str), return_inverse=True)
    own = np.asarray(truth) + NOISE * np.random.default_rng([seed, READERS]).normal(size=(READERS, len(names)))[:, which]
    call = lambda seen: np.clip(np.rint(seen), 0, len(CLASSES) - 1).astype(int)
    return {"readers without AI": call(own), "readers with AI": call(own + TRUST * (np.asarray(severity) - own))}


def fig5p(rows, w, seed=42):
    """Fig. 5 p: Cohen's kappa with the true class of simulated `readers` without and with AI, and of ours alone.

    A row a condition and reader; kappa is the reader's own, mean (low, high) that of the condition's readers. gain: mean less that of
    the condition before, with its interval and two-sided bootstrap p (no smaller than 2 / resamples); relative: gain / that mean.
    """
    called = {**readers(rows.truth, rows.severity, rows.patient, seed), "AI alone": rows.called.to_numpy()[None]}
    kappas = {k: np.stack([agreement(rows.truth, c, w) for c in reads]) for k, reads in called.items()}
    out, before = [], None
    for condition, each in kappas.items():
        mean = each.mean(0)
        gain = mean - before if before is not None else np.full(len(mean), np.nan)
        beyond = 2 * max(min((gain[1:] <= 0).mean(), (gain[1:] >= 0).mean()), 1 / max(len(gain) - 1, 1))
        out += [{"condition": condition, "reader": i + 1, "kappa": k[0], **with_interval(mean, ("mean", "low", "high")),
                 **with_interval(gain, ("gain", "gain_low", "gain_high")),
                 "relative": gain[0] / (mean - gain)[0], "p": min(beyond, 1) if before is not None else np.nan}
                for i, k in enumerate(each)]
        before = mean
    return pd.DataFrame(out).assign(**about(rows))


def compared(predictions, methods=GRADERS):
    """Readings of every method that has run: (N, M) called classes, a column a method; index held_out, seed, patient.

    The patients are those with a joint prediction in the run. A method of one modality calls the largest of its mean probabilities
    over the patient's images. Only readings that all have.
    """
    rows = predictions[(predictions.split == "source test") & (predictions.condition == "source") & predictions.method.isin(methods)]
    joint = rows[(rows.modality == "both") & (rows.truth >= 0)]
    alone = rows[(rows.modality != "both") & ~rows.method.isin(joint.method.unique())]
    p = pd.concat([joint, alone]).groupby([*KEY, "method"])[P].mean()
    called = pd.Series(p.to_numpy().argmax(1), p.index, dtype=int).unstack("method")
    truth = joint.groupby(KEY)["truth"].max().rename("true class")
    return called.join(truth, how="inner").dropna().astype(int)


def fig5q(predictions, n=1000, seed=42):
    """Fig. 5 q: quadratic weighted kappa with the true class of each method on the same readings, and of the ordinal head of ours
    (`ours_ordinal`). difference: less that of ours, with its interval."""
    table = compared(predictions)
    ordinal = readings(predictions).set_index(KEY)["grade_pred"].reindex(table.index)
    calls = {m: table[m] for m in GRADERS if m in table} | ({"ours_ordinal": ordinal} if OURS in table else {})
    if not len(table):
        return pd.DataFrame({"method": []})
    w = resamples(table.index.get_level_values("patient"), n, seed)
    kappas = {m: agreement(table["true class"], c, w, quadratic=True) for m, c in calls.items()}
    reference = kappas.get(OURS, np.full(n + 1, np.nan))
    return pd.DataFrame([{"method": m, **with_interval(k, ("qwk", "low", "high")),
                          **with_interval(k - reference, ("difference", "difference_low", "difference_high")), **about(table.reset_index())}
                         for m, k in kappas.items()])


def fig5r(rows, w, validation):
    """Fig. 5 r: sensitivity, specificity and Youden's index of ours for malignancy (p2 + p3 of the joint prediction) by threshold.

    chosen: the mean over runs of the thresholds that each run's own validation patients give (those of another run may be tested
    here); sensitivity_at, specificity_at, youden_at: what they achieve. Runs that give none do not count there.
    """
    y, p = (rows.truth >= 2).to_numpy(), rows.malignant.to_numpy()
    curve = pd.DataFrame({"threshold": GRID, "sensitivity": [stats.sensitivity(y, p, t) for t in GRID],
                          "specificity": [stats.specificity(y, p, t) for t in GRID]})
    found = {run: stats.youden(g.truth >= 2, g.malignant).threshold for run, g in validation.groupby(FOLD_AND_SEED)}
    own = np.array([found.get(run, np.nan) for run in zip(rows.held_out, rows.seed)])
    ill, well = y & np.isfinite(own), ~y & np.isfinite(own)
    hit, clear = share((p >= own)[ill], w[:, ill]), share((p < own)[well], w[:, well])
    at = {f"{name}_at{end}": v for name, values in (("sensitivity", hit), ("specificity", clear), ("youden", hit + clear - 1))
          for end, v in zip(("", "_low", "_high"), interval(values))}
    chosen = pd.Series(found, dtype=float)
    return curve.assign(youden=curve.sensitivity + curve.specificity - 1, chosen=chosen[np.isfinite(chosen)].mean(), **at, **about(rows))


def fig5(predictions, n=1000, seed=42):
    """{"fig5m": table, ...}: panels m to r of Fig. 5. What no run gives is an empty table."""
    rows, other = readings(predictions), {"fig5q": fig5q(predictions, n, seed)}
    if not len(rows):
        return {f"fig5{k}": pd.DataFrame({"method": []}) for k in "mnopr"} | other
    w = resamples(rows.patient, n, seed)
    return {"fig5m": fig5m(rows, w), "fig5n": fig5n(rows, w), "fig5o": fig5o(rows, w), "fig5p": fig5p(rows, w, seed), **other,
            "fig5r": fig5r(rows, w, readings(predictions, split="validation"))}


def fig5_case(case, truth, image, heat, tiles, weights, probabilities, conclusion, grade=-1, box=(), truth_boxes=()):
    """A row of fig5.csv. truth: class; tiles: up to five (S, S, 3) uint8 with their retrieval weights; probabilities (4,);
    grade: 0-3 as predicted, -1 unknown; box: the predicted [x0, y0, x1, y1] in pixels of `image`, or empty; truth_boxes: a list of such."""
    row = {"case": case, "truth": truth, "image": to_uri(image), "heat": to_uri(heat)}
    row |= {f"tile{i + 1}": to_uri(tiles[i]) if i < len(tiles) else "" for i in range(5)}
    row |= {f"w{i + 1}": float(weights[i]) if i < len(tiles) else np.nan for i in range(5)}
    row |= {f"p{c}": float(p) for c, p in enumerate(probabilities)}
    return row | {"predicted": int(np.argmax(probabilities)), "conclusion": conclusion, "grade": grade,
                  "box": json.dumps(np.asarray(box, float).tolist()), "truth_boxes": json.dumps(np.asarray(truth_boxes, float).tolist())}


def card_row(model, table, images, patient, truth=-1, said=None):
    """A row of fig5.csv: the whole reasoning card of a patient with both modalities, with the first mammogram. truth: class, -1 unknown;
    said: a joint prediction over all images of the patient (p0-p3, grade_pred), else that of the first mammogram with the tissue."""
    card, mammogram, tiles = card_of(model, table, images, patient)
    first = table[(table.patient == patient) & (table.modality == MAMMOGRAPHY)].sort_values("sample").iloc[0]
    box = np.array(strongest_box(card.mask)[0] or ()) * (len(mammogram) / len(card.mask))
    p, grade = (card.p, card.grade) if said is None else (said[["p0", "p1", "p2", "p3"]].to_numpy(float), int(said.grade_pred))
    return fig5_case(patient, truth, mammogram, card.heat, patch_picture(tiles, card.patches, len(card.heat)), card.weights, p,
                     conclude(p, grade, len(box) > 0), grade, box, json.loads(first.boxes))


def grading_cases(run, model, table, images, quantiles=(0.25, 0.5, 0.75)):
    """Rows of fig5.csv, ordered by class: for each true class the patients of the source test at the lower quartile, the median and the
    upper quartile of the joint probability of that class; fewer where there are fewer patients."""
    found, rows = run.predictions.query("split == 'source test' and condition == 'source' and modality == 'both' and truth >= 0"), []
    for truth, group in found.groupby("truth"):
        chosen = [at_quantile(group, f"p{truth}", q) for q in quantiles]
        chosen = {row.patient: row for row in chosen}                       # of few patients some are chosen twice
        rows += [card_row(model, table, images, patient, truth, row) for patient, row in chosen.items()]
    return pd.DataFrame(rows)
