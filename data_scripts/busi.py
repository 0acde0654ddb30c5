"""BUSI: breast ultrasound in three classes with outlined lesions (Al-Dhabyani et al. 2020, doi
10.1016/j.dib.2019.104863).

    root/Dataset_BUSI_with_GT/{benign,malignant,normal}/benign (1).png
    the same folders: benign (1)_mask.png, benign (1)_mask_1.png

Some copies sort the files into benign/images and benign/mask; any tree will do. Ultrasound is not one of the
two modalities of the cohort, so `index` gives a table of its own. The dataset names no patients. It holds
many images twice (Pawlowska et al. 2023), some of them under two labels.
"""
import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse.csgraph import connected_components

from data_scripts.archive import unpack
from data_scripts.download import File, obtain
from data_scripts.indexing import files_below, rows_of
from xmodal.config import Problem
from xmodal.imaging.photos import open_photo

log = logging.getLogger(__name__)
NAME = re.compile(r"^(benign|malignant|normal) \((\d+)\)(_mask(?:_\d+)?)?\.png$", re.IGNORECASE)
RELEASE = {"benign": 437, "malignant": 210, "normal": 133}
# Bits of 64. Of 150 images all pairs that differ in up to 10 bits show one lesion; of six pairs that differ
# in 12 bits two do not.
ALIKE = 10
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Index(NamedTuple):
    """What the files of BUSI gave."""
    rows: pd.DataFrame     # see `index`
    exclusions: list       # (path, reason) of what is left out
    traps: dict            # {name: how often it was met}
    contradicting: list    # samples of images that show the same as another one under another label


def index(root):
    """A table with one row for each image under `root`, by label and number: sample, path, masks, label,
    duplicate_of.

    masks is a tuple of paths. duplicate_of is the sample of the first image that shows the same, up to small
    shifts and other markings, or "": images whose perceptual hashes differ in at most ALIKE of 64 bits,
    directly or through others, show the same. Keep the first of each, before any split. See `read` for what
    is left out.
    """
    return rows_of(read(root))


def read(root):
    """`Index` of the images under `root`. None of its `contradicting` images can be trusted.

    What is left out is logged. Raises `Problem` if no image can be read.
    """
    images, masks, left_out = _files(root)
    rows = []
    hashes = []
    for (label, number), path in sorted(images.items()):
        try:
            hashes.append(perceptual_hash(path))
        except UNREADABLE as error:
            left_out.append((str(path), f"{path} cannot be read ({error})."))
            continue
        own = tuple(str(mask) for mask in masks.get((label, number), ()))
        rows.append({"sample": f"busi/{label}_{number}", "path": str(path), "masks": own, "label": label})
    if not rows:
        raise Problem(f"There is no image like 'benign (1).png' under {root} that can be read; "
                      "give the folder of the unpacked dataset.")
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    table = pd.DataFrame(rows)
    group = duplicates(np.array(hashes))
    first = table["sample"].groupby(group).transform("first")
    table["duplicate_of"] = first.where(first != table["sample"], "")
    contradicting = table.label.groupby(group).transform("nunique") > 1
    traps = {
        "several_masks": int((table.masks.map(len) > 1).sum()),
        "no_mask": int((table.masks.map(len) == 0).sum()),
        "duplicate": int((table.duplicate_of != "").sum()),
        "contradicting": int(contradicting.sum())}
    traps = {trap: number for trap, number in traps.items() if number}
    log.info("BUSI: %d images; %s.", len(table), traps)
    return Index(table, left_out, traps, table["sample"][contradicting].tolist())


def _files(root):
    """({(label, number): image}, {(label, number): [masks]}, [(path, reason)]) of the files under `root`.

    Of several files of one name the first counts.
    """
    images = {}
    masks = {}
    names = set()
    left_out = []
    for path in files_below(root, ".png"):
        match = NAME.match(path.name)
        name = path.name.lower()
        if not match:
            left_out.append((str(path), f"{path} has not a name of the release."))
            continue
        if name in names:
            left_out.append((str(path), f"{path} is a second copy."))
            continue
        names.add(name)
        key = (match[1].lower(), int(match[2]))
        if match[3]:
            masks.setdefault(key, []).append(path)
        else:
            images[key] = path
    for key in sorted(set(masks) - set(images)):
        left_out += [(str(path), f"{path} is a mask without an image.") for path in masks[key]]
    return images, masks, left_out


