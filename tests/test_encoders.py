"""What a training begins from: the shipped encoder, if it is that of its record, or a file of the user's."""
import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file
from test_learner import TINY, same, write_cohort

from xmodal import config, encoders, learner
from xmodal.config import Problem
from xmodal.model import build
from xmodal.runtime.files import sha256


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder in place of that of the shipped encoders, and what writes one there."""
    monkeypatch.setattr(encoders, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "weights").mkdir()

    def write(state):
        path = tmp_path / "weights" / "encoder.safetensors"
        save_file({name: v for name, v in state.items() if name.startswith("encoder.")}, path)
        path.with_suffix(".json").write_text(json.dumps({"sha256": sha256(path)}))
        return path
    return write


def test_another_encoder_trains_anew_and_a_damaged_one_is_named(table, weights):
    profile = dataclasses.replace(TINY, pretrained="reference")
    starts = [learner.begin(TINY, "erm").state_dict() for _ in range(2)]
    runs = []
    for state in (*starts, starts[1]):
        path = weights(state)
        run = learner.train(profile, "erm", "bach", 5678, table)
        runs.append((run.config["encoder"], (run.folder / "model.safetensors").stat().st_mtime_ns))
    assert runs[0] != runs[1] == runs[2] and runs[0][0] != runs[1][0] and "sha256" in runs[0][0]
    frozen = "encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(run.state[frozen], starts[1][frozen]) and not same(run.state, starts[1])
    weights(starts[0])
    (path.with_suffix(".json")).write_text(json.dumps({"sha256": "another"}))
    with pytest.raises(Problem, match="is not the one that its record describes"):
        learner.train(profile, "erm", "bach", 42, table)
    path.write_bytes(b"no tensors")
    with pytest.raises(Problem, match="cannot be read .*`make pretrain`"):
        learner.train(profile, "erm", "bach", 42, table)


def test_a_local_checkpoint_of_an_encoder_is_begun_from(table, tmp_path):
    """With timm's names, as other projects save a vision transformer."""
    start = learner.begin(TINY, "erm").state_dict()
    path = tmp_path / "pathology.safetensors"
    of_encoder = [name for name in start if name.startswith("encoder.")]
    save_file({name.removeprefix("encoder."): start[name] for name in of_encoder}, path)
    run = learner.train(dataclasses.replace(TINY, pretrained=str(path)), "erm", "bach", 42, table)
    frozen = "encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(run.state[frozen], start[frozen]) and "pathology.safetensors" in run.config["encoder"]
    with pytest.raises(Problem, match="does not fit this profile: it has no encoder"):
        learner.train(dataclasses.replace(TINY, width=36, pretrained=str(path)), "erm", "bach", 42, table)


def test_the_weights_of_timm_are_those_of_the_profiles_width(monkeypatch):
    create = encoders.timm.create_model
    monkeypatch.setattr(encoders.timm, "create_model", lambda name, pretrained, **more: create(name, **more))
    profile = config.PROFILES["pilot"]
    state, description = encoders.begin_from(profile)
    assert description == "timm vit_small_patch16_224"
    model = build(profile)
    encoders.put_into(model, state)
    assert torch.equal(model.state_dict()["encoder.pos_embed"], state["encoder.pos_embed"])
    with pytest.raises(Problem, match="is 96 wide; take a width of 384 or 768"):
        encoders.begin_from(dataclasses.replace(config.PROFILES["lesson"], pretrained="timm"))
