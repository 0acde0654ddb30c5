"""BACH (ICIAR2018, CC BY-NC-ND 4.0): fields of view of H&E-stained breast tissue in four classes, and outlined slides.

    root/ICIAR2018_BACH_Challenge/Photos/{Normal,Benign,InSitu,Invasive}/*.tif and microscopy_ground_truth.csv
    root/ICIAR2018_BACH_Challenge/WSI/A01.svs and A01.xml (Aperio ImageScope), further slides without outlines
    root/ICIAR2018_BACH_Challenge_TestDataset/: photos and slides whose labels are not published
The table has no header: file name, class. The set names no patients: each photo and each slide counts as its own. Which
photos may share a patient was worked out only as far as two sides (`side`), and only for the 400 photos of the release, so
that it says nothing of who is who within a side: two patients would be too few to split or to resample by. Held out, the
whole set is the target and nothing can leak; as a source, photos of one patient may lie in training and in source
validation or test, whose results on BACH are then a little too good. Who needs more keeps the sides apart (column `study`).
"""
import json
import logging
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
from skimage.measure import points_in_poly

from data_scripts import annotations, files_below, tables
from data_scripts.download import File, ask, obtain
from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import HISTOPATHOLOGY, Problem

log = logging.getLogger(__name__)
TABLE, PHOTO = "microscopy_ground_truth.csv", (".tif", ".tiff")
CLASSES = {"Normal": 0, "Benign": 1, "InSitu": 2, "Invasive": 3}
OUTLINED = {"benign": 1, "situ": 2, "invasi": 3}          # words of an outline's label, such as "Carcinoma in situ"
RELEASE = [f"{prefix}{n:03d}" for prefix in ("b", "is", "iv", "n") for n in range(1, 101)]
SECOND = ((41, 59), (60, 90), (139, 169), (240, 258), (260, 273), (345, 368))    # see `side`


def index(root):
    """The photos that the table lists and the outlined slides as rows of `cohort.INDEX`; they may lie in any folder.

    A slide gives a row for each class that is outlined on it: "bach/A01-invasive". What lies in a hole, or in an outline of
    another class inside it, is excluded from the class around it. In the whole release, `study` is the photo's `side`; else
    it is the photo. `.attrs["exclusions"]` lists (file, reason) of what is left out, `.attrs["traps"]` counts what was met,
    name -> number; a line that is not of the form `n001.tif,Normal` is among both. Raises `Problem` if the table is missing,
    or if nothing it lists is there.
    """
    root, left_out, traps = Path(root).absolute(), [], Counter()
    files = files_below(root, ".csv", ".tif", ".tiff", ".svs", ".xml")
    of_test = ["_testdataset" in str(path.relative_to(root)).lower() for path in files]
    hidden = [path for path, test in zip(files, of_test) if test and path.suffix.lower() in (*PHOTO, ".svs")]
    files = [path for path, test in zip(files, of_test) if not test]
    table = next((path for path in files if path.name.lower() == TABLE), None)
    if table is None:
        raise Problem(f"There is no {TABLE} under {root}; run 01_download, or unpack {ARCHIVE} there.")
    rows = _photos(table, [path for path in files if path.suffix.lower() in PHOTO], left_out, traps)
    if not rows:
        first = f" ({left_out[0][1]})" if left_out else ""
        raise Problem(f"None of the images that {table} lists is there; unpack the archive again{first}.")
    outlines = {path.stem.lower(): path for path in files if path.suffix.lower() == ".xml"}
    for path in (path for path in files if path.suffix.lower() == ".svs"):
        try:
            rows += _slide(path, outlines.get(path.stem.lower()), traps)
        except Problem as problem:
            left_out.append((str(path), str(problem)))
    left_out += [(str(path), f"{path} is of the test set, whose labels are not published.") for path in hidden]
    traps["test_set"] += len(hidden)
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    table = validate(pd.DataFrame(rows), INDEX, "index of BACH")
    table.attrs.update(exclusions=left_out, traps=dict(sorted((+traps).items())))
    return table


