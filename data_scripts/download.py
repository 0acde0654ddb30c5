"""What the `fetch` of each dataset shares: a plan of files, then their download, resumed and verified.

A file grows as <name>.part and takes its name only when its size and checksum are right; an archive is
unpacked beside its folder, which takes its name only when it is whole. So what has its name is complete, and
running it again goes on.
"""
import hashlib
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import requests
from tqdm import tqdm

from data_scripts import answers, ranges
from data_scripts.archive import Damaged, inside, unpack
from xmodal.config import LIMITS, Problem

log = logging.getLogger(__name__)
TRIES = 6             # without a byte of progress, before a file is given up
PAUSE = 2.0           # seconds before the second try, doubled before each further one
TIMEOUT = (10, 60)    # seconds: to connect, and between two pieces of an answer
SLOWEST = (900, 20_000)    # seconds that any file may take, and bytes a second that it must bring beyond them
GIVE_UP = 20          # failed files, before the rest is not tried
CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """One thing to fetch."""
    url: str
    path: str                         # below the dataset's root; of an archive the folder that it becomes
    bytes: int | None = None          # None where the server does not say
    checksum: str = ""                # "md5:..." or "sha256:...", "" where the server gives none
    unpacked: int = 0                 # of a zip archive the most bytes that may come out of it; else 0
    check: Callable | None = None     # called with file or folder before it takes its name; raises `Damaged`

    def __post_init__(self):
        if not (0 <= (self.bytes or 0) < 1 << 63 and 0 <= self.unpacked < 1 << 63):
            raise Problem(f"The server says that {self.path!r} has {max(self.bytes or 0, self.unpacked)} "
                          "bytes, which no file has; try again later.")

    @property
    def most(self):
        """The most bytes that may come."""
        if self.bytes is not None:
            return self.bytes
        return self.unpacked + (1 << 20) if self.unpacked else LIMITS["unsized file bytes"]


# ---- the plan ----------------------------------------------------------------------------------------------

def obtain(files, root, terms, dry_run=False, workers=4):
    """Prints what of `files` would come, under which `terms`, and fetches it unless `dry_run` is set.

    Returns the plan, one row for each file: path, bytes, checksum, state (complete, partial, missing), url.
    Raises `Problem` if the disk is too small or, in the end, if files did not come; those that came are kept.
    """
    root = Path(root).absolute()
    path, times = next(iter(Counter(file.path for file in files).most_common(1)), ("", 0))
    if times > 1:
        raise Problem(f"The server lists {path!r} {times} times; nothing is fetched, try again later.")
    table = plan(files, root)
    left = [file for file, state in zip(files, table.state) if state != "complete"]
    need = 0
    for file in left:
        missing = (file.bytes or file.unpacked) - _size(_part(file, root / file.path))
        need += max(0, missing) + file.unpacked
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    print(f"{len(table)} files, {_total(files) / 1e9:.1f} GB, "
          f"of which {len(table) - len(left)} are in {root.name}; "
          f"{need / 1e9:.1f} GB of disk needed, {free / 1e9:.1f} free.\nTerms: {terms}")
    if dry_run:
        return table
    if need > free:
        raise Problem(f"{root} needs {need / 1e9:.1f} GB more and the disk has {free / 1e9:.1f}; "
                      "make room, or fetch fewer with `limit`.")
    download(files, root, workers)
    return plan(files, root)


def _total(files):
    """Bytes, as Python counts them: a sum of sizes from servers may be beyond 64 bits."""
    return sum(file.bytes or file.unpacked for file in files)


def plan(files, root):
    """`files` as a table; the state is told by sizes alone, while `download` looks at checksums."""
    rows = []
    for file in files:
        size = file.bytes or file.unpacked or None
        rows.append((file.path, size, file.checksum, _state(file, root), file.url))
    table = pd.DataFrame(rows, columns=["path", "bytes", "checksum", "state", "url"])
    return table.astype({"bytes": "Int64"})


def _state(file, root):
    """"complete", "partial" or "missing"."""
    path = inside(root, file.path)
    if file.unpacked:
        is_complete = path.is_dir()
    else:
        is_complete = path.is_file() and file.bytes in (None, _size(path))
    if is_complete:
        return "complete"
    return "partial" if _part(file, path).exists() else "missing"


def _size(path):
    return path.stat().st_size if path.is_file() else 0


def _part(file, path):
    return path.with_name(path.name + (".zip.part" if file.unpacked else ".part"))


# ---- asking ------------------------------------------------------------------------------------------------

def ask(url, read=requests.Response.json, body=None, method="GET"):
    """What `read` makes of the answer; with a `body`, of the answer to a POST of it as JSON.

    Raises `Problem` if no answer comes that `read` can read.
    """
    for attempt in range(TRIES):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        try:
            answer = answers.whole("POST" if body else method, url, json=body, timeout=TIMEOUT)
            answer.raise_for_status()
            return read(answer)
        except Problem:
            raise
        except answers.UNREADABLE as error:
            reason = error
            if answers.final(error):
                break
    raise Problem(f"{url} gives no good answer ({reason}); check the network, or try again later.")


# ---- downloading -------------------------------------------------------------------------------------------

