"""BUSI: breast ultrasound in three classes with outlined lesions (Al-Dhabyani et al. 2020, doi 10.1016/j.dib.2019.104863).

    root/Dataset_BUSI_with_GT/{benign,malignant,normal}/benign (1).png, benign (1)_mask.png, benign (1)_mask_1.png
Copies sort them into benign/images and benign/mask; any tree will do. Ultrasound is not one of the two modalities of the
cohort, so `index` gives a table of its own. The set names no patients and holds many images twice (Pawlowska et al.
2023), some of them under two labels.
"""
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse.csgraph import connected_components

from data_scripts.archive import unpack
from data_scripts.download import File, obtain
from xmodal.config import Problem

log = logging.getLogger(__name__)
NAME = re.compile(r"^(benign|malignant|normal) \((\d+)\)(_mask(?:_\d+)?)?\.png$", re.IGNORECASE)
RELEASE = {"benign": 437, "malignant": 210, "normal": 133}
ALIKE = 10    # bits of 64: of 150 images all pairs up to 10 show one lesion, of those with 12 two of six do not
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def index(root):
    """A row an image under `root`, by label and number: sample, path, masks (a tuple of paths), label, duplicate_of.

    duplicate_of is the sample of the first image that shows the same, up to small shifts and other markings, or "": those
    whose perceptual hashes differ in at most ALIKE of 64 bits, directly or through others, are one. Keep the first of each,
    before any split; where the labels of such images differ none of them can be trusted, which `.attrs["contradicting"]`
    lists by sample. Images that cannot be read, further copies, masks without an image and files of other names are logged and
    listed in `.attrs["exclusions"]` as (path, reason); `.attrs["traps"]` counts what was met. Raises `Problem` if no image is there.
    """
    images, masks, left_out = _files(root)
    rows, hashes = [], []
    for (label, number), path in sorted(images.items()):
        try:
            hashes.append(perceptual_hash(path))
        except UNREADABLE as error:
            left_out.append((str(path), f"{path} cannot be read ({error})."))
            continue
        own = tuple(str(p) for p in masks.get((label, number), ()))
        rows.append({"sample": f"busi/{label}_{number}", "path": str(path), "masks": own, "label": label})
    if not rows:
        raise Problem(f"There is no image like 'benign (1).png' under {root} that can be read; give the folder of the unpacked dataset.")
    for _, reason in left_out:
        log.warning("%s Left out.", reason)
    table = pd.DataFrame(rows)
    group = duplicates(np.array(hashes))
    first = table["sample"].groupby(group).transform("first")
    table["duplicate_of"] = first.where(first != table["sample"], "")
    mixed = table.label.groupby(group).transform("nunique") > 1
    traps = {"several_masks": (table.masks.map(len) > 1).sum(), "no_mask": (table.masks.map(len) == 0).sum(),
             "duplicate": (first != table["sample"]).sum(), "contradicting": mixed.sum()}
    table.attrs.update(exclusions=left_out, contradicting=table["sample"][mixed].tolist(), traps={trap: int(n) for trap, n in traps.items() if n})
    log.info("BUSI: %d images; %s.", len(table), table.attrs["traps"])
    return table


def _files(root):
    """({(label, number): image}, {(label, number): [masks]}, [(path, reason)]) under `root`; of a name that is there twice the first counts."""
    images, masks, seen, odd = {}, {}, set(), []
    for path in sorted(p for p in Path(root).rglob("*") if p.suffix.lower() == ".png" and p.is_file()):
        match, name = NAME.match(path.name), path.name.lower()
        if not match or name in seen:
            odd.append((str(path), f"{path} {'is a second copy' if match else 'has not a name of the release'}."))
            continue
        seen.add(name)
        key = match[1].lower(), int(match[2])
        if match[3]:
            masks.setdefault(key, []).append(path)
        else:
            images[key] = path
    alone = [path for key in sorted(set(masks) - set(images)) for path in masks[key]]
    return images, masks, odd + [(str(path), f"{path} is a mask without an image.") for path in alone]


def read_mask(masks, shape):
    """The lesion of an image, (H, W) booleans of `shape`: any of its masks, whatever their colours; all False without masks.

    Raises `Problem` if a mask cannot be read.
    """
    lesion = np.zeros(shape, bool)
    for path in masks:
        try:
            with Image.open(path) as mask:
                mask = mask.convert("RGB")                # 1-bit, grey, RGB and RGBA files; opacity says nothing
        except UNREADABLE as error:
            raise Problem(f"The mask {path} cannot be read ({error}); unpack the dataset again.") from None
        if mask.size != (shape[1], shape[0]):
            log.warning("%s has %s pixels instead of %s; scaled.", path, mask.size, (shape[1], shape[0]))
            mask = mask.resize((shape[1], shape[0]), Image.NEAREST)
        lesion |= np.asarray(mask).max(2) > 127
    return lesion


def perceptual_hash(path):
    """(64,) booleans: which of the lowest 8 x 8 cosine frequencies of the image at 32 x 32 pixels are above their median."""
    with Image.open(path) as image:
        small = np.asarray(image.convert("L").resize((32, 32), Image.LANCZOS), float)
    low = dctn(small)[:8, :8].ravel()
    return low > np.median(low[1:])                       # the mean brightness would shift the median


def duplicates(hashes):
    """(N, 64) hashes -> (N,) group numbers; images are in one group if a chain of pairs within ALIKE bits joins them."""
    distance = (hashes[:, None] != hashes[None]).sum(2)
    return connected_components(distance <= ALIKE, directed=False)[1]


# ---- fetch -------------------------------------------------------------------------------------------------------

TERMS = "no licence from its authors (the article is CC BY 4.0): for research; cite Al-Dhabyani et al. 2020, doi 10.1016/j.dib.2019.104863."
FOLDER = "Dataset_BUSI_with_GT"


def fetch(root, limit=None, dry_run=False, source=None):
    """Checks the copy under `root`, or unpacks it there from `source`, the path or URL of a zip archive; returns the plan.

    There is no stable official download and no official checksum, so that counts are compared with the release. The plan is
    a row an image with path, bytes, state, label and number of masks; of a URL and a `dry_run` it is that of the archive.
    `limit` looks at the first images only. Raises `Problem` if no image is there, or the archive is not one.
    """
    root = Path(root)
    if str(source).startswith(("http://", "https://")):
        plan = obtain([File(str(source), FOLDER, unpacked=2_000_000_000)], root, TERMS, dry_run)
        if dry_run:
            return plan
    elif source and not dry_run and not (root / FOLDER).is_dir():
        if not Path(source).is_file():
            raise Problem(f"There is no archive {source}; give the path or URL of a zip archive, or the dataset's folder as root.")
        unpack(source, root / FOLDER, 2_000_000_000)
    images, masks, _ = _files(root)
    rows = [(str(path.relative_to(root)), path.stat().st_size, "complete" if path.stat().st_size else "missing", key[0], len(masks.get(key, ())))
            for key, path in sorted(images.items())[:limit]]
    plan = pd.DataFrame(rows, columns=["path", "bytes", "state", "label", "masks"])
    print(f"BUSI in {root.name}: {plan.label.value_counts().to_dict()} images; the release has {RELEASE}.\nTerms: {TERMS}")
    if not rows and not dry_run:
        raise Problem(f"There is no image like 'benign (1).png' under {root}; there is no stable official download: get a copy of {FOLDER} and "
                      "put it there, or give its archive as `source`.")
    return plan
