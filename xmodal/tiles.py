"""Tiles of a slide or field of view as rows of the cohort: drawn first, labelled by outlines afterwards.

Every slide gives tiles that are drawn *blind*: at random among those in focus that are half tissue, whatever
the label and the outlines say. A slide with outlines gives as many more that are drawn inside them, for
training only (`cohort.leave_one_out`). A tile's label then comes from its share of each outlined class:

    at least half       this class
    less than half      normal or the classes that touch the tile
    none                normal; where the outlines are partial, normal or any outlined class

The tiles of a slide without outlines have the label of the slide.
"""
import hashlib
import json
from pathlib import Path

import numpy as np

from .cohort import NO_TILE, label_set, malignant
from .config import Problem
from .imaging import regions, slides, stain

NOT_NORMALISED = ("The stain could not be normalised, since two stains are not seen; "
                  "the tiles stay as they are.")
INVASIVE = 3       # the class of outlines that name none: those of CAMELYON's metastases


def of_slide(row, profile):
    """[(cohort row without index, tile, None)] of a slide or field of view, `row` of the index: first the
    tiles that are drawn blind, then those drawn inside outlines, each `profile.tiles_per_slide` at most.

    A row may say `mpp`, the micrometres per pixel of a file that does not say them.

    Raises `Problem` where no tile is in focus and half tissue.
    """
    photo = Path(row["source"]).suffix.lower() in (".tif", ".tiff")
    of_domain = regions.MPP.get(row["domain"]) if photo else None
    slide, mpp = regions.open_slide(row["source"], row.get("mpp") or of_domain)
    side = profile.tile_um / mpp
    with slide:
        pixels, xy, shares, blind = _drawn(slide, mpp, row, profile)
    if not blind:
        raise Problem(f"{row['source']} has no tile of {profile.tile_um:g} um that is in focus "
                      "and half tissue.")
    tiles, normalised = _normalised(pixels, blind)
    common = {**row, **NO_TILE, "has_mask": False, "boxes": "[]", "file_allowed": row["allowed"],
              "note": "" if normalised else NOT_NORMALISED, "slide_mpp": mpp,
              "mm_per_px": profile.tile_um / profile.image_size / 1000}
    rows = []
    for k, tile in enumerate(tiles):
        own = {"sample": f"{row['sample']}#{k}", "drawn": "blind" if k < blind else "outline",
               "tile_x": float(xy[k, 0] + side / 2), "tile_y": float(xy[k, 1] + side / 2)}
        of_tile = {label: share[k] for label, share in shares.items()}
        rows.append(({**common, **own, **said_of(row, of_tile)}, tile, None))
    return rows


def _drawn(slide, mpp, row, profile):
    """(pixels, xy, {class: share}, number of blind tiles) of the drawn tiles, the blind ones first."""
    size = profile.image_size
    seed = np.frombuffer(hashlib.sha256(row["sample"].encode()).digest(), "<u4")
    xy, tissue = slides.tile_grid(slide, mpp, profile.tile_um)
    with_tissue = np.flatnonzero(tissue >= 0.5)
    order = np.random.default_rng(seed).permutation(with_tissue)
    pixels, chosen = slides.sharp(slide, xy[order], profile.tile_um / mpp, size, profile.tiles_per_slide)
    taken = order[chosen]
    shares = {label: slides.outlined(slide, mpp, profile.tile_um, outlines)
              for label, outlines in classes(row["annotation"]).items()}
    if shares:                                             # from here on the outlines are looked at
        inside = np.max(list(shares.values()), axis=0) >= 0.5
        more = np.setdiff1d(with_tissue[inside[with_tissue]], taken)
        more = np.random.default_rng([*seed, 1]).permutation(more)
        further, also = slides.sharp(slide, xy[more], profile.tile_um / mpp, size, profile.tiles_per_slide)
        pixels = np.concatenate([pixels, further])
        taken = np.concatenate([taken, more[also]])
    return pixels, xy[taken], {label: share[taken] for label, share in shares.items()}, len(chosen)


def _normalised(pixels, blind):
    """(tiles, whether their stain was normalised); no tile that was drawn by outline touches a blind one."""
    tiles, normalised = stain.macenko(pixels[:blind])
    if len(pixels) > blind:
        everything, also = stain.macenko(pixels)
        tiles = np.concatenate([tiles, everything[blind:]])
        normalised = normalised and also
    return tiles, normalised


# ---- labels ------------------------------------------------------------------------------------------------

def classes(annotation):
    """{class: JSON text of its outlines} of an annotation; outlines that name no class are invasive."""
    drawn = json.loads(annotation or "{}")
    by_class = drawn.get("classes") or ({str(INVASIVE): drawn} if drawn.get("polygons") else {})
    return {int(label): json.dumps(outlines) for label, outlines in by_class.items()}


def said_of(row, shares):
    """The columns allowed, truth, grade and tumour of a tile of a slide, `row` of the index.

    shares: {class: share of the tile}; empty where the slide has no outlines.
    """
    if not shares:
        benign = malignant([row["allowed"]])[0] == 0
        return {"tumour": 0.0 if benign else float("nan")}
    half = [label for label, share in shares.items() if share >= 0.5]
    touched = [label for label, share in shares.items() if share > 0]
    if half:
        possible = {max(half)}
    elif json.loads(row["annotation"]).get("partial"):
        possible = {0, *shares}
    else:
        possible = {0, *touched}
    fixed = min(possible) if len(possible) == 1 else -1
    tumour = sum(share for label, share in shares.items() if label >= 2)
    return {"allowed": label_set(*possible), "truth": fixed, "grade": fixed, "tumour": float(min(tumour, 1))}
