"""Small mammograms as DICOM files in every transfer syntax, for the tests that read them."""
from functools import partial

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid

from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, write_dicom


def write(path, pixels, bits=16, syntax=uid.ExplicitVRLittleEndian, **elements):
    write_dicom(path, pixels, syntax, DIGITAL_MAMMOGRAM, bits, **{"SOPInstanceUID": "2.25.1", **elements})
    return path


def rewrite(path, syntax, stored=None, **elements):
    """The file again in another transfer syntax, with `stored` as its pixel data; None removes an element."""
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    if stored is not None:
        data.PixelData = stored
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data["PixelData"].is_undefined_length = syntax.is_encapsulated
    if syntax.is_encapsulated:
        data["PixelData"].VR = "OB"
    data.walk(lambda *_: None)                            # decodes every element, to encode it anew
    pydicom.dcmwrite(path, data, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
                     force_encoding=True)
    return path


def compress_runs(path):
    """The file again with its pixels as run lengths."""
    data = pydicom.dcmread(path)
    data.compress(uid.RLELossless)
    data.save_as(path)
    return path


def ramp(dtype=np.uint16):
    return np.arange(40 * 32, dtype=np.int64).reshape(40, 32).astype(dtype)


def picture(dtype):
    """A smooth hill with some noise, which codecs that lose something keep roughly."""
    y, x = np.mgrid[-1:1:48j, -1:1:64j]
    grey = np.exp(-2 * (x ** 2 + y ** 2)) + 0.02 * np.random.default_rng(0).random(x.shape)
    return (grey / 1.03 * np.iinfo(dtype).max).astype(dtype)


def item(**elements):
    data = pydicom.Dataset()
    for name, value in elements.items():
        setattr(data, name, value)
    return [data]


# ---- encoders of the compressed transfer syntaxes ---------------------------------------------------------

def jpeg8(pixels):
    return imagecodecs.jpeg8_encode(pixels, level=95)


def near_lossless(pixels):
    return imagecodecs.jpegls_encode(pixels, level=2)


def jpeg2000(pixels, level=0, reversible=True):
    return imagecodecs.jpeg2k_encode(pixels, level=level, codecformat="J2K", reversible=reversible)


CODECS = {  # encoder, values it takes, largest error as a share of the range
    uid.JPEGBaseline8Bit: (jpeg8, "B", 0.05),
    uid.JPEGExtended12Bit: (jpeg8, "B", 0.05),
    uid.JPEGLossless: (imagecodecs.ljpeg_encode, "BH", 0),
    uid.JPEGLosslessSV1: (imagecodecs.ljpeg_encode, "BH", 0),
    uid.JPEGLSLossless: (imagecodecs.jpegls_encode, "BH", 0),
    uid.JPEGLSNearLossless: (near_lossless, "BH", 2 / 255),
    uid.JPEG2000Lossless: (jpeg2000, "BH", 0),
    uid.JPEG2000: (partial(jpeg2000, level=60, reversible=None), "BH", 0.05),
    uid.HTJ2KLossless: (partial(imagecodecs.htj2k_encode, reversible=True), "BH", 0),
}
