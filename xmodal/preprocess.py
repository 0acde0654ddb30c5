"""From index rows to the cohort: images/<domain>.npy, masks/<domain>.npy, cohort.parquet, exclusions.csv.

A mammogram gives one image and its lesion mask. A slide or field of view gives several tiles, each with a
row of its own, named "<sample>#0", "#1", ...; `tiles` says how they are drawn and labelled.
"""
import hashlib
import json
import logging
import shutil
import zipfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from . import __version__, cohort, tiles
from .config import DATASETS, DOMAINS, MAMMOGRAPHY, PRETRAINING, Problem
from .imaging import mammograms
from .runtime.files import atomic, held, sha256, spelled, write_json
from .runtime.identity import code_of, code_of_own
from .runtime.workers import Died, processes

log = logging.getLogger(__name__)
FORMULA = r"^(?=[=+\-@\t\r])"   # the beginning of a cell that spreadsheets would calculate
UNFINISHED = "unfinished"     # folder below the output with the results of the files that were read so far


# Notes on files that are used although something in them could not be done.
NO_SPACING = "The file gives no pixel spacing; sizes in it are in pixels."


# ---- the cohort ------------------------------------------------------------------------------------------

def made_by():
    """The code that makes a cohort, as {module: hash}: this room, what reads native files, and the files of
    datasets of one's own."""
    code = code_of("xmodal.preprocess.build", "data_scripts.index_all")
    for row in DATASETS.values():
        code |= code_of_own(f"{row.module}.read" if row.module else "")
    return code


def is_made(folder, profile):
    """Whether `folder` has a cohort as `profile` asks, made by today's code. A warning says in what another
    one differs."""
    if not (folder / "cohort.parquet").exists():
        return False
    differences = cohort.made_otherwise(folder, profile)
    path = folder / "made.json"
    code = json.loads(path.read_text()).get("code", {}) if path.exists() else {}
    if changed := sorted(module for module, now in made_by().items() if code.get(module) != now):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        differences = ", ".join(filter(None, [differences, f"other code of {', '.join(changed[:3])}{more}"]))
    if differences:
        log.warning("The cohort in %s was made with %s; it is made anew.", folder, differences)
    return not differences


def build(rows, profile, out, workers=2, exclusions=()):
    """Reads every native file of `rows` (cohort.INDEX) at the size of `profile` and writes the cohort to
    `out`.

    images/<domain>.npy   uint8 (N, S, S) mammograms, or (N, S, S, 3) Macenko-normalised tiles
    masks/<domain>.npy    uint8 (N, S, S), 1 in a lesion; mammography only
    made.json             the settings of the profile, and the code, that made them
    cohort.parquet        cohort.COHORT, written last
    exclusions.csv        source, reason: first the `exclusions` of the index, then files that gave no row
    notes.csv             source, note: files that were used although something in them could not be done
    Returns the cohort table. The same rows give the same bytes for any number of workers.

    Raises `Problem` if nothing is left, for rows of a dataset that is no domain of the cohort, such as
    TCGA, or where another process is writing there. The result of each file lies in unfinished/ until the
    cohort is written, so that a run that was killed continues where it was.
    """
    if other := sorted(set(rows.get("domain", ())) - {*DOMAINS, *PRETRAINING}):
        raise Problem(f"{other[0]} is no domain of the cohort, which has {', '.join(DOMAINS)}; "
                      "leave its rows to the companions that use them.")
    excluded = [tuple(pair) for pair in exclusions]
    rows = cohort.validate(rows, cohort.INDEX, "index")
    with held(out):
        return _build(rows, excluded, profile, Path(out), workers)


def _build(rows, excluded, profile, out, workers):
    """Does what `build` says; `excluded` are the (source, reason) of the files that the index left out."""
    entries = []
    with processes(partial(read_once, profile=profile, folder=out / UNFINISHED), workers) as run:
        for domain, part in rows.groupby("domain", sort=True):
            taken, left_out = _domain(domain, part.to_dict("records"), profile, out, run)
            entries += taken
            excluded += left_out
    notes = sorted({(entry["source"], entry["note"]) for entry in entries if entry["note"]})
    _write_list(out / "exclusions.csv", excluded, "reason")
    _write_list(out / "notes.csv", notes, "note")
    if not entries:
        raise Problem(f"None of {len(rows)} files could be used; {out / 'exclusions.csv'} says why for each.")
    table = cohort.validate(pd.DataFrame(entries), cohort.COHORT)
    settings = {name: getattr(profile, name) for name in cohort.MADE_WITH}
    write_json(out / "made.json", settings | {"code": made_by()})
    with atomic(out / "cohort.parquet") as path:
        table.to_parquet(path, index=False)
    _tidy(out)
    log.info("%d images of %d patients; %d files left out.",
             len(table), table.patient.nunique(), len(excluded))
    for note, count in Counter(note for _, note in notes).items():
        log.warning("%d files: %s", count, note)
    return table


def _write_list(path, pairs, column):
    """Writes (source, text) pairs. What a spreadsheet would take for a formula gets an apostrophe first."""
    rows = [(spelled(source), spelled(text)) for source, text in pairs]
    table = pd.DataFrame(rows, columns=["source", column], dtype=str)
    with atomic(path) as partial_path:
        table.replace(FORMULA, "'", regex=True).to_csv(partial_path, index=False)


