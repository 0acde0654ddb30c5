"""The reference encoder: its task is not the diagnosis, it goes on to the same bits, and its record fits
its file. And its linear readers, on features of which the answer is known."""
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from test_learner import TINY, same, write_cohort

from xmodal import config, encoders, pretrain, probes
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, Problem
from xmodal.loaders import Images
from xmodal.model import build
from xmodal.record import seed_everything
from xmodal.runtime.files import sha256

WHOLE = dataclasses.replace(TINY, frozen=0)


@pytest.fixture
def drawn(home):
    """A folder with a cohort of noise and two attributes, of which tiles have the second only."""
    folder = home / "drawn"
    table = write_cohort(folder, people=4)
    rng = np.random.default_rng(0)
    attributes = pd.DataFrame({"sample": table["sample"], "first": rng.normal(size=len(table)),
                               "second": rng.normal(size=len(table))})
    attributes.loc[table.modality == HISTOPATHOLOGY, "first"] = np.nan
    attributes.to_parquet(folder / "attributes.parquet")
    return folder


def trained(folder, path, epochs=2, tasks=pretrain.TASKS, change=None):
    """(weights, history) of a short pretraining; change(table) may change the cohort first."""
    seed_everything(3)
    model = build(WHOLE)
    table, attributes = pretrain.read(folder, model)
    if change:
        table = change(table.copy())
    batches = pretrain.Pretexts(table, attributes, Images(folder), 8, 3, hide=4 * bool(tasks.reconstruction))
    history = pretrain.fit(WHOLE, model, batches, path, epochs, tasks)
    return model.state_dict(), history


def test_its_task_is_not_the_diagnosis(drawn, tmp_path):
    """Other diagnoses, labels and grades move no bit; other attributes do."""
    def poison(table):
        table["truth"] = 3 - table.truth
        table["grade"] = -1
        table["allowed"] = table.allowed.max() + 1 - table.allowed
        return table.assign(allowed=table.patient.map(lambda name: 1 + int(name[-1]) % 2 * 7))

    def another_order(table):
        return table.iloc[::-1].reset_index(drop=True)
    clean, _ = trained(drawn, tmp_path / "a")
    assert same(clean, trained(drawn, tmp_path / "b", change=poison)[0])
    assert not same(clean, trained(drawn, tmp_path / "c", change=another_order)[0])


@pytest.mark.parametrize("tasks", [pretrain.Tasks(), pretrain.Tasks(1, 1, 1, 1)])
def test_an_interrupted_pretraining_goes_on_to_the_same_bits(drawn, tmp_path, monkeypatch, tasks):
    whole, history = trained(drawn, tmp_path / "whole", 3, tasks)
    assert set(dataclasses.asdict(tasks)) >= set(history) - {"epoch", "seconds"} and len(history) == 3
    save = pretrain.save_checkpoint

    def stop(path, modules, optimiser, state):
        save(path, modules, optimiser, state)
        if state["epoch"] == 1:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "save_checkpoint", stop)
        trained(drawn, tmp_path / "cut", 3, tasks)
    again, resumed = trained(drawn, tmp_path / "cut", 3, tasks)
    assert same(whole, again) and resumed.drop(columns="seconds").equals(history.drop(columns="seconds"))


def test_what_is_shipped_has_a_record_that_fits_it(drawn, tmp_path, monkeypatch):
    for room in (encoders, pretrain):
        monkeypatch.setattr(room, "WEIGHTS", tmp_path / "weights")
    made = pretrain.make(TINY, "encoder", build, drawn, 2, tmp_path)
    path = tmp_path / "weights" / "encoder.safetensors"
    assert made["sha256"] == sha256(path) and json.loads(path.with_suffix(".json").read_text()) == made
    assert made["steps"] == 2 and made["patients"] == 15 and made["images"] == 2 * 15 * 4
    state, described = encoders.shipped()
    assert all(name.startswith("encoder.") for name in state) and made["sha256"][:16] in described
    model = build(TINY)
    encoders.put_into(model, state)
    assert all(torch.equal(model.state_dict()[name], v) for name, v in state.items())


@pytest.mark.parametrize("name", ["encoder", "swin", "densenet"])
def test_the_shipped_encoders_are_those_of_their_records_and_small(name):
    state, _ = encoders.shipped(name)
    path = encoders.WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size <= 3e6 and all(v.isfinite().all() for v in state.values())
    made = encoders.record(name)
    assert made["seed"] not in config.SEEDS and made["patients"] >= 1000 and made["steps"] > 0


def test_a_missing_encoder_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "WEIGHTS", tmp_path)
    with pytest.raises(Problem, match="encoder.safetensors cannot be read .*`make pretrain`"):
        encoders.begin_from(config.PROFILES["lesson"])


# ---- linear readers --------------------------------------------------------------------------------------

def features_of(patients, noise):
    """(z, table, values, training rows): two images of each modality, whose features are one latent and
    noise."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(patients, 6))
    rows = []
    z = []
    for i in range(patients):
        for modality in (MAMMOGRAPHY, HISTOPATHOLOGY) * 2:
            rows.append({"patient": f"P{i:03d}", "modality": modality,
                         "allowed": 2 + 10 * (latent[i, 0] > 0)})
            turned = latent[i] if modality == MAMMOGRAPHY else latent[i, ::-1]
            z.append(turned + noise * rng.normal(size=6))
    table = pd.DataFrame(rows)
    values = pd.DataFrame({"latent": np.repeat(latent[:, 1], 4)})
    return np.array(z), table, values, (table.patient < f"P{patients // 2:03d}").to_numpy()


def test_readers_find_what_is_in_the_features():
    z, table, values, train = features_of(160, noise=0.05)
    assert min(probes.diagnosis(z, table, train).values()) > 0.95
    assert min(probes.attributes(z, table, values, train).values()) > 0.98
    tissue = probes.retrieval(z, table, train, among=40)
    assert tissue["rank"] < 0.02 and tissue["r_at_1"] > 0.7


def test_readers_find_nothing_in_noise():
    _, table, values, train = features_of(160, noise=0.05)
    z = np.random.default_rng(1).normal(size=(len(table), 6))
    assert all(0.35 < value < 0.65 for value in probes.diagnosis(z, table, train).values())
    assert all(abs(value) < 0.25 for value in probes.attributes(z, table, values, train).values())
    assert 0.4 < probes.retrieval(z, table, train, among=40)["rank"] < 0.6
