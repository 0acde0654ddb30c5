"""Writes the phantom's histology in the layouts of BACH (ICIAR2018) and CAMELYON16/17.

BACH images are half the size of the real ones (1024 x 768 at 0.84 um/px: the same field of view), CAMELYON slides are
1 mm squares (2048 x 2048 at 0.5 um/px). Files hold no time and no software tag, so a seed gives the same bytes everywhere.
"""
import hashlib
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
from scipy.ndimage import binary_fill_holes
from skimage.measure import approximate_polygon, find_contours

from xmodal.runtime.files import atomic

from .. import parallel
from .histology import STYLES, draw
from .patients import REGISTRY, generator

BACH_SHAPE, BACH_MPP = (768, 1024), 0.84
SLIDE_SHAPE, SLIDE_MPP, LEVELS = (2048, 2048), 0.5, 3
BACH_CLASSES = (("Normal", "n"), ("Benign", "b"), ("InSitu", "is"), ("Invasive", "iv"))
CENTERS = 5                                              # CAMELYON17 has 20 patients a centre, numbered through


def write_bach(root, patients, seed=42, workers=2, images=2, quirks=()):
    """Writes `images` fields of view for each patient of `patients` (patients.cohort) whose histo_domain is "bach".

    root/ICIAR2018_BACH_Challenge/Photos/{Normal,Benign,InSitu,Invasive}/*.tif and microscopy_ground_truth.csv (no header).
    BACH names no patients, so the native patient is the file stem. `quirks` are of `quirks.QUIRKS["bach"]`. Returns the
    registry's rows: a list of dicts, one for each image that is there.
    """
    photos = Path(root) / "ICIAR2018_BACH_Challenge" / "Photos"
    number, tasks, table = [0] * 4, [], []
    for row in _rows(patients, "bach"):
        for _ in range(images):
            folder, prefix = BACH_CLASSES[row["diagnosis"]]
            number[row["diagnosis"]] += 1
            stem = f"{prefix}{number[row['diagnosis']]:03d}"
            tasks.append((row, stem, seed, photos / folder / f"{stem}.tif"))
            table.append(f"{stem}.tif,{folder}\n")
    parallel(_write_field, tasks, workers, "BACH")
    write_text(photos / "microscopy_ground_truth.csv", "".join(table))
    from . import histology_quirks  # here, since that file uses this one
    gone = histology_quirks.bach(photos.parent, quirks, seed) if quirks else ()
    return [_linked("bach", stem, row) for row, stem, *_ in tasks if stem not in gone]


