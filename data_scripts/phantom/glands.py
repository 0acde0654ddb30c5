"""What lies in the stroma of the histology phantom: lobules, ducts, carcinoma in situ or invasive, adenosis.

How large, crowded and dark the nuclei are depends on a patient's latents, which overlap between the classes,
not on the class alone. Sclerosing adenosis is the benign look-alike of invasive carcinoma. Lengths are in
micrometres.
"""
import numpy as np

from .canvas import above, blob, noise
from .nuclei import Kind, fill, ring

EVERYWHERE = (slice(None), slice(None))


def lesions(c, row, zone):
    """What the diagnosis puts into the tumour region."""
    rng = c.rng
    mm2 = _mm2(c, zone)
    if not zone.any():
        return
    atypia = float(np.clip(0.25 + 0.45 * row["severity"] + 0.12 * rng.standard_normal(), 0.1, 1))
    size = 3.0 + 1.7 * atypia
    ducts = (4 + 7 * row["cellularity"]) * mm2 if row["diagnosis"] == 2 else 1.0 * rng.random() * mm2
    for radius in _largest_first(rng.uniform(35, 110, max(2 * (row["diagnosis"] == 2), rng.poisson(ducts)))):
        _in_situ(c, zone, radius, row, size, atypia)
    if row["diagnosis"] == 3:
        share = 0.06 + 0.34 * row["cellularity"] * rng.uniform(0.4, 1.2)
        _cords(c, zone, row["spread"], share, size, atypia)


def healthy(c, row, zone):
    """Lobules and ducts outside the tumour: small and few if normal, larger and thicker if benign.

    Some benign tissue has sclerosing adenosis too.
    """
    rng = c.rng
    mm2 = _mm2(c, zone)
    benign = row["diagnosis"] == 1
    size = 2.9 + 0.5 * row["severity"] + 0.15 * rng.standard_normal()
    crowd = (0.3 + 1.4 * row["nodularity"]) * (0.8 + 0.6 * row["cellularity"])
    ducts, widest_duct, widest_lobule = (10 * crowd, 100, 150) if benign else (4, 55, 125)
    for radius in _largest_first(rng.uniform(30, widest_duct, rng.poisson(ducts * mm2))):
        layers = int(rng.integers(2, 7)) if benign and rng.random() < 0.8 else 1
        _duct(c, zone, radius, size, layers, slit=benign and rng.random() < 0.5)
    for radius in _largest_first(rng.uniform(60, widest_lobule, rng.poisson(9 * crowd * mm2))):
        _lobule(c, zone, radius, size, crowd)
    if benign and rng.random() < 0.2 + 0.6 * row["spread"]:
        height, width = (n * c.px for n in c.shape)
        x = width * rng.uniform(0.2, 0.8)
        y = height * rng.uniform(0.2, 0.8)
        patch = zone & blob(c, x, y, rng.uniform(0.2, 0.5) * max(height, width))
        _cords(c, patch, rng.uniform(0.3, 0.9), rng.uniform(0.15, 0.4), size, 0.1)


def _mm2(c, zone):
    """Area of a region in square millimetres."""
    return zone.mean() * np.prod(c.shape) * c.px ** 2 / 1e6


def _largest_first(radii):
    return -np.sort(-radii)


def _place(c, zone, radius, gap=8):
    """A free centre (x, y) in um in `zone` for a gland of `radius`, or None after 60 tries."""
    height, width = c.shape[0] * c.px, c.shape[1] * c.px
    taken = np.array(c.glands).reshape(-1, 3)
    low = (-0.3 * radius, -0.3 * radius)
    high = (width + 0.3 * radius, height + 0.3 * radius)
    for x, y in c.rng.uniform(low, high, (60, 2)):
        row = min(max(int(y / c.px), 0), c.shape[0] - 1)
        col = min(max(int(x / c.px), 0), c.shape[1] - 1)
        free = np.hypot(taken[:, 0] - x, taken[:, 1] - y) > taken[:, 2] + radius + gap
        if zone[row, col] and free.all():
            c.glands.append((x, y, radius))
            return x, y
    return None


