"""From index rows to the cohort: images/<domain>.npy, masks/<domain>.npy, cohort.parquet, exclusions.csv.

A mammogram gives one image and its lesion mask. A slide or field of view gives several tiles, each a row of its own,
named "<sample>#0", "#1", ...; of a tumour slide only tiles that are at least half tumour, since the others carry no label.
"""
import hashlib
import json
import logging
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from . import cohort, dicom, images, slides
from .config import MAMMOGRAPHY, Problem
from .record import atomic, sha256

log = logging.getLogger(__name__)


def build(rows, profile, out, workers=2):
    """Reads every native file of `rows` (cohort.INDEX) at the size of `profile` and writes the cohort to the folder `out`.

    images/<domain>.npy   uint8 (N, S, S) mammograms, or (N, S, S, 3) Macenko-normalised tiles
    masks/<domain>.npy    uint8 (N, S, S), 1 in a lesion; mammography only
    cohort.parquet        cohort.COHORT, written last
    exclusions.csv        source, reason: files that gave no row, also those that the index left out (`rows.attrs["exclusions"]`)
    Returns the cohort table. The same rows give the same bytes for any number of workers. Raises `Problem` if nothing is left.
    """
    out, excluded = Path(out), [tuple(e) for e in rows.attrs.get("exclusions", ())]
    rows = cohort.validate(rows, cohort.INDEX, "index")
    tables = []
    with _workers(workers) as run:
        for domain, part in rows.groupby("domain", sort=True):
            taken, left_out = _domain(domain, part.to_dict("records"), profile, out, run)
            tables += taken
            excluded += left_out
    with atomic(out / "exclusions.csv") as path:
        pd.DataFrame(excluded, columns=["source", "reason"]).to_csv(path, index=False)
    if not tables:
        raise Problem(f"None of {len(rows)} files could be used; {out / 'exclusions.csv'} says why for each.")
    table = cohort.validate(pd.DataFrame(tables), cohort.COHORT)
    with atomic(out / "cohort.parquet") as path:
        table.to_parquet(path, index=False)
    log.info("%d images of %d patients; %d files left out.", len(table), table.patient.nunique(), len(excluded))
    if (unscaled := int(table.mm_per_px.isna().sum())):
        log.warning("%d images give no pixel spacing, as CBIS-DDSM gives none; sizes in them are in pixels.", unscaled)
    return table


def _domain(domain, rows, profile, out, run):
    """Writes the arrays of one domain; returns its cohort rows as dicts and its exclusions."""
    mammography, size = rows[0]["modality"] == MAMMOGRAPHY, profile.image_size
    taken, excluded = [], []
    arrays = {"images": (size, size), "masks": (size, size)} if mammography else {"images": (size, size, 3)}
    with ExitStack() as stack:
        stacks = {kind: Stack(stack.enter_context(atomic(out / kind / f"{domain}.npy")), shape) for kind, shape in arrays.items()}
        for row, (found, reason) in zip(rows, tqdm(run(partial(read, profile=profile), rows), domain, len(rows), disable=None)):
            if reason:
                log.warning("%s Left out.", reason)
                excluded.append((row["source"], reason))
            for entry, image, mask in found:
                taken.append({**entry, "index": stacks["images"].append(image)})
                if mammography:
                    stacks["masks"].append(mask)
        for array in stacks.values():
            array.close()
    return taken, excluded


@contextmanager
def _workers(n):
    """Yields a `map` that works in order, in `n` processes where n > 1."""
    if n < 2:
        yield map
        return
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:  # forking a process that runs torch can hang
        yield partial(pool.map, chunksize=4)


def read(row, profile):
    """([(cohort row without index, image, mask or None), ...], "") of one native file, or ([], the reason it gives none)."""
    try:
        found = (_mammogram if row["modality"] == MAMMOGRAPHY else _tiles)(row, profile)
        checksum = sha256(row["source"])
    except (Problem, OSError) as error:
        return [], str(error)
    return [({**entry, "checksum": checksum}, image, mask) for entry, image, mask in found], ""


def _mammogram(row, profile):
    image = dicom.read_dicom(row["source"])
    mask = images.lesion_mask(row["annotation"], image.shape)
    spacing = dicom.dicom_header(row["source"]).spacing
    image, mask, mm_per_px = images.mammogram(image, mask, spacing, profile.image_size)
    return [({**row, "has_mask": bool(mask.any()), "boxes": json.dumps(images.boxes(mask)), "mm_per_px": mm_per_px}, image, mask)]


def _tiles(row, profile):
    slide, mpp = slides.open_slide(row["source"], slides.MPP.get(row["domain"]))
    with slide:
        seed = np.frombuffer(hashlib.sha256(row["sample"].encode()).digest(), "<u4")
        found = slides.tiles(slide, mpp, profile.tile_um, profile.image_size, annotation=row["annotation"],
                             tumour=0.5 if row["annotation"] else 0.0, n=profile.tiles_per_slide, rng=np.random.default_rng(seed))
    if not len(found.pixels):
        raise Problem(f"{row['source']} has no tile of {profile.tile_um:g} um that is in focus and half tissue{' and half tumour' * bool(row['annotation'])}.")
    pixels, normalised = slides.macenko(found.pixels)
    if not normalised:
        log.warning("The stain of %s could not be normalised; its tiles stay as they are.", row["source"])
    return [({**row, "sample": f"{row['sample']}#{k}", "has_mask": False, "boxes": "[]",
              "mm_per_px": profile.tile_um / profile.image_size / 1000}, image, None) for k, image in enumerate(pixels)]


class Stack:
    """A .npy file of uint8 images that grows one by one, so that a cohort need not fit into memory."""

    def __init__(self, path, shape):
        self.shape, self.count, self.file = tuple(shape), 0, open(path, "wb")
        self._header()

    def _header(self):
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header)   # padded by numpy so that the first dimension can grow

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
