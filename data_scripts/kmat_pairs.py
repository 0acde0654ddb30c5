"""The published pairs of K-MaT, read by folder and table: breast (DMID, BUSI), skin (Derm7pt; MRA-MIDAS), chest (CC-CCII, Chest X-ray).

Every reader returns rows of sample, patient, label, path, bytes, and where the set has one its own split (train, validation, test); a set
without patients counts every picture as one. Rows whose picture is not there, or whose label is none of the pair's, are left out, counted
and logged. `pair` makes the `pictures.Pair`.
"""
import logging
import re
from pathlib import Path

import pandas as pd

from xmodal.companions import pictures
from xmodal.config import Problem

from . import busi as busi_set

log = logging.getLogger(__name__)
PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
BREAST = ("normal", "benign", "malignant")
CHEST = ("normal", "common pneumonia", "COVID-19 pneumonia")
SKIN_2 = ("basal cell carcinoma", "nevus", "melanoma", "miscellaneous", "seborrhoeic keratosis")
SKIN_1 = ("basal cell carcinoma", "nevus", "melanoma", "squamous cell carcinoma", "seborrhoeic keratosis", "actinic keratosis")


def _table(root, *names):
    """The first of the CSVs `names` under `root`. Raises `Problem` where there is none."""
    for name in names:
        for path in sorted(Path(root).rglob(name)):
            return pd.read_csv(path, dtype=str, keep_default_na=False)
    raise Problem(f"There is no {' or '.join(names)} under {root}; give the folder of the unpacked dataset (a spreadsheet saved as CSV).")


def _column(table, *names):
    """The first of the columns `names` that a table has, whatever its case. Raises `Problem` where there is none."""
    known = {c.strip().lower(): c for c in table}
    for name in names:
        if name in known:
            return table[known[name]].str.strip()
    raise Problem(f"The table has no column {' or '.join(names)}; it has {', '.join(map(str, table))}.")


def _pictures(root):
    """{lower-case stem: path} of the pictures under `root`, without those in folders of masks and annotations, which have the same names."""
    other = lambda p: any(word in part.lower() for part in p.relative_to(root).parts[:-1] for word in ("mask", "annotation"))
    return {p.stem.lower(): p for p in sorted(Path(root).rglob("*")) if p.suffix.lower() in PICTURES and not other(p)}


def _kept(rows, classes, what):
    """A table of the rows (dicts) that have a picture and a label of the pair; what is left out is logged."""
    table = pd.DataFrame(rows)
    fine = table.path.notna() & table.label.isin(classes) if len(table) else []
    if not sum(fine):
        raise Problem(f"No picture of {what} with a known label was found; look at the folder's layout in data_scripts/kmat_pairs.py.")
    if (~fine).any():
        log.warning("%s: %d of %d rows left out (%d without a picture, the others with another label).", what, (~fine).sum(), len(table),
                    table.path.isna().sum())
    return _sized(table[fine].assign(path=lambda t: t.path.map(str)).reset_index(drop=True))


def _sized(table):
    """`table` with the size of each file, by which a result knows its pictures."""
    return table.assign(bytes=[Path(p).stat().st_size for p in table.path])


def dmid(root):
    """DMID (Oza et al. 2024): TIFF Images/IMG001.tif, ...; beside it ROI Masks/ with the same names, and Info.txt as MIAS has it: a line a
    finding with name, tissue, class of abnormality (NORM where there is none), severity (B, M), x, y, radius."""
    root, worst = Path(root), {}                 # a picture with several findings has a line for each: the most severe one counts
    info, pictures = next(iter(sorted(root.rglob("Info.txt"))), None), _pictures(root)
    if info is None:
        raise Problem(f"There is no Info.txt under {root}; give the folder of the unpacked dataset.")
    for line in info.read_text(errors="replace").splitlines():
        name, *told = line.upper().replace(",", " ").split() or [""]
        if re.fullmatch(r"IMG\d+(\.\w+)?", name):
            label = "malignant" if "M" in told else "benign" if "B" in told else "normal" if "NORM" in told else "unknown"
            stem = name.split(".")[0].lower()
            worst[stem] = max(worst.get(stem, label), label, key=("unknown", *BREAST).index)
    rows = [{"sample": f"dmid/{s}", "patient": f"dmid/{s}", "label": c, "path": pictures.get(s)} for s, c in worst.items()]
    return _kept(rows, BREAST, "DMID")


def busi(root):
    """BUSI by `data_scripts.busi.index`, without duplicates and without pictures that occur under two labels."""
    table = busi_set.index(root)
    fine = (table.duplicate_of == "") & ~table["sample"].isin(table.attrs["contradicting"])
    log.info("BUSI: %d of %d pictures left out as duplicates or contradicting.", (~fine).sum(), len(table))
    return _sized(table[fine].assign(patient=table["sample"])[["sample", "patient", "label", "path"]].reset_index(drop=True))


def derm7pt(root, column):
    """Derm7pt (Kawahara et al. 2019): meta/meta.csv with columns case_num, diagnosis, derm, clinic; images/;
    meta/{train,valid,test}_indexes.csv. column: "derm" or "clinic"."""
    root, table = Path(root), _table(root, "meta.csv")
    split = {int(i): name for name, file in (("train", "train"), ("validation", "valid"), ("test", "test"))
             for i in _column(_table(root, f"{file}_indexes.csv"), "indexes")}
    base = next((p for p in sorted(root.rglob("images")) if p.is_dir()), root)

    def label(diagnosis):
        for word, name in (("basal", SKIN_2[0]), ("nevus", SKIN_2[1]), ("melanoma", SKIN_2[2]), ("seborrheic", SKIN_2[4])):
            if word in diagnosis.lower():
                return name
        return SKIN_2[3]
    cases = zip(_column(table, "case_num"), _column(table, "diagnosis"), _column(table, column))
    rows = [{"sample": f"derm7pt/{case}/{column}", "patient": f"derm7pt/{case}", "label": label(diagnosis), "split": split.get(i),
             "path": base / name if (base / name).is_file() else None} for i, (case, diagnosis, name) in enumerate(cases)]
    return _kept(rows, SKIN_2, f"Derm7pt {column}")


