"""Fusion of what patients of TCGA have: copy number, clinical record, slide."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from data_scripts import tcga_tables
from data_scripts.phantom.native import pyramid
from xmodal.companions import fusion, fusion_inputs, fusion_study, pictures
from xmodal.companions.paired import MODALITIES
from xmodal.config import HOME, Problem

OMICS = HOME.parent / "shared" / "data" / "tcga_brca_omics"
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
    """Thirty patients of five classes in the layout of GDC and Xena, and one without a class.

    Twenty have copy number, twelve a slide: of three sizes and with glass in a corner, so that none is a
    whole rectangle.
    """
    root = tmp_path_factory.mktemp("tcga")
    rng = np.random.default_rng(0)
    (root / "slides").mkdir()
    for i in range(12):
        rgb = (rng.integers(0, 40, (700 + 100 * (i % 3), 900, 3)) + (190, 100, 150)).astype(np.uint8)
        rgb[:450, :450] = 242
        pyramid(root / "slides" / f"{PATIENTS[i]}-01Z-00-DX1.svs", rgb, 0.5, 75)
    samples = [f"{p}-01" for p in PATIENTS]
    genes = pd.Index([f"G{i}" for i in range(6)], name="Gene Symbol")
    copies = pd.DataFrame(rng.normal(size=(6, 20)), genes, samples[:20])
    copies.assign(**{f"{PATIENTS[25]}-11": 9.0}).to_csv(root / "copy_number.tsv.gz", sep="\t")
    called = [*np.repeat(pictures.PAM50, 6), None]
    record = pd.DataFrame(
        {
            "sampleID": samples,
            "PAM50Call_RNAseq": called,
            "age_at_initial_pathologic_diagnosis": rng.integers(30, 80, 31),
            "breast_carcinoma_estrogen_receptor_status": ["Positive", "Negative", None] * 10 + ["Positive"],
            "breast_carcinoma_progesterone_receptor_status": "Positive",
            "pathologic_stage": "Stage IIA",
            "lab_proc_her2_neu_immunohistochemistry_receptor_status": "Equivocal",
            "number_of_lymphnodes_positive_by_he": 1.0,
        }
    )
    normal = record.head(2).assign(sampleID=[f"{patient}-11" for patient in PATIENTS[:2]])
    pd.concat([record, normal]).to_csv(root / "phenotype.tsv", sep="\t", index=False)
    return root


@pytest.fixture(scope="module")
def real(pam50_folder):
    return tcga_tables.pam50(pam50_folder, Colours().eval())


def test_patients_of_tcga_are_fused_from_what_they_have(real, tmp_path):
    """Every subset, bags of one size, graphs of any, and a patient who has the clinical record only."""
    assert real.patient.tolist() == PATIENTS[:30] and np.bincount(real.pam50).tolist() == [6] * 5
    patients = {modality: present.sum() for modality, present in fusion_inputs.having(real).items()}
    assert patients == {"copy number": 20, "clinical": 30, "bag": 12, "graph": 12}
    probabilities = fusion_study.study(real, FEW, 42, tmp_path)["probabilities"]
    fused = probabilities[probabilities.way == fusion_study.FUSED]
    single = fused[~fused.subset.str.contains("+", regex=False)]
    assert single.groupby("subset").size().to_dict() == patients
    whole = fused[fused.subset == " + ".join(MODALITIES)]
    assert sorted(whole.patient) == PATIENTS[:30]
    assert np.isfinite(whole.filter(regex=r"^p\d$").to_numpy()).all()


def test_edges_of_a_real_slide_join_the_tiles_that_touch(real):
    inputs = fusion_inputs.Inputs(real, np.arange(30), FEW)
    row = 2  # a patient with a slide
    xy = real.xy[row]
    graph = inputs.slides.graph(row)
    apart = np.abs(xy[:, None] - xy[None]).max(-1)
    touch = {(i, j) for i, j in np.argwhere(apart < 1.01) if i != j}
    assert set(map(tuple, graph.edge_index.T.tolist())) == touch
    assert len(graph.x) == len(xy) == len(real.bags[row]) < 16
    assert 0 < len(touch) < len(xy) * (len(xy) - 1), "glass in a corner, and tiles that lie apart"
    assert inputs.batch("bag", row).shape == (1, 10, 12)
    of_nobody = inputs.slides.graph(20)  # a patient without a slide
    assert (of_nobody.num_nodes, of_nobody.num_edges) == (1, 0)


def test_without_slides_and_copy_number_the_rest_is_fused(pam50_folder, tmp_path):
    (tmp_path / "phenotype.tsv").write_bytes((pam50_folder / "phenotype.tsv").read_bytes())
    alone = tcga_tables.pam50(tmp_path, None)
    assert list(fusion_inputs.having(alone)) == ["clinical"]
    probabilities = fusion_study.study(alone, FEW, 42, tmp_path / "runs")["probabilities"]
    assert set(probabilities.subset) == {"clinical"}
    assert sorted(probabilities[probabilities.way == fusion_study.FUSED].patient) == PATIENTS[:30]
    with pytest.raises(Problem, match="1 patients, among them TCGA-A8-0000, have no modality"):
        fusion_study.study(alone, FEW, 42, tmp_path / "runs", {"clinical": np.arange(30) > 0})
    (tmp_path / "phenotype.tsv").write_text("sampleID\tage\n")
    with pytest.raises(Problem, match="lacks the columns PAM50Call_RNAseq"):
        tcga_tables.pam50(tmp_path, None)


def test_mirna_and_classes_of_mogonet_are_read_and_must_fit(tmp_path):
    rng = np.random.default_rng(0)
    values = pd.DataFrame(rng.random((12, 3)))
    values.to_csv(tmp_path / "mogonet_3_te.csv", header=False, index=False)
    (tmp_path / "mogonet_3_featname.csv").write_text("hsa-let-7a-1\nhsa-mir-21\nhsa-mir-155\n")
    labels = np.arange(12) % 5
    (tmp_path / "mogonet_labels_te.csv").write_text("".join(f"{float(label)}\n" for label in labels))
    cohort = tcga_tables.mirna(tmp_path)
    assert cohort.pam50.tolist() == labels.tolist() and cohort.patient[3] == "MOGONET-003"
    assert list(cohort.more["miRNA"]) == ["hsa-let-7a-1", "hsa-mir-21", "hsa-mir-155"]
    assert np.allclose(cohort.more["miRNA"], values)
    (tmp_path / "mogonet_labels_te.csv").write_text("0\n1\n")
    with pytest.raises(Problem, match="3 names and 2 classes .* do not fit"):
        tcga_tables.mirna(tmp_path)


@pytest.mark.skipif(not OMICS.exists(), reason="the real tables lie outside the project")
def test_the_real_table_has_the_patients_that_it_says():
    cohort = tcga_tables.mirna(OMICS)
    assert np.bincount(cohort.pam50).tolist() == [35, 39, 14, 131, 44]
    assert cohort.more["miRNA"].shape == (263, 503)