def _gland(c, x, y, radius, wobble=0.1, stretch=1.15):
    """The window around a gland and the relative distance from its centre, 1 on the basement membrane."""
    reach = stretch * (1 + 1.1 * wobble) * radius + 10
    rows = slice(max(0, int((y - reach) / c.px)), max(0, int((y + reach) / c.px) + 1))
    cols = slice(max(0, int((x - reach) / c.px)), max(0, int((x + reach) / c.px) + 1))
    height, width = c.h[rows, cols].shape
    dy = (np.arange(rows.start, rows.start + height, dtype=np.float32) * c.px - y)[:, None]
    dx = (np.arange(cols.start, cols.start + width, dtype=np.float32) * c.px - x)[None]
    turn = c.rng.uniform(0, np.pi)
    ratio = c.rng.uniform(1, stretch)
    theta = np.arange(256) * 2 * np.pi / 256
    waves = sum(wobble / k * np.sin(k * theta + c.rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    lobes = (1 + waves).astype(np.float32)
    outline = lobes[(np.arctan2(dy, dx) * np.float32(128 / np.pi)).astype(np.int32)]
    along = dx * np.cos(turn) + dy * np.sin(turn)
    across = dy * np.cos(turn) - dx * np.sin(turn)
    return (rows, cols), np.hypot(along / ratio, across * ratio) / (radius * outline)


def _paint(c, window, where, eosin, haematoxylin):
    """Gives the pixels `where` of a window their units of the two stains."""
    c.e[window][where] = eosin
    c.h[window][where] = haematoxylin


def _epithelium(c, window, d, radius, lumen, membrane=0.75):
    """Paints cytoplasm between `lumen` and membrane, the lumen, and a loose rim of stroma around it."""
    e = c.e[window]
    rim = (d >= 1) & (d < 1 + 9 / radius)
    e[rim] = 0.6 * e[rim] + 0.4 * membrane * 0.6
    _paint(c, window, d < 1, 0.42, 0.22)
    _paint(c, window, d < lumen, 0.05, 0.02)
    e[np.abs(d - 1) * radius < 1.3] = membrane
    c.free[window][d < 1 + 5 / radius] = False


def _acinus(c, x, y, radius, size, lumen=0.4):
    """A small gland lined by one row of nuclei, with flat myoepithelial nuclei outside."""
    window, d = _gland(c, x, y, radius)
    _epithelium(c, window, d, radius, lumen, 0.5)
    ring(c, (x, y), radius * 0.5 * (1 + lumen), size, dark=0.95)
    ring(c, (x, y), radius * 0.97, size * 0.75, dark=1.1, flat=True, gap=3.5)


def _lobule(c, zone, radius, size, crowd):
    """A cluster of acini in loose, pale stroma."""
    spot = _place(c, zone, radius)
    if spot is None:
        return
    window, d = _gland(c, *spot, radius)
    loose = d < 1
    c.e[window][loose] *= 0.65
    c.h[window][loose] += 0.05
    acini = []
    for _ in range(int(90 * crowd * (radius / 100) ** 2) + 8):
        r = c.rng.uniform(10, 19)
        turn = c.rng.uniform(0, 2 * np.pi)
        away = radius * np.sqrt(c.rng.uniform(0, 0.85))
        x = spot[0] + away * np.cos(turn)
        y = spot[1] + away * np.sin(turn)
        if all((x - a) ** 2 + (y - b) ** 2 > (r + s + 2) ** 2 for a, b, s in acini):
            acini.append((x, y, r))
            _acinus(c, x, y, r, size, c.rng.uniform(0.15, 0.5))


def _duct(c, zone, radius, size, layers, slit=False):
    """A duct with `layers` rows of nuclei around its lumen."""
    spot = _place(c, zone, radius)
    if spot is None:
        return
    wobble, stretch = (0.2, 1.6) if slit else (0.1, 1.25)
    window, d = _gland(c, *spot, radius, wobble, stretch)
    thick = min(0.85, (layers * 2.1 * size + 4) / radius)
    folds = 0.22 * noise(c, 16, d.shape) * (layers > 1)   # tufts of a thick epithelium reach into the lumen
    lumen = np.clip(1 - thick + folds, 0.05, 0.95)
    collar = (d >= 1) & (d < 1 + 16 / radius)
    c.e[window][collar] = 0.25 + 0.6 * c.e[window][collar]
    _epithelium(c, window, d, radius, lumen, 0.6)
    body = (d < 0.93) & (d > lumen + 2 / radius)
    fill(c, window, body, 2.15 * size, Kind(size, sd=0.1, dark=0.95, vesicle=0.3))
    rim = (d >= 0.93) & (d < 1.02)
    fill(c, window, rim, 2.4 * size, Kind(0.8 * size, sd=0.1, dark=1.1, vesicle=0.0))


def _in_situ(c, zone, radius, row, size, atypia):
    """A duct filled with crowded nuclei inside a sharp membrane, with cribriform holes or necrosis."""
    spot = _place(c, zone, radius)
    if spot is None:
        return
    rng = c.rng
    window, d = _gland(c, *spot, radius, 0.12, 1.3)
    _epithelium(c, window, d, radius, 0.0, 0.95)
    solid = d < 0.95
    if rng.random() < 0.25 + 0.6 * row["calcification"] and radius > 60:
        solid &= ~_necrosis(c, window, d, row)
    else:
        bubbles = noise(c, rng.uniform(15, 24), d.shape)
        holes = above(bubbles, rng.uniform(0.05, 0.25)) & (d < 0.85)
        _paint(c, window, holes, 0.05, 0.02)
        solid &= ~holes
    kind = Kind(size, sd=0.06 + 0.2 * atypia, dark=1.05, vesicle=0.3 + 0.5 * atypia)
    fill(c, window, solid, 2.3 * size, kind)


def _necrosis(c, window, d, row):
    """Paints dead tissue, at times with a stone in it, in the middle of a duct; returns where it is."""
    rng = c.rng
    core = d < rng.uniform(0.3, 0.55) + 0.1 * noise(c, 20, d.shape)
    grain = noise(c, 4, d.shape)
    _paint(c, window, core, (0.6 + 0.12 * grain)[core], (0.10 + 0.08 * np.maximum(grain, 0))[core])
    fill(c, window, core, 11, Kind(1.6, sd=0.3, dark=1.5, vesicle=0.0))
    if rng.random() < row["calcification"]:
        stone = d + 0.08 * noise(c, 12, d.shape) < rng.uniform(0.1, 0.25)
        c.h[window][stone] = (1.6 + 0.4 * np.sin(40 * d))[stone]
    return core


def _cords(c, zone, spread, share, size, atypia):
    """Nests (where `spread` is low) and thin cords (where it is high) of cells, on `share` of the stroma.

    Large pleomorphic nuclei make it invasive carcinoma; small even nuclei make it sclerosing adenosis.
    """
    rng = c.rng
    bare = zone & c.free
    nests = noise(c, rng.uniform(26, 48)) + 0.35 * noise(c, 14)
    limit = np.quantile(nests[::7, ::7], 1 - share * (1 - 0.8 * spread))
    bands = np.abs(noise(c, rng.uniform(30, 45)) + 0.25 * noise(c, 13))
    cords = above(-bands, 0.75 * share * spread + 0.04) & (noise(c, 40) > -0.4)
    cells = bare & ((nests > limit) | cords)
    cleft = bare & ~cells & (nests > limit - 0.16) & (noise(c, 60) > 0.5)
    _paint(c, EVERYWHERE, cells, 0.40, 0.24)
    c.e[cleft] *= 0.2
    lumens = (nests > limit + 0.8) & bare & (noise(c, 12) > 0.9) & (noise(c, 90) > 0.2)
    _paint(c, EVERYWHERE, lumens, 0.06, 0.02)
    kind = Kind(size, sd=0.08 + 0.27 * atypia, dark=1.05, vesicle=0.3 + 0.5 * atypia)
    fill(c, EVERYWHERE, cells & ~lumens, 2.5 * size, kind)
    c.free &= ~(cells | cleft)
