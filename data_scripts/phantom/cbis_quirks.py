"""The traps of CBIS-DDSM, each done to a phantom that is already written. `quirks.QUIRKS` says what each is.

What every real release has is always there, and a switch takes it away: two names of the density column, line feeds in quoted
paths, crop and mask in another order in calcification cases. Descriptions name the wrong one of the two as often as the right one.
"""
import csv
import re
import shutil

import numpy as np
import pydicom
from PIL import Image

from xmodal.runtime.files import atomic

from .mammogram_files import CBIS_ROOT, uid, write_table

PATIENT, DENSITY, SIDE, VIEW, NUMBER, TYPE, FIRST, SECOND, ASSESSMENT, PATHOLOGY, SUBTLETY, IMAGE, CROP, MASK = range(14)
TERMS = {"Mass": ("mass", "OVAL", "CIRCUMSCRIBED"), "Calc": ("calcification", "PUNCTATE", "CLUSTERED")}
OTHER = {"Mass": "Calc", "Calc": "Mass", "Training": "Test", "Test": "Training"}


def apply(root, names):
    """Does to the files under `root` what the quirks `names` say, in the order of `TRAPS`."""
    for trap in TRAPS:
        if trap.__name__ in names:
            trap(root)


# ---- tables ----------------------------------------------------------------------------------------------------------

def _read(root):
    """{path of a table: [header, line, ...]} of the tables that are there."""
    tables = {}
    for path in sorted(root.glob("*_case_description_*.csv")):
        with open(path, newline="") as file:
            tables[path] = list(csv.reader(file))
    return tables


def _lines(root):
    """The lines of all tables, each a list of 14 strings."""
    return [line for _, *lines in _read(root).values() for line in lines]


def _edit(root, change):
    """Puts in the place of each line those that `change` makes of it, each in the table of its kind and part."""
    tables = _read(root)
    new = [made for _, *lines in tables.values() for line in lines for made in change(line)]
    for path, (header, *_) in tables.items():
        kind, *_, part, _ = path.stem.split("_")
        folder = f"{kind.title()}-{'Training' if part == 'train' else 'Test'}_"
        write_table(path, header, [line for line in new if line[IMAGE].startswith(folder)])


def _every_other(patient_id):
    return int(re.search(r"P_(\d+)", patient_id)[1]) % 2 == 0


def one_density_name(root):
    for path, (header, *lines) in _read(root).items():
        write_table(path, ["breast_density" if i == DENSITY else name for i, name in enumerate(header)], lines)


def no_line_feeds(root):
    _edit(root, lambda line: [[value.strip() for value in line]])


def one_order(root):
    def change(line):
        if line[IMAGE].startswith("Calc"):
            _swap(root, line)
            line[CROP], line[MASK] = line[CROP].replace("000001.dcm", "000000.dcm"), line[MASK].replace("000000.dcm", "000001.dcm")
        return [line]
    _edit(root, change)


def joined_terms(root):
    other = {"Mass": "ARCHITECTURAL_DISTORTION", "Calc": "FINE_LINEAR_BRANCHING"}
    _edit(root, lambda line: [[*line[:FIRST], f"{line[FIRST]}-{other[line[IMAGE][:4]]}", *line[SECOND:]]])


def na_terms(root):
    _edit(root, lambda line: [[*line[:SECOND], "NA", *line[SECOND + 1:]]])


def zeros(root):
    _edit(root, lambda line: [[("0" if i in (DENSITY, ASSESSMENT, SUBTLETY) else value) for i, value in enumerate(line)]])


def several_abnormalities(root):
    _edit(root, lambda line: _halves(root, line) if line[VIEW] == "CC" else [line])


def mixed_pathology(root):
    """The benign half comes first, so that whoever reads the first line only is wrong."""
    def change(line):
        if line[VIEW] != "MLO" or line[PATHOLOGY] != "MALIGNANT":
            return [line]
        benign, malignant = _halves(root, line)
        benign[PATHOLOGY], benign[ASSESSMENT] = "BENIGN", "2"
        _, benign[FIRST], benign[SECOND] = TERMS[line[IMAGE][:4]]
        return [benign, malignant]
    _edit(root, change)


