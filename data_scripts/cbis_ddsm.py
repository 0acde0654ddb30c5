"""CBIS-DDSM: digitised film mammograms with outlined, biopsied or followed lesions (doi 10.7937/K9/TCIA.2016.7O02S9CY)."""
import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom

from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import MAMMOGRAPHY, Problem
from xmodal.images import UNREADABLE, read_pixels

log = logging.getLogger(__name__)
TABLES = [f"{kind}_case_description_{part}_set.csv" for kind in ("mass", "calc") for part in ("train", "test")]
# The two kinds of table name their columns differently.
RENAME = {"breast density": "breast_density", "calc type": "first", "mass shape": "first", "calc distribution": "second",
          "mass margins": "second", "left or right breast": "side", "image view": "view", "abnormality type": "type",
          "image file path": "image", "cropped image file path": "crop", "ROI mask file path": "mask"}
NEEDED = {"patient_id", "breast_density", "side", "view", "type", "first", "second", "pathology", "image", "crop", "mask"}
PATHOLOGY = {"BENIGN": label_set("benign"), "BENIGN_WITHOUT_CALLBACK": label_set("benign"),
             "MALIGNANT": label_set("in situ", "invasive")}
ASYMMETRY = {"ASYMMETRIC_BREAST_TISSUE", "FOCAL_ASYMMETRIC_DENSITY"}


def index(root):
    """The full mammograms under `root` as rows of `cohort.INDEX`; DICOM files and tables may lie at any depth.

    An image with several abnormalities is malignant if any of them is, and takes its lesion type from the first that
    decides. There is no pixel spacing, so the diameter is NaN. Images that are listed but not there, or unreadable, are
    left out, and lost masks leave an empty annotation; both are logged and counted. Raises `Problem` if no table or no
    image is found, a column is missing, or a pathology or view is unknown.
    """
    root = Path(root)
    table, series = read_tables(root), find_series(root)
    rows, lost, maskless = [], 0, 0
    for folder, findings in table.groupby("folder", sort=True):
        images = series.get(findings.image_series.iloc[0], [])
        if not images:
            lost += 1
            log.warning("CBIS-DDSM lists %s, but its image is not there; left out.", folder)
            continue
        full = max(images, key=lambda found: found["pixels"])
        masks = [_mask(finding, full, series) for finding in findings.itertuples()]
        maskless += masks.count("")
        rows.append(_row(folder, findings, full, [m for m in masks if m]))
    if lost or maskless:
        log.warning("CBIS-DDSM: %d of %d images left out, %d masks not found.", lost, table.folder.nunique(), maskless)
    if not rows:
        raise Problem(f"None of the {table.folder.nunique()} images that the tables in {root} list is there; run 01_download again.")
    return validate(pd.DataFrame(rows), INDEX, "index of CBIS-DDSM")


def read_tables(root):
    """The four case descriptions as one table, a row an abnormality, with common column names; "NA" stays a string."""
    tables = []
    for name in TABLES:
        path = next(iter(sorted(root.rglob(name))), None)
        if path is None:
            raise Problem(f"There is no {name} under {root}; run 01_download again, or put the table there.")
        table = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns=RENAME)
        if NEEDED - set(table):
            raise Problem(f"{path} lacks the columns {sorted(NEEDED - set(table))}; fetch it again.")
        tables.append(table.assign(file=str(path)))
    table = pd.concat(tables, ignore_index=True)
    for column, known in (("pathology", PATHOLOGY), ("view", ("CC", "MLO")), ("side", ("LEFT", "RIGHT"))):
        odd = table[~table[column].isin(known)]
        if len(odd):
            raise Problem(f"{odd.file.iloc[0]} has the {column} {odd[column].iloc[0]!r}, which is unknown; fetch it again.")
    for column in ("image", "crop", "mask"):              # folder / StudyInstanceUID / SeriesInstanceUID / file, with stray line feeds
        parts = table[column].str.strip().str.split("/")
        bad = table[parts.str.len() != 4]
        if len(bad):
            raise Problem(f"{bad.file.iloc[0]} has the path {bad[column].iloc[0]!r}, which has not four parts; fetch it again.")
        table[f"{column}_series"] = parts.str[2]
        if column == "image":
            table["folder"], table["study"] = parts.str[0], parts.str[1]
    return table


