"""notebook: parameters are checked, failures are one sentence, copies are whole; and the graph of the main
job holds together.

The notebooks themselves are executed by `make test` through nbval, beside these tests.
"""
import os
import re
import shlex
import subprocess
import sys

import nbformat
import pytest

from xmodal import config, methods
from xmodal.runtime import engine, notebook, parameters

PARAMETERS = '''SEED: int = 42  # of everything
HELD_OUT: str = "bach"  # domain
RATE: float = 0.5  # a rate
PLACE: str = ""  # where
FAST: bool = False  # or not
SEEDS: list = [42, 1234]  # several'''


def write(path, *cells, head=PARAMETERS):
    """A small notebook with a parameter cell (unless empty) and `cells`."""
    v4 = nbformat.v4
    first = [v4.new_code_cell(head, metadata={"tags": ["parameters"]})] if head else []
    spec = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [v4.new_markdown_cell("# A notebook"), *first, *map(v4.new_code_cell, cells)]
    nbformat.write(v4.new_notebook(cells=cells, metadata=spec), path)
    return path


def outputs(path):
    return "".join(o.get("text", "") for c in nbformat.read(path, 4).cells for o in c.get("outputs", []))


# ---- parameters --------------------------------------------------------------------------------------------

def test_parameters_that_fit_pass(tmp_path):
    given = parameters.parse(["SEED=7", "HELD_OUT=camelyon", "RATE=1", "FAST=true", "SEEDS=[1, 2]"])
    assert given == {"SEED": 7, "HELD_OUT": "camelyon", "RATE": 1, "FAST": True, "SEEDS": [1, 2]}
    assert parameters.check_parameters(write(tmp_path / "a.ipynb"), given) == given


@pytest.mark.parametrize("text, value", [
    ("0042", 42), ("-7", -7), ("0x1F", 31), ("1:30", "1:30"), ("1_000", "1_000"), ("no", "no"), ("on", "on"),
    ("true", True), ("1e-3", 0.001), ("1.5", 1.5), ("2024-01-01", "2024-01-01"), ("~", None), ("=", "="),
    ("[007, 1:30]", [7, "1:30"])])
def test_values_are_yaml_1_2(text, value):
    given = parameters.parse([f"A={text}"])["A"]
    assert (given, type(given)) == (value, type(value))


def test_a_parameter_that_is_given_twice_is_refused():
    with pytest.raises(config.Problem, match="SEED is given twice, last as 'SEED=2'; give it once"):
        parameters.parse(["SEED=1", "SEED=2"])


def test_nothing_of_the_users_own_reaches_a_kernel(monkeypatch, tmp_path):
    for name in ("JUPYTER_PATH", "MPLBACKEND", "PYTHONSTARTUP", "IPYTHONDIR", "MATPLOTLIBRC"):
        monkeypatch.setenv(name, str(tmp_path))
    before = dict(os.environ)
    with notebook.environment():
        assert not {"JUPYTER_PATH", "MPLBACKEND", "PYTHONSTARTUP"} & set(os.environ)
        assert os.listdir(os.environ["IPYTHONDIR"]) == []
        assert os.environ["MATPLOTLIBRC"].endswith("mpl-data/matplotlibrc")
        assert os.path.isfile(os.environ["MATPLOTLIBRC"])
    assert dict(os.environ) == before


@pytest.mark.parametrize("word, says", [
    ("SEED=1:30", "is no int"), ("FAST=yes", "is no bool"), ("SEED=!!int x", "not YAML"),
    ("SED=42", "no parameter 'SED'; it has SEED, HELD_OUT, RATE, PLACE, FAST, SEEDS"),
    ("seed=42", "no parameter 'seed'"),
    ("SEED=forty", "is no int"), ("SEED=1.5", "is no int"), ("SEED=true", "is no int"),
    ("SEED=", "is no int"), ("HELD_OUT=3", "is no str"), ("RATE=fast", "is no float"),
    ("RATE=false", "is no float"),
    ("FAST=1", "is no bool"), ("SEEDS=42", "is no list"),
    ("SEED", "write NAME=VALUE"), ("SEEDS=[1", "not YAML"),
    ("SEED=-1", "give a whole number from 0 to"), ("SEEDS=[7, -1]", "SEEDS is -1"),
    ("SEEDS=[a]", "no whole number"),
    ("HELD_OUT=bahc", "there is no 'bahc'; choose from cbis_ddsm, inbreast, bach, camelyon, all")])
