"""The index of CAMELYON: both layouts, labels of tables, and outlines in all their forms."""
import json
import zipfile

import pytest

from data_scripts import camelyon
from slide_copies import POLYGON, asap, put
from xmodal.cohort import label_set
from xmodal.config import Problem


def test_camelyon_reads_both_layouts(slides):
    rows = camelyon.index(slides).set_index("sample")
    assert sorted(rows.index) == [
        f"camelyon/{n}"
        for n in ("normal_001", "patient_000_node_0", "patient_000_node_1", "test_001", "tumor_001")
    ]
    positive = rows.allowed == label_set("invasive")
    assert positive[["camelyon/tumor_001", "camelyon/test_001", "camelyon/patient_000_node_1"]].all()
    assert positive.sum() == 3
    assert (rows.allowed[~positive] == label_set("normal")).all()
    assert (rows.truth == 3 * positive).all() and (rows.grade == rows.truth).all()
    assert (
        rows.patient["camelyon/patient_000_node_0"]
        == rows.patient["camelyon/patient_000_node_1"]
        == "camelyon/patient_000"
    )
    assert (rows.annotation[~positive] == "").all()


def test_camelyon_groups_of_outlines(slides):
    rows = camelyon.index(slides).set_index("sample")
    outlines = json.loads(rows.annotation["camelyon/tumor_001"])
    assert len(outlines["polygons"]) == 3 and len(outlines["exclude"]) == 1  # Tumor, _0, _1; _2
    assert outlines["polygons"][0] == [[0, 0], [9.5, 0], [9, 9]]  # in the order that Order gives
    assert len(json.loads(rows.annotation["camelyon/patient_000_node_1"])["polygons"]) == 1


def test_camelyon_without_outline_is_not_negative(slides):
    left_out = camelyon.read(slides).exclusions
    names = sorted(path.split("/")[-1] for path, _ in left_out)
    assert names == ["patient_000_node_2.tif", "test_002.tif"]  # an ITC without XML, an unknown test slide


@pytest.mark.parametrize(
    "part, other, count", (("CAMELYON17", "CAMELYON16", 2), ("CAMELYON16", "CAMELYON17", 3))
)
def test_camelyon_with_one_part_only(slides, part, other, count):
    assert len(camelyon.index(slides / part)) == count  # a part is found wherever the root lies
    (slides / other).rename(slides.parent / f"{slides.name}_{other}")
    assert len(camelyon.index(slides)) == count


@pytest.mark.parametrize(
    "text, word",
    ((None, "stages.csv"), ("a,b\n1,2\n", "lacks the columns patient, stage"), ("", "lacks the columns")),
)
def test_camelyon_says_what_is_wrong_with_the_stages(slides, text, word):
    table = slides / "CAMELYON17" / "stages.csv"
    table.unlink() if text is None else table.write_text(text)
    with pytest.raises(Problem, match=word):
        camelyon.index(slides)


def test_camelyon_damaged_outline_is_left_out_and_named(slides, caplog):
    (slides / "CAMELYON16" / "annotations" / "tumor_001.xml").write_text("<ASAP_Annotations>")
    rows, left_out, _ = camelyon.read(slides)
    assert "camelyon/tumor_001" not in set(rows["sample"]) and "tumor_001.xml is damaged" in caplog.text
    assert any("damaged" in reason for _, reason in left_out)


def test_camelyon_absent(tmp_path):
    with pytest.raises(Problem, match="no slide of CAMELYON16 or CAMELYON17"):
        camelyon.index(tmp_path)


def test_camelyon_reads_outlines_in_any_form(slides):
    """The same triangle from XML, from a zip of XML, from JSON and from a mask; what is there twice is read
    from XML."""
    folder = slides / "CAMELYON16" / "annotations"
    put(folder / "tumor_001.xml", asap("Tumor"))
    want = json.loads(camelyon.index(slides).set_index("sample").annotation["camelyon/tumor_001"])
    with zipfile.ZipFile(slides / "CAMELYON16" / "lesion_annotations.zip", "w") as archive:
        archive.writestr("lesion_annotations/Tumor_001.xml", asap("Tumor"))
    put(
        folder / "Tumor_001.json",
        json.dumps({"positive": [{"name": "a", "vertices": want["polygons"][0]}], "negative": []}),
    )
    for gone in (folder / "tumor_001.xml", slides / "CAMELYON16" / "lesion_annotations.zip", None):
        assert json.loads(camelyon.index(slides).set_index("sample").annotation["camelyon/tumor_001"]) == want
        if gone:
            gone.unlink()
    assert camelyon.read(slides).traps["json_outlines"] == 1
    (slides / "CAMELYON16" / "lesion_annotations.zip").write_text("no zip")
    with pytest.raises(Problem, match="lesion_annotations.zip is not an archive"):
        camelyon.index(slides)


