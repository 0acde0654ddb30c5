"""Faulty rows of the tables of CBIS-DDSM and INbreast are left out with what depends on them; other programs' spelling does not matter."""
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from test_cbis_inbreast import MASS_TRAIN, edit, line_of, native, people, written  # noqa: F401  three of them are fixtures

from data_scripts import cbis_ddsm, cbis_tables, inbreast
from data_scripts.phantom.mammogram_files import DIGITAL_MAMMOGRAM, write_dicom
from xmodal.cohort import label_set


def change(path, sample, **values):
    """Sets values of the rows of one image in a case description."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    here = table["image file path"].str.startswith(sample.split("/")[1] + "/")
    for column, value in values.items():
        table.loc[here, column.replace("_", " ") if column != "patient_id" else column] = value
    table.to_csv(path, index=False, lineterminator="\r\n")


@pytest.mark.parametrize("column, value", [
    ("pathology", "UNSURE"), ("pathology", ""), ("image_view", "XCC"), ("left_or_right_breast", "BOTH"), ("patient_id", "7"),
    ("image_file_path", ""), ("image_file_path", "Mass-Training_P_00001_LEFT_CC/1.2/no uid/000000.dcm"), ("image_file_path", "nobody/1.2/1.3/000000.dcm")])
def test_cbis_row_that_cannot_be_used_is_left_out_and_counted(native, column, value, caplog):  # noqa: F811
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    sample = rows["sample"][rows["sample"].str.contains("Mass-Training")].iloc[0]
    change(root / MASS_TRAIN, sample, **{column: value})
    fewer = cbis_ddsm.index(root)
    assert fewer.equals(rows[rows["sample"] != sample].reset_index(drop=True)) and fewer.attrs["traps"]["faulty_row"] == 1
    (source, reason), = fewer.attrs["exclusions"]
    assert source == str(root / MASS_TRAIN) and re.search(rf"^Row \d+ of .*{MASS_TRAIN}.*{value[:9]}.*unknown", reason) and reason in caplog.text


def test_cbis_film_that_its_own_columns_do_not_name_is_told_by_its_folder(native):  # noqa: F811
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


def test_cbis_finding_that_cannot_be_used_takes_its_film_with_it(native):  # noqa: F811
    """What is left of a film does not say its label: the finding that was lost may have been the malignant one."""
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    sample = rows["sample"][rows["sample"].str.contains("Mass-Training")].iloc[0]
    lines = (root / MASS_TRAIN).read_bytes().decode().split("\r\n")
    own = next(line for line in lines if sample.split("/")[1] + "/" in line)
    for bad in (own.replace("BENIGN", "?").replace("MALIGNANT", "?"), own.replace(",mass,", ",mass,mass,"), own.split(",mass,")[0]):
        (root / MASS_TRAIN).write_bytes("\r\n".join([*lines[:-1], bad, ""]).encode())
        fewer = cbis_ddsm.index(root)
        assert sample not in set(fewer["sample"]) and len(fewer) == len(rows) - 1
        (_, row), (image, film) = fewer.attrs["exclusions"]
        assert row.startswith(f"Row {len(lines) - 1} of") and image.startswith(sample.split("/")[1]) and "its label is not known" in film


def test_cbis_row_without_a_mask_keeps_its_image(native):  # noqa: F811
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    sample = rows["sample"][rows["sample"].str.contains("Mass-Training")].iloc[0]
    change(root / MASS_TRAIN, sample, cropped_image_file_path="", ROI_mask_file_path="gone")
    again = cbis_ddsm.index(root)
    assert again.set_index("sample").annotation[sample] == "" and len(again) == len(rows) and again.attrs["traps"]["missing_mask"] == 1


@pytest.mark.parametrize("module, names", [(cbis_ddsm, cbis_tables.TABLES), (inbreast, ["INbreast.csv"])])
def test_tables_that_went_through_other_programs_are_read_alike(module, names, native):  # noqa: F811
    """A byte-order mark, Unix line ends, the other separator, upper case, spaces, blank lines, commas at the end of rows."""
    root = native / module.__name__.split(".")[1]
    rows = module.index(root)
    for name in names:
        table, old = pd.read_csv(root / name, sep=None, engine="python", dtype=str, keep_default_na=False), ";" if module is inbreast else ","
        new = {";": ",", ",": ";"}[old]
        table.columns = [f" {column.upper()} " for column in table]
        table = table.map(lambda value: f" {value} ".replace("\n ", "\n"))
        (root / name).write_text("\ufeff" + table.to_csv(index=False, sep=new, lineterminator=f"{new}{new}\n\n"), encoding="utf-8")
    assert module.index(root).equals(rows) and module.index(root).attrs == rows.attrs


@pytest.mark.parametrize("column, value", [("birads", "9"), ("birads", ""), ("View", "XCC"), ("Laterality", "B"), ("File Name", ""), ("File Name", "x")])
def test_inbreast_row_that_cannot_be_used_is_left_out_and_counted(native, column, value):  # noqa: F811
    root = native / "inbreast"
    rows = inbreast.index(root)
    line_of(root, rows["sample"][3], **{column: value})
    fewer = inbreast.index(root)
    assert fewer.equals(rows.drop(index=3).reset_index(drop=True))
    reasons = [reason for _, reason in fewer.attrs["exclusions"]]
    if column == "File Name":
        assert "its image is not there" in reasons[0] and "is not listed" in reasons[1] and fewer.attrs["traps"]["unlisted_image"] == 1
    else:
        assert re.search(f"^Row 4 of .*INbreast.csv has the .* '{value.lower()}', which is unknown", reasons[0], re.I) and len(reasons) == 1


def test_inbreast_odd_names_copies_and_rows_are_told(native):  # noqa: F811
    root = native / "inbreast"
    rows = inbreast.index(root)
    images = sorted((root / "AllDICOMs").iterdir())
    shutil.copy(images[0], root / "AllDICOMs" / images[0].name.replace("_ANON", "_ANON").replace(images[0].name.split("_")[1], "f" * 16))
    shutil.copy(images[0], root / "AllDICOMs" / "copy.dcm")
    images[1].rename(images[1].with_suffix(".DCM"))
    (root / "AllDICOMs" / "folder.dcm").mkdir()
    edit(root / "INbreast.csv", lambda t: t + t.rstrip().split("\r\n")[-1] + "\r\nremoved;removed;L\r\n")
    again = inbreast.index(root)
    assert again.drop(columns="source").equals(rows.drop(columns="source"))
    assert [reason.split(" ", 1)[0 if reason[0] == "R" else 1][:30] for _, reason in again.attrs["exclusions"]] == [
        "is a second image of " + images[0].name.split("_")[0] + ".", "has not a name such as 2058690", "Row", "Row"] and again.attrs["traps"]["faulty_row"] == 2


def test_inbreast_of_the_published_make_up(tmp_path):
    """410 images of 115 patients, 90 with four and 25 with two; views, BI-RADS and the one blank density are counted as published."""
    write_dicom(tmp_path / "blank", np.full((16, 16), 9, np.uint16), ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 14, SOPInstanceUID="2.25.1",
                ImagerPixelSpacing=[0.07, 0.07])
    patients = [p for p in range(115) for _ in range(4 if p < 90 else 2)]
    birads = [b for b, n in {"1": 67, "2": 220, "3": 23, "4a": 13, "4b": 8, "4c": 22, "5": 49, "6": 8}.items() for _ in range(n)]
    views, lines = ["MLO"] * 206 + ["CC"] * 203 + ["FB"], ["Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"]
    for k, (patient, said, view) in enumerate(zip(patients, birads, views)):
        lines.append(f"removed;removed;{'LR'[k % 2]};{view};200801;{20586900 + k};{' ' * 193 if k == 7 else 1 + k % 4};{said}")
        name = f"{20586900 + k}_{patient:016x}_MG_{'LR'[k % 2]}_{'ML' if view == 'MLO' else view}_ANON.dcm"
        (tmp_path / "AllDICOMs").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "blank", tmp_path / "AllDICOMs" / name)
    (tmp_path / "INbreast.csv").write_text("\r\n".join([*lines, ""]), newline="")
    rows = inbreast.index(tmp_path)
    assert (len(rows), rows.patient.nunique(), rows.attrs["exclusions"]) == (410, 115, [])
    assert rows.groupby("patient").size().value_counts().to_dict() == {4: 90, 2: 25}
    assert rows["view"].value_counts().to_dict() == {"MLO": 206, "CC": 203, "FB": 1} and (rows.density == "").sum() == 1
    assert rows.allowed.value_counts().to_dict() == {label_set("benign"): 220 + 23, label_set("in situ", "invasive"): 100, label_set("normal"): 67}
    assert rows.attrs["traps"] == {"birads_3": 23, "blank_acr": 1, "missing_xml": 343, "view_fb": 1}
