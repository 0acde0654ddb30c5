"""How time, memory and disk grow with films, slides and runs: `python tests/bench/growth.py`, half an hour.

Prints the table of docs/running.md, measured on phantoms of three sizes, the last of which is the lesson's.
Each step is a process of its own. Its time is that of the processor, its helpers' included, so that other
work on the machine counts for little; its memory is the most that it held at once, and its largest helper.
How many times as fast two processes read as one does goes by the clock, so it needs two idle cores.
"""
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))

import pandas as pd

PAIRS = (15, 30, 60)       # patients in each of the four pairs of domains
STEPS = ("draw", "read", "read_alone", "freeze", "erm", "ours")
METHODS = STEPS[4:]
UNIT = 1e6                 # bytes of a megabyte


def profile_of(pairs):
    from xmodal import config
    return replace(config.PROFILES["lesson"], name=f"pairs{pairs}")


def folder_of(pairs):
    from xmodal import config
    return config.DATA / profile_of(pairs).name


def draw(pairs):
    """The phantom's native files, by two processes."""
    from data_scripts import phantom
    from data_scripts.phantom.dials import Dials
    phantom.write(folder_of(pairs) / "native", singles=8 * pairs // 60, dials=Dials(pairs=pairs))


def read(pairs, workers=2, into="."):
    """The cohort, from the native files, by two processes. Returns the seconds that it took by the clock."""
    from data_scripts import index_all
    from xmodal import preprocess
    folder = folder_of(pairs)
    rows, exclusions, _ = index_all(folder / "native", profile_of(pairs))
    began = time.perf_counter()
    preprocess.build(rows, profile_of(pairs), folder / into, workers=workers, exclusions=exclusions)
    return time.perf_counter() - began


def read_alone(pairs):
    """The same by one process, into a folder beside it."""
    return read(pairs, 1, "alone")


def freeze(pairs):
    """The activations of the frozen blocks, which all runs share."""
    from xmodal import learner
    profile, table = profile_of(pairs), cohort_of(pairs)
    start, _ = learner.begin_from(profile)
    learner.images_of(profile, learner.begin(profile, "erm", start), table)


def train(pairs, method):
    """A run of a method with BACH held out."""
    from xmodal import learner
    learner.train(profile_of(pairs), method, "bach", 42, cohort_of(pairs))


def cohort_of(pairs):
    from xmodal import cohort
    return cohort.load(folder_of(pairs) / "cohort.parquet")


def step(name, pairs):
    """Does one step in this process and prints [processor seconds, megabytes held, what the step returns]."""
    result = None
    if name in METHODS:
        train(pairs, name)
    else:
        result = {"draw": draw, "read": read, "read_alone": read_alone, "freeze": freeze}[name](pairs)
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(part.ru_utime + part.ru_stime for part in spent)
    print(json.dumps([seconds, sum(part.ru_maxrss for part in spent) * 1024 / UNIT, result]))


def size(*paths):
    """Megabytes of all files below."""
    return sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file()) / UNIT


def measure(pairs, home):
    """A column of the table: what was there, what each step took, and what it left."""
    env = {**os.environ, "XMODAL_HOME": str(home), "OMP_NUM_THREADS": "1"}
    folder = Path(home) / "data" / f"pairs{pairs}"
    spent = {}
    for name in STEPS:
        done = subprocess.run([sys.executable, str(HERE), name, str(pairs)], env=env, check=True,
                              stdout=subprocess.PIPE, text=True)
        spent[name] = json.loads(done.stdout.splitlines()[-1])
    table = pd.read_parquet(folder / "cohort.parquet")
    films = table[table.modality == "mammography"]
    return {
        "patients": table.patient.nunique(), "films": films.source.nunique(),
        "slides and fields": table[table.modality != "mammography"].source.nunique(),
        "images": len(table),
        "drawing them, s": spent["draw"][0], "reading them, s": spent["read"][0],
        "as fast by two processes as by one": spent["read_alone"][2] / spent["read"][2],
        "frozen blocks, once, s": spent["freeze"][0],
        "a training of ERM, s": spent["erm"][0], "a training of ours, s": spent["ours"][0],
        "memory: drawing, MB": spent["draw"][1], "reading, MB": spent["read"][1],
        "a training, MB": spent["ours"][1],
        "disk: native files, MB": size(folder / "native"),
        "arrays, MB": size(folder / "images", folder / "masks"),
        "activations, MB": size(folder / "activations"),
        "a run, MB": size(Path(home) / "runs" / folder.name) / len(METHODS),
    }


def main():
    home = tempfile.mkdtemp(prefix="xmodal-growth-")
    try:
        columns = {str(pairs): measure(pairs, home) for pairs in PAIRS}
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for name, row in pd.DataFrame(columns).iterrows():
        print("|", " | ".join([name, *map(brief, row)]), "|")


def brief(value):
    """A number with three digits, or all of them before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    if len(sys.argv) == 3:
        step(sys.argv[1], int(sys.argv[2]))
    else:
        main()
