"""Slides opened and read: where the pixel size comes from, and tiles decoded as OpenSlide decodes them."""
import unicodedata

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter
from slide_files import FIXTURES, PINK, REAL, photo

from xmodal.config import Problem
from xmodal.imaging import regions, slides

# ---- pixel size ------------------------------------------------------------------------------------------

def test_pixel_size_of_a_real_slide_is_read():
    slide, mpp = regions.open_slide(REAL)
    with slide:
        assert mpp == pytest.approx(0.499)


def test_pixel_size_of_a_photograph_is_its_tag_then_the_argument(tmp_path):
    rgb = np.full((64, 64, 3), PINK, np.uint8)
    tagged = photo(tmp_path / "tagged.tif", rgb, 0.84)
    plain = tmp_path / "plain.png"
    screen = tmp_path / "screen.png"
    Image.fromarray(rgb).save(plain)
    Image.fromarray(rgb).save(screen, dpi=(72, 72))        # no microscope's pixel size
    assert regions.open_slide(tagged, 0.42)[1] == pytest.approx(0.84, rel=1e-3)
    assert regions.open_slide(plain, 0.42)[1] == regions.open_slide(screen, 0.42)[1] == 0.42
    with pytest.raises(Problem, match="or give it as mpp"):
        regions.open_slide(screen)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"II*\0nothing")
    for name, reason in (("no.tif", "no slide"), ("bad.tif", "not a readable")):
        with pytest.raises(Problem, match=f"{reason}.*{name}|{name}.*{reason}"):
            regions.open_slide(tmp_path / name, 1.0)


def test_a_tiff_that_would_end_the_process_is_refused(tmp_path):
    rgb = np.full((512, 512, 3), PINK, np.uint8)
    chain = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "b">]><OME>&a;</OME>'
    for name, text in (("tile.tif", None), ("entity.tif", chain)):
        tifffile.imwrite(tmp_path / name, rgb, tile=(256, 256), photometric="rgb", resolution=(2e4, 2e4),
                         resolutionunit="CENTIMETER", metadata=None, description=text)
    with tifffile.TiffFile(tmp_path / "tile.tif", mode="r+b") as tiff:
        for tag in ("TileWidth", "TileLength"):
            tiff.pages[0].tags[tag].overwrite(1 << 30, dtype="I")
    for name, reason in (("tile.tif", "tiles of 1073741824 x"), ("entity.tif", "its XML declares entities")):
        with pytest.raises(Problem, match=f"{name} is not a readable slide or image .*{reason}"):
            regions.open_slide(tmp_path / name)


@pytest.mark.parametrize("text", [
    "file,mpp\nother.png,1\nplain.png,0.25\n",
    "\ufeffFile ; MPP\r\nplain.png ; 0.25\r\n",
    "file;mpp\nplain.png;0,25\n",
    "file\tmpp\r\nplain.png\t0,25\r\n",
    '"file","mpp"\r"plain.png","0.25"\r',
    'note,file,mpp\n"a, b; c",plain.png,"0,25"\n',
    "file,mpp\nplain.png,0.25\n\nplain.png,0.250\n",
])
def test_pixel_size_by_the_table_beside_the_slide(tmp_path, text):
    path = tmp_path / "plain.png"
    Image.fromarray(np.full((64, 64, 3), PINK, np.uint8)).save(path)
    (tmp_path / "mpp.csv").write_text(text, encoding="utf-8")
    assert regions.open_slide(path)[1] == regions.open_slide(path, 0.5)[1] == 0.25


