"""What a training begins from: the encoders that ship with the project, timm's weights, or a file of the
user's.

`pretrain` makes the shipped ones. Beside each lies a record of how it was made: seed, patients, steps, hours,
processor, sha256.
"""
import json
import logging
from pathlib import Path

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file

from . import config
from .config import Problem
from .runtime.files import sha256

log = logging.getLogger(__name__)

WEIGHTS = config.HOME / "xmodal" / "weights"
PARTS = "encoder.", "grids."  # how the names of an encoder's tensors begin in a model
REFERENCE = "encoder"        # the vision transformer; "swin" and "densenet" are those of the baselines
OF_TIMM = {384: "vit_small_patch16_224", 768: "vit_base_patch16_224"}    # by width


def begin_from(profile, name=REFERENCE):
    """Weights that every run of the profile begins from: (dict of tensors or None, a description for the
    record), as `profile.pretrained` says: "reference" for a shipped encoder, "timm", "" for random weights,
    or the path of a .safetensors file of a vision transformer with timm's names.

    Raises `Problem` where a file is missing, damaged, or is no such file.
    """
    if profile.pretrained == "reference":
        return shipped(name)
    if profile.pretrained == "timm":
        return of_timm(profile)
    if not profile.pretrained:
        return None, "random"
    path = Path(profile.pretrained)
    state = read(path, "give the path of a .safetensors file, or 'timm', or 'reference'")
    state = {f"encoder.{key.removeprefix('encoder.')}": tensor for key, tensor in state.items()}
    return state, f"{path.name}, sha256 {sha256(path)[:16]}"


def shipped(name=REFERENCE):
    """(tensors, description) of a shipped encoder. Raises `Problem` where it is not the file that its record
    was written for."""
    path = WEIGHTS / f"{name}.safetensors"
    mend = "put xmodal/weights/ back as it was, or make it anew with `make pretrain`"
    state = read(path, mend)
    if sha256(path) != record(name)["sha256"]:
        raise Problem(f"The encoder {path} is not the one that its record describes; {mend}.")
    return {key: v.float() for key, v in state.items()}, f"{name} of the project, sha256 {sha256(path)[:16]}"


def record(name=REFERENCE):
    """How a shipped encoder was made, as a dict."""
    path = WEIGHTS / f"{name}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Problem(f"The record {path} cannot be read ({error}); put it back as it was.") from None


def read(path, mend):
    """The tensors of a .safetensors file. Raises `Problem`, which says how to mend it, where it cannot be
    read.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Problem(f"The encoder {path} cannot be read ({error}); {mend}.") from None


def of_timm(profile):
    """(tensors, description) of timm's vision transformer of the profile's width; random weights where timm
    cannot give them. Raises `Problem` where timm has none of this width."""
    name = OF_TIMM.get(profile.width)
    if name is None:
        raise Problem(f"The profile {profile.name} begins from timm's weights and is {profile.width} wide; "
                      f"take a width of {' or '.join(map(str, OF_TIMM))}, or other weights.")
    try:
        source = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub raises many kinds: no cache, no network, a damaged file
        log.warning("No pretrained weights (%s): the encoder starts at random, and the record says so.",
                    error)
        return None, "random"
    return {f"encoder.{key}": tensor for key, tensor in source.state_dict().items()}, f"timm {name}"


def put_into(model, state):
    """Copies the tensors of an encoder into a model. Raises `Problem` where one is missing or does not fit.
    """
    own = model.state_dict()
    wanted = [name for name in own if name.startswith(PARTS)]
    fitting = {name: v for name, v in state.items() if name in wanted and own[name].shape == v.shape}
    missing = [name for name in wanted if name not in fitting]
    if missing:
        raise Problem(f"The pretrained encoder does not fit this profile: it has no {missing[0]} of "
                      f"{tuple(own[missing[0]].shape)}; give one of the same sizes.")
    model.load_state_dict({**own, **fitting})
