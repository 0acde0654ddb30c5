"""CBIS-DDSM: digitised film mammograms with outlined, biopsied or followed lesions (doi 10.7937/K9/TCIA.2016.7O02S9CY)."""
import json
import logging
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from tqdm import tqdm

from data_scripts import tables
from data_scripts.archive import Damaged
from data_scripts.download import File, ask, digest, listing, obtain
from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import MAMMOGRAPHY, Problem
from xmodal.dicom import UNREADABLE, read_pixels

log = logging.getLogger(__name__)
TABLES = [f"{kind}_case_description_{part}_set.csv" for kind in ("mass", "calc") for part in ("train", "test")]
# The two kinds of table name their columns differently.
RENAME = {"breast density": "breast_density", "calc type": "first", "mass shape": "first", "calc distribution": "second",
          "mass margins": "second", "left or right breast": "side", "image view": "view", "abnormality type": "type",
          "image file path": "image", "cropped image file path": "crop", "roi mask file path": "mask"}
NEEDED = {"patient_id", "breast_density", "side", "view", "type", "first", "second", "pathology", "image", "crop", "mask"}
PATHOLOGY = {"BENIGN": label_set("benign"), "BENIGN_WITHOUT_CALLBACK": label_set("benign"),
             "MALIGNANT": label_set("in situ", "invasive")}
TAGS = ["SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns", "BitsAllocated", "InstanceNumber", "PatientID", "SeriesDescription"]
ASYMMETRY = {"ASYMMETRIC_BREAST_TISSUE", "FOCAL_ASYMMETRIC_DENSITY"}


def index(root):
    """The full mammograms under `root` as rows of `cohort.INDEX`; DICOM files and tables may lie at any depth, in any tree.

    Tables and files meet by SeriesInstanceUID, never by folder, file name or PatientID. A film (one patient, side and view)
    is malignant if any abnormality on it is, whichever of the tables lists it; 71 films are listed as a mass and, under
    other UIDs, as a calcification. The lesion type is that of the first abnormality that decides, the image's own before
    those of its twin; the masks are the image's own. A patient is P_xxxxx in all tables, so that the 31 who are in training
    of one kind and test of the other stay one. There is no pixel spacing: the diameter is NaN.

    Images that are listed but not there, files that cannot be read, and rows of the tables that cannot be used are logged and
    listed in `.attrs["exclusions"]` as (source, reason); lost masks leave an empty annotation. `.attrs["traps"]` says how often
    each trap was met. Raises `Problem` if no table or no image is found, or a column is missing.
    """
    root, faulty = Path(root), []
    table = read_tables(root, faulty)
    series, traps, left_out = find_series(root)
    traps.update(table_traps(table), faulty_row=len(faulty))
    left_out += faulty
    films, images, rows = defaultdict(list), defaultdict(list), []
    for finding in table.to_dict("records"):
        films[finding["film"]].append(finding)
        images[finding["folder"]].append(finding)
    for folder, own in sorted(images.items()):
        found = series.get(own[0]["image_series"])
        if not found:
            left_out.append((own[0]["image"], f"CBIS-DDSM lists {folder}, but its image is not there."))
            traps["missing_image"] += 1
            log.info("%s Left out.", left_out[-1][1])     # thousands, where a part of the release was fetched; counted below
            continue
        full = max(found, key=lambda instance: instance["pixels"])
        masks = [mask for finding in own if (mask := _mask(finding, full, series, traps))]
        rows.append(_row(own + [twin for twin in films[own[0]["film"]] if twin["folder"] != folder], full, masks))
    if traps["missing_image"] or traps["missing_mask"]:
        log.warning("CBIS-DDSM: %d of %d images left out, %d masks not found.", traps["missing_image"], len(images),
                    traps["missing_mask"])
    if not rows:
        raise Problem(f"None of the {len(images)} images that the tables in {root} list is there; run 01_download again.")
    rows = validate(pd.DataFrame(rows), INDEX, "index of CBIS-DDSM")
    rows.attrs.update(exclusions=left_out, traps={trap: int(n) for trap, n in sorted(traps.items()) if n})
    return rows


