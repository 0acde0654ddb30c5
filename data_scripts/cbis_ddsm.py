"""CBIS-DDSM: digitised film mammograms with outlined, biopsied or followed lesions.

Its doi is 10.7937/K9/TCIA.2016.7O02S9CY.
"""
import json
import logging
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pydicom
from tqdm import tqdm

from data_scripts.archive import Damaged
from data_scripts.bucket import listing
from data_scripts.cbis_masks import mask_of
from data_scripts.cbis_tables import PATHOLOGY, TABLES, film, lesion, read_tables, table_traps
from data_scripts.download import File, ask, digest, obtain
from data_scripts.indexing import Index, files_below, met, rows_of
from xmodal.cohort import INDEX, index_row, label_set, validate
from xmodal.config import MAMMOGRAPHY, Problem
from xmodal.imaging.decoding import GuardedFile
from xmodal.imaging.dicom import UNREADABLE

log = logging.getLogger(__name__)
TAGS = ["SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns", "BitsAllocated", "InstanceNumber",
        "PatientID", "SeriesDescription"]
DENSITY = {"1": "A", "2": "B", "3": "C", "4": "D"}


def index(root):
    """The full mammograms under `root` as rows of `cohort.INDEX`; see `read`."""
    return rows_of(read(root))


def read(root):
    """`Index` of the full mammograms under `root`; DICOM files and tables may lie at any depth, in any tree.

    Tables and files meet by SeriesInstanceUID, never by folder, file name or PatientID. A film (one patient,
    side and view) is malignant if any abnormality on it is, whichever of the tables lists it; 71 films are
    listed as a mass and, under other UIDs, as a calcification. The lesion type is that of the first
    abnormality that decides, the image's own before those of its twin; the masks are the image's own. A
    patient is P_xxxxx in all tables, so that the 31 patients who are in training of one kind and in test of
    the other stay one. There is no pixel spacing: the diameter is NaN.

    Exclusions are images that are not there, files that cannot be read, and rows of the tables that cannot be
    used; lost masks leave an empty annotation. Raises `Problem` without tables, columns or images.
    """
    faulty = []
    table = read_tables(root, faulty)
    series, traps, left_out = find_series(root)
    traps.update(table_traps(table), faulty_row=len(faulty))
    left_out += faulty
    films = _findings_by("film", table)
    images = _findings_by("folder", table)
    rows = []
    for folder, own in sorted(images.items()):
        instances = series.get(own[0]["image_series"])
        if not instances:
            reason = f"CBIS-DDSM lists {folder}, but its image is not there."
            left_out.append((folder, reason))
            traps["missing_image"] += 1
            log.info("%s Left out.", reason)               # thousands, of a release fetched in part
            continue
        full = max(instances, key=lambda instance: instance["pixels"])
        masks = [mask_of(finding, full, series, traps) for finding in own]
        twins = [finding for finding in films[own[0]["film"]] if finding["folder"] != folder]
        rows.append(_row(own + twins, full, [mask for mask in masks if mask]))
    if traps["missing_image"] or traps["missing_mask"]:
        log.warning("CBIS-DDSM: %d of %d images left out, %d masks not found.",
                    traps["missing_image"], len(images), traps["missing_mask"])
    if not rows:
        raise Problem(f"None of the {len(images)} images that the tables in {Path(root)} list is there; "
                      "run 01_download again.")
    return Index(validate(pd.DataFrame(rows), INDEX, "index of CBIS-DDSM"), left_out, met(traps))


def _findings_by(column, table):
    """{value of a column: [row as a dict, ...]}; a row is a finding."""
    groups = defaultdict(list)
    for finding in table.to_dict("records"):
        groups[finding[column]].append(finding)
    return groups


def find_series(root):
    """({SeriesInstanceUID: [image, ...]}, traps, [(path, reason), ...]) of the DICOM files under `root`.

    An image is a dict of path, bits, shape, pixels and number. Names and folders of files do not matter. A
    file that is there twice counts once; one that cannot be read gives a reason.
    """
    series = {}
    traps = Counter()
    left_out = []
    identities = set()
    for path in tqdm(files_below(root, ".dcm"), "reading headers", disable=None):
        try:
            with GuardedFile(path) as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
            image = _image(path, header)
            odd = {"malformed_patient_id": str(header.get("PatientID", "")).endswith(".dcm"),
                   "no_series_description": not header.get("SeriesDescription")}
            identity = _identity(path, header, image)
        except UNREADABLE as error:
            left_out.append((str(path), f"{path} cannot be read ({error})."))
            log.warning("%s Left out.", left_out[-1][1])
            continue
        traps.update(odd, twin_file=identity in identities)
        if identity not in identities:
            series.setdefault(identity[0], []).append(image)
        identities.add(identity)
    traps["unreadable_file"] = len(left_out)
    if left_out:
        log.warning("CBIS-DDSM: %d files cannot be read.", len(left_out))
    return series, traps, left_out


