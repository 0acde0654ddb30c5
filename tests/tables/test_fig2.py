"""fig2: measures of alignment on known geometry, and panels of small runs."""
import numpy as np
import pytest
from small_runs import embeddings

from xmodal.tables.fig2 import (
    PatientEmbeddings,
    alignment,
    fig2_map,
    fig2_parts,
    fig2_tables,
    fig2e,
    fig2f,
    patient_embeddings,
    retrieved,
)


def test_patient_embeddings_are_unit_means_of_the_same_patients():
    e = embeddings(1, True)
    e["split"][e["patient"] == "p03"] = "target"        # not a patient that the model may be judged on here
    twice = {}                                          # the same mammogram of each again: the mean stays
    for name, values in e.items():
        twice[name] = np.concatenate([values, values[:30]])
    once, again = patient_embeddings(e), patient_embeddings(twice)
    assert "p03" not in once.patient and len(once.patient) == 29
    assert np.allclose(np.linalg.norm(once.z_m, axis=1), 1) and np.allclose(once.z_m, again.z_m)
    first = e["z"][0] / np.linalg.norm(e["z"][0])
    assert np.allclose(once.z_m[0], first) and once.truth[0] == 0


def test_without_patients_of_both_modalities_all_is_empty():
    mammograms = {name: values[:30] for name, values in embeddings(1, True).items()}
    nobody = patient_embeddings(mammograms)
    assert len(nobody.patient) == 0 and alignment(nobody) == {}
    assert fig2_map(nobody, "tsne").empty and fig2e(nobody).empty
    assert fig2f({}).empty and len(fig2f({}).columns)
    for table in fig2_tables({}).values():
        assert table.empty and len(table.columns)


def test_alignment_measures_on_known_geometry():
    names = np.array(list("abcd"))
    truth = np.array([0, 0, 1, 1])
    axis = np.eye(4)[truth]
    perfect = alignment(PatientEmbeddings(names, truth, axis, axis))
    assert perfect["intra_pair_similarity"] == pytest.approx(1)
    assert perfect["modality_gap"] == pytest.approx(0)
    assert perfect["class_separability"] == pytest.approx(1)
    assert perfect["cluster_compactness"] == pytest.approx(1)
    assert perfect["silhouette"] == pytest.approx(1) and perfect["intra_class_variance"] == pytest.approx(0)
    apart = alignment(PatientEmbeddings(names, truth, axis, -axis))
    assert apart["intra_pair_similarity"] == pytest.approx(-1) and apart["class_separability"] < .2


def test_maps_and_the_matrix_of_a_run(finished):
    patients = patient_embeddings(finished["ours", "bach", 42].embeddings)
    tsne = fig2_map(patients, "tsne")
    assert len(tsne) == 2 * len(patients.patient) and tsne.equals(fig2_map(patients, "tsne"))
    matrix = fig2e(patients)
    cosine = matrix.pivot(index="mammogram", columns="tissue", values="cosine").to_numpy()
    assert (np.diff(matrix[matrix.tissue == 0].truth_mammogram) >= 0).all()
    assert np.diag(cosine).mean() > cosine.mean()


def test_measures_of_runs_are_tested_against_ours(finished):
    table = fig2f(finished)
    mean = table.pivot_table(index="method", columns="measure", values="value")
    assert mean.modality_gap_reduction["mixstyle_irm"] == 0 and mean.modality_gap_reduction["ours"] > .5
    assert mean.intra_pair_similarity["ours"] > mean.intra_pair_similarity["mixstyle_irm"]
    assert table.p_t[table.method == "ours"].isna().all()
    against = table.query("method == 'mixstyle_irm' and measure == 'intra_pair_similarity'")
    assert (against.p_t < .05).all() and (against.folds == 4).all() and (against.difference_high < 0).all()
    assert (table.p_t_holm.dropna() >= table.p_t.dropna()).all()
    assert table.family.dropna().str.startswith("Holm over all measures and methods").all()


def test_what_a_part_costs_is_its_difference_from_ours(finished):
    runs = dict(finished)
    for (method, *fold_and_seed), run in finished.items():
        if method == "mixstyle_irm":
            runs["align_only", *fold_and_seed] = run          # finds as little as without alignment
    table = fig2_parts(runs)
    assert set(table.method) == {"mixstyle_irm", "ours", "align_only"} and set(table.whom) == {"unseen"}
    row = table[(table.method == "mixstyle_irm") & (table.held_out == "bach") & (table.seed == 42)].iloc[0]
    recall = retrieved(patient_embeddings(finished["mixstyle_irm", "bach", 42].embeddings))
    assert recall["r_at_5"] < recall["r_at_10"]
    assert (row.r_at_10, row.chance_at_10) == (recall["r_at_10"], recall["chance_at_10"])
    means = table.groupby(["whom", "method"]).r_at_10.mean()
    for (whom, method), rows in table.groupby(["whom", "method"]):
        if method != "ours":
            assert rows.difference.iloc[0] == pytest.approx(means[whom, method] - means[whom, "ours"])
    assert fig2_parts({}).empty
