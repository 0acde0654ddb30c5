"""Pixel data of DICOM files: every common transfer syntax, unused bits, damaged run lengths."""
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import CODECS, compress_runs, picture, ramp, rewrite, write
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from data_scripts.phantom.native import SECONDARY_CAPTURE, write_dicom
from xmodal.config import LIMITS, Problem
from xmodal.imaging import decoding, dicom

CASES = [(syntax, kind) for syntax, (_, kinds, _) in CODECS.items() for kind in kinds]


@pytest.mark.parametrize("syntax, kind", CASES, ids=lambda v: getattr(v, "keyword", v))
def test_compressed_pixels_come_back(tmp_path, syntax, kind):
    encode, _, tolerance = CODECS[syntax]
    pixels = picture(np.dtype(kind))
    path = write(tmp_path / "a.dcm", pixels, bits=pixels.itemsize * 8)
    image = dicom.read_dicom(rewrite(path, syntax, encapsulate([bytes(encode(pixels))])))
    assert image.shape == pixels.shape
    error = np.abs(image.astype(float) - pixels).max()
    assert error <= tolerance * np.iinfo(pixels.dtype).max


@pytest.mark.parametrize("kind", ["B", "H", "h"])
@pytest.mark.parametrize("syntax", [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
], ids=lambda s: s.keyword)
def test_uncompressed_deflated_and_run_length_pixels_come_back(tmp_path, syntax, kind):
    pixels = picture(np.dtype(kind)) - (kind == "h") * 5000
    path = write(tmp_path / "a.dcm", pixels, pixels.itemsize * 8, PixelRepresentation=int(kind == "h"))
    if syntax == uid.RLELossless:
        compress_runs(path)
    else:
        order = "<" if syntax.is_little_endian else ">"
        rewrite(path, syntax, pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())
    assert (dicom.read_dicom(path) == pixels).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_unused_bits_above_the_stored_ones_do_not_count(tmp_path, bits):
    pixels = picture(np.uint16) >> (16 - bits)
    dirty = pixels | np.uint16(1 << bits) if bits < 16 else pixels     # an overlay lay there once
    assert (dicom.read_dicom(write(tmp_path / "a.dcm", dirty, bits)) == pixels).all()
    signed = (pixels.astype(np.int32) - (1 << (bits - 1))).astype(np.int16)
    stored = (signed.view(np.uint16) & np.uint16((1 << bits) - 1))
    path = write(tmp_path / "b.dcm", stored, bits, PixelRepresentation=1)
    assert (dicom.read_dicom(path) == signed).all()
    if bits > 8:                                          # else pydicom would write one byte per pixel
        for name, wanted in {"a.dcm": pixels, "b.dcm": signed}.items():
            assert (dicom.read_dicom(compress_runs(tmp_path / name)) == wanted).all()


def damaged(frame):
    """A frame of run lengths with each kind of damage."""
    return {
        "cut in its header": frame[:30],
        "cut behind its header": frame[:70],
        "cut at its end": frame[:-200],
        "planes that start beyond its end": frame[:4] + b"\xff" * 8 + frame[12:],
        "one plane": b"\1" + frame[1:],
        "no plane": b"\0" + frame[1:],
        "a plane that starts at 0": frame[:8] + bytes(4) + frame[12:],
    }


@pytest.mark.parametrize("damage", damaged(b""))
def test_damaged_run_lengths_are_a_problem(tmp_path, damage):
    path = compress_runs(write(tmp_path / "a.dcm", picture(np.uint16)))
    data = pydicom.dcmread(path)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([damaged(frame)[damage]])
    data.save_as(path)
    with pytest.raises(Problem, match="cannot be decoded"):
        dicom.read_dicom(path)


@pytest.mark.parametrize("syntax", CODECS, ids=lambda syntax: syntax.keyword)
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, monkeypatch):
    """A few bytes can say an image that fills the memory: the size is compared first."""
    encode = CODECS[syntax][0]
    pixels = picture(np.uint8)
    large = bytes(encode(np.zeros((4096, 4096), np.uint8)))
    path = rewrite(write(tmp_path / "a.dcm", pixels, 8), syntax, encapsulate([large]))
    monkeypatch.setattr(decoding, "JPEG", dict.fromkeys(decoding.JPEG, None))        # which cannot be called
    with pytest.raises(Problem, match="says 4096 x 4096 pixels"):
        dicom.read_dicom(path)


