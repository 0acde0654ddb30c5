"""Draws H&E-stained breast tissue: stroma, fat, lobules, ducts, carcinoma in situ and invasive carcinoma.

A picture is two maps, the concentrations of haematoxylin and eosin, on a canvas of about 0.9 um per pixel. A site's stain
matrix turns them into light (Beer-Lambert, RGB = 255 exp(-OD)); blur, noise and colour of the site's scanner follow.
What is drawn depends on the diagnosis; how large, crowded and dark the nuclei are depends on the latents, which overlap
between the classes. All lengths are in micrometres unless a name says px.
"""
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from .nuclei import fill, ring, scatter, stamp


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
    "bach": Style((0.62, 0.70, 0.30), (0.16, 0.80, 0.46), (0.95, 0.95), 0.16, 0.7, 4.0, 0.98, 1.0, 1.0, 0.10, 0.08, False, 0),
    "camelyon": Style((0.58, 0.76, 0.44), (0.24, 0.86, 0.40), (1.15, 0.80), 0.16, 1.9, 1.5, 0.94, 1.12, 0.85, 0.0, 0.20, True, 75),
    "pretrain": Style((0.68, 0.66, 0.36), (0.10, 0.90, 0.34), (1.05, 1.05), 0.28, 1.3, 3.0, 0.96, 0.95, 1.1, 0.05, 0.12, False, 0),
}
FAT = {"A": 0.40, "B": 0.27, "C": 0.15, "D": 0.05, "": 0.2}   # share of fat by breast density


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


def draw(row, style, rng, shape, mpp):
    """An H&E picture of the patient `row` (patients.cohort) as `style` would show it.

    shape  (height, width) in pixels; mpp  micrometres per pixel
    Returns uint8 RGB (height, width, 3) and the bool tumour mask (height, width), all False for normal and benign.
    """
    step = max(1, round(0.9 / mpp)) / max(1, round(mpp / 0.9))      # the canvas has about 0.9 um a pixel
    canvas = Canvas(tuple(max(16, int(round(n / step))) for n in shape), mpp * step, rng)
    tissue, tumour = _regions(canvas, row, style)
    _stroma(canvas)
    _fat(canvas, FAT[row["density"]] * rng.uniform(0.4, 1.4), tumour)
    _lesions(canvas, row, tumour)
    _healthy(canvas, row, ~tumour)
    _stromal_cells(canvas, style)
    stamp(canvas)
    rgb = _light(canvas, tissue, style)
    size = (shape[1], shape[0])
    rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
    return rgb, np.asarray(Image.fromarray(tumour & tissue).resize(size, Image.Resampling.NEAREST))


# ---- fields ------------------------------------------------------------------------------------------------------

def noise(c, scale):
    """Smooth Gaussian noise with structures of about `scale` um, mean 0, standard deviation about 1, canvas shape."""
    size = [int(np.ceil(n * c.px / scale)) + 4 for n in c.shape]
    coarse = Image.fromarray(c.rng.standard_normal(size, dtype=np.float32))
    x, y = c.rng.uniform(0.5, 1.5, 2)                    # a random phase, so that no grid shows
    box = (x, y, x + c.shape[1] * c.px / scale, y + c.shape[0] * c.px / scale)
    return 1.4 * np.asarray(coarse.resize(c.shape[::-1], Image.Resampling.BICUBIC, box=box))


def above(values, share):
    """True on about `share` of the pixels, those with the largest values."""
    return values > np.quantile(values[::7, ::7], 1 - np.clip(share, 0, 1))


def _blob(c, x, y, radius, rough=0.18):
    """A rounded region as bool map: centre (x, y) and `radius` in um."""
    yy, xx = np.ogrid[:c.shape[0], :c.shape[1]]
    dx, dy = xx * c.px - x, yy * c.px - y
    turn = c.rng.uniform(0, 2 * np.pi)
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    stretch = c.rng.uniform(0.8, 1.25)
    return np.hypot(along * stretch, across / stretch) < radius * (1 + rough * noise(c, radius * 0.8))


