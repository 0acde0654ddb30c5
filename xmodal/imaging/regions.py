"""Parts of a slide as pixels: through OpenSlide, or its own tiles decoded directly where the slide is a TIFF of JPEG or lossless ones."""
import csv
import os
import struct
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import tifffile
from PIL import Image

from ..config import Problem

# What OpenSlide, Pillow and tifffile raise on damaged files.
UNREADABLE = (openslide.OpenSlideError, OSError, EOFError, ValueError, SyntaxError, TypeError, AttributeError, LookupError, ArithmeticError,
              AssertionError, RuntimeError, MemoryError, struct.error, Image.DecompressionBombError)
LARGEST = 1 << 20         # side of a slide, pixels: a quarter of a metre at 0.25 um
MPP = {"bach": 0.42}      # um per pixel of the photographs of domains whose files do not say; slides must
TABLE = "mpp.csv"         # beside the slides: file,mpp
PLAIN = ("generic-tiff", "aperio")    # vendors whose levels are pages of tiles and nothing else
JPEG, LOSSLESS = 7, (1, 5, 8, 32946)  # compressions of TIFF; lossless are none, LZW, and deflate by two numbers
KEPT = 320                # decoded tiles that are kept, since neighbouring regions share them: 60 MB at 256 pixels


def open_slide(path, mpp=None):
    """(slide, um per pixel): an OpenSlide for whole slides, an ImageSlide with the same methods for plain TIFF and PNG.

    The pixel size is what the file says, else what the table mpp.csv in its folder says (columns file, mpp), else `mpp`.
    Raises `Problem` if the file is missing, unreadable, or nothing gives the pixel size.
    """
    if not Path(path).is_file():
        raise Problem(f"There is no slide {path}; run 01_download again, or correct the path.")
    try:
        slide = openslide.open_slide(str(path))
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable slide or image ({error}); delete it and fetch it again.") from None
    try:
        if max(slide.dimensions) > LARGEST:
            raise Problem(f"{path} says it has {slide.dimensions} pixels, which no slide has; delete it and fetch it again.")
        if not (said := _said_mpp(slide) or _table(Path(path)) or mpp):
            raise Problem(f"{path} does not give its pixel size; add the line {Path(path).name},<micrometres per pixel> to "
                          f"{Path(path).with_name(TABLE)} (first line: file,mpp), or pass mpp=<micrometres per pixel>.")
    except Problem:
        slide.close()
        raise
    return slide, float(said)


def _said_mpp(slide):
    """um per pixel as the file says, or None; a resolution no microscope has (72 dpi is 353 um) counts as not said."""
    try:
        if isinstance(slide, openslide.OpenSlide):
            said = float(slide.properties.get(openslide.PROPERTY_NAME_MPP_X, 0))
        else:
            said = 25400 / float(slide._image.info.get("dpi", (0, 0))[0] or np.inf)
    except ValueError:
        return None
    return said if 0.05 < said < 10 else None


def _table(path):
    """um per pixel of the slide `path` by the table beside it, or None. Raises `Problem` if the table says nothing usable of it."""
    table = path.with_name(TABLE)
    if not table.is_file():
        return None
    try:
        header, *lines = table.read_text(encoding="utf-8-sig").splitlines() or [""]
        separator = ";" if ";" in header else ","                             # spreadsheets with decimal commas write semicolons
        names = [name.strip().lower() for name in header.split(separator)]
        said = {line["file"].strip(): line["mpp"] for line in csv.DictReader(lines, names, delimiter=separator)}
        mpp = float((said.get(path.name) or "0").replace(",", "."))
    except (KeyError, AttributeError, ValueError, csv.Error) as error:
        raise Problem(f"{table} cannot be used ({error}); its first line must be file,mpp and each mpp a number.") from None
    if mpp and not 0.05 < mpp < 10:
        raise Problem(f"{table} gives {mpp} um per pixel for {path.name}, which no microscope has; correct it.")
    return mpp or None


