"""The area that outlines enclose: holes, nests inside holes, outlines that cross themselves.

Points are [x, y] in pixels of the mask, whose corner is (0, 0); a pixel is centred at its half.
"""
import numpy as np
from PIL import Image, ImageDraw

WITHIN = 0.9           # share of an outline's pixels that lie in another that it is said to lie in
MANY = 2000            # points; Pillow looks at every edge in every row, which takes minutes for more
AT_ONCE = 1 << 20      # crossings of edges and rows held at a time


def area(polygons, excluded, shape):
    """Bool (H, W): what `polygons` enclose without what `excluded` enclose, both lists of (n, 2) points.

    A polygon inside a hole of another one is tumour again (a nest), a hole in it is none, and so on.
    """
    polygons = [np.asarray(points, float) for points in polygons if len(points) > 2]
    excluded = [np.asarray(points, float) for points in excluded if len(points) > 2]
    whole = (0, 0, shape[1], shape[0])
    mask = _union(polygons, whole) & ~_union(excluded, whole)
    if not polygons or not excluded:
        return mask
    boxes = _boxes(polygons)
    hole_boxes = _boxes(excluded)
    for k in range(len(polygons)):
        if _around(hole_boxes, boxes[k]).any() and _around(boxes, boxes[k]).any():
            _add_nest(mask, k, polygons, excluded, boxes, hole_boxes)
    return mask


def _boxes(outlines):
    """(n, 4): left, top, right and bottom of each outline."""
    return np.array([[*points.min(0), *points.max(0)] for points in outlines])


def _around(boxes, box):
    """Bool (n,): which of `boxes` hold `box` and are larger."""
    holds = (boxes[:, :2] <= box[:2]).all(1) & (boxes[:, 2:] >= box[2:]).all(1)
    return holds & (boxes != box).any(1)


def _add_nest(mask, k, polygons, excluded, boxes, hole_boxes):
    """Adds polygon `k` to `mask` where it lies in holes of a larger polygon."""
    window = _window(boxes[k], mask.shape)
    nest = _union([polygons[k]], window)
    if not nest.any():
        return

    def surrounds(points):
        return _union([points], window)[nest].mean() >= WITHIN

    larger = _around(boxes, boxes[k])
    tumours = [j for j in np.flatnonzero(larger) if surrounds(polygons[j])]
    holes = set()
    for j in np.flatnonzero(_around(hole_boxes, boxes[k])):
        if _around(boxes[tumours], hole_boxes[j]).any() and surrounds(excluded[j]):
            holes.add(j)
    if not holes:
        return
    near = (hole_boxes[:, :2] <= boxes[k, 2:]).all(1) & (hole_boxes[:, 2:] >= boxes[k, :2]).all(1)
    others = [excluded[j] for j in np.flatnonzero(near) if j not in holes]
    left, top, right, bottom = window
    mask[top:bottom, left:right] |= nest & ~_union(others, window)


def _window(box, shape):
    """(left, top, right, bottom): the pixels of a mask that an outline with this box may touch."""
    left, top = np.maximum(np.floor(box[:2]).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(box[2:]).astype(int) + 1, shape[::-1])
    return left, top, max(left, right), max(top, bottom)


def _union(outlines, window):
    """Bool array of the pixels in a window that any of the outlines encloses."""
    left, top, right, bottom = window
    canvas = Image.new("1", (right - left, bottom - top))
    drawn = np.zeros((bottom - top, right - left), bool)
    for points in outlines:
        corners = points - 0.5 - (left, top)
        if len(corners) > MANY:
            drawn |= _even_odd(corners, drawn.shape)
        elif drawn.size:
            ImageDraw.Draw(canvas).polygon(list(map(tuple, corners.tolist())), fill=1)
    return drawn | np.asarray(canvas, bool)


def _even_odd(corners, shape):
    """Bool (H, W): pixels from which a ray meets an odd number of edges; (0, 0) is the middle of the first.

    Time grows with the number of edges and of rows that they cross, memory only with the mask.
    """
    width = shape[1] + 1
    toggles = np.zeros(shape[0] * width, np.uint8)
    start = corners
    end = np.roll(corners, -1, axis=0)
    first = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1])), 0, shape[0]).astype(int)
    stop = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1])), 0, shape[0]).astype(int)
    crossed = np.flatnonzero(stop > first)
    parts = np.cumsum(stop[crossed] - first[crossed]) // AT_ONCE
    for part in np.unique(parts):
        edges = crossed[parts == part]
        rows = stop[edges] - first[edges]
        edge = np.repeat(edges, rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
        share = (row - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
        x = start[edge, 0] + share * (end[edge, 0] - start[edge, 0])
        column = np.clip(np.ceil(x), 0, shape[1]).astype(int)
        np.add.at(toggles, row * width + column, np.uint8(1))
    toggles = toggles.reshape(shape[0], width)
    return (np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) & 1).astype(bool)
