"""The cohort table, one row per image: schema, label sets, splits by patient, pairing."""
import hashlib
import json
import logging
import math

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pyarrow import ArrowException

from .config import CLASSES, DOMAINS, MODALITIES, PRETRAINING, Problem, domain
from .runtime.bounds import read_parquet

log = logging.getLogger(__name__)

NODES = ("camelyon",)      # domains whose tissue is of lymph nodes: the diagnosis is that of the breast
LESION_TYPES = ("", "mass", "calcification", "distortion", "asymmetry")

# What `data_scripts.<dataset>.index(root)` returns: one row per native image or slide.
INDEX = pa.DataFrameSchema({
    # a unique name, which begins with the domain
    "sample": pa.Column(str, unique=True),
    # unique over all domains: the same string means the same person
    "patient": pa.Column(str),
    "study": pa.Column(str),
    "domain": pa.Column(str, pa.Check.isin({**DOMAINS, **PRETRAINING})),
    "modality": pa.Column(str, pa.Check.isin(MODALITIES)),
    "view": pa.Column(str, pa.Check.isin(("", "CC", "MLO", "FB"))),
    "laterality": pa.Column(str, pa.Check.isin(("", "L", "R"))),
    # bit c is set where the dataset's label allows class c
    "allowed": pa.Column(int, pa.Check.in_range(1, 15)),
    # reference diagnosis, -1 unknown; for evaluation only, never for training
    "truth": pa.Column(int, pa.Check.in_range(-1, 3)),
    # ordered severity where the label fixes it, else -1
    "grade": pa.Column(int, pa.Check.in_range(-1, 3)),
    "density": pa.Column(str, pa.Check.isin(("", "A", "B", "C", "D"))),
    "lesion_type": pa.Column(str, pa.Check.isin(LESION_TYPES)),
    # mass shape and margin, or calcification distribution, as free text
    "lesion_shape": pa.Column(str),
    # of the largest lesion, in millimetres
    "diameter_mm": pa.Column(float, nullable=True),
    # JSON: {"masks": [paths]}, {"polygons": [...], "exclude": [...]}, with "partial": true where not every
    # tumour is outlined, or {"classes": {class: outlines}}
    "annotation": pa.Column(str),
    # path of the native file
    "source": pa.Column(str),
}, strict="filter", coerce=True)

# The door to training: the index, and where the pixels of each row lie.
COHORT = INDEX.add_columns({
    # position in images/<domain>.npy and masks/<domain>.npy
    "index": pa.Column(int, pa.Check.ge(0)),
    # True where lesion pixels were annotated
    "has_mask": pa.Column(bool),
    # JSON list of [x0, y0, x1, y1], in pixels of the stored image
    "boxes": pa.Column(str),
    # pixel spacing of the stored image; NaN where the native file gives none
    "mm_per_px": pa.Column(float, nullable=True),
    # sha256 of the native file, a space, and that of the pixels (and the mask) that were made of it
    "checksum": pa.Column(str),
    # what the label of the whole file allows; of a tile, `allowed` is its own label
    "file_allowed": pa.Column(int, pa.Check.in_range(1, 15)),
    # how a tile was chosen: "blind", or "outline" by what is outlined on its slide, for training only
    "drawn": pa.Column(str, pa.Check.isin(("blind", "outline"))),
    # share of a tile that is outlined tumour; NaN where nothing says it
    "tumour": pa.Column(float, nullable=True),
    # centre of a tile, in pixels of its slide's finest level, as outlines are
    "tile_x": pa.Column(float, nullable=True),
    "tile_y": pa.Column(float, nullable=True),
    # micrometres a pixel of that level
    "slide_mpp": pa.Column(float, nullable=True),
})

# The columns of a tile for an image that is none.
NO_TILE = {"drawn": "blind", **dict.fromkeys(("tumour", "tile_x", "tile_y", "slide_mpp"), float("nan"))}

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
    """`table` with the schema's columns and types. Raises `Problem` naming the first wrong column."""
    try:
        table = schema.validate(table)
    except (pa.errors.SchemaError, pa.errors.SchemaErrors) as error:
        first_line = str(error).splitlines()[0]
        raise Problem(f"The {where} does not fit its schema ({first_line}); "
                      "write it again with 02_preprocess.") from None
    off = table[table.modality != table.domain.map({**DOMAINS, **PRETRAINING})]
    if len(off):
        first = off.iloc[0]
        raise Problem(f"The {where} lists {first['sample']} as {first.modality}, which its domain is not; "
                      "check the index of that dataset.")
    return table


