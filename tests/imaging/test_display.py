"""Stored values to grey levels, held to a slow reference that is written from DICOM PS3.3 C.11."""
import itertools
import math

import numpy as np
import pydicom
import pytest
from dicom_files import item, ramp, write

from xmodal.config import Problem
from xmodal.imaging import dicom, display

# ---- the reference: one stored value after the other, in the words of the standard -------------------------

def table_value(table, x):
    """C.11.1.1, C.11.2.1.1: the first entry up to the first value mapped, the last one behind the table."""
    start, entries = table
    place = math.floor(x + 0.5) - start
    return entries[min(max(place, 0), len(entries) - 1)]


def window_value(x, c, w, function, low, high):
    """C.11.2.1.2, C.11.2.1.3."""
    if function == "SIGMOID":
        return (high - low) / (1 + math.exp(min(-4 * (x - c) / w, 700))) + low
    if function == "LINEAR" and w >= 1:
        c, w = c - 0.5, w - 1
    if x <= c - w / 2:
        return low
    if x > c + w / 2:
        return high
    return ((x - c) / w + 0.5) * (high - low) + low


def reference(x, modality, voi, signed):
    low, high = (-2048, 2047) if signed else (0, 4095)
    if modality["kind"] == "table":
        x, low, high = table_value(modality["table"], x), 0, 2 ** modality["bits"] - 1
    else:
        slope, intercept = modality["slope"], modality["intercept"]
        x, low, high = slope * x + intercept, slope * low + intercept, slope * high + intercept
    if voi is None:
        return x
    if voi["kind"] == "table":
        return table_value(voi["table"], x)
    return window_value(x, voi["c"], voi["w"], voi["function"], min(low, high), max(low, high))


# ---- all combinations ------------------------------------------------------------------------------------

RISING = [value * 15 for value in range(4096)]


def modalities(signed):
    start = -2048 if signed else 0
    yield {"kind": "none", "slope": 1, "intercept": 0}
    for slope, intercept in itertools.product((1, -1, 0.37, -2.5), (0, -300)):
        yield {"kind": "slope", "slope": slope, "intercept": intercept}
    for bits in (12, 16):
        entries = [value >> (16 - bits) for value in RISING]
        yield {"kind": "table", "table": (start, entries), "bits": bits, "packed": False}
        yield {"kind": "table", "table": (start, entries[::-1]), "bits": bits, "packed": False}
    for packed in (False, True):
        entries = [value >> 8 for value in RISING]
        yield {"kind": "table", "table": (start, entries), "bits": 8, "packed": packed}


def interests():
    yield None
    yield {"kind": "window", "function": "LINEAR", "written": None, "c": 1500, "w": 900}
    for function, w in itertools.product(("LINEAR", "LINEAR_EXACT", "SIGMOID"), (0.5, 1, 900)):
        yield {"kind": "window", "function": function, "written": function, "c": 1500, "w": w}
    for bits, packed in ((8, False), (8, True), (10, False), (16, False)):
        entries = [value >> max(0, 12 - bits) for value in range(1001)]
        yield {"kind": "table", "table": (-100, entries), "bits": bits, "packed": packed}


def table_item(step):
    start, entries = step["table"]
    data = pydicom.Dataset()
    data.add_new("LUTDescriptor", "SS" if start < 0 else "US", [len(entries), start, step["bits"]])
    if step["packed"]:
        data.add_new("LUTData", "OW", bytes(entries) + bytes(len(entries) % 2))
    else:
        data.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return [data]


