"""Phantom studies: a patient's mammogram, its magnified part with the lesion, ultrasound, a BI-RADS report.

As of the pretraining phantom there are no native files, only arrays and a table. The report agrees with the
images: it says what the latents of the patient made them show (ACR BI-RADS Atlas, 5th edition: composition,
finding, place, size, ultrasound descriptors, assessment).
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
LABELS = ("normal", "benign", "malignant", "malignant")    # as in BUSI, of normal, benign, in situ, invasive
SHAPE = (300, 240)     # of a mammogram before it is cut to the breast: 0.4 mm per pixel, kept when magnified


def write(folder, patients_each=60, site="inbreast", size=128, seed=42, workers=2):
    """Writes folder/images/{mammogram,magnified,ultrasound}.npy and, last, folder/studies.parquet.

    N is four times `patients_each`; `site` says whose detector (`mammogram.STYLES`). Returns the table.
    Columns: patient, diagnosis (0-3), label, density, lesion_type, lesion_shape, diameter_mm, laterality,
    mammography_report, ultrasound_report, report (both and the assessment), mammography_caption,
    ultrasound_caption (modality and label in a few words), and boxes_<view>: JSON [[x0, y0, x1, y1], ...] in
    pixels. The bytes depend on the arguments only, not on `workers`.
    """
    folder = Path(folder)
    people = patients.cohort(seed, pairs=patients_each, singles=0)
    draw = partial(_draw, site=site, size=size, seed=seed)
    drawn = parallel(draw, people.to_dict("records"), workers, "phantom studies")
    for k, view in enumerate(VIEWS):
        with atomic(folder / "images" / f"{view}.npy") as path:
            np.save(path, np.stack([pictures[k] for _, pictures in drawn]))
    table = pd.DataFrame([row for row, _ in drawn])
    with atomic(folder / "studies.parquet") as path:
        table.to_parquet(path, index=False)
    return table


def _draw(person, site, size, seed):
    """(row of the table, one picture per view) of one patient.

    Right breasts have the chest wall at the right, so that the side can be seen.
    """
    def random(view):
        return patients.generator(seed, "studies", site, person["patient"], view)

    pixels, mask = mammogram.draw(person, "CC", mammogram.STYLES[site], random("mammogram"), SHAPE)
    views = {"mammogram": _whole(pixels, mask, size, person["laterality"]),
             "magnified": magnify(pixels, mask, size, random("magnified")),
             "ultrasound": ultrasound.draw(person, random("ultrasound"), (size, size))}
    columns = ("patient", "diagnosis", "density", "lesion_type", "lesion_shape", "diameter_mm", "laterality")
    label = LABELS[person["diagnosis"]]
    rng = patients.generator(seed, "report", person["patient"])
    row = {name: person[name] for name in columns}
    row |= {"label": label, **report(person, rng)}
    for modality in ("mammography", "ultrasound"):
        row[f"{modality}_caption"] = caption(modality, label, rng)
    for view, (_, lesion) in views.items():
        row[f"boxes_{view}"] = json.dumps(mammograms.boxes(lesion))
    return row, [picture for picture, _ in views.values()]


def _whole(pixels, mask, size, laterality):
    """(uint8, bool), both (size, size): the mammogram cut to the breast, the chest wall on its own side."""
    image, lesion, *_ = mammograms.mammogram(pixels.astype(np.float32), mask, None, size)
    if laterality == "R":
        return image[:, ::-1], lesion[:, ::-1]
    return image, lesion


def magnify(pixels, mask, size, rng):
    """(uint8, bool), both (size, size): the part of a mammogram around its lesion, off centre at random.

    In a breast without a lesion it is the part around any point well inside the breast.
    """
    breast = mammograms.breast_mask(pixels.astype(np.float32))
    low, high = np.percentile(pixels[breast], (1, 99.5))
    grey = np.where(breast, 1 + 254 * np.clip((pixels - low) / (high - low), 0, 1), 0)
    inside = mask if mask.any() else ndimage.distance_transform_edt(breast) > 20
    spots = np.argwhere(inside if inside.any() else breast)
    centre = spots.mean(0) if mask.any() else spots[rng.integers(len(spots))]
    centre = centre + rng.uniform(-size / 6, size / 6, 2)
    window = tuple(slice(int(c) + size // 2, int(c) + size // 2 + size) for c in centre)    # when padded
    image = np.round(grey).astype(np.uint8)
    return np.pad(image, size)[window], np.pad(mask, size)[window]


# ---- the report --------------------------------------------------------------------------------------------

COMPOSITION = {"A": "the breasts are almost entirely fatty",
               "B": "there are scattered areas of fibroglandular density",
               "C": "the breasts are heterogeneously dense", "D": "the breasts are extremely dense"}
MARGIN = {"circumscribed": ("oval", "circumscribed"), "lobulated": ("lobulated", "circumscribed"),
          "irregular": ("irregular", "indistinct"), "spiculated": ("irregular", "spiculated")}
ASSESSMENT = {1: "negative", 2: "benign finding", 3: "probably benign finding", 4: "suspicious abnormality",
              5: "highly suggestive of malignancy"}


def report(row, rng):
    """{"mammography_report", "ultrasound_report", "report"} of a patient (a row of `patients.cohort`).

    `rng` chooses among wordings.
    """
    side = {"L": "left", "R": "right"}[row["laterality"]]
    third = ("upper", "central", "lower")[min(int(row["lesion_height"] * 3), 2)]
    depth = ("anterior", "middle", "posterior")[min(int(row["lesion_depth"] * 3), 2)]
    place = f"in the {third} {side} breast at {depth} depth"
    composition = f"{rng.choice(['Breast composition', 'Composition'])}: {COMPOSITION[row['density']]}."
    category = birads(row)
    impression = f"{rng.choice(['Impression', 'Assessment'])}: BI-RADS {category}, {ASSESSMENT[category]}."
    mammography = f"Mammogram of the {side} breast. {composition} {_mammography(row, place, rng)}"
    sonography = f"Ultrasound of the {side} breast. {_ultrasound(row, rng)}"
    return {"mammography_report": f"{mammography} {impression}",
            "ultrasound_report": f"{sonography} {impression}",
            "report": f"{mammography} {sonography} {impression}"}


def caption(modality, label, rng):
    """A few words under a picture, as a textbook has them: modality and label."""
    tissue = {"normal": "normal breast tissue", "benign": "a benign lesion",
              "malignant": "a malignant lesion"}[label]
    return str(rng.choice([f"{modality} of a {label} breast", f"{modality} showing {tissue}"]))


def birads(row):
    """The BI-RADS category that the findings named in the report call for; the diagnosis has no say in it.

    1 without a lesion. A mass is 3, 4 with any suspicious sign (a margin that is not circumscribed, a lie
    that is not parallel, shadowing), and 5 where it is spiculated and has one more (or calcifications).
    Fine pleomorphic calcifications and distortion are 4, round calcifications 3 in a group and 2 in a region,
    an asymmetry without a mass 3.
    """
    kind = row["lesion_type"]
    if kind == "mass":
        return _birads_of_mass(row)
    if kind == "calcification" and _morphology(row) == "round":
        return 3 if row["lesion_shape"] == "cluster" else 2
    return {"": 1, "calcification": 4, "distortion": 4, "asymmetry": 3}[kind]


def _birads_of_mass(row):
    _, margin = MARGIN[row["lesion_shape"]]
    suspicious = _lie(row) != "parallel" or _behind(row) == "posterior acoustic shadowing"
    if margin == "spiculated":
        return 5 if suspicious or _with_calcifications(row) else 4
    return 4 if suspicious or margin != "circumscribed" else 3


def _morphology(row):
    return "fine pleomorphic" if row["severity"] > 0.5 else "round"


def _with_calcifications(row):
    return row["calcification"] > 0.6


def _lie(row):
    return "not parallel" if row["spread"] > 0.6 else "parallel"


def _behind(row):
    if row["spread"] > 0.45:
        return "posterior acoustic shadowing"
    return "posterior enhancement" if row["spread"] < 0.35 else "no posterior features"


def _a(noun):
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "oi" else f"a {noun}"


def _mammography(row, place, rng):
    size = f"{rng.choice(['measuring', 'of'])} {round(row['diameter_mm'])} mm" if row["lesion_type"] else ""
    if row["lesion_type"] == "mass":
        shape, margin = MARGIN[row["lesion_shape"]]
        extra = " with associated calcifications" if _with_calcifications(row) else ""
        return f"There is {_a(shape)} mass with {margin} margins {size} {place}{extra}."
    if row["lesion_type"] == "calcification":
        spread = "grouped" if row["lesion_shape"] == "cluster" else "regional"
        return f"There are {_morphology(row)} calcifications in a {spread} distribution {size} {place}."
    if row["lesion_type"] == "distortion":
        return f"There is an architectural distortion {size} {place}."
    if row["lesion_type"] == "asymmetry":
        return f"There is a focal asymmetry {size} {place}."
    return str(rng.choice(["There is no mass, no suspicious calcification and no distortion.",
                           "No suspicious finding is seen."]))


def _ultrasound(row, rng):
    if row["lesion_type"] == "mass":
        return _ultrasound_of_mass(row)
    if row["lesion_type"] == "calcification":
        return "There are echogenic foci consistent with calcifications without a mass."
    if row["lesion_type"] == "distortion":
        return "There is an ill-defined area of shadowing with distortion of the tissue planes."
    if row["lesion_type"] == "asymmetry":
        return "There is an ill-defined area of altered echogenicity without a mass."
    return str(rng.choice(["The tissue is homogeneous without a mass or shadowing.",
                           "No solid or cystic mass is seen."]))


def _ultrasound_of_mass(row):
    shape, margin = MARGIN[row["lesion_shape"]]
    echo = "markedly hypoechoic" if row["cellularity"] > 0.55 else "hypoechoic"
    seen = f"{_a(shape)} {echo} mass, {_lie(row)} to the skin, with {margin} margins and {_behind(row)}"
    return f"There is {seen}."
