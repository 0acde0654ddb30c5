"""Reads and changes tables and DICOM files of a written CBIS-DDSM, for the quirks. `root` is its folder."""
import csv
import re

import numpy as np
import pydicom

from xmodal.runtime.files import atomic

from .mammogram_files import CBIS_ROOT
from .native import pixel_bytes, uid, write_table

# The columns of a table.
(PATIENT, DENSITY, SIDE, VIEW, NUMBER, TYPE, FIRST, SECOND, ASSESSMENT, PATHOLOGY, SUBTLETY,
 IMAGE, CROP, MASK) = range(14)


# ---- tables ------------------------------------------------------------------------------------------------

def read_tables(root):
    """{path: [header, line, ...]} of the case descriptions that lie in `root`."""
    tables = {}
    for path in sorted(root.glob("*_case_description_*.csv")):
        with open(path, newline="") as file:
            tables[path] = list(csv.reader(file))
    return tables


def read_lines(root):
    """The lines of all tables, each a list of 14 strings."""
    lines = []
    for table in read_tables(root).values():
        lines += table[1:]
    return lines


def edit_lines(root, change):
    """Replaces each line by the lines that `change` makes of it, each in the table of its kind and part."""
    tables = read_tables(root)
    new = []
    for table in tables.values():
        for line in table[1:]:
            new += change(line)
    for path, table in tables.items():
        kind, *_, part, _ = path.stem.split("_")
        folder = f"{kind.title()}-{'Training' if part == 'train' else 'Test'}_"
        write_table(path, table[0], [line for line in new if line[IMAGE].startswith(folder)])


def every_other(patient_id):
    """Whether the number in a PatientID is even."""
    return int(re.search(r"P_(\d+)", patient_id)[1]) % 2 == 0


# ---- files -------------------------------------------------------------------------------------------------

def find_instance(root, listed):
    """Path of the instance that a table gives as <PatientID>/<study>/<series>/00000N.dcm, else None."""
    patient_id, study, series, name = listed.strip().split("/")
    for path in sorted((root / "cbis_ddsm" / patient_id / study / f"MG_{series}").glob("*.dcm")):
        if pydicom.dcmread(path, specific_tags=["InstanceNumber"]).InstanceNumber == int(name[:6]) + 1:
            return path
    return None


def read_all(root):
    """(path, data set) of every DICOM file, read before any is changed."""
    return [(path, pydicom.dcmread(path)) for path in sorted(root.rglob("*.dcm")) if path.is_file()]


def read_masks(root, view):
    """(path, data set) of the masks that the tables list of one view, or with "" of both."""
    for line in read_lines(root):
        if line[VIEW].startswith(view):
            path = find_instance(root, line[MASK])
            yield path, pydicom.dcmread(path)


def save(path, data, pixels=None):
    """Writes a data set, with other pixels if some are given."""
    if pixels is not None:
        data.Rows, data.Columns = pixels.shape
        data.PixelData = pixel_bytes(pixels)
    with atomic(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def copy_instance(root, listed, patient_id):
    """Writes the instance that a table lists once more, under another PatientID and other identifiers.

    Returns what a table is to list for the copy.
    """
    path = find_instance(root, listed)
    data = pydicom.dcmread(path)
    data.PatientID = data.PatientName = patient_id
    study = uid(CBIS_ROOT, data.StudyInstanceUID, patient_id)
    series = uid(CBIS_ROOT, data.SeriesInstanceUID, patient_id)
    data.StudyInstanceUID = study
    data.SeriesInstanceUID = series
    instance = uid(CBIS_ROOT, data.SOPInstanceUID, patient_id)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = instance
    save(root / "cbis_ddsm" / patient_id / study / f"MG_{series}" / path.name, data)
    return f"{patient_id}/{study}/{series}/{listed.split('/')[-1]}"


def swap_instances(root, line):
    """Numbers the crop and the mask of a line the other way round, where they are of one series."""
    pair = [find_instance(root, line[i]) for i in (CROP, MASK)]
    if all(pair) and pair[0].parent == pair[1].parent:
        for path in pair:
            data = pydicom.dcmread(path)
            data.InstanceNumber = 3 - data.InstanceNumber
            save(path, data)


def halves(root, line):
    """Two lines for one: the upper and the lower half of its lesion, each with a crop and a mask."""
    second = line.copy()
    second[NUMBER] = "2"
    for i in (CROP, MASK):
        patient_id = line[i].split("/")[0]
        second[i] = copy_instance(root, line[i], patient_id[:-1] + "2")
    for half in (line, second):
        path = find_instance(root, half[MASK])
        data = pydicom.dcmread(path)
        pixels = data.pixel_array.copy()
        rows = np.flatnonzero(pixels.any(1))
        middle = (rows[0] + rows[-1] + 1) // 2
        if half is line:
            pixels[middle:] = 0
        else:
            pixels[:middle] = 0
        save(path, data, pixels)
    return [line, second]