def header(modality, voi, signed, grey=("MONOCHROME2", "IDENTITY")):
    data = pydicom.Dataset()
    data.BitsAllocated, data.BitsStored, data.PixelRepresentation = 16, 12, int(signed)
    data.PhotometricInterpretation, data.PresentationLUTShape = grey
    if modality["kind"] == "slope":
        data.RescaleSlope, data.RescaleIntercept = modality["slope"], modality["intercept"]
    elif modality["kind"] == "table":
        data.ModalityLUTSequence = table_item(modality)
    if voi and voi["kind"] == "table":
        data.VOILUTSequence = table_item(voi)
    elif voi:
        data.WindowCenter, data.WindowWidth = [voi["c"], 7], [voi["w"], 9]
        data.VOILUTFunction = voi["written"]
    return data


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE", None])
def test_grey_levels_are_those_of_the_standard_and_monotonic(signed, photometric, shape):
    """Every modality transformation with every VOI transformation."""
    inverted = photometric == "MONOCHROME1" or shape == "INVERSE"
    low = -2048 if signed else 0
    stored = np.append(np.arange(low, low + 4096, 241), low + 4095).astype(np.int16)[None]
    for modality, voi in itertools.product(modalities(signed), interests()):
        data = header(modality, voi, signed, (photometric, shape))
        grey = display.shown(data, stored, "a.dcm")[0].astype(float)
        expected = np.array([reference(int(x), modality, voi, signed) for x in stored[0]])
        if inverted:
            expected = expected.max() + expected.min() - expected
        assert np.allclose(grey, expected, atol=1e-6 * (1 + np.abs(expected).max())), (modality, voi)
        falls = modality.get("slope", 1) < 0
        if modality["kind"] == "table":
            falls = modality["table"][1][0] > 0
        steps = np.diff(grey) * (-1) ** (falls + inverted)
        assert (steps >= -1e-6).all(), (modality, voi)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("w", [0.5, 1, 1.5, 2, 7])
def test_windows_are_those_of_the_standard_at_each_value_near_them(function, w):
    values = np.arange(90, 110, 0.25)
    for c in (100, 100.5, 99.75):
        shares = display.window(values, c, w, function)
        assert np.allclose(shares, [window_value(x, c, w, function, 0, 1) for x in values])


def test_tables_start_where_the_file_means_whether_written_as_signed_or_not():
    """-100 in a table of signed values may be written as US 65436."""
    table = {"kind": "table", "table": (0, list(range(300))), "bits": 16, "packed": False}
    data = header({"kind": "none"}, table, True)
    data.VOILUTSequence[0].add_new("LUTDescriptor", "US", [300, 65436, 16])
    stored = np.array([[-200, -100, 0, 100, 199, 400]], np.int16)
    assert display.shown(data, stored, "a.dcm").tolist() == [[0, 0, 100, 200, 299, 299]]


@pytest.mark.parametrize("elements", [
    {"RescaleSlope": 0},
    {"WindowCenter": 100, "WindowWidth": 0},
    {"WindowCenter": 100, "WindowWidth": 10, "VOILUTFunction": "CUBIC"},
    {"VOILUTSequence": item(LUTDescriptor=[300, 0, 16], LUTData=bytes(300))},
    {"VOILUTSequence": item(LUTDescriptor=[300, 0, 24], LUTData=bytes(900))},
])
def test_what_the_standard_does_not_know_is_refused(tmp_path, elements):
    with pytest.raises(Problem, match="a.dcm cannot be applied"):
        dicom.read_dicom(write(tmp_path / "a.dcm", ramp(), **elements))


EMPTY = ["RescaleSlope", "RescaleIntercept", "VOILUTFunction", "WindowCenter", "WindowWidth",
         "VOILUTSequence", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
         "PresentationLUTShape", "PresentationIntentType", "PixelIntensityRelationship",
         "PixelIntensityRelationshipSign",
         "NumberOfFrames", "SamplesPerPixel", "ViewPosition", "ImageLaterality", "PixelSpacing",
         "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor", "PatientID", "PatientOrientation"]


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_attribute_is_an_absent_one(tmp_path, name):
    others = {"WindowCenter": 600, "WindowWidth": 400, "RescaleSlope": 2, "RescaleIntercept": -5,
              "PixelPaddingValue": 7, "ImagerPixelSpacing": [0.1, 0.1], "ViewPosition": "CC"}
    absent = write(tmp_path / "a.dcm", ramp(), **{key: others[key] for key in others if key != name})
    empty = write(tmp_path / "b.dcm", ramp(), **others | {name: None})
    assert (dicom.read_dicom(empty) == dicom.read_dicom(absent)).all()
    assert dicom.dicom_header(empty) == dicom.dicom_header(absent)


