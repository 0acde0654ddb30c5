"""Lesions of the phantom's mammograms: masses, calcifications, architectural distortion, asymmetry."""
import numpy as np
from scipy import ndimage


def add_lesion(tissue, row, breast, rng):
    """(H, W) attenuation with the patient's lesion in it, and its bool mask, whose largest diameter is the patient's."""
    mask = np.zeros(tissue.shape, bool)
    _chance_calcifications(tissue, breast, rng)
    if not row["lesion_type"]:
        return tissue, mask
    cy, cx = _place(row, breast, rng)
    radius = row["diameter_mm"] / 2
    reach = 2.4 * radius + 3                              # spicules and pulled tissue go beyond the lesion itself
    top, left = (max(int((c - reach) / breast.px), 0) for c in (cy, cx))
    window = np.s_[top:int((cy + reach) / breast.px) + 1, left:int((cx + reach) / breast.px) + 1]
    dy, dx = np.broadcast_arrays(breast.y[window[0]] - cy, breast.x[:, window[1]] - cx)
    r, angle = np.hypot(dy, dx), np.arctan2(dy, dx)
    inside = np.clip(breast.depth[window] / 4, 0, 1)      # nothing shines through the skin
    rim = _rim(row, angle, radius, rng)
    add = {"mass": _mass, "calcification": _calcification, "distortion": _distortion, "asymmetry": _asymmetry}[row["lesion_type"]]
    patch = add(tissue[window].copy(), row, r, angle, rim, radius, breast.px, rng)
    tissue[window] += inside * (patch - tissue[window])
    mask[window] = r <= np.maximum(rim, 0.75 * breast.px)
    return tissue, mask & (breast.depth > 0)


def _place(row, breast, rng):
    """(y, x) mm of the lesion's centre: in the gland, the whole lesion within the breast and off the muscle."""
    ny, nx = breast.nipple
    radius = row["diameter_mm"] / 2
    best = None
    for shrink in np.linspace(1, 0, 12):                  # closer and closer to the middle of the breast, until it fits
        x = nx * (0.50 + shrink * (0.30 - 0.56 * row["lesion_depth"])) + rng.normal()
        y = ny + shrink * (row["lesion_height"] - 0.5) * 44 + rng.normal()
        i, j = (int(np.clip(c / breast.px, 0, n - 1)) for c, n in zip((y, x), breast.depth.shape))
        best = (y, max(x, radius + 1))
        if breast.depth[i, j] > radius + 4 and breast.muscle[i, j] < 0.3 and x > radius + 1:
            break
    return best


def _rim(row, angle, radius, rng):
    """Distance of the lesion's border from its centre, mm, at every `angle`; scaled so that the largest diameter is 2 `radius`."""
    shape = row["lesion_shape"]
    t = np.linspace(-np.pi, np.pi, 361)
    waves = {"circumscribed": ((2, 3), 0.10), "lobulated": ((3, 4, 5), 0.18), "irregular": (range(2, 9), 0.22),
             "spiculated": (range(2, 12), 0.24)}.get(shape, ((2, 3), 0.12))
    border = np.ones_like(t)
    for k in waves[0]:
        border += waves[1] * rng.uniform(0.5, 1.5) * np.sqrt(2 / k) / np.sqrt(len(waves[0])) * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    border = np.clip(border, 0.35, None)
    feret = (border[:180] + border[180:360]).max()        # opposite directions
    return np.interp(angle, t, border * 2 * radius / feret)


def _contrast(row, rng):
    return 0.04 + 0.52 * row["cellularity"] + 0.03 * rng.normal()


def _mass(patch, row, r, angle, rim, radius, px, rng):
    """A dome of attenuation; the border is sharp in a circumscribed mass, blurred in an irregular one; spicules on top."""
    shape = row["lesion_shape"]
    soft = {"circumscribed": 0.35, "lobulated": 0.45, "irregular": 0.9, "spiculated": 1.0}[shape]
    dome = np.sqrt(np.clip(1 - 0.75 * (r / rim) ** 2, 0, 1)) / (1 + np.exp(np.clip((r - rim) / soft, -30, 30)))
    patch += _contrast(row, rng) * dome * min(1, 0.55 + radius / 12)
    if shape == "circumscribed":                          # a thin dark halo
        patch -= 0.03 * np.exp(-((r - rim - 0.8) / 0.5) ** 2)
    count = int(round(10 * row["spread"] + (12 if shape == "spiculated" else 0 if shape == "circumscribed" else -3)))
    patch += _spicules(r, angle, radius, max(count, 0), rng) * (0.10 + 0.10 * row["spread"])
    return patch + _specks(r, angle, rim, _extra(row, rng), row, px, rng)


