"""Gliomas in MRI as studies for RFPMSS: BraTS 2021 (Baid et al. 2021) and UPENN-GBM (Bakas et al. 2022).

    root/brats2021/    as TCIA, Synapse or Kaggle give it, at any depth:
        BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz, _t2.nii.gz, _flair.nii.gz, _seg.nii.gz
        BraTS2021_MappingToTCIA.csv (TCIA's spreadsheet, saved as CSV), or train_labels.csv of Kaggle
    root/upenn_gbm/    as TCIA gives it, at any depth:
        images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_T1GD.nii.gz, _T2.nii.gz, _FLAIR.nii.gz
        images_segm/UPENN-GBM-00001_11_segm.nii.gz, or, where nobody has corrected it by hand,
        automated_segm/UPENN-GBM-00001_11_automated_approx_segm.nii.gz
        UPENN-GBM_clinical_info_v2.1.csv

One of the two sets is enough. A study is the axial slice with most tumour: T2, T1 with contrast and FLAIR in
the columns mammogram, magnified and ultrasound (the middle one meets both others in Eq. 9; T1 is not read).
Neither set has reports. Ours are templates of what is really known: size, parts and place of the tumour by
its segmentation and, in UPENN-GBM, sex, age, Karnofsky index and IDH1. The label is the methylation of the
MGMT promoter, empty where it is not known; no report names it. BraTS 2021 has 447 scans of UPENN-GBM: where
both sets are read, these count in BraTS 2021 alone.
"""
import logging
import re
from functools import partial
from pathlib import Path

import pandas as pd

from data_scripts import parallel, tables
from data_scripts.glioma_slices import Scan, study
from data_scripts.indexing import files_below, plain_number
from xmodal.config import Problem
from xmodal.runtime.files import atomic, held, json_text, sha256, write_json

log = logging.getLogger(__name__)
MAPPING = "BraTS2021_MappingToTCIA.csv"
BRATS = {"mammogram": "_t2.nii.gz", "magnified": "_t1ce.nii.gz", "ultrasound": "_flair.nii.gz"}
UPENN = {"mammogram": "_T2.nii.gz", "magnified": "_T1GD.nii.gz", "ultrasound": "_FLAIR.nii.gz"}
# Second scans of the patients of 00639 and 00626, by the column BraTS21 ID of UCSF-PDGM's table (version 5).
FOLLOW_UPS = ("BraTS2021_00557", "BraTS2021_00758")
METHYLATION = {"0": "unmethylated", "unmethylated": "unmethylated",
               "1": "methylated", "methylated": "methylated", "": "",
               "na": "", "n/a": "", "indeterminate": "", "not available": ""}


def as_studies(root, folder, workers=2):
    """The folder that `rfpmss_data.load_table` reads: `root`, or `folder` where brats2021/ or upenn_gbm/ lie
    below `root`, whose studies are then written there (once, as long as the files below `root` are the same).

    Written are studies.csv, a PNG per view and study, and exclusions.csv (source, reason) with every scan
    that is left out: without a modality or a segmentation, truncated, on another grid, of a follow-up, twice.
    Raises `Problem` for a table that is missing, lacks a column or contradicts itself, and where no scan is
    left.
    """
    root = Path(root)
    folder = Path(folder)
    sites = [site for site in ("brats2021", "upenn_gbm") if (root / site).is_dir()]
    if not sites:
        return root
    files = []
    for site in sites:
        files += files_below(root / site, ".nii.gz", ".csv")
    state = {str(path.relative_to(root)): path.stat().st_size for path in files}
    state |= {str(path.relative_to(root)): sha256(path) for path in files if path.suffix == ".csv"}
    done = folder / "files.json"                              # written last
    if not done.exists() or done.read_text() != json_text(state):
        with held(folder):
            done.unlink(missing_ok=True)
            _write(root, sites, folder, workers)
            write_json(done, state)
    return folder


