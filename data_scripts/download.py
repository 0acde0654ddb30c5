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
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
import requests
from tqdm import tqdm

from data_scripts import ranges
from data_scripts.archive import Damaged, unpack
from xmodal.config import Problem

log = logging.getLogger(__name__)
TRIES = 6             # without a byte of progress, before a file is given up
PAUSE = 2.0           # seconds before the second try, doubled before each further one
TIMEOUT = (10, 60)    # seconds: to connect, and between two pieces of an answer
GIVE_UP = 20          # failed files, before the rest is not tried
CHUNK = 1 << 20
# What an answer raises that does not come, or that is of another form.
UNREADABLE = (requests.RequestException, ElementTree.ParseError, ValueError, LookupError, TypeError,
              AttributeError, ArithmeticError)


@dataclass(frozen=True)
class File:
    """One thing to fetch."""
    url: str
    path: str                         # below the dataset's root; of an archive the folder that it becomes
    bytes: int | None = None          # None where the server does not say
    checksum: str = ""                # "md5:..." or "sha256:...", "" where the server gives none
    unpacked: int = 0                 # of a zip archive the most bytes that may come out of it; else 0
    check: Callable | None = None     # called with file or folder before it takes its name; raises `Damaged`


# ---- the plan ----------------------------------------------------------------------------------------------

def obtain(files, root, terms, dry_run=False, workers=4):
    """Prints what of `files` would come, under which `terms`, and fetches it unless `dry_run` is set.

    Returns the plan, one row for each file: path, bytes, checksum, state (complete, partial, missing), url.
    Raises `Problem` if the disk is too small or, in the end, if files did not come; those that came are kept.
    """
    root = Path(root).absolute()
    table = plan(files, root)
    left = [file for file, state in zip(files, table.state) if state != "complete"]
    need = 0
    for file in left:
        missing = (file.bytes or file.unpacked) - _size(_part(file, root / file.path))
        need += max(0, missing) + file.unpacked
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    print(f"{len(table)} files, {table.bytes.sum() / 1e9:.1f} GB, "
          f"of which {len(table) - len(left)} are in {root.name}; "
          f"{need / 1e9:.1f} GB of disk needed, {free / 1e9:.1f} free.\nTerms: {terms}")
    if dry_run:
        return table
    if need > free:
        raise Problem(f"{root} needs {need / 1e9:.1f} GB more and the disk has {free / 1e9:.1f}; "
                      "make room, or fetch fewer with `limit`.")
    download(files, root, workers)
    return plan(files, root)


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
    path = _inside(root, file.path)
    if file.unpacked:
        is_complete = path.is_dir()
    else:
        is_complete = path.is_file() and file.bytes in (None, _size(path))
    if is_complete:
        return "complete"
    return "partial" if _part(file, path).exists() else "missing"


def _inside(root, path):
    """root/path. Raises `Problem` if that is not below root: names come from servers."""
    posix = PurePosixPath(path)
    if posix.is_absolute() or ".." in posix.parts or "\\" in path or "\0" in path:
        raise Problem(f"The server names a file {path!r}, which would lie outside {root}; "
                      "nothing of it is fetched.")
    return Path(root) / path


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
            answer = requests.request("POST" if body else method, url, json=body, timeout=TIMEOUT)
            answer.raise_for_status()
            return read(answer)
        except UNREADABLE as error:
            reason = error
            if _final(error):
                break
    raise Problem(f"{url} gives no good answer ({reason}); check the network, or try again later.")


def _final(error):
    """True where asking again would give the same: errors 4xx but for timeouts, ranges, too many requests."""
    status = getattr(getattr(error, "response", None), "status_code", 500)
    return 400 <= status < 500 and status not in (408, 416, 425, 429)


# ---- downloading -------------------------------------------------------------------------------------------

def download(files, root, workers=4):
    """Fetches `files` below `root` over `workers` connections; files that are complete are not fetched again.

    Complete is told by size and checksum. Each file is tried again after a broken, slow or wrong answer and
    goes on where it stopped, if the server can. Raises `Problem` with the number of files that did not come
    in the end and the first of them; all others are kept.
    """
    failed = []
    stop = threading.Event()
    total = sum(file.bytes or file.unpacked for file in files)
    with (requests.Session() as session, ThreadPoolExecutor(workers) as pool,
          tqdm(total=total, desc=Path(root).name, unit="B", unit_scale=True, disable=None) as bar):
        jobs = {}
        for file in files:
            job = pool.submit(_bring, session, file, _inside(root, file.path), bar, stop)
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

    Raises `Problem` once TRIES in a row have failed without progress.
    """
    if _complete(file, path):
        bar.update(file.bytes or file.unpacked)
        return
    part = _part(file, path)
    failures = 0
    best = 0                                                  # the most bytes that came so far
    part.parent.mkdir(parents=True, exist_ok=True)
    bar.update(_size(part))
    while not stop.wait(PAUSE * 2 ** (failures - 1) if failures else 0):
        try:
            _transfer(session, file, part, bar, stop)
            _verify(file, part)
            if file.unpacked:
                unpack(part, path, file.unpacked, file.check)
            else:
                os.replace(part, path)
            _forget(part)
            return
        except Damaged as error:
            reason = error
            bar.update(-_size(part))
            _forget(part)                                     # nothing to go on with
        except requests.RequestException as error:            # what came so far stays
            reason = error
            if _final(error):
                raise Problem(f"{file.path}: {file.url} is refused ({error}); "
                              "look whether the dataset has moved.") from None
        failures = 1 if _size(part) > best else failures + 1
        best = max(_size(part), best)
        if failures >= TRIES:
            raise Problem(f"{file.path} did not come from {file.url} in {TRIES} tries ({reason}); "
                          "run it again later.")


def _transfer(session, file, part, bar, stop):
    """Appends to `part` what it lacks. A server that cannot go on, or whose file has changed, sends all."""
    have = _size(part)
    if have and have == file.bytes:
        return
    tag = _tag(part)
    known = tag.read_text() if have and tag.exists() else ""
    headers = ranges.headers(have, known, can_tell=bool(file.checksum))
    with session.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        start, total = _span(file, answer, have)
        if not start:
            bar.update(-have)
            tag.write_text(ranges.validator(answer))
        with open(part, "r+b" if start else "wb") as out:
            out.seek(start)
            for piece in answer.iter_content(CHUNK):      # decompressed, if the server compresses unasked
                out.write(piece)
                bar.update(len(piece))
                if file.bytes is not None and out.tell() > file.bytes:
                    raise Damaged(f"the server sends more than the {file.bytes} bytes of {file.path}")
                if stop.is_set():
                    raise Problem(f"{file.path} was interrupted; run it again.")
    if total not in (None, _size(part)):
        raise requests.ConnectionError(f"{_size(part)} of {total} bytes came")


def _span(file, answer, have):
    """(first byte, total bytes or None) of an answer. Raises `Damaged` unless it starts at 0 or `have`."""
    if answer.status_code == 416:
        raise Damaged(f"the server has less than the {have} bytes that came before")
    answer.raise_for_status()
    start, total = ranges.span(answer)
    other_size = file.bytes is not None and total not in (None, file.bytes)
    if start not in (0, have) or other_size:
        raise Damaged(f"the server sends {total} bytes from byte {start} on, not {file.bytes} from {have}")
    return start, total


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