def read_mask(masks, shape):
    """The lesion of an image, (H, W) booleans of `shape`: where any of its masks is bright, all False without
    masks.

    Raises `Problem` if a mask cannot be read.
    """
    lesion = np.zeros(shape, bool)
    for path in masks:
        try:
            with open_photo(path) as mask:
                mask = mask.convert("RGB")           # 1-bit, grey, RGB and RGBA files; opacity says nothing
        except Problem:
            raise
        except UNREADABLE as error:
            raise Problem(f"The mask {path} cannot be read ({error}); unpack the dataset again.") from None
        if mask.size != (shape[1], shape[0]):
            log.warning("%s has %s pixels instead of %s; scaled.", path, mask.size, (shape[1], shape[0]))
            mask = mask.resize((shape[1], shape[0]), Image.NEAREST)
        lesion |= np.asarray(mask).max(2) > 127
    return lesion


def perceptual_hash(path):
    """(64,) booleans: which of the lowest 8 x 8 cosine frequencies of an image exceed their median.

    The image is scaled to 32 x 32 pixels first.
    """
    with open_photo(path) as image:
        small = np.asarray(image.convert("L").resize((32, 32), Image.LANCZOS), float)
    low = dctn(small)[:8, :8].ravel()
    return low > np.median(low[1:])                       # the mean brightness would shift the median


def duplicates(hashes):
    """(N, 64) hashes -> (N,) group numbers.

    Images are in one group if a chain of pairs, each within ALIKE bits, joins them.
    """
    distance = (hashes[:, None] != hashes[None]).sum(2)
    return connected_components(distance <= ALIKE, directed=False)[1]


# ---- fetch -------------------------------------------------------------------------------------------------

TERMS = ("no licence from its authors (the article is CC BY 4.0): for research; "
         "cite Al-Dhabyani et al. 2020, doi 10.1016/j.dib.2019.104863.")
FOLDER = "Dataset_BUSI_with_GT"
MOST = 2_000_000_000   # bytes that come out of the archive


def fetch(root, limit=None, dry_run=False, source=None):
    """Checks the copy under `root`, or unpacks it there from `source`, the path or URL of a zip archive;
    returns the plan.

    There is no stable official download and no official checksum, so that counts are compared with the
    release. The plan has one row for each image: path, bytes, state, label, number of masks; with a URL and
    `dry_run` it is that of the archive. `limit` looks at the first images only. Raises `Problem` if no image
    is there, or if the archive is none.
    """
    root = Path(root)
    if str(source).startswith(("http://", "https://")):
        plan = obtain([File(str(source), FOLDER, unpacked=MOST)], root, TERMS, dry_run)
        if dry_run:
            return plan
    elif source and not dry_run and not (root / FOLDER).is_dir():
        if not Path(source).is_file():
            raise Problem(f"There is no archive {source}; give the path or URL of a zip archive, "
                          "or the dataset's folder as root.")
        unpack(source, root / FOLDER, MOST)
    plan = _copies(root, limit)
    print(f"BUSI in {root.name}: {plan.label.value_counts().to_dict()} images; the release has {RELEASE}.\n"
          f"Terms: {TERMS}")
    if not len(plan) and not dry_run:
        raise Problem(f"There is no image like 'benign (1).png' under {root}; there is no stable "
                      f"official download: get a copy of {FOLDER} and put it there, "
                      "or give its archive as `source`.")
    return plan


def _copies(root, limit):
    """The plan of the first images that lie under `root`."""
    images, masks, _ = _files(root)
    rows = []
    for (label, number), path in sorted(images.items())[:limit]:
        size = path.stat().st_size
        state = "complete" if size else "missing"
        rows.append((str(path.relative_to(root)), size, state, label, len(masks.get((label, number), ()))))
    return pd.DataFrame(rows, columns=["path", "bytes", "state", "label", "masks"])