def _photos(table, files, left_out, traps):
    """The rows of the photos among `files` that `table` lists; one in the folder of another class is not it, whatever its name."""
    rows, seen, named = [], set(), defaultdict(list)
    for path in files:
        named[path.stem.lower()].append(path)
    for number, (name, *labels) in enumerate(tables.lines(table), 1):
        label, stem = next(filter(None, labels), ""), Path(name).stem.lower()
        if label not in CLASSES or Path(name).name != name or not name:
            traps["faulty_row"] += 1
            left_out.append((str(table), tables.reason(table, number, f"gives {name!r} the class {label!r}, which is unknown")))
            continue
        fit = sorted((path.parent.name != label, path) for path in named[stem] if path.parent.name not in {*CLASSES} - {label})
        if stem in seen or not fit:
            traps["listed_twice" if stem in seen else "missing_image"] += 1
            left_out.append((name, f"{name} is listed {'twice' if stem in seen else f'as {label}, but there is no such file'}."))
            continue
        seen.add(stem)
        rows.append(_row(fit[0][1], stem, stem, CLASSES[label]))
    unlisted = sorted(set(files) - {Path(row["source"]) for row in rows})
    copies = [path for path in unlisted if path.stem.lower() in seen]
    traps.update(unlisted_image=len(unlisted) - len(copies), second_copy=len(copies))
    for path in unlisted:
        why = "a second copy" if path in copies else "not listed in the table, so that its class is not sure"
        left_out.append((str(path), f"{path} is {why}."))
    if sorted(row["patient"] for row in rows) == sorted(f"bach/{stem}" for stem in RELEASE):
        rows = [{**row, "study": side(row["patient"].removeprefix("bach/"))} for row in rows]
    return rows


def side(stem):
    """"side 1" or "side 2" of a photo of the release: no patient has photos on both, whatever the classes.

    From the patient origins that the organisers published in part, as 268 and 132 photos; the ranges are those of kaiko's
    eva, positions in `RELEASE`.
    """
    return "side 2" if any(start <= RELEASE.index(stem) < stop for start, stop in SECOND) else "side 1"


def _row(path, name, patient, label, annotation=""):
    return {"sample": f"bach/{name}", "patient": f"bach/{patient}", "study": patient, "domain": "bach", "modality": HISTOPATHOLOGY,
            "view": "", "laterality": "", "allowed": label_set(label), "truth": label, "grade": label, "density": "", "lesion_type": "",
            "lesion_shape": "", "diameter_mm": float("nan"), "annotation": annotation, "source": str(path)}


def _slide(path, xml, traps):
    """The rows of a slide, one a class that its outlines say. Raises `Problem` if there are no such outlines."""
    if xml is None:
        traps["unannotated_wsi"] += 1
        raise Problem(f"{path} has no outlines.")
    holes, drawn = [], {}
    for group, points in annotations.read(xml):
        said = [label for words, label in OUTLINED.items() if words in group]
        if len(points) < 3 or (group != annotations.HOLE and len(said) != 1):
            traps["unlabelled_outline"] += 1
        elif group == annotations.HOLE:
            traps["negative_roa"] += 1
            holes.append(points)
        else:
            drawn.setdefault(said[0], []).append(points)
    if not drawn:
        raise Problem(f"{xml} outlines nothing that is benign, in situ or invasive.")
    traps["several_classes"] += len(drawn) > 1
    rows = []
    for label, polygons in sorted(drawn.items()):
        others = [points for other, some in drawn.items() if other != label for points in some]
        inner = [points for points in others if any(points_in_poly(points, around).all() for around in polygons)]
        traps["nested_outlines"] += len(inner)
        name = next(name for name, number in CLASSES.items() if number == label).lower()
        rows.append(_row(path, f"{path.stem}-{name}", path.stem, label, json.dumps({"polygons": polygons, "exclude": holes + inner})))
    return rows


# ---- fetch --------------------------------------------------------------------------------------------------------

TERMS = "CC BY-NC-ND 4.0 (tiles must not be passed on); cite Aresta et al. 2019, doi 10.1016/j.media.2019.05.010."
ZENODO = "https://zenodo.org/api/records/3632035"
ARCHIVE, MD5 = "ICIAR2018_BACH_Challenge.zip", "8ae1801334aa943c44627c1eef3631b2"


def fetch(root, limit=None, dry_run=False):
    """The labelled archive (10.4 GB, one file, so that `limit` changes nothing), unpacked; returns the plan as a table.

    From Zenodo; the md5 is the published one. The unlabelled test archive is not fetched. With `dry_run` nothing is.
    Raises `Problem` if Zenodo does not answer, the disk is too small, or the archive did not come.
    """
    files = ask(ZENODO, lambda answer: {entry["key"]: (entry["links"]["self"], int(entry["size"])) for entry in answer.json()["files"]})
    if ARCHIVE not in files:
        raise Problem(f"The record {ZENODO} has no {ARCHIVE}; look there whether the dataset has moved.")
    url, size = files[ARCHIVE]
    archive = File(url, ARCHIVE.removesuffix(".zip"), size, f"md5:{MD5}", unpacked=3 * size)
    return obtain([archive], root, TERMS, dry_run)
