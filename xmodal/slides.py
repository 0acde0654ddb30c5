"""Histology: slides and photographs in, tiles out. Opening, tissue, tiles of a physical size."""
import json
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
from histolab.filters.image_filters import BluePenFilter, Compose, GreenPenFilter, Lambda, RedPenFilter, RgbToGrayscale
from histolab.filters.morphological_filters import BinaryDilation, RemoveSmallHoles, RemoveSmallObjects
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation
from skimage.filters import threshold_otsu
from skimage.measure import blur_effect
from skimage.morphology import remove_small_objects

from .config import Problem
from .stain import REFERENCE, macenko  # noqa: F401  one asks for them where the tiles come from

UNREADABLE = (openslide.OpenSlideError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)
MPP = {"bach": 0.42}      # um per pixel of domains whose files do not say
GRID = 16                 # side of a tile on the overview image that tissue and tumour are measured on, pixels


# ---- reading -----------------------------------------------------------------------------------------------------

def open_slide(path, mpp=None):
    """(slide, um per pixel): an OpenSlide for whole slides, an ImageSlide with the same methods for plain TIFF and PNG.

    `mpp` is used where the file does not say. Raises `Problem` if the file is missing, unreadable, or nothing gives the mpp.
    """
    if not Path(path).is_file():
        raise Problem(f"There is no slide {path}; run 01_download again, or correct the path.")
    try:
        slide = openslide.open_slide(str(path))
    except UNREADABLE as error:
        raise Problem(f"{path} is not a readable slide or image ({error}); delete it and fetch it again.") from None
    said = _said_mpp(slide)
    if not (said or mpp):
        slide.close()
        raise Problem(f"{path} does not give its pixel size; pass mpp=<micrometres per pixel>, or name it in xmodal.slides.MPP.")
    return slide, float(said or mpp)


def _said_mpp(slide):
    """um per pixel as the file says, or None; a resolution no microscope has (72 dpi is 353 um) counts as not said."""
    if isinstance(slide, openslide.OpenSlide):
        said = slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
    else:
        said = 25400 / float(slide._image.info.get("dpi", (0, 0))[0] or np.inf)
    return float(said) if said and 0.05 < float(said) < 10 else None


def region(slide, x, y, side, size):
    """uint8 (size, size, 3): the square with corner (x, y) and `side` in level-0 pixels, from the level just fine enough."""
    level = slide.get_best_level_for_downsample(max(side / size, 1) * 1.01)
    n = max(1, round(side / slide.level_downsamples[level]))
    try:
        part = slide.read_region((int(round(x)), int(round(y))), level, (n, n))
    except UNREADABLE as error:
        raise Problem(f"A region of the slide cannot be read ({error}); delete the file and fetch it again.") from None
    return np.asarray(_on_glass(part).resize((size, size), Image.Resampling.BOX if n > size else Image.Resampling.BICUBIC))


def _on_glass(image):
    """RGB of an RGBA image; where a scanner stored nothing there is white."""
    glass = Image.new("RGB", image.size, (255, 255, 255))
    glass.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    return glass


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
    width, height = (max(1, round(n * GRID / side)) for n in slide.dimensions)
    overview = _on_glass(slide.get_thumbnail((width, height))).resize((width, height), Image.Resampling.BOX)
    tissue, tumour = tissue_mask(overview), tumour_mask(annotation, (height, width), GRID / side)
    top, left = (height - down * GRID) // 2, (width - across * GRID) // 2
    shares = [mask[top:top + down * GRID, left:left + across * GRID].reshape(down, GRID, across, GRID).mean((1, 3)).ravel()
              for mask in (tissue, tumour)]
    row, column = np.divmod(np.arange(down * across), across)
    return np.column_stack([left + column * GRID, top + row * GRID]) * side / GRID, *shares


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
    pixels, chosen = [], []
    for i in keep:
        if len(chosen) == n:
            break
        tile = region(slide, *xy[i], tile_um / mpp, size)
        if in_focus(tile):
            pixels.append(tile)
            chosen.append(i)
    return Tiles(np.array(pixels, np.uint8).reshape(-1, size, size, 3), xy[chosen], has_tumour[chosen])
