"""How modalities and classes lie in the shared space; also called through `stats`."""
import numpy as np
import pandas as pd

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
