"""What the scripts of this folder share: a cohort of noise, and a Learner on it without validation."""
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

TINY = dataclasses.replace(PROFILES["paper"], image_size=32, patch=8, width=48, depth=2, heads=3, adapter=4, batch=8, amp=False, lr=0.05)
EPOCHS = 2


def write_cohort(folder, size, people=24):
    """Patients with one mammogram and one tile of noise each, six in each pair of domains."""
    rng, rows = np.random.default_rng(0), []
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for domain, modality in DOMAINS.items():
        np.save(folder / "images" / f"{domain}.npy", rng.integers(0, 256, (people, size, size) + (() if modality == MAMMOGRAPHY else (3,)), np.uint8))
        np.save(folder / "masks" / f"{domain}.npy", np.ones((people, size, size), np.uint8))
    for i in range(people):
        for domain in ("cbis_ddsm" if i % 2 else "inbreast", "bach" if i // 2 % 2 else "camelyon"):
            rows.append(dict(sample=f"{domain}/{i}", patient=f"P{i}", study="", domain=domain, modality=DOMAINS[domain], view="", laterality="",
                             allowed=1 << i // 4 % 4, truth=-1, grade=i // 4 % 4, density="", lesion_type="", lesion_shape="", diameter_mm=np.nan, annotation="",
                             source="", index=i, has_mask=DOMAINS[domain] == MAMMOGRAPHY, boxes="[]", mm_per_px=1.0, checksum=""))
    cohort.validate(pd.DataFrame(rows)).to_parquet(folder / "cohort.parquet")


class NoValidation(Callback):
    def before_validate(self):
        raise CancelValidException


def learner(folder, device="cpu", profile=TINY, method="irm", **changes):
    """A Learner of the project on the cohort in `folder`, which trains on all patients but a validation third, and does not select."""
    table = cohort.load(folder / "cohort.parquet")
    fold = table.assign(split=np.where(table["index"] % 3 == 2, "validation", "train"))
    seed_everything(42)
    learn = engine.learner(dataclasses.replace(profile, device=device, **changes), method, fold, Images(folder), 42)
    learn.remove_cbs([c for c in learn.cbs if c.name in ("progress", "select")])
    learn.add_cb(NoValidation())
    return learn


def by_descent(learn):
    """`learn` with plain gradient descent, since Adam turns the rounding of a gradient near zero into a whole step."""
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    return learn


def parameters(learn):
    """(name, parameter) of the model and of the objective, in a fixed order."""
    model = getattr(learn.model, "module", learn.model)
    return [(f"{part}.{name}", p) for part, module in (("model", model), ("objective", learn.loss_func)) for name, p in module.named_parameters()]
