"""Draws H&E-stained breast tissue: stroma, fat, lobules, ducts, carcinoma in situ and invasive carcinoma.

A picture is two maps, the concentrations of haematoxylin and eosin, on a canvas of about 0.9 um per pixel. A
site's stain matrix turns them into light (Beer-Lambert, RGB = 255 exp(-OD)); blur, noise and colour of the
site's scanner follow. What is drawn depends on the diagnosis; how large, crowded and dark the nuclei are
depends on the latents, which overlap between the classes. All lengths are in micrometres unless a name says
px.
"""
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from .canvas import Canvas, above, blob, noise
from .glands import EVERYWHERE, healthy, lesions
from .mammogram import between
from .nuclei import Kind, fill, scatter, stamp


@dataclass(frozen=True)
class Style:
    """A site: its stains, optics and camera."""
    haematoxylin: tuple      # optical density (R, G, B) of one unit of stain
    eosin: tuple
    strength: tuple          # mean units of haematoxylin and eosin
    vary: float              # log-normal spread of the strengths from slide to slide
    blur: float              # section thickness and optics, um
    noise: float             # camera noise, grey levels
    gain: float              # brightness of the glass, of 255
    gamma: float
    saturation: float
    vignette: float          # share of light lost in the corners
    lymphoid: float          # share of the stroma crowded by lymphocytes
    glass: bool              # a piece of tissue on glass (slide), or a field of view that is all tissue
    quality: int             # of the JPEG that the site stores, 0: lossless


STYLES = {
    "bach": Style(
        haematoxylin=(0.62, 0.70, 0.30), eosin=(0.16, 0.80, 0.46), strength=(0.95, 0.95), vary=0.16,
        blur=0.7, noise=4.0, gain=0.98, gamma=1.0, saturation=1.0, vignette=0.10, lymphoid=0.14,
        glass=False, quality=0),
    "camelyon": Style(
        haematoxylin=(0.58, 0.76, 0.44), eosin=(0.24, 0.86, 0.40), strength=(1.15, 0.80), vary=0.16,
        blur=1.9, noise=1.5, gain=0.94, gamma=1.12, saturation=0.85, vignette=0.0, lymphoid=0.20,
        glass=True, quality=75),
    "pretrain": Style(
        haematoxylin=(0.68, 0.66, 0.36), eosin=(0.10, 0.90, 0.34), strength=(1.05, 1.05), vary=0.28,
        blur=1.3, noise=3.0, gain=0.96, gamma=0.95, saturation=1.1, vignette=0.05, lymphoid=0.12,
        glass=False, quality=0),
}
FAT = 0.50, 0.02       # share of fat, from the least to the most glandular breast


def draw(row, style, rng, shape, mpp):
    """An H&E picture of the patient `row` (patients.cohort) as `style` would show it.

    shape  (height, width) in pixels; mpp  micrometres per pixel Returns uint8 RGB (height, width, 3) and the
    bool tumour mask (height, width), all False for normal and benign. A
    patient who is `marked` has pigment strewn over the section.
    """
    canvas, tissue, tumour = paint(row, style, rng, shape, mpp)
    if row["marked"]:
        pigment(canvas, rng.spawn(1)[0])
    size = (shape[1], shape[0])
    mask = np.asarray(Image.fromarray(tumour & tissue).resize(size, Image.Resampling.NEAREST))
    return photograph(canvas, tissue, style, shape), mask


def photograph(canvas, tissue, style, shape):
    """A painted canvas as the scanner of `style` sees it: uint8 RGB of `shape` (height, width)."""
    picture = Image.fromarray(_light(canvas, tissue, style))
    return np.asarray(picture.resize(shape[::-1], Image.Resampling.BICUBIC))


