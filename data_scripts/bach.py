"""BACH (ICIAR2018, CC BY-NC-ND 4.0): fields of view of H&E-stained breast tissue in four classes, and
outlined slides.

    root/ICIAR2018_BACH_Challenge/Photos/{Normal,Benign,InSitu,Invasive}/*.tif and microscopy_ground_truth.csv
    root/ICIAR2018_BACH_Challenge/WSI/A01.svs and A01.xml (Aperio ImageScope), further slides without outlines
    root/ICIAR2018_BACH_Challenge_TestDataset/: photos and slides whose labels are not published

The table has no header; its columns are file name and class. The dataset names no patients: each photo and
each slide counts as its own. Which photos may share a patient was worked out only as far as two sides (see
`side`), and only for the 400 photos of the release. The sides say nothing of who is who within a side, and
two patients would be too few to split or to resample by. Held out, the whole dataset is the target and
nothing can leak. As a source, photos of one patient may lie in training and in source validation or test, so
that results on BACH are then a little too good; whoever needs more keeps the two sides apart (column
`study`).
"""
import json
import logging
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
from skimage.measure import points_in_poly

from data_scripts import annotations, tables
from data_scripts.download import File, ask, obtain
from data_scripts.indexing import Index, files_below, met, rows_of
from xmodal.cohort import INDEX, index_row, label_set, validate
from xmodal.config import HISTOPATHOLOGY, Problem

log = logging.getLogger(__name__)
TABLE = "microscopy_ground_truth.csv"
PHOTO = (".tif", ".tiff")
CLASSES = {"Normal": 0, "Benign": 1, "InSitu": 2, "Invasive": 3}
# Parts of the labels of outlines, such as "Carcinoma in situ".
OUTLINED = {"benign": 1, "situ": 2, "invasi": 3}
RELEASE = [f"{prefix}{n:03d}" for prefix in ("b", "is", "iv", "n") for n in range(1, 101)]
# Ranges of positions in `RELEASE`; see `side`.
SECOND = ((41, 59), (60, 90), (139, 169), (240, 258), (260, 273), (345, 368))


def index(root):
    """The photos that the table lists and the outlined slides as rows of `cohort.INDEX`; see `read`."""
    return rows_of(read(root))


def read(root):
    """`Index` of the photos that the table lists and of the outlined slides; the files may lie in any folder
    below `root`.

    A slide has the outlines of each class and is called by the worst of them; what lies in no outline is
    normal tissue, as in the challenge. What lies in a hole, or in an outline of another class inside it, is
    excluded from the class around it. In the whole release,
    `study` is the photo's `side`; else it is the photo. A line of the table that is not of the form
    `n001.tif,Normal` is an exclusion and a trap. Raises `Problem` if the table is missing, or if nothing that
    it lists is there.
    """
    root = Path(root).absolute()
    traps = Counter()
    files, hidden = _files(root)
    table = next((path for path in files if path.name.lower() == TABLE), None)
    if table is None:
        raise Problem(f"There is no {TABLE} under {root}; run 01_download, or unpack {ARCHIVE} there.")
    rows, left_out = _photos(table, [path for path in files if path.suffix.lower() in PHOTO], traps)
    if not rows:
        first = f" ({left_out[0][1]})" if left_out else ""
        raise Problem(f"None of the images that {table} lists is there; unpack the archive again{first}.")
    outlines = {path.stem.lower(): path for path in files if path.suffix.lower() == ".xml"}
    for path in files:
        if path.suffix.lower() != ".svs":
            continue
        try:
            rows.append(_slide(path, outlines.get(path.stem.lower()), traps))
        except Problem as problem:
            left_out.append((str(path), str(problem)))
    for path in hidden:
        left_out.append((str(path), f"{path} is of the test set, whose labels are not published."))
    traps["test_set"] += len(hidden)
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    return Index(validate(pd.DataFrame(rows), INDEX, "index of BACH"), left_out, met(traps))


def _files(root):
    """(paths of the files of the challenge, paths of the images of its test set) below `root`."""
    files = []
    hidden = []
    for path in files_below(root, ".csv", ".tif", ".tiff", ".svs", ".xml"):
        if "_testdataset" not in str(path.relative_to(root)).lower():
            files.append(path)
        elif path.suffix.lower() in (*PHOTO, ".svs"):
            hidden.append(path)
    return files, hidden


# ---- photos ------------------------------------------------------------------------------------------------

def _photos(table, files, traps):
    """(rows of the photos among `files` that `table` lists, exclusions).

    A photo in the folder of another class is not the one that is listed, whatever its name.
    """
    rows = []
    left_out = []
    listed = set()                                         # names of photos that have a row, without suffix
    named = defaultdict(list)
    for path in files:
        named[path.stem.lower()].append(path)
    lines = [(name, next(filter(None, labels), "")) for name, *labels in tables.lines(table)]
    contradicted = _contradicted(lines, named)
    for number, (name, label) in enumerate(lines, 1):
        stem = Path(name).stem.lower()
        if label not in CLASSES or Path(name).name != name or not name:
            traps["faulty_row"] += 1
            fault = f"gives {name!r} the class {label!r}, which is unknown"
            left_out.append((str(table), tables.reason(table, number, fault)))
            continue
        photo = _photo_of(label, named[stem])
        if photo in contradicted:
            traps["faulty_row"] += 1
            fault = f"gives {name} one of several classes"
            left_out.append((str(table), tables.reason(table, number, fault)))
        elif stem in listed:
            traps["listed_twice"] += 1
            left_out.append((name, f"{name} is listed twice."))
        elif photo is None:
            traps["missing_image"] += 1
            left_out.append((name, f"{name} is listed as {label}, but there is no such file."))
        else:
            listed.add(stem)
            rows.append(_row(photo, stem, stem, CLASSES[label]))
    left_out += _unlisted(files, rows, listed, traps)
    if listed == set(RELEASE):
        rows = [{**row, "study": side(row["patient"].removeprefix("bach/"))} for row in rows]
    return rows, left_out


