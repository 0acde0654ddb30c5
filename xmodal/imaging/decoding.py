"""DICOM files read and decoded to stored values, whatever the transfer syntax, within `config.LIMITS`."""
import io
import math
import os
import struct
import zlib

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

from ..config import LIMITS, Problem

# gdcm, which pydicom would choose, ends the process on some damaged JPEG files, and does not know 12 bits.
JPEG = {
    JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    JPEGLossless: imagecodecs.jpegsof3_decode,
    JPEGLosslessSV1: imagecodecs.jpegsof3_decode,
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLSNearLossless: imagecodecs.jpegls_decode,
}
STARTS_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}            # and not tables
ITEM = b"\xfe\xff\0\xe0"                                # the tag before each item of a sequence


# ---- the file --------------------------------------------------------------------------------------------

class GuardedFile(io.BufferedReader):
    """The file at `path` for `pydicom.dcmread`, which reads no more of it than `config.LIMITS` allows.

    Raises `Problem` where the file is larger, inflates to more or holds more elements, which fill far more
    memory than the file; and `OSError` if it cannot be opened.
    """

    def __init__(self, path):
        super().__init__(io.FileIO(str(path)))            # a text, which pydicom puts in its messages
        self.size = os.fstat(self.fileno()).st_size
        self.parts = 0
        limit = LIMITS["mammogram bytes"]
        if self.size > limit:
            self.close()
            raise Problem(f"{path} has {self.size:,} bytes, more than the {limit:,} that are read of a "
                          "mammogram; use the single image of the same view, or leave it out.")

    def read(self, size=-1):
        if size is None or size < 0:                      # pydicom wants the rest only to inflate it
            data = super().read()
            self._check_inflated(data)
            return data
        data = super().read(min(size, self.size))
        self._count(data)
        return data

    def _count(self, data):
        """Raises `Problem` if `data`, which is read, leads to more elements and items than allowed."""
        self.parts += 1 + data.count(ITEM)
        limit = LIMITS["mammogram elements"]
        if self.parts > limit:
            raise Problem(f"{self.raw.name} holds more than {limit:,} elements, which no mammogram does; "
                          "get a whole copy of it.")

    def _check_inflated(self, deflated):
        """Raises `Problem` if deflated data, which pydicom inflates as a whole, would fill the memory."""
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        limit = LIMITS["mammogram bytes"]
        size = 0
        for start in range(0, len(deflated), 1 << 16):
            piece = deflated[start:start + (1 << 16)]
            while piece and not inflate.eof:
                data = inflate.decompress(piece, 1 << 20)
                self._count(data)
                size += len(data)
                piece = inflate.unconsumed_tail
                if size > limit:
                    raise Problem(f"{self.raw.name} inflates to more than {limit:,} bytes, which no "
                                  "mammogram has; get a whole copy of it.")


# ---- the pixels ------------------------------------------------------------------------------------------

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
    if compressed:
        check_jpeg2000(_frame(data), shape)
    data.pixel_array_options(decoding_plugin="pylibjpeg" if compressed else "")
    return data.pixel_array


def _decode_jpeg(data, decode, shape):
    """The stored values of a JPEG or JPEG-LS file. Raises `ValueError` if they do not fit the header."""
    frame = _frame(data)
    check_jpeg(frame, shape)
    if decode is imagecodecs.jpegsof3_decode:
        frame += bytes(4 * shape[0] * shape[1])           # it reads beyond the end of a frame that was cut
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


def check_jpeg(frame, shape):
    """Raises `ValueError` unless all the frame headers of a JPEG or JPEG-LS before its first scan say one
    component of `shape`, which the decoders would otherwise find out after they have filled the memory."""
    position = 2
    headers = 0
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:
            raise ValueError("its JPEG is damaged before its first scan")
        marker = frame[position + 1]
        if marker == 0xFF:                                # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            break
        if marker in STARTS_OF_FRAME:
            headers += 1
            size = struct.unpack(">HHB", frame[position + 5:position + 10])
            if size != (*shape, 1):
                raise ValueError(f"its JPEG says {size[0]} x {size[1]} pixels of {size[2]} components, "
                                 f"its header {shape[0]} x {shape[1]} of one")
        position += 2 + int.from_bytes(frame[position + 2:position + 4], "big")
    if headers != 1:
        raise ValueError(f"its JPEG has {headers} frame headers before its first scan")
    scans = frame.count(b"\xff\xda")                     # bytes that no scan has inside
    if scans > LIMITS["jpeg scans"]:
        raise ValueError(f"its JPEG has {scans} scans")


