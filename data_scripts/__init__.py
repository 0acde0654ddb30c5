"""The only code that knows native layouts or uses the network: a file a dataset with the same two verbs.

`fetch(root)` downloads it, or checks a copy where there is no open download; `index(root)` returns rows of
`xmodal.cohort.INDEX` (`busi` a table of its own). `phantom` writes the same layouts, and `link` tells which of its native
patients are one person.
"""
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from xmodal.config import Problem

log = logging.getLogger(__name__)


def files_below(root, *suffixes):
    """Sorted paths of the files below `root`, of those that end in one of `suffixes`, in any case, where some are given.

    Folders that are links are followed, since large sets lie on other disks; none is entered twice, and none that is hidden.
    One that may not be read is logged.
    """
    def refused(error):
        if isinstance(error, PermissionError):             # such as lost+found, where a disk begins
            log.warning("The folder %s may not be read; what is in it is left out.", error.filename)

    found, entered = [], set()
    for folder, below, names in os.walk(root, onerror=refused, followlinks=True):
        identity = (stat := os.stat(folder)).st_dev, stat.st_ino
        if identity in entered:
            below.clear()
            continue
        entered.add(identity)
        below[:] = sorted(name for name in below if not name.startswith("."))    # an archive half unpacked, other programs' notes
        found += [path for name in names if (not suffixes or name.lower().endswith(suffixes)) and (path := Path(folder, name)).is_file()]
    return sorted(found)


def link(rows, registry_path):
    """`rows` of an index with the phantom's `patient` and `truth`, and its `diameter_mm` where the layout has none.

    `registry_path` is the phantom's registry.csv: a row a native patient, with columns domain, native_patient, patient,
    diagnosis, diameter_mm. Patients it does not list stay as they are, which is logged. Raises `Problem` if the registry
    is missing, lacks a column or lists a native patient twice.
    """
    try:
        registry = pd.read_csv(registry_path, dtype={"domain": str, "native_patient": str, "patient": str})
    except FileNotFoundError:
        raise Problem(f"There is no {registry_path}; write the phantom again with 01_download.") from None
    lacking = {"domain", "native_patient", "patient", "diagnosis", "diameter_mm"} - set(registry)
    if lacking:
        raise Problem(f"{registry_path} lacks the columns {sorted(lacking)}; write the phantom again with 01_download.")
    registry.index = registry.domain + "/" + registry.native_patient
    if registry.index.has_duplicates:
        twice = registry.index[registry.index.duplicated()][0]
        raise Problem(f"{registry_path} lists {twice} twice; write the phantom again with 01_download.")
    known = rows.patient.isin(registry.index)
    if not known.all():
        log.warning("%d of %d rows have patients that %s does not list.", (~known).sum(), len(rows), registry_path)
    linked, found = rows.copy(), registry.loc[rows.patient[known]]
    linked.loc[known, "patient"] = "phantom/" + found.patient.to_numpy()
    linked.loc[known, "truth"] = found.diagnosis.to_numpy()
    diameter = pd.Series(found.diameter_mm.to_numpy(float), index=rows.index[known])
    linked["diameter_mm"] = rows.diameter_mm.fillna(diameter)
    return linked


def parallel(function, items, workers, title):
    """[function(item) for item in items], in order, by `workers` processes, with a progress bar. `function` must be importable."""
    items = list(items)
    if workers < 2:
        return [function(item) for item in tqdm(items, title, disable=None)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # forking a process that runs torch can hang
        return list(tqdm(pool.map(function, items, chunksize=min(4, 1 + len(items) // 50)), title, len(items), disable=None))