@pytest.mark.parametrize("text, reason", [
    ("file,mpp\nother.png,1\n", r"add the line plain.png,<micrometres per pixel> to .*mpp\.csv"),
    ("", "mpp.csv"),
    ("name,size\nplain.png,1\n", "mpp.csv"),
    ("file,mpp\nplain.png,small\n", "mpp.csv"),
    ("file,mpp\nplain.png,40\n", "mpp.csv"),
    ("file,mpp\nplain.png,\n", "mpp.csv"),
    ("file,mpp\nplain.png,0.25\nplain.png,0.5\n", "gives plain.png the sizes 0.25 and 0.5"),
])
def test_a_table_without_a_usable_pixel_size_is_a_problem(tmp_path, text, reason):
    Image.fromarray(np.full((64, 64, 3), PINK, np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "mpp.csv").write_text(text, encoding="utf-8")
    with pytest.raises(Problem, match=reason):
        regions.open_slide(tmp_path / "plain.png")


@pytest.mark.parametrize("stored, typed", (("NFC", "NFD"), ("NFD", "NFC")))
def test_a_name_is_the_same_in_either_form_of_unicode(tmp_path, stored, typed):
    path = tmp_path / unicodedata.normalize(stored, "Pr\u00e4parat.png")
    Image.fromarray(np.full((64, 64, 3), PINK, np.uint8)).save(path)
    line = unicodedata.normalize(typed, "Pr\u00e4parat.png,0.25\n")
    (tmp_path / "mpp.csv").write_text("file,mpp\n" + line, encoding="utf-8")
    assert regions.open_slide(path)[1] == 0.25


@pytest.mark.parametrize("options", ({"tile": (64, 64)}, {}), ids=("slide", "photograph"))
def test_pixels_that_are_not_square_are_refused(tmp_path, options):
    rgb = np.full((128, 128, 3), PINK, np.uint8)
    for name, dots in (("a.tif", (40000, 20000)), ("b.tif", (40000, 39900))):
        tifffile.imwrite(tmp_path / name, rgb, photometric="rgb", resolution=dots,
                         resolutionunit="CENTIMETER", **options)
    with pytest.raises(Problem, match="not square .0.25 um across and 0.5 um down"):
        regions.open_slide(tmp_path / "a.tif")
    assert regions.open_slide(tmp_path / "b.tif")[1] == pytest.approx(0.25, rel=1e-4)


def test_a_table_that_contradicts_the_file_is_refused(tmp_path):
    path = photo(tmp_path / "a.tif", np.full((64, 64, 3), PINK, np.uint8), 0.5)
    (tmp_path / "mpp.csv").write_text("file,mpp\na.tif,0.499\n")
    assert regions.open_slide(path)[1] == pytest.approx(0.5, rel=1e-3)
    (tmp_path / "mpp.csv").write_text("file,mpp\na.tif,0.25\n")
    with pytest.raises(Problem, match="0.5 um per pixel, and .* says 0.25"):
        regions.open_slide(path)


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


# ---- pixels ----------------------------------------------------------------------------------------------

ENCODINGS = [
    {"photometric": "ycbcr", "subsampling": (2, 2), "compression": "jpeg"},
    {"photometric": "ycbcr", "subsampling": (2, 1), "compression": "jpeg"},
    {"photometric": "ycbcr", "subsampling": (1, 1), "compression": "jpeg"},
    {"photometric": "rgb", "compression": "jpeg"},
    {"photometric": "rgb", "compression": "deflate", "predictor": True},
    {"photometric": "rgb", "compression": "lzw"},
    {"photometric": "rgb", "compression": None},
]
REGIONS = {  # x, y, level, width, height; and whether the file's tiles give it directly
    "whole": ((0, 0, 0, 900, 700), True),
    "across tiles": ((13, 77, 0, 301, 499), True),
    "at the ragged edge": ((644, 444, 0, 256, 256), True),
    "beyond the edge": ((700, 600, 0, 256, 256), False),
    "on a lower level": ((100, 50, 1, 300, 300), True),
    "between pixels of a lower level": ((101, 50, 1, 99, 99), False),
}


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_tiles_decoded_directly_are_openslides(tmp_path, encoding):
    noise = np.random.default_rng(0).standard_normal((700, 900, 3))
    rgb = np.clip(gaussian_filter(noise, (2, 2, 0)) * 600 + 150, 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "slide.tif", bigtiff=True) as tiff:
        for k in range(2):
            tiff.write(rgb[::k + 1, ::k + 1], tile=(256, 256), subfiletype=k, resolution=(2e4, 2e4),
                       resolutionunit="CENTIMETER", **encoding)
    slide, _ = regions.open_slide(tmp_path / "slide.tif")
    with slide, regions.Regions(slide) as reader:
        assert sorted(reader.pages) == [0, 1]
        for (x, y, level, width, height), direct in REGIONS.values():
            assert (reader._directly(x, y, level, width, height) is not None) == direct
            theirs = np.asarray(slide.read_region((x, y), level, (width, height)))
            white = np.where(theirs[..., 3:] == 255, theirs[..., :3], 255)
            assert (reader.read(x, y, level, width, height) == white).all()


def test_a_real_slide_is_decoded_directly_and_is_openslides():
    slide, _ = regions.open_slide(REAL)
    with slide, regions.Regions(slide) as reader:
        theirs = np.asarray(slide.read_region((100, 200), 0, (1500, 1100)))[..., :3]
        assert (reader._directly(100, 200, 0, 1500, 1100) == theirs).all()


def test_a_damaged_tile_is_a_problem(tmp_path):
    path = tmp_path / "slide.tif"
    rgb = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    tifffile.imwrite(path, rgb, tile=(256, 256), compression="jpeg", photometric="ycbcr",
                     resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset = page.dataoffsets[3]
        size = page.databytecounts[3]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    slide, _ = regions.open_slide(path)
    with slide, pytest.raises(Problem, match="cannot be read"):
        slides.extract(slide, [(0, 0), (256, 256)], 256, 256)
