"""Values as the plain arrays that a measure needs, or `Problem` with what is wrong."""
import numpy as np
import pandas as pd

from ..config import Problem

ROUNDING = 1e-6         # by how much sums of probabilities in single precision miss 0 or 1


def plain(values):
    """`values` as a NumPy array of a plain type; None and pandas' NA are NaN.

    Raises `Problem` for a tensor that has a gradient or lies on a GPU, and for rows of different lengths.
    """
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise Problem(f"These values are no plain array ({first_line}); "
                      "give one number for each row, and of a tensor .detach().float().cpu().") from None
    if array.dtype != object:
        return array
    filled = pd.Series(np.where(pd.isna(array), np.nan, array).ravel(), dtype=object)
    return filled.infer_objects().to_numpy().reshape(array.shape)


def numbers(values, what):
    """`values` as an array of floats; None and pandas' NA are NaN. Raises `Problem`, which calls them `what`,
    for text and dates."""
    array = plain(values)
    if array.dtype.kind in "biuf":
        return array.astype(float)
    try:
        if array.dtype != object or any(isinstance(value, str) for value in array.ravel()):
            raise TypeError
        return array.astype(float)
    except (TypeError, ValueError, RuntimeError):
        raise Problem(f"{what} must be numbers; drop or convert the others.") from None


def finite(values, what):
    """`numbers` without NaN or infinities, or `Problem`."""
    array = numbers(values, what)
    if not np.isfinite(array).all():
        raise Problem(f"{what} must be finite; drop those that are NaN or infinite, "
                      "or find out where they come from.")
    return array


def zero_or_one(values):
    """Whether every one of the values is 0 or 1 (or a boolean)."""
    return whole(values) and bool(np.isin(values, (0, 1)).all())


def whole(values):
    """Whether all of the values are whole numbers (or booleans)."""
    if values.dtype.kind != "f":
        return values.dtype.kind in "biu"
    return bool((np.isfinite(values) & (values == np.round(values))).all())


def binary(y, p, runs=False):
    """(N,) labels 0/1 as booleans and (N,) scores as floats, or `Problem`.

    runs: scores may be (N, S), one column per run.
    """
    y, p = plain(y), numbers(p, "Scores")
    dimensions = (1, 2) if runs else (1,)
    if y.ndim != 1 or p.ndim not in dimensions or len(y) != len(p):
        raise Problem(f"Labels {y.shape} and scores {p.shape} do not go together; "
                      "give one score for each label.")
    if len(y) and not zero_or_one(y):
        raise Problem("Labels must be 0 or 1; drop the rows whose label is open or NaN.")
    if np.isnan(p).any():
        raise Problem("Scores hold NaN; drop those rows or find out where they come from.")
    return y.astype(bool), p


def probabilities(y, p, runs=False):
    """As `binary`, of scores that are probabilities: from 0 to 1, but for rounding, which is cut off."""
    y, p = binary(y, p, runs)
    if p.size and (p.min() < -ROUNDING or p.max() > 1 + ROUNDING):
        raise Problem("These must be probabilities, between 0 and 1; pass scores through a sigmoid first.")
    return y, np.clip(p, 0, 1)


def shares(p, what):
    """(N, K) probabilities of K classes that sum to 1 in every row, or `Problem`, which calls them `what`."""
    p = finite(p, what)
    if p.ndim != 2 or (p < 0).any() or (np.abs(p.sum(1) - 1) > 1e-3).any():
        raise Problem(f"{what} {p.shape} must be (N, K), not negative, and sum to 1 in every row; "
                      "pass logits through a softmax first.")
    return p


def classes(y, p):
    """(N,) whole numbers from 0 to K - 1 that go with p (N, K), or `Problem`."""
    y = plain(y)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise Problem(f"Classes {y.shape} and scores {p.shape} do not go together; "
                      "give one class and K scores for each case.")
    if len(y) and (y.dtype.kind not in "biuf" or not np.isin(y, np.arange(p.shape[1])).all()):
        raise Problem(f"Classes must be 0 to {p.shape[1] - 1}; drop the rows whose class is open or NaN.")
    return y.astype(int)


def labels_alike(*labels):
    """Labels of (N,) cases from several sources: whole numbers from all or names from all; else `Problem`."""
    labels = [plain(values) for values in labels]
    missing = any(pd.isna(values).any() for values in labels)
    if missing or any(values.ndim != 1 or values.shape != labels[0].shape for values in labels):
        raise Problem("Labels must have one length, be no columns, and hold no NaN: give one of every source "
                      "for each case.")
    of_numbers = any(values.dtype.kind in "biuf" for values in labels)
    if of_numbers and not all(map(whole, labels)):
        raise Problem("Labels are whole numbers, or names in all sources; "
                      "call probabilities at a threshold first.")
    return labels


def patients(groups, rows):
    """The sorted names of the patients, and for each of the rows the number of its patient, or `Problem`."""
    groups = plain(groups)
    if groups.shape != (rows,) or pd.isna(groups).any():
        raise Problem("Give the patient of every row, without NaN.")
    try:
        return np.unique(groups, return_inverse=True)
    except TypeError:
        raise Problem("Some patients are named by text and some by numbers; name all in one way.") from None


def events(event):
    """1 (seen) and 0 (censored) as booleans, or `Problem`."""
    event = plain(event)
    if event.size and not zero_or_one(event):
        raise Problem("An event is 1 (seen) or 0 (censored); recode other codes, as 1 and 2 or words, "
                      "and drop the rows where it is open or NaN.")
    return event.astype(bool)
