"""Two processes that each take half of the batches end where one process ends that averages the gradients of the same batches."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import setting
import torch
from safetensors.torch import load_file


def averaged(folder):
    """What two processes should do, by one: step i takes batch i and batch n/2 + i, and the mean of their gradients."""
    learn = setting.by_descent(setting.learner(folder))
    model, objective, batches = learn.model.train(), learn.loss_func, learn.dls.train.dataset
    learn.create_opt()
    learn.opt.set_hypers(lr=learn.lr, wd=learn.wd)
    half = len(batches) // 2
    assert len(batches) == 2 * half, "no batch is shown twice"
    for epoch in range(setting.EPOCHS):
        batches.epoch = epoch
        for i in range(half):
            objective.ramp = min(max(((epoch + i / half) / setting.EPOCHS - 0.2) / 0.3, 0), 1)
            for k in (i, half + i):
                x, y = batches[k]
                (objective(model(x), y) / 2).backward()
            learn.opt.step()
            learn.opt.zero_grad()
    return {name: p.detach() for name, p in setting.parameters(learn)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the processes would want one each")
def test_two_processes_equal_one(tmp_path):
    setting.write_cohort(tmp_path, setting.TINY.image_size)
    start = {name: p.detach().clone() for name, p in setting.parameters(setting.learner(tmp_path))}
    told = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2",
                           str(Path(__file__).with_name("ddp.py")), str(tmp_path), str(tmp_path / "out.safetensors")], capture_output=True, text=True,
                          timeout=300, env={**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"})    # needs no name that resolves
    assert told.returncode == 0, told.stderr[-3000:]
    found, wanted = load_file(tmp_path / "out.safetensors"), averaged(tmp_path)
    assert found.keys() == wanted.keys()
    moved = max((wanted[name] - start[name]).abs().max() for name in wanted)
    assert moved > 1e-2, "it trained"
    for name in wanted:
        assert (found[name] - wanted[name]).abs().max() < 1e-4 * moved, name
