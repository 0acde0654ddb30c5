"""Measures of retrieval, of two ends together, of written reports; differences over repeated folds."""
from collections import Counter
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from ..config import Problem
from ..metrics.inputs import numbers


def ranks(similarity):
    """(N, N) similarities of N queries to N items, where item i answers query i -> (N,) ranks from 1.

    Items that are as similar as the answer share their mean rank, so that a constant gives the rank of
    chance.
    """
    similarity = numbers(similarity, "Similarities")
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise Problem(f"Retrieval needs as many items as queries, not a table of shape {similarity.shape}; "
                      "give row i the answer in column i.")
    if not np.isfinite(similarity).all():
        raise Problem("A similarity is not a number; look at the embeddings that it was computed from.")
    answer = np.diag(similarity)[:, None]
    return 1 + (similarity > answer).sum(1) + ((similarity == answer).sum(1) - 1) / 2


def retrieval(similarity):
    """{"R@1", "R@5", "R@10" (percent), "MedR", "MeanR", "n"} of a table as in `ranks`, R@k by `hits`."""
    rank = ranks(similarity)
    recall = {f"R@{k}": 100 * float(hits(similarity, k).mean()) for k in (1, 5, 10)}
    return {**recall, "MedR": float(np.median(rank)), "MeanR": float(rank.mean()), "n": len(rank)}


def hits(similarity, k):
    """(N,) probability that the answer of each query is among the first k.

    Items that are as similar as the answer are taken to stand in random order.
    """
    first = ranks(similarity)
    similarity = numbers(similarity, "Similarities")
    ties = (similarity == np.diag(similarity)[:, None]).sum(1)
    first = first - (ties - 1) / 2                                  # the best rank that the ties allow
    return np.clip((k + 1 - first) / ties, 0, 1)


def chance(n):
    """What `retrieval` is expected to give for random order."""
    recall = {f"R@{k}": 100 * min(k / n, 1.0) for k in (1, 5, 10)}
    return {**recall, "MedR": (n + 1) / 2, "MeanR": (n + 1) / 2, "n": n}


def harmonic(high, low):
    """Harmonic mean; 0 where either value is 0, NaN where either is NaN. Raises `Problem` for values below 0
    and infinities."""
    high = numbers(high, "Values")
    low = numbers(low, "Values")
    if (high < 0).any() or (low < 0).any() or np.isinf(high).any() or np.isinf(low).any():
        raise Problem("A harmonic mean is of values that are finite and not below 0.")
    total = high + low
    return np.where(total == 0, 0.0, 2 * high * low / np.where(total == 0, 1, total))


def ngrams(tokens, n):
    """Counter of the runs of n consecutive tokens."""
    return Counter(tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1))


def bleu(candidates, references, n=4):
    """Corpus BLEU of lists of words against one reference each (Papineni et al. 2002).

    The geometric mean of clipped 1- to n-gram precisions times the brevity penalty; 0 where an order has no
    match.
    """
    matches = np.zeros(n)
    totals = np.zeros(n)
    for candidate, reference in zip(candidates, references, strict=True):
        for k in range(n):
            written = ngrams(candidate, k + 1)
            matches[k] += sum((written & ngrams(reference, k + 1)).values())
            totals[k] += sum(written.values())
    length = sum(map(len, candidates))
    wanted = sum(map(len, references))
    if not length or not matches.all():
        return 0.0
    return float(np.exp(np.log(matches / totals).mean() + min(0.0, 1 - wanted / length)))


def longest_common(a, b):
    """Length of the longest common subsequence of two lists."""
    row = [0] * (len(b) + 1)
    for x in a:
        corner = 0
        for j, y in enumerate(b):
            longest = corner + 1 if x == y else max(row[j + 1], row[j])
            corner = row[j + 1]
            row[j + 1] = longest
    return row[-1]


def rouge_l(candidates, references):
    """ROUGE-L (Lin 2004): mean F1 of the longest common subsequence of each list and its reference."""
    scores = []
    for candidate, reference in zip(candidates, references, strict=True):
        length = len(candidate) + len(reference)
        scores.append(2 * longest_common(candidate, reference) / length if length else 1.0)
    return float(np.mean(scores))


class FoldMean(NamedTuple):
    """The mean of paired differences over repeated folds, with its 95 % interval."""
    difference: float
    low: float
    high: float
    runs: int


def over_folds(differences, folds=5):
    """`FoldMean` of differences (N,), one for each run of repeated cross-validation with so many folds.

    Folds share training patients, so that Student's t of independent runs would be too sure; the variance of
    the mean is taken as (1 / N + 1 / (folds - 1)) times that of a run (Nadeau and Bengio 2003). Fewer than
    two runs: no interval (nan).
    """
    differences = numbers(differences, "Differences")
    n = len(differences)
    mean = float(differences.mean())
    if n < 2:
        return FoldMean(mean, np.nan, np.nan, n)
    error = differences.std(ddof=1) * (1 / n + 1 / (folds - 1)) ** 0.5
    margin = float(student.ppf(0.975, n - 1) * error)
    return FoldMean(mean, mean - margin, mean + margin, n)
