"""Whom the model fails, and where it sees the lesion: the tables of Fig. 3 j-l and of Fig. 4 a-d and i-l.

Predictions hold the strongest box of a mammogram and no other, so a mammogram with two lesions can have at most one found:
here an image counts, not a lesion. Every image is read by models that never saw its domain.
"""
import itertools
import json

import numpy as np
import pandas as pd

from . import stats
from .cases import at_quantile, box_case
from .cohort import LESION_TYPES, label_set
from .config import MAMMOGRAPHY
from .detection import precision_recall

LOCALISERS = ("densenet_mammography", "fusion_localiser", "ours")      # the CNN is the DenseNet with a feature pyramid
SHARES = {"ours_25": 25, "ours_50": 50, "ours_75": 75, "ours": 100}    # method -> per cent of the training patients
GROUPS = ("distortion", "mass", "asymmetry", "calcification")          # of Fig. 4 a-d
AT = 0.5                                                               # an IoU that the paper calls a success
EDGES = (0, 5, 10, 15, 20, np.inf)                                     # mm, the lower edge is in
DIAMETERS = ("<5", "5-10", "10-15", "15-20", ">20", "unknown")
FOUND = ["value", "low", "high", "images", "patients"]


# ---- Fig. 3 j-l: who is read well. rows: `panels.contenders` --------------------------------------------------------

def _right(y, p):
    """Share of right calls at 0.5, averaged over runs. y (N,), p (N, S)."""
    return float(((p >= 0.5) == (y[:, None] == 1)).mean())


def _read_well(rows, n, seed):
    """Measure, value averaged over seeds, 95 % bootstrap interval by patient, images and patients of decided rows of several seeds.

    The measure is the AUC; where all images are malignant the sensitivity, where none is the specificity, both at 0.5.
    """
    wide = rows.pivot(index=["sample", "patient", "y"], columns="seed", values="p").dropna()
    y, patient = wide.index.get_level_values("y").to_numpy(), wide.index.get_level_values("patient").to_numpy()
    measure = "AUC" if len(set(y)) == 2 else "sensitivity" if y[0] == 1 else "specificity"
    found = stats.bootstrap(stats.auc if measure == "AUC" else _right, y, wide.to_numpy(), patient, n, seed)
    return measure, found.value, found.low, found.high, len(wide), len(set(patient))


def fig3j(rows, n=1000, seed=42, methods=("erm", "ours")):
    """Fig. 3 j: malignant or not within each breast density (A-D, as the report gives it) of the unseen mammography domains.

    Columns method, held_out, density, measure, value, low, high, images, patients; see `_read_well`. Images without density are
    not counted.
    """
    rows = rows[(rows.modality == MAMMOGRAPHY) & rows.method.isin(methods) & (rows.density != "")]
    by = ["method", "held_out", "density"]
    return pd.DataFrame([(*key, *_read_well(g, n, seed)) for key, g in rows.groupby(by)], columns=[*by, "measure", *FOUND])


def fig3k(rows, n=1000, seed=42, methods=("erm", "ours")):
    """Fig. 3 k: malignant images with a lesion of one type against *all* images of the domain without a malignant finding.

    The negatives are the same for every type, so types differ by how their cancers are ranked, and a type without benign lesions
    has an AUC too. Columns method, held_out, lesion_type, measure, value, low, high, images, patients, malignant.
    """
    rows, out = rows[(rows.modality == MAMMOGRAPHY) & rows.method.isin(methods)], []
    for ((method, held_out), g), kind in itertools.product(rows.groupby(["method", "held_out"]), filter(None, LESION_TYPES)):
        of_type = (g.y == 1) & (g.lesion_type == kind)
        if of_type.any():
            malignant = g["sample"][of_type].nunique()
            out.append((method, held_out, kind, *_read_well(g[of_type | (g.y == 0)], n, seed), malignant))
    return pd.DataFrame(out, columns=["method", "held_out", "lesion_type", "measure", *FOUND, "malignant"])


