"""The indexes of BACH and CAMELYON: labels, patients, outlines; missing tables and files are told in one sentence.

The official tables are read from ../shared/data/camelyon, where there is one: the counts are those that were published.
"""
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import tifffile

from data_scripts import annotations, bach, camelyon
from xmodal import cohort
from xmodal.cohort import label_set
from xmodal.config import HOME, Problem
from xmodal.imaging import slides as xslides

OFFICIAL = HOME.parent / "shared" / "data" / "camelyon"
official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official tables are not in ../shared/data/camelyon")

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


@pytest.mark.parametrize("text, word", ((None, "no microscopy_ground_truth.csv under"), ("file,label\n", "None of the images.*Row 1.*'label'"),
                                        ("zz.tif,Normal\n", "None of the images"), ("", "None of the images"), ("\0" * 9, "None of the images")))
def test_bach_says_what_is_wrong_with_the_table(photos, tmp_path, text, word):
    table = photos / "microscopy_ground_truth.csv"
    table.unlink() if text is None else table.write_text(text)
    with pytest.raises(Problem, match=word):
        bach.index(tmp_path)


@pytest.mark.parametrize("line", ("b001.tif", "b001.tif,Malignant", ",Benign", "../Benign/b001.tif,Benign", "b001.tif,", ";"))
def test_bach_line_that_cannot_be_used_is_left_out_and_counted(photos, tmp_path, line):
    table = photos / "microscopy_ground_truth.csv"
    table.write_text(table.read_text().replace("b001.tif,Benign", line))
    rows = bach.index(tmp_path)
    assert rows["sample"].tolist() == ["bach/n001", "bach/is001", "bach/iv001"]
    (source, reason), (image, unlisted) = rows.attrs["exclusions"]
    assert source == str(table) and reason.startswith(f"Row 2 of {table} gives") and image.endswith("b001.tif") and "class is not sure" in unlisted
    assert rows.attrs["traps"] == {"faulty_row": 1, "unlisted_image": 1}


def test_bach_table_from_a_spreadsheet_and_a_photo_listed_twice(photos, tmp_path):
    rows, table = bach.index(tmp_path), photos / "microscopy_ground_truth.csv"
    put(photos / "Normal" / "b001.tif")
    table.write_text("\ufeff" + table.read_text().replace(",", " ; ").replace("\n", ";;\n\n") + "b001.tif;Normal\n", encoding="utf-8")
    again = bach.index(tmp_path)
    assert again.equals(rows) and again.attrs["traps"] == {"listed_twice": 1, "second_copy": 1} and len(again.attrs["exclusions"]) == 2


def test_bach_held_out_is_the_target_as_a_whole_and_as_a_source_no_photo_is_in_two_splits(photos, tmp_path):
    """What is not known of the patients cannot leak into a target; `study` keeps the sides for who divides BACH itself."""
    rows = bach.index(tmp_path)
    other = rows.assign(domain="inbreast", modality="mammography", sample="inbreast/" + rows.study, patient="inbreast/" + rows.study)
    both = pd.concat([rows, other], ignore_index=True)
    held = cohort.leave_one_out(both, "bach", 42)
    assert (held.split[held.domain == "bach"] == "target").all() and not (held.split[held.domain != "bach"] == "target").any()
    assert cohort.leave_one_out(both, "inbreast", 42).groupby("patient").split.nunique().eq(1).all() and rows.patient.is_unique


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


@pytest.mark.parametrize("part, other, count", (("CAMELYON17", "CAMELYON16", 2), ("CAMELYON16", "CAMELYON17", 3)))
def test_camelyon_with_one_part_only(slides, part, other, count):
    assert len(camelyon.index(slides / part)) == count       # a part is found wherever the root lies
    (slides / other).rename(slides.parent / f"{slides.name}_{other}")
    assert len(camelyon.index(slides)) == count


@pytest.mark.parametrize("text, word", ((None, "stages.csv"), ("a,b\n1,2\n", "lacks the columns patient, stage"), ("", "lacks the columns")))
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
    with pytest.raises(Problem, match="no slide of CAMELYON16 or CAMELYON17"):
        camelyon.index(tmp_path)


# ---- BACH: the whole release and part B ----------------------------------------------------------------------------

