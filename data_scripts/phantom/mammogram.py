"""Draws a mammogram of a phantom patient: breast, glandular tissue, lesion, and the look of the detector.

Crude but not absurd. Everything is drawn in millimetres with the chest wall at the left, as a map of
attenuation (0 air, about 1 bright), which the site's style then turns into pixel values. The texture's
spectrum falls as a power law with an exponent near 3, as the spectrum of mammograms does (Burgess 1999, Med
Phys 26:2419).
"""
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import fft, ndimage

from .lesions import add_lesion

FIELD_MM = 120.0        # height of the field: at the default shape a pixel is 0.2 mm (detectors: 0.05-0.1)


@dataclass(frozen=True)
class Style:
    """How a site's detector shows attenuation."""
    white: int           # largest pixel value
    gamma: float         # of the display curve; above 1 darkens fat
    contrast: float      # of the display curve's sigmoid; 0 is straight
    fog: float           # grey level of air
    grain: float         # standard deviation of noise in the breast, share of white
    blur: float          # of the screen or detector, millimetres
    sharpen: float       # weight of unsharp masking
    film: bool           # lead marker, dust, scratches, white borders


STYLES = {
    "cbis_ddsm": Style(
        white=65535, gamma=1.15, contrast=3.5, fog=0.02, grain=0.022, blur=0.16, sharpen=0.0, film=True),
    "inbreast": Style(
        white=16383, gamma=0.75, contrast=0.0, fog=0.0, grain=0.008, blur=0.06, sharpen=0.8, film=False),
    "pretrain": Style(
        white=4095, gamma=1.0, contrast=2.0, fog=0.0, grain=0.014, blur=0.22, sharpen=0.5, film=False),
}


@dataclass
class Breast:
    """Geometry in millimetres."""
    y: np.ndarray        # (H, 1) of pixel centres
    x: np.ndarray        # (1, W) of pixel centres
    depth: np.ndarray    # (H, W) below the skin, negative in air
    edge: np.ndarray     # (H,) how far the breast reaches from the chest wall
    nipple: tuple        # (y, x)
    muscle: np.ndarray   # (H, W) share of pectoral muscle, 0 to 1
    px: float            # side of a pixel


def draw(row, view, style, rng, shape=(600, 480)):
    """A mammogram of the patient `row` (patients.cohort) as (uint16 (H, W) image, bool (H, W) lesion mask).

    `view` is "CC" or "MLO", `style` one of the values of `STYLES`. The field is 120 mm high whatever the
    shape. Right breasts have the chest wall at the right. A patient without a lesion has an empty mask. A
    patient who is `marked` has a lead bead on the skin near the nipple.
    """
    row = plain_floats(row)
    breast = outline(row, view, rng, shape)
    tissue = glandular_tissue(row, breast, rng)
    tissue, mask = add_lesion(tissue, row, breast, rng)
    tissue = np.where(breast.depth > 0, tissue, 0)
    inside = breast.depth > 0
    if row["laterality"] == "R":
        tissue, mask, inside = tissue[:, ::-1], mask[:, ::-1], inside[:, ::-1]
    image = expose(tissue, inside, style, breast.px, rng)
    if style.film:
        image = film_marks(image, row["laterality"], view, rng)
    if row["marked"]:
        image = np.maximum(image, bead(breast, row["laterality"], rng))
    return np.round(np.clip(image, 0, 1) * style.white).astype(np.uint16), np.ascontiguousarray(mask)


def plain_floats(row):
    """`row` as a dict with Python's floats: numpy's would widen the arrays that they are multiplied with."""
    plain = {}
    for name, value in dict(row).items():
        plain[name] = float(value) if isinstance(value, np.floating) else value
    return plain


def power_law(rng, shape, beta=3.0):
    """(H, W) Gaussian field whose power spectrum falls as 1 / frequency**beta; mean 0, deviation 1."""
    fy = fft.fftfreq(shape[0])[:, None] * shape[0]
    fx = fft.rfftfreq(shape[1])[None] * shape[0]
    with np.errstate(divide="ignore"):
        amplitude = ((fx ** 2 + fy ** 2) ** (-beta / 4)).astype(np.float32)
    amplitude[0, 0] = 0                                   # no mean
    real = rng.standard_normal(amplitude.shape, dtype=np.float32)
    imaginary = rng.standard_normal(amplitude.shape, dtype=np.float32)
    field = fft.irfft2(amplitude * (real + 1j * imaginary), s=shape)
    return (field - field.mean()) / field.std()


def between(limits, share):
    """The number that lies at `share`, 0 to 1, of the way between two limits."""
    low, high = limits
    return low + (high - low) * share


def logistic(t):
    return 1 / (1 + np.exp(-np.clip(t, -30, 30)))


