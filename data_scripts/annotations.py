"""Outlines drawn on slides, in the four forms that the datasets use.

Every form is read as [(group, [[x, y], ...]), ...]: the group in lower case, the points in pixels of level 0.

    ASAP          Annotation@PartOfGroup@Type, Coordinate@Order@X@Y; the group is PartOfGroup; a Spline is
                  the polygon through its points, as ASAP itself makes masks of it
    ImageScope    Region@Type, Vertex@X@Y; the group is `HOLE` where NegativeROA is 1, else the Value of an
                  Attribute, else the Text of the Region; an ellipse is stored as two corners around it
    NCRF          {"positive": [{"vertices": [[x, y], ...]}, ...], "negative": [...]}; the group is one of
                  these two names
    mask          a TIFF of 0, 1 (tumour) and 2 (excluded); the group is "positive", or "negative" for a hole
                  in a tumour, whatever value the hole has

What encloses no area (points, measurements, arrows) has no points here. In XML, entities may not be declared:
they serve no outline, and a chain of them can fill the memory or end the process.
"""
import json
import struct
import xml.etree.ElementTree as ElementTree
import zlib

import defusedxml.ElementTree
import numpy as np
import tifffile
from scipy.spatial.distance import pdist
from skimage.measure import approximate_polygon, find_contours

from xmodal.config import Problem
from xmodal.imaging.tiff import check_tiff
from xmodal.runtime.files import bounded_bytes

HOLE = "hole"
ASAP_WITHOUT_AREA = {"dot", "pointset", "measurement"}
RECTANGLE, ELLIPSE, ARROW, RULER = "1234"                     # Region@Type of ImageScope; 0 is drawn by hand
CORNERS = 128                                                 # of the polygon that stands for an ellipse
DAMAGED = (
    ElementTree.ParseError, OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    AssertionError, RuntimeError, MemoryError, struct.error, zlib.error)
# A mask is traced on the finest level of its pyramid whose longest side has no more pixels than this.
FINE = 4096
# Some scanners fill levels up to whole tiles: they are wider than the halved slide by at most this share.
PADDED = 0.03
# A mask whose tumour has more pixels along its border than this is noise: tracing it would take hours.
BORDER = 500_000
# Outlines of one file with more points than this together are no drawing.
POINTS = 5_000_000
# No slide has as many pixels along a side; a point may lie a little outside its slide.
FARTHEST = 1 << 24


def read(path):
    """The outlines in `path` (a Path or `zipfile.Path`), whose suffix tells its form.

    Raises `Problem` if the file is damaged.
    """
    name = path.name.lower()
    try:
        if name.endswith((".tif", ".tiff")):
            outlines = _mask(path)
        elif name.endswith(".json"):
            outlines = _ncrf(bounded_bytes(path, "outline bytes"))
        else:
            outlines = _xml(bounded_bytes(path, "outline bytes"))
        if sum(len(points) for _, points in outlines) > POINTS:
            raise ValueError(f"its outlines have more than {POINTS} points")
        for _, points in outlines:
            if points and not (np.abs(points) < FARTHEST).all():
                raise ValueError("a coordinate is not a number, or lies far from any slide")
    except Problem:
        raise
    except DAMAGED as error:
        raise Problem(f"The annotation {path} is damaged ({error}); fetch it again.") from None
    return outlines


def _xml(text):
    root = defusedxml.ElementTree.fromstring(text)
    if root.tag == "ASAP_Annotations":
        annotations = list(root.iter("Annotation"))
        return [(a.get("PartOfGroup", "").strip().lower(), _ordered(a)) for a in annotations]
    if root.tag == "Annotations":
        return [(_label(region), _vertices(region)) for region in root.iter("Region")]
    raise ValueError(f"its root is {root.tag}, neither ASAP_Annotations nor Annotations")


def _ordered(annotation):
    """The points of an ASAP annotation, by their Order."""
    if annotation.get("Type", "").strip().lower() in ASAP_WITHOUT_AREA:
        return []
    points = []
    for corner in annotation.iter("Coordinate"):
        points.append((int(corner.get("Order")), float(corner.get("X")), float(corner.get("Y"))))
    return [[x, y] for _, x, y in sorted(points)]


