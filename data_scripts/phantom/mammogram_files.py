"""Writes the phantom's mammograms in the native layouts of CBIS-DDSM and INbreast."""
import hashlib
import plistlib
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy import ndimage
from skimage.measure import find_contours

from xmodal.runtime.files import atomic

from .. import parallel
from .dials import Dials, displaced, style_of
from .mammogram import FIELD_MM, STYLES, draw
from .native import DIGITAL_MAMMOGRAM, SECONDARY_CAPTURE, registry_row, uid, write_dicom, write_table
from .patients import generator

VIEWS = ("CC", "MLO")
CBIS_ROOT, INBREAST_ROOT = "1.3.6.1.4.1.9590.100.1.2.", "2.25."  # prefixes of unique identifiers


def picture(row, view, domain, seed, dials=Dials()):
    """The image and lesion mask that both the pixel files and the tables of a site describe."""
    style = style_of(STYLES, domain, dials.style)
    image, mask = draw(row, view, style, generator(seed, domain, row["patient"], view))
    rng = generator(seed, domain, row["patient"], view, "outline")
    return image, displaced(mask, dials.outline_error, rng)


def _label(row):
    """The class that the tables say: not normal where a lesion is drawn."""
    return max(row["label"], int(row["lesion_type"] != ""))


def _density_digit(row):
    return str(1 + "ABCD".index(row["density"]))


# ---- CBIS-DDSM ---------------------------------------------------------------------------------------------
# Columns of which each kind has its own.
CBIS_TABLES = {"mass": ("breast_density", "mass shape", "mass margins"),
               "calc": ("breast density", "calc type", "calc distribution")}
SIDES = {"L": "LEFT", "R": "RIGHT"}
CBIS_TERMS = {"circumscribed": ("OVAL", "CIRCUMSCRIBED"), "lobulated": ("LOBULATED", "MICROLOBULATED"),
              "irregular": ("IRREGULAR", "ILL_DEFINED"), "spiculated": ("IRREGULAR", "SPICULATED"),
              "distortion": ("ARCHITECTURAL_DISTORTION", "NA"),
              "asymmetry": ("ASYMMETRIC_BREAST_TISSUE", "NA"),
              "cluster": ("PLEOMORPHIC", "CLUSTERED"), "scatter": ("PUNCTATE", "DIFFUSELY_SCATTERED")}


def write_cbis_ddsm(root, patients, seed, workers=2, dials=Dials()):
    """Writes DICOM files and the four case descriptions under `root`; returns the registry's rows.

    `root`/cbis_ddsm/<PatientID>/<StudyInstanceUID>/MG_<SeriesInstanceUID>/<uuid>.dcm, as IDC lays the
    collection out: a full mammogram, and in a series of two instances its crop and its lesion mask. A fifth
    of the patients are test cases.
    """
    root = Path(root)
    rng = generator(seed, "cbis_ddsm", "names")
    numbers = 1 + rng.permutation(len(patients))
    test = rng.random(len(patients)) < 0.2
    rows = []
    for row, number, is_test in zip(patients.to_dict("records"), numbers, test):
        rows.append({**row, "native": f"P_{number:05d}", "part": "Test" if is_test else "Training"})
    cases = parallel(partial(_cbis_patient, root=root, seed=seed, dials=dials), rows, workers, "CBIS-DDSM")
    for kind in CBIS_TABLES:
        for part, name in (("Training", "train"), ("Test", "test")):
            table = []
            for row, lines in zip(rows, cases):
                if row["part"] == part and _cbis_kind(row) == kind:
                    table += lines
            write_table(root / f"{kind}_case_description_{name}_set.csv", _cbis_header(kind), sorted(table))
    return [registry_row("cbis_ddsm", row["native"], row) for row in rows]


def _cbis_header(kind):
    density, first, second = CBIS_TABLES[kind]
    return ["patient_id", density, "left or right breast", "image view", "abnormality id", "abnormality type",
            first, second, "assessment", "pathology", "subtlety", "image file path",
            "cropped image file path", "ROI mask file path"]


def _cbis_kind(row):
    return "calc" if row["lesion_type"] == "calcification" else "mass"


