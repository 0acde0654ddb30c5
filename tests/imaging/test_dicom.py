"""Mammograms as files: every common transfer syntax, grey-scale transformations, headers, and what is refused."""
import zlib

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from data_scripts.phantom.mammogram_files import DIGITAL_MAMMOGRAM, SECONDARY_CAPTURE, write_dicom
from xmodal.config import Problem
from xmodal.imaging import dicom


def write(path, pixels, bits=16, syntax=uid.ExplicitVRLittleEndian, **elements):
    write_dicom(path, pixels, syntax, DIGITAL_MAMMOGRAM, bits, **{"SOPInstanceUID": "2.25.1", **elements})
    return path


def rewrite(path, syntax, stored=None, **elements):
    """The file again in another transfer syntax, its pixel data being `stored`; with other elements, None taking one away."""
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    for name, value in {**elements, **({} if stored is None else {"PixelData": stored})}.items():
        setattr(data, name, value) if value is not None else delattr(data, name)
    data["PixelData"].is_undefined_length = syntax.is_encapsulated
    if syntax.is_encapsulated:
        data["PixelData"].VR = "OB"
    data.walk(lambda *_: None)                            # decodes every element, so that it can be encoded otherwise
    pydicom.dcmwrite(path, data, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, force_encoding=True)
    return path


def ramp(dtype=np.uint16):
    return np.arange(40 * 32, dtype=np.int64).reshape(40, 32).astype(dtype)


def picture(dtype):
    """A smooth hill with some noise, which codecs that lose something keep roughly."""
    y, x = np.mgrid[-1:1:48j, -1:1:64j]
    grey = np.exp(-2 * (x ** 2 + y ** 2)) + 0.02 * np.random.default_rng(0).random(x.shape)
    return (grey / 1.03 * np.iinfo(dtype).max).astype(dtype)


# ---- transfer syntaxes -------------------------------------------------------------------------------------------

J2K = {"codecformat": "J2K", "level": 0}
CODECS = {  # encoder, values it takes, largest error as a share of the range
    uid.JPEGBaseline8Bit: (lambda a: imagecodecs.jpeg8_encode(a, level=95), "B", 0.05),
    uid.JPEGExtended12Bit: (lambda a: imagecodecs.jpeg8_encode(a, level=95), "B", 0.05),
    uid.JPEGLossless: (imagecodecs.ljpeg_encode, "BH", 0),
    uid.JPEGLosslessSV1: (imagecodecs.ljpeg_encode, "BH", 0),
    uid.JPEGLSLossless: (imagecodecs.jpegls_encode, "BH", 0),
    uid.JPEGLSNearLossless: (lambda a: imagecodecs.jpegls_encode(a, level=2), "BH", 2 / 255),
    uid.JPEG2000Lossless: (lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, **J2K), "BH", 0),
    uid.JPEG2000: (lambda a: imagecodecs.jpeg2k_encode(a, codecformat="J2K", level=60), "BH", 0.05),
    uid.HTJ2KLossless: (lambda a: imagecodecs.htj2k_encode(a, reversible=True), "BH", 0)}


@pytest.mark.parametrize("syntax, kind", [(s, k) for s, (_, kinds, _) in CODECS.items() for k in kinds], ids=lambda v: getattr(v, "keyword", v))
def test_compressed_pixels_come_back(tmp_path, syntax, kind):
    encode, _, tolerance = CODECS[syntax]
    pixels = picture(np.dtype(kind))
    path = write(tmp_path / "a.dcm", pixels, bits=pixels.itemsize * 8)
    image = dicom.read_dicom(rewrite(path, syntax, encapsulate([bytes(encode(pixels))])))
    assert image.shape == pixels.shape and np.abs(image.astype(float) - pixels).max() <= tolerance * np.iinfo(pixels.dtype).max


@pytest.mark.parametrize("kind", ["B", "H", "h"])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
                                    uid.DeflatedExplicitVRLittleEndian, uid.RLELossless], ids=lambda s: s.keyword)