def write_camelyon(root, patients, seed=42, workers=2, quirks=()):
    """Writes a slide for each patient of `patients` whose histo_domain is "camelyon", by turns as CAMELYON16 and as 17.

    root/CAMELYON16/{images,annotations,checksums.md5}; root/CAMELYON17/ the same and stages.csv. Tumour slides have ASAP
    XML polygons. The native patient is the slide's stem in CAMELYON16 and patient_xxx in CAMELYON17. `quirks` are of
    `quirks.QUIRKS["camelyon"]`. Returns the registry's rows: a list of dicts, one for each patient with a slide of use.
    """
    old, new = Path(root) / "CAMELYON16", Path(root) / "CAMELYON17"
    number, tasks, registry, stages = {"normal": 0, "tumor": 0}, [], [], []
    for i, row in enumerate(_rows(patients, "camelyon")):
        kind = "tumor" if row["diagnosis"] >= 2 else "normal"
        if i % 2 == 0:
            number[kind] += 2 if (kind, number[kind]) == ("normal", 85) else 1     # there is no normal_086
            native = stem = f"{kind}_{number[kind]:03d}"
        else:
            native, node = f"patient_{i // 2:03d}", int(generator(seed, "node", i).integers(5))
            stem = f"{native}_node_{node}"
            stages.append((native, stem, kind == "tumor", i // 2 // 20 % CENTERS))
        tasks.append((row, stem, seed, new if i % 2 else old))
        registry.append(_linked("camelyon", native, row))
    parallel(_write_slide, tasks, workers, "CAMELYON")
    lines = [f"{n}.zip,{'pN1' if t else 'pN0'},{c}\n{s}.tif,{'macro' if t else 'negative'},{c}\n" for n, s, t, c in stages]
    write_text(new / "stages.csv", "patient,stage,center\n" + "".join(lines))
    if quirks:
        from . import histology_quirks  # here, since that file uses this one
        renamed = histology_quirks.camelyon(Path(root), quirks)
        registry = [{**row, "native_patient": renamed.get(row["native_patient"], row["native_patient"])} for row in registry]
    for part in (path for path in (old, new) if (path / "images").is_dir()):
        files = sorted(p for name in ("annotations", "images", "masks") for p in (part / name).glob("*"))
        write_text(part / "checksums.md5", "".join(f"{_md5(p)} *{p.relative_to(part).as_posix()}\n" for p in files))
    return [row for row in registry if row["native_patient"]]


def _rows(patients, domain):
    return patients[patients.histo_domain == domain].to_dict("records")


def _linked(domain, native, row):
    return {"domain": domain, "native_patient": native, **{name: row[name] for name in REGISTRY[2:]}}


def write_text(path, text):
    with atomic(path) as partial:
        partial.write_bytes(text.encode())


def _md5(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _write_field(task):
    row, stem, seed, path = task
    rgb, _ = draw(row, STYLES["bach"], generator(seed, "bach", row["patient"], stem), BACH_SHAPE, BACH_MPP)
    with atomic(path) as partial:
        tifffile.imwrite(partial, rgb, photometric="rgb", compression="adobe_deflate", compressionargs={"level": 1}, predictor=True,
                         resolution=(1e4 / BACH_MPP,) * 2, resolutionunit="CENTIMETER", metadata=None, software=False)


def _write_slide(task):
    row, stem, seed, part = task
    rgb, tumour = draw(row, STYLES["camelyon"], generator(seed, "camelyon", row["patient"], stem), SLIDE_SHAPE, SLIDE_MPP)
    with atomic(part / "images" / f"{stem}.tif") as partial:
        pyramid(partial, rgb, SLIDE_MPP, STYLES["camelyon"].quality)
    if tumour.any():
        write_text(part / "annotations" / f"{stem}.xml", asap(polygons(tumour)))


def pyramid(path, rgb, mpp, quality, levels=LEVELS):
    """Writes uint8 RGB as tiled JPEG BigTIFF, each level half of the one before; OpenSlide >= 4 reads its um/px."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(levels):
            if level:
                rgb = rgb.reshape(rgb.shape[0] // 2, 2, rgb.shape[1] // 2, 2, 3).mean((1, 3)).astype(np.uint8)
            tiff.write(rgb, tile=(256, 256), photometric="rgb", subsampling=(2, 2), compression="jpeg", compressionargs={"level": quality},
                       subfiletype=1 if level else 0, resolution=(1e4 / (mpp * 2 ** level),) * 2, resolutionunit="CENTIMETER",
                       metadata=None, software=False)


def polygons(mask, step=8):
    """Outlines of a bool mask as a list of (n, 2) arrays x, y in pixels; holes and specks under 64 steps are left out."""
    small = np.pad(binary_fill_holes(mask[step // 2::step, step // 2::step]), 1)
    lines = [approximate_polygon(line, 0.4) for line in find_contours(small.astype(float), 0.5)]
    area = lambda p: 0.5 * abs(np.dot(p[:, 0], np.roll(p[:, 1], 1)) - np.dot(p[:, 1], np.roll(p[:, 0], 1)))
    return [(line[:-1, ::-1] - 0.5) * step for line in lines if area(line) >= 64]


def asap(outlines, group="Tumor"):
    """ASAP annotation XML of polygons, level-0 pixels."""
    out = ['<?xml version="1.0"?>\n<ASAP_Annotations>\n\t<Annotations>\n']
    for i, line in enumerate(outlines):
        out.append(f'\t\t<Annotation Name="Annotation {i}" Type="Polygon" PartOfGroup={quoteattr(group)} Color="#F4FA58">\n\t\t\t<Coordinates>\n')
        out += [f'\t\t\t\t<Coordinate Order="{k}" X="{x:.4f}" Y="{y:.4f}" />\n' for k, (x, y) in enumerate(line)]
        out.append("\t\t\t</Coordinates>\n\t\t</Annotation>\n")
    out.append(f'\t</Annotations>\n\t<AnnotationGroups>\n\t\t<Group Name={quoteattr(group)} PartOfGroup="None" Color="#00ff00">\n'
               "\t\t\t<Attributes />\n\t\t</Group>\n\t</AnnotationGroups>\n</ASAP_Annotations>\n")
    return "".join(out)
