"""Stain: Macenko and Reinhard beside torchstain's, on pictures with known stains and on a real slide."""
import numpy as np
import pytest
from skimage.color import rgb2lab
from slide_files import GLASS, PINK, REAL
from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer
from torchstain.numpy.normalizers.reinhard import NumpyReinhardNormalizer

from xmodal.imaging import regions, slides, stain

STAINS = np.array([[0.65, 0.70, 0.29], [0.16, 0.85, 0.48]])       # haematoxylin, eosin


@pytest.fixture(scope="module")
def tissue():
    """24 tiles of a real slide, 128 um, 128 pixels."""
    slide, mpp = regions.open_slide(REAL)
    with slide:
        return slides.tiles(slide, mpp, 128, 128, n=24).pixels


def stained(matrix, rng, strength=(1.0, 1.0)):
    """A picture of known stains, with optical densities `matrix` (rows haematoxylin, eosin)."""
    amounts = rng.random((64, 64, 2)) ** 2 * (1.6, 0.9) * strength
    amounts[:16] *= (0, 1)
    amounts[16:32] *= (1, 0)
    return np.clip(240 * np.exp(-amounts @ matrix), 0, 255).astype(np.uint8)


def test_macenko_brings_two_stains_to_the_same_colours():
    a = stained(STAINS, np.random.default_rng(1))
    b = stained(np.array([[0.55, 0.76, 0.45], [0.24, 0.90, 0.36]]), np.random.default_rng(1), (0.8, 1.3))
    normal_a, success_a = stain.macenko(a)
    normal_b, success_b = stain.macenko(b)
    assert success_a and success_b and normal_a.shape == a.shape and normal_a.dtype == np.uint8
    before = np.abs(a.astype(float) - b).mean()
    after = np.abs(normal_a.astype(float) - normal_b).mean()
    assert after < 0.35 * before


def test_macenko_uses_the_stated_reference():
    picture = stained(STAINS, np.random.default_rng(1))
    weak = stain.REFERENCE[0], stain.REFERENCE[1] / 2
    assert stain.macenko(picture, weak)[0].mean() > stain.macenko(picture)[0].mean() + 10


@pytest.mark.parametrize("colour", (GLASS, (255, 255, 255), (0, 0, 0), PINK))
def test_macenko_leaves_pictures_without_two_stains_as_they_are(colour):
    picture = np.full((32, 32, 3), colour, np.uint8)
    out, normalised = stain.macenko(picture)
    assert not normalised and (out == picture).all()


def mixture(seed, side=16):
    """(tile, share of haematoxylin in each pixel) with stains and their spread drawn by `seed`."""
    rng = np.random.default_rng(seed)
    stains = np.abs(STAINS + rng.normal(0, 0.06, (2, 3)))
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    share = rng.random((side, side))
    strength = np.clip(1 + rng.uniform(0.05, 0.3) * rng.standard_normal((side, side)), 0.3, 3)
    density = (share * strength)[..., None] * stains[0] + ((1 - share) * strength)[..., None] * stains[1]
    return np.clip(np.round(240 * np.exp(-density) - 1), 0, 255).astype(np.uint8), share


def test_macenko_does_not_depend_on_the_signs_of_principal_directions(monkeypatch):
    """1,000 tiles, each with two of the four signs: equal within a grey level, and eosin stays coloured."""
    eigh = np.linalg.eigh
    for seed in range(1000):
        tile, share = mixture(seed)
        results = []
        for signs in ((1, 1, 1), ((1, -1, 1), (1, 1, -1), (1, -1, -1))[seed % 3]):
            def signed(matrix, signs=signs):
                values, vectors = eigh(matrix)
                return values, vectors * np.where(vectors.sum(0) < 0, -1, 1) * signs
            monkeypatch.setattr(np.linalg, "eigh", signed)
            out, normalised = stain.macenko(tile)
            assert normalised and out[share < 0.2].mean(0)[1] < 200, seed
            results.append(out.astype(int))
        assert np.ptp(results, axis=0).max() <= 1, seed


def test_macenko_takes_the_tiles_of_a_slide_together(tissue):
    tiles = tissue[:4]
    together, normalised = stain.macenko(tiles)
    assert normalised and together.shape == tiles.shape
    wide = stain.macenko(np.concatenate(list(tiles)))[0]
    assert (wide.reshape(tiles.shape) == together).all()


def torchstains(rgb):
    return NumpyMacenkoNormalizer().normalize(rgb, stains=False)[0].astype(int)


def test_macenko_is_torchstains_within_one_grey_level(tissue):
    for tile in tissue[::4]:
        assert np.abs(stain.macenko(tile)[0] - torchstains(tile)).max() <= 1
    together = tissue.reshape(-1, 128, 3)
    assert np.abs(stain.macenko(tissue)[0].reshape(together.shape) - torchstains(together)).max() <= 1


def test_macenko_of_a_sample_of_the_pixels_is_torchstains_within_one_grey_level(tissue, monkeypatch):
    monkeypatch.setattr(stain, "SEEN", 2 ** 17)
    together = tissue.reshape(-1, 128, 3)
    assert stain._step(len(tissue) * 128 ** 2) > 1
    assert np.abs(stain.macenko(together)[0] - torchstains(together)).max() <= 2


def test_a_share_of_stain_too_small_counts_as_no_tissue(tissue):
    rgb = np.full((128, 128 * 8, 3), GLASS, np.uint8)
    rgb[:4, :128] = tissue[0][:4]
    for method in (stain.macenko, stain.reinhard):
        out, normalised = method(rgb)
        assert not normalised and (out == rgb).all()
        assert not method(np.empty((0, 8, 8, 3), np.uint8))[1]


def test_percentiles_are_numpys():
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal(50_000), rng.exponential(size=777), np.zeros(1000), np.arange(3.0),
               np.sort(rng.random(9999)), np.ones(1)]
    for values in vectors:
        for q in (0, 1, 50, 99, 100):
            numpys = np.percentile(values, q)
            assert stain.percentile(values, q) == pytest.approx(numpys, rel=1e-12, abs=1e-12)


def test_reinhard_brings_the_statistics_to_the_reference(tissue):
    reference = (np.array([60.0, 20.0, -12.0]), np.array([8.0, 5.0, 4.0]))
    out, normalised = stain.reinhard(tissue, reference)
    mask = (stain._density(tissue.reshape(-1, 3)) >= stain.FAINT).all(0)
    lab = rgb2lab(out.reshape(-1, 3)[mask])
    assert normalised
    assert lab.mean(0) == pytest.approx(reference[0], abs=0.5)
    assert lab.std(0) == pytest.approx(reference[1], rel=0.05)


def test_reinhard_is_torchstains_where_all_is_tissue(tissue):
    dark = tissue // 2                                                       # every pixel counts as stained
    theirs = NumpyReinhardNormalizer()
    theirs.fit(dark[0])
    ours = stain.reinhard(dark[1], stain.lab_statistics(dark[0]))[0]
    difference = np.abs(ours - theirs.normalize(dark[1]).astype(int))        # rounded here and cut there
    assert difference.mean() < 0.8
    assert np.percentile(difference, 99) <= 2             # colours that no screen shows differ more


def test_reinhards_stated_reference_is_that_of_the_real_slide(tissue):
    slide, mpp = regions.open_slide(REAL)
    with slide:
        mean, spread = stain.lab_statistics(slides.tiles(slide, mpp, 128, 256).pixels)
    assert np.allclose(mean, stain.REINHARD[0], atol=0.1)
    assert np.allclose(spread, stain.REINHARD[1], atol=0.1)
