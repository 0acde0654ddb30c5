"""Pictures: the formats and sizes that are opened, and mammograms that were saved as one."""
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..config import LIMITS, Problem

log = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")    # others can start programs or hide what they hold
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
COLOURED = 16             # mean difference of the channels, of 255: more than a film's tint
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError,
              Image.DecompressionBombError)


def open_photo(path):
    """The picture at `path`, a PIL image whose pixels are not decoded yet.

    Raises `Problem` if it has more pixels than `config.LIMITS` allows, and what PIL raises if it is damaged
    or of another format.
    """
    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > LIMITS["picture pixels"]:
        size = f"{image.width} x {image.height}"
        image.close()
        raise Problem(f"{path} says it has {size} pixels, which no such picture has; "
                      "get a whole copy of it.")
    return image


def is_photo(path):
    """True if the file is a picture and no DICOM file, by its first bytes, else by its name."""
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:] == b"DICM":                # its first 128 bytes may be those of a TIFF
        return False
    return start.startswith(SIGNATURES) or Path(path).suffix.lower() in SUFFIXES


def grey_photo(path):
    """A mammogram (H, W) that was saved as PNG, JPEG, TIFF or BMP: float32, brighter where tissue is denser.

    8 and 16 bits stay what they are; colours, as of a tinted film, become grey; white air is turned to black,
    which is logged. Raises `Problem` for a file that cannot be read, and for a picture in colour.
    """
    try:
        with open_photo(path) as image:
            pixels = _grey(ImageOps.exif_transpose(image), path)
    except Problem:
        raise
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable picture ({error}); get a whole copy of it.") from None
    if not np.isfinite(pixels).all():
        raise Problem(f"{path} has pixels that are no numbers; save it as PNG of 8 or 16 bits.")
    if min(pixels.shape) < 16:
        raise Problem(f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, which is no mammogram; "
                      "leave it out.")
    return _with_dark_air(pixels, path)


def _grey(image, path):
    if image.mode.startswith(("I", "F")) or image.mode in ("1", "L"):
        return np.asarray(image, np.float32)
    coloured = np.asarray(image.convert("RGB"), np.float32)
    if (coloured.max(2) - coloured.min(2)).mean() > COLOURED:
        raise Problem(f"{path} is a picture in colour and no mammogram; give tissue with --tissue, or save "
                      "the mammogram in grey.")
    return coloured.mean(2)


def _with_dark_air(pixels, path):
    """`pixels`, turned round where over a quarter of them is within a sixteenth of white, as air is in a
    negative."""
    low, high = float(pixels.min()), float(pixels.max())
    if high > low and (pixels > high - (high - low) / 16).mean() > 0.25:
        log.warning("%s has white air, as a negative has; it is turned round.", path)
        return high + low - pixels
    return pixels
