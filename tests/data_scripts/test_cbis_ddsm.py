"""The index of CBIS-DDSM: files the phantom wrote, and the quirks that the real files are known to have."""
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from data_scripts import cbis_ddsm, cbis_tables
from mammogram_copies import BENIGN, CALC_TRAIN, MALIGNANT, MASS_TEST, MASS_TRAIN, edit
from xmodal.config import Problem
from xmodal.imaging import mammograms


def test_cbis_tables_have_the_official_form(written):
    mass, calc = ((written / "cbis_ddsm" / name).read_bytes().decode() for name in (MASS_TRAIN, CALC_TRAIN))
    assert "breast_density" in mass.split("\r\n")[0] and "breast density" in calc.split("\r\n")[0]
    assert mass.endswith('/000001.dcm\n"\r\n')
    assert mass.count('\n"\r\n') == mass.count("\r\n") - 1
    assert calc.endswith("/000000.dcm\r\n")
    assert calc.count('/000001.dcm\n",Calc-') == calc.count("\r\n") - 1
    for row in cbis_ddsm.index(
        written / "cbis_ddsm"
    ).itertuples():  # the mask is the first instance of calcifications only
        mask = pydicom.dcmread(json.loads(row.annotation)["masks"][0])
        assert (mask.BitsAllocated, mask.InstanceNumber) == (8, 1 if "Calc-" in row.sample else 2)


def test_cbis_index_is_the_same_for_any_tree_and_file_names(native):
    root = native / "cbis_ddsm"
    before = cbis_ddsm.index(root)
    for i, path in enumerate(sorted(root.rglob("*.dcm"), key=lambda p: p.name)):
        study = f"07-20-2016-DDSM-NA-{path.parts[-3][-5:]}"
        series = f"1.000000-cropped images-{path.parts[-2][-5:]}"
        folder = root / "CBIS-DDSM" / path.parts[-4] / study / series
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"1-{i}.dcm")
    after = cbis_ddsm.index(root)
    moved = ["source", "annotation"]
    pd.testing.assert_frame_equal(before.drop(columns=moved), after.drop(columns=moved))
    assert all(mammograms.lesion_mask(annotation, (600, 480)).any() for annotation in after.annotation)
    assert not any(Path(path).exists() for path in before.source)


