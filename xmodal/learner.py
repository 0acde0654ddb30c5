"""The fastai Learner, its callbacks, and one verb for a whole run: `train`."""
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
from .explain import centre
from .loaders import Images, dataloaders, device
from .objective import Objective
from .methods import METHODS
from .metrics.selection import HOW
from .model import build
from .predict import predict
from .record import is_done, load_run, run_dir, save_run, seed_everything
from .runtime.checkpoints import (
    CHECKPOINT,
    checkpoint_path,
    damage,
    kept_when_done,
    load_checkpoint,
    save_checkpoint,
)
from .runtime.files import sha256
from .stats import auc

log = logging.getLogger(__name__)

SELECTION = TRAINING_DOMAIN, LEAVE_ONE_DOMAIN_OUT = HOW[:2]
PRETRAINED = ("model.safetensors", "history.csv", "config.json")    # the files of the pretrained encoder
RAMP = (0.2, 0.5)    # the invariance terms rise from 0 to full weight between these shares of the training


# ---- callbacks ---------------------------------------------------------------------------------------------

class Schedule(Callback):
    """Tells the batches which epoch it is, ramps up the invariance terms, and keeps each term's mean for the
    log."""

    def before_epoch(self):
        self.learn.dls.train.dataset.epoch = self.epoch
        self.sums = {}
        self.batches = 0

    def before_batch(self):
        low, high = RAMP
        self.learn.loss_func.ramp = float(np.clip((self.pct_train - low) / (high - low), 0, 1))

    def after_batch(self):
        if self.training:
            self.batches += 1
            for name, value in {"loss": self.loss.detach(), **self.learn.loss_func.parts}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value

    def row(self):
        """The epoch's row in the history: the mean of each term, and the objective's sigmas."""
        means = {name: float(total) / self.batches for name, total in self.sums.items()}
        sigmas = {f"sigma_{task}": sigma for task, sigma in self.learn.loss_func.uncertainty.sigmas().items()}
        return {"epoch": self.epoch, **means, **sigmas}


class Select(Callback):
    """After every epoch reads the AUC on the validation patients of the *source* domains, and keeps the best
    epoch's weights.

    Only epochs that ended with every term at full weight (`RAMP`) count, so that no method is judged before
    it began. Where `chosen_epoch` is set, the weights of that epoch are kept instead. With a folder, it also
    writes a checkpoint from which an interrupted run goes on to the same bits.
    """
    order = 65

    def __init__(self, validation, images, folder=None):
        self.validation, self.images, self.folder = validation, images, folder
        self.chosen_epoch = None
        self.best, self.weights, self.history = -1.0, {}, []

    def before_validate(self):
        raise CancelValidException  # the validation loss is not used; the AUC is read below

    def after_epoch(self):
        if not self.learn.schedule.batches:  # an epoch that a resumed run skips
            return
        predictions, _ = predict(self.model, self.validation, self.images, boxes=False)
        aucs = [auc(malignant(d.allowed), d.p2 + d.p3) for _, d in predictions.groupby("domain")]
        score = np.nanmean(aucs)
        self.history.append({**self.learn.schedule.row(), "valid_auc": score})
        if self.learn.pct_train >= RAMP[1] - 1e-6 and self.is_chosen(score):
            self.best = score
            self.weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.folder:
            state = {"history": self.history, "best": self.best, "epoch": self.epoch}
            path = self.folder / CHECKPOINT
            save_checkpoint(path, trained_parts(self.learn), self.learn.opt.opt, state, self.weights)

    def is_chosen(self, score):
        """True if the weights of this epoch, which has this AUC, are to be kept."""
        return score > self.best if self.chosen_epoch is None else self.epoch == self.chosen_epoch


