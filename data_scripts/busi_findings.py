"""What a real ultrasound picture shows, in words, from its outlines: captions for the image-text model.

As in `phantom.textbook` a caption says what is seen and never a diagnosis, so that a model which learns from
them has met real ultrasound without labels. (That nothing is outlined is a finding too: no nodule.)
"""
from typing import NamedTuple

import numpy as np
from skimage.measure import label, regionprops

from data_scripts import busi
from data_scripts.phantom import textbook
from xmodal.companions import pictures

SHAPES = ("spiculated", "irregular", "lobulated", "circumscribed")     # the fuller an outline, the later
BEHIND = (0.8, 1.2)      # grey level under a lesion over that beside it: below a shadow, above bright echoes


class Finding(NamedTuple):
    """What the outline of a lesion says."""
    fullness: float    # its area over that of its convex hull
    lie: float         # its height over its width
    behind: float      # mean grey level under it over that beside it at the same depth


def finding(picture, lesion):
    """`Finding` of the largest lesion in a picture (H, W, 3) with the outline `lesion` (H, W) booleans; None
    where nothing is outlined."""
    if not lesion.any():
        return None
    largest = max(regionprops(label(lesion)), key=lambda region: region.area)
    top, left, bottom, right = largest.bbox
    height, width = bottom - top, right - left
    depth = picture.mean(2)[bottom:bottom + height]
    under = depth[:, left + width // 4:right - width // 4]
    beside = np.concatenate([depth[:, max(left - width // 2, 0):left], depth[:, right:right + width // 2]], 1)
    behind = 1.0
    if under.size and beside.size:
        behind = (under.mean() + 5) / (beside.mean() + 5)      # 5: black over black is no shadow
    return Finding(float(largest.solidity), height / width, float(behind))


def captions(findings):
    """Two texts for each `Finding`, or None where nothing is seen. The shape is told by the quarter of these
    findings in which the fullness lies, since no label is to tell it."""
    fullness = [seen.fullness for seen in findings if seen]
    quarters = np.quantile(fullness, (0.25, 0.5, 0.75)) if fullness else ()
    return [[_caption(seen, quarters, 0), _caption(seen, quarters, 1)] for seen in findings]


def _caption(seen, quarters, wording):
    if seen is None:
        return textbook.CLEAR["ultrasound"][wording]
    shape = SHAPES[int(np.searchsorted(quarters, seen.fullness))]
    lie = "taller than wide" if seen.lie > 1 else "wider than tall"
    behind = ("a dark shadow", "nothing changed", "bright echoes")[int(np.digitize(seen.behind, BEHIND))]
    return textbook.sonogram(shape, lie, f"{behind} behind it", wording)


def to_learn_from(root, table):
    """(pictures (H, W, 3), captions) of the rows of `table` that train or validate: of the table of
    `kmat_pairs.busi` with a split. No test picture is opened."""
    rows = table[table.split != "test"]
    masks = busi.index(root).set_index("sample").masks
    opened = pictures.open_pictures(rows)
    findings = []
    for picture, sample in zip(opened, rows["sample"]):
        findings.append(finding(picture, busi.read_mask(masks[sample], picture.shape[:2])))
    return opened, captions(findings)