def test_cbis_image_is_malignant_if_any_finding_is_and_unites_the_masks(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    rows = rows[rows["sample"].str.contains("Mass-Training")]
    benign = rows[rows.allowed == BENIGN].iloc[0]
    malignant = rows[rows.allowed == MALIGNANT].iloc[0]
    table = pd.read_csv(root / MASS_TRAIN, dtype=str, keep_default_na=False)

    def finding(row):
        return table[table["image file path"].str.startswith(row["sample"].split("/")[1] + "/")].iloc[0]

    extra = finding(malignant).copy()
    extra["image file path"] = finding(benign)["image file path"]
    extra["patient_id"] = finding(benign)["patient_id"]
    table.loc[len(table)] = extra
    table.to_csv(root / MASS_TRAIN, index=False, lineterminator="\r\n")
    merged = cbis_ddsm.index(root).set_index("sample").loc[benign["sample"]]
    assert merged.allowed == MALIGNANT and merged.truth == merged.grade == -1
    assert merged.lesion_type == malignant.lesion_type and len(json.loads(merged.annotation)["masks"]) == 2


@pytest.mark.parametrize(
    "kind, first, second, expected",
    [
        ("mass", "IRREGULAR-ARCHITECTURAL_DISTORTION", "SPICULATED", ("mass", "spiculated")),
        ("mass", "ARCHITECTURAL_DISTORTION", "NA", ("distortion", "")),
        ("mass", "FOCAL_ASYMMETRIC_DENSITY", "OBSCURED", ("asymmetry", "")),
        ("mass", "OVAL", "CIRCUMSCRIBED-OBSCURED", ("mass", "circumscribed")),
        ("mass", "LOBULATED", "CIRCUMSCRIBED", ("mass", "lobulated")),
        ("mass", "NA", "NA", ("mass", "")),
        ("calcification", "NA", "NA", ("calcification", "")),
        (
            "calcification",
            "PLEOMORPHIC-FINE_LINEAR_BRANCHING",
            "CLUSTERED-LINEAR",
            ("calcification", "cluster"),
        ),
        ("calcification", "PUNCTATE", "REGIONAL", ("calcification", "scatter")),
        ("calcification", "VASCULAR", "LINEAR", ("calcification", "linear")),
    ],
)
def test_cbis_terms(kind, first, second, expected):
    assert cbis_tables.lesion(kind, first, second) == expected


def test_cbis_mask_is_told_by_its_pixels_where_both_have_16_bits(native):
    root = native / "cbis_ddsm"
    row = cbis_ddsm.index(root).iloc[0]
    (path,) = json.loads(row.annotation)["masks"]
    data = pydicom.dcmread(path)
    data.PixelData = data.pixel_array.astype(np.uint16).tobytes()
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data["PixelData"].VR = "OW"
    data.save_as(path)
    assert cbis_ddsm.index(root).annotation[0] == row.annotation


def test_cbis_files_that_are_lost_or_damaged_are_logged_and_left_out(native, caplog):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    with open(rows.source[0], "r+b") as file:
        file.truncate(100)
    (mask,) = json.loads(rows.annotation[1])["masks"]
    shutil.rmtree(mask.rsplit("/", 1)[0])
    fewer, left_out, traps = cbis_ddsm.read(root)
    assert len(fewer) == len(rows) - 1
    assert fewer.annotation[0] == ""
    assert fewer["sample"][0] == rows["sample"][1]
    assert f"1 of {len(rows)} images left out, 1 masks not found" in caplog.text
    (damaged, reason), (listed, _) = left_out
    assert damaged == rows.source[0]
    assert "cannot be read" in reason
    assert listed == rows["sample"][0].split("/")[1]
    assert traps["unreadable_file"] == traps["missing_image"] == traps["missing_mask"] == 1


@pytest.mark.parametrize(
    "part, used",
    [(np.s_[100:200, 50:290], False), (np.s_[::4, ::4], True)],
    ids=("the crop's", "a small one"),
)
def test_cbis_mask_of_the_size_of_its_crop_is_not_blown_up(native, part, used):
    root = native / "cbis_ddsm"
    row = cbis_ddsm.index(root).iloc[0]
    (path,) = json.loads(row.annotation)["masks"]
    data = pydicom.dcmread(path)
    pixels = np.ascontiguousarray(data.pixel_array[part])
    data.PixelData = pixels.tobytes()
    data.Rows, data.Columns = pixels.shape
    data.save_as(path)
    rows, _, traps = cbis_ddsm.read(root)
    assert rows.annotation[0] == (row.annotation if used else "")
    assert traps.get("crop_sized_mask", 0) == (not used)


def test_cbis_crop_of_8_bits_is_no_mask_and_a_file_there_twice_counts_once(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    (mask,) = (Path(path) for path in json.loads(rows.annotation[0])["masks"])
    (crop,) = set(mask.parent.iterdir()) - {mask}
    data = pydicom.dcmread(crop)
    data.PixelData = (data.pixel_array >> 8).astype(np.uint8).tobytes()
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.save_as(crop)
    shutil.copytree(mask.parent, root / "again")
    twice, _, traps = cbis_ddsm.read(root)
    assert twice.drop(columns="annotation").equals(rows.drop(columns="annotation"))
    assert traps["twin_file"] == 2
    (path,) = json.loads(twice.annotation[0])["masks"]
    assert Path(path).read_bytes() == mask.read_bytes()
    shutil.rmtree(root / "again")
    mask.unlink()
    assert cbis_ddsm.index(root).annotation[0] == ""


def test_cbis_film_listed_twice_is_malignant_in_both_if_in_one(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    benign = rows[rows.allowed == BENIGN].iloc[0]
    malignant = rows[rows.allowed == MALIGNANT].iloc[0]
    for name in cbis_tables.TABLES:  # two films become one: the same patient, side and view
        table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        for row in (benign, malignant):
            here = table["image file path"].str.startswith(row["sample"].split("/")[1] + "/")
            table.loc[here, ["patient_id", "left or right breast", "image view"]] = "P_09999", "LEFT", "CC"
        table.to_csv(root / name, index=False, lineterminator="\r\n")
    merged, _, traps = cbis_ddsm.read(root)
    both = merged.set_index("sample").loc[[benign["sample"], malignant["sample"]]]
    assert list(both.allowed) == [MALIGNANT] * 2
    assert list(both.truth) == [-1] * 2
    assert set(both.lesion_type) == {malignant.lesion_type}
    assert list(both.annotation) == [benign.annotation, malignant.annotation]
    assert (traps["film_twice"], traps["film_twice_mixed"]) == (1, 1)


def test_cbis_density_zero_is_unknown(native):
    root = native / "cbis_ddsm"
    table = pd.read_csv(root / MASS_TRAIN, dtype=str, keep_default_na=False)
    table.assign(breast_density="0").to_csv(root / MASS_TRAIN, index=False, lineterminator="\r\n")
    rows = cbis_ddsm.index(root)
    train = rows["sample"].str.contains("Mass-Training")
    assert (rows.density[train] == "").all() and rows.density[~train].isin(list("ABCD")).all()


def test_cbis_identifiers_in_the_files_do_not_matter(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    data = pydicom.dcmread(rows.source[0])
    data.PatientID = "P_00038_LEFT_CC.dcm"  # so are those of 396 calcification test series
    del data.SeriesDescription
    data.save_as(rows.source[0])
    assert cbis_ddsm.index(root).equals(rows) and rows.patient.str.fullmatch(r"cbis_ddsm/P_\d{5}").all()


def lose_a_table(root):
    (root / MASS_TEST).unlink()


def lose_a_column(root):
    edit(root / MASS_TRAIN, lambda text: text.replace("pathology", "verdict", 1))


def unknown_pathologies(root):
    edit(root / MASS_TRAIN, lambda text: text.replace("MALIGNANT", "UNSURE").replace("BENIGN", "UNSURE"))


def unnamed_images(root):
    edit(root / MASS_TRAIN, lambda text: text.replace("Mass-Training_P_", "Mass-Training_"))


def empty_table(root):
    (root / MASS_TRAIN).write_bytes(b"")


def binary_table(root):
    (root / MASS_TRAIN).write_bytes(bytes(range(256)) * 9)


def lose_all_images(root):
    shutil.rmtree(root / "cbis_ddsm")


@pytest.mark.parametrize("damage, reason", [
    (lose_a_table, MASS_TEST), (lose_a_column, "pathology"), (unknown_pathologies, "No row.*UNSURE"),
    (unnamed_images, "No row.*has the image"), (empty_table, "lacks the columns"),
    (binary_table, "cannot be read|lacks the columns"), (lose_all_images, "None of the")])
def test_cbis_that_cannot_be_indexed_is_a_problem(native, damage, reason):
    damage(native / "cbis_ddsm")
    with pytest.raises(Problem, match=reason):
        cbis_ddsm.index(native / "cbis_ddsm")
