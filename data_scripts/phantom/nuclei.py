"""Nuclei of the histology phantom: where they lie, and how they are stamped on the haematoxylin map."""
from typing import NamedTuple

import numpy as np

# A queued nucleus: um, um, half axes um, radians, units of stain, 0 to 1.
COLUMNS = ("x", "y", "a", "b", "angle", "dark", "vesicle")


class Kind(NamedTuple):
    """What nuclei look like."""
    size: float          # mean half axis, um
    sd: float            # relative spread of the size (pleomorphism)
    dark: float          # units of stain
    vesicle: float       # 0 to 1: how pale the middle is


def _add(c, x, y, kind, ratio, angle):
    """Queues nuclei of a kind at (x, y), um; `ratio` of their axes, long axis along `angle`."""
    rng = c.rng
    n = len(x)
    mean = kind.size * np.exp(kind.sd * rng.standard_normal(n))
    root = np.sqrt(ratio * np.exp(0.12 * rng.standard_normal(n)))
    darkness = kind.dark * np.exp(0.13 * rng.standard_normal(n))
    columns = [x, y, mean * root, mean / root, angle, darkness, np.full(n, kind.vesicle)]
    c.nuclei.append(np.column_stack(columns).astype(np.float32))


def fill(c, window, mask, spacing, kind, spindle=None):
    """Crowds `mask` (a bool map of `window`) with nuclei of a `Kind` on a jittered grid of `spacing` um.

    `spindle`: angles (canvas shape); the nuclei are then long, thin and lie along them.
    """
    rng = c.rng
    step = spacing / c.px
    height, width = mask.shape
    y, x = np.mgrid[0:height:step, 0:width:step]
    x[1::2] += step / 2                                  # hexagonal, so that no rows show
    x, y = (p.ravel() + rng.uniform(-0.33, 0.33, p.size) * step for p in (x, y))
    col = x.astype(int)
    row = y.astype(int)
    inside = (col >= 0) & (row >= 0) & (col < width) & (row < height)
    inside[inside] = mask[row[inside], col[inside]]
    x = x[inside] + (window[1].start or 0)
    y = y[inside] + (window[0].start or 0)
    if spindle is None:
        ratio = 1.25
        angle = rng.uniform(0, np.pi, len(x))
    else:
        ratio = 3.2
        angle = spindle[row[inside], col[inside]] + 0.25 * rng.standard_normal(len(x))
    _add(c, x * c.px, y * c.px, kind, ratio, angle)


def ring(c, centre, radius, size, dark, flat=False, gap=0.6):
    """A row of nuclei on a circle around `centre` (x, y): along the circle if `flat`, else across it."""
    n = max(4, int(2 * np.pi * radius / (2 * size + gap)))
    theta = np.arange(n) * 2 * np.pi / n + c.rng.uniform(0, 7) + 0.12 * c.rng.standard_normal(n)
    away = radius * (1 + 0.05 * c.rng.standard_normal(n))
    x = centre[0] + away * np.cos(theta)
    y = centre[1] + away * np.sin(theta)
    kind = Kind(size, sd=0.08, dark=dark, vesicle=0.2)
    if flat:
        _add(c, x, y, kind, 2.2, theta + np.pi / 2)
    else:
        _add(c, x, y, kind, 1.3, theta)


def scatter(c, mask, per_mm2, size, dark):
    """Single nuclei strewn over `mask`, `per_mm2` of them on a square millimetre of canvas."""
    n = c.rng.poisson(per_mm2 * mask.size * c.px ** 2 / 1e6)
    row, col = (c.rng.uniform(0, side, n).astype(int) for side in mask.shape)
    ok = mask[row, col]
    angle = c.rng.uniform(0, np.pi, ok.sum())
    _add(c, col[ok] * c.px, row[ok] * c.px, Kind(size, sd=0.1, dark=dark, vesicle=0.0), 1.1, angle)


def stamp(c):
    """Draws the queued nuclei: soft ellipses with a dark rim; vesicular ones are pale, with a nucleolus."""
    cells = np.concatenate(c.nuclei) if c.nuclei else np.empty((0, len(COLUMNS)), np.float32)
    cells[:, :4] /= c.px
    x, y = cells[:, 0], cells[:, 1]
    cells = cells[(x >= 0) & (y >= 0) & (x < c.shape[1]) & (y < c.shape[0])]
    reach = np.ceil(1.25 * cells[:, 2] + 0.5)
    low = 0
    for half in (4, 6, 9, 14, 20):                       # few sizes of window: all nuclei of a size at once
        some = cells[(reach > low) & (reach <= half)]
        low = half
        if len(some):
            _stamp(c, some, half)


def _stamp(c, cells, half):
    """Draws nuclei in windows of 2 `half` + 1 pixels."""
    x, y, a, b, angle, dark, vesicle = cells.T[:, :, None, None]
    offset = np.arange(-half, half + 1)
    col = np.floor(x).astype(int) + offset[None, None, :]
    row = np.floor(y).astype(int) + offset[None, :, None]
    dx = (col - x).astype(np.float32)
    dy = (row - y).astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    u = (dx * cos + dy * sin) / a
    v = (dy * cos - dx * sin) / b
    r2 = u * u + v * v
    lump = c.rng.normal(0, 0.06, (2, len(cells), 1, 1)).astype(np.float32) * (1 + vesicle)
    lobes = (lump[0] * u * (u * u - 3 * v * v) + lump[1] * v * (3 * u * u - v * v)) / (r2 * np.sqrt(r2) + 0.1)
    r = np.sqrt(r2 * np.maximum(1 + lobes, 0.3))         # three-lobed wobble: no perfect ellipses
    body = np.clip((1.08 - r) * b * 0.9 + 0.5, 0, 1)
    spot = np.exp(-((u - 0.2) ** 2 + (v + 0.15) ** 2) * 14)
    shade = dark * body * (1 - 0.55 * vesicle * np.clip(1.15 - r2, 0, 1) + 0.7 * vesicle * spot)
    on_canvas = (col >= 0) & (row >= 0) & (col < c.shape[1]) & (row < c.shape[0])
    drawn = on_canvas & (shade > 0.02)
    flat = (row * c.shape[1] + col)[drawn]
    np.maximum.at(c.h.reshape(-1), flat, shade[drawn].astype(np.float32))
