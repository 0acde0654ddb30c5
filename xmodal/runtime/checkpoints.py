"""Checkpoints of a training, and results that are kept when done: tensors as safetensors, everything else as JSON."""
import hashlib
import json
import logging

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .files import atomic

log = logging.getLogger(__name__)


def save_checkpoint(path, learn, select):
    """Everything that the next epoch depends on, in one safetensors file."""
    tensors = {f"model.{k}": v for k, v in learn.model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in select.weights.items()}
    tensors |= {f"objective.{k}": v for k, v in learn.loss_func.state_dict().items()}
    tensors |= {f"opt.{i}.{k}": v for i, s in learn.opt.opt.state_dict()["state"].items() for k, v in s.items()}
    tensors["rng"] = torch.get_rng_state()
    if torch.cuda.is_available():                            # MixStyle draws on the device
        tensors["rng_cuda"] = torch.cuda.get_rng_state()
    about = json.dumps({"history": select.history, "best": select.best, "epoch": learn.epoch})
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with atomic(path) as partial_path:
        save_file(tensors, partial_path, metadata={"about": about, "sha256": digest(tensors, about)})


def digest(tensors, about):
    """sha256 of tensors (on the CPU) and a text: safetensors itself does not notice a flipped bit."""
    total = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def load_checkpoint(path, learn):
    """Puts `learn` where `save_checkpoint` left it; returns the next epoch, or 0 with a warning where the file is damaged."""
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            about = file.metadata()["about"]
            whole = file.metadata()["sha256"] == digest(tensors, about)
    except (SafetensorError, OSError, TypeError, KeyError):
        whole = False
    if not whole:
        log.warning("The checkpoint %s is damaged; the training begins anew.", path)
        return 0
    about = json.loads(about)
    part = lambda name: {k[len(name) + 1:]: v for k, v in tensors.items() if k.startswith(name + ".")}
    learn.model.load_state_dict(part("model"))
    learn.loss_func.load_state_dict(part("objective"))
    learn.create_opt()
    state = learn.opt.opt.state_dict()
    for key, value in part("opt").items():
        i, name = key.split(".", 1)
        state["state"].setdefault(int(i), {})[name] = value
    learn.opt.opt.load_state_dict(state)
    learn.select.best, learn.select.history, learn.select.weights = about["best"], about["history"], part("best")
    torch.set_rng_state(tensors["rng"])
    if "rng_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng_cuda"])
    return about["epoch"] + 1