def learner(profile, method, fold, images, seed, model=None, folder=None):
    """A fastai Learner for a fold (cohort rows with `split`).

    model: what to train, as from `begin` or of a baseline; None for the method's own at random. folder: where
    to write checkpoints, or None.
    """
    model = model or begin(profile, method)
    model_device = device(profile)
    model.to(model_device)  # before a checkpoint is read, since the optimiser's moments follow the parameters
    dls = dataloaders(fold, images, profile, seed)
    domains = len(dls.train.dataset.domains)
    objective = Objective(profile.width, domains, METHODS[method]).to(model_device)

    def parameters(model):
        return [*model.parameters(), *objective.parameters()]
    gpu = profile.device == "cuda"
    adam = partial(torch.optim.Adam, fused=gpu, foreach=not gpu)
    callbacks = [Schedule(), Select(fold[fold.split == "validation"], images, folder)]
    return Learner(dls, model, loss_func=objective, splitter=parameters, lr=profile.lr,
                   wd=profile.weight_decay, opt_func=partial(OptimWrapper, opt=adam), cbs=callbacks)


def begin(profile, method, start=None):
    """The model of a method before its training. start: weights to begin from (dict of tensors), or None for
    random ones."""
    switches = METHODS[method]
    model = build(profile, mixstyle=switches.mixstyle, concat=switches.concat)
    if start:
        load_encoder(model, start)
    return model


def load_encoder(model, state):
    """Copies the tensors of a pretrained model (`state`) that have the shape of the model's own, as some
    heads have not. Raises `Problem` where a tensor of the encoder does not fit."""
    own = model.state_dict()
    fitting = {name: v for name, v in state.items() if name in own and own[name].shape == v.shape}
    missing = [name for name in own if name.startswith("encoder.") and name not in fitting]
    if missing:
        raise Problem(f"The pretrained encoder does not fit this profile ({missing[0]}); "
                      "run 03a_pretrain for it again.")
    model.load_state_dict({**own, **fitting})


# ---- training ----------------------------------------------------------------------------------------------

def trained_parts(learn):
    """The modules that a training changes, as `checkpoints.save_checkpoint` takes them."""
    return {"model": learn.model, "objective": learn.loss_func}


def next_epoch(learn, path):
    """Puts `learn` where the checkpoint at `path` left it; returns the epoch to go on with, 0 for a damaged
    file."""
    learn.create_opt()
    loaded = load_checkpoint(path, trained_parts(learn), learn.opt.opt)
    if loaded is None:
        return 0
    state, learn.select.weights = loaded
    learn.select.best = state["best"]
    learn.select.history = state["history"]
    return state["epoch"] + 1


def fit(learn, epochs, resume=None, progress=False):
    """Trains with one cycle, from the checkpoint at `resume` if it exists, and ends with the weights of the
    best epoch.

    Returns the history. Raises `Problem` where the validation patients cannot tell which epoch is best.
    """
    if not progress:
        learn.remove_cb(ProgressCallback)
    learn.recorder.silent = True
    start = next_epoch(learn, resume) if resume and resume.exists() else 0
    with learn.no_logging():
        learn.fit_one_cycle(epochs, learn.lr, start_epoch=start)
    if not learn.select.weights:
        raise Problem("The validation patients of each source domain are all malignant or all not, so no "
                      "epoch can be chosen; the cohort is too small for a split by patient.")
    learn.model.load_state_dict(learn.select.weights)
    return pd.DataFrame(learn.select.history)


# ---- one run -----------------------------------------------------------------------------------------------

def pretrain(profile, folder, seed=7, progress=False, model=None, name="pretrained", modalities=MODALITIES):
    """Trains a plain ERM model on the pretraining phantom in `folder` and keeps its weights for every run of
    the profile.

    All methods, folds and seeds share one encoder, since a small transformer learns little from a few hundred
    patients. A fifth of the patients is held back for selection. Baselines give their own `model`, a `name`
    for its folder and the `modalities` that it reads. Returns the history.
    """
    out = config.RUNS / profile.name / name

    def make():
        table = load(folder / "cohort.parquet")
        patients = np.random.default_rng(seed).permutation(table.patient.unique())
        held_back = patients[:len(patients) // 5]
        fold = table.assign(split=np.where(table.patient.isin(held_back), "validation", "train"))
        seed_everything(seed)
        learn = learner(profile, "erm", fold[fold.modality.isin(modalities)], Images(folder), seed, model)
        history = fit(learn, profile.pretrain_epochs, progress=progress)
        return {"model.safetensors": learn.model.state_dict(), "history.csv": history}
    kept_when_done(out, {"profile": asdict(profile), "seed": seed}, make)
    return pd.read_csv(out / "history.csv")


def pretrained(profile):
    """Weights that every run of the profile starts from: (dict of tensors or None, a description for the
    record)."""
    if profile.pretrained == "phantom":
        folder = config.RUNS / profile.name / "pretrained"
        path = folder / "model.safetensors"
        if not (folder / "done").exists():
            raise Problem(f"There is no pretrained encoder at {path}; run 03a_pretrain first.")
        if harm := damage(folder, PRETRAINED):
            raise Problem(f"The pretrained encoder {path} is damaged ({harm}); "
                          "delete its folder and run 03a_pretrain again.")
        return load_file(path), f"encoder pretrained on a separate phantom, sha256 {sha256(path)[:16]}"
    if profile.pretrained == "timm":
        import timm
        try:
            source = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=0)
            state = {f"encoder.{name}": tensor for name, tensor in source.state_dict().items()}
            return state, "timm vit_base_patch16_224"
        except Exception as error:  # the hub raises many kinds: no cache, no network, a damaged file
            log.warning("No pretrained weights (%s): the encoder starts at random, and the record says so.",
                        error)
    return None, "random"


