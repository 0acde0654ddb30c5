"""The index of INbreast: files the phantom wrote, and the quirks that the real files are known to have."""
import json
import plistlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from data_scripts import inbreast
from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, write_dicom
from mammogram_copies import BENIGN, MALIGNANT, edit, line_of
from xmodal import cohort
from xmodal.cohort import label_set
from xmodal.config import Problem


def test_inbreast_table_has_the_official_form(written):
    text = (written / "inbreast" / "INbreast.csv").read_bytes().decode()
    assert text.startswith(
        "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads\r\nremoved;removed;"
    )
    assert {line.split(";")[3] for line in text.split("\r\n")[1:-1]} == {"CC", "MLO"}
    assert {p.name.split("_")[4] for p in (written / "inbreast" / "AllDICOMs").iterdir()} == {"CC", "ML"}


def test_inbreast_birads_blank_density_and_view_fb(native):
    root = native / "inbreast"
    samples = list(inbreast.index(root)["sample"])
    for sample, birads in zip(samples, ("1", "2", "3", "4a", "4b", "4c", "5", "6")):
        line_of(root, sample, birads=birads)
    line_of(root, samples[0], View="FB", ACR=" " * 193)
    rows = inbreast.index(root)
    assert list(rows.allowed[:8]) == [cohort.label_set(0), BENIGN, BENIGN] + [MALIGNANT] * 5
    assert list(rows.truth[:4]) == [0, 1, 1, -1]
    assert (rows["view"][0], rows.density[0]) == ("FB", "")


