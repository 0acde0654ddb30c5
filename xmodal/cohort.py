"""The cohort table: its schema, label sets, patient-level splits, leave-one-domain-out, pairing. A row is an image."""
import hashlib
import logging
import math

import numpy as np
import pandas as pd
import pandera.pandas as pa

from .config import CLASSES, DOMAINS, MODALITIES, PRETRAINING, Problem, domain

log = logging.getLogger(__name__)

LESION_TYPES = ("", "mass", "calcification", "distortion", "asymmetry")
MASS_SHAPES = ("", "circumscribed", "lobulated", "irregular", "spiculated")

# What `data_scripts.<dataset>.index(root)` returns: a row a native image or slide.
INDEX = pa.DataFrameSchema({
    "sample": pa.Column(str, unique=True),            # unique name, begins with the domain
    "patient": pa.Column(str),                        # unique over domains; the same string only for the same person
    "study": pa.Column(str),
    "domain": pa.Column(str, pa.Check.isin({**DOMAINS, **PRETRAINING})),
    "modality": pa.Column(str, pa.Check.isin(MODALITIES)),
    "view": pa.Column(str, pa.Check.isin(("", "CC", "MLO", "FB"))),
    "laterality": pa.Column(str, pa.Check.isin(("", "L", "R"))),
    "allowed": pa.Column(int, pa.Check.in_range(1, 15)),  # bit c is set where the dataset's label allows class c
    "truth": pa.Column(int, pa.Check.in_range(-1, 3)),    # reference diagnosis, -1 unknown; evaluation only, never training
    "grade": pa.Column(int, pa.Check.in_range(-1, 3)),    # ordered severity where the label fixes one, else -1
    "density": pa.Column(str, pa.Check.isin(("", "A", "B", "C", "D"))),
    "lesion_type": pa.Column(str, pa.Check.isin(LESION_TYPES)),
    "lesion_shape": pa.Column(str),                   # mass shape and margin or calcification distribution, free text
    "diameter_mm": pa.Column(float, nullable=True),   # of the largest lesion, millimetres
    "annotation": pa.Column(str),                     # JSON: {"masks": [paths]} or {"polygons": [...], "exclude": [...]}
    "source": pa.Column(str),                         # path of the native file
}, strict="filter", coerce=True)

# The door to training: the index plus where the pixels of each row lie.
COHORT = INDEX.add_columns({
    "index": pa.Column(int, pa.Check.ge(0)),          # position in images/<domain>.npy and masks/<domain>.npy
    "has_mask": pa.Column(bool),                      # True where lesion pixels were annotated
    "boxes": pa.Column(str),                          # JSON list of [x0, y0, x1, y1], pixels of the stored image
    "mm_per_px": pa.Column(float, nullable=True),     # of the stored image; NaN where the file gives no spacing
    "checksum": pa.Column(str),                       # sha256 of the native file
})


# What stands in a column of `INDEX` where a dataset does not say it. The other columns every dataset knows.
UNKNOWN = {
    "study": "", "view": "", "laterality": "", "truth": -1, "grade": -1, "density": "",
    "lesion_type": "", "lesion_shape": "", "diameter_mm": float("nan"), "annotation": "",
}


def index_row(*, sample, patient, domain, modality, allowed, source, **known):
    """One row of `INDEX` as a dict: the values given, and those of `UNKNOWN` in all other columns.

    Raises `Problem` for a keyword that is no column of `INDEX`.
    """
    foreign = sorted(set(known) - set(UNKNOWN))
    if foreign:
        raise Problem(f"The index has no column {foreign[0]!r}; its columns are {', '.join(INDEX.columns)}.")
    required = {"sample": sample, "patient": patient, "domain": domain, "modality": modality,
                "allowed": allowed, "source": source}
    row = UNKNOWN | known | required
    return {column: row[column] for column in INDEX.columns}


def validate(table, schema=COHORT, where="cohort table"):
    """`table` with the schema's columns and types. Raises `Problem` naming the first column that does not fit."""
    try:
        table = schema.validate(table)
    except (pa.errors.SchemaError, pa.errors.SchemaErrors) as error:
        raise Problem(f"The {where} does not fit its schema ({str(error).splitlines()[0]}); write it again with 02_preprocess.") from None
    off = table[(table.modality != table.domain.map({**DOMAINS, **PRETRAINING}))]
    if len(off):
        raise Problem(f"The {where} lists {off['sample'].iloc[0]} as {off.modality.iloc[0]}, which its domain is not; check the index of that dataset.")
    return table


