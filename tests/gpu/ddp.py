"""Trains on several processes, each with batches of its own.

`torchrun --nproc-per-node N tests/gpu/ddp.py FOLDER OUT`: FOLDER holds a cohort; rank 0 writes the trained
parameters to OUT (safetensors). Without a GPU the processes talk by gloo.
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
    """Averages the gradients of the objective; DistributedDataParallel averages those of the model."""

    def after_backward(self):
        for parameter in self.learn.loss_func.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def same_indices(self, indices, rank):
    """In place of fastai's broadcast of indices: the seed draws them, and all ranks have the same."""
    return indices


def main(folder, out):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    learn = setting.by_descent(setting.learner(Path(folder), device=device))
    learn.model.lesion_neck.requires_grad_(False)        # read by alignment alone, which is off here
    learn.add_cb(Together())
    distributed.DistributedDL._broadcast = same_indices
    with learn.distrib_ctx(sync_bn=False), learn.no_logging(), learn.no_bar():
        learn.fit(setting.EPOCHS)
        if dist.get_rank() == 0:
            trained = {name: p.detach().cpu().contiguous() for name, p in setting.parameters(learn)}
            save_file(trained, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