def test_unknown_and_mistyped_parameters_exit_2_with_one_sentence(tmp_path, capsys, word, says):
    out = tmp_path / "out" / "a.ipynb"
    assert notebook.main([str(write(tmp_path / "a.ipynb")), str(out), word]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not out.parent.exists(), "nothing is written"


def test_notebooks_that_take_nothing_or_are_none_are_refused(tmp_path, capsys):
    assert notebook.main([str(tmp_path / "none.ipynb"), "out.ipynb"]) == 2
    assert "There is no notebook" in capsys.readouterr().err
    assert notebook.main([str(write(tmp_path / "a.ipynb", head="")), "out.ipynb", "SEED=42"]) == 2
    assert 'no cell tagged "parameters"' in capsys.readouterr().err
    (tmp_path / "b.ipynb").write_text("{")
    assert notebook.main([str(tmp_path / "b.ipynb"), "out.ipynb"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert notebook.main(["a.ipynb"]) == 2


def test_a_notebook_in_place_takes_no_parameters(tmp_path, capsys):
    path = write(tmp_path / "a.ipynb")
    before = path.read_bytes()
    assert notebook.main([str(path), str(path), "SEED=1"]) == 2 and path.read_bytes() == before


def test_help_lists_the_parameters_and_executes_nothing(tmp_path, capsys):
    path = write(tmp_path / "a.ipynb", "raise SystemExit")
    for arguments in ([str(path), "--help"], [str(path), str(tmp_path / "out.ipynb"), "-h"]):
        assert notebook.main(arguments) == 0
        assert "    RATE: float = 0.5  a rate\n" in capsys.readouterr().out
    assert notebook.main(["--help"]) == 0 and "usage" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


def test_a_copy_that_nobody_names_is_named_after_its_parameters(home, capsys):
    path = write(home / "a.ipynb", head=PARAMETERS + '\nPROFILE: str = "lesson"  # which')
    out, given = notebook.prepared(str(path), ["SEED=7", "HELD_OUT=camelyon", "PLACE=/x y/z"])
    assert out == home / "runs" / "lesson" / "by_hand" / "a_SEED=7_HELD_OUT=camelyon_PLACE=-x-y-z.ipynb"
    assert given["SEED"] == 7 and str(out) in capsys.readouterr().out
    out, _ = notebook.prepared(str(path), ["PROFILE=paper"])
    assert out == home / "runs" / "paper" / "by_hand" / "a.ipynb"
    assert notebook.prepared(str(path), ["b/SEED=1.ipynb", "SEED=1"]) == ("b/SEED=1.ipynb", {"SEED": 1})


# ---- a notebook that papermill itself executes -------------------------------------------------------------

def test_every_notebook_checks_its_parameters_in_its_first_cell():
    for path in (config.HOME / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert cells[0].metadata.tags == ["parameters"], path.name
        assert "parameters.check(globals())" in cells[1].source, path.name


def papermill(tmp_path, *arguments):
    """Exit status and what plain papermill prints of a notebook that checks its parameters, with these."""
    cell = "from xmodal.runtime import parameters\nparameters.check(globals())"
    path = write(tmp_path / "a.ipynb", cell)
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(config.HOME)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr


def test_plain_papermill_refuses_a_misspelt_name_in_one_sentence(tmp_path):
    status, printed = papermill(tmp_path, "-p", "SEDD", "1234")
    assert status == 1 and "Problem: This notebook has no parameter 'SEDD'; it has SEED, HELD_OUT," in printed


def test_plain_papermill_passes_parameters_that_fit(tmp_path):
    assert papermill(tmp_path, "-p", "SEED", "1234", "-p", "HELD_OUT", "camelyon")[0] == 0


INJECTED = "# Parameters\nSEED = 1\n"


@pytest.mark.parametrize("names, says", [
    ({"SEED": 1.5}, "SEED is 1.5, which is no int"), ({"SEED": -1}, "SEED is -1"),
    ({"HELD_OUT": "bahc"}, "there is no 'bahc'"),
    ({"In": ["", INJECTED + "SEDD = 2"]}, "no parameter 'SEDD'")])
def test_the_first_cell_refuses_what_does_not_fit(names, says):
    running = {"__annotations__": {"SEED": int, "HELD_OUT": str}, "SEED": 1, "HELD_OUT": "bach",
               "In": ["", INJECTED, "OWN = 3"]}
    parameters.check(running)
    with pytest.raises(config.Problem, match=says):
        parameters.check(running | names)


@pytest.mark.parametrize("name, value", [
    ("N_BOOTSTRAP", 0), ("FETCH", ["bahc"]), ("METHODS", "ours,erms"), ("METHOD", "all"),
    ("PROFILE", "leson"), ("SEED", 2**32), ("WORKERS", 0)])
def test_values_that_no_notebook_can_work_with_are_refused(name, value):
    with pytest.raises(config.Problem, match="choose|give"):
        parameters.check_value(name, value)


@pytest.mark.parametrize("name, value", [
    ("FETCH", []), ("METHODS", "ours, erm"), ("METHODS", "all"), ("METHODS", "late_fusion"), ("SEED", 0),
    ("HELD_OUT", "all"), ("ROOT", "anything")])
def test_values_that_fit_pass(name, value):
    parameters.check_value(name, value)


# ---- execution ---------------------------------------------------------------------------------------------

def test_a_notebook_runs_from_the_root_with_its_parameters_and_finds_the_module(tmp_path):
    cell = "import os, xmodal.config as c\nprint(SEED, PLACE, SEEDS, os.getcwd() == str(c.HOME), c.ROOT)"
    out = tmp_path / "deep" / "out.ipynb"
    path = write(tmp_path / "a.ipynb", cell)
    command = [sys.executable, "-m", "xmodal.runtime.notebook", str(path), str(out), "SEED=7", "PLACE=x y",
               "SEEDS=[1]"]
    # a user's own kernel of the same name is not taken
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["false"], "display_name": "Python 3", "language": "python"}')
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "JUPYTER_PREFER_ENV_PATH")}
    plan = tmp_path / "plan.json"
    engine.plan(plan, {str(out): 1, "another.ipynb": 1})
    environment |= {"XMODAL_HOME": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
                    "XMODAL_PLAN": str(plan)}
    done = subprocess.run(command, cwd=config.HOME, env=environment, capture_output=True, text=True)
    # on a busy machine the kernel logs its own end
    errors = [line for line in done.stderr.splitlines() if "[IPKernelApp]" not in line]
    assert (done.returncode, errors) == (0, []), done.stderr
    assert done.stdout.endswith(" s; 1 of 2 steps, about 1 min left\n"), "how far the run is"
    assert outputs(out).split("\n")[0] == f"7 x y [1] True {tmp_path}"
    assert [p.name for p in out.parent.iterdir()] == ["out.ipynb"]


@pytest.mark.parametrize("cell, says", [
    ("from xmodal.config import Problem\nraise Problem('The run X is damaged; delete it.')",
     "The run X is damaged; delete it.\n"),
    ("print('before'); {}['a']", "KeyError: 'a' (the executed cells are in {partial})\n"),
    ("import os; os._exit(9)",
     "The kernel of a.ipynb died, most likely for want of memory (the executed cells are in {partial}).\n")])
def test_a_failure_is_one_sentence_exit_1_and_leaves_the_partial_copy(tmp_path, capsys, cell, says):
    out = tmp_path / "out" / "a.ipynb"
    partial = tmp_path / "out" / "a.partial.ipynb"
    assert notebook.main([str(write(tmp_path / "a.ipynb", "print('ran')", cell)), str(out)]) == 1
    assert capsys.readouterr().err == says.format(partial=partial)
    assert not out.exists() and "ran" in outputs(partial)


def test_the_line_for_a_log_is_the_last_that_the_cell_tagged_result_prints(tmp_path):
    book = nbformat.read(write(tmp_path / "a.ipynb", "a", "b"), 4)
    assert notebook.result(book) == ""
    printed = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in (
        ("stdout", "first\n"), ("stderr", "a warning\n"), ("stdout", "trained erm, 0.79\n"))]
    book.cells[-1].update(outputs=printed, metadata={"tags": ["result"]})
    assert notebook.result(book) == "trained erm, 0.79"


