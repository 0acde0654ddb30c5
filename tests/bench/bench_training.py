"""The cost of a training step, as ratios in one process.

The Learner against a bare PyTorch loop of the same model and losses, and IRM with two half-batches against
ERM. Prints a table and writes build/bench_training.json.
"""
import time
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import ratios
import torch
from fastai.callback.core import Callback, CancelValidException

from xmodal import cohort, config, learner
from xmodal.config import DOMAINS, MAMMOGRAPHY, PROFILES
from xmodal.loaders import Images
from xmodal.record import seed_everything

PROFILE = PROFILES["lesson"]
EPOCHS = 2
REPEATS = 3


def write_noise(folder, images, size):
    """Arrays of noise for all domains, `images` in each."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for domain, modality in DOMAINS.items():
        channels = () if modality == MAMMOGRAPHY else (3,)
        pixels = rng.integers(0, 256, (images, size, size, *channels), dtype=np.uint8)
        np.save(folder / "images" / f"{domain}.npy", pixels)
        np.save(folder / "masks" / f"{domain}.npy", np.ones((images, size, size), np.uint8))


def noise_cohort(folder, people=32, size=PROFILE.image_size):
    """Patients with a mammogram and a tile of noise each: what is seen does not change a step's cost."""
    write_noise(folder, 2 * people, size)
    rows = []
    for k, (breast, tile) in enumerate(product(("cbis_ddsm", "inbreast"), ("bach", "camelyon"))):
        for i in range(people):
            for domain, slot in ((breast, k % 2), (tile, k // 2)):
                modality = DOMAINS[domain]
                native = cohort.index_row(sample=f"{domain}/{k}/{i}", patient=f"{k}/{i}", domain=domain,
                                          modality=modality, allowed=1 << i % 4, grade=i % 4, source="")
                rows.append({**native, "index": slot * people + i, "has_mask": modality == MAMMOGRAPHY,
                             "boxes": "[]", "mm_per_px": 1.0, "checksum": "",
                             "file_allowed": native["allowed"], **cohort.NO_TILE})
    return cohort.leave_one_out(cohort.validate(pd.DataFrame(rows)), "bach", 42)


class NoValidation(Callback):
    """Ends each validation pass at once, since it is no part of a training step."""

    def before_validate(self):
        raise CancelValidException


def make(method, fold, images):
    """A Learner that neither validates, nor selects, nor shows its progress."""
    seed_everything(42)
    learn = learner.learner(PROFILE, method, fold, images, 42)
    learn.remove_cbs([callback for callback in learn.cbs if callback.name in ("progress", "select")])
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
    model = learn.model.train()
    objective = learn.loss_func
    batches = learn.dls.train.dataset
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
    fold = noise_cohort(folder)
    images = Images(folder)
    bare_erm = partial(bare, "erm", fold, images)
    made = []
    for method in ("ours", "erm"):
        ours = partial(with_learner, method, fold, images)
        peer = partial(bare, method, fold, images)
        made.append(ratios.compare(f"Learner / bare loop, {method}", ours, peer, REPEATS, at_most=1.10))
    bare_irm = partial(bare, "irm", fold, images)
    made.append(ratios.compare("irm / erm, bare loops", bare_irm, bare_erm, REPEATS, at_most=1.25))
    return made


if __name__ == "__main__":
    ratios.report(rows(), "bench_training")