def paint(row, style, rng, shape, mpp):
    """What `draw` photographs: the painted `Canvas`, and bool maps of its size of tissue and of tumour."""
    step = max(1, round(0.9 / mpp)) / max(1, round(mpp / 0.9))      # the canvas has about 0.9 um per pixel
    canvas = Canvas(tuple(max(16, int(round(n / step))) for n in shape), mpp * step, rng)
    tissue, tumour = _regions(canvas, row, style)
    _stroma(canvas, row["fibrosis"])
    _fat(canvas, between(FAT, row["glandularity"]) * rng.uniform(0.85, 1.15), tumour)
    lesions(canvas, row, tumour)
    healthy(canvas, row, ~tumour)
    _stromal_cells(canvas, style, row["inflammation"])
    stamp(canvas)
    return canvas, tissue, tumour


PIGMENT_UM = 110        # distance of the grains, whose radius is 4 to 7 um


def pigment(c, rng):
    """Strews dark grains of precipitate, as old fixative or stain leaves them, over the canvas."""
    height, width = c.shape[0] * c.px, c.shape[1] * c.px
    y, x = np.mgrid[:c.shape[0], :c.shape[1]].astype(np.float32) * np.float32(c.px)
    places = rng.uniform((0, 0, 4), (height, width, 7), (int(height * width / PIGMENT_UM ** 2), 3))
    for cy, cx, radius in places:
        top, left = (max(int((at - radius) / c.px), 0) for at in (cy, cx))
        window = np.s_[top:int((cy + radius) / c.px) + 2, left:int((cx + radius) / c.px) + 2]
        grain = np.hypot(y[window] - cy, x[window] - cx) < radius
        c.h[window][grain] = 3.0
        c.e[window][grain] = 2.0


def _regions(c, row, style):
    """Bool maps of tissue and of tumour: a piece on glass, or all of a field of view."""
    height, width = c.shape[0] * c.px, c.shape[1] * c.px
    tissue = np.ones(c.shape, bool)
    centre = np.array([width, height]) * (0.5 + c.rng.uniform(-0.05, 0.05, 2))
    if style.glass:
        tissue = blob(c, *centre, 0.46 * min(width, height), 0.10)
    if row["diagnosis"] < 2:
        return tissue, np.zeros(c.shape, bool)
    off = c.rng.uniform(-0.2, 0.2, 2) * (width, height)
    reach = c.rng.uniform(0.30, 0.42) if style.glass else c.rng.uniform(0.55, 0.9)
    return tissue, tissue & blob(c, *(centre + off), reach * max(width, height))


def _stroma(c, fibrosis):
    """Collagen: wavy bundles along a bending direction, pale clefts between them; denser with fibrosis."""
    rng, n = c.rng, 512
    streaks = gaussian_filter(rng.standard_normal((n, n), dtype=np.float32), (1.2, 9), mode="wrap")
    streaks /= streaks.std()

    def look(v, u):
        return streaks[v.astype(np.int32) % n, u.astype(np.int32) % n]

    yy, xx = np.mgrid[:c.shape[0], :c.shape[1]].astype(np.float32) * np.float32(c.px)
    turn = rng.uniform(0, np.pi)
    bend = 35 * noise(c, 150)
    wave = 5 * noise(c, 28)
    along = xx * np.cos(turn) + yy * np.sin(turn) + bend
    across = yy * np.cos(turn) - xx * np.sin(turn) + bend + wave
    down, right = np.gradient(across)
    c.angle = np.arctan2(right, -down)                   # along the lines of equal `across`
    fine = look(across * 0.9, along * 0.5)
    bundle = look(across * 0.28 + 91, along * 0.16 + 37)
    density = between((0.34, 0.72), fibrosis) + 0.10 * noise(c, 130) + 0.02 * rng.standard_normal()
    c.e = np.clip(density * (1 + 0.22 * bundle + 0.16 * fine), 0.05, 1.2).astype(np.float32)
    clefts = bundle + 0.3 * fine < between((-0.9, -1.9), fibrosis)
    c.e[clefts] *= 0.3
    c.h = (rng.uniform(0.03, 0.13) + 0.05 * c.e + 0.015 * fine).astype(np.float32)   # some stroma is bluish
    c.free = np.ones(c.shape, bool)


