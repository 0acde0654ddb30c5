"""CAMELYON16 and CAMELYON17 (CC0): slides of lymph nodes, with outlines of metastases of breast cancer.

    root/CAMELYON16/{images,masks,annotations}/, root/CAMELYON17/ the same and stages.csv            as the bucket has it
    root/training/{normal,tumor,lesion_annotations[.zip]}, testing/{images,reference.csv}            as GigaDB has it
Names say what a file is, {normal,tumor,test}_001 or patient_000_node_0, in any case, so that it may lie in any folder; the
tables are stages.csv or stage_labels.csv (patient,stage[,center]) and reference.csv (no header: slide, Normal or Tumor, ...).
The labels speak only of malignancy: tumour allows in situ and invasive, normal the other two.
"""
import logging
import re
import zipfile
from collections import Counter
from dataclasses import replace
from json import dumps
from pathlib import Path

import pandas as pd

from data_scripts import annotations, files_below, tables
from data_scripts.bucket import listing
from data_scripts.download import ask, obtain
from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import HISTOPATHOLOGY, Problem

log = logging.getLogger(__name__)
SLIDE = re.compile(r"(normal|tumor|test)_\d{3}|patient_\d{3}_node_\d")
NOT_SLIDES = {"masks", "background_tissue", "evaluation"}                        # folders whose images are no slides
POSITIVE, EXCLUDE = {"tumor", "_0", "_1", "metastases", "positive"}, {"_2", "normal", "exclusion", "negative"}    # groups of outlines
STAGES = {"negative": False, "itc": True, "micro": True, "macro": True}
LEFT_OUT = {"normal_086": ("mislabelled_slide", "it shows a tumour and was renamed tumor_111"),
            "test_049": ("duplicate_slide", "it is a duplicate")}
# Slides whose tumour is not outlined in full, as the organisers say, besides the isolated tumour cells (ITC) of CAMELYON17.
PARTIAL = {f"tumor_{n:03d}" for n in (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)} | {"test_114"}


def index(root):
    """A row of `cohort.INDEX` for each slide under `root`. A slide with tumour, isolated tumour cells included, carries its
    outlines, and without any is left out: what lies outside them has no label, since not every slide is outlined in full.

    `.attrs["exclusions"]` lists (file, reason) of what is left out, `.attrs["traps"]` counts what was met, name -> number.
    Rows of tables that cannot be used are among both. The patient of a CAMELYON16 slide is the slide. Raises `Problem` if there
    is no slide, if CAMELYON17 has no stage table, if a table cannot be read or lacks a column, or if no slide is left.
    """
    root, rows, left_out, traps = Path(root).absolute(), [], [], Counter()
    files = files_below(root)
    slides, outlines = _slides(files, root, left_out, traps), _outlines(files)
    positive = _labels(files, slides, left_out, traps)
    if not slides:
        raise Problem(f"There is no slide of CAMELYON16 or CAMELYON17 in {root}; run 01_download, or correct the path.")
    if any(stem.startswith("patient") for stem in slides) and not any(stem.startswith("patient") for stem in positive):
        raise Problem(f"There is no stages.csv in {root}; without it a slide with no outline cannot be told from a negative one: fetch it.")
    for stem, path in slides.items():
        try:
            rows.append(_row(stem, path, positive.get(stem), outlines.get(stem), traps))
        except Problem as problem:
            left_out.append((str(path), str(problem)))
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    if missing := [f"{stem}.tif" for stem in positive if stem not in slides]:
        traps["missing_image"] += len(missing)
        left_out += [(name, f"{name} is listed in a table, but there is no such file.") for name in missing]
        log.warning("CAMELYON: %d slides that its tables list are not there.", len(missing))
    if not rows:
        raise Problem(f"No slide in {root} could be indexed ({len(left_out)} left out); check its tables and annotations.")
    table = validate(pd.DataFrame(rows), INDEX, "index of CAMELYON")
    table.attrs.update(exclusions=left_out, traps=dict(sorted((+traps).items())))
    return table


