"""The dials of the phantom turn what their names say, by the stated amount, and nothing else."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from data_scripts import bach, cbis_ddsm, inbreast, link, phantom
from data_scripts.phantom import dials as of_phantom
from data_scripts.phantom import histology, histology_files, mammogram, mammogram_files, patients
from data_scripts.phantom.dials import Dials, displaced, marks, style_of, with_prevalence
from xmodal.config import DOMAINS, HISTOPATHOLOGY, MAMMOGRAPHY
from xmodal.imaging import mammograms, stain
from xmodal.runtime.files import sha256

STYLES = {**mammogram.STYLES, **histology.STYLES}
SITE_PAIRS = (("cbis_ddsm", "inbreast", mammogram.STYLES), ("bach", "camelyon", histology.STYLES))


def numbers(style):
    """What a style says of the look, as a dict of its fields less those of the files' layout."""
    fields = dataclasses.asdict(style)
    return {name: fields[name] for name in fields if name not in of_phantom.FIXED}


# ---- link --------------------------------------------------------------------------------------------------

def shown_twice(linked, seed=42):
    """The paired patients as mammography and as histopathology show them."""
    people = patients.cohort(seed)
    people = people[(people.mammo_domain != "") & (people.histo_domain != "")].reset_index(drop=True)
    dials = Dials(link=linked)
    return [patients.shown(people, modality, seed, dials) for modality in (MAMMOGRAPHY, HISTOPATHOLOGY)]


def first_ranks(pair):
    """Share of patients whose latents in one modality have their own in the other as the nearest."""
    places = []
    for table in pair:
        factors = ndtri(table[list(patients.FACTORS)].to_numpy(float).clip(1e-6, 1 - 1e-6))
        latents = table[list(patients.LATENTS)].to_numpy(float)
        places.append(np.hstack([factors, (latents - latents.mean(0)) / latents.std(0)]))
    distance = ((places[0][:, None] - places[1][None]) ** 2).sum(-1)
    return (distance.argmin(1) == np.arange(len(distance))).mean()


def test_by_default_the_latents_find_their_partner_and_fewer_the_looser_the_link():
    ranks = [first_ranks(shown_twice(value)) for value in (0.0, 0.5, 0.9, 0.97, 1.0)]
    assert ranks == sorted(ranks)
    assert Dials().link == 0.97 and ranks[3] >= 0.90
    assert ranks[0] < 0.1 and ranks[4] == 1


@pytest.mark.parametrize("linked", [0.0, 0.6, 0.97])
def test_factors_of_two_modalities_correlate_by_the_square_of_the_link(linked):
    first, second = shown_twice(linked)
    measured = [np.corrcoef(ndtri(first[name]), ndtri(second[name]))[0, 1] for name in patients.FACTORS]
    assert np.mean(measured) == pytest.approx(linked ** 2, abs=0.08)
    own, _ = shown_twice(1.0)
    measured = [np.corrcoef(ndtri(first[name]), ndtri(own[name]))[0, 1] for name in patients.FACTORS]
    assert np.mean(measured) == pytest.approx(linked, abs=0.08)


# ---- style -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("site", "mate", "styles"), SITE_PAIRS)
def test_at_distance_zero_two_sites_look_alike_and_at_one_as_listed(site, mate, styles):
    assert numbers(style_of(styles, site, 0.0)) == numbers(style_of(styles, mate, 0.0))
    for name in (site, mate):
        assert style_of(styles, name, 1.0) == styles[name]
    assert style_of(styles, "pretrain", 0.0) == styles["pretrain"]


