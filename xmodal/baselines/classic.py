"""Radiomic features with six classic learners (Fig. 1)."""
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from .. import config
from ..cohort import allowed_matrix, malignant
from ..config import MODALITIES, Problem
from ..imaging.radiomics import features
from ..loaders import Images
from ..methods import CLASSIC
from ..predict import describe
from ..record import is_done, load_run, save_run
from ..runtime.identity import code_of
from ..stats import mean_auc
from .common import CUTPOINTS, late, outcome, prepare


def four_classes(p, prior):
    """Probability of malignant (N,) -> (N, 4): each side is divided as in prior (4,).

    The prior is the share of each class among the training patients; a side without any is divided by halves.
    """
    sides = []
    for part in (prior[:2], prior[2:]):
        sides.append(part / part.sum() if part.sum() else np.full(2, 0.5))
    benign, bad = sides
    return np.concatenate([(1 - p)[:, None] * benign, p[:, None] * bad], axis=1)


def classifier(method, seed, folds):
    """The estimator of a method; settings other than the chosen one are its library's, or usual for so few
    patients. folds: index pairs by patient, on which the scores of the support vectors become probabilities
    (Platt 1999)."""
    from lightgbm import LGBMClassifier
    from xgboost import XGBClassifier
    trees = dict(n_estimators=150, learning_rate=0.05, random_state=seed, n_jobs=1)
    return {
        "radiomics_lr": LogisticRegression(max_iter=5000),
        "radiomics_rf": RandomForestClassifier(200, random_state=seed),
        "radiomics_svm": CalibratedClassifierCV(SVC(), cv=folds, ensemble=False),
        "radiomics_xgboost": XGBClassifier(subsample=0.8, **trees),
        "radiomics_lightgbm": LGBMClassifier(deterministic=True, verbose=-1, **trees),
        "radiomics_mlp": MLPClassifier((32,), solver="lbfgs", max_iter=2000, random_state=seed),
    }[method]


def choose(method, rows, x, seed):
    """The pipeline whose setting has the best AUC on the validation patients, and a row for each one tried.

    rows: cohort rows (N) of one modality with `split`; x (N, 102). Only rows of training and validation are
    read. Of settings with equal AUC the first, the simplest, is chosen.
    """
    modality = rows.modality.iloc[0]
    y = malignant(rows.allowed)
    train = ~np.isnan(y) & (rows.split == "train").to_numpy()
    valid = ~np.isnan(y) & (rows.split == "validation").to_numpy()
    if len(np.unique(y[train])) < 2 or len(np.unique(y[valid])) < 2:
        raise Problem(f"Of the training or the validation patients with {modality} all are malignant or none "
                      f"is; the cohort is too small for {method}.")
    folds = list(StratifiedGroupKFold(3).split(x[train], y[train], rows.patient[train]))
    (name, values), = CLASSIC[method].items()
    best_model = None
    best_score = -np.inf
    tried = []
    for value in values:
        model = make_pipeline(StandardScaler(), classifier(method, seed, folds).set_params(**{name: value}))
        with warnings.catch_warnings():          # not converged in its iterations: validation judges that too
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x[train], y[train])
        score = mean_auc(y[valid], model.predict_proba(x[valid])[:, 1], rows.domain[valid])
        tried.append({"modality": modality, "setting": name, "value": value, "valid_auc": score})
        if np.nan_to_num(score) > best_score:
            best_model = model
            best_score = np.nan_to_num(score)
    return best_model, tried


def train_classic(profile, method, held_out, seed, table):
    """A classic learner for each modality, on the radiomic features of its images, and late fusion where a
    patient has both. Returns `record.Run`."""
    folder, fold, run_config = prepare(profile, method, held_out, seed, table, settings=CLASSIC[method],
                                       code=code_of("xmodal.baselines.classic.train_classic"))
    if is_done(folder, run_config):
        return load_run(folder)
    x = features(fold, Images(config.DATA / profile.name))
    predictions = []
    history = []
    for modality in MODALITIES:
        rows = fold[fold.modality == modality]
        x_rows = x.loc[rows.index].to_numpy()
        model, tried = choose(method, rows, x_rows, seed)
        allowed = allowed_matrix(rows.allowed[rows.split == "train"])
        prior = (allowed / allowed.sum(1, keepdims=True)).mean(0)        # an open label counts in parts
        p = four_classes(model.predict_proba(x_rows)[:, 1].astype(float), prior)
        predictions.append(describe(rows, outcome(torch.tensor(p)), CUTPOINTS).assign(modality=modality))
        history += tried
    predictions, embeddings = late(pd.concat(predictions, ignore_index=True).assign(condition="source"))
    save_run(folder, run_config, {}, pd.DataFrame(history), predictions, embeddings)
    return load_run(folder)
