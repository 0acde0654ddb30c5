"""Textbook cases: clear masses on a magnified mammogram and on ultrasound, and captions of both.

A third each is normal, benign and malignant (invasive). A benign mass is circumscribed or lobulated, a
malignant one irregular or spiculated: cases whose shape misleads are left to `studies`. The captions are of
two kinds, as those of a literature: under a mammogram stands what is seen and what it was, under an
ultrasound only what is seen, never a diagnosis. So a picture-text model that learns from them has met
ultrasound without labels, and whoever reads ultrasound must get there by way of the findings.
"""
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from xmodal.runtime.files import atomic

from .. import parallel
from . import mammogram, patients, studies, ultrasound

DIAGNOSES = {"normal": 0, "benign": 1, "malignant": 3}
TYPICAL = {"benign": ("circumscribed", "lobulated"), "malignant": ("irregular", "spiculated")}
VIEWS = ("mammography", "ultrasound")


def write(folder, n, site="inbreast", size=128, seed=42, workers=2):
    """Writes folder/images/{mammography,ultrasound}.npy, uint8 (n, size, size), and, last,
    folder/cases.parquet.

    `site` says whose detector (`mammogram.STYLES`). Returns the table: patient, label, lesion_shape,
    diameter_mm, cellularity, spread, mammography_captions and ultrasound_captions (JSON lists of two texts).
    The bytes depend on the arguments only, not on `workers`.
    """
    folder = Path(folder)
    people = cases(n, site, seed)
    drawn = parallel(partial(_draw, site=site, size=size, seed=seed), people, workers, "textbook cases")
    for k, view in enumerate(VIEWS):
        with atomic(folder / "images" / f"{view}.npy") as path:
            np.save(path, np.stack([pictures[k] for pictures in drawn]))
    columns = ["patient", "label", "lesion_shape", "diameter_mm", "cellularity", "spread"]
    table = pd.DataFrame(people)[columns]
    for view in VIEWS:
        texts = [captions(row, view, patients.generator(seed, view, row["patient"])) for row in people]
        table[f"{view}_captions"] = [json.dumps(pair) for pair in texts]
    with atomic(folder / "cases.parquet") as path:
        table.to_parquet(path, index=False)
    return table


def cases(n, site, seed):
    """n patients (dicts as the rows of `patients.cohort`), their labels in turn."""
    rng = patients.generator(seed, "textbook", site)
    people = []
    for i in range(n):
        label = list(DIAGNOSES)[i % 3]
        person = patients.one_patient(rng, DIAGNOSES[label])
        if label in TYPICAL:
            person |= {"lesion_type": "mass", "lesion_shape": str(rng.choice(TYPICAL[label]))}
        people.append({"patient": f"T{i:04d}", "label": label, "marked": False, **person})
    return people


def _draw(person, site, size, seed):
    """The two pictures of a patient, uint8 (size, size)."""
    def random(view):
        return patients.generator(seed, "textbook", site, person["patient"], view)

    style = mammogram.STYLES[site]
    pixels, mask = mammogram.draw(person, "CC", style, random("mammogram"), studies.SHAPE)
    magnified, _ = studies.magnify(pixels, mask, size, random("magnified"))
    echo, _ = ultrasound.draw(person, random("ultrasound"), (size, size))
    return magnified, echo


# ---- captions ----------------------------------------------------------------------------------------------

OUTLINE = {"circumscribed": ("egg-shaped nodule with a crisp edge", "round nodule, its rim sharp all round"),
           "lobulated": ("nodule with gentle lobes and a crisp edge", "lobed nodule, smooth in outline"),
           "irregular": ("nodule of no regular form with a blurred edge", "angular nodule, its rim hazy"),
           "spiculated": ("star-like nodule with rays into its surroundings",
                          "angular nodule from which spikes radiate")}
CLEAR = {"mammography": ("Film of a breast whose tissue runs evenly, with no nodule.",
                         "X-ray view, strands of gland and fat, nothing that stands out."),
         "ultrasound": ("Sonogram, fat over gland over muscle in even layers, no nodule.",
                        "Scan with the probe, layered tissue throughout, nothing dark within it.")}
OPINION = {"normal": ("Screening was clear: a normal, healthy breast.", "Read as normal, back in two years.",
                      "Healthy woman, nothing abnormal."),
           "benign": ("Turned out to be harmless, a benign fibroadenoma.", "Benign at biopsy, left in place.",
                      "Stable over years and benign, no cancer."),
           "malignant": ("Proved to be cancer, a malignant tumour.", "Malignant at biopsy, surgery followed.",
                         "Invasive carcinoma, malignant.")}


def captions(row, view, rng):
    """Two texts of a picture of the patient `row`: what is seen and, under a mammogram, what it was; under an
    ultrasound the finding in two wordings."""
    seen = [_seen(row, view, k) for k in (0, 1)]
    order = rng.permutation(2)
    if view == "mammography":
        return [seen[order[0]], f"{seen[order[1]]} {rng.choice(OPINION[row['label']])}"]
    return [seen[k] for k in order]


def _seen(row, view, wording):
    """What one view shows, in one of two wordings."""
    if row["label"] == "normal":
        return CLEAR[view][wording]
    size = f"{round(row['diameter_mm'])} mm"
    if view == "mammography":
        outline = OUTLINE[row["lesion_shape"]][wording]
        grey = "very white" if row["cellularity"] > 0.55 else "pale"
        return (f"X-ray view, a {grey} {outline}, {size}." if wording else
                f"Film of a breast: {outline}, {grey}, {size} across.")
    behind = "nothing changed behind it"
    if row["spread"] > 0.45:
        behind = "a dark shadow behind it"
    elif row["spread"] < 0.35:
        behind = "bright echoes behind it"
    lie = "taller than wide" if row["spread"] > 0.6 else "wider than tall"
    return sonogram(row["lesion_shape"], lie, behind, wording, f", {size}")


def sonogram(shape, lie, behind, wording, size=""):
    """What an ultrasound picture with a mass shows, in one of two wordings."""
    outline = OUTLINE[shape][wording]
    return (f"Scan with the probe, {outline}, {lie}, {behind}{size}." if wording else
            f"Sonogram of a dark {outline}{size}, {lie}, with {behind}.")
