"""Slides: tissue, pen, focus, tiles and outlines, on pictures with known answers and on a real slide."""
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from slide_files import FIXTURES, GLASS, PINK, PURPLE, REAL, photo

from xmodal.config import HOME, Problem
from xmodal.imaging import regions, slides


@pytest.fixture(scope="module")
def real():
    slide, mpp = regions.open_slide(REAL)
    with slide:
        yield slide, mpp


@pytest.fixture
def half(tmp_path):
    """A field of 4 x 2 tiles, 1 um per pixel: tissue on the left half, glass on the right."""
    rgb = np.full((200, 400, 3), GLASS, np.uint8)
    rgb[:, :200] = PINK
    rgb[20:180:9, 10:190:9] = PURPLE
    slide, mpp = regions.open_slide(photo(tmp_path / "half.tif", rgb))
    with slide:
        yield slide, mpp


# ---- tissue and tiles ------------------------------------------------------------------------------------

def test_tissue_is_what_is_not_glass(half):
    mask = slides.tissue_mask(half[0].get_thumbnail((400, 200)))
    assert mask[:, :195].mean() > 0.99 and mask[:, 205:].mean() < 0.01


def test_a_field_without_glass_is_tissue_throughout():
    rgb = np.full((100, 100, 3), PINK, np.uint8)
    rgb[30:60, 30:60] = PURPLE
    assert slides.tissue_mask(rgb).all()
    assert not slides.tissue_mask(np.full((100, 100, 3), GLASS, np.uint8)).any()


