"""Mammograms: pixels in, pixels out. Finding the breast, bringing image and lesion mask to model size."""
import json
import logging
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon
from skimage.filters import threshold_otsu

from ..config import Problem
from .dicom import dicom_header, read_dicom, read_pixels  # noqa: F401 (who has an image in hand finds its reading here)

log = logging.getLogger(__name__)


def lesion_mask(annotation, shape):
    """The bool (H, W) lesion mask that an `annotation` (JSON text of the cohort table) describes for an image of `shape`.

    Mask files of another size are scaled axis by axis, which is logged. Polygons are in pixels, x to the right; one with
    one or two points is a point finding. Raises `Problem` if a mask file cannot be read.
    """
    mask, said = np.zeros(shape, bool), json.loads(annotation or "{}")
    for path in said.get("masks", ()):
        drawn = read_pixels(path)[1] > 0
        if drawn.shape != tuple(shape):
            log.warning("The mask %s has %s pixels and its image %s; scaled axis by axis.", path, drawn.shape, tuple(shape))
            drawn = resize(drawn, shape, Image.Resampling.NEAREST) > 0
        mask |= drawn
    for key, value in (("polygons", True), ("exclude", False)):
        for points in said.get(key, ()):
            x, y = np.asarray(points, float).T
            inside = polygon(y, x, shape) if len(x) > 2 else tuple(
                np.clip(np.round(c).astype(int), 0, n - 1) for c, n in zip((y, x), shape))
            mask[inside] = value
    return mask


# ---- pixels --------------------------------------------------------------------------------------------------------

def resize(image, shape, how=Image.Resampling.BOX):
    """float32 (H, W) of the wanted shape; the default averages over the area that a new pixel covers."""
    return np.asarray(Image.fromarray(np.asarray(image, np.float32)).resize((shape[1], shape[0]), how))


