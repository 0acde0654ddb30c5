"""The paper profile on a GPU says what the processor says. Without a GPU the same checks run on a tiny model where they mean something.

On a machine with one, after `make env`: `.venv/bin/python -m pytest tests/gpu`. No network and no data are needed: all weights are drawn.
"""
import pytest
import torch
from fastai.torch_core import to_device

import setting
from xmodal.config import MODALITIES, PROFILES

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA here")
PROFILE = {"cpu": setting.TINY, "cuda": PROFILES["paper"]}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request):
    return request.param


def say(folder, device, dtype=None, profile=None):
    """logits, scores and features of both modalities, the loss, and the gradient of the first block, as one float32 vector each."""
    learn = setting.learner(folder, device, profile or PROFILE[device])
    x, y = to_device(learn.dls.train.dataset[0], torch.device(device))
    model = learn.model.to(device)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        out = model(x)
        loss = learn.loss_func(out, y)
    loss.backward()
    found = {name: torch.cat([getattr(out[m], name).flatten() for m in MODALITIES]) for name in ("logits", "score", "feature")}
    found |= {"loss": loss[None], "gradient": torch.cat([p.grad.flatten() for p in model.encoder.blocks[0].parameters()])}
    return {name: value.detach().float().cpu() for name, value in found.items()}


def deviation(found, wanted):
    """Of each vector: the length of the difference as a share of the length."""
    return {name: ((found[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted}


def test_bfloat16_agrees_with_float32_on_the_processor(tmp_path, device):
    """A bfloat16 has 8 bits, so each operation may be off by 0.4 %; 3 % is allowed for what is said, 10 % for the gradient."""
    setting.write_cohort(tmp_path, PROFILE[device].image_size)
    off = deviation(say(tmp_path, device, torch.bfloat16), say(tmp_path, "cpu", profile=PROFILE[device]))
    assert off["gradient"] < 0.1 and max(v for k, v in off.items() if k != "gradient") < 0.03 and max(off.values()) > 1e-5, off


@needs_gpu
def test_float32_agrees_with_the_processor(tmp_path, monkeypatch):
    """Sums in another order, through twelve blocks and back: 0.1 % is allowed. Convolutions must not round to TensorFloat-32 first."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    setting.write_cohort(tmp_path, PROFILE["cuda"].image_size)
    off = deviation(say(tmp_path, "cuda"), say(tmp_path, "cpu", profile=PROFILE["cuda"]))
    assert max(off.values()) < 1e-3, off


@needs_gpu
def test_the_paper_profile_trains(tmp_path):
    setting.write_cohort(tmp_path, PROFILE["cuda"].image_size)
    learn = setting.learner(tmp_path, "cuda", PROFILE["cuda"], "ours")
    start = {name: p.detach().clone() for name, p in setting.parameters(learn)}
    with learn.no_logging(), learn.no_bar():
        learn.fit(setting.EPOCHS)
    assert all(p.isfinite().all() for _, p in setting.parameters(learn))
    assert sum((p.cpu() != start[name].cpu()).any().item() for name, p in setting.parameters(learn)) > 0.9 * len(start)


def test_attention_is_the_fused_one(tmp_path):
    setting.write_cohort(tmp_path, setting.TINY.image_size)
    assert all(block.attn.fused_attn for block in setting.learner(tmp_path).model.encoder.blocks)
