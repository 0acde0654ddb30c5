"""What test-time adaptation gains and costs, each condition against the same runs as trained.

Success under label shift, set before any was measured: where the share of malignant images in the target is
a third of what it was, adaptation costs no more than `HARM` in AUC, in the mean over the held-out domains.
That is shown only where the whole interval lies above -HARM.
"""
import numpy as np
import pandas as pd

from ..config import CONDITIONS, STREAMS
from .common import FOLD_AND_SEED, adjusted, aucs, paired_tests, tidy

HARM = 0.02         # AUC
TESTED = ["folds", "difference", "difference_low", "difference_high", "p_t", "p_t_holm", "family", "harm",
          "verdict"]


def against_source(table, value):
    """`paired_tests` over folds of a column, each condition against the runs as trained. Column condition."""
    of_conditions = table.drop(columns="method", errors="ignore").rename(columns={"condition": "method"})
    tests = paired_tests(of_conditions, value, "source").rename(columns={"method": "condition"})
    order = {name: i for i, name in enumerate((*CONDITIONS, *STREAMS))}
    return tests.sort_values("condition", key=lambda names: names.map(order), ignore_index=True)


def gains(predictions):
    """AUC on the unseen domains after each adaptation less that as trained, of each method that was adapted.

    Over folds, the seeds of a fold averaged first. Columns method, condition, folds, auc_source, auc (means
    over folds), difference, difference_low, difference_high, p_t, p_t_holm (over the whole table), family.
    """
    table = aucs(predictions[predictions.split == "target"])
    parts = []
    for method, runs in table.groupby("method", sort=False):
        mean = runs.groupby(["condition", "held_out"]).auc.mean().groupby("condition").mean()
        tests = against_source(runs, "auc")
        tests.insert(0, "method", method)
        tests.insert(3, "auc_source", mean.get("source", np.nan))
        tests.insert(4, "auc", tests.condition.map(mean))
        if len(tests):
            parts.append(tests)
    columns = ["method", "condition", "folds", "auc_source", "auc", "difference", "difference_low",
               "difference_high", "p_t"]
    whole = pd.concat(parts, ignore_index=True)[columns] if parts else tidy([], columns)
    return adjusted(whole, ["p_t"], "Holm over all methods and adaptations against source")


def label_shift(runs):
    """AUC and Brier score on targets with a third of the share of malignant images, by run and condition.

    Tests of the AUC against source over folds are repeated on each row of a condition. Columns method,
    held_out, seed, condition, malignant_share_before, malignant_share, images, patients, auc, brier, folds,
    difference, difference_low, difference_high, p_t, p_t_holm, family, harm (what was allowed), verdict.
    """
    columns = ["condition", "malignant_share_before", "malignant_share", "images", "patients", "auc", "brier"]
    parts = []
    for (method, held_out, seed), run in runs.items():
        if run.label_shift is not None:
            key = {"method": method, "held_out": held_out, "seed": seed}
            parts.append(run.label_shift[columns].assign(**key))
    columns = ["method", *FOLD_AND_SEED, *columns]
    if not parts:
        return tidy([], [*columns, *TESTED])
    table = pd.concat(parts, ignore_index=True)[columns]
    tests = adjusted(against_source(table, "auc"), ["p_t"], "Holm over the adaptations under label shift")
    tests["harm"] = HARM
    tests["verdict"] = [_verdict(*interval) for interval in zip(tests.difference_low, tests.difference_high)]
    return table.merge(tests[["condition", *TESTED]], "left", "condition")


def _verdict(low, high):
    """What the interval of a difference says of a loss of `HARM`."""
    if low > -HARM:
        return "no such loss"
    if high < -HARM:
        return "loss"
    return "not distinguished"