def epoch_by_left_out(profile, method, held_out, seed, table):
    """The epoch that leave-one-domain-out selection chooses (Gulrajani and Lopez-Paz 2021).

    The method is trained again without each source domain in turn, and judged on that domain. The epoch with
    the best mean AUC is chosen; the schedule is that of the run itself, so that epochs compare.
    """
    in_target = table.patient[table.domain == held_out]
    source = table[~table.patient.isin(in_target)]
    start, _ = pretrained(profile)
    images = Images(config.DATA / profile.name)
    aucs = []
    for left_out in sorted(set(source.domain)):
        fold = leave_one_out(source, left_out, seed, train_share=METHODS[method].train_share)
        fold = fold[fold.split.isin(("train", "target"))].replace({"split": {"target": "validation"}})
        seed_everything(seed)
        learn = learner(profile, method, fold, images, seed, begin(profile, method, start))
        aucs.append(fit(learn, profile.epochs).valid_auc)
    mean = pd.concat(aucs, axis=1).mean(axis=1)
    at_full_weight = (mean.index + 1) / profile.epochs >= RAMP[1] - 1e-6
    return int(mean[at_full_weight].idxmax())


def train(profile, method, held_out, seed, table, progress=False, selection=TRAINING_DOMAIN):
    """One run: fit on the sources' training patients, select on their validation patients, predict
    everything, record it.

    A run that is done with the same configuration is loaded and not repeated; an interrupted run goes on.
    selection: how the epoch is chosen, "training-domain" or "leave-one-domain-out" (three more trainings);
    neither reads the target. Returns the `record.Run`.
    """
    if selection not in SELECTION:
        raise Problem(f"There is no selection {selection!r} for a training; choose {' or '.join(SELECTION)}.")
    folder = run_dir(profile, method, held_out, seed)
    start, encoder = pretrained(profile)
    fold = leave_one_out(table, held_out, seed, train_share=METHODS[method].train_share)
    settings = {
        "profile": asdict(profile), "method": method, "switches": asdict(METHODS[method]),
        "held_out": held_out, "seed": seed, "cohort": fingerprint(table), "selection": selection,
        "encoder": encoder, "left_out_rows": fold.attrs["left_out"],
        "pairing": pairing(fold[fold.split == "train"])}
    if is_done(folder, settings):
        return load_run(folder)
    chosen_epoch = None
    if selection == LEAVE_ONE_DOMAIN_OUT:
        chosen_epoch = epoch_by_left_out(profile, method, held_out, seed, table)
    images = Images(config.DATA / profile.name)
    seed_everything(seed)
    learn = learner(profile, method, fold, images, seed, begin(profile, method, start), folder)
    learn.select.chosen_epoch = chosen_epoch
    history = fit(learn, profile.epochs, resume=checkpoint_path(folder, settings), progress=progress)
    centre(learn.model, fold[fold.split == "train"], images)
    predictions, embeddings = predict(learn.model, fold, images)
    tested = embeddings["split"] != "train"
    embeddings = {name: values[tested] for name, values in embeddings.items()}
    save_run(folder, settings, learn.model.state_dict(), history, predictions, embeddings)
    return load_run(folder)
