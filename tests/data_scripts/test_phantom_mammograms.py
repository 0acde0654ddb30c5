"""The phantom's patients and mammograms: what the cohort covers, that seeds fix every byte, that lesions are where masks say,
and that the traps of the real sets, switched on, change nothing that `index` reads but what they say."""
import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from data_scripts import cbis_ddsm, inbreast, link, phantom
from data_scripts.phantom import cbis_quirks, inbreast_quirks, mammogram, mammogram_files, patients
from data_scripts.phantom.quirks import QUIRKS
from xmodal import cohort, preprocess
from xmodal.config import PROFILES, Problem
from xmodal.imaging import mammograms
from xmodal.runtime.files import sha256

COHORT = patients.cohort(42)
SMALL = (300, 240)


def draw(row, view="CC", site="inbreast", shape=SMALL, seed=1):
    return mammogram.draw(row, view, mammogram.STYLES[site], patients.generator(seed, row["patient"], view), shape)


def example(**wanted):
    """A patient of the cohort that has the wanted values."""
    table = COHORT[COHORT.mammo_domain != ""]
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.iloc[0].to_dict()


def test_cohort_has_the_patients_that_the_panels_need():
    pairs = COHORT[(COHORT.mammo_domain != "") & (COHORT.histo_domain != "")]
    assert (pairs.groupby(["mammo_domain", "histo_domain"]).size() == 60).all() and len(pairs) == 240 and len(COHORT) == 272
    assert COHORT.patient.is_unique
    films, digital = (COHORT[COHORT.mammo_domain == d] for d in ("cbis_ddsm", "inbreast"))
    assert set(films.diagnosis) == {1, 2, 3} and set(digital.diagnosis) == {0, 1, 2, 3}
    for site in (films, digital):
        assert set(site.density) == set("ABCD")
        assert set(site.lesion_type) >= set(patients.TYPES)
        assert (pd.cut(site.diameter_mm, [0, 5, 10, 15, 20, 31]).value_counts() >= 2).all()
    healthy = COHORT[COHORT.diagnosis == 0]
    assert healthy.diameter_mm.isna().all() and (healthy.lesion_type == "").all()
    assert COHORT.diameter_mm.dropna().between(3, 30).all()


def test_latents_follow_the_class_and_overlap():
    means = COHORT.groupby("diagnosis")[list(patients.LATENTS)].mean()
    assert means.cellularity.is_monotonic_increasing and means.spread.is_monotonic_increasing
    assert means.calcification.idxmax() == 2
    benign, invasive = (COHORT[COHORT.diagnosis == d] for d in (1, 3))
    assert benign.cellularity.max() > invasive.cellularity.min() and benign.severity.max() > invasive.severity.min()


def test_generator_depends_on_every_name_and_nothing_else():
    first = patients.generator(1, "a", "b").random(4)
    assert (first == patients.generator(1, "a", "b").random(4)).all()
    for other in ((2, "a", "b"), (1, "b", "a"), (1, "ab")):
        assert (first != patients.generator(*other).random(4)).all()


@pytest.mark.parametrize("lesion_type", patients.TYPES)
def test_a_lesion_lies_in_the_breast_has_its_diameter_and_shows(lesion_type):
    rows = COHORT[(COHORT.lesion_type == lesion_type) & (COHORT.mammo_domain != "") & (COHORT.diameter_mm > 8)].head(4)
    for row in rows.to_dict("records"):
        for view in ("CC", "MLO"):
            image, mask = draw(row, view)
            assert image.dtype == np.uint16 and image.shape == mask.shape == SMALL and mask.any()
            y, x = np.nonzero(mask)
            extent = max(np.ptp(y), np.ptp(x)) * mammogram.FIELD_MM / SMALL[0]
            assert 0.7 * row["diameter_mm"] < extent < 1.1 * row["diameter_mm"]
            assert (image[mask] > 0).all()                # digital background is 0: no part of the lesion is in air
            healthy, _ = draw({**row, "lesion_type": ""}, view)
            changed = np.abs(image.astype(int) - healthy) > 400
            assert changed[mask].mean() > 3 * changed[~mask].mean()


def test_every_lesion_of_the_cohort_has_a_mask():
    with_lesion = COHORT[(COHORT.lesion_type != "") & (COHORT.mammo_domain != "")]
    for row in with_lesion.iloc[::3].to_dict("records"):
        for view in ("CC", "MLO"):
            assert draw(row, view, shape=(150, 120))[1].any(), row


def test_a_healthy_breast_has_an_empty_mask_and_the_chest_wall_on_its_side():
    for laterality, columns in (("L", np.s_[:, :24]), ("R", np.s_[:, -24:])):
        image, mask = draw(example(diagnosis=0, laterality=laterality))
        assert not mask.any()
        assert image[columns].mean() > image.mean()


def test_the_muscle_is_in_the_mlo_view_only():
    row = example(diagnosis=0, laterality="L", density="B")
    corner = np.s_[5:40, 2:30]
    assert draw(row, "MLO")[0][corner].mean() > 5 * draw(row, "CC")[0][corner].mean() + 500


