"""A training step of the paper profile on a GPU, as ratios: to timm's own step of the same encoder on as many images, to the card's measured
bfloat16 matrix rate, to itself with one thing changed; and an epoch whose batches are drawn to one whose batches lie on the card.

`.venv/bin/python tests/gpu/bench_gpu.py` prints a table and writes build/bench_gpu.json; it needs no network and no data. Without a GPU it
tries itself on a tiny model: such numbers say nothing.
"""
import statistics
import sys
import tempfile
import time
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
import told  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE, PROFILE, SIDE, STEPS, REPEATS = ("cuda", PROFILES["paper"], 8192, 20, 5) if GPU else ("cpu", setting.TINY, 256, 1, 3)


def seconds(step, n=STEPS):
    """Seconds of one call of `step`, from n calls in a row."""
    wait = torch.cuda.synchronize if GPU else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(n):
        step()
    wait()
    return (time.perf_counter() - start) / n


def stepper(model, loss, parameters, **adam):
    optimiser = torch.optim.Adam(parameters, lr=PROFILE.lr, weight_decay=PROFILE.weight_decay, **(adam or {"fused": True}))

    def step():
        loss(model).backward()
        optimiser.step()
        optimiser.zero_grad()
    return step


def ours(folder, channels_last=False, compiled=False, checkpointed=False, **adam):
    """(a step of the method "ours" on a batch that lies on the device, how many images that has)."""
    learn = setting.learner(folder, DEVICE, PROFILE, "ours")
    batches, model = learn.dls.train.dataset, learn.model.train()
    if channels_last:
        model.encoder.patch_embed.to(memory_format=torch.channels_last)
    if compiled:
        for block in model.encoder.blocks:
            block.compile()
    model.encoder.set_grad_checkpointing(checkpointed)
    x, y = to_device(batches[0], torch.device(DEVICE))
    step = stepper(model, lambda model: learn.loss_func(model(x), y), [p for _, p in setting.parameters(learn)], **adam)
    return step, sum(len(x[m]) for m in MODALITIES)


class Kept:
    """Batches drawn once and kept on the device, in place of those that are drawn anew in each epoch."""
    epoch = 0

    def __init__(self, batches):
        self.batches = [to_device(batches[k], torch.device(DEVICE)) for k in range(len(batches))]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, k):
        return self.batches[k]


def epoch(folder, kept=False):
    """A function that returns the seconds of an epoch of the Learner, validation and selection aside."""
    learn = setting.learner(folder, DEVICE, PROFILE, "ours")
    if kept:
        learn.dls.loaders[0] = loader(Kept(learn.dls.train.dataset), torch.device(DEVICE), 0)

    def fit():
        with learn.no_logging(), learn.no_bar():
            learn.fit(1)
    return lambda: seconds(fit, 1)


def memory(step):
    """Megabytes on the card at most during a step."""
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**20


def timms(images):
    """(timm's step on as many images, the floating point operations it takes)."""
    model = timm.create_model("vit_base_patch16_224", num_classes=4, img_size=PROFILE.image_size, patch_size=PROFILE.patch,
                              embed_dim=PROFILE.width, depth=PROFILE.depth, num_heads=PROFILE.heads).to(DEVICE)
    x, y = torch.randn(images, 3, PROFILE.image_size, PROFILE.image_size, device=DEVICE), torch.randint(4, (images,), device=DEVICE)

    def loss(model):
        with torch.autocast(DEVICE, torch.bfloat16):
            return F.cross_entropy(model(x), y)
    step = stepper(model, loss, model.parameters())
    with FlopCounterMode(display=False) as counter:
        step()
    return step, counter.get_total_flops()


def matrix_rate():
    """Floating point operations a second of a large bfloat16 matrix product, the best of several."""
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * SIDE**3 / min(seconds(lambda: a @ b) for _ in range(2 * REPEATS))


def rows(folder):
    setting.write_cohort(folder, PROFILE.image_size, people=96)
    step, images = ours(folder)
    peer, flops = timms(images)
    one = lambda f: lambda: seconds(f)
    thrifty = ours(folder, checkpointed=True)[0]
    changes = {"channels-last": {"channels_last": True}} | ({"torch.compile": {"compiled": True}} if GPU else {})
    ideal = flops / matrix_rate()
    print(f"{torch.cuda.get_device_name() if GPU else 'no GPU, a tiny model'}; {images} images a step; {images / statistics.median(seconds(step) for _ in range(REPEATS)):.0f} "
          f"images a second; {flops / ideal / 1e12:.3g} TFLOP/s in a bfloat16 matrix product")
    if GPU:
        print(f"{memory(step):.0f} MB on the card at most, {memory(thrifty):.0f} with gradient checkpointing")
    return [told.compare("step, ours / timm", one(step), one(peer), REPEATS, at_most=1.5),
            told.row("share of the matrix rate, timm", [(seconds(peer), ideal) for _ in range(REPEATS)], at_least=0.3),
            told.row("share of the matrix rate, ours", [(seconds(step), ideal) for _ in range(REPEATS)], at_least=0.2),
            told.compare("epoch, batches drawn / on the card", epoch(folder), epoch(folder, kept=True), REPEATS, at_most=1.1),
            told.compare("step, fused Adam / foreach Adam", one(step), one(ours(folder, foreach=True)[0]), REPEATS, at_most=1.02),
            told.compare("step, gradient checkpointing / as it is", one(thrifty), one(step), REPEATS, at_most=1.5),
            *(told.compare(f"step, {what} / as it is", one(ours(folder, **how)[0]), one(step), REPEATS, at_most=1.02) for what, how in changes.items())]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        told.tell(rows(Path(scratch)), "bench_gpu")
