"""After a kill the next run goes on by itself: locks of engines that are gone, and processes that outlived
theirs. While it runs, its steps say how far it is.

Snakemake, the engine of the main job, locks its outputs by files, which stay behind when it is killed. The
notebooks that it had started may outlive it and still write.
"""
import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path

from .files import HOST, atomic, writing

_entered = []  # open files, by which this process is known to live


def enter(folder):
    """Called by an engine before it locks anything: removes the locks in `folder`/locks if no engine lives
    that could hold them.

    folder: Snakemake's own, .snakemake in the checkout. Until this process ends others see that it lives,
    even if it is killed. Where a folder has no locks, or may not be written, nothing is done.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        file = open(folder / "engines", "a")
        _entered.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another engine lives
            pass
        else:
            for lock in (folder / "locks").glob("*.lock"):
                lock.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_SH)


@contextlib.contextmanager
def alone(out):
    """For the block, no other process executes a notebook into `out`. One that does, such as one of a run
    that was killed, is named on stderr and waited for."""
    out = Path(out)
    path = out.with_name(f".{out.stem}.lock")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path, out)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(path, out):
    """The file at `path`, open and locked, with this process's number in it."""
    while True:
        file = open(path, "a+")
        with contextlib.suppress(OSError):  # no locks there
            _wait(file, out)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # who held it has removed it
    file.truncate(0)
    file.write(f"{os.getpid()} on {HOST}")
    file.flush()
    return file


def _wait(file, out):
    """Locks `file`, if need be after another process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        print(f"{out} is still being made by process {file.read()}, perhaps of a run that was ended; it is "
              "waited for.", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


# ---- how far a run is --------------------------------------------------------------------------------------

def plan(path, minutes):
    """Called by an engine that starts: writes to `path` which executed copies are to come, and the minutes
    that one core spends on each (dict)."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"began": time.time(), "minutes": minutes}))


def progress(path, out):
    """How far the run is whose plan lies at `path`, now that `out` is made: "9 of 24 steps, about 12 min
    left".

    The time left is what the finished steps took, from the run's begin, for each of their minutes, times the
    minutes of the others. "" without a plan, or where `out` is no part of it.
    """
    try:
        planned = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return ""
    began, minutes = planned["began"], planned["minutes"]
    if str(out) not in minutes:
        return ""
    done = [copy for copy in minutes if copy == str(out) or _made_since(copy, began)]
    spent = sum(minutes[copy] for copy in done)
    left = (time.time() - began) / 60 / spent * (sum(minutes.values()) - spent)
    rest = f", about {max(1, round(left))} min left" if len(done) < len(minutes) else ""
    return f"{len(done)} of {len(minutes)} steps{rest}"


def _made_since(path, moment):
    """Whether a file was written after a moment, in seconds of the clock."""
    with contextlib.suppress(OSError):
        return Path(path).stat().st_mtime > moment
    return False
