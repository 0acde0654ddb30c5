"""The phantom's patients: one row of latent factors per patient, from which both modalities are drawn.

The ranges are chosen to be sensible, not estimated from any data: spiculated masses are mostly invasive,
clustered calcifications often in situ, circumscribed masses mostly benign, and every factor overlaps between
the classes.
"""
import hashlib

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from xmodal.config import DOMAINS

from .dials import Dials, marks, neighbour, with_prevalence

PAIRS = (("cbis_ddsm", "bach"), ("cbis_ddsm", "camelyon"), ("inbreast", "bach"), ("inbreast", "camelyon"))
SINGLES = (("cbis_ddsm", ""), ("inbreast", ""), ("", "bach"), ("", "camelyon"))
# The columns of registry.csv, which has one row per native patient.
REGISTRY = ["domain", "native_patient", "patient", "diagnosis", "diameter_mm"]

# Shares of normal, benign, in situ, invasive. CBIS-DDSM has no normal patients: its rows are abnormalities.
# Whose lymph node is in CAMELYON has no carcinoma in situ, which reaches no node (`OF_NODES`).
MIX = {"cbis_ddsm": (0.0, 0.46, 0.25, 0.29), "inbreast": (0.35, 0.21, 0.19, 0.25), "": (0.2, 0.3, 0.22, 0.28)}
OF_NODES = {"cbis_ddsm": (0.0, 0.5, 0.0, 0.5), "inbreast": (0.35, 0.21, 0.0, 0.44), "": (0.2, 0.3, 0.0, 0.5)}

TYPES = ("mass", "calcification", "distortion", "asymmetry")
TYPE_SHARE = {1: (0.58, 0.24, 0.06, 0.12), 2: (0.26, 0.56, 0.09, 0.09), 3: (0.58, 0.15, 0.17, 0.10)}
SHAPES = {"mass": ("circumscribed", "lobulated", "irregular", "spiculated"),
          "calcification": ("cluster", "scatter"), "distortion": ("",), "asymmetry": ("",), "": ("",)}
MASS_SHARE = {1: (0.48, 0.30, 0.16, 0.06), 2: (0.16, 0.28, 0.34, 0.22), 3: (0.06, 0.16, 0.33, 0.45)}
CLUSTER_SHARE = {1: 0.35, 2: 0.78, 3: 0.75}
MEDIAN_MM = {1: 8.5, 2: 13.0, 3: 17.5}             # of the largest diameter, log-normal, cut to 3-30 mm

# Mean of each latent in the four classes, and its standard deviation within a class.
LATENTS = {"cellularity": ((0.22, 0.38, 0.58, 0.70), 0.14),    # lesion contrast; nuclear density
           "spread": ((0.12, 0.25, 0.40, 0.68), 0.15),         # spiculation; cords infiltrating the stroma
           "calcification": ((0.12, 0.30, 0.58, 0.42), 0.18)}  # also luminal calcification, necrosis

# Factors of the whole breast, whatever the diagnosis, each uniform in [0, 1].
FACTORS = ("glandularity",     # share of glandular tissue and not fat, in both modalities
           "fibrosis",         # strands across the breast; dense collagen
           "nodularity",       # clumps of glandular tissue; many lobules
           "inflammation")     # thick skin; lymphocytes in the stroma
DENSITY_BORDERS = (0.14, 0.50, 0.84)     # of glandularity, between BI-RADS A, B, C and D


