"""Reader studies: several readers reading the same cases (Obuchowski-Rockette), and marks on images (FROC). Used through `stats`."""
from typing import NamedTuple

import numpy as np
from scipy import stats as dist

from .config import Problem


class ObuchowskiRockette(NamedTuple):
    f: float            # F statistic of "the modalities have the same mean AUC"
    df: float           # its denominator degrees of freedom (Hillis 2007); the numerator's are modalities - 1
    p: float
    difference: float   # mean AUC of the first modality - of the second (in sorted order), with its 95 % interval
    low: float
    high: float
    var: float          # covariances of the AUCs over cases: same reader, same modality
    cov1: float         # same reader, other modality
    cov2: float         # other reader, same modality
    cov3: float         # other reader, other modality


def _auc_and_jackknife(rating, truth):
    """AUC of one reader and modality, and its (cases,) leave-one-case-out values. Ties count one half."""
    pos, neg = rating[truth], rating[~truth]
    wins = (pos[:, None] > neg).astype(float) + 0.5 * (pos[:, None] == neg)
    m, n, total, left = len(pos), len(neg), wins.sum(), np.empty(len(rating))
    left[truth] = (total - wins.sum(1)) / ((m - 1) * n)
    left[~truth] = (total - wins.sum(0)) / (m * (n - 1))
    return total / (m * n), left


def _ratings(frame):
    """Tidy ratings -> (modalities, readers, cases) ratings and (cases,) booleans; `Problem` unless fully crossed."""
    missing = {"reader", "modality", "case", "truth", "rating"} - set(frame.columns)
    if missing:
        raise Problem(f"The reader table has no column {sorted(missing)[0]!r}; it needs reader, modality, case, truth and rating.")
    cube = frame.pivot_table(index=["modality", "reader"], columns="case", values="rating", aggfunc="mean").sort_index()
    truth = frame.groupby("case")["truth"].agg(["min", "max"]).loc[cube.columns]
    sizes = [len(level) for level in cube.index.levels]
    if len(cube) != np.prod(sizes) or cube.isna().any(axis=None) or frame.duplicated(["modality", "reader", "case"]).any():
        raise Problem("The reader table is not fully crossed; give every reader, modality and case exactly one rating.")
    if (truth["min"] != truth["max"]).any() or truth["max"].sum() < 2 or (truth["max"] == 0).sum() < 2 or min(sizes) < 2:
        raise Problem("The reader table needs one truth a case, two cases of each kind, two readers and two modalities.")
    return cube.to_numpy().reshape(*sizes, -1), truth["max"].to_numpy().astype(bool)


def obuchowski_rockette(frame):
    """Multi-reader multi-case comparison of modalities by empirical AUC, random readers and random cases.

    frame: a row a rating, columns reader, modality, case, truth (0/1), rating (higher: more suspicious); fully crossed.
    Covariances by jackknife over cases; Cov2 - Cov3 enters as max(., 0). `difference` compares the first two modalities.
    Raises `Problem` where a column or a rating is missing. Source: Obuchowski & Rockette 1995; Hillis 2007, 2014.
    """
    ratings, truth = _ratings(frame)
    T, R, n = ratings.shape
    cells = [_auc_and_jackknife(ratings[t, r], truth) for t in range(T) for r in range(R)]
    theta = np.array([a for a, _ in cells]).reshape(T, R)
    cov = np.cov([left for _, left in cells]) * (n - 1) ** 2 / n            # jackknife covariance of the T x R AUCs
    modality, reader = np.divmod(np.arange(T * R), R)
    same_m, same_r = modality[:, None] == modality, reader[:, None] == reader
    var, cov1, cov2, cov3 = (cov[mask].mean() for mask in
                             (same_m & same_r, ~same_m & same_r, same_m & ~same_r, ~same_m & ~same_r))
    by_t, by_r, grand = theta.mean(1, keepdims=True), theta.mean(0, keepdims=True), theta.mean()
    ms_t = R * ((by_t - grand) ** 2).sum() / (T - 1)
    ms_tr = ((theta - by_t - by_r + grand) ** 2).sum() / ((T - 1) * (R - 1))
    error = ms_tr + R * max(cov2 - cov3, 0.0)
    difference = float(by_t[0, 0] - by_t[1, 0])
    if error == 0 or ms_tr == 0:                                            # readers agree to the last digit
        nan = float("nan")
        return ObuchowskiRockette(nan, nan, nan, difference, nan, nan, var, cov1, cov2, cov3)
    df = error ** 2 / (ms_tr ** 2 / ((T - 1) * (R - 1)))
    half = dist.t.ppf(0.975, df) * np.sqrt(2 * error / R)
    f = ms_t / error
    return ObuchowskiRockette(f, df, float(dist.f.sf(f, T - 1, df)), difference, difference - half, difference + half, var, cov1, cov2, cov3)


def froc_score(fp_probs, tp_probs, lesions, images, at=(0.25, 0.5, 1, 2, 4, 8)):
    """Mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives an image, linearly interpolated (CAMELYON16's rule).

    fp_probs: scores of the marks outside every lesion; tp_probs: the best score of each lesion, 0 where it was missed;
    lesions, images: how many there are. A number `at` gives the sensitivity there. Without lesions or images: nan.
    """
    if not lesions or not images:
        return float("nan")
    fp, tp = np.asarray(fp_probs, float).ravel(), np.asarray(tp_probs, float).ravel()
    thresholds = np.unique(np.concatenate([fp, tp]))
    thresholds = np.append(thresholds[thresholds > 0], np.inf)[::-1]        # a lesion with score 0 was not found
    false_positives = (fp >= thresholds[:, None]).sum(1) / images
    sensitivity = (tp >= thresholds[:, None]).sum(1) / lesions
    return float(np.mean(np.interp(at, false_positives, sensitivity)))
