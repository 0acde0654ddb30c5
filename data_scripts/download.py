"""What the `fetch` of each dataset shares: a plan of files, then their download, resumed where it stopped and verified.

A file grows as <name>.part and takes its name only when its size and checksum are right; an archive is unpacked beside
its folder, which takes its name only when it is whole. So what has its name is complete, and running it again goes on.
"""
import hashlib
import logging
import os
import re
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

from data_scripts.archive import Damaged, unpack
from xmodal.config import Problem

log = logging.getLogger(__name__)
TRIES = 6             # without a byte of progress, before a file is given up
PAUSE = 2.0           # seconds before the second try, doubled before each further one
TIMEOUT = (10, 60)    # seconds: to connect, and between two pieces of an answer
GIVE_UP = 20          # failed files, before the rest is not tried
CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """One thing to fetch."""
    url: str
    path: str                         # below the dataset's root; the folder that it becomes, if it is an archive
    bytes: int | None = None          # None where the server does not say
    checksum: str = ""                # "md5:..." or "sha256:...", "" where the server gives none
    unpacked: int = 0                 # of a zip archive: at most so many bytes may come out of it; 0 is no archive
    check: Callable | None = None     # called with the file or folder before it takes its name; raises `Damaged`


# ---- the plan ----------------------------------------------------------------------------------------------------

def obtain(files, root, terms, dry_run=False, workers=4):
    """Tells what would come of `files`, under which `terms` (licence and citation), and, unless `dry_run`, fetches it.

    Returns the plan: a row a file with path, bytes, checksum, state (complete, partial, missing) and url. Raises
    `Problem` if the disk is too small or, in the end, if files did not come; those that did are kept.
    """
    root, table = Path(root).absolute(), plan(files, root)
    left = [f for f, state in zip(files, table.state) if state != "complete"]
    need = sum(max(0, (f.bytes or f.unpacked) - _size(_part(f, root / f.path))) + f.unpacked for f in left)
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free
    print(f"{len(table)} files, {table.bytes.sum() / 1e9:.1f} GB, of which {len(table) - len(left)} are in {root.name}; "
          f"{need / 1e9:.1f} GB of disk needed, {free / 1e9:.1f} free.\nTerms: {terms}")
    if dry_run:
        return table
    if need > free:
        raise Problem(f"{root} needs {need / 1e9:.1f} GB more and the disk has {free / 1e9:.1f}; make room, or fetch fewer with `limit`.")
    download(files, root, workers)
    return plan(files, root)


def plan(files, root):
    """`files` as a table; the state is told by sizes alone, while `download` looks at checksums."""
    def state(file):
        path = _inside(root, file.path)
        there = path.is_dir() if file.unpacked else path.is_file() and file.bytes in (None, _size(path))
        return "complete" if there else "partial" if _part(file, path).exists() else "missing"
    rows = [(f.path, f.bytes or f.unpacked or None, f.checksum, state(f), f.url) for f in files]
    return pd.DataFrame(rows, columns=["path", "bytes", "checksum", "state", "url"]).astype({"bytes": "Int64"})


def _inside(root, path):
    """root/path. Raises `Problem` if that is not below root: names come from servers."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path:
        raise Problem(f"The server names a file {path!r}, which would lie outside {root}; nothing of it is fetched.")
    return Path(root) / path


def _size(path):
    return path.stat().st_size if path.is_file() else 0


def _part(file, path):
    return path.with_name(path.name + (".zip.part" if file.unpacked else ".part"))


# ---- asking ------------------------------------------------------------------------------------------------------

def ask(url, read=requests.Response.json, body=None, method="GET"):
    """What `read` makes of the answer, also to a POST of `body` as JSON. Raises `Problem` if none comes that it can read."""
    for attempt in range(TRIES):
        time.sleep(PAUSE * 2 ** (attempt - 1) if attempt else 0)
        try:
            answer = requests.request("POST" if body else method, url, json=body, timeout=TIMEOUT)
            answer.raise_for_status()
            return read(answer)
        except (requests.RequestException, ElementTree.ParseError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            reason = error
            if _final(error):
                break
    raise Problem(f"{url} gives no good answer ({reason}); check the network, or try again later.")


def _final(error):
    """True where asking again would give the same: the client's fault, but for timeouts, ranges and too many requests."""
    status = getattr(getattr(error, "response", None), "status_code", 500)
    return 400 <= status < 500 and status not in (408, 416, 425, 429)


