"""How modalities and classes lie in the shared space; also called through `stats`."""
import numpy as np
import pandas as pd
from scipy.special import comb

from ..config import Problem
from .inputs import numbers, plain


def unit(z):
    """(N, D) rows scaled to length 1; a row of zeros stays zero."""
    z = numbers(z, "Embeddings")
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)


def _alike(*embeddings):
    """Embeddings as finite arrays of (N, D) with one D, or `Problem`."""
    embeddings = [numbers(z, "Embeddings") for z in embeddings]
    for z in embeddings:
        if z.ndim != 2 or z.shape[1] != embeddings[0].shape[1] or not np.isfinite(z).all():
            shapes = ", ".join(str(z.shape) for z in embeddings)
            raise Problem(f"Embeddings must be (N, D) with one D and finite; these are {shapes}.")
    return embeddings


def intra_pair_similarity(z_m, z_p):
    """Mean cosine between the two embeddings of a patient. z_m, z_p: (N, D), row i of both is patient i.

    No pairs: nan.
    """
    z_m, z_p = _alike(z_m, z_p)
    if len(z_m) != len(z_p):
        raise Problem(f"{len(z_m)} and {len(z_p)} embeddings are no pairs; give both of every patient.")
    return float((unit(z_m) * unit(z_p)).sum(1).mean()) if len(z_m) else np.nan


def modality_gap(z_m, z_p):
    """Distance between the modalities' mean directions on the unit sphere, 0 to 2 (Liang et al. 2022).

    z_m: (N, D), z_p: (M, D). Without embeddings of both: nan.
    """
    z_m, z_p = _alike(z_m, z_p)
    if not len(z_m) or not len(z_p):
        return np.nan
    return float(np.linalg.norm(unit(z_m).mean(0) - unit(z_p).mean(0)))


def retrieval(z_m, z_p, ids_m=None, ids_p=None, ks=(1, 5, 10)):
    """How well a mammogram finds its tissue among all tissue, by cosine: a dict, chance beside each share.

    rank      share of the wrong tissue that stands before the right one, ties half: 0 is best, 0.5 is chance
    r_at_k    share of the mammograms with right tissue among the first k; chance_at_k: that of random order
    pair_gain mean cosine of pairs less that of all others, since the cosine of pairs alone is no yardstick:
              it falls as the features spread
    patients  how many mammograms ask, and tissues: among how many they choose

    z_m (N, D), z_p (M, D); row i of both is patient i or, with `ids_m` (N,) and `ids_p` (M,), equal numbers
    are right. Fewer than two candidates, or nothing wrong among them: nan.
    """
    z_m, z_p = _alike(z_m, z_p)
    ids_m = np.arange(len(z_m)) if ids_m is None else np.asarray(ids_m)
    ids_p = np.arange(len(z_p)) if ids_p is None else np.asarray(ids_p)
    if ids_m.shape != z_m.shape[:1] or ids_p.shape != z_p.shape[:1]:
        raise Problem(f"{len(z_m)} and {len(z_p)} embeddings do not go with {len(ids_m)} and {len(ids_p)} "
                      "numbers of patients; give one for each row.")
    right = ids_m[:, None] == ids_p
    asked = right.any(1) & ~right.all(1)
    right = right[asked]
    cosine = (unit(z_m)[asked] @ unit(z_p).T).round(12)      # equal embeddings stay ties
    values = {"rank": np.nan, "pair_gain": np.nan, "patients": int(asked.sum()), "tissues": len(z_p)}
    if asked.any():
        values["rank"] = float(np.mean([_before(*row) for row in zip(cosine, right)]))
        values["pair_gain"] = float(cosine[right].mean() - cosine[~right].mean())
    best = np.where(right, cosine, -np.inf).max(1, keepdims=True, initial=-np.inf)
    ties = cosine == best
    for k in ks:
        left = k - (cosine > best).sum(1)                    # places that the better ones leave
        hit = _drawn((ties & ~right).sum(1), (ties & right).sum(1), left)
        chance = _drawn((~right).sum(1), right.sum(1), k)
        values[f"r_at_{k}"] = float(hit.mean()) if len(hit) else np.nan
        values[f"chance_at_{k}"] = float(chance.mean()) if len(hit) else np.nan
    return values


def _before(cosine, right):
    """Share of the wrong ones that stand before a right one, ties half. cosine, right: (M,)."""
    wrong = np.sort(cosine[~right])
    higher = len(wrong) - np.searchsorted(wrong, cosine[right], "right")
    ties = len(wrong) - np.searchsorted(wrong, cosine[right], "left") - higher
    return (higher + ties / 2).mean() / len(wrong)


def _drawn(wrong, right, k):
    """Probability that k of `wrong` + `right` things, drawn at random, hold a right one."""
    k = np.clip(k, 0, wrong + right)
    return 1 - comb(wrong, k) / comb(wrong + right, k)


def _clusters(z, labels):
    """(N, D) embeddings and (N,) labels, or `Problem`; and whether 2 to N - 1 labels are different."""
    z, = _alike(z)
    labels = plain(labels)
    if labels.shape != z.shape[:1] or pd.isna(labels).any():
        raise Problem(f"Embeddings {z.shape} and labels {labels.shape} do not go together; "
                      "give one label for each row, without NaN.")
    return z, labels, 2 <= len(set(labels.tolist())) < len(labels)


def silhouette(z, labels):
    """Mean silhouette coefficient, -1 to 1, Euclidean. Needs 2 to N - 1 labels, else nan."""
    from sklearn.metrics import silhouette_score
    z, labels, defined = _clusters(z, labels)
    return float(silhouette_score(z, labels)) if defined else np.nan


def davies_bouldin(z, labels):
    """Davies-Bouldin index, lower is better separated. Needs 2 to N - 1 labels, else nan."""
    from sklearn.metrics import davies_bouldin_score
    z, labels, defined = _clusters(z, labels)
    return float(davies_bouldin_score(z, labels)) if defined else np.nan
