"""Histology: slides and photographs in, tiles out. Opening, tissue, tiles of a physical size."""
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import openslide
from histolab.filters.image_filters import (
    BluePenFilter,
    Compose,
    GreenPenFilter,
    Lambda,
    RedPenFilter,
    RgbToGrayscale,
)
from histolab.filters.morphological_filters import BinaryDilation, RemoveSmallHoles, RemoveSmallObjects
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation
from skimage.filters import threshold_otsu
from skimage.measure import blur_effect
from skimage.morphology import remove_small_objects

from ..config import Problem
from .regions import MPP, Regions, open_slide  # noqa: F401  one asks for them, and for the stain, where the tiles come from
from .stain import REFERENCE, macenko  # noqa: F401

GRID = 16                 # side of a tile on the overview image that tissue and tumour are measured on, pixels
LARGE = 2 ** 24           # pixels that are held at a time at most, so that a slide of any size fits into memory
THREADS = 2               # that read tiles; the result does not depend on it


# ---- reading -----------------------------------------------------------------------------------------------------

def region(slide, x, y, side, size):
    """uint8 (size, size, 3): the square with corner (x, y) and `side` in level-0 pixels, from the level just fine enough."""
    return extract(slide, [(x, y)], side, size)[0]


def extract(slide, xy, side, size):
    """uint8 (n, size, size, 3): the squares with corners xy (n, 2) and `side` in level-0 pixels, from the level just fine enough."""
    level = slide.get_best_level_for_downsample(max(side / size, 1) * 1.01)
    n, out = max(1, round(side / slide.level_downsamples[level])), np.empty((len(xy), size, size, 3), np.uint8)
    with Regions(slide) as regions, ThreadPoolExecutor(THREADS if isinstance(slide, openslide.OpenSlide) else 1) as pool:
        def put(k):
            part = regions.read(*xy[k], level, n, n)
            out[k] = part if n == size else _resized(part, size, size)
        order = sorted(range(len(xy)), key=lambda k: (xy[k][1], xy[k][0]))   # neighbours share what is decoded
        list(pool.map(put, order))
    return out


def _resized(rgb, width, height):
    method = Image.Resampling.BOX if rgb.shape[1] > width else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(rgb).resize((width, height), method))


def overview(slide, width, height):
    """uint8 (height, width, 3): all of the slide, small. Where no level is small it is read block by block."""
    scale = slide.dimensions[0] / width
    level = slide.get_best_level_for_downsample(max(n / m for n, m in zip(slide.dimensions, (width, height))))
    if np.prod(slide.level_dimensions[level]) <= LARGE:
        with Regions(slide) as regions:
            small = regions.thumbnail(width, height)
        return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BOX))
    down, out = slide.level_downsamples[level], np.empty((height, width, 3), np.uint8)
    step = max(1, int(2048 * down / scale))              # side of a block, overview pixels
    with Regions(slide) as regions:
        for top in range(0, height, step):
            for left in range(0, width, step):
                part = out[top:top + step, left:left + step]
                h, w = (max(1, round(n * scale / down)) for n in part.shape[:2])
                part[:] = _resized(regions.read(left * scale, top * scale, level, w, h), part.shape[1], part.shape[0])
    return out


# ---- tissue and tiles --------------------------------------------------------------------------------------------

