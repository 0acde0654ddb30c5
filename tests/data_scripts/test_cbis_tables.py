"""Faulty rows of the tables of CBIS-DDSM are left out with what depends on them."""
import re

import pandas as pd
import pytest

from data_scripts import cbis_ddsm
from mammogram_copies import MASS_TRAIN


def change(path, sample, **values):
    """Sets values of the rows of one image in a case description."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    here = table["image file path"].str.startswith(sample.split("/")[1] + "/")
    for column, value in values.items():
        table.loc[here, column.replace("_", " ") if column != "patient_id" else column] = value
    table.to_csv(path, index=False, lineterminator="\r\n")


@pytest.mark.parametrize(
    "column, value",
    [
        ("pathology", "UNSURE"),
        ("pathology", ""),
        ("image_view", "XCC"),
        ("left_or_right_breast", "BOTH"),
        ("patient_id", "7"),
        ("image_file_path", ""),
        ("image_file_path", "Mass-Training_P_00001_LEFT_CC/1.2/no uid/000000.dcm"),
        ("image_file_path", "nobody/1.2/1.3/000000.dcm"),
    ],
)
def test_cbis_row_that_cannot_be_used_is_left_out_and_counted(native, column, value, caplog):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    sample = rows["sample"][rows["sample"].str.contains("Mass-Training")].iloc[0]
    change(root / MASS_TRAIN, sample, **{column: value})
    fewer, left_out, traps = cbis_ddsm.read(root)
    assert fewer.equals(rows[rows["sample"] != sample].reset_index(drop=True)) and traps["faulty_row"] == 1
    ((source, reason),) = left_out
    assert source == str(root / MASS_TRAIN)
    assert re.search(rf"^Row \d+ of .*{MASS_TRAIN}.*{value[:9]}.*unknown", reason)
    assert reason in caplog.text


def test_cbis_film_that_its_own_columns_do_not_name_is_told_by_its_folder(native):
    """The same film is listed as calcification; a mass row with an odd side takes that with it."""
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    calc = rows["sample"][rows["sample"].str.contains("Calc-Training")].iloc[0].split("/")[1]
    film = calc.removeprefix("Calc-Training_")
    path = next(root.rglob(MASS_TRAIN))
    header, first, *_ = path.read_bytes().decode().split("\r\n")
    fields = first.split(",")
    fields[header.split(",").index("image file path")] = f"Mass-Training_{film}/1.2/1.3/000000.dcm"
    fields[header.split(",").index("left or right breast")] = "BOTH"
    path.write_bytes((path.read_bytes().decode() + ",".join(fields) + "\r\n").encode())
    fewer = cbis_ddsm.index(root)
    assert f"cbis_ddsm/{calc}" not in set(fewer["sample"]) and len(fewer) == len(rows) - 1


def test_cbis_finding_that_cannot_be_used_takes_its_film_with_it(native):
    """What is left of a film does not say its label: the finding that was lost may have been the malignant
    one."""
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    sample = rows["sample"][rows["sample"].str.contains("Mass-Training")].iloc[0]
    lines = (root / MASS_TRAIN).read_bytes().decode().split("\r\n")
    own = next(line for line in lines if sample.split("/")[1] + "/" in line)
    for bad in (
        own.replace("BENIGN", "?").replace("MALIGNANT", "?"),
        own.replace(",mass,", ",mass,mass,"),
        own.split(",mass,")[0],
    ):
        (root / MASS_TRAIN).write_bytes("\r\n".join([*lines[:-1], bad, ""]).encode())
        fewer, left_out, _ = cbis_ddsm.read(root)
        assert sample not in set(fewer["sample"]) and len(fewer) == len(rows) - 1
        (_, row), (image, film) = left_out
        assert row.startswith(f"Row {len(lines) - 1} of")
        assert image.startswith(sample.split("/")[1])
        assert "its label is not known" in film


def test_cbis_row_without_a_mask_keeps_its_image(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    sample = rows["sample"][rows["sample"].str.contains("Mass-Training")].iloc[0]
    change(root / MASS_TRAIN, sample, cropped_image_file_path="", ROI_mask_file_path="gone")
    again, _, traps = cbis_ddsm.read(root)
    assert again.set_index("sample").annotation[sample] == ""
    assert len(again) == len(rows)
    assert traps["missing_mask"] == 1