def test_bach_release_has_two_sides_that_share_no_patient(tmp_path):
    """268 and 132 photos, the leak-free division that is in use elsewhere; the first and last of each class are known."""
    photos = tmp_path / "ICIAR2018_BACH_Challenge" / "Photos"
    names = {"n": "Normal", "b": "Benign", "is": "InSitu", "iv": "Invasive"}
    for prefix, label in names.items():
        for n in range(1, 101):
            put(photos / label / f"{prefix}{n:03d}.tif")
    lines = [f"{prefix}{n:03d}.tif,{label}\n" for prefix, label in names.items() for n in range(1, 101)]
    put(photos / "microscopy_ground_truth.csv", "".join(lines))
    rows = bach.index(tmp_path)
    assert rows.study.value_counts().to_dict() == {"side 1": 268, "side 2": 132} and (rows.grade.value_counts() == 100).all()
    side = rows.set_index("sample").study
    assert side["bach/b041"] == side["bach/is070"] == side["bach/n069"] == "side 1"
    assert side["bach/b042"] == side["bach/is069"] == side["bach/n068"] == "side 2"
    assert rows.attrs == {"exclusions": [], "traps": {}} and rows.patient.is_unique


IMAGESCOPE = ('<Annotations MicronsPerPixel="0.467500"><Annotation Id="1"><Attributes><Attribute Name="Description" Value=""/></Attributes>'
              "<Regions>{}</Regions></Annotation></Annotations>")


def region(x0, y0, x1, y1, value="", text="", hole=0):
    corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
    return (f'<Region Id="1" Text="{text}" NegativeROA="{hole}"><Attributes><Attribute Name="1" Value="{value}"/></Attributes>'
            f"<Vertices>{corners}</Vertices></Region>")


def test_bach_slides_give_a_row_a_class(photos, tmp_path):
    wsi = photos.parent / "WSI"
    put(wsi / "A01.svs"), put(wsi / "01.svs")
    put(wsi / "A01.xml", IMAGESCOPE.format("".join((
        region(0, 0, 100, 50, "Benign"), region(10, 10, 20, 20, hole=1), region(40, 10, 60, 30, text="INVASIVE carcinoma"),
        region(0, 60, 100, 90, "Carcinoma in situ", "invasive"), region(0, 0, 9, 9, "other")))))
    rows = bach.index(tmp_path)
    slide = rows[rows.patient == "bach/A01"].set_index("sample")
    assert slide.truth.to_dict() == {"bach/A01-benign": 1, "bach/A01-insitu": 2, "bach/A01-invasive": 3}
    assert (slide.allowed == 2 ** slide.truth).all() and slide.source.nunique() == 1
    share = {name: xslides.tumour_mask(text, (100, 100), 1).mean() for name, text in slide.annotation.items()}
    assert share["bach/A01-benign"] == pytest.approx(0.5 - 0.01 - 0.04, abs=0.03)       # less its hole, less the tumour inside it
    assert share["bach/A01-invasive"] == pytest.approx(0.04, abs=0.01) and share["bach/A01-insitu"] == pytest.approx(0.30, abs=0.02)
    met = "negative_roa", "nested_outlines", "several_classes", "unannotated_wsi", "unlabelled_outline"
    assert rows.attrs["traps"] == dict.fromkeys(met, 1)
    assert [path.split("/")[-1] for path, _ in rows.attrs["exclusions"]] == ["01.svs"]


def test_bach_damaged_outlines_leave_out_the_slide(photos, tmp_path):
    for name, text in (("A01", "<Annotations>"), ("A02", IMAGESCOPE.format(region(0, 0, 9, 9, "tissue"))), ("A03", "<html/>")):
        put(photos.parent / "WSI" / f"{name}.svs"), put(photos.parent / "WSI" / f"{name}.xml", text)
    rows = bach.index(tmp_path)
    reasons = [reason for _, reason in rows.attrs["exclusions"]]
    assert len(rows) == 4 and "damaged" in reasons[0] and "outlines nothing" in reasons[1] and "neither ASAP" in reasons[2]


# ---- outlines ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, text", (
    ("a.xml", asap("Tumor").replace('X="9.5"', 'X="nan"')), ("a.xml", asap("Tumor").replace('Order="1"', "")), ("a.xml", "no xml"),
    ("a.xml", '<?xml version="1.0" encoding="klingon"?><Annotations/>'), ("a.json", "[]"), ("a.json", "[" * 100_000),
    ("a.json", '{"positive": [{"vertices": [[1]]}], "negative": []}'), ("a.tif", "no tiff")))
