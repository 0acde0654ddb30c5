"""What `index` reads of CBIS-DDSM and INbreast: files the phantom wrote, and the quirks that the real tables are known to have."""
import json
import plistlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from data_scripts import cbis_ddsm, cbis_tables, inbreast, link
from data_scripts.phantom import mammogram_files, patients
from xmodal import cohort
from xmodal.config import Problem
from xmodal.imaging import dicom, mammograms

SEED = 11
BENIGN, MALIGNANT = cohort.label_set(1), cohort.label_set(2, 3)
MASS_TRAIN, MASS_TEST, CALC_TRAIN = (cbis_tables.TABLES[i] for i in (0, 1, 2))


@pytest.fixture(scope="module")
def people():
    table = patients.cohort(SEED, pairs=4, singles=0)
    return {d: table[table.mammo_domain == d].reset_index(drop=True) for d in ("cbis_ddsm", "inbreast")}


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    """The folder with both native layouts, and the registry."""
    root = tmp_path_factory.mktemp("native")
    registry = mammogram_files.write_cbis_ddsm(root / "cbis_ddsm", people["cbis_ddsm"], SEED, 1)
    registry += mammogram_files.write_inbreast(root / "inbreast", people["inbreast"], SEED, 1)
    pd.DataFrame(registry).to_csv(root / "registry.csv", index=False)
    return root


@pytest.fixture
def native(written, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(written, tmp_path / "native")


def edit(path, change, encoding="utf-8"):
    path.write_bytes(change(path.read_bytes().decode(encoding)).encode(encoding))


# ---- both ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_index_and_link_give_back_the_cohort(module, written, people):
    domain = module.__name__.split(".")[1]
    rows = module.index(written / domain)
    assert len(rows) == 2 * len(people[domain]) and set(rows.domain) == {domain}
    assert rows.groupby("patient").view.agg(set).map(lambda v: v == {"CC", "MLO"}).all()
    linked = link(rows, written / "registry.csv").assign(patient=lambda t: t.patient.str.removeprefix("phantom/"))
    both = linked.merge(people[domain], on="patient", suffixes=("", "_drawn"))
    assert len(both) == len(rows)
    assert (both.truth == both.diagnosis).all() and (both.density == both.density_drawn).all()
    assert (both.laterality == both.laterality_drawn).all() and (both.lesion_type == both.lesion_type_drawn).all()
    assert all(allowed >> truth & 1 for allowed, truth in zip(both.allowed, both.truth))
    assert (both.grade == both.truth.where(both.truth < 2, -1)).all()
    np.testing.assert_allclose(both.diameter_mm, both.diameter_mm_drawn, rtol=0.12)


@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_annotations_are_the_drawn_masks(module, written, people):
    domain = module.__name__.split(".")[1]
    rows = link(module.index(written / domain), written / "registry.csv")
    for row in rows.iloc[::2].itertuples():
        person = people[domain].set_index("patient").loc[row.patient.removeprefix("phantom/")]
        image, drawn = mammogram_files.picture({**person.to_dict(), "patient": person.name}, row.view, domain, SEED)
        assert (dicom.read_dicom(row.source) == image).all()
        mask = mammograms.lesion_mask(row.annotation, image.shape)
        assert mask.any() == drawn.any()
        assert not drawn.any() or (mask & drawn).sum() / (mask | drawn).sum() > 0.85


def test_a_registry_that_does_not_fit_is_a_problem(native):
    rows = inbreast.index(native / "inbreast")
    registry = pd.read_csv(native / "registry.csv")
    registry[registry.domain == "cbis_ddsm"].to_csv(native / "other.csv", index=False)
    assert link(rows, native / "other.csv").patient.equals(rows.patient)
    pd.concat([registry, registry]).to_csv(native / "twice.csv", index=False)
    registry.drop(columns="diagnosis").to_csv(native / "short.csv", index=False)
    for name in ("twice", "short", "absent"):
        with pytest.raises(Problem, match=f"{name}.csv"):
            link(rows, native / f"{name}.csv")


# ---- CBIS-DDSM -----------------------------------------------------------------------------------------------------

def test_cbis_tables_have_the_official_form(written):
    mass, calc = ((written / "cbis_ddsm" / name).read_bytes().decode() for name in (MASS_TRAIN, CALC_TRAIN))
    assert "breast_density" in mass.split("\r\n")[0] and "breast density" in calc.split("\r\n")[0]
    assert mass.endswith('/000001.dcm\n"\r\n') and mass.count('\n"\r\n') == mass.count("\r\n") - 1  # the mask's path is quoted
    assert calc.endswith("/000000.dcm\r\n") and calc.count('/000001.dcm\n",Calc-') == calc.count("\r\n") - 1  # the crop's is
    for row in cbis_ddsm.index(written / "cbis_ddsm").itertuples():  # the mask is the first instance of calcifications only
        mask = pydicom.dcmread(json.loads(row.annotation)["masks"][0])
        assert (mask.BitsAllocated, mask.InstanceNumber) == (8, 1 if "Calc-" in row.sample else 2)


def test_cbis_index_is_the_same_for_any_tree_and_file_names(native):
    root = native / "cbis_ddsm"
    before = cbis_ddsm.index(root)
    for i, path in enumerate(sorted(root.rglob("*.dcm"), key=lambda p: p.name)):
        study, series = f"07-20-2016-DDSM-NA-{path.parts[-3][-5:]}", f"1.000000-cropped images-{path.parts[-2][-5:]}"
        folder = root / "CBIS-DDSM" / path.parts[-4] / study / series
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"1-{i}.dcm")
    after = cbis_ddsm.index(root)
    pd.testing.assert_frame_equal(before.drop(columns=["source", "annotation"]), after.drop(columns=["source", "annotation"]))
    assert all(mammograms.lesion_mask(annotation, (600, 480)).any() for annotation in after.annotation)
    assert not any(Path(path).exists() for path in before.source)


