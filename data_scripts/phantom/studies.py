"""Phantom studies: a patient's mammogram, its magnified part with the lesion, ultrasound, and a BI-RADS report that agrees with them.

As of the pretraining phantom there are no native files, only arrays and a table. The report says what the latents of the patient made
the images show (ACR BI-RADS Atlas, 5th edition: composition, finding, place, size, ultrasound descriptors, assessment).
"""
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from xmodal.imaging import mammograms
from xmodal.runtime.files import atomic

from .. import parallel
from . import mammogram, patients, ultrasound

VIEWS = ("mammogram", "magnified", "ultrasound")
LABELS = ("normal", "benign", "malignant", "malignant")          # of the diagnoses normal, benign, in situ, invasive: those of BUSI
SHAPE = (300, 240)               # of a mammogram before it is cut to the breast: 0.4 mm a pixel, as the magnified view keeps it


def write(folder, patients_each=60, site="inbreast", size=128, seed=42, workers=2):
    """Writes folder/images/{mammogram,magnified,ultrasound}.npy, uint8 (N, size, size), and, last, folder/studies.parquet; returns the table.

    N is four times `patients_each`; site: whose detector (`mammogram.STYLES`). Columns: patient, diagnosis (0-3), label, density,
    lesion_type, lesion_shape, diameter_mm, laterality, mammography_report, ultrasound_report, report (both and the assessment),
    mammography_caption, ultrasound_caption (modality and label in a few words), and boxes_<view>: JSON [[x0, y0, x1, y1], ...] in
    pixels. The bytes depend on the arguments only, not on `workers`.
    """
    folder, people = Path(folder), patients.cohort(seed, pairs=patients_each, singles=0)
    drawn = parallel(partial(_draw, site=site, size=size, seed=seed), people.to_dict("records"), workers, "phantom studies")
    for k, view in enumerate(VIEWS):
        with atomic(folder / "images" / f"{view}.npy") as path:
            np.save(path, np.stack([pictures[k] for _, pictures in drawn]))
    table = pd.DataFrame([row for row, _ in drawn])
    with atomic(folder / "studies.parquet") as path:
        table.to_parquet(path, index=False)
    return table


def _draw(person, site, size, seed):
    """(row, [a picture a view]) of one patient. Right breasts have the chest wall at the right, so that the side can be seen."""
    at = lambda view: patients.generator(seed, "studies", site, person["patient"], view)
    pixels, mask = mammogram.draw(person, "CC", mammogram.STYLES[site], at("mammogram"), SHAPE)
    flip = np.s_[:, ::-1 if person["laterality"] == "R" else 1]
    whole = [x[flip] for x in mammograms.mammogram(pixels.astype(np.float32), mask, None, size)[:2]]
    pictures, masks = zip(whole, magnify(pixels, mask, size, at("magnified")), ultrasound.draw(person, at("ultrasound"), (size, size)))
    keep = ("patient", "diagnosis", "density", "lesion_type", "lesion_shape", "diameter_mm", "laterality")
    rng = patients.generator(seed, "report", person["patient"])
    words = {**report(person, rng), **{f"{m}_caption": caption(m, LABELS[person["diagnosis"]], rng) for m in ("mammography", "ultrasound")}}
    boxes = {f"boxes_{view}": json.dumps(mammograms.boxes(m)) for view, m in zip(VIEWS, masks)}
    return {**{k: person[k] for k in keep}, "label": LABELS[person["diagnosis"]], **words, **boxes}, pictures