def test_uncompressed_deflated_and_run_length_pixels_come_back(tmp_path, syntax, kind):
    pixels = picture(np.dtype(kind)) - (kind == "h") * 5000
    path = write(tmp_path / "a.dcm", pixels, pixels.itemsize * 8, PixelRepresentation=int(kind == "h"))
    if syntax == uid.RLELossless:
        data = pydicom.dcmread(path)
        data.compress(syntax)
        data.save_as(path)
    else:
        rewrite(path, syntax, pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes())
    assert (dicom.read_dicom(path) == pixels).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_unused_bits_above_the_stored_ones_do_not_count(tmp_path, bits):
    pixels = picture(np.uint16) >> (16 - bits)
    dirty = pixels | np.uint16(1 << bits) if bits < 16 else pixels     # an overlay lay there once
    assert (dicom.read_dicom(write(tmp_path / "a.dcm", dirty, bits)) == pixels).all()
    signed = (pixels.astype(np.int32) - (1 << (bits - 1))).astype(np.int16)
    stored = (signed.view(np.uint16) & np.uint16((1 << bits) - 1))
    assert (dicom.read_dicom(write(tmp_path / "b.dcm", stored, bits, PixelRepresentation=1)) == signed).all()
    if bits > 8:                                          # below, pydicom would write one byte for the two of a pixel
        for name, wanted in {"a.dcm": pixels, "b.dcm": signed}.items():
            data = pydicom.dcmread(tmp_path / name)
            data.compress(uid.RLELossless)
            data.save_as(tmp_path / name)
            assert (dicom.read_dicom(tmp_path / name) == wanted).all()


@pytest.mark.parametrize("damage", [lambda f: f[:30], lambda f: f[:70], lambda f: f[:-200], lambda f: f[:4] + b"\xff" * 8 + f[12:],
                                    lambda f: b"\1" + f[1:], lambda f: b"\0" + f[1:], lambda f: f[:8] + bytes(4) + f[12:]])
def test_damaged_run_lengths_are_a_problem(tmp_path, damage):
    path = write(tmp_path / "a.dcm", picture(np.uint16))
    data = pydicom.dcmread(path)
    data.compress(uid.RLELossless)
    data.PixelData = encapsulate([damage(next(generate_frames(data.PixelData, number_of_frames=1)))])
    data.save_as(path)
    with pytest.raises(Problem, match="cannot be decoded"):
        dicom.read_dicom(path)


def test_a_secondary_capture_is_read(tmp_path):
    path = tmp_path / "a.dcm"
    write_dicom(path, ramp(), uid.ImplicitVRLittleEndian, SECONDARY_CAPTURE, 16, SOPInstanceUID="2.25.1", ConversionType="WSD")
    assert (dicom.read_dicom(path) == ramp()).all()


# ---- grey levels -------------------------------------------------------------------------------------------------

def test_stored_values_come_back(tmp_path):
    image = dicom.read_dicom(write(tmp_path / "a.dcm", ramp()))
    assert image.dtype == np.uint16 and (image == ramp()).all()


@pytest.mark.parametrize("elements", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}])
def test_inverted_files_are_turned_round(tmp_path, elements):
    image = dicom.read_dicom(write(tmp_path / "a.dcm", ramp(), **elements))
    assert (image == ramp().max() - ramp()).all()


def test_rescale_and_window_are_applied(tmp_path):
    image = dicom.read_dicom(write(tmp_path / "a.dcm", ramp(), RescaleSlope="2", RescaleIntercept="-10"))
    assert (image == 2.0 * ramp() - 10).all()
    image = dicom.read_dicom(write(tmp_path / "b.dcm", ramp(), WindowCenter="500", WindowWidth="200", BitsStored=12, HighBit=11))
    assert image[ramp() < 399].max() == image.min() and image[ramp() > 601].min() == image.max()
    assert (np.diff(np.unique(image)) > 0).all() and len(np.unique(image)) > 150


def item(**elements):
    data = pydicom.Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return [data]


def test_tables_are_applied_before_windows_and_only_the_first_of_several(tmp_path):
    pixels = (ramp() % 64).astype(np.uint8)
    descriptor = [64, 0, 16]
    for name, key, vr in (("ModalityLUTSequence", "modality", "US"), ("VOILUTSequence", "voi", "US")):
        table = item(LUTDescriptor=descriptor, ModalityLUTType="US")
        table[0].add_new("LUTData", "US", [1000 - 7 * i for i in range(64)])
        image = dicom.read_dicom(write(tmp_path / f"{key}.dcm", pixels, 8, **{name: table}))
        assert (image == 1000 - 7.0 * pixels).all()
    two = dicom.read_dicom(write(tmp_path / "two.dcm", ramp(), WindowCenter=["500", "90"], WindowWidth=["200", "10"]))
    one = dicom.read_dicom(write(tmp_path / "one.dcm", ramp(), WindowCenter="500", WindowWidth="200"))
    assert (two == one).all() and len(np.unique(one)) > 150


