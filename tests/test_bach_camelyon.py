"""The indexes of BACH and CAMELYON: labels, patients, outlines; missing tables and files are told in one sentence."""
import json

import pytest

from data_scripts import bach, camelyon
from xmodal.cohort import label_set
from xmodal.config import Problem

POLYGON = ('<Annotation Name="a" Type="Polygon" PartOfGroup="{}" Color="#F4FA58"><Coordinates><Coordinate Order="1" X="9.5" Y="0" />'
           '<Coordinate Order="0" X="0" Y="0" /><Coordinate Order="2" X="9" Y="9" /></Coordinates></Annotation>')


def asap(*groups):
    return "<ASAP_Annotations><Annotations>" + "".join(POLYGON.format(g) for g in groups) + "</Annotations></ASAP_Annotations>"


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "ICIAR2018_BACH_Challenge" / "Photos"
    for name in ("Normal/n001", "Benign/b001", "InSitu/is001", "Invasive/iv001"):
        put(folder / f"{name}.tif", "x")
    put(folder / "microscopy_ground_truth.csv", "n001.tif,Normal\r\nb001.tif,Benign\nis001.tif,InSitu\niv001.tif,Invasive\n")
    return folder


def test_bach_reads_the_headerless_table(photos, tmp_path):
    rows = bach.index(tmp_path)
    assert rows["sample"].tolist() == ["bach/n001", "bach/b001", "bach/is001", "bach/iv001"]   # the first line is no header
    assert rows.allowed.tolist() == [1, 2, 4, 8] and rows.grade.tolist() == rows.truth.tolist() == [0, 1, 2, 3]
    assert rows.source.tolist()[3] == str(photos / "Invasive" / "iv001.tif") and rows.attrs["exclusions"] == []


def test_bach_leaves_out_and_counts_missing_images(photos, tmp_path, caplog):
    (photos / "Benign" / "b001.tif").unlink()
    rows = bach.index(tmp_path)
    assert len(rows) == 3 and [p.endswith("b001.tif") for p, _ in rows.attrs["exclusions"]] == [True] and "b001.tif" in caplog.text


@pytest.mark.parametrize("text, word", ((None, "There is no"), ("file,label\n", "Line 1"), ("n001.tif,Normal\nb001.tif\n", "Line 2"),
                                        ("zz.tif,Normal\n", "None of the images")))
def test_bach_says_what_is_wrong_with_the_table(photos, tmp_path, text, word):
    table = photos / "microscopy_ground_truth.csv"
    table.unlink() if text is None else table.write_text(text)
    with pytest.raises(Problem, match=word):
        bach.index(tmp_path)


@pytest.fixture
def slides(tmp_path):
    old, new = tmp_path / "CAMELYON16", tmp_path / "CAMELYON17"
    for name in ("normal_001", "tumor_001", "test_001", "test_002"):
        put(old / "images" / f"{name}.tif", "x")
    put(old / "annotations" / "tumor_001.xml", asap("Tumor", "_0", "_1", "_2", "None"))
    put(old / "annotations" / "test_001.xml", asap("_0"))
    stages = "patient,stage,center\npatient_000.zip,pN1,0\n"
    for node, stage in enumerate(("negative", "macro", "itc")):
        put(new / "images" / f"patient_000_node_{node}.tif", "x")
        stages += f"patient_000_node_{node}.tif,{stage},0\n"
    put(new / "annotations" / "patient_000_node_1.xml", asap("metastases", "normal"))
    put(new / "stages.csv", stages)
    return tmp_path


def test_camelyon_reads_both_layouts(slides):
    rows = camelyon.index(slides).set_index("sample")
    assert sorted(rows.index) == [f"camelyon/{n}" for n in ("normal_001", "patient_000_node_0", "patient_000_node_1", "test_001", "tumor_001")]
    positive = rows.allowed == label_set(2, 3)
    assert positive[["camelyon/tumor_001", "camelyon/test_001", "camelyon/patient_000_node_1"]].all() and positive.sum() == 3
    assert (rows.allowed[~positive] == label_set(0, 1)).all() and (rows.truth == -1).all() and (rows.grade == -1).all()
    assert rows.patient["camelyon/patient_000_node_0"] == rows.patient["camelyon/patient_000_node_1"] == "camelyon/patient_000"
    assert (rows.annotation[~positive] == "").all()


def test_camelyon_groups_of_outlines(slides):
    rows = camelyon.index(slides).set_index("sample")
    outlines = json.loads(rows.annotation["camelyon/tumor_001"])
    assert len(outlines["polygons"]) == 3 and len(outlines["exclude"]) == 1            # Tumor, _0, _1; _2
    assert outlines["polygons"][0] == [[0, 0], [9.5, 0], [9, 9]]                       # in the order that Order gives
    assert len(json.loads(rows.annotation["camelyon/patient_000_node_1"])["polygons"]) == 1


def test_camelyon_without_outline_is_not_negative(slides):
    left_out = dict(camelyon.index(slides).attrs["exclusions"])
    names = sorted(path.split("/")[-1] for path in left_out)
    assert names == ["patient_000_node_2.tif", "test_002.tif"]                         # an ITC without XML, an unknown test slide


def test_camelyon_with_one_part_only(slides):
    (slides / "CAMELYON16").rename(slides / "elsewhere")
    assert len(camelyon.index(slides)) == 2


@pytest.mark.parametrize("text, word", ((None, "stages.csv"), ("a,b\n1,2\n", "lacks patient or stage"), ("", "cannot be read")))
def test_camelyon_says_what_is_wrong_with_the_stages(slides, text, word):
    table = slides / "CAMELYON17" / "stages.csv"
    table.unlink() if text is None else table.write_text(text)
    with pytest.raises(Problem, match=word):
        camelyon.index(slides)


def test_camelyon_damaged_outline_is_left_out_and_named(slides, caplog):
    (slides / "CAMELYON16" / "annotations" / "tumor_001.xml").write_text("<ASAP_Annotations>")
    rows = camelyon.index(slides)
    assert "camelyon/tumor_001" not in set(rows["sample"]) and "tumor_001.xml is damaged" in caplog.text
    assert any("damaged" in reason for _, reason in rows.attrs["exclusions"])


def test_camelyon_absent(tmp_path):
    with pytest.raises(Problem, match="neither CAMELYON16 nor CAMELYON17"):
        camelyon.index(tmp_path)
