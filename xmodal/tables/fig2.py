"""The tables of Fig. 2: how well the two modalities of a patient are aligned."""
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import stats
from ..config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES
from ..methods import BEFORE, CONCAT, OURS
from .common import RUN, paired_tests, tidy


class Pairs(NamedTuple):
    """Patients seen by both modalities: (N,) names, (N,) classes (-1 unknown), (N, D) mean embeddings of unit length."""
    patient: np.ndarray
    truth: np.ndarray
    z_m: np.ndarray
    z_p: np.ndarray


def patient_pairs(embeddings, splits=("validation", "source test")):
    """The `Pairs` of a run's embeddings (a dict of arrays, see `record`) in splits that it was not trained on."""
    e = pd.DataFrame({name: embeddings[name] for name in ("patient", "modality", "truth")})
    keep = np.isin(embeddings["split"], splits)
    z, e = stats.unit(embeddings["z"])[keep], e[keep].reset_index(drop=True)
    rows = {m: e.index[e.modality == m].to_series().groupby(e.patient).agg(list) for m in MODALITIES}
    people = sorted(set(rows[MAMMOGRAPHY].index) & set(rows[HISTOPATHOLOGY].index))
    mean = lambda m: stats.unit(np.array([z[rows[m][p]].mean(0) for p in people]).reshape(len(people), z.shape[1]))
    truth = e.groupby("patient")["truth"].max()
    return Pairs(np.array(people, dtype=str), truth.reindex(people).to_numpy(int), mean(MAMMOGRAPHY), mean(HISTOPATHOLOGY))


def _spread(z, labels):
    """(within, between) class variance of the rows z, summed over dimensions."""
    centre = np.stack([z[labels == c].mean(0) for c in labels])
    return ((z - centre) ** 2).sum(1).mean(), ((centre - z.mean(0)) ** 2).sum(1).mean()


def alignment(p):
    """How well modalities are aligned and classes kept apart in `Pairs`; {} for fewer than two patients of known class.

    On unit vectors: intra-pair cosine; share of the variance that lies between classes; distance between the modalities'
    centroids; mean cosine of an embedding to its class's mean direction; silhouette and Davies-Bouldin index of the
    classes; variance within classes.
    """
    known = p.truth >= 0
    if known.sum() < 2:
        return {}
    z, labels = np.concatenate([p.z_m[known], p.z_p[known]]), np.tile(p.truth[known], 2)
    within, between = _spread(z, labels)
    means = stats.unit(np.stack([z[labels == c].mean(0) for c in labels]))
    return {"intra_pair_similarity": stats.intra_pair_similarity(p.z_m, p.z_p), "class_separability": between / (within + between),
            "modality_gap": stats.modality_gap(p.z_m, p.z_p), "cluster_compactness": float((z * means).sum(1).mean()),
            "silhouette": stats.silhouette(z, labels), "davies_bouldin": stats.davies_bouldin(z, labels),
            "intra_class_variance": within}


def fig2_map(p, how, seed=42):
    """Fig. 2 a-d: both embeddings of every patient in the plane. how: "umap" or "tsne" (arbitrary units), cosine distances.

    Columns patient, modality, truth, x, y. Fewer than 5 patients: empty, as there is no neighbourhood to draw.
    """
    columns = ["patient", "modality", "truth", "x", "y"]
    if len(p.patient) < 5:
        return tidy([], columns)
    z = np.concatenate([p.z_m, p.z_p])
    if how == "umap":
        import umap
        xy = umap.UMAP(n_neighbors=min(15, len(z) - 1), metric="cosine", random_state=seed, n_jobs=1).fit_transform(z)
    else:
        import openTSNE
        xy = np.asarray(openTSNE.TSNE(perplexity=min(30, (len(z) - 1) / 3), metric="cosine", random_state=seed, n_jobs=1).fit(z))
    return pd.DataFrame({"patient": np.tile(p.patient, 2), "modality": np.repeat(MODALITIES, len(p.patient)),
                         "truth": np.tile(p.truth, 2), "x": xy[:, 0], "y": xy[:, 1]})


def fig2e(p, per_class=25):
    """Fig. 2 e: cosine of every mammogram to every tissue embedding, at most `per_class` patients a class, ordered by class."""
    order = [i for c in range(len(CLASSES)) for i in np.flatnonzero(p.truth == c)[:per_class]]
    similarity = p.z_m[order] @ p.z_p[order].T
    return tidy([(i, j, p.truth[a], p.truth[b], similarity[i, j]) for i, a in enumerate(order) for j, b in enumerate(order)],
                  ["mammogram", "tissue", "truth_mammogram", "truth_tissue", "cosine"])


def fig2f(runs):
    """Fig. 2 f: the measures of `alignment` of every run, and `modality_gap_reduction`, 1 - gap / gap before alignment.

    runs: {(method, held_out, seed): Run}. Columns method, held_out, seed, measure, value; p_t is the paired t-test of the
    method against ours over folds and seeds.
    """
    values = {key: alignment(patient_pairs(run.embeddings)) for key, run in runs.items() if key[0] in (BEFORE, CONCAT, OURS)}
    for (method, held_out, seed), measures in values.items():
        before = values.get((BEFORE, held_out, seed))
        if measures and before:
            measures["modality_gap_reduction"] = 1 - measures["modality_gap"] / before["modality_gap"]
    table = tidy([(*key, name, value) for key, measures in values.items() for name, value in measures.items()], [*RUN, "measure", "value"])
    tests = [paired_tests(part, "value", ["held_out", "seed"]).assign(measure=name) for name, part in table.groupby("measure")]
    return table.merge(pd.concat(tests)[["method", "measure", "p_t"]], "left") if tests else table.assign(p_t=np.nan)


def fig2(runs, seed=42):
    """{"fig2a": table, ...}: maps and matrix of one fold (the first of ours), measures of all. What did not run is empty."""
    fold = next((key[1:] for key in runs if key[0] == OURS), None)
    nobody = Pairs(np.array([], str), np.array([], int), np.zeros((0, 1)), np.zeros((0, 1)))
    before, ours = (patient_pairs(runs[m, *fold].embeddings) if fold and (m, *fold) in runs else nobody for m in (BEFORE, OURS))
    flat = fig2_map(before, "umap", seed)
    return {"fig2a": flat, "fig2b": fig2_map(ours, "tsne", seed), "fig2c": flat, "fig2d": fig2_map(ours, "umap", seed),
            "fig2e": fig2e(ours), "fig2f": fig2f(runs)}
