"""BACH (ICIAR2018, CC BY-NC-ND 4.0): fields of view of H&E-stained breast tissue in four classes.

    root/ICIAR2018_BACH_Challenge/Photos/{Normal,Benign,InSitu,Invasive}/*.tif and microscopy_ground_truth.csv
The table has no header: file name, class. The set names no patients, so that each image counts as its own.
"""
import csv
import logging
from pathlib import Path

import pandas as pd

from data_scripts.download import File, ask, obtain
from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import HISTOPATHOLOGY, Problem

log = logging.getLogger(__name__)
CLASSES = {"Normal": 0, "Benign": 1, "InSitu": 2, "Invasive": 3}


def index(root):
    """A row of `cohort.INDEX` for each listed image under `root`; `.attrs["exclusions"]` lists (file, reason) of those left out.

    Raises `Problem` if the table is missing or not of the form `n001.tif,Normal`, or if none of its images is there.
    """
    photos = Path(root) / "ICIAR2018_BACH_Challenge" / "Photos"
    rows, left_out = [], []
    for name, label in _table(photos / "microscopy_ground_truth.csv"):
        path = (photos / label / name).absolute()
        if not path.is_file():
            log.warning("%s is listed in the table but missing; left out.", path)
            left_out.append((str(path), "listed in the table, but there is no such file"))
            continue
        rows.append({"sample": f"bach/{path.stem}", "patient": f"bach/{path.stem}", "study": path.stem, "domain": "bach",
                     "modality": HISTOPATHOLOGY, "view": "", "laterality": "", "allowed": label_set(CLASSES[label]),
                     "truth": CLASSES[label], "grade": CLASSES[label], "density": "", "lesion_type": "", "lesion_shape": "",
                     "diameter_mm": float("nan"), "annotation": "", "source": str(path)})
    if not rows:
        raise Problem(f"None of the images that microscopy_ground_truth.csv lists lies in {photos}; unpack the archive there again.")
    table = validate(pd.DataFrame(rows), INDEX, "index of BACH")
    table.attrs["exclusions"] = left_out
    return table


def _table(path):
    """[(file name, class)] of the ground truth."""
    try:
        lines = [line for line in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if line]
    except FileNotFoundError:
        raise Problem(f"There is no {path}; unpack ICIAR2018_BACH_Challenge.zip so that its Photos folder lies there.") from None
    except UnicodeDecodeError as error:
        raise Problem(f"{path} is not a text file ({error}); unpack the archive again.") from None
    for number, line in enumerate(lines, 1):
        if len(line) != 2 or line[1].strip() not in CLASSES:
            raise Problem(f"Line {number} of {path} is {','.join(line)!r}, not a file name and one of {', '.join(CLASSES)}; "
                          "unpack the archive again.")
    return [(name.strip(), label.strip()) for name, label in lines]


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
