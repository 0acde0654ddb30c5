"""The rules of the house: what may import what, how long things are, what a notebook looks like, which names are promised."""
import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

import xmodal.companions
from xmodal.config import HOME

OWN = ("xmodal", "data_scripts", "figures", "tests")
NETWORK = {"urllib", "urllib3", "http", "ftplib", "socket", "requests", "httpx", "aiohttp", "boto3", "botocore", "s3fs", "pooch",
           "idc_index", "huggingface_hub"}
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))
FINISHED = [path for path in NOTEBOOKS if path.stem != "_template"]


def tracked():
    """The text files of the project: what git tracks, or without git all but what is made."""
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files"], cwd=HOME, capture_output=True, text=True)
    made = {".venv", ".uv", ".git", ".snakemake", "build", "data", "runs", "__pycache__", ".pytest_cache"}
    paths = ([HOME / name for name in listed.stdout.splitlines()] if listed.returncode == 0 else
             [p for p in HOME.rglob("*") if not made & set(p.relative_to(HOME).parts)])
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:4096]]


PYTHON = [p for p in tracked() if p.suffix == ".py"]
name_of = lambda path: str(path.relative_to(HOME))


def imports(tree):
    """Every module that a syntax tree imports, also inside functions, as (level, dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
            if not node.module or node.module == "xmodal":
                yield from ((node.level, ".".join(filter(None, (node.module, alias.name)))) for alias in node.names)


# ---- rooms -------------------------------------------------------------------------------------------------------

WINGS = ("runtime", "metrics", "imaging", "baselines", "tables", "companions")


def mapped(package):
    """The rooms that the docstring of a package lists, in order; "runtime/" names a wing."""
    return [name.rstrip("/") for name in re.findall(r"^    (\w+/?) {1,}\S", package.__doc__, re.M)]


def rooms():
    """Every room of xmodal in the order of the maps: "config", "runtime.files", ..., a wing's own __init__ after its rooms."""
    order = []
    for name in mapped(xmodal):
        if name in WINGS:
            wing = importlib.import_module(f"xmodal.{name}")
            order += [f"{name}.{room}" for room in mapped(wing)]
        order.append(name)
    return order


def imported_rooms(path, package):
    """Absolute names of the modules of this project that a file imports, also inside functions."""
    for level, name in imports(ast.parse(path.read_text())):
        if not name:
            continue  # `from . import x` names x in the next turn
        base = package.split(".")[:len(package.split(".")) - level + 1] if level else []
        yield ".".join([*base, *filter(None, name.split("."))])


ROOMS = rooms()


