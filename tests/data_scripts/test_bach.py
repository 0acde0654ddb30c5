"""The index of BACH: labels, photos that are listed or not, outlined slides, and the sides of the release."""
import json

import pandas as pd
import pytest

from data_scripts import bach
from slide_copies import IMAGESCOPE, put, region
from xmodal import cohort
from xmodal.config import Problem
from xmodal.imaging import slides as xslides


def test_bach_reads_the_headerless_table(photos, tmp_path):
    rows, left_out, _ = bach.read(tmp_path)
    assert rows["sample"].tolist() == [
        "bach/n001",
        "bach/b001",
        "bach/is001",
        "bach/iv001",
    ]  # the first line is no header
    assert rows.allowed.tolist() == [1, 2, 4, 8]
    assert rows.grade.tolist() == rows.truth.tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert rows.source.tolist()[3] == str(photos / "Invasive" / "iv001.tif") and left_out == []


def test_bach_leaves_out_and_counts_missing_images(photos, tmp_path, caplog):
    (photos / "Benign" / "b001.tif").unlink()
    rows, left_out, _ = bach.read(tmp_path)
    assert len(rows) == 3
    assert [p.endswith("b001.tif") for p, _ in left_out] == [True]
    assert "b001.tif" in caplog.text


@pytest.mark.parametrize(
    "text, word",
    (
        (None, "no microscopy_ground_truth.csv under"),
        ("file,label\n", "None of the images.*Row 1.*'label'"),
        ("zz.tif,Normal\n", "None of the images"),
        ("", "None of the images"),
        ("\0" * 9, "None of the images"),
    ),
)
def test_bach_says_what_is_wrong_with_the_table(photos, tmp_path, text, word):
    table = photos / "microscopy_ground_truth.csv"
    table.unlink() if text is None else table.write_text(text)
    with pytest.raises(Problem, match=word):
        bach.index(tmp_path)


@pytest.mark.parametrize(
    "line", ("b001.tif", "b001.tif,Malignant", ",Benign", "../Benign/b001.tif,Benign", "b001.tif,", ";")
)
def test_bach_line_that_cannot_be_used_is_left_out_and_counted(photos, tmp_path, line):
    table = photos / "microscopy_ground_truth.csv"
    table.write_text(table.read_text().replace("b001.tif,Benign", line))
    rows, left_out, traps = bach.read(tmp_path)
    assert rows["sample"].tolist() == ["bach/n001", "bach/is001", "bach/iv001"]
    (source, reason), (image, unlisted) = left_out
    assert source == str(table)
    assert reason.startswith(f"Row 2 of {table} gives")
    assert image.endswith("b001.tif")
    assert "class is not sure" in unlisted
    assert traps == {"faulty_row": 1, "unlisted_image": 1}


def test_bach_table_from_a_spreadsheet_and_a_photo_listed_twice(photos, tmp_path):
    rows, table = bach.index(tmp_path), photos / "microscopy_ground_truth.csv"
    put(photos / "Normal" / "b001.tif")
    table.write_text(
        "\ufeff" + table.read_text().replace(",", " ; ").replace("\n", ";;\n\n") + "b001.tif;Normal\n",
        encoding="utf-8",
    )
    again, left_out, traps = bach.read(tmp_path)
    assert again.equals(rows) and traps == {"listed_twice": 1, "second_copy": 1} and len(left_out) == 2


def test_bach_photo_that_the_table_gives_two_classes_is_left_out(photos, tmp_path):
    """Where no folder says which of them is right; its class is not the one that is read first."""
    rows = bach.index(tmp_path)
    table = photos / "microscopy_ground_truth.csv"
    (photos / "Benign" / "b001.tif").rename(photos / "b001.tif")
    table.write_text(table.read_text() + "b001.tif,Normal\n")
    fewer, left_out, traps = bach.read(tmp_path)
    assert fewer.equals(rows[rows["sample"] != "bach/b001"].reset_index(drop=True))
    assert traps == {"faulty_row": 2, "unlisted_image": 1}
    reasons = [reason for _, reason in left_out]
    assert "Row 2 of" in reasons[0] and "Row 5 of" in reasons[1] and "its class is not sure" not in reasons[0]