def block_mean(image, k):
    """float32 (ceil(H / k), ceil(W / k)): means of k x k pixels; blocks at the lower and right border hold what is left."""
    if k == 1:
        return np.asarray(image, np.float32)
    total = np.empty([-(-n // k) for n in image.shape], np.float32)
    for top in range(0, len(total), 32):                  # strips that stay in the processor's cache
        strip = image[k * top:k * (top + 32)]
        rows = -(-len(strip) // k)
        wide = np.zeros((k * rows, k * total.shape[1]), np.float32)
        wide[:len(strip), :strip.shape[1]] = strip
        sums = wide.reshape(rows, k, -1).sum(1).reshape(rows, -1, k)
        total[top:top + 32] = np.ascontiguousarray(sums.transpose(2, 0, 1)).sum(0)     # long rows add up fastest
    down, across = (np.minimum(k, n - np.arange(0, n, k)) for n in image.shape)
    return total / np.outer(down, across).astype(np.float32)


def opened(mask, radius=6):
    """Opening of a bool mask by a disc of `radius` pixels and a fifth, run by run of its rows, which is several times faster than scipy's."""
    reach = np.sqrt((radius + 0.2) ** 2 - np.arange(-radius, radius + 1) ** 2).astype(int)
    height, width = mask.shape
    for fit in (np.logical_and, np.logical_or):           # erosion, then dilation
        wide = np.pad(mask, radius)
        runs = [wide[:, radius:-radius]]                  # of 2 n + 1 pixels, n = 0, 1, ...
        for n in range(1, radius + 1):
            runs.append(fit(runs[-1], fit(wide[:, radius - n:][:, :width], wide[:, radius + n:][:, :width])))
        mask = fit.reduce([runs[n][down:down + height] for down, n in enumerate(reach)])
    return mask


def filled(mask):
    """A bool mask without holes, as `ndimage.binary_fill_holes` gives it: what no way through the background leads out of."""
    parts, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        outside[edge] = True
    return mask | ~outside[parts]


def breast_mask(image):
    """The bool (H, W) mask of the breast with the pectoral muscle: no background, no label, no film border.

    Otsu's threshold of the square root of the grey levels, lowered so that the skin line stays in; opened, so that labels
    fall off; the largest component, without holes. Raises `Problem` if nothing is there.
    """
    scale = 400 / max(image.shape)
    small = resize(image, [max(8, round(n * scale)) for n in image.shape])
    low, high = np.percentile(small, (0.5, 99.5))
    if high <= low:
        raise Problem("The image has a single grey level: there is no breast in it; take the file out of the index.")
    small = ndimage.gaussian_filter(np.sqrt(np.clip((small - low) / (high - low), 0, 1)), 1.0)
    level = threshold_otsu(small)
    air = np.median(small[small < level])
    bright = small > air + 0.45 * (level - air)
    bright[:8] = bright[-8:] = False                      # white film borders, which may touch the breast
    parts, count = ndimage.label(opened(bright))
    if not count:
        raise Problem("No breast was found in the image; take the file out of the index.")
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    mask = filled(largest)
    mask[mask.sum(1) < 0.2 * mask.sum(1).max()] = False  # light that leaked in along the film's edge
    return resize(mask, image.shape, Image.Resampling.BILINEAR) > 0.5


class Square(NamedTuple):
    """The part of an image that is kept: mirrored or not, then `side` pixels from (top, left); what lies beyond the image is 0."""
    mirrored: bool
    top: int
    left: int
    side: int


def breast_square(breast):
    """The `Square` around a bool (H, W) breast mask, rows centred, chest wall at the left."""
    columns, width = np.flatnonzero(breast.any(0)), breast.shape[1]
    left, right = columns[0], width - 1 - columns[-1]     # to the borders
    mirrored = bool(left > right or (left == right and breast[:, :width // 2].sum() * 2 < breast.sum()))
    rows, across = np.flatnonzero(breast.any(1)), columns[-1] - columns[0] + 1
    down = rows[-1] - rows[0] + 1
    side = max(down, across)
    return Square(mirrored, int(rows[0] - (side - down) // 2), int(right if mirrored else left), int(side))


def cut(image, square):
    """(side, side) of (H, W): the part of `image` in `square`."""
    image = image[:, ::-1] if square.mirrored else image
    top, out = max(square.top, 0), np.zeros((square.side, square.side), image.dtype)
    part = image[top:square.top + square.side, square.left:square.left + square.side]
    out[top - square.top:top - square.top + part.shape[0], :part.shape[1]] = part
    return out


def mammogram(image, mask=None, spacing=None, size=224):
    """The breast alone, chest wall at the left, in a square: (uint8 (size, size), bool (size, size), mm a pixel).

    `image` (H, W) as from `read_dicom`, `mask` its lesion mask, `spacing` in mm a pixel (None gives NaN: sizes are then in
    pixels). Background is 0 and the breast's 1st to 99.5th percentile 1 to 255; the model sees that as -1 to 1. Grey levels
    are means of k x k pixels, k as large as leaves 600 a side and twice the result; the mask stays whole until it is shrunk,
    and a lesion smaller than a pixel keeps one.
    """
    k = max(1, max(image.shape) // max(600, 2 * size))
    image = block_mean(image, k)
    breast = breast_mask(image)
    square = breast_square(breast)
    low, high = np.percentile(image[breast], (1, 99.5))
    grey = cut(np.where(breast, 1 + 254 * np.clip((image - low) / max(high - low, 1e-6), 0, 1), 0), square)
    lesion = np.zeros((size, size), bool)
    if mask is not None and mask.any():
        whole = np.pad(mask, [(0, -n % k) for n in mask.shape])
        lesion = shrink_mask(cut(whole, Square(square.mirrored, *(k * n for n in square[1:]))), size)
    mm_per_px = float("nan") if spacing is None else spacing * k * square.side / size
    return np.round(resize(grey, (size, size))).astype(np.uint8), lesion, mm_per_px


def shrink_mask(mask, size):
    """Square bool mask -> (size, size): pixels covered by a quarter, and the most covered one of any lesion left without."""
    if not mask.any():
        return np.zeros((size, size), bool)
    small = resize(mask, (size, size)) > 0.25
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    for part, window in enumerate(ndimage.find_objects(parts), 1):
        y, x = np.nonzero(parts[window] == part)
        at = [((c + s.start) * size // len(mask)) for c, s in zip((y, x), window)]
        if not small[at[0], at[1]].any():
            cells, covered = np.unique(at[0] * size + at[1], return_counts=True)
            small.flat[cells[np.argmax(covered)]] = True
    return small


def boxes(mask):
    """[[x0, y0, x1, y1], ...] of the connected parts of a bool mask, in pixels; x1 and y1 lie just outside."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    return [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(parts)]
