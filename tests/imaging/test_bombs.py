"""Small DICOM files that would fill the memory are refused before they do, by the peak of a process."""
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicom_files import CODECS, picture, ramp, rewrite, write
from pydicom import uid
from pydicom.encaps import encapsulate

from xmodal.config import HOME

READ = """
import json, sys
from xmodal.config import Problem
from xmodal.imaging import dicom

def peak():                      # ru_maxrss would count the process that started this one too
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

at_start = peak()
sentences = []
for path in sys.argv[1:]:
    try:
        dicom.read_dicom(path)
    except Problem as problem:
        sentences.append(str(problem))
print(json.dumps([sentences, peak() - at_start]))
"""


def resized(frame, side):
    """An encoded frame whose header says `side` x `side` pixels."""
    frame = bytearray(frame)
    if frame[:4] == b"\xff\x4f\xff\x51":                  # JPEG 2000
        frame[8:16] = struct.pack(">2I", side, side)
        frame[24:32] = struct.pack(">2I", side, side)
        return bytes(frame)
    start = re.search(b"\xff[\xc0\xc1\xc3\xf7]", frame).start()
    frame[start + 5:start + 9] = struct.pack(">2H", side, side)
    return bytes(frame)


def deflated(path, body):
    """A deflated DICOM file with 300 MB of repeated `body` behind its meta header."""
    head = rewrite(write(path, ramp()), uid.DeflatedExplicitVRLittleEndian).read_bytes()
    head = head[:144 + int.from_bytes(head[140:144], "little")]
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = pack.compress(body * ((1 << 20) // len(body))) + pack.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(head + 300 * block)


def bombs(folder):
    """Writes a file of each kind of bomb."""
    for syntax, (encode, _, _) in CODECS.items():
        frame = resized(encode(picture(np.uint8)), 30_000)
        rewrite(write(folder / f"{syntax.keyword}.dcm", picture(np.uint8), 8), syntax, encapsulate([frame]))
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 5_000_000            # 640 MB of zeros
    rewrite(write(folder / "runs.dcm", picture(np.uint8), 8), uid.RLELossless, encapsulate([runs]))
    deflated(folder / "zeros.dcm", bytes(1 << 10))
    item = b"\xfe\xff\0\xe0" + bytes(4)
    sequence = b"\x40\0\x55\5SQ\0\0\xff\xff\xff\xff"      # of undefined length
    deflated(folder / "inflated_items.dcm", sequence + 1000 * item)
    plain = write(folder / "items.dcm", ramp())
    plain.write_bytes(plain.read_bytes() + sequence + 1_000_000 * item)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say the peak")
def test_no_bomb_fills_the_memory(tmp_path):
    bombs(tmp_path)
    paths = sorted(map(str, tmp_path.glob("*.dcm")))
    done = subprocess.run([sys.executable, "-c", READ, *paths], cwd=HOME, capture_output=True, text=True,
                          check=True)
    sentences, megabytes = json.loads(done.stdout.splitlines()[-1])
    for path in paths:
        assert any(path in sentence for sentence in sentences), path
    assert megabytes < 200
