"""A training step of the paper profile on a GPU, as ratios.

The step is compared with timm's own step of the same encoder on as many images, with the card's measured
bfloat16 matrix rate, and with itself after one change; an epoch whose batches are drawn with one whose
batches lie on the card.

`.venv/bin/python tests/gpu/bench_gpu.py` prints a table and writes build/bench_gpu.json; it needs no
network and no data. Without a GPU it runs on a tiny model to try itself: such numbers say nothing.
"""
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import setting
import timm
import torch
import torch.nn.functional as F
from fastai.torch_core import to_device
from torch.utils.flop_counter import FlopCounterMode

from xmodal.config import MODALITIES, PROFILES
from xmodal.loaders import loader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import ratios  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
PROFILE = PROFILES["paper"] if GPU else setting.TINY
SIDE = 8192 if GPU else 256      # of the matrices
STEPS = 20 if GPU else 1         # timed in a row
REPEATS = 5 if GPU else 3


def wait():
    """Until the card has done what it was asked for."""
    if GPU:
        torch.cuda.synchronize()


def seconds(step, n=STEPS):
    """Seconds of one call of `step`, from n calls in a row."""
    wait()
    start = time.perf_counter()
    for _ in range(n):
        step()
    wait()
    return (time.perf_counter() - start) / n


# ---- steps -----------------------------------------------------------------------------------------------

def stepper(model, loss, parameters, **adam):
    """A function that makes a training step: loss, gradients, Adam."""
    options = adam or {"fused": True}
    optimiser = torch.optim.Adam(parameters, lr=PROFILE.lr, weight_decay=PROFILE.weight_decay, **options)

    def step():
        loss(model).backward()
        optimiser.step()
        optimiser.zero_grad()
    return step


def ours(folder, channels_last=False, compiled=False, checkpointed=False, **adam):
    """(a step of the method "ours" on a batch that lies on the device, the number of images in it)."""
    learn = setting.learner(folder, DEVICE, PROFILE, "ours")
    model = learn.model.train()
    if channels_last:
        model.encoder.patch_embed.to(memory_format=torch.channels_last)
    if compiled:
        for block in model.encoder.blocks:
            block.compile()
    model.encoder.set_grad_checkpointing(checkpointed)
    x, y = to_device(learn.dls.train.dataset[0], torch.device(DEVICE))

    def loss(model):
        return learn.loss_func(model(x), y)
    parameters = [parameter for _, parameter in setting.parameters(learn)]
    return stepper(model, loss, parameters, **adam), sum(len(x[m]) for m in MODALITIES)


def timms(images):
    """(timm's step on as many images, the floating point operations it takes)."""
    model = timm.create_model("vit_base_patch16_224", num_classes=4, img_size=PROFILE.image_size,
                              patch_size=PROFILE.patch, embed_dim=PROFILE.width, depth=PROFILE.depth,
                              num_heads=PROFILE.heads).to(DEVICE)
    x = torch.randn(images, 3, PROFILE.image_size, PROFILE.image_size, device=DEVICE)
    y = torch.randint(4, (images,), device=DEVICE)

    def loss(model):
        with torch.autocast(DEVICE, torch.bfloat16):
            return F.cross_entropy(model(x), y)
    step = stepper(model, loss, model.parameters())
    with FlopCounterMode(display=False) as counter:
        step()
    return step, counter.get_total_flops()


# ---- epochs ----------------------------------------------------------------------------------------------

class OnDevice:
    """Batches drawn once that stay on the device, in place of batches that are drawn anew in each epoch."""
    epoch = 0

    def __init__(self, batches):
        self.batches = [to_device(batches[k], torch.device(DEVICE)) for k in range(len(batches))]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, k):
        return self.batches[k]


def epoch(folder, on_device=False):
    """A function that returns the seconds of an epoch of the Learner, without validation and selection."""
    learn = setting.learner(folder, DEVICE, PROFILE, "ours")
    if on_device:
        learn.dls.loaders[0] = loader(OnDevice(learn.dls.train.dataset), torch.device(DEVICE), 0)

    def fit():
        with learn.no_logging(), learn.no_bar():
            learn.fit(1)
    return partial(seconds, fit, 1)


# ---- the card --------------------------------------------------------------------------------------------

def memory(step):
    """Megabytes on the card at most during a step."""
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**20


def matrix_rate():
    """Floating point operations a second of a large bfloat16 matrix product, the best of several."""
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

    def product():
        return a @ b
    return 2 * SIDE**3 / min(seconds(product) for _ in range(2 * REPEATS))


def describe(images, step, thrifty, rate):
    """Prints what the ratios do not say: speed, rate, memory."""
    name = torch.cuda.get_device_name() if GPU else "no GPU, a tiny model"
    speed = images / statistics.median(seconds(step) for _ in range(REPEATS))
    print(f"{name}; {images} images a step; {speed:.0f} images a second; "
          f"{rate / 1e12:.3g} TFLOP/s in a bfloat16 matrix product")
    if GPU:
        print(f"{memory(step):.0f} MB on the card at most, {memory(thrifty):.0f} with gradient checkpointing")


def rows(folder):
    setting.write_cohort(folder, PROFILE.image_size, people=96)
    step, images = ours(folder)
    timms_step, flops = timms(images)
    thrifty, _ = ours(folder, checkpointed=True)
    rate = matrix_rate()
    ideal = flops / rate
    describe(images, step, thrifty, rate)
    as_it_is = partial(seconds, step)
    timms_own = partial(seconds, timms_step)
    timms_times = [(timms_own(), ideal) for _ in range(REPEATS)]
    our_times = [(as_it_is(), ideal) for _ in range(REPEATS)]
    drawn = epoch(folder)
    on_card = epoch(folder, on_device=True)
    foreach, _ = ours(folder, foreach=True)
    made = [
        ratios.compare("step, ours / timm", as_it_is, timms_own, REPEATS, at_most=1.5),
        ratios.row("share of the matrix rate, timm", timms_times, at_least=0.3),
        ratios.row("share of the matrix rate, ours", our_times, at_least=0.2),
        ratios.compare("epoch, batches drawn / on the card", drawn, on_card, REPEATS, at_most=1.1),
        ratios.compare("step, fused Adam / foreach Adam", as_it_is, partial(seconds, foreach), REPEATS,
                       at_most=1.02),
        ratios.compare("step, gradient checkpointing / as it is", partial(seconds, thrifty), as_it_is,
                       REPEATS, at_most=1.5),
    ]
    changes = {"channels-last": {"channels_last": True}}
    if GPU:
        changes["torch.compile"] = {"compiled": True}
    for what, change in changes.items():
        changed, _ = ours(folder, **change)
        made.append(ratios.compare(f"step, {what} / as it is", partial(seconds, changed), as_it_is, REPEATS,
                                   at_most=1.02))
    return made


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        ratios.report(rows(Path(scratch)), "bench_gpu")
