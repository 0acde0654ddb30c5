"""The quirks of CBIS-DDSM and INbreast change nothing that `index` reads but what they say."""
import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from test_phantom_mammograms import digest

from data_scripts import cbis_ddsm, inbreast, link, phantom
from data_scripts.phantom import mammogram_files, patients
from data_scripts.phantom.quirks import QUIRKS, apply
from xmodal import cohort, preprocess
from xmodal.config import PROFILES, Problem
from xmodal.imaging import mammograms

SEED = 37                # with two pairs: both kinds of CBIS-DDSM, in both parts
SHAPE = (600, 480)
MODULES = {"cbis_ddsm": cbis_ddsm, "inbreast": inbreast}
WRITERS = {"cbis_ddsm": mammogram_files.write_cbis_ddsm, "inbreast": mammogram_files.write_inbreast}
CASES = [(site, (name,)) for site in MODULES for name in QUIRKS[site]]
CASES += [(site, tuple(QUIRKS[site])) for site in MODULES]
CASE_NAMES = [f"{site}-{name}" for site in MODULES for name in QUIRKS[site]]
CASE_NAMES += [f"{site}-all" for site in MODULES]
# What else `index` counts where it meets a quirk, and quirks that only move files, which it does not count.
IMPLIED = {"mixed_pathology": ["several_abnormalities"], "crossing_patient": ["film_twice"],
           "stretched_mask": ["scaled_mask"]}
UNNOTICED = {"one_density_name", "no_line_feeds", "one_order", "pectoral_outlines", "nbia_tree",
             "nbia_tree_old", "deeper_folder"}


