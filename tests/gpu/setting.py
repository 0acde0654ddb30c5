"""What the scripts of this folder have in common: a cohort of noise, a Learner without validation."""
import dataclasses
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.optimizer import OptimWrapper

from xmodal import cohort, learner as engine
from xmodal.config import DOMAINS, MAMMOGRAPHY, PROFILES
from xmodal.loaders import Images
from xmodal.record import seed_everything

TINY = dataclasses.replace(PROFILES["paper"], image_size=32, patch=8, width=48, depth=2, heads=3,
                           adapter=4, batch=8, amp=False, lr=0.05)
EPOCHS = 2


def write_cohort(folder, size, people=24):
    """Patients with one mammogram and one tile of noise each, a quarter of them in each pair of domains."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for domain, modality in DOMAINS.items():
        channels = () if modality == MAMMOGRAPHY else (3,)
        pixels = rng.integers(0, 256, (people, size, size, *channels), np.uint8)
        np.save(folder / "images" / f"{domain}.npy", pixels)
        np.save(folder / "masks" / f"{domain}.npy", np.ones((people, size, size), np.uint8))
    rows = []
    for i in range(people):
        severity = i // 4 % 4
        breast = "cbis_ddsm" if i % 2 else "inbreast"
        tile = "bach" if i // 2 % 2 else "camelyon"
        for domain in (breast, tile):
            modality = DOMAINS[domain]
            native = cohort.index_row(sample=f"{domain}/{i}", patient=f"P{i}", domain=domain,
                                      modality=modality, allowed=1 << severity, grade=severity, source="")
            rows.append({**native, "index": i, "has_mask": modality == MAMMOGRAPHY, "boxes": "[]",
                         "mm_per_px": 1.0, "checksum": "", "file_allowed": 1 << severity, **cohort.NO_TILE})
    cohort.validate(pd.DataFrame(rows)).to_parquet(folder / "cohort.parquet")


class NoValidation(Callback):
    """Ends each validation pass at once."""

    def before_validate(self):
        raise CancelValidException


def learner(folder, device="cpu", profile=TINY, method="irm", **changes):
    """A Learner of the project on the cohort in `folder`, which does not validate and does not select.

    It trains on two thirds of the patients. `changes` are those of the profile.
    """
    table = cohort.load(folder / "cohort.parquet")
    fold = table.assign(split=np.where(table["index"] % 3 == 2, "validation", "train"))
    seed_everything(42)
    profile = dataclasses.replace(profile, device=device, **changes)
    learn = engine.learner(profile, method, fold, Images(folder), 42)
    learn.remove_cbs([callback for callback in learn.cbs if callback.name in ("progress", "select")])
    learn.add_cb(NoValidation())
    return learn


def by_descent(learn):
    """`learn` with plain descent: Adam turns the rounding of a gradient near zero into a whole step."""
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    return learn


def parameters(learn):
    """(name, parameter) of the model and of the objective, in a fixed order."""
    model = getattr(learn.model, "module", learn.model)
    named = [(f"model.{name}", parameter) for name, parameter in model.named_parameters()]
    named += [(f"objective.{name}", parameter) for name, parameter in learn.loss_func.named_parameters()]
    return named