def outline(row, view, rng, shape):
    """The `Breast` seen in `view`: skin, nipple, and the pectoral muscle where the view shows it."""
    px = FIELD_MM / shape[0]
    y = ((np.arange(shape[0]) + 0.5) * px).astype(np.float32)
    x = ((np.arange(shape[1]) + 0.5) * px).astype(np.float32)[None]
    width = shape[1] * px
    size = row["breast_size"]
    reach = width * (0.50 + 0.34 * size + 0.04 * rng.normal() * (size < 0.8))
    middle = FIELD_MM * (0.5 if view == "CC" else 0.60) + 2.5 * rng.normal()
    below = 36 + 9 * size + 2 * rng.normal()
    u = (y - middle) / below
    edge = reach * np.clip(1 - np.abs(u) ** 2.1, 0, None) ** rng.uniform(0.62, 0.78)
    if view == "MLO":
        top = width * rng.uniform(0.30, 0.46)
        upper = top + (reach - top) * (1 - np.clip((middle - y) / middle, 0, 1) ** rng.uniform(1.3, 1.8))
        edge = np.where(y < middle, upper, edge)
    phase = rng.uniform(0, 2 * np.pi, 3)
    waves = sum(0.6 * np.sin(y / s + p) for s, p in zip((5.0, 9.0, 16.0), phase))
    edge = np.where(edge > 0, edge + waves, 0)
    edge = ndimage.gaussian_filter1d(edge, 1.5 / px).astype(np.float32)
    slope = np.gradient(edge, px)
    depth = (edge[:, None] - x) / np.sqrt(1 + slope ** 2)[:, None]
    y = y[:, None]
    nipple = (middle + rng.normal(), reach - 0.5)
    bump = 0.8 * (rng.uniform(2.2, 3.4) - np.sqrt(((y - nipple[0]) / 1.7) ** 2 + (x - nipple[1]) ** 2))
    return Breast(y, x, np.maximum(depth, bump), edge, nipple, _muscle(view, y, x, width, rng), px)


def _muscle(view, y, x, width, rng):
    """(H, W) share of pectoral muscle: in an MLO view a triangle in the upper corner, slightly convex."""
    if view != "MLO":
        return np.zeros((len(y), x.shape[1]), np.float32)
    top = width * rng.uniform(0.24, 0.40)
    foot = FIELD_MM * rng.uniform(0.48, 0.70)
    edge = top * np.clip(1 - y / foot, 0, None) ** rng.uniform(0.8, 1.0)
    return logistic((edge - x) / 0.9) * (edge > 0)


AREA = 0.55, 1.15       # size of the glandular disc relative to the breast, least to most glandular
LEVEL = 0.12, 0.42      # its attenuation above fat


def glandular_tissue(row, breast, rng):
    """(H, W) attenuation of the breast without a lesion: fat, skin, glandular disc, ligaments, muscle."""
    d = breast.depth
    ny, nx = breast.nipple
    lobes, threads, flat = _textures(breast, rng)
    area, level = (between(limits, row["glandularity"]) for limits in (AREA, LEVEL))
    centre = nx * rng.uniform(0.46, 0.60)
    height = 36 * area * (0.7 + 0.4 * row["breast_size"])
    across = (breast.x - centre) / (nx * 0.52 * area)
    along = (breast.y - ny + 4 * rng.normal()) / height
    disc = 1 - across ** 2 - along ** 2
    disc = logistic(2.2 * (disc + 0.35 * flat + 0.35 * lobes)) * logistic((d - 6) / 1.6)
    thickness = 1 - np.exp(-np.clip(d, 0, None) / 6)
    coarse = between((0.2, 3.0), row["nodularity"])
    clumps = 0.30 + 0.75 * logistic(coarse * lobes + 0.9 * flat)
    strands = between((0.02, 0.22), row["fibrosis"])
    ridges = np.exp(-np.abs(threads) / 0.09) + 0.5 * np.exp(-np.abs(lobes + 0.4 * flat) / 0.07)
    tissue = thickness * (0.30 + 0.025 * flat + level * disc * clumps
                          + strands * ridges * (0.35 + 0.65 * disc) * logistic((d - 3) / 1.5))
    skin = between((0.6, 2.4), row["inflammation"])           # mm
    tissue += (0.02 + 0.04 * skin) * np.exp(-((d - skin) / skin) ** 2) * (breast.x > 3)
    muscle = 0.60 + 0.05 * flat + 0.015 * np.sin((breast.x + 0.45 * breast.y) / 1.1 + 2 * flat)
    return (tissue + breast.muscle * np.maximum(muscle - 0.75 * tissue, 0)).astype(np.float32)