def _regions(c, row, style):
    """Bool maps of tissue and of tumour: a piece on glass, or all of a field of view."""
    height, width = c.shape[0] * c.px, c.shape[1] * c.px
    tissue = np.ones(c.shape, bool)
    centre = np.array([width, height]) * (0.5 + c.rng.uniform(-0.05, 0.05, 2))
    if style.glass:
        tissue = _blob(c, *centre, 0.46 * min(width, height), 0.10)
    if row["diagnosis"] < 2:
        return tissue, np.zeros(c.shape, bool)
    off = c.rng.uniform(-0.2, 0.2, 2) * (width, height)
    reach = c.rng.uniform(0.30, 0.42) if style.glass else c.rng.uniform(0.55, 0.9)
    return tissue, tissue & _blob(c, *(centre + off), reach * max(width, height))


def _stroma(c):
    """Collagen: wavy bundles along a bending direction, with pale clefts between them."""
    rng, n = c.rng, 512
    streaks = gaussian_filter(rng.standard_normal((n, n), dtype=np.float32), (1.2, 9), mode="wrap")
    streaks /= streaks.std()
    yy, xx = np.mgrid[:c.shape[0], :c.shape[1]].astype(np.float32) * np.float32(c.px)
    turn, bend, wave = rng.uniform(0, np.pi), 35 * noise(c, 150), 5 * noise(c, 28)
    along = xx * np.cos(turn) + yy * np.sin(turn) + bend
    across = yy * np.cos(turn) - xx * np.sin(turn) + bend + wave
    down, right = np.gradient(across)
    c.angle = np.arctan2(right, -down)                   # along the lines of equal `across`
    look = lambda v, u: streaks[v.astype(np.int32) % n, u.astype(np.int32) % n]
    fine, bundle = look(across * 0.9, along * 0.5), look(across * 0.28 + 91, along * 0.16 + 37)
    density = 0.52 + 0.13 * noise(c, 130) + 0.09 * rng.standard_normal()
    c.e = np.clip(density * (1 + 0.22 * bundle + 0.16 * fine), 0.05, 1.2).astype(np.float32)
    c.e[bundle + 0.3 * fine < -1.35] *= 0.3              # clefts
    c.h = (rng.uniform(0.03, 0.13) + 0.05 * c.e + 0.015 * fine).astype(np.float32)   # some stroma is bluish
    c.free = np.ones(c.shape, bool)


def _fat(c, share, tumour):
    """Fat: empty cells of about 60 um in thin walls, on `share` of the tissue outside the tumour."""
    region = above(noise(c, 220) + 0.4 * noise(c, 90), share) & ~(tumour & (noise(c, 80) < 1.0))
    if not region.any():
        return
    height, width = c.shape[0] * c.px, c.shape[1] * c.px
    x, y = np.meshgrid(np.arange(-60, width + 60, 52), np.arange(-60, height + 60, 52))
    seeds = np.column_stack([x.ravel(), y.ravel()]) + c.rng.uniform(-20, 20, (x.size, 2))
    coarse = [int(np.ceil(n / 3)) for n in c.shape]
    grid = np.stack(np.meshgrid(np.arange(coarse[1]), np.arange(coarse[0])), -1) * 3 * c.px
    near = cKDTree(seeds).query(grid.reshape(-1, 2), k=2)[0].reshape(*coarse, 2)
    gap = Image.fromarray((near[..., 1] - near[..., 0]).astype(np.float32))
    gap = np.asarray(gap.resize(c.shape[::-1], Image.Resampling.BICUBIC))
    empty = region & (gap > 2.8)
    c.e[empty], c.h[empty] = 0.02, 0.01
    wall = region & ~empty
    c.e[wall] = np.minimum(c.e[wall], 0.35)
    c.free &= ~region


# ---- structures --------------------------------------------------------------------------------------------------

def _place(c, zone, radius, gap=8):
    """A free centre (x, y) in um in `zone` for a gland of `radius`, or None after 60 tries."""
    height, width = c.shape[0] * c.px, c.shape[1] * c.px
    taken = np.array(c.glands).reshape(-1, 3)
    for x, y in c.rng.uniform((-0.3 * radius, -0.3 * radius), (width + 0.3 * radius, height + 0.3 * radius), (60, 2)):
        inside = zone[min(max(int(y / c.px), 0), c.shape[0] - 1), min(max(int(x / c.px), 0), c.shape[1] - 1)]
        if inside and (np.hypot(taken[:, 0] - x, taken[:, 1] - y) > taken[:, 2] + radius + gap).all():
            c.glands.append((x, y, radius))
            return x, y
    return None


