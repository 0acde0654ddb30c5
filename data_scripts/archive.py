"""Zip archives from elsewhere, unpacked whole or not at all, and never outside their folder.

Sizes are held against `config.LIMITS` before anything is decoded.
"""
import errno
import io
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from xmodal.config import LIMITS, Problem


class Damaged(Problem):
    """What came is not what was promised: it is worth another try, from the start."""


def inside(root, path):
    """root/path. Raises `Problem` if that is not the name of a file below root: names come from servers."""
    posix = PurePosixPath(path)
    try:
        longest = max((len(part.encode()) for part in posix.parts), default=0)
    except UnicodeEncodeError:
        longest = 0
    is_outside = posix.is_absolute() or ".." in posix.parts or "\\" in path or "\0" in path
    if is_outside or path.endswith("/") or not 0 < longest < 240:
        raise Problem(f"The server names a file {path[:300]!r}, which would lie outside {root} or is no "
                      "name; nothing of it is fetched.")
    return Path(root) / path


def unpack(archive, folder, most, check=None):
    """Unpacks a zip archive so that `folder` is there whole, or not at all.

    A folder of that name at the top of the archive is not doubled. Raises `Problem` where a member would land
    outside, is a link or encrypted, or where more than `most` bytes or the free disk would be filled;
    `Damaged` if the archive is broken, or if `check`, which is called with the folder, says so.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with Archive(archive) as zipped:
            _refuse(archive, zipped.infolist(), min(most, shutil.disk_usage(folder.parent).free))
            zipped.extractall(partial)
        made = partial / folder.name if (partial / folder.name).is_dir() else partial
        if check:
            check(made)
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(made, folder)
    except Problem:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise Damaged(f"The archive {archive} is damaged ({error}); fetch it again.") from None
    except OSError as error:
        if error.errno == errno.EINVAL:                   # a damaged archive points before its own beginning
            raise Damaged(f"The archive {archive} is damaged ({error}); fetch it again.") from None
        raise Problem(f"The archive {archive} cannot be unpacked to {folder} ({error}); "
                      "make room or choose another folder.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Guarded(io.BufferedReader):
    """A file of which zipfile reads a large piece at once only for the list of its members."""

    def read(self, size=-1):
        most = LIMITS["archive list bytes"]
        left = os.fstat(self.fileno()).st_size - self.tell()
        if left > most and not 0 <= (-1 if size is None else size) <= most:
            raise Problem(f"The archive {self.raw.name} lists its files in more than {most:,} bytes, which "
                          "no dataset needs; fetch it from its source.")
        return super().read(size)


class Archive(zipfile.ZipFile):
    """The zip archive at a path, whose list of members is bounded, and whose members are stored or deflated:
    zipfile inflates those of other kinds unboundedly.

    Raises `Problem` where that is not so, and what zipfile and the system raise.
    """

    guarded = None

    def __init__(self, path):
        self.guarded = _Guarded(io.FileIO(str(path)))
        super().__init__(self.guarded)
        for member in self.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Problem(f"The archive {path} compresses {member.filename!r} in another way than the "
                              "archives of datasets; it is not unpacked, fetch it from its source.")

    def close(self):
        super().close()
        if self.guarded:
            self.guarded.close()


def _refuse(archive, members, most):
    """Raises `Problem` if unpacking these members could do harm.

    zipfile never writes more than a member declares.
    """
    for member in members:
        name = member.filename
        is_absolute = name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name)
        if is_absolute or ".." in PurePosixPath(name).parts:
            raise Problem(f"The archive {archive} would write {name!r}, outside its folder; "
                          "it is not unpacked, fetch it from its source.")
        if stat.S_ISLNK(member.external_attr >> 16) or member.flag_bits & 1:
            raise Problem(f"The archive {archive} holds {name!r}, which is a link or encrypted; "
                          "it is not unpacked, fetch it from its source.")
    total = sum(member.file_size for member in members)
    if total > most:
        raise Problem(f"The archive {archive} would fill {total / 1e9:.1f} GB, "
                      f"and {most / 1e9:.1f} are expected and free; it is not unpacked.")
