"""Mammograms: pixels in, pixels out. Reading DICOM, finding the breast, bringing image and lesion mask to model size."""
import json
import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from scipy import ndimage
from skimage.draw import polygon
from skimage.filters import threshold_otsu

from .config import Problem

log = logging.getLogger(__name__)
UNREADABLE = (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, TypeError, AttributeError, KeyError,
              NotImplementedError, RuntimeError)         # what pydicom and its decoders raise on damaged files


class Header(NamedTuple):
    """What a mammogram's file says of the picture."""
    view: str                # "CC", "MLO", "FB" or ""
    laterality: str          # "L", "R" or ""
    spacing: float | None    # millimetres a pixel at the detector, None where the file does not say


# ---- files ---------------------------------------------------------------------------------------------------------

def _open(path, **how):
    try:
        return pydicom.dcmread(path, **how)
    except FileNotFoundError:
        raise Problem(f"There is no file {path}; run 01_download again, or correct the path.") from None
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable DICOM file ({error}); delete it and fetch it again.") from None


def read_pixels(path):
    """The stored values of a single-frame greyscale DICOM file, (H, W), as they are in the file.

    Raises `Problem` if the file is missing, damaged or truncated, or holds no such image.
    """
    data = _open(path)
    if "PixelData" not in data:
        raise Problem(f"{path} holds no image; take it out of the index or fetch it again.")
    try:
        pixels = data.pixel_array
    except UNREADABLE as error:
        raise Problem(f"The image in {path} cannot be decoded ({error}); delete the file and fetch it again.") from None
    if pixels.ndim != 2 or min(pixels.shape) < 16:
        raise Problem(f"{path} holds an array of shape {pixels.shape}, not one greyscale image; take it out of the index.")
    return data, pixels


def read_dicom(path):
    """A mammogram as float32 (H, W), brighter where tissue is denser, in the file's own units.

    Applies the modality and VOI transformations and inverts MONOCHROME1 (DICOM PS3.3 C.11, C.7.6.3.1.2). Raises
    `Problem` as `read_pixels` does.
    """
    data, pixels = read_pixels(path)
    try:
        pixels = apply_voi_lut(apply_modality_lut(pixels, data), data)
    except UNREADABLE as error:
        raise Problem(f"The grey-scale transformation in {path} cannot be applied ({error}); fetch the file again.") from None
    pixels = np.asarray(pixels, np.float32)
    inverse = data.get("PhotometricInterpretation") == "MONOCHROME1" or data.get("PresentationLUTShape") == "INVERSE"
    return pixels.max() - pixels + pixels.min() if inverse else pixels


NAMED = re.compile(r"(?:^|[_ /-])(LEFT|RIGHT|L|R)[_ -]?(CC|MLO|ML|FB)(?=[_. -]|$)", re.IGNORECASE)


def dicom_header(path):
    """`Header` of the mammogram at `path`.

    View and side come from ViewPosition and ImageLaterality; else from PatientOrientation and Laterality, where CBIS-DDSM
    has them; else from the names in PatientID and the file name. ML is read as MLO, as INbreast means it.
    """
    data = _open(path, stop_before_pixels=True)
    view = str(data.get("ViewPosition") or data.get("PatientOrientation") or "").upper()
    side = str(data.get("ImageLaterality") or data.get("Laterality") or "").upper()[:1]
    found = [NAMED.search(str(text)) for text in (data.get("PatientID", ""), Path(path).name)]
    named = next((match.groups() for match in found if match), ("", ""))
    view = view if view in ("CC", "MLO", "ML", "FB") else named[1].upper()
    side = side if side in ("L", "R") else named[0][:1].upper()
    spacing = data.get("ImagerPixelSpacing") or data.get("PixelSpacing")
    return Header("MLO" if view == "ML" else view, side, float(spacing[0]) if spacing else None)


def lesion_mask(annotation, shape):
    """The bool (H, W) lesion mask that an `annotation` (JSON text of the cohort table) describes for an image of `shape`.

    Mask files of another size are scaled axis by axis, which is logged. Polygons are in pixels, x to the right; one with
    one or two points is a point finding. Raises `Problem` if a mask file cannot be read.
    """
    mask, said = np.zeros(shape, bool), json.loads(annotation or "{}")
    for path in said.get("masks", ()):
        drawn = read_pixels(path)[1] > 0
        if drawn.shape != tuple(shape):
            log.warning("The mask %s has %s pixels and its image %s; scaled axis by axis.", path, drawn.shape, tuple(shape))
            drawn = resize(drawn, shape, Image.Resampling.NEAREST) > 0
        mask |= drawn
    for key, value in (("polygons", True), ("exclude", False)):
        for points in said.get(key, ()):
            x, y = np.asarray(points, float).T
            inside = polygon(y, x, shape) if len(x) > 2 else tuple(
                np.clip(np.round(c).astype(int), 0, n - 1) for c, n in zip((y, x), shape))
            mask[inside] = value
    return mask


