"""Files that stay whole: each written atomically, a folder held by one process at a time, a full disk told in one sentence."""
import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import platform
import re
import time
from pathlib import Path

from safetensors import SafetensorError

from ..config import Problem

log = logging.getLogger(__name__)

HOST = re.sub(r"[^A-Za-z0-9-]", "-", platform.node().split(".")[0]) or "host"  # two hosts that share a folder may share process numbers
DAY = 86400  # seconds


@contextlib.contextmanager
def writing(path):
    """Turns what the system says where `path` cannot be written, for want of space or of leave, into a `Problem`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)|requested and \d+ written", str(error))  # safetensors and numpy give no number, the latter no reason
        number = getattr(error, "errno", None) or (told and int(told[1] or errno.ENOSPC))
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise
        raise Problem(f"{path} cannot be written ({os.strerror(number)}); free space there, or write to a folder of yours "
                      "(XMODAL_HOME names it), and start again.") from None


@contextlib.contextmanager
def atomic(path):
    """Yields a temporary path in the same folder; it takes the name `path` only if the block ends well, else it is removed.

    Raises `Problem` where the disk is full or the folder may not be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{HOST}.{os.getpid()}.partial{path.suffix}")  # the suffix stays: writers look at it
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _forget(path)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _lives(pid):
    """True if this host has a process of that number, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _forget(path):
    """Removes what processes that were killed left of `path`: a reader of the folder might take it for a file of its own. Whether a
    process of another host lives cannot be asked, so what that one left goes once nobody has written to it for a day."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.*.partial{path.suffix}"):
        stem, host, pid = left.name.removesuffix(f".partial{path.suffix}").rsplit(".", 2)
        with contextlib.suppress(ValueError, FileNotFoundError, PermissionError):  # another's name, gone meanwhile, another user's
            dead = not _lives(int(pid)) if host == HOST else time.time() - left.stat().st_mtime > DAY
            if dead and stem == f".{path.stem}":
                left.unlink()


_held = {}  # folder -> the descriptor by which this process holds it
os.register_at_fork(after_in_child=_held.clear)  # a fork is another process


def hold(folder):
    """Keeps other processes out of `folder` until `release` or the end of this one. Raises `Problem` where another holds it.

    Only on file systems with locks; on others two that write the same files still leave whole ones.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if folder in _held:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Problem(f"Another process is writing in {folder}; wait until it is done, or end it, and start again.") from None
    except OSError as error:
        log.warning("%s cannot be locked (%s); do not start the same run twice.", folder, error)
    _held[folder] = descriptor


def release(folder):
    """Lets others write in `folder` again."""
    if (descriptor := _held.pop(Path(folder), None)) is not None:
        with contextlib.suppress(OSError):  # no locks there
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it with the forks of this process
        os.close(descriptor)


@contextlib.contextmanager
def held(folder):
    """Keeps other processes out of `folder` for the block. Raises `Problem` where another holds it."""
    hold(folder)
    try:
        yield
    finally:
        release(folder)


def sha256(path):
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(value):
    """`value` as sorted, indented JSON."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def write_json(path, value):
    """Writes `value` as sorted, indented JSON, atomically."""
    with atomic(path) as partial:
        partial.write_text(json_text(value))
