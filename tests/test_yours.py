"""Images of one's own: read as the cohort was, one card and one row a patient, and a sentence for what is
no image."""
import runpy
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian
from test_preprocess import breast, row, tissue

from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, pyramid, write_dicom
from figures import yours as command
from xmodal import config, model, preprocess, yours
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, Problem

SMALL = replace(config.PROFILES["lesson"], image_size=96, tile_um=100.0, tiles_per_slide=3)


def film():
    """A breast with a bright spot, uint16 (200, 160), chest wall at the left."""
    pixels = breast()
    pixels[90:110, 40:60] = 4000
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same mammogram in every format, a slide, a photograph that does not say its size, and no images."""
    folder = tmp_path_factory.mktemp("mine")
    write_dicom(folder / "left.dcm", film(), ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 14,
                SOPInstanceUID="2.25.1", ImageLaterality="L", ImagerPixelSpacing=[0.5, 0.5])
    Image.fromarray(film()).save(folder / "left.png")
    Image.fromarray(film()).save(folder / "left.tif")
    eight = np.round(film() / 4000 * 255).astype(np.uint8)
    Image.fromarray(eight).save(folder / "eight.bmp")
    Image.fromarray(np.stack([eight] * 3, -1)).save(folder / "grey_as_colours.png")
    Image.fromarray(255 - eight).save(folder / "negative.png")
    Image.fromarray(np.ascontiguousarray(film()[:, ::-1])).save(folder / "right.png")
    Image.fromarray(np.pad(np.rot90(eight, -1), ((0, 0), (30, 30)))).save(folder / "turned.png")
    rgb = tissue(np.random.default_rng(0), (512, 512))
    pyramid(folder / "slide.tif", rgb, 1.0, 90, levels=2)
    Image.fromarray(rgb).save(folder / "photo.jpg", quality=95)
    (folder / "cut.png").write_bytes((folder / "left.png").read_bytes()[:300])
    (folder / "cut.dcm").write_bytes((folder / "left.dcm").read_bytes()[:900])
    (folder / "words.txt").write_text("no image")
    Image.fromarray(np.full((100, 100), 7, np.uint8)).save(folder / "flat.png")
    return folder


def mammogram(path):
    return yours.read_file(path, MAMMOGRAPHY, SMALL)[0][1]


# ---- reading ---------------------------------------------------------------------------------------------

def test_an_own_file_gives_the_pixels_that_the_cohort_has_of_it(folder, tmp_path):
    rows = [row("m", "inbreast", folder / "left.dcm"), row("s", "camelyon", folder / "slide.tif")]
    preprocess.build(pd.DataFrame(rows), SMALL, tmp_path, workers=1)
    stored = {name: np.load(tmp_path / "images" / f"{name}.npy") for name in ("inbreast", "camelyon")}
    assert np.array_equal(mammogram(folder / "left.dcm"), stored["inbreast"][0])
    tiles = yours.read_file(folder / "slide.tif", HISTOPATHOLOGY, SMALL, sample="camelyon/s")
    assert len(tiles) == 3
    assert np.array_equal(np.stack([tile for _, tile, _ in tiles]), stored["camelyon"])


def test_a_mammogram_is_the_same_in_every_format_and_whichever_way_it_faces(folder):
    expected = mammogram(folder / "left.dcm")
    for name in ("left.png", "left.tif", "right.png"):
        assert np.array_equal(mammogram(folder / name), expected), name
    eight = mammogram(folder / "eight.bmp")
    assert np.abs(eight.astype(int) - expected).max() <= 2
    for name in ("grey_as_colours.png", "negative.png"):
        assert np.array_equal(mammogram(folder / name), eight), name


def test_only_dicom_says_how_large_a_pixel_is(folder):
    Image.open(folder / "left.png").save(folder / "for_a_page.png", dpi=(300, 300))
    sized, unsized = (yours.read_file(folder / name, MAMMOGRAPHY, SMALL)[0][0]
                      for name in ("left.dcm", "for_a_page.png"))
    assert 0.5 < sized["mm_per_px"] < 2 and not sized["note"]
    assert np.isnan(unsized["mm_per_px"]) and "in pixels" in unsized["note"]


@pytest.mark.parametrize("name, modality", [
    ("cut.png", MAMMOGRAPHY), ("cut.dcm", MAMMOGRAPHY), ("words.txt", MAMMOGRAPHY), ("flat.png", MAMMOGRAPHY),
    ("photo.jpg", MAMMOGRAPHY), ("turned.png", MAMMOGRAPHY), ("gone.png", MAMMOGRAPHY),
    ("photo.jpg", HISTOPATHOLOGY), ("words.txt", HISTOPATHOLOGY), ("gone.svs", HISTOPATHOLOGY),
    ("left.dcm", HISTOPATHOLOGY), ("cut.png", HISTOPATHOLOGY)])
def test_what_cannot_be_read_is_named_in_one_sentence_that_deletes_nothing(folder, name, modality):
    with pytest.raises(Problem) as caught:
        yours.read_file(folder / name, modality, SMALL)
    text = str(caught.value)
    assert str(folder / name) in text and "\n" not in text and text.endswith(".")
    assert "delete" not in text and "01_download" not in text and "the index" not in text


def test_a_photograph_of_tissue_is_read_with_the_size_that_is_given(folder):
    tiles = yours.read_file(folder / "photo.jpg", HISTOPATHOLOGY, SMALL, mpp=1.0)
    assert len(tiles) == 3 and tiles[0][0]["slide_mpp"] == 1.0


# ---- patients --------------------------------------------------------------------------------------------

def test_a_mammogram_is_a_patient_unless_tissue_or_a_name_makes_them_one():
    each = yours.patients(["a/1.2.840.10008.png", "b/1.2.840.10008.dcm", "c/1.2.840.10009"])
    assert [patient.name for patient in each] == ["1.2.840.10008", "1.2.840.10008-2", "1.2.840.10009"]
    assert yours.patients(["cc.png", "mlo.png"], ["s.svs"]) == [("cc", ["cc.png", "mlo.png"], ["s.svs"])]
    assert yours.patients(["cc.png", "mlo.png"], name="A") == [("A", ["cc.png", "mlo.png"], [])]
    with pytest.raises(Problem, match="at least one"):
        yours.patients([])


def test_a_folder_is_not_taken_for_a_patient(tmp_path):
    with pytest.raises(Problem, match="is a folder; name the files"):
        yours.patients([tmp_path])


def test_views_are_averaged_and_the_surest_lesion_is_shown():
    net = model.build("lesson").eval()
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 96, 96), dtype=np.uint8)
    of_a, of_b, of_both, of_a_twice = (yours.card_of_images(net, views, [])[0]
                                       for views in ([a], [b], [a, b], [a, a]))
    assert np.allclose(of_a_twice.p, of_a.p, atol=1e-6) and not np.allclose(of_both.p, of_a.p, atol=1e-4)
    surer = int(of_b.mask.max() > of_a.mask.max())
    _, shown = yours.card_of_images(net, [a, b], [])
    assert shown == surer and np.array_equal(of_both.mask, (of_a, of_b)[surer].mask)


# ---- the command -----------------------------------------------------------------------------------------

def run(folder, out, *names):
    """The exit status of the command for files in a folder, after whose names options may come."""
    known = {path.name: str(path) for path in folder.iterdir()}
    return command.main([*(known.get(name, name) for name in names), "--out", str(out)])


def test_the_command_is_that_of_the_package_and_says_what_it_reads(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["predict", "--help"])
    with pytest.warns(RuntimeWarning), pytest.raises(SystemExit) as ended:
        runpy.run_module("xmodal.predict", run_name="__main__")
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and printed.startswith("usage: python -m xmodal.predict")
    for part in ("DICOM, PNG, JPEG, TIFF", "--tissue", "ONE", "exit status is 1"):
        assert part in printed


def test_the_command_writes_a_card_and_a_row_with_the_warning_and_goes_on_after_bad_files(
        folder, tmp_path, caplog):
    caplog.set_level("INFO")
    assert run(folder, tmp_path, "left.dcm", "cut.png", "right.png") == 0
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert table.patient.tolist() == ["left", "right"] and table["read"].tolist() == ["mammography"] * 2
    assert (table.warning == config.FROM_PHANTOMS).all() and (table.trained_on == "phantom").all()
    chances = table[["p_normal", "p_benign", "p_in_situ", "p_invasive"]]
    assert np.allclose(chances.sum(axis=1), 1, atol=1e-3) and (chances.iloc[0] == chances.iloc[1]).all()
    assert table.mm_per_px[0] != "" and table.mm_per_px[1] == "" and table.lesion_mm[1] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left.png", "predictions.csv", "right.png"]
    assert "cut.png" in caplog.text and "2 of 3 patients" in caplog.text


def test_nothing_is_overwritten_and_a_folder_takes_further_patients(folder, tmp_path, caplog):
    assert run(folder, tmp_path, "left.png") == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(folder, tmp_path, "left.png") == 1 and "already, which stays" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run(folder, tmp_path, "left.png", "--patient==A/B", "--tissue", "slide.tif") == 0
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table.patient.tolist() == ["left", "'=A/B"] and table["read"].tolist() == ["mammography", "both"]
    assert (tmp_path / "_A_B.png").exists() and table.tiles.tolist()[0] == 0 < table.tiles.tolist()[1]


def test_the_status_is_1_where_nothing_could_be_read(folder, tmp_path):
    assert run(folder, tmp_path, "cut.png", "gone.png") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_none_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="holds no finished run") as caught:
        yours.load(tmp_path)
    assert "delete" not in str(caught.value), "it may be a folder of images"


def test_the_profile_is_that_of_the_training_whatever_fields_it_has():
    saved = {"name": "of my own", "phantom": False, "image_size": 64, "device": "cuda", "new": 1}
    profile = yours.profile_of({"profile": saved})
    assert profile.image_size == 64 and not profile.phantom
    assert yours.profile_of({"profile": "lesson"}) == config.PROFILES["lesson"]
