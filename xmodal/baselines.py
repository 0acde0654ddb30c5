"""The systems that the paper compares with, under the same folds, budget and selection as the methods of `learner`.

Radiomic features with six classic learners (Fig. 1); networks of one modality, early and late fusion (Fig. 5q); the localisers of
Fig. 4. Each leaves a run like any other method's. Classic learners say malignant or not, as Fig. 1 asks; their run keeps settings
and predictions but no weights: most of them could only be pickled, and all are fitted again in seconds.
And what a trivial reader gets from the same images: the yardstick for how hard a cohort is.
"""
import warnings
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from . import config
from .backbones import Mixed
from .cohort import allowed_matrix, fingerprint, leave_one_out, malignant
from .config import DOMAINS, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem
from .learner import fit, learner, load_encoder, methods, pretrain as learn_first, pretrained
from .loaders import Images
from .model import Joint
from .predict import describe, joint, predict
from .radiomics import features
from .record import checkpoint, forget_checkpoint, is_done, load_run, run_dir, save_run, seed_everything
from .stats import auc

# ---- which there are ---------------------------------------------------------------------------------------------

CLASSIC = {   # method -> the setting that source validation chooses, and its values
    "radiomics_lr": {"C": (0.001, 0.01, 0.1)},
    "radiomics_rf": {"min_samples_leaf": (1, 4, 16)},
    "radiomics_svm": {"estimator__C": (0.1, 1.0, 10.0)},
    "radiomics_xgboost": {"max_depth": (1, 2, 4)},
    "radiomics_lightgbm": {"num_leaves": (2, 4, 16)},
    "radiomics_mlp": {"alpha": (0.01, 1.0, 10.0)},
}
NETWORKS = {  # method -> the encoder of each modality that it reads; DenseNet's feature pyramid is also the CNN localiser
    "vit_pathology": {HISTOPATHOLOGY: "vit"},
    "swin_mammography": {MAMMOGRAPHY: "swin"},
    "densenet_mammography": {MAMMOGRAPHY: "densenet"},
    "early_fusion": {MAMMOGRAPHY: "swin", HISTOPATHOLOGY: "vit"},
    "fusion_localiser": {MAMMOGRAPHY: "densenet", HISTOPATHOLOGY: "vit"},
}
LATE = {"late_fusion": ("swin_mammography", "vit_pathology")}
METHODS = (*CLASSIC, *NETWORKS, *LATE)


def train(profile, method, held_out, seed, table):
    """One run of a baseline: fit on the sources' training patients, choose on their validation patients, predict all, record it.

    A run that is done with the same configuration is loaded. Raises `Problem` for a method that there is not. A method of one
    modality predicts the rows of that modality only: where the other one is held out its run has no target rows. Returns `record.Run`.
    """
    methods(method, METHODS)
    run = train_classic if method in CLASSIC else train_network if method in NETWORKS else train_late
    return run(profile, method, held_out, seed, table)


def prepare(profile, method, held_out, seed, table, **made):
    """What every run begins with: (folder, fold, what the run is made of). Target labels pass through and are never read."""
    fold = leave_one_out(table, held_out, seed)
    about = {"profile": asdict(profile), "method": method, "held_out": held_out, "seed": seed,
             "cohort": fingerprint(table), "left_out_rows": fold.attrs["left_out"]}
    return run_dir(profile, method, held_out, seed), fold, {**about, **made}


def kept(predictions, z):
    """Embeddings of a run: z (N, D) with who it is of, for the rows of one modality that were not trained on."""
    keep = (predictions.split != "train").to_numpy()
    names = ("sample", "patient", "modality", "domain", "truth", "split")
    return {k: predictions[k].to_numpy()[keep] for k in names} | {"z": np.asarray(z)[keep]}


# ---- probabilities of four classes, and their fusion -------------------------------------------------------------

def outcome(p):
    """Class probabilities (N, 4), a tensor, as a model's output: their logs as logits, the expected class as severity."""
    return Joint(p, p.clamp_min(1e-9).log(), p @ torch.arange(4.0, dtype=p.dtype))


