"""Which genes are read: recursive feature elimination on the training patients, united with a curated list."""
import logging
from pathlib import Path

import numpy as np
from sklearn.feature_selection import RFECV
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from ..config import Problem

log = logging.getLogger(__name__)


def read_list(path):
    """The gene symbols of a text file, one a line; lines that begin with # are remarks. Raises `Problem` if there are none."""
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except OSError as error:
        raise Problem(f"The gene list {path} cannot be read ({error.strerror}); correct the path.") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise Problem(f"The gene list {path} names no gene; write one symbol a line.")
    return found


CURATED = read_list(Path(__file__).with_name("breast_genes.txt"))
LUNG = read_list(Path(__file__).with_name("lung_genes.txt"))


def select(expression, label, curated=CURATED, seed=42, step=0.1, least=10):
    """Genes to keep, in the order of the columns: those of five-fold recursive elimination (Eq. 2-3: lowest squared coefficient of a
    linear model first, `step` of all genes at a time) and those curated. MIRROR, section III-A.

    expression: DataFrame (N, G) of training patients only, else the test patients have helped to choose; label: (N,) classes.
    Curated genes that the matrix lacks are logged.
    """
    scaled = StandardScaler().fit_transform(check(expression))
    model = LinearSVC(C=0.01, random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    chosen = RFECV(model, step=step, cv=folds, min_features_to_select=min(least, expression.shape[1])).fit(scaled, label).support_
    lacking = set(curated) - set(expression)
    if lacking:
        log.warning("%d of %d curated genes are not in the matrix: %s.", len(lacking), len(curated), ", ".join(sorted(lacking)[:5]))
    return list(expression.columns[chosen | expression.columns.isin(curated)])


def check(expression):
    """`expression` if it can be read; raises `Problem` for a gene that is there twice and for a value that is not finite."""
    if expression.columns.has_duplicates:
        twice = expression.columns[expression.columns.duplicated()][0]
        raise Problem(f"The gene {twice} has two columns in the expression matrix; keep one.")
    bad = ~np.isfinite(expression.to_numpy(float)).all(0)
    if bad.any():
        raise Problem(f"The gene {expression.columns[bad][0]} has values that are not finite; drop it or fill them in.")
    return expression


def take(expression, genes):
    """The columns `genes` of a matrix, in this order. Raises `Problem` that names the genes it lacks."""
    lacking = [g for g in genes if g not in expression.columns]
    if lacking:
        raise Problem(f"The expression matrix lacks {len(lacking)} of the {len(genes)} genes that the model reads, among them "
                      f"{lacking[0]}; add them, or choose genes and train again.")
    return check(expression[genes])
