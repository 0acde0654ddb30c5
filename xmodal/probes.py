"""Linear readers of a frozen encoder: what its features tell of patients whom it has not seen."""
import numpy as np
import pandas as pd
import torch
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .cohort import malignant
from .config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES
from .loaders import sweep
from .metrics.embeddings import retrieval as between
from .model import pool
from .stats import auc

SHRINKAGE = np.logspace(-1, 5, 13)     # of ridge regression, chosen by leave-one-out on the training patients
SHARED = 8                             # canonical directions in which two modalities are compared
GROUPS = 50                            # random groups of patients among whom tissue is looked for


def features(model, table, images):
    """(rows, D) pooled tokens of an encoder as it is, in the order of `table`."""
    out = np.empty((len(table), model.encoder.embed_dim), np.float32)
    position = pd.Series(np.arange(len(table)), index=table.index)
    where = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        for rows, x in sweep(table, images):
            (modality, pixels), = x.items()
            out[position[rows.index]] = pool(model.tokens(pixels.to(where), modality)).cpu().numpy()
    return out


def diagnosis(z, table, train):
    """{modality: AUC of malignant against not} of logistic regression on features z, held-back patients.

    train: bool (rows,), the rows it is fitted on.
    """
    y = malignant(table.allowed)
    scores = {}
    for modality in MODALITIES:
        mine = (table.modality == modality).to_numpy() & ~np.isnan(y)
        reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        reader.fit(z[mine & train], y[mine & train])
        scores[modality] = auc(y[mine & ~train], reader.decision_function(z[mine & ~train]))
    return scores


def attributes(z, table, values, train):
    """{(modality, attribute): correlation of ridge regression's prediction with the truth}, held-back
    patients.

    values: one row per row of `table`, NaN where an image has none of an attribute.
    """
    scores = {}
    for modality in MODALITIES:
        for name in values:
            y = values[name].to_numpy(float)
            mine = (table.modality == modality).to_numpy() & ~np.isnan(y)
            if not mine.any():
                continue
            reader = make_pipeline(StandardScaler(), RidgeCV(SHRINKAGE)).fit(z[mine & train], y[mine & train])
            test = mine & ~train
            scores[modality, name] = float(np.corrcoef(reader.predict(z[test]), y[test])[0, 1])
    return scores


def retrieval(z, table, train, among=70, seed=0):
    """How well a linear reader finds a held-back patient's tissue from the mammograms.

    Features are averaged for each patient and modality, reduced to their principal components, and brought
    together by canonical correlation on the training patients. Returns what `metrics.embeddings.retrieval`
    does, averaged over random groups of `among` patients.
    """
    of_m, of_p, names = patient_means(z, table)
    in_train = np.isin(names, table.patient[train])
    size = min(32, in_train.sum() // 4, z.shape[1])
    pairs = []
    for part in (of_m, of_p):
        reduce = make_pipeline(StandardScaler(), PCA(size, random_state=0))
        pairs.append(reduce.fit(part[in_train]).transform(part))
    cca = CCA(min(SHARED, pairs[0].shape[1]), max_iter=5000).fit(pairs[0][in_train], pairs[1][in_train])
    a, b = cca.transform(pairs[0][~in_train], pairs[1][~in_train])
    rng = np.random.default_rng(seed)
    measured = []
    for _ in range(GROUPS):
        group = rng.permutation(len(a))[:among]
        measured.append(between(a[group], b[group]))
    return pd.DataFrame(measured).mean().to_dict()


def patient_means(z, table):
    """Features (K, D) of the mammograms and of the tissue of the K patients who have both, and their
    names."""
    by = pd.DataFrame(z).groupby([table.patient.to_numpy(), table.modality.to_numpy()]).mean()
    of_m, of_p = (by.xs(modality, level=1) for modality in (MAMMOGRAPHY, HISTOPATHOLOGY))
    names = of_m.index.intersection(of_p.index)
    return of_m.loc[names].to_numpy(), of_p.loc[names].to_numpy(), names.to_numpy()
