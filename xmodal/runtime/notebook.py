"""Runs a notebook with checked parameters: `python -m xmodal.runtime.notebook NOTEBOOK [OUT] NAME=VALUE ...`

Values on the command line are YAML 1.2 (042 is 42, and 1:30, 1_000, no and 2024-01-01 are text). Names, types
and values are checked before a kernel starts (`parameters`); NOTEBOOK --help lists them. Without OUT the copy
lies in runs/<profile>/by_hand/ and is named after the parameters. While it runs, and after a failure, the
executed cells lie beside OUT as <OUT>.partial.ipynb. Where OUT is NOTEBOOK, it is executed in place with its
defaults and without traces of time and machine: so the committed notebooks are made.
"""
import contextlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from .. import config
from ..config import Problem
from .engine import alone, progress
from .files import atomic, writing
from .parameters import check_parameters, parameters, parse

KERNEL = "python3"  # that of this environment, whatever a notebook was last saved with
# OpenBLAS, torch, oneDNN and numpy have code for each kind of processor, which sums in its own way.
# That for AVX2 runs nearly everywhere, so kernels get it where it can run (the Makefile does the same).
AVX2 = {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}


def tidy(notebook):
    """Removes what changes from run to run and machine to machine, and keeps tags, outputs and execution
    counts."""
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        for output in cell.get("outputs", ()):
            # it names a widget that no longer exists
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def _explain(error, partial):
    """The one sentence for an exception that a cell raised."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", error.evalue).strip()
    if error.ename == Problem.__name__:
        return message
    last_line = message.splitlines()[-1] if message else ""
    return f"{error.ename}: {last_line} (the executed cells are in {partial})"


def same_code():
    """Makes kernels run the same code on most machines, unless the user chose otherwise (`AVX2`)."""
    with contextlib.suppress(OSError):
        if re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()):
            for name, value in AVX2.items():
                os.environ.setdefault(name, value)


def run(notebook, out, given):
    """Executes `notebook` from the root of the checkout into `out`. Raises `Problem` for a cell that fails, a
    dead kernel, or a full disk. Another process that is executing into `out` is waited for. Returns `result`.
    """
    import nbformat
    given = check_parameters(notebook, given)
    notebook = Path(notebook).resolve()
    out = Path(out).resolve()
    partial = out.with_suffix(".partial.ipynb")
    with alone(out):
        executed = _execute(notebook, out, partial, given)
        with atomic(out) as temporary:
            nbformat.write(tidy(executed) if out == notebook else executed, temporary)
        partial.unlink(missing_ok=True)
    return result(executed)


def result(executed):
    """What an executed notebook came to, for a log of many: the last line that its cell tagged "result"
    prints; "" where it has none."""
    lines = []
    for cell in executed.cells:
        if "result" in cell.metadata.get("tags", ()):
            texts = [output.text for output in cell.outputs if output.get("name") == "stdout"]
            lines += "".join(texts).strip().splitlines()
    return lines[-1] if lines else ""


def _execute(notebook, out, partial, given):
    """The executed notebook, whose cells lie in `partial` as they end. Raises `Problem` as `run` does."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    quiet = ["--log-level=40"]  # the kernel's own remarks about its sockets
    try:
        with writing(out), environment():
            return papermill.execute_notebook(
                str(notebook), str(partial), given, kernel_name=KERNEL, cwd=str(config.HOME),
                progress_bar=sys.stderr.isatty(), extra_arguments=quiet)
    except papermill.PapermillExecutionError as error:
        raise Problem(_explain(error, partial)) from None
    except (DeadKernelError, CellTimeoutError):
        raise Problem(f"The kernel of {notebook.name} died, most likely for want of memory "
                      f"(the executed cells are in {partial}).") from None
    except (KeyError, RuntimeError) as error:  # a kernel that is not there is a KeyError
        raise Problem(f"The kernel of {notebook.name} does not start ({error}); see what `make doctor` says "
                      "of the environment.") from None