def download(files, root, workers=4):
    """Fetches `files` below `root` over `workers` connections; files that are complete are not fetched again.

    Complete is told by size and checksum. Each file is tried again after a broken, slow or wrong answer and
    goes on where it stopped, if the server can. Raises `Problem` with the number of files that did not come
    in the end and the first of them; all others are kept.
    """
    failed = []
    stop = threading.Event()
    total = _total(files)
    with (requests.Session() as session, ThreadPoolExecutor(workers) as pool,
          tqdm(total=total, desc=Path(root).name, unit="B", unit_scale=True, disable=None) as bar):
        jobs = {}
        for file in files:
            job = pool.submit(_bring, session, file, inside(root, file.path), bar, stop)
            jobs[job] = file.path
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                except Problem as problem:
                    failed.append(str(problem))
                except OSError as error:
                    failed.append(f"{jobs[job]} cannot be written ({error}); "
                                  "make room or choose another folder, then run it again.")
                if len(failed) == GIVE_UP:
                    break
        finally:                      # also when the user interrupts: connections end at the next piece
            stop.set()
            pool.shutdown(cancel_futures=True)
    for problem in failed:
        log.warning("%s", problem)
    if failed:
        raise Problem(f"{len(failed)} of {len(files)} files did not come; "
                      f"run it again, what has come is kept. The first: {failed[0]}")


def _bring(session, file, path, bar, stop):
    """Fetches one file: transfer, verification, its name; again after each failure.

    Raises `Problem` once TRIES in a row have failed without progress, or when it takes longer than `SLOWEST`.
    """
    if _complete(file, path):
        bar.update(file.bytes or file.unpacked)
        return
    part = _part(file, path)
    failures = 0
    best = 0                                                  # the most bytes that came so far
    deadline = time.monotonic() + SLOWEST[0] + file.most / SLOWEST[1]
    part.parent.mkdir(parents=True, exist_ok=True)
    bar.update(_size(part))
    while not stop.wait(PAUSE * 2 ** (failures - 1) if failures else 0):
        try:
            _transfer(session, file, part, bar, stop, deadline)
            _take_name(file, part, path)
            return
        except Damaged as error:
            reason = error
            bar.update(-_size(part))
            _forget(part)                                     # nothing to go on with
        except requests.RequestException as error:            # what came so far stays
            reason = error
            if answers.final(error):
                raise Problem(f"{file.path}: {file.url} is refused ({error}); "
                              "look whether the dataset has moved.") from None
        failures = 1 if _size(part) > best else failures + 1
        best = max(_size(part), best)
        late = time.monotonic() > deadline
        if late or failures >= TRIES:
            tries = "all the time that is allowed" if late else f"{TRIES} tries"
            raise Problem(f"{file.path} did not come from {file.url} in {tries} ({reason}); "
                          "run it again later.")


def _take_name(file, part, path):
    _verify(file, part)
    if file.unpacked:
        unpack(part, path, file.unpacked, file.check)
    else:
        os.replace(part, path)
    _forget(part)


def _transfer(session, file, part, bar, stop, deadline):
    """Appends to `part` what it lacks. A server that cannot go on, or whose file has changed, sends all."""
    have = _size(part)
    if have and have == file.bytes:
        return
    tag = _tag(part)
    known = tag.read_text() if have and tag.exists() else ""
    can_tell = bool(file.checksum)
    asked = ranges.headers(have, known, can_tell)
    how = {"headers": asked, "stream": True, "timeout": TIMEOUT}
    with answers.within(deadline, session.get, file.url, **how) as answer:
        start, total = ranges.place(answer, have, file.bytes, known, can_tell)
        if not start:
            bar.update(-have)
            tag.write_text(ranges.validator(answer))
        with open(part, "r+b" if start else "wb") as out:
            out.seek(start)
            for piece in answers.pieces(answer, CHUNK, deadline):    # decompressed, if it came compressed
                if out.tell() + len(piece) > file.most:
                    raise Damaged(f"the server sends more than the {file.most} bytes of {file.path}")
                out.write(piece)
                bar.update(len(piece))
                if stop.is_set():
                    raise Problem(f"{file.path} was interrupted; run it again.")
    answers.check_end(file, answer, _size(part), file.bytes if total is None else total)


def _tag(part):
    return part.with_name(part.name + ".tag")


def _forget(part):
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _complete(file, path):
    try:
        if file.unpacked:
            if path.is_dir() and file.check:
                file.check(path)
            return path.is_dir()
        if path.is_file():
            _verify(file, path)
            return True
    except Damaged as damage:
        log.warning("%s; it is fetched again.", damage)
    return False


def _verify(file, path):
    """Raises `Damaged` if the file at `path` has not the size and checksum that were promised."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        raise Damaged(f"{path.name} has {size} bytes instead of {file.bytes}")
    kind, _, wanted = file.checksum.partition(":")
    if wanted:
        actual = digest(path, kind)
        if actual != wanted.lower():
            raise Damaged(f"{path.name} has the {kind} {actual} instead of {wanted}")
    if file.check and not file.unpacked:
        file.check(path)


def digest(path, kind="md5"):
    """Hexadecimal checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
