"""Mammograms as DICOM files: the grey levels that a file holds, and what its header says of the picture."""
import logging
import math
import re
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom import uid

from ..config import LIMITS, Problem
from . import display
from .decoding import GuardedFile, decode

log = logging.getLogger(__name__)

FIRST_GROUPS = (b"\2\0", b"\x08\0", b"\0\x08")         # of a file without preamble

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


# ---- opening and checking --------------------------------------------------------------------------------

def open_dicom(path, **options):
    """pydicom's dataset of the file, with or without a preamble; the options are those of `pydicom.dcmread`.

    Raises `Problem` for what is missing, no DICOM file, or larger than `config.LIMITS` allows.
    """
    try:
        with GuardedFile(path) as file:
            start = file.peek(132)[:132]
            bare = start[128:] != b"DICM" and start[:2] in FIRST_GROUPS
            data = pydicom.dcmread(file, force=bare, **options)
        _name_syntax(data)
        return data
    except FileNotFoundError:
        raise Problem(f"There is no file {path}; correct the path, or put it there.") from None
    except Problem:
        raise
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable DICOM file ({error}); "
                      "get a whole copy of it.") from None


def _name_syntax(data):
    """Gives a dataset without a transfer syntax the uncompressed one in which pydicom could read it."""
    if data.file_meta.get("TransferSyntaxUID"):
        return
    if "PixelData" in data and data["PixelData"].is_undefined_length:
        return                                            # compressed, and nothing says how
    implicit, little = data.original_encoding
    syntax = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else syntax


def _check_one_grey_image(path, data):
    """Raises `Problem` unless the header describes one greyscale image of a size that mammograms have."""
    if "PixelData" not in data:
        raise Problem(f"{path} holds no image; leave it out, or get a whole copy of it.")
    kind = display.text(data, "PhotometricInterpretation")
    frames = int(display.number(data, "NumberOfFrames") or 1)
    samples = display.number(data, "SamplesPerPixel")
    if samples not in (None, 1) or not kind.startswith("MONOCHROME"):
        raise Problem(f"{path} holds a {kind or 'colour'} image, not a greyscale one; "
                      "leave it out.")
    if frames > 1:
        raise Problem(f"{path} holds {frames} frames, as tomosynthesis has them, and only single images are "
                      "read; use the single image of the same view, or leave it out.")
    pixels = int(data.Rows) * int(data.Columns)
    whole = pixels * int(data.BitsAllocated) // 8
    too_large = pixels > LIMITS["mammogram pixels"] or whole > LIMITS["mammogram bytes"]
    if too_large or min(data.Rows, data.Columns) < 16:
        raise Problem(f"{path} says it has {data.Rows} x {data.Columns} pixels, which no mammogram has; "
                      "leave it out, or get a whole copy of it.")


# ---- pixels ----------------------------------------------------------------------------------------------

def read_pixels(path):
    """(pydicom's dataset, the stored values (H, W) of its one greyscale image, as they are in the file).

    Any transfer syntax of one frame: uncompressed, deflated, run-length, JPEG, JPEG-LS, JPEG 2000 and
    HTJ2K. Raises `Problem` if the file is missing, damaged or truncated, or if it holds something else than
    one greyscale image: several frames, colours, fewer than 16 pixels a side, or over 100 million pixels.
    """
    data = open_dicom(path)
    try:
        _check_one_grey_image(path, data)
        data.SamplesPerPixel = data.NumberOfFrames = 1    # also where they are empty
        pixels = decode(data)
    except Problem:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise Problem(f"The image in {path} cannot be decoded ({reason}); "
                      "get a whole copy of it.") from None
    if pixels.ndim != 2:
        raise Problem(f"{path} holds an array of shape {pixels.shape}, not one greyscale image; "
                      "leave it out.")
    return data, pixels


# ---- grey levels -----------------------------------------------------------------------------------------