def read_tables(root, left_out=None):
    """The four case descriptions as one table, a row an abnormality, with common column names; "NA" stays a string.

    A row whose pathology, side, view, patient or image cannot be told takes its film with it, since the label of a film
    follows from all its abnormalities: they go to the list `left_out` as (table or image, reason), and are logged. Raises
    `Problem` if a table is missing, cannot be read, lacks a column, or has rows of which none can be used.
    """
    table = pd.concat([_read_table(root, name) for name in TABLES], ignore_index=True)
    parts = {column: table[column].str.strip().str.split("/") for column in ("image", "crop", "mask")}
    for column, path in parts.items():                    # folder / StudyInstanceUID / SeriesInstanceUID / file, with stray line feeds
        table[f"{column}_series"] = path.str[2].where(path.str.len() == 4, "")
    table["folder"], table["study"] = parts["image"].str[0], parts["image"].str[1].fillna("")
    for column, known in (("pathology", PATHOLOGY), ("view", ("CC", "MLO")), ("side", ("LEFT", "RIGHT"))):
        table[column] = table[column].str.upper()
        tables.mark(table, column, table[column].isin(known))
    tables.mark(table, "image", table.image_series.str.fullmatch(r"[0-9.]+") & table.folder.str.contains(r"P_[0-9]+"))
    tables.mark(table, "patient_id", table.patient_id.str.fullmatch(r"P_[0-9]+"))
    table["film"] = table.patient_id + "_" + table.side + "_" + table["view"]
    odd = table[table.fault != ""]
    unnamed = odd[~odd.film.str.fullmatch(r"P_[0-9]+_(?:LEFT|RIGHT)_(?:CC|MLO)")]                     # their folder says which film
    lost = set(odd.film) | {_film(folder) for folder in unnamed.folder}
    torn = table[(table.fault == "") & (table.film.isin(lost) | table.folder.isin(odd.folder))]
    found = [(line.file, tables.reason(line.file, line.row, line.fault)) for line in odd.itertuples()]
    found += [(line.image, f"A finding of the film {line.film} cannot be used, so that its label is not known.") for line in torn.itertuples()]
    for _, reason in found:
        log.warning("%s Left out.", reason)
    if left_out is not None:
        left_out += found
    kept = table.drop(index=odd.index.union(torn.index))
    if unused := set(table.file) - set(kept.file):
        first = next(reason for file, reason in found if file in unused)
        raise Problem(f"No row of {min(unused)} can be used: {first}")
    return kept.drop(columns=["row", "fault"]).reset_index(drop=True)


def _read_table(root, name):
    path = next(iter(sorted(path for path in root.rglob("*.csv") if path.name.lower() == name)), None)
    if path is None:
        raise Problem(f"There is no {name} under {root}; run 01_download again, or put the table there.")
    return tables.read(path, NEEDED, RENAME).assign(file=str(path))


def table_traps(table):
    """{trap: how often} of what `read_tables` gave: images, patients or films, and for terms and numbers single values."""
    malignant, part = table.pathology == "MALIGNANT", table.folder.str.extract("-(Training|Test)_")[0]
    worse = malignant.groupby(table.film).transform("any") & ~malignant.groupby(table.folder).transform("any")
    several = lambda values, by: int((values.groupby(table[by]).nunique() > 1).sum())
    return {"several_abnormalities": int((table.groupby("folder").size() > 1).sum()), "mixed_pathology": several(malignant, "folder"),
            "film_twice": several(table.folder, "film"), "film_twice_mixed": table.folder[worse].nunique(),
            "crossing_patient": several(part, "patient_id"), "separate_series": int((table.crop_series != table.mask_series).sum()),
            "na_terms": int((table[["first", "second"]] == "NA").to_numpy().sum()),
            "zeros": int((table.filter(["breast_density", "assessment", "subtlety"]) == "0").to_numpy().sum())}


def find_series(root):
    """({SeriesInstanceUID: [{path, bits, shape, pixels, number}, ...]}, traps, [(path, reason), ...]) of the DICOM files under `root`.

    Their names and folders do not matter. A file that is there twice counts once; one that cannot be read gives a reason.
    """
    series, traps, left_out, seen = {}, Counter(), [], set()
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() == ".dcm" and p.is_file()):  # there are folders, too, that end in .dcm
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
            found = {"path": str(path.resolve()), "bits": int(data.BitsAllocated), "shape": (int(data.Rows), int(data.Columns)),
                     "pixels": int(data.Rows) * int(data.Columns), "number": str(data.get("InstanceNumber", ""))}
            met = {"malformed_patient_id": str(data.get("PatientID", "")).endswith(".dcm"),
                   "no_series_description": not data.get("SeriesDescription")}
            uid = str(data.SeriesInstanceUID or "")
            if not found["pixels"] or not uid:
                raise ValueError("it has no pixels, or no SeriesInstanceUID")
            instance = uid, str(data.get("SOPInstanceUID") or path), found["shape"], found["bits"]
        except UNREADABLE as error:
            left_out.append((str(path), f"{path} cannot be read ({error})."))
            log.warning("%s Left out.", left_out[-1][1])
            continue
        traps.update(met, twin_file=instance in seen)
        if instance not in seen:
            series.setdefault(uid, []).append(found)
        seen.add(instance)
    traps["unreadable_file"] = len(left_out)
    if left_out:
        log.warning("CBIS-DDSM: %d files cannot be read.", len(left_out))
    return series, traps, left_out