def check_jpeg2000(frame, shape):
    """Raises `ValueError` unless a JPEG 2000 or HTJ2K codestream, or the first in a JP2 file, says one
    component of `shape` in a bounded number of tiles, code-blocks and packets."""
    start = _codestream(frame)
    if frame[start:start + 4] != b"\xff\x4f\xff\x51":     # SOC, SIZ
        raise ValueError("its JPEG 2000 does not begin with its size")
    fields = struct.unpack(">8IH3B", frame[start + 8:start + 45])
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = fields[:9]
    if (bottom - top, right - left, components) != (*shape, 1) or fields[10:] != (1, 1):
        raise ValueError(f"its JPEG 2000 says {bottom - top} x {right - left} pixels of {components} "
                         f"components, its header {shape[0]} x {shape[1]} of one")
    down = -(-(bottom - tile_top) // tile_height)
    across = -(-(right - tile_left) // tile_width)
    if down * across > LIMITS["jpeg 2000 tiles"]:
        raise ValueError(f"its JPEG 2000 has {down * across} tiles")
    _check_blocks(frame, start + 2, shape)


def _check_blocks(frame, position, shape):
    """Raises `ValueError` if the coding styles in the main header, whose second marker is at `position`, cut
    an image of `shape` into too many code-blocks or packets, for each of which the decoder takes memory."""
    layers = 1
    while frame[position:position + 1] == b"\xff" and frame[position + 1] != 0x90:        # SOT
        length = int.from_bytes(frame[position + 2:position + 4], "big")
        segment = frame[position + 4:position + 2 + length]
        if frame[position + 1] == 0x52:                   # COD
            layers = int.from_bytes(segment[2:4], "big")
            _check_style(segment[0], segment[5:], layers, shape)
        elif frame[position + 1] == 0x53:                 # COC
            _check_style(segment[1], segment[2:], layers, shape)
        position += 2 + length


def _check_style(flags, style, layers, shape):
    """`_check_blocks` of one coding style: levels, log2 of a code-block's sides less 2, two bytes more, and
    with the first flag the log2 of a precinct's sides at each resolution, from the smallest."""
    levels, width, height = style[:3]
    blocks = shape[0] * shape[1] >> (width & 15) + (height & 15) + 4
    precincts = style[5:6 + levels] if flags & 1 else b"\xff" * (levels + 1)
    packets = 0
    for level, precinct in zip(range(levels, -1, -1), precincts):
        down = (shape[0] >> level + (precinct >> 4)) + 1
        across = (shape[1] >> level + (precinct & 15)) + 1
        packets += layers * down * across
    if max(blocks, packets) > LIMITS["jpeg 2000 blocks"]:
        raise ValueError(f"its JPEG 2000 is cut into {blocks:,} code-blocks and {packets:,} packets")


def _codestream(frame):
    """The place where the codestream begins: 0, or in the jp2c box of a JP2 file."""
    position = 0
    if frame[4:8] != b"jP  ":
        return position
    while frame[position + 4:position + 8] != b"jp2c":
        length = int.from_bytes(frame[position:position + 4], "big")
        if length < 8:                                    # 0 and 1 are those of boxes beyond 4 GB
            raise ValueError("its JP2 has no codestream")
        position += length
    header = 16 if frame[position:position + 4] == bytes(3) + b"\1" else 8
    return position + header


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
    n = math.prod(shape)
    if count != kind.itemsize:
        raise ValueError(f"its run lengths hold {count} planes and its pixels {kind.itemsize} bytes")
    ends = [*starts[1:count], None]
    planes = []
    for start, end in zip(starts, ends):
        room = bytearray(n + 1024)                        # what unpacks to more is damaged, and an error
        planes.append(np.frombuffer(imagecodecs.packbits_decode(frame[start:end], out=room), np.uint8))
    sizes = [len(plane) for plane in planes]
    if min(sizes) < n:
        raise ValueError(f"its run lengths hold {count} planes of {sizes} bytes, "
                         f"its header says {shape[0]} x {shape[1]} pixels")
    pixels = planes[0][:n].astype(f"u{count}")
    for plane in planes[1:]:
        pixels <<= 8
        pixels |= plane[:n]
    return pixels.view(kind).reshape(shape)
