"""Lesions of the phantom's mammograms: masses, calcifications, architectural distortion, asymmetry."""
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Geometry(NamedTuple):
    """Where the pixels around a lesion lie, in polar coordinates of its centre; lengths in mm."""
    r: np.ndarray            # (h, w) distance from the centre
    angle: np.ndarray        # (h, w) direction from the centre, radians
    rim: np.ndarray          # (h, w) distance of the lesion's border from the centre in that direction
    radius: float            # of the lesion
    px: float                # side of a pixel


def add_lesion(tissue, row, breast, rng):
    """(H, W) attenuation with the patient's lesion in it, and the lesion's bool mask."""
    mask = np.zeros(tissue.shape, bool)
    _chance_calcifications(tissue, breast, rng)
    if not row["lesion_type"]:
        return tissue, mask
    cy, cx = _place(row, breast, rng)
    radius = row["diameter_mm"] / 2
    reach = 2.4 * radius + 3                              # spicules and pulled tissue go beyond the lesion
    top, left = (max(int((c - reach) / breast.px), 0) for c in (cy, cx))
    window = np.s_[top:int((cy + reach) / breast.px) + 1, left:int((cx + reach) / breast.px) + 1]
    dy, dx = np.broadcast_arrays(breast.y[window[0]] - cy, breast.x[:, window[1]] - cx)
    r = np.hypot(dy, dx)
    angle = np.arctan2(dy, dx)
    inside = np.clip(breast.depth[window] / 4, 0, 1)      # nothing shines through the skin
    lesion = Geometry(r, angle, border(row, angle, radius, rng), radius, breast.px)
    draw = {"mass": _mass, "calcification": _calcification, "distortion": _distortion,
            "asymmetry": _asymmetry}
    patch = draw[row["lesion_type"]](tissue[window].copy(), row, lesion, rng)
    tissue[window] += inside * (patch - tissue[window])
    mask[window] = r <= np.maximum(lesion.rim, 0.75 * breast.px)
    return tissue, mask & (breast.depth > 0)


def _place(row, breast, rng):
    """(y, x) mm of the lesion's centre: in the gland, the lesion within the breast and off the muscle."""
    ny, nx = breast.nipple
    radius = row["diameter_mm"] / 2
    best = None
    for shrink in np.linspace(1, 0, 12):                  # closer to the middle of the breast, until it fits
        x = nx * (0.50 + shrink * (0.30 - 0.56 * row["lesion_depth"])) + rng.normal()
        y = ny + shrink * (row["lesion_height"] - 0.5) * 44 + rng.normal()
        i, j = (int(np.clip(c / breast.px, 0, n - 1)) for c, n in zip((y, x), breast.depth.shape))
        best = (y, max(x, radius + 1))
        if breast.depth[i, j] > radius + 4 and breast.muscle[i, j] < 0.3 and x > radius + 1:
            break
    return best


WAVES = {"circumscribed": ((2, 3), 0.10), "lobulated": ((3, 4, 5), 0.18), "irregular": (range(2, 9), 0.22),
         "spiculated": (range(2, 12), 0.24)}              # waves around the circle, and their height
OTHER_WAVES = ((2, 3), 0.12)                              # of lesions that are no masses


def border(row, angle, radius, rng):
    """Distance of the lesion's border from its centre, mm, at every `angle`.

    It is scaled so that the largest diameter is 2 `radius`.
    """
    t = np.linspace(-np.pi, np.pi, 361)
    waves, height = WAVES.get(row["lesion_shape"], OTHER_WAVES)
    line = np.ones_like(t)
    for k in waves:
        size = height * rng.uniform(0.5, 1.5) * np.sqrt(2 / k) / np.sqrt(len(waves))
        line += size * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    line = np.clip(line, 0.35, None)
    feret = (line[:180] + line[180:360]).max()            # opposite directions
    return np.interp(angle, t, line * 2 * radius / feret)


def _contrast(row, rng):
    return 0.04 + 0.52 * row["cellularity"] + 0.03 * rng.normal()


def _mass(patch, row, lesion, rng):
    """A dome of attenuation with spicules; its border is sharp if circumscribed, blurred if irregular."""
    r, _, rim, radius, _ = lesion
    shape = row["lesion_shape"]
    soft = {"circumscribed": 0.35, "lobulated": 0.45, "irregular": 0.9, "spiculated": 1.0}[shape]
    height = np.sqrt(np.clip(1 - 0.75 * (r / rim) ** 2, 0, 1))
    dome = height / (1 + np.exp(np.clip((r - rim) / soft, -30, 30)))
    patch += _contrast(row, rng) * dome * min(1, 0.55 + radius / 12)
    if shape == "circumscribed":                          # a thin dark halo
        patch -= 0.03 * np.exp(-((r - rim - 0.8) / 0.5) ** 2)
    more = {"circumscribed": 0, "spiculated": 12}.get(shape, -3)
    count = int(round(10 * row["spread"] + more))
    patch += spicules(r, lesion.angle, radius, max(count, 0), rng) * (0.10 + 0.10 * row["spread"])
    return patch + _specks(lesion, _extra(row, rng), row, rng)


