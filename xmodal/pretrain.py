"""The reference encoder: what every training of the lesson begins from.

It is trained on phantoms whose patients and sites the cohort does not have, and on a task that is not the
diagnosis: to outline lesions, and to tell attributes of the breast, the lesion and the nuclei. Two other
tasks can be added, for comparison: patient-level contrast within a modality (two views, two tiles), and the
reconstruction of masked patches.
"""
import time
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.schedule import combined_cos  # noqa: F401 (importing it gives Learner fit_one_cycle)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from safetensors.torch import save_file
from torch import nn

from .cohort import load
from .config import MAMMOGRAPHY, MODALITIES
from .encoders import PARTS, WEIGHTS
from .loaders import BAG, Images, PairedBatches, device, loader
from .losses import info_nce, localisation
from .record import seed_everything
from .runtime.checkpoints import load_checkpoint, save_checkpoint
from .runtime.doctor import environment
from .runtime.files import atomic, sha256, write_json

HIDDEN = 0.5        # share of the patches that are greyed where they are to be reconstructed
SEED = 7            # of the phantom, the batches and the weights; no cohort has it
BATCH = 16          # patients
LR = 1e-3
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Tasks:
    """Weights of the tasks; 0 leaves one out."""
    outlines: float = 1.0
    attributes: float = 1.0
    contrast: float = 0.0
    reconstruction: float = 0.0


TASKS = Tasks()     # of the shipped encoders


class Pretexts(PairedBatches):
    """`PairedBatches` whose targets are attributes, standardised over the table, and not the diagnosis.

    attributes: one row per image, in the order of the table's; NaN where an image has none of it. hide: the
    patches along a side of which some are greyed, 0 for none.
    """

    def __init__(self, table, attributes, images, batch, seed, hide=0):
        super().__init__(table, images, batch, seed)
        self.names = {}
        values = (attributes - attributes.mean()) / attributes.std()
        for modality in MODALITIES:
            mine = values[(table.modality == modality).to_numpy()].dropna(axis=1, how="all")
            self.names[modality] = list(mine.columns)
            self.rows[modality][self.names[modality]] = mine.to_numpy(np.float32)
        self.hide = hide

    def _stream(self, rows, modality, rng):
        images, y = super()._stream(rows, modality, rng)
        y["attributes"] = torch.from_numpy(rows[self.names[modality]].to_numpy(np.float32))
        if self.hide:
            y["whole"] = images
            images, y["hidden"] = hide_patches(images, rng, self.hide)
        return images, y


def hide_patches(images, rng, side):
    """(images, hidden): `HIDDEN` of the patches of each image greyed; hidden is bool (N, side, side)."""
    hidden = torch.from_numpy(rng.random((len(images), side, side)) < HIDDEN)
    step = images.shape[1] // side
    pixels = hidden.repeat_interleave(step, 1).repeat_interleave(step, 2)
    images = images.clone()
    images[pixels] = 128
    return images, hidden


class Pretext(nn.Module):
    """The sum of the weighted tasks of a batch. names: modality -> its attributes."""

    def __init__(self, profile, names, tasks):
        super().__init__()
        self.tasks = tasks
        self.heads = nn.ModuleDict({m: nn.Linear(profile.width, len(names[m])) for m in MODALITIES})
        self.pixels = nn.ModuleDict({m: nn.Linear(profile.width, 3 * profile.patch ** 2) for m in MODALITIES})
        self.parts = {}

    def forward(self, out, y):
        streams = [m for m in MODALITIES if m in out]
        losses = {}
        if self.tasks.attributes:
            losses["attributes"] = mean(self.attributes(out[m].z, y[m], m) for m in streams)
        if self.tasks.outlines:
            losses["outlines"] = localisation(out[MAMMOGRAPHY].mask, y[MAMMOGRAPHY]["mask"])
        if self.tasks.contrast:
            losses["contrast"] = mean(contrast(out[m].z, y[m]["id"]) for m in streams)
        if self.tasks.reconstruction:
            losses["reconstruction"] = mean(self.reconstruction(out[m].tokens, y[m], m) for m in streams)
        self.parts = {name: loss.detach() for name, loss in losses.items()}
        return sum(getattr(self.tasks, name) * loss for name, loss in losses.items())

    def attributes(self, z, y, modality):
        """Mean squared error over the attributes that an image has, in units of their variance."""
        known = ~y["attributes"].isnan()
        return F.mse_loss(self.heads[modality](z)[known], y["attributes"][known])

    def reconstruction(self, tokens, y, modality):
        """Mean absolute error of the hidden patches (Xie et al. 2022, SimMIM), grey levels in [-1, 1]."""
        whole = y["whole"] if y["whole"].ndim == 4 else y["whole"].unsqueeze(-1).expand(-1, -1, -1, 3)
        whole = whole.permute(0, 3, 1, 2).float() / 127.5 - 1
        side = int(tokens.shape[1] ** 0.5)
        patches = F.unfold(whole, whole.shape[-1] // side, stride=whole.shape[-1] // side).transpose(1, 2)
        hidden = y["hidden"].flatten(1)
        return F.l1_loss(self.pixels[modality](tokens)[hidden], patches[hidden])


def mean(losses):
    """The mean of scalar losses."""
    return torch.stack(list(losses)).mean()


def contrast(z, ids, tau=0.1):
    """InfoNCE within a modality: two images of a patient (neighbours in the batch) and others."""
    first = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    first[1:] = ids[1:] != ids[:-1]
    return info_nce(z[first], z[~first], ids[first], ids[~first], tau)


class Keep(Callback):
    """Writes a checkpoint after every epoch, and keeps the mean of each task for the history."""
    order = 65

    def __init__(self, path):
        self.path = path
        self.history = []

    def before_epoch(self):
        self.learn.dls.train.dataset.epoch = self.epoch
        self.began = time.monotonic()
        self.sums = {}

    def after_batch(self):
        if self.training:
            for name, value in self.learn.loss_func.parts.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value) / self.n_iter

    def before_validate(self):
        raise CancelValidException

    def after_epoch(self):
        if self.sums:
            seconds = time.monotonic() - self.began
            self.history.append({"epoch": self.epoch, **self.sums, "seconds": seconds})
            state = {"history": self.history, "epoch": self.epoch}
            save_checkpoint(self.path, parts(self.learn), self.learn.opt.opt, state)