def _row(stem, path, positive, outlined, traps):
    """The row of a slide. Raises `Problem` where it cannot be used."""
    if stem in LEFT_OUT:
        trap, why = LEFT_OUT[stem]
        traps[trap] += 1
        raise Problem(f"{path.name} is not used: {why}.")
    found = _polygons(outlined, traps) if outlined else {"polygons": [], "exclude": []}
    if positive is None and stem.startswith("test") and found["polygons"]:
        positive = True
    if positive is None:
        traps["unlabelled_slide"] += 1
        raise Problem(f"Whether {path.name} is positive is not known here.")
    if positive and not found["polygons"]:
        traps["missing_outlines"] += 1
        raise Problem(f"{path.name} is positive, but no tumour of it is outlined.")
    if found["polygons"] and not positive:
        traps["contradicted_label"] += 1
        raise Problem(f"{path.name} is called negative, but tumour is outlined in {outlined}.")
    traps["partial_outlines"] += stem in PARTIAL
    patient = stem.split("_node_")[0]
    return {"sample": f"camelyon/{stem}", "patient": f"camelyon/{patient}", "study": patient, "domain": "camelyon",
            "modality": HISTOPATHOLOGY, "view": "", "laterality": "", "allowed": label_set(2, 3) if positive else label_set(0, 1),
            "truth": -1, "grade": -1, "density": "", "lesion_type": "", "lesion_shape": "", "diameter_mm": float("nan"),
            "annotation": dumps(found) if positive else "", "source": str(path)}


def _slides(files, root, left_out, traps):
    """{name in lower case: path} of the slides, first CAMELYON16; further copies of one go to `left_out`."""
    slides = {}
    for path in files:
        stem = path.stem.lower()
        if path.suffix.lower() not in (".tif", ".tiff") or not SLIDE.fullmatch(stem) or NOT_SLIDES & set(str(path.relative_to(root)).lower().split("/")):
            continue
        if stem in slides:
            traps["second_copy"] += 1
            left_out.append((str(path), f"{path} is a second copy of {slides[stem]}."))
        else:
            slides[stem] = path
    return {stem: slides[stem] for stem in sorted(slides, key=lambda stem: (stem.startswith("patient"), stem))}


