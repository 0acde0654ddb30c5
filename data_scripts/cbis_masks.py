"""Which of the files of a CBIS-DDSM abnormality is the mask of its lesion.

Neither the order of files nor SeriesDescription tells the mask from the crop, but the pixels do. The mask has
8 bits at the size of the full image. If there is no such file, it has two values; of several such files it is
the one whose size is nearest to the full image's. A mask of less than half that size and of another aspect is
the mask of the crop, which nothing places on the image.
"""
import logging
from pathlib import Path

import numpy as np

from xmodal.config import Problem
from xmodal.imaging.dicom import read_pixels

log = logging.getLogger(__name__)
STRETCHED = 0.02       # difference of the scales in height and width, as a share


def mask_of(finding, full, series, traps):
    """Path of the lesion mask of one abnormality, "" if there is none; counts in `traps` what is unusual
    about it.

    finding: a row of the tables as a dict; full: the full image; series: {SeriesInstanceUID: [image, ...]},
    as `cbis_ddsm.find_series` gives both.
    """
    fitting = _fitting(finding, full, series)
    if not fitting:
        traps["missing_mask"] += 1
        log.info("The lesion mask %s is not there.", finding["mask"].strip())
        return ""
    mask = min(fitting, key=lambda image: abs(np.log(image["pixels"] / full["pixels"])))
    height, width = (of_mask / of_full for of_mask, of_full in zip(mask["shape"], full["shape"]))
    is_stretched = abs(height / width - 1) > STRETCHED
    if min(height, width) < 0.5 and is_stretched:
        traps["crop_sized_mask"] += 1
        log.warning("The mask %s is %.3f times as high and %.3f times as wide as its image: "
                    "of the crop, and not used.", mask["path"], height, width)
        return ""
    is_scaled = mask["shape"] != full["shape"]
    traps["wide_mask"] += mask["bits"] > 8
    traps["scaled_mask"] += is_scaled
    traps["stretched_mask"] += is_stretched
    traps["swapped_instances"] += _is_swapped(mask["number"], Path(finding["mask"].strip()).stem)
    if is_scaled:
        log.info("The mask %s is %.3f times as high and %.3f times as wide as its image; "
                 "it is scaled to it.", mask["path"], height, width)
    return mask["path"]


def _fitting(finding, full, series):
    """The files that may be the mask: those of 8 bits at the size of the image, else those of two values."""
    images = {}
    for uid in (finding["mask_series"], finding["crop_series"]):
        for image in series.get(uid, ()):
            images[image["path"]] = image
    exact = [image for image in images.values() if image["bits"] == 8 and image["shape"] == full["shape"]]
    return exact or [image for image in images.values() if _has_two_values(image["path"])]


def _has_two_values(path):
    try:
        pixels = read_pixels(path)[1]
    except Problem as problem:
        log.warning("%s", problem)
        return False
    return bool(((pixels == pixels.min()) | (pixels == pixels.max())).all())


def _is_swapped(number, listed):
    """True if the file has another InstanceNumber than the tables list.

    The tables count from 000000, the files from 1.
    """
    return number.isdigit() and listed.isdigit() and int(number) != int(listed) + 1