def _mask(finding, full, series, traps):
    """Path of the lesion mask of one abnormality, "" if there is none; counts in `traps` what is unusual about it.

    Neither file order nor SeriesDescription tells the mask from the crop, its pixels do: 8 bits at the size of the full
    image, else two values, and of such the one whose size is nearest the full image's.
    """
    found = {f["path"]: f for uid in (finding["mask_series"], finding["crop_series"]) for f in series.get(uid, ())}.values()
    fit = [f for f in found if f["bits"] == 8 and f["shape"] == full["shape"]] or [f for f in found if _two_values(f["path"])]
    if not fit:
        traps["missing_mask"] += 1
        log.info("The lesion mask %s is not there.", finding["mask"].strip())
        return ""
    mask = min(fit, key=lambda f: abs(np.log(f["pixels"] / full["pixels"])))
    height, width = (of_mask / of_image for of_mask, of_image in zip(mask["shape"], full["shape"]))
    listed = Path(finding["mask"].strip()).stem              # the tables count instances from 000000, the files from 1
    traps.update(wide_mask=mask["bits"] > 8, scaled_mask=mask["shape"] != full["shape"], stretched_mask=abs(height / width - 1) > 0.02,
                 swapped_instances=mask["number"].isdigit() and listed.isdigit() and int(mask["number"]) != int(listed) + 1)
    if mask["shape"] != full["shape"]:
        log.info("The mask %s is %.3f times as high and %.3f times as wide as its image; it is scaled to it.", mask["path"], height, width)
    return mask["path"]


def _two_values(path):
    try:
        pixels = read_pixels(path)[1]
    except Problem as problem:
        log.warning("%s", problem)
        return False
    return bool(((pixels == pixels.min()) | (pixels == pixels.max())).all())


def _row(findings, full, masks):
    """The row of one image from the findings on its film, its own first."""
    own, worst = findings[0], max(findings, key=lambda finding: PATHOLOGY[finding["pathology"]])  # malignant classes are the higher bits
    folder, density = own["folder"], own["breast_density"]
    kind, shape = lesion(worst["type"], worst["first"], worst["second"])
    allowed = PATHOLOGY[worst["pathology"]]
    known = {label_set("benign"): 1}.get(allowed, -1)     # a benign label fixes the class, a malignant one leaves two
    return {"sample": f"cbis_ddsm/{folder}", "patient": f"cbis_ddsm/{re.search(r'P_[0-9]+', folder)[0]}", "study": own["study"],
            "domain": "cbis_ddsm", "modality": MAMMOGRAPHY, "view": own["view"], "laterality": own["side"][0],
            "allowed": allowed, "truth": known, "grade": known,
            "density": "ABCD"[int(density) - 1] if density in ("1", "2", "3", "4") else "", "lesion_type": kind,
            "lesion_shape": shape, "diameter_mm": float("nan"), "annotation": json.dumps({"masks": masks}) if masks else "",
            "source": full["path"]}


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


# ---- fetch --------------------------------------------------------------------------------------------------------

TERMS = "CC BY 3.0; cite the data, doi 10.7937/K9/TCIA.2016.7O02S9CY, and Lee et al. 2017, doi 10.1038/sdata.2017.177."
IDC = "https://idc-open-data.s3.amazonaws.com"            # a folder a series: <crdc_series_uuid>/<instance>.dcm
NBIA = "https://nbia.cancerimagingarchive.net/nbia-api/services/v4"
TCIA = "https://www.cancerimagingarchive.net/wp-content/uploads"    # the four tables


def fetch(root, limit=None, dry_run=False):
    """The four tables and `limit` series (all 6,775: 163.5 GB), film by film, in the tree of IDC; returns the plan as a table.

    They come from the public bucket of the Imaging Data Commons, checked by size and, where the bucket has one, md5, else by
    their identifiers and the length of their pixels; or, if that does not answer, from NBIA, as archives with md5 sums. Both become
    cbis_ddsm/<PatientID>/<StudyInstanceUID>/MG_<SeriesInstanceUID>/ below `root`. With `dry_run` nothing is fetched. Raises
    `Problem` if neither answers, the disk is too small, or files did not come.
    """
    files = [File(f"{TCIA}/{name}", name, check=_check_table) for name in TABLES]
    try:
        files += _from_idc(Path(root), limit)
    except Problem as problem:
        log.warning("%s NBIA is asked instead.", problem)
        files += _from_nbia(limit)
    return obtain(files, root, TERMS, dry_run)


