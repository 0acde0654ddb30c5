"""The quirks of BACH and CAMELYON change nothing that `index` reads but what they say."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import binary_fill_holes
from skimage.draw import polygon2mask
from test_phantom_histology import SEED, SIDE, digest, write

from data_scripts import bach, camelyon, link
from data_scripts.phantom import histology_files, patients
from data_scripts.phantom.histology import STYLES, draw
from data_scripts.phantom.quirks import QUIRKS, apply
from xmodal import tiles
from xmodal.cohort import label_set
from xmodal.config import Problem
from xmodal.imaging import regions, slides

MODULES = {"bach": bach, "camelyon": camelyon}
LEFT_OUT = {"missing_image", "listed_twice", "unlisted_image", "test_set", "unannotated_wsi",
            "mislabelled_slide", "duplicate_slide", "second_copy", "missing_outlines", "unlabelled_slide"}
UNCOUNTED = {"label_in_text", "deeper_folder", "reference_key", "stage_labels", "odd_groups", "capital_names",
             "gigadb_layout", "zipped_annotations"}
CASES = [(site, (name,)) for site in MODULES for name in QUIRKS[site]]
CASES += [(site, tuple(QUIRKS[site])) for site in MODULES]
CASE_NAMES = [f"{site}-{name}" for site in MODULES for name in QUIRKS[site]]
CASE_NAMES += [f"{site}-all" for site in MODULES]


@pytest.fixture(scope="module")
def many():
    return patients.cohort(SEED, pairs=6, singles=4)


@pytest.fixture(scope="module")
def plain(many, tmp_path_factory):
    """(root, registry) of a phantom without quirks, which has enough slides for all of them."""
    root = tmp_path_factory.mktemp("plain")
    return root, write(root, many)


def with_quirks(plain, folder, site, quirks):
    """Copies a site of `plain` into `folder` and does quirks to it; returns its root and registry rows."""
    root, registry = plain
    shutil.copytree(root / site, folder / site)
    rows = registry[registry.domain == site].to_dict("records")
    return folder / site, apply(site, folder / site, rows, quirks, SEED)


def outlined(annotation):
    return slides.tumour_mask(annotation, (SIDE, SIDE), 1)


def overlap(mask, other):
    return (mask & other).sum() / (mask | other).sum()


def allowed_labels(site, diagnosis):
    """The label set that a site gives for a diagnosis of the breast; a node is invaded or normal."""
    if site == "bach":
        return label_set(diagnosis)
    return label_set("invasive") if diagnosis == 3 else label_set("normal")


def test_the_index_gives_back_what_was_drawn(plain, many):
    """Patients and labels are the registry's, and the outlines are those of the tumour in the picture."""
    root, registry = plain
    for site, module in MODULES.items():
        index = module.read(root / site)
        rows = index.rows.set_index("patient")
        allowed = {}
        for row in registry[registry.domain == site].itertuples():
            allowed[f"{site}/{row.native_patient}"] = allowed_labels(site, row.diagnosis)
        assert rows.allowed.to_dict() == allowed and len(rows) == len(allowed)
        assert index.exclusions == [] and index.traps == {}
    people = many.set_index("patient")
    for name, row in rows[rows.annotation != ""].iterrows():
        person = registry.set_index("native_patient").patient[name.split("/")[1]]
        rng = patients.generator(SEED, "camelyon", person, row["sample"].split("/")[1])
        latents = {**people.loc[person], "patient": person}
        _, tumour = draw(latents, STYLES["camelyon"], rng, (SIDE, SIDE), 0.5)
        assert overlap(outlined(row.annotation), binary_fill_holes(tumour)) > 0.9


def expected(rows, renamed):
    """The rows of a plain phantom, less those that a quirk took away, by the names that a quirk gave."""
    def new_name(name):
        return renamed.get(name, name) or "gone"

    rows = rows.copy()
    rows["patient"] = rows.domain + "/" + rows.patient.str.split("/").str[-1].map(new_name)
    rows["study"] = rows.study.str.split("/").str[-1].map(new_name)
    rows["sample"] = rows.domain + "/" + rows["sample"].str.split("/").str[1].map(new_name)
    return rows[~rows.patient.str.endswith("gone")]


def changed(annotation, sample, case):
    """The tumour that an annotation says, bool (SIDE, SIDE), as quirks change it."""
    polygons = [np.array(polygon) for polygon in json.loads(annotation)["polygons"]]
    first = polygons[0]
    if sample == "camelyon/tumor_110":
        polygons = polygons[:1]
    mask = np.any([polygon2mask((SIDE, SIDE), polygon[:, ::-1] - 0.5) for polygon in polygons], axis=0)
    if "excluded_groups" in case:
        mask &= ~polygon2mask((SIDE, SIDE), (0.3 * first + 0.7 * first.mean(0))[:, ::-1] - 0.5)
    return mask


def new_names(site, before, after):
    """{native patient: its name after quirks, None if it is gone} of rows of the registry."""
    if site == "bach":                                    # whose images keep their names
        left = {row["native_patient"] for row in after}
        return {name: None for name in before.native_patient if name not in left}
    new = {row["patient"]: row["native_patient"] for row in after}
    return {row.native_patient: new.get(row.patient) for row in before.itertuples()}