def _cbis_patient(row, root, seed, dials):
    """Writes the files of one patient; returns the lines of its table, one per view."""
    side = SIDES[row["laterality"]]
    kind = {"calc": "calcification", "mass": "mass"}[_cbis_kind(row)]
    rng = generator(seed, "cbis_ddsm", row["patient"], "words")
    malignant = _label(row) > 1
    if malignant:
        pathology = "MALIGNANT"
    else:
        pathology = "BENIGN_WITHOUT_CALLBACK" if rng.random() < 0.2 else "BENIGN"
    assessment = str(rng.choice([4, 5] if malignant else [2, 3, 4]))
    first, second = CBIS_TERMS[row["lesion_shape"] or row["lesion_type"]]
    lines = []
    for view in VIEWS:
        drawn = picture(row, view, "cbis_ddsm", seed, dials)
        paths = _cbis_view(row, view, *drawn, root, seed, rng)
        lines.append([row["native"], _density_digit(row), side, view, "1", kind, first, second, assessment,
                      pathology, str(rng.integers(2, 6)), *paths])
    return lines


def _cbis_view(row, view, image, mask, root, seed, rng):
    """Writes the image, crop and mask of one view; returns the three paths that the table lists for them."""
    calc = _cbis_kind(row) == "calc"
    side = SIDES[row["laterality"]]
    folder = f"{'Calc' if calc else 'Mass'}-{row['part']}_{row['native']}_{side}_{view}"
    y, x = ndimage.find_objects(mask.astype(int))[0]
    crop = np.ascontiguousarray(image[max(y.start - 20, 0):y.stop + 20, max(x.start - 20, 0):x.stop + 20])
    shown = {"PatientOrientation": view, "Laterality": row["laterality"]}
    full, = _cbis_series(root, folder, seed, [image], SeriesDescription="full mammogram images", **shown)
    description = str(rng.choice(["cropped images", "ROI mask images"]))
    white = mask.astype(np.uint8) * 255
    if calc:                                              # mask first; the crop's path ends with a line feed
        pair = _cbis_series(root, folder + "_1", seed, [white, crop], SeriesDescription=description, **shown)
        return full, pair[1] + "\n", pair[0]
    pair = _cbis_series(root, folder + "_1", seed, [crop, white], SeriesDescription=description, **shown)
    return full, pair[0], pair[1] + "\n"


def _cbis_series(root, patient_id, seed, images, **elements):
    """Writes the instances of one series; returns their paths in the tables, which is not where they lie."""
    study = uid(CBIS_ROOT, seed, patient_id, "study")
    series = uid(CBIS_ROOT, seed, patient_id, "series")
    for number, pixels in enumerate(images, 1):
        token = hashlib.sha256(f"{seed}/{patient_id}/{number}".encode()).hexdigest()
        name = "-".join((token[:8], token[8:12], token[12:16], token[16:20], token[20:32])) + ".dcm"
        write_dicom(root / "cbis_ddsm" / patient_id / study / f"MG_{series}" / name, pixels,
                    ImplicitVRLittleEndian, SECONDARY_CAPTURE, pixels.dtype.itemsize * 8,
                    SOPInstanceUID=uid(CBIS_ROOT, seed, patient_id, number), StudyDate="20160720",
                    ContentDate="20160426", StudyTime="120000", ContentTime="120000", AccessionNumber="",
                    ConversionType="WSD", ReferringPhysicianName="", PatientName=patient_id,
                    PatientID=patient_id, PatientBirthDate="", PatientSex="", BodyPartExamined="BREAST",
                    StudyInstanceUID=study, SeriesInstanceUID=series, StudyID="DDSM", SeriesNumber=1,
                    InstanceNumber=number, SmallestImagePixelValue=int(pixels.min()),
                    LargestImagePixelValue=int(pixels.max()), **elements)
    return [f"{patient_id}/{study}/{series}/{number:06d}.dcm" for number in range(len(images))]


# ---- INbreast ----------------------------------------------------------------------------------------------

INBREAST_COLUMNS = ["Patient ID", "Patient age", "Laterality", "View", "Acquisition date", "File Name", "ACR",
                    "Bi-Rads"]
INBREAST_NAMES = {"mass": "Mass", "distortion": "Distortion", "asymmetry": "Asymmetry", "cluster": "Cluster",
                  "scatter": "Calcifications"}


