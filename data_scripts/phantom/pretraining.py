"""The pretraining phantom: other patients at a site of their own, which shares no style with any of the four domains.

It has no native files: only the arrays and the cohort table that 02_preprocess would have made of them.
"""
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from xmodal.cohort import label_set, validate
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, PRETRAINING
from xmodal.imaging import mammograms, stain
from xmodal.runtime.files import atomic

from .. import parallel
from . import histology, mammogram, patients

FINE = 3             # a tile is drawn at three times the model's resolution and averaged down
SHAPE = (300, 240)   # mammograms at half the phantom's resolution: what is finer does not survive the model's
WITH_TISSUE = 3, 8   # share of the patients who have histology too; mammograms are the harder half to learn from


def write(folder, profile, seed=7, workers=2):
    """Writes folder/{images,masks}/*.npy and, last, folder/cohort.parquet: `profile.pretrain_patients` patients with two
    views each, and a field of 2 x 2 tiles for three of eight. Returns the table. `seed` must differ from the cohort's, or its patients come back."""
    folder, people = Path(folder), patients.cohort(seed, pairs=profile.pretrain_patients // 4, singles=0)
    people["tissue"] = people.index % WITH_TISSUE[1] < WITH_TISSUE[0]
    drawn = parallel(partial(_draw, seed=seed, profile=profile), people.to_dict("records"), workers, "pretraining phantom")
    rows = []
    for modality, (domain,) in {m: [d for d, k in PRETRAINING.items() if k == m] for m in (MAMMOGRAPHY, HISTOPATHOLOGY)}.items():
        some = [(row, image, mask) for person in drawn for row, image, mask in person if row["modality"] == modality]
        arrays = {"images": [i for _, i, _ in some], "masks": [m for *_, m in some] if modality == MAMMOGRAPHY else []}
        for kind, parts in arrays.items():
            if parts:
                with atomic(folder / kind / f"{domain}.npy") as path:
                    np.save(path, np.stack(parts).astype(np.uint8))
        rows += [{**row, "domain": domain, "index": i} for i, (row, *_) in enumerate(some)]
    table = validate(pd.DataFrame(rows), where="pretraining cohort")
    with atomic(folder / "cohort.parquet") as path:
        table.to_parquet(path, index=False)
    return table


def _draw(person, seed, profile):
    """[(cohort row, image, mask or None), ...] of one patient."""
    name, size = person["patient"], profile.image_size
    common = {"patient": f"pretraining/{name}", "study": "", "allowed": label_set(person["diagnosis"]), "truth": person["diagnosis"],
              "grade": person["diagnosis"], "annotation": "", "source": "", "checksum": ""}
    found = []
    for view in ("CC", "MLO"):
        pixels, mask = mammogram.draw(person, view, mammogram.STYLES["pretrain"], patients.generator(seed, "pretrain", name, view), SHAPE)
        image, mask, mm_per_px = mammograms.mammogram(pixels.astype(np.float32), mask, 120 / len(pixels), size)
        found.append(({**common, "sample": f"pretraining/{name}/{view}", "modality": MAMMOGRAPHY, "view": view,
                       "laterality": person["laterality"], "density": person["density"], "lesion_type": person["lesion_type"],
                       "lesion_shape": person["lesion_shape"], "diameter_mm": person["diameter_mm"], "has_mask": bool(mask.any()),
                       "boxes": json.dumps(mammograms.boxes(mask)), "mm_per_px": mm_per_px}, image, mask))
    if not person["tissue"]:
        return found
    side, um = FINE * size, profile.tile_um
    field, _ = histology.draw(person, histology.STYLES["pretrain"], patients.generator(seed, "pretrain", name, "field"), (2 * side, 2 * side), um / side)
    tiles = [field[y:y + side, x:x + side] for y in (0, side) for x in (0, side)]
    tiles = np.stack([np.asarray(Image.fromarray(t).resize((size, size), Image.Resampling.BOX)) for t in tiles])
    for k, tile in enumerate(stain.macenko(tiles)[0]):
        found.append(({**common, "sample": f"pretraining/{name}#{k}", "modality": HISTOPATHOLOGY, "view": "", "laterality": "", "density": "",
                       "lesion_type": "", "lesion_shape": "", "diameter_mm": np.nan, "has_mask": False, "boxes": "[]",
                       "mm_per_px": um / size / 1000}, tile, None))
    return found
