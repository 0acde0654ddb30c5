"""The phantom's patients and mammograms: what the cohort covers, and that lesions are where masks say."""
import numpy as np
import pandas as pd
import pytest

from data_scripts.phantom import mammogram, mammogram_files, patients
from xmodal.config import DOMAINS
from xmodal.runtime.files import sha256

COHORT = patients.cohort(42)
SMALL = (300, 240)


def draw(row, view="CC", site="inbreast", shape=SMALL, seed=1):
    rng = patients.generator(seed, row["patient"], view)
    return mammogram.draw(row, view, mammogram.STYLES[site], rng, shape)


def example(**wanted):
    """A patient of the cohort that has the wanted values."""
    table = COHORT[COHORT.mammo_domain != ""]
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.iloc[0].to_dict()


def digest(root):
    """{path: sha256} of the files below `root`."""
    return {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}


def test_cohort_has_the_patients_that_the_panels_need():
    pairs = COHORT[(COHORT.mammo_domain != "") & (COHORT.histo_domain != "")]
    assert (pairs.groupby(["mammo_domain", "histo_domain"]).size() == 60).all()
    assert len(pairs) == 240 and len(COHORT) == 272
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


def test_nobody_with_a_node_in_camelyon_has_carcinoma_in_situ():
    nodes = COHORT[COHORT.histo_domain == "camelyon"]
    assert 2 not in set(nodes.diagnosis) and (nodes.diagnosis == 3).mean() == pytest.approx(0.47, abs=0.05)


def test_a_phantom_without_shared_patients_has_each_in_one_domain():
    apart = patients.cohort(42, pairs=0, singles=6)
    domains = apart.mammo_domain + apart.histo_domain
    assert domains.value_counts().to_dict() == dict.fromkeys(DOMAINS, 6) and apart.patient.is_unique


def test_latents_follow_the_class_and_overlap():
    means = COHORT.groupby("diagnosis")[list(patients.LATENTS)].mean()
    assert means.cellularity.is_monotonic_increasing and means.spread.is_monotonic_increasing
    assert means.calcification.idxmax() == 2
    benign, invasive = (COHORT[COHORT.diagnosis == d] for d in (1, 3))
    assert benign.cellularity.max() > invasive.cellularity.min()
    assert benign.severity.max() > invasive.severity.min()


def test_generator_depends_on_every_name_and_nothing_else():
    first = patients.generator(1, "a", "b").random(4)
    assert (first == patients.generator(1, "a", "b").random(4)).all()
    for other in ((2, "a", "b"), (1, "b", "a"), (1, "ab")):
        assert (first != patients.generator(*other).random(4)).all()


@pytest.mark.parametrize("lesion_type", patients.TYPES)
def test_a_lesion_lies_in_the_breast_has_its_diameter_and_shows(lesion_type):
    rows = COHORT[(COHORT.lesion_type == lesion_type) & (COHORT.mammo_domain != "")]
    rows = rows[rows.diameter_mm > 8].head(4)
    for row in rows.to_dict("records"):
        for view in ("CC", "MLO"):
            image, mask = draw(row, view)
            assert image.dtype == np.uint16 and image.shape == mask.shape == SMALL and mask.any()
            y, x = np.nonzero(mask)
            extent = max(np.ptp(y), np.ptp(x)) * mammogram.FIELD_MM / SMALL[0]
            assert 0.7 * row["diameter_mm"] < extent < 1.1 * row["diameter_mm"]
            assert (image[mask] > 0).all()                # digital background is 0: no part of it is in air
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
    grey = []
    for density, glandularity in zip("ABCD", (0.07, 0.32, 0.67, 0.92)):
        dense = {**row, "density": density, "glandularity": glandularity}
        images = [draw(dense, seed=seed)[0] for seed in range(3)]
        grey.append(np.mean(images))
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
        sums.append(digest(tmp_path / name))
    assert sums[0] == sums[1] != sums[2]
    assert len(sums[0]) == 4 + 4 * 3 + 4 + 1 + sum(2 for d in people.diagnosis if d)
