"""A glioma's MRI as a study: one axial slice in three views, the box of its tumour, and a report by template.

`gliomas` says which files belong to a scan. Volumes are turned so that x grows to the patient's left, y to
the back and z upwards, whatever the file's own axes are.
"""
import gzip
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image

from xmodal.config import Problem
from xmodal.runtime.files import atomic

MOST = 200_000_000      # bytes of a volume; those of the releases have 18 million, or 72 million as floats
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4                 # values of a segmentation, in both sets
ONE_SIDE = 0.75                                       # share of a tumour from which it is of one hemisphere
ORDERS = {b"\x5c\x01\0\0": "<", b"\0\0\x01\x5c": ">"}     # 348, with which a header begins -> order of bytes
UNREADABLE = (OSError, EOFError, ValueError, zlib.error)


class Scan(NamedTuple):
    """Where the files of a scan lie, and what tables say of it."""
    site: str
    patient: str
    label: str       # "unmethylated", "methylated", or "" where it is not known
    clinical: dict   # gender (M, F), age, kps, idh1 as text, "" where they are not known; or nothing
    views: dict      # column of the studies -> Path of a volume
    outline: Path    # of the segmentation


def study(folder, scan):
    """(row of studies.csv, "") of a scan, whose pictures are written to folder/<view>/<patient>.png.

    For a scan that cannot be used: (None, the sentence that says why).
    """
    try:
        volumes = {view: volume(path) for view, path in scan.views.items()}
        outline = volume(scan.outline)
        for view, image in volumes.items():
            if not _on_one_grid(image, outline):
                raise Problem(f"{scan.views[view]} lies on another grid than {scan.outline.name}.")
        parts = sitk.GetArrayFromImage(outline)
        if not np.isin(parts, (0, NECROSIS, OEDEMA, ENHANCING)).all():
            raise Problem(f"{scan.outline} has other values than 0, 1, 2 and 4.")
        if not parts.any():
            raise Problem(f"{scan.outline} outlines no tumour.")
        pixels = {view: sitk.GetArrayFromImage(image) for view, image in volumes.items()}
        z = int((parts > 0).sum((1, 2)).argmax())
        pictures = {view: grey(pixels[view], z, scan.views[view]) for view in pixels}
    except Problem as problem:
        return None, str(problem)
    row = {"patient": scan.patient, "site": scan.site, "label": scan.label, "lesion_type": "glioma"}
    for view, picture in pictures.items():
        row[view] = f"{view}/{scan.patient}.png"
        row[f"boxes_{view}"] = json.dumps([box(parts[z] > 0)])
        with atomic(Path(folder) / row[view]) as path:
            Image.fromarray(picture).save(path)
    brain = np.logical_or.reduce([volume_pixels != 0 for volume_pixels in pixels.values()])
    row["report"] = report(scan.clinical, parts, brain, np.prod(outline.GetSpacing()) / 1000)
    return row, ""


# ---- volumes -----------------------------------------------------------------------------------------------

def volume(path):
    """SimpleITK's image (X, Y, Z) of a .nii.gz: x to the left, y to the back, z upwards.

    Raises `Problem` for a file that is damaged or cut off, or no volume.
    """
    try:
        _check_whole(path)
        image = sitk.ReadImage(str(path))
    except Problem:
        raise
    except (RuntimeError, *UNREADABLE) as error:
        last_line = str(error).strip().splitlines()[-1:]
        raise Problem(f"{path} cannot be read ({' '.join(last_line)}); fetch it again.") from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise Problem(f"{path} is no volume of grey values.")
    return sitk.DICOMOrient(image, "LPS")


def _check_whole(path):
    """Raises `Problem` unless a .nii.gz holds all voxels that its header promises, and what gzip raises.

    SimpleITK fills up a file that was cut off with zeros.
    """
    with gzip.open(path) as file:
        header = file.read(348)
        order = ORDERS.get(header[:4])
        if order is None or len(header) < 348:
            raise Problem(f"{path} is no NIfTI file; fetch it again.")
        axes = np.frombuffer(header, f"{order}i2", 8, 40)
        bits = np.frombuffer(header, f"{order}i2", 1, 72)[0]
        promised = int(np.prod(axes[1:1 + min(axes[0], 7)].astype(float)) * bits / 8)
        if promised > MOST:
            raise Problem(f"{path} says it has {promised:,} bytes, which no scan has; fetch it again.")
        size = len(header)
        while piece := file.read(1 << 20):
            size += len(piece)
            if size > MOST:
                raise Problem(f"{path} inflates to more than {MOST:,} bytes; fetch it again.")
    if size < promised + len(header):
        raise Problem(f"{path} holds {size:,} bytes of {promised + len(header):,}; fetch it again.")