@pytest.mark.parametrize(("site", "mate", "styles"), SITE_PAIRS)
def test_the_distance_of_two_sites_grows_in_proportion_until_a_number_would_be_negative(site, mate, styles):
    def both(name, distance):
        return np.array([getattr(style_of(styles, place, distance), name) for place in (site, mate)])

    for name, value in numbers(styles[site]).items():
        if isinstance(value, bool):
            continue
        gap = np.diff(both(name, 1.0), axis=0)
        np.testing.assert_allclose(np.diff(both(name, 0.5), axis=0), gap / 2, atol=1e-12)
        far = both(name, 2.0)
        positive = (far > 0).all(0)
        np.testing.assert_allclose(np.diff(far, axis=0)[..., positive], 2 * gap[..., positive], atol=1e-12)
        assert (far >= 0).all()


def test_film_loses_its_marks_where_sites_look_alike_and_files_keep_their_layout():
    assert not style_of(mammogram.STYLES, "cbis_ddsm", 0.4).film
    assert style_of(mammogram.STYLES, "cbis_ddsm", 0.5).film
    for distance in (0.0, 3.0):
        assert style_of(mammogram.STYLES, "inbreast", distance).white == 16383
        assert style_of(histology.STYLES, "camelyon", distance).glass
        assert style_of(histology.STYLES, "camelyon", distance).quality == 75


# ---- shortcut ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("share", [0.25, 0.54])
@pytest.mark.parametrize("correlation", [-1.0, -0.5, 0.0, 0.3, 0.9, 1.0])
def test_marks_correlate_with_malignancy_as_asked(correlation, share):
    rng = patients.generator(3, correlation, share)
    malignant = rng.random(40_000) < share
    marked = marks(malignant, correlation, rng)
    assert np.corrcoef(malignant, marked)[0, 1] == pytest.approx(correlation, abs=0.02)
    wanted = share if correlation >= 0 else 1 - share
    assert marked.mean() == pytest.approx(wanted, abs=0.02)


def test_without_a_shortcut_nobody_is_marked_and_the_target_has_its_own():
    people = patients.cohort(5, 200, 0)
    for site in DOMAINS:
        assert not patients.at_site(people, site, 5).marked.any()
    dials = Dials(shortcut=0.8, shortcut_at_target=-0.8, target="bach")
    for site in DOMAINS:
        mine = patients.at_site(people, site, 5, dials)
        measured = np.corrcoef(mine.diagnosis > 1, mine.marked)[0, 1]
        assert measured == pytest.approx(-0.8 if site == "bach" else 0.8, abs=0.1)


@pytest.mark.parametrize("site", ["cbis_ddsm", "inbreast"])
def test_the_bead_is_seen_in_the_image_that_the_model_gets_and_moves_no_lesion(site):
    people = patients.cohort(42)
    for row in people[people.mammo_domain == site].head(2).to_dict("records"):
        shrunk = []
        for marked in (False, True):
            image, mask = mammogram_files.picture({**row, "marked": marked}, "CC", site, 42)
            shrunk.append(mammograms.mammogram(image.astype(np.float32), mask, 0.2, 96))
        change = shrunk[1][0].astype(int) - shrunk[0][0]
        assert 3 <= (change > 80).sum() <= 40
        assert (shrunk[0][1] == shrunk[1][1]).all()


@pytest.mark.parametrize("site", ["bach", "camelyon"])
def test_pigment_outlasts_stain_normalisation(site):
    row = patients.cohort(42).iloc[0].to_dict()
    darkest = []
    for marked in (False, True):
        rng = patients.generator(42, site)
        rgb, _ = histology.draw({**row, "marked": marked}, histology.STYLES[site], rng, (400, 400), 1.0)
        centre = stain.macenko(rgb[100:356, 100:356])[0].astype(float).mean(-1)
        darkest.append((centre < 50).mean())
    assert darkest[1] > 0.001 + 2 * darkest[0]


# ---- prevalence, outlines, labels, pairs -------------------------------------------------------------------

