"""How strong each term is: chosen on source validation, by the same small sweep for every method.

Gulrajani and Lopez-Paz 2021 ask for this: a comparison in which one method was tuned and another was not says
nothing of either. The sweep has a seed of its own and is repeated by `make strengths`; what it chose stands
in `methods.METHODS`, and what it measured in docs/strengths.csv. The AUC on the target is measured too, to
show how much hangs on each constant, and chooses nothing.
"""
import sys
from dataclasses import replace

import pandas as pd

from . import config
from .activations import images_of
from .adapt_run import adapted, described, read
from .cohort import leave_one_out, load, malignant
from .encoders import begin_from
from .learner import begin, fit, learner
from .methods import METHODS, OURS
from .metrics.selection import select
from .predict import load_model, predict
from .record import load_run, run_dir, seed_everything
from .runtime.files import atomic
from .stats import mean_auc

SEED = 7        # of splits, batches and weights; none of the three that are reported
SWEEP = {       # method -> the switch and its values
    "irm": ("irm", (0.01, 0.1, 1.0)),
    "groupdro": ("dro", (0.01, 0.1, 1.0)),
    "coral": ("coral", (0.1, 1.0, 10.0)),
    "dann": ("dann", (0.01, 0.1, 1.0)),
    OURS: ("align", (0.1, 0.3, 1.0)),
}
RATES = {       # learning rate -> its values beside the profile's, with ours
    "lr": (3e-4, 3e-3),
    "encoder_lr": (6e-5, 6e-4),
}
ANCHORS = (0.0, 8.0, 32.0, 128.0)    # of Eq. 5
TABLE = config.HOME / "docs" / "strengths.csv"


def sweep(profile, table, methods=tuple(SWEEP), held_outs=None):
    """One row for each training of a method with each value of its switch, see `measured`."""
    rows = []
    for held_out in held_outs or sorted(set(table.domain)):
        for method in methods:
            switch, values = SWEEP[method]
            for value in values:
                switches = replace(METHODS[method], **{switch: value})
                row = measured(profile, switches, held_out, table)
                rows.append({"method": method, "switch": switch, "value": value, **row})
    return pd.DataFrame(rows)


def sweep_rates(profile, table, held_outs=None):
    """One row for each training of ours with another learning rate, see `measured`."""
    rows = []
    for held_out in held_outs or sorted(set(table.domain)):
        for switch, values in RATES.items():
            for value in values:
                row = measured(replace(profile, **{switch: value}), METHODS[OURS], held_out, table)
                rows.append({"method": OURS, "switch": switch, "value": value, **row})
    return pd.DataFrame(rows)


def measured(profile, switches, held_out, table):
    """What a training with these switches comes to: held_out, validation (the best mean AUC of the source
    domains' validation patients) and unseen (AUC on the held-out domain)."""
    fold = leave_one_out(table, held_out, SEED)
    model, images, history = fitted(profile, switches, fold, profile.epochs, SEED, table)
    predictions, _ = predict(model, fold[fold.split == "target"], images, boxes=False)
    return {"held_out": held_out, "validation": history.valid_auc.max(), "unseen": auc_of(predictions)}


def fitted(profile, method, fold, epochs, seed, table):
    """(model, images, history) of a training on a fold, which leaves no run behind. method: a name, or a
    `Method`; images: what an evaluation on the cohort `table` reads."""
    start, _ = begin_from(profile)
    seed_everything(seed)
    model = begin(profile, method, start)
    images = images_of(profile, model, table)
    seed_everything(seed)
    history = fit(learner(profile, method, fold, images, seed, model), epochs)
    return model, images, history


def auc_of(predictions):
    """The AUC of malignant against not, a mean over domains."""
    p = predictions.p2 + predictions.p3
    return mean_auc(malignant(predictions.allowed), p, predictions.domain)


def sweep_anchor(profile, table):
    """One row for each anchor of Eq. 5 and held-out domain: the AUC there of ours, adapted to all its images,
    as `unseen`, a mean over the runs of the three seeds. Nothing is chosen by it."""
    aucs = []
    for held_out in sorted(set(table.domain)):
        for seed in config.SEEDS:
            model = load_model(profile, load_run(run_dir(profile, OURS, held_out, seed)))
            fold = leave_one_out(table, held_out, seed)
            images = images_of(profile, model, table)
            rows = fold[fold.split == "target"].sample(frac=1, random_state=seed)
            parts, target = read(model, rows, images)
            for anchor in ANCHORS:
                answered = adapted(model, parts, target, "causal", anchor)[1]
                unseen = auc_of(described(model, parts, answered, "causal"))
                aucs.append((OURS, "anchor", anchor, held_out, unseen))
    columns = ["method", "switch", "value", "held_out"]
    return pd.DataFrame(aucs, columns=[*columns, "unseen"]).groupby(columns, as_index=False).mean()


def choose(swept):
    """The value of each method's switch with the best mean validation AUC over the folds, by
    `selection.select`, as a frame: method, switch, value, validation. Of equals the smallest."""
    rows = swept.dropna(subset="validation")
    trials = list(zip(rows.method, rows.switch))
    folds = pd.DataFrame({"trial": trials, "run": rows.value, "step": 0, "domain": rows.held_out,
                          "score": rows.validation, "validation": rows.validation})
    targets = folds.assign(score=rows.unseen).groupby(["trial", "run", "step"], as_index=False)
    targets = targets.score.mean().assign(domain="unseen", validation=0.0)      # never selected by
    records = pd.concat([folds, targets], ignore_index=True)
    records["held_out"] = [("unseen",)] * len(records)
    best = select(records, "training-domain")
    names = pd.DataFrame(best.trial.tolist(), columns=["method", "switch"])
    return names.assign(value=best.run, validation=best.validation)


def main():
    """Writes docs/strengths.csv from the cohort of the lesson, and prints what is chosen."""
    profile = config.profile("lesson")
    table = load(config.DATA / profile.name / "cohort.parquet")
    swept = pd.concat([sweep(profile, table), sweep_rates(profile, table), sweep_anchor(profile, table)])
    with atomic(TABLE) as partial_path:
        swept.to_csv(partial_path, index=False, float_format="%.5g", lineterminator="\n")
    sys.stdout.write(choose(swept).to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
