"""Checkpoints of a training, and results that are kept when done.

A training that was cut off goes on from its checkpoint to the same bits. A result lies in a folder of its
own, in which `done` is written last and holds a sha256 of each file that it vouches for. Tensors are stored
as safetensors, everything else as JSON or tables; nothing is pickled. torch is imported inside the functions
that need it, since tables and figures read results without it.
"""
import contextlib
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .files import atomic, held, hold, json_text, sha256, write_json
from .identity import differing

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
BEGUN = "begun.json"        # the configuration of the training that wrote the checkpoint


# ---- checkpoints -------------------------------------------------------------------------------------------

def checkpoint_path(folder, config):
    """Path of the checkpoint of a training with this configuration. A checkpoint that other settings left
    there is removed.

    Keeps other processes out of `folder` until `finish`. Raises `Problem` where another process is at work
    there.
    """
    hold(folder)
    path = folder / CHECKPOINT
    begun = folder / BEGUN
    if not begun.exists() or begun.read_bytes() != json_text(config).encode():
        path.unlink(missing_ok=True)
        write_json(begun, config)
    return path


def save_checkpoint(path, modules, optimiser, state, tensors=None):
    """Writes everything that the next epoch depends on, random generators included, to one safetensors file.

    modules    {name: nn.Module, or another object with state_dict and load_state_dict}
    optimiser  a torch optimiser
    state      what else the training remembers, as JSON can hold it: history, epoch, best score
    tensors    {name: tensor} that the training remembers, or None
    """
    import torch
    from safetensors.torch import save_file
    content = _prefixed("tensors", tensors or {})
    for name, module in modules.items():
        content |= _prefixed(f"modules.{name}", module.state_dict())
    for number, moments in optimiser.state_dict()["state"].items():
        content |= _prefixed(f"optimiser.{number}", moments)
    content["rng"] = torch.get_rng_state()
    if torch.cuda.is_available():  # MixStyle draws on the device
        content["rng_cuda"] = torch.cuda.get_rng_state()
    content = _on_cpu(content)
    text = json.dumps(state)
    with atomic(path) as partial_path:
        save_file(content, partial_path, metadata={"state": text, "sha256": digest(content, text)})


def load_checkpoint(path, modules, optimiser):
    """Puts modules, optimiser and random generators where `save_checkpoint` left them. Returns (state,
    tensors).

    Where the file is damaged it warns, touches nothing and returns None.
    """
    import torch
    whole = _read_checkpoint(path)
    if whole is None:
        log.warning("The checkpoint %s is damaged; the training begins anew.", path)
        return None
    content, state = whole
    for name, module in modules.items():
        module.load_state_dict(_part(content, f"modules.{name}"))
    optimiser_state = optimiser.state_dict()
    for key, value in _part(content, "optimiser").items():
        number, name = key.split(".", 1)
        optimiser_state["state"].setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(optimiser_state)
    torch.set_rng_state(content["rng"])
    if "rng_cuda" in content and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["rng_cuda"])
    return state, _part(content, "tensors")


def _read_checkpoint(path):
    """(tensors, state) of a checkpoint, or None where the file is damaged."""
    from safetensors.torch import load_file
    try:
        content = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        if metadata["sha256"] == digest(content, metadata["state"]):
            return content, json.loads(metadata["state"])
    except (SafetensorError, OSError, TypeError, KeyError):
        pass
    return None


def _prefixed(prefix, tensors):
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _part(content, prefix):
    """The tensors whose names begin with `prefix` and a dot, without these."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in content.items() if name.startswith(start)}


def _on_cpu(tensors):
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def digest(tensors, text):
    """sha256 of tensors (on the CPU) and a text: safetensors itself does not notice a flipped bit."""
    import torch
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


# ---- results -----------------------------------------------------------------------------------------------

def kept_when_done(folder, config, make):
    """Computes a result once. Returns the names of its files.

    Unless `folder` holds a finished, undamaged result of the same `config`, calls make() -> {file name:
    value} and writes these files and config.json there. Raises `Problem` where another process is making the
    result.
    """
    folder = Path(folder)
    if not finished(folder, config):
        with held(folder):
            finish(folder, {**make(), "config.json": config})
    return vouched_for(folder)


def finish(folder, contents, unchanged=(), dropped=()):
    """Writes {file name: value}, each file atomically, and `done` last, which vouches for them and for the
    `unchanged` files.

    All files are prepared before any of them takes its name; then the `dropped` files are removed, and in the
    end the checkpoint. The suffix of a name says the format: .json, .csv and .parquet (DataFrame), .npz (dict
    of arrays), .safetensors (dict of tensors).
    """
    with held(folder):
        with contextlib.ExitStack() as stack:
            for name, value in contents.items():
                _write(stack.enter_context(atomic(folder / name)), value)
            # from here until `done` is written again the result counts as unfinished
            for name in ("done", *dropped):
                (folder / name).unlink(missing_ok=True)
        write_json(folder / "done", {name: sha256(folder / name) for name in (*contents, *unchanged)})
        for name in (CHECKPOINT, BEGUN):
            (folder / name).unlink(missing_ok=True)


def _write(path, value):
    """Writes `value` in the format that the suffix of `path` says."""
    if path.suffix == ".json":
        path.write_text(json_text(value))
    elif path.suffix == ".csv":
        value.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        value.to_parquet(path, index=False)
    elif path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **_plain(value))
    else:
        from safetensors.torch import save_file
        save_file(_on_cpu(value), path)


def _plain(arrays):
    """{name: array}, where text that pandas holds as objects is unicode: objects would have to be pickled,
    which is refused."""
    plain = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype == object and all(isinstance(element, str) for element in array.ravel()):
            array = array.astype(str)
        plain[name] = array
    return plain


def finished(folder, config, needed=("config.json",)):
    """True if `folder` holds a finished, undamaged result that was made with `config`, its code included.

    Otherwise the result is to be made anew; a warning names what is damaged, or what differs.
    """
    folder = Path(folder)
    if not (folder / "done").exists():
        return False
    if harm := damage(folder, needed):
        log.warning("The result in %s is damaged (%s) and is made anew.", folder, harm)
        return False
    try:
        made = json.loads((folder / "config.json").read_text())
        differences = differing(made, json.loads(json_text(config)))
    except (ValueError, RecursionError, AttributeError):
        return False
    if differences:
        log.warning("The result in %s was made with other %s and is made anew.", folder,
                    ", ".join(differences))
    return not differences


def damage(folder, needed=("config.json",)):
    """What is wrong with a result that has a `done`; "" where every file that `done` vouches for is as it was
    written.

    `done` must vouch for all `needed` files.
    """
    try:
        checksums = json.loads((folder / "done").read_text())
        if not isinstance(checksums, dict):
            return "done is not what was written"
        for name in sorted({*needed, *checksums}):
            if name not in checksums or not _is_as_written(folder / name, folder, checksums[name]):
                return f"{name} is not what was written"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return str(error)
    return ""


def _is_as_written(path, folder, checksum):
    """Whether `path` is a plain file in `folder` itself, with this sha256. A pipe or a device might never
    end."""
    return path.parent == folder and path.is_file() and sha256(path) == checksum


def vouched_for(folder):
    """The names of the files that `done` vouches for."""
    return list(json.loads((folder / "done").read_text()))
