"""Nuclei of the histology phantom: where they lie, and how they are stamped on the haematoxylin map."""
import numpy as np

COLUMNS = ("x", "y", "a", "b", "angle", "dark", "vesicle")   # um, um, half axes um, radians, units of stain, 0 to 1


def _add(c, x, y, size, sd, dark, vesicle, ratio, angle):
    """Queues nuclei at (x, y): `size` is the mean half axis, `sd` its relative spread (pleomorphism)."""
    rng, n = c.rng, len(x)
    mean = size * np.exp(sd * rng.standard_normal(n))
    root = np.sqrt(ratio * np.exp(0.12 * rng.standard_normal(n)))
    darkness = dark * np.exp(0.13 * rng.standard_normal(n))
    c.nuclei.append(np.column_stack([x, y, mean * root, mean / root, angle, darkness, np.full(n, vesicle)]).astype(np.float32))


def fill(c, window, mask, spacing, size, sd, dark, vesicle, spindle=None):
    """Crowds `mask` (a bool map of `window`) with nuclei on a jittered grid of `spacing` um.

    `spindle`: angles (canvas shape); the nuclei are then long, thin and lie along them.
    """
    rng, step = c.rng, spacing / c.px
    height, width = mask.shape
    y, x = np.mgrid[0:height:step, 0:width:step]
    x[1::2] += step / 2                                  # hexagonal, so that no rows show
    x, y = (p.ravel() + rng.uniform(-0.33, 0.33, p.size) * step for p in (x, y))
    col, row = x.astype(int), y.astype(int)
    ok = (col >= 0) & (row >= 0) & (col < width) & (row < height)
    ok[ok] = mask[row[ok], col[ok]]
    x, y = x[ok] + (window[1].start or 0), y[ok] + (window[0].start or 0)
    angle = rng.uniform(0, np.pi, len(x)) if spindle is None else spindle[row[ok], col[ok]] + 0.25 * rng.standard_normal(len(x))
    _add(c, x * c.px, y * c.px, size, sd, dark, vesicle, 1.25 if spindle is None else 3.2, angle)


def ring(c, x, y, radius, size, dark, flat=False, gap=0.6):
    """A row of nuclei on a circle, long axis to the centre, or along the circle where `flat`."""
    n = max(4, int(2 * np.pi * radius / (2 * size + gap)))
    theta = np.arange(n) * 2 * np.pi / n + c.rng.uniform(0, 7) + 0.12 * c.rng.standard_normal(n)
    away = radius * (1 + 0.05 * c.rng.standard_normal(n))
    _add(c, x + away * np.cos(theta), y + away * np.sin(theta), size, 0.08, dark, 0.2, 2.2 if flat else 1.3, theta + (np.pi / 2 if flat else 0))


def scatter(c, mask, per_mm2, size, dark):
    """Single nuclei strewn over `mask`, `per_mm2` of them on a square millimetre of canvas."""
    n = c.rng.poisson(per_mm2 * mask.size * c.px ** 2 / 1e6)
    row, col = (c.rng.uniform(0, side, n).astype(int) for side in mask.shape)
    ok = mask[row, col]
    _add(c, col[ok] * c.px, row[ok] * c.px, size, 0.1, dark, 0.0, 1.1, c.rng.uniform(0, np.pi, ok.sum()))


def stamp(c):
    """Draws the queued nuclei: soft ellipses with a dark rim and, where vesicular, a pale middle and a nucleolus."""
    cells = np.concatenate(c.nuclei) if c.nuclei else np.empty((0, len(COLUMNS)), np.float32)
    cells[:, :4] /= c.px
    cells = cells[(cells[:, 0] >= 0) & (cells[:, 1] >= 0) & (cells[:, 0] < c.shape[1]) & (cells[:, 1] < c.shape[0])]
    reach = np.ceil(1.25 * cells[:, 2] + 0.5)
    low = 0
    for half in (4, 6, 9, 14, 20):                       # windows of few sizes, so that all nuclei of a size go at once
        some = cells[(reach > low) & (reach <= half)]
        low = half
        if len(some):
            _stamp(c, some, half)


def _stamp(c, cells, half):
    x, y, a, b, angle, dark, vesicle = cells.T[:, :, None, None]
    offset = np.arange(-half, half + 1)
    col, row = np.floor(x).astype(int) + offset[None, None, :], np.floor(y).astype(int) + offset[None, :, None]
    dx, dy = (col - x).astype(np.float32), (row - y).astype(np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
    r2 = u * u + v * v
    lump = c.rng.normal(0, 0.06, (2, len(cells), 1, 1)).astype(np.float32) * (1 + vesicle)
    lobes = (lump[0] * u * (u * u - 3 * v * v) + lump[1] * v * (3 * u * u - v * v)) / (r2 * np.sqrt(r2) + 0.1)
    r = np.sqrt(r2 * np.maximum(1 + lobes, 0.3))          # three-lobed wobble: no perfect ellipses
    body = np.clip((1.08 - r) * b * 0.9 + 0.5, 0, 1)
    spot = np.exp(-((u - 0.2) ** 2 + (v + 0.15) ** 2) * 14)
    shade = dark * body * (1 - 0.55 * vesicle * np.clip(1.15 - r2, 0, 1) + 0.7 * vesicle * spot)
    ok = (col >= 0) & (row >= 0) & (col < c.shape[1]) & (row < c.shape[0]) & (shade > 0.02)
    flat = (row * c.shape[1] + col)[ok]
    np.maximum.at(c.h.reshape(-1), flat, shade[ok].astype(np.float32))