def find_series(root):
    """{SeriesInstanceUID: [{path, bits, shape, pixels}, ...]} of the DICOM files under `root`, whatever their names."""
    series, damaged = {}, 0
    for path in sorted(root.rglob("*.dcm")):
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Rows", "Columns", "BitsAllocated"])
            found = {"path": str(path.resolve()), "bits": data.BitsAllocated, "shape": (data.Rows, data.Columns)}
            series.setdefault(str(data.SeriesInstanceUID), []).append({**found, "pixels": data.Rows * data.Columns})
        except UNREADABLE as error:
            damaged += 1
            log.warning("%s cannot be read (%s); left out.", path, error)
    if damaged:
        log.warning("CBIS-DDSM: %d files cannot be read.", damaged)
    return series


def _mask(finding, full, series):
    """Path of the lesion mask of one abnormality, "" if there is none.

    Neither file order nor SeriesDescription tells the mask from the crop. The mask has 8 bits or two values, and of such
    it is the one whose size is nearest the full image's.
    """
    found = {f["path"]: f for uid in (finding.mask_series, finding.crop_series) for f in series.get(uid, ())}
    binary = [f for f in found.values() if f["bits"] == 8] or [f for f in found.values() if _two_values(f["path"])]
    return min(binary, key=lambda f: abs(np.log(f["pixels"] / full["pixels"])))["path"] if binary else ""


def _two_values(path):
    try:
        return len(np.unique(read_pixels(path)[1])) <= 2
    except Problem as problem:
        log.warning("%s", problem)
        return False


def _row(folder, findings, full, masks):
    worst = findings.loc[findings.pathology.map(PATHOLOGY).idxmax()]  # malignant classes are the higher bits
    kind, shape = lesion(worst.type, worst["first"], worst.second)
    density = worst.breast_density
    allowed = PATHOLOGY[worst.pathology]
    known = {label_set("benign"): 1}.get(allowed, -1)     # a benign label fixes the class, a malignant one leaves two
    return {"sample": f"cbis_ddsm/{folder}", "patient": f"cbis_ddsm/{re.search(r'P_[0-9]+', folder)[0]}", "study": worst.study,
            "domain": "cbis_ddsm", "modality": MAMMOGRAPHY, "view": worst["view"], "laterality": worst.side[0],
            "allowed": allowed, "truth": known, "grade": known,
            "density": "ABCD"[int(density) - 1] if density in ("1", "2", "3", "4") else "", "lesion_type": kind,
            "lesion_shape": shape, "diameter_mm": float("nan"), "annotation": json.dumps({"masks": masks}) if masks else "",
            "source": full["path"]}


def lesion(kind, first, second):
    """(lesion_type, lesion_shape) of an abnormality from its type, mass shape or calc type, and margins or distribution.

    Terms joined by "-" are taken together: anything with a mass in it is a mass; "spiculated" is a margin, and outranks
    the shape.
    """
    words, margins = set(first.split("-")), set(second.split("-"))
    if kind.startswith("calc"):
        shape = "cluster" if "CLUSTERED" in margins else "scatter" if margins & {"DIFFUSELY_SCATTERED", "REGIONAL"} else second.lower()
        return "calcification", "" if second == "NA" else shape
    if words == {"ARCHITECTURAL_DISTORTION"}:
        return "distortion", ""
    if words <= ASYMMETRY | {"ARCHITECTURAL_DISTORTION"}:
        return "asymmetry", ""
    if "SPICULATED" in margins:
        return "mass", "spiculated"
    for term, name in (("IRREGULAR", "irregular"), ("LOBULATED", "lobulated")):
        if term in words:
            return "mass", name
    return "mass", "circumscribed" if "CIRCUMSCRIBED" in margins else ""