def test_headers_that_hide_the_size_are_refused(monkeypatch):
    jpeg = bytes(CODECS[uid.JPEGBaseline8Bit][0](picture(np.uint8)))
    decoding.check_jpeg(jpeg, (48, 64))
    start = jpeg.index(b"\xff\xc0")
    segment = jpeg[start:start + 2 + int.from_bytes(jpeg[start + 2:start + 4], "big")]
    without = jpeg[:start] + jpeg[start + len(segment):]
    for damaged in (jpeg[:2] + segment + jpeg[2:], without, jpeg[:start + 6]):
        with pytest.raises((ValueError, struct.error)):
            decoding.check_jpeg(damaged, (48, 64))
    stream = bytearray(CODECS[uid.JPEG2000Lossless][0](picture(np.uint8)))
    decoding.check_jpeg2000(bytes(stream), (48, 64))
    boxed = imagecodecs.jpeg2k_encode(picture(np.uint8), codecformat="JP2")
    decoding.check_jpeg2000(bytes(boxed), (48, 64))
    stream[24:32] = struct.pack(">2I", 1, 1)              # tiles of one pixel
    monkeypatch.setitem(LIMITS, "jpeg 2000 tiles", 3000)
    with pytest.raises(ValueError, match="3072 tiles"):
        decoding.check_jpeg2000(bytes(stream), (48, 64))


def jpeg2000_header(layers=1, precincts=b"", block=4):
    """The main header of a codestream of 10,000 x 10,000 pixels, with five levels."""
    size = struct.pack(">H8IH3B", 0, 10_000, 10_000, 0, 0, 10_000, 10_000, 0, 0, 1, 7, 1, 1)
    style = bytes([len(precincts) > 0, 0]) + struct.pack(">H", layers) + bytes([0, 5, block, block, 0, 1])
    segments = {0x51: size, 0x52: style + precincts}
    parts = [struct.pack(">BBH", 255, marker, len(body) + 2) + body for marker, body in segments.items()]
    return b"\xff\x4f" + b"".join(parts) + b"\xff\x90"


def test_a_jpeg_2000_cut_into_too_many_parts_is_refused():
    shape = (10_000, 10_000)
    for usual in ({}, {"precincts": b"\x77\x88\x88\x88\x88\x88"}, {"layers": 50}, {"block": 2}):
        decoding.check_jpeg2000(jpeg2000_header(**usual), shape)
    for attack in ({"block": 0}, {"precincts": b"\x11" * 6}, {"layers": 65_535, "precincts": b"\x88" * 6}):
        with pytest.raises(ValueError, match="code-blocks and"):
            decoding.check_jpeg2000(jpeg2000_header(**attack), shape)


def test_a_jpeg_of_many_scans_is_refused():
    jpeg = bytes(CODECS[uid.JPEGBaseline8Bit][0](picture(np.uint8)))
    scan = jpeg[jpeg.index(b"\xff\xda"):-2]
    with pytest.raises(ValueError, match="has 31 scans"):
        decoding.check_jpeg(jpeg[:-2] + 30 * scan + jpeg[-2:], (48, 64))


def test_run_lengths_that_unpack_to_more_than_the_image_are_refused(tmp_path):
    path = compress_runs(write(tmp_path / "a.dcm", picture(np.uint8), 8))
    data = pydicom.dcmread(path)
    bomb = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 100_000      # 128 zeros in two bytes
    data.PixelData = encapsulate([bomb])
    data.save_as(path)
    with pytest.raises(Problem, match="cannot be decoded"):
        dicom.read_dicom(path)


def test_a_secondary_capture_is_read(tmp_path):
    path = tmp_path / "a.dcm"
    write_dicom(path, ramp(), uid.ImplicitVRLittleEndian, SECONDARY_CAPTURE, 16,
                SOPInstanceUID="2.25.1", ConversionType="WSD")
    assert (dicom.read_dicom(path) == ramp()).all()
