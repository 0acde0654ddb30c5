"""What a trivial reader gets from the same images: the yardstick for how hard a cohort is."""
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .cohort import malignant
from .config import DOMAINS
from .stats import auc


def thumbnails(rows, images, side=16):
    """(N, side * side [* 3]) block means in [0, 1] of the images of rows of one modality."""
    pixels = images.gather(rows).astype(np.float32) / 255
    step = pixels.shape[1] // side
    pixels = pixels[:, :side * step, :side * step].reshape(len(pixels), side, step, side, step, -1)
    return pixels.mean((2, 4)).reshape(len(pixels), -1)


def pixel_regression(table, images, domain):
    """AUC of malignant against not of a logistic regression on 16 x 16 pixels: "same site" by five folds of patients, "other site"
    trained on the other domain of the modality without this domain's patients."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    known = table[~np.isnan(malignant(table.allowed))]
    here = known[known.domain == domain]
    other = next(d for d in DOMAINS if d != domain and DOMAINS[d] == DOMAINS[domain])
    there = known[(known.domain == other) & ~known.patient.isin(here.patient)]
    x, y = thumbnails(here, images), malignant(here.allowed)
    p = cross_val_predict(model, x, y, groups=here.patient, cv=GroupKFold(5), method="predict_proba")[:, 1]
    model.fit(thumbnails(there, images), malignant(there.allowed))
    return {"same site": auc(y, p), "other site": auc(y, model.predict_proba(x)[:, 1])}
