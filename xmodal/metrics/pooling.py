"""From the scores of a slide's tiles to the score of the slide."""
import numpy as np
import pandas as pd
from scipy.special import logsumexp

from ..config import Problem
from .inputs import finite


def _by_slide(scores, slides):
    """The scores as a Series grouped by slide. Raises `Problem` where they do not go together."""
    scores = finite(scores, "Scores").ravel()
    if len(scores) != len(slides):
        raise Problem(f"{len(scores)} scores and {len(slides)} names of slides do not go together; "
                      "give each tile the name of its slide.")
    return pd.Series(scores).groupby(np.asarray(slides))


def top_mean(scores, slides, k=2):
    """Series {slide: mean of its `k` highest scores}, or of all where it has fewer tiles."""
    if k < 1:
        raise Problem(f"A mean of the top {k} tiles has no value; take at least 1.")
    return _by_slide(scores, slides).agg(_mean_of_highest, k)


def _mean_of_highest(scores, k):
    return np.sort(scores)[-k:].mean()


def log_mean_exp(scores, slides, sharpness=8.0):
    """Series {slide: log of the mean of exp(sharpness * score), divided by sharpness}.

    It lies between the mean of the scores (sharpness near 0) and the highest (large sharpness). No weight is
    learnt.
    """
    if not sharpness > 0:
        raise Problem(f"A sharpness of {sharpness} does not lie between mean and maximum; take one above 0.")
    return _by_slide(scores, slides).agg(_log_mean_exp, sharpness)


def _log_mean_exp(scores, sharpness):
    return (logsumexp(sharpness * scores) - np.log(len(scores))) / sharpness