def _image(path, header):
    """An image as `find_series` gives it. Raises one of `UNREADABLE`."""
    bits = int(header.BitsAllocated)
    shape = (int(header.Rows), int(header.Columns))
    return {"path": str(path.resolve()), "bits": bits, "shape": shape, "pixels": shape[0] * shape[1],
            "number": str(header.get("InstanceNumber", ""))}


def _identity(path, header, image):
    """(SeriesInstanceUID, SOPInstanceUID, shape, bits), which are the same in two copies of a file.

    Raises one of `UNREADABLE`.
    """
    uid = str(header.SeriesInstanceUID or "")
    if not image["pixels"] or not uid:
        raise ValueError("it has no pixels, or no SeriesInstanceUID")
    return uid, str(header.get("SOPInstanceUID") or path), image["shape"], image["bits"]


def _row(findings, full, masks):
    """The row of one image from the findings on its film, its own first."""
    own = findings[0]
    # Malignant classes are the higher bits.
    worst = max(findings, key=lambda finding: PATHOLOGY[finding["pathology"]])
    folder = own["folder"]
    patient = re.search(r"P_[0-9]+", folder)[0]
    kind, shape = lesion(worst["type"], worst["first"], worst["second"])
    allowed = PATHOLOGY[worst["pathology"]]
    # A benign label fixes the class, a malignant one leaves two.
    truth = 1 if allowed == label_set("benign") else -1
    return index_row(
        sample=f"cbis_ddsm/{folder}", patient=f"cbis_ddsm/{patient}", study=own["study"], domain="cbis_ddsm",
        modality=MAMMOGRAPHY, view=own["view"], laterality=own["side"][0], allowed=allowed, truth=truth,
        grade=truth, density=DENSITY.get(own["breast_density"], ""), lesion_type=kind, lesion_shape=shape,
        annotation=json.dumps({"masks": masks}) if masks else "", source=full["path"])


# ---- fetch -------------------------------------------------------------------------------------------------

TERMS = ("CC BY 3.0; cite the data, doi 10.7937/K9/TCIA.2016.7O02S9CY, "
         "and Lee et al. 2017, doi 10.1038/sdata.2017.177.")
# The bucket has one folder for each series: <crdc_series_uuid>/<instance>.dcm.
IDC = "https://idc-open-data.s3.amazonaws.com"
NBIA = "https://nbia.cancerimagingarchive.net/nbia-api/services/v4"
TCIA = "https://www.cancerimagingarchive.net/wp-content/uploads"    # the four tables


def fetch(root, limit=None, dry_run=False):
    """The four tables and the series of `limit` patients (all 6,775 series: 163.5 GB), film by film, in the
    tree of IDC; returns the plan as a table.

    They come from the public bucket of the Imaging Data Commons, checked by size and md5. Files for which the
    bucket has no md5 are checked by ETag, identifiers and the length of their pixels. If the bucket does not
    answer, they come from NBIA, as archives with md5 sums. Both become
    cbis_ddsm/<PatientID>/<StudyInstanceUID>/MG_<SeriesInstanceUID>/ below `root`. With `dry_run` nothing is
    fetched. Raises `Problem` if neither answers, the disk is too small, or files did not come.
    """
    files = [File(f"{TCIA}/{name}", name, check=_check_table) for name in TABLES]
    try:
        files += _from_idc(Path(root), limit)
    except Problem as problem:
        log.warning("%s NBIA is asked instead.", problem)
        files += _from_nbia(limit)
    return obtain(files, root, TERMS, dry_run)


