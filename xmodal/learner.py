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

from .activations import images_of
from .cohort import fingerprint, leave_one_out, malignant, pairing
from .config import Problem
from .encoders import PARTS, begin_from, put_into
from .explain import centre
from .loaders import dataloaders, device
from .methods import METHODS, own_class
from .metrics.selection import HOW
from .model import build
from .objective import Objective
from .predict import predict
from .record import is_done, load_run, run_dir, save_run, seed_everything
from .runtime.checkpoints import CHECKPOINT, checkpoint_path, load_checkpoint, save_checkpoint
from .runtime.identity import code_of, code_of_own
from .stats import mean_auc

log = logging.getLogger(__name__)

SELECTION = TRAINING_DOMAIN, LEAVE_ONE_DOMAIN_OUT = HOW[:2]
RAMP = (0.2, 0.5)    # the invariance terms rise from 0 to full weight between these shares of the training
EVERY = 3            # epochs between two checkpoints, and between two readings of the validation patients
TASK_LR = 0.01       # of the sigmas of Eq. 10, which few steps must bring far


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
    """Reads the AUC on the validation patients of the *source* domains, and keeps the best epoch's weights.

    Only epochs that ended with every term at full weight (`RAMP`) count, so that no method is judged before
    it began, and of these every `EVERY`-th from the last. Where `chosen_epoch` is set, the weights of that
    epoch are kept instead. With a folder, it also writes checkpoints from which an interrupted run goes on to
    the same bits.
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
        score = np.nan
        if is_read(self.epoch, self.n_epoch):
            predictions, _ = predict(self.model, self.validation, self.images, boxes=False)
            read = predictions[predictions.modality != "both"]
            score = mean_auc(malignant(read.allowed), read.p2 + read.p3, read.domain)
        self.history.append({**self.learn.schedule.row(), "valid_auc": score})
        if self.is_chosen(score):
            self.best = score
            self.weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.folder and self.epoch % EVERY == 0:
            state = {"history": self.history, "best": self.best, "epoch": self.epoch}
            path = self.folder / CHECKPOINT
            save_checkpoint(path, trained_parts(self.learn), self.learn.opt.opt, state, self.weights)

    def is_chosen(self, score):
        """True if the weights of this epoch, which has this AUC, are to be kept."""
        return score > self.best if self.chosen_epoch is None else self.epoch == self.chosen_epoch


def is_read(epoch, epochs):
    """Whether the validation patients are read after an epoch of so many."""
    return (epoch + 1) / epochs >= RAMP[1] - 1e-6 and (epochs - 1 - epoch) % EVERY == 0


def learner(profile, method, fold, images, seed, model=None, folder=None):
    """A fastai Learner for a fold (cohort rows with `split`). method: a name, or a `Method`.

    model: what to train, as from `begin` or of a baseline; None for the method's own at random. folder:
    where to write checkpoints, or None. The encoder, the rest, and the task weights have learning rates of
    their own.
    """
    model = model or begin(profile, method)
    model_device = device(profile)
    model.to(model_device)  # before a checkpoint is read, since the optimiser's moments follow the parameters
    dls = dataloaders(fold, images, profile, seed)
    domains = len(dls.train.dataset.domains)
    switches = METHODS.get(method, method)
    objective = Objective(profile.width, domains, switches).to(model_device)
    gpu = profile.device == "cuda"
    adam = partial(torch.optim.Adam, fused=gpu, foreach=not gpu)
    callbacks = [Schedule(), Select(fold[fold.split == "validation"], images, folder)]
    if switches.callback:
        callbacks.append(own_class(switches.callback)())
    rates = groups(profile, model, objective)

    def split(model):
        return list(rates.values())
    learn = Learner(dls, model, loss_func=objective, splitter=split, lr=profile.lr, wd=profile.weight_decay,
                    opt_func=partial(OptimWrapper, opt=adam), cbs=callbacks)
    learn.rates = list(rates)
    return learn


def groups(profile, model, objective):
    """{learning rate: the parameters that it trains}: of the encoder, of the rest, and of the task weights.
    """
    rates = {}
    for name, p in [*model.named_parameters(), *objective.named_parameters()]:
        if not p.requires_grad:
            continue
        rate = profile.encoder_lr if name.startswith(PARTS) else profile.lr
        if name.startswith("uncertainty."):
            rate = TASK_LR
        rates.setdefault(rate, []).append(p)
    return rates


def begin(profile, method, start=None):
    """The model of a method (a name, or a `Method`) before its training. start: an encoder to begin with
    (dict of tensors), or None for random weights. All else is fresh, and alike for all methods with the
    same generator."""
    switches = METHODS.get(method, method)
    model = build(profile, mixstyle=switches.mixstyle, concat=switches.concat)
    if start:
        put_into(model, start)
    if not switches.adapters:
        model.adapters.requires_grad_(False)
    if not switches.encoder:
        model.encoder.requires_grad_(False)
    return model


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
        learn.fit_one_cycle(epochs, learn.rates, start_epoch=start)
    if not learn.select.weights:
        raise Problem("The validation patients of each source domain are all malignant or all not, so no "
                      "epoch can be chosen; the cohort is too small for a split by patient.")
    learn.model.load_state_dict(learn.select.weights)
    return pd.DataFrame(learn.select.history)


# ---- one run -----------------------------------------------------------------------------------------------

def epoch_by_left_out(profile, method, held_out, seed, table):
    """The epoch that leave-one-domain-out selection chooses (Gulrajani and Lopez-Paz 2021).

    The method is trained again without each source domain in turn, and judged on that domain. The epoch with
    the best mean AUC is chosen; the schedule is that of the run itself, so that epochs compare.
    """
    in_target = table.patient[table.domain == held_out]
    source = table[~table.patient.isin(in_target)]
    start, _ = begin_from(profile)
    epochs = epochs_of(profile, method)
    aucs = []
    for left_out in sorted(set(source.domain)):
        fold = leave_one_out(source, left_out, seed, train_share=METHODS[method].train_share)
        fold = fold[fold.split.isin(("train", "target"))].replace({"split": {"target": "validation"}})
        seed_everything(seed)
        model = begin(profile, method, start)
        learn = learner(profile, method, fold, images_of(profile, model, table), seed, model)
        aucs.append(fit(learn, epochs).valid_auc)
    return int(pd.concat(aucs, axis=1).mean(axis=1).idxmax())


def epochs_of(profile, method):
    """The epochs of a method: those of the profile, and more on less data, so that all make as many steps."""
    return round(profile.epochs / METHODS[method].train_share)


def train(profile, method, held_out, seed, table, progress=False, selection=TRAINING_DOMAIN):
    """One run: fit on the sources' training patients, select on their validation patients, predict
    everything, record it.

    A run that is done with the same settings, cohort, encoder and code is loaded and not repeated; where one
    of these differs, a warning names it and the run is trained again. An interrupted run goes on.
    selection: how the epoch is chosen, "training-domain" or "leave-one-domain-out" (three more trainings);
    neither reads the target. Returns the `record.Run`.
    """
    if selection not in SELECTION:
        raise Problem(f"There is no selection {selection!r} for a training; choose {' or '.join(SELECTION)}.")
    folder = run_dir(profile, method, held_out, seed)
    start, encoder = begin_from(profile)
    fold = leave_one_out(table, held_out, seed, train_share=METHODS[method].train_share)
    settings = {
        "profile": asdict(profile), "method": method, "switches": asdict(METHODS[method]),
        "held_out": held_out, "seed": seed, "cohort": fingerprint(table), "selection": selection,
        "encoder": encoder, "left_out_rows": fold.attrs["left_out"],
        "code": code_of("xmodal.learner.train") | code_of_own(METHODS[method].callback),
        "pairing": pairing(fold[fold.split == "train"])}
    if is_done(folder, settings):
        return load_run(folder)
    chosen_epoch = None
    if selection == LEAVE_ONE_DOMAIN_OUT:
        chosen_epoch = epoch_by_left_out(profile, method, held_out, seed, table)
    seed_everything(seed)
    model = begin(profile, method, start)
    images = images_of(profile, model, table)
    seed_everything(seed)                                # again, so that all methods draw alike
    learn = learner(profile, method, fold, images, seed, model, folder)
    learn.select.chosen_epoch = chosen_epoch
    epochs = epochs_of(profile, method)
    history = fit(learn, epochs, resume=checkpoint_path(folder, settings), progress=progress)
    centre(learn.model, fold[fold.split == "train"], images)
    predictions, embeddings = predict(learn.model, fold, images)
    save_run(folder, settings, learn.model.state_dict(), history, predictions, embeddings)
    return load_run(folder)
