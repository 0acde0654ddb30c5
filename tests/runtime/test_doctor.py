"""doctor: each fault that a bare machine may have is said in words, with the remedy, and the exit status is
1."""
import importlib
import importlib.metadata
import os
import re
import shutil
import sys
import tomllib
from collections import namedtuple

import pytest
import yaml

from xmodal import config
from xmodal.runtime import doctor


def fails(name, error):
    def import_module(wanted):
        if wanted == name:
            raise error
    return import_module


@pytest.mark.parametrize("check, name, error, says", [
    (doctor.torch, "torchvision", RuntimeError("operator torchvision::nms does not exist"),
     "not of one build"),
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

    def with_cpu_build(name):
        return f"{version(name)}+cpu" if name == "torch" else version(name)
    monkeypatch.setattr(importlib.metadata, "version", with_cpu_build)
    wrong = doctor.packages()
    assert "1 packages differ" in wrong and "torch is" in wrong and "+cpu" in wrong


def test_every_difference_is_named_up_to_twenty_and_the_rest_counted(monkeypatch):
    """As in a bare conda environment: nothing that is locked is there."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    wrong = doctor.packages()
    pinned = len(doctor.pins())
    assert wrong.startswith(f"{pinned} packages differ")
    assert wrong.count(" is 0, not ") == 20 and f"and {pinned - 20} more" in wrong


def test_packages_beyond_the_lock_are_noted(monkeypatch):
    distributions = list(importlib.metadata.distributions())
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: distributions)
    assert "conda-thing" not in (doctor.others() or "")
    distributions.append(namedtuple("distribution", "name version")("conda_thing", "1.2"))
    assert "conda-thing 1.2" in doctor.others()


def test_the_lock_is_read_whole_but_for_other_systems_and_cuda(monkeypatch):
    lines = (config.HOME / "requirements.lock").read_text().splitlines()
    everywhere = [line for line in lines if re.match(r"[a-z]", line) and " ; " not in line]
    pins = doctor.pins()
    assert len(pins) > len(everywhere) > 200
    assert ("xgboost-cpu" in pins) == (sys.platform == "linux") != ("xgboost" in pins)
    assert not {"pywinpty", "colorama"} & set(pins)
    monkeypatch.setattr(doctor, "has_cuda", lambda: True)
    assert ("nvidia-cudnn-cu13" in doctor.pins()) == (sys.platform == "linux")


def test_a_card_that_cannot_be_used_is_noted(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "has_cuda", lambda: False)
    seen = tmp_path / "nvidia-smi"
    seen.write_text("#!/bin/sh\nexit 0\n")
    seen.chmod(0o755)
    assert "make env GPU=1" in doctor.card()
    seen.write_text("#!/bin/sh\nexit 9\n")
    assert doctor.card() is None


def test_environment_yml_leaves_every_version_but_that_of_python_to_the_lock():
    wanted = yaml.safe_load((config.HOME / "environment.yml").read_text())["dependencies"]
    assert not {re.split("[=<>]", name)[0] for name in wanted} & set(doctor.pins())
    minor = "%d.%d" % sys.version_info[:2]
    assert [name for name in wanted if "=" in name] == [f"python={minor}"]
    project = tomllib.loads((config.HOME / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].startswith(f">={minor},")


def test_too_little_disk_and_memory_are_said(monkeypatch, home):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2**30))
    assert "1.0 GiB are free" in doctor.disk() and "XMODAL_HOME" in doctor.disk()
    monkeypatch.setattr(os, "sysconf", lambda name: 2**15)
    assert "1.0 GiB of memory" in doctor.memory()


def test_one_fault_is_exit_status_1_and_a_note_is_not(monkeypatch, capsys):
    def bad(): return "it is broken; mend it"
    monkeypatch.setattr(doctor, "CHECKS", (bad,))
    monkeypatch.setattr(doctor, "HINTS", ())
    assert doctor.main() == 1 and "WRONG: it is broken; mend it" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", ())
    monkeypatch.setattr(doctor, "HINTS", (bad,))
    assert doctor.main() == 0 and "note: it is broken" in capsys.readouterr().out