# What of the user's own settings would change how a kernel runs, or which one.
LEFT_OUT = ("JUPYTER_PATH", "MPLBACKEND", "PYTHONSTARTUP")


@contextlib.contextmanager
def environment():
    """For the block, what kernels inherit: the home, this checkout on the path, and this environment's
    kernel.

    The user's own kernels, IPython profile and matplotlibrc are left out: a notebook depends on nothing but
    its inputs and parameters.
    """
    before = dict(os.environ)
    paths = [str(config.HOME)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    matplotlib = importlib.util.find_spec("matplotlib").submodule_search_locations[0]
    with tempfile.TemporaryDirectory(prefix="xmodal-ipython-", ignore_cleanup_errors=True) as profile:
        os.environ.update(
            XMODAL_HOME=str(config.ROOT), PYTHONPATH=os.pathsep.join(paths), JUPYTER_PREFER_ENV_PATH="1",
            IPYTHONDIR=profile, MATPLOTLIBRC=str(Path(matplotlib, "mpl-data", "matplotlibrc")))
        for name in LEFT_OUT:
            os.environ.pop(name, None)
        same_code()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


HELP = {"--help", "-h"}
USAGE = "usage: python -m xmodal.runtime.notebook NOTEBOOK [OUT.ipynb] NAME=VALUE ...\n" \
        "       python -m xmodal.runtime.notebook NOTEBOOK --help     lists the parameters of a notebook"


def usage(path):
    """`USAGE`, and a line for each parameter of the notebook at `path`: type, default, what it is."""
    lines = [USAGE, f"Parameters of {Path(path).name}:"]
    for name, (kind, default, meaning) in parameters(path).items():
        lines.append(f"    {name}: {kind} = {default!r}  {meaning}")
    return "\n".join(lines)


def named_after(notebook, given):
    """The path of an executed copy that nobody named: runs/<profile>/by_hand/03_train_HELD_OUT=bach.ipynb."""
    profile = config.profile(given.get("PROFILE", parameters(notebook)["PROFILE"][1])).name
    settings = [f"{name}={value}" for name, value in given.items() if name != "PROFILE"]
    name = re.sub(r"[^\w=.,-]+", "-", "_".join([Path(notebook).stem, *settings]))
    return config.RUNS / profile / "by_hand" / f"{name[:200]}.ipynb"


def prepared(notebook, rest):
    """(OUT, parameters by name) of the arguments after NOTEBOOK. Raises `Problem` for what does not fit."""
    out = None
    if rest and rest[0].endswith(".ipynb") and not rest[0].partition("=")[0].isidentifier():
        out, *rest = rest
    given = check_parameters(notebook, parse(rest))
    if out is None:
        out = named_after(notebook, given)
        print(f"Executes into {out}", flush=True)
    elif rest and Path(out).resolve() == Path(notebook).resolve():
        raise Problem(f"{notebook} is executed in place with its defaults only; "
                      "name another OUT to pass parameters.")
    return out, given


def main(arguments):
    """The command line; returns the exit status: 2 for a parameter that does not fit, 1 for a notebook that
    fails."""
    logging.disable(logging.WARNING)
    notebook, *rest = arguments or ["--help"]
    try:
        if notebook in HELP:
            print(USAGE)
            return 0 if arguments else 2
        if HELP & set(rest):
            print(usage(notebook))
            return 0
        out, given = prepared(notebook, rest)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2
    began = time.monotonic()
    try:
        came_to = run(notebook, out, given)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    settings = [f"{name}={value}" for name, value in given.items()]
    line = [Path(notebook).stem, *settings, came_to, f"{time.monotonic() - began:.0f} s"]
    how_far = progress(os.environ.get("XMODAL_PLAN", ""), out)
    print("; ".join(filter(None, [", ".join(filter(None, line)), how_far])), flush=True)
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(130)