def scene(glass, disturbance):
    """(picture, where tissue is): a piece of tissue on glass of this colour, as light through it looks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    tissue = (y - 90) ** 2 + (x - 90) ** 2 < 60 ** 2
    nuclei = tissue & (np.kron(rng.random((128, 128)) < 0.25, np.ones((2, 2))) > 0)
    rgb = np.empty((256, 256, 3))
    rgb[:] = glass
    rgb[tissue] *= np.array([200, 130, 170]) / 242
    rgb[nuclei] = np.array(glass) * (110, 70, 140) / 242
    if disturbance == "pen":
        rgb[200:220, 30:200] = PENS["blue"]
    rgb = np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
    if disturbance in ("black", "white"):
        rgb[:, 236:] = 0 if disturbance == "black" else 255
    if disturbance == "jpeg":
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "jpeg", quality=50)
        rgb = np.asarray(Image.open(file))
    return rgb, tissue


@pytest.mark.parametrize("disturbance", ("none", "black", "white", "pen", "jpeg"))
@pytest.mark.parametrize("tint", ((1, 1, 1), (1, 0.96, 0.9), (0.93, 0.95, 1)), ids=("grey", "yellow", "blue"))
def test_glass_is_measured_whatever_its_brightness(tint, disturbance):
    for level in (120, 150, 180, 205, 214, 220, 226, 240, 255):
        rgb, tissue = scene(np.multiply(tint, level), disturbance)
        mask = slides.tissue_mask(rgb)
        assert mask[tissue].mean() > 0.9 and mask[~tissue].mean() < 0.04, level


def test_grid_measures_tissue_and_tumour(half):
    outlines = {"polygons": [[[0, 0], [100, 0], [100, 200], [0, 200]]],
                "exclude": [[[0, 0], [100, 0], [100, 50], [0, 50]]]}
    xy, tissue = slides.tile_grid(*half, 100)
    tumour = slides.outlined(*half, 100, json.dumps(outlines))
    assert xy.tolist() == [[x, y] for y in (0, 100) for x in (0, 100, 200, 300)]
    assert np.round(tissue).tolist() == [1, 1, 0, 0] * 2
    assert tumour == pytest.approx([0.5, 0, 0, 0, 1, 0, 0, 0], abs=0.08)
    with pytest.raises(Problem, match="smaller than a tile"):
        slides.tile_grid(*half, 1000)


def test_tiles_are_tissue_in_the_order_of_the_grid_and_no_more_than_asked(half):
    tiles = slides.tiles(*half, 100, 32)
    assert tiles.pixels.shape == (4, 32, 32, 3) and tiles.pixels.dtype == np.uint8
    assert tiles.xy.tolist() == [[0, 0], [100, 0], [0, 100], [100, 100]]
    assert len(slides.tiles(*half, 100, 32, n=3).xy) == 3
    assert slides.tiles(*half, 100, 32, tissue=1.1).pixels.shape == (0, 32, 32, 3)
    first = slides.tiles(*half, 100, 32, n=2, rng=np.random.default_rng(5))
    again = slides.tiles(*half, 100, 32, n=2, rng=np.random.default_rng(5))
    assert (first.xy == again.xy).all()


def test_a_tile_shows_its_place_at_any_size(tmp_path):
    ramp = np.zeros((256, 256, 3), np.uint8)
    ramp[..., 0] = np.arange(256)[None]
    ramp[..., 1] = np.arange(256)[:, None]
    slide, _ = regions.open_slide(photo(tmp_path / "ramp.tif", ramp))
    for size in (16, 64, 128):
        tile = slides.region(slide, 128, 64, 64, size).reshape(-1, 3).mean(0)
        assert tile[:2] == pytest.approx([159.5, 95.5], abs=1)


def test_tiles_of_a_real_slide_hold_stained_tissue(real):
    pixels = slides.tiles(*real, 256, 96, n=6, rng=np.random.default_rng(0)).pixels
    assert pixels.shape == (6, 96, 96, 3)
    stained = (pixels.mean(-1) < 220).mean((1, 2))
    assert (stained > 0.35).all()
    green = pixels[..., 1].mean((1, 2))
    red_and_blue = pixels[..., [0, 2]].mean((1, 2, 3))
    assert (green < red_and_blue).all()                   # H&E absorbs green most


def test_an_overview_by_blocks_is_the_whole_one(real, monkeypatch):
    whole = slides.overview(real[0], 140, 187).astype(int)
    monkeypatch.setattr(slides, "LARGE", 1000)
    blocks = slides.overview(real[0], 140, 187).astype(int)
    assert np.abs(whole - blocks).mean() < 3
    assert np.corrcoef(whole.ravel(), blocks.ravel())[0, 1] > 0.99


def test_extraction_keeps_the_order_asked_for(real):
    xy = [(1500, 900), (0, 0), (700, 1300), (0, 900)]
    separately = [slides.region(real[0], x, y, 200, 50) for x, y in xy]
    assert (slides.extract(real[0], xy, 200, 50) == separately).all()


# ---- pen, focus, outlines --------------------------------------------------------------------------------

PENS = {"red": (200, 40, 50), "green": (40, 130, 70), "blue": (40, 60, 170), "black": (25, 25, 30)}


@pytest.mark.parametrize("colour", PENS.values(), ids=PENS.keys())
def test_a_stroke_of_pen_is_no_tissue(colour):
    rgb = np.full((120, 160, 3), GLASS, np.uint8)
    rgb[20:100, 20:90] = PINK
    rgb[30:90:6, 30:80:6] = PURPLE
    rgb[10:110, 110:122] = colour
    mask = slides.tissue_mask(rgb)
    assert not mask[10:110, 110:122].any() and mask[22:98, 22:88].mean() > 0.98


@pytest.mark.parametrize("name, least, most", [
    ("no-tissue-green-pen", 0.7, 1),
    ("no-tissue-red-pen", 0.2, 0.4),
    ("medium-nuclei-score-green-pen-level1", 0.3, 0.6),
    ("very-low-nuclei-score-red-pen-level1", 0.1, 0.3),
    ("medium-nuclei-score-level2", 0, 0.01),
    ("tissue-level0-7352-11762-7864-12274", 0, 0.01),
    ("liver-level2-10907-7808-11707-8608", 0, 0.01),
])
def test_pen_on_real_tiles(name, least, most):
    path = FIXTURES / "tiles" / f"{name}.png"
    if not path.exists():
        pytest.skip("needs ../shared/data/histolab_fixtures")
    image = Image.open(path).convert("RGB")
    image.thumbnail((256, 256))
    assert least <= slides.pen_mask(image).mean() <= most


def test_tiles_out_of_focus_are_passed_over_for_others(tmp_path, real):
    tissue = slides.tiles(*real, 128, 256, tissue=0.8, n=16).pixels
    rgb = np.concatenate(np.concatenate(tissue.reshape(4, 4, 256, 256, 3), 1), 1)
    rgb[:, :512] = gaussian_filter(rgb[:, :512], (6, 6, 0))
    slide, mpp = regions.open_slide(photo(tmp_path / "half.tif", rgb))
    with slide:
        _, share = slides.tile_grid(slide, mpp, 256)
        assert share.reshape(4, 4)[:, :2].min() > 0.5
        xy = slides.tiles(slide, mpp, 256, 256).xy
        assert (xy[:, 0] >= 512).all() and len(xy) == 8
        assert len(slides.tiles(slide, mpp, 256, 256, n=6, rng=np.random.default_rng(0)).xy) == 6


def circle(radius):
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return (1000 + radius * np.column_stack([np.cos(angle), np.sin(angle)])).tolist()


EIGHT = [[200, 200], [1000, 1000], [1800, 200], [1800, 1800], [1000, 1000], [200, 1800]]


@pytest.mark.parametrize("outlines, area, border", [
    ({"polygons": [circle(800)], "exclude": [circle(400)]}, np.pi * (800 ** 2 - 400 ** 2), 2 * np.pi * 1200),
    ({"polygons": [EIGHT]}, 1600 * 800, 2 * (1600 + 2 * 1131)),
    ({"polygons": [[[0, 0], [5, 5]]]}, 0, 0),
], ids=["ring", "figure of eight", "line"])
def test_outlines_with_holes_and_touching_themselves(outlines, area, border):
    """Areas are right within about half a pixel along the border; a figure of eight counts both its loops."""
    mask = slides.tumour_mask(json.dumps(outlines), (200, 200), 0.1)
    assert abs(mask.sum() * 100 - area) <= 0.6 * 10 * border


# ---- memory ----------------------------------------------------------------------------------------------

HUGE = """
import sys
import imagecodecs, numpy as np, tifffile
from xmodal.imaging import regions, slides

