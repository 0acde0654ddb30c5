"""The tables of Fig. 2 a-f: how well the two modalities of a patient are aligned."""
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import stats
from ..cohort import malignant, pairing, partners
from ..config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES
from ..methods import ABLATIONS, BEFORE, CONCAT, OURS, UNTOUCHED
from ..metrics.embeddings import retrieval
from ..predict import agreed
from .common import RUN, adjusted, paired_tests, tidy

UNSEEN = ("validation", "source test")
TRAINING = ("train",)


class PatientEmbeddings(NamedTuple):
    """N pairs of a mammogram's and a tissue's mean embeddings of unit length: patients seen by both
    modalities or, where nobody was, pairs by label (`cohort.partners`)."""
    patient: np.ndarray     # (N,) names, of the mammography patient
    truth: np.ndarray       # (N,) classes, -1 unknown
    z_m: np.ndarray         # (N, D) of mammograms
    z_p: np.ndarray         # (N, D) of tissue
    pairs: str = "patient"  # or "label"
    label: np.ndarray = None    # (N,) malignant or not, of pairs by label


NOBODY = PatientEmbeddings(np.array([], str), np.array([], int), np.zeros((0, 1)), np.zeros((0, 1)))


def patient_embeddings(embeddings, splits=UNSEEN):
    """The `PatientEmbeddings` of a run in these splits; by default those that it was not trained on.

    embeddings: a dict of arrays, one entry per image, see `record`.
    """
    rows = pd.DataFrame({name: values for name, values in embeddings.items() if name != "z"})
    in_splits = np.isin(embeddings["split"], splits)
    rows = rows[in_splits].reset_index(drop=True)
    z = stats.unit(embeddings["z"])[in_splits]
    by_patient = {m: part.groupby("patient") for m, part in rows.groupby("modality")}
    if len(by_patient) < len(MODALITIES):
        return NOBODY
    partner = partners(rows)

    def mean_of(modality, patients):
        numbers = by_patient[modality].indices
        of_modality = z[(rows.modality == modality).to_numpy()]
        means = np.array([of_modality[numbers[patient]].mean(0) for patient in patients])
        return stats.unit(means.reshape(len(patients), z.shape[1]))

    people = sorted(partner)
    tissue = [partner[patient] for patient in people]
    truth_m = by_patient[MAMMOGRAPHY].truth.max()[people].to_numpy(int)
    truth_p = by_patient[HISTOPATHOLOGY].truth.max()[tissue].to_numpy(int)
    z_m = mean_of(MAMMOGRAPHY, people)
    z_p = mean_of(HISTOPATHOLOGY, tissue)
    names = np.array(people, dtype=str)
    if pairing(rows) == "patient":
        return PatientEmbeddings(names, np.maximum(truth_m, truth_p), z_m, z_p)
    label = malignant(by_patient[MAMMOGRAPHY].allowed.first()[people])
    return PatientEmbeddings(names, agreed(truth_m, truth_p), z_m, z_p, "label", label)