def write(root, people, site):
    """Writes a site without quirks; returns its rows of the registry."""
    mine = people[people.mammo_domain == site].reset_index(drop=True)
    return WRITERS[site](root / site, mine, SEED, 1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with both sites without quirks, which `index` reads back (see test_cbis_inbreast)."""
    root = tmp_path_factory.mktemp("plain")
    people = patients.cohort(SEED, pairs=2, singles=1)
    registry = []
    for site in MODULES:
        registry += write(root, people, site)
    pd.DataFrame(registry).to_csv(root / "registry.csv", index=False)
    return root


def with_quirks(plain, folder, site, quirks):
    """Copies a site of `plain` into `folder` and does quirks to it; returns its root."""
    root = shutil.copytree(plain / site, folder / site)
    registry = pd.read_csv(plain / "registry.csv")
    rows = registry[registry.domain == site].to_dict("records")
    assert apply(site, root, rows, quirks, SEED) == rows, "no quirk takes a patient away or renames one"
    return root


def read_back(rows, registry):
    """What `link` makes of the rows of an index, one row per sample, in order, and the lesion masks."""
    rows = link(rows, registry).set_index("sample").sort_index()
    masks = pd.Series([mammograms.lesion_mask(text, SHAPE) for text in rows.annotation], index=rows.index)
    return rows.drop(columns=["annotation", "source", "study"]), masks


NA_SHAPES = {"spiculated": "irregular", "circumscribed": "", "cluster": "", "scatter": ""}


def expected(rows, masks, quirks):
    """The rows and masks without quirks, with what these change of what there is to know."""
    rows, masks = rows.copy(), masks.copy()
    if "missing_image" in quirks:
        rows = rows.iloc[:-1]
        masks = masks.iloc[:-1]
    if "crossing_patient" in quirks:                     # before masks are lost: the first row may be a twin
        rows, masks = (part.sort_index() for part in with_twins(rows, masks))
    rows, masks = without_lost_lesions(rows, masks, quirks)
    if "na_terms" in quirks:                             # no margin and no distribution; the shape stays
        rows["lesion_shape"] = rows.lesion_shape.replace(NA_SHAPES)
    if "zeros" in quirks:
        rows["density"] = ""
    if "view_fb" in quirks:
        rows.loc[rows.index[0], "view"] = "FB"
    if "blank_acr" in quirks:
        rows.loc[rows.index[1], "density"] = ""
    return rows.sort_index(), masks.sort_index()


def without_lost_lesions(rows, masks, quirks):
    """The rows and masks less what lies in the masks and outline files that quirks take away."""
    outlined = [sample for sample in masks.index if masks[sample].any()]
    lost = {"missing_mask": masks.index[0], "missing_xml": outlined[0], "damaged_xml": outlined[1]}
    for name, sample in lost.items():
        if name in quirks:
            masks[sample] = np.zeros(SHAPE, bool)
            if name != "missing_mask":                   # an outline's name is all that is known of a lesion
                rows.loc[sample, ["lesion_type", "lesion_shape"]] = ""
    return rows, masks


def with_twins(rows, masks):
    """The CC films of patients with an even number once more, among the other kind and in the other part."""
    other = {"Mass-Training": "Calc-Test", "Mass-Test": "Calc-Training", "Calc-Training": "Mass-Test",
             "Calc-Test": "Mass-Training"}
    even = rows.index.str.extract(r"P_\d{4}(\d)", expand=False).isin(list("02468"))
    again = rows[(rows["view"] == "CC") & even]
    names = []
    for name in again.index:
        kind, rest = name.split("/")[1].split("_", 1)
        names.append(f"cbis_ddsm/{other[kind]}_{rest}")
    calc = np.array(["/Calc" in name for name in names])
    twins = again.set_axis(names)
    twins["lesion_type"] = np.where(calc, "calcification", "mass")
    twins["lesion_shape"] = np.where(calc, "cluster", "circumscribed")
    rows = pd.concat([rows, twins.rename_axis("sample")])
    return rows, pd.concat([masks, masks[again.index].set_axis(names)])


@pytest.mark.parametrize("site, quirks", CASES, ids=CASE_NAMES)
def test_index_reads_through_every_quirk(site, quirks, plain, tmp_path):
    root = with_quirks(plain, tmp_path, site, quirks)
    before = MODULES[site].read(plain / site)
    after = MODULES[site].read(root)
    rows, masks = read_back(after.rows, plain / "registry.csv")
    wanted, drawn = expected(*read_back(before.rows, plain / "registry.csv"), quirks)
    pd.testing.assert_frame_equal(rows, wanted, rtol=0.12, check_like=True)
    for mask, other in zip(masks, drawn):
        assert mask.any() == other.any() and (mask & other).sum() >= 0.8 * (mask | other).sum()
    met = {name for name, count in after.traps.items() if count > before.traps.get(name, 0)}
    implied = [name for quirk in quirks for name in IMPLIED.get(quirk, [])]
    assert met == {*quirks, *implied} - UNNOTICED
    assert len(after.exclusions) == ("missing_image" in quirks)


def test_every_quirk_says_what_the_files_then_hold_and_others_are_a_problem(tmp_path):
    for sentences in QUIRKS.values():
        assert all(sentence.endswith(".") for sentence in sentences.values())
    with pytest.raises(Problem, match="'flat_earth'.*scaled_mask.*point_findings"):
        phantom.write(tmp_path / "phantom", singles=0, quirks=("scaled_mask", "flat_earth"))
    assert not (tmp_path / "phantom").exists()


def test_a_release_with_all_quirks_becomes_a_cohort_without_torn_patients(plain, tmp_path):
    people = patients.cohort(SEED, pairs=2, singles=1)
    parts = []
    exclusions = []
    for site, module in MODULES.items():
        index = module.read(with_quirks(plain, tmp_path / "native", site, QUIRKS[site]))
        parts.append(link(index.rows, plain / "registry.csv"))
        exclusions += index.exclusions
    rows = pd.concat(parts, ignore_index=True)
    profile = dataclasses.replace(PROFILES["lesson"], image_size=48)
    built = preprocess.build(rows, profile, tmp_path / "out", workers=1, exclusions=exclusions)
    table = cohort.load(tmp_path / "out" / "cohort.parquet")
    assert len(table) == len(built) == len(rows)
    assert len(pd.read_csv(tmp_path / "out" / "exclusions.csv")) == 2
    assert set(table.patient) == {f"phantom/{name}" for name in people.patient[people.mammo_domain != ""]}
    for held_out in MODULES:
        assert cohort.leave_one_out(table, held_out, 42).groupby("patient").split.nunique().max() == 1


def test_quirks_are_the_same_bytes_every_time(plain, tmp_path):
    for site in MODULES:
        sums = [digest(with_quirks(plain, tmp_path / name, site, QUIRKS[site])) for name in "ab"]
        assert sums[0] == sums[1] and len(sums[0]) > 10