@pytest.mark.parametrize("name", ["xmodal", *(f"xmodal.{wing}" for wing in WINGS)])
def test_the_map_names_every_room(name):
    package = importlib.import_module(name)
    folder = Path(package.__file__).parent
    present = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    assert present - {"__init__"} == set(mapped(package)), f"the docstring of {name}/__init__.py is the map"


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_imports_only_from_those_above_it(room):
    path = HOME.joinpath("xmodal", *room.split("."))
    package = f"xmodal.{room}" if path.is_dir() else f"xmodal.{room}".rpartition(".")[0]
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for name in imported_rooms(path, package):
        assert name.split(".")[0] not in ("data_scripts", "figures", "notebooks", "tests"), f"{room} imports {name}"
        inside = name.removeprefix("xmodal.") if name.startswith("xmodal.") else ""
        above = [r for r in ROOMS if inside == r or inside.startswith(f"{r}.")]
        if above:
            assert ROOMS.index(max(above, key=len)) < ROOMS.index(room), f"{room} imports {inside}, which stands below it"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_files_and_functions_are_short_and_catch_by_name(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400, "a file that long is two things"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 50, f"{node.name} has more than 50 lines"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
            swallowed = isinstance(node.body[0], ast.Pass) and getattr(node.type, "id", "") in ("Exception", "BaseException")
            assert not swallowed, f"an exception is lost in line {node.lineno}"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_only_data_scripts_may_use_the_network_and_nobody_pickles(path):
    found = {name.split(".")[0] for level, name in imports(ast.parse(path.read_text())) if not level}
    assert not found & {"pickle", "joblib", "dill", "shelve"}
    if path.parent.name != "data_scripts":
        assert not found & NETWORK


def test_notebooks_and_snakefile_do_not_use_the_network():
    for path in NOTEBOOKS + [HOME / "Snakefile"]:
        used = set(re.findall(r"(?:import|from) (\w+)", path.read_text())) & NETWORK
        assert not used, f"{path.name} imports {used}"


def test_no_machine_and_no_package_index_is_named():
    hosts = "|".join(("pypi", "pythonhosted", "anaconda", "docker", "quay", "ghcr", "nvcr"))
    index = re.compile(rf"\b[\w.-]*(?:{hosts})\.(?:org|com|io)\b|--(?:extra-)?index-url \S")
    machine = re.compile(r"(?<![\w.:/])/(?:work|root|Users|opt|tmp|mnt|home/(?!jovyan))/?[\w-]*")
    for path in tracked():
        if path == HOME / "tests" / "test_house.py":
            continue
        text = path.read_text(errors="replace")
        for pattern in (index, machine):
            assert not (hit := pattern.search(text)), f"{name_of(path)}: {hit and hit.group()}"


# ---- promised names ----------------------------------------------------------------------------------------------

PROMISED = {
    "xmodal.stats": {
        "auc": "y, p", "delong": "y, p, q", "bootstrap": "metric, y, p, groups=None, n=1000, seed=42",
        "mcnemar": "y, a, b, exact=False, correction=True", "ece": "y, p, bins=15", "net_benefit": "y, p, thresholds",
        "kappa": "a, b, weights=None", "youden": "y, p", "concordance": "time, event, risk", "obuchowski_rockette": "frame",
        "froc_score": "fp_probs, tp_probs, lesions, images"},
    "xmodal.losses": {
        "info_nce": "z_m, z_p, ids_m, ids_p, tau=0.07, symmetric=False", "irm_penalty": "logits, y", "ordinal": "score, cutpoints, y",
        "dice_ce": "logits, mask, ce_weight=0.5", "set_cross_entropy": "logits, allowed", "Uncertainty": "tasks"},
    "xmodal.model": {"build": "profile", "adapter_share": "model"},
    "xmodal.adapt": {"adapt": "model, batches, how='causal'", "reset": "model"},
    "xmodal.cohort": {"load": "path", "leave_one_out": "table, held_out, seed"},
    **{f"data_scripts.{name}": {"index": "root", "fetch": "root, limit=None, dry_run=False"}
       for name in ("cbis_ddsm", "inbreast", "bach", "camelyon", "tcga", "busi")}}


@pytest.mark.parametrize("module, name", [(m, n) for m, names in PROMISED.items() for n in names])
def test_promised_names_have_their_signature(module, name):
    """The promised parameters come first, with the promised defaults; what follows must be optional."""
    found = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters.values())
    promised = list(inspect.signature(eval(f"lambda {PROMISED[module][name]}: 0")).parameters.values())
    assert [(p.name, p.default) for p in found[:len(promised)]] == [(p.name, p.default) for p in promised]
    optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    assert all(p.default is not p.empty or p.kind in optional for p in found[len(promised):])
    assert getattr(importlib.import_module(module), name).__doc__, "shapes, units, errors and source stand in the docstring"


def test_both_profiles_are_there():
    from xmodal.config import PROFILES
    assert PROFILES["lesson"].phantom and not PROFILES["paper"].phantom


# ---- doors -------------------------------------------------------------------------------------------------------

