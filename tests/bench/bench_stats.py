"""The bootstrap of AUC by patient, 1,000 resamples, as ratios in one process.

`stats.bootstrap` against a loop over scikit-learn's roc_auc_score on the same resamples; the intervals of
both must agree. Prints a table and writes build/bench_stats.json.
"""
from functools import partial

import numpy as np
import ratios
from sklearn.metrics import roc_auc_score

from xmodal import stats
from xmodal.metrics import weighted

RESAMPLES = 1000
REPEATS = 3


def cases(patients, images=2, seed=42):
    """(labels, scores, patients): `images` of each patient, a third of them diseased, an AUC of about .8."""
    rng = np.random.default_rng([seed, patients])
    patient = np.repeat(np.arange(patients), images)
    y = (rng.random(patients) < 1 / 3)[patient].astype(int)
    return y, y + rng.normal(0, 0.85, len(y)), patient


def ours(y, p, patient):
    return stats.bootstrap(stats.auc, y, p, patient, RESAMPLES)[1:3]


def loop(y, p, patient):
    """The same draws of patients as in stats.bootstrap, row by row into scikit-learn."""
    names, group = np.unique(patient, return_inverse=True)
    aucs = []
    for counts in weighted.draws(len(names), RESAMPLES):
        taken = np.repeat(np.arange(len(y)), counts[group])
        aucs.append(roc_auc_score(y[taken], p[taken]))
    return np.percentile(aucs, (2.5, 97.5))


def rows():
    made = []
    for patients in (50, 200, 1000):
        sample = cases(patients)
        assert np.allclose(ours(*sample), loop(*sample), rtol=0, atol=1e-12), "the two intervals differ"
        made.append(ratios.compare(f"roc_auc_score in a loop / bootstrap, {patients} patients",
                                   partial(ratios.seconds, ours, *sample),
                                   partial(ratios.seconds, loop, *sample), REPEATS, at_least=50))
    return made


if __name__ == "__main__":
    ratios.report(rows(), "bench_stats")