def _write(root, sites, folder, workers):
    """Writes the studies of the sites below `root`, and what is left out."""
    scans, left_out = _scans(root, sites)
    rows = []
    for scan, (row, reason) in zip(scans, parallel(partial(study, folder), scans, workers, "scans")):
        if reason:
            left_out.append((scan.patient, reason))
        else:
            rows.append(row)
    if not rows:
        reason = left_out[0][1] if left_out else "No file has a name of the release."
        raise Problem(f"No scan of {' or '.join(sites)} under {root} can be used. {reason}")
    log.warning("%d studies are written to %s, %d with a label; %d scans or files are left out, as "
                "exclusions.csv there says.", len(rows), folder, sum(row["label"] != "" for row in rows),
                len(left_out))
    left_out = pd.DataFrame(left_out, columns=["source", "reason"])
    for name, table in (("studies.csv", pd.DataFrame(rows)), ("exclusions.csv", left_out)):
        with atomic(folder / name) as path:
            table.to_csv(path, index=False)


def _scans(root, sites):
    """(scans, exclusions) of both sets; who is in both counts in BraTS 2021 alone."""
    scans = []
    left_out = []
    if "brats2021" in sites:
        scans, left_out = brats(root / "brats2021")
    if "upenn_gbm" not in sites:
        return scans, left_out
    others, others_left_out = upenn(root / "upenn_gbm")
    twice = _in_both(root / "brats2021", scans) if "brats2021" in sites else {}
    for scan in others:
        if scan.patient in twice:
            others_left_out.append((scan.patient, f"It is {twice[scan.patient]} of BraTS 2021, too."))
        else:
            scans.append(scan)
    return scans, left_out + others_left_out


# ---- the sets and their tables -----------------------------------------------------------------------------

def brats(root):
    """([Scan], [(source, reason)]) of BraTS 2021. Raises `Problem` without a sound table of labels."""
    root = Path(root)
    paths, left_out = _files(root)
    labels = _brats_labels(root)
    scans = []
    for case in _names(paths, r"(BraTS2021_\d{5})_(t1|t1ce|t2|flair|seg)\.nii\.gz"):
        lacking = _lacking(paths, case, BRATS, ("_seg.nii.gz",))
        if case in FOLLOW_UPS:
            left_out.append((case, "It is a second scan of a patient."))
        elif lacking:
            left_out.append((case, lacking))
        else:
            views = {view: paths[case + ending] for view, ending in BRATS.items()}
            outline = paths[f"{case}_seg.nii.gz"]
            scans.append(Scan("brats2021", case, labels.get(case, ""), {}, views, outline))
    return scans, left_out


def _brats_labels(root):
    """{case: label} by the mapping to TCIA, else by Kaggle's labels."""
    mapping = _find(root, MAPPING)
    kaggle = _find(root, "train_labels.csv")
    if mapping:
        table = _sound(mapping, ("brats2021 id", "mgmt value"))
        table = table[table["brats2021 id"] != ""]
        cases, values = table["brats2021 id"], table["mgmt value"]
    elif kaggle:
        table = _sound(kaggle, ("brats21id", "mgmt_value"))
        cases, values = table.brats21id, table.mgmt_value
    else:
        raise Problem(f"There is neither {MAPPING} nor train_labels.csv under {root}; "
                      "put the table of labels there (a spreadsheet saved as CSV).")
    cases = cases.map(_case)
    _check_once(cases, mapping or kaggle)
    return dict(zip(cases, _labels(values, mapping or kaggle)))


def _case(text):
    """BraTS2021_00169 for 169, 00169, 169.0 and BraTS2021_00169."""
    return "BraTS2021_" + plain_number(text.removeprefix("BraTS2021_")).zfill(5)


def _in_both(root, scans):
    """{patient of UPENN-GBM: case} of those scans of BraTS 2021 that the mapping says are of UPENN-GBM."""
    path = _find(root, MAPPING)
    if not path:
        raise Problem(f"There is no {MAPPING} under {root}, and BraTS 2021 has scans of UPENN-GBM; put the "
                      "mapping there, or read one set at a time.")
    table = _sound(path, ("brats2021 id", "patientid on tcia radiology portal"))
    cases = {scan.patient for scan in scans}
    twice = {}
    for case, name in zip(table["brats2021 id"].map(_case), table["patientid on tcia radiology portal"]):
        patient = re.match(r"UPENN-GBM-\d{5}", name)
        if patient and case in cases:
            twice[patient[0]] = case
    return twice


