"""Draws a breast ultrasound of a phantom patient: layers of tissue, speckle, the lesion and its shadow.

Crude but not absurd. Everything is drawn in millimetres with the skin at the top, as echogenicity (0 black,
about 1 bright), which log-compressed speckle then covers. The lesion follows the ultrasound lexicon of
BI-RADS: a benign mass is oval, wider than tall, sharply bordered and brightens what lies behind it; a
malignant mass is irregular, taller than wide, spiculated and casts a shadow. The latents of `patients`, which
overlap between the classes, decide all of it.
"""
import numpy as np
from scipy import ndimage

from .lesions import Geometry, border, spicules
from .mammogram import logistic, plain_floats, power_law

FIELD_MM = 36.0                  # depth and width of the field; lesions are drawn at no more than half of it
SHAPE = (160, 160)


def draw(row, rng, shape=SHAPE):
    """An ultrasound of the patient `row` (patients.cohort) as (uint8 (H, W) image, bool (H, W) lesion mask).

    A patient without a lesion has an empty mask.
    """
    row = plain_floats(row)
    px = FIELD_MM / shape[0]
    y = ((np.arange(shape[0]) + 0.5) * px).astype(np.float32)[:, None]
    x = ((np.arange(shape[1]) + 0.5) * px).astype(np.float32)[None]
    echo = tissue(row, y, x, shape, rng)
    mask = np.zeros(shape, bool)
    if row["lesion_type"]:
        echo, mask = add_lesion(echo, row, y, x, px, rng)
    return show(echo, y, rng), mask


GLAND = {"A": 0.20, "B": 0.40, "C": 0.62, "D": 0.80}     # share of the breast's thickness that is glandular


def tissue(row, y, x, shape, rng):
    """(H, W) echogenicity without a lesion: skin, fat lobules with bright septa, gland, muscle, air."""
    waves = ndimage.gaussian_filter1d(rng.normal(size=shape[1]), shape[1] / 8, mode="reflect")
    bend = 1.6 * waves * np.sqrt(shape[1] / 8)
    muscle = FIELD_MM * rng.uniform(0.74, 0.84) + bend[None]
    gland = 2.5 + (1 - GLAND[row["density"]]) * (muscle - 2.5) * 0.75 + 0.7 * bend[None]
    lobes = power_law(rng, shape, 3.0)
    grain = power_law(rng, shape, 2.2)
    septa = np.exp(-np.abs(lobes) / 0.10)
    fat = 0.26 + 0.05 * grain + 0.20 * septa
    glandular = 0.52 + 0.07 * grain + 0.08 * np.sin(2 * np.pi * (y + 0.8 * lobes) / 3.2)
    echo = fat + (glandular - fat) * logistic((y - gland) / 0.5)
    stripes = 0.34 + 0.14 * np.sin(2 * np.pi * (y - muscle) / 1.5 + 0.6 * grain)
    echo = echo + (stripes - echo) * logistic((y - muscle) / 0.25)
    echo += 0.5 * np.exp(-((y - muscle) / 0.35) ** 2)                       # fascia
    return np.where(y < 1.8, 0.78 + 0.05 * grain, echo).astype(np.float32)


def add_lesion(echo, row, y, x, px, rng):
    """The tissue with the lesion in it, and its mask, with the patient's diameter, at most 20 mm."""
    radius = min(row["diameter_mm"], 20.0) / 2
    cy = np.clip(6 + 20 * row["lesion_height"] + rng.normal(), radius + 3, 30 - radius / 2)
    across = FIELD_MM * (0.25 + 0.5 * row["lesion_depth"]) + rng.normal()
    cx = np.clip(across, radius + 1, FIELD_MM - radius - 1)
    tall = 0.62 + 0.55 * row["spread"] + 0.05 * rng.normal()
    tall = np.clip(tall, 0.55, 1.25)                      # height over width: wider than tall if benign
    r = np.hypot((y - cy) / tall, x - cx)
    angle = np.arctan2((y - cy) / tall, x - cx)
    rim = border(row, angle, radius / max(1.0, tall), rng)
    lesion = Geometry(r, angle, rim, radius, px)
    add = {"mass": _mass, "calcification": _grains, "distortion": _distortion, "asymmetry": _asymmetry}
    return add[row["lesion_type"]](echo, row, lesion, y - cy, rng), r <= np.maximum(rim, px)


