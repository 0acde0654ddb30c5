"""Doing nothing: a linear reader of the encoder that every training begins with, which stays as it is.

Whatever fine-tuning brings has to be more than this.
"""
import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import learner
from ..activations import images_of
from ..cohort import allowed_matrix, malignant
from ..config import MODALITIES
from ..encoders import begin_from
from ..losses import set_cross_entropy
from ..methods import PROBE, UNTOUCHED
from ..predict import describe
from ..probes import features
from ..record import is_done, load_run, save_run, seed_everything
from ..runtime.identity import code_of
from ..stats import mean_auc
from .common import CUTPOINTS, late, outcome, prepare


def train_probe(profile, method, held_out, seed, table):
    """A linear reader of each modality, and late fusion where a patient has both. Returns `record.Run`."""
    state, source_of_state = begin_from(profile)
    folder, fold, run_config = prepare(profile, method, held_out, seed, table, encoder=source_of_state,
                                       settings=PROBE[method],
                                       code=code_of("xmodal.baselines.probe.train_probe"))
    if is_done(folder, run_config):
        return load_run(folder)
    seed_everything(seed)
    model = learner.begin(profile, "erm", state)
    z = torch.from_numpy(features(model, fold, images_of(profile, model, table)))
    predictions = []
    history = []
    weights = {}
    for modality in MODALITIES:
        rows = fold[fold.modality == modality]
        p, tried, reader = choose(rows, z[rows.index])
        predictions.append(describe(rows, outcome(p), CUTPOINTS).assign(modality=modality))
        history += tried
        weights |= {f"{modality}.{name}": tensor for name, tensor in reader.state_dict().items()}
    predictions, embeddings = late(pd.concat(predictions, ignore_index=True).assign(condition="source"))
    save_run(folder, run_config, weights, pd.DataFrame(history), predictions, embeddings)
    return load_run(folder)


def choose(rows, z):
    """(class probabilities (N, 4) of all rows, a row for each strength that was tried, the reader) with the
    ridge penalty that has the best AUC on the validation patients.

    rows: cohort rows (N) of one modality with `split`; z (N, D). Labels of training and validation alone are
    read.
    """
    train = np.array(rows.split == "train")
    valid = np.array(rows.split == "validation")
    x = (z - z[train].mean(0)) / (z[train].std(0) + 1e-6)
    allowed = torch.from_numpy(allowed_matrix(rows.allowed))
    best_score = -np.inf
    tried = []
    for strength in PROBE[UNTOUCHED]["strength"]:
        reader = fit(x[train], allowed[train], strength)
        with torch.no_grad():
            p = reader(x).softmax(1)
        score = mean_auc(malignant(rows.allowed[valid]), p[valid, 2:].sum(1).numpy(), rows.domain[valid])
        tried.append({"modality": rows.modality.iloc[0], "setting": "strength", "value": strength,
                      "valid_auc": score})
        if np.nan_to_num(score) > best_score:
            best_score = np.nan_to_num(score)
            best_p = p
            best_reader = reader
    return best_p, tried, best_reader


def fit(x, allowed, strength):
    """Linear regression (D -> 4) with the cross-entropy of label sets (Eq. 6) and a ridge penalty,
    minimised by L-BFGS."""
    reader = nn.Linear(x.shape[1], allowed.shape[1])
    nn.init.zeros_(reader.weight)
    nn.init.zeros_(reader.bias)
    optimiser = torch.optim.LBFGS(reader.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = set_cross_entropy(reader(x), allowed) + strength * reader.weight.square().sum()
        value.backward()
        return value
    optimiser.step(loss)
    return reader
