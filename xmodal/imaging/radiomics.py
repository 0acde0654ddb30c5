"""Radiomic features of the stored images: 102 numbers for each, computed once and kept beside the arrays.

The region is the whole breast or the tissue, by one rule for every image of every split. It is never a
lesion outline, which only some images have and whose presence would tell the diagnosis. Definitions:
Zwanenburg et al. 2020 (IBSI), as pyradiomics computes them.
"""
import logging

import numpy as np
import pandas as pd
import pyarrow as pa

from ..config import Problem
from ..runtime.files import atomic, sha256
from ..runtime.identity import code_of

log = logging.getLogger(__name__)

FAMILIES = ("shape2D", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
BIN_WIDTH = 8            # grey levels of 0..255: 32 bins
GLASS = 220              # a pixel of a tile is tissue where its darkest channel is below this
LEAST = 64               # pixels; a smaller region says little of texture, so that the whole image is taken


def grey(image):
    """(S, S) or (S, S, 3) uint8 -> (S, S) float luminance, 0 to 255 (ITU-R 601)."""
    return image.astype(float) if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])


def region(image):
    """The bool (S, S) pixels to measure: the breast (the background is stored as 0), or a tile's tissue."""
    inside = image > 0 if image.ndim == 2 else image.min(2) < GLASS
    return inside if inside.sum() >= LEAST else np.ones_like(inside)


def extractor():
    """pyradiomics, with every 2-D family and a fixed bin width.

    SimpleITK keeps to one thread: on images this small several mostly wait for each other.
    """
    import SimpleITK as sitk
    from radiomics import setVerbosity
    from radiomics.featureextractor import RadiomicsFeatureExtractor
    setVerbosity(logging.ERROR)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    tool = RadiomicsFeatureExtractor(force2D=True, binWidth=BIN_WIDTH, additionalInfo=False)
    tool.disableAllFeatures()
    for family in FAMILIES:
        tool.enableFeatureClassByName(family)
    return tool


def measure(image, tool=None):
    """{feature: value}: the 102 features of one image, named family_feature; lengths are in pixels.

    tool: an `extractor` to use for several images.
    """
    import SimpleITK as sitk
    pixels = sitk.GetImageFromArray(grey(image))
    inside = sitk.GetImageFromArray(region(image).astype(np.uint8))
    tool = tool or extractor()
    values = tool.execute(pixels, inside, label=1)
    return {name.removeprefix("original_"): float(value) for name, value in values.items()}


def _stored(path, made_from):
    """The features in `path` if they were computed from those arrays, else None."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pa.ArrowException) as error:
        log.warning("The features in %s cannot be read (%s) and are computed again.", path, error)
        return None
    return table if table.attrs.get("made_from") == made_from else None


def of_domain(domain, images):
    """(N, 102) features of all images of a domain, row i for image i. images: `loaders.Images`.

    They are kept in radiomics/<domain>.parquet of the data folder, with the sha256 of the array that they
    were computed from and the code that computed them.
    """
    source = images.folder / "images" / f"{domain}.npy"
    try:
        pixels = np.load(source, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise Problem(f"The image array {source} cannot be read ({error}); "
                      "run 02_preprocess again.") from None
    path = images.folder / "radiomics" / f"{domain}.parquet"
    made_from = f"{sha256(source)}, {code_of('xmodal.imaging.radiomics.measure')}"
    table = _stored(path, made_from)
    if table is None:
        tool = extractor()
        table = pd.DataFrame([measure(np.asarray(image), tool) for image in pixels])
        table.attrs["made_from"] = made_from
        with atomic(path) as partial:
            table.to_parquet(partial, index=False)
    return table


def features(rows, images):
    """(N, 102) features of cohort rows, in their order and with their index.

    Values that are not finite become 0 and are logged.
    """
    parts = []
    for domain, part in rows.groupby("domain"):
        parts.append(of_domain(domain, images).iloc[part["index"]].set_axis(part.index))
    table = pd.concat(parts).loc[rows.index]
    bad = ~np.isfinite(table)
    if bad.to_numpy().any():
        log.warning("%d feature values of %d images are not finite and count as 0.",
                    bad.to_numpy().sum(), bad.any(axis=1).sum())
    return table.mask(bad, 0.0)