# ---- downloading -------------------------------------------------------------------------------------------------

def download(files, root, workers=4):
    """Fetches `files` below `root` over `workers` connections; what is complete, by size and checksum, is not fetched again.

    Each is tried again after a broken, slow or wrong answer and goes on where it stopped, if the server can. Raises
    `Problem` naming those that did not come in the end; all others are kept.
    """
    failed, stop = [], threading.Event()
    total = sum(f.bytes or f.unpacked for f in files)
    with (requests.Session() as session, ThreadPoolExecutor(workers) as pool,
          tqdm(total=total, desc=Path(root).name, unit="B", unit_scale=True, disable=None) as bar):
        jobs = {pool.submit(_bring, session, file, _inside(root, file.path), bar, stop): file.path for file in files}
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                except Problem as problem:
                    failed.append(str(problem))
                except OSError as error:
                    failed.append(f"{jobs[job]} cannot be written ({error}); make room or choose another folder, then run it again.")
                if len(failed) == GIVE_UP:
                    break
        finally:                                              # also when the user interrupts: connections end at the next piece
            stop.set()
            pool.shutdown(cancel_futures=True)
    for problem in failed:
        log.warning("%s", problem)
    if failed:
        raise Problem(f"{len(failed)} of {len(files)} files did not come; run it again, what has come is kept. The first: {failed[0]}")


def _bring(session, file, path, bar, stop):
    """Fetches one file: transfer, verification, its name; again after each failure, until TRIES fail without progress."""
    if _complete(file, path):
        bar.update(file.bytes or file.unpacked)
        return
    part, failures, best = _part(file, path), 0, 0
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
            return _forget(part)
        except Damaged as error:
            reason = error
            bar.update(-_size(part))
            _forget(part)                                     # nothing that could be gone on with
        except requests.RequestException as error:            # what came so far stays
            reason = error
            if _final(error):
                raise Problem(f"{file.path}: {file.url} is refused ({error}); look whether the dataset has moved.") from None
        failures, best = 1 if _size(part) > best else failures + 1, max(_size(part), best)
        if failures >= TRIES:
            raise Problem(f"{file.path} did not come from {file.url} in {TRIES} tries ({reason}); run it again later.")


def _transfer(session, file, part, bar, stop):
    """Appends to `part` what it lacks; a server that cannot go on, or whose file has changed, sends it from the start."""
    have, tag = _size(part), _tag(part)
    known = tag.read_text() if have and tag.exists() else ""
    if have and have == file.bytes:
        return
    headers = {"Accept-Encoding": "identity"}
    if known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    elif have and file.checksum:                              # which tells if two halves do not fit
        headers |= {"Range": f"bytes={have}-"}
    with session.get(file.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:
            raise Damaged(f"the server has less than the {have} bytes that came before")
        answer.raise_for_status()
        start, total = _span(answer)
        if start not in (0, have) or file.bytes is not None and total not in (None, file.bytes):
            raise Damaged(f"the server sends {total} bytes from byte {start} on, not {file.bytes} from {have}")
        if not start:
            bar.update(-have)
            tag.write_text(_validator(answer))
        with open(part, "r+b" if start else "wb") as out:
            out.seek(start)
            for piece in answer.iter_content(CHUNK):
                out.write(piece)
                bar.update(len(piece))
                if stop.is_set():
                    raise Problem(f"{file.path} was interrupted; run it again.")
    if total not in (None, _size(part)):
        raise requests.ConnectionError(f"{_size(part)} of {total} bytes came")


def _span(answer):
    """(first byte, total bytes or None) of what an answer holds."""
    if answer.status_code == 206:
        match = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        return (int(match[1]), int(match[2])) if match else (-1, None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _validator(answer):
    """What tells later whether the file is still the same: a strong ETag, or the date of change."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


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
    if wanted and (found := digest(path, kind)) != wanted.lower():
        raise Damaged(f"{path.name} has the {kind} {found} instead of {wanted}")
    if file.check and not file.unpacked:
        file.check(path)


def digest(path, kind="md5"):
    """Hexadecimal checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