def write_inbreast(root, patients, seed, workers=2, dials=Dials()):
    """Writes AllDICOMs/, AllXML/ and INbreast.csv under `root`; returns the registry's rows."""
    root = Path(root)
    rng = generator(seed, "inbreast", "names")
    numbers = 20586900 + 137 * rng.permutation(2 * len(patients)).reshape(-1, 2)
    rows = []
    for row, pair in zip(patients.to_dict("records"), numbers):
        token = hashlib.sha256(f"{seed}/{row['patient']}".encode()).hexdigest()[:16]
        rows.append({**row, "numbers": pair.tolist(), "token": token})
    lines = parallel(partial(_inbreast_patient, root=root, seed=seed, dials=dials), rows, workers, "INbreast")
    table = sorted(sum(lines, []), key=lambda line: line[5])
    write_table(root / "INbreast.csv", INBREAST_COLUMNS, table, delimiter=";")
    return [registry_row("inbreast", row["token"], row) for row in rows]


def _inbreast_patient(row, root, seed, dials):
    """Writes the files of one patient; returns the lines of the table, one per view."""
    rng = generator(seed, "inbreast", row["patient"], "words")
    month = f"{rng.integers(2008, 2011)}{rng.integers(1, 13):02d}"
    birads = _birads(row, rng)
    study = uid(INBREAST_ROOT, seed, row["patient"], "study")
    lines = []
    for view, number in zip(VIEWS, row["numbers"]):
        image, mask = picture(row, view, "inbreast", seed, dials)
        spacing = FIELD_MM / len(image)
        position = "ML" if view == "MLO" else view
        name = f"{number}_{row['token']}_MG_{row['laterality']}_{position}_ANON.dcm"
        write_dicom(root / "AllDICOMs" / name, image, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 14,
                    SOPInstanceUID=uid(INBREAST_ROOT, seed, number), StudyDate=month + "01",
                    StudyTime="120000", AccessionNumber="", ReferringPhysicianName="",
                    PatientName="removed", PatientID=row["token"],
                    PatientBirthDate="", PatientSex="F", BodyPartExamined="BREAST", StudyInstanceUID=study,
                    SeriesInstanceUID=uid(INBREAST_ROOT, seed, number, "series"), StudyID="", SeriesNumber=1,
                    InstanceNumber=1, ViewPosition=position, ImageLaterality=row["laterality"],
                    PixelSpacing=[spacing, spacing], ImagerPixelSpacing=[spacing, spacing])
        if mask.any():
            _inbreast_xml(root / "AllXML" / f"{number}.xml", row, mask, spacing)
        lines.append(["removed", "removed", row["laterality"], view, month, str(number), _density_digit(row),
                      birads])
    return lines


def _birads(row, rng):
    """The BI-RADS category that the table gives: by class and, of a malignant lesion, by severity."""
    benign = str(rng.choice(["2", "2", "2", "3"]))
    severity = 5 * row["severity"] - 1.5 + rng.normal(0, 0.6)
    malignant = ("4a", "4b", "4c", "5", "6")[int(np.clip(severity, 0, 4))]
    return {0: "1", 1: benign}.get(_label(row), malignant)


def _inbreast_xml(path, row, mask, spacing):
    """The Apple property list that outlines the lesion in pixels, x to the right, and in millimetres."""
    border = find_contours(np.pad(mask, 1), 0.5)[0][::3, ::-1] - 1
    finding = row["lesion_shape"] if row["lesion_type"] == "calcification" else row["lesion_type"]
    names = [INBREAST_NAMES[finding]]
    if row["lesion_shape"] == "spiculated":
        names.append("Spiculated Region")
    area = round(float(mask.sum()) * spacing ** 2 / 100, 4)         # cm2
    in_pixels = ["({:f}, {:f})".format(x, y) for x, y in border]
    in_mm = ["({:f}, {:f}, 0.000000)".format(x, y) for x, y in border * spacing]
    rois = []
    for i, name in enumerate(names):
        rois.append({"Area": area, "Center": "({:f}, {:f})".format(*border.mean(0)), "IndexInImage": i,
                     "Name": name, "NumberOfPoints": len(border),
                     "Type": 10 if name == "Spiculated Region" else 15,
                     "Point_px": in_pixels, "Point_mm": in_mm})
    plist = {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": rois}]}
    with atomic(path) as temporary:
        temporary.write_bytes(plistlib.dumps(plist))
