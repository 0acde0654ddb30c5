"""The case descriptions of CBIS-DDSM: four tables with one row for each abnormality, and what their terms say
of a lesion.

The tables of masses and of calcifications name columns differently, end another path of each row with a line
feed inside its quotes, and list crop and mask in another order. The paths are those of no tree that exists;
files are found by the SeriesInstanceUIDs in them.
"""
import logging
import re

import pandas as pd

from data_scripts import tables
from data_scripts.indexing import files_below, plain_number
from xmodal.cohort import label_set
from xmodal.config import Problem

log = logging.getLogger(__name__)
TABLES = ["mass_case_description_train_set.csv", "mass_case_description_test_set.csv",
          "calc_case_description_train_set.csv", "calc_case_description_test_set.csv"]
# The two kinds of table name their columns differently.
RENAME = {
    "breast density": "breast_density", "left or right breast": "side", "image view": "view",
    "abnormality type": "type", "mass shape": "first", "calc type": "first", "mass margins": "second",
    "calc distribution": "second", "image file path": "image", "cropped image file path": "crop",
    "roi mask file path": "mask"}
NEEDED = {"patient_id", "breast_density", "side", "view", "type", "first", "second", "pathology",
          "image", "crop", "mask"}
PATHOLOGY = {
    "BENIGN": label_set("benign"), "BENIGN_WITHOUT_CALLBACK": label_set("benign"),
    "MALIGNANT": label_set("in situ", "invasive")}
# Values that a column may have.
KNOWN = {"pathology": PATHOLOGY, "view": ("CC", "MLO"), "side": ("LEFT", "RIGHT")}
ASYMMETRY = {"ASYMMETRIC_BREAST_TISSUE", "FOCAL_ASYMMETRIC_DENSITY"}


def read_tables(root, left_out=None):
    """The four case descriptions as one table with common column names, one row for each abnormality; "NA"
    stays a string.

    A row whose pathology, side, view, patient or image cannot be told takes its film with it, since the label
    of a film follows from all its abnormalities. These rows are logged, and go to the list `left_out` as
    (table or folder, reason). Raises `Problem` if a table is missing, cannot be read, lacks a column, or has
    rows of which none can be used.
    """
    table = _joined(root)
    for column, known in KNOWN.items():
        table[column] = table[column].str.upper()
        tables.mark(table, column, table[column].isin(known))
    has_image = table.image_series.str.fullmatch(r"[0-9.]+") & table.folder.str.contains(r"P_[0-9]+")
    tables.mark(table, "image", has_image)
    tables.mark(table, "patient_id", table.patient_id.str.fullmatch(r"P_[0-9]+"))
    table["film"] = table.patient_id + "_" + table.side + "_" + table["view"]
    odd = table[table.fault != ""]
    torn = _on_films_of(odd, table)
    exclusions = [(line.file, tables.reason(line.file, line.row, line.fault)) for line in odd.itertuples()]
    for line in torn.itertuples():
        exclusions.append((line.folder, f"A finding of the film {line.film} cannot be used, "
                           "so that its label is not known."))
    for _, reason in exclusions:
        log.warning("%s Left out.", reason)
    if left_out is not None:
        left_out += exclusions
    usable = table.drop(index=odd.index.union(torn.index))
    unused = set(table.file) - set(usable.file)
    if unused:
        first = next(reason for file, reason in exclusions if file in unused)
        raise Problem(f"No row of {min(unused)} can be used: {first}")
    return usable.drop(columns=["row", "fault"]).reset_index(drop=True)


