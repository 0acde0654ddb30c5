"""CAMELYON16 and CAMELYON17 (CC0): slides of lymph nodes, with outlines of metastases of breast cancer.

    root/CAMELYON16/{images,masks,annotations}/                           the layout of the bucket
    root/CAMELYON17/ with the same folders and stages.csv
    root/training/{normal,tumor,lesion_annotations[.zip]}                 the layout of GigaDB
    root/testing/{images,reference.csv}

Names say what a file is, {normal,tumor,test}_001 or patient_000_node_0, in any case, so that it may lie in
any folder. The tables are stages.csv or stage_labels.csv (patient,stage[,center]) and reference.csv (no
header: slide, Normal or Tumor, ...).

Classes: carcinoma in situ reaches no node, so tumour allows `invasive` only, and a node without tumour allows
`normal` only. That is the node: of the breast a node without tumour says nothing (`cohort.of_breast`).
"""
import logging
import re
from collections import Counter
from dataclasses import replace
from json import dumps
from pathlib import Path

import pandas as pd

from data_scripts import answers, camelyon_outlines, tables
from data_scripts.bucket import listing
from data_scripts.download import ask, obtain
from data_scripts.indexing import Index, files_below, met, rows_of
from xmodal.cohort import INDEX, index_row, label_set, validate
from xmodal.config import HISTOPATHOLOGY, Problem

log = logging.getLogger(__name__)
SLIDE = re.compile(r"(normal|tumor|test)_\d{3}|patient_\d{3}_node_\d")
NOT_SLIDES = {"masks", "background_tissue", "evaluation"}          # folders whose images are no slides
STAGES = {"negative": False, "itc": True, "micro": True, "macro": True}
LEFT_OUT = {"normal_086": ("mislabelled_slide", "it shows a tumour and was renamed tumor_111"),
            "test_049": ("duplicate_slide", "it is a duplicate")}
# Not outlined in full, as the organisers say; in CAMELYON17 slides with isolated tumour cells are not either.
PARTIAL_NUMBERS = (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)
PARTIAL = {f"tumor_{n:03d}" for n in PARTIAL_NUMBERS} | {"test_114"}


def index(root):
    """One row of `cohort.INDEX` for each slide under `root` that can be used; see `read`."""
    return rows_of(read(root))


def read(root):
    """`Index` of the slides under `root`, one row each.

    A slide with tumour carries its outlines, and without any it is left out. Rows of tables that cannot be
    used are exclusions and traps. The patient of a CAMELYON16 slide is the slide. Raises `Problem` if no
    slide is there or left, if CAMELYON17 has no stage table, or if a table cannot be read or lacks a column.
    """
    root = Path(root).absolute()
    left_out = []
    traps = Counter()
    files = files_below(root)
    slides = _slides(files, root, left_out, traps)
    outlines = camelyon_outlines.find(files)
    positive, itc = _labels(files, slides, left_out, traps)
    _check_parts(root, slides, positive)
    rows = []
    for stem, path in slides.items():
        try:
            partial = stem in PARTIAL or stem in itc
            rows.append(_row(path, positive.get(stem), outlines.get(stem), partial, traps))
        except Problem as problem:
            left_out.append((str(path), str(problem)))
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    missing = [f"{stem}.tif" for stem in positive if stem not in slides]
    if missing:
        traps["missing_image"] += len(missing)
        left_out += [(name, f"{name} is listed in a table, but there is no such file.") for name in missing]
        log.warning("CAMELYON: %d slides that its tables list are not there.", len(missing))
    if not rows:
        raise Problem(f"No slide in {root} could be indexed ({len(left_out)} left out); "
                      "check its tables and annotations.")
    return Index(validate(pd.DataFrame(rows), INDEX, "index of CAMELYON"), left_out, met(traps))


def _check_parts(root, slides, positive):
    """Raises `Problem` if there is no slide, or no table of the stages of CAMELYON17's slides."""
    if not slides:
        raise Problem(f"There is no slide of CAMELYON16 or CAMELYON17 in {root}; "
                      "run 01_download, or correct the path.")
    has_slides = any(stem.startswith("patient") for stem in slides)
    has_stages = any(stem.startswith("patient") for stem in positive)
    if has_slides and not has_stages:
        raise Problem(f"There is no stages.csv in {root}; without it a slide with no outline cannot be told "
                      "from a negative one: fetch it.")


