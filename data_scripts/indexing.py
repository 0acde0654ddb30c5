"""What the readers of all datasets share: the walk through folders, and what an index consists of."""
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from xmodal.config import Problem
from xmodal.runtime.files import in_utf8, spelled

log = logging.getLogger(__name__)


class Index(NamedTuple):
    """What the files of one dataset gave."""
    rows: pd.DataFrame     # rows of `xmodal.cohort.INDEX`
    exclusions: list       # (source, reason) of every file, and every row of a table, that is left out
    traps: dict            # {name of a trap of the layout: how often it was met}


def rows_of(index):
    """The rows of an `Index`; their `.attrs` hold its other fields, for callers elsewhere who look there."""
    index.rows.attrs.update((name, value) for name, value in index._asdict().items() if name != "rows")
    return index.rows


def met(traps):
    """{name: number} of the traps of a Counter that were met, in the order of their names."""
    return {name: int(number) for name, number in sorted(traps.items()) if number}


def files_below(root, *suffixes):
    """Sorted paths of the files below `root`; where `suffixes` are given, only files that end in one of them,
    in any case.

    Folders that are links are followed, since large datasets lie on other disks. No folder is entered twice.
    Hidden files and folders are left out, such as the companions ._x that macOS leaves, and so are files that
    are still being written (x.partial.csv). Names that no table can hold, since they are not in UTF-8, are
    left out and logged, and so are folders that may not be read. Raises `Problem` if `root` has such a name.
    """
    if not in_utf8(str(root)):
        raise Problem(f"The path {spelled(root)} is not in UTF-8, so no table can hold it; "
                      "rename the folder.")

    def refused(error):
        if isinstance(error, PermissionError):             # such as lost+found at the root of a disk
            log.warning("The folder %s may not be read; what is in it is left out.", error.filename)

    paths = []
    entered = set()
    for folder, subfolders, names in os.walk(root, onerror=refused, followlinks=True):
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in entered:
            subfolders.clear()
            continue
        entered.add(identity)
        # Hidden folders hold archives that are half unpacked, and notes of other programs.
        visible = sorted(name for name in subfolders if not name.startswith("."))
        subfolders[:] = _nameable(folder, visible)
        wanted = [name for name in names if not suffixes or name.lower().endswith(suffixes)]
        whole = [name for name in wanted if not unfinished(name)]
        paths += [Path(folder, name) for name in _nameable(folder, whole)]
    return sorted(path for path in paths if path.is_file())


def _nameable(folder, names):
    """Those of the `names` in a folder that tables can hold; the others are logged."""
    for name in names:
        if not in_utf8(name):
            log.warning("The name of %s is not in UTF-8, so no table can hold it; rename it. Left out.",
                        spelled(Path(folder, name)))
    return [name for name in names if in_utf8(name)]


def unfinished(name):
    """Whether a file of this name is hidden or still being written: no file of a dataset."""
    return name.startswith(".") or ".partial" in Path(name.lower()).suffixes


def plain_number(text):
    """A number as it was before a spreadsheet rewrote it: "3" for "3.0", "3.00" and "3,0"; other text as it
    is. Three zeros may be thousands, so "3,000" stays."""
    whole = re.fullmatch(r"(-?\d+)[.,]0{1,2}", text.strip())
    return whole[1] if whole else text
