"""The case descriptions of CBIS-DDSM: four tables, a row an abnormality, and what their terms say of a lesion.

Mass and calcification tables name columns differently, end another path of each row with a line feed inside its quotes, and list
crop and mask in another order; paths are those of no tree that exists, and their SeriesInstanceUIDs what files are found by.
"""
import logging
import re

import pandas as pd

from data_scripts import files_below, tables
from xmodal.cohort import label_set
from xmodal.config import Problem

log = logging.getLogger(__name__)
TABLES = [f"{kind}_case_description_{part}_set.csv" for kind in ("mass", "calc") for part in ("train", "test")]
# The two kinds of table name their columns differently.
RENAME = {"breast density": "breast_density", "calc type": "first", "mass shape": "first", "calc distribution": "second",
          "mass margins": "second", "left or right breast": "side", "image view": "view", "abnormality type": "type",
          "image file path": "image", "cropped image file path": "crop", "roi mask file path": "mask"}
NEEDED = {"patient_id", "breast_density", "side", "view", "type", "first", "second", "pathology", "image", "crop", "mask"}
PATHOLOGY = {"BENIGN": label_set("benign"), "BENIGN_WITHOUT_CALLBACK": label_set("benign"),
             "MALIGNANT": label_set("in situ", "invasive")}
ASYMMETRY = {"ASYMMETRIC_BREAST_TISSUE", "FOCAL_ASYMMETRIC_DENSITY"}


def read_tables(root, left_out=None):
    """The four case descriptions as one table, a row an abnormality, with common column names; "NA" stays a string.

    A row whose pathology, side, view, patient or image cannot be told takes its film with it, since the label of a film
    follows from all its abnormalities: they go to the list `left_out` as (table or folder, reason), and are logged. Raises
    `Problem` if a table is missing, cannot be read, lacks a column, or has rows of which none can be used.
    """
    there = {path.name.lower(): path for path in reversed(files_below(root, ".csv"))}
    if missing := [name for name in TABLES if name not in there]:
        raise Problem(f"There is no {missing[0]} under {root}; run 01_download again, or put the table there.")
    table = pd.concat([tables.read(there[name], NEEDED, RENAME).assign(file=str(there[name])) for name in TABLES], ignore_index=True)
    parts = {column: table[column].str.strip().str.split(r"[/\\]") for column in ("image", "crop", "mask")}
    for column, path in parts.items():                    # folder / StudyInstanceUID / SeriesInstanceUID / file, with stray line feeds
        table[f"{column}_series"] = path.str[-2].where(path.str.len() > 3, "")
    table["folder"], table["study"] = (parts["image"].str[k].fillna(parts["image"].str[0]) for k in (-4, -3))
    for column, known in (("pathology", PATHOLOGY), ("view", ("CC", "MLO")), ("side", ("LEFT", "RIGHT"))):
        table[column] = table[column].str.upper()
        tables.mark(table, column, table[column].isin(known))
    tables.mark(table, "image", table.image_series.str.fullmatch(r"[0-9.]+") & table.folder.str.contains(r"P_[0-9]+"))
    tables.mark(table, "patient_id", table.patient_id.str.fullmatch(r"P_[0-9]+"))
    table["film"] = table.patient_id + "_" + table.side + "_" + table["view"]
    odd = table[table.fault != ""]
    unnamed = odd[~odd.film.str.fullmatch(r"P_[0-9]+_(?:LEFT|RIGHT)_(?:CC|MLO)")]                     # their folder says which film
    lost = set(odd.film) | {film(folder) for folder in unnamed.folder}
    torn = table[(table.fault == "") & (table.film.isin(lost) | table.folder.isin(odd.folder))]
    found = [(line.file, tables.reason(line.file, line.row, line.fault)) for line in odd.itertuples()]
    found += [(line.folder, f"A finding of the film {line.film} cannot be used, so that its label is not known.") for line in torn.itertuples()]
    for _, reason in found:
        log.warning("%s Left out.", reason)
    if left_out is not None:
        left_out += found
    kept = table.drop(index=odd.index.union(torn.index))
    if unused := set(table.file) - set(kept.file):
        first = next(reason for file, reason in found if file in unused)
        raise Problem(f"No row of {min(unused)} can be used: {first}")
    return kept.drop(columns=["row", "fault"]).reset_index(drop=True)


def film(patient_id):
    """Calc-Test_P_00038_LEFT_CC_1 and P_00038_LEFT_CC.dcm -> P_00038_LEFT_CC...: what belongs to a film sorts together."""
    return re.sub(r"^.*?(?=P_\d)|\.dcm$", "", patient_id)


def table_traps(table):
    """{trap: how often} of what `read_tables` gave: images, patients or films, and for terms and numbers single values."""
    malignant, part = table.pathology == "MALIGNANT", table.folder.str.extract("-(Training|Test)_")[0]
    worse = malignant.groupby(table.film).transform("any") & ~malignant.groupby(table.folder).transform("any")
    several = lambda values, by: int((values.groupby(table[by]).nunique() > 1).sum())
    return {"several_abnormalities": int((table.groupby("folder").size() > 1).sum()), "mixed_pathology": several(malignant, "folder"),
            "film_twice": several(table.folder, "film"), "film_twice_mixed": table.folder[worse].nunique(),
            "crossing_patient": several(part, "patient_id"), "separate_series": int((table.crop_series != table.mask_series).sum()),
            "joined_terms": int(table[["first", "second"]].apply(lambda column: column.str.contains("-")).to_numpy().sum()),
            "na_terms": int((table[["first", "second"]] == "NA").to_numpy().sum()),
            "zeros": int((table.filter(["breast_density", "assessment", "subtlety"]) == "0").to_numpy().sum())}


def lesion(kind, first, second):
    """(lesion_type, lesion_shape) of an abnormality from its type, mass shape or calc type, and margins or distribution.

    Terms joined by "-" are taken together: anything with a mass in it is a mass; "spiculated" is a margin, and outranks
    the shape.
    """
    words, margins = set(first.split("-")), set(second.split("-"))
    if kind.startswith("calc"):
        shape = "cluster" if "CLUSTERED" in margins else "scatter" if margins & {"DIFFUSELY_SCATTERED", "REGIONAL"} else second.lower()
        return "calcification", "" if second == "NA" else shape
    if words == {"ARCHITECTURAL_DISTORTION"}:
        return "distortion", ""
    if words <= ASYMMETRY | {"ARCHITECTURAL_DISTORTION"}:
        return "asymmetry", ""
    if "SPICULATED" in margins:
        return "mass", "spiculated"
    for term, name in (("IRREGULAR", "irregular"), ("LOBULATED", "lobulated")):
        if term in words:
            return "mass", name
    return "mass", "circumscribed" if "CIRCUMSCRIBED" in margins else ""