def test_bach_held_out_is_the_target_as_a_whole_and_as_a_source_no_photo_is_in_two_splits(photos, tmp_path):
    """What is not known of the patients cannot leak into a target; `study` keeps the sides for who divides
    BACH itself."""
    rows = bach.index(tmp_path)
    other = rows.assign(
        domain="inbreast",
        modality="mammography",
        sample="inbreast/" + rows.study,
        patient="inbreast/" + rows.study,
    )
    both = pd.concat([rows, other], ignore_index=True)
    held = cohort.leave_one_out(both, "bach", 42)
    assert (held.split[held.domain == "bach"] == "target").all()
    assert not (
        held.split[held.domain != "bach"] == "target"
    ).any()
    assert cohort.leave_one_out(both, "inbreast", 42).groupby("patient").split.nunique().eq(1).all()
    assert rows.patient.is_unique


def test_bach_release_has_two_sides_that_share_no_patient(tmp_path):
    """268 and 132 photos, the leak-free division that is in use elsewhere; the first and last of each class
    are known."""
    photos = tmp_path / "ICIAR2018_BACH_Challenge" / "Photos"
    names = {"n": "Normal", "b": "Benign", "is": "InSitu", "iv": "Invasive"}
    for prefix, label in names.items():
        for n in range(1, 101):
            put(photos / label / f"{prefix}{n:03d}.tif")
    lines = [f"{prefix}{n:03d}.tif,{label}\n" for prefix, label in names.items() for n in range(1, 101)]
    put(photos / "microscopy_ground_truth.csv", "".join(lines))
    rows = bach.index(tmp_path)
    assert rows.study.value_counts().to_dict() == {"side 1": 268, "side 2": 132}
    assert (rows.grade.value_counts() == 100).all()
    side = rows.set_index("sample").study
    assert side["bach/b041"] == side["bach/is070"] == side["bach/n069"] == "side 1"
    assert side["bach/b042"] == side["bach/is069"] == side["bach/n068"] == "side 2"
    assert rows.attrs == {"exclusions": [], "traps": {}}, "for callers elsewhere, who look for them there"
    assert rows.patient.is_unique


def test_a_slide_of_bach_has_the_outlines_of_each_class_and_is_called_by_the_worst(photos, tmp_path):
    wsi = photos.parent / "WSI"
    put(wsi / "A01.svs"), put(wsi / "01.svs")
    put(
        wsi / "A01.xml",
        IMAGESCOPE.format(
            "".join(
                (
                    region(0, 0, 100, 50, "Benign"),
                    region(10, 10, 20, 20, hole=1),
                    region(40, 10, 60, 30, text="INVASIVE carcinoma"),
                    region(0, 60, 100, 90, "Carcinoma in situ", "invasive"),
                    region(0, 0, 9, 9, "other"),
                )
            )
        ),
    )
    rows, left_out, traps = bach.read(tmp_path)
    slide, = rows[rows.patient == "bach/A01"].to_dict("records")
    assert (slide["sample"], slide["allowed"], slide["truth"]) == ("bach/A01", 8, 3)
    share = {}
    for label, outlines in json.loads(slide["annotation"])["classes"].items():
        share[label] = xslides.tumour_mask(json.dumps(outlines), (100, 100), 1).mean()
    assert share == pytest.approx({"1": 0.5 - 0.01 - 0.04, "2": 0.30, "3": 0.04}, abs=0.03)
    assert share["3"] == pytest.approx(0.04, abs=0.01), "the tumour inside the benign outline is not benign"
    met = "negative_roa", "nested_outlines", "several_classes", "unannotated_wsi", "unlabelled_outline"
    assert traps == dict.fromkeys(met, 1)
    assert [path.split("/")[-1] for path, _ in left_out] == ["01.svs"]


def test_bach_damaged_outlines_leave_out_the_slide(photos, tmp_path):
    for name, text in (
        ("A01", "<Annotations>"),
        ("A02", IMAGESCOPE.format(region(0, 0, 9, 9, "tissue"))),
        ("A03", "<html/>"),
    ):
        put(photos.parent / "WSI" / f"{name}.svs"), put(photos.parent / "WSI" / f"{name}.xml", text)
    rows, left_out, _ = bach.read(tmp_path)
    reasons = [reason for _, reason in left_out]
    assert len(rows) == 4
    assert "damaged" in reasons[0]
    assert "outlines nothing" in reasons[1]
    assert "neither ASAP" in reasons[2]
