"""How strong each term is: chosen on source validation, by the same small sweep for every method.

Gulrajani and Lopez-Paz 2021 ask for this: a comparison in which one method was tuned and another was not
says nothing of either. The sweep has a seed of its own, reads no target, and is repeated by `make
strengths`; what it chose stands in `methods.METHODS`, and what it measured in docs/strengths.csv.
"""
from dataclasses import replace

import pandas as pd

from .activations import images_of
from .cohort import leave_one_out
from .encoders import begin_from
from .learner import begin, fit, learner
from .methods import METHODS
from .record import seed_everything

SEED = 7        # of splits, batches and weights; none of the three that are reported
SWEEP = {       # method -> the switch and its values
    "irm": ("irm", (0.01, 0.1, 1.0)),
    "groupdro": ("dro", (0.01, 0.1, 1.0)),
    "coral": ("coral", (0.1, 1.0, 10.0)),
    "dann": ("dann", (0.01, 0.1, 1.0)),
    "ours": ("align", (0.1, 0.3, 1.0)),
}


def sweep(profile, table, methods=tuple(SWEEP), held_outs=None):
    """One row for each training: method, held_out, switch, value, validation (the best mean AUC of the source
    domains' validation patients)."""
    start, _ = begin_from(profile)
    rows = []
    for held_out in held_outs or sorted(set(table.domain)):
        fold = leave_one_out(table, held_out, SEED)
        for method in methods:
            switch, values = SWEEP[method]
            for value in values:
                switches = replace(METHODS[method], **{switch: value})
                seed_everything(SEED)
                model = begin(profile, switches, start)
                images = images_of(profile, model, table)
                seed_everything(SEED)
                history = fit(learner(profile, switches, fold, images, SEED, model), profile.epochs)
                rows.append({"method": method, "held_out": held_out, "switch": switch, "value": value,
                             "validation": history.valid_auc.max()})
    return pd.DataFrame(rows)


def choose(swept):
    """The value of each method with the best mean validation AUC over the folds, as a frame: method, switch,
    value, validation. Of equals the smallest."""
    means = swept.groupby(["method", "switch", "value"], as_index=False).validation.mean()
    means = means.sort_values(["method", "validation", "value"], ascending=[True, False, True])
    return means.groupby("method", as_index=False).first()