def fig3l(rows):
    """Fig. 3 l: AUC on the unseen domain by share (per cent) of the training patients, a row a run; `mean`, `sd` over a share's runs.

    The sd is over seeds and domains, so most of it is how hard the domains are. Only folds and seeds that every share has run.
    """
    by = ["method", "held_out", "seed"]
    out = [(SHARES[key[0]], *key[1:], stats.auc(g.y, g.p)) for key, g in rows[rows.method.isin(SHARES)].groupby(by)]
    table = pd.DataFrame(out, columns=["share", "held_out", "seed", "auc"]).sort_values(["share", "held_out", "seed"], ignore_index=True)
    table = table.groupby(["held_out", "seed"]).filter(lambda g: len(g) == table.share.nunique()).reset_index(drop=True)
    runs = table.groupby("share")["auc"]
    return table.assign(mean=runs.transform("mean"), sd=runs.transform("std"))


# ---- Fig. 4: where the lesion is. predictions: with columns method, held_out, seed ----------------------------------

def unseen_mammograms(predictions, methods=LOCALISERS):
    """Mammograms of the held-out domain, as trained, with `hit` (the box meets a true one with an IoU of AT) of these methods, in the
    folds and seeds that all of them have run."""
    rows = predictions[(predictions.split == "target") & (predictions.condition == "source") & (predictions.modality == MAMMOGRAPHY)
                       & predictions.method.isin(methods)]
    rows = rows.groupby(["held_out", "seed"]).filter(lambda g: g.method.nunique() == rows.method.nunique())
    return rows.assign(hit=rows.iou >= AT)


def _means(rows, by, column, n, seed):
    """Mean of a column, a row a method and a group, with its 95 % bootstrap interval by patient; an image counts once, by its mean
    over seeds."""
    out = []
    for key, g in rows.groupby(["method", by], observed=True):
        each = g.groupby(["sample", "patient"])[column].mean()
        patient, value = each.index.get_level_values("patient").to_numpy(), each.to_numpy(float)
        found = stats.bootstrap(lambda y, p: p.mean(), np.zeros(len(value)), value, patient, n, seed)
        out.append((*key, found.value, found.low, found.high, len(value), len(set(patient))))
    return pd.DataFrame(out, columns=["method", by, *FOUND])


def fig4a(predictions, table, images, quantiles=(1 / 8, 3 / 8, 5 / 8, 7 / 8)):
    """Fig. 4 a-d: sixteen mammograms with the true boxes and those of each localiser, chosen by a rule.

    A panel a lesion type (GROUPS); in it the images at fixed quantiles of the IoU of ours, from where it fails to where it
    succeeds. predictions: of one fold and seed; table: the cohort. Columns as in `cases.box_case`, with panel and quantile.
    """
    found = unseen_mammograms(predictions)
    found, out = found[found.has_mask].set_index(["method", "sample"]), []
    ours = found.loc["ours"].reset_index() if "ours" in found.index else pd.DataFrame({"lesion_type": []})
    for (panel, kind), q in itertools.product(zip("abcd", GROUPS), quantiles):
        if not (ours.lesion_type == kind).any():
            continue
        chosen = at_quantile(ours[ours.lesion_type == kind], "iou", q)
        row, each = table[table["sample"] == chosen["sample"]], found.xs(chosen["sample"], level="sample")
        boxes = {m: each.loc[m, ["x0", "y0", "x1", "y1"]].to_numpy(float) for m in each.index}
        out.append({"panel": panel, "lesion_type": kind, "quantile": q,
                    **box_case(chosen["sample"], images.gather(row)[0], json.loads(row.boxes.iloc[0]), boxes, dict(each.iou), LOCALISERS)})
    return pd.DataFrame(out)