def _on_one_grid(image, other):
    """Whether voxels of two images lie at the same places, within a hundredth of a millimetre."""
    if image.GetSize() != other.GetSize():
        return False
    places = [(*i.GetSpacing(), *i.GetOrigin(), *i.GetDirection()) for i in (image, other)]
    return np.allclose(*places, rtol=0, atol=0.01)


def grey(pixels, z, path):
    """uint8 (Y, X): slice z of a volume (Z, Y, X), its 0.5 and 99.5 percentiles within the brain 0 and 255.

    Around the brain a volume is 0, and so SimpleITK reads values that are no numbers. Raises `Problem` for a
    volume that is blank.
    """
    brain = pixels[pixels != 0]
    low, high = np.percentile(brain, (0.5, 99.5)) if len(brain) else (0, 0)
    if high <= low:
        raise Problem(f"{path} is blank.")
    scaled = np.clip((pixels[z].astype(float) - low) / (high - low), 0, 1)
    return np.round(255 * np.where(pixels[z] == 0, 0, scaled)).astype(np.uint8)


def box(inside):
    """Corners [x0, y0, x1, y1] of what is True in (Y, X), x1 and y1 behind the last pixel."""
    ys, xs = np.nonzero(inside)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


# ---- reports -----------------------------------------------------------------------------------------------

def report(clinical, parts, brain, ml):
    """The report of a scan: what its table says, and place and size of the parts of the tumour.

    parts, brain: (Z, Y, X) values of the segmentation, and what is brain; ml: millilitres of a voxel.
    """
    sentences = [f"MRI of the brain{_person(clinical)}.", _place(parts, brain)]
    sizes = []
    for name, value in (("enhancing part", ENHANCING), ("necrotic core", NECROSIS), ("oedema", OEDEMA)):
        amount = ml * np.count_nonzero(parts == value)
        if amount == 0:
            sizes.append(f"no {name}")
        else:
            sizes.append(f"{name} of {amount:.0f} ml" if amount >= 1 else f"{name} under 1 ml")
    sentences.append(", ".join(sizes).capitalize() + ".")
    if clinical.get("idh1"):
        sentences.append(f"IDH1 {clinical['idh1'].lower()}.")
    return " ".join(sentences)


def _person(clinical):
    """" of a woman of 65 years, Karnofsky 90", as far as it is known."""
    person = {"M": " of a man", "F": " of a woman"}.get(clinical.get("gender"), "")
    try:
        years = f"{float(clinical['age']):.0f} years"
        person += f" of {years}" if person else f" of a patient of {years}"
    except (KeyError, ValueError):
        pass
    return person + (f", Karnofsky {clinical['kps']}" if clinical.get("kps") else "")


def _place(parts, brain):
    """Where the tumour's core lies (or its oedema, where there is no core) from the middle of the brain."""
    core = np.isin(parts, (NECROSIS, ENHANCING))
    places = np.argwhere(core if core.any() else parts > 0) + 0.5            # (N, 3): z, y, x
    extent = [np.flatnonzero(brain.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    middle = [(indices[0] + indices[-1] + 1) / 2 for indices in extent]
    z, y, _ = places.mean(0)
    depth = "anterior" if y < middle[1] else "posterior"
    height = "upper" if z > middle[0] else "lower"
    part = f"{depth} {height} part"
    left = np.mean(places[:, 2] > middle[2])
    if 1 - ONE_SIDE < left < ONE_SIDE:
        return f"There is a tumour in both hemispheres, in their {part}."
    return f"There is a tumour in the {'left' if left >= ONE_SIDE else 'right'} hemisphere, in its {part}."