def calls(path, name):
    """How often a file calls a function of this name."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return sum(isinstance(n, ast.Call) and getattr(n.func, "attr", getattr(n.func, "id", "")) == name for n in nodes)


def test_the_cohort_door_is_checked_on_both_sides():
    for path in [HOME / "data_scripts" / f"{name}.py" for name in ("cbis_ddsm", "inbreast", "bach", "camelyon")]:
        assert calls(path, "validate"), f"{path.name} does not check its index"
    assert calls(HOME / "xmodal" / "preprocess.py", "validate"), "what is written is checked; test_cohort holds the reading"


def test_the_predictions_door_is_checked_on_both_sides(home):
    """save_run refuses (test_record); load_run refuses too, also where every checksum is right."""
    from test_record import predictions, write

    from xmodal import record
    from xmodal.runtime import checkpoints
    folder = write()
    predictions().assign(p0=2.0).to_parquet(folder / "predictions.parquet")
    checkpoints.finish(folder, {}, unchanged=record.FILES)
    with pytest.raises(record.Problem, match="p0"):
        record.load_run(folder)


# ---- notebooks ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_have_the_rhythm_of_the_house(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert path.stat().st_size < 1_000_000
    tagged = [c for c in book.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"[A-Z_]+: (int|float|str|bool|list) = [^=]+  # [^=]+", line), f"a parameter is NAME: type = default  # help; not {line!r}"
    assert book.cells[0].cell_type == "markdown" and book.cells[-1].cell_type == "markdown"
    in_a_row = 0
    for cell in (c for c in book.cells if c not in tagged):
        in_a_row = in_a_row + 1 if cell.cell_type == "code" else 0
        assert in_a_row <= 2, f"words come before code: {cell.source.splitlines()[:1]}"
        assert cell.cell_type != "code" or len(cell.source.splitlines()) <= 15, cell.source.splitlines()[0]


@pytest.mark.parametrize("path", FINISHED, ids=name_of)
def test_notebooks_are_committed_executed_without_traces_of_the_machine(path):
    book = nbformat.read(path, 4)
    code = [c for c in book.cells if c.cell_type == "code" and c.source.strip()]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    assert any(c.outputs for c in code)
    assert not any(o.output_type == "error" for c in code for o in c.outputs)
    assert "papermill" not in book.metadata and not any({"papermill", "execution"} & set(c.metadata) for c in book.cells)


# ---- what is said outside the code -------------------------------------------------------------------------------

def targets():
    return set(re.findall(r"^([a-z]+):", (HOME / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("name", ["README.md", "PAPER.md", "figures/README.md", "Dockerfile", "environment.yml", ".ci/run"])
def test_quoted_make_targets_exist(name):
    if not (HOME / name).exists():
        pytest.skip("not there")
    quoted = re.findall(r"(?:`|&& |exec |^ *)make ([a-z]+)", (HOME / name).read_text(), re.M)
    assert set(quoted) <= targets()


def test_every_make_target_explains_itself():
    told = subprocess.run(["make", "-s"], cwd=HOME, capture_output=True, text=True).stdout
    assert {f"make {t}" for t in targets()} == set(re.findall(r"^make \w+", told, re.M))


def test_one_python_everywhere():
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.12"
    assert "- python=3.11\n" in (HOME / "environment.yml").read_text()
    assert "--python-version 3.11 " in (HOME / "Makefile").read_text()
    assert "--python-version 3.11 " in (HOME / "requirements.lock").read_text()[:500]


def test_the_lock_pins_every_requirement_with_a_hash():
    lock = (HOME / "requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+) (.)$", lock, re.M)
    assert all(end == "\\" for *_, end in pins), "a pin without a hash"
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    wanted = {normal(Requirement(r).name) for r in project["dependencies"] + project["optional-dependencies"]["test"]}
    assert wanted <= {normal(name) for name, *_ in pins}
    import yaml
    conda = yaml.safe_load((HOME / "environment.yml").read_text())["dependencies"]
    named = {normal(re.split("[=<>]", d)[0]) for d in conda} - {"python"}
    assert not named & {normal(name) for name, *_ in pins} - {"pip"}, "packages of the lock are pinned there only"


# ---- licences ----------------------------------------------------------------------------------------------------

CHOSEN = {"docutils": "public domain and BSD; the GPL part is an Emacs mode, which the wheel does not hold"}
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()


def runtime():
    """The distributions that the run-time dependencies bring, by following what is installed."""
    waiting = [Requirement(r) for r in tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["dependencies"]]
    found, seen = {}, set()
    while waiting:
        want = waiting.pop()
        if (key := (normal(want.name), frozenset(want.extras))) in seen:
            continue
        seen.add(key)
        try:
            found[key[0]] = importlib.metadata.distribution(want.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for line in found[key[0]].requires or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *want.extras)):
                waiting.append(need)
    return found


def licence(dist):
    """Everything a distribution says about its licence; where it says nothing, the heads of its licence files."""
    about = dist.metadata
    said = [about.get("License-Expression") or "", (about.get("License") or "")[:200],
            *(c for c in about.get_all("Classifier", []) if c.startswith("License ::"))]
    if any(said):
        return " ".join(said)
    files = [f for f in dist.files or [] if re.match(r"(?i)licen[cs]e|copying", f.name)]
    return " ".join(f.read_text()[:200] for f in files)


def is_gpl(text):
    text = re.sub(r"\([^()]*\bOR\b[^()]*\)", "", text)  # one may choose
    text = re.sub(r"(?i)lesser general public|library general public|LGPL[\w.-]*", "", text)
    return bool(re.search(r"(?i)\bA?GPL|general public licen[cs]e", text))


def test_gpl_is_recognised():
    assert is_gpl("GPL-3.0-only") and is_gpl("License :: OSI Approved :: GNU General Public License v3 (GPLv3)") and is_gpl("AGPL-3.0")
    assert not is_gpl("LGPL-2.1-only AND (BSD-3-Clause OR GPL-2.0-only)") and not is_gpl("GNU Lesser General Public License v3 (LGPLv3)")


def test_runtime_dependencies_are_not_gpl():
    found = runtime()
    assert len(found) > 100 and "torch" in found
    offenders = {name: licence(d) for name, d in found.items() if is_gpl(licence(d)) and name not in CHOSEN}
    assert not offenders, offenders


def test_the_licence_is_the_whole_apache_licence():
    text = (HOME / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"] and "END OF TERMS AND CONDITIONS" in text and len(text.splitlines()) == 202
