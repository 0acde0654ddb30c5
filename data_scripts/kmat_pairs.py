"""The published pairs of K-MaT, read by folder and table.

Breast (DMID, BUSI), skin (Derm7pt; MRA-MIDAS) and chest (CC-CCII, Chest X-ray). Every reader returns a table
with the columns sample, patient, label, path, bytes, and, where the dataset has one, its own split. In a
dataset without patients every picture counts as one. Rows whose picture is not there, or whose label is none
of the pair's, are left out, counted and logged. `pair` makes the `pictures.Pair`.
"""
import logging
import re
from collections import defaultdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts import busi as busi_set
from data_scripts.indexing import files_below, plain_number
from xmodal.companions import pictures
from xmodal.config import Problem

log = logging.getLogger(__name__)
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
BREAST = ("normal", "benign", "malignant")
CHEST = ("normal", "common pneumonia", "COVID-19 pneumonia")
SKIN_2 = ("basal cell carcinoma", "nevus", "melanoma", "miscellaneous", "seborrhoeic keratosis")
SKIN_1 = ("basal cell carcinoma", "nevus", "melanoma", "squamous cell carcinoma", "seborrhoeic keratosis",
          "actinic keratosis")


def _table(root, *names):
    """The first of the CSVs `names` under `root`. Raises `Problem` where there is none."""
    files = files_below(root)
    for name in names:
        matching = [path for path in files if fnmatch(path.name, name)]
        if matching:
            return _read(matching[0])
    raise Problem(f"There is no {' or '.join(names)} under {root}; "
                  "give the folder of the unpacked dataset (a spreadsheet saved as CSV).")


def _read(path):
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise Problem(f"The table {path} cannot be read ({error}); save it as CSV in UTF-8 again.") from None


def _column(table, *names):
    """The first of the columns `names` that a table has, in any case. Raises `Problem` where it has none."""
    columns = {column.strip().lower(): column for column in table}
    for name in names:
        if name in columns:
            return table[columns[name]].str.strip()
    raise Problem(f"The table has no column {' or '.join(names)}; it has {', '.join(map(str, table))}.")


def _pictures(root):
    """{lower-case stem: path} of the pictures under `root`.

    Those in folders of masks and annotations are left out, since they have the same names.
    """
    paths = {}
    for path in files_below(root, *PICTURES):
        folders = "/".join(path.relative_to(root).parts[:-1]).lower()
        if "mask" not in folders and "annotation" not in folders:
            paths[path.stem.lower()] = path
    return paths


def _usable(rows, classes, dataset):
    """A table of the rows (dicts) that have a picture and a label of the pair; what is left out is logged."""
    table = pd.DataFrame(rows)
    usable = table.path.notna() & table.label.isin(classes) if len(table) else []
    if not sum(usable):
        raise Problem(f"No picture of {dataset} with a known label was found; "
                      "look at the folder's layout in data_scripts/kmat_pairs.py.")
    if (~usable).any():
        log.warning("%s: %d of %d rows left out (%d without a picture, the others with another label).",
                    dataset, (~usable).sum(), len(table), table.path.isna().sum())
    table = table[usable]
    return _sized(table.assign(path=table.path.map(str)).reset_index(drop=True))


def _sized(table):
    """`table` with the size of each file, by which a result knows its pictures."""
    return table.assign(bytes=[Path(path).stat().st_size for path in table.path])


# ---- breast ------------------------------------------------------------------------------------------------

def dmid(root):
    """DMID (Oza et al. 2024): TIFF Images/IMG001.tif, ...; beside it ROI Masks/ with the same names, and
    Info.txt.

    Info.txt is like that of MIAS. It has one line for each finding: name, tissue, class of abnormality (NORM
    where there is none), severity (B, M), x, y, radius. Of a picture with several findings the most severe
    one counts.
    """
    root = Path(root)
    info = next((path for path in files_below(root, ".txt") if path.name == "Info.txt"), None)
    paths = _pictures(root)
    if info is None:
        raise Problem(f"There is no Info.txt under {root}; give the folder of the unpacked dataset.")
    worst = {}
    for line in info.read_text(errors="replace").splitlines():
        name, *fields = line.upper().replace(",", " ").split() or [""]
        if re.fullmatch(r"IMG\d+(\.\w+)?", name):
            stem = name.split(".")[0].lower()
            label = _dmid_label(fields)
            worst[stem] = max(worst.get(stem, label), label, key=("unknown", *BREAST).index)
    rows = [{"sample": f"dmid/{stem}", "patient": f"dmid/{stem}", "label": label, "path": paths.get(stem)}
            for stem, label in worst.items()]
    return _usable(rows, BREAST, "DMID")


