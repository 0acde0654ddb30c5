"""Files that stay whole: each is written atomically, a folder is held by one process at a time, and a full
disk is reported in one sentence. Small tables of strangers are read here as text."""
import codecs
import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import logging
import os
import platform
import re
import stat
import time
import unicodedata
from pathlib import Path

from safetensors import SafetensorError

from ..config import LIMITS, Problem

log = logging.getLogger(__name__)

# two hosts that share a folder may have processes of the same number
HOST = re.sub(r"[^A-Za-z0-9-]", "-", platform.node().split(".")[0]) or "host"
DAY = 86400  # seconds
# errors that the user can mend: no space, a file too large, or no permission
MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
            errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


@contextlib.contextmanager
def writing(path):
    """Turns the system's error where `path` cannot be written, for lack of space or permission, into a
    `Problem`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _error_number(error)
        if number not in MENDABLE:
            raise
        raise Problem(f"{path} cannot be written ({os.strerror(number)}); free space there, or write to a "
                      "folder of yours (XMODAL_HOME names it), and start again.") from None


def _error_number(error):
    """The errno of an error, or None. safetensors gives it only in its text; numpy's text for a full disk has
    none."""
    if getattr(error, "errno", None):
        return error.errno
    if number := re.search(r"os error (\d+)", str(error)):
        return int(number[1])
    return errno.ENOSPC if re.search(r"requested and \d+ written", str(error)) else None


@contextlib.contextmanager
def atomic(path):
    """Yields a temporary path in the same folder. The file there takes the name `path` if the block ends
    well; otherwise it is removed. Raises `Problem` where the disk is full or the folder may not be
    written."""
    path = Path(path)
    # the suffix stays, since writers look at it
    partial = path.with_name(f".{path.stem}.{HOST}.{os.getpid()}.partial{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            yield partial
            _open_to_group(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _open_to_group(path):
    """Gives a file what the user's umask allows: safetensors writes files that nobody else may read."""
    umask = os.umask(0o077)
    os.umask(umask)
    mode = stat.S_IMODE(path.stat().st_mode)
    if path.is_file() and mode != mode | 0o666 & ~umask:
        with contextlib.suppress(PermissionError):   # a file system without modes
            path.chmod(mode | 0o666 & ~umask)


def _lives(pid):
    """True if this host has a process of that number, of whatever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove_abandoned(path):
    """Removes the partial files of `path` that killed processes left: a reader of the folder might take them
    for files.

    A process of another host cannot be asked whether it lives; its partial file goes after a day in which
    nobody wrote to it.
    """
    for partial in path.parent.glob(f".{glob.escape(path.stem)}.*.*.partial{path.suffix}"):
        stem, host, pid = partial.name.removesuffix(f".partial{path.suffix}").rsplit(".", 2)
        # the name of another file, a file that is gone meanwhile, a file of another user
        with contextlib.suppress(ValueError, FileNotFoundError, PermissionError):
            if host == HOST:
                abandoned = not _lives(int(pid))
            else:
                abandoned = time.time() - partial.stat().st_mtime > DAY
            if abandoned and stem == f".{path.stem}":
                partial.unlink()


_held = {}  # folder -> the descriptor by which this process holds it
os.register_at_fork(after_in_child=_held.clear)  # a fork is another process


def hold(folder):
    """Keeps other processes out of `folder` until `release` or the end of this process. Raises `Problem`
    where another holds it.

    This works only on file systems with locks; on others, two processes that write the same files still leave
    whole files.
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
        raise Problem(f"Another process is writing in {folder}; wait until it is done, or end it, and start "
                      "again.") from None
    except OSError as error:
        log.warning("%s cannot be locked (%s); do not start the same run twice.", folder, error)
    _held[folder] = descriptor


def release(folder):
    """Lets others write in `folder` again."""
    if (descriptor := _held.pop(Path(folder), None)) is not None:
        with contextlib.suppress(OSError):  # no locks there
            # closing alone is not enough: forks of this process would still hold the folder
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextlib.contextmanager
def held(folder):
    """Keeps other processes out of `folder` for the block. Raises `Problem` where another holds it."""
    hold(folder)
    try:
        yield
    finally:
        release(folder)


def spelled(text):
    """A path or text, where bytes of a file's name that are not UTF-8 are spelled \\xe9: no table or page can
    hold them."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def in_utf8(text):
    """Whether a table can hold the name of a file."""
    return spelled(text) == text


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


# ---- files of strangers, whose size is looked at before they are read ------------------------

def bounded_bytes(path, limit):
    """The bytes of the file at a Path (or `zipfile.Path`). Raises `Problem` if they are more than `limit`, a
    name in `config.LIMITS`."""
    most = LIMITS[limit]
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Problem(f"{path} has more than {most:,} bytes, which no such file has; "
                      "fetch the original again.")
    return content


def table_lines(path):
    """[[field, ...], ...] of a small table as text, without blank lines and spaces around fields.

    Fields are separated by commas, semicolons or tabs, whichever the first line has most of. They may be
    quoted, and line feeds in quoted fields are kept, since CBIS-DDSM has them. Any line ends and any Unicode
    form will do: letters are composed (NFC), so that a name typed on one system equals that of another.
    Raises `Problem` if the table is missing or no text.
    """
    try:
        content = bounded_bytes(Path(path), "table bytes")
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = composed(content.decode("utf-16" if is_wide else "utf-8-sig"))
        text = re.sub("\r\n?", "\n", text)
        header = re.sub('"[^"]*"', "", text.partition("\n")[0])
        separator = max(",;\t", key=header.count)
        lines = []
        for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            lines.append([field.strip(" \t\r") for field in line])
    except Problem:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise Problem(f"The table {path} cannot be read ({error}); "
                      "copy or fetch the original again.") from None
    return [line for line in lines if any(line)]


def composed(text):
    """`text` with its letters and accents composed (NFC): macOS stores names decomposed, keyboards do not."""
    return unicodedata.normalize("NFC", text)