def idc_series():
    """The series that IDC has, film by film.

    Columns: PatientID, StudyInstanceUID, SeriesInstanceUID, series_aws_url, instanceCount, film.
    """
    import idc_index_data  # here, since nothing else needs it
    series = pd.read_parquet(
        idc_index_data.IDC_INDEX_PARQUET_FILEPATH, filters=[("collection_id", "==", "cbis_ddsm")],
        columns=["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "series_aws_url", "instanceCount"])
    series = series.assign(film=series.PatientID.map(film))
    return series.sort_values(["film", "PatientID"], ignore_index=True)


def _from_idc(root, limit):
    """The files of the bucket: IDC's index knows them by series, and the bucket itself by file and size."""
    series = idc_series()
    series = series[:_within(series.PatientID, limit)]
    files = []
    with ThreadPoolExecutor(16) as pool:
        listings = pool.map(partial(_objects, root), series.itertuples())
        for objects in tqdm(listings, "asking IDC", len(series), disable=None):
            files += objects
    return files


def _objects(root, series):
    """The files of one series that the bucket lists."""
    folder = f"cbis_ddsm/{series.PatientID}/{series.StudyInstanceUID}/MG_{series.SeriesInstanceUID}"
    came = len(list((root / folder).glob("[!.]*.dcm")))
    if (root / folder / "md5hashes.csv").exists() and came == series.instanceCount:
        return []                                         # it came as NBIA's archive, with other file names
    objects = listing(IDC, series.series_aws_url.split("/")[3] + "/")
    if len(objects) != series.instanceCount:
        raise Problem(f"IDC has {len(objects)} files of the series {series.SeriesInstanceUID} "
                      f"and lists {series.instanceCount}.")
    files = []
    for file in objects:
        check = None
        if not file.checksum:
            check = partial(_check_instance, series=series.SeriesInstanceUID, came=file.check)
        files.append(replace(file, path=f"{folder}/{file.path.split('/')[-1]}", check=check))
    return files


def _from_nbia(limit):
    """The archives of the series that NBIA lists, film by film."""
    archives = ask(f"{NBIA}/getSeries?Collection=CBIS-DDSM", _archives)
    return archives[:_within([archive.path.split("/")[1] for archive in archives], limit)]


def _within(patient_ids, limit):
    """How many of these PatientIDs, film by film, are of the first `limit` patients."""
    patients = [film(name)[:7] for name in patient_ids]      # P_00038 of P_00038_LEFT_CC
    first = set(list(dict.fromkeys(patients))[:limit])
    return sum(patient in first for patient in patients)


def _archives(answer):
    listed = sorted(answer.json(), key=lambda series: (film(series["PatientID"]), series["PatientID"]))
    return [_archive(series) for series in listed]


def _archive(series):
    """The `File` of one series as NBIA lists it."""
    uid = series["SeriesInstanceUID"]
    count = int(series["ImageCount"])
    size = int(series.get("FileSize") or 2e8 * count)
    return File(
        f"{NBIA}/getImageWithMD5Hash?SeriesInstanceUID={uid}",
        f"cbis_ddsm/{series['PatientID']}/{series['StudyInstanceUID']}/MG_{uid}",
        unpacked=size + 1_000_000,                         # and the list of checksums
        check=partial(_check_series, count=count))


def _check_table(path):
    if not path.read_bytes().startswith(b"patient_id,"):
        raise Damaged(f"{path.name} is no case description")


def _check_instance(path, series, came=None):
    """Checks a file that has no md5, first by calling `came` with it.

    Raises `Damaged` unless it is DICOM of this SeriesInstanceUID with all of its pixels.
    """
    if came:
        came(path)
    try:
        with GuardedFile(path) as file:
            data = pydicom.dcmread(file)
        uid = str(data.get("SeriesInstanceUID", ""))
        is_compressed = data.file_meta.TransferSyntaxUID.is_compressed
        wanted = data.Rows * data.Columns * data.BitsAllocated // 8
        if uid != series or not is_compressed and len(data.PixelData) < wanted:
            raise ValueError(f"its series is {uid or 'not said'}, "
                             f"and {len(data.PixelData)} of {wanted} bytes of pixels are there")
    except UNREADABLE as error:
        raise Damaged(f"{path.name} is not the image of the series {series} ({error})") from None


def _check_series(folder, count):
    """Raises `Damaged` unless the `count` images of a series are there, as NBIA's md5hashes.csv has them."""
    images = {path.name: path for path in folder.glob("[!.]*.dcm")}
    hashes = folder / "md5hashes.csv"
    listed = {}
    if hashes.exists():
        text = hashes.read_text(errors="replace")
        listed = dict(re.findall(r'([^",\s]+\.dcm)[",\s]+([0-9A-Fa-f]{32})', text))
    if len(images) != count or hashes.exists() and set(listed) != set(images):
        raise Damaged(f"{folder.name} has {len(images)} images instead of {count}, "
                      "or others than its md5hashes.csv lists")
    for name, md5 in listed.items():
        if digest(images[name]) != md5.lower():
            raise Damaged(f"{name} of {folder.name} has not the md5 {md5}")
