"""Processes that work through items: what ends one of them takes one item with it."""
import os
import signal
import subprocess
import sys
import time

import pytest

from xmodal.config import HOME, Problem
from xmodal.runtime.workers import Died, processes

SCRIPT = """
from pathlib import Path
from xmodal.runtime.workers import processes
with processes(Path, 1) as run:
    print(list(run(["a", "b"])))
"""


def act(item):
    """Ends its process in the way that the item says; another item is returned in upper case."""
    if item in ("SIGABRT", "SIGSEGV", "SIGKILL", "SIGTERM"):
        os.kill(os.getpid(), signal.Signals[item])
    if item == "exit":
        os._exit(3)
    if item == "problem":
        raise Problem("so it is")
    if item == "slow":
        time.sleep(0.3)
    return item.upper()


@pytest.mark.parametrize("n", [1, 3])
def test_what_ends_a_process_takes_one_item_with_it(n):
    items = ["slow", "a", "SIGSEGV", "b", "SIGKILL", "exit", "SIGABRT", "c"]
    expected = ["SLOW", "A", Died("by SIGSEGV"), "B", Died("by SIGKILL"), Died("with exit status 3"),
                Died("by SIGABRT"), "C"]
    with processes(act, n) as run:
        assert list(run(items)) == expected
        assert list(run(["d"])) == ["D"]


@pytest.mark.parametrize("item, message", [("problem", "so it is"), ("SIGTERM", "ended from outside")])
def test_what_is_raised_or_ended_from_outside_is_raised_here(item, message):
    with processes(act, 1) as run:
        results = run(["a", item, "b"])
        assert next(results) == "A"
        with pytest.raises(Problem, match=message):
            next(results)


def test_a_process_that_cannot_start_is_a_problem_and_blames_no_item(monkeypatch):
    monkeypatch.setattr("xmodal.runtime.workers.SERVE", "raise SystemExit(4)")
    with pytest.raises(Problem, match="could not start .it ended with exit status 4"):
        with processes(act, 1) as run:
            list(run(["a"]))


def test_the_script_that_asks_is_not_run_again(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], cwd=HOME, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(HOME)})
    assert done.stdout == "[PosixPath('a'), PosixPath('b')]\n", done.stderr
