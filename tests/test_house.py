"""The rules of the house: what may import what, how a line reads, what nobody does."""
import ast
import functools
import importlib
import re
from pathlib import Path

import pytest
from house import (
    HOME, MODULES, NOTEBOOKS, PYTHON, SOURCE, imported_modules, imports, module_of, name_of, nodes, tracked,
    tree_of,
)

import xmodal

NETWORK = {"urllib", "urllib3", "http", "ftplib", "socket", "requests", "httpx", "aiohttp", "boto3",
           "botocore", "s3fs", "idc_index", "huggingface_hub"}
each_file = pytest.mark.parametrize("path", PYTHON, ids=name_of)
each_source = pytest.mark.parametrize("path", SOURCE, ids=name_of)


# ---- rooms ---------------------------------------------------------------------------------------

WINGS = ("runtime", "metrics", "imaging", "baselines", "tables", "controls", "companions")


def mapped(package):
    """The rooms that the docstring of a package lists, in order; "runtime/" names a wing."""
    names = re.findall(r"^    (\w+/?) +\S", package.__doc__, re.M)
    return [name.rstrip("/") for name in names]


def rooms():
    """Every module of xmodal in the order of the maps; the __init__ of a wing stands after its rooms."""
    order = []
    for name in mapped(xmodal):
        if name in WINGS:
            order += [f"xmodal.{name}.{room}" for room in mapped(importlib.import_module(f"xmodal.{name}"))]
        order.append(f"xmodal.{name}")
    return ["xmodal", *order]


ROOMS = rooms()


@pytest.mark.parametrize("name", ["xmodal", *(f"xmodal.{wing}" for wing in WINGS)])
def test_the_map_names_every_room(name):
    package = importlib.import_module(name)
    folder = Path(package.__file__).parent
    present = {path.stem for path in folder.glob("*.py")}
    present |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert present - {"__init__"} == set(mapped(package)), f"the docstring of {name}/__init__.py is the map"


@pytest.mark.parametrize("path", [path for path in SOURCE if module_of(path) in ROOMS], ids=name_of)
def test_each_room_imports_only_from_those_above_it(path):
    room = module_of(path)
    for module in imported_modules(path):
        assert module in ROOMS, f"{room} imports {module}, which is no room of xmodal"
        assert ROOMS.index(module) < ROOMS.index(room), f"{room} imports {module}, which stands below it"


BELOW = ("xmodal.config", "xmodal.cohort", "xmodal.runtime.files", "xmodal.runtime.bounds", "xmodal.imaging.",
         "xmodal.companions.pictures", "data_scripts")
DATA_SCRIPTS = [path for path in SOURCE if name_of(path).startswith("data_scripts")]


@pytest.mark.parametrize("path", DATA_SCRIPTS, ids=name_of)
def test_data_scripts_stand_below_training_and_the_companions(path):
    for module in imported_modules(path):
        assert module.startswith(BELOW), f"{name_of(path)} imports {module}"


def test_no_imports_go_in_a_circle():
    waits_for = {module_of(path): set(imported_modules(path)) - {module_of(path)} for path in SOURCE}
    before = None
    while len(waits_for) != before:
        before = len(waits_for)
        waits_for = {module: needs for module, needs in waits_for.items() if needs & set(waits_for)}
    assert not waits_for, f"these import each other: {sorted(waits_for)}"


@each_source
def test_nothing_of_the_project_is_imported_inside_a_function(path):
    for function in nodes(path, FUNCTIONS):
        assert not list(imported_modules(path, function)), f"{function.name} hides an import"


