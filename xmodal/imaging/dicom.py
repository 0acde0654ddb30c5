"""Mammograms as files: the grey levels that a DICOM file holds, and what its header says of the picture."""
import logging
import math
import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_dtype
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ..config import Problem

log = logging.getLogger(__name__)
# What pydicom and its decoders raise on damaged files.
UNREADABLE = (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, OSError, EOFError, ValueError, TypeError,
              AttributeError, LookupError, ArithmeticError, AssertionError, NotImplementedError, RuntimeError, MemoryError,
              struct.error, zlib.error)
LARGEST = 100_000_000    # pixels; the largest mammograms have under half of it
DEFLATED = b"1.2.840.10008.1.2.1.99"


class Header(NamedTuple):
    """What a mammogram's file says of the picture."""
    view: str                # "CC", "MLO", "FB" or ""
    laterality: str          # "L", "R" or ""
    spacing: float | None    # millimetres a pixel in the breast, None where the file does not say


def _open(path, **how):
    try:
        _check_inflated_size(path)
        return pydicom.dcmread(path, **how)
    except FileNotFoundError:
        raise Problem(f"There is no file {path}; run 01_download again, or correct the path.") from None
    except Problem:
        raise
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable DICOM file ({error}); delete it and fetch it again.") from None


def _check_inflated_size(path):
    """Raises `Problem` where a deflated file, which pydicom inflates whole, would fill the memory."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
        if DEFLATED not in head:
            return
        file.seek(144 + int.from_bytes(head[140:144], "little"))        # preamble, prefix and group length, then the group
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := inflate.unconsumed_tail or file.read(1 << 16):
            size += len(inflate.decompress(chunk, 1 << 20))
            if size > 2 * LARGEST:
                raise Problem(f"{path} inflates to more than {2 * LARGEST:,} bytes, which no mammogram has; delete it and fetch it again.")


def _check_one_grey_image(path, data):
    """Raises `Problem` unless the header speaks of one greyscale image of a size that mammograms have."""
    if "PixelData" not in data:
        raise Problem(f"{path} holds no image; take it out of the index or fetch it again.")
    kind, frames = str(data.get("PhotometricInterpretation", "")), int(data.get("NumberOfFrames") or 1)
    if data.get("SamplesPerPixel", 1) != 1 or not kind.startswith("MONOCHROME"):
        raise Problem(f"{path} holds a {kind or 'colour'} image, not a greyscale one; take it out of the index.")
    if frames > 1:
        raise Problem(f"{path} holds {frames} frames, as tomosynthesis has them, and only single images are read; take it out of the index.")
    if not 16 * 16 <= int(data.Rows) * int(data.Columns) <= LARGEST or min(data.Rows, data.Columns) < 16:
        raise Problem(f"{path} says it has {data.Rows} x {data.Columns} pixels, which no mammogram has; take it out of the index or fetch it again.")


# gdcm, which pydicom would ask, ends the process on some damaged JPEG files, and does not know 12 bits.
JPEG = {JPEGBaseline8Bit: imagecodecs.jpeg8_decode, JPEGExtended12Bit: imagecodecs.jpeg8_decode, JPEGLossless: imagecodecs.jpegsof3_decode,
        JPEGLosslessSV1: imagecodecs.jpegsof3_decode, JPEGLSLossless: imagecodecs.jpegls_decode, JPEGLSNearLossless: imagecodecs.jpegls_decode}


def _decode(data):
    """The stored values: run lengths, JPEG and JPEG-LS by imagecodecs, the rest by pydicom and pylibjpeg."""
    syntax, shape = data.file_meta.TransferSyntaxUID, (data.Rows, data.Columns)
    if syntax == RLELossless:
        return _used_bits(_run_lengths(_frame(data), pixel_dtype(data), shape), data.BitsStored)
    if syntax not in JPEG:
        data.pixel_array_options(decoding_plugin="pylibjpeg" if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian else "")
        return data.pixel_array
    pixels = JPEG[syntax](_bounded(_frame(data), shape) if JPEG[syntax] is imagecodecs.jpegsof3_decode else _frame(data))
    if pixels.shape != shape or pixels.dtype.kind != "u" or pixels.itemsize * 8 > data.BitsAllocated:
        raise ValueError(f"its JPEG holds {pixels.dtype} of shape {pixels.shape}, its header says {data.Rows} x {data.Columns}")
    return _used_bits(pixels.astype(np.uint16).view(np.int16), data.BitsStored) if data.PixelRepresentation else pixels


def _frame(data):
    """The encoded bytes of the only frame."""
    return next(generate_frames(data.PixelData, number_of_frames=1), b"")


def _bounded(frame, shape):
    """A lossless JPEG with zeros behind it, whose decoder would read beyond its end where it is cut, or says another size than `shape`."""
    at = 2
    while at + 9 <= len(frame) and frame[at + 1] != 0xDA:                    # segments, as far as the scan
        if 0xC0 <= frame[at + 1] <= 0xC3 and struct.unpack(">HH", frame[at + 5:at + 9]) != shape:
            raise ValueError(f"its JPEG says another size than {shape[0]} x {shape[1]}")
        at += 2 + int.from_bytes(frame[at + 2:at + 4], "big")
    return frame + bytes(4 * shape[0] * shape[1])                            # no pixel takes more than 16 bits of code and 16 of value


def _used_bits(pixels, bits):
    """Without what lies above the stored `bits`, of which the highest is the sign where there is one."""
    unused = 8 * pixels.itemsize - bits
    if unused < 0:
        raise ValueError(f"it says that of {8 * pixels.itemsize} bits {bits} are used")
    return pixels << unused >> unused if unused else pixels


def _run_lengths(frame, kind, shape):
    """Array of `kind` and `shape` from planes of bytes, the highest first, each packed (DICOM PS3.5 annex G). imagecodecs' decoder of
    whole frames ends the process on some damaged ones, so it gets a plane at a time."""
    count, *starts = np.frombuffer(frame[:64], "<u4").tolist()
    planes = [np.frombuffer(imagecodecs.packbits_decode(frame[a:b]), np.uint8) for a, b in zip(starts, [*starts[1:count], None])]
    n = math.prod(shape)
    if count != kind.itemsize or min(map(len, planes)) < n:
        raise ValueError(f"its run lengths hold {count} planes of {[len(p) for p in planes]} bytes, its header says {shape[0]} x {shape[1]} pixels")
    pixels = planes[0][:n].astype(f"u{count}")
    for plane in planes[1:]:
        pixels <<= 8
        pixels |= plane[:n]
    return pixels.view(kind).reshape(shape)


def read_pixels(path):
    """(pydicom's dataset, the stored values (H, W) of its one greyscale image, as they are in the file).

    Any transfer syntax of one frame: uncompressed, deflated, run-length, JPEG, JPEG-LS, JPEG 2000 and HTJ2K. Raises `Problem` if the file is missing,
    damaged or truncated, or holds no such image: several frames, colours, fewer than 16 pixels a side, or over 100 million.
    """
    data = _open(path)
    try:
        _check_one_grey_image(path, data)
        pixels = _decode(data)
    except Problem:
        raise
    except UNREADABLE as error:
        raise Problem(f"The image in {path} cannot be decoded ({' '.join(str(error).split())}); delete the file and fetch it again.") from None
    if pixels.ndim != 2:
        raise Problem(f"{path} holds an array of shape {pixels.shape}, not one greyscale image; take it out of the index.")
    return data, pixels


TRANSFORMED = ("RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "PixelPaddingValue")


def read_dicom(path):
    """A mammogram (H, W), brighter where tissue is denser, in the file's own units: float32, or as stored if nothing is to be done.

    As a viewer shows it at first: the modality transformation; the VOI transformation, a LUT before a window, and the first
    of several; then MONOCHROME1 is inverted (DICOM PS3.3 C.11, C.7.6.3.1.2), and padding (C.7.5.1.1.2) becomes the darkest.
    Raises `Problem` as `read_pixels` does.
    """
    data, pixels = read_pixels(path)
    try:
        if not _inverted(data) and not any(name in data for name in TRANSFORMED):
            return pixels
        if pixels.dtype.kind not in "iu" or pixels.itemsize > 2:
            return _shown(data, pixels)
        low, high = int(pixels.min()), int(pixels.max())  # each grey level is transformed once
        return _shown(data, np.arange(low, high + 1).astype(pixels.dtype))[pixels.astype(np.int32) - low]
    except UNREADABLE as error:
        raise Problem(f"The grey-scale transformation in {path} cannot be applied ({error}); fetch the file again.") from None


def _inverted(data):
    return data.get("PhotometricInterpretation") == "MONOCHROME1" or data.get("PresentationLUTShape") == "INVERSE"


def _shown(data, stored):
    """float32 grey levels that the header of `data` makes of stored values."""
    with np.errstate(over="ignore"):                      # the next lines see it
        shown = np.asarray(apply_voi_lut(apply_modality_lut(stored, data), data), np.float32)
    if not np.isfinite(shown).all():
        raise ValueError("it gives values that are no numbers")
    shown = shown.max() - shown + shown.min() if _inverted(data) else shown
    if (padding := data.get("PixelPaddingValue")) is not None:
        ends = sorted((int(padding), int(data.get("PixelPaddingRangeLimit", padding))))
        shown[(stored >= ends[0]) & (stored <= ends[1])] = shown.min()
    return shown


NAMED = re.compile(r"(?:^|[_ /-])(LEFT|RIGHT|L|R)[_ -]?(CC|MLO|ML|FB)(?=[_. -]|$)", re.IGNORECASE)


def dicom_header(path):
    """`Header` of the mammogram at `path`.

    View and side come from ViewPosition and ImageLaterality; else from PatientOrientation and Laterality, where CBIS-DDSM
    has them; else from the names in PatientID and the file name. ML is read as MLO, as INbreast means it.
    Raises `Problem` if the file is missing or no readable DICOM.
    """
    data = _open(path, stop_before_pixels=True)
    try:
        view = str(data.get("ViewPosition") or data.get("PatientOrientation") or "").upper()
        side = str(data.get("ImageLaterality") or data.get("Laterality") or "").upper()[:1]
        found = [NAMED.search(str(text)) for text in (data.get("PatientID", ""), Path(path).name)]
        spacing = _spacing(data, path)
    except UNREADABLE as error:
        raise Problem(f"The header of {path} cannot be read ({error}); delete the file and fetch it again.") from None
    named = next((match.groups() for match in found if match), ("", ""))
    view = view if view in ("CC", "MLO", "ML", "FB") else named[1].upper()
    side = side if side in ("L", "R") else named[0][:1].upper()
    return Header("MLO" if view == "ML" else view, side, spacing)


def _spacing(data, path):
    """Millimetres a pixel in the breast, or None.

    PixelSpacing where it says that it was calibrated; else that at the detector, divided by the magnification where it is
    given; else PixelSpacing, or the digitiser's (DICOM PS3.3 10.7.1.3, C.8.6.2.1.1). What is no square of a positive size counts as not said.
    """
    calibrated = data.get("PixelSpacing") if data.get("PixelSpacingCalibrationType") else None
    detector, magnified = data.get("ImagerPixelSpacing"), data.get("EstimatedRadiographicMagnificationFactor")
    said = calibrated or detector or data.get("PixelSpacing") or data.get("NominalScannedPixelSpacing")
    if not said:
        return None
    try:
        down, across = (float(n) / (float(magnified) if magnified and said is detector else 1) for n in said)
    except (TypeError, ValueError, ZeroDivisionError):
        down = across = math.nan
    if not (1e-3 < down < 10 and abs(across - down) < 0.01 * down):
        log.warning("%s gives its pixels as %s mm, which cannot be; sizes in it stay in pixels.", path, said)
        return None
    return down
