"""The quirks of CBIS-DDSM: each is a function that changes a written `Release`.

The first line of its docstring says what the files then hold.

What every real release has is always written, and a quirk takes it away: two names of the density column,
line feeds in quoted paths, crop and mask in another order in calcification cases. SeriesDescription of the
series with crop and mask names the wrong one of the two as often as the right one.
"""
import shutil

import numpy as np
import pydicom
from PIL import Image

from . import cbis_release as cbis
from .cbis_release import (
    ASSESSMENT,
    CROP,
    DENSITY,
    FIRST,
    IMAGE,
    MASK,
    PATHOLOGY,
    PATIENT,
    SECOND,
    SUBTLETY,
    TYPE,
    VIEW,
)
from .mammogram_files import CBIS_ROOT
from .native import uid, write_table

TERMS = {"Mass": ("mass", "OVAL", "CIRCUMSCRIBED"), "Calc": ("calcification", "PUNCTATE", "CLUSTERED")}
OTHER = {"Mass": "Calc", "Calc": "Mass", "Training": "Test", "Test": "Training"}


# ---- tables ------------------------------------------------------------------------------------------------

def one_density_name(release):
    """Calcification tables say breast_density too, as mass tables do."""
    for path, (header, *lines) in cbis.read_tables(release.root).items():
        header[DENSITY] = "breast_density"
        write_table(path, header, lines)


def no_line_feeds(release):
    """No path ends with a line feed."""
    def change(line):
        return [[value.strip() for value in line]]
    cbis.edit_lines(release.root, change)


def one_order(release):
    """Calcification cases have the crop before the mask too, as masses do."""
    def change(line):
        if line[IMAGE].startswith("Calc"):
            cbis.swap_instances(release.root, line)
            line[CROP] = line[CROP].replace("000001.dcm", "000000.dcm")
            line[MASK] = line[MASK].replace("000000.dcm", "000001.dcm")
        return [line]
    cbis.edit_lines(release.root, change)


def several_abnormalities(release):
    """CC views have two abnormalities, each with half of the lesion."""
    def change(line):
        return cbis.halves(release.root, line) if line[VIEW] == "CC" else [line]
    cbis.edit_lines(release.root, change)


def mixed_pathology(release):
    """Malignant MLO views have a benign abnormality too, which is listed first.

    So whoever reads the first line only is wrong.
    """
    def change(line):
        if line[VIEW] != "MLO" or line[PATHOLOGY] != "MALIGNANT":
            return [line]
        benign, malignant = cbis.halves(release.root, line)
        benign[PATHOLOGY] = "BENIGN"
        benign[ASSESSMENT] = "2"
        _, benign[FIRST], benign[SECOND] = TERMS[line[IMAGE][:4]]
        return [benign, malignant]
    cbis.edit_lines(release.root, change)


def crossing_patient(release):
    """The CC film of every other patient is listed again in the other kind's table, and in its other part."""
    def change(line):
        if line[VIEW] != "CC" or not cbis.every_other(line[PATIENT]):
            return [line]
        kind, part = line[IMAGE].split("_")[0].split("-")
        twin = line.copy()
        twin[TYPE], twin[FIRST], twin[SECOND] = TERMS[OTHER[kind]]
        for i in (IMAGE, CROP, MASK):
            patient_id = line[i].split("/")[0].replace(f"{kind}-{part}", f"{OTHER[kind]}-{OTHER[part]}")
            twin[i] = cbis.copy_instance(release.root, line[i], patient_id)
        return [line, twin]
    cbis.edit_lines(release.root, change)


def joined_terms(release):
    """Mass shapes and calcification types are two terms joined by -."""
    second_term = {"Mass": "ARCHITECTURAL_DISTORTION", "Calc": "FINE_LINEAR_BRANCHING"}

    def change(line):
        line[FIRST] = f"{line[FIRST]}-{second_term[line[IMAGE][:4]]}"
        return [line]
    cbis.edit_lines(release.root, change)


def na_terms(release):
    """Margins and distributions are the letters NA."""
    def change(line):
        line[SECOND] = "NA"
        return [line]
    cbis.edit_lines(release.root, change)


def zeros(release):
    """Density, assessment and subtlety are 0."""
    def change(line):
        line[DENSITY] = line[ASSESSMENT] = line[SUBTLETY] = "0"
        return [line]
    cbis.edit_lines(release.root, change)


# ---- files -------------------------------------------------------------------------------------------------

def _scale_masks(root, view, height, width):
    for path, data in cbis.read_masks(root, view):
        size = round(data.Columns * width), round(data.Rows * height)
        mask = Image.fromarray(data.pixel_array).resize(size, Image.Resampling.NEAREST)
        cbis.save(path, data, np.asarray(mask))