@functools.cache
def defined(module):
    """The names that a module of the project defines itself."""
    path = HOME.joinpath(*module.split("."))
    tree = tree_of(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    names = {node.name for node in tree.body if hasattr(node, "name")}
    for node in tree.body:
        bound = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
        names |= {name.id for name in bound if isinstance(name.ctx, ast.Store)}
    return names


@each_source
def test_a_name_is_imported_from_the_room_that_defines_it(path):
    """Only `stats` passes on the names of others."""
    for name in imports(path):
        module, _, attribute = name.rpartition(".")
        if module in MODULES and name not in MODULES and module != "xmodal.stats":
            assert attribute in defined(module), f"{attribute} is not of {module}"


# ---- how a line reads ----------------------------------------------------------------------------

COLUMNS, FUNCTION, FILE, COMPLEXITY, ARGUMENTS = 110, 40, 300, 12, 7
LONG_PROMISES = {"tiles"}  # of imaging.slides: its nine arguments are promised by name
# At most one of these in a statement, and none of these names: they hold nothing that a reader can guess.
SMALL = (ast.Lambda, ast.IfExp, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
EMPTY = {"found", "told", "said", "about", "there", "kept", "one", "words"}
BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def own_expressions(statement):
    """The expressions of a statement without those of the statements inside it."""
    waiting = [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def complexity(function):
    """Cyclomatic complexity: one, and one more for each branch, loop and further term of a condition."""
    branches = sum(isinstance(node, BRANCHES) for node in ast.walk(function))
    conditions = [node for node in ast.walk(function) if isinstance(node, ast.BoolOp)]
    return 1 + branches + sum(len(condition.values) - 1 for condition in conditions)


@each_file
def test_files_and_lines_are_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE, "a file that long is two things"
    long = [number for number, line in enumerate(lines, 1) if len(line) > COLUMNS]
    assert not long, f"lines with more than {COLUMNS} columns: {long}"


@each_file
def test_functions_are_short_and_simple(path):
    for function in nodes(path, FUNCTIONS):
        name, arguments = function.name, function.args
        assert function.end_lineno - function.lineno < FUNCTION, f"{name} has more than {FUNCTION} lines"
        count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
        assert count <= ARGUMENTS or name in LONG_PROMISES, f"{name} has {count} arguments"
        assert complexity(function) <= COMPLEXITY, f"{name} branches {complexity(function)} times"


@each_file
def test_a_statement_holds_one_idea(path):
    for statement in nodes(path, ast.stmt):
        ideas = sum(isinstance(node, SMALL) for node in own_expressions(statement))
        assert ideas <= 1, f"line {statement.lineno} has {ideas} lambdas, comprehensions or conditionals"


@each_file
def test_names_say_what_they_hold(path):
    bound = {node.id for node in nodes(path, ast.Name) if isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes(path, ast.arg)}
    bound |= {node.name for node in nodes(path, FUNCTIONS)}
    assert not bound & EMPTY


@each_file
def test_exceptions_are_caught_by_name_and_not_lost(path):
    for handler in nodes(path, ast.ExceptHandler):
        assert handler.type is not None, f"bare except in line {handler.lineno}"
        everything = getattr(handler.type, "id", "") in ("Exception", "BaseException")
        lost = everything and isinstance(handler.body[0], ast.Pass)
        assert not lost, f"an exception is lost in line {handler.lineno}"


# ---- what nobody does ----------------------------------------------------------------------------

@each_file
def test_only_data_scripts_may_use_the_network_and_nobody_pickles(path):
    used = {name.split(".")[0] for name in imports(path)}
    assert not used & {"pickle", "joblib", "dill", "shelve"}
    if path.parent.name != "data_scripts":
        assert not used & NETWORK


def test_notebooks_and_snakefile_do_not_use_the_network():
    for path in [*NOTEBOOKS, HOME / "Snakefile"]:
        used = set(re.findall(r"(?:import|from) (\w+)", path.read_text())) & NETWORK
        assert not used, f"{path.name} imports {used}"


def test_no_machine_and_no_package_index_is_named():
    hosts = "|".join(("pypi", "pythonhosted", "anaconda", "docker", "quay", "ghcr", "nvcr"))
    index = re.compile(rf"\b[\w.-]*(?:{hosts})\.(?:org|com|io)\b|--(?:extra-)?index-url \S")
    machine = re.compile(r"(?<![\w.:/])/(?:work|root|Users|opt|tmp|mnt|home/(?!jovyan))/?[\w-]*")
    for path in tracked():
        if path == Path(__file__).resolve():
            continue
        text = path.read_text(errors="replace")
        for pattern in (index, machine):
            assert not (hit := pattern.search(text)), f"{name_of(path)}: {hit and hit.group()}"
