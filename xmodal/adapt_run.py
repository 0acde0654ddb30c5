"""Test-time adaptation of one recorded run, and the same where the target has another mix of diagnoses.

What counts as success there stands in `tables.adaptation`.
"""
import logging

import numpy as np
import pandas as pd
import torch

from .activations import images_of
from .adapt import ANCHOR, PROBE, Target, adapt, answers, features_of, look, reset
from .cohort import leave_one_out, malignant
from .config import CONDITIONS, STREAMS
from .loaders import sweep
from .methods import OURS
from .predict import describe, load_model
from .record import load_run, run_dir, seed_everything, update_run
from .runtime.identity import code_of, differing
from .stats import auc
from .stream import stream

log = logging.getLogger(__name__)

BATCH = 32          # images that come together
SHARE = 1 / 3       # of the share of malignant images that is left under label shift


def adapt_run(profile, method, held_out, seed, table):
    """Adapts a recorded run to its held-out domain in every way, and adds the results to its folder.

    These are predictions in each condition (without boxes), the trajectories of the whole-target conditions,
    and for ours the table of `under_label_shift`. The images come in an order drawn from the seed. Labels are
    read for the columns `auc` and to draw the shifted target, never by the adaptation.
    A run that was adapted by the same code is loaded; one of other code is named in a warning and adapted
    again. Returns `record.Run`.
    """
    run = load_run(run_dir(profile, method, held_out, seed))
    made_by = {"code": code_of("xmodal.adapt_run.adapt_run")}
    if run.trajectory is not None:
        differences = differing(run.adapted or {}, made_by)
        if not differences:
            return run
        log.warning("The run %s was adapted with other %s and is adapted again.", run.folder,
                    ", ".join(differences))
    seed_everything(seed)
    model = load_model(profile, run)
    fold = leave_one_out(table, held_out, seed)          # without the tiles that outlines chose
    rows = fold[fold.split == "target"].sample(frac=1, random_state=seed)
    parts, target = read(model, rows, images_of(profile, model, table))
    trajectories = []
    predictions = []
    for how in CONDITIONS[1:]:
        trajectory, answered = adapted(model, parts, target, how)
        trajectories.append(trajectory.assign(condition=how, domain=held_out))
        predictions.append(described(model, parts, answered, how))
    for how in STREAMS:
        predictions.append(described(model, parts, stream(model, target, how), how))
        reset(model)
    shifted = None
    if method == OURS:
        shifted = under_label_shift(model, parts, target, seed).assign(domain=held_out)
    predictions = pd.concat(predictions, ignore_index=True)
    update_run(run.folder, predictions, pd.concat(trajectories, ignore_index=True), shifted, made_by)
    return load_run(run.folder)


def read(model, rows, images):
    """Cohort rows of one modality -> list of their parts, and the `Target` of these batches.

    Where the first blocks are frozen, what they make of the images stands for the images.
    """
    where = next(model.parameters()).device
    parts = []
    batches = []
    for part, x in sweep(rows, images, BATCH):
        parts.append(part)
        batches.append({modality: early(model, pixels.to(where)) for modality, pixels in x.items()})
    return parts, look(model, batches)


@torch.no_grad()
def early(model, x):
    """What `model.tokens` may go on from."""
    if model.frozen and x.dtype == torch.uint8:
        return model.early(x)
    return x


def adapted(model, parts, target, how, anchor=ANCHOR):
    """The trajectory of a whole-target condition with the AUC on the probe images, and what the adapted model
    then says of each batch. The model is the source again afterwards."""
    y = malignant(pd.concat(parts[:PROBE]).allowed)
    scores = []

    def watch(step, logits):
        p = logits.softmax(1)[:, 2:].sum(1).cpu().numpy()
        scores.append(auc_of_decided(y, p))

    trajectory = adapt(model, target, how, anchor=anchor, watch=watch).assign(auc=scores)
    with torch.no_grad():
        features = target.features
        if how == "causal":
            features = [features_of(model, x) for x in target.batches]
        answered = [answers(model, f) for f in features]
    reset(model)
    return trajectory, answered


def described(model, parts, answered, how):
    """The predictions of a condition, see `record.PREDICTIONS`."""
    tables = []
    for rows, of_modality in zip(parts, answered):
        modality, answer = next(iter(of_modality.items()))
        tables.append(describe(rows, answer, model.grade.cutpoints).assign(modality=modality))
    return pd.concat(tables, ignore_index=True).assign(condition=how)


def auc_of_decided(y, p):
    """AUC of the images whose label says malignant (1) or not (0); NaN where there is none of one kind."""
    known = ~np.isnan(y)
    return auc(y[known], p[known])


# ---- another mix of diagnoses ----------------------------------------------------------------------------

def resample(rows, seed, share=SHARE):
    """Rows without the malignant images of patients drawn at random, so that the share of malignant images is
    `share` of what it was, or as near below as whole patients allow; at least one stays.

    Labels are read to set this up, and not again.
    """
    bad = pd.Series(malignant(rows.allowed) == 1, rows.index)
    goal = share * bad.mean()
    patients = rows.patient[bad].drop_duplicates().sort_values().sample(frac=1, random_state=seed)
    images = bad.groupby(rows.patient).sum().reindex(patients)
    wanted = goal / (1 - goal) * (~bad).sum()
    stay = images.index[images.cumsum() <= max(wanted, images.iloc[:1].sum())]
    return rows[~bad | rows.patient.isin(stay)]


def under_label_shift(model, parts, target, seed):
    """AUC and Brier score of malignant against not on a target resampled by `resample`, adapted whole-target.

    Columns condition, malignant_share, malignant_share_before, images, patients, auc, brier.
    """
    everything = pd.concat(parts)
    rows = resample(everything, seed)
    chosen = torch.tensor(everything["sample"].isin(rows["sample"]).tolist())
    few_parts = [rows.iloc[start:start + BATCH] for start in range(0, len(rows), BATCH)]
    shifted = Target(regroup(target.batches, chosen), regroup(target.features, chosen))
    y = malignant(rows.allowed)
    known = ~np.isnan(y)
    table = []
    for how in ("source", "adabn", "causal"):
        answered = adapted(model, few_parts, shifted, how)[1]
        p = described(model, few_parts, answered, how)
        p = (p.p2 + p.p3).to_numpy()
        brier = float(((p - y)[known] ** 2).mean())
        table.append((how, np.mean(y[known]), len(rows), rows.patient.nunique(), auc_of_decided(y, p), brier))
    columns = ["condition", "malignant_share", "images", "patients", "auc", "brier"]
    before = malignant(everything.allowed)
    return pd.DataFrame(table, columns=columns).assign(malignant_share_before=np.nanmean(before))


def regroup(batches, chosen):
    """Batches of one modality -> such of the chosen images (N,) alone."""
    modality = next(iter(batches[0]))
    values = torch.cat([batch[modality] for batch in batches])[chosen]
    return [{modality: part} for part in values.split(BATCH)]
