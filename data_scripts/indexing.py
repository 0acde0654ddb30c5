"""What the readers of all datasets share: the walk through folders, and what an index consists of."""
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

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
    are still being written (x.partial.csv). A folder that may not be read is logged.
    """
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
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            has_suffix = not suffixes or name.lower().endswith(suffixes)
            if has_suffix and not unfinished(name) and path.is_file():
                paths.append(path)
    return sorted(paths)


def unfinished(name):
    """Whether a file of this name is hidden or still being written: no file of a dataset."""
    return name.startswith(".") or ".partial" in name.lower()


def plain_number(text):
    """A number as it was before a spreadsheet rewrote it: "3" for "3.0" and "3,0"; other text as it is."""
    whole = re.fullmatch(r"(-?\d+)[.,]0+", text.strip())
    return whole[1] if whole else text
