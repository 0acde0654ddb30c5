"""The pretraining phantom: other patients, at a site which shares no style with any of the four domains.

It has no native files: only the arrays and the cohort table that 02_preprocess would have made of them.
"""
import json
import sys
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from xmodal.cohort import NO_TILE, label_set, validate
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, PRETRAINING, profile as profile_named
from xmodal.imaging import mammograms, stain
from xmodal.runtime.files import atomic

from .. import parallel
from . import histology, mammogram, patients

FINE = 3             # a tile is drawn at three times the model's resolution and averaged down
SHAPE = (300, 240)   # of mammograms: half the phantom's resolution, which is still finer than the model's

# What an encoder learns to tell of an image before it hears of any diagnosis.
OF_MAMMOGRAMS = (*patients.FACTORS, "breast_size", "spread", "calcification", "log_diameter", *patients.TYPES)
OF_TILES = (*patients.FACTORS, "nuclei", "nuclear_size", "nuclear_variation", "nuclear_darkness", "fat")


def write(folder, profile, seed=7, workers=2):
    """Writes folder/{images,masks}/*.npy, folder/attributes.parquet (sample, `OF_MAMMOGRAMS`, `OF_TILES`)
    and, last, folder/cohort.parquet; returns the table.

    `profile.pretrain_patients` patients with two views and a field of 2 x 2 tiles each. `seed` must differ
    from the cohort's seed, or its patients come back.
    """
    folder = Path(folder)
    people = patients.cohort(seed, profile.pretrain_patients // 4, singles=0, of_nodes=patients.MIX)
    seen = [patients.shown(people, modality, seed).to_dict("records") for modality in MODALITIES]
    draw = partial(_draw, seed=seed, profile=profile)
    drawn = parallel(draw, list(zip(*seen)), workers, "pretraining phantom")
    samples = list(chain.from_iterable(drawn))
    rows = []
    for domain, modality in PRETRAINING.items():
        mine = [sample for sample in samples if sample.row["modality"] == modality]
        _save(folder / "images" / f"{domain}.npy", [sample.image for sample in mine])
        if modality == MAMMOGRAPHY:
            _save(folder / "masks" / f"{domain}.npy", [sample.mask for sample in mine])
        for i, sample in enumerate(mine):
            rows.append({**sample.row, "domain": domain, "index": i})
    attributes = pd.DataFrame([{"sample": sample.row["sample"], **sample.attributes} for sample in samples])
    table = validate(pd.DataFrame(rows), where="pretraining cohort")
    for name, content in (("attributes", attributes), ("cohort", table)):
        with atomic(folder / f"{name}.parquet") as path:
            content.to_parquet(path, index=False)
    return table


class Sample(NamedTuple):
    """An image of the pretraining phantom."""
    row: dict            # of the cohort
    image: np.ndarray
    mask: np.ndarray     # None for tiles
    attributes: dict     # `OF_MAMMOGRAMS` or `OF_TILES`


def _save(path, arrays):
    """Writes arrays of one shape as one uint8 array, unless there are none."""
    if arrays:
        with atomic(path) as partial_path:
            np.save(partial_path, np.stack(arrays).astype(np.uint8))


def _draw(seen, seed, profile):
    """The `Sample`s of one patient, who is given as each modality shows them."""
    person, in_tissue = seen
    name = f"pretraining/{person['patient']}"
    diagnosis = person["diagnosis"]
    common = {**NO_TILE, "patient": name, "study": "", "allowed": label_set(diagnosis),
              "file_allowed": label_set(diagnosis), "truth": diagnosis, "grade": diagnosis,
              "annotation": "", "source": "", "checksum": ""}
    samples = []
    for view in ("CC", "MLO"):
        row, image, mask = _mammogram(person, view, seed, profile.image_size)
        row = {**common, "sample": f"{name}/{view}", **row}
        samples.append(Sample(row, image, mask, _of_mammogram(person)))
    blank = {"modality": HISTOPATHOLOGY, "view": "", "laterality": "", "density": "", "lesion_type": "",
             "lesion_shape": "", "diameter_mm": np.nan, "has_mask": False, "boxes": "[]",
             "mm_per_px": profile.tile_um / profile.image_size / 1000}
    for k, (tile, attributes) in enumerate(_tiles(in_tissue, seed, profile)):
        row = {**common, "sample": f"{name}#{k}", **blank}
        samples.append(Sample(row, tile, None, attributes))
    return samples


def _of_mammogram(person):
    """The attributes of a patient's mammograms; those of a lesion are NaN where there is none."""
    attributes = {name: person[name] for name in (*patients.FACTORS, "breast_size")}
    for name in ("spread", "calcification"):
        attributes[name] = person[name] if person["lesion_type"] else np.nan
    attributes["log_diameter"] = np.log(person["diameter_mm"])
    return attributes | {kind: float(person["lesion_type"] == kind) for kind in patients.TYPES}


def _mammogram(person, view, seed, size):
    """What a cohort row says of one view, its image and its lesion mask, both (size, size)."""
    rng = patients.generator(seed, "pretrain", person["patient"], view)
    pixels, mask = mammogram.draw(person, view, mammogram.STYLES["pretrain"], rng, SHAPE)
    mm_per_px = mammogram.FIELD_MM / len(pixels)
    image, mask, mm_per_px = mammograms.mammogram(pixels.astype(np.float32), mask, mm_per_px, size)
    shared = ("laterality", "density", "lesion_type", "lesion_shape", "diameter_mm")
    of_lesion = {column: person[column] for column in shared}
    row = {"modality": MAMMOGRAPHY, "view": view, **of_lesion, "has_mask": bool(mask.any()),
           "boxes": json.dumps(mammograms.boxes(mask)), "mm_per_px": mm_per_px}
    return row, image, mask


def _tiles(person, seed, profile):
    """[(tile, attributes)] of one field of view: four tiles (size, size, 3), stain-normalised together."""
    size = profile.image_size
    side = FINE * size
    mpp = profile.tile_um / side
    style = histology.STYLES["pretrain"]
    rng = patients.generator(seed, "pretrain", person["patient"], "field")
    canvas, tissue, _ = histology.paint(person, style, rng, (2 * side, 2 * side), mpp)
    field = histology.photograph(canvas, tissue, style, (2 * side, 2 * side))
    tiles = []
    attributes = []
    for y in (0, side):
        for x in (0, side):
            tile = Image.fromarray(field[y:y + side, x:x + side])
            tiles.append(np.asarray(tile.resize((size, size), Image.Resampling.BOX)))
            attributes.append(_of_tile(person, canvas, x * mpp, y * mpp, profile.tile_um))
    return list(zip(stain.macenko(np.stack(tiles))[0], attributes))


def _of_tile(person, canvas, left, top, side):
    """The attributes of the tile of `side` um whose corner lies at (left, top), in um, of a painted canvas.
    """
    cells = np.concatenate(canvas.nuclei)
    x, y, long, short, _, dark, _ = cells[:, :7].T
    inside = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
    size = np.sqrt(long * short)[inside]
    rows, columns = (slice(int(at / canvas.px), int((at + side) / canvas.px)) for at in (top, left))
    attributes = {name: person[name] for name in patients.FACTORS}
    attributes["nuclei"] = np.log1p(inside.sum())
    attributes["nuclear_size"] = size.mean() if len(size) else np.nan
    attributes["nuclear_variation"] = size.std() if len(size) else np.nan
    attributes["nuclear_darkness"] = dark[inside].mean() if len(size) else np.nan
    attributes["fat"] = (canvas.e[rows, columns] < 0.03).mean()
    return attributes


if __name__ == "__main__":      # FOLDER PATIENTS SEED, at the lesson's sizes
    into, number, of_draws = sys.argv[1:]
    write(into, replace(profile_named("lesson"), pretrain_patients=int(number)), seed=int(of_draws))