def _labels(files, slides, left_out, traps):
    """{slide: whether it has tumour}, from names of slides and from tables, whose rows that cannot be used go to `left_out`."""
    named = {name: [path for path in files if path.name.lower() == name] for name in ("stages.csv", "stage_labels.csv", "reference.csv")}
    before = len(left_out)
    stages = {stem: line for name in ("stage_labels.csv", "stages.csv") for path in named[name] for stem, line in read_stages(path, left_out).items()}
    key = {stem: label for path in named["reference.csv"] for stem, label in read_reference(path, left_out).items()}
    traps["faulty_row"] += len(left_out) - before
    traps["itc"] += sum(stage == "itc" for stage, _ in stages.values())
    traps["odd_center"] += sum(center not in ("", str(int(stem[8:11]) // 20 % 5)) for stem, (_, center) in stages.items())
    return {**{stem: stem.startswith("tumor") for stem in slides if stem.startswith(("normal", "tumor"))},
            **{stem: STAGES[stage] for stem, (stage, _) in stages.items()}, **key}


def read_stages(path, left_out=None):
    """{slide: (stage, centre or "")} of stages.csv (patient,stage,center) or stage_labels.csv (patient,stage), in lower case.

    The rows of patients, whose names end in .zip, are not returned; rows of other names or stages go to the list `left_out` as
    (table, reason). Raises `Problem` if the table cannot be read or lacks a column.
    """
    table, found = tables.read(path, {"patient", "stage"}), {}
    for line in table.to_dict("records"):
        name, stage = line["patient"].lower(), line["stage"].lower()
        if not line["fault"] and re.fullmatch(r"patient_\d{3}_node_\d\.tiff?", name) and stage in STAGES:
            found[Path(name).stem] = stage, line.get("center", "")
        elif line["fault"] or not re.fullmatch(r"patient_\d{3}\.zip", name):
            why = line["fault"] or f"gives {name!r} the stage {stage!r}, and one of the two is unknown"
            _skip(path, line["row"], why, left_out)
    return found


def read_reference(path, left_out=None):
    """{slide: whether it has tumour} of reference.csv, whose lines are test_001,Tumor,... or test_003,Normal,...

    Other lines go to the list `left_out` as (table, reason). Raises `Problem` if the table cannot be read.
    """
    found = {}
    for number, (name, *said) in enumerate(tables.lines(path), 1):
        name, label = name.lower().removesuffix(".tif"), said[0].lower() if said else ""
        if label in ("normal", "tumor") and SLIDE.fullmatch(name):
            found[name] = label == "tumor"
        else:
            _skip(path, number, f"gives {name!r} the label {label!r}, and one of the two is unknown", left_out)
    return found


def _skip(path, row, why, left_out):
    """Notes in `left_out`, where it is a list, that a row of a table cannot be used."""
    if left_out is not None:
        left_out.append((str(path), tables.reason(path, row, why)))


def _outlines(files):
    """{slide: path of its outlines}: ASAP XML, also inside lesion_annotations.zip, before NCRF's JSON, before a mask."""
    found = {path.stem.lower().removesuffix("_mask"): path for path in files if re.fullmatch(r".*_mask\.tiff?", path.name.lower())}
    found.update((path.stem.lower(), path) for path in files if path.suffix.lower() == ".json")
    for path in files:
        if re.fullmatch(r".*annotations.*\.zip", path.name.lower()):
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise Problem(f"{path} is not an archive ({error}); fetch it again.") from None
            members = [zipfile.Path(archive, name) for name in archive.namelist() if name.lower().endswith(".xml")]
            found.update((member.stem.lower(), member) for member in members)
    found.update((path.stem.lower(), path) for path in files if path.suffix.lower() == ".xml")
    return found


def _polygons(path, traps):
    """{"polygons": [...], "exclude": [...]} of the outlines in `path`: lists of [x, y] in level-0 pixels."""
    found = {"polygons": [], "exclude": []}
    for group, points in annotations.read(path):
        if len(points) < 3:
            traps["short_outline"] += 1
        elif group in POSITIVE:
            found["polygons"].append(points)
        elif group in EXCLUDE:
            traps["excluded_groups"] += 1
            found["exclude"].append(points)
        else:
            traps["unknown_group"] += 1
    traps["mask_outlines"] += path.name.lower().endswith((".tif", ".tiff"))
    traps["json_outlines"] += path.name.lower().endswith(".json")
    return found


# ---- fetch --------------------------------------------------------------------------------------------------------

TERMS = "CC0; cite Litjens et al. 2018, doi 10.1093/gigascience/giy065."
BUCKET = "https://camelyon-dataset.s3.us-west-2.amazonaws.com"


def fetch(root, limit=None, dry_run=False):
    """The tables and `limit` slides with their outlines, of both parts; returns the plan as a table.

    From the open bucket, checked by its checksums.md5, and what that does not list by its ETag. Slides of CAMELYON17 that
    stages.csv does not list have no label and are not fetched. They come by number, so that the first ones are of every kind.
    All: about 2 TB. With `dry_run` nothing is fetched. Raises `Problem` if the bucket does not answer, the disk is too small, or files did not come.
    """
    md5, listed = {}, []
    for part in ("CAMELYON16", "CAMELYON17"):
        sums = ask(f"{BUCKET}/{part}/checksums.md5", lambda answer: re.findall(r"^([0-9a-f]{32}) [ *](.+?)\s*$", answer.text, re.M))
        md5 |= {f"{part}/{name}": f"md5:{digits}" for digits, name in sums}
        listed += [replace(file, checksum=md5[file.path], check=None) if file.path in md5 else file for file in listing(BUCKET, f"{part}/")]
    staged = ask(f"{BUCKET}/CAMELYON17/stages.csv", lambda answer: answer.text)
    of_kind = lambda kind: {Path(f.path).stem: f for f in listed if Path(f.path).parent.name == kind}
    slides, outlines = of_kind("images"), of_kind("annotations")
    labelled = [name for name, file in slides.items() if file.path.startswith("CAMELYON16") or f"{name}.tif" in staged]
    chosen = sorted(labelled, key=lambda name: ((re.findall(r"\d+", name) or [""])[0], name))[:limit]
    tables = [f for f in listed if f.path.endswith((".csv", ".txt", ".md"))]
    return obtain(tables + [outlines[n] for n in chosen if n in outlines] + [slides[n] for n in chosen], root, TERMS, dry_run)