def _row(path, positive, outline_path, partial, traps):
    """The row of a slide; `positive` is None where its label is not known.

    Raises `Problem` if the slide cannot be used.
    """
    if (stem := path.stem.lower()) in LEFT_OUT:
        trap, why = LEFT_OUT[stem]
        traps[trap] += 1
        raise Problem(f"{path.name} is not used: {why}.")
    outlines = {"polygons": [], "exclude": []}
    if outline_path:
        outlines = camelyon_outlines.polygons(outline_path, traps)
    if positive is None and stem.startswith("test") and outlines["polygons"]:
        positive = True
    _check_label(path, positive, outlines, outline_path, traps)
    traps["partial_outlines"] += stem in PARTIAL
    if partial:
        outlines["partial"] = True
    patient = stem.split("_node_")[0]
    label = 3 if positive else 0
    return index_row(
        sample=f"camelyon/{stem}", patient=f"camelyon/{patient}", study=patient, domain="camelyon",
        modality=HISTOPATHOLOGY, allowed=label_set(label), truth=label, grade=label, source=str(path),
        annotation=dumps(outlines) if positive else "")


def _check_label(path, positive, outlines, outline_path, traps):
    """Raises `Problem` if the label of a slide is not known, or if its outlines do not fit the label."""
    if positive is None:
        traps["unlabelled_slide"] += 1
        raise Problem(f"Whether {path.name} is positive is not known here.")
    if positive and not outlines["polygons"]:
        traps["missing_outlines"] += 1
        raise Problem(f"{path.name} is positive, but no tumour of it is outlined.")
    if outlines["polygons"] and not positive:
        traps["contradicted_label"] += 1
        raise Problem(f"{path.name} is called negative, but tumour is outlined in {outline_path}.")


def _slides(files, root, left_out, traps):
    """{name in lower case: path} of the slides, first those of CAMELYON16.

    Further copies of a slide go to `left_out`.
    """
    slides = {}
    for path in files:
        stem = path.stem.lower()
        folders = str(path.relative_to(root)).lower().split("/")
        is_image = path.suffix.lower() in (".tif", ".tiff")
        if not is_image or not SLIDE.fullmatch(stem) or NOT_SLIDES & set(folders):
            continue
        if stem in slides:
            traps["second_copy"] += 1
            left_out.append((str(path), f"{path} is a second copy of {slides[stem]}."))
        else:
            slides[stem] = path
    order = sorted(slides, key=lambda stem: (stem.startswith("patient"), stem))
    return {stem: slides[stem] for stem in order}


# ---- labels ------------------------------------------------------------------------------------------------