def test_prevalence_is_that_of_the_target_and_classes_keep_their_proportions():
    for wanted in (0.1, 0.5, 0.9):
        people = patients.cohort(7, 100, 20, Dials(prevalence=wanted, target="inbreast"))
        at_target = people[people.mammo_domain == "inbreast"]
        assert (at_target.diagnosis > 1).mean() == pytest.approx(wanted, abs=0.02)
        rest = people[people.mammo_domain == "cbis_ddsm"]
        assert rest.diagnosis.equals(patients.cohort(7, 100, 20).diagnosis[rest.index])
    shares = with_prevalence((0.2, 0.3, 0.1, 0.4), 0.8)
    np.testing.assert_allclose(shares, (0.08, 0.12, 0.16, 0.64))


def test_outlines_move_by_the_stated_millimetres_and_stay_whole():
    mask = np.zeros((300, 240), bool)
    mask[140:155, 100:130] = True
    rng = np.random.default_rng(0)
    shifts = []
    for _ in range(200):
        moved = displaced(mask, 6.0, rng)
        assert moved.sum() == mask.sum()
        shifts.append(np.argwhere(moved)[0] - np.argwhere(mask)[0])
    np.testing.assert_allclose(np.std(shifts, 0) * 120 / 300, 6.0, rtol=0.15)
    assert displaced(mask, 0.0, rng) is mask
    assert displaced(mask, 500.0, rng).sum() == mask.sum()


def test_an_outline_error_leaves_the_image_as_it_is():
    row = patients.cohort(42).iloc[0].to_dict()
    image, mask = mammogram_files.picture(row, "MLO", "cbis_ddsm", 42)
    same, moved = mammogram_files.picture(row, "MLO", "cbis_ddsm", 42, Dials(outline_error=5.0))
    assert (image == same).all() and (mask != moved).any() and mask.sum() == moved.sum()


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4])
def test_label_noise_is_the_share_of_labels_of_a_neighbouring_class(noise):
    people = patients.cohort(9, 50, 5, Dials(label_noise=noise))
    off = (people.label - people.diagnosis).abs()
    assert (off > 0).sum() == round(noise * len(people)) and off.max() <= 1
    clean = patients.cohort(9, 50, 5)
    assert people.drop(columns="label").equals(clean.drop(columns="label"))


def test_pairs_are_the_patients_with_both_modalities_in_each_pair_of_domains():
    for pairs in (3, 11):
        people = patients.cohort(1, Dials(pairs=pairs).pairs, 2)
        assert ((people.mammo_domain != "") & (people.histo_domain != "")).sum() == 4 * pairs


# ---- the files ---------------------------------------------------------------------------------------------

def digest(root):
    """{path: sha256} of the files below `root`."""
    return {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture()
def small(monkeypatch):
    """Small pictures, quickly written."""
    monkeypatch.setattr(histology_files, "BACH_SHAPE", (96, 128))
    monkeypatch.setattr(histology_files, "SLIDE_SHAPE", (256, 256))
    monkeypatch.setattr(mammogram_files, "VIEWS", ("CC",))


def test_written_labels_are_noisy_and_the_registry_knows_the_truth(small, tmp_path):
    dials = Dials(pairs=1, label_noise=1.0, shortcut=0.5, style=0.0, outline_error=3.0)
    for name in ("a", "b"):
        phantom.write(tmp_path / name, seed=3, singles=0, workers=1, dials=dials)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    registry = pd.read_csv(tmp_path / "a" / "registry.csv").set_index("patient")
    people = patients.cohort(3, 1, 0, dials).set_index("patient")
    assert (registry.diagnosis == people.diagnosis[registry.index]).all()
    rows = link(bach.index(tmp_path / "a" / "bach"), tmp_path / "a" / "registry.csv")
    drawn = people.diagnosis[rows.patient.str.removeprefix("phantom/")]
    assert len(rows) and not any(allowed >> truth & 1 for allowed, truth in zip(rows.allowed, drawn))
    for module in (cbis_ddsm, inbreast):
        site = module.__name__.split(".")[1]
        assert len(module.index(tmp_path / "a" / site)) == (people.mammo_domain == site).sum()