def fig4i(predictions, bins=10, n=1000, seed=42):
    """Fig. 4 i: how the IoU of the predicted with the nearest true box is distributed over outlined mammograms and seeds.

    Columns method, low, high (of the bin; 0, 0 is "no overlap, or no box"), share of the images, and repeated on every row of a
    method mean, mean_low, mean_high (95 % by patient), images.
    """
    rows, out = unseen_mammograms(predictions), []
    rows = rows[rows.has_mask].assign(all="")
    means = _means(rows, "all", "iou", n, seed).set_index("method")
    edges = np.linspace(0, 1, bins + 1)
    for method, g in rows.groupby("method"):
        apart = g.iou == 0
        counts = np.append(apart.sum(), np.histogram(g.iou[~apart], edges)[0])
        about = (*means.loc[method, ["value", "low", "high"]], int(means.images[method]))
        out += [(method, low, high, c / len(g), *about) for low, high, c in zip(np.append(0, edges[:-1]), np.append(0, edges[1:]), counts)]
    return pd.DataFrame(out, columns=["method", "low", "high", "share", "mean", "mean_low", "mean_high", "images"])


def fig4j(predictions):
    """Fig. 4 j: interpolated precision and recall of the strongest boxes, and the average precision at an IoU of AT, mean and sd over runs.

    Counted are mammograms with an outlined lesion, and those whose label is "normal", on which any box is false; of other images
    nobody knows. Recall is over images with a lesion. Precision is averaged over runs at each recall, 0 beyond what a run reaches.
    Columns method, recall, precision, sd, ap, ap_sd, runs, images.
    """
    rows, grid, out = unseen_mammograms(predictions), np.linspace(0, 1, 51), []
    rows = rows[rows.has_mask | (rows.allowed == label_set("normal"))]
    for method, g in rows.groupby("method"):
        curves, areas = [], []
        for _, run in g.groupby(["held_out", "seed"]):
            marks = run[run.box_score.notna()]
            precision, recall = precision_recall(marks.box_score, marks.hit, run.has_mask.sum())
            at = np.searchsorted(recall, grid - 1e-9)
            curves.append(np.append(precision, 0)[at])
            areas.append((np.diff(recall, prepend=0) * precision).sum())
        ap, several = stats.mean_sd(areas), len(curves) > 1
        sd = np.std(curves, axis=0, ddof=1) if several else np.full(len(grid), np.nan)
        out.append(pd.DataFrame({"method": method, "recall": grid, "precision": np.mean(curves, axis=0), "sd": sd, "ap": ap.mean,
                                 "ap_sd": ap.sd, "runs": ap.n, "images": g["sample"].nunique()}))
    columns = ["method", "recall", "precision", "sd", "ap", "ap_sd", "runs", "images"]
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame(columns=columns)


def fig4k(predictions, n=1000, seed=42):
    """Fig. 4 k: Dice of predicted and true mask by lesion type. Columns method, lesion_type, value, low, high, images, patients."""
    rows = unseen_mammograms(predictions)
    return _means(rows[rows.has_mask & rows.dice.notna()], "lesion_type", "dice", n, seed)


def fig4l(predictions, n=1000, seed=42):
    """Fig. 4 l: sensitivity, the share of outlined mammograms whose strongest box meets the lesion with an IoU of AT, by its diameter.

    Columns method, diameter_mm (a bin of DIAMETERS), value, low, high, images, patients. "unknown" where a dataset gives pixels
    and no spacing, as CBIS-DDSM does; its phantom knows the millimetres that it drew.
    """
    rows = unseen_mammograms(predictions)
    rows = rows[rows.has_mask]
    bins = pd.cut(rows.diameter_mm, EDGES, right=False, labels=DIAMETERS[:-1]).cat.add_categories(DIAMETERS[-1]).fillna(DIAMETERS[-1])
    return _means(rows.assign(diameter_mm=bins), "diameter_mm", "hit", n, seed)


def fig4(predictions, n=1000, seed=42):
    """{"fig4i": table, ...}: the panels of Fig. 4 that need numbers only."""
    return {"fig4i": fig4i(predictions, n=n, seed=seed), "fig4j": fig4j(predictions), "fig4k": fig4k(predictions, n, seed),
            "fig4l": fig4l(predictions, n, seed)}