class Regions:
    """Reads regions of an open slide. Safe to use from several threads where `slide` is an OpenSlide."""

    def __init__(self, slide):
        self.slide, self.tiff, self.pages = slide, None, {}
        if isinstance(slide, openslide.OpenSlide) and slide.properties.get(openslide.PROPERTY_NAME_VENDOR) in PLAIN:
            self._find_pages()
        self._tile = lru_cache(KEPT)(self._decode)

    def _find_pages(self):
        """Maps levels to the TIFF pages of their size whose tiles can be decoded one by one."""
        try:
            self.tiff = tifffile.TiffFile(self.slide._filename)
            for page in self.tiff.pages:
                size = (page.imagewidth, page.imagelength)
                coded = page.photometric in (2, 6) if page.compression == JPEG else page.photometric == 2 and page.compression in LOSSLESS
                if page.is_tiled and coded and page.samplesperpixel == 3 and page.bitspersample == 8 and page.planarconfig == 1:
                    if size in self.slide.level_dimensions:
                        self.pages.setdefault(self.slide.level_dimensions.index(size), page)
        except UNREADABLE:
            self.pages = {}                              # OpenSlide can read it in its own way

    def close(self):
        """Closes what this opened; the slide stays open."""
        if self.tiff:
            self.tiff.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def thumbnail(self, width, height):
        """OpenSlide's thumbnail in at most (height, width), uint8 RGB. Raises `Problem` if the file is damaged."""
        try:
            return on_glass(self.slide.get_thumbnail((width, height)))
        except UNREADABLE as error:
            raise Problem(f"The slide cannot be read ({error}); delete the file and fetch it again.") from None

    def read(self, x, y, level, width, height):
        """uint8 (height, width, 3) of `level` from (x, y) in level-0 pixels; where a scanner stored nothing there is white.

        Bit-equal to OpenSlide's read_region. Raises `Problem` if the part of the file is damaged.
        """
        x, y = int(round(x)), int(round(y))
        try:
            found = self._directly(x, y, level, width, height) if level in self.pages else None
            return on_glass(self.slide.read_region((x, y), level, (width, height))) if found is None else found
        except UNREADABLE as error:
            raise Problem(f"A region of the slide cannot be read ({error}); delete the file and fetch it again.") from None

    def _directly(self, x, y, level, width, height):
        """The region from the file's tiles, or None where OpenSlide must interpolate, look outside, or find what is missing."""
        page, scale = self.pages[level], self.slide.level_downsamples[level]
        x, y = x / scale, y / scale
        if x % 1 or y % 1 or x < 0 or y < 0 or x + width > page.imagewidth or y + height > page.imagelength:
            return None
        x, y, across, down = int(x), int(y), page.tilewidth, page.tilelength
        if (x % across, y % down, width, height) == (0, 0, across, down):
            return self._tile(level, y // down, x // across)
        out = np.empty((height, width, 3), np.uint8)
        for row in range(y // down, -(-(y + height) // down)):
            for column in range(x // across, -(-(x + width) // across)):
                if (tile := self._tile(level, row, column)) is None:
                    return None
                top, left = row * down - y, column * across - x
                to = slice(max(top, 0), top + down), slice(max(left, 0), left + across)
                out[to] = tile[max(-top, 0):height - top, max(-left, 0):width - left]
        return out

    def _decode(self, level, row, column):
        """RGB of a tile of the file, or None if it holds nothing there, or no tile of that size."""
        page = self.pages[level]
        k = row * -(-page.imagewidth // page.tilewidth) + column
        if k >= len(page.dataoffsets) or not page.databytecounts[k]:
            return None
        raw = os.pread(self.tiff.filehandle.fileno(), page.databytecounts[k], page.dataoffsets[k])
        try:
            if page.compression == JPEG:
                tile = imagecodecs.jpeg8_decode(raw, tables=page.jpegtables, colorspace="YCBCR" if page.photometric == 6 else "RGB", outcolorspace="RGB")
            else:
                tile = page.decode(raw, k)[0][0]
        except UNREADABLE:                               # OpenSlide says what is wrong with it
            return None
        return tile if tile.shape == (page.tilelength, page.tilewidth, 3) else None


def on_glass(image):
    """uint8 RGB array of an RGBA image; where a scanner stored nothing there is white."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        glass = Image.new("RGB", image.size, (255, 255, 255))
        glass.paste(image, mask=image.getchannel("A"))
        return np.asarray(glass)
    return np.asarray(image.convert("RGB"))
