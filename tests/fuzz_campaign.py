"""A campaign of changed files: each is read, or refused with a `Problem` or a logged exclusion.

    python tests/fuzz_campaign.py 20000 0           # number and seed: `make fuzz`
    python tests/fuzz_campaign.py again dicom 17 0  # one input of it, kept in build/fuzz/ and read here

What is counted against it: an end of the process by a signal, a traceback, more than BYTES of resident
memory, more than SECONDS. The kind of file, the index and the seed name an input. Each is read in a process
that may end without harm to the rest.
"""
import logging
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parent / "imaging"))

import fuzz_files  # noqa: E402
import fuzz_readers  # noqa: E402
import numpy as np  # noqa: E402
from fuzz_changes import change  # noqa: E402
from tqdm import tqdm  # noqa: E402

from xmodal.config import HOME, Problem  # noqa: E402
from xmodal.runtime.workers import Died, processes  # noqa: E402

SECONDS = 20
BYTES = 1_500_000_000
BEYOND = 12_000_000_000  # of address space: that this machine is not filled, far above what is counted


class Kind(NamedTuple):
    """A kind of file."""
    write: object            # function of a folder: writes whole files and returns their paths
    read: object             # function of a path
    share: int               # of 200 inputs


KINDS = {
    "dicom": Kind(fuzz_files.dicoms, fuzz_readers.read_mammogram, 70),
    "tiff": Kind(fuzz_files.tiffs, fuzz_readers.read_tiles, 30),
    "outlines": Kind(fuzz_files.outlines, fuzz_readers.read_outlines, 30),
    "tables": Kind(fuzz_files.tables, fuzz_readers.read_table, 30),
    "plist": Kind(fuzz_files.plists, fuzz_readers.read_plist, 8),
    "series": Kind(fuzz_files.series, fuzz_readers.read_series, 8),
    "ultrasound": Kind(fuzz_files.ultrasound, fuzz_readers.read_ultrasound, 8),
    "answers": Kind(fuzz_files.answers, fuzz_readers.read_answer, 16),
}
STRUCTURES = {".dcm": "dicom", ".tif": "tiff", ".csv": "table", ".png": "png", ".json": "json", ".xml": "xml"}


class Input(NamedTuple):
    """What names an input."""
    kind: str
    index: int
    seed: int


class Outcome(NamedTuple):
    """What became of an input."""
    how: str                 # "read", "problem", "signal", "traceback", "memory" or "time"
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


# ---- one input -------------------------------------------------------------------------------------------

@lru_cache
def whole_files(kind):
    """(paths, {path: bytes}) of the whole files of a kind in a folder of this process."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("XMODAL_FUZZ_FOLDER")))
    paths = KINDS[kind].write(folder)
    return paths, {path: path.read_bytes() for path in paths}


def changed(trial, paths, whole):
    """(path, bytes) of an input."""
    rng = np.random.default_rng([trial.seed, list(KINDS).index(trial.kind), trial.index])
    path = paths[trial.index % len(paths)]
    structure = STRUCTURES.get(path.suffix, "xml" if path.name == "listing" else "json")
    blind = rng.random() < 0.25 or path.name == "binary.xml"
    return path, change(whole[path], "bytes" if blind else structure, rng)


@lru_cache
def prepare():
    """Quietens this process and bounds its address space."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for stream in (1, 2):                                 # libtiff and others write to them
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + BEYOND, used + BEYOND))


def peak():
    """The most resident memory since `forget_peak`, bytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def try_input(trial):
    """The `Outcome` of an input; a clock ends the process where it takes too long.

    That of the processor, so that a busy computer changes nothing; what waits for ever is ended in the end.
    """
    prepare()
    paths, whole = whole_files(trial.kind)
    path, data = changed(trial, paths, whole)
    path.write_bytes(data)
    forget_peak()
    since = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(20 * SECONDS)
    detail = ""
    try:
        KINDS[trial.kind].read(path)
        how = "read"
    except Problem as problem:
        how = "problem" if str(problem).strip() else "traceback"
    except Exception:
        how = "traceback"
        detail = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    seconds = time.process_time() - since
    path.write_bytes(whole[path])
    if peak() > BYTES:
        how = "memory"
    return Outcome(how, detail, seconds, peak() / 1e6)


# ---- the campaign ----------------------------------------------------------------------------------------

def inputs(number, seed):
    """`number` inputs, in shares of their kinds."""
    for kind, (_, _, share) in KINDS.items():
        for index in range(round(number * share / sum(kind.share for kind in KINDS.values()))):
            yield Input(kind, index, seed)


def campaign(number, seed=0, workers=2):
    """[(Input, Outcome)] of `number` inputs."""
    trials = list(inputs(number, seed))
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XMODAL_FUZZ_FOLDER"] = folder
        with processes(try_input, workers) as run:
            for outcome in tqdm(run(trials), "files", len(trials), disable=None):
                if isinstance(outcome, Died):
                    how = "time" if outcome.how in ("by SIGPROF", "by SIGALRM") else "signal"
                    outcome = Outcome(how, f"its process ended {outcome.how}")
                outcomes.append(outcome)
        del os.environ["XMODAL_FUZZ_FOLDER"]
    return list(zip(trials, outcomes))


COLUMNS = ("read", "problem", "signal", "traceback", "memory", "time")


def table(results):
    """The counts by kind, as text."""
    heads = ("inputs", *COLUMNS, "most MB", "most s")
    lines = ["kind        " + "".join(f"{name:>10}" for name in heads)]
    for kind in (*KINDS, "all"):
        outcomes = [outcome for trial, outcome in results if kind in (trial.kind, "all")]
        counts = Counter(outcome.how for outcome in outcomes)
        numbers = "".join(f"{counts[name]:>10}" for name in COLUMNS)
        most_megabytes = max([outcome.megabytes for outcome in outcomes], default=0)
        most_seconds = max([outcome.seconds for outcome in outcomes], default=0)
        lines.append(f"{kind:<12}{len(outcomes):>10}{numbers}{most_megabytes:>10.0f}{most_seconds:>10.1f}")
    return "\n".join(lines)


def failures(results):
    """[text] of the inputs that count against the campaign."""
    texts = []
    for trial, outcome in results:
        if outcome.how not in ("read", "problem"):
            name = f"{trial.kind} {trial.index} {trial.seed}"
            texts.append(f"{name}: {outcome.how}. {outcome.detail}")
    return texts


def again(trial):
    """Reads one input of a campaign in this process, and keeps it in build/fuzz/."""
    paths, whole = whole_files(trial.kind)
    path, data = changed(trial, paths, whole)
    kept_at = HOME / "build" / "fuzz" / f"{trial.kind}-{trial.index}-{trial.seed}{path.suffix}"
    kept_at.parent.mkdir(parents=True, exist_ok=True)
    kept_at.write_bytes(data)
    print(f"{path.name}, changed, lies in {kept_at}.")
    path.write_bytes(data)
    KINDS[trial.kind].read(path)


def main(*arguments):
    """What the command line asks for; see above."""
    if arguments[:1] == ("again",):
        again(Input(arguments[1], int(arguments[2]), int(arguments[3])))
        return
    number, seed = map(int, arguments)
    results = campaign(number, seed, workers=os.cpu_count())
    for text in failures(results):
        print(text)
    print(table(results))
    sys.exit(bool(failures(results)))


if __name__ == "__main__":
    import fuzz_campaign     # by its name, so that the processes of the campaign can import it
    fuzz_campaign.main(*sys.argv[1:])