def parts(learn):
    """The modules that the training changes, as `checkpoints.save_checkpoint` takes them."""
    return {"model": learn.model, "pretext": learn.loss_func}


def fit(profile, model, batches, path, epochs, tasks=TASKS):
    """Trains `model` on `Pretexts` for `epochs`; goes on from the checkpoint at `path`. Returns the history,
    one row per epoch."""
    where = device(profile)
    model.to(where)
    pretext = Pretext(profile, batches.names, tasks).to(where)
    fed = loader(batches, where, 0)
    adam = partial(OptimWrapper, opt=partial(torch.optim.AdamW, foreach=True))
    learn = Learner(DataLoaders(fed, fed, device=where), model, loss_func=pretext, lr=LR, opt_func=adam,
                    wd=WEIGHT_DECAY, splitter=partial(trained, pretext), cbs=Keep(path))
    start = 0
    if path.exists():
        learn.create_opt()
        loaded = load_checkpoint(path, parts(learn), learn.opt.opt)
        if loaded:
            state, _ = loaded
            learn.keep.history = state["history"]
            start = state["epoch"] + 1
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, LR, start_epoch=start)
    return pd.DataFrame(learn.keep.history)


def trained(pretext, model):
    """The parameters of the encoder and of what reads it; no adapter, since both modalities share all."""
    adapters = set(model.adapters.parameters()) if model.adapters else set()
    return [p for p in (*model.parameters(), *pretext.parameters()) if p not in adapters]


# ---- the shipped encoders --------------------------------------------------------------------------------

def make(profile, name, build, folder, epochs, scratch):
    """Trains what build(profile) gives, without any frozen part, on the pretraining phantom in `folder`,
    and writes the encoder and its record to `encoders.WEIGHTS`, as `name`. It goes on from a checkpoint in
    `scratch`.

    A tenth of the patients is held back, for `probes`. Returns the record.
    """
    profile = replace(profile, frozen=0)
    seed_everything(SEED)
    model = build(profile)
    table, attributes = read(folder, model)
    patients = np.random.default_rng(SEED).permutation(sorted(table.patient.unique()))
    in_training = ~table.patient.isin(patients[:len(patients) // 10]).to_numpy()
    batches = Pretexts(table[in_training], attributes[in_training], Images(folder), BATCH, SEED)
    history = fit(profile, model, batches, scratch / f"{name}.ckpt", epochs)
    state = {key: v for key, v in model.state_dict().items() if key.startswith(PARTS)}
    path = WEIGHTS / f"{name}.safetensors"
    with atomic(path) as partial_path:
        save_file({key: v.half().contiguous() for key, v in state.items()}, partial_path)
    images = epochs * sum(min(BAG, n) for n in table[in_training].groupby(["patient", "modality"]).size())
    made = {
        "seed": SEED, "patients": int(table.patient[in_training].nunique()), "epochs": epochs,
        "steps": epochs * len(batches), "images": int(images),
        "hours": round(float(history.seconds.sum()) / 3600, 2),
        "tasks": asdict(TASKS), "environment": {**environment(), "commit": ""}, "sha256": sha256(path),
    }
    write_json(WEIGHTS / f"{name}.json", made)
    with atomic(WEIGHTS / f"{name}.csv") as partial_path:
        history.round(4).to_csv(partial_path, index=False)
    return made


def read(folder, model):
    """(cohort table, attributes in its order) of the pretraining phantom: the rows that `model` reads."""
    table = load(folder / "cohort.parquet")
    attributes = pd.read_parquet(folder / "attributes.parquet").set_index("sample").loc[table["sample"]]
    attributes = attributes.reset_index(drop=True)
    if model.encoder is None:
        mine = table.modality == MAMMOGRAPHY
        return table[mine].reset_index(drop=True), attributes[mine].reset_index(drop=True)
    return table, attributes
