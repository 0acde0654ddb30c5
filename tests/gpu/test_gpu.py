"""The paper profile gives the same on a GPU as on the processor.

Without a GPU those checks that mean something there run on a tiny model. On a machine with one, after `make
env`: `.venv/bin/python -m pytest tests/gpu`. No network and no data are needed: all weights are drawn at
random.
"""
import dataclasses

import pytest
import setting
import torch
from fastai.torch_core import to_device

from xmodal import cohort, config, learner
from xmodal.adapt_run import adapt_run
from xmodal.config import MODALITIES, PROFILES
from xmodal.loaders import loader
from xmodal.runtime import checkpoints

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA here")
PROFILE = {"cpu": setting.TINY, "cuda": PROFILES["paper"]}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request):
    return request.param


def computed(folder, device, amp, profile=None):
    """{name: float32 vector}: logits, scores, features of both modalities, loss, a block's gradient."""
    learn = setting.learner(folder, device, profile or PROFILE[device], amp=amp)
    x, y = to_device(learn.dls.train.dataset[0], torch.device(device))
    model = learn.model
    out = model(x)
    loss = learn.loss_func(out, y)
    loss.backward()
    vectors = {}
    for name in ("logits", "score", "feature"):
        vectors[name] = torch.cat([getattr(out[m], name).flatten() for m in MODALITIES])
    vectors["loss"] = loss[None]
    vectors["gradient"] = torch.cat([p.grad.flatten() for p in model.encoder.blocks[0].parameters()])
    assert all(vector.dtype == torch.float32 for vector in vectors.values()), "what the losses see"
    return {name: vector.detach().cpu() for name, vector in vectors.items()}


def deviation(vectors, reference):
    """{name: the length of the difference as a share of the length of the reference}."""
    return {name: ((vectors[name] - value).norm() / value.norm()).item() for name, value in reference.items()}


def test_bfloat16_agrees_with_float32_on_the_processor(tmp_path, device):
    """Each operation in bfloat16 (8 bits) may be off by 0.4 %, the gradient by 10 %, all else by 3 %."""
    setting.write_cohort(tmp_path, PROFILE[device].image_size)
    reference = computed(tmp_path, "cpu", False, PROFILE[device])
    off = deviation(computed(tmp_path, device, True), reference)
    assert max(off.values()) > 1e-5, off
    assert off.pop("gradient") < 0.1 and max(off.values()) < 0.03, off


@needs_gpu
def test_float32_agrees_with_the_processor(tmp_path, monkeypatch):
    """Sums are in another order, through twelve blocks and back: 0.1 % is allowed.

    Convolutions must not round to TensorFloat-32 first.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    setting.write_cohort(tmp_path, PROFILE["cuda"].image_size)
    reference = computed(tmp_path, "cpu", False, PROFILE["cuda"])
    off = deviation(computed(tmp_path, "cuda", False), reference)
    assert max(off.values()) < 1e-3, off


def test_it_trains_in_bfloat16(tmp_path, device):
    setting.write_cohort(tmp_path, PROFILE[device].image_size)
    learn = setting.learner(tmp_path, device, PROFILE[device], "ours", amp=True)
    start = {name: p.detach().clone() for name, p in setting.parameters(learn)}
    with learn.no_logging(), learn.no_bar():
        learn.fit(setting.EPOCHS)
    assert all(p.isfinite().all() for _, p in setting.parameters(learn))
    moved = [(p.cpu() != start[name].cpu()).any().item() for name, p in setting.parameters(learn)]
    assert sum(moved) > 0.9 * len(start)


def test_batches_drawn_ahead_are_the_same(tmp_path):
    setting.write_cohort(tmp_path, setting.TINY.image_size)
    batches = setting.learner(tmp_path).dls.train.dataset
    for batches.epoch in (0, 3):
        here = list(loader(batches, torch.device("cpu"), 0))
        ahead = list(loader(batches, torch.device("cpu"), 2))
        torch.testing.assert_close(ahead, here, rtol=0, atol=0)
        torch.testing.assert_close(here, [batches[k] for k in range(len(batches))], rtol=0, atol=0)


def test_a_run_that_was_cut_goes_on_to_the_same_bits_and_is_adapted(home, device, monkeypatch):
    profile = dataclasses.replace(PROFILE[device], device=device, amp=True, pretrained="", epochs=3)
    setting.write_cohort(config.DATA / profile.name, profile.image_size)
    table = cohort.load(config.DATA / profile.name / "cohort.parquet")
    arguments = profile, "ours", "bach", 42, table
    whole = learner.train(*arguments)
    state = whole.state
    (whole.folder / "done").unlink()

    def cut(*what):
        checkpoints.save_checkpoint(*what)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learner, "save_checkpoint", cut)
        learner.train(*arguments)
    resumed = learner.train(*arguments).state
    assert all(torch.equal(state[name], resumed[name]) for name in state)
    run = adapt_run(*arguments)
    assert set(run.predictions.condition) == {*config.CONDITIONS, *config.STREAMS}
    assert run.predictions[["p0", "p1", "p2", "p3"]].notna().all(axis=None)


def test_attention_is_the_fused_one(tmp_path):
    setting.write_cohort(tmp_path, setting.TINY.image_size)
    assert all(block.attn.fused_attn for block in setting.learner(tmp_path).model.encoder.blocks)
