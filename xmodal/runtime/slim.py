"""Takes out of an environment what only a graphics card needs: `python slim.py .venv`, as `make env` does.

For Linux the package index has one build of torch, for CUDA. It does not load without NVIDIA's libraries: 3
GB, of which nothing is called without a card. They are in requirements-gpu.lock and not installed here: a
small library takes their names, and its functions return an error. Left out too are the kernels in
libtorch_cuda.so (a hole in the file), torch's headers, and symbol tables that only linkers and debuggers
read. Code that runs on a processor stays as it is. Where torch was not built for CUDA (macOS), nothing is
done.

It needs cc, nm, readelf and strip, and no package. The exit status is 1, with a sentence, where the result
does not load.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SYMBOLS = re.compile(r" U ((?:cu|nccl|nv)\w+)(?:@(\S+))?")
NEEDED = re.compile(r"\(NEEDED\).*\[(lib(?:cu|nccl|nv)\S+)\]")
# what torch loads or reads only for a card, or to compile for it
GPU_ONLY = ("lib/libtorch_cuda_linalg.so", "lib/libcaffe2_nvrtc.so", "include", "bin/protoc*")
EMPTY = "libwithout_cuda.so"
SOURCE = """static long status(void) { return 1; }
static const char *text(void) { return "this environment is without CUDA; run `make env GPU=1`"; }
"""
LOADS = """import numpy, scipy.linalg, torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
assert torchvision.ops.nms(boxes, torch.ones(1), 0.5).tolist() == [0] and not torch.cuda.is_available()
"""
WORTH = 2**17   # bytes; a library that would lose less by `strip` stays as it is


def output(*command):
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def missing_names(libraries, present):
    """The file names of NVIDIA's libraries that `libraries` want and `present` (a set of names) lacks."""
    names = set()
    for path in libraries:
        names |= set(NEEDED.findall(output("readelf", "-dW", path)))
    return names - present


def missing_functions(libraries, present):
    """{version: names} of the functions of NVIDIA that `libraries` call and the files `present` lack.

    A library such as libcublas.so.13 gives its functions a version of that name; some give none ("").
    """
    defined = set()
    for path in present:
        defined |= set(re.findall(r" [A-Z] (\w+)@", output("nm", "-D", "--defined-only", path)))
    functions = {}
    for path in libraries:
        for name, version in SYMBOLS.findall(output("nm", "-D", "--undefined-only", path)):
            if name not in defined:
                functions.setdefault(version, set()).add(name)
    return functions


def write_empty(folder, functions):
    """Compiles the library EMPTY into `folder`; its `functions` return an error, or a sentence."""
    source = [SOURCE]
    script = []
    for version, names in sorted(functions.items()):
        for name in sorted(names):
            target = "text" if "String" in name else "status"
            source.append(f'void {name}(void) __attribute__((alias("{target}")));\n')
        if version:
            script.append(f"{version} {{ global: {'; '.join(sorted(names))}; }};\n")
    with tempfile.TemporaryDirectory() as work:
        Path(work, "empty.c").write_text("".join(source))
        Path(work, "versions").write_text("".join(script))
        linker = f"-Wl,-soname,{EMPTY}"
        if script:
            linker += f",--version-script={work}/versions"
        output("cc", "-w", "-shared", "-fPIC", linker, f"{work}/empty.c", "-o", f"{work}/{EMPTY}")
        shutil.copy(f"{work}/{EMPTY}", folder / EMPTY)


def without_nvidia(site):
    """Puts the empty library where torch looks for those of NVIDIA that are not installed."""
    folder = site / "torch/lib"
    for path in folder.iterdir():
        if path.is_symlink() or path.name == EMPTY:
            path.unlink()
    libraries = sorted(folder.glob("*.so"))
    installed = sorted(site.glob("nvidia/**/*.so*"))
    functions = missing_functions(libraries, installed)
    names = missing_names(libraries, {path.name for path in installed})
    write_empty(folder, functions)
    for name in names:
        (folder / name).symlink_to(EMPTY)


def replace(path, new):
    """Gives `new` the mode and the place of `path`, whose content other environments may share."""
    shutil.copymode(path, new)
    os.replace(new, path)


def without_kernels(path):
    """Writes a library anew with a hole, which takes no disk, in place of its code for graphics cards."""
    section = re.search(r" \.nv_fatbin +\w+ +\w+ (\w+) (\w+)", output("readelf", "-SW", path))
    start, size = (int(number, 16) for number in section.groups())
    new = path.with_name(f"{path.name}.new")
    content = path.read_bytes()
    with new.open("wb") as file:
        file.write(content[:start])
        file.seek(size, os.SEEK_CUR)
        file.write(content[start + size:])
    replace(path, new)


def is_aligned(path):
    """Whether a library's segments lie in the file where the loader wants them: some that a tool moved into a
    wheel are broken by `strip`."""
    for segment in re.findall(r"^ +LOAD +(0x\w+) (0x\w+) .* (0x\w+)$", output("readelf", "-lW", path), re.M):
        offset, address, alignment = (int(number, 16) for number in segment)
        if (address - offset) % alignment:
            return False
    return True


def without_symbols(path):
    """Writes a library anew without the symbols that loading it does not need, if that saves much."""
    new = path.with_name(f"{path.name}.new")
    output("strip", "--strip-unneeded", "-o", new, path)
    if path.stat().st_size - new.stat().st_size > WORTH and is_aligned(new):
        replace(path, new)
    else:
        new.unlink()


def slim(site):
    """Makes the packages in the folder `site` smaller, as the docstring of this file says."""
    for pattern in GPU_ONLY:
        for path in site.glob(f"torch/{pattern}"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    without_nvidia(site)
    for path in site.rglob("*.so*"):
        if not path.is_symlink() and path.stat().st_size > 2 * WORTH:
            without_symbols(path)
    without_kernels(site / "torch/lib/libtorch_cuda.so")


def main(environment):
    """Makes `environment` smaller and tries it; returns a sentence if that fails."""
    site = next(Path(environment).resolve().glob("lib/python3.*/site-packages"))
    if not (site / "torch/lib/libtorch_cuda.so").exists():
        return None
    try:
        slim(site)
        output(f"{environment}/bin/python", "-W", "error", "-c", LOADS)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        return f"torch cannot be had without CUDA here ({reason.strip().splitlines()[-1]})"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
