"""Whom the model fails, and where it sees the lesion: the tables of Fig. 3 j-l and of Fig. 4 a-d and i-l.

Predictions hold the strongest box of a mammogram and no other, so a mammogram with two lesions can have at most one found:
here an image counts, not a lesion. Every image is read by models that never saw its domain.
"""
import itertools
import json

import numpy as np
import pandas as pd

from .. import stats
from ..cohort import label_set, patients_with_both
from ..config import MAMMOGRAPHY
from ..explain import card_of, patch_picture
from ..methods import LOCALISERS
from ..metrics.detection import precision_recall
from .cases import at_quantile, to_uri
from .common import FOUND

GROUPS = ("distortion", "mass", "asymmetry", "calcification")          # of Fig. 4 a-d
AT = 0.5                                                               # an IoU that the paper calls a success
EDGES = (0, 5, 10, 15, 20, np.inf)                                     # mm, the lower edge is in
DIAMETERS = ("<5", "5-10", "10-15", "15-20", ">20", "unknown")


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
    succeeds. predictions: of one fold and seed; table: the cohort. Columns as in `tables.fig4.box_case`, with panel and quantile.
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


def fig4_case(case, title, lesion_type, image, heat, truth_boxes, predicted_box, iou, dice, tiles):
    """A row of fig4e.csv. image (H, W) uint8, heat (h, w) in [0, 1], boxes [x0, y0, x1, y1] in pixels of `image` (a list of
    true ones; one predicted or None), tiles: list of (S, S, 3) uint8."""
    box = [] if predicted_box is None or np.isnan(predicted_box).any() else np.asarray(predicted_box, float).tolist()
    return {"case": case, "title": title, "lesion_type": lesion_type, "image": to_uri(image), "heat": to_uri(heat),
            "truth_boxes": json.dumps(np.asarray(truth_boxes, float).tolist()), "predicted_box": json.dumps(box),
            "iou": iou, "dice": dice, "tiles": json.dumps([to_uri(t) for t in tiles])}


def box_case(case, image, truth_boxes, boxes, iou, methods):
    """A row of fig4a.csv. image (H, W) uint8; truth_boxes: a list of [x0, y0, x1, y1] in pixels of `image`; boxes and iou:
    {method: box (4,), NaN where there is none} and {method: IoU} of those of the `methods` that have run."""
    corners = lambda box: [] if np.isnan(box).any() else np.asarray(box, float).tolist()
    row = {"case": case, "image": to_uri(image), "truth_boxes": json.dumps(np.asarray(truth_boxes, float).tolist())}
    row |= {f"box_{m}": json.dumps(corners(boxes[m])) if m in boxes else "" for m in methods}
    return row | {f"iou_{m}": iou.get(m, np.nan) for m in methods}


KINDS = {"architectural distortion": ("distortion", ""), "spiculated mass": ("mass", "spiculated"), "asymmetry": ("asymmetry", ""),
         "calcifications": ("calcification", "")}      # of Fig. 4 e-h: title -> lesion type and what its shape contains


def localisation_cases(run, model, table, images):
    """Rows of fig4e.csv: for each of KINDS the mammogram of the held-out domain with the median IoU, of patients with both modalities."""
    found = run.predictions.query("split == 'target' and condition == 'source' and modality == 'mammography' and has_mask")
    found, rows = found[found.patient.isin(patients_with_both(table))], []
    for panel, (title, (kind, shape)) in zip("efgh", KINDS.items()):
        group = found[(found.lesion_type == kind) & found.lesion_shape.str.contains(shape, case=False, regex=False)]
        if group.empty:
            continue
        row = at_quantile(group, "iou")
        card, mammogram, tiles = card_of(model, table, images, row.patient, row["sample"])
        truth = json.loads(table.loc[table["sample"] == row["sample"], "boxes"].iloc[0])
        pictures = patch_picture(tiles, card.patches, len(card.heat))
        rows.append({"panel": panel, **fig4_case(row["sample"], title, kind, mammogram, card.heat, truth,
                                                 row[["x0", "y0", "x1", "y1"]].to_numpy(float), row.iou, row.dice, pictures)})
    return pd.DataFrame(rows)
