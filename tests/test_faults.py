"""Faults: a full disk, no leave to write, damaged files, two at once, kills. Each ends in one sentence or a clean recovery, and no file runs code."""
import collections
import dataclasses
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_learner import TINY, write_cohort, write_encoder
from test_preprocess import row
from test_record import write

from xmodal import cohort, config, learner, preprocess, record
from xmodal.config import Problem
from xmodal.runtime import checkpoints, files, notebook

SHORT = dataclasses.replace(TINY, epochs=2)


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


def elsewhere(function, *arguments):
    """What `function` returns in a fork of this process: a sentence where it raises `Problem`."""
    def call(pipe):
        try:
            pipe.send(function(*arguments))
        except Problem as problem:
            pipe.send(str(problem))
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=call, args=(theirs,))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


# ---- writing -----------------------------------------------------------------------------------------------------

@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 64 KB, which only root may make."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def big(how, path):
    from safetensors.torch import save_file
    table = pd.DataFrame({"x": np.random.default_rng(0).random(40000)})
    with files.atomic(path) as partial:
        {"bytes": lambda: partial.write_bytes(bytes(320000)), "array": lambda: np.save(partial, table.x.to_numpy()),
         "archive": lambda: np.savez(partial, x=table.x), "csv": lambda: table.to_csv(partial),
         "parquet": lambda: table.to_parquet(partial), "tensors": lambda: save_file({"x": torch.zeros(80000)}, partial)}[how]()


KINDS = {"bytes": "a.bin", "array": "a.npy", "archive": "a.npz", "csv": "a.csv", "parquet": "a.parquet", "tensors": "a.safetensors"}


@pytest.mark.parametrize("how", KINDS)
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(small_disk, how):
    path = small_disk / KINDS[how]
    path.write_text("old")
    with pytest.raises(Problem, match=f"{path} cannot be written .No space left on device.; free space"):
        big(how, path)
    assert path.read_text() == "old" and list(small_disk.iterdir()) == [path]


@pytest.mark.parametrize("how", KINDS)
def test_a_file_larger_than_allowed_is_one_sentence(tmp_path, how):
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        big(how, tmp_path / KINDS[how])
    assert "cannot be written (" in elsewhere(limited) and not list(tmp_path.iterdir())


def as_nobody(function, *arguments):
    def call():
        if os.getuid() == 0:
            os.setuid(65534)
        return function(*arguments)
    return elsewhere(call)