# ---- pixels --------------------------------------------------------------------------------------------------------

def resize(image, shape, how=Image.Resampling.BOX):
    """float32 (H, W) of the wanted shape; the default averages over the area that a new pixel covers."""
    return np.asarray(Image.fromarray(np.asarray(image, np.float32)).resize((shape[1], shape[0]), how))


def breast_mask(image):
    """The bool (H, W) mask of the breast with the pectoral muscle: no background, no label, no film border.

    Otsu's threshold of the square root of the grey levels, lowered so that the skin line stays in; opened, so that labels
    fall off; the largest component, without holes. Raises `Problem` if nothing is there.
    """
    scale = 400 / max(image.shape)
    small = resize(image, [max(8, round(n * scale)) for n in image.shape])
    low, high = np.percentile(small, (0.5, 99.5))
    if high <= low:
        raise Problem("The image has a single grey level: there is no breast in it; take the file out of the index.")
    small = ndimage.gaussian_filter(np.sqrt(np.clip((small - low) / (high - low), 0, 1)), 1.0)
    air = np.median(small[small < threshold_otsu(small)])
    bright = small > air + 0.45 * (threshold_otsu(small) - air)
    bright[:8] = bright[-8:] = False                      # white film borders, which may touch the breast
    disc = np.hypot(*np.mgrid[-6:7, -6:7]) <= 6.2
    parts, count = ndimage.label(ndimage.binary_opening(bright, disc))
    if not count:
        raise Problem("No breast was found in the image; take the file out of the index.")
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    mask = ndimage.binary_fill_holes(largest)
    mask[mask.sum(1) < 0.2 * mask.sum(1).max()] = False  # light that leaked in along the film's edge
    return resize(mask, image.shape, Image.Resampling.BILINEAR) > 0.5


def mammogram(image, mask=None, spacing=None, size=224):
    """The breast alone, chest wall at the left, in a square: (uint8 (size, size), bool (size, size), mm a pixel).

    `image` (H, W) as from `read_dicom`, `mask` its lesion mask, `spacing` in mm a pixel (None gives NaN). Background is 0
    and the breast's 1st to 99.5th percentile 1 to 255. A lesion smaller than a pixel keeps one.
    """
    breast = breast_mask(image)
    mask = np.zeros(image.shape, bool) if mask is None else mask
    columns = np.flatnonzero(breast.any(0))
    if columns[0] > image.shape[1] - 1 - columns[-1] or (
            columns[0] == image.shape[1] - 1 - columns[-1] and breast[:, :image.shape[1] // 2].sum() * 2 < breast.sum()):
        image, mask, breast = image[:, ::-1], mask[:, ::-1], breast[:, ::-1]
    rows, columns = np.flatnonzero(breast.any(1)), np.flatnonzero(breast.any(0))
    window = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    low, high = np.percentile(image[breast], (1, 99.5))
    grey = np.where(breast, 1 + 254 * np.clip((image - low) / max(high - low, 1e-6), 0, 1), 0)[window]
    side = max(grey.shape)
    pad = [((side - grey.shape[0]) // 2, side - grey.shape[0] - (side - grey.shape[0]) // 2), (0, side - grey.shape[1])]
    grey = resize(np.pad(grey, pad), (size, size))
    mm_per_px = float("nan") if spacing is None else spacing * side / size
    return np.round(grey).astype(np.uint8), shrink_mask(np.pad(mask[window], pad), size), mm_per_px


def shrink_mask(mask, size):
    """Square bool mask -> (size, size): pixels covered by a quarter, and the most covered one of any lesion left without."""
    if not mask.any():
        return np.zeros((size, size), bool)
    small = resize(mask, (size, size)) > 0.25
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    for part, window in enumerate(ndimage.find_objects(parts), 1):
        y, x = np.nonzero(parts[window] == part)
        at = [((c + s.start) * size // len(mask)) for c, s in zip((y, x), window)]
        if not small[at[0], at[1]].any():
            cells, covered = np.unique(at[0] * size + at[1], return_counts=True)
            small.flat[cells[np.argmax(covered)]] = True
    return small


def boxes(mask):
    """[[x0, y0, x1, y1], ...] of the connected parts of a bool mask, in pixels; x1 and y1 lie just outside."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    return [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(parts)]
