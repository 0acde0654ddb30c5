"""INbreast: full-field digital mammograms with outlined findings (Moreira et al. 2012, doi
10.1016/j.acra.2011.09.014).

There is no open official download; `read` and `index` take a copy that the user has.
"""
import json
import logging
import plistlib
import re
from collections import Counter
from pathlib import Path
from xml.parsers.expat import ExpatError

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_scripts import annotations, tables
from data_scripts.indexing import Index, files_below, met, plain_number, rows_of
from xmodal.cohort import INDEX, index_row, label_set, validate
from xmodal.config import MAMMOGRAPHY, Problem
from xmodal.imaging.dicom import dicom_header, read_pixels
from xmodal.runtime.files import bounded_bytes

log = logging.getLogger(__name__)
NEEDED = {"laterality", "view", "file name", "acr", "bi-rads"}
# BI-RADS 3, "probably benign", counts as benign here: the dataset has no pathology for each image.
BIRADS = {"1": label_set("normal"), "2": label_set("benign"), "3": label_set("benign"),
          **dict.fromkeys(("4a", "4b", "4c", "5", "6"), label_set("in situ", "invasive"))}
# Values that a column may have. Where the table says nothing, the name of the file says view and side.
KNOWN = {"bi-rads": BIRADS, "view": ("", "CC", "ML", "MLO", "FB"), "laterality": ("", "L", "R")}
DENSITY = {"1": "A", "2": "B", "3": "C", "4": "D"}
NAME = re.compile(r"^(\d+)_([0-9a-f]{16})_MG_([LR])_(CC|ML|MLO|FB)_ANON\.dcm$", re.IGNORECASE)
POINT = re.compile(r"[({]\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)")
FINDINGS = (
    ("mass", re.compile("mass|spiculated", re.I)), ("distortion", re.compile("distort", re.I)),
    ("asymmetry", re.compile("as+[iy]m+etr", re.I)), ("calcification", re.compile("calcif|cluster", re.I)))
SPELLED = re.compile("^(Mass|Spiculated Region|Distortion|Asymmetry|Calcifications?|Cluster)$")
DAMAGED = (ExpatError, OSError, LookupError, ArithmeticError, TypeError, ValueError, AttributeError)


def index(root):
    """The mammograms under `root` as rows of `cohort.INDEX`; see `read`."""
    return rows_of(read(root))


def read(root):
    """`Index` of the mammograms under `root`; table, DICOM files and outlines may lie in any folder: their
    names tell them.

    There is no pathology: BI-RADS 1 is normal, 2 and 3 benign, 4a to 6 malignant (in situ or invasive). The
    patient is the token in the DICOM name, since the table's ids are removed. ML in a name means MLO. The
    diameter is the largest extent of a finding's polygon; an outline of one or two points sets those pixels.

    Exclusions are images that are listed but not there, not listed, or unreadable, and rows of the table that
    cannot be used; an unreadable outline leaves an empty annotation. Raises `Problem` if the table or all
    images are missing, a column is missing, or no row can be used.
    """
    table, where = read_table(root)
    images, left_out = _images(root)
    outlines = _outlines(root)
    traps = Counter(odd_name=len(left_out))
    rows = []
    numbers = set()
    for line in table.to_dict("records"):
        number = line["file name"]
        try:
            _check_line(line, where, number, numbers, images, traps)
            rows.append(_row(line, *images[number], outlines.get(number), traps))
        except Problem as problem:
            source = str(images[number][0]) if number in images else number
            left_out.append((source, str(problem)))
    listed = set(table["file name"])
    unlisted = [path for number, (path, _) in images.items() if number not in listed]
    traps["unlisted_image"] += len(unlisted)
    left_out += [(str(path), f"{path} is not listed in INbreast.csv.") for path in unlisted]
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    if len(rows) < len(table):
        log.warning("INbreast: %d of %d images left out.", len(table) - len(rows), len(table))
    if not rows:
        first = left_out[0][1] if left_out else "it is empty."
        raise Problem(f"None of the {len(table)} images that {where} lists can be used; {first}")
    return Index(validate(pd.DataFrame(rows), INDEX, "index of INbreast"), left_out, met(traps))


