"""Parts of a slide as pixels: through OpenSlide, or from the slide's own tiles.

The tiles are decoded directly where the slide is a TIFF whose tiles are JPEG or lossless, which is faster.
"""
import os
import struct
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import tifffile
from PIL import Image

from ..config import LIMITS, Problem
from ..runtime.files import composed, table_lines
from .tiff import check_tiff

# What OpenSlide, Pillow and tifffile raise on damaged files.
UNREADABLE = (
    openslide.OpenSlideError,
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
LARGEST = 1 << 20         # side of a slide, pixels: a quarter of a metre at 0.25 um
MPP = {"bach": 0.42}      # um per pixel of a domain's photographs whose files do not say it; slides must
TABLE = "mpp.csv"         # beside the slides: file,mpp
EQUAL = 0.02              # two pixel sizes that differ by a smaller share are one
PLAIN = ("generic-tiff", "aperio")    # vendors whose levels are pages of tiles and nothing else
JPEG = 7                              # compression of TIFF pages
LOSSLESS = (1, 5, 8, 32946)           # the same: none, LZW, and deflate by two numbers
KEPT = 320                # decoded tiles to keep, since neighbouring regions share them: 60 MB at 256 pixels


# ---- opening ---------------------------------------------------------------------------------------------

def open_slide(path, mpp=None):
    """(slide, um per pixel): an OpenSlide, or for plain TIFF and PNG an ImageSlide, which has the same
    methods.

    The pixel size is what the file says, else what the table mpp.csv in its folder says (columns file,
    mpp), else `mpp`. Raises `Problem` if the file is missing or unreadable, or if nothing gives the pixel
    size.
    """
    if not Path(path).is_file():
        raise Problem(f"There is no slide {path}; correct the path, or put it there.")
    try:
        check_tiff(path)
        slide = openslide.open_slide(str(path))
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable slide or image ({error}); "
                      "get a whole copy of it.") from None
    try:
        too_many = np.prod(slide.dimensions) > LIMITS["picture pixels"]
        is_slide = isinstance(slide, openslide.OpenSlide)
        if max(slide.dimensions) > LARGEST or too_many and not is_slide:
            raise Problem(f"{path} says it has {slide.dimensions} pixels, which no slide has; "
                          "get a whole copy of it.")
        pixel_size = _known_mpp(slide, Path(path)) or mpp
        if not pixel_size:
            raise Problem(f"{path} does not give its pixel size; add the line "
                          f"{Path(path).name},<micrometres per pixel> to {Path(path).with_name(TABLE)} "
                          "(first line: file,mpp), or give it as mpp (--mpp of xmodal.predict).")
    except Problem:
        slide.close()
        raise
    return slide, float(pixel_size)


def _known_mpp(slide, path):
    """um per pixel as the file or the table says, or None.

    Raises `Problem` where they contradict each other, or where pixels are not square.
    """
    across, down = _stated_mpp(slide)
    if across and down and not _equal(across, down):
        raise Problem(f"The pixels of {path} are not square ({across:g} um across and {down:g} um down); "
                      "save it with square pixels and use that file.")
    listed = _table_mpp(path)
    if across and listed and not _equal(across, listed):
        raise Problem(f"{path} says that it has {across:g} um per pixel, and {path.with_name(TABLE)} says "
                      f"{listed:g}; correct the table or take out the line.")
    return across or listed


def _equal(a, b):
    return abs(a / b - 1) < EQUAL


def _stated_mpp(slide):
    """[um per pixel in x, in y] as the file says, each None where it does not.

    What no microscope has (72 dpi is 353 um) counts as missing.
    """
    if isinstance(slide, openslide.OpenSlide):
        names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        return [_possible(slide.properties.get(name)) for name in names]
    dots_per_inch = slide._image.info.get("dpi", (0, 0))
    return [_possible(25400 / (float(dots) or np.inf)) for dots in dots_per_inch[:2]]


def _possible(mpp):
    """`mpp` as a number, or None where it is none that a microscope has."""
    try:
        mpp = float(mpp or 0)
    except ValueError:
        return None
    return mpp if 0.05 < mpp < 10 else None


def _table_mpp(path):
    """um per pixel of the slide `path` by the table beside it, or None if that is absent or does not name it.

    Raises `Problem` if the table cannot be used, or gives the slide two sizes.
    """
    table = path.with_name(TABLE)
    if not table.is_file():
        return None
    header, *lines = table_lines(table) or [[]]
    columns = [name.lower() for name in header]
    if columns.count("file") != 1 or columns.count("mpp") != 1:
        raise Problem(f"{table} cannot be used; its first line must be file,mpp and each mpp a number.")
    name = columns.index("file")
    size = columns.index("mpp")
    sizes = set()
    for line in lines:
        if line[name:name + 1] == [composed(path.name)] and any(line[size:size + 1]):
            sizes.add(_listed_mpp(line[size], table, path))
    if len(sizes) > 1:
        listed = " and ".join(map(str, sorted(sizes)))
        raise Problem(f"{table} gives {path.name} the sizes {listed}; keep the line that is right.")
    return sizes.pop() if sizes else None