# ---- padding ---------------------------------------------------------------------------------------------

PADDINGS = [  # dtype of the pixels, bits stored, stored padding, VR, value and limit in the header
    ("h", 16, -2000, "SS", -2000, None),
    ("h", 16, -2000, "US", 63536, None),
    ("h", 12, -2000, "US", 2096, None),
    ("h", 12, -2000, "US", 63536, None),
    ("H", 16, 63536, "SS", -2000, None),
    ("H", 16, 65535, "SS", -3, 0),
    ("H", 12, 4095, "US", 4090, 4095),
    ("H", 12, 4095, "US", 4095, 4090),
    ("H", 16, 60000, "US", 60000, None),
    ("h", 16, -2000, "US", 63000, 64000),
]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("case", PADDINGS)
def test_padding_is_recognised_however_it_is_written_and_counts_for_nothing(tmp_path, photometric, case):
    kind, bits, stored, vr, value, limit = case
    pixels = (ramp() + 100).astype(kind)
    pixels[:, :20] = stored
    elements = {"PhotometricInterpretation": photometric, "PixelRepresentation": int(kind == "h")}
    path = write(tmp_path / "a.dcm", pixels, bits, **elements)
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        data.add_new("PixelPaddingRangeLimit", vr, limit)
    data.save_as(path)
    image = dicom.read_dicom(path)
    real = pixels[:, 20:].astype(float)
    expected = real if photometric == "MONOCHROME2" else real.max() + real.min() - real
    assert (image[:, 20:] == expected).all()
    assert (image[:, :20] == expected.min()).all()


def test_padding_is_not_as_dark_as_a_dead_pixel_and_an_image_of_padding_is_refused(tmp_path):
    pixels = np.pad(np.tile(np.arange(2000, 3000, dtype=np.uint16), (100, 1)), [(0, 0), (500, 0)])
    pixels[50, 700] = 1
    image = dicom.read_dicom(write(tmp_path / "a.dcm", pixels, PixelPaddingValue=0))
    assert 1900 < image[0, 0] < 2001 and image[50, 700] == 1
    with pytest.raises(Problem, match="padding"):
        dicom.read_dicom(write(tmp_path / "b.dcm", ramp(), PixelPaddingValue=0, PixelPaddingRangeLimit=65535))


# ---- raw images ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("elements", [
    {"PresentationIntentType": "FOR PROCESSING", "WindowCenter": 40, "WindowWidth": 20, "RescaleSlope": -1},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2.1"},
    {"PixelIntensityRelationship": "LIN"},
])
def test_a_raw_image_is_turned_by_its_sign_alone_with_a_note(tmp_path, caplog, photometric, sign, elements):
    elements = elements | {"PixelIntensityRelationshipSign": sign, "PhotometricInterpretation": photometric}
    image = dicom.read_dicom(write(tmp_path / "a.dcm", ramp(), **elements))
    assert (image == (ramp() if sign == -1 else ramp().max() - ramp())).all()
    assert "raw image" in caplog.text


def test_a_raw_image_without_a_sign_is_refused_and_one_for_presentation_is_not_raw(tmp_path):
    with pytest.raises(Problem, match="raw image"):
        dicom.read_dicom(write(tmp_path / "a.dcm", ramp(), PresentationIntentType="FOR PROCESSING"))
    path = write(tmp_path / "b.dcm", ramp(), PresentationIntentType="FOR PRESENTATION",
                 PixelIntensityRelationship="LIN", PixelIntensityRelationshipSign=1)
    assert (dicom.read_dicom(path) == ramp()).all()
