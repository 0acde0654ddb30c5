"""Which genes are read: recursive elimination on the training patients, united with a curated list."""
import logging
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
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


def select(expression, label, curated=CURATED, seed=42, least=10):
    """The genes to keep, in the order of the columns: chosen by elimination, or curated.

    Recursive elimination (Eq. 2-3): of a linear model's genes those with the lowest squared coefficients are
    dropped, a tenth at a time, down to `least`. Five folds of the patients say how many genes are best; where
    several numbers are, the smallest. MIRROR, section III-A.

    expression: DataFrame (N, G) of the patients whose labels may be used, and of no others, or these would
    help to choose. label: (N,) classes. Curated genes that the matrix lacks are logged. Raises `Problem`
    where a class has fewer than two patients.
    """
    label = np.asarray(label)
    members = np.unique(label, return_counts=True)[1].min()
    if members < 2:
        raise Problem("Genes cannot be chosen for a class with one patient; give at least two of each class.")
    values = check(expression).to_numpy(float)
    sizes = numbers_of_genes(values.shape[1], least)
    right = np.zeros(len(sizes))
    parts = StratifiedKFold(min(5, members), shuffle=True, random_state=seed)
    for train, held_back in parts.split(values, label):
        for k, (genes, model) in enumerate(eliminate(values[train], label[train], sizes, seed)):
            right[k] += (model.predict(values[held_back][:, genes]) == label[held_back]).sum()
    best = len(sizes) - 1 - right[::-1].argmax()
    *_, (genes, _) = eliminate(values, label, sizes[:best + 1], seed)
    lacking = sorted(set(curated) - set(expression))
    if lacking:
        first = ", ".join(lacking[:5])
        log.warning("%d of %d curated genes are not in the matrix: %s.", len(lacking), len(curated), first)
    chosen = np.isin(np.arange(values.shape[1]), genes)
    return list(expression.columns[chosen | expression.columns.isin(curated)])


def numbers_of_genes(genes, least, share=0.1):
    """The numbers of genes that elimination tries: all, and each time `share` fewer, down to `least`."""
    sizes = [genes]
    while sizes[-1] > least:
        sizes.append(max(min(int(sizes[-1] * (1 - share)), sizes[-1] - 1), least))
    return sizes


def eliminate(values, label, sizes, seed):
    """Yields (numbers of the genes, model fitted on them) for each of the falling `sizes`.

    values (N, G), label (N,). Genes are scaled by these patients.
    """
    def fitted(genes):
        model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=seed))
        return model.fit(values[:, genes], label)
    genes = np.arange(values.shape[1])
    model = fitted(genes)
    for size in sizes:
        if size < len(genes):
            importance = (model[-1].coef_ ** 2).sum(0)                   # Eq. 2
            genes = np.sort(genes[np.argsort(-importance, kind="stable")[:size]])
            model = fitted(genes)
        yield genes, model


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