def test_cbis_image_is_malignant_if_any_finding_is_and_unites_the_masks(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    rows = rows[rows["sample"].str.contains("Mass-Training")]
    benign, malignant = rows[rows.allowed == BENIGN].iloc[0], rows[rows.allowed == MALIGNANT].iloc[0]
    table = pd.read_csv(root / MASS_TRAIN, dtype=str, keep_default_na=False)
    of = {row["sample"]: table[table["image file path"].str.startswith(row["sample"].split("/")[1] + "/")].iloc[0]
          for row in (benign, malignant)}
    extra = of[malignant["sample"]].copy()
    extra["image file path"], extra["patient_id"] = of[benign["sample"]]["image file path"], of[benign["sample"]]["patient_id"]
    table.loc[len(table)] = extra
    table.to_csv(root / MASS_TRAIN, index=False, lineterminator="\r\n")
    merged = cbis_ddsm.index(root).set_index("sample").loc[benign["sample"]]
    assert merged.allowed == MALIGNANT and merged.truth == merged.grade == -1
    assert merged.lesion_type == malignant.lesion_type and len(json.loads(merged.annotation)["masks"]) == 2


@pytest.mark.parametrize("kind, first, second, expected", [
    ("mass", "IRREGULAR-ARCHITECTURAL_DISTORTION", "SPICULATED", ("mass", "spiculated")),
    ("mass", "ARCHITECTURAL_DISTORTION", "NA", ("distortion", "")),
    ("mass", "FOCAL_ASYMMETRIC_DENSITY", "OBSCURED", ("asymmetry", "")),
    ("mass", "OVAL", "CIRCUMSCRIBED-OBSCURED", ("mass", "circumscribed")),
    ("mass", "LOBULATED", "CIRCUMSCRIBED", ("mass", "lobulated")),
    ("mass", "NA", "NA", ("mass", "")),
    ("calcification", "NA", "NA", ("calcification", "")),
    ("calcification", "PLEOMORPHIC-FINE_LINEAR_BRANCHING", "CLUSTERED-LINEAR", ("calcification", "cluster")),
    ("calcification", "PUNCTATE", "REGIONAL", ("calcification", "scatter")),
    ("calcification", "VASCULAR", "LINEAR", ("calcification", "linear")),
])
def test_cbis_terms(kind, first, second, expected):
    assert cbis_tables.lesion(kind, first, second) == expected


def test_cbis_mask_is_told_by_its_pixels_where_both_have_16_bits(native):
    root = native / "cbis_ddsm"
    row = cbis_ddsm.index(root).iloc[0]
    path, = json.loads(row.annotation)["masks"]
    data = pydicom.dcmread(path)
    data.PixelData, data.BitsAllocated, data.BitsStored, data.HighBit = data.pixel_array.astype(np.uint16).tobytes(), 16, 16, 15
    data["PixelData"].VR = "OW"
    data.save_as(path)
    assert cbis_ddsm.index(root).annotation[0] == row.annotation


def test_cbis_files_that_are_lost_or_damaged_are_logged_and_left_out(native, caplog):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    with open(rows.source[0], "r+b") as file:
        file.truncate(100)
    mask, = json.loads(rows.annotation[1])["masks"]
    shutil.rmtree(mask.rsplit("/", 1)[0])
    fewer = cbis_ddsm.index(root)
    assert len(fewer) == len(rows) - 1 and fewer.annotation[0] == "" and fewer["sample"][0] == rows["sample"][1]
    assert f"1 of {len(rows)} images left out, 1 masks not found" in caplog.text
    (damaged, said), (listed, _) = fewer.attrs["exclusions"]
    assert damaged == rows.source[0] and "cannot be read" in said and listed == rows["sample"][0].split("/")[1]
    traps = {name: fewer.attrs["traps"][name] for name in ("unreadable_file", "missing_image", "missing_mask")}
    assert set(traps.values()) == {1} and link(fewer, native / "registry.csv").attrs == fewer.attrs


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
@pytest.mark.parametrize("module", [cbis_ddsm, inbreast])
def test_a_header_whose_lengths_do_not_fit_is_a_file_left_out(module, native):
    root = native / module.__name__.split(".")[1]
    source = Path(module.index(root).source[0])
    content = source.read_bytes()
    source.write_bytes(content[:136] + b"\6\0\0\0" + content[140:])  # the first element's length is not that of its kind
    assert [path for path, _ in module.index(root).attrs["exclusions"]][:1] == [str(source)]


@pytest.mark.parametrize("part, used", [(np.s_[100:200, 50:290], False), (np.s_[::4, ::4], True)], ids=("the crop's", "a small one"))
def test_cbis_mask_of_the_size_of_its_crop_is_not_blown_up(native, part, used):
    root = native / "cbis_ddsm"
    row = cbis_ddsm.index(root).iloc[0]
    path, = json.loads(row.annotation)["masks"]
    data = pydicom.dcmread(path)
    pixels = np.ascontiguousarray(data.pixel_array[part])
    data.PixelData, (data.Rows, data.Columns) = pixels.tobytes(), pixels.shape
    data.save_as(path)
    rows = cbis_ddsm.index(root)
    assert rows.annotation[0] == (row.annotation if used else "") and rows.attrs["traps"].get("crop_sized_mask", 0) == (not used)


def test_cbis_crop_of_8_bits_is_no_mask_and_a_file_there_twice_counts_once(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    mask, = (Path(path) for path in json.loads(rows.annotation[0])["masks"])
    crop, = set(mask.parent.iterdir()) - {mask}
    data = pydicom.dcmread(crop)
    data.PixelData, data.BitsAllocated, data.BitsStored, data.HighBit = (data.pixel_array >> 8).astype(np.uint8).tobytes(), 8, 8, 7
    data.save_as(crop)
    shutil.copytree(mask.parent, root / "again")
    twice = cbis_ddsm.index(root)
    assert twice.drop(columns="annotation").equals(rows.drop(columns="annotation")) and twice.attrs["traps"]["twin_file"] == 2
    path, = json.loads(twice.annotation[0])["masks"]
    assert Path(path).read_bytes() == mask.read_bytes()
    shutil.rmtree(root / "again")
    mask.unlink()
    assert cbis_ddsm.index(root).annotation[0] == ""


def test_cbis_film_listed_twice_is_malignant_in_both_if_in_one(native):
    root = native / "cbis_ddsm"
    rows = cbis_ddsm.index(root)
    benign, malignant = rows[rows.allowed == BENIGN].iloc[0], rows[rows.allowed == MALIGNANT].iloc[0]
    for name in cbis_tables.TABLES:                         # two films become one: the same patient, side and view
        table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        for row in (benign, malignant):
            here = table["image file path"].str.startswith(row["sample"].split("/")[1] + "/")
            table.loc[here, ["patient_id", "left or right breast", "image view"]] = "P_09999", "LEFT", "CC"
        table.to_csv(root / name, index=False, lineterminator="\r\n")
    found = cbis_ddsm.index(root)
    both = found.set_index("sample").loc[[benign["sample"], malignant["sample"]]]
    assert list(both.allowed) == [MALIGNANT] * 2 and list(both.truth) == [-1] * 2 and set(both.lesion_type) == {malignant.lesion_type}
    assert list(both.annotation) == [benign.annotation, malignant.annotation]
    assert (found.attrs["traps"]["film_twice"], found.attrs["traps"]["film_twice_mixed"]) == (1, 1)


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
    data.PatientID = "P_00038_LEFT_CC.dcm"                # so are those of 396 calcification test series
    del data.SeriesDescription
    data.save_as(rows.source[0])
    assert cbis_ddsm.index(root).equals(rows) and rows.patient.str.fullmatch(r"cbis_ddsm/P_\d{5}").all()


@pytest.mark.parametrize("break_it, said", [
    (lambda root: (root / MASS_TEST).unlink(), MASS_TEST),
    (lambda root: edit(root / MASS_TRAIN, lambda t: t.replace("pathology", "verdict", 1)), "pathology"),
    (lambda root: edit(root / MASS_TRAIN, lambda t: t.replace("MALIGNANT", "UNSURE").replace("BENIGN", "UNSURE")), "No row.*UNSURE"),
    (lambda root: edit(root / MASS_TRAIN, lambda t: t.replace("Mass-Training_P_", "Mass-Training_")), "No row.*has the image"),
    (lambda root: (root / MASS_TRAIN).write_bytes(b""), "lacks the columns"),
    (lambda root: (root / MASS_TRAIN).write_bytes(bytes(range(256)) * 9), "cannot be read|lacks the columns"),
    (lambda root: shutil.rmtree(root / "cbis_ddsm"), "None of the"),
])
def test_cbis_that_cannot_be_indexed_is_a_problem(native, break_it, said):
    break_it(native / "cbis_ddsm")
    with pytest.raises(Problem, match=said):
        cbis_ddsm.index(native / "cbis_ddsm")


# ---- INbreast ------------------------------------------------------------------------------------------------------

def test_inbreast_table_has_the_official_form(written):
    text = (written / "inbreast" / "INbreast.csv").read_bytes().decode()
    assert text.startswith("Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads\r\nremoved;removed;")
    assert {line.split(";")[3] for line in text.split("\r\n")[1:-1]} == {"CC", "MLO"}
    assert {p.name.split("_")[4] for p in (written / "inbreast" / "AllDICOMs").iterdir()} == {"CC", "ML"}


def line_of(root, sample, **values):
    """Changes the line of one image in INbreast.csv."""
    path = root / "INbreast.csv"
    table = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False)
    for column, value in values.items():
        table.loc[table["File Name"] == sample.split("/")[1], {"birads": "Bi-Rads"}.get(column, column)] = value
    table.to_csv(path, sep=";", index=False, lineterminator="\r\n")


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
        said = {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": [{"Name": n, key: p} for n, p in rois]}]}
        (root / "AllXML" / f"{sample}.xml").write_bytes(plistlib.dumps(said))

    outline(samples[0], ("Calcification", ["(100.5, 200.25)"]), ("Cluster", ["(10, 20)", "(40, 20)", "(40, 60)"]))
    outline(samples[1], ("Assymetry", ["{10, 20}", "{13, 20}", "{13, 24}"]), key="ROIPoints")
    outline(samples[2], ("Unnamed", ["(1, 2)"]))
    (root / "AllXML" / f"{samples[3]}.xml").write_bytes(b"<plist><dict>")
    (root / "AllXML" / f"{samples[4]}.xml").unlink(missing_ok=True)
    outline(samples[5], ("Mass", ["(1, 2)", "(1e999, 2)", "(5, 5)"]))
    rows = inbreast.index(root)
    assert rows.annotation[5] == "" and rows.attrs["traps"]["damaged_xml"] == 2 and rows.attrs["traps"]["point_findings"] == 2
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
    fewer = inbreast.index(native / "deeper")
    assert list(fewer["sample"]) == list(rows["sample"][2:])
    assert f"2 of {len(rows)} images left out" in caplog.text
    (listed, _), (damaged, _) = fewer.attrs["exclusions"]
    assert listed == rows["sample"][0].split("/")[1] and Path(damaged).read_bytes() == b"cut"
    assert fewer.attrs["traps"]["missing_image"] == 1


@pytest.mark.parametrize("break_it, said", [
    (lambda root: (root / "INbreast.csv").unlink(), "INbreast.csv"),
    (lambda root: (root / "INbreast.csv").rename(root / "INbreast.xls"), "what is read is INbreast.csv"),
    (lambda root: (root / "INbreast.csv").write_bytes(b"\xff\xfe\0;"), "cannot be read"),
    (lambda root: edit(root / "INbreast.csv", lambda t: t.replace("Bi-Rads", "Rads", 1)), "lacks the columns bi-rads"),
    (lambda root: edit(root / "INbreast.csv", lambda t: t.replace("Patient age", "View", 1)), "two columns of one name"),
    (lambda root: shutil.rmtree(root / "AllDICOMs"), "None of the"),
])
def test_inbreast_that_cannot_be_indexed_is_a_problem(native, break_it, said):
    break_it(native / "inbreast")
    with pytest.raises(Problem, match=said):
        inbreast.index(native / "inbreast")
