"""Slides of TCGA and the tables beside them: patches where tissue is, patients joined, cohorts merged."""
import dataclasses

import numpy as np
import pandas as pd
import pytest

from data_scripts import tcga_tables
from data_scripts.phantom.native import pyramid
from xmodal.companions import frozen, mirror, mirror_panels, mirror_study, paired, pictures, tasks
from xmodal.config import HOME, Problem

SHARED = HOME.parent / "shared" / "data"


# ---- slides ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder():
    return frozen.frozen_encoder()


def phantom_slide(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyramid(path, rgb, 0.5, 75)
    return path


def stained(side=900):
    """A 0.45 mm square: tissue with nuclei on the left two thirds, glass on the right."""
    rng = np.random.default_rng(0)
    rgb = np.full((side, side, 3), 242, np.uint8)
    rgb[:, : side * 2 // 3] = (230, 150, 190)
    for y, x in rng.integers(4, side * 2 // 3 - 4, (900, 2)):
        rgb[y - 4 : y + 4, x - 4 : x + 4] = (110, 60, 140)
    return rgb


def test_the_frozen_encoder_knows_a_cat_and_takes_no_gradient(encoder):
    """To the whole network skimage's cat is one of ImageNet's cats (281-285): the tensors lie in place."""
    from skimage import data, transform

    picture = data.cat()[:, 75:375]
    square = (transform.resize(picture, (224, 224), anti_aliasing=True) * 255).astype(np.uint8)
    whole = frozen.ImageEncoder().net
    assert int(whole(pictures.scaled(whole, square[None])).argmax()) in range(281, 286)
    assert encoder(pictures.scaled(encoder, square[None])).shape == (1, 1280)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_slide_becomes_features_of_its_tissue_only(encoder, tmp_path):
    patches = pictures.of_slide(phantom_slide(tmp_path / "a.tif", stained()), encoder, batch=3)
    assert patches.features.shape == (len(patches.xy), 1280) and 6 <= len(patches.xy) < 16
    assert (patches.xy[:, 0] + 224 < 0.75 * 900).all(), "glass on the right is left out"
    again = pictures.of_slide(tmp_path / "a.tif", encoder, batch=64)
    assert np.allclose(patches.features, again.features, atol=1e-4)


def test_a_slide_without_tiles_and_an_encoder_without_weights_are_said(encoder, tmp_path):
    glass = phantom_slide(tmp_path / "empty.tif", np.full((900, 900, 3), 242, np.uint8))
    with pytest.raises(Problem, match="empty.tif has no tile with 50% tissue"):
        pictures.of_slide(glass, encoder)
    with pytest.raises(Problem, match="timm has no weights for 'no_such_model'"):
        frozen.frozen_encoder("no_such_model")


# ---- MIRROR: slide, expression, subtype, survival ----------------------------------------------------------

CASES = {
    "A8-A06U": "Infiltrating duct carcinoma, NOS",
    "A2-A3Y0": "Lobular carcinoma, NOS",
    "AN-A0AM": "Lobular carcinoma, NOS",
    "A7-A0CE": "Mucinous adenocarcinoma",
    "BH-A18V": "Lobular carcinoma, NOS",
    "BH-A1FR": "Lobular carcinoma, NOS",
}


@pytest.fixture
def tcga_folder(tmp_path):
    """Six patients of BRCA; a ductal and a lobular one are complete.

    One has no expression, one another diagnosis, one a slide of normal tissue only, and of one the first
    slide is damaged and the second is glass.
    """

    def slide(case, kind="01Z", k=1):
        return tmp_path / "slides" / f"TCGA-{case}-{kind}-00-DX{k}.svs"

    for case in ("A8-A06U", "A2-A3Y0", "AN-A0AM", "A7-A0CE"):
        phantom_slide(slide(case), stained())
    phantom_slide(slide("BH-A18V", "11A"), stained())
    phantom_slide(slide("BH-A1FR", k=2), np.full((900, 900, 3), 242, np.uint8))
    slide("BH-A1FR").write_bytes(slide("A8-A06U").read_bytes()[:1000])
    samples = [
        "TCGA-A8-A06U-01",
        "TCGA-A8-A06U-11",
        "TCGA-A2-A3Y0-01",
        "TCGA-A2-A3Y0-01B",
        "TCGA-A7-A0CE-01",
        "TCGA-BH-A18V-01",
        "TCGA-BH-A1FR-01",
        "no name",
    ]
    expression = pd.DataFrame(np.arange(24.0).reshape(3, 8), ["ESR1", "ERBB2", "TP53"], samples)
    expression.to_csv(tmp_path / "expression.tsv.gz", sep="\t")
    clinical = pd.DataFrame({"case": [f"TCGA-{case}" for case in CASES], "days": [365, 30, 10, 10, 10, 10]})
    clinical = clinical.assign(dead=clinical.days != 30, diagnosis=CASES.values(), stage="")
    clinical.to_csv(tmp_path / "clinical.csv", index=False)
    return tmp_path


def test_tcga_is_joined_by_patient_into_the_generators_shape(encoder, tcga_folder, caplog):
    two = tcga_tables.cohort(tcga_folder, "BRCA", encoder)
    assert two.patient.tolist() == ["TCGA-A2-A3Y0", "TCGA-A8-A06U"] and two.subtype.tolist() == [1, 0]
    assert two.event.tolist() == [0, 1] and two.time == pytest.approx([30 / 30.4375, 365 / 30.4375])
    of_first_tumours = {"ESR1": [2, 0], "ERBB2": [10, 8], "TP53": [18, 16]}
    assert two.expression.to_dict("list") == of_first_tumours
    assert "TCGA-BH-A1FR-01Z-00-DX1.svs is left out" in caplog.text and "DX2.svs has no tile" in caplog.text
    assert "2 of 6 patients" in caplog.text
    assert all(bag.shape == (len(xy), 1280) for bag, xy in zip(two.bags, two.xy))
    assert len(two.select([1])) == 1
    stored = tcga_folder / "features" / "tf_efficientnet_lite0" / "TCGA-A8-A06U-01Z-00-DX1.npz"
    for path in (tcga_folder / "slides").glob("TCGA-A*"):
        path.write_bytes(b"read once")
    assert tcga_tables.cohort(tcga_folder, "BRCA", encoder).digest() == two.digest()
    stored.write_bytes(b"PK damaged")
    assert tcga_tables.cohort(tcga_folder, "BRCA", encoder).patient.tolist() == ["TCGA-A2-A3Y0"]
    assert "delete it, and it is made anew" in caplog.text
    with pytest.raises(Problem, match="no subtypes of 'LUAD'"):
        tcga_tables.cohort(tcga_folder, "LUAD", encoder)
    with pytest.raises(Problem, match="do not part into 5 folds"):
        tasks.folds(two, 42)


def test_slides_on_disk_are_read_one_at_a_time_and_give_the_same_cohort(tmp_path):
    cohort = paired.draw(8, side=5)
    paths = []
    for name, bag in zip(cohort.patient[:5], cohort.bags):
        paths.append(tmp_path / f"{name}.npz")
        np.savez(paths[-1], features=bag, xy=np.zeros((len(bag), 2)), side=1.0)
    files = pictures.SlideFiles([*paths, None], cohort.bags.shape[2])
    assert len(files) == 6 and len(files[5]) == 0 and files[[1, 3]].paths.tolist() == [paths[1], paths[3]]
    six = dataclasses.replace(cohort.select(range(6)), bags=files)
    assert np.array_equal(six.select([2]).bags[0], cohort.bags[2])
    before = six.digest()
    np.savez(paths[0], features=cohort.bags[7], xy=np.zeros((25, 2)), side=1.0)
    assert six.digest() != before, "another slide is another cohort"


def test_lung_is_merged_from_two_projects_with_the_project_as_subtype(encoder, tmp_path):
    """LUAD's papillary carcinoma has no "adenocarcinoma" in its name; each matrix has a gene of its own."""
    for project, case, diagnosis, gene in (
        ("LUAD", "TCGA-05-4244", "Papillary carcinoma, NOS", "NAPSA"),
        ("LUSC", "TCGA-18-3406", "Squamous cell carcinoma, NOS", "KRT5"),
    ):
        phantom_slide(tmp_path / project / "slides" / f"{case}-01Z-00-DX1.svs", stained(500))
        expression = pd.DataFrame({f"{case}-01": [1.0, 2.0, 3.0]}, ["TP53", gene, "EGFR"])
        expression.to_csv(tmp_path / project / "expression.tsv", sep="\t")
        clinical = pd.DataFrame({"case": [case], "days": 100, "dead": True, "stage": ""})
        clinical = clinical.assign(diagnosis=diagnosis)
        clinical.to_csv(tmp_path / project / "clinical.csv", index=False)
    lung = tcga_tables.cohort(tmp_path, "NSCLC", encoder)
    assert lung.patient.tolist() == ["TCGA-05-4244", "TCGA-18-3406"] and lung.subtype.tolist() == [0, 1]
    assert list(lung.expression) == ["TP53", "EGFR"] and lung.site.tolist() == ["05", "18"]
    (tmp_path / "LUSC" / "expression.tsv").unlink()
    with pytest.raises(Problem, match="no expression.tsv or expression.tsv.gz in .*LUSC"):
        tcga_tables.cohort(tmp_path, "NSCLC", encoder)


def test_ductal_and_lobular_are_told_apart_and_mixed_ones_are_neither():
    diagnoses = [
        "Infiltrating duct carcinoma, NOS",
        "Lobular carcinoma, NOS",
        "Infiltrating duct and lobular carcinoma",
        "Infiltrating duct mixed with other types of carcinoma",
        "Medullary carcinoma, NOS",
        "",
    ]
    clinical = pd.DataFrame({"diagnosis": diagnoses})
    assert tcga_tables.subtypes(clinical).tolist() == [0, 1, -1, -1, -1, -1]


def test_attention_on_a_slide_lies_where_its_patches_were_drawn():
    """Three of six patches of two real slides are drawn; their tumour is not outlined."""
    six = paired.draw(2, side=5)
    bags, xy, tumour = (np.empty(2, object) for _ in range(3))
    for i in range(2):
        bags[i] = np.arange(6.0)[:, None]
        xy[i] = np.column_stack([np.arange(6), np.arange(6) + i])
        tumour[i] = np.full(6, np.nan)
    real = dataclasses.replace(six, bags=bags, xy=xy, tumour=tumour, subtype=np.array([0, 1]))
    seen = pd.DataFrame([tasks.draw_patches(bag, 3, 42)[:, 0] / 10 for bag in bags])
    seen = seen.assign(patient=real.patient, method="MIRROR", fold=0)
    cases, everyone = mirror_panels.fig4(real, seen, 42)
    assert cases.attention.tolist() == pytest.approx((cases.x / 10).tolist())
    assert (cases.y - cases.x).tolist() == [0] * 3 + [1] * 3
    assert everyone.auc.isna().all() and cases.tumour.isna().all()
    perfect = pd.DataFrame(six.tumour * 1.0).assign(patient=six.patient, method="MIRROR", fold=0)
    cases, everyone = mirror_panels.fig4(six, perfect, 42)
    assert (everyone.auc == 1).all() and (cases.tumour == cases.attention).all()


def test_mirror_is_trained_on_slides_of_any_size(tmp_path):
    """Sixty slides of 15 to 24 patches, 12 drawn of each; no factor is known."""
    drawn = paired.draw(60, side=5)
    bags, xy, tumour = (np.empty(60, object) for _ in range(3))
    for i in range(60):
        bags[i], xy[i], tumour[i] = (v[i][: 15 + i % 10] for v in (drawn.bags, drawn.xy, drawn.tumour))
    real = dataclasses.replace(drawn, bags=bags, xy=xy, tumour=tumour, factors={})
    settings = dataclasses.replace(mirror.SETTINGS["lesson"], epochs=1, patches=12)
    methods = dict.fromkeys(["MIRROR", "ABMIL", "linear"], [0])
    results = mirror_study.study(real, methods, settings, 42, tmp_path)
    assert set(results) == {"tasks", "history", "rna", "attention", "genes"}
    assert results["tasks"].groupby("method").size().tolist() == [3, 3, 3]
    cases, everyone = mirror_panels.fig4(real, results["attention"], 42)
    assert len(everyone) == 12 and cases.groupby("patient").size().tolist() == [12, 12]


def test_tables_that_are_not_what_they_should_be_are_said(tmp_path):
    (tmp_path / "expression.tsv").write_text("gene\tsample\nESR1\t1\n")
    with pytest.raises(Problem, match="no primary tumour"):
        tcga_tables.matrix(tmp_path / "expression.tsv")
    (tmp_path / "expression.tsv").write_text("gene\tTCGA-A8-A06U-01\nESR1\thigh\n")
    with pytest.raises(Problem, match="text where numbers belong"):
        tcga_tables.matrix(tmp_path / "expression.tsv")
    (tmp_path / "slides.csv").write_text("case_id,slide_id\na,b\n")
    with pytest.raises(Problem, match="lacks the columns censorship, survival_months"):
        tcga_tables.slide_survival(tmp_path / "slides.csv")


@pytest.mark.skipif(
    not (SHARED / "tcga_brca_clinical").exists(), reason="the real TCGA-BRCA tables lie outside the project"
)
def test_two_published_tables_of_tcga_agree_on_who_died(caplog):
    """One says censorship = 1 and calls days months, the other says E: read rightly, they agree."""
    clinical = tcga_tables.regions(SHARED / "tcga_brca_clinical")
    slides = tcga_tables.slide_survival(SHARED / "tcga_brca_clinical" / "patchgcn_tcga_brca_slides.csv")
    cases = slides.drop_duplicates("case_id").set_index("case_id")
    both = cases.join(clinical[["time", "event"]].add_suffix("_clinical"), how="inner")
    assert len(both) > 1000 and (both.event == both.event_clinical).mean() > 0.99
    assert (both.time / both.time_clinical).median() == pytest.approx(1)
    assert len(clinical) == 1083 and "13 of 1096 patients" in caplog.text
