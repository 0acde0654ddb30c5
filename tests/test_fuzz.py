"""Damaged input gives a result or a `Problem`: a few hundred inputs of the campaign that `make fuzz` runs."""
import os
import sys

import fuzz_campaign
import fuzz_files
import pytest

from xmodal.config import Problem
from xmodal.imaging import dicom

NUMBER = 300
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured as Linux does it")


@linux
def test_changed_files_give_a_result_or_a_problem():
    results = fuzz_campaign.campaign(NUMBER, seed=1, workers=1)
    print(fuzz_campaign.table(results))
    assert not fuzz_campaign.failures(results)
    assert len(results) == NUMBER
    for kind in ("dicom", "tiff", "outlines", "tables", "answers"):
        outcomes = {outcome.how for trial, outcome in results if trial.kind == kind}
        assert outcomes == {"read", "problem"}, f"all inputs of {kind} have one outcome"


@linux
def test_an_input_is_the_same_again_and_its_faults_are_counted(monkeypatch):
    """A signal, a traceback, too much memory and too much time are each named, and the rest goes on."""
    trials = [fuzz_campaign.Input("tables", k, 0) for k in range(9)]
    paths, whole = fuzz_campaign.whole_files("tables")
    first = [fuzz_campaign.changed(trial, paths, whole) for trial in trials]
    assert first == [fuzz_campaign.changed(trial, paths, whole) for trial in trials]
    assert sum(data != whole[path] for path, data in first) >= 8
    ways = ["", "signal", "traceback", "memory", "time", ""]
    monkeypatch.setattr(fuzz_campaign, "inputs", lambda *_: ways)
    monkeypatch.setattr(fuzz_campaign, "try_input", fail)
    outcomes = [outcome.how for _, outcome in fuzz_campaign.campaign(6, workers=1)]
    assert outcomes == ["read", "signal", "traceback", "memory", "time", "read"]


def fail(way):
    """The outcome of an input whose reader fails in this `way`."""
    fuzz_campaign.SECONDS = 4
    fuzz_campaign.BYTES = 600_000_000
    fuzz_campaign.KINDS["tables"] = fuzz_campaign.Kind(fuzz_files.tables, WAYS[way], 1)
    return fuzz_campaign.try_input(fuzz_campaign.Input("tables", 0, 0))


def end(_):
    os.abort()


def fill(_):
    return len(b"x" * 400_000_000)


def turn(_):
    while True:
        pass


# What a reader does with a path.
WAYS = {"": str, "signal": end, "traceback": int, "memory": fill, "time": turn}


@pytest.mark.parametrize("name", ["JPEGLossless", "JPEGLosslessSV1"])
def test_a_lossless_jpeg_that_says_another_size_is_not_read_beyond_its_end(tmp_path, name):
    path = next(path for path in fuzz_files.dicoms(tmp_path) if path.stem == name)
    data = path.read_bytes()
    frame = data.index(b"\xff\xc3")
    rows, _ = dicom.read_pixels(path)[1].shape
    size = (2 * rows).to_bytes(2, "big") + (0xEA40).to_bytes(2, "big")
    path.write_bytes(data[:frame + 5] + size + data[frame + 9:])
    with pytest.raises(Problem, match="its JPEG says"):
        dicom.read_pixels(path)
