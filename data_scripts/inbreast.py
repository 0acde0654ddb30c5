"""INbreast: full-field digital mammograms with outlined findings (Moreira et al. 2012, doi 10.1016/j.acra.2011.09.014).

There is no open official download; `index` reads a copy that the user has.
"""
import json
import logging
import plistlib
import re
from pathlib import Path
from xml.parsers.expat import ExpatError

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist

from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import MAMMOGRAPHY, Problem
from xmodal.images import dicom_header

log = logging.getLogger(__name__)
NEEDED = {"Laterality", "View", "File Name", "ACR", "Bi-Rads"}
# BI-RADS 3, "probably benign", counts as benign here: the dataset has no pathology for each image.
BIRADS = {"1": label_set("normal"), "2": label_set("benign"), "3": label_set("benign"),
          **dict.fromkeys(("4a", "4b", "4c", "5", "6"), label_set("in situ", "invasive"))}
NAME = re.compile(r"^(\d+)_([0-9a-f]{16})_MG_([LR])_(CC|ML|MLO|FB)_ANON\.dcm$", re.IGNORECASE)
POINT = re.compile(r"[({]\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)")
FINDINGS = (("mass", re.compile("mass|spiculated", re.I)), ("distortion", re.compile("distort", re.I)),
            ("asymmetry", re.compile("as+[iy]m+etr", re.I)), ("calcification", re.compile("calcif|cluster", re.I)))


def index(root):
    """The mammograms under `root` as rows of `cohort.INDEX`; INbreast.csv, AllDICOMs and AllXML may lie one folder deeper.

    BI-RADS 1 is normal, 2 and 3 benign, 4a to 6 malignant. The patient is the token in the DICOM name. ML in a name means
    MLO. The diameter is the largest extent of a finding's polygon. Images that are listed but not there, or unreadable,
    are left out, logged and counted; so are unreadable outlines. Raises `Problem` if the table or all images are missing,
    a column is missing, or a BI-RADS is unknown.
    """
    table, folder = read_table(Path(root))
    images = {match[1]: (path, match) for path in sorted((folder / "AllDICOMs").glob("*.dcm")) if (match := NAME.match(path.name))}
    rows, lost = [], 0
    for line in table.to_dict("records"):
        try:
            if line["File Name"] not in images:
                raise Problem(f"INbreast lists {line['File Name']}, but its image is not there.")
            rows.append(_row(line, *images[line["File Name"]], folder))
        except Problem as problem:
            lost += 1
            log.warning("%s Left out.", problem)
    if lost:
        log.warning("INbreast: %d of %d images left out.", lost, len(table))
    if not rows:
        raise Problem(f"None of the {len(table)} images that {folder / 'INbreast.csv'} lists is in AllDICOMs beside it; copy them there.")
    return validate(pd.DataFrame(rows), INDEX, "index of INbreast")


def read_table(root):
    """(table, folder that it lies in); every value a string without spaces around it."""
    path = next(iter(sorted([*root.glob("INbreast.csv"), *root.glob("*/INbreast.csv")])), None)
    if path is None:
        raise Problem(f"There is no INbreast.csv in {root}; copy your INbreast release there (there is no open download).")
    table = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    table.columns = table.columns.str.strip()
    if NEEDED - set(table):
        raise Problem(f"{path} lacks the columns {sorted(NEEDED - set(table))}; copy the original table again.")
    table = table.apply(lambda column: column.str.strip())
    odd = table[~table["Bi-Rads"].isin(BIRADS)]
    if len(odd):
        raise Problem(f"{path} gives {odd['File Name'].iloc[0]} the BI-RADS {odd['Bi-Rads'].iloc[0]!r}, which is unknown; correct the table.")
    return table, path.parent


def _row(line, path, name, folder):
    header = dicom_header(path)
    rois = read_rois(folder / "AllXML" / f"{line['File Name']}.xml")
    view = line["View"].upper() or name[4].upper()
    allowed = BIRADS[line["Bi-Rads"]]
    known = {label_set("normal"): 0, label_set("benign"): 1}.get(allowed, -1)
    kind, shape = lesion([name for name, _ in rois])
    extents = [pdist(points).max() for _, points in rois if len(points) > 2]
    return {"sample": f"inbreast/{line['File Name']}", "patient": f"inbreast/{name[2].lower()}", "study": f"inbreast/{name[2].lower()}",
            "domain": "inbreast", "modality": MAMMOGRAPHY, "view": "MLO" if view == "ML" else view,
            "laterality": line["Laterality"].upper() or name[3].upper(), "allowed": allowed, "truth": known, "grade": known,
            "density": "ABCD"[int(line["ACR"]) - 1] if line["ACR"] in ("1", "2", "3", "4") else "",
            "lesion_type": kind, "lesion_shape": shape,
            "diameter_mm": header.spacing * max(extents) if header.spacing and extents else float("nan"),
            "annotation": json.dumps({"polygons": [points.tolist() for _, points in rois]}) if rois else "",
            "source": str(path.resolve())}


def read_rois(path):
    """[(name, (N, 2) points x, y in pixels), ...] of an outline file; empty if there is none or, logged, if it is damaged."""
    if not path.exists():                                 # only images with findings have one
        return []
    try:
        rois = plistlib.loads(path.read_bytes())["Images"][0]["ROIs"]
        outlines = [(roi.get("Name", ""), [POINT.search(p) for p in roi.get("Point_px") or roi.get("ROIPoints") or ()]) for roi in rois]
        return [(name, np.array([[float(p[1]), float(p[2])] for p in points])) for name, points in outlines if points]
    except (plistlib.InvalidFileException, ExpatError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
        log.warning("The outlines in %s cannot be read (%s); the image has no annotation.", path, error)
        return []


def lesion(names):
    """(lesion_type, lesion_shape) of an image from the names of its findings; a mass outranks a distortion, an asymmetry, a calcification."""
    said = " ".join(names).lower()
    kind = next((kind for kind, pattern in FINDINGS if pattern.search(said)), "")
    if kind == "mass":
        return kind, "spiculated" if "spicul" in said else ""
    return kind, ("cluster" if "cluster" in said else "scatter") if kind == "calcification" else ""
