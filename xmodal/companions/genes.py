"""Which genes are read: recursive elimination on the training patients, united with a curated list."""
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
    """The gene symbols of a text file, one per line; lines that begin with # are comments.

    Raises `Problem` if there are none.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except OSError as error:
        raise Problem(f"The gene list {path} cannot be read ({error.strerror}); correct the path.") from None
    genes = [line for line in lines if line and not line.startswith("#")]
    if not genes:
        raise Problem(f"The gene list {path} names no gene; write one symbol a line.")
    return genes


CURATED = read_list(Path(__file__).with_name("breast_genes.txt"))
LUNG = read_list(Path(__file__).with_name("lung_genes.txt"))


def select(expression, label, curated=CURATED, seed=42, step=0.1, least=10):
    """The genes to keep, in the order of the columns: chosen by elimination, or curated.

    Five-fold recursive elimination (Eq. 2-3) drops the genes with the lowest squared coefficients of a linear
    model first, `step` of all genes at a time. MIRROR, section III-A.

    expression: DataFrame (N, G) of training patients only; otherwise test patients would help to choose.
    label: (N,) classes. Curated genes that the matrix lacks are logged.
    """
    scaled = StandardScaler().fit_transform(check(expression))
    model = LinearSVC(C=0.01, random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    elimination = RFECV(model, step=step, cv=folds, min_features_to_select=min(least, expression.shape[1]))
    chosen = elimination.fit(scaled, label).support_
    lacking = sorted(set(curated) - set(expression))
    if lacking:
        first = ", ".join(lacking[:5])
        log.warning("%d of %d curated genes are not in the matrix: %s.", len(lacking), len(curated), first)
    return list(expression.columns[chosen | expression.columns.isin(curated)])


def check(expression):
    """`expression`, unchanged. Raises `Problem` for a gene with two columns or a value that is not finite."""
    if expression.columns.has_duplicates:
        twice = expression.columns[expression.columns.duplicated()][0]
        raise Problem(f"The gene {twice} has two columns in the expression matrix; keep one.")
    bad = ~np.isfinite(expression.to_numpy(float)).all(0)
    if bad.any():
        first = expression.columns[bad][0]
        raise Problem(f"The gene {first} has values that are not finite; drop it or fill them in.")
    return expression


def take(expression, genes):
    """The columns `genes` of a matrix, in this order. Raises `Problem` for a gene that the matrix lacks."""
    lacking = [g for g in genes if g not in expression.columns]
    if lacking:
        raise Problem(f"The expression matrix lacks {len(lacking)} of the {len(genes)} genes that the model "
                      f"reads, among them {lacking[0]}; add them, or choose genes and train again.")
    return check(expression[genes])
