"""Mammograms as files: grey levels, headers, and what is refused."""
import numpy as np
import pydicom
import pytest
from dicom_files import item, picture, ramp, rewrite, write
from pydicom import uid

from xmodal.config import Problem
from xmodal.imaging import dicom, display

# ---- grey levels -----------------------------------------------------------------------------------------

def test_stored_values_come_back(tmp_path):
    image = dicom.read_dicom(write(tmp_path / "a.dcm", ramp()))
    assert image.dtype == np.uint16 and (image == ramp()).all()


@pytest.mark.parametrize("elements", [
    {"PhotometricInterpretation": "MONOCHROME1"},
    {"PresentationLUTShape": "INVERSE"},
])
def test_inverted_files_are_turned_round(tmp_path, elements):
    image = dicom.read_dicom(write(tmp_path / "a.dcm", ramp(), **elements))
    assert (image == ramp().max() - ramp()).all()


def test_rescale_and_window_are_applied(tmp_path):
    image = dicom.read_dicom(write(tmp_path / "a.dcm", ramp(), RescaleSlope="2", RescaleIntercept="-10"))
    assert (image == 2.0 * ramp() - 10).all()
    path = write(tmp_path / "b.dcm", ramp(), WindowCenter="500", WindowWidth="200", BitsStored=12, HighBit=11)
    image = dicom.read_dicom(path)
    assert image[ramp() < 399].max() == image.min() and image[ramp() > 601].min() == image.max()
    assert (np.diff(np.unique(image)) > 0).all() and len(np.unique(image)) > 150


def test_tables_are_applied_before_windows_and_only_the_first_of_several(tmp_path):
    pixels = (ramp() % 64).astype(np.uint8)
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        table = item(LUTDescriptor=[64, 0, 16], ModalityLUTType="US")
        table[0].add_new("LUTData", "US", [1000 - 7 * i for i in range(64)])
        image = dicom.read_dicom(write(tmp_path / f"{name}.dcm", pixels, 8, **{name: table}))
        assert (image == 1000 - 7.0 * pixels).all()
    windows = {"WindowCenter": ["500", "90"], "WindowWidth": ["200", "10"]}
    several = dicom.read_dicom(write(tmp_path / "several.dcm", ramp(), **windows))
    first = dicom.read_dicom(write(tmp_path / "first.dcm", ramp(), WindowCenter="500", WindowWidth="200"))
    assert (several == first).all() and len(np.unique(first)) > 150


def test_a_transformation_is_the_same_on_every_pixel_as_on_each_grey_level_once(tmp_path):
    pixels = (picture(np.uint16) >> 2).astype(np.int16) - 3000
    path = write(tmp_path / "a.dcm", pixels, PixelRepresentation=1, RescaleSlope="1.5", RescaleIntercept="-7",
                 WindowCenter="2000", WindowWidth="5000", VOILUTFunction="SIGMOID",
                 PhotometricInterpretation="MONOCHROME1")
    data, stored = dicom.read_pixels(path)
    assert (stored == pixels).all()
    direct = display.displayed(data, stored, turned=True)
    assert np.allclose(np.diff(dicom.read_dicom(path), axis=0), np.diff(direct, axis=0), atol=1e-2)
    assert np.corrcoef(direct.ravel(), pixels.ravel())[0, 1] < -0.8