def load(path):
    """The checked cohort table at `path` (a cohort.parquet). Raises `Problem` if it is missing or damaged."""
    try:
        table = read_parquet(path)
    except FileNotFoundError:
        raise Problem(f"There is no cohort at {path}; "
                      "run 01_download and 02_preprocess first (or `make reproduce`).") from None
    except Problem:
        raise
    except (OSError, ValueError, ArrowException) as error:
        raise Problem(f"The cohort at {path} cannot be read ({error}); "
                      "delete it and run 02_preprocess again.") from None
    return validate(table, where=f"cohort at {path}")


MADE_WITH = ("image_size", "tile_um", "tiles_per_slide")   # of a profile; made.json beside a cohort has them


def made_otherwise(folder, profile):
    """In what the cohort in `folder` differs from what `profile` asks: "image_size 96, not 128"; else ""."""
    path = folder / "made.json"
    made = json.loads(path.read_text()) if path.exists() else {}
    asked = {name: getattr(profile, name) for name in MADE_WITH if name in made}
    return ", ".join(f"{name} {made[name]}, not {v}" for name, v in asked.items() if made[name] != v)


# ---- label sets --------------------------------------------------------------------------------------------

def label_set(*classes):
    """Bit mask of the classes (numbers or names) that a dataset's label allows.

    label_set(2, 3) says that the image is malignant, and no more than that.
    """
    mask = 0
    for c in classes:
        number = CLASSES.index(c) if isinstance(c, str) else int(c)
        mask |= 1 << number
    return mask


def allowed_matrix(masks):
    """(N,) bit masks -> (N, 4) booleans."""
    return (np.asarray(masks, dtype=np.int64)[:, None] >> np.arange(len(CLASSES)) & 1).astype(bool)


def malignant(masks):
    """(N,) bit masks -> (N,) 1.0 where only malignant classes are allowed, 0.0 where none is, else NaN."""
    allowed = allowed_matrix(masks)
    may_be_benign = allowed[:, :2].any(1)
    may_be_malignant = allowed[:, 2:].any(1)
    return np.where(may_be_malignant & may_be_benign, np.nan, may_be_malignant.astype(float))


def of_breast(allowed, domains):
    """(N,) bit masks of what labels of these domains say of the patient's breast: a lymph node with a
    metastasis says that the carcinoma is invasive, one without says nothing.
    """
    allowed = np.asarray(allowed, dtype=np.int64)
    free_node = np.isin(np.asarray(domains), NODES) & (malignant(allowed) != 1)
    return np.where(free_node, label_set(*CLASSES), allowed)


# ---- splits ------------------------------------------------------------------------------------------------

def check_splits(table):
    """Raises `Problem` if a patient is in two splits; returns `table`."""
    splits = table.groupby("patient")["split"].nunique()
    torn = splits.index[splits > 1]
    if len(torn):
        raise Problem(f"{len(torn)} patients are in two splits, the first is {torn[0]!r}; "
                      "split by patient (cohort.leave_one_out does).")
    return table


def leave_one_out(table, held_out, seed, shares=(0.6, 0.2, 0.2), train_share=1.0):
    """The rows of a leave-one-domain-out fold, with a column `split`.

    Every row of `held_out` is "target". The patients of the other domains go to "train", "validation" and
    "source test" by `shares`, stratified by the domains they come from and by malignancy. Rows that a target
    patient has in other domains are left out, so that no patient is on both sides; `.attrs["left_out"]` is
    their number. Tiles that were drawn by outline are for training only and are dropped elsewhere. With a
    `train_share` below 1 only that share of each stratum's training patients stays, always the same ones
    first (Fig. 3 l).
    """
    domain(held_out)
    if held_out not in set(table.domain):
        present = ", ".join(sorted(set(table.domain)))
        raise Problem(f"The cohort has no rows of {held_out!r}; it has {present}.")
    target = table.domain == held_out
    source = ~target & ~table.patient.isin(table.patient[target])
    split = draw_splits(table[source], seed, shares, train_share)
    fold = table[target | source].copy()
    fold["split"] = np.where(target[fold.index], "target", fold.patient.map(split))
    left_out = int((~target & ~source).sum())
    if "drawn" in fold:                                    # rows of an index are files and have no tiles yet
        fold = fold[(fold.drawn == "blind") | (fold.split == "train")]
    fold.attrs["left_out"] = left_out
    log.info("%d rows that patients of %s have in other domains are left out.", left_out, held_out)
    return check_splits(fold[fold.split.notna()].reset_index(drop=True))


