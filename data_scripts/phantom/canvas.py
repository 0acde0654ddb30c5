"""The canvas that a piece of tissue is drawn on, and the random fields that shape it. Lengths are in um."""
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass
class Canvas:
    """The maps that are drawn on. `px` is the pixel's side in um."""
    shape: tuple
    px: float
    rng: np.random.Generator
    h: np.ndarray = None           # units of haematoxylin
    e: np.ndarray = None           # units of eosin
    free: np.ndarray = None        # True where stroma is bare, so that stromal cells may lie there
    angle: np.ndarray = None       # direction of the collagen, radians
    glands: list = field(default_factory=list)   # (x, y, radius) taken
    nuclei: list = field(default_factory=list)   # arrays (n, 7), see nuclei.COLUMNS


def noise(c, scale, shape=None):
    """Smooth Gaussian noise with structures of about `scale` um, mean 0, standard deviation about 1.

    It has the canvas's shape if none is given.
    """
    height, width = shape or c.shape
    cells = [int(np.ceil(n * c.px / scale)) + 4 for n in (height, width)]
    coarse = c.rng.standard_normal(cells, dtype=np.float32)
    x, y = c.rng.uniform(0.5, 1.5, 2)                    # a random phase, so that no grid shows
    box = (x, y, x + width * c.px / scale, y + height * c.px / scale)
    field = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return 1.4 * np.asarray(field)


def above(values, share):
    """True on about `share` of the pixels, which have the largest values."""
    return values > np.quantile(values[::7, ::7], 1 - np.clip(share, 0, 1))


def blob(c, x, y, radius, rough=0.18):
    """A rounded region as bool map: centre (x, y) and `radius` in um."""
    yy, xx = np.ogrid[:c.shape[0], :c.shape[1]]
    dx = xx * c.px - x
    dy = yy * c.px - y
    turn = c.rng.uniform(0, 2 * np.pi)
    along = dx * np.cos(turn) + dy * np.sin(turn)
    across = dy * np.cos(turn) - dx * np.sin(turn)
    stretch = c.rng.uniform(0.8, 1.25)
    return np.hypot(along * stretch, across / stretch) < radius * (1 + rough * noise(c, radius * 0.8))
