"""Table 2: what each part of ours is worth on a domain that no run has seen."""
from ..methods import BEFORE, OURS
from .common import adjusted, aucs, paired_tests, tidy

CHANGES = {     # method -> what ours lacks in it
    "no_adapters": "no adapters",
    "frozen_encoder": "encoder frozen: adapters, necks and heads only",
    "no_lesion": "no lesion term",
    "fixed_weights": "task weights fixed at 1",
    BEFORE: "no alignment",
    "align_only": "alignment alone",
    "mixstyle": "MixStyle alone",
    "irm": "IRM alone",
    "erm": "none of the parts",
    OURS: "",
}


def table2_table(predictions):
    """Table 2: AUC of ours on the unseen domain, and with parts of it left out or alone.

    One row per method of CHANGES that has run. Columns method, change, auc (mean over folds and seeds), sd,
    source_auc (of test patients of the source domains), runs, and the `paired_tests` of `auc` against ours
    over folds (difference: less ours); p_t_holm is adjusted over the table.
    """
    rows = predictions[predictions.method.isin(list(CHANGES)) & (predictions.condition == "source")]
    table = aucs(rows)
    target = table[table.split == "target"]
    of_source = table[table.split == "source test"].groupby("method").auc.mean()
    tests = adjusted(paired_tests(target, "auc"), ["p_t"], "Holm over the table")
    means = []
    for method, change in CHANGES.items():
        runs = target[target.method == method].auc
        if len(runs):
            means.append((method, change, runs.mean(), runs.std(), of_source.get(method), len(runs)))
    columns = ["method", "change", "auc", "sd", "source_auc", "runs"]
    return tidy(means, columns).merge(tests, "left")
