"""Slides of TCGA and the tables beside them: patches where tissue is, patients joined, cohorts merged, fusion of what a patient has."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from data_scripts import tcga_tables
from data_scripts.phantom.histology_files import pyramid
from xmodal.companions import frozen, fusion, fusion_study, mirror, mirror_panels, paired, pictures, tasks
from xmodal.companions.paired import MODALITIES
from xmodal.config import HOME, Problem

SHARED = HOME.parent / "shared" / "data"


# ---- slides ---------------------------------------------------------------------------------------------------------

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
    rgb[:, :side * 2 // 3] = (230, 150, 190)
    for y, x in rng.integers(4, side * 2 // 3 - 4, (900, 2)):
        rgb[y - 4:y + 4, x - 4:x + 4] = (110, 60, 140)
    return rgb


def test_the_frozen_encoder_knows_a_cat_and_takes_no_gradient(encoder):
    """skimage's cat is one of ImageNet's cats (281-285) to the whole network, so the tensors lie where they should."""
    from skimage import data, transform
    picture = data.cat()[:, 75:375]
    square = (transform.resize(picture, (224, 224), anti_aliasing=True) * 255).astype(np.uint8)
    whole = frozen.ImageEncoder().net
    assert int(whole(pictures.scaled(whole, square[None])).argmax()) in range(281, 286)
    assert encoder(pictures.scaled(encoder, square[None])).shape == (1, 1280)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_slide_becomes_features_of_its_tissue_only(encoder, tmp_path):
    found = pictures.of_slide(phantom_slide(tmp_path / "a.tif", stained()), encoder, batch=3)
    assert found.features.shape == (len(found.xy), 1280) and 6 <= len(found.xy) < 16
    assert (found.xy[:, 0] + 224 < 0.75 * 900).all(), "glass on the right is left out"
    again = pictures.of_slide(tmp_path / "a.tif", encoder, batch=64)
    assert np.allclose(found.features, again.features, atol=1e-4)


def test_a_slide_without_tiles_and_an_encoder_without_weights_are_said(encoder, tmp_path):
    with pytest.raises(Problem, match="empty.tif has no tile with 50% tissue"):
        pictures.of_slide(phantom_slide(tmp_path / "empty.tif", np.full((900, 900, 3), 242, np.uint8)), encoder)
    with pytest.raises(Problem, match="timm has no weights for 'no_such_model'"):
        frozen.frozen_encoder("no_such_model")


# ---- MIRROR: slide, expression, subtype, survival ----------------------------------------------------------------

CASES = {"A8-A06U": "Infiltrating duct carcinoma, NOS", "A2-A3Y0": "Lobular carcinoma, NOS", "AN-A0AM": "Lobular carcinoma, NOS",
         "A7-A0CE": "Mucinous adenocarcinoma", "BH-A18V": "Lobular carcinoma, NOS", "BH-A1FR": "Lobular carcinoma, NOS"}


@pytest.fixture
def tcga_folder(tmp_path):
    """Six patients of BRCA: a ductal and a lobular one complete, one without expression, one with another diagnosis, one with a slide of
    normal tissue only, one whose first slide is damaged and whose second is glass; frozen sections beside."""
    slide = lambda case, kind="01Z", k=1: tmp_path / "slides" / f"TCGA-{case}-{kind}-00-DX{k}.svs"
    for case in ("A8-A06U", "A2-A3Y0", "AN-A0AM", "A7-A0CE"):
        phantom_slide(slide(case), stained())
    phantom_slide(slide("BH-A18V", "11A"), stained())
    phantom_slide(slide("BH-A1FR", k=2), np.full((900, 900, 3), 242, np.uint8))
    slide("BH-A1FR").write_bytes(slide("A8-A06U").read_bytes()[:1000])
    samples = ["TCGA-A8-A06U-01", "TCGA-A8-A06U-11", "TCGA-A2-A3Y0-01", "TCGA-A2-A3Y0-01B", "TCGA-A7-A0CE-01", "TCGA-BH-A18V-01",
               "TCGA-BH-A1FR-01", "no name"]
    pd.DataFrame(np.arange(24.0).reshape(3, 8), ["ESR1", "ERBB2", "TP53"], samples).to_csv(tmp_path / "expression.tsv.gz", sep="\t")
    pd.DataFrame({"case": [f"TCGA-{c}" for c in CASES], "days": [365, 30, 10, 10, 10, 10], "dead": [True, False, True, True, True, True],
                  "diagnosis": CASES.values(), "stage": ""}).to_csv(tmp_path / "clinical.csv", index=False)
    return tmp_path


def test_tcga_is_joined_by_patient_into_the_generators_shape(encoder, tcga_folder, caplog):
    found = tcga_tables.cohort(tcga_folder, "BRCA", encoder)
    assert found.patient.tolist() == ["TCGA-A2-A3Y0", "TCGA-A8-A06U"] and found.subtype.tolist() == [1, 0]
    assert found.event.tolist() == [0, 1] and found.time == pytest.approx([30 / 30.4375, 365 / 30.4375])
    assert found.expression.to_dict("list") == {"ESR1": [2, 0], "ERBB2": [10, 8], "TP53": [18, 16]}, "the first primary tumour"
    assert "TCGA-BH-A1FR-01Z-00-DX1.svs is left out" in caplog.text and "DX2.svs has no tile" in caplog.text
    assert "2 of 6 patients" in caplog.text
    assert all(b.shape[1] == 1280 and len(b) == len(xy) for b, xy in zip(found.bags, found.xy)) and len(found.select([1])) == 1
    kept = tcga_folder / "features" / "tf_efficientnet_lite0" / "TCGA-A8-A06U-01Z-00-DX1.npz"
    for path in (tcga_folder / "slides").glob("TCGA-A*"):
        path.write_bytes(b"read once")
    assert tcga_tables.cohort(tcga_folder, "BRCA", encoder).digest() == found.digest()
    kept.write_bytes(b"PK damaged")
    assert tcga_tables.cohort(tcga_folder, "BRCA", encoder).patient.tolist() == ["TCGA-A2-A3Y0"]
    assert "delete it, and it is made anew" in caplog.text
    with pytest.raises(Problem, match="no subtypes of 'LUAD'"):
        tcga_tables.cohort(tcga_folder, "LUAD", encoder)
    with pytest.raises(Problem, match="do not part into 5 folds"):
        tasks.folds(found, 42)


def test_lung_is_merged_from_two_projects_with_the_project_as_subtype(encoder, tmp_path):
    """LUAD's papillary carcinoma has no "adenocarcinoma" in its name, and each matrix a gene that the other lacks."""
    for project, case, said, own in (("LUAD", "TCGA-05-4244", "Papillary carcinoma, NOS", "NAPSA"),
                                     ("LUSC", "TCGA-18-3406", "Squamous cell carcinoma, NOS", "KRT5")):
        phantom_slide(tmp_path / project / "slides" / f"{case}-01Z-00-DX1.svs", stained(500))
        pd.DataFrame({f"{case}-01": [1.0, 2.0, 3.0]}, ["TP53", own, "EGFR"]).to_csv(tmp_path / project / "expression.tsv", sep="\t")
        clinical = pd.DataFrame({"case": [case], "days": [100], "dead": [True], "diagnosis": [said], "stage": [""]})
        clinical.to_csv(tmp_path / project / "clinical.csv", index=False)
    found = tcga_tables.cohort(tmp_path, "NSCLC", encoder)
    assert found.patient.tolist() == ["TCGA-05-4244", "TCGA-18-3406"] and found.subtype.tolist() == [0, 1]
    assert list(found.expression) == ["TP53", "EGFR"] and found.site.tolist() == ["05", "18"]
    (tmp_path / "LUSC" / "expression.tsv").unlink()
    with pytest.raises(Problem, match="no expression.tsv or expression.tsv.gz in .*LUSC"):
        tcga_tables.cohort(tmp_path, "NSCLC", encoder)