def upenn(root):
    """([Scan], [(source, reason)]) of UPENN-GBM, the scan before surgery (_11) of each patient.

    Raises `Problem` without a sound clinical table.
    """
    root = Path(root)
    paths, left_out = _files(root)
    clinical = _clinical(root)
    outlines = ("_segm.nii.gz", "_automated_approx_segm.nii.gz")
    scans = []
    for name in _names(paths, r"(UPENN-GBM-\d{5}_\d\d)_(T1|T1GD|T2|FLAIR)\.nii\.gz"):
        lacking = _lacking(paths, name, UPENN, outlines)
        if not name.endswith("_11"):
            left_out.append((name, "It is a follow-up scan."))
        elif name not in clinical.index:
            left_out.append((name, "It has no row in the clinical table."))
        elif lacking:
            left_out.append((name, lacking))
        else:
            known = clinical.loc[name].to_dict()
            views = {view: paths[name + ending] for view, ending in UPENN.items()}
            outline = next(paths[name + ending] for ending in outlines if name + ending in paths)
            scans.append(Scan("upenn_gbm", name[:-3], known.pop("label"), known, views, outline))
    return scans, left_out


def _clinical(root):
    """Table by ID with the columns label, gender, age, kps and idh1, "" where a value is not known."""
    path = _find(root, "UPENN-GBM_clinical_info_*.csv")
    if not path:
        raise Problem(f"There is no UPENN-GBM_clinical_info_v2.1.csv under {root}; "
                      "put the clinical table of the collection there.")
    table = _sound(path, ("id", "gender", "age_at_scan_years", "idh1", "mgmt", "kps"))
    _check_once(table.id, path)
    table["label"] = _labels(table.mgmt, path)
    table["age"] = table.age_at_scan_years
    known = table[["label", "gender", "age", "kps", "idh1"]].set_axis(table.id)
    return known.mask(known.isin(["Not Available", "Not Applicable", "NOS/NEC"]), "")


def _sound(path, needed):
    """The table at `path` by `tables.read`. Raises `Problem` for a row with too few or too many fields."""
    table = tables.read(path, needed)
    faulty = table[table.fault != ""]
    if len(faulty):
        raise Problem(tables.reason(path, faulty.row.iloc[0], faulty.fault.iloc[0]))
    return table


def _labels(values, path):
    """Labels of values of the MGMT promoter. Raises `Problem` for another value."""
    plain = values.map(plain_number).str.lower()
    other = values[~plain.isin(list(METHYLATION))]
    if len(other):
        raise Problem(f"{path} says {other.iloc[0]!r} of the MGMT promoter, which is unknown; "
                      "copy or fetch the original again.")
    return plain.map(METHYLATION)


def _check_once(names, path):
    """Raises `Problem` for a name that a table lists twice."""
    if names.duplicated().any():
        raise Problem(f"{path} lists {names[names.duplicated()].iloc[0]} twice; "
                      "copy or fetch the original again.")


# ---- files -------------------------------------------------------------------------------------------------

def _find(root, pattern):
    """The last of the tables under `root` with a name like `pattern`, or None."""
    return next((path for path in files_below(root, ".csv")[::-1] if path.match(pattern)), None)


def _files(root):
    """({name: path} of the volumes under `root`, exclusions). Folders called old hold older versions."""
    paths = {}
    left_out = []
    for path in files_below(root, ".nii.gz"):
        if path.parent.name == "old":
            left_out.append((str(path), "It is an older version of a scan."))
        elif path.name in paths:
            left_out.append((str(path), f"It is a second copy of {paths[path.name]}."))
        else:
            paths[path.name] = path
    return paths, left_out


def _names(paths, pattern):
    """Sorted names of the scans of which there is any file."""
    matches = [re.fullmatch(pattern, name) for name in paths]
    return sorted({match[1] for match in matches if match})


def _lacking(paths, name, endings, outlines):
    """The sentence that says what a scan lacks, or ""."""
    for ending in endings.values():
        if name + ending not in paths:
            return f"There is no {name}{ending}."
    if not any(name + ending in paths for ending in outlines):
        return f"There is no segmentation {name}{outlines[0]}."
    return ""
