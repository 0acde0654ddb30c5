"""INbreast: full-field digital mammograms with outlined findings (Moreira et al. 2012, doi 10.1016/j.acra.2011.09.014).

There is no open official download; `index` reads a copy that the user has.
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
from scipy.spatial.distance import pdist
from tqdm import tqdm

from data_scripts import files_below, tables
from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import MAMMOGRAPHY, Problem
from xmodal.imaging.dicom import dicom_header, read_pixels

log = logging.getLogger(__name__)
NEEDED = {"laterality", "view", "file name", "acr", "bi-rads"}
# BI-RADS 3, "probably benign", counts as benign here: the dataset has no pathology for each image.
BIRADS = {"1": label_set("normal"), "2": label_set("benign"), "3": label_set("benign"),
          **dict.fromkeys(("4a", "4b", "4c", "5", "6"), label_set("in situ", "invasive"))}
VIEWS = ("", "CC", "ML", "MLO", "FB")                      # where the table says nothing the name of the file does
NAME = re.compile(r"^(\d+)_([0-9a-f]{16})_MG_([LR])_(CC|ML|MLO|FB)_ANON\.dcm$", re.IGNORECASE)
POINT = re.compile(r"[({]\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)")
FINDINGS = (("mass", re.compile("mass|spiculated", re.I)), ("distortion", re.compile("distort", re.I)),
            ("asymmetry", re.compile("as+[iy]m+etr", re.I)), ("calcification", re.compile("calcif|cluster", re.I)))
SPELLED = re.compile("^(Mass|Spiculated Region|Distortion|Asymmetry|Calcifications?|Cluster)$")


def index(root):
    """The mammograms under `root` as rows of `cohort.INDEX`; table, DICOM files and outlines may lie in any folder: names tell them.

    There is no pathology: BI-RADS 1 is normal, 2 and 3 benign, 4a to 6 malignant (in situ or invasive). The patient is the
    token in the DICOM name, since the table's ids are removed. ML in a name means MLO. The diameter is the largest extent of
    a finding's polygon; an outline of one or two points sets those pixels. Images that are listed but not there, not listed, or
    unreadable, and rows of the table that cannot be used are logged and listed in `.attrs["exclusions"]` as (source, reason); an
    unreadable outline leaves an empty annotation. `.attrs["traps"]` says how often each trap was met. Raises `Problem` if the
    table or all images are missing, a column is missing, or no row can be used.
    """
    table, where = read_table(root)
    (images, left_out), outlines = _images(root), _outlines(root)
    rows, traps, listed = [], Counter(odd_name=len(left_out)), set()
    for line in table.to_dict("records"):
        number = line["file name"]
        try:
            if line["fault"] or number in listed:
                traps["faulty_row"] += 1
                raise Problem(tables.reason(where, line["row"], line["fault"] or f"lists {number} again"))
            listed.add(number)
            if number not in images:
                traps["missing_image"] += 1
                raise Problem(f"INbreast lists {number}, but its image is not there.")
            rows.append(_row(line, *images[number], outlines.get(number), traps))
        except Problem as problem:
            left_out.append((str(images[number][0]) if number in images else number, str(problem)))
    unlisted = [path for number, (path, _) in images.items() if number not in set(table["file name"])]
    traps["unlisted_image"] += len(unlisted)
    left_out += [(str(path), f"{path} is not listed in INbreast.csv.") for path in unlisted]
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    if len(rows) < len(table):
        log.warning("INbreast: %d of %d images left out.", len(table) - len(rows), len(table))
    if not rows:
        raise Problem(f"None of the {len(table)} images that {where} lists can be used; {left_out[0][1] if left_out else 'it is empty.'}")
    rows = validate(pd.DataFrame(rows), INDEX, "index of INbreast")
    rows.attrs.update(exclusions=left_out, traps={trap: int(n) for trap, n in sorted(traps.items()) if n})
    return rows


def read_table(root):
    """(table, its path); every value a string, column names in lower case, and in `fault` what is wrong with a row."""
    named = [path for path in files_below(root, ".csv", ".xls", ".xlsx") if path.stem.lower() == "inbreast"]
    path = min((path for path in named if path.suffix.lower() == ".csv"), key=lambda path: len(path.parts), default=None)
    if path is None and named:
        raise Problem(f"There is {named[0]}, but what is read is INbreast.csv; copy that of the release beside it.")
    if path is None:
        raise Problem(f"There is no INbreast.csv in {root}; copy your INbreast release there (there is no open download).")
    table = tables.read(path, NEEDED)
    for column, known in (("bi-rads", BIRADS), ("view", VIEWS), ("laterality", ("", "L", "R"))):
        table[column] = table[column].str.lower() if column == "bi-rads" else table[column].str.upper()
        tables.mark(table, column, table[column].isin(known))
    return table, path


def _images(root):
    """({number: (path, match of its name)} of the DICOM files, [(path, reason), ...] of those with other names and of copies)."""
    found, odd = {}, []
    for path in files_below(root, ".dcm"):
        match = NAME.match(path.name)
        if not match or match[1] in found:
            why = f"is a second image of {match[1]}" if match else "has not a name such as 20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm"
            odd.append((str(path), f"{path} {why}."))
        else:
            found[match[1]] = path, match
    return found, odd


def _outlines(root):
    """{number: path} of the outline files; those of the pectoral muscle, in a folder of that name, are not of findings."""
    inside = [path for path in files_below(root, ".xml") if "pectoral" not in str(path.parent.relative_to(root)).lower()]
    return {path.stem: path for path in reversed(inside)}


def _row(line, path, name, outline, traps):
    """The row of one image; counts in `traps` what is unusual about it."""
    header, rois = dicom_header(path), read_rois(outline, traps)
    view = line["view"] or name[4].upper()
    allowed = BIRADS[line["bi-rads"]]
    known = {label_set("normal"): 0, label_set("benign"): 1}.get(allowed, -1)
    kind, shape = lesion([name for name, _ in rois])
    extents = [pdist(points).max() for _, points in rois if len(points) > 2]
    density = "ABCD"[int(line["acr"]) - 1] if line["acr"] in ("1", "2", "3", "4") else ""
    traps.update(blank_acr=not density, view_fb=view == "FB", mlo_names=name[4].upper() == "MLO", birads_3=line["bi-rads"] == "3",
                 missing_xml=known != 0 and not outline, point_findings=sum(len(points) < 3 for _, points in rois))
    return {"sample": f"inbreast/{line['file name']}", "patient": f"inbreast/{name[2].lower()}", "study": f"inbreast/{name[2].lower()}",
            "domain": "inbreast", "modality": MAMMOGRAPHY, "view": "MLO" if view == "ML" else view,
            "laterality": line["laterality"] or name[3].upper(), "allowed": allowed, "truth": known, "grade": known,
            "density": density, "lesion_type": kind, "lesion_shape": shape,
            "diameter_mm": header.spacing * max(extents) if header.spacing and extents else float("nan"),
            "annotation": json.dumps({"polygons": [points.tolist() for _, points in rois]}) if rois else "",
            "source": str(path.resolve())}


def read_rois(path, traps=None):
    """[(name, (N, 2) points x, y in pixels), ...] of an outline file; empty if it is None or, logged, if it is damaged.

    `traps`, a Counter, gets what is unusual in it.
    """
    traps = Counter() if traps is None else traps
    if path is None:                                      # only images with findings have one
        return []
    try:
        rois = plistlib.loads(path.read_bytes())["Images"][0]["ROIs"]
        outlines = [(str(roi.get("Name", "")), [POINT.search(p) for p in roi.get("Point_px") or roi.get("ROIPoints") or ()])
                    for roi in rois]
        found = [(name, np.array([[float(p[1]), float(p[2])] for p in points])) for name, points in outlines if points]
        if not all(np.isfinite(points).all() for _, points in found):
            raise ValueError("a point that is not finite")
    except (ExpatError, OSError, LookupError, ArithmeticError, TypeError, ValueError, AttributeError) as error:
        traps["damaged_xml"] += 1
        log.warning("The outlines in %s cannot be read (%s); the image has no annotation.", path, error)
        return []
    traps.update(roi_points=any("ROIPoints" in roi for roi in rois), odd_names=sum(not SPELLED.match(name) for name, _ in found))
    return found


def lesion(names):
    """(lesion_type, lesion_shape) of an image from the names of its findings.

    A mass outranks a distortion, an asymmetry, a calcification.
    """
    said = " ".join(names).lower()
    kind = next((kind for kind, pattern in FINDINGS if pattern.search(said)), "")
    if kind == "mass":
        return kind, "spiculated" if "spicul" in said else ""
    return kind, ("cluster" if "cluster" in said else "scatter") if kind == "calcification" else ""


# ---- fetch --------------------------------------------------------------------------------------------------------

TERMS = "for research, on request from its authors; cite Moreira et al. 2012, doi 10.1016/j.acra.2011.09.014."
IMAGES, PATIENTS = 410, 115                               # of the full release


def fetch(root, limit=None, dry_run=False):
    """Checks the copy under `root`, since there is no open download; returns a row an image: path, bytes, state, outlined.

    Tells what is there and what is missing against the table, the folders and the full release, and, unless `dry_run`, which
    images cannot be decoded (state "damaged"; there are no published checksums); `limit` looks at the first images only.
    Raises `Problem` if the table is not there or none of its images is whole; with `dry_run` that is only told.
    """
    root, columns = Path(root), ["path", "bytes", "state", "outlined"]
    try:
        table, where = read_table(root)
        plan = pd.DataFrame(_copies(table["file name"][:limit], root, dry_run), columns=columns).astype({"bytes": "Int64"})
        if not plan.state.eq("complete").any():
            raise Problem(f"None of the {len(plan)} images that {where} lists is whole under {root}; copy AllDICOMs of your release there.")
    except Problem as problem:
        if not dry_run:
            raise
        print(problem)
        return pd.DataFrame(columns=columns)
    there = plan[plan.state == "complete"]
    patients = there.path.map(lambda path: NAME.match(Path(path).name)[2].lower()).nunique()
    print(f"{len(there)} of {len(plan)} listed images, of {patients} patients, are in {root.name}, {plan.outlined.sum()} of them outlined; "
          f"the full release has {IMAGES} of {PATIENTS}.\nTerms: {TERMS}")
    for row in plan[plan.state != "complete"].itertuples():
        log.warning("INbreast lists %s, which is %s.", row.path, row.state)
    if not plan.outlined.any():
        log.warning("There is no outline file such as 20586908.xml in %s: no image will have an outline; copy AllXML of your release.", root)
    return plan


def _copies(names, root, dry_run):
    """(path below `root`, bytes, state, has an outline file) of each image that is listed."""
    images, outlines = _images(root)[0], _outlines(root)
    for name in tqdm(names, "looking at images", disable=None):
        path = images[name][0] if name in images else root / "AllDICOMs" / f"{name}_*.dcm"
        size = path.stat().st_size if name in images else 0
        yield str(path.relative_to(root)), size or None, _state(path, size, dry_run), name in outlines


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