def test_damaged_outlines_are_a_problem(tmp_path, name, text):
    put(tmp_path / name, text)
    with pytest.raises(Problem, match=f"{name} is damaged"):
        annotations.read(tmp_path / name)


@pytest.mark.parametrize("levels", (1, 3))
def test_a_mask_is_traced_with_its_holes(tmp_path, monkeypatch, levels):
    """What is traced and drawn again is what was given, also from a coarser level of a pyramid."""
    mask = np.zeros((512, 768), np.uint8)
    mask[96:320, 64:512], mask[160:224, 128:256], mask[256:288, 320:448] = 1, 0, 2
    monkeypatch.setattr(annotations, "FINE", 768 >> levels - 1)
    with tifffile.TiffWriter(tmp_path / "a_mask.tif") as tiff:
        for k in range(levels):
            tiff.write(mask[::2 ** k, ::2 ** k], tile=(64, 64), subfiletype=k > 0, photometric="minisblack", metadata=None)
    found = annotations.read(tmp_path / "a_mask.tif")
    assert sorted(group for group, _ in found) == ["negative", "negative", "positive"]
    drawn = xslides.tumour_mask(json.dumps(camelyon._polygons(tmp_path / "a_mask.tif", camelyon.Counter())), mask.shape, 1)
    assert (drawn == (mask == 1)).mean() > 0.99
    tifffile.imwrite(tmp_path / "b_mask.tif", mask[::4, ::4] * 100)
    with pytest.raises(Problem, match="holds the value 200"):
        annotations.read(tmp_path / "b_mask.tif")


def test_a_mask_whose_levels_are_filled_up_to_whole_tiles_is_not_shifted(tmp_path, monkeypatch):
    """1000 x 1500 pixels halved are 500 x 750, and stored as 512 x 768; the lesion lies in the far corner."""
    mask = np.zeros((1000, 1500), np.uint8)
    mask[840:960, 1300:1440] = 1
    half = np.pad(mask[::2, ::2], [(0, 12), (0, 18)])
    monkeypatch.setattr(annotations, "FINE", 800)
    with tifffile.TiffWriter(tmp_path / "a_mask.tif") as tiff:
        for level, kind in ((mask, 0), (half, 1)):
            tiff.write(level, tile=(256, 256), subfiletype=kind, photometric="minisblack", metadata=None)
    (group, points), = annotations.read(tmp_path / "a_mask.tif")
    drawn = xslides.tumour_mask(json.dumps({"polygons": [points]}), mask.shape, 1)
    assert group == "positive" and (drawn & (mask == 1)).sum() > 0.97 * (drawn | (mask == 1)).sum()


def test_camelyon_reads_outlines_in_any_form(slides):
    """The same triangle from XML, from a zip of XML, from JSON and from a mask; what is there twice is read from XML."""
    folder = slides / "CAMELYON16" / "annotations"
    put(folder / "tumor_001.xml", asap("Tumor"))
    want = json.loads(camelyon.index(slides).set_index("sample").annotation["camelyon/tumor_001"])
    with zipfile.ZipFile(slides / "CAMELYON16" / "lesion_annotations.zip", "w") as archive:
        archive.writestr("lesion_annotations/Tumor_001.xml", asap("Tumor"))
    put(folder / "Tumor_001.json", json.dumps({"positive": [{"name": "a", "vertices": want["polygons"][0]}], "negative": []}))
    for gone in (folder / "tumor_001.xml", slides / "CAMELYON16" / "lesion_annotations.zip", None):
        assert json.loads(camelyon.index(slides).set_index("sample").annotation["camelyon/tumor_001"]) == want
        if gone:
            gone.unlink()
    assert camelyon.index(slides).attrs["traps"]["json_outlines"] == 1
    (slides / "CAMELYON16" / "lesion_annotations.zip").write_text("no zip")
    with pytest.raises(Problem, match="lesion_annotations.zip is not an archive"):
        camelyon.index(slides)