def test_ductal_and_lobular_are_told_apart_and_mixed_ones_are_neither():
    said = ["Infiltrating duct carcinoma, NOS", "Lobular carcinoma, NOS", "Infiltrating duct and lobular carcinoma",
            "Infiltrating duct mixed with other types of carcinoma", "Medullary carcinoma, NOS", ""]
    assert tcga_tables.subtypes(pd.DataFrame({"diagnosis": said})).tolist() == [0, 1, -1, -1, -1, -1]


def test_attention_on_a_slide_lies_where_its_patches_were_drawn():
    """Three of six patches of two real slides, whose tumour nobody outlined: the drawn positions carry the drawn attention."""
    six = paired.draw(2, side=5)
    bags, xy, tumour = (np.empty(2, object) for _ in range(3))
    for i in range(2):
        bags[i], xy[i], tumour[i] = np.arange(6.0)[:, None], np.column_stack([np.arange(6), np.arange(6) + i]), np.full(6, np.nan)
    real = dataclasses.replace(six, bags=bags, xy=xy, tumour=tumour, subtype=np.array([0, 1]))
    seen = pd.DataFrame([tasks.draw_patches(bag, 3, 42)[:, 0] / 10 for bag in bags]).assign(patient=real.patient, method="MIRROR", fold=0)
    cases, everyone = mirror_panels.fig4(real, seen, 42)
    assert cases.attention.tolist() == pytest.approx((cases.x / 10).tolist()) and (cases.y - cases.x).tolist() == [0] * 3 + [1] * 3
    assert everyone.auc.isna().all() and cases.tumour.isna().all()
    whole = mirror_panels.fig4(six, pd.DataFrame(six.tumour * 1.0).assign(patient=six.patient, method="MIRROR", fold=0), 42)
    assert (whole[1].auc == 1).all() and (whole[0].tumour == whole[0].attention).all()


