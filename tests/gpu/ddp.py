"""Trains on several processes, each with batches of its own: `torchrun --nproc-per-node N tests/gpu/ddp.py FOLDER OUT`.

FOLDER holds a cohort; rank 0 writes the trained parameters to OUT (safetensors). Without a GPU the processes talk by gloo.
"""
import sys
from pathlib import Path

import setting
import torch
import torch.distributed as dist
from fastai import distributed
from fastai.callback.core import Callback
from safetensors.torch import save_file


class Together(Callback):
    """Averages the gradients of the objective's own parameters; those of the model are averaged by DistributedDataParallel."""

    def after_backward(self):
        for p in self.learn.loss_func.parameters():
            if p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()


def main(folder, out):
    learn = setting.by_descent(setting.learner(Path(folder), device="cuda" if torch.cuda.is_available() else "cpu"))
    learn.add_cb(Together())
    distributed.DistributedDL._broadcast = lambda self, indices, rank: indices  # they are drawn by the seed, so all ranks have the same
    with learn.distrib_ctx(sync_bn=False), learn.no_logging(), learn.no_bar():
        learn.fit(setting.EPOCHS)
        if dist.get_rank() == 0:
            save_file({name: p.detach().cpu().contiguous() for name, p in setting.parameters(learn)}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
