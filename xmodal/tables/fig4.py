"""The tables of Fig. 4: where the lesion is.

Boxes of three localisers (a-d), attention of ours (e-h), numbers (i-l).

Predictions hold the strongest box of a mammogram and no other, so a mammogram with two lesions can have at
most one met: here an image counts, not a lesion. Every image is read by models that never saw its domain.
`predictions` have the columns method, held_out and seed.
"""
import json

import numpy as np
import pandas as pd

from .. import stats
from ..cohort import label_set, pairing
from ..config import MAMMOGRAPHY
from ..explain import card_of
from ..faithfulness import MAPS
from ..methods import LOCALISERS, OURS
from ..metrics.detection import precision_recall
from .cards import card_columns, map_columns
from .cases import at_quantile, to_uri
from .common import ESTIMATE, FOLD_AND_SEED, tidy

GROUPS = ("distortion", "mass", "asymmetry", "calcification")          # lesion types of a-d
KINDS = {                                                              # of e-h: title -> lesion type, shape
    "architectural distortion": ("distortion", ""),
    "spiculated mass": ("mass", "spiculated"),
    "asymmetry": ("asymmetry", ""),
    "calcifications": ("calcification", ""),
}
MIN_IOU = 0.5                                                          # what the paper calls a success
EDGES = (0, 5, 10, 15, 20, np.inf)                                     # mm, the lower edge is in
DIAMETERS = ("<5", "5-10", "10-15", "15-20", ">20", "unknown")
TIMES_CHANCE = 5                                                       # what attention is to reach, see
ALIKE = 0.9                                                            # `maps_verdict`
MAP_COLUMNS = [
    "domain", "map", "hit", "low", "high", "chance", "times_chance", "excess", "excess_low", "excess_high",
    "over_norm", "over_norm_low", "over_norm_high", "swap", "random", "images", "patients"]
CORNERS = ["x0", "y0", "x1", "y1"]


def unseen_mammograms(predictions, methods=LOCALISERS):
    """Mammograms of the held-out domain, as trained, in the folds and seeds that all the methods have run.

    `hit`: the box meets a true one with an IoU of MIN_IOU.
    """
    rows = predictions[(predictions.split == "target") & (predictions.condition == "source")]
    rows = rows[(rows.modality == MAMMOGRAPHY) & rows.method.isin(methods)]
    rows = rows.groupby(FOLD_AND_SEED).filter(lambda group: group.method.nunique() == rows.method.nunique())
    return rows.assign(hit=rows.iou >= MIN_IOU)


def _corners(box):
    """A box (4,) as a list; an empty one where a corner is NaN."""
    return [] if np.isnan(box).any() else np.asarray(box, float).tolist()


# ---- a-d: the boxes of each localiser --------------------------------------------------------------------

def box_case(case, image, truth_boxes, boxes, iou, methods):
    """A row of fig4a.csv. image (H, W) uint8; truth_boxes: a list of [x0, y0, x1, y1] in pixels of `image`.

    boxes: {method: box (4,), NaN where there is none} and iou: {method: IoU} of those of the `methods` that
    have run.
    """
    truth_boxes = np.asarray(truth_boxes, float).tolist()
    row = {"case": case, "image": to_uri(image), "truth_boxes": json.dumps(truth_boxes)}
    for method in methods:
        row[f"box_{method}"] = json.dumps(_corners(boxes[method])) if method in boxes else ""
    for method in methods:
        row[f"iou_{method}"] = iou.get(method, np.nan)
    return row


def fig4a(predictions, table, images, quantiles=(1 / 8, 3 / 8, 5 / 8, 7 / 8)):
    """Fig. 4 a-d: sixteen mammograms with the true boxes and those of each localiser, chosen by a rule.

    One panel per lesion type (GROUPS); in it the images at fixed quantiles of the IoU of ours, from where it
    fails to where it succeeds. predictions: of one fold and seed; table: the cohort. Columns panel,
    lesion_type, quantile, and those of `box_case`.
    """
    outlined = unseen_mammograms(predictions)
    outlined = outlined[outlined.has_mask]
    ours = outlined[outlined.method == OURS]
    by_sample = outlined.set_index(["method", "sample"])
    rows = []
    for panel, lesion_type in zip("abcd", GROUPS):
        of_type = ours[ours.lesion_type == lesion_type]
        if of_type.empty:
            continue
        for quantile in quantiles:
            case = at_quantile(of_type, "iou", quantile)["sample"]
            mammogram = table[table["sample"] == case]
            by_method = by_sample.xs(case, level="sample")
            boxes = {method: by_method.loc[method, CORNERS].to_numpy(float) for method in by_method.index}
            truth_boxes = json.loads(mammogram.boxes.iloc[0])
            image = images.gather(mammogram)[0]
            row = box_case(case, image, truth_boxes, boxes, dict(by_method.iou), LOCALISERS)
            rows.append({"panel": panel, "lesion_type": lesion_type, "quantile": quantile, **row})
    return pd.DataFrame(rows)