def scaled_mask(release):
    """Masks of CC views are 0.870 times as large as their images."""
    _scale_masks(release.root, "CC", 0.870, 0.870)        # 43.5 / 50 um, the pitches of two digitisers


def stretched_mask(release):
    """Masks of MLO views have another aspect than their images."""
    _scale_masks(release.root, "MLO", 0.870, 0.80)


def wide_mask(release):
    """Masks have 16 bits, as crops have."""
    for path, data in cbis.read_masks(release.root, ""):
        wide = data.pixel_array.astype(np.uint16) * 257
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit = 15
        cbis.save(path, data, wide)


def separate_series(release):
    """Crop and mask of CC views lie in two series of two studies.

    The mask moves to a study and series of its own; both are listed as 000000.dcm.
    """
    def change(line):
        if line[VIEW] == "CC":
            paths = {i: cbis.find_instance(release.root, line[i]) for i in (CROP, MASK)}
            for i, path in paths.items():
                line[i] = _alone_in_series(release.root, line[i], path, own_study=i == MASK)
        return [line]
    cbis.edit_lines(release.root, change)


def _alone_in_series(root, listed, path, own_study):
    """Makes an instance the first of its series; returns what a table is to list for it."""
    data = pydicom.dcmread(path)
    data.InstanceNumber = 1
    if own_study:
        data.StudyInstanceUID = uid(CBIS_ROOT, listed, "study")
        data.SeriesInstanceUID = uid(CBIS_ROOT, listed, "series")
    path.unlink()
    folder = root / "cbis_ddsm" / data.PatientID / data.StudyInstanceUID / f"MG_{data.SeriesInstanceUID}"
    cbis.save(folder / path.name, data)
    line_feed = listed[len(listed.rstrip()):]
    return f"{data.PatientID}/{data.StudyInstanceUID}/{data.SeriesInstanceUID}/000000.dcm{line_feed}"


def missing_mask(release):
    """One image has lost its masks."""
    lines = cbis.read_lines(release.root)
    for line in lines:
        if line[IMAGE] == lines[0][IMAGE]:
            cbis.find_instance(release.root, line[MASK]).unlink()


def missing_image(release):
    """One listed image is missing."""
    last = cbis.read_lines(release.root)[-1]
    cbis.find_instance(release.root, last[IMAGE]).unlink()


def swapped_instances(release):
    """Crop and mask are numbered the other way round than the tables say."""
    for line in cbis.read_lines(release.root):
        cbis.swap_instances(release.root, line)


def malformed_patient_id(release):
    """The PatientID of every other patient's files is like P_00038_LEFT_CC.dcm, as is their folder's name."""
    for path, data in cbis.read_all(release.root):
        if cbis.every_other(data.PatientID):
            data.PatientID = data.PatientName = data.PatientID.split("_", 1)[1] + ".dcm"
            path.unlink()
            series = release.root / "cbis_ddsm" / data.PatientID / data.StudyInstanceUID / path.parent.name
            cbis.save(series / path.name, data)


def no_series_description(release):
    """Full mammograms have no SeriesDescription."""
    for path, data in cbis.read_all(release.root):
        if data.SeriesDescription == "full mammogram images":
            del data.SeriesDescription
            cbis.save(path, data)


def nbia_tree(release):
    """Files lie as the NBIA Data Retriever puts them."""
    _move(release.root, "{day}-DDSM-NA-{study}/1.000000-{description}-{series}/1-{number}.dcm")


def nbia_tree_old(release):
    """Files lie as older versions of the Data Retriever put them; with nbia_tree, every other patient's."""
    _move(release.root, "{day}-DDSM-{study}/1-{description}-{series}/{index:06d}.dcm")


def _move(root, template):
    """Moves the files to where the NBIA Data Retriever puts them.

    If another version of it already did, only every other patient's files move.
    """
    half = (root / "CBIS-DDSM").exists()
    for path, data in cbis.read_all(root):
        if half and not cbis.every_other(data.PatientID):
            continue
        date = data.StudyDate
        name = template.format(day=f"{date[4:6]}-{date[6:]}-{date[:4]}", study=data.StudyInstanceUID[-5:],
                               series=data.SeriesInstanceUID[-5:],
                               description=data.get("SeriesDescription", "NA"),
                               number=data.InstanceNumber, index=data.InstanceNumber - 1)
        new = root / "CBIS-DDSM" / data.PatientID / name
        new.parent.mkdir(parents=True, exist_ok=True)
        path.rename(new)
    shutil.rmtree(root / "cbis_ddsm", ignore_errors=True)


# In this order.
QUIRKS = (one_density_name, no_line_feeds, one_order, several_abnormalities, mixed_pathology,
          crossing_patient, joined_terms, na_terms, zeros, scaled_mask, stretched_mask, wide_mask,
          separate_series, missing_mask, missing_image, swapped_instances, malformed_patient_id,
          no_series_description, nbia_tree, nbia_tree_old)