def _joined(root):
    """The four tables as one, with the parts of their paths in columns of their own."""
    paths = {path.name.lower(): path for path in reversed(files_below(root, ".csv"))}
    missing = [name for name in TABLES if name not in paths]
    if missing:
        raise Problem(f"There is no {missing[0]} under {root}; "
                      "run 01_download again, or put the table there.")
    parts = [tables.read(paths[name], NEEDED, RENAME).assign(file=str(paths[name])) for name in TABLES]
    table = pd.concat(parts, ignore_index=True)
    for column in table.columns.intersection(["breast_density", "assessment", "subtlety"]):
        table[column] = table[column].map(plain_number, na_action="ignore")
    # A path is folder / StudyInstanceUID / SeriesInstanceUID / file, with stray line feeds.
    for column in ("image", "crop", "mask"):
        names = table[column].str.strip().str.split(r"[/\\]")
        table[f"{column}_series"] = names.str[-2].where(names.str.len() > 3, "")
    names = table.image.str.strip().str.split(r"[/\\]")
    table["folder"] = names.str[-4].fillna(names.str[0])
    table["study"] = names.str[-3].fillna(names.str[0])
    return table


def _on_films_of(odd, table):
    """The rows of `table` without a fault that are on a film of one of the rows `odd`."""
    unnamed = odd[~odd.film.str.fullmatch(r"P_[0-9]+_(?:LEFT|RIGHT)_(?:CC|MLO)")]
    lost = set(odd.film) | {film(folder) for folder in unnamed.folder}      # a folder says which film
    return table[(table.fault == "") & (table.film.isin(lost) | table.folder.isin(odd.folder))]


def film(patient_id):
    """Calc-Test_P_00038_LEFT_CC_1 and P_00038_LEFT_CC.dcm -> P_00038_LEFT_CC...

    What belongs to a film then sorts together.
    """
    return re.sub(r"^.*?(?=P_\d)|\.dcm$", "", patient_id)


def table_traps(table):
    """{trap: how often it occurs} in what `read_tables` gave.

    Images, patients or films are counted; of terms and of numbers, single values.
    """
    def several(values, column):
        """How many groups by `column` have more than one of the `values`."""
        return int((values.groupby(table[column]).nunique() > 1).sum())

    malignant = table.pathology == "MALIGNANT"
    on_film = malignant.groupby(table.film).transform("any")
    on_image = malignant.groupby(table.folder).transform("any")
    terms = table[["first", "second"]]
    joined = terms.apply(lambda column: column.str.contains("-"))
    numbers = table.filter(["breast_density", "assessment", "subtlety"])
    return {
        "several_abnormalities": int((table.groupby("folder").size() > 1).sum()),
        "mixed_pathology": several(malignant, "folder"),
        "film_twice": several(table.folder, "film"),
        "film_twice_mixed": table.folder[on_film & ~on_image].nunique(),
        "crossing_patient": several(table.folder.str.extract("-(Training|Test)_")[0], "patient_id"),
        "separate_series": int((table.crop_series != table.mask_series).sum()),
        "joined_terms": int(joined.to_numpy().sum()),
        "na_terms": int((terms == "NA").to_numpy().sum()),
        "zeros": int((numbers == "0").to_numpy().sum())}


def lesion(kind, first, second):
    """(lesion_type, lesion_shape) of an abnormality.

    kind is its type, first the mass shape or calc type, second the margins or the distribution. Terms joined
    by "-" are taken together: anything with a mass in it is a mass. "Spiculated" is a margin, and outranks
    the shape.
    """
    terms = set(first.split("-"))
    margins = set(second.split("-"))
    if kind.startswith("calc"):
        return "calcification", _distribution(second, margins)
    if terms == {"ARCHITECTURAL_DISTORTION"}:
        return "distortion", ""
    if terms <= ASYMMETRY | {"ARCHITECTURAL_DISTORTION"}:
        return "asymmetry", ""
    if "SPICULATED" in margins:
        return "mass", "spiculated"
    for term in ("IRREGULAR", "LOBULATED"):
        if term in terms:
            return "mass", term.lower()
    return "mass", "circumscribed" if "CIRCUMSCRIBED" in margins else ""


def _distribution(second, terms):
    """The lesion_shape of a calcification."""
    if second == "NA":
        return ""
    if "CLUSTERED" in terms:
        return "cluster"
    if terms & {"DIFFUSELY_SCATTERED", "REGIONAL"}:
        return "scatter"
    return second.lower()
