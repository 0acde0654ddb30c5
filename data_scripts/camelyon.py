"""CAMELYON16 and CAMELYON17 (CC0): slides of lymph nodes, with outlines of metastases of breast cancer.

    root/CAMELYON16/images/{normal,tumor,test}_001.tif      annotations/tumor_001.xml (ASAP)
    root/CAMELYON17/images/patient_000_node_0.tif           annotations/, stages.csv (patient,stage[,center])
Either part may be absent. The labels speak only of malignancy: tumour allows in situ and invasive, normal the other two.
"""
import logging
import re
import xml.etree.ElementTree as ElementTree
from json import dumps
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from data_scripts.download import File, ask, listing, obtain
from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import HISTOPATHOLOGY, Problem

log = logging.getLogger(__name__)
POSITIVE, EXCLUDE = {"tumor", "_0", "_1", "metastases"}, {"_2"}   # ASAP groups, in lower case; others are ignored


def index(root):
    """A row of `cohort.INDEX` for each slide under `root`; `.attrs["exclusions"]` lists (file, reason) of those left out.

    A positive slide without outlines is left out, since no tile of it has a label. Raises `Problem` if there is neither
    part, if stages.csv is missing or lacks a column, or if no slide is left.
    """
    root, rows, left_out = Path(root).absolute(), [], []
    if not any((root / part).is_dir() for part in ("CAMELYON16", "CAMELYON17")):
        raise Problem(f"There is neither CAMELYON16 nor CAMELYON17 in {root}; run 01_download, or correct the path.")
    for part, slides in (("CAMELYON16", _old), ("CAMELYON17", _new)):
        for path, patient, positive in slides(root / part) if (root / part).is_dir() else ():
            try:
                rows.append(_row(path, patient, positive, root / part / "annotations" / f"{path.stem}.xml"))
            except Problem as problem:
                log.warning("%s Left out.", problem)
                left_out.append((str(path), str(problem)))
    if not rows:
        raise Problem(f"No slide in {root} could be indexed ({len(left_out)} left out); check images/ and the tables beside it.")
    table = validate(pd.DataFrame(rows), INDEX, "index of CAMELYON")
    table.attrs["exclusions"] = left_out
    return table


def _row(path, patient, positive, xml):
    """The row of a slide. Raises `Problem` where it cannot be used."""
    if positive is None:
        raise Problem(f"Whether {path.name} is positive is not known here.")
    if not path.is_file():
        raise Problem(f"{path} is listed in stages.csv, but there is no such file.")
    outlines = asap(xml) if xml.is_file() else {"polygons": [], "exclude": []}
    if positive and not outlines["polygons"]:
        raise Problem(f"{path.name} is positive, but no tumour is outlined in {xml}.")
    return {"sample": f"camelyon/{path.stem}", "patient": f"camelyon/{patient}", "study": patient, "domain": "camelyon",
            "modality": HISTOPATHOLOGY, "view": "", "laterality": "", "allowed": label_set(2, 3) if positive else label_set(0, 1),
            "truth": -1, "grade": -1, "density": "", "lesion_type": "", "lesion_shape": "", "diameter_mm": float("nan"),
            "annotation": dumps(outlines) if positive else "", "source": str(path)}


def _old(part):
    """(path, patient, positive) of CAMELYON16: by name; a test slide is positive if outlined, otherwise not known."""
    for path in sorted((part / "images").glob("*.tif")):
        kind = path.stem.lower().split("_")[0]
        outlined = (part / "annotations" / f"{path.stem}.xml").is_file()
        yield path, path.stem, {"normal": False, "tumor": True}.get(kind, True if outlined else None)


def _new(part):
    """(path, patient, positive) of CAMELYON17: by stages.csv, whose lines are patients (.zip) and slides (.tif)."""
    table = part / "stages.csv"
    try:
        stages = pd.read_csv(table, dtype=str)
    except FileNotFoundError:
        raise Problem(f"There is no {table}; without it a slide with no outline cannot be told from a negative one: fetch it.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Problem(f"{table} cannot be read ({error}); fetch it again.") from None
    if not {"patient", "stage"} <= set(stages):
        raise Problem(f"{table} has the columns {', '.join(stages)} and lacks patient or stage; fetch it again.")
    known = {"negative": False, "itc": True, "micro": True, "macro": True}
    listed = stages[stages.patient.str.endswith(".tif", na=False)]
    for name, stage in zip(listed.patient, listed.stage.fillna("")):
        yield part / "images" / name, name.split("_node_")[0], known.get(stage.strip().lower())


def asap(path):
    """{"polygons": [...], "exclude": [...]} of an ASAP XML: lists of [x, y] in level-0 pixels. Raises `Problem` if damaged."""
    found = {"polygons": [], "exclude": []}
    try:
        for annotation in ElementTree.parse(path).getroot().iter("Annotation"):
            group = annotation.get("PartOfGroup", "").strip().lower()
            points = sorted((int(p.get("Order")), float(p.get("X")), float(p.get("Y"))) for p in annotation.iter("Coordinate"))
            if group in POSITIVE | EXCLUDE and len(points) > 2:
                found["polygons" if group in POSITIVE else "exclude"].append([[x, y] for _, x, y in points])
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise Problem(f"The annotation {path} is damaged ({error}); fetch it again.") from None
    return found


# ---- fetch --------------------------------------------------------------------------------------------------------

TERMS = "CC0; cite Litjens et al. 2018, doi 10.1093/gigascience/giy065."
BUCKET = "https://camelyon-dataset.s3.us-west-2.amazonaws.com"


def fetch(root, limit=None, dry_run=False):
    """The tables and `limit` slides with their outlines, of both parts; returns the plan as a table.

    From the open bucket, checked by its checksums.md5. Slides of CAMELYON17 that stages.csv does not list have no label and
    are not fetched. They come by number, so that the first ones are of every kind. All: about 2 TB. With `dry_run` nothing
    is fetched. Raises `Problem` if the bucket does not answer, the disk is too small, or files did not come.
    """
    md5, listed = {}, []
    for part in ("CAMELYON16", "CAMELYON17"):
        sums = ask(f"{BUCKET}/{part}/checksums.md5", lambda answer: re.findall(r"^([0-9a-f]{32}) [ *](.+?)\s*$", answer.text, re.M))
        md5 |= {f"{part}/{name}": f"md5:{digits}" for digits, name in sums}
        listed += [File(f"{BUCKET}/{quote(key)}", key, size, md5.get(key, tag)) for key, size, tag in listing(BUCKET, f"{part}/")]
    staged = ask(f"{BUCKET}/CAMELYON17/stages.csv", lambda answer: answer.text)
    of_kind = lambda kind: {Path(f.path).stem: f for f in listed if Path(f.path).parent.name == kind}
    slides, outlines = of_kind("images"), of_kind("annotations")
    labelled = [name for name, file in slides.items() if file.path.startswith("CAMELYON16") or f"{name}.tif" in staged]
    chosen = sorted(labelled, key=lambda name: ((re.findall(r"\d+", name) or [""])[0], name))[:limit]
    tables = [f for f in listed if f.path.endswith((".csv", ".txt", ".md"))]
    return obtain(tables + [outlines[n] for n in chosen if n in outlines] + [slides[n] for n in chosen], root, TERMS, dry_run)
