"""Runs a notebook with checked parameters: `python -m xmodal.runtime.notebook NOTEBOOK OUT NAME=VALUE ...`

Parameters are the lines `NAME: type = default  # help` of the cell tagged "parameters"; values on the command
line are YAML 1.2 (042 is 42, and 1:30, 1_000, no and 2024-01-01 are text). papermill, which executes the
notebook, only logs an unknown name, so names and types are checked first. While it runs, and after a failure,
the executed cells lie beside OUT as <OUT>.partial.ipynb. Where OUT is NOTEBOOK, it is executed in place with
its defaults and without traces of time and machine: so the committed notebooks are made.
"""
import ast
import contextlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
from pathlib import Path

import yaml

from .. import config
from ..config import Problem
from .engine import alone
from .files import atomic, writing

KERNEL = "python3"  # that of this environment, whatever a notebook was last saved with
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}


def parameters(path):
    """The parameters of a notebook: name -> (type, default). Raises `Problem` for a missing notebook or
    parameter cell."""
    import papermill
    if not Path(path).is_file():
        raise Problem(f"There is no notebook {path}; see notebooks/ for those there are.")
    try:
        known = papermill.inspect_notebook(str(path))
    except Exception as error:  # nbformat and json raise many kinds; each means the same to the reader
        raise Problem(f"The notebook {path} cannot be read ({str(error).splitlines()[0]}); "
                      "take it from git again.") from None
    if not known:
        raise Problem(f"The notebook {path} has no cell tagged \"parameters\", so nothing can be passed to "
                      "it; copy one from notebooks/_template.ipynb.")
    kinds_and_defaults = {}
    for name, parameter in known.items():
        kind = parameter["inferred_type_name"].split("[")[0].strip()
        kinds_and_defaults[name] = kind, ast.literal_eval(parameter["default"])
    return kinds_and_defaults


def _fits(value, kind):
    """True if `value` is of the annotated type; an int is a float, but a bool is no number."""
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    return isinstance(value, (int, float) if kind == "float" else TYPES.get(kind, object))


def check_parameters(path, given):
    """`given` (name -> value) if the notebook knows every name and the types fit; otherwise a `Problem` that
    lists what it knows."""
    known = parameters(path)
    for name, value in given.items():
        if name not in known:
            raise Problem(f"{Path(path).name} has no parameter {name!r}; it has {', '.join(known)}.")
        kind, default = known[name]
        if not _fits(value, kind):
            raise Problem(f"{name}={value!r} is no {kind}, which {Path(path).name} expects; "
                          f"an example is {name}={default!r}.")
    return given


class Values(yaml.SafeLoader):
    """YAML 1.2's core schema. That of YAML 1.1 takes 042 for 34, 1:30 for 90, no for False, and 1e-3 for
    text."""
    yaml_implicit_resolvers = {}

    def whole_number(self, node):
        text = self.construct_scalar(node)
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


SCHEMA = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
              "-+0123456789."),
}
for kind, (pattern, first) in SCHEMA.items():
    Values.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), list(first))
Values.add_constructor("tag:yaml.org,2002:int", Values.whole_number)


def parse(arguments):
    """["SEED=42", ...] -> {"SEED": 42, ...}, the values read as YAML 1.2. Raises `Problem` for a value that
    is none, and for a name that comes twice."""
    given = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier():
            raise Problem(f"{argument!r} is no parameter; write NAME=VALUE.")
        if name in given:
            raise Problem(f"{name} is given twice, last as {argument!r}; give it once.")
        try:
            given[name] = yaml.load(text, Values) if text else ""
        except (yaml.YAMLError, ValueError, RecursionError):
            raise Problem(f"The value of {argument!r} is not YAML; "
                          "put text with special characters in quotes.") from None
    return given


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


def same_sums():
    """Makes kernels sum in the same order on most machines, unless the user chose otherwise.

    OpenBLAS has code for each kind of processor, and each sums in its own order. The code for AVX2 runs
    nearly everywhere, so kernels get it where it can run (the Makefile does the same). torch still chooses by
    the processor.
    """
    with contextlib.suppress(OSError):
        if re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()):
            os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")


def run(notebook, out, given):
    """Executes `notebook` from the root of the checkout into `out`. Raises `Problem` for a cell that fails, a
    dead kernel, or a full disk. Another process that is executing into `out` is waited for."""
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
        same_sums()
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def main(arguments):
    """The command line; returns the exit status: 2 for a parameter that does not fit, 1 for a notebook that
    fails."""
    logging.disable(logging.WARNING)
    if len(arguments) < 2:
        print("usage: python -m xmodal.runtime.notebook NOTEBOOK OUT NAME=VALUE ...", file=sys.stderr)
        return 2
    notebook, out, *rest = arguments
    try:
        given = check_parameters(notebook, parse(rest))
        if rest and Path(out).resolve() == Path(notebook).resolve():
            raise Problem(f"{notebook} is executed in place with its defaults only; "
                          "name another OUT to pass parameters.")
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2
    try:
        run(notebook, out, given)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(130)
