"""The pixel data of a DICOM file decoded to stored values, whatever the transfer syntax."""
import math
import struct

import imagecodecs
import numpy as np
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_dtype
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

# gdcm, which pydicom would choose, ends the process on some damaged JPEG files, and does not know 12 bits.
JPEG = {
    JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    JPEGLossless: imagecodecs.jpegsof3_decode,
    JPEGLosslessSV1: imagecodecs.jpegsof3_decode,
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLSNearLossless: imagecodecs.jpegls_decode,
}


def decode(data):
    """The stored values (H, W) of a pydicom dataset of one frame, in any transfer syntax."""
    syntax = data.file_meta.TransferSyntaxUID
    shape = (data.Rows, data.Columns)
    if syntax == RLELossless:
        pixels = _run_lengths(_frame(data), pixel_dtype(data), shape)
        return _used_bits(pixels, data.BitsStored)
    if syntax in JPEG:
        return _decode_jpeg(data, JPEG[syntax], shape)
    compressed = syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian
    data.pixel_array_options(decoding_plugin="pylibjpeg" if compressed else "")
    return data.pixel_array


def _decode_jpeg(data, decode, shape):
    """The stored values of a JPEG or JPEG-LS file. Raises `ValueError` if they do not fit the header."""
    frame = _frame(data)
    if decode is imagecodecs.jpegsof3_decode:
        frame = _bounded(frame, shape)
    pixels = decode(frame)
    if pixels.shape != shape or pixels.dtype.kind != "u" or pixels.itemsize * 8 > data.BitsAllocated:
        raise ValueError(f"its JPEG holds {pixels.dtype} of shape {pixels.shape}, "
                         f"its header says {data.Rows} x {data.Columns}")
    if not data.PixelRepresentation:                      # unsigned
        return pixels
    return _used_bits(pixels.astype(np.uint16).view(np.int16), data.BitsStored)


def _frame(data):
    """The encoded bytes of the only frame."""
    return next(generate_frames(data.PixelData, number_of_frames=1), b"")


def _bounded(frame, shape):
    """A lossless JPEG with zeros behind it, since the decoder reads beyond the end of a frame that was cut.

    Raises `ValueError` if the JPEG says another size than `shape`.
    """
    position = 2
    while position + 9 <= len(frame) and frame[position + 1] != 0xDA:     # segments, up to the scan
        starts_frame = 0xC0 <= frame[position + 1] <= 0xC3
        if starts_frame and struct.unpack(">HH", frame[position + 5:position + 9]) != shape:
            raise ValueError(f"its JPEG says another size than {shape[0]} x {shape[1]}")
        position += 2 + int.from_bytes(frame[position + 2:position + 4], "big")
    most = 4 * shape[0] * shape[1]                        # up to 16 bits of code and 16 of value per pixel
    return frame + bytes(most)


def _used_bits(pixels, bits):
    """The pixels without what lies above the stored `bits`, of which the highest is the sign of signed
    pixels."""
    unused = 8 * pixels.itemsize - bits
    if unused < 0:
        raise ValueError(f"it says that of {8 * pixels.itemsize} bits {bits} are used")
    return pixels << unused >> unused if unused else pixels


def _run_lengths(frame, kind, shape):
    """Array of dtype `kind` and of `shape` from planes of bytes, the highest byte first (DICOM PS3.5 annex
    G).

    Each plane is packed by itself, and imagecodecs gets one plane at a time, since its decoder of whole
    frames ends the process on some damaged ones. Raises `ValueError` if the planes do not fill `shape`.
    """
    count, *starts = np.frombuffer(frame[:64], "<u4").tolist()
    ends = [*starts[1:count], None]
    planes = []
    for start, end in zip(starts, ends):
        planes.append(np.frombuffer(imagecodecs.packbits_decode(frame[start:end]), np.uint8))
    n = math.prod(shape)
    sizes = [len(plane) for plane in planes]
    if count != kind.itemsize or min(sizes) < n:
        raise ValueError(f"its run lengths hold {count} planes of {sizes} bytes, "
                         f"its header says {shape[0]} x {shape[1]} pixels")
    pixels = planes[0][:n].astype(f"u{count}")
    for plane in planes[1:]:
        pixels <<= 8
        pixels |= plane[:n]
    return pixels.view(kind).reshape(shape)