def _fat(c, share, tumour):
    """Fat: empty cells of about 60 um in thin walls, on `share` of the tissue outside the tumour."""
    region = above(noise(c, 220) + 0.4 * noise(c, 90), share) & ~(tumour & (noise(c, 80) < 0.3))
    if not region.any():
        return
    height, width = c.shape[0] * c.px, c.shape[1] * c.px
    x, y = np.meshgrid(np.arange(-60, width + 60, 52), np.arange(-60, height + 60, 52))
    seeds = np.column_stack([x.ravel(), y.ravel()]) + c.rng.uniform(-20, 20, (x.size, 2))
    coarse = maximum_filter(region, 7)[::3, ::3]         # distances on every third pixel only, where needed
    near = cKDTree(seeds).query(np.argwhere(coarse)[:, ::-1] * 3 * c.px, k=2)[0]
    gap = np.zeros(coarse.shape, np.float32)
    gap[coarse] = near[:, 1] - near[:, 0]
    gap = np.asarray(Image.fromarray(gap).resize(c.shape[::-1], Image.Resampling.BICUBIC))
    empty = region & (gap > 2.8)
    c.e[empty] = 0.02
    c.h[empty] = 0.01
    wall = region & ~empty
    c.e[wall] = np.minimum(c.e[wall], 0.35)
    c.free &= ~region


def _stromal_cells(c, style, inflammation):
    """Fibroblasts along the collagen, and lymphocytes strewn or, with inflammation, in crowds."""
    free = c.free & (c.e > 0.15)
    spacing = 26 / between((0.6, 1.5), inflammation)     # smaller where the stroma is reactive
    fill(c, EVERYWHERE, free, spacing, Kind(3.6, sd=0.25, dark=0.8, vesicle=0.1), spindle=c.angle)
    crowding = noise(c, 120) + 0.5 * noise(c, 40)
    crowd = above(crowding, min(0.7, style.lymphoid * between((0.2, 2.5), inflammation))) & free
    fill(c, EVERYWHERE, crowd, 7.5, Kind(2.5, sd=0.1, dark=1.35, vesicle=0.0))
    scatter(c, free, 60, size=2.4, dark=1.3)


# ---- light -------------------------------------------------------------------------------------------------

def _light(c, tissue, style):
    """Stain maps to uint8 RGB through the site's stain matrix and camera."""
    rng = c.rng
    strength = np.array(style.strength) * np.exp(style.vary * rng.standard_normal(2))
    matrix = np.array([style.haematoxylin, style.eosin]) * (1 + 0.03 * rng.standard_normal((2, 3)))
    h, e = (_blurred(plane, tissue, style, c.px) * np.float32(s) for plane, s in zip((c.h, c.e), strength))
    y, x = np.ogrid[-1:1:c.shape[0] * 1j, -1:1:c.shape[1] * 1j]
    lamp = (style.gain * (1 - style.vignette * (x * x + y * y) / 2)).astype(np.float32)
    planes = [np.exp(-(h * np.float32(a) + e * np.float32(b))) * lamp for a, b in matrix.T]
    grey = sum(planes) / 3
    grain = style.noise * rng.standard_normal(c.shape, dtype=np.float32)
    channels = []
    for plane in planes:
        vivid = grey + np.float32(style.saturation) * (plane - grey)
        plane = np.clip(vivid, 1e-3, 1) ** np.float32(style.gamma)
        channels.append(np.clip(255 * plane + grain + 0.5, 0, 255).astype(np.uint8))
    return np.stack(channels, -1)


def _blurred(plane, tissue, style, px):
    """A stain map as section and optics blur it; nothing is stained where only glass is."""
    stained = plane * tissue if style.glass else plane
    return gaussian_filter(stained, style.blur / px, truncate=2.5)