# ---- e-h: attention and tissue ---------------------------------------------------------------------------

def fig4_case(title, prediction, columns):
    """A row of fig4e.csv. prediction: a row of a run's predictions (sample, lesion_type, box, IoU, Dice).

    columns: those of `cases.card_columns` and `cases.map_columns`, of the mammogram of the prediction.
    """
    box = json.dumps(_corners(prediction[CORNERS].to_numpy(float)))
    return {**columns, "case": prediction["sample"], "title": title, "lesion_type": prediction.lesion_type,
            "box": box, "iou": prediction.iou, "dice": prediction.dice}


def localisation_cases(study):
    """Rows of fig4e.csv: for each of KINDS the mammogram of the held-out domain with the median IoU.

    Of patients beside whom a `faithfulness.Study` sets tissue. pairs: by patient or by label.
    """
    unseen = study.run.predictions.query("split == 'target' and condition == 'source' and has_mask")
    outlined = unseen[(unseen.modality == MAMMOGRAPHY) & unseen.patient.isin(study.tissue_of)]
    rows = []
    for panel, (title, (lesion_type, shape)) in zip("efgh", KINDS.items()):
        of_shape = outlined.lesion_shape.str.contains(shape, case=False, regex=False)
        of_kind = outlined[(outlined.lesion_type == lesion_type) & of_shape]
        if of_kind.empty:
            continue
        chosen = at_quantile(of_kind, "iou")
        patient, sample = chosen.patient, chosen["sample"]
        tissue = study.tissue_of[patient]
        card, mammogram, tiles = card_of(study.model, study.table, study.images, patient, sample, tissue)
        row = study.table[study.table["sample"] == sample]
        columns = card_columns(card, mammogram, tiles, json.loads(row.boxes.iloc[0]))
        columns |= map_columns(study, patient, sample, study.images.gather(row, "masks")[0].astype(bool))
        rows.append({"panel": panel, "pairs": pairing(study.table), "tissue_of": tissue,
                     **fig4_case(title, chosen, columns)})
    return pd.DataFrame(rows)


def fig4_maps(pointed, n=1000, seed=42):
    """fig4_maps.csv: how often each map finds the lesion, on each unseen mammography domain.

    pointed: rows of `faithfulness.pointing` of one run per domain. Columns domain, map, hit (the pointing
    game), low, high (95 % by patient), chance, times_chance, excess (hit less chance) and over_norm (hit less
    that of the token norm, on the same images) with their intervals, swap and random (mean correlation of the
    attention with that by other tissue and by random weights), images, patients.
    """
    norm = pointed[pointed["map"] == "token_norm"].set_index("sample").hit
    rows = pointed.assign(excess=pointed.hit - pointed.chance)
    rows["over_norm"] = rows.hit - rows["sample"].map(norm).to_numpy()
    table = []
    for domain, of_domain in rows.groupby("domain"):
        for name in MAPS:
            part = of_domain[of_domain["map"] == name]
            row = {"domain": domain, "map": name, "images": len(part), "patients": part.patient.nunique()}
            for column in ("hit", "excess", "over_norm"):
                values = part[column].to_numpy(float)
                patient = part.patient.to_numpy()
                interval = stats.bootstrap(_mean, np.zeros(len(values)), values, patient, n, seed)
                prefix = "" if column == "hit" else f"{column}_"
                row |= {column: interval.value, f"{prefix}low": interval.low, f"{prefix}high": interval.high}
            row["chance"] = part.chance.mean()
            row["times_chance"] = row["hit"] / row["chance"]
            own = part if name == "attention" else part.iloc[:0]
            table.append(row | {"swap": own.swap.mean(), "random": own.random.mean()})
    return tidy(table, MAP_COLUMNS)


def maps_verdict(table):
    """What a table of `fig4_maps` says of the attention, one sentence per domain.

    Two criteria were set before any run: it hits at least TIMES_CHANCE times as often as chance, and its map
    with other tissue correlates by less than ALIKE with its own.
    """
    sentences = []
    for row in table[table["map"] == "attention"].itertuples():
        enough = "reached" if row.times_chance >= TIMES_CHANCE else "not reached"
        changes = "changes" if row.swap < ALIKE else "hardly changes"
        against = "not distinguished from"
        if row.over_norm_low > 0 or row.over_norm_high < 0:
            against = "better than" if row.over_norm > 0 else "worse than"
        sentences.append(
            f"{row.domain}: attention hits {row.times_chance:.1f} times as often as chance "
            f"(at least {TIMES_CHANCE}: {enough}), is {against} the token norm "
            f"({row.over_norm:+.2f} [{row.over_norm_low:+.2f}, {row.over_norm_high:+.2f}]), "
            f"and {changes} with other tissue (r = {row.swap:.2f}).")
    return sentences


# ---- i-l: numbers ----------------------------------------------------------------------------------------

def _mean(_, values):
    return values.mean()


