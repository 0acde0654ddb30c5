"""Damaged input: files cut short, with bits flipped and bytes overwritten give a result or a `Problem`.

All files of one kind are read in a process of its own, whose memory is limited and whose alarm ends a hang,
so that a crash of a native decoder is seen: the process names each file before it reads it. XMODAL_FUZZ
multiplies their number.
"""
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import fuzz_files
import fuzz_readers
import numpy as np
import pytest

from xmodal.config import Problem
from xmodal.imaging import dicom

TESTS = Path(__file__).resolve().parent
SECONDS = 20               # for one file
MEMORY = 1 << 31           # bytes of address space beyond what the imports take


class Kind(NamedTuple):
    """A kind of file."""
    write: object          # function of a folder: writes whole files and returns their paths
    read: object           # function of a path
    number: int            # of damaged files
    checked: bool = False  # PNG has checksums and JSON no slack, so that hardly any damage passes


KINDS = {
    "dicom": Kind(fuzz_files.dicoms, fuzz_readers.read_mammogram, 700),
    "tiff": Kind(fuzz_files.tiffs, fuzz_readers.read_tiles, 260),
    "outlines": Kind(fuzz_files.outlines, fuzz_readers.read_outlines, 320),
    "tables": Kind(fuzz_files.tables, fuzz_readers.read_table, 480),
    "plist": Kind(fuzz_files.plists, fuzz_readers.read_plist, 160),
    "series": Kind(fuzz_files.series, fuzz_readers.read_series, 160),
    "ultrasound": Kind(fuzz_files.ultrasound, fuzz_readers.read_ultrasound, 80, checked=True),
    "answers": Kind(fuzz_files.answers, fuzz_readers.read_answer, 160, checked=True),
}


def damaged(data, rng):
    """`data` cut short, or with bits flipped, bytes set to extremes, or a piece doubled or lost.

    Half the time the damage is within the first 1200 bytes, where the header is.
    """
    data = bytearray(data)
    way = rng.integers(5)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 1200)

    def place():
        return int(rng.integers(reach))

    if way == 0:
        return bytes(data[:place()])
    for _ in range(int(rng.integers(1, 9))):
        k = min(place(), len(data) - 1)
        if way in (1, 2):
            data[k] ^= 1 << int(rng.integers(8))
        elif way == 3:
            extreme = rng.choice([b"\xff\xff", b"\0\0", b"\x60\xea", b"\xff\x7f"])
            data[k:k + 2] = extreme[:len(data) - k]
        else:
            start = place()
            end = place() + int(rng.integers(40))
            lost = int(rng.integers(1, 40))
            data[k:k + lost] = data[start:end] or b" "
    return bytes(data)


# ---- in a process of its own -----------------------------------------------------------------------------

def limit_memory():
    """Allows this process `MEMORY` bytes more than it has now."""
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def read_damaged(path, read):
    """"read" or "problem"; the alarm ends the process if it takes too long."""
    signal.alarm(SECONDS)
    try:
        read(path)
        return "read"
    except Problem as problem:
        assert str(problem).strip()
        return "problem"
    finally:
        signal.alarm(0)


def read_all(kind, number):
    """Reads `number` damaged files of a kind; prints the name of each first, and the counts at the end."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    write, read, *_ = KINDS[kind]
    counts = {"read": 0, "problem": 0}
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder))
        whole = [path.read_bytes() for path in paths]
        for path in paths:
            read(path)                                    # as long as it is whole, it can be read
        limit_memory()
        for seed in range(number):
            path = paths[seed % len(paths)]
            data = whole[seed % len(paths)]
            print(f"{path.name}, seed {seed}", flush=True)
            path.write_bytes(damaged(data, np.random.default_rng([seed, len(data)])))
            counts[read_damaged(path, read)] += 1
            path.write_bytes(data)
    print(json.dumps(counts))


# ---- tests -----------------------------------------------------------------------------------------------

@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited as Linux does it")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_a_result_or_a_problem(kind):
    number = KINDS[kind].number * int(os.environ.get("XMODAL_FUZZ", 1))
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "imaging")))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, kind, str(number)], cwd=TESTS.parent, env=env,
                          capture_output=True, text=True)
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"{last}: exit {done.returncode}\n{done.stderr[-3000:]}"
    counts = json.loads(last)
    assert sum(counts.values()) == number and counts["problem"] >= 5
    assert counts["read"] >= 5 or KINDS[kind].checked


@pytest.mark.parametrize("name", ["JPEGLossless", "JPEGLosslessSV1"])
def test_a_lossless_jpeg_that_says_another_size_is_not_read_beyond_its_end(tmp_path, name):
    path = next(path for path in fuzz_files.dicoms(tmp_path) if path.stem == name)
    data = path.read_bytes()
    frame = data.index(b"\xff\xc3")
    rows, _ = dicom.read_pixels(path)[1].shape
    size = (2 * rows).to_bytes(2, "big") + (0xEA40).to_bytes(2, "big")
    path.write_bytes(data[:frame + 5] + size + data[frame + 9:])
    with pytest.raises(Problem, match="says another size than"):
        dicom.read_pixels(path)


def test_over_two_thousand_files_are_tried():
    assert sum(kind.number for kind in KINDS.values()) >= 2000


if __name__ == "__main__":
    read_all(sys.argv[1], int(sys.argv[2]))
