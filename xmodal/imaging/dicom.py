"""Mammograms as DICOM files: the grey levels that a file holds, and what its header says of the picture."""
import logging
import math
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from ..config import Problem
from .decoding import decode

log = logging.getLogger(__name__)

# What pydicom and its decoders raise on damaged files.
UNREADABLE = (
    pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
LARGEST = 100_000_000    # pixels; the largest mammograms have less than half of it
DEFLATED = b"1.2.840.10008.1.2.1.99"


# ---- opening and checking --------------------------------------------------------------------------------

def _open(path, **options):
    """pydicom's dataset of the file; the options are those of `pydicom.dcmread`. Raises `Problem`."""
    try:
        _check_inflated_size(path)
        return pydicom.dcmread(path, **options)
    except FileNotFoundError:
        raise Problem(f"There is no file {path}; run 01_download again, or correct the path.") from None
    except Problem:
        raise
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable DICOM file ({error}); "
                      "delete it and fetch it again.") from None


def _check_inflated_size(path):
    """Raises `Problem` if a deflated file, which pydicom inflates as a whole, would fill the memory."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
        if DEFLATED not in head:
            return
        group_length = int.from_bytes(head[140:144], "little")
        file.seek(144 + group_length)                     # 144 bytes: preamble, prefix and the group's length
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        size = 0
        while chunk := inflate.unconsumed_tail or file.read(1 << 16):
            size += len(inflate.decompress(chunk, 1 << 20))
            if size > 2 * LARGEST:
                raise Problem(f"{path} inflates to more than {2 * LARGEST:,} bytes, which no mammogram has; "
                              "delete it and fetch it again.")


def _check_one_grey_image(path, data):
    """Raises `Problem` unless the header describes one greyscale image of a size that mammograms have."""
    if "PixelData" not in data:
        raise Problem(f"{path} holds no image; take it out of the index or fetch it again.")
    kind = str(data.get("PhotometricInterpretation", ""))
    frames = int(data.get("NumberOfFrames") or 1)
    if data.get("SamplesPerPixel", 1) != 1 or not kind.startswith("MONOCHROME"):
        raise Problem(f"{path} holds a {kind or 'colour'} image, not a greyscale one; "
                      "take it out of the index.")
    if frames > 1:
        raise Problem(f"{path} holds {frames} frames, as tomosynthesis has them, "
                      "and only single images are read; take it out of the index.")
    if not 16 * 16 <= int(data.Rows) * int(data.Columns) <= LARGEST or min(data.Rows, data.Columns) < 16:
        raise Problem(f"{path} says it has {data.Rows} x {data.Columns} pixels, which no mammogram has; "
                      "take it out of the index or fetch it again.")


# ---- pixels ----------------------------------------------------------------------------------------------

def read_pixels(path):
    """(pydicom's dataset, the stored values (H, W) of its one greyscale image, as they are in the file).

    Any transfer syntax of one frame: uncompressed, deflated, run-length, JPEG, JPEG-LS, JPEG 2000 and
    HTJ2K. Raises `Problem` if the file is missing, damaged or truncated, or if it holds something else than
    one greyscale image: several frames, colours, fewer than 16 pixels a side, or over 100 million pixels.
    """
    data = _open(path)
    try:
        _check_one_grey_image(path, data)
        pixels = decode(data)
    except Problem:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise Problem(f"The image in {path} cannot be decoded ({reason}); "
                      "delete the file and fetch it again.") from None
    if pixels.ndim != 2:
        raise Problem(f"{path} holds an array of shape {pixels.shape}, not one greyscale image; "
                      "take it out of the index.")
    return data, pixels


# ---- grey levels -----------------------------------------------------------------------------------------

TRANSFORMED = ("RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "PixelPaddingValue")


def read_dicom(path):
    """A mammogram (H, W), brighter where tissue is denser, in the file's own units.

    float32, or the stored dtype if the header asks for no transformation. The image is as a viewer shows it
    first: the modality transformation; the VOI transformation (a LUT before a window, and the first of
    several); then MONOCHROME1 is inverted (DICOM PS3.3 C.11, C.7.6.3.1.2), and padding (C.7.5.1.1.2)
    becomes the darkest level. Raises `Problem` as `read_pixels` does.
    """
    data, pixels = read_pixels(path)
    try:
        if not _inverted(data) and not any(name in data for name in TRANSFORMED):
            return pixels
        if pixels.dtype.kind not in "iu" or pixels.itemsize > 2:
            return _shown(data, pixels)
        low = int(pixels.min())
        levels = np.arange(low, int(pixels.max()) + 1).astype(pixels.dtype)
        shown = _shown(data, levels)                      # each grey level is transformed once
        return shown[pixels.astype(np.int32) - low]
    except UNREADABLE as error:
        raise Problem(f"The grey-scale transformation in {path} cannot be applied ({error}); "
                      "fetch the file again.") from None


def _inverted(data):
    monochrome1 = data.get("PhotometricInterpretation") == "MONOCHROME1"
    return monochrome1 or data.get("PresentationLUTShape") == "INVERSE"


def _shown(data, stored):
    """float32 grey levels that the header of `data` makes of stored values."""
    with np.errstate(over="ignore"):                      # what overflows is not finite, and refused below
        shown = np.asarray(apply_voi_lut(apply_modality_lut(stored, data), data), np.float32)
    if not np.isfinite(shown).all():
        raise ValueError("it gives values that are no numbers")
    if _inverted(data):
        shown = shown.max() - shown + shown.min()
    padding = data.get("PixelPaddingValue")
    if padding is not None:
        limits = (int(padding), int(data.get("PixelPaddingRangeLimit", padding)))
        shown[(stored >= min(limits)) & (stored <= max(limits))] = shown.min()
    return shown


# ---- header ----------------------------------------------------------------------------------------------

NAMED = re.compile(r"(?:^|[_ /-])(LEFT|RIGHT|L|R)[_ -]?(CC|MLO|ML|FB)(?=[_. -]|$)", re.IGNORECASE)


class Header(NamedTuple):
    """What a mammogram's file says of the picture."""
    view: str                # "CC", "MLO", "FB" or ""
    laterality: str          # "L", "R" or ""
    spacing: float | None    # millimetres per pixel in the breast, None where the file does not say


def dicom_header(path):
    """`Header` of the mammogram at `path`.

    View and side come from ViewPosition and ImageLaterality; else from PatientOrientation and Laterality,
    where CBIS-DDSM has them; else from the names in PatientID and the file name. ML is read as MLO, as
    INbreast means it. Raises `Problem` if the file is missing or not a readable DICOM file.
    """
    data = _open(path, stop_before_pixels=True)
    try:
        view = str(data.get("ViewPosition") or data.get("PatientOrientation") or "").upper()
        side = str(data.get("ImageLaterality") or data.get("Laterality") or "").upper()[:1]
        names = (str(data.get("PatientID", "")), Path(path).name)
        spacing = _spacing(data, path)
    except UNREADABLE as error:
        raise Problem(f"The header of {path} cannot be read ({error}); "
                      "delete the file and fetch it again.") from None
    named_side, named_view = _named(names)
    if view not in ("CC", "MLO", "ML", "FB"):
        view = named_view
    if side not in ("L", "R"):
        side = named_side[:1]
    return Header("MLO" if view == "ML" else view, side, spacing)


def _named(names):
    """(side, view) in upper case from the first of the names that holds them, or ("", "")."""
    for name in names:
        if match := NAMED.search(name):
            return match[1].upper(), match[2].upper()
    return "", ""


def _spacing(data, path):
    """Millimetres per pixel in the breast, or None.

    PixelSpacing where it says that it was calibrated; else the spacing at the detector, divided by the
    magnification where that is given; else PixelSpacing, or the digitiser's spacing (DICOM PS3.3 10.7.1.3,
    C.8.6.2.1.1). A spacing that is no square of a positive size is logged and counts as missing.
    """
    calibrated = data.get("PixelSpacing") if data.get("PixelSpacingCalibrationType") else None
    detector = data.get("ImagerPixelSpacing")
    magnification = data.get("EstimatedRadiographicMagnificationFactor")
    spacing = calibrated or detector or data.get("PixelSpacing") or data.get("NominalScannedPixelSpacing")
    if not spacing:
        return None
    try:
        magnified = magnification and spacing is detector
        factor = float(magnification) if magnified else 1
        down, across = (float(side) / factor for side in spacing)
    except (TypeError, ValueError, ZeroDivisionError):
        down = across = math.nan
    if not (1e-3 < down < 10 and abs(across - down) < 0.01 * down):
        log.warning("%s gives its pixels as %s mm, which cannot be; sizes in it stay in pixels.",
                    path, spacing)
        return None
    return down
