"""Writes the phantom's mammograms in the native layouts of CBIS-DDSM and INbreast."""
import csv
import hashlib
import plistlib
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from scipy import ndimage
from skimage.measure import find_contours

from xmodal.runtime.files import atomic

from .. import parallel
from .mammogram import FIELD_MM, STYLES, draw
from .patients import generator

VIEWS = ("CC", "MLO")
SECONDARY_CAPTURE, DIGITAL_MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.1.2"
CBIS_ROOT, INBREAST_ROOT = "1.3.6.1.4.1.9590.100.1.2.", "2.25."  # prefixes of unique identifiers


def uid(prefix, *names):
    """A DICOM unique identifier that depends on the names only."""
    return generate_uid(prefix, entropy_srcs=[str(name) for name in names])


def write_dicom(path, pixels, syntax, sop_class, bits, **elements):
    """One greyscale image, uint8 or uint16 (H, W), as a DICOM file with the given elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, elements["SOPInstanceUID"]
    meta.TransferSyntaxUID = syntax
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    allocated = pixels.dtype.itemsize * 8
    for name, value in {"SpecificCharacterSet": "ISO_IR 100", "SOPClassUID": sop_class, "Modality": "MG", "SamplesPerPixel": 1,
                        "PhotometricInterpretation": "MONOCHROME2", "Rows": pixels.shape[0], "Columns": pixels.shape[1],
                        "BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0,
                        **elements}.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OW" if allocated > 8 or syntax == ImplicitVRLittleEndian else "OB"
    with atomic(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def write_table(path, header, rows, delimiter=","):
    """A CSV file with CRLF line ends; a field with a line feed in it is quoted."""
    with atomic(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def picture(row, view, domain, seed):
    """The image and lesion mask that both the pixel files and the tables of a site describe."""
    return draw(row, view, STYLES[domain], generator(seed, domain, row["patient"], view))


# ---- CBIS-DDSM -----------------------------------------------------------------------------------------------------

CBIS_COLUMNS = ["patient_id", "{density}", "left or right breast", "image view", "abnormality id", "abnormality type", "{first}",
                "{second}", "assessment", "pathology", "subtlety", "image file path", "cropped image file path", "ROI mask file path"]
CBIS_TABLES = {"mass": ("breast_density", "mass shape", "mass margins"), "calc": ("breast density", "calc type", "calc distribution")}
CBIS_WORDS = {"circumscribed": ("OVAL", "CIRCUMSCRIBED"), "lobulated": ("LOBULATED", "MICROLOBULATED"),
              "irregular": ("IRREGULAR", "ILL_DEFINED"), "spiculated": ("IRREGULAR", "SPICULATED"),
              "distortion": ("ARCHITECTURAL_DISTORTION", "NA"), "asymmetry": ("ASYMMETRIC_BREAST_TISSUE", "NA"),
              "cluster": ("PLEOMORPHIC", "CLUSTERED"), "scatter": ("PUNCTATE", "DIFFUSELY_SCATTERED")}


def write_cbis_ddsm(root, patients, seed, workers=2, quirks=()):
    """Writes DICOM files and the four case descriptions under `root`; returns the registry's rows.

    `root`/cbis_ddsm/<PatientID>/<StudyInstanceUID>/MG_<SeriesInstanceUID>/<uuid>.dcm, as IDC lays the collection out: a
    full mammogram, and in a series of two instances its crop and its lesion mask. A fifth of the patients are test cases.
    `quirks` are of quirks.QUIRKS["cbis_ddsm"].
    """
    from . import cbis_quirks  # here, since it writes with the functions above
    root, rng = Path(root), generator(seed, "cbis_ddsm", "names")
    numbers, test = 1 + rng.permutation(len(patients)), rng.random(len(patients)) < 0.2
    rows = [{**row, "number": int(n), "part": "Test" if t else "Training"}
            for row, n, t in zip(patients.to_dict("records"), numbers, test)]
    cases = parallel(partial(_cbis_patient, root=root, seed=seed), rows, workers, "CBIS-DDSM")
    for kind, names in CBIS_TABLES.items():
        for part in ("Training", "Test"):
            table = sorted(line for row, lines in zip(rows, cases) if row["part"] == part and _cbis_kind(row) == kind for line in lines)
            header = [c.format(density=names[0], first=names[1], second=names[2]) for c in CBIS_COLUMNS]
            write_table(root / f"{kind}_case_description_{'train' if part == 'Training' else 'test'}_set.csv", header, table)
    cbis_quirks.apply(root, quirks)
    return [_registry("cbis_ddsm", f"P_{row['number']:05d}", row) for row in rows]


def _registry(domain, name, row):
    return {"domain": domain, "native_patient": name, **{c: row[c] for c in ("patient", "diagnosis", "diameter_mm")}}


def _cbis_kind(row):
    return "calc" if row["lesion_type"] == "calcification" else "mass"


def _cbis_patient(row, root, seed):
    """Writes the files of one patient; returns the lines of its table, one a view."""
    side, kind = {"L": "LEFT", "R": "RIGHT"}[row["laterality"]], _cbis_kind(row)
    rng, lines = generator(seed, "cbis_ddsm", row["patient"], "words"), []
    pathology = "MALIGNANT" if row["diagnosis"] > 1 else "BENIGN_WITHOUT_CALLBACK" if rng.random() < 0.2 else "BENIGN"
    assessment = (str(rng.choice([4, 5])) if row["diagnosis"] > 1 else str(rng.choice([2, 3, 4])))
    first, second = CBIS_WORDS[row["lesion_shape"] or row["lesion_type"]]
    for view in VIEWS:
        folder = f"{'Calc' if kind == 'calc' else 'Mass'}-{row['part']}_P_{row['number']:05d}_{side}_{view}"
        image, mask = picture(row, view, "cbis_ddsm", seed)
        y, x = ndimage.find_objects(mask.astype(int))[0]
        crop = image[max(y.start - 20, 0):y.stop + 20, max(x.start - 20, 0):x.stop + 20]
        full, = _cbis_series(root, folder, view, row["laterality"], seed, "full mammogram images", [image])
        pair = _cbis_series(root, folder + "_1", view, row["laterality"], seed, str(rng.choice(["cropped images", "ROI mask images"])),
                            [np.ascontiguousarray(crop), mask.astype(np.uint8) * 255][::-1 if kind == "calc" else 1])
        crop_path, mask_path = pair[::-1] if kind == "calc" else pair
        paths = [full, crop_path + "\n" * (kind == "calc"), mask_path + "\n" * (kind == "mass")]
        density = 1 + "ABCD".index(row["density"])
        lines.append([f"P_{row['number']:05d}", str(density), side, view, "1", "calcification" if kind == "calc" else "mass", first,
                      second, assessment, pathology, str(rng.integers(2, 6)), *paths])
    return lines


def _cbis_series(root, patient_id, view, laterality, seed, description, images):
    """Writes the instances of one series; returns the path that the tables give for each, which is not where it lies."""
    study, series = (uid(CBIS_ROOT, seed, patient_id, what) for what in ("study", "series"))
    for number, pixels in enumerate(images, 1):
        token = hashlib.sha256(f"{seed}/{patient_id}/{number}".encode()).hexdigest()
        name = "-".join((token[:8], token[8:12], token[12:16], token[16:20], token[20:32])) + ".dcm"
        write_dicom(root / "cbis_ddsm" / patient_id / study / f"MG_{series}" / name, pixels, ImplicitVRLittleEndian,
                    SECONDARY_CAPTURE, pixels.dtype.itemsize * 8, SOPInstanceUID=uid(CBIS_ROOT, seed, patient_id, number),
                    StudyDate="20160720", ContentDate="20160426", StudyTime="120000", ContentTime="120000", AccessionNumber="",
                    ConversionType="WSD", ReferringPhysicianName="", SeriesDescription=description, PatientName=patient_id,
                    PatientID=patient_id, PatientBirthDate="", PatientSex="", BodyPartExamined="BREAST", StudyInstanceUID=study,
                    SeriesInstanceUID=series, StudyID="DDSM", SeriesNumber=1, InstanceNumber=number, PatientOrientation=view,
                    Laterality=laterality, SmallestImagePixelValue=int(pixels.min()), LargestImagePixelValue=int(pixels.max()))
    return [f"{patient_id}/{study}/{series}/{number:06d}.dcm" for number in range(len(images))]


# ---- INbreast ------------------------------------------------------------------------------------------------------

INBREAST_COLUMNS = ["Patient ID", "Patient age", "Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads"]
INBREAST_NAMES = {"mass": "Mass", "distortion": "Distortion", "asymmetry": "Asymmetry", "cluster": "Cluster", "scatter": "Calcifications"}


def write_inbreast(root, patients, seed, workers=2, quirks=()):
    """Writes AllDICOMs/, AllXML/ and INbreast.csv under `root`, with `quirks` of quirks.QUIRKS["inbreast"]; returns the registry's rows."""
    from . import inbreast_quirks  # here, since it writes with the functions above
    root, rng = Path(root), generator(seed, "inbreast", "names")
    numbers = 20586900 + 137 * rng.permutation(2 * len(patients)).reshape(-1, 2)
    rows = [{**row, "numbers": n.tolist(), "token": hashlib.sha256(f"{seed}/{row['patient']}".encode()).hexdigest()[:16]}
            for row, n in zip(patients.to_dict("records"), numbers)]
    lines = parallel(partial(_inbreast_patient, root=root, seed=seed), rows, workers, "INbreast")
    write_table(root / "INbreast.csv", INBREAST_COLUMNS, sorted(sum(lines, []), key=lambda line: line[5]), delimiter=";")
    inbreast_quirks.apply(root, quirks)
    return [_registry("inbreast", row["token"], row) for row in rows]


