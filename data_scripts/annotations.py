"""Outlines drawn on slides, in the four forms that the datasets use, as [(group in lower case, [[x, y], ...])] in level-0 pixels.

    ASAP          Annotation@PartOfGroup, Coordinate@Order@X@Y; the group is PartOfGroup
    ImageScope    Region, Vertex@X@Y; the group is `HOLE` where NegativeROA is 1, else the Value of an Attribute, else the Text
    NCRF          {"positive": [{"vertices": [[x, y], ...]}, ...], "negative": [...]}; the group is "positive" or "negative"
    mask          TIFF of 0, 1 tumour, 2 excluded; the group is "positive", or "negative" for a hole, whatever it holds
"""
import json
import struct
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import tifffile
from skimage.measure import approximate_polygon, find_contours

from xmodal.config import Problem

HOLE = "hole"
DAMAGED = (ElementTree.ParseError, OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RuntimeError,
           MemoryError, struct.error, zlib.error)
FINE = 4096            # longest side that a mask is traced at, pixels: the finest level of its pyramid that is no larger
PADDED = 0.03          # by how much, at most, the levels of some scanners are wider than the whole one halved: filled up to whole tiles


def read(path):
    """The outlines in `path` (or in a `zipfile.Path`), whose suffix tells its form. Raises `Problem` if it is damaged."""
    try:
        if path.name.lower().endswith((".tif", ".tiff")):
            found = _mask(path)
        else:
            found = (_ncrf if path.name.lower().endswith(".json") else _xml)(path.read_bytes())
        if not all(np.isfinite(points).all() for _, points in found if points):
            raise ValueError("a coordinate is not a number")
    except DAMAGED as error:
        raise Problem(f"The annotation {path} is damaged ({error}); fetch it again.") from None
    return found


def _xml(text):
    root = ElementTree.fromstring(text)
    if root.tag == "ASAP_Annotations":
        return [(found.get("PartOfGroup", "").strip().lower(), _ordered(found)) for found in root.iter("Annotation")]
    if root.tag == "Annotations":
        return [(_label(region), [[float(v.get("X")), float(v.get("Y"))] for v in region.iter("Vertex")]) for region in root.iter("Region")]
    raise ValueError(f"its root is {root.tag}, neither ASAP_Annotations nor Annotations")


def _ordered(annotation):
    points = sorted((int(p.get("Order")), float(p.get("X")), float(p.get("Y"))) for p in annotation.iter("Coordinate"))
    return [[x, y] for _, x, y in points]


def _label(region):
    """What ImageScope calls a region."""
    if region.get("NegativeROA", "0").strip() == "1":
        return HOLE
    values = [a.get("Value", "").strip() for a in region.iter("Attribute")]
    return next(filter(None, [*values, region.get("Text", "").strip()]), "").lower()


def _ncrf(text):
    said = json.loads(text)
    return [(group, [[float(x), float(y)] for x, y in found["vertices"]]) for group in ("positive", "negative") for found in said[group]]


def _mask(path):
    """Traces the tumour of a mask on the finest level of at most `FINE` pixels a side."""
    with tifffile.TiffFile(path) as tiff:
        levels = max(tiff.series[0].levels, [page for page in tiff.pages if len(page.shape) == 2], key=len)
        level = next((one for one in levels if max(one.shape) <= FINE), levels[-1])
        if max(level.shape) > FINE or len(level.shape) != 2:
            raise ValueError(f"its coarsest level has the shape {level.shape}, and at most {FINE} x {FINE} of one channel are traced")
        mask, scale = level.asarray(), np.array(levels[0].shape[::-1]) / level.shape[::-1]
    power = 2 ** np.round(np.log2(scale))
    scale = np.where(abs(scale / power - 1) < PADDED, power, scale)
    if mask.max() > 2:
        raise ValueError(f"it holds the value {mask.max()}, and a mask has 0, 1 and 2")
    found = []
    for line in find_contours(np.pad((mask == 1).astype(np.float32), 1), 0.5):
        x, y = ((approximate_polygon(line, 0.4)[:-1, ::-1] - 0.5) * scale).T              # a pixel's middle lies at its half
        outer = np.dot(x, np.roll(y, 1)) < np.dot(y, np.roll(x, 1))                       # tumour lies on one hand of a line
        found.append(("positive" if outer else "negative", np.column_stack([x, y]).tolist()))
    return found