@pytest.mark.parametrize("site, case", CASES, ids=CASE_NAMES)
def test_the_index_sees_through_every_quirk(plain, tmp_path, monkeypatch, site, case):
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
    before = plain[1][plain[1].domain == site]
    root, after = with_quirks(plain, tmp_path, site, case)
    index = MODULES[site].read(root)
    rows = index.rows
    drawn = rows[~rows.source.str.endswith(".svs")].set_index("sample").sort_index()
    wanted = expected(MODULES[site].index(plain[0] / site), new_names(site, before, after))
    wanted = wanted.set_index("sample").sort_index()
    paths = ["source", "annotation"]
    pd.testing.assert_frame_equal(drawn.drop(columns=paths), wanted.drop(columns=paths))
    for sample, row in wanted[wanted.annotation != ""].iterrows():
        assert overlap(outlined(drawn.annotation[sample]), changed(row.annotation, sample, case)) > 0.97
    check_what_is_counted(index, case)
    images = set()
    for path in root.rglob("*"):
        if path.suffix in (".tif", ".svs") and not path.stem.endswith("_mask"):
            images.add(str(path))
    left_out = {path for path, _ in index.exclusions}
    assert images == set(rows.source) | (left_out & images), "every picture is a row or has a reason"


def check_what_is_counted(index, case):
    """The index names the quirks that it met, and leaves out one file for each that adds or takes one."""
    expected_traps = set(case) - UNCOUNTED
    if {"json_outlines", "mask_outlines"} <= set(case):   # those forms have no groups
        expected_traps.discard("unknown_group")
    assert set(index.traps) - {"several_classes"} == expected_traps - {"several_classes"}
    assert len(index.exclusions) == len(LEFT_OUT & set(case))


NESTED = ("label_in_text", "negative_roa", "nested_outlines")


@pytest.mark.parametrize("case", (("several_classes",), NESTED), ids=("plain", "nested"))
def test_slides_of_bach_give_the_classes_that_were_drawn(plain, tmp_path, monkeypatch, case):
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
    root, _ = with_quirks(plain, tmp_path, "bach", case)
    rows = bach.index(root).set_index("sample")
    rows = rows[rows.source.str.endswith(".svs")]
    truth = {"bach/A01": 2, "bach/A02": 3}
    benign = 0.4 * 0.9
    if case == NESTED:
        truth = {"bach/A01": 3, "bach/A02": 3}
        benign -= 0.1 * 0.2 + 0.125 * 0.25                # less the hole and the inner class
    assert rows.truth.to_dict() == truth
    classes = {name: tiles.classes(text) for name, text in rows.annotation.items()}
    assert set(classes["bach/A01"]) == ({1, 2, 3} if case == NESTED else {1, 2})
    for name in truth:
        assert outlined(classes[name][1]).mean() == pytest.approx(benign, abs=0.005)
    with regions.open_slide(rows.source.iloc[0])[0] as slide:
        assert slide.dimensions == (SIDE, SIDE) and slide.level_count == 3
    masks = [outlined(text) for text in classes["bach/A01"].values()]
    assert not np.logical_and.reduce(masks).any()


def test_a_phantom_with_all_quirks_is_linked_and_has_the_same_bytes_again(plain, many, tmp_path, monkeypatch):
    """The registry lists what the index reads, but the patients of the two slides of BACH."""
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (SIDE, SIDE))
    registry = write(tmp_path / "a", many, quirks=(*QUIRKS["bach"], *QUIRKS["camelyon"]))
    for site in MODULES:
        with_quirks(plain, tmp_path / "b", site, QUIRKS[site])
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    registry.to_csv(tmp_path / "registry.csv", index=False)
    indexed = [module.index(tmp_path / "a" / site) for site, module in MODULES.items()]
    rows = pd.concat(indexed, ignore_index=True)
    unknown = set(rows.patient) - set(registry.domain + "/" + registry.native_patient)
    assert unknown == {"bach/A01", "bach/A02"} and len(rows[~rows.patient.isin(unknown)]) == len(registry)
    linked = link(rows, tmp_path / "registry.csv")
    linked = linked[~linked.patient.isin(unknown)]
    diagnosis = linked.patient.str.removeprefix("phantom/").map(many.set_index("patient").diagnosis)
    nodes = linked.domain == "camelyon"
    assert (diagnosis == linked.truth)[~nodes].all()
    assert (linked.truth[nodes] == 3 * (diagnosis[nodes] == 3)).all(), "a node is invaded or normal"
    assert (linked.allowed.to_numpy() >> linked.truth.to_numpy() & 1).all(), "the label allows the truth"


def test_a_cohort_too_small_for_the_quirks_is_a_problem(tmp_path):
    people = patients.cohort(SEED, pairs=2, singles=2).head(4)
    with pytest.raises(Problem, match="too few for quirks"):
        write(tmp_path, people, quirks=("itc",))