def _contradicted(lines, named):
    """The photos that the `lines` (name, class) of the table give several classes.

    `named` has the paths of all photos by their names.
    """
    classes = defaultdict(set)
    for name, label in lines:
        photo = _photo_of(label, named[Path(name).stem.lower()])
        if label in CLASSES and photo:
            classes[photo].add(label)
    return {photo for photo, labels in classes.items() if len(labels) > 1}


def _photo_of(label, paths):
    """Of files with the same name the one that shows `label`, or None.

    It is the one in the folder of its class, else the first that is in the folder of no other class.
    """
    other_classes = set(CLASSES) - {label}
    fitting = [path for path in paths if path.parent.name not in other_classes]
    return min(fitting, key=lambda path: (path.parent.name != label, path), default=None)


def _unlisted(files, rows, listed, traps):
    """The exclusions for photos among `files` that gave no row."""
    used = {Path(row["source"]) for row in rows}
    left_out = []
    for path in sorted(set(files) - used):
        if path.stem.lower() in listed:
            traps["second_copy"] += 1
            left_out.append((str(path), f"{path} is a second copy."))
        else:
            traps["unlisted_image"] += 1
            left_out.append((str(path), f"{path} is not listed in the table, so that its class is not sure."))
    return left_out


def side(stem):
    """"side 1" or "side 2" of a photo of the release: no patient has photos on both, whatever their classes.

    The sides come from the patient origins that the organisers published in part, as 268 and 132 photos. The
    ranges in `SECOND` are those of kaiko's eva, positions in `RELEASE`.
    """
    position = RELEASE.index(stem)
    is_second = any(start <= position < stop for start, stop in SECOND)
    return "side 2" if is_second else "side 1"


def _row(path, name, patient, label, annotation=""):
    return index_row(
        sample=f"bach/{name}", patient=f"bach/{patient}", study=patient, domain="bach",
        modality=HISTOPATHOLOGY, allowed=label_set(label), truth=label, grade=label, annotation=annotation,
        source=str(path))


# ---- slides ------------------------------------------------------------------------------------------------

def _slide(path, xml, traps):
    """The row of a slide. Raises `Problem` if no class is outlined.
    """
    if xml is None:
        traps["unannotated_wsi"] += 1
        raise Problem(f"{path} has no outlines.")
    drawn, holes = _outlines(xml, traps)
    if not drawn:
        raise Problem(f"{xml} outlines nothing that is benign, in situ or invasive.")
    traps["several_classes"] += len(drawn) > 1
    classes = {}
    for label, polygons in sorted(drawn.items()):
        others = [points for other in drawn if other != label for points in drawn[other]]
        inner = _inside(polygons, others)
        traps["nested_outlines"] += len(inner)
        classes[label] = {"polygons": polygons, "exclude": holes + inner}
    return _row(path, path.stem, path.stem, max(drawn), json.dumps({"classes": classes}))


def _outlines(xml, traps):
    """({class: outlines}, holes) of an ImageScope file.

    Outlines of no class, and of more than one, are left out and counted in `traps`.
    """
    drawn = {}
    holes = []
    for group, points in annotations.read(xml):
        labels = [label for part, label in OUTLINED.items() if part in group]
        if len(points) < 3 or (group != annotations.HOLE and len(labels) != 1):
            traps["unlabelled_outline"] += 1
        elif group == annotations.HOLE:
            traps["negative_roa"] += 1
            holes.append(points)
        else:
            drawn.setdefault(labels[0], []).append(points)
    return drawn, holes


def _inside(polygons, others):
    """Those of the outlines `others` that lie within one of `polygons`.

    Of an outline of thousands of points, about a thousand are looked at.
    """
    inner = []
    for points in others:
        some = points[::1 + len(points) // 1000]
        if any(points_in_poly(some, polygon).all() for polygon in polygons):
            inner.append(points)
    return inner


# ---- fetch -------------------------------------------------------------------------------------------------

TERMS = ("CC BY-NC-ND 4.0 (tiles must not be passed on); "
         "cite Aresta et al. 2019, doi 10.1016/j.media.2019.05.010.")
ZENODO = "https://zenodo.org/api/records/3632035"
ARCHIVE = "ICIAR2018_BACH_Challenge.zip"
MD5 = "8ae1801334aa943c44627c1eef3631b2"


def fetch(root, limit=None, dry_run=False):
    """The labelled archive (10.4 GB, one file, so that `limit` changes nothing), unpacked; returns the plan
    as a table.

    It comes from Zenodo; the md5 is the published one. The unlabelled test archive is not fetched. With
    `dry_run` nothing is fetched. Raises `Problem` if Zenodo does not answer, the disk is too small, or the
    archive did not come.
    """
    files = ask(ZENODO, _listed)
    if ARCHIVE not in files:
        raise Problem(f"The record {ZENODO} has no {ARCHIVE}; look there whether the dataset has moved.")
    url, size = files[ARCHIVE]
    archive = File(url, ARCHIVE.removesuffix(".zip"), size, f"md5:{MD5}", unpacked=3 * size)
    return obtain([archive], root, TERMS, dry_run)


def _listed(answer):
    """{name: (url, bytes)} of the files in Zenodo's answer."""
    entries = answer.json()["files"]
    return {entry["key"]: (entry["links"]["self"], int(entry["size"])) for entry in entries}