def load(path):
    """The cohort table at `path` (a cohort.parquet), checked. Raises `Problem` if it is missing or damaged."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise Problem(f"There is no cohort at {path}; run 01_download and 02_preprocess first (or `make reproduce`).") from None
    except (OSError, ValueError) as error:
        raise Problem(f"The cohort at {path} cannot be read ({error}); delete it and run 02_preprocess again.") from None
    return validate(table, where=f"cohort at {path}")


# ---- label sets --------------------------------------------------------------------------------------------------

def label_set(*classes):
    """Bit mask of the classes that a dataset's label allows: label_set(2, 3) says malignant, and no more than that."""
    return sum(1 << CLASSES.index(c) if isinstance(c, str) else 1 << int(c) for c in set(classes))


def allowed_matrix(masks):
    """(N,) bit masks -> (N, 4) booleans."""
    return (np.asarray(masks, dtype=np.int64)[:, None] >> np.arange(len(CLASSES)) & 1).astype(bool)


def malignant(masks):
    """(N,) bit masks -> (N,) 1.0 if only malignant classes are allowed, 0.0 if none is, NaN where the label is open."""
    allowed = allowed_matrix(masks)
    bad, good = allowed[:, 2:].any(1), allowed[:, :2].any(1)
    return np.where(bad & good, np.nan, bad.astype(float))


# ---- splits ------------------------------------------------------------------------------------------------------

def check_splits(table):
    """Raises `Problem` if a patient is in two splits; returns `table`."""
    splits = table.groupby("patient")["split"].nunique()
    torn = splits.index[splits > 1]
    if len(torn):
        raise Problem(f"{len(torn)} patients are in two splits, the first is {torn[0]!r}; split by patient (cohort.leave_one_out does).")
    return table


def leave_one_out(table, held_out, seed, shares=(0.6, 0.2, 0.2), train_share=1.0):
    """The rows of a leave-one-domain-out fold, with a column `split`.

    Every row of `held_out` is "target". The other domains' patients go to "train", "validation" and "source test" by
    `shares`, stratified by the domains they come from and by malignancy. Rows that a target patient has in other
    domains are left out, so that no patient is on both sides; `.attrs["left_out"]` counts them. With a `train_share` below 1
    only that share of each stratum's training patients is kept, always the same ones first (Fig. 3 l).
    """
    domain(held_out)
    if held_out not in set(table.domain):
        raise Problem(f"The cohort has no rows of {held_out!r}; it has {', '.join(sorted(set(table.domain)))}.")
    target = table.domain == held_out
    source = ~target & ~table.patient.isin(table.patient[target])
    people = (table[source].assign(malignant=malignant(table.allowed[source]))
              .groupby("patient").agg(domains=("domain", lambda d: "+".join(sorted(set(d)))), malignant=("malignant", "max")))
    rng, split = np.random.default_rng(seed), {}
    for _, stratum in people.groupby(["domains", "malignant"], dropna=False):
        names = rng.permutation(np.array(sorted(stratum.index)))
        cuts = np.floor(np.cumsum(shares)[:-1] * len(names) + rng.random()).astype(int)
        for part, members in zip(("train", "validation", "source test"), np.split(names, cuts)):
            kept = math.ceil(train_share * len(members)) if part == "train" else len(members)
            split.update(dict.fromkeys(members[:kept], part))
    fold = table[target | source].copy()
    fold["split"] = np.where(target[fold.index], "target", fold.patient.map(split))
    fold.attrs["left_out"] = int((~target & ~source).sum())
    log.info("%d rows that patients of %s have in other domains are left out.", fold.attrs["left_out"], held_out)
    return check_splits(fold[fold.split.notna()].reset_index(drop=True))


def fingerprint(table):
    """A short text that is another one for a cohort with other rows or values, wherever its files lie."""
    values = table.drop(columns=["source", "annotation"])
    return hashlib.sha256(pd.util.hash_pandas_object(values, index=False).to_numpy().tobytes()).hexdigest()[:16]


def pairing(table):
    """"patient" if any patient has both modalities, else "label": what a positive pair means in this table."""
    both = table.groupby("patient")["modality"].nunique()
    return "patient" if (both > 1).any() else "label"


def counts(table):
    """Patients and images a domain (rows) and split, for reports."""
    by = ["domain", "split"] if "split" in table else ["domain"]
    return table.groupby(by).agg(patients=("patient", "nunique"), images=("sample", "size")).reset_index()
