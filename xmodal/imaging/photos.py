"""Photographs and ultrasound images: formats and sizes that are opened."""
from PIL import Image

from ..config import LIMITS, Problem

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")    # others can start programs or hide what they hold


def open_photo(path):
    """The picture at `path`, a PIL image whose pixels are not decoded yet.

    Raises `Problem` if it has more pixels than `config.LIMITS` allows, and what PIL raises if it is damaged
    or of another format.
    """
    image = Image.open(path, formats=FORMATS)
    if image.width * image.height > LIMITS["picture pixels"]:
        size = f"{image.width} x {image.height}"
        image.close()
        raise Problem(f"{path} says it has {size} pixels, which no such picture has; fetch it again.")
    return image
