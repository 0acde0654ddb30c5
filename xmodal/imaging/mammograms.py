"""Mammograms: pixels in, pixels out. The breast is found, image and lesion mask are brought to model size."""
import json
import logging
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon
from skimage.filters import threshold_otsu

from ..config import Problem
from . import photos
from .dicom import chest_wall, dicom_header, read_dicom, read_pixels

log = logging.getLogger(__name__)


# ---- lesion masks ----------------------------------------------------------------------------------------

def lesion_mask(annotation, shape):
    """The bool (H, W) mask of the lesions that `annotation` (JSON text of the cohort table) describes.

    Mask files of another size are scaled axis by axis, which is logged. Polygons are in pixels, x to the
    right; one with one or two points is a point finding. Raises `Problem` if a mask file cannot be read.
    """
    mask = np.zeros(shape, bool)
    outlines = json.loads(annotation or "{}")
    for path in outlines.get("masks", ()):
        mask |= _drawn(path, shape)
    for points in outlines.get("polygons", ()):
        mask[_inside(points, shape)] = True
    for points in outlines.get("exclude", ()):
        mask[_inside(points, shape)] = False
    return mask


def _drawn(path, shape):
    """The bool (H, W) mask in a DICOM file, scaled to `shape` if it has another size."""
    mask = read_pixels(path)[1] > 0
    if mask.shape == tuple(shape):
        return mask
    log.warning("The mask %s has %s pixels and its image %s; scaled axis by axis.",
                path, mask.shape, tuple(shape))
    return resize(mask, shape, Image.Resampling.NEAREST) > 0


def _inside(points, shape):
    """(rows, columns) of the pixels inside a polygon of (x, y) points; one or two points are pixels."""
    x, y = np.asarray(points, float).T
    if len(x) > 2:
        return polygon(y, x, shape)
    rows = np.clip(np.round(y).astype(int), 0, shape[0] - 1)
    columns = np.clip(np.round(x).astype(int), 0, shape[1] - 1)
    return rows, columns


# ---- pixels ----------------------------------------------------------------------------------------------

def read(path):
    """(image (H, W), mm per pixel) of the mammogram at `path`: a DICOM file, or a picture.

    The size of a pixel is None where the file does not say it. A picture never does: its dots per inch are
    those of a page. Raises `Problem` for what cannot be read.
    """
    if photos.is_photo(path):
        return photos.grey_photo(path), None
    return read_dicom(path), dicom_header(path).spacing



def resize(image, shape, how=Image.Resampling.BOX):
    """float32 (H, W) of the wanted shape; the default averages over the area that a new pixel covers."""
    return np.asarray(Image.fromarray(np.asarray(image, np.float32)).resize((shape[1], shape[0]), how))