def test_mirror_is_trained_on_slides_of_any_size(tmp_path):
    """Sixty slides of 15 to 24 patches, 12 drawn of each; no factor is known."""
    drawn = paired.draw(60, side=5)
    bags, xy, tumour = (np.empty(60, object) for _ in range(3))
    for i in range(60):
        bags[i], xy[i], tumour[i] = (v[i][:15 + i % 10] for v in (drawn.bags, drawn.xy, drawn.tumour))
    real = dataclasses.replace(drawn, bags=bags, xy=xy, tumour=tumour, factors={})
    settings = dataclasses.replace(mirror.SETTINGS["lesson"], epochs=1, patches=12)
    found = mirror.study(real, ["MIRROR", "ABMIL", "linear"], settings, 42, tmp_path, which=[0])
    assert set(found) == {"tasks", "rna", "attention", "genes"} and found["tasks"].groupby("method").size().tolist() == [6, 6, 6]
    cases, everyone = mirror_panels.fig4(real, found["attention"], 42)
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


@pytest.mark.skipif(not (SHARED / "tcga_brca_clinical").exists(), reason="the real TCGA-BRCA tables lie outside the project")
def test_two_published_tables_of_tcga_agree_on_who_died():
    """One table says censorship = 1 and calls days months, the other says E: read rightly, they agree on patients of both."""
    clinical = tcga_tables.regions(SHARED / "tcga_brca_clinical")
    slides = tcga_tables.slide_survival(SHARED / "tcga_brca_clinical" / "patchgcn_tcga_brca_slides.csv")
    both = slides.drop_duplicates("case_id").set_index("case_id").join(clinical[["time", "event"]].add_suffix("_clinical"), how="inner")
    assert len(both) > 1000 and (both.event == both.event_clinical).mean() > 0.99
    assert (both.time / both.time_clinical).median() == pytest.approx(1)
    assert len(clinical) == 1083 and len(clinical.attrs["exclusions"]) == 13


# ---- fusion: copy number, clinical record, slide -----------------------------------------------------------------

FEW = dataclasses.replace(fusion.SETTINGS["lesson"], epochs=2, patches=10)