def _labels(files, slides, left_out, traps):
    """({slide: whether it has tumour}, slides with isolated tumour cells), from names of slides and tables.

    The key of CAMELYON16's test outranks stages, and these outrank names. Rows that cannot be used go to
    `left_out`.
    """
    before = len(left_out)
    positive = {stem: stem.startswith("tumor") for stem in slides if stem.startswith(("normal", "tumor"))}
    stages = {}
    for name in ("stage_labels.csv", "stages.csv"):    # where a slide is in both, the second tells its centre
        for path in _named(files, name):
            listed = read_stages(path, left_out)
            stages |= listed
            has_tumour = {stem: STAGES[stage] for stem, (stage, _) in listed.items()}
            _add_labels(positive, has_tumour, path, left_out)
    for path in _named(files, "reference.csv"):
        _add_labels(positive, read_reference(path, left_out), path, left_out)
    traps["faulty_row"] += len(left_out) - before
    for stem, (stage, center) in stages.items():
        traps["itc"] += stage == "itc"
        traps["odd_center"] += center not in ("", str(int(stem[8:11]) // 20 % 5))
    return positive, {stem for stem, (stage, _) in stages.items() if stage == "itc"}


def _add_labels(positive, listed, path, left_out):
    """Adds to `positive` what the table `path` says of slides: None where it contradicts what is there."""
    for stem, has_tumour in listed.items():
        if positive.setdefault(stem, has_tumour) != has_tumour:
            positive[stem] = None
            reason = f"{path} contradicts the name of {stem} or another table; correct what is wrong."
            left_out.append((str(path), reason))


def _named(files, name):
    return [path for path in files if path.name.lower() == name]


def read_stages(path, left_out=None):
    """{slide: (stage, centre or "")} of stages.csv (patient,stage,center) or stage_labels.csv
    (patient,stage), in lower case.

    The rows of patients, whose names end in .zip, are not returned. Rows of other names or stages go to the
    list `left_out` as (table, reason). Raises `Problem` if the table cannot be read or lacks a column.
    """
    stages = {}
    table = tables.read(path, {"patient", "stage"})
    for column in ("patient", "stage"):
        table[column] = table[column].str.lower()
    tables.mark_contradictions(table, "patient", ["stage"])
    for line in table.to_dict("records"):
        name = line["patient"]
        stage = line["stage"]
        is_slide = re.fullmatch(r"patient_\d{3}_node_\d\.tiff?", name) and stage in STAGES
        is_patient = re.fullmatch(r"patient_\d{3}\.zip", name)
        if is_slide and not line["fault"]:
            stages[Path(name).stem] = (stage, line.get("center", ""))
        elif line["fault"] or not is_patient:
            fault = f"gives {name!r} the stage {stage!r}, and one of the two is unknown"
            _skip(path, line["row"], line["fault"] or fault, left_out)
    return stages


def read_reference(path, left_out=None):
    """{slide: whether it has tumour} of reference.csv, whose lines are test_001,Tumor,... or
    test_003,Normal,...

    Other lines go to the list `left_out` as (table, reason). Raises `Problem` if the table cannot be read.
    """
    fields = [(*line[:2], "")[:2] for line in tables.lines(path)]
    table = pd.DataFrame(fields, columns=["slide", "label"], dtype=str)
    table["slide"] = table.slide.str.lower().str.removesuffix(".tif")
    table["label"] = table.label.str.lower()
    table["fault"] = ""
    tables.mark_contradictions(table, "slide", ["label"])
    has_tumour = {}
    for number, (name, label, fault) in enumerate(table.itertuples(index=False), 1):
        if not fault and label in ("normal", "tumor") and SLIDE.fullmatch(name):
            has_tumour[name] = label == "tumor"
        else:
            unknown = f"gives {name!r} the label {label!r}, and one of the two is unknown"
            _skip(path, number, fault or unknown, left_out)
    return has_tumour


def _skip(path, row, fault, left_out):
    """Notes in `left_out`, where it is a list, that a row of a table cannot be used."""
    if left_out is not None:
        left_out.append((str(path), tables.reason(path, row, fault)))


# ---- fetch -------------------------------------------------------------------------------------------------

TERMS = "CC0; cite Litjens et al. 2018, doi 10.1093/gigascience/giy065."
BUCKET = "https://camelyon-dataset.s3.us-west-2.amazonaws.com"


def fetch(root, limit=None, dry_run=False):
    """The tables and `limit` slides with their outlines, of both parts; returns the plan as a table.

    They come from the open bucket and are checked by its checksums.md5; what that does not list is checked by
    its ETag. Slides of CAMELYON17 that stages.csv does not list have no label and are not fetched. Slides
    come by number, so that the first ones are of every kind. All of them have about 2 TB. With `dry_run`
    nothing is fetched. Raises `Problem` if the bucket does not answer, the disk is too small, or files did
    not come.
    """
    listed = _listed("CAMELYON16") + _listed("CAMELYON17")
    staged = ask(f"{BUCKET}/CAMELYON17/stages.csv", answers.text)
    slides, outlines = (_in_folder(listed, folder) for folder in ("images", "annotations"))
    labelled = []
    for name, file in slides.items():
        if file.path.startswith("CAMELYON16") or f"{name}.tif" in staged:
            labelled.append(name)
    chosen = sorted(labelled, key=_by_number)[:limit]
    wanted = [file for file in listed if file.path.endswith((".csv", ".txt", ".md"))]
    wanted += [outlines[name] for name in chosen if name in outlines]
    wanted += [slides[name] for name in chosen]
    return obtain(wanted, root, TERMS, dry_run)


def _listed(part):
    """The files of a part in the bucket, with their checksums."""
    lines = ask(f"{BUCKET}/{part}/checksums.md5", _checksums)
    md5 = {f"{part}/{name}": f"md5:{digits}" for digits, name in lines}
    files = []
    for file in listing(BUCKET, f"{part}/"):
        if file.path in md5:
            file = replace(file, checksum=md5[file.path], check=None)
        files.append(file)
    return files


def _checksums(answer):
    """[(md5, name), ...] of a checksums.md5."""
    return re.findall(r"^([0-9a-f]{32}) [ *](.+?)\s*$", answers.text(answer), re.M)


def _in_folder(files, folder):
    """{name without suffix: file} of the files in folders of this name."""
    return {Path(file.path).stem: file for file in files if Path(file.path).parent.name == folder}


def _by_number(name):
    """Sorts slides by the first number in their names."""
    numbers = re.findall(r"\d+", name) or [""]
    return numbers[0], name
