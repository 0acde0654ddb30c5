"""Lost and damaged files: each ends in one sentence or is made again to the same bits, and no file runs
code."""
import collections
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_faults import SHORT, contents
from test_learner import TINY, write_cohort
from test_record import write

from xmodal import cohort, config, learner, methods, record
from xmodal.config import Problem
from xmodal.runtime import checkpoints, parameters


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def flip_header(path):
    data = bytearray(path.read_bytes())
    data[20] ^= 255
    path.write_bytes(data)


def huge_header(path):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def empty(path):
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a finished run, and beside it the checkpoint of its first epoch of two; its cohort."""
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    for name in ("DATA", "RUNS"):
        patch.setattr(config, name, home / name.lower())

    def save_and_copy(path, modules, optimiser, state, tensors):
        checkpoints.save_checkpoint(path, modules, optimiser, state, tensors)
        if state["epoch"] == 0:
            shutil.copytree(path.parent, home / "begun")
    patch.setattr(learner, "save_checkpoint", save_and_copy)
    table = write_cohort(config.DATA / "lesson")
    learner.train(SHORT, "erm", "bach", 42, table)
    patch.undo()
    return home, table


@pytest.mark.parametrize("damage", [None, cut, flip, huge_header])
def test_a_damaged_checkpoint_is_begun_anew_with_a_warning_and_the_same_bits(trained, home, damage, caplog):
    shutil.copytree(trained[0], home, dirs_exist_ok=True)
    folder = record.run_dir("lesson", "erm", "bach", 42)
    whole = contents(folder)
    shutil.rmtree(folder)
    shutil.copytree(home / "begun", folder)
    assert set(contents(folder)) == {"begun.json", "checkpoint.safetensors"}
    if damage:
        damage(folder / "checkpoint.safetensors")
    learner.train(SHORT, "erm", "bach", 42, trained[1])
    assert contents(folder) == whole
    assert ("is damaged; the training begins anew" in caplog.text) == bool(damage)


@pytest.mark.parametrize("name, damage", [
    ("predictions.parquet", Path.unlink), ("model.safetensors", cut), ("done", flip)])
def test_a_lost_or_damaged_file_of_a_run_is_made_again_to_the_same_bits(trained, home, name, damage):
    shutil.copytree(trained[0], home, dirs_exist_ok=True)
    folder = record.run_dir("lesson", "erm", "bach", 42)
    whole = contents(folder)
    damage(folder / name)
    learner.train(SHORT, "erm", "bach", 42, trained[1])
    assert contents(folder) == whole


@pytest.mark.parametrize("damage", [cut, empty, flip_header, Path.unlink])
def test_a_damaged_image_array_is_one_sentence(table, damage):
    damage(config.DATA / "lesson" / "images" / "camelyon.npy")
    with pytest.raises(Problem, match="camelyon.npy cannot be read .*02_preprocess"):
        learner.train(TINY, "erm", "bach", 42, table)


# ---- a deleted intermediate --------------------------------------------------------------------------------

def steps(home, target="reproduce", ends="*/never"):
    """Brings the graph of the main job up to date, where a step only adds a line to each of its outputs and
    fails at one that is called `ends`; (exit status, {step: how often it ran})."""
    step = f"for f in {{output}}; do case $f in {ends}) exit 1;; esac; echo made >> $f; done #"
    text = re.sub("^RUN = .*", f'RUN = "{step}"', (config.HOME / "Snakefile").read_text(), flags=re.M)
    (home / "Snakefile").write_text(text)
    command = [sys.executable, "-m", "snakemake", target, "--snakefile", home / "Snakefile", "--cores", "1",
               "--nolock", "--drop-metadata", "--config", "profile=lesson"]
    environment = os.environ | {"PYTHONPATH": str(config.HOME)}
    done = subprocess.run(command, cwd=config.HOME, capture_output=True, text=True, env=environment)
    rules = re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.M)
    return done.returncode, collections.Counter(rules)


def made(home, fold):
    """{method: how often its run of a fold was made}, as `steps` writes it."""
    paths = (home / "runs" / "lesson").glob(f"*/{fold}/done")
    return {path.parts[-4]: path.read_text().count("made") for path in paths}


def test_a_deleted_intermediate_is_made_again_and_no_finished_run_is_lost_for_it(home):
    """`done` of one run is deleted: its step runs again with all that hangs on it, and finds the other runs
    of the step as they were."""
    status, ran = steps(home)
    assert status == 0 and ran["train"] == 12
    (record.run_dir("lesson", "ours", "bach", 42) / "done").unlink()
    again = {"train": 1, "tta": 1, "evaluate": 1, "interpret": 1, "start": 1, "reproduce": 1}
    assert steps(home) == (0, again)
    runs = made(home, "bach/seed_42")
    assert runs.pop("ours") == 1 and set(runs.values()) == {2} and len(runs) == len(methods.METHODS) - 1


def test_a_step_that_fails_keeps_the_runs_that_it_finished(home):
    target = str(home / "runs" / "lesson" / "notebooks" / "03_train_bach_42.ipynb")
    assert steps(home, target, ends="*/coral/*")[0] == 1
    finished = made(home, "bach/seed_42")
    assert set(finished) == {"erm", "irm", "groupdro", "mixstyle", "mixstyle_irm"}
    assert steps(home, target) == (0, {"train": 1}) and made(home, "bach/seed_42").keys() > finished.keys()
    twice = {method for method, n in made(home, "bach/seed_42").items() if n == 2}
    assert twice == finished.keys()


def test_a_lost_cohort_is_one_sentence(table):
    (config.DATA / "lesson" / "cohort.parquet").unlink()
    with pytest.raises(Problem, match="There is no cohort at .*; run 01_download and 02_preprocess first"):
        cohort.load(config.DATA / "lesson" / "cohort.parquet")


# ---- nothing is executed -----------------------------------------------------------------------------------

class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_trap_of_these_tests_does_close(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Evil(tmp_path / "run"), 1], dtype=object), allow_pickle=True)
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert (tmp_path / "run").exists()


def poisoned(folder, name, writer):
    """`folder` with a file of somebody else's, whose checksum is right."""
    writer(folder / name)
    checkpoints.finish(folder, {}, unchanged=record.FILES)
    return folder