def _spicules(r, angle, radius, count, rng):
    """Thin, slightly bent lines that leave the border and fade."""
    lines = np.zeros_like(r)
    for direction in rng.uniform(-np.pi, np.pi, count):
        bent = direction + rng.normal(0, 0.25) * (r / radius - 1)
        length = radius * rng.uniform(0.3, 1.1) + 1.5
        fade = np.clip(1 - (r - 0.8 * radius) / length, 0, 1) * (r > 0.5 * radius) * (np.cos(angle - bent) > 0)
        away = r * np.sin(angle - bent) / rng.uniform(0.22, 0.45)
        lines = np.maximum(lines, rng.uniform(0.3, 1) * np.exp(-away ** 2) * fade)
    return lines


def _extra(row, rng):
    """How many microcalcifications a lesion of another type carries."""
    return rng.poisson(12 * max(row["calcification"] - 0.45, 0) / 0.55)


def _calcification(patch, row, r, angle, rim, radius, px, rng):
    """A tight cluster of fine specks, or a few coarser ones spread out."""
    tight = row["lesion_shape"] == "cluster"
    count = int(6 + 18 * row["calcification"] + 0.35 * radius ** 1.3) if tight else int(4 + 5 * row["calcification"])
    patch += 0.4 * _contrast(row, rng) * np.exp(-(r / rim) ** 2) * tight
    return patch + _specks(r, angle, rim, count, row, px, rng, coarse=not tight)


def _specks(r, angle, rim, count, row, px, rng, coarse=False):
    """Bright grains inside the rim; the more severe the disease, the more they differ in size."""
    grains = np.zeros_like(r)
    dy, dx = r * np.sin(angle), r * np.cos(angle)
    for _ in range(count):
        where, direction = 0.92 * np.sqrt(rng.random()), rng.uniform(-np.pi, np.pi)
        limit = float(rim.ravel()[np.argmin((angle - direction) ** 2)]) * where
        size = (0.45 if coarse else 0.24) * np.exp((0.1 + 0.35 * row["severity"]) * rng.normal())
        stretch = 1 + (0 if coarse else 1.5 * row["severity"] * rng.random())
        a = rng.uniform(0, np.pi)
        u, v = dy - limit * np.sin(direction), dx - limit * np.cos(direction)
        away = ((u * np.cos(a) + v * np.sin(a)) / stretch) ** 2 + (v * np.cos(a) - u * np.sin(a)) ** 2
        grains = np.maximum(grains, rng.uniform(0.25, 0.6) * np.exp(-away / max(size, 0.5 * px) ** 2))
    return grains


def _distortion(patch, row, r, angle, rim, radius, px, rng):
    """Tissue pulled towards a point, with lines that radiate from it and no mass in the middle."""
    h, w = patch.shape
    pull = 0.55 * np.exp(-(r / (0.8 * radius + 1)) ** 2)  # sample further out near the centre: structures converge
    i, j = np.indices((h, w), dtype=np.float32)
    shift = pull * r / px
    patch = ndimage.map_coordinates(patch, [i + shift * np.sin(angle), j + shift * np.cos(angle)], order=1, mode="nearest")
    lines = _spicules(r + 0.6 * radius, angle, radius, int(14 + 12 * row["spread"]), rng)
    patch += (0.13 + 0.13 * row["spread"]) * lines + 0.25 * _contrast(row, rng) * np.exp(-(r / rim) ** 2)
    return patch + _specks(r, angle, rim, _extra(row, rng), row, px, rng)


def _asymmetry(patch, row, r, angle, rim, radius, px, rng):
    """An ill-defined density without a border, broken by fat as glandular tissue is."""
    clumps = ndimage.gaussian_filter(rng.standard_normal(r.shape), 0.25 * radius / px)
    bump = np.exp(-(r / (0.8 * rim)) ** 2) * np.clip(0.8 + 0.2 * clumps / clumps.std(), 0.3, 1.3)
    return patch + 0.8 * _contrast(row, rng) * bump + _specks(r, angle, rim, _extra(row, rng), row, px, rng)


def _chance_calcifications(tissue, breast, rng):
    """A few coarse single calcifications that mean nothing."""
    ys, xs = np.nonzero(breast.depth[::8, ::8] > 6)
    for k in rng.integers(0, len(ys), rng.poisson(1.2)) if len(ys) else ():
        y, x, s = ys[k] * 8, xs[k] * 8, int(round(0.8 / breast.px)) + 1
        window = np.s_[max(y - s, 0):y + s + 1, max(x - s, 0):x + s + 1]
        d2 = (breast.y[window[0]] - breast.y[y]) ** 2 + (breast.x[:, window[1]] - breast.x[0, x]) ** 2
        tissue[window] += rng.uniform(0.2, 0.45) * np.exp(-d2 / rng.uniform(0.3, 0.6) ** 2)
