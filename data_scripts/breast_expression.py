"""Public breast cancer expression with survival, in packages that install by name.

The packages are GPL and not part of the run time: they come with the test extra. Where they are not
installed, `load` raises a `Problem` that says so.

    desmedt   198 patients, 76 probes (Desmedt et al. 2007), in scikit-survival; time to distant metastasis
    nki295    295 patients, 4,919 genes (van de Vijver et al. 2002), in survset as DBCD; overall survival
"""
from typing import NamedTuple

import pandas as pd

from xmodal.config import Problem

MONTH = 30.4375     # days


class Expression(NamedTuple):
    """N patients."""
    genes: pd.DataFrame    # (N, G)
    time: pd.Series        # (N,) months
    event: pd.Series       # (N,) 1 where the event was seen, 0 where the patient was censored


def load(name):
    """`Expression` of "desmedt" or "nki295"."""
    readers = {"desmedt": _desmedt, "nki295": _nki295}
    if name not in readers:
        raise Problem(f"There is no expression set {name!r}; choose one of {', '.join(readers)}.")
    try:
        return readers[name]()
    except ImportError as error:
        raise Problem(f"{name} comes with the package {error.name}, which is GPL and not installed; "
                      "install the project with its test extra.") from None


def _desmedt():
    from sksurv.datasets import load_breast_cancer
    table, outcome = load_breast_cancer()
    genes = table.filter(regex="_at$")
    return Expression(genes, pd.Series(outcome["t.tdm"] / MONTH), pd.Series(outcome["e.tdm"].astype(int)))


def _nki295():
    from SurvSet.data import SurvLoader
    table = SurvLoader().load_dataset("DBCD")["df"]
    return Expression(table.filter(regex="^num_"), table.time * 12, table.event)     # its time is in years