def draw_splits(table, seed, shares, train_share):
    """{patient: split} of the source patients, drawn from the seed in each stratum; see `leave_one_out`."""
    label = table.get("file_allowed", table.allowed)
    rows = table.assign(malignant=malignant(label))
    people = rows.groupby("patient").agg(
        domains=("domain", lambda names: "+".join(sorted(set(names)))),
        malignant=("malignant", "max"),
    )
    rng = np.random.default_rng(seed)
    split = {}
    for _, stratum in people.groupby(["domains", "malignant"], dropna=False):
        names = rng.permutation(np.array(sorted(stratum.index)))
        cuts = np.floor(np.cumsum(shares)[:-1] * len(names) + rng.random()).astype(int)
        train, validation, test = np.split(names, cuts)
        train = train[:math.ceil(train_share * len(train))]
        split |= dict.fromkeys(train, "train")
        split |= dict.fromkeys(validation, "validation")
        split |= dict.fromkeys(test, "source test")
    return split


def fingerprint(table):
    """16 hexadecimal digits that change with a cohort's rows and values, not with where its files lie."""
    values = table.drop(columns=["source", "annotation"])
    rows = pd.util.hash_pandas_object(values, index=False)
    return hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()[:16]


# ---- pairing -----------------------------------------------------------------------------------------------

def patients_with_both(table):
    """Names of the patients who have images of both modalities, as a set."""
    modalities = table.groupby("patient")["modality"].nunique()
    return set(modalities.index[modalities > 1])


def partners(table, seed=42):
    """{mammography patient: whose tissue stands beside the mammogram}.

    Patients with both modalities are their own partners. Where no patient has both, each patient whose label
    says malignant or not gets one of the other modality of whom the same is said, drawn by the seed, and of
    the same split where the table has splits: then nobody's own tissue is shown, only tissue of the same
    label, and whatever is drawn from it says "pairs by label".
    """
    both = patients_with_both(table)
    if both:
        return {patient: patient for patient in sorted(both)}
    label = malignant(table.get("file_allowed", table.allowed))
    people = table.assign(malignant=label, split=table.get("split", ""))
    people = people.groupby(["modality", "patient"]).agg({"malignant": "max", "split": "first"}).reset_index()
    rng = np.random.default_rng(seed)
    partner = {}
    for _, group in people.groupby(["split", "malignant"]):
        of_m, of_p = (sorted(group.patient[group.modality == modality]) for modality in MODALITIES)
        if of_p:
            tissue = rng.permutation(of_p)
            partner |= {patient: str(tissue[k % len(tissue)]) for k, patient in enumerate(of_m)}
    return partner


def unseen_partners(table, held_out, seed):
    """`partners` for the mammograms of a domain that training did not see: where they are pairs by label, the
    tissue is that of patients of the source test, whom it did not see either."""
    if pairing(table) == "patient":
        return partners(table)
    fold = leave_one_out(table, held_out, seed)
    return partners(fold[fold.split.isin(("source test", "target"))].drop(columns="split"))


def pairing(table):
    """What a positive pair shares in a table: "patient" if any patient has both modalities, else "label"."""
    return "patient" if patients_with_both(table) else "label"


# ---- reports -----------------------------------------------------------------------------------------------

def counts(table):
    """Numbers of patients and images, one row per domain (and split, where the table has splits)."""
    by = ["domain", "split"] if "split" in table else ["domain"]
    return table.groupby(by).agg(patients=("patient", "nunique"), images=("sample", "size")).reset_index()
