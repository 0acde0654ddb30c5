"""Histology: slides and photographs in, tiles out. Reading, tissue, tiles of a physical size."""
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from PIL import Image
from scipy.ndimage import binary_dilation
from skimage.filters import threshold_otsu
from skimage.measure import blur_effect
from skimage.morphology import remove_small_objects

from ..config import Problem
from . import outlines
from .regions import Regions

GRID = 16                 # side of a tile on the overview that tissue and tumour are measured on, pixels
LARGE = 2 ** 24           # pixels held at a time at most, so that a slide of any size fits into memory
THREADS = 2               # that read tiles; the result does not depend on their number


# ---- reading ---------------------------------------------------------------------------------------------

def region(slide, x, y, side, size):
    """uint8 (size, size, 3): the square with corner (x, y) and `side` in level-0 pixels, as `extract` reads
    it."""
    return extract(slide, [(x, y)], side, size)[0]


def extract(slide, xy, side, size):
    """uint8 (n, size, size, 3): the squares with corners xy (n, 2) and `side` in level-0 pixels.

    They are read from the level that is just fine enough.
    """
    level = slide.get_best_level_for_downsample(max(side / size, 1) * 1.01)
    n = max(1, round(side / slide.level_downsamples[level]))                 # side of a square at that level
    out = np.empty((len(xy), size, size, 3), np.uint8)
    order = sorted(range(len(xy)), key=lambda k: (xy[k][1], xy[k][0]))    # neighbours share decoded tiles
    threads = THREADS if isinstance(slide, openslide.OpenSlide) else 1
    with Regions(slide) as regions, ThreadPoolExecutor(threads) as pool:
        def put(k):
            part = regions.read(*xy[k], level, n, n)
            out[k] = part if n == size else _resized(part, size, size)
        list(pool.map(put, order))
    return out


def _resized(rgb, width, height):
    method = Image.Resampling.BOX if rgb.shape[1] > width else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(rgb).resize((width, height), method))


def overview(slide, width, height):
    """uint8 (height, width, 3): all of the slide, small. It is read block by block where no level is
    small."""
    downsample = max(n / m for n, m in zip(slide.dimensions, (width, height)))
    level = slide.get_best_level_for_downsample(downsample)
    if np.prod(slide.level_dimensions[level]) > LARGE:
        return _by_blocks(slide, level, width, height)
    with Regions(slide) as regions:
        small = regions.thumbnail(width, height)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BOX))


def _by_blocks(slide, level, width, height):
    """The overview from blocks of at most 2048 pixels a side at `level`, each shrunk by itself."""
    scale = slide.dimensions[0] / width                   # level-0 pixels per overview pixel
    down = slide.level_downsamples[level]
    step = max(1, int(2048 * down / scale))               # side of a block, overview pixels
    out = np.empty((height, width, 3), np.uint8)
    with Regions(slide) as regions:
        for top in range(0, height, step):
            for left in range(0, width, step):
                part = out[top:top + step, left:left + step]
                h, w = (max(1, round(n * scale / down)) for n in part.shape[:2])
                block = regions.read(left * scale, top * scale, level, w, h)
                part[:] = _resized(block, part.shape[1], part.shape[0])
    return out


# ---- tissue ----------------------------------------------------------------------------------------------

