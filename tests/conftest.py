"""What every test shares: nothing is written outside a temporary folder, and one thread gives one answer."""
import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = tempfile.mkdtemp(prefix="xmodal-test-")
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
os.environ.update(XMODAL_HOME=SCRATCH, OMP_NUM_THREADS="1", JUPYTER_PREFER_ENV_PATH="1", MPLBACKEND="agg")
rooms = [path for path in (ROOT / "tests").rglob("*") if path.is_dir() and path.name != "__pycache__"]
sys.path[:0] = [str(ROOT), *map(str, sorted(rooms))]
collect_ignore = ["bench", "container"]

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def logged():
    """Warnings are heard again, whatever a command line that a test ran has silenced in its process."""
    logging.disable(logging.NOTSET)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A fresh home for data/, runs/ and figures/, for one test."""
    from xmodal import config
    monkeypatch.setenv("XMODAL_HOME", str(tmp_path))
    for name in ("DATA", "RUNS", "FIGURES"):
        monkeypatch.setattr(config, name, tmp_path / name.lower())
    monkeypatch.setattr(config, "ROOT", tmp_path)
    return tmp_path
