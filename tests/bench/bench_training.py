"""The cost of a training step, as ratios in one process: the Learner against a bare PyTorch loop of the same model and losses, and
IRM with two half-batches against ERM. Prints a table and writes build/bench_training.json."""
import time

import numpy as np
import pandas as pd
import told
import torch
from fastai.callback.core import Callback, CancelValidException

from xmodal import cohort, config, learner
from xmodal.config import DOMAINS, MAMMOGRAPHY, PROFILES
from xmodal.loaders import Images
from xmodal.record import seed_everything

PROFILE, EPOCHS, REPEATS = PROFILES["lesson"], 2, 3


def noise_cohort(folder, people=32, size=PROFILE.image_size):
    """Patients with one mammogram and one tile of noise each: the cost of a step does not depend on what is seen."""
    rng, rows = np.random.default_rng(0), []
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for domain, modality in DOMAINS.items():
        shape = (2 * people, size, size) + (() if modality == MAMMOGRAPHY else (3,))
        np.save(folder / "images" / f"{domain}.npy", rng.integers(0, 256, shape, dtype=np.uint8))
        np.save(folder / "masks" / f"{domain}.npy", np.ones((2 * people, size, size), np.uint8))
    for k, (m, p) in enumerate([(m, p) for m in ("cbis_ddsm", "inbreast") for p in ("bach", "camelyon")]):
        for i in range(people):
            for domain, slot in ((m, k % 2), (p, k // 2)):
                rows.append(dict(sample=f"{domain}/{k}/{i}", patient=f"{k}/{i}", study="", domain=domain, modality=DOMAINS[domain], view="",
                                 laterality="", allowed=1 << i % 4, truth=-1, grade=i % 4, density="", lesion_type="", lesion_shape="",
                                 diameter_mm=np.nan, annotation="", source="", index=slot * people + i, has_mask=DOMAINS[domain] == MAMMOGRAPHY,
                                 boxes="[]", mm_per_px=1.0, checksum=""))
    return cohort.leave_one_out(cohort.validate(pd.DataFrame(rows)), "bach", 42)


class NoValidation(Callback):
    """A validation pass is no part of a training step."""

    def before_validate(self):
        raise CancelValidException


def make(method, fold, images):
    seed_everything(42)
    learn = learner.learner(PROFILE, method, fold, images, 42)
    learn.remove_cbs([c for c in learn.cbs if c.name in ("progress", "select")])
    return learn


def with_learner(method, fold, images):
    """Processor seconds of EPOCHS epochs of steps by fastai."""
    learn = make(method, fold, images)
    learn.add_cb(NoValidation())
    learn.create_opt()
    start = time.process_time()
    with learn.no_logging():
        learn.fit(EPOCHS)
    return time.process_time() - start


def bare(method, fold, images):
    """Processor seconds of the same steps by a plain loop."""
    learn = make(method, fold, images)
    model, objective, batches = learn.model.train(), learn.loss_func, learn.dls.train.dataset
    parameters = [*model.parameters(), *objective.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=PROFILE.lr, weight_decay=PROFILE.weight_decay, foreach=True)
    start = time.process_time()
    for batches.epoch in range(EPOCHS):
        for k in range(len(batches)):
            x, y = batches[k]
            loss = objective(model(x), y)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    return time.process_time() - start


def rows():
    folder = config.DATA / "bench"
    fold, images = noise_cohort(folder), Images(folder)
    cases = {"Learner / bare loop, ours": (lambda: with_learner("ours", fold, images), lambda: bare("ours", fold, images), 1.10),
             "Learner / bare loop, erm": (lambda: with_learner("erm", fold, images), lambda: bare("erm", fold, images), 1.10),
             "irm / erm, bare loops": (lambda: bare("irm", fold, images), lambda: bare("erm", fold, images), 1.25)}
    return [told.compare(what, ours, peer, REPEATS, at_most=limit) for what, (ours, peer, limit) in cases.items()]


if __name__ == "__main__":
    told.tell(rows(), "bench_training")
