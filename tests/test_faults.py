"""Faults: a full disk, no permission to write, two processes at once, kills. Each ends in one sentence or a
clean recovery."""
import dataclasses
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from test_learner import TINY, write_cohort
from test_preprocess import row
from test_record import write

from xmodal import config, learner, preprocess, record
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


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ---- writing -----------------------------------------------------------------------------------------------

@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 64 KB, which only root may make."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def big(how, path):
    """Writes 320 KB or more."""
    table = pd.DataFrame({"x": np.random.default_rng(0).random(40000)})
    with files.atomic(path) as partial:
        if how == "bytes":
            partial.write_bytes(bytes(320000))
        elif how == "array":
            np.save(partial, table.x.to_numpy())
        elif how == "archive":
            np.savez(partial, x=table.x)
        elif how == "csv":
            table.to_csv(partial)
        elif how == "parquet":
            table.to_parquet(partial)
        else:
            save_file({"x": torch.zeros(80000)}, partial)


KINDS = {"bytes": "a.bin", "array": "a.npy", "archive": "a.npz", "csv": "a.csv", "parquet": "a.parquet",
         "tensors": "a.safetensors"}


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
    says = ("cannot be written (Permission denied); free space there, or write to a folder of yours "
            "(XMODAL_HOME names it)")
    assert says in as_nobody(files.write_json, closed / "a.json", {})
    assert says in as_nobody(files.write_json, closed / "deep" / "a.json", {})
    assert says in as_nobody(files.hold, closed / "run")
    for out in (closed / "a.ipynb", closed / "deep" / "a.ipynb"):
        assert says in as_nobody(notebook.run, config.HOME / "notebooks" / "_template.ipynb", out, {})
    closed.chmod(0o755)


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    """A process of this host is asked; one of another, which may have the same number, is not, and has a
    day."""
    gone = subprocess.Popen(["true"])
    gone.wait()

    def place(stem, host, pid):
        return tmp_path / f".{stem}.{host}.{pid}.partial.csv"
    of_killed = place("a", files.HOST, gone.pid)
    days_old = place("a", "elsewhere", 1)
    spared = [place("a", files.HOST, os.getppid()), place("a", files.HOST, "x"),
              place("b", files.HOST, gone.pid), place("a.b", files.HOST, gone.pid),
              place("a", "elsewhere", gone.pid)]
    for path in (of_killed, days_old, *spared):
        path.write_text("half")
    os.utime(days_old, (0, 0))
    with files.atomic(tmp_path / "a.csv") as partial:
        assert partial == place("a", files.HOST, os.getpid())
        partial.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.csv", *spared])


def test_the_host_in_a_name_is_safe_in_a_name():
    assert re.fullmatch(r"[A-Za-z0-9-]{1,63}", files.HOST)


# ---- two at once -------------------------------------------------------------------------------------------

BUSY = "Another process is writing in {}; wait until it is done, or end it, and start again."


def test_a_second_process_in_a_run_folder_is_refused_until_the_first_is_done(home):
    first, second = home / "runs" / "first", home / "runs" / "second"

    def begin(folder):
        return checkpoints.checkpoint_path(folder, {"a": 1}).name
    begin(first)
    begin(first)                                            # the same process may: a cell is run again
    assert elsewhere(begin, first) == BUSY.format(first)
    assert elsewhere(begin, second) == "checkpoint.safetensors"
    files.release(first)
    assert elsewhere(begin, first) == "checkpoint.safetensors"
    assert elsewhere(begin, first) == "checkpoint.safetensors", "a process that ended holds nothing"


def test_a_second_training_or_adaptation_of_the_same_run_is_refused_and_harms_nothing(table):
    folder = record.run_dir("lesson", "erm", "bach", 42)
    checkpoints.checkpoint_path(folder, {})
    assert elsewhere(learner.train, TINY, "erm", "bach", 42, table) == BUSY.format(folder)
    files.release(folder)
    run = learner.train(SHORT, "erm", "bach", 42, table)
    before = contents(folder)
    files.hold(folder)
    adapted = run.predictions.assign(condition="tent")
    assert elsewhere(record.update_run, folder, adapted) == BUSY.format(folder)
    files.release(folder)
    assert contents(folder) == before


def test_a_second_preprocessing_into_one_folder_is_refused(tmp_path):
    out = tmp_path / "out"
    rows = pd.DataFrame([row("n001", "bach", tmp_path / "n001.tif")])
    with files.held(out):
        assert elsewhere(preprocess.build, rows, SHORT, out) == BUSY.format(out)
    assert not list(out.iterdir())


def test_a_run_that_fails_while_it_is_saved_lets_the_next_one_in(home):
    with pytest.raises(ValueError):
        write(embeddings={"bad": np.array([{}, None], dtype=object)})
    assert elsewhere(lambda: write().name) == "seed_42"


# ---- kills -------------------------------------------------------------------------------------------------

def test_five_kills_of_training_and_adaptation_change_no_bit(tmp_path):
    """`make faults` kills all stages fifty times; here training and adaptation, on a cohort of noise, in a
    process of its own."""
    command = [sys.executable, Path(__file__).parent / "faults" / "kill.py", "5", "1", "noise"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "5 kills" in done.stdout, done.stdout + done.stderr