def idc_series():
    """The series that IDC has, film by film: PatientID, StudyInstanceUID, SeriesInstanceUID, series_aws_url, instanceCount."""
    import idc_index_data                                 # here, since nothing else needs it
    series = pd.read_parquet(idc_index_data.IDC_INDEX_PARQUET_FILEPATH, filters=[("collection_id", "==", "cbis_ddsm")],
                             columns=["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "series_aws_url", "instanceCount"])
    return series.assign(film=series.PatientID.map(_film)).sort_values(["film", "PatientID"], ignore_index=True)


def _from_idc(root, limit):
    """The files of the bucket, which IDC's index knows by series and the bucket itself by file and size."""
    series = idc_series()[:limit]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda one: _objects(root, one), series.itertuples())
        return sum(tqdm(found, "asking IDC", len(series), disable=None), [])


def _objects(root, series):
    folder = f"cbis_ddsm/{series.PatientID}/{series.StudyInstanceUID}/MG_{series.SeriesInstanceUID}"
    if (root / folder / "md5hashes.csv").exists() and len(list((root / folder).glob("*.dcm"))) == series.instanceCount:
        return []                                         # it came as NBIA's archive, with other file names
    objects = listing(IDC, series.series_aws_url.split("/")[3] + "/")
    if len(objects) != series.instanceCount:
        raise Problem(f"IDC has {len(objects)} files of the series {series.SeriesInstanceUID} and lists {series.instanceCount}.")
    check = partial(_check_instance, series=series.SeriesInstanceUID)
    return [File(f"{IDC}/{key}", f"{folder}/{key.split('/')[-1]}", size, md5, check=None if md5 else check) for key, size, md5 in objects]


def _from_nbia(limit):
    by_film = lambda one: (_film(one["PatientID"]), one["PatientID"])
    return ask(f"{NBIA}/getSeries?Collection=CBIS-DDSM", lambda answer: [_archive(one) for one in sorted(answer.json(), key=by_film)])[:limit]


def _archive(series):
    """The `File` of one series as NBIA lists it."""
    uid, count = series["SeriesInstanceUID"], int(series["ImageCount"])
    return File(f"{NBIA}/getImageWithMD5Hash?SeriesInstanceUID={uid}", f"cbis_ddsm/{series['PatientID']}/{series['StudyInstanceUID']}/MG_{uid}",
                unpacked=int(series.get("FileSize") or 2e8 * count) + 1_000_000,          # and the list of checksums
                check=partial(_check_series, count=count))


def _film(patient_id):
    """Calc-Test_P_00038_LEFT_CC_1 and P_00038_LEFT_CC.dcm -> P_00038_LEFT_CC...: what belongs to a film sorts together."""
    return re.sub(r"^.*?(?=P_\d)|\.dcm$", "", patient_id)


def _check_table(path):
    if not path.read_bytes().startswith(b"patient_id,"):
        raise Damaged(f"{path.name} is no case description")


def _check_instance(path, series):
    """Raises `Damaged` unless the file is DICOM of this SeriesInstanceUID with all of its pixels: what came in several parts has no md5."""
    try:
        data = pydicom.dcmread(path)
        found, whole = str(data.get("SeriesInstanceUID", "")), data.file_meta.TransferSyntaxUID.is_compressed
        wanted = data.Rows * data.Columns * data.BitsAllocated // 8
        if found != series or not whole and len(data.PixelData) < wanted:
            raise ValueError(f"its series is {found or 'not said'}, and {len(data.PixelData)} of {wanted} bytes of pixels are there")
    except UNREADABLE as error:
        raise Damaged(f"{path.name} is not the image of the series {series} ({error})") from None


def _check_series(folder, count):
    """Raises `Damaged` unless the `count` images of a series are there, as NBIA's md5hashes.csv has them."""
    images = {path.name: path for path in folder.glob("*.dcm")}
    hashes = folder / "md5hashes.csv"
    listed = dict(re.findall(r'([^",\s]+\.dcm)[",\s]+([0-9A-Fa-f]{32})', hashes.read_text(errors="replace"))) if hashes.exists() else {}
    if len(images) != count or hashes.exists() and set(listed) != set(images):
        raise Damaged(f"{folder.name} has {len(images)} images instead of {count}, or others than its md5hashes.csv lists")
    for name, md5 in listed.items():
        if digest(images[name]) != md5.lower():
            raise Damaged(f"{name} of {folder.name} has not the md5 {md5}")