def tissue_mask(thumbnail, smallest=GRID * GRID // 4):
    """Bool (H, W) of an RGB thumbnail (PIL image or array): darker than glass, and not pen.

    Holes and specks of fewer than `smallest` pixels are removed. The steps are those of histolab for
    slides, with a floor under its threshold: Otsu's alone would part nuclei from stroma where a field of
    view holds no glass. Where the glass is dim, it is measured: see `dim_glass`.
    """
    thumbnail = Image.fromarray(np.asarray(thumbnail, np.uint8)).convert("RGB")
    steps = [
        RgbToGrayscale(),
        Lambda(partial(_darker_than_glass, glass=dim_glass(thumbnail))),
        BinaryDilation(disk_size=1),
        RemoveSmallHoles(smallest),
        RemoveSmallObjects(smallest, avoid_overmask=False),
    ]
    with warnings.catch_warnings():                       # histolab calls newer libraries by older names
        for kind in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        tissue = np.asarray(Compose(steps)(thumbnail), bool)
        return tissue & ~pen_mask(thumbnail, smallest)


def _darker_than_glass(grey, glass):
    grey = np.asarray(grey)
    if glass is not None:
        return grey < 0.9 * glass
    return grey < max(_otsu(grey), 215)


def _otsu(grey):
    return threshold_otsu(grey) if grey.min() < grey.max() else 0


def dim_glass(thumbnail):
    """Grey level of the glass in an RGB thumbnail where it is 100 to 225, or None where it is brighter or not
    seen.

    Dim glass is the commonest grey among pixels without the colours of stain or ink. It fills a twentieth of
    the picture at least, above 216 half of it, and next to nothing is brighter. Neither white, which fills
    what no scanner stored, nor black around the slide counts. Of a large picture every second, third, ... row
    and column is looked at.
    """
    step = 1 + max(thumbnail.size) // 2048
    rgb = np.asarray(thumbnail.convert("RGB"))[::step, ::step].astype(int)
    grey = np.asarray(thumbnail.convert("L"))[::step, ::step].astype(int)
    seen = (grey < 254) & (grey > 40)
    brightest = rgb.max(-1)
    stain = (rgb[..., 0] + rgb[..., 2]) / 2 - rgb[..., 1]             # H&E absorbs green most
    colourless = (stain < 0.08 * brightest) & (np.ptp(rgb, axis=-1) < 0.2 * brightest)
    levels = np.bincount(grey[seen & colourless], minlength=256)
    glass = int(np.convolve(levels, np.ones(9), "same").argmax())
    share = levels[max(0, glass - 8):glass + 9].sum() / max(1, seen.sum())
    brighter = (grey[seen] > 1.06 * glass + 4).sum() / max(1, seen.sum())
    least = 0.05 if glass <= 216 else 0.5                 # just above 215, fat and gaps in tissue look alike
    return glass if 100 <= glass <= 225 and share >= least and brighter <= 0.02 else None


def pen_mask(thumbnail, smallest=GRID * GRID // 4):
    """Bool (H, W) of an RGB PIL image: red, green, blue and black marker, with a rim of two pixels.

    The colours are found by histolab's filters. Specks of fewer than `smallest` pixels are no marker:
    nuclei, red cells and ink in tissue share its colours.
    """
    rgb = np.asarray(thumbnail)
    pen = (rgb.max(-1) < 90) & (np.ptp(rgb, axis=-1) < 25)                # black has no hue, a stain has one
    for colour in (RedPenFilter(), GreenPenFilter(), BluePenFilter()):
        pen |= ~np.asarray(colour(thumbnail)).any(-1) & rgb.any(-1)
    return binary_dilation(remove_small_objects(pen, max_size=smallest - 1), iterations=2)


# ---- tiles -----------------------------------------------------------------------------------------------

def in_focus(tile, blurred=0.55):
    """False where a tile (H, W, 3) is out of focus by the blur of Crete et al. (SPIE 2007), from 0 to 1.

    Real tiles in focus lie below 0.37 at 0.5 to 2.7 um per pixel; a Gaussian blur of 2 pixels brings them
    to about 0.5, one of 3 pixels above 0.57.
    """
    return blur_effect(np.asarray(tile).mean(-1)) < blurred


def tumour_mask(annotation, shape, scale):
    """Bool (H, W) of the polygons in `annotation` (JSON text of the cohort table).

    A pixel of the annotation is `scale` pixels of this mask. What is excluded is none, but for polygons that
    lie in it again.
    """
    drawn = json.loads(annotation or "{}")
    polygons = [np.array(points, float).reshape(-1, 2) * scale for points in drawn.get("polygons", ())]
    excluded = [np.array(points, float).reshape(-1, 2) * scale for points in drawn.get("exclude", ())]
    return outlines.area(polygons, excluded, shape)


class Layout(NamedTuple):
    """How the tiles of a slide lie side by side, centred, on a small overview of it."""
    side: float              # of a tile, level-0 pixels
    across: int              # tiles in a row
    down: int                # tiles in a column
    grid: int                # side of a tile, overview pixels
    shape: tuple             # (height, width) of the overview

    @property
    def corner(self):
        """(top, left) of the first tile, overview pixels."""
        return ((self.shape[0] - self.down * self.grid) // 2, (self.shape[1] - self.across * self.grid) // 2)

    def shares(self, mask):
        """(n,) share of each tile that is True in `mask`, a bool overview; tiles row by row."""
        (top, left), grid = self.corner, self.grid
        part = mask[top:top + self.down * grid, left:left + self.across * grid]
        return part.reshape(self.down, grid, self.across, grid).mean((1, 3)).ravel()


def layout(slide, mpp, tile_um):
    """`Layout` of the tiles of side `tile_um`. Raises `Problem` if the slide is smaller than one tile."""
    side = tile_um / mpp
    across, down = (int(n // side) for n in slide.dimensions)
    if not across * down:
        raise Problem(f"A slide of {slide.dimensions} pixels at {mpp} um is smaller than a tile of "
                      f"{tile_um} um; choose smaller tiles.")
    grid = GRID
    while grid > GRID // 8 and across * down * grid * grid > LARGE:
        grid //= 2
    width, height = (max(1, round(n * grid / side)) for n in slide.dimensions)
    return Layout(side, across, down, grid, (height, width))


def tile_grid(slide, mpp, tile_um):
    """All tiles of side `tile_um`, side by side and centred: (xy, tissue).

    xy (n, 2) are corners in level-0 pixels, tissue (n,) the shares of the tiles' area.
    """
    plan = layout(slide, mpp, tile_um)
    height, width = plan.shape
    tissue = tissue_mask(overview(slide, width, height), max(2, plan.grid * plan.grid // 4))
    row, column = np.divmod(np.arange(plan.down * plan.across), plan.across)
    top, left = plan.corner
    xy = np.column_stack([left + column * plan.grid, top + row * plan.grid]) * plan.side / plan.grid
    return xy, plan.shares(tissue)


def outlined(slide, mpp, tile_um, annotation):
    """(n,) share of each tile of `tile_grid` that lies in the outlines of `annotation` (JSON text)."""
    plan = layout(slide, mpp, tile_um)
    return plan.shares(tumour_mask(annotation, plan.shape, plan.grid / plan.side))


class Tiles(NamedTuple):
    """Tiles of one slide."""
    pixels: np.ndarray       # uint8 (n, size, size, 3)
    xy: np.ndarray           # (n, 2) upper left corners, level-0 pixels


def sharp(slide, xy, side, size, n=None):
    """(pixels, chosen): the first `n` squares that are in focus, of those with corners xy (m, 2).

    `side` is in level-0 pixels; pixels are as of `extract`, chosen (n,) says which squares they are.
    """
    left = np.arange(len(xy))
    chosen = []
    pixels = [np.empty((0, size, size, 3), np.uint8)]
    while len(left) and (n is None or len(chosen) < n):
        missing = len(left) if n is None else n - len(chosen)
        batch, left = np.split(left, [missing])
        read = extract(slide, xy[batch], side, size)
        in_order = np.array([in_focus(tile) for tile in read])
        chosen.extend(batch[in_order])
        pixels.append(read[in_order])
    return np.concatenate(pixels), np.array(chosen, int)


def tiles(slide, mpp, tile_um=256.0, size=96, tissue=0.5, n=None, rng=None):
    """`Tiles` in focus with at least the given share of tissue, at most `n`.

    Their order is that of the grid, or random where `rng` is given. No outline is looked at.
    """
    xy, has_tissue = tile_grid(slide, mpp, tile_um)
    candidates = np.flatnonzero(has_tissue >= tissue)
    if rng is not None:
        candidates = rng.permutation(candidates)
    pixels, chosen = sharp(slide, xy[candidates], tile_um / mpp, size, n)
    return Tiles(pixels, xy[candidates][chosen])
