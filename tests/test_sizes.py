"""Files that are small and would fill the memory: each is refused, and a process that meets them all stays
small. (Those in DICOM are in imaging/.)"""
import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from scipy.spatial.distance import pdist

from data_scripts import annotations, archive, busi, camelyon_outlines, inbreast, tables
from data_scripts.phantom.native import pyramid
from xmodal import cohort
from xmodal.config import HOME, LIMITS, Problem
from xmodal.imaging import regions
from xmodal.runtime import bounds

MOST = 700                # MB of resident memory that the process may ever have; idle it has about 300


# ---- the files -------------------------------------------------------------------------------------------

def many_members(path):
    """A zip archive that lists one empty file 300,000 times."""
    local = b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    listed = b"PK\1\2" + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    size = len(listed) * 300_000
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 65535, 65535, size, len(local), 0)
    path.write_bytes(local + listed * 300_000 + end)


def zipped(path, name, content, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as out:
        out.writestr(name, content)


def arrays(path):
    """An .npz whose only array says that it inflates to 4 GB."""
    np.savez_compressed(path, a=np.zeros(10))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24:entry + 28] = struct.pack("<I", 4_000_000_000)
    path.write_bytes(data)


def large_tile(path):
    """A slide of which one JPEG tile says that it has 60,000 x 60,000 pixels."""
    pyramid(path, np.full((512, 512, 3), 200, np.uint8), 1.0, 80, levels=1)
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0", data.index(b"\xff\xd8"))
    data[frame + 5:frame + 9] = struct.pack(">2H", 60_000, 60_000)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    many_members(folder / "members.zip")
    zipped(folder / "lzma.zip", "a", bytes(1 << 24), zipfile.ZIP_LZMA)
    zipped(folder / "annotations.zip", "tumor_001.xml", b"<a>" + b" " * (200 << 20))
    arrays(folder / "a.npz")
    (folder / "columns.csv").write_text(",".join(map(str, range(200_000))) + "\na" * 50_000)
    with gzip.open(folder / "line.tsv.gz", "wb", 1) as file:
        file.write(b"0\t" * (50 << 20))
    with gzip.open(folder / "rows.tsv.gz", "wb", 1) as file:
        file.write(b"\t".join([b"0"] * 50_000) + b"\n0" * 50_000)
    with open(folder / "long.csv", "wb") as file:
        file.truncate(2_000_000_000)
    parquet.write_table(pyarrow.table({"a": np.zeros(60_000_000, np.int8)}), folder / "rows.parquet")
    text = pyarrow.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 100_000])
    parquet.write_table(pyarrow.table({"a": text}), folder / "text.parquet", store_schema=False)
    picture = io.BytesIO()
    Image.new("1", (9000, 9000)).save(picture, "png")
    for name in ("benign (1).png", "benign (1)_mask.png"):
        (folder / name).write_bytes(picture.getvalue())
    large_tile(folder / "tile.tif")
    (folder / "long.json").write_text(json.dumps({"positive": []}) + " " * LIMITS["outline bytes"])
    return folder


# ---- in a process of its own -----------------------------------------------------------------------------

def unpack(path):
    archive.unpack(path, path.with_name("out"), 10**9)


def outlines_in_archive(path):
    annotations.read(camelyon_outlines.find([path])["tumor_001"])


def table(path):
    tables.read(path, ())


def mask(path):
    busi.read_mask([path], (9, 9))


def photo(path):
    regions.open_slide(path, 1.0)


def tile(path):
    slide, _ = regions.open_slide(path)
    with slide, regions.Regions(slide) as parts:
        parts.read(0, 0, 0, 256, 256)


def plist(path):
    traps = Counter()
    inbreast.read_rois(path, traps)
    if traps["damaged_xml"]:
        raise Problem("The log says that the outlines are damaged.")


def extent(_):
    """Not refused, but bounded: 10^5 points have 5 * 10^9 distances."""
    annotations.extent(np.random.default_rng(0).normal(size=(100_000, 2)))
    raise Problem("It is done.")


BOMBS = [
    (unpack, "members.zip"),
    (unpack, "lzma.zip"),
    (outlines_in_archive, "annotations.zip"),
    (bounds.read_arrays, "a.npz"),
    (table, "columns.csv"),
    (table, "long.csv"),
    (bounds.check_matrix, "columns.csv"),
    (bounds.check_matrix, "line.tsv.gz"),
    (bounds.check_matrix, "rows.tsv.gz"),
    (cohort.load, "rows.parquet"),
    (cohort.load, "text.parquet"),
    (busi.read, ""),
    (mask, "benign (1)_mask.png"),
    (photo, "benign (1).png"),
    (tile, "tile.tif"),
    (annotations.read, "long.json"),
    (plist, "long.json"),
    (extent, ""),
]


def peak():
    """The most resident memory of this process, MB; ru_maxrss counts that of the one that started it too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def meet_all(folder):
    """Prints for each bomb what became of it and the most memory until then, MB."""
    for meet, name in BOMBS:
        try:
            meet(folder / name)
            outcome = "read"
        except Problem:
            outcome = "problem"
        print(json.dumps([name, outcome, peak()]), flush=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured as Linux does it")
def test_each_is_refused_and_the_memory_stays_small(folder):
    path = os.pathsep.join(map(str, (HOME, *sys.path)))
    done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(BOMBS)
    assert {outcome for _, outcome, _ in lines} == {"problem"}, lines
    assert all(megabytes < MOST for _, _, megabytes in lines), lines


def test_the_extent_of_many_points_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    for points in (rng.normal(size=(3000, 2)), rng.random((2500, 2)) * [1, 0], np.ones((2100, 2))):
        assert annotations.extent(points) == pytest.approx(pdist(points).max(), rel=1e-5)


if __name__ == "__main__":
    meet_all(Path(sys.argv[1]))