class Colours(torch.nn.Module):
    """An encoder that costs nothing: the mean colour of each quarter of a tile."""
    default_cfg = {"architecture": "colours", "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, tiles):
        return self.scale * F.adaptive_avg_pool2d(tiles, 2).flatten(1)


PATIENTS = [f"TCGA-A8-{i:04d}" for i in range(31)]


@pytest.fixture(scope="module")
def pam50_folder(tmp_path_factory):
    """Thirty patients of five classes in the layout of GDC and Xena, and one without a class. Twenty have copy number, twelve a slide: of
    three sizes and with glass in a corner, so that none is a whole rectangle."""
    root, rng = tmp_path_factory.mktemp("tcga"), np.random.default_rng(0)
    (root / "slides").mkdir()
    for i in range(12):
        rgb = (rng.integers(0, 40, (700 + 100 * (i % 3), 900, 3)) + (190, 100, 150)).astype(np.uint8)
        rgb[:450, :450] = 242
        pyramid(root / "slides" / f"{PATIENTS[i]}-01Z-00-DX1.svs", rgb, 0.5, 75)
    samples = [f"{p}-01" for p in PATIENTS]
    copies = pd.DataFrame(rng.normal(size=(6, 20)), [f"G{i}" for i in range(6)], samples[:20]).rename_axis("Gene Symbol")
    copies.assign(**{f"{PATIENTS[25]}-11": 9.0}).to_csv(root / "copy_number.tsv.gz", sep="\t")
    called = [*np.repeat(pictures.PAM50, 6), None]
    told = pd.DataFrame({"sampleID": samples, "PAM50Call_RNAseq": called, "age_at_initial_pathologic_diagnosis": rng.integers(30, 80, 31),
                         "breast_carcinoma_estrogen_receptor_status": ["Positive", "Negative", None] * 10 + ["Positive"],
                         "breast_carcinoma_progesterone_receptor_status": "Positive", "pathologic_stage": "Stage IIA",
                         "lab_proc_her2_neu_immunohistochemistry_receptor_status": "Equivocal", "number_of_lymphnodes_positive_by_he": 1.0})
    pd.concat([told, told.head(2).assign(sampleID=[f"{p}-11" for p in PATIENTS[:2]])]).to_csv(root / "phenotype.tsv", sep="\t", index=False)
    return root


@pytest.fixture(scope="module")
def real(pam50_folder):
    return tcga_tables.pam50(pam50_folder, Colours().eval())


def test_patients_of_tcga_are_fused_from_what_they_have(real, tmp_path):
    """Every subset, bags of one size and graphs of any, and a patient who lacks all but the clinical record."""
    assert real.patient.tolist() == PATIENTS[:30] and np.bincount(real.pam50).tolist() == [6] * 5
    present = fusion.having(real)
    assert {m: there.sum() for m, there in present.items()} == {"copy number": 20, "clinical": 30, "bag": 12, "graph": 12}
    found = fusion_study.study(real, FEW, 42, tmp_path)["probabilities"]
    fused = found[found.way == fusion_study.FUSED]
    assert {name: len(rows) for name, rows in fused.groupby("subset") if "+" not in name} == {m: t.sum() for m, t in present.items()}
    whole = fused[fused.subset == " + ".join(MODALITIES)]
    assert sorted(whole.patient) == PATIENTS[:30] and np.isfinite(whole.filter(regex=r"^p\d$").to_numpy()).all()


def test_edges_of_a_real_slide_join_the_tiles_that_touch(real):
    inputs = fusion.Inputs(real, np.arange(30), FEW)
    row, lacking = 2, 20                                  # a patient with a slide, and one without
    xy, graph = real.xy[row], inputs.slides.graph(row)
    apart = np.abs(xy[:, None] - xy[None]).max(-1)
    touch = {(i, j) for i, j in np.argwhere(apart < 1.01) if i != j}
    assert set(map(tuple, graph.edge_index.T.tolist())) == touch and len(graph.x) == len(xy) == len(real.bags[row]) < 16
    assert 0 < len(touch) < len(xy) * (len(xy) - 1), "glass in a corner, and tiles that lie apart"
    assert inputs.batch("bag", row).shape == (1, 10, 12)
    assert (inputs.slides.graph(lacking).num_nodes, inputs.slides.graph(lacking).num_edges) == (1, 0)


def test_without_slides_and_copy_number_the_rest_is_fused(pam50_folder, tmp_path):
    (tmp_path / "phenotype.tsv").write_bytes((pam50_folder / "phenotype.tsv").read_bytes())
    alone = tcga_tables.pam50(tmp_path, None)
    assert list(fusion.having(alone)) == ["clinical"]
    found = fusion_study.study(alone, FEW, 42, tmp_path / "runs")["probabilities"]
    assert set(found.subset) == {"clinical"} and sorted(found[found.way == fusion_study.FUSED].patient) == PATIENTS[:30]
    with pytest.raises(Problem, match="1 patients, among them TCGA-A8-0000, have no modality"):
        fusion_study.study(alone, FEW, 42, tmp_path / "runs", {"clinical": np.arange(30) > 0})
    (tmp_path / "phenotype.tsv").write_text("sampleID\tage\n")
    with pytest.raises(Problem, match="lacks the columns PAM50Call_RNAseq"):
        tcga_tables.pam50(tmp_path, None)
