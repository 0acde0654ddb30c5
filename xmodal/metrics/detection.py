"""Where is the lesion?

Overlap of boxes and masks, average precision, free-response curves; also called through `stats`.

Boxes are x0, y0, x1, y1 in pixels. `marks` and `truth` are lists with one entry per image: its marks (F, 5),
each a box and its score, and its lesions (L, 4). An image without marks or lesions has an empty entry.
"""
from typing import NamedTuple

import numpy as np

from ..config import Problem
from .inputs import finite, numbers, plain, zero_or_one


def _area(box):
    return np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1)


def iou(a, b):
    """Intersection over union of boxes (..., 4) as x0, y0, x1, y1.

    A missing (NaN) box or two empty ones: nan.
    """
    a, b = numbers(a, "Boxes"), numbers(b, "Boxes")
    if np.isinf(a).any() or np.isinf(b).any():
        raise Problem("Boxes must be finite; a box that is missing is NaN.")
    if a.shape[-1:] != (4,) or b.shape[-1:] != (4,):
        raise Problem(f"A box is x0, y0, x1, y1; {a.shape} and {b.shape} do not end in 4.")
    upper_left = np.maximum(a[..., :2], b[..., :2])
    lower_right = np.minimum(a[..., 2:], b[..., 2:])
    intersection = _area(np.concatenate([upper_left, lower_right], axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = intersection / (_area(a) + _area(b) - intersection)
    return overlap if overlap.ndim else float(overlap)


def dice(a, b):
    """Dice overlap of two boolean masks of one shape. Both empty: nan, as no lesion could be met."""
    a, b = plain(a), plain(b)
    if a.shape != b.shape or a.size and not (zero_or_one(a) and zero_or_one(b)):
        raise Problem(f"Masks must have one shape and hold 0 and 1 only; these are {a.shape} and {b.shape}.")
    a, b = a.astype(bool), b.astype(bool)
    if not a.any() and not b.any():
        return np.nan
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# ---- average precision ---------------------------------------------------------------------------------

def _images(marks, truth):
    """For each image its marks, best first, its lesions, and their overlap (F, L), or `Problem`."""
    if len(marks) != len(truth):
        raise Problem(f"Marks of {len(marks)} images and lesions of {len(truth)} do not go together; "
                      "an image without any has an empty entry.")
    for own_marks, own_lesions in zip(marks, truth):
        own_marks = finite(own_marks, "Marks")
        own_lesions = finite(own_lesions, "Lesions")
        if own_marks.size % 5 or own_lesions.size % 4:
            raise Problem(f"Marks {own_marks.shape} must be (F, 5), boxes with a score, and lesions "
                          f"{own_lesions.shape} (L, 4); an image without any has an empty entry.")
        own_marks = own_marks.reshape(-1, 5)
        own_lesions = own_lesions.reshape(-1, 4)
        best_first = np.lexsort((*own_marks[:, :4].T, -own_marks[:, 4]))    # ties by place
        own_marks = own_marks[best_first]
        yield own_marks, own_lesions, iou(own_marks[:, None, :4], own_lesions[None])


def _hits(overlap, at):
    """(F, L) overlaps, the best mark first -> (F,) booleans: whether a mark has a lesion of its own.

    Each mark takes the free lesion that it meets best, with an overlap of at least `at`.
    """
    overlap = overlap.copy()
    hit = np.zeros(len(overlap), bool)
    if not overlap.size:
        return hit
    for mark in range(len(overlap)):
        lesion = np.nanargmax(np.append(overlap[mark], -1))
        if lesion < overlap.shape[1] and overlap[mark, lesion] >= at:
            hit[mark] = True
            overlap[:, lesion] = -1
    return hit


def box_average_precision(marks, truth, at=0.5):
    """Average precision of marks at an IoU of `at`: the area under the interpolated precision-recall curve.

    As in the VOC challenge from 2010 on.
    marks, truth: see the top of this file. A lesion counts once, for the best mark on it; further marks on it
    are false. Marks of one score enter together. Without lesions: nan; without marks: 0.
    """
    images = list(_images(marks, truth))
    lesions = sum(len(boxes) for _, boxes, _ in images)
    if not lesions:
        return np.nan
    score = np.concatenate([own_marks[:, 4] for own_marks, _, _ in images])
    hit = np.concatenate([_hits(overlap, at) for _, _, overlap in images])
    precision, recall = precision_recall(score, hit, lesions)
    return float((np.diff(recall, prepend=0) * precision).sum())


def precision_recall(score, hit, lesions):
    """(T,) interpolated precision and (T,) recall, one point per threshold, the strictest first.

    score (M,) of every mark, hit (M,) whether it is on a lesion of its own, lesions: their number. The
    precision is the best at this recall or a higher one. Marks of one score enter together. Without marks
    both are empty.
    """
    thresholds, which = np.unique(-np.asarray(score, float), return_inverse=True)
    true_marks = np.cumsum(np.bincount(which, hit, len(thresholds)))
    all_marks = np.cumsum(np.bincount(which, np.ones(len(hit)), len(thresholds)))
    precision = np.maximum.accumulate((true_marks / all_marks)[::-1])[::-1]
    return precision, true_marks / lesions


# ---- free response -------------------------------------------------------------------------------------

class Marks(NamedTuple):
    fp_probs: np.ndarray    # (F,) scores of the marks outside every lesion
    tp_probs: np.ndarray    # (L,) best score of a mark on each lesion, 0 where it has no mark
    lesions: int
    images: int


def free_response(marks, truth, at=0.5):
    """What `froc_score` needs, as in `froc_score(*free_response(...))`.

    marks, truth: see the top of this file; scores are above 0. A mark that meets a lesion with an IoU of `at`
    is on it; several marks on a lesion are no error (CAMELYON16's rule).
    """
    fp_probs, tp_probs = [], []
    for own_marks, _, overlap in _images(marks, truth):
        score = own_marks[:, 4]
        if (score <= 0).any():
            raise Problem("A mark needs a score above 0, as 0 says that a lesion was missed.")
        on_lesion = np.nan_to_num(overlap) >= at
        fp_probs.append(score[~on_lesion.any(1)])
        tp_probs.append(np.max(np.where(on_lesion, score[:, None], 0), axis=0, initial=0))
    fp_probs = np.concatenate([*fp_probs, []])
    tp_probs = np.concatenate([*tp_probs, []])
    return Marks(fp_probs, tp_probs, len(tp_probs), len(truth))


class FROC(NamedTuple):
    false_positives: np.ndarray     # (K,) per image, rising
    sensitivity: np.ndarray         # (K,) share of the lesions that were met


def froc(fp_probs, tp_probs, lesions, images):
    """The free-response curve, one point per threshold from the strictest on; the first is 0, 0.

    fp_probs: scores of the marks outside every lesion; tp_probs: the best score of each lesion, 0 where it
    was missed; lesions, images: their numbers. Without lesions or images: nan.
    """
    fp_probs = finite(fp_probs, "Scores").ravel()
    tp_probs = finite(tp_probs, "Scores").ravel()
    met = (tp_probs > 0).sum()
    if met > lesions or (fp_probs < 0).any() or (tp_probs < 0).any():
        raise Problem(f"{met} of {lesions} lesions are found, or scores are below 0; "
                      "give each lesion's best score, 0 where missed.")
    if not lesions or not images:
        return FROC(np.array([np.nan]), np.array([np.nan]))
    thresholds = np.unique(np.concatenate([fp_probs, tp_probs]))
    thresholds = np.append(thresholds[thresholds > 0], np.inf)[::-1]        # score 0: the lesion was missed
    false_positives = len(fp_probs) - np.searchsorted(np.sort(fp_probs), thresholds)
    met = len(tp_probs) - np.searchsorted(np.sort(tp_probs), thresholds)
    return FROC(false_positives / images, met / lesions)


def froc_score(fp_probs, tp_probs, lesions, images, at=(0.25, 0.5, 1, 2, 4, 8)):
    """Mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives per image (CAMELYON16's rule).

    The curve is interpolated linearly. Arguments as in `froc`. A number `at` gives the sensitivity there.
    Without lesions or images: nan.
    """
    curve = froc(fp_probs, tp_probs, lesions, images)
    return float(np.mean(np.interp(at, curve.false_positives, curve.sensitivity)))