def read_dicom(path):
    """A mammogram (H, W), brighter where tissue is denser, in the file's own units.

    float32, or the stored dtype if the header asks for no transformation. The image is as a viewer shows it
    first: the modality transformation; the VOI transformation (a LUT before a window, and the first of
    several); then MONOCHROME1 is inverted (DICOM PS3.3 C.11, C.7.6.3.1.2), and padding (C.7.5.1.1.2)
    becomes the darkest level. A raw image (for processing) has its stored values, turned round if they rise
    with the dose, which is logged. Raises `Problem` as `read_pixels` does, and for a raw image that does not
    say which way its values go.
    """
    data, pixels = read_pixels(path)
    try:
        return display.shown(data, pixels, path)
    except Problem:
        raise
    except UNREADABLE as error:
        raise Problem(f"The grey-scale transformation in {path} cannot be applied ({error}); "
                      "get a whole copy of it.") from None


# ---- header ----------------------------------------------------------------------------------------------

NAMED = re.compile(r"(?:^|[_ /-])(LEFT|RIGHT|L|R)[_ -]?(CC|MLO|ML|FB)(?=[_. -]|$)", re.IGNORECASE)

VIEW_CODES = {  # SNOMED CT and its older form (DICOM PS3.16 CID 4014)
    "399162004": "CC", "R-10242": "CC",
    "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML",
    "399196006": "FB", "R-10244": "FB",
}


class Header(NamedTuple):
    """What a mammogram's file says of the picture."""
    view: str                # "CC", "MLO", "FB" or ""
    laterality: str          # "L", "R" or ""
    spacing: float | None    # millimetres per pixel in the breast, None where the file does not say


@contextmanager
def _header_of(path):
    """pydicom's dataset of the file without its pixels. Raises `Problem` where it or a value is damaged."""
    data = open_dicom(path, stop_before_pixels=True)
    try:
        yield data
    except UNREADABLE as error:
        raise Problem(f"The header of {path} cannot be read ({error}); "
                      "get a whole copy of it.") from None


def dicom_header(path):
    """`Header` of the mammogram at `path`.

    View and side come from ViewPosition and ImageLaterality; else from ViewCodeSequence and the functional
    groups of enhanced objects; else from PatientOrientation and Laterality, where CBIS-DDSM has them; else
    from the names in PatientID and the file name. ML is read as MLO, as INbreast means it. Raises
    `Problem` if the file is missing or not a readable DICOM file.
    """
    with _header_of(path) as data:
        view = display.text(data, "ViewPosition") or _coded_view(data)
        view = view or display.text(data, "PatientOrientation")
        side = display.text(data, "ImageLaterality") or display.text(data, "FrameLaterality")
        side = (side or display.text(data, "Laterality"))[:1]
        names = (str(data.get("PatientID") or ""), Path(path).name)
        spacing = _spacing(data, path)
    named_side, named_view = _named(names)
    if view not in ("CC", "MLO", "ML", "FB"):
        view = named_view
    if side not in ("L", "R"):
        side = named_side[:1]
    return Header("MLO" if view == "ML" else view, side, spacing)


def chest_wall(path):
    """The border of the image at which the header says the chest wall is: "left", "right", "top", "bottom".

    PatientOrientation says it where its values are directions; else the laterality, as images are usually
    hung: a left breast has it at the left. "" where neither is known. Raises `Problem` as `dicom_header`.
    """
    with _header_of(path) as data:
        directions = display.attribute(data, "PatientOrientation")
    if len(directions or ()) == 2 and not isinstance(directions, str):
        for direction, borders in zip(directions, (("left", "right"), ("top", "bottom"))):
            first_letter = str(direction).strip().upper()[:1]
            if first_letter in ("A", "P"):                # towards the front, away from the wall, or the back
                return borders["AP".index(first_letter)]
    return {"L": "left", "R": "right"}.get(dicom_header(path).laterality, "")


def _coded_view(data):
    """The view that ViewCodeSequence says, or "" where it says another one or nothing."""
    item = display.first(data, "ViewCodeSequence")
    return VIEW_CODES.get(display.text(item, "CodeValue"), "") if item is not None else ""


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
    calibrated = None
    if display.attribute(data, "PixelSpacingCalibrationType") is not None:
        calibrated = display.attribute(data, "PixelSpacing")
    detector = display.attribute(data, "ImagerPixelSpacing")
    magnification = display.attribute(data, "EstimatedRadiographicMagnificationFactor")
    spacing = calibrated or detector or display.attribute(data, "PixelSpacing")
    spacing = spacing or display.attribute(data, "NominalScannedPixelSpacing")
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