def _dmid_label(fields):
    """The label that the fields of a line of Info.txt give."""
    for field, label in (("M", "malignant"), ("B", "benign"), ("NORM", "normal")):
        if field in fields:
            return label
    return "unknown"


def busi(root):
    """BUSI by `busi.read`, without duplicates and without pictures that occur under two labels."""
    table, _, _, contradicting = busi_set.read(root)
    usable = (table.duplicate_of == "") & ~table["sample"].isin(contradicting)
    log.info("BUSI: %d of %d pictures left out as duplicates or contradicting.", (~usable).sum(), len(table))
    table = table[usable].assign(patient=table["sample"])
    return _sized(table[["sample", "patient", "label", "path"]].reset_index(drop=True))


# ---- skin --------------------------------------------------------------------------------------------------

# Part of a diagnosis -> class.
DERM7PT = {"basal": SKIN_2[0], "nevus": SKIN_2[1], "melanoma": SKIN_2[2], "seborrheic": SKIN_2[4]}


def derm7pt(root, column):
    """Derm7pt (Kawahara et al. 2019): meta/meta.csv, meta/{train,valid,test}_indexes.csv and images/.

    meta.csv has the columns case_num, diagnosis, derm, clinic. column: "derm" or "clinic".
    """
    root = Path(root)
    table = _table(root, "meta.csv")
    split = {}
    for name, file in (("train", "train"), ("validation", "valid"), ("test", "test")):
        positions = _column(_table(root, f"{file}_indexes.csv"), "indexes")
        split |= {_position(position, f"{file}_indexes.csv"): name for position in positions}
    folder = _folder_of_pictures(root)
    numbers = _column(table, "case_num").map(plain_number)
    cases = zip(numbers, _column(table, "diagnosis"), _column(table, column))
    rows = []
    for i, (case, diagnosis, name) in enumerate(cases):
        path = folder / name
        rows.append({"sample": f"derm7pt/{case}/{column}", "patient": f"derm7pt/{case}",
                     "label": _derm7pt_label(diagnosis), "split": split.get(i),
                     "path": path if path.is_file() else None})
    return _usable(rows, SKIN_2, f"Derm7pt {column}")


def _position(text, table):
    number = plain_number(text)
    if not number.isdecimal():
        raise Problem(f"{table} holds {text!r} where the number of a row belongs; take the original table.")
    return int(number)


def _folder_of_pictures(root):
    """The first folder called images that holds pictures, or `root`."""
    for path in files_below(root, *PICTURES):
        below = path.relative_to(root).parts
        if "images" in below[:-1]:
            return root.joinpath(*below[:below.index("images") + 1])
    return root


def _derm7pt_label(diagnosis):
    for part, label in DERM7PT.items():
        if part in diagnosis.lower():
            return label
    return "miscellaneous"


MIDAS = {
    "malignant-bcc": SKIN_1[0], "benign-melanocytic nevus": SKIN_1[1], "malignant-melanoma": SKIN_1[2],
    "malignant-scc": SKIN_1[3], "benign-seborrheic keratosis": SKIN_1[4], "malignant-ak": SKIN_1[5]}


def midas(root, distance):
    """MRA-MIDAS (Chiou et al. 2025): release_midas.csv with columns midas_record_id, midas_file_name,
    midas_distance, midas_path.

    distance: "dscope" or "6in" (15 cm). The six classes are categories of midas_path; its others (among them
    carcinoma in situ) and controls, which have none, are left out.
    """
    table = _table(root, "release_midas.csv", "*midas*.csv")
    paths = _pictures(root)
    columns = ("midas_distance", "midas_file_name", "midas_record_id", "midas_path")
    rows = []
    for own_distance, name, patient, category in zip(*(_column(table, column) for column in columns)):
        patient = plain_number(patient)
        if own_distance.lower() == distance:
            kind = re.sub(r"^(\d+-)?(\w+)\s*-\s*", r"\2-", category.lower())
            rows.append({"sample": f"midas/{name}", "patient": f"midas/{patient}",
                         "label": MIDAS.get(kind, category), "path": paths.get(Path(name).stem.lower())})
    return _usable(rows, SKIN_1, f"MRA-MIDAS {distance}")


# ---- chest -------------------------------------------------------------------------------------------------

