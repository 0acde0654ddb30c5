"""What the writers of native files and the quirks share: DICOM, slides, tables, outlines, registry rows."""
import csv
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from scipy.ndimage import binary_fill_holes
from skimage.measure import approximate_polygon, find_contours

from xmodal.runtime.files import atomic

from .patients import REGISTRY

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"             # SOP classes
DIGITAL_MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.1.2"
PYRAMID_LEVELS = 3


@dataclass
class Release:
    """The written files of one site, which the quirks change."""
    root: Path
    seed: int                # that the site was drawn with
    natives: list            # the native patients as they were written
    renamed: dict = field(default_factory=dict)     # native patient -> its new name, None where it is gone


def registry_row(domain, native, row):
    """The row of registry.csv that links the native patient to `row`, a row of `patients.cohort`."""
    return {"domain": domain, "native_patient": native, **{name: row[name] for name in REGISTRY[2:]}}


# ---- text and tables ---------------------------------------------------------------------------------------

def write_text(path, text):
    """A UTF-8 file; line ends stay as they are in `text`."""
    with atomic(path) as partial:
        partial.write_bytes(text.encode())


def write_table(path, header, rows, delimiter=","):
    """A CSV file with CRLF line ends; a field with a line feed in it is quoted."""
    with atomic(path) as partial, open(partial, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def copy(source, target):
    """Copies a file into a folder that need not exist yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


# ---- DICOM -------------------------------------------------------------------------------------------------

def uid(prefix, *names):
    """A DICOM unique identifier that depends on the names only."""
    return generate_uid(prefix, entropy_srcs=[str(name) for name in names])


def pixel_bytes(pixels):
    """The bytes of an image, filled up to an even number as DICOM wants them."""
    return pixels.tobytes() + b"\0" * (pixels.nbytes % 2)


def write_dicom(path, pixels, syntax, sop_class, bits, **elements):
    """One greyscale image, uint8 or uint16 (H, W), as a DICOM file with the given elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    meta.TransferSyntaxUID = syntax
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    allocated = pixels.dtype.itemsize * 8
    common = {"SpecificCharacterSet": "ISO_IR 100", "SOPClassUID": sop_class, "Modality": "MG",
              "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": pixels.shape[0],
              "Columns": pixels.shape[1], "BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1,
              "PixelRepresentation": 0}
    for name, value in {**common, **elements}.items():
        setattr(data, name, value)
    data.PixelData = pixel_bytes(pixels)
    data["PixelData"].VR = "OW" if allocated > 8 or syntax == ImplicitVRLittleEndian else "OB"
    with atomic(path) as partial:
        data.save_as(partial, enforce_file_format=True)


# ---- slides ------------------------------------------------------------------------------------------------

def pyramid(path, rgb, mpp, quality, levels=PYRAMID_LEVELS):
    """Writes uint8 RGB as tiled JPEG BigTIFF, each level half of the one before; OpenSlide 4 reads `mpp`."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(levels):
            if level:
                rgb = halved(rgb)
            tiff.write(rgb, tile=(256, 256), photometric="rgb", subsampling=(2, 2), compression="jpeg",
                       compressionargs={"level": quality}, subfiletype=1 if level else 0,
                       resolution=(1e4 / (mpp * 2 ** level),) * 2, resolutionunit="CENTIMETER",
                       metadata=None, software=False)


def halved(rgb):
    """uint8 (H, W, 3), of even sides -> (H / 2, W / 2, 3): the means of squares of four, rounded down."""
    wide = rgb.astype(np.uint16)
    rows = wide[::2] + wide[1::2]
    return ((rows[:, ::2] + rows[:, 1::2]) // 4).astype(np.uint8)


def polygons(mask, step=8):
    """Outlines of a bool mask, (n, 2) arrays x, y in pixels, without holes and specks under 64 steps."""
    small = np.pad(binary_fill_holes(mask[step // 2::step, step // 2::step]), 1)
    lines = [approximate_polygon(line, 0.4) for line in find_contours(small.astype(float), 0.5)]
    return [(line[:-1, ::-1] - 0.5) * step for line in lines if _area(line) >= 64]


def _area(line):
    """Area in a closed line, an (n, 2) array."""
    return 0.5 * abs(np.dot(line[:, 0], np.roll(line[:, 1], 1)) - np.dot(line[:, 1], np.roll(line[:, 0], 1)))


def asap(outlines, group="Tumor"):
    """ASAP annotation XML of polygons in level-0 pixels."""
    name = quoteattr(group)
    parts = ['<?xml version="1.0"?>\n<ASAP_Annotations>\n\t<Annotations>\n']
    for i, line in enumerate(outlines):
        parts.append(f'\t\t<Annotation Name="Annotation {i}" Type="Polygon" PartOfGroup={name} '
                     'Color="#F4FA58">\n\t\t\t<Coordinates>\n')
        for k, (x, y) in enumerate(line):
            parts.append(f'\t\t\t\t<Coordinate Order="{k}" X="{x:.4f}" Y="{y:.4f}" />\n')
        parts.append("\t\t\t</Coordinates>\n\t\t</Annotation>\n")
    parts.append("\t</Annotations>\n\t<AnnotationGroups>\n"
                 f'\t\t<Group Name={name} PartOfGroup="None" Color="#00ff00">\n'
                 "\t\t\t<Attributes />\n\t\t</Group>\n\t</AnnotationGroups>\n</ASAP_Annotations>\n")
    return "".join(parts)
