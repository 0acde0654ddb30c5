"""Stored values to grey levels as a viewer shows them first (DICOM PS3.3 C.11, C.7.6.3.1.2, C.7.5.1.1.2).

An attribute that is empty counts as absent, and one that lies in the functional groups of an enhanced
object counts as if it lay in the file's own level.
"""
import logging

import numpy as np
from pydicom import uid

from ..config import Problem

log = logging.getLogger(__name__)

RAW = (
    uid.DigitalXRayImageStorageForProcessing,
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.BreastProjectionXRayImageStorageForProcessing,
)
TRANSFORMS = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter",
              "PixelPaddingValue")


# ---- attributes ------------------------------------------------------------------------------------------

def attribute(data, name):
    """The value of an attribute of a pydicom dataset, or None where it is absent or empty."""
    for group in (data, *_functional_groups(data)):
        value = group.get(name)
        if not _empty(value):
            return value
    return None


def first(data, name):
    """The first of the values of an attribute, or None where that is absent or empty."""
    value = attribute(data, name)
    if isinstance(value, (list, tuple)) or hasattr(value, "append"):         # pydicom's lists are no list
        value = value[0]
    return None if _empty(value) else value


def number(data, name):
    """The first of the values of an attribute as a float, or None where that is absent or empty."""
    value = first(data, name)
    return None if value is None else float(value)


def text(data, name):
    """The first of the values of an attribute as a text in upper case, "" where it is absent or empty."""
    return str(first(data, name) or "").strip().upper()


def _empty(value):
    if isinstance(value, str):
        return not value.strip("\0 ")
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _functional_groups(data):
    """The items of the functional groups of the first frame, its own before the shared ones."""
    items = []
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for frame in list(data.get(name) or ())[:1]:
            sequences = [element.value for element in frame if element.VR == "SQ"]
            items += [sequence[0] for sequence in sequences if sequence]
    return items


# ---- an image --------------------------------------------------------------------------------------------

def shown(data, pixels, path):
    """The image (H, W) of stored values as float32 grey levels; `pixels` itself if nothing is to be done.

    Each grey level is transformed once. Padding becomes the darkest grey level of the other pixels. `path`
    is named in what is logged. Raises `Problem` for a raw image that does not say which of its values are
    dense, and `ValueError` for a transformation that cannot be applied.
    """
    turned = _inverted(data, path)
    if not turned and all(attribute(data, name) is None for name in TRANSFORMS):
        return pixels
    levels, counts = _levels(pixels)
    is_padding = padding(data, levels)
    used = (counts > 0) & ~is_padding
    if not used.any():
        raise ValueError("all of it is padding")
    grey = np.zeros(len(levels), np.float32)
    grey[used] = displayed(data, levels[used], turned)
    grey[is_padding] = _darkest(grey[used], counts[used])
    image = np.empty(pixels.shape, np.float32)
    for top in range(0, len(pixels), 256):                # strips, since indices take much memory
        image[top:top + 256] = grey[_places(levels, pixels[top:top + 256])]
    return image


def displayed(data, stored, turned):
    """float32 grey levels of stored values that are no padding; `turned` if the largest is the darkest."""
    with np.errstate(over="ignore"):                      # what overflows is not finite, and refused below
        if is_raw(data):
            grey = np.asarray(stored, np.float32)
        else:
            values, limits = _modality(data, np.asarray(stored, float))
            grey = _values_of_interest(data, values, limits).astype(np.float32)
    if not np.isfinite(grey).all():
        raise ValueError("it gives values that are no numbers")
    return grey.max() - grey + grey.min() if turned else grey


def _levels(pixels):
    """(ascending values among which are all the pixels, the number of pixels of each value)."""
    if pixels.dtype.kind not in "iu" or pixels.itemsize > 2:
        return np.unique(pixels, return_counts=True)
    levels = np.arange(int(pixels.min()), int(pixels.max()) + 1)
    counts = np.zeros(len(levels), int)
    for top in range(0, len(pixels), 256):
        places = _places(levels, pixels[top:top + 256])
        counts += np.bincount(places.ravel(), minlength=len(levels))
    return levels, counts


def _places(levels, pixels):
    """The index of each pixel's value among the `levels`."""
    if pixels.dtype.kind in "iu" and pixels.itemsize <= 2:
        return pixels.astype(np.int64) - levels[0]
    return np.searchsorted(levels, pixels)


def _darkest(grey, counts):
    """The smallest of the grey levels, but not one far below all but a few pixels (a dead pixel)."""
    order = np.argsort(grey)
    share = np.cumsum(counts[order]) / counts.sum()
    low, high = grey[order][np.searchsorted(share, (0.005, 0.995))]
    return max(grey.min(), low - 0.05 * (high - low))