def generator(seed, *names):
    """A random generator that depends on `seed` and the names only: patients can be drawn in any order."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.default_rng([int(seed), *np.frombuffer(digest[:16], dtype="<u4").tolist()])


def cohort(seed, pairs=60, singles=8, dials=Dials(), of_nodes=OF_NODES):
    """The phantom's patients, one row each: `pairs` patients in each of the four pairs of domains, with both
    modalities, and `singles` patients in each domain with one modality only. `dials` gives the share of
    malignant patients at the target and how many labels are wrong.

    Columns: patient ("P0001"), diagnosis (0-3, config.CLASSES), mammo_domain and histo_domain ("" if none),
    density (A-D), lesion_type and lesion_shape ("" if normal), diameter_mm (NaN if normal, else 3-30),
    laterality (L, R); `FACTORS`; severity (a real number near diagnosis / 3, overlapping between classes),
    cellularity, spread, calcification; breast_size, lesion_depth (0 nipple, 1 chest wall), lesion_height
    (0 top, 1 bottom): all in [0, 1]; label (0-3, the diagnosis that the patient's labels are of); marked
    (no patient is; see `at_site`).

    of_nodes: the shares of the diagnoses of those whose histology is a lymph node's, like `MIX`.
    A writer of native files takes such rows and returns its part of registry.csv: a list of dicts with
    `REGISTRY`.
    """
    counts = [(sites, pairs) for sites in PAIRS]
    counts += [(sites, singles) for sites in SINGLES]
    rows = []
    for (mammo, histo), count in counts:
        rng = generator(seed, "patients", mammo, histo)
        mix = (of_nodes if histo == "camelyon" else MIX)[mammo]
        malignant = dials.prevalence if dials.target in (mammo, histo) else float("nan")
        for diagnosis in _diagnoses(rng, with_prevalence(mix, malignant), count):
            rows.append({"mammo_domain": mammo, "histo_domain": histo, **one_patient(rng, diagnosis)})
    table = pd.DataFrame(rows)
    table.insert(0, "patient", [f"P{i:04d}" for i in range(1, len(table) + 1)])
    table["label"] = _labels(table.diagnosis, dials.label_noise, generator(seed, "labels"))
    table["marked"] = False
    return table


def _labels(diagnoses, noise, rng):
    """The diagnoses, of which a share `noise` become that of a neighbouring class."""
    labels = diagnoses.to_numpy().copy()
    for i in rng.permutation(len(labels))[:round(noise * len(labels))]:
        labels[i] = neighbour(labels[i], rng)
    return labels


def _diagnoses(rng, shares, count):
    """`count` diagnoses with the given shares, rounded by largest remainder, in random order."""
    exact = np.array(shares) * count
    whole = np.floor(exact).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[:count - whole.sum()]] += 1
    return [int(d) for d in rng.permutation(np.repeat(np.arange(4), whole))]


def one_patient(rng, diagnosis):
    """The latent factors of one patient with the given diagnosis."""
    drive = rng.normal()                              # the patient's place in the class; the latents share it
    latent = {}
    for name, (mean, sd) in LATENTS.items():
        latent[name] = float(np.clip(mean[diagnosis] + sd * (0.7 * drive + 0.7 * rng.normal()), 0, 1))
    kind = shape = ""
    diameter = np.nan
    if diagnosis:
        kind = str(rng.choice(TYPES, p=TYPE_SHARE[diagnosis]))
        cluster = CLUSTER_SHARE[diagnosis]
        share = {"mass": MASS_SHARE[diagnosis], "calcification": (cluster, 1 - cluster)}
        shape = str(rng.choice(SHAPES[kind], p=share.get(kind)))
        diameter = round(float(np.clip(MEDIAN_MM[diagnosis] * np.exp(0.5 * rng.normal()), 3, 30)), 1)
    factors = dict(zip(FACTORS, rng.random(len(FACTORS)).tolist()))
    density = "ABCD"[int(np.searchsorted(DENSITY_BORDERS, factors["glandularity"]))]
    laterality = str(rng.choice(["L", "R"]))
    severity = float(np.clip((diagnosis + 0.5 * drive) / 3, 0, 1))
    return {"diagnosis": diagnosis, "density": density, "lesion_type": kind, "lesion_shape": shape,
            "diameter_mm": diameter, "laterality": laterality, "severity": severity, **latent, **factors,
            "breast_size": float(rng.random()), "lesion_depth": float(rng.random()),
            "lesion_height": float(rng.random())}


def at_site(table, site, seed, dials=Dials()):
    """The patients of `table` who have images at `site`, as its modality shows them (see `shown`); `marked`
    are those who carry the mark there."""
    mine = table[(table.mammo_domain == site) | (table.histo_domain == site)].reset_index(drop=True)
    mine = shown(mine, DOMAINS[site], seed, dials)
    rng = generator(seed, "marks", site)
    mine["marked"] = marks(mine.diagnosis > 1, dials.shortcut_of(site), rng)
    return mine


def shown(table, modality, seed, dials=Dials()):
    """The patients as one modality shows them: `table` with other values of `FACTORS`, each uniform in [0, 1]
    as before, whose normal scores correlate with those of the patients' own by `dials.link`."""
    noise = np.empty((len(table), len(FACTORS)))
    for i, patient in enumerate(table.patient):
        noise[i] = generator(seed, "shown", patient, modality).standard_normal(len(FACTORS))
    seen = table.copy()
    own = ndtri(table[list(FACTORS)].to_numpy(float))
    seen[list(FACTORS)] = ndtr(dials.link * own + np.sqrt(1 - dials.link ** 2) * noise)
    return seen
