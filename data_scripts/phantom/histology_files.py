"""Writes the phantom's histology in the layouts of BACH (ICIAR2018) and CAMELYON16/17.

BACH images are half the size of the real images (1024 x 768 at 0.84 um/px: the same field of view), CAMELYON
slides are 1 mm squares (2048 x 2048 at 0.5 um/px). Files hold no time and no software tag, so a seed gives
the same bytes everywhere.
"""
import hashlib
from pathlib import Path

import tifffile

from xmodal.runtime.files import atomic

from .. import parallel
from .dials import Dials, displaced, style_of
from .histology import STYLES, draw
from .native import asap, polygons, pyramid, registry_row, write_text
from .patients import generator

BACH_SHAPE, BACH_MPP = (768, 1024), 0.84
SLIDE_SHAPE, SLIDE_MPP = (2048, 2048), 0.5
# Folder, and prefix of the names in it, of the diagnoses 0 to 3.
BACH_CLASSES = (("Normal", "n"), ("Benign", "b"), ("InSitu", "is"), ("Invasive", "iv"))
CENTERS = 5                                              # CAMELYON17 has 20 patients per centre, in order


def write_bach(root, patients, seed=42, workers=2, images=2, dials=Dials()):
    """Writes `images` fields of view for each of the `patients` (patients.cohort) with histo_domain "bach".

    root/ICIAR2018_BACH_Challenge/Photos/{Normal,Benign,InSitu,Invasive}/*.tif and microscopy_ground_truth.csv
    (no header). BACH names no patients, so the native patient is the file stem. Returns the registry's rows:
    a list of dicts, one per image.
    """
    photos = Path(root) / "ICIAR2018_BACH_Challenge" / "Photos"
    count = [0] * 4
    tasks = []
    table = []
    for row in _rows(patients, "bach"):
        folder, prefix = BACH_CLASSES[row["label"]]
        for _ in range(images):
            count[row["label"]] += 1
            stem = f"{prefix}{count[row['label']]:03d}"
            tasks.append((row, stem, seed, photos / folder / f"{stem}.tif", dials))
            table.append(f"{stem}.tif,{folder}\n")
    parallel(_write_field, tasks, workers, "BACH")
    write_text(photos / "microscopy_ground_truth.csv", "".join(table))
    return [registry_row("bach", stem, row) for row, stem, *_ in tasks]


def write_camelyon(root, patients, seed=42, workers=2, dials=Dials()):
    """Writes a slide for each of the `patients` with histo_domain "camelyon", by turns as CAMELYON16 and 17:
    of invasive carcinoma where that is the diagnosis, else of normal tissue.

    root/CAMELYON16/{images,annotations}; root/CAMELYON17/ the same and stages.csv. Tumour slides have ASAP
    XML polygons. The native patient is the slide's stem in CAMELYON16 and patient_xxx in CAMELYON17. Returns
    the registry's rows: a list of dicts, one per patient. `write_checksums` is to follow once nothing changes
    any more.
    """
    old = Path(root) / "CAMELYON16"
    new = Path(root) / "CAMELYON17"
    count = {"normal": 0, "tumor": 0}
    tasks = []
    registry = []
    stages = ["patient,stage,center\n"]
    for i, row in enumerate(_rows(patients, "camelyon")):
        kind = "tumor" if row["diagnosis"] == 3 else "normal"
        if i % 2 == 0:
            count[kind] += 2 if (kind, count[kind]) == ("normal", 85) else 1     # there is no normal_086
            native = stem = f"{kind}_{count[kind]:03d}"
        else:
            native = f"patient_{i // 2:03d}"
            stem = f"{native}_node_{int(generator(seed, 'node', i).integers(5))}"
            patient_stage, slide_stage = ("pN1", "macro") if kind == "tumor" else ("pN0", "negative")
            center = i // 2 // 20 % CENTERS
            stages.append(f"{native}.zip,{patient_stage},{center}\n{stem}.tif,{slide_stage},{center}\n")
        drawn = {**row, "diagnosis": 3 * (kind == "tumor")}
        tasks.append((drawn, stem, seed, new if i % 2 else old, dials))
        registry.append(registry_row("camelyon", native, row))
    parallel(_write_slide, tasks, workers, "CAMELYON")
    write_text(new / "stages.csv", "".join(stages))
    return registry


def write_checksums(root):
    """Writes checksums.md5 of slides and outlines into CAMELYON16/ and CAMELYON17/, where images/ exists."""
    for part in (Path(root) / "CAMELYON16", Path(root) / "CAMELYON17"):
        if not (part / "images").is_dir():
            continue
        files = []
        for name in ("annotations", "images", "masks"):
            files += sorted((part / name).glob("*"))
        lines = [f"{_md5(path)} *{path.relative_to(part).as_posix()}\n" for path in files]
        write_text(part / "checksums.md5", "".join(lines))


def _rows(patients, domain):
    return patients[patients.histo_domain == domain].to_dict("records")


def _md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _write_field(task):
    row, stem, seed, path, dials = task
    style = style_of(STYLES, "bach", dials.style)
    rgb, _ = draw(row, style, generator(seed, "bach", row["patient"], stem), BACH_SHAPE, BACH_MPP)
    with atomic(path) as partial:
        tifffile.imwrite(partial, rgb, photometric="rgb", compression="adobe_deflate",
                         compressionargs={"level": 1}, predictor=True, resolution=(1e4 / BACH_MPP,) * 2,
                         resolutionunit="CENTIMETER", metadata=None, software=False)


def _write_slide(task):
    row, stem, seed, part, dials = task
    style = style_of(STYLES, "camelyon", dials.style)
    rgb, tumour = draw(row, style, generator(seed, "camelyon", row["patient"], stem), SLIDE_SHAPE, SLIDE_MPP)
    rng = generator(seed, "camelyon", row["patient"], stem, "outline")
    tumour = displaced(tumour, dials.outline_error, rng)
    with atomic(part / "images" / f"{stem}.tif") as partial:
        pyramid(partial, rgb, SLIDE_MPP, style.quality)
    if tumour.any():
        write_text(part / "annotations" / f"{stem}.xml", asap(polygons(tumour)))