rng = np.random.default_rng(0)
side, levels = map(int, sys.argv[2:])
tissue = np.where(rng.random((1024, 1024, 1)) < 0.3, (110, 60, 140), (230, 150, 190)).astype(np.uint8)
with tifffile.TiffWriter(sys.argv[1], bigtiff=True) as tiff:      # tissue in one corner, nothing elsewhere
    for k in range(levels):
        n = side >> 2 * k
        corner = 4096 >> 2 * k
        inside = np.arange(1024) < corner
        tile = np.where(inside[:, None, None] & inside[None, :, None], tissue, 255).astype(np.uint8)
        code = imagecodecs.jpeg8_encode(tile, 90, colorspace="RGB", outcolorspace="YCBCR")
        tiles = (code if max(row, column) * 1024 < corner else b""
                 for row in range(n // 1024) for column in range(n // 1024))
        tiff.write(tiles, shape=(n, n, 3), dtype=np.uint8, tile=(1024, 1024), compression="jpeg",
                   photometric="ycbcr", subsampling=(1, 1), subfiletype=k > 0, resolution=(2e4, 2e4),
                   resolutionunit="CENTIMETER", metadata=None)
slide, mpp = regions.open_slide(sys.argv[1])
assert slide.dimensions == (side, side) and slide.level_count == levels
tiles = slides.tiles(slide, mpp, 256.0, 96, n=8, rng=rng)
status = open("/proc/self/status")           # ru_maxrss would count the process that started this one too
peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(len(tiles.pixels), tiles.xy.max(), int(peak) / 2 ** 20)
"""


@pytest.mark.parametrize("side, levels", [(131_072, 4), (20_480, 1)])
def test_a_slide_of_gigapixels_needs_less_than_a_gigabyte(tmp_path, side, levels):
    """A pyramid of 17 gigapixels, and a single level of 0.4, which would not fit into memory at once.

    The memory is that of the process as a whole, with all that it imports.
    """
    command = [sys.executable, "-c", HUGE, str(tmp_path / "huge.tif"), str(side), str(levels)]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True)
    tiles, furthest, gigabytes = done.stdout.split()
    assert int(tiles) == 8 and float(furthest) < 4096 and float(gigabytes) < 1


def test_the_grid_coarsens_before_memory_runs_out(half, monkeypatch):
    fine_xy, fine_tissue = slides.tile_grid(*half, 50)
    monkeypatch.setattr(slides, "LARGE", 32 * 8 * 8)
    coarse_xy, coarse_tissue = slides.tile_grid(*half, 50)
    assert np.allclose(fine_xy, coarse_xy)
    assert (np.round(fine_tissue) == np.round(coarse_tissue)).all()