def retrieved(patients):
    """`metrics.embeddings.retrieval` of `PatientEmbeddings`; of pairs by label all tissue of the same label
    is right."""
    return retrieval(patients.z_m, patients.z_p, patients.label, patients.label)


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
    Davies-Bouldin index of the classes; variance within classes; of `retrieved` the cosine of pairs less that
    of others, the rank and R@10. Fewer than two patients of known class: {}.
    """
    known = patients.truth >= 0
    if known.sum() < 2:
        return {}
    z = np.concatenate([patients.z_m[known], patients.z_p[known]])
    labels = np.tile(patients.truth[known], 2)
    within, between = _class_variances(z, labels)
    class_directions = stats.unit(np.stack([z[labels == label].mean(0) for label in labels]))
    by_rank = retrieved(patients)
    return {
        "intra_pair_similarity": stats.intra_pair_similarity(patients.z_m, patients.z_p),
        "class_separability": between / (within + between),
        "modality_gap": stats.modality_gap(patients.z_m, patients.z_p),
        "cluster_compactness": float((z * class_directions).sum(1).mean()),
        "silhouette": stats.silhouette(z, labels),
        "davies_bouldin": stats.davies_bouldin(z, labels),
        "intra_class_variance": within,
        "pair_gain": by_rank["pair_gain"],
        "retrieval_rank": by_rank["rank"],
        "r_at_10": by_rank["r_at_10"],
    }


def fig2_map(patients, how, seed=42):
    """Fig. 2 a-d: both embeddings of every pair in the plane.

    how: "umap" or "tsne" (arbitrary units), on cosine distances.
    Columns patient, modality, truth, x, y, pairs. Fewer than 5 pairs: empty, as there is no neighbourhood to
    draw.
    """
    columns = ["patient", "modality", "truth", "x", "y", "pairs"]
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
        "truth": np.tile(patients.truth, 2), "x": xy[:, 0], "y": xy[:, 1], "pairs": patients.pairs})


def fig2e(patients, per_class=25):
    """Fig. 2 e: cosine of every mammogram to every tissue embedding, ordered by class.

    At most `per_class` patients of each class.
    """
    order = []                              # of those whose class is known
    for label in range(len(CLASSES)):
        order += np.flatnonzero(patients.truth == label)[:per_class].tolist()
    similarity = patients.z_m[order] @ patients.z_p[order].T
    rows = []
    for i, mammogram in enumerate(order):
        for j, tissue in enumerate(order):
            rows.append((i, j, patients.truth[mammogram], patients.truth[tissue], similarity[i, j]))
    columns = ["mammogram", "tissue", "truth_mammogram", "truth_tissue", "cosine"]
    return tidy(rows, columns).assign(pairs=patients.pairs)


def fig2_retrieval(runs):
    """fig2_retrieval.csv: how well a mammogram finds its tissue, on training and on unseen patients.

    runs: {(method, held_out, seed): Run}. One row per run of the methods of panel f and of whom (`training`,
    `unseen`); columns method, held_out, seed, whom, pairs, and those of `metrics.embeddings.retrieval`.
    """
    rows = []
    for key, run in measured(runs).items():
        for whom, splits in (("training", TRAINING), ("unseen", UNSEEN)):
            patients = patient_embeddings(run.embeddings, splits)
            if len(patients.patient) > 1:
                names = dict(zip(RUN, key)) | {"whom": whom, "pairs": patients.pairs}
                rows.append(names | retrieved(patients))
    empty = [*RUN, "whom", "pairs", *retrieved(NOBODY)]
    return tidy(rows, empty)


def fig2_parts(runs):
    """fig2_parts.csv: what holds alignment back, from ours with a part left out, and without alignment.

    runs: {(method, held_out, seed): Run}. One row per run and of whom (`training`, `unseen`): its R@10, that
    of chance, and, of the same whom, `paired_tests` of the method less ours over folds; p_t_holm is adjusted
    over all methods and both.
    """
    rows = []
    for (method, *fold_and_seed), run in runs.items():
        if method not in (BEFORE, OURS, *ABLATIONS):
            continue
        for whom, splits in (("training", TRAINING), ("unseen", UNSEEN)):
            patients = patient_embeddings(run.embeddings, splits)
            if len(patients.patient) > 1:
                recall = retrieved(patients)
                rows.append((method, *fold_and_seed, whom, recall["r_at_10"], recall["chance_at_10"]))
    table = tidy(rows, [*RUN, "whom", "r_at_10", "chance_at_10"])
    tests = [paired_tests(part, "r_at_10").assign(whom=whom) for whom, part in table.groupby("whom")]
    if not tests:
        return table
    family = "Holm over all methods against ours, training and unseen"
    return table.merge(adjusted(pd.concat(tests, ignore_index=True), ["p_t"], family), "left")


def measured(runs):
    """The runs of the methods of panel f that have embeddings."""
    return {key: run for key, run in runs.items() if key[0] in (UNTOUCHED, BEFORE, CONCAT, OURS)}


def fig2f(runs):
    """Fig. 2 f: the measures of `alignment` of every run, and by how much alignment reduced the gap.

    That is `modality_gap_reduction`, 1 - gap / gap before; `retrieval_rank_training` is that of the patients
    who were trained on. runs: {(method, held_out, seed): Run}. Columns method, held_out, seed, measure,
    value, and those of `paired_tests` against ours; p_t_holm is adjusted over all measures and methods.
    """
    measures = {}
    for key, run in measured(runs).items():
        measures[key] = alignment(patient_embeddings(run.embeddings))
        trained_on = patient_embeddings(run.embeddings, TRAINING)
        if measures[key] and len(trained_on.patient) > 1:
            measures[key]["retrieval_rank_training"] = retrieved(trained_on)["rank"]
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


def verdict(table, measure="retrieval_rank"):
    """What a `fig2f` table says of alignment in one sentence, from the paired difference and its interval."""
    rows = table[(table.measure == measure) & (table.method == BEFORE)]
    if not len(rows) or pd.isna(rows.difference_low.iloc[0]):
        return "Whether alignment helps to find an unseen patient's tissue is not known: too few folds ran."
    row = rows.iloc[0]
    low, high = -row.difference_high, -row.difference_low                   # of ours less no alignment
    what = "changes the rank of an unseen patient's tissue by"
    numbers = f"{-row.difference:+.3f} [{low:+.3f}, {high:+.3f}] (0 best, 0.5 chance; {row.folds:.0f} folds)"
    if low <= 0 <= high:
        return f"Alignment is not distinguished from none: it {what} {numbers}."
    return f"Alignment {what} {numbers}: {'better' if high < 0 else 'worse'} than none."


def median_run(runs):
    """(held_out, seed) of the run of ours whose retrieval of unseen patients is the median of all that have
    a run without alignment beside them, so that a rule and no hand chooses what panels a-e show; or None."""
    ranks = []
    for (method, *fold_and_seed), run in sorted(runs.items()):
        if method == OURS:
            patients = patient_embeddings(run.embeddings)
            alone = (BEFORE, *fold_and_seed) not in runs
            ranks.append((alone, retrieved(patients)["rank"], *fold_and_seed))
    ranks.sort(key=lambda row: (row[0], np.nan_to_num(row[1], nan=2.0)))
    beside = [row for row in ranks if row[0] == ranks[0][0]]
    return beside[(len(beside) - 1) // 2][2:] if beside else None


def fig2_tables(runs, seed=42):
    """{"fig2a": table, ...}: maps and matrix of one run, named in them (`median_run`), and the measures and
    retrieval of all runs.

    What did not run is empty.
    """
    before = ours = NOBODY
    shown = {"held_out": "", "seed": "", "runs": 0}
    fold_and_seed = median_run(runs)
    if fold_and_seed:
        ours = patient_embeddings(runs[OURS, *fold_and_seed].embeddings)
        if (BEFORE, *fold_and_seed) in runs:
            before = patient_embeddings(runs[BEFORE, *fold_and_seed].embeddings)
        of_ours = sum(method == OURS for method, _, _ in runs)
        shown = {"held_out": fold_and_seed[0], "seed": fold_and_seed[1], "runs": of_ours}
    before_umap = fig2_map(before, "umap", seed)
    tables = {"fig2a": before_umap, "fig2b": fig2_map(ours, "tsne", seed), "fig2c": before_umap,
              "fig2d": fig2_map(ours, "umap", seed), "fig2e": fig2e(ours)}
    tables = {name: table.assign(**shown) for name, table in tables.items()}
    return tables | {"fig2f": fig2f(runs), "fig2_retrieval": fig2_retrieval(runs),
                     "fig2_parts": fig2_parts(runs)}
