"""Work in several processes: in order; one that ends is named, and none outlives a run that was killed."""
import os
import subprocess
import sys

import pytest
from house import HOME

from data_scripts import parallel
from xmodal.config import Problem

# A run that is killed while its two workers work; they hold its output until they end.
KILLED = """
import os, signal, time
from data_scripts import parallel

def work(seconds):
    time.sleep(seconds)
    return os.getppid()

if __name__ == "__main__":
    run = parallel(work, [0.01] * 4, 2, "work")[0]
    assert run == os.getpid()
    import threading
    threading.Timer(0.5, os.kill, (run, signal.SIGKILL)).start()
    parallel(work, [0.1] * 10000, 2, "work")
"""


def test_results_are_in_order():
    items = [-3, 1, -2, 5, 0]
    assert parallel(abs, items, 2, "numbers") == parallel(abs, items, 1, "numbers") == [3, 1, 2, 5, 0]


def test_a_process_that_ends_is_named():
    with pytest.raises(Problem, match="A process of numbers was ended"):
        parallel(os._exit, [3, 3], 2, "numbers")


def test_no_process_outlives_a_run_that_was_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True,
                          timeout=100)
    assert done.returncode == -9, done.stderr