def _halves(root, line):
    """Two lines for one: the upper and the lower half of its lesion, each with a crop and a mask."""
    second = line.copy()
    second[NUMBER] = "2"
    for i in (CROP, MASK):
        second[i] = _copy(root, line[i], lambda folder: folder[:-1] + "2")
    for new, keep in ((line, 0), (second, 1)):
        path = _file(root, new[MASK])
        data = pydicom.dcmread(path)
        pixels = data.pixel_array.copy()
        rows = np.flatnonzero(pixels.any(1))
        middle = (rows[0] + rows[-1] + 1) // 2
        pixels[:middle if keep else 0] = 0
        pixels[len(pixels) if keep else middle:] = 0
        _save(path, data, pixels)
    return [line, second]


def crossing_patient(root):
    """The CC film of every other patient is listed once more, among the other kind and in the other part."""
    def change(line):
        if line[VIEW] != "CC" or not _every_other(line[PATIENT]):
            return [line]
        kind, part = line[IMAGE].split("_")[0].split("-")
        twin = line.copy()
        twin[TYPE], twin[FIRST], twin[SECOND] = TERMS[OTHER[kind]]
        for i in (IMAGE, CROP, MASK):
            twin[i] = _copy(root, line[i], lambda folder: folder.replace(f"{kind}-{part}", f"{OTHER[kind]}-{OTHER[part]}"))
        return [line, twin]
    _edit(root, change)


# ---- files -----------------------------------------------------------------------------------------------------------

def _file(root, listed):
    """Path of the instance that a table gives as <PatientID>/<study>/<series>/00000N.dcm."""
    patient_id, study, series, name = listed.strip().split("/")
    for path in sorted((root / "cbis_ddsm" / patient_id / study / f"MG_{series}").glob("*.dcm")):
        if pydicom.dcmread(path, specific_tags=["InstanceNumber"]).InstanceNumber == int(name[:6]) + 1:
            return path
    return None


