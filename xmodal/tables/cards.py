"""Reasoning cards and the maps beside them, as rows of a table: Fig. 5 a-l, and what Fig. 4 e-h shares."""
import json

import numpy as np
import pandas as pd

from ..cohort import partners
from ..config import MAMMOGRAPHY
from ..explain import BOTH, TOP_K, card_of, conclude, patch_picture
from ..faithfulness import alike, maps, pointing_hit, touched
from ..predict import trained_on
from .cases import PROBABILITIES, at_quantile, to_uri

# ---- the columns of a case -------------------------------------------------------------------------------

def card_columns(card, mammogram, tiles, truth_boxes=()):
    """What an `explain.Card` says as the columns of a case; "" for a picture that there is not.

    mammogram uint8 (S, S), tiles uint8 (T, S, S, 3), either may be None; truth_boxes: a list of [x0, y0, x1,
    y1] in pixels of the mammogram. tile and tile_heat are the tile of the best patch and the map on it.
    """
    columns = dict.fromkeys(("image", "heat", "tile", "tile_heat"), "")
    for k in range(1, TOP_K + 1):
        columns |= {f"tile{k}": "", f"w{k}": np.nan}
    if mammogram is not None:
        columns["image"] = to_uri(mammogram)
    if card.heat is not None:
        best = card.patches[0][0]
        columns |= {"heat": to_uri(card.heat), "tile": to_uri(tiles[best]),
                    "tile_heat": to_uri(card.tissue[best])}
        pictures = patch_picture(tiles, card.patches, len(card.heat))
        for k, (picture, weight) in enumerate(zip(pictures, card.weights), start=1):
            columns |= {f"tile{k}": to_uri(picture), f"w{k}": float(weight)}
    elif tiles is not None:
        columns["tile"] = to_uri(tiles[0])
    return columns | {
        **dict(zip(PROBABILITIES, map(float, card.p))), "predicted": int(np.argmax(card.p)),
        "grade": card.grade, "conclusion": card.conclusion, "read": card.read,
        "box": json.dumps(np.asarray(card.box, float).tolist()),
        "truth_boxes": json.dumps(np.asarray(truth_boxes, float).tolist()),
    }


def map_columns(study, patient, sample, mask):
    """The maps beside the attention of a mammogram, as columns.

    map_<name>: its picture; hit_<name>: 1 where its hottest patch touches the lesion mask (S, S); chance: how
    often a random patch would; NaN without a lesion. swap, random: correlation of the attention with that by
    other tissue, and by random weights.
    """
    shown = maps(study.model, study.untrained, *study.pixels(patient, sample))
    columns = {"swap": alike(shown["attention"], shown["other_tissue"]),
               "random": alike(shown["attention"], shown["random_weights"]), "chance": np.nan}
    if mask.any():
        columns["chance"] = float(touched(mask, len(shown["attention"])).mean())
    for name, heat in shown.items():
        spread = np.ptp(heat) or 1
        columns[f"map_{name}"] = to_uri((heat - heat.min()) / spread)
        columns[f"hit_{name}"] = pointing_hit(heat, mask) if mask.any() else np.nan
    return columns


# ---- Fig. 5 a-l ------------------------------------------------------------------------------------------

def fig5_case(case, truth, columns, pairs="", trained_on="", tissue_of=""):
    """A row of fig5.csv. truth: class, -1 unknown; columns: those of `cases.card_columns`, with or without
    those of `cases.map_columns`.

    pairs: "patient", "label", or "" where one modality stands alone; trained_on: what the model learned from
    (`predict.trained_on`); tissue_of: whose tissue it is.
    """
    return {"case": case, "truth": truth, **columns, "pairs": pairs, "trained_on": trained_on,
            "tissue_of": tissue_of}


def card_row(study, patient, truth=-1, joint=None):
    """A row of fig5.csv: the reasoning card of a patient, with the first mammogram and with what tissue a
    `faithfulness.Study` sets beside it, or with the one modality that there is.

    truth: class, -1 unknown; joint: a joint prediction over all images of the patient (p0-p3, grade_pred),
    else that of the first mammogram with the tissue.
    """
    table = study.table
    tissue = study.tissue_of.get(patient, "")
    card, mammogram, tiles = card_of(study.model, table, study.images, patient, tissue_of=tissue)
    if joint is not None:
        p, grade = joint[PROBABILITIES].to_numpy(float), int(joint.grade_pred)
        card = card._replace(p=p, grade=grade, conclusion=conclude(p, grade, card.box, card.read))
    first = table[(table.patient == patient) & (table.modality == MAMMOGRAPHY)].sort_values("sample").head(1)
    boxes = json.loads(first.boxes.iloc[0]) if len(first) else ()
    columns = card_columns(card, mammogram, tiles, boxes)
    pairs = ""
    if card.read == BOTH:
        pairs = "patient" if tissue in ("", patient) else "label"
        mask = study.images.gather(first, "masks")[0].astype(bool)
        columns |= map_columns(study, patient, first["sample"].iloc[0], mask)
    return fig5_case(patient, truth, columns, pairs, trained_on(study.run.config), tissue)


def grading_cases(study, quantiles=(0.25, 0.5, 0.75)):
    """Rows of fig5.csv, ordered by class: for each true class three patients of the source test.

    They are at the lower quartile, the median and the upper quartile of the joint probability of that class;
    fewer where there are fewer patients. study: with the tissue of the joint predictions beside them
    (`graded_partners`).
    """
    joint = study.run.predictions.query("split == 'source test' and condition == 'source'")
    joint = joint[(joint.modality == "both") & (joint.truth >= 0) & joint.patient.isin(study.tissue_of)]
    rows = []
    for truth, group in joint.groupby("truth"):
        chosen = [at_quantile(group, f"p{truth}", quantile) for quantile in quantiles]
        by_patient = {row.patient: row for row in chosen}       # of few patients some are chosen twice
        for patient, row in by_patient.items():
            rows.append(card_row(study, patient, truth, row))
    return pd.DataFrame(rows)


def graded_partners(run):
    """{mammography patient: whose tissue} of the joint predictions of a run, as `predict.joint` drew them."""
    return partners(run.predictions.query("condition == 'source' and modality != 'both'"))
