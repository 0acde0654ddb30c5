"""Two processes with half of the batches each end where one ends that averages both gradients."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import setting
import torch
from safetensors.torch import load_file


def averaged(folder):
    """What two processes should do, in one: step i takes the mean gradient of batches i and n/2 + i."""
    learn = setting.by_descent(setting.learner(folder))
    model = learn.model.train()
    objective = learn.loss_func
    batches = learn.dls.train.dataset
    learn.create_opt()
    learn.opt.set_hypers(lr=learn.lr, wd=learn.wd)
    half = len(batches) // 2
    assert len(batches) == 2 * half, "no batch is shown twice"
    for epoch in range(setting.EPOCHS):
        batches.epoch = epoch
        for i in range(half):
            progress = (epoch + i / half) / setting.EPOCHS
            objective.ramp = min(max((progress - 0.2) / 0.3, 0), 1)
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
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
               "--nproc-per-node=2", str(Path(__file__).with_name("ddp.py")), str(tmp_path), str(out)]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}     # needs no host name
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = load_file(out)
    expected = averaged(tmp_path)
    assert trained.keys() == expected.keys()
    moved = max((expected[name] - start[name]).abs().max() for name in expected)
    assert moved > 1e-2, "it trained"
    for name in expected:
        assert (trained[name] - expected[name]).abs().max() < 1e-4 * moved, name