class MeanProbability:
    """Late fusion, with the names that `predict.joint` asks of a model: what it gets as features are class probabilities."""
    grade = SimpleNamespace(cutpoints=torch.tensor([0.5, 1.5, 2.5]))      # the grade is the expected class, rounded

    @staticmethod
    def joint(p_m, p_p):
        return outcome((p_m + p_p) / 2)


def late(predictions):
    """`predictions` of both modalities with the joint ones by late fusion: the mean, over the modalities, of the mean probability
    over a patient's images."""
    p = torch.tensor(predictions[["p0", "p1", "p2", "p3"]].to_numpy())
    fused = joint(MeanProbability, predictions, p).assign(condition="source")
    return pd.concat([predictions, fused], ignore_index=True), kept(predictions, p)


def four_classes(p, prior):
    """Probability of malignant (N,) -> (N, 4), each side divided as in prior (4,), the training patients' share of each class."""
    sides = [part / part.sum() if part.sum() else np.full(2, 0.5) for part in (prior[:2], prior[2:])]
    return np.concatenate([(1 - p)[:, None] * sides[0], p[:, None] * sides[1]], axis=1)


# ---- classic learners on radiomic features -----------------------------------------------------------------------

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


# ---- networks ----------------------------------------------------------------------------------------------------

def pretrain(profile, family, seed=7):
    """Weights of a `backbones` family trained on the mammograms of the pretraining phantom, by `learner.pretrain`, once a profile."""
    name = f"pretrained_{family}"
    seed_everything(seed)
    learn_first(profile, config.DATA / profile.name / "pretraining", seed, model=Mixed(profile, {MAMMOGRAPHY: family}), name=name,
                modalities=(MAMMOGRAPHY,))
    return load_file(config.RUNS / profile.name / name / "model.safetensors")


def build(profile, families, state):
    """The network of these families with the weights it starts from. state: those of the vision transformer, or None (`pretrained`).
    From the phantom, each encoder brings its neck, and that of mammograms its decoder."""
    model = Mixed(profile, families, pretrained=profile.pretrained == "timm" and state is not None)
    start = dict(state or {}) if "vit" in families.values() else {}
    if profile.pretrained == "phantom":
        for family in set(families.values()) - {"vit"}:
            own = pretrain(profile, family)
            start = {**own, **start, **{k: v for k, v in own.items() if k.startswith(("grids.", "decoder.", f"necks.{MAMMOGRAPHY}."))}}
    if start:
        load_encoder(model, start)
    return model


def train_network(profile, method, held_out, seed, table):
    """A network on the modalities that it reads."""
    families, (state, words) = NETWORKS[method], pretrained(profile)
    folder, fold, about = prepare(profile, method, held_out, seed, table, families=families, encoder=words)
    if is_done(folder, about):
        return load_run(folder)
    fold, data = fold[fold.modality.isin(families)].reset_index(drop=True), config.DATA / profile.name
    seed_everything(seed)
    model = build(profile, families, state)
    seed_everything(seed)                                                # building may have trained an encoder first
    learn = learner(profile, "erm", fold, Images(data), seed, folder=folder, model=model)
    history = fit(learn, profile.epochs, resume=checkpoint(folder, about))
    predictions, embeddings = predict(model, fold, Images(data))
    save_run(folder, about, model.state_dict(), history, predictions, kept(predictions[predictions.modality != "both"], embeddings["z"]))
    forget_checkpoint(folder)
    return load_run(folder)


def train_late(profile, method, held_out, seed, table):
    """Late fusion: the networks of one modality, trained first where they are not, and the mean of their probabilities."""
    parts = [train_network(profile, part, held_out, seed, table) for part in LATE[method]]
    folder, _, about = prepare(profile, method, held_out, seed, table, of=LATE[method], encoder=parts[0].config["encoder"])
    if is_done(folder, about):
        return load_run(folder)
    predictions, embeddings = late(pd.concat([p.predictions for p in parts], ignore_index=True))
    history = pd.concat([p.history.assign(part=p.config["method"]) for p in parts], ignore_index=True)
    save_run(folder, about, {f"{p.config['method']}.{k}": v for p in parts for k, v in p.state.items()}, history, predictions, embeddings)
    return load_run(folder)


# ---- a trivial reader --------------------------------------------------------------------------------------------

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