def spicules(r, angle, radius, count, rng):
    """Thin, slightly bent lines that leave the border and fade; `r` and `angle` (h, w) as in `Geometry`."""
    lines = np.zeros_like(r)
    for direction in rng.uniform(-np.pi, np.pi, count):
        bent = direction + rng.normal(0, 0.25) * (r / radius - 1)
        length = radius * rng.uniform(0.3, 1.1) + 1.5
        fade = np.clip(1 - (r - 0.8 * radius) / length, 0, 1)
        fade = fade * (r > 0.5 * radius) * (np.cos(angle - bent) > 0)
        away = r * np.sin(angle - bent) / rng.uniform(0.22, 0.45)
        lines = np.maximum(lines, rng.uniform(0.3, 1) * np.exp(-away ** 2) * fade)
    return lines


def _extra(row, rng):
    """How many microcalcifications a lesion of another type carries."""
    return rng.poisson(12 * max(row["calcification"] - 0.45, 0) / 0.55)


def _calcification(patch, row, lesion, rng):
    """A tight cluster of fine specks, or a few coarser ones spread out."""
    tight = row["lesion_shape"] == "cluster"
    if tight:
        count = int(6 + 18 * row["calcification"] + 0.35 * lesion.radius ** 1.3)
    else:
        count = int(4 + 5 * row["calcification"])
    patch += 0.4 * _contrast(row, rng) * np.exp(-(lesion.r / lesion.rim) ** 2) * tight
    return patch + _specks(lesion, count, row, rng, coarse=not tight)


def _specks(lesion, count, row, rng, coarse=False):
    """Bright grains inside the rim; the more severe the disease, the more they differ in size."""
    grains = np.zeros_like(lesion.r)
    dy = lesion.r * np.sin(lesion.angle)
    dx = lesion.r * np.cos(lesion.angle)
    for _ in range(count):
        share = 0.92 * np.sqrt(rng.random())              # of the way from the centre to the rim
        direction = rng.uniform(-np.pi, np.pi)
        limit = float(lesion.rim.ravel()[np.argmin((lesion.angle - direction) ** 2)]) * share
        size = (0.70 if coarse else 0.42) * np.exp((0.1 + 0.35 * row["severity"]) * rng.normal())
        stretch = 1 + (0 if coarse else 1.5 * row["severity"] * rng.random())
        turn = rng.uniform(0, np.pi)
        u = dy - limit * np.sin(direction)
        v = dx - limit * np.cos(direction)
        along = (u * np.cos(turn) + v * np.sin(turn)) / stretch
        across = v * np.cos(turn) - u * np.sin(turn)
        away = along ** 2 + across ** 2
        grains = np.maximum(grains, rng.uniform(0.25, 0.6) * np.exp(-away / max(size, 0.5 * lesion.px) ** 2))
    return grains


def _distortion(patch, row, lesion, rng):
    """Tissue pulled towards a point, with lines that radiate from it and no mass in the middle."""
    r, angle, rim, radius, px = lesion
    pull = 0.55 * np.exp(-(r / (0.8 * radius + 1)) ** 2)  # sample further out near the centre: lines converge
    i, j = np.indices(patch.shape, dtype=np.float32)
    shift = pull * r / px
    source = [i + shift * np.sin(angle), j + shift * np.cos(angle)]
    patch = ndimage.map_coordinates(patch, source, order=1, mode="nearest")
    lines = spicules(r + 0.6 * radius, angle, radius, int(14 + 12 * row["spread"]), rng)
    patch += (0.13 + 0.13 * row["spread"]) * lines + 0.25 * _contrast(row, rng) * np.exp(-(r / rim) ** 2)
    return patch + _specks(lesion, _extra(row, rng), row, rng)


def _asymmetry(patch, row, lesion, rng):
    """An ill-defined density without a border, broken by fat as glandular tissue is."""
    clumps = ndimage.gaussian_filter(rng.standard_normal(lesion.r.shape), 0.25 * lesion.radius / lesion.px)
    uneven = np.clip(0.8 + 0.2 * clumps / clumps.std(), 0.3, 1.3)
    bump = np.exp(-(lesion.r / (0.8 * lesion.rim)) ** 2) * uneven
    return patch + 0.8 * _contrast(row, rng) * bump + _specks(lesion, _extra(row, rng), row, rng)


def _chance_calcifications(tissue, breast, rng):
    """A few coarse single calcifications that mean nothing."""
    ys, xs = np.nonzero(breast.depth[::8, ::8] > 6)
    if not len(ys):
        return
    reach = int(round(0.8 / breast.px)) + 1
    for k in rng.integers(0, len(ys), rng.poisson(1.2)):
        y, x = ys[k] * 8, xs[k] * 8
        window = np.s_[max(y - reach, 0):y + reach + 1, max(x - reach, 0):x + reach + 1]
        d2 = (breast.y[window[0]] - breast.y[y]) ** 2 + (breast.x[:, window[1]] - breast.x[0, x]) ** 2
        tissue[window] += rng.uniform(0.2, 0.45) * np.exp(-d2 / rng.uniform(0.3, 0.6) ** 2)