def magnify(pixels, mask, size, rng):
    """(uint8, bool), both (size, size): the part of a mammogram around its lesion, off centre at random, or around any point well
    inside a breast without one."""
    breast = mammograms.breast_mask(pixels.astype(np.float32))
    low, high = np.percentile(pixels[breast], (1, 99.5))
    grey = np.where(breast, 1 + 254 * np.clip((pixels - low) / (high - low), 0, 1), 0)
    inside = mask if mask.any() else ndimage.distance_transform_edt(breast) > 20
    spots = np.argwhere(inside if inside.any() else breast)
    centre = (spots.mean(0) if mask.any() else spots[rng.integers(len(spots))]) + rng.uniform(-size / 6, size / 6, 2)
    window = tuple(slice(int(c) + size // 2, int(c) + size // 2 + size) for c in centre)      # of the padded picture
    return tuple(np.pad(x, size)[window] for x in (np.round(grey).astype(np.uint8), mask))


# ---- the report --------------------------------------------------------------------------------------------------

COMPOSITION = {"A": "the breasts are almost entirely fatty", "B": "there are scattered areas of fibroglandular density",
               "C": "the breasts are heterogeneously dense", "D": "the breasts are extremely dense"}
MARGIN = {"circumscribed": ("oval", "circumscribed"), "lobulated": ("lobulated", "circumscribed"), "irregular": ("irregular", "indistinct"),
          "spiculated": ("irregular", "spiculated")}
ASSESSMENT = {1: "negative", 2: "benign finding", 3: "probably benign finding", 4: "suspicious abnormality",
              5: "highly suggestive of malignancy"}


def report(row, rng):
    """{"mammography_report", "ultrasound_report", "report"} of a patient (a row of `patients.cohort`); `rng` chooses among wordings."""
    side = {"L": "left", "R": "right"}[row["laterality"]]
    third = ("upper", "central", "lower")[min(int(row["lesion_height"] * 3), 2)]
    depth = ("anterior", "middle", "posterior")[min(int(row["lesion_depth"] * 3), 2)]
    place = f"in the {third} {side} breast at {depth} depth"
    composition = f"{rng.choice(['Breast composition', 'Composition'])}: {COMPOSITION[row['density']]}."
    category = birads(row)
    impression = f"{rng.choice(['Impression', 'Assessment'])}: BI-RADS {category}, {ASSESSMENT[category]}."
    mammography = f"Mammogram of the {side} breast. {composition} {_mammography(row, place, rng)}"
    sonography = f"Ultrasound of the {side} breast. {_ultrasound(row, rng)}"
    return {"mammography_report": f"{mammography} {impression}", "ultrasound_report": f"{sonography} {impression}",
            "report": f"{mammography} {sonography} {impression}"}


def caption(modality, label, rng):
    """A few words under a picture, as a textbook has them: modality and label."""
    what = {"normal": "normal breast tissue", "benign": "a benign lesion", "malignant": "a malignant lesion"}[label]
    return str(rng.choice([f"{modality} of a {label} breast", f"{modality} showing {what}"]))


def birads(row):
    """The BI-RADS category that the images suggest: 1 without a lesion, then by malignancy and, within it, severity."""
    if not row["lesion_type"]:
        return 1
    return (3 if row["severity"] > 1 / 3 else 2) if row["diagnosis"] < 2 else (5 if row["severity"] > 0.8 else 4)


def _mammography(row, place, rng):
    size = f"{rng.choice(['measuring', 'of'])} {round(row['diameter_mm'])} mm" if row["lesion_type"] else ""
    fine = row["severity"] > 0.5
    if row["lesion_type"] == "mass":
        shape, margin = MARGIN[row["lesion_shape"]]
        extra = " with associated calcifications" if row["calcification"] > 0.6 else ""
        return f"There is {'an' if shape[0] in 'oi' else 'a'} {shape} mass with {margin} margins {size} {place}{extra}."
    if row["lesion_type"] == "calcification":
        kind, spread = ("fine pleomorphic" if fine else "round", "grouped" if row["lesion_shape"] == "cluster" else "regional")
        return f"There are {kind} calcifications in a {spread} distribution {size} {place}."
    if row["lesion_type"] == "distortion":
        return f"There is an architectural distortion {size} {place}."
    if row["lesion_type"] == "asymmetry":
        return f"There is a focal asymmetry {size} {place}."
    return str(rng.choice(["There is no mass, no suspicious calcification and no distortion.", "No suspicious finding is seen."]))


def _ultrasound(row, rng):
    if row["lesion_type"] == "mass":
        shape, margin = MARGIN[row["lesion_shape"]]
        behind = ("posterior acoustic shadowing" if row["spread"] > 0.45 else "posterior enhancement" if row["spread"] < 0.35
                  else "no posterior features")
        lie = "not parallel" if row["spread"] > 0.6 else "parallel"
        echo = "markedly hypoechoic" if row["cellularity"] > 0.55 else "hypoechoic"
        return f"There is {'an' if shape[0] in 'oi' else 'a'} {shape} {echo} mass, {lie} to the skin, with {margin} margins and {behind}."
    if row["lesion_type"] == "calcification":
        return "There are echogenic foci consistent with calcifications without a mass."
    if row["lesion_type"] == "distortion":
        return "There is an ill-defined area of shadowing with distortion of the tissue planes."
    if row["lesion_type"] == "asymmetry":
        return "There is an ill-defined area of altered echogenicity without a mass."
    return str(rng.choice(["The tissue is homogeneous without a mass or shadowing.", "No solid or cystic mass is seen."]))