def padding(data, stored):
    """Which stored values are padding: bool, as `stored`.

    The value and the limit of its range count modulo the stored bits, since some files write them as
    unsigned where their pixels are signed, or the other way round.
    """
    value = first(data, "PixelPaddingValue")
    if value is None:
        return np.zeros(np.shape(stored), bool)
    limit = first(data, "PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None else limit)]
    low, high = _stored_range(data)
    if low < 0:
        ends = [(end - low) % (high - low + 1) + low for end in ends]
    count = high - low + 1
    return (np.asarray(stored, np.int64) - min(ends)) % count <= max(ends) - min(ends)


# ---- direction -------------------------------------------------------------------------------------------

def is_raw(data):
    """Whether a pydicom dataset holds what the detector measured, and not an image made to be looked at."""
    intent = text(data, "PresentationIntentType")
    if intent:
        return intent == "FOR PROCESSING"
    linear = text(data, "PixelIntensityRelationship") == "LIN"
    signed = attribute(data, "PixelIntensityRelationshipSign") is not None
    return data.get("SOPClassUID") in RAW or (linear and signed)


def _inverted(data, path):
    """Whether dense tissue has the smallest values of those that the VOI transformation gives.

    Of a raw image, which has no such values, of those that are stored. Raises `Problem` if it does not say.
    """
    monochrome1 = text(data, "PhotometricInterpretation") == "MONOCHROME1"
    if not is_raw(data):
        return monochrome1 or text(data, "PresentationLUTShape") == "INVERSE"
    sign = number(data, "PixelIntensityRelationshipSign")
    if sign not in (1, -1):
        raise Problem(f"{path} holds a raw image (for processing) and does not say whether its values rise "
                      "with the dose; use the image for presentation, or leave it out.")
    log.warning("%s holds a raw image (for processing); its values are used as they are, %s, so that dense "
                "tissue is bright, but its contrast is not that of an image for presentation.",
                path, "turned round" if sign == 1 else "not turned round")
    return sign == 1


# ---- transformations -------------------------------------------------------------------------------------

def _stored_range(data):
    """(the smallest, the largest) value that a pixel can have."""
    bits = int(number(data, "BitsStored") or number(data, "BitsAllocated"))
    if number(data, "PixelRepresentation"):
        return -(1 << bits - 1), (1 << bits - 1) - 1
    return 0, (1 << bits) - 1


def _modality(data, stored):
    """(values after the modality transformation, (the smallest, the largest) of all that it can give)."""
    low, high = _stored_range(data)
    item = _table_item(data, "ModalityLUTSequence")
    if item is not None:
        bits = int(item.LUTDescriptor[2])
        return _looked_up(data, item, stored, (low, high)), (0, (1 << bits) - 1)
    slope = number(data, "RescaleSlope")
    intercept = number(data, "RescaleIntercept") or 0.0
    if slope is None:
        slope = 1.0
    if slope == 0:
        raise ValueError("its rescale slope is 0")
    limits = (slope * low + intercept, slope * high + intercept)
    return slope * stored + intercept, (min(limits), max(limits))


def _values_of_interest(data, values, limits):
    """The values after the first VOI transformation: a look-up table before a window."""
    item = _table_item(data, "VOILUTSequence")
    if item is not None:
        return _looked_up(data, item, values, limits)
    center = number(data, "WindowCenter")
    width = number(data, "WindowWidth")
    if center is None or width is None:
        return values
    function = text(data, "VOILUTFunction") or "LINEAR"
    low, high = limits
    return low + (high - low) * window(values, center, width, function)


def window(values, center, width, function="LINEAR"):
    """Shares from 0 to 1 of the output range (PS3.3 C.11.2.1.2, C.11.2.1.3).

    A LINEAR window under 1 wide, which the standard does not allow, is read as LINEAR_EXACT, which is what
    it must have been made for.
    """
    if not width > 0:
        raise ValueError(f"its window is {width:g} wide")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise ValueError(f"its VOI function is {function}")
    if function == "LINEAR" and width >= 1:
        center -= 0.5
        width -= 1
    if width == 0:
        return np.where(values > center, 1.0, 0.0)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _table_item(data, name):
    """The first item of a sequence of look-up tables, or None if it holds no table."""
    item = first(data, name)
    if item is None or attribute(item, "LUTData") is None or attribute(item, "LUTDescriptor") is None:
        return None
    return item


def _looked_up(data, item, values, limits):
    """What a look-up table gives for values from `limits[0]` to `limits[1]` (PS3.3 C.11.1.1, C.11.2.1.1).

    Values before and behind the table get its first and last entry.
    """
    count, start, bits = (int(value) for value in item.LUTDescriptor)
    count = count % (1 << 16) or 1 << 16
    if not 8 <= bits <= 16:
        raise ValueError(f"the entries of its look-up table have {bits} bits")
    if not _overlap(start, count, limits):                # it may be unsigned and written as signed, or
        for shifted in (start - (1 << 16), start + (1 << 16)):               # the other way round
            if _overlap(shifted, count, limits):
                start = shifted
                break
    entries = _entries(data, item["LUTData"])
    if bits == 8 and len(entries) == (count + 1) // 2 < count:               # two bytes packed in a word
        entries = np.stack([entries & 0xFF, entries >> 8], 1).ravel()
    if len(entries) < count:
        raise ValueError(f"its look-up table says {count} entries and has {len(entries)}")
    places = np.clip(np.floor(values + 0.5) - start, 0, count - 1).astype(int)
    return entries[places].astype(float)


def _overlap(start, count, limits):
    """Whether `count` integers from `start` lie in part between the limits."""
    return start <= limits[1] and start + count > limits[0]


def _entries(data, element):
    """The unsigned 16-bit words of a table's LUTData element."""
    stored = element.value
    if not isinstance(stored, bytes):
        return np.atleast_1d(np.asarray(stored, np.int64)) & 0xFFFF
    syntax = getattr(data, "file_meta", {}).get("TransferSyntaxUID")
    big = element.VR == "OW" and syntax == uid.ExplicitVRBigEndian
    return np.frombuffer(stored + bytes(len(stored) % 2), ">u2" if big else "<u2").astype(np.int64)
