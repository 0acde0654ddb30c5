"""Measures of retrieval, of two ends together, and of written reports: numpy and lists of words in, numbers out."""
from collections import Counter

import numpy as np

from ..config import Problem


def ranks(similarity):
    """(N, N) similarities of N queries to N items, item i being the answer to query i -> (N,) ranks from 1.

    Items that are as similar as the answer share their mean rank, so that a constant gives the rank of chance.
    """
    similarity = np.asarray(similarity, float)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise Problem(f"Retrieval needs as many items as queries, not a table of shape {similarity.shape}; give row i the answer in column i.")
    if not np.isfinite(similarity).all():
        raise Problem("A similarity is not a number; look at the embeddings that it was computed from.")
    own = np.diag(similarity)[:, None]
    return 1 + (similarity > own).sum(1) + ((similarity == own).sum(1) - 1) / 2


def retrieval(similarity):
    """{"R@1", "R@5", "R@10" (percent), "MedR", "MeanR", "n"} of a table as in `ranks`, R@k by `hits`."""
    r = ranks(similarity)
    return {**{f"R@{k}": 100 * float(hits(similarity, k).mean()) for k in (1, 5, 10)}, "MedR": float(np.median(r)), "MeanR": float(r.mean()),
            "n": len(r)}


def hits(similarity, k):
    """(N,) probability that the answer of each query is among the first k, where items as similar as it stand in random order."""
    similarity = np.asarray(similarity, float)
    ties = (similarity == np.diag(similarity)[:, None]).sum(1)
    first = ranks(similarity) - (ties - 1) / 2                              # the best rank that the ties allow
    return np.clip((k + 1 - first) / ties, 0, 1)


def chance(n):
    """What `retrieval` expects of random order."""
    return {**{f"R@{k}": 100 * min(k / n, 1.0) for k in (1, 5, 10)}, "MedR": (n + 1) / 2, "MeanR": (n + 1) / 2, "n": n}


def harmonic(high, low):
    """Harmonic mean; 0 where either is 0."""
    high, low = np.asarray(high, float), np.asarray(low, float)
    return np.where(high + low > 0, 2 * high * low / np.maximum(high + low, 1e-12), 0.0)


def ngrams(words, n):
    return Counter(tuple(words[i:i + n]) for i in range(len(words) - n + 1))


def bleu(candidates, references, n=4):
    """Corpus BLEU of lists of words against one reference each: geometric mean of clipped 1- to n-gram precisions, times the brevity
    penalty (Papineni et al. 2002). 0 where an order has no match."""
    hits, totals = np.zeros(n), np.zeros(n)
    for said, meant in zip(candidates, references, strict=True):
        for k in range(n):
            mine = ngrams(said, k + 1)
            hits[k] += sum((mine & ngrams(meant, k + 1)).values())
            totals[k] += sum(mine.values())
    length, wanted = sum(map(len, candidates)), sum(map(len, references))
    if not length or not hits.all():
        return 0.0
    return float(np.exp(np.log(hits / totals).mean() + min(0.0, 1 - wanted / length)))


def longest_common(a, b):
    """Length of the longest common subsequence of two lists."""
    row = [0] * (len(b) + 1)
    for x in a:
        corner = 0
        for j, y in enumerate(b):
            corner, row[j + 1] = row[j + 1], corner + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]


def rouge_l(candidates, references):
    """ROUGE-L: mean F1 of the longest common subsequence of each list of words and its reference (Lin 2004)."""
    scores = [2 * longest_common(a, b) / (len(a) + len(b)) if len(a) + len(b) else 1.0 for a, b in zip(candidates, references, strict=True)]
    return float(np.mean(scores))
