"""CBIS-DDSM: digitised film mammograms with outlined, biopsied or followed lesions (doi 10.7937/K9/TCIA.2016.7O02S9CY)."""
import json
import logging
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from tqdm import tqdm

from data_scripts import files_below
from data_scripts.archive import Damaged
from data_scripts.bucket import listing
from data_scripts.cbis_tables import PATHOLOGY, TABLES, film, lesion, read_tables, table_traps
from data_scripts.download import File, ask, digest, obtain
from xmodal.cohort import INDEX, label_set, validate
from xmodal.config import MAMMOGRAPHY, Problem
from xmodal.imaging.dicom import UNREADABLE, read_pixels

log = logging.getLogger(__name__)
TAGS = ["SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns", "BitsAllocated", "InstanceNumber", "PatientID", "SeriesDescription"]


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
            left_out.append((folder, f"CBIS-DDSM lists {folder}, but its image is not there."))
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


def find_series(root):
    """({SeriesInstanceUID: [{path, bits, shape, pixels, number}, ...]}, traps, [(path, reason), ...]) of the DICOM files under `root`.

    Their names and folders do not matter. A file that is there twice counts once; one that cannot be read gives a reason.
    """
    series, traps, left_out, seen = {}, Counter(), [], set()
    for path in tqdm(files_below(root, ".dcm"), "reading headers", disable=None):
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
    image, else two values, and of such the one whose size is nearest the full image's. One under half of that in another
    aspect is the mask of the crop, which nothing places on the image.
    """
    found = {f["path"]: f for uid in (finding["mask_series"], finding["crop_series"]) for f in series.get(uid, ())}.values()
    fit = [f for f in found if f["bits"] == 8 and f["shape"] == full["shape"]] or [f for f in found if _two_values(f["path"])]
    if not fit:
        traps["missing_mask"] += 1
        log.info("The lesion mask %s is not there.", finding["mask"].strip())
        return ""
    mask = min(fit, key=lambda f: abs(np.log(f["pixels"] / full["pixels"])))
    height, width = (of_mask / of_image for of_mask, of_image in zip(mask["shape"], full["shape"]))
    if min(height, width) < 0.5 and abs(height / width - 1) > 0.02:
        traps["crop_sized_mask"] += 1
        log.warning("The mask %s is %.3f times as high and %.3f times as wide as its image: of the crop, and not used.", mask["path"], height, width)
        return ""
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


# ---- fetch --------------------------------------------------------------------------------------------------------

TERMS = "CC BY 3.0; cite the data, doi 10.7937/K9/TCIA.2016.7O02S9CY, and Lee et al. 2017, doi 10.1038/sdata.2017.177."
IDC = "https://idc-open-data.s3.amazonaws.com"            # a folder a series: <crdc_series_uuid>/<instance>.dcm
NBIA = "https://nbia.cancerimagingarchive.net/nbia-api/services/v4"
TCIA = "https://www.cancerimagingarchive.net/wp-content/uploads"    # the four tables


def fetch(root, limit=None, dry_run=False):
    """The four tables and `limit` series (all 6,775: 163.5 GB), film by film, in the tree of IDC; returns the plan as a table.

    They come from the public bucket of the Imaging Data Commons, checked by size and, where the bucket has one, md5, else by
    ETag, identifiers and the length of their pixels; or, if that does not answer, from NBIA, as archives with md5 sums. Both become
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
    import idc_index_data  # here, since nothing else needs it
    series = pd.read_parquet(idc_index_data.IDC_INDEX_PARQUET_FILEPATH, filters=[("collection_id", "==", "cbis_ddsm")],
                             columns=["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "series_aws_url", "instanceCount"])
    return series.assign(film=series.PatientID.map(film)).sort_values(["film", "PatientID"], ignore_index=True)


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
    return [replace(file, path=f"{folder}/{file.path.split('/')[-1]}",
                    check=None if file.checksum else partial(_check_instance, series=series.SeriesInstanceUID, came=file.check)) for file in objects]


def _from_nbia(limit):
    by_film = lambda one: (film(one["PatientID"]), one["PatientID"])
    return ask(f"{NBIA}/getSeries?Collection=CBIS-DDSM", lambda answer: [_archive(one) for one in sorted(answer.json(), key=by_film)])[:limit]


def _archive(series):
    """The `File` of one series as NBIA lists it."""
    uid, count = series["SeriesInstanceUID"], int(series["ImageCount"])
    return File(f"{NBIA}/getImageWithMD5Hash?SeriesInstanceUID={uid}", f"cbis_ddsm/{series['PatientID']}/{series['StudyInstanceUID']}/MG_{uid}",
                unpacked=int(series.get("FileSize") or 2e8 * count) + 1_000_000,          # and the list of checksums
                check=partial(_check_series, count=count))


def _check_table(path):
    if not path.read_bytes().startswith(b"patient_id,"):
        raise Damaged(f"{path.name} is no case description")


def _check_instance(path, series, came=None):
    """Raises `Damaged` unless the file, which has no md5, passes `came` and is DICOM of this SeriesInstanceUID with all of its pixels."""
    if came:
        came(path)
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