MIDAS = {"malignant-bcc": SKIN_1[0], "benign-melanocytic nevus": SKIN_1[1], "malignant-melanoma": SKIN_1[2], "malignant-scc": SKIN_1[3],
         "benign-seborrheic keratosis": SKIN_1[4], "malignant-ak": SKIN_1[5]}


def midas(root, distance):
    """MRA-MIDAS (Chiou et al. 2025): release_midas.csv with columns midas_record_id, midas_file_name, midas_distance, midas_path.
    distance: "dscope" or "6in" (15 cm). The six classes are categories of midas_path; its others (among them carcinoma in situ) and
    controls, which have none, are left out."""
    table, pictures = _table(root, "release_midas.csv", "*midas*.csv"), _pictures(root)
    where, names = _column(table, "midas_distance"), _column(table, "midas_file_name")
    patients, found = _column(table, "midas_record_id"), _column(table, "midas_path")
    label = lambda text: MIDAS.get(re.sub(r"^(\d+-)?(\w+)\s*-\s*", r"\2-", text.lower()), text)
    rows = [{"sample": f"midas/{n}", "patient": f"midas/{p}", "label": label(f), "path": pictures.get(Path(n).stem.lower())}
            for w, n, p, f in zip(where, names, patients, found) if w.lower() == distance]
    return _kept(rows, SKIN_1, f"MRA-MIDAS {distance}")


def cc_ccii(root):
    """CC-CCII (Zhang et al. 2020): {NCP,CP,Normal}/<patient>/<scan>/<slice>; the middle slice of every scan."""
    named, rows = {"ncp": CHEST[2], "cp": CHEST[1], "normal": CHEST[0]}, []
    for kind in sorted(p for p in Path(root).rglob("*") if p.is_dir() and p.name.lower() in named):
        for scan in sorted(kind.glob("*/*")):
            slices = sorted((p for p in scan.glob("*") if p.suffix.lower() in PICTURES), key=lambda p: (len(p.stem), p.stem))
            rows.append({"sample": f"cc_ccii/{scan.parent.name}/{scan.name}", "patient": f"cc_ccii/{kind.name}/{scan.parent.name}",
                         "label": named[kind.name.lower()], "path": slices[len(slices) // 2] if slices else None})
    return _kept(rows, CHEST, "CC-CCII")


def chest_xray(root):
    """Chest X-ray (Patel 2021): {train,test}/{COVID19,PNEUMONIA,NORMAL}/. Its two folds are put together and split anew by patient, as the
    paper's counts are not theirs; a patient is what names like person12_virus_3 and NORMAL2-IM-0034-0001 begin with."""
    named, rows = {"COVID19": CHEST[2], "PNEUMONIA": CHEST[1], "NORMAL": CHEST[0]}, []
    for path in sorted(p for p in Path(root).rglob("*") if p.suffix.lower() in PICTURES):
        name, fold = path.parent.name.upper(), path.parent.parent.name.lower()
        person = re.match(r"person\d+|(NORMAL2-)?IM-\d+", path.stem)
        rows.append({"sample": f"chest_xray/{fold}/{name}/{path.stem}", "path": path, "label": named.get(name, name),
                     "patient": f"chest_xray/{name}/{person[0]}" if person else f"chest_xray/{fold}/{name}/{path.stem}"})
    return _kept(rows, CHEST, "Chest X-ray")


PAIRS = {   # name -> classes, then name and reader of the high and of the low end
    "breast": (BREAST, ("mammography", dmid), ("ultrasound", busi)),
    "skin_1": (SKIN_1, ("dermoscopy", lambda root: midas(root, "dscope")), ("clinical", lambda root: midas(root, "6in"))),
    "skin_2": (SKIN_2, ("dermoscopy", lambda root: derm7pt(root, "derm")), ("clinical", lambda root: derm7pt(root, "clinic"))),
    "chest": (CHEST, ("ct", cc_ccii), ("xray", chest_xray)),
}


def pair(name, high_root, low_root, seed=42):
    """The `pictures.Pair` called `name` from the folders of its two sets (the same folder twice for skin). Sets without a split of their own are
    split by patient, who is in the same split at both ends. Raises `Problem` for another name, and for folders without the set."""
    if name not in PAIRS:
        raise Problem(f"There is no pair {name!r}; choose one of {', '.join(PAIRS)}.")
    classes, *ends = PAIRS[name]
    tables = []
    for (modality, read), root in zip(ends, (high_root, low_root)):
        if not root or not Path(root).is_dir():
            raise Problem(f"There is no folder {str(root)!r} with the {modality} of the pair {name}; give the folder of the unpacked dataset.")
        tables.append(read(root))
    if set(tables[0].patient) & set(tables[1].patient) and not all("split" in t and t.split.notna().all() for t in tables):
        both = pictures.split_patients(pd.concat(tables, keys=(0, 1)), seed)
        tables = [both.loc[0], both.loc[1]]
    tables = [t if "split" in t and t.split.notna().all() else pictures.split_patients(t, seed) for t in tables]
    return pictures.Pair(classes, *(pictures.Modality(modality, table, pictures.open_pictures) for (modality, _), table in zip(ends, tables)))