def test_a_run_with_pickles_in_it_is_refused_and_runs_nothing(home):
    evil = np.array([Evil(home / "run"), 1], dtype=object)
    with pytest.raises(Problem, match="cannot be read .Object arrays cannot be loaded"):
        record.load_run(poisoned(write(), "embeddings.npz", lambda p: np.savez(p, z=evil)))
    folder = write()
    np.save(home / "a.npy", evil, allow_pickle=True)
    pickle_of = (home / "a.npy").read_bytes()[128:]                          # after numpy's header
    for name in ("embeddings.npz", "predictions.parquet", "config.json", "history.csv"):
        with pytest.raises(Problem, match=str(folder)):
            record.load_run(poisoned(write(), name, lambda p: p.write_bytes(pickle_of)))
    run = record.load_run(poisoned(write(), "model.safetensors", lambda p: p.write_bytes(pickle_of)))
    with pytest.raises(Problem, match="weights in .* cannot be read"):
        run.state
    assert not (home / "run").exists()


def test_an_image_array_with_pickles_and_a_parameter_with_code_are_refused(table, tmp_path):
    evil = np.array([Evil(tmp_path / "run")] * 2, dtype=object)
    np.save(config.DATA / "lesson" / "images" / "camelyon.npy", evil, allow_pickle=True)
    with pytest.raises(Problem, match="camelyon.npy cannot be read"):
        learner.train(TINY, "erm", "bach", 42, table)
    with pytest.raises(Problem, match="not YAML"):
        parameters.parse([f"SEED=!!python/object/apply:os.mkdir ['{tmp_path / 'run'}']"])
    assert not (tmp_path / "run").exists()
