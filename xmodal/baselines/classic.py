"""Radiomic features with six classic learners (Fig. 1), and what a trivial reader gets from the same images."""
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from .. import config
from ..cohort import allowed_matrix, malignant
from ..config import DOMAINS, MODALITIES, Problem
from ..imaging.radiomics import features
from ..loaders import Images
from ..methods import CLASSIC
from ..predict import describe
from ..record import is_done, load_run, save_run
from ..stats import auc
from .common import MeanProbability, late, outcome, prepare


def four_classes(p, prior):
    """Probability of malignant (N,) -> (N, 4), each side divided as in prior (4,), the training patients' share of each class."""
    sides = [part / part.sum() if part.sum() else np.full(2, 0.5) for part in (prior[:2], prior[2:])]
    return np.concatenate([(1 - p)[:, None] * sides[0], p[:, None] * sides[1]], axis=1)


def classifier(method, seed, folds):
    """The estimator of a method; its settings other than the chosen one are those of its library or usual for so few patients.
    folds: index pairs by patient, on which the scores of the support vectors become probabilities (Platt 1999)."""
    from lightgbm import LGBMClassifier
    from xgboost import XGBClassifier
    return {
        "radiomics_lr": LogisticRegression(max_iter=5000),
        "radiomics_rf": RandomForestClassifier(200, random_state=seed),
        "radiomics_svm": CalibratedClassifierCV(SVC(), cv=folds, ensemble=False),
        "radiomics_xgboost": XGBClassifier(n_estimators=150, learning_rate=0.05, subsample=0.8, random_state=seed, n_jobs=1),
        "radiomics_lightgbm": LGBMClassifier(n_estimators=150, learning_rate=0.05, random_state=seed, n_jobs=1, deterministic=True,
                                             verbose=-1),
        "radiomics_mlp": MLPClassifier((32,), solver="lbfgs", max_iter=2000, random_state=seed),
    }[method]


def choose(method, rows, x, seed):
    """The pipeline whose setting has the best AUC on the validation patients, and a row for each that was tried.

    rows: cohort rows (N) of one modality with `split`; x (N, 102). Only rows of training and validation are looked at.
    """
    y, split = malignant(rows.allowed), rows.split.to_numpy()
    train, valid = [~np.isnan(y) & (split == s) for s in ("train", "validation")]
    if any(len(np.unique(y[part])) < 2 for part in (train, valid)):
        raise Problem(f"Of the training or the validation patients with {rows.modality.iloc[0]} all are malignant or none is; "
                      f"the cohort is too small for {method}.")
    folds = list(StratifiedGroupKFold(3).split(x[train], y[train], rows.patient[train]))
    (name, values), = CLASSIC[method].items()
    best, tried = (-np.inf, None), []
    for value in values:
        model = make_pipeline(StandardScaler(), classifier(method, seed, folds).set_params(**{name: value}))
        with warnings.catch_warnings():                                  # as far as it came in its iterations: validation judges that too
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x[train], y[train])
        p = pd.DataFrame({"p": model.predict_proba(x[valid])[:, 1], "y": y[valid], "domain": rows.domain[valid].to_numpy()})
        score = float(pd.Series([auc(d.y, d.p) for _, d in p.groupby("domain")]).mean())     # domains of one class do not count
        tried.append({"modality": rows.modality.iloc[0], "setting": name, "value": value, "valid_auc": score})
        best = max(best, (np.nan_to_num(score), model), key=lambda pair: pair[0])            # of equals the first, the simplest
    return best[1], tried


def train_classic(profile, method, held_out, seed, table):
    """A classic learner a modality, on the radiomic features of its images; late fusion where a patient has both."""
    folder, fold, about = prepare(profile, method, held_out, seed, table, settings=CLASSIC[method])
    if is_done(folder, about):
        return load_run(folder)
    x, found, history = features(fold, Images(config.DATA / profile.name)), [], []
    for modality in MODALITIES:
        rows = fold[fold.modality == modality]
        model, tried = choose(method, rows, x.loc[rows.index].to_numpy(), seed)
        allowed = allowed_matrix(rows.allowed[rows.split == "train"])
        prior = (allowed / allowed.sum(1, keepdims=True)).mean(0)        # a label that is open counts in parts
        p = four_classes(model.predict_proba(x.loc[rows.index].to_numpy())[:, 1].astype(float), prior)
        found.append(describe(rows, outcome(torch.tensor(p)), MeanProbability.grade.cutpoints).assign(modality=modality))
        history += tried
    predictions, embeddings = late(pd.concat(found, ignore_index=True).assign(condition="source"))
    save_run(folder, about, {}, pd.DataFrame(history), predictions, embeddings)
    return load_run(folder)


def thumbnails(rows, images, side=16):
    """(N, side * side [* 3]) block means in [0, 1] of the images of rows of one modality."""
    pixels = images.gather(rows).astype(np.float32) / 255
    step = pixels.shape[1] // side
    pixels = pixels[:, :side * step, :side * step].reshape(len(pixels), side, step, side, step, -1)
    return pixels.mean((2, 4)).reshape(len(pixels), -1)


def pixel_regression(table, images, domain):
    """AUC of malignant against not of a logistic regression on 16 x 16 pixels: "same site" by five folds of patients, "other site"
    trained on the other domain of the modality without this domain's patients. Fewer than five patients of a class to learn from: nan."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    known = table[~np.isnan(malignant(table.allowed))]
    here = known[known.domain == domain]
    other = next(d for d in DOMAINS if d != domain and DOMAINS[d] == DOMAINS[domain])
    there = known[(known.domain == other) & ~known.patient.isin(here.patient)]
    x, y = thumbnails(here, images), malignant(here.allowed)
    enough = lambda rows: min(rows.patient[malignant(rows.allowed) == c].nunique() for c in (0, 1)) > 4
    found = {"same site": np.nan, "other site": np.nan}
    if enough(here):
        p = cross_val_predict(model, x, y, groups=here.patient, cv=GroupKFold(5), method="predict_proba")[:, 1]
        found["same site"] = auc(y, p)
    if enough(there) and len(here):
        model.fit(thumbnails(there, images), malignant(there.allowed))
        found["other site"] = auc(y, model.predict_proba(x)[:, 1])
    return found
