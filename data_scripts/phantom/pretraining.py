"""The pretraining phantom: other patients, at a site which shares no style with any of the four domains.

It has no native files: only the arrays and the cohort table that 02_preprocess would have made of them.
"""
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from xmodal.cohort import label_set, validate
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, PRETRAINING
from xmodal.imaging import mammograms, stain
from xmodal.runtime.files import atomic

from .. import parallel
from . import histology, mammogram, patients

FINE = 3             # a tile is drawn at three times the model's resolution and averaged down
SHAPE = (300, 240)   # of mammograms: half the phantom's resolution, which is still finer than the model's
WITH_TISSUE = 3, 8   # share of the patients who have histology too; mammograms are harder to learn from


def write(folder, profile, seed=7, workers=2):
    """Writes folder/{images,masks}/*.npy and, last, folder/cohort.parquet; returns the table.

    `profile.pretrain_patients` patients with two views each, and a field of 2 x 2 tiles for three of eight
    patients. `seed` must differ from the cohort's seed, or its patients come back.
    """
    folder = Path(folder)
    people = patients.cohort(seed, pairs=profile.pretrain_patients // 4, singles=0)
    people["tissue"] = people.index % WITH_TISSUE[1] < WITH_TISSUE[0]
    seen = [patients.shown(people, modality, seed).to_dict("records") for modality in MODALITIES]
    draw = partial(_draw, seed=seed, profile=profile)
    drawn = parallel(draw, list(zip(*seen)), workers, "pretraining phantom")
    samples = sum(drawn, [])
    rows = []
    for modality in (MAMMOGRAPHY, HISTOPATHOLOGY):
        domain, = [name for name, kind in PRETRAINING.items() if kind == modality]
        mine = [sample for sample in samples if sample[0]["modality"] == modality]
        _save(folder / "images" / f"{domain}.npy", [image for _, image, _ in mine])
        if modality == MAMMOGRAPHY:
            _save(folder / "masks" / f"{domain}.npy", [mask for _, _, mask in mine])
        for i, (row, _, _) in enumerate(mine):
            rows.append({**row, "domain": domain, "index": i})
    table = validate(pd.DataFrame(rows), where="pretraining cohort")
    with atomic(folder / "cohort.parquet") as path:
        table.to_parquet(path, index=False)
    return table


def _save(path, arrays):
    """Writes arrays of one shape as one uint8 array, unless there are none."""
    if arrays:
        with atomic(path) as partial_path:
            np.save(partial_path, np.stack(arrays).astype(np.uint8))


def _draw(seen, seed, profile):
    """[(cohort row, image, mask or None), ...] of one patient, given as each modality shows it."""
    person, in_tissue = seen
    name = f"pretraining/{person['patient']}"
    diagnosis = person["diagnosis"]
    common = {"patient": name, "study": "", "allowed": label_set(diagnosis), "truth": diagnosis,
              "grade": diagnosis, "annotation": "", "source": "", "checksum": ""}
    samples = []
    for view in ("CC", "MLO"):
        row, image, mask = _mammogram(person, view, seed, profile.image_size)
        samples.append(({**common, "sample": f"{name}/{view}", **row}, image, mask))
    if person["tissue"]:
        blank = {"modality": HISTOPATHOLOGY, "view": "", "laterality": "", "density": "", "lesion_type": "",
                 "lesion_shape": "", "diameter_mm": np.nan, "has_mask": False, "boxes": "[]",
                 "mm_per_px": profile.tile_um / profile.image_size / 1000}
        for k, tile in enumerate(_tiles(in_tissue, seed, profile)):
            samples.append(({**common, "sample": f"{name}#{k}", **blank}, tile, None))
    return samples


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
    """(4, size, size, 3) tiles of one field of view, stain-normalised together."""
    size = profile.image_size
    side = FINE * size
    rng = patients.generator(seed, "pretrain", person["patient"], "field")
    style = histology.STYLES["pretrain"]
    field, _ = histology.draw(person, style, rng, (2 * side, 2 * side), profile.tile_um / side)
    tiles = []
    for y in (0, side):
        for x in (0, side):
            tile = Image.fromarray(field[y:y + side, x:x + side])
            tiles.append(np.asarray(tile.resize((size, size), Image.Resampling.BOX)))
    return stain.macenko(np.stack(tiles))[0]