def _textures(breast, rng):
    """Three (H, W) power-law fields: lobes and threads drawn out towards the nipple like ducts, and flat."""
    ny, nx = breast.nipple
    height, width = breast.depth.shape
    # Half resolution will do: finer detail drowns in the noise.
    dy, dx = np.broadcast_arrays(breast.y[::2] - ny, breast.x[:, ::2] - nx - 25)
    at = np.stack([np.arctan2(dy, -dx) * 62, np.hypot(dy, dx) * 0.55]) / (2 * breast.px)
    bend = power_law(rng, dy.shape, 3.5)
    at += 1.5 / breast.px * np.stack([bend, -bend])
    fields = []
    for beta in (3.0, 2.6):
        field = power_law(rng, dy.shape, beta)
        fields.append(ndimage.map_coordinates(field, at, order=1, mode="grid-wrap"))
    fields.append(power_law(rng, dy.shape, 3.4))
    doubled = [np.kron(field, np.ones((2, 2), np.float32))[:height, :width] for field in fields]
    return [ndimage.uniform_filter(field, 3) for field in doubled]


def expose(tissue, inside, style, px, rng):
    """(H, W) grey levels in [0, 1]: detector blur, noise, unsharp masking, and the display curve."""
    tissue = ndimage.gaussian_filter(tissue, style.blur / px)
    if style.sharpen:
        tissue = tissue + style.sharpen * (tissue - ndimage.gaussian_filter(tissue, 1.2 / px))
    image = np.clip(tissue, 0, 1.3) ** style.gamma
    if style.contrast:                                    # film: toe and shoulder of the characteristic curve
        low, high = (float(logistic(t * style.contrast)) for t in (-0.45, 0.75))
        image = (logistic(style.contrast * (image - 0.45)) - low) / (high - low)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if style.film:                                        # silver grains clump
        noise = 2.2 * ndimage.gaussian_filter(noise, 0.15 / px)
        return style.fog + (1 - style.fog) * image + noise * style.grain * (0.25 + image)
    return np.where(inside, image + noise * style.grain * (0.3 + np.sqrt(np.clip(image, 0, None))), 0)


def film_marks(image, laterality, view, rng):
    """The image with a lead marker beside the breast, dust, a scratch, and white borders of a masked film."""
    h, w = image.shape
    stamp = _lead_marker(h, f"{laterality}{view}", rng)
    top = int(rng.uniform(0, 0.04) * h)
    margin = max(int(rng.uniform(-0.03, 0.03) * w), 0)
    left = w - stamp.shape[1] - margin if laterality == "L" else margin
    spot = image[top:top + stamp.shape[0], left:left + stamp.shape[1]]
    np.maximum(spot, stamp * rng.uniform(0.55, 0.95), out=spot)
    for _ in range(rng.poisson(2.0)):                     # dust
        y, x, r = rng.integers(2, h - 2), rng.integers(2, w - 2), rng.integers(1, 3)
        image[y:y + r, x:x + r] = rng.uniform(0.7, 1.0)
    if rng.random() < 0.15:                               # scratch
        x = rng.integers(0, w)
        y0, y1 = np.sort(rng.integers(0, h, 2))
        image[y0:y1, x] += 0.12
    for side in np.flatnonzero(rng.random(3) < 0.3):      # top, bottom, side away from the chest wall
        thick = int(rng.integers(2, 6) * h / 600) + 1
        away = np.s_[:, -thick:] if laterality == "L" else np.s_[:, :thick]
        strip = (np.s_[:thick], np.s_[-thick:], away)[side]
        image[strip] = rng.uniform(0.7, 1.0)
    return image


BEAD_MM = 1.4           # radius


def bead(breast, laterality, rng):
    """(H, W) in [0, 1]: a lead bead, as some sites stick on the skin, below the skin near the nipple."""
    y = breast.nipple[0] + rng.uniform(-8, 8)
    row = int(np.clip(y / breast.px, 0, len(breast.edge) - 1))
    x = breast.edge[row] - rng.uniform(5, 9)
    spot = logistic((BEAD_MM - np.hypot(breast.y - y, breast.x - x)) / (0.3 * breast.px))
    return spot[:, ::-1] if laterality == "R" else spot


def _lead_marker(height, text, rng):
    """(n, n) in [0, 1]: the letters of a lead marker, turned at random; n is a fifth of `height`."""
    side = int(0.20 * height)
    stamp = Image.new("L", (side, side))
    font = ImageFont.load_default(size=0.05 * height)
    ImageDraw.Draw(stamp).text((side // 2, side // 2), text, fill=255, font=font, anchor="mm")
    turned = stamp.rotate(rng.uniform(-60, 60), resample=Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float32) / 255
