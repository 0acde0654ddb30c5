"""The bootstrap of AUC by patient, 1,000 resamples, as ratios in one process: `stats.bootstrap` against a loop over scikit-learn's
roc_auc_score on the same resamples, whose intervals must agree. Prints a table and writes build/bench_stats.json."""
import numpy as np
import told
from sklearn.metrics import roc_auc_score

from xmodal import stats
from xmodal.metrics import weighted

RESAMPLES, REPEATS = 1000, 3


def cases(patients, images=2, seed=42):
    """Labels, scores and patients: `images` of each patient, a third of them with disease, at an AUC of about .8."""
    rng = np.random.default_rng([seed, patients])
    patient = np.repeat(np.arange(patients), images)
    y = (rng.random(patients) < 1 / 3)[patient].astype(int)
    return y, y + rng.normal(0, 0.85, len(y)), patient


def ours(y, p, patient):
    return stats.bootstrap(stats.auc, y, p, patient, RESAMPLES)[1:3]


def loop(y, p, patient):
    """The same draws of patients as stats.bootstrap, row by row into scikit-learn."""
    names, group = np.unique(patient, return_inverse=True)
    taken = (np.repeat(np.arange(len(y)), counts[group]) for counts in weighted.draws(len(names), RESAMPLES))
    return np.percentile([roc_auc_score(y[rows], p[rows]) for rows in taken], (2.5, 97.5))


def rows():
    found = []
    for patients in (50, 200, 1000):
        given = cases(patients)
        assert np.allclose(ours(*given), loop(*given), rtol=0, atol=1e-12), "the two intervals differ"
        found.append(told.compare(f"roc_auc_score in a loop / bootstrap, {patients} patients", lambda: told.seconds(ours, *given),
                                  lambda: told.seconds(loop, *given), REPEATS, at_least=50))
    return found


if __name__ == "__main__":
    told.tell(rows(), "bench_stats")