def tissue_mask(thumbnail, smallest=GRID * GRID // 4):
    """Bool (H, W) of an RGB thumbnail (PIL image or array): darker than glass, not pen; holes and specks under `smallest` pixels gone.

    histolab's chain for slides, with a floor under its threshold: Otsu's alone would part nuclei from stroma where a
    field of view holds no glass.
    """
    thumbnail = Image.fromarray(np.asarray(thumbnail, np.uint8)).convert("RGB")
    dark = Lambda(lambda grey: np.asarray(grey) < max(_otsu(np.asarray(grey)), 215))
    steps = (RgbToGrayscale(), dark, BinaryDilation(disk_size=1), RemoveSmallHoles(smallest), RemoveSmallObjects(smallest, avoid_overmask=False))
    with warnings.catch_warnings():                      # histolab's calls work, by names that newer libraries call old
        for kind in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        return np.asarray(Compose(list(steps))(thumbnail), bool) & ~pen_mask(thumbnail, smallest)


def pen_mask(thumbnail, smallest=GRID * GRID // 4):
    """Bool (H, W) of an RGB PIL image: red, green, blue (histolab's filters) and black marker, with a rim of two pixels.

    Specks under `smallest` pixels are no marker: nuclei, red cells and ink in tissue share its colours.
    """
    rgb = np.asarray(thumbnail)
    found = (rgb.max(-1) < 90) & (np.ptp(rgb, axis=-1) < 25)              # black: dark without a hue, which no stain is
    for colour in (RedPenFilter(), GreenPenFilter(), BluePenFilter()):
        found |= ~np.asarray(colour(thumbnail)).any(-1) & rgb.any(-1)
    return binary_dilation(remove_small_objects(found, max_size=smallest - 1), iterations=2)


def in_focus(tile, blurred=0.55):
    """False where a tile (H, W, 3) is out of focus by the blur of Crete et al. (SPIE 2007), which runs from 0 to 1.

    Real tiles in focus lie below 0.37 at 0.5 to 2.7 um a pixel; a Gaussian blur of 2 pixels brings them to about 0.5, of 3 above 0.57.
    """
    return blur_effect(np.asarray(tile).mean(-1)) < blurred


def _otsu(grey):
    return threshold_otsu(grey) if grey.min() < grey.max() else 0


def tumour_mask(annotation, shape, scale):
    """Bool (H, W) of the polygons in `annotation` (JSON text of the cohort table), whose pixels are 1 / `scale` of this image's."""
    said, canvas = json.loads(annotation or "{}"), Image.new("1", shape[::-1])
    for key, value in (("polygons", 1), ("exclude", 0)):
        for points in said.get(key, ()):
            if len(points) > 2:
                ImageDraw.Draw(canvas).polygon([(x * scale - 0.5, y * scale - 0.5) for x, y in points], fill=value)
    return np.asarray(canvas)


def tile_grid(slide, mpp, tile_um, annotation=""):
    """Positions and contents of all tiles of `tile_um`, side by side and centred: xy (n, 2) in level-0 pixels, share of
    tissue (n,), share of tumour (n,). Raises `Problem` if the slide is smaller than one tile."""
    side = tile_um / mpp                                 # of a tile, level-0 pixels
    across, down = (int(n // side) for n in slide.dimensions)
    if not across * down:
        raise Problem(f"A slide of {slide.dimensions} pixels at {mpp} um is smaller than a tile of {tile_um} um; choose smaller tiles.")
    grid = next(g for g in (GRID, GRID // 2, GRID // 4, GRID // 8) if across * down * g * g <= LARGE or g == GRID // 8)
    width, height = (max(1, round(n * grid / side)) for n in slide.dimensions)
    tissue = tissue_mask(overview(slide, width, height), max(2, grid * grid // 4))
    tumour = tumour_mask(annotation, (height, width), grid / side)
    top, left = (height - down * grid) // 2, (width - across * grid) // 2
    shares = [mask[top:top + down * grid, left:left + across * grid].reshape(down, grid, across, grid).mean((1, 3)).ravel()
              for mask in (tissue, tumour)]
    row, column = np.divmod(np.arange(down * across), across)
    return np.column_stack([left + column * grid, top + row * grid]) * side / grid, *shares


class Tiles(NamedTuple):
    """Tiles of one slide."""
    pixels: np.ndarray       # uint8 (n, size, size, 3)
    xy: np.ndarray           # (n, 2) upper left corners, level-0 pixels
    tumour: np.ndarray       # (n,) share of annotated tumour


def tiles(slide, mpp, tile_um=256.0, size=96, tissue=0.5, tumour=0.0, annotation="", n=None, rng=None):
    """`Tiles` in focus with at least the given shares of tissue and tumour: those of tumour first, at most `n`.

    Among equals the order is that of the grid, or random where `rng` is given.
    """
    xy, has_tissue, has_tumour = tile_grid(slide, mpp, tile_um, annotation)
    keep = np.flatnonzero((has_tissue >= tissue) & (has_tumour >= tumour))
    keep = keep if rng is None else rng.permutation(keep)
    keep = keep[np.argsort(has_tumour[keep] < 0.5, kind="stable")]
    chosen, pixels = [], [np.empty((0, size, size, 3), np.uint8)]
    while len(keep) and (n is None or len(chosen) < n):
        some, keep = np.split(keep, [len(keep) if n is None else n - len(chosen)])
        read = extract(slide, xy[some], tile_um / mpp, size)
        sharp = np.array([in_focus(tile) for tile in read])
        chosen, pixels = [*chosen, *some[sharp]], [*pixels, read[sharp]]
    return Tiles(np.concatenate(pixels), xy[chosen], has_tumour[chosen])
