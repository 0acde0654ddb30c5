"""The fastai Learner, its callbacks, the table of methods, and one verb for a whole run: `train`."""
import logging
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import combined_cos  # noqa: F401 (importing it gives Learner fit_one_cycle)
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from safetensors.torch import load_file

from . import config
from .cohort import fingerprint, leave_one_out, load, malignant, pairing
from .config import MODALITIES, Problem
from .loaders import Images, dataloaders, device
from .losses import Objective
from .methods import METHODS
from .metrics.selection import HOW
from .model import build
from .predict import predict
from .record import is_done, load_run, run_dir, save_run, seed_everything
from .runtime.checkpoints import CHECKPOINT, checkpoint_path, damage, kept_when_done, load_checkpoint, save_checkpoint
from .runtime.files import sha256
from .stats import auc

log = logging.getLogger(__name__)


SELECTION = TRAINING_DOMAIN, LEAVE_ONE_DOMAIN_OUT = HOW[:2]
PRETRAINED = ("model.safetensors", "history.csv", "config.json")    # what `done` of the pretrained encoder vouches for
RAMP = (0.2, 0.5)    # the invariance terms rise from 0 to full weight between these shares of the training


# ---- callbacks ---------------------------------------------------------------------------------------------------

class Schedule(Callback):
    """Tells the batches which epoch it is, ramps up the invariance terms, and keeps each term's mean for the log."""

    def before_epoch(self):
        self.learn.dls.train.dataset.epoch = self.epoch
        self.sums, self.batches = {}, 0

    def before_batch(self):
        low, high = RAMP
        self.learn.loss_func.ramp = float(np.clip((self.pct_train - low) / (high - low), 0, 1))

    def after_batch(self):
        if self.training:
            self.batches += 1
            for name, value in {"loss": self.loss.detach(), **self.learn.loss_func.parts}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value

    def row(self):
        sigmas = {f"sigma_{t}": s for t, s in self.learn.loss_func.uncertainty.sigmas().items()}
        return {"epoch": self.epoch, **{n: float(s) / self.batches for n, s in self.sums.items()}, **sigmas}


class Select(Callback):
    """After every epoch: AUC on the validation patients of the *source* domains; keeps the weights of the best epoch among those
    that ended with every term at full weight (`RAMP`), lest a method be judged before it began, or those of `epoch` where it is given.
    With a folder, also writes a checkpoint from which an interrupted run goes on to the same bits."""
    order = 65

    def __init__(self, validation, images, folder=None, epoch=None):
        self.validation, self.images, self.folder, self.epoch_chosen = validation, images, folder, epoch
        self.best, self.weights, self.history = -1.0, {}, []

    def before_validate(self):
        raise CancelValidException                           # the loss there serves nothing; the AUC is read below

    def after_epoch(self):
        if not self.learn.schedule.batches:                  # an epoch that a resumed run skips
            return
        p = predict(self.model, self.validation, self.images, boxes=False)[0]
        score = np.nanmean([auc(malignant(d.allowed), d.p2 + d.p3) for _, d in p.groupby("domain")])
        self.history.append({**self.learn.schedule.row(), "valid_auc": score})
        chosen = score > self.best if self.epoch_chosen is None else self.epoch == self.epoch_chosen
        if chosen and self.learn.pct_train >= RAMP[1] - 1e-6:
            self.best, self.weights = score, {k: v.clone() for k, v in self.model.state_dict().items()}
        if self.folder:
            state = {"history": self.history, "best": self.best, "epoch": self.epoch}
            save_checkpoint(self.folder / CHECKPOINT, trained_parts(self.learn), self.learn.opt.opt, state, self.weights)