def test_camelyon_key_of_the_test_slides(slides):
    key = slides / "CAMELYON16" / "evaluation" / "reference.csv"
    put(key, "test_001,Tumor,IDC,Macro\ntest_002,Normal,DCIS,None\n")
    assert camelyon.index(slides).set_index("sample").allowed["camelyon/test_002"] == label_set(0, 1)
    put(key, "test_001,Normal,IDC,Macro\ntest_002,Normal,DCIS,None\n")               # contradicted by its outlines
    assert camelyon.index(slides).attrs["traps"]["contradicted_label"] == 1
    put(key, "\ufeffslide;label\r\nTest_001.tif ; Tumor;IDC\r\ntest_002\r\n\r\n")
    rows = camelyon.index(slides)
    assert rows.attrs["traps"]["faulty_row"] == 2 and rows.set_index("sample").allowed["camelyon/test_001"] == label_set(2, 3)
    assert [reason.split(" of ")[0] for path, reason in rows.attrs["exclusions"] if path == str(key)] == ["Row 1", "Row 3"]


@pytest.mark.parametrize("line, said", (("patient_000_node_0.tif,unsure,0", "'unsure'"), ("patient_000_node_0.tif,,0", "''"), ("patient_0,negative,0", "'patient_0'"),
                                        ("patient_000_node_0.tif", "has 1 fields instead of 3"), ("patient_000_node_0.tif,negative,0,0,0", "has 5 fields")))
def test_camelyon_row_that_cannot_be_used_is_left_out_and_counted(slides, line, said):
    rows, table = camelyon.index(slides), slides / "CAMELYON17" / "stages.csv"
    put(table, table.read_text().replace("patient_000_node_0.tif,negative,0", line))
    fewer = camelyon.index(slides)
    assert fewer.equals(rows[rows["sample"] != "camelyon/patient_000_node_0"].reset_index(drop=True))
    assert fewer.attrs["traps"]["faulty_row"] == 1 and fewer.attrs["traps"]["unlabelled_slide"] == rows.attrs["traps"]["unlabelled_slide"] + 1
    assert any(path == str(table) and reason.startswith("Row 2 of") and said in reason for path, reason in fewer.attrs["exclusions"])


def test_camelyon_counts_odd_centres_and_outlines_that_are_no_polygon(slides):
    table = slides / "CAMELYON17" / "stages.csv"
    put(table, table.read_text().replace("negative,0", "negative,3"))                   # patient 0 is of centre 0
    pair = POLYGON.format("Tumor").replace('<Coordinate Order="2" X="9" Y="9" />', "")
    put(slides / "CAMELYON16" / "annotations" / "tumor_001.xml", asap("Tumor", "None").replace("</Annotations>", pair + "</Annotations>"))
    rows = camelyon.index(slides)
    assert rows.attrs["traps"] == {"excluded_groups": 1, "itc": 1, "missing_outlines": 1, "odd_center": 1, "short_outline": 1,
                                   "unknown_group": 1, "unlabelled_slide": 1}


def test_camelyon_two_stage_tables(slides):
    """A slide that is in both tables counts once; letters' case and blanks mean nothing."""
    put(slides / "CAMELYON17" / "stage_labels.csv", "Patient, Stage\npatient_000_node_1.tif, Macro \n")
    assert len(camelyon.index(slides)) == 5 and camelyon.index(slides).attrs["traps"]["itc"] == 1


# ---- the official tables -----------------------------------------------------------------------------------------

def pn_stage(stages):
    """The pN stage that the stages of a patient's five nodes give, by the rules of CAMELYON17."""
    if "macro" in stages:
        return "pN2" if sum(stage in ("macro", "micro") for stage in stages) > 3 else "pN1"
    return "pN1mi" if "micro" in stages else "pN0(i+)" if "itc" in stages else "pN0"


@official
def test_stage_table_of_camelyon17():
    table = OFFICIAL / "camelyon17_stage_labels.csv"
    stages = pd.Series({stem: stage for stem, (stage, _) in camelyon.read_stages(table).items()})
    assert stages.value_counts().to_dict() == {"negative": 323, "itc": 35, "micro": 57, "macro": 85}
    patients = stages.groupby(stages.index.str[:11]).agg(list).map(pn_stage)
    assert patients.value_counts().to_dict() == {"pN0": 25, "pN0(i+)": 11, "pN1mi": 21, "pN1": 30, "pN2": 13}
    said = pd.read_csv(table).set_index("patient").stage
    assert (said[patients.index + ".zip"].to_numpy() == patients.to_numpy()).all()


