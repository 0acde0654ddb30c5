"""What lies in the stroma of the histology phantom: lobules, ducts, carcinoma in situ, invasive carcinoma and its look-alike.

How large, crowded and dark the nuclei are depends on a patient's latents, which overlap between the classes, not on the
class alone. Lengths are in micrometres.
"""
import numpy as np

from .canvas import above, blob, noise
from .nuclei import fill, ring


def lesions(c, row, zone):
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
        _cords(c, zone, row["spread"], 0.06 + 0.34 * row["cellularity"] * rng.uniform(0.4, 1.2), size, atypia)


def healthy(c, row, zone):
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
        patch = zone & blob(c, width * rng.uniform(0.2, 0.8), height * rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.5) * max(height, width))
        _cords(c, patch, rng.uniform(0.3, 0.9), rng.uniform(0.15, 0.4), size, 0.1)


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
    reach = stretch * (1 + 1.1 * wobble) * radius + 10
    rows = slice(max(0, int((y - reach) / c.px)), max(0, int((y + reach) / c.px) + 1))
    cols = slice(max(0, int((x - reach) / c.px)), max(0, int((x + reach) / c.px) + 1))
    height, width = c.h[rows, cols].shape
    dy = (np.arange(rows.start, rows.start + height, dtype=np.float32) * c.px - y)[:, None]
    dx = (np.arange(cols.start, cols.start + width, dtype=np.float32) * c.px - x)[None]
    turn, ratio = c.rng.uniform(0, np.pi), c.rng.uniform(1, stretch)
    theta = np.arange(256) * 2 * np.pi / 256
    lobes = (1 + sum(wobble / k * np.sin(k * theta + c.rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))).astype(np.float32)
    outline = lobes[(np.arctan2(dy, dx) * np.float32(128 / np.pi)).astype(np.int32)]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return (rows, cols), np.hypot(along / ratio, across * ratio) / (radius * outline)


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
    window, d = _gland(c, x, y, radius)
    _epithelium(c, window, d, radius, lumen, 0.5)
    ring(c, x, y, radius * 0.5 * (1 + lumen), size, dark=0.95)
    ring(c, x, y, radius * 0.97, size * 0.75, dark=1.1, flat=True, gap=3.5)


def _lobule(c, zone, radius, size, crowd):
    """A cluster of acini in loose, pale stroma."""
    spot = _place(c, zone, radius)
    if spot is None:
        return
    window, d = _gland(c, *spot, radius)
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
    window, d = _gland(c, *spot, radius, 0.2 if slit else 0.1, 1.6 if slit else 1.25)
    thick = min(0.85, (layers * 2.1 * size + 4) / radius)
    folds = 0.22 * noise(c, 16, d.shape) * (layers > 1)   # tufts of a thick epithelium reach into the lumen
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
    window, d = _gland(c, *spot, radius, 0.12, 1.3)
    _epithelium(c, window, d, radius, 0.0, 0.95)
    e, h, solid = c.e[window], c.h[window], d < 0.95
    if rng.random() < 0.25 + 0.6 * row["calcification"] and radius > 60:
        core = d < rng.uniform(0.3, 0.55) + 0.1 * noise(c, 20, d.shape)
        grain = noise(c, 4, d.shape)
        e[core], h[core] = (0.6 + 0.12 * grain)[core], (0.10 + 0.08 * np.maximum(grain, 0))[core]
        solid &= ~core
        fill(c, window, core, spacing=11, size=1.6, sd=0.3, dark=1.5, vesicle=0.0)
        if rng.random() < row["calcification"]:
            stone = d + 0.08 * noise(c, 12, d.shape) < rng.uniform(0.1, 0.25)
            h[stone] = (1.6 + 0.4 * np.sin(40 * d))[stone]
    else:
        holes = above(noise(c, rng.uniform(15, 24), d.shape), rng.uniform(0.05, 0.25)) & (d < 0.85)
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