def _behind(lesion, rim, below, strength):
    """(H, W) factor on what lies behind the lesion's part within `rim`: above 1 enhancement, below 1 shadow.

    below  (H, 1) mm below the lesion's centre
    """
    column = (lesion.r <= rim).any(0).astype(np.float32)[None]
    column = ndimage.gaussian_filter1d(column, 2.0, axis=1)
    start = logistic((below - 0.6 * lesion.radius) / 0.6)
    return 1 + strength * column * start * np.exp(-np.clip(below, 0, None) / 22)


def _mass(echo, row, lesion, below, rng):
    """A dark area, whose border is the softer the more the lesion spreads."""
    r, angle, rim, radius, _ = lesion
    soft = 0.12 + 0.55 * row["spread"]
    dark = np.clip(0.24 - 0.18 * row["cellularity"] + 0.02 * rng.normal(), 0.03, 0.3)
    lines = spicules(r, angle, radius, 14 * (row["lesion_shape"] == "spiculated"), rng)
    strength = 0.55 - 1.35 * row["spread"] + 0.1 * rng.normal()
    echo = echo * np.clip(_behind(lesion, rim, below, strength), 0.15, 1.6)
    inner = dark + 0.05 * row["cellularity"] * power_law(rng, r.shape, 2.0)
    inside = logistic((rim - r) / soft)
    halo = 0.25 * row["spread"] * np.exp(-((r - rim - 0.8) / 0.9) ** 2)     # of an invading border
    echo = echo + (inner - echo) * inside + halo - 0.3 * lines
    return echo + _specks(lesion, int(14 * max(row["calcification"] - 0.4, 0)), rng)


def _grains(echo, row, lesion, below, rng):
    """Bright points in faintly dark tissue."""
    echo = echo - 0.3 * row["cellularity"] * logistic((lesion.rim - lesion.r) / 0.8)
    return echo + _specks(lesion, int(5 + 16 * row["calcification"]), rng)


def _specks(lesion, count, rng):
    """(H, W) bright points inside the rim."""
    bright = np.zeros_like(lesion.r)
    dy = lesion.r * np.sin(lesion.angle)
    dx = lesion.r * np.cos(lesion.angle)
    for _ in range(count):
        share = 0.9 * np.sqrt(rng.random())               # of the way from the centre to the rim
        direction = rng.uniform(-np.pi, np.pi)
        limit = float(lesion.rim.ravel()[np.argmin((lesion.angle - direction) ** 2)]) * share
        away = (dy - limit * np.sin(direction)) ** 2 + (dx - limit * np.cos(direction)) ** 2
        bright = np.maximum(bright, rng.uniform(0.8, 1.6) * np.exp(-away / max(0.3, 0.9 * lesion.px) ** 2))
    return bright


def _distortion(echo, row, lesion, below, rng):
    """No mass, but a shadow under an area where lines converge."""
    r, angle, _, radius, _ = lesion
    lines = spicules(r + 0.6 * radius, angle, radius, int(10 + 12 * row["spread"]), rng)
    strength = -0.6 * (0.4 + row["spread"])
    echo = echo * np.clip(_behind(lesion, 0.5 * lesion.rim, below, strength), 0.2, 1)
    return echo - 0.25 * lines * (0.6 + row["spread"])


def _asymmetry(echo, row, lesion, below, rng):
    """An ill-defined area a little darker or brighter than its surroundings."""
    bump = np.exp(-(lesion.r / (0.85 * lesion.rim)) ** 2)
    return echo + rng.choice([-0.3, 0.22]) * (0.6 + row["cellularity"]) * bump


def show(echo, y, rng):
    """uint8 grey levels: attenuation with depth, not quite undone by the gain, speckle, log compression."""
    echo = np.clip(echo, 0.01, None) * np.exp(-rng.uniform(0.0, 0.012) * y)
    field = rng.normal(size=(2, *echo.shape))
    field = np.stack([ndimage.gaussian_filter(f, (0.7, 1.3)) for f in field])
    speckle = np.hypot(*(field / field.std()))
    level = np.log1p(18 * echo * (0.45 + 0.42 * speckle)) / np.log1p(18 * 1.3)
    return np.round(255 * np.clip(level * rng.uniform(0.9, 1.1), 0, 1)).astype(np.uint8)