def _save(path, data, pixels=None):
    if pixels is not None:
        data.Rows, data.Columns = pixels.shape
        data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    with atomic(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def _copy(root, listed, rename):
    """Writes the instance that a table lists once more, with identifiers of its own, under a renamed PatientID; returns what to list."""
    patient_id, _, _, name = listed.split("/")
    old, new = _file(root, listed), rename(patient_id)
    data = pydicom.dcmread(old)
    data.PatientID = data.PatientName = new
    data.StudyInstanceUID, data.SeriesInstanceUID = (uid(CBIS_ROOT, data[k].value, new) for k in ("StudyInstanceUID", "SeriesInstanceUID"))
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid(CBIS_ROOT, data.SOPInstanceUID, new)
    _save(root / "cbis_ddsm" / new / data.StudyInstanceUID / f"MG_{data.SeriesInstanceUID}" / old.name, data)
    return f"{new}/{data.StudyInstanceUID}/{data.SeriesInstanceUID}/{name}"


def _masks(root, view):
    """(path, data set) of the masks that the tables list of one view, or with "" of both."""
    for line in _lines(root):
        if line[VIEW].startswith(view):
            path = _file(root, line[MASK])
            yield path, pydicom.dcmread(path)


def _scale(root, view, height, width):
    for path, data in _masks(root, view):
        size = round(data.Columns * width), round(data.Rows * height)
        _save(path, data, np.asarray(Image.fromarray(data.pixel_array).resize(size, Image.Resampling.NEAREST)))


def scaled_mask(root):
    _scale(root, "CC", 0.870, 0.870)                      # 43.5 / 50 um, the pitches of two digitisers


def stretched_mask(root):
    _scale(root, "MLO", 0.870, 0.80)


def wide_mask(root):
    for path, data in _masks(root, ""):
        wide = data.pixel_array.astype(np.uint16) * 257
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        _save(path, data, wide)


def separate_series(root):
    """In CC views the mask moves to a study and series of its own; both are listed as 000000.dcm."""
    def change(line):
        if line[VIEW] != "CC":
            return [line]
        for i, path in [(i, _file(root, line[i])) for i in (CROP, MASK)]:
            data = pydicom.dcmread(path)
            data.InstanceNumber = 1
            if i == MASK:
                data.StudyInstanceUID, data.SeriesInstanceUID = (uid(CBIS_ROOT, line[i], key) for key in ("study", "series"))
            path.unlink()
            _save(root / "cbis_ddsm" / data.PatientID / data.StudyInstanceUID / f"MG_{data.SeriesInstanceUID}" / path.name, data)
            line[i] = f"{data.PatientID}/{data.StudyInstanceUID}/{data.SeriesInstanceUID}/000000.dcm" + line[i][len(line[i].rstrip()):]
        return [line]
    _edit(root, change)


def swapped_instances(root):
    for line in _lines(root):
        _swap(root, line)


def _swap(root, line):
    """Numbers the crop and the mask of a line the other way round, where they are of one series."""
    pair = [_file(root, line[i]) for i in (CROP, MASK)]
    if all(pair) and pair[0].parent == pair[1].parent:
        for path in pair:
            data = pydicom.dcmread(path)
            data.InstanceNumber = 3 - data.InstanceNumber
            _save(path, data)


def missing_mask(root):
    lines = _lines(root)
    for line in lines:
        if line[IMAGE] == lines[0][IMAGE]:
            _file(root, line[MASK]).unlink()


def missing_image(root):
    _file(root, _lines(root)[-1][IMAGE]).unlink()


def _data(root):
    """(path, data set) of every DICOM file, read before any is changed."""
    return [(path, pydicom.dcmread(path)) for path in sorted(root.rglob("*.dcm")) if path.is_file()]


def malformed_patient_id(root):
    """"P_00038_LEFT_CC.dcm", which is a folder's name too."""
    for path, data in _data(root):
        if _every_other(data.PatientID):
            data.PatientID = data.PatientName = data.PatientID.split("_", 1)[1] + ".dcm"
            path.unlink()
            _save(root / "cbis_ddsm" / data.PatientID / data.StudyInstanceUID / path.parent.name / path.name, data)


def no_series_description(root):
    for path, data in _data(root):
        if data.SeriesDescription == "full mammogram images":
            del data.SeriesDescription
            _save(path, data)


def nbia_tree(root):
    _move(root, lambda day, study, series, said, number: f"{day}-DDSM-NA-{study}/1.000000-{said}-{series}/1-{number}.dcm")


def nbia_tree_old(root):
    _move(root, lambda day, study, series, said, number: f"{day}-DDSM-{study}/1-{said}-{series}/{number - 1:06d}.dcm")


def _move(root, name):
    """Moves the files to where a version of the NBIA Data Retriever puts them; if one was there before, every other patient's."""
    half = (root / "CBIS-DDSM").exists()
    for path, data in _data(root):
        if not half or _every_other(data.PatientID):
            date = data.StudyDate
            new = root / "CBIS-DDSM" / data.PatientID / name(
                f"{date[4:6]}-{date[6:]}-{date[:4]}", data.StudyInstanceUID[-5:], data.SeriesInstanceUID[-5:],
                data.get("SeriesDescription", "NA"), data.InstanceNumber)
            new.parent.mkdir(parents=True, exist_ok=True)
            path.rename(new)
    shutil.rmtree(root / "cbis_ddsm", ignore_errors=True)


TRAPS = (one_density_name, no_line_feeds, one_order, several_abnormalities, mixed_pathology, crossing_patient, joined_terms, na_terms,
         zeros, scaled_mask, stretched_mask, wide_mask, separate_series, missing_mask, missing_image, swapped_instances, malformed_patient_id,
         no_series_description, nbia_tree, nbia_tree_old)