def cc_ccii(root):
    """CC-CCII (Zhang et al. 2020): {NCP,CP,Normal}/<patient>/<scan>/<slice>.

    Of every scan the middle slice is read.
    """
    labels = {"ncp": CHEST[2], "cp": CHEST[1], "normal": CHEST[0]}
    scans = defaultdict(list)
    for path in files_below(root, *PICTURES):
        *_, kind, patient, scan = ("", "", "", *path.relative_to(root).parts[:-1])
        if kind.lower() in labels:
            scans[path.parent, kind, patient, scan].append(path)
    rows = []
    for (_, kind, patient, scan), slices in scans.items():
        slices.sort(key=lambda path: (len(path.stem), path.stem))
        rows.append({"sample": f"cc_ccii/{patient}/{scan}", "patient": f"cc_ccii/{kind}/{patient}",
                     "label": labels[kind.lower()], "path": slices[len(slices) // 2]})
    return _usable(rows, CHEST, "CC-CCII")


def chest_xray(root):
    """Chest X-ray (Patel 2021): {train,test}/{COVID19,PNEUMONIA,NORMAL}/.

    Its two folds are put together and split anew by patient, as the paper's counts are not theirs. A patient
    is what names like person12_virus_3 and NORMAL2-IM-0034-0001 begin with.
    """
    labels = {"COVID19": CHEST[2], "PNEUMONIA": CHEST[1], "NORMAL": CHEST[0]}
    rows = []
    for path in files_below(root, *PICTURES):
        name = path.parent.name.upper()
        sample = f"chest_xray/{path.parent.parent.name.lower()}/{name}/{path.stem}"
        person = re.match(r"person\d+|(NORMAL2-)?IM-\d+", path.stem)
        patient = f"chest_xray/{name}/{person[0]}" if person else sample
        rows.append({"sample": sample, "path": path, "label": labels.get(name, name), "patient": patient})
    return _usable(rows, CHEST, "Chest X-ray")


# ---- pairs -------------------------------------------------------------------------------------------------

PAIRS = {   # name -> classes, then name and reader of the high and of the low end
    "breast": (BREAST, ("mammography", dmid), ("ultrasound", busi)),
    "skin_1": (SKIN_1, ("dermoscopy", partial(midas, distance="dscope")),
               ("clinical", partial(midas, distance="6in"))),
    "skin_2": (SKIN_2, ("dermoscopy", partial(derm7pt, column="derm")),
               ("clinical", partial(derm7pt, column="clinic"))),
    "chest": (CHEST, ("ct", cc_ccii), ("xray", chest_xray)),
}
# Pictures that train, validate and test at the high and at the low end (Table 1). Derm7pt has its own split.
COUNTS = {"breast": ((356, 76, 78), (389, 155, 236)), "skin_1": ((513, 91, 135), (501, 89, 132)),
          "skin_2": ((413, 203, 395), (413, 203, 395)), "chest": ((10670, 3538, 1678), (4595, 923, 914))}


def pair(name, high_root, low_root, seed=42):
    """The `pictures.Pair` called `name` from the folders of its two datasets (for skin the same folder
    twice).

    Datasets without a split of their own are split by patient in the shares of Table 1; who is in both of
    them is in the same split at both ends. Raises `Problem` for another name, and for folders without the
    dataset.
    """
    if name not in PAIRS:
        raise Problem(f"There is no pair {name!r}; choose one of {', '.join(PAIRS)}.")
    classes, *ends = PAIRS[name]
    tables = []
    for (modality, read), root in zip(ends, (high_root, low_root)):
        if not root or not Path(root).is_dir():
            raise Problem(f"There is no folder {str(root)!r} with the {modality} of the pair {name}; "
                          "give the folder of the unpacked dataset.")
        tables.append(read(root))
    shares = [tuple(np.array(counts[:2]) / sum(counts)) for counts in COUNTS[name]]
    modalities = [pictures.Modality(modality, table, pictures.open_pictures)
                  for (modality, _), table in zip(ends, _split(tables, shares, seed))]
    return pictures.Pair(classes, *modalities, name)


def _split(tables, shares, seed):
    """The tables of both ends with a split; `shares` of the patients of each end train and validate.

    Tables that share patients are split together, unless both have a split of their own.
    """
    own = ["split" in table and table.split.notna().all() for table in tables]
    if set(tables[0].patient) & set(tables[1].patient) and not all(own):
        both = pictures.split_patients(pd.concat(tables, keys=(0, 1)), seed, shares[0])
        return [both.loc[0], both.loc[1]]
    split = []
    for k, table in enumerate(tables):
        split.append(table if own[k] else pictures.split_patients(table, seed, shares[k]))
    return split