def learner(profile, method, fold, images, seed, start=None, folder=None, model=None, epoch=None):
    """A fastai Learner for a fold (cohort rows with `split`). start: weights to begin from (dict of tensors), or None.
    folder: where to write checkpoints, or None. model: what to train instead of the method's own model, as baselines do.
    epoch: whose weights are kept, or None for the best on the validation patients."""
    switches = METHODS[method]
    model = model or build(profile, mixstyle=switches.mixstyle, concat=switches.concat)
    if start:
        load_encoder(model, start)
    where, gpu = device(profile), profile.device == "cuda"
    model.to(where)                                          # before a checkpoint is read: its moments follow the parameters
    dls = dataloaders(fold, images, profile, seed)
    objective = Objective(profile.width, len(dls.train.dataset.domains), switches).to(where)
    parameters = lambda m: [p for module in (m, objective) for p in module.parameters()]
    return Learner(dls, model, loss_func=objective, splitter=parameters, lr=profile.lr, wd=profile.weight_decay,
                   opt_func=partial(OptimWrapper, opt=partial(torch.optim.Adam, fused=gpu, foreach=not gpu)),
                   cbs=[Schedule(), Select(fold[fold.split == "validation"], images, folder, epoch)])


def load_encoder(model, state):
    """Copies what fits of `state` (a pretrained model's tensors) except the heads of other shapes; the encoder must fit whole."""
    own = model.state_dict()
    same = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    missing = [k for k in own if k.startswith("encoder.") and k not in same]
    if missing:
        raise Problem(f"The pretrained encoder does not fit this profile ({missing[0]}); run 03a_pretrain for it again.")
    model.load_state_dict({**own, **same})


# ---- training ----------------------------------------------------------------------------------------------------

def trained_parts(learn):
    """What a training changes, by name, as `checkpoints.save_checkpoint` takes it."""
    return {"model": learn.model, "objective": learn.loss_func}


def next_epoch(learn, path):
    """Puts `learn` where the checkpoint at `path` left it; returns the epoch to go on with, 0 where the file is damaged."""
    learn.create_opt()
    loaded = load_checkpoint(path, trained_parts(learn), learn.opt.opt)
    if loaded is None:
        return 0
    state, learn.select.weights = loaded
    learn.select.best = state["best"]
    learn.select.history = state["history"]
    return state["epoch"] + 1


def fit(learn, epochs, resume=None, progress=False):
    """Trains with one cycle, from the checkpoint `resume` if there is one, and ends with the weights of the best epoch. Raises
    `Problem` where the validation patients cannot tell which that is."""
    if not progress:
        learn.remove_cb(ProgressCallback)
    learn.recorder.silent = True
    start = next_epoch(learn, resume) if resume and resume.exists() else 0
    with learn.no_logging():
        learn.fit_one_cycle(epochs, learn.lr, start_epoch=start)
    if not learn.select.weights:
        raise Problem("The validation patients of each source domain are all malignant or all not, so no epoch can be chosen; "
                      "the cohort is too small for a split by patient.")
    learn.model.load_state_dict(learn.select.weights)
    return pd.DataFrame(learn.select.history)


# ---- one run -----------------------------------------------------------------------------------------------------

