"""What a trivial reader gets from the images: logistic regression on 16 x 16 pixels."""
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..cohort import malignant
from ..config import DOMAINS
from ..stats import auc

FEWEST = 5      # patients of a class, below which nothing is learned


def pixel_regression(table, images, domain):
    """AUC of malignant against not, of a logistic regression on 16 x 16 pixels: {"same site", "other site"}.

    "same site": by five folds of the domain's patients. "other site": trained on the other domain of the
    modality, without this domain's patients. NaN where there are fewer than `FEWEST` patients of a class to
    learn from.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    known = table[~np.isnan(malignant(table.allowed))]
    rows = known[known.domain == domain]
    x = thumbnails(rows, images)
    y = malignant(rows.allowed)
    scores = {"same site": np.nan, "other site": np.nan}
    if enough(rows):
        folds = GroupKFold(5)
        p = cross_val_predict(model, x, y, groups=rows.patient, cv=folds, method="predict_proba")[:, 1]
        scores["same site"] = auc(y, p)
    other = next(d for d in DOMAINS if d != domain and DOMAINS[d] == DOMAINS[domain])
    elsewhere = known[(known.domain == other) & ~known.patient.isin(rows.patient)]
    if enough(elsewhere) and len(rows):
        model.fit(thumbnails(elsewhere, images), malignant(elsewhere.allowed))
        scores["other site"] = auc(y, model.predict_proba(x)[:, 1])
    return scores


def enough(rows):
    """Whether both classes, malignant and not, have `FEWEST` patients or more."""
    y = malignant(rows.allowed)
    return all(rows.patient[y == c].nunique() >= FEWEST for c in (0, 1))


def thumbnails(rows, images, side=16):
    """(N, side * side [* 3]) block means in [0, 1] of the images of rows of one modality."""
    pixels = images.gather(rows).astype(np.float32) / 255
    step = pixels.shape[1] // side
    pixels = pixels[:, :side * step, :side * step].reshape(len(pixels), side, step, side, step, -1)
    return pixels.mean((2, 4)).reshape(len(pixels), -1)
