"""slim: what stands in for NVIDIA's libraries loads, answers with an error, and harms nothing else."""
import ctypes
import importlib
import shutil
import subprocess
import sys

import pytest

from xmodal.runtime import slim

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is taken out")
CALLER = """extern int cufakeMake(void);
extern const char *ncclGetErrorString(int);
int make(void) { return cufakeMake(); }
const char *why(void) { return ncclGetErrorString(1); }
"""


def compiled(folder, name, source, *options):
    (folder / f"{name}.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", folder / f"{name}.c", "-o", folder / name, *options]
    subprocess.run(command, check=True)


@pytest.fixture
def site(tmp_path):
    """A folder of packages in which torch/lib/libuser.so wants libcufake.so.1, which is not installed (torch,
    loaded by other tests, has brought the real names)."""
    folder = tmp_path / "torch/lib"
    folder.mkdir(parents=True)
    (tmp_path / "versions").write_text("libcufake.so.1 { global: cufakeMake; };")
    real = "int cufakeMake(void) { return 0; } const char *ncclGetErrorString(int e) { return 0; }"
    linker = f"-Wl,--version-script={tmp_path}/versions,-soname,libcufake.so.1"
    compiled(tmp_path, "libcufake.so.1", real, linker)
    compiled(folder, "libuser.so", CALLER, f"{tmp_path}/libcufake.so.1", "-Wl,-rpath,$ORIGIN")
    return tmp_path


def test_a_library_that_is_not_installed_answers_with_an_error(site):
    with pytest.raises(OSError, match="libcufake"):
        ctypes.CDLL(str(site / "torch/lib/libuser.so"))
    for _ in range(2):   # again, as after a package has changed
        slim.without_nvidia(site)
    user = ctypes.CDLL(str(site / "torch/lib/libuser.so"))
    user.why.restype = ctypes.c_char_p
    assert user.make() == 1 and b"make env GPU=1" in user.why()


def test_a_library_that_is_installed_stays(site):
    (site / "nvidia/lib").mkdir(parents=True)
    shutil.move(site / "libcufake.so.1", site / "nvidia/lib/libcufake.so.1")
    slim.without_nvidia(site)
    assert [path.name for path in (site / "torch/lib").glob("libcu*")] == []


def test_symbols_go_and_other_environments_keep_their_file(site, monkeypatch):
    path = site / "torch/lib/libuser.so"
    other = site / "shared.so"
    other.hardlink_to(path)
    before = path.read_bytes()
    monkeypatch.setattr(slim, "WORTH", 0)
    slim.without_symbols(path)
    assert other.read_bytes() == before and path.stat().st_size < len(before)
    assert slim.is_aligned(path) and list(path.parent.glob("*.new")) == []


def test_kernels_become_a_hole_and_all_else_stays(tmp_path):
    kernels = '__attribute__((section(".nv_fatbin"))) char kernels[300000] = "kernels"; '
    compiled(tmp_path, "libcards.so", kernels + "int answer(void) { return 42; }")
    path = tmp_path / "libcards.so"
    before = path.read_bytes()
    slim.without_kernels(path)
    after = path.read_bytes()
    start = before.index(b"kernels\0" + bytes(100))
    assert after == before[:start] + bytes(300_000) + before[start + 300_000:]
    assert ctypes.CDLL(str(path)).answer() == 42


def test_what_does_not_load_is_said_in_a_sentence(tmp_path):
    place = tmp_path / "environment/lib/python3.11/site-packages/torch/lib"
    place.mkdir(parents=True)
    assert slim.main(tmp_path / "environment") is None   # torch is not built for CUDA: nothing is done
    (place / "libtorch_cuda.so").write_text("no library")
    assert "cannot be had without CUDA" in slim.main(tmp_path / "environment")


@pytest.mark.parametrize("name", [
    "torchvision.ops", "ot", "xgboost", "lightgbm", "llvmlite.binding", "openTSNE", "imagecodecs",
    "pyarrow.parquet", "skimage.measure", "sklearn.svm", "scipy.optimize", "sksurv.linear_model", "gdcm",
    "openslide", "kiwisolver", "fontTools.ttLib"])
def test_what_was_made_smaller_loads(name):
    importlib.import_module(name)