def pretrain(profile, folder, seed=7, progress=False, model=None, name="pretrained", modalities=MODALITIES):
    """Trains a plain ERM model on the pretraining phantom in `folder` and keeps its weights for every run of the profile.

    One encoder for all methods, folds and seeds, since a small transformer learns little from a few hundred patients. A fifth
    of the patients is held back for selection. Baselines give a `model` of theirs, a `name` for its folder and the `modalities`
    that it reads. Returns the history.
    """
    out = config.RUNS / profile.name / name

    def make():
        table = load(folder / "cohort.parquet")
        held_back = np.random.default_rng(seed).permutation(table.patient.unique())[:table.patient.nunique() // 5]
        fold = table.assign(split=np.where(table.patient.isin(held_back), "validation", "train"))
        seed_everything(seed)
        learn = learner(profile, "erm", fold[fold.modality.isin(modalities)], Images(folder), seed, model=model)
        history = fit(learn, profile.pretrain_epochs, progress=progress)
        return {"model.safetensors": learn.model.state_dict(), "history.csv": history}
    kept_when_done(out, {"profile": asdict(profile), "seed": seed}, make)
    return pd.read_csv(out / "history.csv")


def pretrained(profile):
    """Weights that every run of the profile starts from, and what they are: (dict of tensors or None, words for the record)."""
    if profile.pretrained == "phantom":
        folder = config.RUNS / profile.name / "pretrained"
        path = folder / "model.safetensors"
        if not (folder / "done").exists():
            raise Problem(f"There is no pretrained encoder at {path}; run 03a_pretrain first.")
        if harm := damage(folder, PRETRAINED):
            raise Problem(f"The pretrained encoder {path} is damaged ({harm}); delete its folder and run 03a_pretrain again.")
        return load_file(path), f"encoder pretrained on a separate phantom, sha256 {sha256(path)[:16]}"
    if profile.pretrained == "timm":
        import timm
        try:
            source = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=0)
            return {f"encoder.{k}": v for k, v in source.state_dict().items()}, "timm vit_base_patch16_224"
        except Exception as error:               # the hub's own exceptions are many: no cache, no network, a damaged file
            log.warning("No pretrained weights (%s): the encoder starts at random, and the record says so.", error)
    return None, "random"


def epoch_by_left_out(profile, method, held_out, seed, table):
    """The epoch that leave-one-domain-out selection chooses (Gulrajani and Lopez-Paz 2021): the method is trained once more without each
    source domain, and the mean of the AUCs on the domains so left out is best there. Same schedule, so that epochs compare."""
    source = table[~table.patient.isin(table.patient[table.domain == held_out])]
    start, images, scores = pretrained(profile)[0], Images(config.DATA / profile.name), []
    for inner in sorted(set(source.domain)):
        fold = leave_one_out(source, inner, seed, train_share=METHODS[method].train_share)
        fold = fold[fold.split.isin(("train", "target"))].replace({"split": {"target": "validation"}})   # the one left out judges
        seed_everything(seed)
        scores.append(fit(learner(profile, method, fold, images, seed, start), profile.epochs).valid_auc)
    mean = pd.concat(scores, axis=1).mean(axis=1)
    return int(mean[(mean.index + 1) / profile.epochs >= RAMP[1] - 1e-6].idxmax())


def train(profile, method, held_out, seed, table, progress=False, selection=TRAINING_DOMAIN):
    """One run: fit on the sources' training patients, select on their validation patients, predict everything, record it.

    A run that is done with the same configuration is loaded, not repeated; an interrupted one goes on. selection: how the epoch is
    chosen, "training-domain" or "leave-one-domain-out" (three more trainings); neither sees the target. Returns `record.Run`.
    """
    if selection not in SELECTION:
        raise Problem(f"There is no selection {selection!r} for a training; choose {' or '.join(SELECTION)}.")
    folder = run_dir(profile, method, held_out, seed)
    start, words = pretrained(profile)
    fold = leave_one_out(table, held_out, seed, train_share=METHODS[method].train_share)
    about = {"profile": asdict(profile), "method": method, "switches": asdict(METHODS[method]), "held_out": held_out, "seed": seed,
             "cohort": fingerprint(table), "selection": selection, "encoder": words, "left_out_rows": fold.attrs["left_out"],
             "pairing": pairing(fold[fold.split == "train"])}
    if is_done(folder, about):
        return load_run(folder)
    epoch = epoch_by_left_out(profile, method, held_out, seed, table) if selection == LEAVE_ONE_DOMAIN_OUT else None
    images = Images(config.DATA / profile.name)
    seed_everything(seed)
    learn = learner(profile, method, fold, images, seed, start, folder, epoch=epoch)
    history = fit(learn, profile.epochs, resume=checkpoint_path(folder, about), progress=progress)
    predictions, embeddings = predict(learn.model, fold, images)
    keep = embeddings["split"] != "train"
    save_run(folder, about, learn.model.state_dict(), history, predictions, {k: v[keep] for k, v in embeddings.items()})
    return load_run(folder)