def _check_line(line, where, number, numbers, images, traps):
    """Raises `Problem` if a row of the table is faulty, lists an image again, or one that is not there."""
    if line["fault"] or number in numbers:
        traps["faulty_row"] += 1
        raise Problem(tables.reason(where, line["row"], line["fault"] or f"lists {number} again"))
    numbers.add(number)
    if number not in images:
        traps["missing_image"] += 1
        raise Problem(f"INbreast lists {number}, but its image is not there.")


def read_table(root):
    """(table, its path): strings, with column names in lower case; `fault` says what is wrong with a row."""
    named = [path for path in files_below(root, ".csv", ".xls", ".xlsx") if path.stem.lower() == "inbreast"]
    texts = [path for path in named if path.suffix.lower() == ".csv"]
    if named and not texts:
        raise Problem(f"There is {named[0]}, but what is read is INbreast.csv; "
                      "copy that of the release beside it.")
    if not texts:
        raise Problem(f"There is no INbreast.csv in {root}; "
                      "copy your INbreast release there (there is no open download).")
    path = min(texts, key=lambda text: len(text.parts))
    table = tables.read(path, NEEDED)
    for column in ("file name", "acr", "bi-rads"):
        table[column] = table[column].map(plain_number)
    for column, known in KNOWN.items():
        strings = table[column].str
        table[column] = strings.lower() if column == "bi-rads" else strings.upper()
        tables.mark(table, column, table[column].isin(known))
    tables.mark_contradictions(table, "file name", list(KNOWN))
    return table, path


def _images(root):
    """({number: (path, match of its name)}, [(path, reason), ...]) of the DICOM files.

    Files with other names and second images of a number are left out.
    """
    images = {}
    left_out = []
    for path in files_below(root, ".dcm"):
        match = NAME.match(path.name)
        if not match:
            left_out.append((str(path), f"{path} has not a name such as "
                             "20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm."))
        elif match[1] in images:
            left_out.append((str(path), f"{path} is a second image of {match[1]}."))
        else:
            images[match[1]] = (path, match)
    return images, left_out


def _row(line, path, name, outline, traps):
    """The row of one image; counts in `traps` what is unusual about it.

    line: its row of the table; name: the match of the file's name; outline: path of its outlines, or None.
    """
    spacing = dicom_header(path).spacing
    rois = read_rois(outline, traps)
    named_view = name[4].upper()
    view = line["view"] or named_view
    patient = f"inbreast/{name[2].lower()}"
    allowed = BIRADS[line["bi-rads"]]
    truth = {label_set("normal"): 0, label_set("benign"): 1}.get(allowed, -1)
    kind, shape = lesion([finding for finding, _ in rois])
    extents = [annotations.extent(points) for _, points in rois if len(points) > 2]
    diameter = spacing * max(extents) if spacing and extents else float("nan")
    polygons = [points.tolist() for _, points in rois]
    annotation = json.dumps({"polygons": polygons}) if rois else ""
    density = DENSITY.get(line["acr"], "")
    traps["blank_acr"] += not density
    traps["view_fb"] += view == "FB"
    traps["mlo_names"] += named_view == "MLO"
    traps["birads_3"] += line["bi-rads"] == "3"
    traps["missing_xml"] += truth != 0 and not outline
    traps["point_findings"] += sum(len(points) < 3 for points in polygons)
    return index_row(
        sample=f"inbreast/{line['file name']}", patient=patient, study=patient, domain="inbreast",
        modality=MAMMOGRAPHY, view="MLO" if view == "ML" else view,
        laterality=line["laterality"] or name[3].upper(), allowed=allowed, truth=truth, grade=truth,
        density=density, lesion_type=kind, lesion_shape=shape, diameter_mm=diameter, annotation=annotation,
        source=str(path.resolve()))


# ---- outlines ----------------------------------------------------------------------------------------------

def _outlines(root):
    """{number: path} of the outline files of findings.

    Those of the pectoral muscle, which lie in a folder of that name, are left out.
    """
    outlines = {}
    for path in reversed(files_below(root, ".xml")):
        if "pectoral" not in str(path.parent.relative_to(root)).lower():
            outlines[path.stem] = path
    return outlines