def test_texture_spectrum_falls_with_the_wanted_exponent():
    field = mammogram.power_law(np.random.default_rng(0), (256, 256), 3.0)
    power = np.abs(np.fft.fft2(field)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256) * 256, np.fft.fftfreq(256) * 256))
    bands = np.array([[r, power[(radius >= r) & (radius < 1.3 * r)].mean()] for r in (4, 8, 16, 32, 64)])
    slope = np.polyfit(np.log(bands[:, 0]), np.log(bands[:, 1]), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.25)


def test_denser_breasts_are_brighter():
    row = example(diagnosis=0)
    grey = [np.mean([draw({**row, "density": d}, seed=s)[0].mean() for s in range(3)]) for d in "ABCD"]
    assert grey == sorted(grey)


def test_sites_differ_and_film_has_a_marker_and_noise_in_air():
    row = example(diagnosis=0, laterality="L")
    film, digital = (draw(row, site=s)[0] / mammogram.STYLES[s].white for s in ("cbis_ddsm", "inbreast"))
    assert (digital[:20, 160:] == 0).all() and film[:20, 160:].std() > 0
    assert film[20:90, 160:].max() > 0.4                  # the lead marker
    assert film.max() <= 1 and digital.max() <= 1


def test_files_are_the_same_bytes_for_a_seed_whatever_the_workers(tmp_path):
    people = COHORT[COHORT.mammo_domain == "inbreast"].head(2).reset_index(drop=True)
    films = COHORT[COHORT.mammo_domain == "cbis_ddsm"].head(2).reset_index(drop=True)
    sums = []
    for name, workers, seed in (("a", 1, 3), ("b", 2, 3), ("c", 1, 4)):
        registry = mammogram_files.write_inbreast(tmp_path / name, people, seed, workers)
        registry += mammogram_files.write_cbis_ddsm(tmp_path / name, films, seed, 1)
        assert [set(r) for r in registry] == [set(patients.REGISTRY)] * 4
        sums.append({str(p.relative_to(tmp_path / name)): sha256(p) for p in sorted((tmp_path / name).rglob("*")) if p.is_file()})
    assert sums[0] == sums[1] != sums[2]
    assert len(sums[0]) == 4 + 4 * 3 + 4 + 1 + sum(2 for d in people.diagnosis if d)


# ---- quirks --------------------------------------------------------------------------------------------------------

SEED = 37                                                # with two pairs: both kinds of CBIS-DDSM, in both parts
SITES = {"cbis_ddsm": (cbis_ddsm, cbis_quirks, mammogram_files.write_cbis_ddsm),
         "inbreast": (inbreast, inbreast_quirks, mammogram_files.write_inbreast)}
