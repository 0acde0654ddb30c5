"""Libraries run the code for AVX2, so that processors that have more give the same bits."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xmodal import config
from xmodal.runtime import notebook

PROCESSOR = Path("/proc/cpuinfo")
ABLE = PROCESSOR.exists() and "avx2" in PROCESSOR.read_text().split()


@pytest.mark.parametrize("chosen", [None, "Zen"])
def test_libraries_run_the_code_for_avx2_unless_the_user_chose(monkeypatch, chosen):
    for name in notebook.AVX2:
        monkeypatch.setenv(name, "")                          # so that it is put back
        monkeypatch.delenv(name)
    if chosen:
        monkeypatch.setenv("OPENBLAS_CORETYPE", chosen)
    notebook.same_code()
    expected = notebook.AVX2 if ABLE else dict.fromkeys(notebook.AVX2)
    if chosen:
        expected = {**expected, "OPENBLAS_CORETYPE": chosen}
    assert {name: os.environ.get(name) for name in notebook.AVX2} == expected


def test_the_makefile_asks_for_the_same_code():
    asked = dict(re.findall(r"^export (\w+) \?= (.+)$", (config.HOME / "Makefile").read_text(), re.M))
    assert asked == notebook.AVX2


OBEYS = """
import numpy, threadpoolctl, torch
from numpy._core._multiarray_umath import __cpu_features__ as features
print(torch.backends.cpu.get_cpu_capability(), features["X86_V3"], features["X86_V4"])
libraries = threadpoolctl.threadpool_info()
print({each["architecture"] for each in libraries if each["internal_api"] == "openblas"}, flush=True)
torch.nn.functional.gelu(torch.ones(64))    # by oneDNN, which then says of itself what it may use
"""


@pytest.mark.skipif(not ABLE, reason="a processor without AVX2")
def test_libraries_obey():
    environment = {**os.environ, **notebook.AVX2, "ONEDNN_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", OBEYS], env=environment, capture_output=True, text=True,
                          check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["AVX2 True False", "{'Haswell'}"]
    assert [line.split("isa:")[1] for line in lines if "isa:" in line] == ["Intel AVX2"]
