"""The official tables and outlines of CAMELYON, against the counts that were published.

They are not part of the project: the tests skip where ../shared/data/camelyon is absent.
"""
import numpy as np
import pandas as pd
import pytest

from data_scripts import annotations, camelyon
from slide_copies import asap, put
from xmodal import cohort
from xmodal.cohort import label_set
from xmodal.config import HOME

OFFICIAL = HOME.parent / "shared" / "data" / "camelyon"

official = pytest.mark.skipif(
    not OFFICIAL.is_dir(), reason="the official tables are not in ../shared/data/camelyon"
)


def pn_stage(stages):
    """The pN stage that the stages of a patient's five nodes give, by the rules of CAMELYON17."""
    if "macro" in stages:
        return "pN2" if stages.count("macro") + stages.count("micro") > 3 else "pN1"
    if "micro" in stages:
        return "pN1mi"
    return "pN0(i+)" if "itc" in stages else "pN0"


@official
def test_stage_table_of_camelyon17():
    table = OFFICIAL / "camelyon17_stage_labels.csv"
    stages = pd.Series({stem: stage for stem, (stage, _) in camelyon.read_stages(table).items()})
    assert stages.value_counts().to_dict() == {"negative": 323, "itc": 35, "micro": 57, "macro": 85}
    patients = stages.groupby(stages.index.str[:11]).agg(list).map(pn_stage)
    assert patients.value_counts().to_dict() == {"pN0": 25, "pN0(i+)": 11, "pN1mi": 21, "pN1": 30, "pN2": 13}
    listed = pd.read_csv(table).set_index("patient").stage
    assert (listed[patients.index + ".zip"].to_numpy() == patients.to_numpy()).all()


@official
def test_index_of_camelyon17_by_its_table_and_no_patient_in_two_splits(tmp_path):
    """All slides are there and tumour is outlined: 323 are negative and 177 positive, of 100 patients."""
    part = tmp_path / "CAMELYON17"
    put(part / "stage_labels.csv", (OFFICIAL / "camelyon17_stage_labels.csv").read_text())
    for stem, (stage, _) in camelyon.read_stages(part / "stage_labels.csv").items():
        put(part / "images" / f"{stem}.tif")
        if stage != "negative":
            put(part / "annotations" / f"{stem}.xml", (OFFICIAL / "patient_004_node_4.xml").read_text())
    put(part / "images" / "patient_100_node_0.tif")  # the test slides have no label
    rows, _, traps = camelyon.read(tmp_path)
    assert rows.allowed.value_counts().to_dict() == {label_set("normal"): 323, label_set("invasive"): 177}
    assert rows.patient.nunique() == 100
    assert (rows.groupby("patient").size() == 5).all() and traps == {"itc": 35, "unlabelled_slide": 1}
    other = rows.head(10).assign(domain="bach", patient=[f"bach/{k}" for k in range(10)])
    fold = cohort.leave_one_out(pd.concat([rows, other], ignore_index=True), "bach", 42)
    assert (fold.groupby("patient").split.nunique() == 1).all()
    assert set(fold.split) == {
        "train",
        "validation",
        "source test",
        "target",
    }


@official
def test_index_of_camelyon16_by_its_key_and_centre_table(tmp_path):
    """399 slides as in the centre table, with its labels but for test_114: the official key outranks it."""
    table = pd.read_csv(OFFICIAL / "flamby" / "metadata.csv")
    names = table.slide_name.str.removesuffix(".tif")
    for stem in (*names, "normal_086", "test_049"):
        put(tmp_path / "training" / stem.split("_")[0] / f"{stem.capitalize()}.tif")
    put(tmp_path / "testing" / "reference.csv", (OFFICIAL / "flamby" / "reference.csv").read_text())
    key = camelyon.read_reference(tmp_path / "testing" / "reference.csv")
    assert len(key) == 129 and sum(key.values()) == 49
    for stem in [stem for stem in names if key.get(stem, stem.startswith("tumor"))]:
        put(tmp_path / "training" / "lesion_annotations" / f"{stem}.xml", asap("_0"))
    rows, _, traps = camelyon.read(tmp_path)
    assert set(rows["sample"]) == set(
        "camelyon/" + names
    )
    assert table.hospital_corrected.value_counts().to_dict() == {0: 243, 1: 156}
    positive = rows.set_index(rows["sample"].str.removeprefix("camelyon/")).allowed == label_set("invasive")
    differing = [stem for stem, label in zip(names, table.label) if positive[stem] != label]
    assert positive.sum() == 111 + 49 and differing == ["test_114"]
    assert traps == {"duplicate_slide": 1, "mislabelled_slide": 1, "partial_outlines": 21}


@official
def test_genuine_json_outlines_of_normal_slides_hold_no_tumour(tmp_path):
    paths = sorted((OFFICIAL / "ncrf_json").glob("*.json"))
    for path in paths:
        put(tmp_path / "images" / f"{path.stem.lower()}.tif")
        put(tmp_path / "jsons" / path.name, path.read_text())
        outlines = annotations.read(path)
        assert {group for group, _ in outlines} == {"negative"}
        assert (np.concatenate([points for _, points in outlines]) % 128 == 0).all()
    rows = camelyon.index(tmp_path)
    assert len(rows) == len(paths) == 24
    assert (rows.allowed == label_set("normal")).all()
    assert (rows.annotation == "").all()