def _listed_mpp(text, table, path):
    """The size that the table gives to the slide `path`. Raises `Problem` if no microscope has it."""
    try:
        mpp = float(text.replace(",", "."))
    except ValueError as error:
        raise Problem(f"{table} cannot be used ({error}); "
                      "its first line must be file,mpp and each mpp a number.") from None
    if not 0.05 < mpp < 10:
        raise Problem(f"{table} gives {mpp} um per pixel for {path.name}, which no microscope has; "
                      "correct it.")
    return mpp


# ---- regions ---------------------------------------------------------------------------------------------

class Regions:
    """Reads regions of an open slide. Safe to use from several threads where `slide` is an OpenSlide."""

    def __init__(self, slide):
        self.slide = slide
        self.tiff = None
        self.pages = {}                                   # level: TIFF page whose tiles are decoded directly
        if isinstance(slide, openslide.OpenSlide):
            vendor = slide.properties.get(openslide.PROPERTY_NAME_VENDOR)
            if vendor in PLAIN:
                self._find_pages()
        self._tile = lru_cache(KEPT)(self._decode)

    def _find_pages(self):
        """Maps levels to the TIFF pages of their size whose tiles can be decoded one by one."""
        sizes = self.slide.level_dimensions
        try:
            self.tiff = tifffile.TiffFile(self.slide._filename)
            for page in self.tiff.pages:
                size = (page.imagewidth, page.imagelength)
                if _decodable(page) and size in sizes:
                    self.pages.setdefault(sizes.index(size), page)
        except UNREADABLE:
            self.pages = {}                               # OpenSlide can read it in its own way

    def close(self):
        """Closes what this opened; the slide stays open."""
        if self.tiff:
            self.tiff.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def thumbnail(self, width, height):
        """uint8 RGB, OpenSlide's thumbnail of at most (height, width). Raises `Problem` if the file is
        damaged."""
        try:
            return on_glass(self.slide.get_thumbnail((width, height)))
        except UNREADABLE as error:
            raise Problem(f"The slide cannot be read ({error}); "
                          "get a whole copy of it.") from None

    def read(self, x, y, level, width, height):
        """uint8 (height, width, 3) of `level` from (x, y) in level-0 pixels; what no scanner stored is white.

        Equal to OpenSlide's read_region in every bit. Raises `Problem` if that part of the file is damaged.
        """
        x = int(round(x))
        y = int(round(y))
        try:
            region = self._directly(x, y, level, width, height) if level in self.pages else None
            if region is None:
                region = on_glass(self.slide.read_region((x, y), level, (width, height)))
            return region
        except UNREADABLE as error:
            raise Problem(f"A region of the slide cannot be read ({error}); "
                          "get a whole copy of it.") from None

    def _directly(self, x, y, level, width, height):
        """The region from the file's tiles.

        None where only OpenSlide can give it: between pixels, beyond the border, or where a tile is missing.
        """
        page = self.pages[level]
        scale = self.slide.level_downsamples[level]
        x = x / scale
        y = y / scale
        if x % 1 or y % 1 or x < 0 or y < 0 or x + width > page.imagewidth or y + height > page.imagelength:
            return None
        x = int(x)
        y = int(y)
        row, below = divmod(y, page.tilelength)
        column, beside = divmod(x, page.tilewidth)
        if (beside, below, width, height) == (0, 0, page.tilewidth, page.tilelength):
            return self._tile(level, row, column)
        return self._from_tiles(x, y, level, width, height)

    def _from_tiles(self, x, y, level, width, height):
        """The region put together from the tiles it touches, or None if one of them is missing."""
        across = self.pages[level].tilewidth
        down = self.pages[level].tilelength
        out = np.empty((height, width, 3), np.uint8)
        for row in range(y // down, -(-(y + height) // down)):
            for column in range(x // across, -(-(x + width) // across)):
                tile = self._tile(level, row, column)
                if tile is None:
                    return None
                top = row * down - y                      # of the tile, seen from the region: may be negative
                left = column * across - x
                part = tile[max(-top, 0):height - top, max(-left, 0):width - left]
                out[max(top, 0):top + down, max(left, 0):left + across] = part
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
                colours = "YCBCR" if page.photometric == 6 else "RGB"
                room = np.empty((page.tilelength, page.tilewidth, 3), np.uint8)    # refused if it is larger
                tile = imagecodecs.jpeg8_decode(raw, tables=page.jpegtables, out=room,
                                               colorspace=colours, outcolorspace="RGB")
            else:
                tile = page.decode(raw, k)[0][0]
        except UNREADABLE:                                # OpenSlide says what is wrong with it
            return None
        return tile if tile.shape == (page.tilelength, page.tilewidth, 3) else None


def _decodable(page):
    """True if a TIFF page consists of tiles of 8-bit RGB that can be decoded one by one."""
    if page.compression == JPEG:
        coded = page.photometric in (2, 6)
    else:
        coded = page.photometric == 2 and page.compression in LOSSLESS
    bytes_of_three = page.samplesperpixel == 3 and page.bitspersample == 8 and page.planarconfig == 1
    return page.is_tiled and coded and bytes_of_three


def on_glass(image):
    """uint8 RGB array of an RGBA image; where a scanner stored nothing there is white."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        glass = Image.new("RGB", image.size, (255, 255, 255))
        glass.paste(image, mask=image.getchannel("A"))
        return np.asarray(glass)
    return np.asarray(image.convert("RGB"))
