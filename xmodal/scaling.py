"""What would more patients bring? Retrieval and AUC against the number of patients that a training has.

The lesson's training with and without alignment, on fresh phantoms of one site with both modalities, and as
many steps for each number, so that only the patients differ. The table is docs/scaling.csv; `make scaling`
draws the patients with `data_scripts.phantom.pretraining` and measures it anew.
"""
import sys
from dataclasses import replace

import numpy as np
import pandas as pd

from . import config
from .cohort import load
from .config import HISTOPATHOLOGY, MAMMOGRAPHY
from .metrics.embeddings import retrieval
from .predict import predict
from .probes import patient_means
from .runtime.files import atomic
from .strengths import auc_of, fitted

PATIENTS = (70, 300, 1000, 4000)
VALIDATION = 100
AMONG = 70                      # patients among whose tissue it is looked for
UNSEEN = 4 * AMONG
METHODS = ("erm", "align_only")
STEPS = 500                     # once through 4,000 patients
TABLE = config.HOME / "docs" / "scaling.csv"


def fold_of(table, n, seed):
    """`table` with a `split` for `n` patients to learn from, drawn by `seed`; those that are validated and
    those that are unseen are the same for every n and seed."""
    names = np.array(sorted(table.patient.unique()))
    fixed = np.random.default_rng(0).permutation(names)
    unseen, validation, rest = np.split(fixed, [UNSEEN, UNSEEN + VALIDATION])
    learnt = np.random.default_rng(seed).permutation(rest)[:n]
    split = pd.Series("", index=names)
    for name, of in (("train", learnt), ("validation", validation), ("target", unseen)):
        split[of] = name
    rows = table.assign(split=table.patient.map(split))
    return rows[rows.split != ""]


def measured(profile, method, n, seed, table):
    """What one training comes to on the unseen patients: r_at_10 among `AMONG` and its chance, auc (the mean
    of both modalities)."""
    fold = fold_of(table, n, seed)
    epochs = max(1, round(STEPS * profile.batch / n))
    model, images, _ = fitted(profile, method, fold, epochs, seed, table)
    rows = fold[fold.split == "target"]
    predictions, embeddings = predict(model, rows, images, boxes=False)
    z_m, z_p, _ = patient_means(embeddings["z"], rows)
    groups = np.array_split(np.random.default_rng(0).permutation(len(z_m)), len(z_m) // AMONG)
    among = pd.DataFrame([retrieval(z_m[group], z_p[group]) for group in groups]).mean()
    single = predictions[predictions.modality.isin((MAMMOGRAPHY, HISTOPATHOLOGY))]
    return {"r_at_10": among.r_at_10, "chance_at_10": among.chance_at_10, "auc": auc_of(single)}


def scaled(profile, table, sizes=PATIENTS, seeds=config.SEEDS):
    """One row for each method, number of patients and seed, see `measured`."""
    rows = []
    for n in sizes:
        for method in METHODS:
            for seed in seeds:
                row = {"method": method, "patients": n, "seed": seed}
                rows.append(row | measured(profile, method, n, seed, table))
    return pd.DataFrame(rows)


def main():
    """Writes docs/scaling.csv from the patients in data/scaling."""
    profile = replace(config.profile("lesson"), name="scaling")
    table = scaled(profile, load(config.DATA / profile.name / "cohort.parquet"))
    with atomic(TABLE) as partial_path:
        table.to_csv(partial_path, index=False, float_format="%.5g", lineterminator="\n")
    sys.stdout.write(table.groupby(["method", "patients"]).mean().to_string() + "\n")


if __name__ == "__main__":
    main()