def test_in_place_execution_keeps_what_readers_see_and_drops_what_changes(tmp_path):
    path = write(tmp_path / "a.ipynb", "print(SEED)")
    assert notebook.main([str(path), str(path)]) == 0
    first = path.read_bytes()
    for trace in ("papermill", "start_time", "duration", str(tmp_path)):
        assert trace not in path.read_text()
    cells = nbformat.read(path, 4).cells
    assert [c.execution_count for c in cells[1:]] == [1, 2] and cells[1].metadata.tags == ["parameters"]
    assert outputs(path) == "42\n"
    assert notebook.main([str(path), str(path)]) == 0
    assert path.read_bytes() == first, "a second time changes no byte"


# ---- the graph of the main job -----------------------------------------------------------------------------

def dry_run(*settings):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--nolock",
               "--config", *settings]
    environment = os.environ | {"PYTHONPATH": str(config.HOME)}
    return subprocess.run(command, cwd=config.HOME, capture_output=True, text=True, env=environment)


def test_the_graph_trains_every_method_on_every_fold_and_seed(home):
    names = ["00_start_here", "01_download", "02_preprocess", "02b_pretrain", "03_train", "03b_baselines",
             "04_tta", "05_evaluate", "06_interpret"]
    missing = [n for n in names if not (config.HOME / "notebooks" / f"{n}.ipynb").exists()]
    assert not missing, f"these notebooks are named in the Snakefile and are not there: {missing}"
    done = dry_run("profile=lesson")
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", printed, re.M))
    jobs = {"train": "12", "baselines": "2", "tta": "3", "evaluate": "1", "start": "1"}
    assert jobs.items() <= counts.items()
    for method in methods.METHODS:
        folder = home / "runs" / "lesson" / method / "camelyon" / "seed_1234"
        assert str(folder / "done") in printed, method


def test_paths_with_spaces_are_single_arguments(tmp_path):
    home = tmp_path / "my results"
    environment = os.environ | {"PYTHONPATH": str(config.HOME), "XMODAL_HOME": str(home)}
    command = [sys.executable, "-m", "snakemake", "companions", "--dry-run", "-p", "--cores", "1", "--nolock"]
    done = subprocess.run(command, cwd=config.HOME, capture_output=True, text=True, env=environment)
    printed = (done.stdout + done.stderr).splitlines()
    lines = [line for line in printed if "-m xmodal.runtime.notebook" in line]
    copies = {shlex.split(line.partition("-m xmodal.runtime.notebook")[2])[1] for line in lines}
    assert str(home / "runs" / "lesson" / "notebooks" / "11_kmat.ipynb") in copies


def test_the_graph_refuses_an_unknown_profile(home):
    done = dry_run("profile=leson")
    assert done.returncode != 0 and "choose one of lesson, pilot, paper" in done.stdout + done.stderr
