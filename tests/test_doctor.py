"""doctor: each fault that a bare machine may have is said in words, with the remedy, and the exit status is 1."""
import importlib
import importlib.metadata
import shutil
from collections import namedtuple

import pytest

from xmodal import doctor


def fails(name, error):
    def import_module(wanted):
        if wanted == name:
            raise error
    return import_module


@pytest.mark.parametrize("check, name, error, says", [
    (doctor.torch, "torchvision", RuntimeError("operator torchvision::nms does not exist"), "not of one build"),
    (doctor.torch, "timm", ImportError("no timm"), "no timm"),
    (doctor.openslide, "openslide", OSError("libopenslide.so.1"), "no slide can be read"),
    (doctor.mammography, "gdcm", ImportError("gdcm"), "DICOM decoders")])
def test_a_package_that_does_not_load_is_explained(monkeypatch, check, name, error, says):
    monkeypatch.setattr(importlib, "import_module", fails(name, error))
    assert says in check() and "make env" in check()
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    assert check() is None


def test_packages_are_compared_with_the_lock(monkeypatch):
    assert doctor.packages() is None
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version(name) + ("+cpu" if name == "torch" else ""))
    assert "1 packages differ" in doctor.packages() and "torch is" in doctor.packages() and "+cpu" in doctor.packages()


def test_too_little_disk_and_memory_are_said(monkeypatch, home):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2**30))
    assert "1.0 GiB are free" in doctor.disk() and "XMODAL_HOME" in doctor.disk()
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: 2**15)
    assert "1.0 GiB of memory" in doctor.memory()


def test_one_fault_is_exit_status_1_and_a_note_is_not(monkeypatch, capsys):
    def bad(): return "it is broken; mend it"
    monkeypatch.setattr(doctor, "CHECKS", (bad,))
    monkeypatch.setattr(doctor, "HINTS", ())
    assert doctor.main() == 1 and "WRONG: it is broken; mend it" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(doctor, "HINTS", (bad,))
    assert doctor.main() == 0 and "note: it is broken" in capsys.readouterr().out