def block_mean(image, k):
    """float32 (ceil(H / k), ceil(W / k)): means of k x k pixels, of fewer at the lower and right border."""
    if k == 1:
        return np.asarray(image, np.float32)
    total = np.empty([-(-n // k) for n in image.shape], np.float32)
    for top in range(0, len(total), 32):                  # strips that stay in the processor's cache
        strip = image[k * top:k * (top + 32)]
        rows = -(-len(strip) // k)
        padded = np.zeros((k * rows, k * total.shape[1]), np.float32)
        padded[:len(strip), :strip.shape[1]] = strip
        sums = padded.reshape(rows, k, -1).sum(1).reshape(rows, -1, k)
        long_rows = np.ascontiguousarray(sums.transpose(2, 0, 1))            # which add up fastest
        total[top:top + 32] = long_rows.sum(0)
    down, across = (np.minimum(k, n - np.arange(0, n, k)) for n in image.shape)
    return total / np.outer(down, across).astype(np.float32)


def opened(mask, radius=6):
    """Opening of a bool mask by a disc of `radius` + 0.2 pixels.

    It works run by run of the disc's rows, which is several times faster than scipy's opening.
    """
    reach = np.sqrt((radius + 0.2) ** 2 - np.arange(-radius, radius + 1) ** 2).astype(int)
    height, width = mask.shape
    for combine in (np.logical_and, np.logical_or):       # erosion, then dilation
        padded = np.pad(mask, radius)
        runs = [padded[:, radius:-radius]]                # runs of 2 n + 1 pixels, n = 0, 1, ...
        for n in range(1, radius + 1):
            left = padded[:, radius - n:][:, :width]
            right = padded[:, radius + n:][:, :width]
            runs.append(combine(runs[-1], combine(left, right)))
        mask = combine.reduce([runs[n][down:down + height] for down, n in enumerate(reach)])
    return mask


def filled(mask):
    """A bool mask without holes, as `ndimage.binary_fill_holes` gives it, but faster."""
    parts, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        outside[edge] = True
    return mask | ~outside[parts]


def breast_mask(image):
    """The bool (H, W) mask of the breast with the pectoral muscle: no background, no label, no film border.

    Otsu's threshold of the square root of the grey levels is lowered so that the skin line stays in. The
    mask is opened, so that labels fall off, and its largest component is kept, without holes. Raises
    `Problem` if there is no breast.
    """
    scale = 400 / max(image.shape)
    small = resize(image, [max(8, round(n * scale)) for n in image.shape])
    low, high = np.percentile(small, (0.5, 99.5))
    if high <= low:
        raise Problem("The image has a single grey level: there is no breast in it; "
                      "leave it out.")
    small = ndimage.gaussian_filter(np.sqrt(np.clip((small - low) / (high - low), 0, 1)), 1.0)
    level = threshold_otsu(small)
    air = np.median(small[small < level])
    bright = small > air + 0.45 * (level - air)
    bright[:8] = bright[-8:] = False                      # white film borders, which may touch the breast
    parts, count = ndimage.label(opened(bright))
    if not count:
        raise Problem("No breast was found in the image; leave it out.")
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    mask = filled(largest)
    across = mask.sum(1)
    mask[across < 0.2 * across.max()] = False             # light that leaked in along the film's edge
    return resize(mask, image.shape, Image.Resampling.BILINEAR) > 0.5


class Square(NamedTuple):
    """The part of an image that is used: `side` pixels from (top, left) of the image, mirrored first or not.

    What lies beyond the image is 0.
    """
    mirrored: bool
    top: int
    left: int
    side: int


def breast_square(breast):
    """The `Square` around a bool (H, W) breast mask, centred in height, with the chest wall at the left."""
    rows = np.flatnonzero(breast.any(1))
    columns = np.flatnonzero(breast.any(0))
    width = breast.shape[1]
    left_margin = columns[0]
    right_margin = width - 1 - columns[-1]
    more_at_the_right = breast[:, :width // 2].sum() * 2 < breast.sum()
    mirrored = left_margin > right_margin or (left_margin == right_margin and more_at_the_right)
    down = rows[-1] - rows[0] + 1
    across = columns[-1] - columns[0] + 1
    side = max(down, across)
    top = rows[0] - (side - down) // 2
    left = right_margin if mirrored else left_margin
    return Square(bool(mirrored), int(top), int(left), int(side))


def wall_of(breast):
    """The border at which a bool (H, W) breast mask has the chest wall: "left", "right", "top" or "bottom".

    It is at the left or right unless the breast is far from both and reaches the top or bottom.
    """
    margins = {}
    for axis, (before, behind) in enumerate((("top", "bottom"), ("left", "right"))):
        places = np.flatnonzero(breast.any(1 - axis))
        length = breast.shape[axis]
        margins[before] = places[0] / length
        margins[behind] = (length - 1 - places[-1]) / length
    sides = min(margins["left"], margins["right"])
    ends = min(("top", "bottom"), key=margins.get)
    if sides > 0.05 >= margins[ends]:
        return ends
    return "right" if breast_square(breast).mirrored else "left"


def check_chest_wall(path, breast):
    """Logs where the header of the file and the breast mask (H, W) of its pixels put the chest wall at
    different borders, of which the pixels decide between left and right.

    Raises `Problem` if both say that the image is turned, with the chest wall at the top or bottom; for a
    picture, which has no header, if the pixels say it.
    """
    in_pixels = wall_of(breast)
    turned = ("top", "bottom")
    if photos.is_photo(path):
        if in_pixels in turned:
            raise Problem(f"{path} has the chest wall at the {in_pixels}; "
                          "turn the picture, so that it is at the left or at the right.")
        return
    in_header = chest_wall(path)
    if in_pixels in turned and in_header in turned:
        raise Problem(f"{path} has the chest wall at the {in_pixels} by its pixels, and its header says that "
                      "it is turned; turn the image, or leave it out.")
    if in_pixels in turned or in_header not in (in_pixels, ""):
        log.warning("%s has the chest wall at the %s by its pixels, which decide, and at %s by its header; "
                    "its side or its orientation may be wrong.",
                    path, in_pixels, f"the {in_header}" if in_header else "no border")


def cut(image, square):
    """(side, side) of (H, W): the part of `image` in `square`."""
    if square.mirrored:
        image = image[:, ::-1]
    top = max(square.top, 0)
    part = image[top:square.top + square.side, square.left:square.left + square.side]
    first = top - square.top
    out = np.zeros((square.side, square.side), image.dtype)
    out[first:first + part.shape[0], :part.shape[1]] = part
    return out


def mammogram(image, mask=None, spacing=None, size=224, path=None):
    """The breast alone, chest wall at the left: (uint8 (size, size), bool (size, size), mm per pixel).

    `image` (H, W) is as from `read_dicom`, `mask` its lesion mask, `spacing` in mm per pixel (None gives
    NaN: sizes are then in pixels). Background is 0 and the breast's 1st to 99.5th percentile become 1 to
    255, which the model sees as -1 to 1. Grey levels are means of k x k pixels, with the largest k that
    leaves 600 pixels a side and twice `size`; the mask stays whole until it is shrunk, and a lesion smaller
    than a pixel keeps one. The chest wall is where the breast touches the border, which is compared with the
    header of the file at `path` if that is given.
    """
    k = max(1, max(image.shape) // max(600, 2 * size))
    image = block_mean(image, k)
    breast = breast_mask(image)
    square = breast_square(breast)
    if path:
        check_chest_wall(path, breast)
    low, high = np.percentile(image[breast], (1, 99.5))
    level = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    grey = resize(cut(np.where(breast, 1 + 254 * level, 0), square), (size, size))
    lesion = np.zeros((size, size), bool)
    if mask is not None and mask.any():
        whole = np.pad(mask, [(0, -n % k) for n in mask.shape])
        square_of_mask = Square(square.mirrored, k * square.top, k * square.left, k * square.side)
        lesion = shrink_mask(cut(whole, square_of_mask), size)
    mm_per_px = float("nan") if spacing is None else spacing * k * square.side / size
    return np.round(grey).astype(np.uint8), lesion, mm_per_px


def shrink_mask(mask, size):
    """Square bool mask -> (size, size): the pixels of which a quarter is covered.

    A lesion that covers no pixel by a quarter keeps the pixel that it covers most.
    """
    if not mask.any():
        return np.zeros((size, size), bool)
    small = resize(mask, (size, size)) > 0.25
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    for part, window in enumerate(ndimage.find_objects(parts), 1):
        y, x = np.nonzero(parts[window] == part)
        rows = (y + window[0].start) * size // len(mask)
        columns = (x + window[1].start) * size // len(mask)
        if not small[rows, columns].any():
            cells, covered = np.unique(rows * size + columns, return_counts=True)
            small.flat[cells[np.argmax(covered)]] = True
    return small


def boxes(mask):
    """[[x0, y0, x1, y1], ...] of the connected parts of a bool mask, in pixels; x1, y1 lie just outside."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    return [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(parts)]