def read_rois(path, traps=None):
    """[(name, (N, 2) points x, y in pixels), ...] of an outline file; empty if it is None or, logged, if it
    is damaged.

    `traps`, a Counter, gets what is unusual in it.
    """
    traps = Counter() if traps is None else traps
    if path is None:                                      # only images with findings have an outline file
        return []
    try:
        rois = plistlib.loads(bounded_bytes(path, "outline bytes"))["Images"][0]["ROIs"]
        findings = [(name, points) for name, points in map(_finding, rois) if len(points)]
        for _, points in findings:
            if not np.isfinite(points).all():
                raise ValueError("a point that is not finite")
    except DAMAGED as error:
        traps["damaged_xml"] += 1
        log.warning("The outlines in %s cannot be read (%s); the image has no annotation.", path, error)
        return []
    traps["roi_points"] += any("ROIPoints" in roi for roi in rois)
    traps["odd_names"] += sum(not SPELLED.match(name) for name, _ in findings)
    return findings


def _finding(roi):
    """(name, points) of one finding in an outline file."""
    matches = [POINT.search(point) for point in roi.get("Point_px") or roi.get("ROIPoints") or ()]
    return str(roi.get("Name", "")), np.array([[float(match[1]), float(match[2])] for match in matches])


def lesion(names):
    """(lesion_type, lesion_shape) of an image from the names of its findings.

    A mass outranks a distortion, an asymmetry, a calcification, in this order.
    """
    text = " ".join(names).lower()
    kind = next((kind for kind, pattern in FINDINGS if pattern.search(text)), "")
    shape = ""
    if kind == "mass" and "spicul" in text:
        shape = "spiculated"
    if kind == "calcification":
        shape = "cluster" if "cluster" in text else "scatter"
    return kind, shape


# ---- fetch -------------------------------------------------------------------------------------------------

TERMS = "for research, on request from its authors; cite Moreira et al. 2012, doi 10.1016/j.acra.2011.09.014."
IMAGES = 410                                              # of the full release
PATIENTS = 115
PLAN = ["path", "bytes", "state", "outlined"]


def fetch(root, limit=None, dry_run=False):
    """Checks the copy under `root`, since there is no open download; returns a table with one row for each
    image.

    Its columns are path, bytes, state and outlined. What is there is told against the table, the folders and
    the full release, and, unless `dry_run`, which images cannot be decoded (state "damaged"; there are no
    published checksums). `limit` looks at the first images only. Raises `Problem` if the table is not there
    or none of its images is whole; with `dry_run` that is only told.
    """
    root = Path(root)
    try:
        plan = _plan(root, limit, dry_run)
    except Problem as problem:
        if not dry_run:
            raise
        print(problem)
        return pd.DataFrame(columns=PLAN)
    whole = plan[plan.state == "complete"]
    patients = {NAME.match(Path(path).name)[2].lower() for path in whole.path}
    print(f"{len(whole)} of {len(plan)} listed images, of {len(patients)} patients, are in {root.name}, "
          f"{plan.outlined.sum()} of them outlined; the full release has {IMAGES} of {PATIENTS}.\n"
          f"Terms: {TERMS}")
    for row in plan[plan.state != "complete"].itertuples():
        log.warning("INbreast lists %s, which is %s.", row.path, row.state)
    if not plan.outlined.any():
        log.warning("There is no outline file such as 20586908.xml in %s: no image will have an outline; "
                    "copy AllXML of your release.", root)
    return plan


def _plan(root, limit, dry_run):
    """The plan of the images that the table lists. Raises `Problem` if none is whole."""
    table, where = read_table(root)
    images, _ = _images(root)
    outlines = _outlines(root)
    rows = []
    for name in tqdm(table["file name"][:limit], "looking at images", disable=None):
        path = images[name][0] if name in images else root / "AllDICOMs" / f"{name}_*.dcm"
        size = path.stat().st_size if name in images else 0
        state = _state(path, size, dry_run)
        rows.append((str(path.relative_to(root)), size or None, state, name in outlines))
    plan = pd.DataFrame(rows, columns=PLAN).astype({"bytes": "Int64"})
    if not plan.state.eq("complete").any():
        raise Problem(f"None of the {len(plan)} images that {where} lists is whole under {root}; "
                      "copy AllDICOMs of your release there.")
    return plan


def _state(path, size, dry_run):
    if not size:
        return "missing"
    try:
        if not dry_run:
            read_pixels(path)
    except Problem as problem:
        log.warning("%s", problem)
        return "damaged"
    return "complete"