def _inbreast_patient(row, root, seed):
    """Writes the files of one patient; returns the lines of the table, one a view."""
    rng, lines = generator(seed, "inbreast", row["patient"], "words"), []
    date = f"{rng.integers(2008, 2011)}{rng.integers(1, 13):02d}"
    birads = {0: "1", 1: str(rng.choice(["2", "2", "2", "3"]))}.get(
        row["diagnosis"], ("4a", "4b", "4c", "5", "6")[int(np.clip(5 * row["severity"] - 1.5 + rng.normal(0, 0.6), 0, 4))])
    for view, number in zip(VIEWS, row["numbers"]):
        image, mask = picture(row, view, "inbreast", seed)
        spacing = FIELD_MM / len(image)
        name = f"{number}_{row['token']}_MG_{row['laterality']}_{'ML' if view == 'MLO' else view}_ANON.dcm"
        study = uid(INBREAST_ROOT, seed, row["patient"], "study")
        write_dicom(root / "AllDICOMs" / name, image, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 14,
                    SOPInstanceUID=uid(INBREAST_ROOT, seed, number), StudyDate=date + "01", StudyTime="120000", AccessionNumber="",
                    ReferringPhysicianName="", PatientName="removed", PatientID=row["token"], PatientBirthDate="", PatientSex="F",
                    BodyPartExamined="BREAST", StudyInstanceUID=study, SeriesInstanceUID=uid(INBREAST_ROOT, seed, number, "series"),
                    StudyID="", SeriesNumber=1, InstanceNumber=1, ViewPosition="ML" if view == "MLO" else view,
                    ImageLaterality=row["laterality"], PixelSpacing=[spacing, spacing], ImagerPixelSpacing=[spacing, spacing])
        if mask.any():
            _inbreast_xml(root / "AllXML" / f"{number}.xml", row, mask, spacing)
        lines.append(["removed", "removed", row["laterality"], view, date, str(number), str(1 + "ABCD".index(row["density"])), birads])
    return lines


def _inbreast_xml(path, row, mask, spacing):
    """The Apple property list that outlines the lesion in pixels, x to the right, and in millimetres."""
    border = find_contours(np.pad(mask, 1), 0.5)[0][::3, ::-1] - 1
    names = [INBREAST_NAMES[row["lesion_shape"] if row["lesion_type"] == "calcification" else row["lesion_type"]]]
    names += ["Spiculated Region"] * (row["lesion_shape"] == "spiculated")
    rois = [{"Area": round(float(mask.sum()) * spacing ** 2 / 100, 4), "Center": "({:f}, {:f})".format(*border.mean(0)),
             "IndexInImage": i, "Name": name, "NumberOfPoints": len(border), "Type": 10 if name == "Spiculated Region" else 15,
             "Point_px": ["({:f}, {:f})".format(x, y) for x, y in border],
             "Point_mm": ["({:f}, {:f}, 0.000000)".format(*p) for p in border * spacing]} for i, name in enumerate(names)]
    with atomic(path) as temporary:
        temporary.write_bytes(plistlib.dumps({"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": rois}]}))