def _label(region):
    """What ImageScope calls a region."""
    if region.get("NegativeROA", "0").strip() == "1":
        return HOLE
    labels = [attribute.get("Value", "").strip() for attribute in region.iter("Attribute")]
    labels.append(region.get("Text", "").strip())
    return next(filter(None, labels), "").lower()


def _vertices(region):
    """The points of a region of ImageScope as a polygon, by its Type."""
    points = [[float(vertex.get("X")), float(vertex.get("Y"))] for vertex in region.iter("Vertex")]
    shape = region.get("Type", "0").strip()
    if shape in (ARROW, RULER):
        return []
    if shape == ELLIPSE and 2 <= len(points) <= 4:
        return _ellipse(points)
    if shape == RECTANGLE and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    return points


def _ellipse(corners):
    """The polygon of the ellipse in the box that `corners` span."""
    low = np.min(corners, axis=0)
    high = np.max(corners, axis=0)
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return ((low + high) / 2 + circle * (high - low) / 2).tolist()


def has_outlines(path):
    """False where a JSON file beside a slide holds something else than outlines in NCRF's form.

    A file that is no JSON counts as outlines, so that `read` says that it is damaged.
    """
    try:
        content = json.loads(bounded_bytes(path, "outline bytes"))
    except DAMAGED:
        return True
    return isinstance(content, dict) and bool({"positive", "negative"} & set(content))


def _ncrf(text):
    groups = json.loads(text)
    if not {"positive", "negative"} & set(groups):
        raise ValueError("it has neither positive nor negative outlines")
    outlines = []
    for group in ("positive", "negative"):
        for outline in groups.get(group, ()):
            outlines.append((group, [[float(x), float(y)] for x, y in outline["vertices"]]))
    return outlines


def _mask(path):
    """Traces the tumour of a mask on the finest level of at most `FINE` pixels a side."""
    mask, scale = _level(path)
    if mask.max() > 2:
        raise ValueError(f"it holds the value {mask.max()}, and a mask has 0, 1 and 2")
    border = sum(int((np.diff(mask == 1, axis=axis)).sum()) for axis in (0, 1))
    if border > BORDER:
        raise ValueError(f"the border of its tumour has {border} pixels, and at most {BORDER} are traced")
    outlines = []
    tumour = np.pad((mask == 1).astype(np.float32), 1)
    for contour in find_contours(tumour, 0.5):
        corners = approximate_polygon(contour, 0.4)[:-1, ::-1]
        x, y = ((corners - 0.5) * scale).T                   # the middle of a pixel lies at its half
        is_outer = np.dot(x, np.roll(y, 1)) < np.dot(y, np.roll(x, 1))    # tumour lies on one hand of it
        group = "positive" if is_outer else "negative"
        outlines.append((group, np.column_stack([x, y]).tolist()))
    return outlines


def _level(path):
    """(pixels of the level of a mask that is traced, pixels of level 0 for each of them in x and y)."""
    check_tiff(path)
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if len(page.shape) == 2]
        levels = max(tiff.series[0].levels, pages, key=len)
        small = [level for level in levels if max(level.shape) <= FINE]
        level = small[0] if small else levels[-1]
        if max(level.shape) > FINE or len(level.shape) != 2:
            raise ValueError(f"its coarsest level has the shape {level.shape}, "
                             f"and at most {FINE} x {FINE} of one channel are traced")
        mask = level.asarray()
        scale = np.array(levels[0].shape[::-1]) / level.shape[::-1]
    power = 2 ** np.round(np.log2(scale))
    return mask, np.where(abs(scale / power - 1) < PADDED, power, scale)


def extent(points):
    """The largest distance of two of the (N, 2) points. Of thousands only those are compared that lie
    outermost in one of 720 directions, which is exact to a millionth."""
    if len(points) > 2000:
        outermost = set()
        for angle in np.linspace(0, np.pi, 360, endpoint=False):
            along = points @ [np.cos(angle), np.sin(angle)]
            outermost |= {int(along.argmin()), int(along.argmax())}
        points = points[sorted(outermost)]
    return pdist(points).max(initial=0)