def test_inbreast_outlines_points_spellings_and_damage(native, caplog):
    root = native / "inbreast"
    samples = [s.split("/")[1] for s in inbreast.index(root)["sample"]]

    def outline(sample, *rois, key="Point_px"):
        findings = [{"Name": name, key: points} for name, points in rois]
        content = {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": findings}]}
        (root / "AllXML" / f"{sample}.xml").write_bytes(plistlib.dumps(content))

    cluster = ["(10, 20)", "(40, 20)", "(40, 60)"]
    outline(samples[0], ("Calcification", ["(100.5, 200.25)"]), ("Cluster", cluster))
    outline(samples[1], ("Assymetry", ["{10, 20}", "{13, 20}", "{13, 24}"]), key="ROIPoints")
    outline(samples[2], ("Unnamed", ["(1, 2)"]))
    (root / "AllXML" / f"{samples[3]}.xml").write_bytes(b"<plist><dict>")
    (root / "AllXML" / f"{samples[4]}.xml").unlink(missing_ok=True)
    outline(samples[5], ("Mass", ["(1, 2)", "(1e999, 2)", "(5, 5)"]))
    rows, _, traps = inbreast.read(root)
    assert rows.annotation[5] == "" and traps["damaged_xml"] == 2 and traps["point_findings"] == 2
    assert list(rows.lesion_type[:5]) == ["calcification", "asymmetry", "", "", ""]
    assert rows.lesion_shape[0] == "cluster"
    assert json.loads(rows.annotation[0])["polygons"] == [[[100.5, 200.25]], [[10, 20], [40, 20], [40, 60]]]
    assert rows.diameter_mm[0] == pytest.approx(50 * 0.2) and rows.diameter_mm[1] == pytest.approx(5 * 0.2)
    assert rows.diameter_mm[2:5].isna().all() and list(rows.annotation[3:5]) == ["", ""]
    assert f"{samples[3]}.xml" in caplog.text


def test_inbreast_may_lie_a_folder_deeper_and_lose_images(native, caplog):
    root = native / "inbreast"
    rows = inbreast.index(root)
    deeper = native / "deeper" / "INbreast Release 1.0"
    shutil.copytree(root, deeper)
    next((deeper / "AllDICOMs").glob(rows["sample"][0].split("/")[1] + "*")).unlink()
    next((deeper / "AllDICOMs").glob(rows["sample"][1].split("/")[1] + "*")).write_bytes(b"cut")
    fewer, left_out, traps = inbreast.read(native / "deeper")
    assert list(fewer["sample"]) == list(rows["sample"][2:])
    assert f"2 of {len(rows)} images left out" in caplog.text
    (listed, _), (damaged, _) = left_out
    assert listed == rows["sample"][0].split("/")[1] and Path(damaged).read_bytes() == b"cut"
    assert traps["missing_image"] == 1


def lose_the_table(root):
    (root / "INbreast.csv").unlink()


def have_a_spreadsheet_only(root):
    (root / "INbreast.csv").rename(root / "INbreast.xls")


def binary_table(root):
    (root / "INbreast.csv").write_bytes(b"\x89\xff\0;")


def lose_a_column(root):
    edit(root / "INbreast.csv", lambda text: text.replace("Bi-Rads", "Rads", 1))


def have_a_column_twice(root):
    edit(root / "INbreast.csv", lambda text: text.replace("Patient age", "View", 1))


def lose_all_images(root):
    shutil.rmtree(root / "AllDICOMs")


@pytest.mark.parametrize("damage, reason", [
    (lose_the_table, "INbreast.csv"), (have_a_spreadsheet_only, "what is read is INbreast.csv"),
    (binary_table, "cannot be read"), (lose_a_column, "lacks the columns bi-rads"),
    (have_a_column_twice, "two columns of one name"), (lose_all_images, "None of the")])
def test_inbreast_that_cannot_be_indexed_is_a_problem(native, damage, reason):
    damage(native / "inbreast")
    with pytest.raises(Problem, match=reason):
        inbreast.index(native / "inbreast")


@pytest.mark.parametrize(
    "column, value",
    [
        ("birads", "9"),
        ("birads", ""),
        ("View", "XCC"),
        ("Laterality", "B"),
        ("File Name", ""),
        ("File Name", "x"),
    ],
)
def test_inbreast_row_that_cannot_be_used_is_left_out_and_counted(native, column, value):
    root = native / "inbreast"
    rows = inbreast.index(root)
    line_of(root, rows["sample"][3], **{column: value})
    fewer, left_out, traps = inbreast.read(root)
    assert fewer.equals(rows.drop(index=3).reset_index(drop=True))
    reasons = [reason for _, reason in left_out]
    if column == "File Name":
        assert "its image is not there" in reasons[0]
        assert "is not listed" in reasons[1]
        assert traps["unlisted_image"] == 1
    else:
        (reason,) = reasons
        assert re.search(f"^Row 4 of .*INbreast.csv has the .* '{value}', which is unknown", reason, re.I)


def test_inbreast_image_with_two_categories_is_left_out(native):
    root = native / "inbreast"
    rows = inbreast.index(root)
    number = rows["sample"][3].removeprefix("inbreast/")
    line_of(root, rows["sample"][3], birads="2")
    (line,) = re.findall(f".*;{number};.*;", (root / "INbreast.csv").read_text())
    edit(root / "INbreast.csv", lambda text: f"{text}{line}5\r\n")
    fewer, left_out, traps = inbreast.read(root)
    assert fewer.equals(rows.drop(index=3).reset_index(drop=True)) and traps["faulty_row"] == 2
    assert all(f"contradicts another row of {number}" in reason for _, reason in left_out)


def test_inbreast_odd_names_copies_and_rows_are_told(native):
    root = native / "inbreast"
    rows = inbreast.index(root)
    images = sorted((root / "AllDICOMs").iterdir())
    number, patient, *_ = images[0].name.split("_")
    shutil.copy(images[0], images[0].with_name(images[0].name.replace(patient, "f" * 16)))
    shutil.copy(images[0], root / "AllDICOMs" / "copy.dcm")
    images[1].rename(images[1].with_suffix(".DCM"))
    (root / "AllDICOMs" / "folder.dcm").mkdir()
    edit(root / "INbreast.csv", lambda t: t + t.rstrip().split("\r\n")[-1] + "\r\nremoved;removed;L\r\n")
    again, left_out, traps = inbreast.read(root)
    assert again.drop(columns="source").equals(rows.drop(columns="source"))
    twin, odd_name, *rows_left_out = [reason for _, reason in left_out]
    assert f" is a second image of {number}." in twin and " has not a name such as 20586908" in odd_name
    assert [reason[:4] for reason in rows_left_out] == ["Row ", "Row "] and traps["faulty_row"] == 2


# How often each category occurs in the release.
BIRADS = {"1": 67, "2": 220, "3": 23, "4a": 13, "4b": 8, "4c": 22, "5": 49, "6": 8}


def write_release(root):
    """410 images of 115 patients with views and BI-RADS as in the release, and one blank density."""
    write_dicom(root / "blank", np.full((16, 16), 9, np.uint16), ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM,
                14, SOPInstanceUID="2.25.1", ImagerPixelSpacing=[0.07, 0.07])
    patients = np.repeat(np.arange(115), [4] * 90 + [2] * 25).tolist()
    birads = np.repeat(list(BIRADS), list(BIRADS.values())).tolist()
    views = ["MLO"] * 206 + ["CC"] * 203 + ["FB"]
    lines = ["Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"]
    (root / "AllDICOMs").mkdir()
    for k, (patient, category, view) in enumerate(zip(patients, birads, views)):
        side = "LR"[k % 2]
        density = " " * 193 if k == 7 else 1 + k % 4
        lines.append(f"removed;removed;{side};{view};200801;{20586900 + k};{density};{category}")
        named_view = "ML" if view == "MLO" else view
        name = f"{20586900 + k}_{patient:016x}_MG_{side}_{named_view}_ANON.dcm"
        shutil.copy(root / "blank", root / "AllDICOMs" / name)
    (root / "INbreast.csv").write_text("\r\n".join([*lines, ""]), newline="")


def test_inbreast_of_the_published_make_up(tmp_path):
    """90 patients have four images and 25 have two; everything is counted as published."""
    write_release(tmp_path)
    rows, left_out, traps = inbreast.read(tmp_path)
    assert (len(rows), rows.patient.nunique(), left_out) == (410, 115, [])
    assert rows.groupby("patient").size().value_counts().to_dict() == {4: 90, 2: 25}
    assert rows["view"].value_counts().to_dict() == {"MLO": 206, "CC": 203, "FB": 1}
    assert (rows.density == "").sum() == 1
    assert rows.allowed.value_counts().to_dict() == {
        label_set("benign"): 220 + 23,
        label_set("in situ", "invasive"): 100,
        label_set("normal"): 67,
    }
    assert traps == {"birads_3": 23, "blank_acr": 1, "missing_xml": 343, "view_fb": 1}