def _gland(c, x, y, radius, wobble=0.1, stretch=1.15):
    """The window around a gland and the relative distance from its centre: 0 there, 1 on its basement membrane."""
    reach = 1.5 * radius + 14
    rows = slice(max(0, int((y - reach) / c.px)), max(0, int((y + reach) / c.px) + 1))
    cols = slice(max(0, int((x - reach) / c.px)), max(0, int((x + reach) / c.px) + 1))
    height, width = c.h[rows, cols].shape
    dy = (np.arange(rows.start, rows.start + height, dtype=np.float32) * c.px - y)[:, None]
    dx = (np.arange(cols.start, cols.start + width, dtype=np.float32) * c.px - x)[None]
    turn, ratio = c.rng.uniform(0, np.pi), c.rng.uniform(1, stretch)
    theta = np.arctan2(dy, dx)
    outline = 1 + sum(wobble / k * np.sin(k * theta + c.rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return (rows, cols), np.hypot(along / ratio, across * ratio) / (radius * outline), outline, theta


def _epithelium(c, window, d, radius, lumen, membrane=0.75):
    """Paints cytoplasm between `lumen` and the membrane, the lumen itself, and a loose rim of stroma around it."""
    e, h, free = c.e[window], c.h[window], c.free[window]
    rim = (d >= 1) & (d < 1 + 9 / radius)
    e[rim] = 0.6 * e[rim] + 0.4 * membrane * 0.6
    body, hollow = d < 1, d < lumen
    e[body], h[body] = 0.42, 0.22
    e[hollow], h[hollow] = 0.05, 0.02
    e[np.abs(d - 1) * radius < 1.3] = membrane
    free[d < 1 + 5 / radius] = False


def _acinus(c, x, y, radius, size, lumen=0.4):
    """A small gland lined by one row of nuclei, with flat myoepithelial nuclei outside."""
    window, d, outline, theta = _gland(c, x, y, radius)
    _epithelium(c, window, d, radius, lumen, 0.5)
    ring(c, x, y, radius * 0.5 * (1 + lumen), size, dark=0.95)
    ring(c, x, y, radius * 0.97, size * 0.75, dark=1.1, flat=True, gap=3.5)


def _lobule(c, zone, radius, size, crowd):
    """A cluster of acini in loose, pale stroma."""
    spot = _place(c, zone, radius)
    if spot is None:
        return
    window, d, _, _ = _gland(c, *spot, radius)
    loose = d < 1
    c.e[window][loose] *= 0.65
    c.h[window][loose] += 0.05
    done = []
    for _ in range(int(90 * crowd * (radius / 100) ** 2) + 8):
        r, turn, away = c.rng.uniform(10, 19), c.rng.uniform(0, 2 * np.pi), radius * np.sqrt(c.rng.uniform(0, 0.85))
        x, y = spot[0] + away * np.cos(turn), spot[1] + away * np.sin(turn)
        if all((x - a) ** 2 + (y - b) ** 2 > (r + s + 2) ** 2 for a, b, s in done):
            done.append((x, y, r))
            _acinus(c, x, y, r, size, c.rng.uniform(0.15, 0.5))


def _duct(c, zone, radius, size, layers, slit=False):
    """A duct with `layers` rows of nuclei around its lumen."""
    spot = _place(c, zone, radius)
    if spot is None:
        return
    window, d, _, _ = _gland(c, *spot, radius, 0.2 if slit else 0.1, 1.6 if slit else 1.25)
    thick = min(0.85, (layers * 2.1 * size + 4) / radius)
    folds = 0.22 * noise(c, 16)[window] * (layers > 1)   # tufts of a thick epithelium reach into the lumen
    lumen = np.clip(1 - thick + folds, 0.05, 0.95)
    collar = (d >= 1) & (d < 1 + 16 / radius)
    c.e[window][collar] = 0.25 + 0.6 * c.e[window][collar]
    _epithelium(c, window, d, radius, lumen, 0.6)
    body = (d < 0.93) & (d > lumen + 2 / radius)
    fill(c, window, body, spacing=2.15 * size, size=size, sd=0.1, dark=0.95, vesicle=0.3)
    rim = (d >= 0.93) & (d < 1.02)
    fill(c, window, rim, spacing=2.4 * size, size=0.8 * size, sd=0.1, dark=1.1, vesicle=0.0)


def _in_situ(c, zone, radius, row, size, atypia):
    """A duct filled with crowded nuclei inside a sharp membrane: cribriform holes, or necrosis with calcification."""
    spot = _place(c, zone, radius)
    if spot is None:
        return
    rng = c.rng
    window, d, _, _ = _gland(c, *spot, radius, 0.12, 1.3)
    _epithelium(c, window, d, radius, 0.0, 0.95)
    e, h, solid = c.e[window], c.h[window], d < 0.95
    if rng.random() < 0.25 + 0.6 * row["calcification"] and radius > 60:
        core = d < rng.uniform(0.3, 0.55) + 0.1 * noise(c, 20)[window]
        grain = noise(c, 4)[window]
        e[core], h[core] = (0.6 + 0.12 * grain)[core], (0.10 + 0.08 * np.maximum(grain, 0))[core]
        solid &= ~core
        fill(c, window, core, spacing=11, size=1.6, sd=0.3, dark=1.5, vesicle=0.0)
        if rng.random() < row["calcification"]:
            stone = d + 0.08 * noise(c, 12)[window] < rng.uniform(0.1, 0.25)
            h[stone] = (1.6 + 0.4 * np.sin(40 * d))[stone]
    else:
        holes = above(noise(c, rng.uniform(15, 24))[window], rng.uniform(0.05, 0.25)) & (d < 0.85)
        e[holes], h[holes] = 0.05, 0.02
        solid &= ~holes
    fill(c, window, solid, spacing=2.3 * size, size=size, sd=0.06 + 0.2 * atypia, dark=1.05, vesicle=0.3 + 0.5 * atypia)


def _cords(c, zone, spread, share, size, atypia):
    """Nests and cords of cells in the stroma, on `share` of `zone`: nests where `spread` is low, thin cords where high.

    Large pleomorphic nuclei make it invasive carcinoma; small even ones sclerosing adenosis, the benign look-alike.
    """
    rng, bare = c.rng, zone & c.free
    nests = noise(c, rng.uniform(26, 48)) + 0.35 * noise(c, 14)
    limit = np.quantile(nests[::7, ::7], 1 - share * (1 - 0.8 * spread))
    bands = np.abs(noise(c, rng.uniform(30, 45)) + 0.25 * noise(c, 13))
    cords = above(-bands, 0.75 * share * spread + 0.04) & (noise(c, 40) > -0.4)
    cells = bare & ((nests > limit) | cords)
    cleft = bare & ~cells & (nests > limit - 0.16) & (noise(c, 60) > 0.5)
    c.e[cells], c.h[cells] = 0.40, 0.24
    c.e[cleft] *= 0.2
    lumens = (nests > limit + 0.8) & bare & (noise(c, 12) > 0.9) & (noise(c, 90) > 0.2)
    c.e[lumens], c.h[lumens] = 0.06, 0.02
    everywhere = (slice(None), slice(None))
    fill(c, everywhere, cells & ~lumens, spacing=2.5 * size, size=size, sd=0.08 + 0.27 * atypia, dark=1.05, vesicle=0.3 + 0.5 * atypia)
    c.free &= ~(cells | cleft)


def _lesions(c, row, zone):
    """What the diagnosis puts into the tumour region."""
    rng, mm2 = c.rng, zone.mean() * np.prod(c.shape) * c.px ** 2 / 1e6
    if not zone.any():
        return
    atypia = float(np.clip(0.25 + 0.45 * row["severity"] + 0.12 * rng.standard_normal(), 0.1, 1))
    size = 3.0 + 1.7 * atypia
    ducts = (4 + 7 * row["cellularity"]) * mm2 if row["diagnosis"] == 2 else 1.0 * rng.random() * mm2
    for radius in -np.sort(-rng.uniform(35, 110, max(2 * (row["diagnosis"] == 2), rng.poisson(ducts)))):
        _in_situ(c, zone, radius, row, size, atypia)
    if row["diagnosis"] == 3:
        _cords(c, zone, row["spread"], 0.08 + 0.38 * row["cellularity"] * rng.uniform(0.5, 1.2), size, atypia)


def _healthy(c, row, zone):
    """Lobules and ducts outside the tumour: small and few if normal, larger, thicker and at times sclerosing if benign."""
    rng, mm2, benign = c.rng, zone.mean() * np.prod(c.shape) * c.px ** 2 / 1e6, row["diagnosis"] == 1
    size = 2.9 + 0.5 * row["severity"] + 0.15 * rng.standard_normal()
    crowd = np.exp(0.45 * rng.standard_normal()) * (0.8 + 0.6 * row["cellularity"])
    for radius in -np.sort(-rng.uniform(30, 100 if benign else 55, rng.poisson((10 * crowd if benign else 4) * mm2))):
        layers = int(rng.integers(2, 7)) if benign and rng.random() < 0.8 else 1
        _duct(c, zone, radius, size, layers, slit=benign and rng.random() < 0.5)
    for radius in -np.sort(-rng.uniform(60, 150 if benign else 125, rng.poisson(9 * crowd * mm2))):
        _lobule(c, zone, radius, size, crowd)
    if benign and rng.random() < 0.2 + 0.6 * row["spread"]:
        height, width = (n * c.px for n in c.shape)
        patch = zone & _blob(c, width * rng.uniform(0.2, 0.8), height * rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.5) * max(height, width))
        _cords(c, patch, rng.uniform(0.3, 0.9), rng.uniform(0.15, 0.4), size, 0.1)


def _stromal_cells(c, style):
    """Fibroblasts along the collagen, and lymphocytes strewn or in crowds."""
    rng, everywhere, free = c.rng, (slice(None), slice(None)), c.free & (c.e > 0.15)
    reactive = rng.uniform(0.5, 1.5)
    fill(c, everywhere, free, spacing=26 / reactive, size=3.6, sd=0.25, dark=0.8, vesicle=0.1, spindle=c.angle)
    crowd = above(noise(c, 120) + 0.5 * noise(c, 40), min(0.7, style.lymphoid * np.exp(0.9 * rng.standard_normal()))) & free
    fill(c, everywhere, crowd, spacing=7.5, size=2.5, sd=0.1, dark=1.35, vesicle=0.0)
    scatter(c, free, 60, size=2.4, dark=1.3)


# ---- light -------------------------------------------------------------------------------------------------------

def _light(c, tissue, style):
    """Stain maps to uint8 RGB through the site's stain matrix and camera."""
    rng = c.rng
    strength = np.array(style.strength) * np.exp(style.vary * rng.standard_normal(2))
    matrix = np.array([style.haematoxylin, style.eosin]) * (1 + 0.03 * rng.standard_normal((2, 3)))
    edge = gaussian_filter(tissue.astype(np.float32), 1.5)
    h, e = (gaussian_filter(plane, style.blur / c.px) * edge * s for plane, s in zip((c.h, c.e), strength))
    y, x = np.ogrid[-1:1:c.shape[0] * 1j, -1:1:c.shape[1] * 1j]
    lamp = (style.gain * (1 - style.vignette * (x * x + y * y) / 2)).astype(np.float32)
    rgb = np.stack([np.exp(-(h * np.float32(a) + e * np.float32(b))) for a, b in matrix.T], -1) * lamp[..., None]
    grey = rgb.mean(-1, keepdims=True)
    rgb = np.clip(grey + style.saturation * (rgb - grey), 1e-3, 1) ** np.float32(style.gamma)
    grain = style.noise * rng.standard_normal(c.shape, dtype=np.float32)
    return np.clip(255 * rgb + grain[..., None] + 0.5, 0, 255).astype(np.uint8)
