"""The only code that knows native layouts or uses the network: one file for each dataset, all with the same
verbs.

`fetch(root)` downloads a dataset, or checks the user's copy of one that has no open download. `read(root)`
returns an `indexing.Index`: rows of `xmodal.cohort.INDEX`, what is left out and why, and the traps that were
met; `index(root)` returns the rows alone. (`busi` has a table of its own instead of these rows.) `index_all`
reads all datasets of the main job that are there. `phantom` writes the same layouts, and `link` tells which
of its native patients are one person. README.md in this folder describes layouts, rules and tables.
"""
import importlib
import logging
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from data_scripts import bach, camelyon, cbis_ddsm, inbreast
from xmodal import config
from xmodal.config import Problem

log = logging.getLogger(__name__)
DATASETS = {"cbis_ddsm": cbis_ddsm, "inbreast": inbreast, "bach": bach, "camelyon": camelyon}
for name, row in config.DATASETS.items():
    if row.module:
        DATASETS[name] = importlib.import_module(row.module)
# Columns of the phantom's registry.csv.
REGISTRY = {"domain", "native_patient", "patient", "diagnosis", "diameter_mm"}


class Native(NamedTuple):
    """What the native files of all datasets gave."""
    rows: pd.DataFrame     # rows of `xmodal.cohort.INDEX`
    exclusions: list       # (source, reason) of every file, and every row of a table, that is left out
    traps: pd.DataFrame    # columns domain, trap, count: how often each trap of a layout was met


def index_all(native, profile):
    """`Native` of the datasets that have a folder of their name below the Path `native`.

    Where the `profile` has phantom data, patients are linked by `native`/registry.csv. Raises `Problem` if no
    dataset is there, or if one cannot be read.
    """
    folders = {name: native / name for name in DATASETS if (native / name).is_dir()}
    if not folders:
        raise Problem(f"There is no dataset in {native}; run 01_download first.")
    parts = []
    exclusions = []
    traps = []
    for name, folder in folders.items():
        index = DATASETS[name].read(folder)
        parts.append(index.rows)
        exclusions += index.exclusions
        traps += [(name, trap, count) for trap, count in index.traps.items()]
    rows = pd.concat(parts, ignore_index=True)
    if profile.phantom:
        rows = link(rows, native / "registry.csv")
    return Native(rows, exclusions, pd.DataFrame(traps, columns=["domain", "trap", "count"]))


def link(rows, registry_path):
    """`rows` of an index with the phantom's `patient`, and its `truth` and `diameter_mm` where the layout
    does not say them.

    `registry_path` is the phantom's registry.csv: one row for each native patient, with the columns
    `REGISTRY`. Patients that it does not list stay as they are, which is logged. Raises `Problem` if the
    registry is missing, lacks a column or lists a native patient twice.
    """
    registry = _read_registry(registry_path)
    known = rows.patient.isin(registry.index)
    unknown = ~known & ~rows.domain.map(lambda name: config.DATASETS[name].real)
    if unknown.any():
        log.warning("%d of %d rows have patients that %s does not list.",
                    unknown.sum(), len(rows), registry_path)
    people = registry.loc[rows.patient[known]]
    linked = rows.copy()
    linked.loc[known, "patient"] = "phantom/" + people.patient.to_numpy()
    truth = pd.Series(people.diagnosis.to_numpy(int), index=rows.index[known])
    unsaid = known & (rows.truth < 0)
    linked.loc[unsaid, "truth"] = truth[unsaid[known]]
    diameter = pd.Series(people.diameter_mm.to_numpy(float), index=rows.index[known])
    linked["diameter_mm"] = rows.diameter_mm.fillna(diameter)
    return linked


def _read_registry(path):
    """The registry at `path`, whose index is the patient as the rows of an index have it: "bach/iv001"."""
    try:
        registry = pd.read_csv(path, dtype={"domain": str, "native_patient": str, "patient": str})
    except FileNotFoundError:
        raise Problem(f"There is no {path}; write the phantom again with 01_download.") from None
    lacking = REGISTRY - set(registry)
    if lacking:
        raise Problem(f"{path} lacks the columns {sorted(lacking)}; "
                      "write the phantom again with 01_download.")
    registry.index = registry.domain + "/" + registry.native_patient
    if registry.index.has_duplicates:
        twice = registry.index[registry.index.duplicated()][0]
        raise Problem(f"{path} lists {twice} twice; write the phantom again with 01_download.")
    return registry


def parallel(function, items, workers, title):
    """[function(item) for item in items], in order, by `workers` processes, with a progress bar.

    `function` must be importable. Raises `Problem` where a process ends before its work is done.
    """
    items = list(items)
    if workers < 2:
        return [function(item) for item in tqdm(items, title, disable=None)]
    # Processes are spawned, since forking a process that runs torch can hang.
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        results = pool.map(function, items, chunksize=min(4, 1 + len(items) // 50))
        try:
            return list(tqdm(results, title, len(items), disable=None))
        except BrokenProcessPool:
            raise Problem(f"A process of {title} was ended, perhaps for want of memory; "
                          "use fewer workers and start again.") from None


def _end_with_parent():
    """Ends this process as soon as that which started it has ended, however it did.

    A worker of a run that was killed would else wait for work for ever.
    """
    def wait():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