@official
def test_index_of_camelyon17_by_its_table_and_no_patient_in_two_splits(tmp_path):
    """All slides there and tumour outlined: 323 negative and 177 positive ones; of 100 patients none is in two splits."""
    part = tmp_path / "CAMELYON17"
    put(part / "stage_labels.csv", (OFFICIAL / "camelyon17_stage_labels.csv").read_text())
    for stem, (stage, _) in camelyon.read_stages(part / "stage_labels.csv").items():
        put(part / "images" / f"{stem}.tif")
        if stage != "negative":
            put(part / "annotations" / f"{stem}.xml", (OFFICIAL / "patient_004_node_4.xml").read_text())
    put(part / "images" / "patient_100_node_0.tif")                                    # the test slides have no label
    rows = camelyon.index(tmp_path)
    assert rows.allowed.value_counts().to_dict() == {label_set(0, 1): 323, label_set(2, 3): 177} and rows.patient.nunique() == 100
    assert (rows.groupby("patient").size() == 5).all() and rows.attrs["traps"] == {"itc": 35, "unlabelled_slide": 1}
    other = rows.head(10).assign(domain="bach", patient=[f"bach/{k}" for k in range(10)])
    fold = cohort.leave_one_out(pd.concat([rows, other], ignore_index=True), "bach", 42)
    assert (fold.groupby("patient").split.nunique() == 1).all() and set(fold.split) == {"train", "validation", "source test", "target"}


@official
def test_index_of_camelyon16_by_its_key_and_centre_table(tmp_path):
    """399 slides as in the centre table; the labels are those of the table but for test_114, where the official key outranks it."""
    table = pd.read_csv(OFFICIAL / "flamby" / "metadata.csv")
    names = table.slide_name.str.removesuffix(".tif")
    for stem in (*names, "normal_086", "test_049"):
        put(tmp_path / "training" / stem.split("_")[0] / f"{stem.capitalize()}.tif")
    put(tmp_path / "testing" / "reference.csv", (OFFICIAL / "flamby" / "reference.csv").read_text())
    key = camelyon.read_reference(tmp_path / "testing" / "reference.csv")
    assert len(key) == 129 and sum(key.values()) == 49
    for stem in [stem for stem in names if key.get(stem, stem.startswith("tumor"))]:
        put(tmp_path / "training" / "lesion_annotations" / f"{stem}.xml", asap("_0"))
    rows = camelyon.index(tmp_path)
    assert set(rows["sample"]) == set("camelyon/" + names) and table.hospital_corrected.value_counts().to_dict() == {0: 243, 1: 156}
    positive = rows.set_index(rows["sample"].str.removeprefix("camelyon/")).allowed == label_set(2, 3)
    differing = [stem for stem, label in zip(names, table.label) if positive[stem] != label]
    assert positive.sum() == 111 + 49 and differing == ["test_114"]
    assert rows.attrs["traps"] == {"duplicate_slide": 1, "mislabelled_slide": 1, "partial_outlines": 21}


@official
def test_a_genuine_asap_file():
    """Three polygons; what is drawn of them has the area that their corners give."""
    found = annotations.read(OFFICIAL / "patient_004_node_4.xml")
    assert [group for group, _ in found] == ["tumor"] * 3
    for _, points in found:
        x, y = (np.array(points) - np.min(points, axis=0) + 10).T
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        drawn = xslides.tumour_mask(json.dumps({"polygons": [np.column_stack([x, y]).tolist()]}), (int(y.max()) + 20, int(x.max()) + 20), 1)
        assert drawn.sum() == pytest.approx(area, rel=0.01)


@official
def test_genuine_json_outlines_of_normal_slides_hold_no_tumour(tmp_path):
    paths = sorted((OFFICIAL / "ncrf_json").glob("*.json"))
    for path in paths:
        put(tmp_path / "images" / f"{path.stem.lower()}.tif"), put(tmp_path / "jsons" / path.name, path.read_text())
        found = annotations.read(path)
        assert {group for group, _ in found} == {"negative"} and (np.concatenate([points for _, points in found]) % 128 == 0).all()
    rows = camelyon.index(tmp_path)
    assert len(rows) == len(paths) == 24 and (rows.allowed == label_set(0, 1)).all() and (rows.annotation == "").all()
