"""Where is the lesion? Overlap of boxes and masks, average precision, free-response curves. Used through `stats`.

Boxes are x0, y0, x1, y1 in pixels. `found` and `truth` are lists, an entry an image: marks (F, 5), a box and its score, and
lesions (L, 4); a missing entry is an empty one.
"""
from typing import NamedTuple

import numpy as np

from ..config import Problem

NAN = float("nan")


def iou(a, b):
    """Intersection over union of boxes (..., 4) as x0, y0, x1, y1. A missing (NaN) box or two empty ones: nan."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape[-1:] != (4,) or b.shape[-1:] != (4,):
        raise Problem(f"A box is x0, y0, x1, y1; {a.shape} and {b.shape} do not end in 4.")
    area = lambda box: np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1)
    both = area(np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = both / (area(a) + area(b) - both)
    return overlap if overlap.ndim else float(overlap)


def dice(a, b):
    """Dice overlap of two boolean masks of one shape. Both empty: nan, as there is nothing to find."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise Problem(f"Masks must have one shape and hold 0 and 1 only; these are {a.shape} and {b.shape}.")
    a, b = a.astype(bool), b.astype(bool)
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else NAN


def _images(found, truth):
    """The marks, best first, and lesions of each image as arrays, or `Problem`."""
    if len(found) != len(truth):
        raise Problem(f"Marks of {len(found)} images and lesions of {len(truth)} do not go together; an image without has an empty entry.")
    for marks, lesions in zip(found, truth):
        marks, lesions = np.asarray(marks, float).reshape(-1, 5), np.asarray(lesions, float).reshape(-1, 4)
        if np.isnan(marks).any() or np.isnan(lesions).any():
            raise Problem("Marks or lesions hold NaN; leave a box that is missing out.")
        marks = marks[np.lexsort((*marks[:, :4].T, -marks[:, 4]))]          # ties by place, so that the order given does not matter
        yield marks, lesions, iou(marks[:, None, :4], lesions[None])


def _hits(overlap, at):
    """(F, L) overlaps, the best mark first -> (F,) booleans: each mark takes the free lesion that it meets best, from `at` on."""
    overlap, hit = overlap.copy(), np.zeros(len(overlap), bool)
    for i in range(len(overlap) if overlap.size else 0):
        j = np.nanargmax(np.append(overlap[i], -1))
        if j < overlap.shape[1] and overlap[i, j] >= at:
            hit[i], overlap[:, j] = True, -1
    return hit


def box_average_precision(found, truth, at=0.5):
    """Average precision of marks at an IoU of `at`: the area under the interpolated precision-recall curve (VOC from 2010 on).

    A lesion counts once, for the best mark on it; further marks on it are false. found, truth: see above. Marks of one score enter
    together. Without lesions: nan; without marks: 0.
    """
    images = list(_images(found, truth))
    lesions = sum(len(boxes) for _, boxes, _ in images)
    if not lesions:
        return NAN
    score = np.concatenate([marks[:, 4] for marks, *_ in images])
    precision, recall = precision_recall(score, np.concatenate([_hits(overlap, at) for *_, overlap in images]), lesions)
    return float((np.diff(recall, prepend=0) * precision).sum())


def precision_recall(score, hit, lesions):
    """(T,) interpolated precision (the best at this recall or a higher one) and (T,) recall, a point a threshold, the strictest first.

    score (M,) of every mark, hit (M,) whether it is on a lesion of its own, lesions: how many there are. Marks of one score
    enter together. Without marks both are empty.
    """
    thresholds, which = np.unique(-np.asarray(score, float), return_inverse=True)
    tp, all_ = (np.cumsum(np.bincount(which, weight, len(thresholds))) for weight in (hit, np.ones(len(hit))))
    return np.maximum.accumulate((tp / all_)[::-1])[::-1], tp / lesions


class Marks(NamedTuple):
    fp_probs: np.ndarray    # (F,) scores of the marks outside every lesion
    tp_probs: np.ndarray    # (L,) best score of a mark on each lesion, 0 where there is none
    lesions: int
    images: int


def free_response(found, truth, at=0.5):
    """What `froc_score` needs, as in `froc_score(*free_response(...))`: a mark that meets a lesion with an IoU of `at` is on it.

    Several marks on a lesion are no error (CAMELYON16's rule). Scores are above 0.
    """
    fp, tp = [], []
    for marks, lesions, overlap in _images(found, truth):
        if (marks[:, 4] <= 0).any():
            raise Problem("A mark needs a score above 0, as 0 says that a lesion was missed.")
        on = np.nan_to_num(overlap) >= at
        fp.append(marks[~on.any(1), 4])
        tp.append(np.max(np.where(on, marks[:, 4:], 0), axis=0, initial=0))
    fp, tp = (np.concatenate([*parts, []]) for parts in (fp, tp))
    return Marks(fp, tp, len(tp), len(truth))


class FROC(NamedTuple):
    false_positives: np.ndarray     # (K,) an image, rising
    sensitivity: np.ndarray         # (K,) share of the lesions found


def froc(fp_probs, tp_probs, lesions, images):
    """The free-response curve, a point a threshold from the strictest on; the first is 0, 0. Without lesions or images: nan.

    fp_probs: scores of the marks outside every lesion; tp_probs: the best score of each lesion, 0 where it was missed;
    lesions, images: how many there are.
    """
    fp, tp = np.asarray(fp_probs, float).ravel(), np.asarray(tp_probs, float).ravel()
    if np.isnan(fp).any() or np.isnan(tp).any() or (tp > 0).sum() > lesions:
        raise Problem(f"{(tp > 0).sum()} of {lesions} lesions are found, or scores are NaN; give each lesion's best score, 0 where missed.")
    if not lesions or not images:
        return FROC(np.array([NAN]), np.array([NAN]))
    thresholds = np.unique(np.concatenate([fp, tp]))
    thresholds = np.append(thresholds[thresholds > 0], np.inf)[::-1]        # a lesion with score 0 was not found
    return FROC((fp >= thresholds[:, None]).sum(1) / images, (tp >= thresholds[:, None]).sum(1) / lesions)


def froc_score(fp_probs, tp_probs, lesions, images, at=(0.25, 0.5, 1, 2, 4, 8)):
    """Mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives an image, linearly interpolated (CAMELYON16's rule).

    Arguments as in `froc`. A number `at` gives the sensitivity there. Without lesions or images: nan.
    """
    return float(np.mean(np.interp(at, *froc(fp_probs, tp_probs, lesions, images))))