def test_padding_is_darkest_even_where_grey_levels_are_inverted(tmp_path):
    pixels = ramp() + 10
    pixels[:, :5] = 0
    path = write(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    image = dicom.read_dicom(path)
    assert (image[:, :5] == image.min()).all()
    assert image[0, 5] == image.max() and image[-1, -1] == image.min()


# ---- what is refused -------------------------------------------------------------------------------------

def test_what_is_no_single_grey_image_is_refused_in_words(tmp_path):
    frames = write(tmp_path / "frames.dcm", ramp())
    rewrite(frames, uid.ExplicitVRLittleEndian, ramp().tobytes() * 3, NumberOfFrames=3)
    colour = write(tmp_path / "colour.dcm", ramp(np.uint8), 8)
    rewrite(colour, uid.ExplicitVRLittleEndian, bytes(40 * 32 * 3), SamplesPerPixel=3,
            PhotometricInterpretation="RGB", PlanarConfiguration=0)
    write(tmp_path / "palette.dcm", ramp(np.uint8), 8, PhotometricInterpretation="PALETTE COLOR")
    write(tmp_path / "huge.dcm", ramp(), Rows=60000, Columns=60000)
    write(tmp_path / "tiny.dcm", ramp()[:8])
    write(tmp_path / "slope.dcm", ramp(), RescaleSlope="1e300", RescaleIntercept="0")
    reasons = {
        "frames": "3 frames, as tomosynthesis",
        "colour": "RGB image",
        "palette": "PALETTE COLOR image",
        "huge": "60000 x 60000 pixels",
        "tiny": "8 x 32 pixels",
        "slope": "cannot be applied",
    }
    for name, reason in reasons.items():
        with pytest.raises(Problem, match=f"{name}.dcm.*{reason}"):
            dicom.read_dicom(tmp_path / f"{name}.dcm")


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
            dicom.read_dicom(tmp_path / f"{name}.dcm")


# ---- header ----------------------------------------------------------------------------------------------

FILM = "22678622_61b13c59bcba149e_MG_R_CC_ANON.dcm"
HEADERS = [
    ("a.dcm", {"ViewPosition": "MLO", "ImageLaterality": "R", "ImagerPixelSpacing": [0.07, 0.07]},
     ("MLO", "R", 0.07)),
    ("a.dcm", {"ViewPosition": "ML", "Laterality": "L"}, ("MLO", "L", None)),
    ("a.dcm", {"PatientOrientation": "CC", "Laterality": "R"}, ("CC", "R", None)),
    ("a.dcm", {"PatientOrientation": ["A", "R"], "PatientID": "Calc-Test_P_00038_RIGHT_MLO"},
     ("MLO", "R", None)),
    ("a.dcm", {"PatientID": "P_00038_LEFT_CC.dcm"}, ("CC", "L", None)),
    (FILM, {"PatientID": "removed"}, ("CC", "R", None)),
    ("nothing.dcm", {}, ("", "", None)),
]


@pytest.mark.parametrize("name, elements, expected", HEADERS)
def test_view_side_and_spacing_come_from_wherever_they_are(tmp_path, name, elements, expected):
    assert dicom.dicom_header(write(tmp_path / name, ramp(), **elements)) == expected


SPOT_VIEW = {"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": "1.6"}
CALIBRATED = {
    "ImagerPixelSpacing": [0.1, 0.1],
    "PixelSpacing": [0.09, 0.09],
    "PixelSpacingCalibrationType": "GEOMETRY",
}


@pytest.mark.parametrize("elements, expected", [
    ({}, None),
    ({"PixelSpacing": [0.07, 0.07]}, 0.07),
    ({"NominalScannedPixelSpacing": [0.05, 0.05]}, 0.05),                             # digitised film
    ({"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.2, 0.2]}, 0.1),
    (SPOT_VIEW, 0.0625),
    (CALIBRATED, 0.09),
    (SPOT_VIEW | {"EstimatedRadiographicMagnificationFactor": "0"}, 0.1),
    ({"PixelSpacing": [0.1, 0.2]}, None),
    ({"PixelSpacing": [0, 0]}, None),
    ({"PixelSpacing": [-0.1, -0.1]}, None)])
def test_spacing_is_that_in_the_breast_or_said_to_be_missing(tmp_path, caplog, elements, expected):
    spacing = dicom.dicom_header(write(tmp_path / "a.dcm", ramp(), **elements)).spacing
    assert spacing == (expected and pytest.approx(expected))
    assert ("stay in pixels" in caplog.text) == bool(elements and not expected)


# ---- other shapes of files -------------------------------------------------------------------------------

def bare(path, from_meta):
    """The file again without its preamble, and without its meta header too unless `from_meta`."""
    content = path.read_bytes()[132:]
    length = 12 + int.from_bytes(content[8:12], "little")
    path.write_bytes(content if from_meta else content[length:])
    return path


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
@pytest.mark.parametrize("from_meta", [True, False])
def test_a_file_without_preamble_is_read(tmp_path, syntax, from_meta):
    path = write(tmp_path / "a.dcm", ramp(), syntax=syntax, ViewPosition="CC", ImageLaterality="L")
    bare(path, from_meta)
    assert (dicom.read_dicom(path) == ramp()).all()
    assert dicom.dicom_header(path) == ("CC", "L", None)


def tomosynthesis(shared):
    """Elements of an enhanced object of one frame, whose functional groups are shared or the frame's own."""
    group = item(
        PixelMeasuresSequence=item(PixelSpacing=[0.09, 0.09]),
        FrameAnatomySequence=item(FrameLaterality="R"),
        PixelValueTransformationSequence=item(RescaleSlope=-2, RescaleIntercept=5000, RescaleType="US"),
        FrameVOILUTSequence=item(WindowCenter=3000, WindowWidth=9000, VOILUTFunction="LINEAR_EXACT"))
    groups = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
    full, empty = groups if shared else groups[::-1]
    view = item(CodeValue="399368009", CodingSchemeDesignator="SCT", CodeMeaning="medio-lateral oblique")
    return {full: group, empty: [pydicom.Dataset()], "ViewCodeSequence": view, "NumberOfFrames": 1,
            "SOPClassUID": uid.BreastTomosynthesisImageStorage}


VIEWS = [("399162004", "CC"), ("R-10224", "MLO"), ("399196006", "FB"), ("7", "")]


@pytest.mark.parametrize("code, view", VIEWS)
def test_the_view_is_read_from_its_code(tmp_path, code, view):
    path = write(tmp_path / "a.dcm", ramp(), ViewPosition="", ViewCodeSequence=item(CodeValue=code))
    assert dicom.dicom_header(path).view == view


@pytest.mark.parametrize("shared", [True, False])
def test_tomosynthesis_of_one_frame_is_read_with_its_functional_groups(tmp_path, shared):
    path = write(tmp_path / "a.dcm", ramp(), **tomosynthesis(shared))
    assert dicom.dicom_header(path) == ("MLO", "R", 0.09)
    low, high = 5000 - 2 * 65535, 5000
    expected = low + (high - low) * np.clip((5000 - 2.0 * ramp() - 3000) / 9000 + 0.5, 0, 1)
    assert np.allclose(dicom.read_dicom(path), expected)