def test_camelyon_key_of_the_test_slides(slides):
    key = slides / "CAMELYON16" / "evaluation" / "reference.csv"
    put(key, "test_001,Tumor,IDC,Macro\ntest_002,Normal,DCIS,None\n")
    assert camelyon.index(slides).set_index("sample").allowed["camelyon/test_002"] == label_set("normal")
    put(key, "test_001,Normal,IDC,Macro\ntest_002,Normal,DCIS,None\n")  # contradicted by its outlines
    assert camelyon.read(slides).traps["contradicted_label"] == 1
    put(key, "\ufeffslide;label\r\nTest_001.tif ; Tumor;IDC\r\ntest_002\r\n\r\n")
    rows, left_out, traps = camelyon.read(slides)
    assert traps["faulty_row"] == 2
    assert rows.set_index("sample").allowed["camelyon/test_001"] == label_set("invasive")
    assert [reason.split(" of ")[0] for path, reason in left_out if path == str(key)] == ["Row 1", "Row 3"]


@pytest.mark.parametrize(
    "line, fault",
    (
        ("patient_000_node_0.tif,unsure,0", "'unsure'"),
        ("patient_000_node_0.tif,,0", "''"),
        ("patient_0,negative,0", "'patient_0'"),
        ("patient_000_node_0.tif", "has 1 fields instead of 3"),
        ("patient_000_node_0.tif,negative,0,0,0", "has 5 fields"),
    ),
)
def test_camelyon_row_that_cannot_be_used_is_left_out_and_counted(slides, line, fault):
    rows, _, traps = camelyon.read(slides)
    table = slides / "CAMELYON17" / "stages.csv"
    put(table, table.read_text().replace("patient_000_node_0.tif,negative,0", line))
    fewer, left_out, more_traps = camelyon.read(slides)
    assert fewer.equals(rows[rows["sample"] != "camelyon/patient_000_node_0"].reset_index(drop=True))
    assert more_traps["faulty_row"] == 1 and more_traps["unlabelled_slide"] == traps["unlabelled_slide"] + 1
    reasons = [reason for path, reason in left_out if path == str(table)]
    assert any(reason.startswith("Row 2 of") and fault in reason for reason in reasons)


def test_camelyon_counts_odd_centres_and_outlines_that_are_no_polygon(slides):
    table = slides / "CAMELYON17" / "stages.csv"
    put(table, table.read_text().replace("negative,0", "negative,3"))  # patient 0 is of centre 0
    pair = POLYGON.format("Tumor").replace('<Coordinate Order="2" X="9" Y="9" />', "")
    put(
        slides / "CAMELYON16" / "annotations" / "tumor_001.xml",
        asap("Tumor", "None").replace("</Annotations>", pair + "</Annotations>"),
    )
    rows, _, traps = camelyon.read(slides)
    assert traps == {
        "excluded_groups": 1,
        "itc": 1,
        "missing_outlines": 1,
        "odd_center": 1,
        "short_outline": 1,
        "unknown_group": 1,
        "unlabelled_slide": 1,
    }


def leave_out(root, slide):
    """(reasons why, traps) of a copy without one `slide`, less what was left out before."""
    fewer, left_out, traps = camelyon.read(root)
    assert f"camelyon/{slide}" not in set(fewer["sample"]) and len(fewer) == 4
    return [reason for _, reason in left_out if "contradicts" in reason], traps


def test_camelyon_slide_with_two_stages_is_left_out(slides):
    """In one table or in two; the same stage again, and any form of table, change nothing."""
    rows, _, _ = camelyon.read(slides)
    table = slides / "CAMELYON17" / "stages.csv"
    text = table.read_text()
    again = text + "PATIENT_000_node_1.tif,Macro,0"
    put(table, '"' + again.replace("\n", '"\r\n"').replace(",", '"\t"') + '"\r\n')
    assert camelyon.read(slides).rows.equals(rows)
    put(table, text + "patient_000_node_1.tif,negative,0\n")
    reasons, traps = leave_out(slides, "patient_000_node_1")
    assert [reason[:9] for reason in reasons] == ["Row 3 of ", "Row 5 of "] and traps["faulty_row"] == 2
    put(table, text)
    put(slides / "CAMELYON17" / "stage_labels.csv", "patient,stage\npatient_000_node_1.tif,negative\n")
    reasons, traps = leave_out(slides, "patient_000_node_1")
    assert len(reasons) == 1 and "or another table" in reasons[0] and traps["faulty_row"] == 1


def test_camelyon_slide_that_the_key_calls_both_is_left_out(slides):
    key = slides / "CAMELYON16" / "reference.csv"
    put(key, "test_001,Tumor\ntest_001.tif,Tumor,Macro\n")
    rows, _, _ = camelyon.read(slides)
    assert "camelyon/test_001" in set(rows["sample"])
    put(key, "test_001,Tumor\ntest_001.tif,Normal\ntumor_001,Normal\n")
    fewer, left_out, traps = camelyon.read(slides)
    assert "camelyon/tumor_001" not in set(fewer["sample"]) and traps["faulty_row"] == 3
    reasons = [reason for path, reason in left_out if path == str(key)]
    assert [reason[:9] for reason in reasons[:2]] == ["Row 1 of ", "Row 2 of "]
    assert "contradicts the name of tumor_001" in reasons[2]


def test_camelyon_two_stage_tables(slides):
    """A slide that is in both tables counts once; letters' case and blanks mean nothing."""
    put(slides / "CAMELYON17" / "stage_labels.csv", "Patient, Stage\npatient_000_node_1.tif, Macro \n")
    rows, _, traps = camelyon.read(slides)
    assert len(rows) == 5 and traps["itc"] == 1
