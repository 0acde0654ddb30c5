"""What the tables of several figures share: writing, finished runs, decided images, AUC by run, paired tests.

`predictions` is what `record.collect` returns, `runs` what `runs` here returns. Runs that are missing (a
method, a domain, a seed) are simply not in a table; where all are missing the table is empty and its panel
says so.
"""
import itertools

import pandas as pd

from .. import config, record, stats
from ..cohort import malignant
from ..config import DOMAINS, SEEDS
from ..methods import ADAPTED, OURS
from ..runtime.files import atomic

FOLD_AND_SEED = ["held_out", "seed"]
RUN = ["method", *FOLD_AND_SEED]
ESTIMATE = ["value", "low", "high", "images", "patients"]


def write(table, name, profile):
    """Writes `table` atomically to the `config.panel_path` of the panel `name`, say "fig3f"; returns the
    path.

    profile: the Profile (or its name) whose runs the numbers are from; the first column, `data`, is what
    `config.data_of` says of it.
    """
    profile = config.profile(profile)
    path = config.panel_path(name)
    table = table.copy()
    table.insert(0, "data", config.data_of(profile))
    with atomic(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g")
    return path


def runs(profile, methods):
    """{(method, held_out, seed): Run} of `record.finished_runs`. Raises `Problem` where one is damaged."""
    folders = record.finished_runs(getattr(profile, "name", profile))
    finished = {}
    for method, held_out in itertools.product(methods, DOMAINS):
        for folder in folders:
            if folder.parts[-3:-1] == (method, held_out):
                run = record.load_run(folder)
                finished[method, held_out, int(run.config["seed"])] = run
    return finished


def tidy(rows, columns):
    """Rows as a table that has its columns also when it is empty."""
    return pd.DataFrame(rows, columns=columns)


def decided(predictions):
    """Rows of one modality whose label says malignant or not, with columns `y` (0/1) and `p` = p2 + p3."""
    rows = predictions[predictions.modality != "both"]
    rows = rows.assign(y=malignant(rows.allowed), p=rows.p2 + rows.p3)
    return rows[rows.y.notna()]


def contenders(predictions):
    """Decided target rows of every method as trained.

    And those of ours after causal adaptation, as the method `ours_tta`.
    """
    rows = decided(predictions[predictions.split == "target"])
    adapted = rows[(rows.method == OURS) & (rows.condition == "causal")].assign(method=ADAPTED)
    return pd.concat([rows[rows.condition == "source"], adapted], ignore_index=True)


def aucs(predictions):
    """AUC (malignant or not, by image) of every run, condition, split and domain.

    Columns method, held_out, seed, condition, split, domain, auc, images, patients.
    """
    by = [*RUN, "condition", "split", "domain"]
    rows = []
    for key, group in decided(predictions).groupby(by):
        rows.append((*key, stats.auc(group.y, group.p), len(group), group.patient.nunique()))
    return tidy(rows, [*by, "auc", "images", "patients"])


def adjusted(tests, columns, family):
    """`tests` with p-values adjusted over all of its rows that have one, by Holm's rule: <column>_holm.

    `family` says over what, and stands with their number in a column of that name.
    """
    for column in columns:
        tests[f"{column}_holm"] = stats.holm(tests[column])
    number = int(tests[list(columns)[0]].notna().sum())
    return tests.assign(family=f"{family}, {number} tests")


def paired_tests(table, value, reference=OURS):
    """Student's t of `value`, each method against the reference method, over the folds.

    Paired are the rows of one fold and seed; the seeds of a fold share their target patients, so that their
    differences are averaged and the folds are what is counted. Columns method, folds (their number),
    difference (the method less the reference), difference_low, difference_high (95 %), p_t.
    """
    wide = table.pivot_table(index=FOLD_AND_SEED, columns="method", values=value)
    rows = []
    for method in wide.columns.drop(reference, errors="ignore"):
        test = stats.paired_mean([])
        if reference in wide:
            gap = wide[method] - wide[reference]
            test = stats.paired_mean(gap, gap.index.get_level_values("held_out"))
        rows.append((method, test.units, test.difference, test.low, test.high, test.p))
    return tidy(rows, ["method", "folds", "difference", "difference_low", "difference_high", "p_t"])


def missing(predictions, methods, seeds=SEEDS):
    """{method: "bach 42, camelyon 1234"}: the folds and seeds that methods lack, "all" where none has run."""
    run = set(map(tuple, predictions[RUN].drop_duplicates().to_numpy()))
    lacking = {}
    for method in methods:
        absent = [key for key in itertools.product(DOMAINS, seeds) if (method, *key) not in run]
        if len(absent) == len(DOMAINS) * len(seeds):
            lacking[method] = "all"
        elif absent:
            lacking[method] = ", ".join(f"{held_out} {seed}" for held_out, seed in absent)
    return lacking