def _tidy(out):
    """Removes what only an unfinished run needs, and what killed runs left."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    for folder in (out, out / "images", out / "masks"):
        for left_over in folder.glob(".*.partial*"):
            left_over.unlink(missing_ok=True)


def _domain(domain, rows, profile, out, run):
    """Writes the arrays of one domain; returns its cohort rows as dicts and its exclusions."""
    mammography = rows[0]["modality"] == MAMMOGRAPHY
    square = (profile.image_size, profile.image_size)
    shapes = {"images": square, "masks": square} if mammography else {"images": (*square, 3)}
    taken = []
    excluded = []
    with ExitStack() as stack:
        stacks = {}
        for kind, shape in shapes.items():
            path = stack.enter_context(atomic(out / kind / f"{domain}.npy"))
            stacks[kind] = Stack(path, shape)
        results = _results(rows, profile, out / UNFINISHED, run)
        for row, path in zip(rows, tqdm(results, domain, len(rows), disable=None)):
            images, reason = _load(path)
            if reason:
                log.warning("%s Left out.", reason)
                excluded.append((row["source"], reason))
            for entry, image, mask in images:
                taken.append({**entry, "index": stacks["images"].append(image)})
                if mammography:
                    stacks["masks"].append(mask)
        for array in stacks.values():
            array.close()
    return taken, excluded


def _results(rows, profile, folder, run):
    """Yields the file of `read_once` for each row, as `run` maps them. A native file that ends the process
    that reads it is left out, also by a run that goes on after this one."""
    for row, path in zip(rows, run(rows)):
        if isinstance(path, Died):
            reason = (f"{row['source']} ended the process that read it ({path.how}); "
                      "get a whole copy of it.")
            path = result_path(row, profile, folder)
            _store(path, [], reason)
        yield path


# ---- one native file -------------------------------------------------------------------------------------

def read(row, profile):
    """(images, reason): what one native file gives, or an empty list and the reason why it gives nothing.

    images: a list of (cohort row without index, image, mask or None); the reason is "" where there are
    images.
    """
    read_images = _mammogram if row["modality"] == MAMMOGRAPHY else tiles.of_slide
    try:
        images = read_images(row, profile)
        checksum = sha256(row["source"])
    except (Problem, OSError) as error:
        return [], str(error)
    except MemoryError:
        return [], (f"{row['source']} needs more memory than this computer has; "
                    "leave it out, or read it on a larger one.")
    made = []
    for entry, image, mask in images:
        pixels = image.tobytes() + (b"" if mask is None else mask.tobytes())
        entry = {**entry, "checksum": f"{checksum} {hashlib.sha256(pixels).hexdigest()}"}
        made.append((entry, image, mask))
    return made, ""


def _mammogram(row, profile):
    image, spacing = mammograms.read(row["source"])
    mask = mammograms.lesion_mask(row["annotation"], image.shape)
    image, mask, mm_per_px = mammograms.mammogram(image, mask, spacing, profile.image_size,
                                                  row["source"])
    entry = {
        **row,
        **cohort.NO_TILE,
        "file_allowed": row["allowed"],
        "has_mask": bool(mask.any()),
        "boxes": json.dumps(mammograms.boxes(mask)),
        "mm_per_px": mm_per_px,
        "note": "" if spacing else NO_SPACING,
    }
    return [(entry, image, mask)]


# ---- results that outlive a killed run -------------------------------------------------------------------

def result_path(row, profile, folder):
    """The file below `folder` for the result of one native file.

    Its name follows from all that the result depends on: row, profile, size and date of the native file,
    and the version of this package.
    """
    try:
        stat = Path(row["source"]).stat()
        native = (stat.st_size, stat.st_mtime_ns)
    except OSError:
        native = None
    key = json.dumps([row, asdict(profile), native, __version__], sort_keys=True)
    return Path(folder) / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"


def read_once(row, profile, folder):
    """The file at `result_path` that holds what `read` gives; it is written only if it is missing or
    damaged."""
    path = result_path(row, profile, folder)
    if not _whole(path):
        _store(path, *read(row, profile))
    return path


def _store(path, images, reason):
    entries = json.dumps([entry for entry, _, _ in images])
    arrays = {}
    for k, (_, image, mask) in enumerate(images):
        arrays[f"image{k}"] = image
        if mask is not None:
            arrays[f"mask{k}"] = mask
    with atomic(path) as partial_path:
        np.savez(partial_path, allow_pickle=False, entries=entries, reason=reason, **arrays)


def _whole(path):
    """True if `path` is a file of `read_once` that is not damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _load(path):
    """What `read` gave, from the file of `read_once`."""
    images = []
    with np.load(path, allow_pickle=False) as stored:
        for k, entry in enumerate(json.loads(str(stored["entries"]))):
            mask = stored[f"mask{k}"] if f"mask{k}" in stored else None
            images.append((entry, stored[f"image{k}"], mask))
        return images, str(stored["reason"])


class Stack:
    """A .npy file of uint8 images that grows image by image, so that a cohort need not fit into memory."""

    def __init__(self, path, shape):
        self.shape = tuple(shape)
        self.count = 0
        self.file = open(path, "wb")
        self._header()

    def _header(self):
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header)   # numpy pads it, so that the count can grow

    def append(self, image):
        """Adds an image (S, S[, 3]); returns its position."""
        image = np.ascontiguousarray(image, np.uint8)
        if image.shape != self.shape:
            raise ValueError(f"an image of shape {image.shape} among images of {self.shape}")
        self.file.write(image.tobytes())
        self.count += 1
        return self.count - 1

    def close(self):
        """Writes the final number of images into the header."""
        self._header()
        self.file.close()
