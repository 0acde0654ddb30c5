"""Kills the main job with SIGKILL at random points of every stage, resumes it, and compares each file with an
uninterrupted run.

    python tests/faults/kill.py [KILLS=50] [SEED=0] [noise]

The code is that of the notebooks, cell by cell, on a phantom of a few patients and a tiny profile. A stage is
a process group of its own, which is killed after a random share of the time that the uninterrupted run took
for it, and started again; so goes the job to its end, over and over until it was killed KILLS times. All runs
have the same folder in turn, so that also what names a path must be the same to the bit. With `noise` only
training and adaptation, on images of noise.
"""
import collections
import dataclasses
import functools
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ |= {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])

import nbformat  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from data_scripts import phantom  # noqa: E402
from data_scripts.phantom import histology_files  # noqa: E402
from data_scripts.phantom.dials import Dials  # noqa: E402

# a stage is a fork, which finds these imported
from figures import fig2, fig3, fig4, fig5, fig6, table1  # noqa: E402, F401
from xmodal import adapt, baselines, config, explain, learner, preprocess, record  # noqa: E402, F401
from xmodal.imaging import radiomics  # noqa: E402, F401
from xmodal.runtime import doctor  # noqa: E402
from xmodal.tables import common, datasheet  # noqa: E402, F401

TINY = dataclasses.replace(
    config.PROFILES["lesson"], image_size=24, patch=6, width=24, depth=2, frozen=1, adapter=2,
    tiles_per_slide=2, batch=8, epochs=4, pretrained="")
FOLD = {"HELD_OUT": "cbis_ddsm"}
STAGES = {
    "01_download": {"WORKERS": 1},
    "02_preprocess": {"WORKERS": 1},
    "02b_pretrain": {"WORKERS": 1},
    "03_train": {"METHODS": "erm,ours", **FOLD},
    "03b_baselines": {"METHODS": "radiomics_lr,densenet_mammography", "SEEDS": [42], **FOLD},
    "04_tta": {},
    "05_evaluate": {"N_BOOTSTRAP": 20},
    "06_interpret": FOLD,
    "00_start_here": FOLD,
}
EACH = 3      # kills of a stage on the way through the job, at most


def shrink():
    """Makes the lesson tiny in this process and its forks: fewer patients, smaller fields and slides, a
    smaller model."""
    config.PROFILES["lesson"] = TINY
    # so many patients that both classes occur in training and in validation
    phantom.write = functools.partial(phantom.write, singles=1, dials=Dials(pairs=8))

    def no_commit():
        return ""
    doctor.commit = no_commit  # the record of a run would differ after a commit made meanwhile
    histology_files.BACH_SHAPE = (384, 512)
    histology_files.SLIDE_SHAPE = (1024, 1024)


def settle(home):
    """Lets this process and its forks write below `home`."""
    config.ROOT = home
    config.DATA = home / "data"
    config.RUNS = home / "runs"
    config.FIGURES = home / "figures"


def play(name, given):
    """Runs the code cells of a notebook with the parameters `given`, as papermill would, without a kernel's
    seconds."""
    room = {"display": lambda value: None, "__name__": "__notebook__"}
    for cell in nbformat.read(config.HOME / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), room)
            room |= given if "parameters" in cell.metadata.get("tags", []) else {}
            plt.close("all")


def attempt(name, given, seconds=None):
    """Plays a stage in a process group of its own, killed after `seconds`; True if it ended before. What
    fails ends this program."""
    pid = os.fork()
    if not pid:
        os.setsid()
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            play(name, given)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    end = time.monotonic() + (seconds or 1e9)
    status = None
    while time.monotonic() < end and not status:
        status = os.waitpid(pid, os.WNOHANG)
        status = status if status[0] else None
        time.sleep(0.005)
    if not status:
        os.killpg(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status[1]) not in (0, -signal.SIGKILL):
        raise SystemExit(f"{name} failed after {seconds} seconds or when it was resumed.")
    return status[1] == 0


def digests(home):
    """{path: sha256} of every file below `home`."""
    paths = [path for path in sorted(home.rglob("*")) if path.is_file()]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def whole(stages):
    """Runs all stages without interruption; returns the seconds that each took."""
    took = {}
    for name, given in stages.items():
        since = time.monotonic()
        attempt(name, given)
        took[name] = time.monotonic() - since
    return took


def interrupted(stages, took, rng, most):
    """Runs all stages, each killed up to `EACH` times and resumed, `most` times in all; returns the number of
    kills of each stage."""
    kills = collections.Counter()
    for name, given in stages.items():
        while True:
            again = kills[name] < EACH and kills.total() < most
            if attempt(name, given, rng.uniform(0, took[name]) if again else None):
                break
            kills[name] += 1
            if name == "04_tta":  # as the Snakefile does: a run that lost its `done` is trained again
                attempt("03_train", stages["03_train"])
    return kills


def differences(expected, resumed):
    """Sentences: what is not as in the uninterrupted run."""
    sentences = []
    for path in sorted(expected.keys() | resumed.keys()):
        if path not in resumed:
            sentences.append(f"{path} is missing")
        elif path not in expected:
            sentences.append(f"{path} is left over")
        elif expected[path] != resumed[path]:
            sentences.append(f"{path} differs")
    return sentences


def harness(home, stages, kills, seed, prepare):
    """Kills the `stages` in the folder `home` `kills` times; `prepare` puts there what they need. Returns
    (kills a stage, differences)."""
    rng = np.random.default_rng(seed)
    done = collections.Counter()
    wrong = []
    settle(home)
    prepare()
    took = whole(stages)
    expected = digests(home)
    while done.total() < kills and not wrong:
        shutil.rmtree(home)
        prepare()
        done += interrupted(stages, took, rng, kills - done.total())
        wrong = differences(expected, digests(home))
        print(f"{done.total()} kills, {len(expected)} files compared, {len(wrong)} differ", flush=True)
    return done, wrong


def noise(home):
    """A cohort of noise."""
    from test_learner import write_cohort
    write_cohort(home / "data" / "lesson")


def main(kills=50, seed=0, data="phantom"):
    """The command line; returns the exit status."""
    shrink()
    with tempfile.TemporaryDirectory(prefix="xmodal-kill-") as folder:
        home = Path(folder) / "home"
        stages, prepare = STAGES, home.mkdir
        if data == "noise":
            stages = {name: STAGES[name] for name in ("03_train", "04_tta")}
            prepare = functools.partial(noise, home)
        done, wrong = harness(home, stages, int(kills), int(seed), prepare)
    print(*wrong, *(f"{name}: killed {done[name]} times" for name in stages), sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