CASES = [(site, (name,)) for site in SITES for name in QUIRKS[site]] + [(site, tuple(QUIRKS[site])) for site in SITES]
# What else `index` counts where it meets a quirk, and quirks that only move files, of which it takes no note.
IMPLIED = {"mixed_pathology": ["several_abnormalities"], "crossing_patient": ["film_twice"], "stretched_mask": ["scaled_mask"]}
UNNOTICED = {"one_density_name", "no_line_feeds", "one_order", "pectoral_outlines", "nbia_tree", "nbia_tree_old", "deeper_folder"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with both sites without quirks, of which test_cbis_inbreast says that `index` gives back what was drawn."""
    root, people = tmp_path_factory.mktemp("plain"), patients.cohort(SEED, pairs=2, singles=1)
    registry = [row for site, (_, _, write) in SITES.items()
                for row in write(root / site, people[people.mammo_domain == site].reset_index(drop=True), SEED, 1)]
    pd.DataFrame(registry).to_csv(root / "registry.csv", index=False)
    return root


def read_back(root, site, registry):
    """What `index` and `link` read, a row a sample, in order, with the lesion mask in place of paths and outlines."""
    rows = link(SITES[site][0].index(root), registry).set_index("sample").sort_index()
    masks = pd.Series([mammograms.lesion_mask(a, (600, 480)) for a in rows.annotation], index=rows.index)
    return rows.drop(columns=["annotation", "source", "study"]), masks


def expected(rows, masks, quirks):
    """The rows and masks without quirks, with what these change of what there is to know."""
    rows, masks, outlined = rows.copy(), masks.copy(), [sample for sample in masks.index if masks[sample].any()]
    lost = {"missing_mask": masks.index[0], "missing_xml": outlined[0], "damaged_xml": outlined[1]}
    for name in [name for name in lost if name in quirks]:
        masks[lost[name]] = np.zeros((600, 480), bool)
        if name != "missing_mask":                        # an outline's name is all that INbreast says of a lesion
            rows.loc[lost[name], ["lesion_type", "lesion_shape"]] = ""
    if "missing_image" in quirks:
        rows, masks = rows.iloc[:-1], masks.iloc[:-1]
    if "crossing_patient" in quirks:
        rows, masks = with_twins(rows, masks)
    if "na_terms" in quirks:                              # the margin and the distribution are gone, the shape stays
        rows["lesion_shape"] = rows.lesion_shape.replace({"spiculated": "irregular", "circumscribed": "", "cluster": "", "scatter": ""})
    if "zeros" in quirks:
        rows["density"] = ""
    if "view_fb" in quirks:
        rows.loc[rows.index[0], "view"] = "FB"
    if "blank_acr" in quirks:
        rows.loc[rows.index[1], "density"] = ""
    return rows.sort_index(), masks.sort_index()


def with_twins(rows, masks):
    """The CC films of patients with an even number once more, among the other kind and in the other part."""
    other = {"Mass-Training": "Calc-Test", "Mass-Test": "Calc-Training", "Calc-Training": "Mass-Test", "Calc-Test": "Mass-Training"}
    again = rows[(rows["view"] == "CC") & rows.index.str.extract(r"P_\d{4}(\d)", expand=False).isin(list("02468"))]
    names = [f"cbis_ddsm/{other[kind]}_{rest}" for kind, rest in (name.split("/")[1].split("_", 1) for name in again.index)]
    calc = np.array(["/Calc" in name for name in names])
    twins = again.set_axis(names).assign(lesion_type=np.where(calc, "calcification", "mass"),
                                         lesion_shape=np.where(calc, "cluster", "circumscribed"))
    return pd.concat([rows, twins.rename_axis("sample")]), pd.concat([masks, masks[again.index].set_axis(names)])


@pytest.mark.parametrize("site, quirks", CASES, ids=[f"{site}-{names[0] if len(names) == 1 else 'all'}" for site, names in CASES])
def test_index_reads_through_every_quirk(site, quirks, plain, tmp_path):
    module, traps, _ = SITES[site]
    root = shutil.copytree(plain / site, tmp_path / site)
    traps.apply(root, quirks)
    rows, masks = read_back(root, site, plain / "registry.csv")
    wanted, drawn = expected(*read_back(plain / site, site, plain / "registry.csv"), quirks)
    pd.testing.assert_frame_equal(rows, wanted, rtol=0.12, check_like=True)
    for mask, other in zip(masks, drawn):
        assert mask.any() == other.any() and (mask & other).sum() >= 0.8 * (mask | other).sum()
    before, after = module.index(plain / site).attrs["traps"], rows.attrs["traps"]
    met = {name for name in after if after[name] > before.get(name, 0)}
    assert met == set(quirks).union(*(IMPLIED.get(name, []) for name in quirks)) - UNNOTICED
    assert len(rows.attrs["exclusions"]) == ("missing_image" in quirks)


def test_the_quirks_that_are_known_are_those_that_are_done_and_others_are_a_problem(tmp_path):
    for site, (_, traps, _) in SITES.items():
        assert list(QUIRKS[site]) == [trap.__name__ for trap in traps.TRAPS]
    with pytest.raises(Problem, match="'flat_earth'.*scaled_mask.*point_findings"):
        phantom.write(tmp_path / "phantom", pairs=1, singles=0, quirks=("scaled_mask", "flat_earth"))
    assert not (tmp_path / "phantom").exists()


def test_a_release_with_all_quirks_becomes_a_cohort_without_torn_patients(tmp_path):
    people = patients.cohort(SEED, pairs=2, singles=1)
    registry, rows = [], []
    for site, (_, _, write) in SITES.items():
        there = people[people.mammo_domain == site].reset_index(drop=True)
        registry += write(tmp_path / "native" / site, there, SEED, 1, quirks=tuple(QUIRKS[site]))
    pd.DataFrame(registry).to_csv(tmp_path / "registry.csv", index=False)
    found = [link(module.index(tmp_path / "native" / site), tmp_path / "registry.csv") for site, (module, *_) in SITES.items()]
    rows = pd.concat(found, ignore_index=True)
    rows.attrs["exclusions"] = sum((part.attrs["exclusions"] for part in found), [])
    built = preprocess.build(rows, dataclasses.replace(PROFILES["lesson"], image_size=48), tmp_path / "out", workers=1)
    table = cohort.load(tmp_path / "out" / "cohort.parquet")
    assert len(table) == len(built) == len(rows) and len(pd.read_csv(tmp_path / "out" / "exclusions.csv")) == 2
    assert set(table.patient) == {f"phantom/{name}" for name in people.patient[people.mammo_domain != ""]}
    for held_out in SITES:
        assert cohort.leave_one_out(table, held_out, 42).groupby("patient").split.nunique().max() == 1


def test_quirks_are_the_same_bytes_every_time(plain, tmp_path):
    for site, (_, traps, _) in SITES.items():
        sums = []
        for name in "ab":
            root = shutil.copytree(plain / site, tmp_path / name / site)
            traps.apply(root, tuple(QUIRKS[site]))
            sums.append({str(p.relative_to(root)): sha256(p) for p in sorted(root.rglob("*")) if p.is_file()})
        assert sums[0] == sums[1] and len(sums[0]) > 10
