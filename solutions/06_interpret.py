"""Solutions of 06_interpret."""
from math import exp, log

ANSWERS = {"06-1": exp(log(3)) / (exp(0) + exp(log(3)))}    # a softmax over the patches of the mammogram


def iou(a, b):
    """Boxes (x0, y0, x1, y1): the area of both over the area of either."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return both / (sum(areas) - both)


ANSWERS["06-2"] = iou