def test_a_transformation_is_the_same_on_every_pixel_as_on_each_grey_level_once(tmp_path):
    pixels = (picture(np.uint16) >> 2).astype(np.int16) - 3000
    path = write(tmp_path / "a.dcm", pixels, 16, PixelRepresentation=1, RescaleSlope="1.5", RescaleIntercept="-7", WindowCenter="2000",
                 WindowWidth="5000", VOILUTFunction="SIGMOID", PhotometricInterpretation="MONOCHROME1")
    data, stored = dicom.read_pixels(path)
    assert (stored == pixels).all()
    direct = dicom._shown(data, stored)
    assert np.allclose(np.diff(dicom.read_dicom(path), axis=0), np.diff(direct, axis=0), atol=1e-2)
    assert np.corrcoef(direct.ravel(), pixels.ravel())[0, 1] < -0.8


def test_padding_is_darkest_even_where_grey_levels_are_inverted(tmp_path):
    pixels = ramp() + 10
    pixels[:, :5] = 0
    image = dicom.read_dicom(write(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0))
    assert (image[:, :5] == image.min()).all() and image[0, 5] == image.max() and image[-1, -1] == image.min()


# ---- what is refused ---------------------------------------------------------------------------------------------

def test_what_is_no_single_grey_image_is_refused_in_words(tmp_path):
    rewrite(write(tmp_path / "frames.dcm", ramp()), uid.ExplicitVRLittleEndian, ramp().tobytes() * 3, NumberOfFrames=3)
    rewrite(write(tmp_path / "colour.dcm", ramp(np.uint8), 8), uid.ExplicitVRLittleEndian, bytes(40 * 32 * 3), SamplesPerPixel=3,
            PhotometricInterpretation="RGB", PlanarConfiguration=0)
    write(tmp_path / "palette.dcm", ramp(np.uint8), 8, PhotometricInterpretation="PALETTE COLOR")
    write(tmp_path / "huge.dcm", ramp(), Rows=60000, Columns=60000)
    write(tmp_path / "tiny.dcm", ramp()[:8])
    write(tmp_path / "slope.dcm", ramp(), RescaleSlope="1e300", RescaleIntercept="0")
    for name, says in (("frames", "3 frames, as tomosynthesis"), ("colour", "RGB image"), ("palette", "PALETTE COLOR image"),
                       ("huge", "60000 x 60000 pixels"), ("tiny", "8 x 32 pixels"), ("slope", "cannot be applied")):
        with pytest.raises(Problem, match=f"{name}.dcm.*{says}"):
            dicom.read_dicom(tmp_path / f"{name}.dcm")


def test_a_deflated_file_that_would_fill_the_memory_is_refused_unread(tmp_path, monkeypatch):
    path = rewrite(write(tmp_path / "bomb.dcm", ramp()), uid.DeflatedExplicitVRLittleEndian)
    assert (dicom.read_dicom(path) == ramp()).all()
    head = path.read_bytes()[:144 + int.from_bytes(path.read_bytes()[140:144], "little")]
    pack, nothing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS), bytes(1 << 20)
    path.write_bytes(head + b"".join(pack.compress(nothing) for _ in range(201)) + pack.flush())
    assert path.stat().st_size < 1 << 20
    for read in (dicom.read_dicom, dicom.dicom_header):
        with pytest.raises(Problem, match="bomb.dcm inflates to more than"):
            read(path)


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


# ---- header ------------------------------------------------------------------------------------------------------

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
    assert dicom.dicom_header(write(tmp_path / name, ramp(), **elements)) == expected


@pytest.mark.parametrize("elements, expected", [
    ({}, None),
    ({"PixelSpacing": [0.07, 0.07]}, 0.07),
    ({"NominalScannedPixelSpacing": [0.05, 0.05]}, 0.05),                                             # digitised film
    ({"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.2, 0.2]}, 0.1),
    ({"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": "1.6"}, 0.0625),  # a spot view
    ({"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.09, 0.09], "PixelSpacingCalibrationType": "GEOMETRY"}, 0.09),
    ({"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": "0"}, 0.1),
    ({"PixelSpacing": [0.1, 0.2]}, None),
    ({"PixelSpacing": [0, 0]}, None),
    ({"PixelSpacing": [-0.1, -0.1]}, None)])
def test_spacing_is_that_in_the_breast_or_said_to_be_missing(tmp_path, caplog, elements, expected):
    found = dicom.dicom_header(write(tmp_path / "a.dcm", ramp(), **elements)).spacing
    assert found == (expected and pytest.approx(expected))
    assert ("stay in pixels" in caplog.text) == bool(elements and not expected)