def test_a_folder_that_may_only_be_read_is_one_sentence(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    for folder in (closed, *list(closed.parents)[:-1]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o555 if folder == closed else folder.stat().st_mode | 0o055)
    says = "cannot be written (Permission denied); free space there, or write to a folder of yours (XMODAL_HOME names it)"
    assert says in as_nobody(files.write_json, closed / "a.json", {})
    assert says in as_nobody(files.write_json, closed / "deep" / "a.json", {})
    assert says in as_nobody(files.hold, closed / "run")
    for out in (closed / "a.ipynb", closed / "deep" / "a.ipynb"):
        assert says in as_nobody(notebook.run, config.HOME / "notebooks" / "_template.ipynb", out, {})
    closed.chmod(0o755)


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    """A process of this host is asked; one of another, which may have the same number, is not, and has a day."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    place = lambda stem, host, pid: tmp_path / f".{stem}.{host}.{pid}.partial.csv"
    left, forgotten = place("a", files.HOST, gone.pid), place("a", "elsewhere", 1)
    kept = [place("a", files.HOST, os.getppid()), place("a", files.HOST, "x"), place("b", files.HOST, gone.pid),
            place("a.b", files.HOST, gone.pid), place("a", "elsewhere", gone.pid)]
    for path in (left, forgotten, *kept):
        path.write_text("half")
    os.utime(forgotten, (0, 0))
    with files.atomic(tmp_path / "a.csv") as partial:
        assert partial == place("a", files.HOST, os.getpid())
        partial.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.csv", *kept])


def test_the_host_in_a_name_is_safe_in_a_name():
    assert re.fullmatch(r"[A-Za-z0-9-]{1,63}", files.HOST)


# ---- two at once -------------------------------------------------------------------------------------------------

def test_a_second_process_in_a_run_folder_is_refused_until_the_first_is_done(home):
    folder, second = home / "runs" / "one", lambda: elsewhere(lambda: checkpoints.checkpoint_path(folder, {"a": 1}).name)
    checkpoints.checkpoint_path(folder, {"a": 1})
    checkpoints.checkpoint_path(folder, {"a": 1})                                     # the same process may, a notebook's cell is run again
    assert second() == f"Another process is writing in {folder}; wait until it is done, or end it, and start again."
    assert elsewhere(lambda: checkpoints.checkpoint_path(home / "runs" / "two", {}).name) == "checkpoint.safetensors"
    files.release(folder)
    assert second() == "checkpoint.safetensors"
    assert second() == "checkpoint.safetensors", "a process that ended holds nothing"


def test_a_second_training_or_adaptation_of_the_same_run_is_refused_and_harms_nothing(table):
    about, folder = {}, record.run_dir("lesson", "erm", "bach", 42)
    checkpoints.checkpoint_path(folder, about)
    says = f"Another process is writing in {folder}"
    assert says in elsewhere(learner.train, TINY, "erm", "bach", 42, table)
    files.release(folder)
    run = learner.train(SHORT, "erm", "bach", 42, table)
    before = contents(folder)
    files.hold(folder)
    assert says in elsewhere(record.update_run, folder, run.predictions.assign(condition="tent"))
    files.release(folder)
    assert contents(folder) == before


def test_a_second_preprocessing_into_one_folder_is_refused(tmp_path):
    with files.held(tmp_path / "out"):
        says = elsewhere(preprocess.build, pd.DataFrame([row("n001", "bach", tmp_path / "n001.tif")]), SHORT, tmp_path / "out")
    assert says == f"Another process is writing in {tmp_path / 'out'}; wait until it is done, or end it, and start again."
    assert not list((tmp_path / "out").iterdir())


def test_a_run_that_fails_while_it_is_saved_lets_the_next_one_in(home):
    with pytest.raises(ValueError):
        write(embeddings={"bad": np.array([{}, None], dtype=object)})
    assert elsewhere(lambda: write().name) == "seed_42"


# ---- damage ------------------------------------------------------------------------------------------------------

def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


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
    home, patch = tmp_path_factory.mktemp("home"), pytest.MonkeyPatch()
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


@pytest.mark.parametrize("name, damage", [("predictions.parquet", Path.unlink), ("model.safetensors", cut), ("done", flip)])
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


# ---- a deleted intermediate --------------------------------------------------------------------------------------

def steps(home, target="reproduce", ends="*/never"):
    """Brings the graph of the main job up to date, where a step only adds a line to each of its outputs and fails at one that is called
    `ends`; (exit status, {step: how often it ran})."""
    step = f"for f in {{output}}; do case $f in {ends}) exit 1;; esac; echo made >> $f; done #"
    text = re.sub("^RUN = .*", f'RUN = "{step}"', (config.HOME / "Snakefile").read_text(), flags=re.M)
    (home / "Snakefile").write_text(text)
    told = subprocess.run([sys.executable, "-m", "snakemake", target, "--snakefile", home / "Snakefile", "--cores", "1", "--nolock",
                           "--drop-metadata", "--config", "profile=lesson"], cwd=config.HOME, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(config.HOME)})
    return told.returncode, collections.Counter(re.findall(r"^(?:local)?rule (\w+):", told.stdout + told.stderr, re.M))


def made(home, fold):
    """{method: how often its run of a fold was made}, as `steps` writes it."""
    return {path.parts[-4]: path.read_text().count("made") for path in (home / "runs" / "lesson").glob(f"*/{fold}/done")}


def test_a_deleted_intermediate_is_made_again_and_no_finished_run_is_lost_for_it(home):
    """`done` of one run is deleted: its step runs again with all that hangs on it, and finds the other runs of the step as they were."""
    status, ran = steps(home)
    assert status == 0 and ran["train"] == 12
    (record.run_dir("lesson", "ours", "bach", 42) / "done").unlink()
    assert steps(home) == (0, {"train": 1, "tta": 1, "evaluate": 1, "interpret": 1, "start": 1, "reproduce": 1})
    runs = made(home, "bach/seed_42")
    assert runs.pop("ours") == 1 and set(runs.values()) == {2} and len(runs) == 8


def test_a_step_that_fails_keeps_the_runs_that_it_finished(home):
    target = str(home / "runs" / "lesson" / "notebooks" / "03_train_bach_42.ipynb")
    assert steps(home, target, ends="*/coral/*")[0] == 1
    finished = made(home, "bach/seed_42")
    assert set(finished) == {"erm", "irm", "groupdro", "mixstyle", "mixstyle_irm"}
    assert steps(home, target) == (0, {"train": 1}) and made(home, "bach/seed_42").keys() > finished.keys()
    assert {m: n for m, n in made(home, "bach/seed_42").items() if n == 2}.keys() == finished.keys()


LOST = "There is no pretrained encoder at .*; run 03a_pretrain first"
DAMAGED = "pretrained encoder .* is damaged .*; delete its folder and run 03a_pretrain again"


@pytest.mark.parametrize("name, damage, says", [
    ("", shutil.rmtree, LOST), ("done", Path.unlink, LOST), ("model.safetensors", Path.unlink, DAMAGED), ("model.safetensors", cut, DAMAGED),
    ("model.safetensors", flip, DAMAGED), ("history.csv", cut, DAMAGED), ("config.json", Path.unlink, DAMAGED), ("done", empty, DAMAGED)])
def test_a_lost_or_damaged_encoder_is_one_sentence(table, name, damage, says):
    write_encoder({"w": torch.zeros(9)})
    damage(config.RUNS / "lesson" / "pretrained" / name)
    with pytest.raises(Problem, match=says):
        learner.train(dataclasses.replace(SHORT, pretrained="phantom"), "erm", "bach", 42, table)


def test_a_lost_cohort_is_one_sentence(table):
    (config.DATA / "lesson" / "cohort.parquet").unlink()
    with pytest.raises(Problem, match="There is no cohort at .*; run 01_download and 02_preprocess first"):
        cohort.load(config.DATA / "lesson" / "cohort.parquet")


# ---- nothing is executed -----------------------------------------------------------------------------------------

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
    np.save(config.DATA / "lesson" / "images" / "camelyon.npy", np.array([Evil(tmp_path / "run")] * 2, dtype=object), allow_pickle=True)
    with pytest.raises(Problem, match="camelyon.npy cannot be read"):
        learner.train(TINY, "erm", "bach", 42, table)
    with pytest.raises(Problem, match="not YAML"):
        notebook.parse([f"SEED=!!python/object/apply:os.mkdir ['{tmp_path / 'run'}']"])
    assert not (tmp_path / "run").exists()


# ---- kills -------------------------------------------------------------------------------------------------------

def test_five_kills_of_training_and_adaptation_change_no_bit(tmp_path):
    """`make faults` kills all stages fifty times; here training and adaptation, on a cohort of noise, in a process of its own."""
    done = subprocess.run([sys.executable, Path(__file__).parent / "faults" / "kill.py", "5", "1", "noise"], capture_output=True, text=True)
    assert done.returncode == 0 and "5 kills" in done.stdout, done.stdout + done.stderr
