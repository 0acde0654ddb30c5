"""Tiles of a slide and their stain, as ratios in one process.

Extraction into an array against histolab's GridTiler and against OpenSlide on two threads; Macenko against
torchstain. Prints a table and writes build/bench_slides.json. An argument sets the slide's side.
"""
import os
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
warnings.simplefilter("ignore")

import histolab
import numpy as np
import ratios
import tifffile
from histolab.slide import Slide
from histolab.tiler import GridTiler
from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer

from xmodal import config
from xmodal.imaging import regions, slides, stain

SIDE = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
REPEATS = 3
TILE = 256


def write(path, **encoding):
    """A slide of SIDE x SIDE pixels of real tissue, tiled and in two levels, by tifffile."""
    slide, _ = regions.open_slide(Path(histolab.__file__).parent / "data" / "cmu_small_region.svs")
    with slide:
        tissue = slides.tiles(slide, 0.5, TILE / 2, TILE, tissue=0.9).pixels
    n = SIDE // TILE
    drawn = np.random.default_rng(0).integers(0, len(tissue), n * n)
    grid = tissue[drawn].reshape(n, n, TILE, TILE, 3)
    rgb = np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(SIDE, SIDE, 3)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for k, level in enumerate((rgb, rgb[::8, ::8])):
            tiff.write(level, tile=(TILE, TILE), resolution=(2e4 / 8 ** k,) * 2, resolutionunit="CENTIMETER",
                       subfiletype=int(k > 0), **encoding)
    return path


def corners():
    """All tiles of the slide, row by row."""
    return [(x, y) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)]


# ---- extraction: seconds per tile ------------------------------------------------------------------------

def with_histolab(path):
    """GridTiler to PNG."""
    with tempfile.TemporaryDirectory() as folder:
        slide = Slide(str(path), folder)
        tiler = GridTiler(tile_size=(TILE, TILE), level=0, check_tissue=False, suffix=".png")
        start = time.perf_counter()
        tiler.extract(slide, log_level="ERROR")
        return (time.perf_counter() - start) / len(list(Path(folder).glob("*.png")))


def with_openslide(path):
    """read_region into an array, on two threads."""
    slide, _ = regions.open_slide(path)
    xy = corners()
    out = np.empty((len(xy), TILE, TILE, 3), np.uint8)

    def put(k):
        out[k] = slide.read_region(xy[k], 0, (TILE, TILE)).convert("RGB")

    start = time.perf_counter()
    with slide, ThreadPoolExecutor(2) as pool:
        list(pool.map(put, range(len(out))))
    return (time.perf_counter() - start) / len(out)


def with_ours(path):
    slide, _ = regions.open_slide(path)
    with slide:
        start = time.perf_counter()
        n = len(slides.extract(slide, corners(), TILE, TILE))
        return (time.perf_counter() - start) / n


# ---- stain: processor seconds ----------------------------------------------------------------------------
# Not real time: both ways use one thread, and a busy machine interrupts short and long calls differently.

MACENKO = NumpyMacenkoNormalizer()


def torchstains(rgb):
    MACENKO.normalize(rgb, stains=False)


def one_by_one(function, images):
    for image in images:
        function(image)


def stain_cases(path):
    """{what: (ours, peer, floor)}: a tile at a time, and the tiles of a slide together."""
    slide, _ = regions.open_slide(path)
    with slide:
        tiles = slides.extract(slide, corners()[:24], TILE, TILE)
    together = tiles.reshape(-1, TILE, 3)
    return {
        "torchstain numpy / macenko, tile by tile": (
            partial(ratios.seconds, one_by_one, stain.macenko, tiles),
            partial(ratios.seconds, one_by_one, torchstains, tiles), 8),
        "torchstain numpy / macenko, tiles together": (
            partial(ratios.seconds, stain.macenko, tiles),
            partial(ratios.seconds, torchstains, together), 8),
    }


def rows():
    config.DATA.mkdir(parents=True, exist_ok=True)
    jpeg = write(config.DATA / "jpeg.tif", photometric="ycbcr", compression="jpeg",
                 compressionargs={"level": 80}, subsampling=(2, 2))
    deflate = write(config.DATA / "deflate.tif", photometric="rgb", compression="deflate", predictor=True)
    cases = {
        "GridTiler / extract, JPEG tiles": (partial(with_ours, jpeg), partial(with_histolab, jpeg), 10),
        "OpenSlide on two threads / extract, JPEG tiles": (
            partial(with_ours, jpeg), partial(with_openslide, jpeg), 3),
        "OpenSlide on two threads / extract, deflate": (
            partial(with_ours, deflate), partial(with_openslide, deflate), 1),
        **stain_cases(jpeg),
    }
    made = []
    for what, (ours, peer, least) in cases.items():
        made.append(ratios.compare(what, ours, peer, REPEATS, at_least=least))
    return made


if __name__ == "__main__":
    ratios.report(rows(), "bench_slides")
