"""The tables of Fig. 2 a-f: how well the two modalities of a patient are aligned."""
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import stats
from ..config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES
from ..methods import BEFORE, CONCAT, OURS
from .common import RUN, adjusted, paired_tests, tidy


class PatientEmbeddings(NamedTuple):
    """N patients seen by both modalities, with their mean embeddings of unit length."""
    patient: np.ndarray     # (N,) names
    truth: np.ndarray       # (N,) classes, -1 unknown
    z_m: np.ndarray         # (N, D) of mammograms
    z_p: np.ndarray         # (N, D) of tissue


NOBODY = PatientEmbeddings(np.array([], str), np.array([], int), np.zeros((0, 1)), np.zeros((0, 1)))


def patient_embeddings(embeddings, splits=("validation", "source test")):
    """The `PatientEmbeddings` of a run in splits that it was not trained on.

    embeddings: a dict of arrays, one entry per image, see `record`.
    """
    in_splits = np.isin(embeddings["split"], splits)
    images = pd.DataFrame({name: embeddings[name] for name in ("patient", "modality", "truth")})
    images = images[in_splits].reset_index(drop=True)
    z = stats.unit(embeddings["z"])[in_splits]
    rows = {}                                       # modality: Series of lists of row numbers, by patient
    for modality in MODALITIES:
        of_modality = images[images.modality == modality]
        rows[modality] = of_modality.index.to_series().groupby(of_modality.patient).agg(list)
    people = sorted(set(rows[MAMMOGRAPHY].index) & set(rows[HISTOPATHOLOGY].index))

    def mean_of(modality):
        means = np.array([z[rows[modality][patient]].mean(0) for patient in people])
        return stats.unit(means.reshape(len(people), z.shape[1]))

    truth = images.groupby("patient")["truth"].max().reindex(people).to_numpy(int)
    names = np.array(people, dtype=str)
    return PatientEmbeddings(names, truth, mean_of(MAMMOGRAPHY), mean_of(HISTOPATHOLOGY))


def _class_variances(z, labels):
    """(within, between) class variance of the rows z, summed over dimensions."""
    centre = np.stack([z[labels == label].mean(0) for label in labels])
    within = ((z - centre) ** 2).sum(1).mean()
    between = ((centre - z.mean(0)) ** 2).sum(1).mean()
    return within, between


def alignment(patients):
    """How well modalities are aligned and classes kept apart in `PatientEmbeddings`.

    On unit vectors: intra-pair cosine; share of the variance that lies between classes; distance between the
    modalities' centroids; mean cosine of an embedding to its class's mean direction; silhouette and
    Davies-Bouldin index of the classes; variance within classes. Fewer than two patients of known class: {}.
    """
    known = patients.truth >= 0
    if known.sum() < 2:
        return {}
    z = np.concatenate([patients.z_m[known], patients.z_p[known]])
    labels = np.tile(patients.truth[known], 2)
    within, between = _class_variances(z, labels)
    class_directions = stats.unit(np.stack([z[labels == label].mean(0) for label in labels]))
    return {
        "intra_pair_similarity": stats.intra_pair_similarity(patients.z_m, patients.z_p),
        "class_separability": between / (within + between),
        "modality_gap": stats.modality_gap(patients.z_m, patients.z_p),
        "cluster_compactness": float((z * class_directions).sum(1).mean()),
        "silhouette": stats.silhouette(z, labels),
        "davies_bouldin": stats.davies_bouldin(z, labels),
        "intra_class_variance": within,
    }


def fig2_map(patients, how, seed=42):
    """Fig. 2 a-d: both embeddings of every patient in the plane.

    how: "umap" or "tsne" (arbitrary units), on cosine distances.
    Columns patient, modality, truth, x, y. Fewer than 5 patients: empty, as there is no neighbourhood to
    draw.
    """
    columns = ["patient", "modality", "truth", "x", "y"]
    if len(patients.patient) < 5:
        return tidy([], columns)
    z = np.concatenate([patients.z_m, patients.z_p])
    if how == "umap":
        import umap
        neighbours = min(15, len(z) - 1)
        plane = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1)
        xy = plane.fit_transform(z)
    else:
        import openTSNE
        perplexity = min(30, (len(z) - 1) / 3)
        plane = openTSNE.TSNE(perplexity=perplexity, metric="cosine", random_state=seed, n_jobs=1)
        xy = np.asarray(plane.fit(z))
    return pd.DataFrame({
        "patient": np.tile(patients.patient, 2), "modality": np.repeat(MODALITIES, len(patients.patient)),
        "truth": np.tile(patients.truth, 2), "x": xy[:, 0], "y": xy[:, 1]})


def fig2e(patients, per_class=25):
    """Fig. 2 e: cosine of every mammogram to every tissue embedding, ordered by class.

    At most `per_class` patients of each class.
    """
    order = []
    for label in range(len(CLASSES)):
        order += np.flatnonzero(patients.truth == label)[:per_class].tolist()
    similarity = patients.z_m[order] @ patients.z_p[order].T
    rows = []
    for i, mammogram in enumerate(order):
        for j, tissue in enumerate(order):
            rows.append((i, j, patients.truth[mammogram], patients.truth[tissue], similarity[i, j]))
    return tidy(rows, ["mammogram", "tissue", "truth_mammogram", "truth_tissue", "cosine"])


def fig2f(runs):
    """Fig. 2 f: the measures of `alignment` of every run, and by how much alignment reduced the gap.

    That is `modality_gap_reduction`, 1 - gap / gap before. runs: {(method, held_out, seed): Run}. Columns
    method, held_out, seed, measure, value, and those of `paired_tests` against ours; p_t_holm is adjusted
    over all measures and methods.
    """
    measures = {}
    for key, run in runs.items():
        if key[0] in (BEFORE, CONCAT, OURS):
            measures[key] = alignment(patient_embeddings(run.embeddings))
    for (_, held_out, seed), of_run in measures.items():
        before = measures.get((BEFORE, held_out, seed))
        if of_run and before:
            of_run["modality_gap_reduction"] = 1 - of_run["modality_gap"] / before["modality_gap"]
    rows = []
    for key, of_run in measures.items():
        rows += [(*key, name, value) for name, value in of_run.items()]
    table = tidy(rows, [*RUN, "measure", "value"])
    tests = []
    for name, part in table.groupby("measure"):
        tests.append(paired_tests(part, "value").assign(measure=name))
    if not tests:
        return table.assign(p_t=np.nan, p_t_holm=np.nan)
    family = "Holm over all measures and methods against ours"
    return table.merge(adjusted(pd.concat(tests, ignore_index=True), ["p_t"], family), "left")


def fig2_tables(runs, seed=42):
    """{"fig2a": table, ...}: maps and matrix of one fold and seed (the first of ours), measures of all runs.

    What did not run is empty.
    """
    before = ours = NOBODY
    fold_and_seed = next((key[1:] for key in runs if key[0] == OURS), None)
    if fold_and_seed:
        ours = patient_embeddings(runs[OURS, *fold_and_seed].embeddings)
        if (BEFORE, *fold_and_seed) in runs:
            before = patient_embeddings(runs[BEFORE, *fold_and_seed].embeddings)
    before_umap = fig2_map(before, "umap", seed)
    return {"fig2a": before_umap, "fig2b": fig2_map(ours, "tsne", seed), "fig2c": before_umap,
            "fig2d": fig2_map(ours, "umap", seed), "fig2e": fig2e(ours), "fig2f": fig2f(runs)}