def _means(rows, by, column, n, seed):
    """Mean of a column for each method and group, with its 95 % bootstrap interval by patient.

    An image counts once, by its mean over seeds.
    """
    means = []
    for key, group in rows.groupby(["method", by], observed=True):
        of_image = group.groupby(["sample", "patient"])[column].mean()
        patient = of_image.index.get_level_values("patient").to_numpy()
        values = of_image.to_numpy(float)
        interval = stats.bootstrap(_mean, np.zeros(len(values)), values, patient, n, seed)
        means.append((*key, interval.value, interval.low, interval.high, len(values), len(set(patient))))
    return tidy(means, ["method", by, *ESTIMATE])


def fig4i(predictions, bins=10, n=1000, seed=42):
    """Fig. 4 i: distribution of the IoU of the predicted with the nearest true box.

    Over outlined mammograms and seeds. Columns method, low, high (of the bin; 0, 0 is "no overlap, or no
    box"), share of the images, and repeated on every row of a method mean, mean_low, mean_high (95 % by
    patient), images.
    """
    outlined = unseen_mammograms(predictions)
    outlined = outlined[outlined.has_mask].assign(all="")
    means = _means(outlined, "all", "iou", n, seed).set_index("method")
    edges = np.linspace(0, 1, bins + 1)
    rows = []
    for method, group in outlined.groupby("method"):
        apart = group.iou == 0
        counts = np.append(apart.sum(), np.histogram(group.iou[~apart], edges)[0])
        summary = (*means.loc[method, ["value", "low", "high"]], int(means.images[method]))
        for low, high, count in zip(np.append(0, edges[:-1]), np.append(0, edges[1:]), counts):
            rows.append((method, low, high, count / len(group), *summary))
    return tidy(rows, ["method", "low", "high", "share", "mean", "mean_low", "mean_high", "images"])


def fig4j(predictions):
    """Fig. 4 j: interpolated precision and recall of the strongest boxes, and their average precision.

    Counted are mammograms with an outlined lesion, and those whose label is "normal", on which any box is
    false; of other images nobody knows. Recall is over images with a lesion. Precision is averaged over runs
    at each recall, 0 beyond what a run reaches; sd and ap_sd are over runs. Columns method, recall,
    precision, sd, ap, ap_sd, runs, images.
    """
    columns = ["method", "recall", "precision", "sd", "ap", "ap_sd", "runs", "images"]
    grid = np.linspace(0, 1, 51)
    rows = unseen_mammograms(predictions)
    rows = rows[rows.has_mask | (rows.allowed == label_set("normal"))]
    tables = []
    for method, group in rows.groupby("method"):
        curves, areas = [], []
        for _, run in group.groupby(FOLD_AND_SEED):
            marks = run[run.box_score.notna()]
            precision, recall = precision_recall(marks.box_score, marks.hit, run.has_mask.sum())
            curves.append(np.append(precision, 0)[np.searchsorted(recall, grid - 1e-9)])
            areas.append((np.diff(recall, prepend=0) * precision).sum())
        ap = stats.mean_sd(areas)
        sd = np.std(curves, axis=0, ddof=1) if len(curves) > 1 else np.full(len(grid), np.nan)
        tables.append(pd.DataFrame({
            "method": method, "recall": grid, "precision": np.mean(curves, axis=0), "sd": sd, "ap": ap.mean,
            "ap_sd": ap.sd, "runs": ap.n, "images": group["sample"].nunique()}))
    return pd.concat(tables, ignore_index=True) if tables else tidy([], columns)


def fig4k(predictions, n=1000, seed=42):
    """Fig. 4 k: Dice of predicted and true mask by lesion type.

    Columns method, lesion_type, value, low, high, images, patients.
    """
    rows = unseen_mammograms(predictions)
    return _means(rows[rows.has_mask & rows.dice.notna()], "lesion_type", "dice", n, seed)


def fig4l(predictions, n=1000, seed=42):
    """Fig. 4 l: sensitivity by the diameter of the lesion.

    It is the share of outlined mammograms whose strongest box meets the lesion with an IoU of MIN_IOU.
    Columns method, diameter_mm (a bin of DIAMETERS), value, low, high, images, patients. "unknown" where a
    dataset gives pixels and no spacing, as CBIS-DDSM does; its phantom knows the millimetres that it drew.
    """
    rows = unseen_mammograms(predictions)
    rows = rows[rows.has_mask]
    *known, unknown = DIAMETERS
    diameter = pd.cut(rows.diameter_mm, EDGES, right=False, labels=known)
    diameter = diameter.cat.add_categories(unknown).fillna(unknown)
    return _means(rows.assign(diameter_mm=diameter), "diameter_mm", "hit", n, seed)


def fig4_tables(predictions, n=1000, seed=42):
    """{"fig4i": table, ...}: the panels of Fig. 4 that need numbers only, i to l."""
    return {"fig4i": fig4i(predictions, n=n, seed=seed), "fig4j": fig4j(predictions),
            "fig4k": fig4k(predictions, n, seed), "fig4l": fig4l(predictions, n, seed)}
