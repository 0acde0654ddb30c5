"""What would it take? Patients that a domain needs before two methods can be told apart on it, by simulation.

The paper reports a domain gap of .03 for its own method and of .06 to .10 for others. At an equal AUC on the
sources, that is .03 to .07 on the same patients of the unseen domain. `stats.delong` is the test.
"""
import numpy as np
import pandas as pd
from scipy.stats import norm

from .. import stats

DIFFERENCES = (0.03, 0.05, 0.07)         # .06, .08, .10 less .03
PATIENTS = (50, 100, 200, 400, 800, 1600)
AUC = 0.90                               # on the unseen domain, of the better method
TOGETHER = 0.6                           # correlation of the two methods' scores within a class
SIZES = {                                # patients, or where none are named, images, of the public sets
    "INbreast": 115, "BACH (images)": 400, "CAMELYON16 (slides)": 399, "CBIS-DDSM": 1566,
}


def scores(rng, patients, aucs, prevalence):
    """(y (N,), scores (N, 2)) of two methods with these AUCs: normal in each class, of deviation 1."""
    y = np.arange(patients) < round(prevalence * patients)
    covariance = [[1, TOGETHER], [TOGETHER, 1]]
    noise = rng.multivariate_normal([0, 0], covariance, patients)
    return y, noise + y[:, None] * np.sqrt(2) * norm.ppf(aucs)


def power(difference, patients, draws=200, prevalence=0.4, seed=42):
    """Share of simulated domains on which DeLong's test gives p < .05."""
    rng = np.random.default_rng([seed, patients, round(1000 * difference)])
    seen = 0
    for _ in range(draws):
        y, s = scores(rng, patients, (AUC, AUC - difference), prevalence)
        seen += stats.delong(y, s[:, 0], s[:, 1]).p < 0.05
    return seen / draws


def table(draws=200):
    """Power by difference and number of patients; columns difference, patients, power, draws."""
    rows = []
    for difference in DIFFERENCES:
        for patients in PATIENTS:
            rows.append((difference, patients, power(difference, patients, draws), draws))
    return pd.DataFrame(rows, columns=["difference", "patients", "power", "draws"])


def needed(powers, wanted=0.8):
    """The patients at which the power passes `wanted`, on a straight line over log patients between two
    numbers; NaN where the largest number does not do. One row per difference, and how many each set has."""
    rows = []
    for difference, group in powers.groupby("difference"):
        enough = np.flatnonzero(group.power >= wanted)
        log_n = np.log(group.patients.to_numpy())
        patients = np.nan
        if len(enough):
            k = max(enough[0], 1)
            share = np.interp(wanted, group.power.to_numpy()[k - 1:k + 1], (0, 1))
            patients = round(float(np.exp(log_n[k - 1] + share * (log_n[k] - log_n[k - 1]))))
        rows.append({"difference": difference, "patients_needed": patients, **SIZES})
    return pd.DataFrame(rows)


def power_law(n, values):
    """(a, b) of 1 - value = a n^-b, a straight line through the logarithms, by least squares.

    n (K,) patients learnt from, values (K,) below 1.
    """
    slope, height = np.polyfit(np.log(n), np.log(1 - np.asarray(values)), 1)
    return float(np.exp(height)), float(-slope)
