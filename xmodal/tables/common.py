"""The tables that the figures are drawn from: runs in, one small tidy table a panel out. A figure needs nothing else.

`predictions` is what `record.collect` returns, `runs` what `runs` here returns. Runs that are missing (a method, a domain,
a seed) are simply not in a table; where none is there the table is empty and its panel says so.
"""
import itertools

import numpy as np
import pandas as pd

from .. import config, record, stats
from ..cohort import malignant
from ..config import DOMAINS
from ..methods import ADAPTED, OURS
from ..runtime.files import atomic

RUN = ["method", "held_out", "seed"]


def write(table, name, profile):
    """Writes `table` as figures/fig3/fig3f.csv for the name "fig3f", or figures/kmat/kmat_table2.csv for "kmat_table2", atomically;
    returns the path.

    profile: the Profile (or its name) whose runs the numbers are from; the first column, `data`, says phantom or public.
    """
    profile = config.profile(getattr(profile, "name", profile))
    path = config.panel_path(name)
    table = table.copy()
    table.insert(0, "data", "phantom" if profile.phantom else "public")
    with atomic(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g")
    return path


def runs(profile, methods):
    """{(method, held_out, seed): Run} of the finished runs of these methods. Raises `Problem` where one is damaged."""
    name = getattr(profile, "name", profile)
    found = {}
    for method, held_out in itertools.product(methods, DOMAINS):
        for folder in sorted((config.RUNS / name / method / held_out).glob("seed_*/done")):
            run = record.load_run(folder.parent)
            found[method, held_out, int(run.config["seed"])] = run
    return found


def tidy(rows, columns):
    """Rows (dicts) as a table that has its columns also when it is empty."""
    return pd.DataFrame(rows, columns=columns)


def paired_tests(table, value, by, reference=OURS):
    """Per method: paired t and Wilcoxon p of `value` against the reference method over the rows that share `by`, Holm-adjusted.

    The rows of one fold share their target patients, so these p-values are rather small than large.
    """
    from scipy import stats as dist
    wide = table.pivot_table(index=by, columns="method", values=value)
    rows = []
    for method in wide.columns.drop(reference, errors="ignore"):
        both = wide[[method, reference]].dropna() if reference in wide else wide.iloc[:0]
        gap = both[method] - both[reference] if len(both) else pd.Series(dtype=float)
        testable = len(gap) > 1 and gap.std() > 0
        rows.append((method, len(gap), dist.ttest_1samp(gap, 0).pvalue if testable else np.nan,
                     dist.wilcoxon(gap).pvalue if testable else np.nan))
    tests = pd.DataFrame(rows, columns=["method", "pairs", "p_t", "p_wilcoxon"])
    return tests.assign(p_t_holm=stats.holm(tests.p_t), p_wilcoxon_holm=stats.holm(tests.p_wilcoxon))


# ---- Fig. 3: leave one domain out --------------------------------------------------------------------------------

def decided(predictions):
    """Rows of a single modality whose label says malignant or not, with columns `y` (0/1) and `p` = p2 + p3."""
    rows = predictions[predictions.modality != "both"]
    rows = rows.assign(y=malignant(rows.allowed), p=rows.p2 + rows.p3)
    return rows[rows.y.notna()]


def contenders(predictions):
    """Decided target rows of every method as trained, and of ours after causal adaptation as the method `ours_tta`."""
    rows = decided(predictions[predictions.split == "target"])
    adapted = rows[(rows.method == OURS) & (rows.condition == "causal")].assign(method=ADAPTED)
    return pd.concat([rows[rows.condition == "source"], adapted], ignore_index=True)


def aucs(predictions):
    """AUC (malignant or not, by image) of every run, condition, split and domain. Columns method, held_out, seed, condition,
    split, domain, auc, images, patients."""
    by = [*RUN, "condition", "split", "domain"]
    return tidy([(*key, stats.auc(g.y, g.p), len(g), g.patient.nunique()) for key, g in decided(predictions).groupby(by)],
                  [*by, "auc", "images", "patients"])


# ---- Fig. 6 and Table 1: the model and the objective -------------------------------------------------------------

FOUND = ["value", "low", "high", "images", "patients"]
