"""The code that a result depends on, as {module: hash}: part of the identity of a run, beside its settings.

From a function the names that it uses are followed through the project's modules, as they are written: no
module is imported for it. So a changed loss changes the identity of the trainings, and a changed figure does
not. Comments, docstrings, layout and the sentences of `Problem` do not count. What is called by a name that
is put together while the program runs is not seen.
"""
import ast
import functools
import hashlib
import importlib.util
import json
import logging
import sys
import time
from dataclasses import MISSING, fields
from pathlib import Path
from typing import NamedTuple

from ..config import HOME, Problem, Profile
from ..methods import Method

PACKAGES = ("xmodal", "data_scripts", "figures")
# Their values are recorded as settings, or they only keep and read what was made.
LEFT_OUT = ("xmodal.config.", "xmodal.methods.", "xmodal.runtime.", "xmodal.record.is_done",
            "xmodal.record.load_run", "xmodal.record.save_run", "xmodal.record.update_run",
            "xmodal.record.run_dir")
KINDS = {"profile": Profile, "switches": Method}
CODE = "code of "        # begins the name of a module in a list of differences
WHOLE = "*"              # in place of a name: everything that a module defines
ALWAYS = ""              # in place of a name: the statements that define nothing
LOADED = time.time()     # about when this process loaded the project's code
READ = {}                # file of a loaded module -> when it was written, as it was read here first
NAMED = set()            # files that were changed since, and named in a warning

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """A module as it is written."""
    definitions: dict    # name -> the statements that define it
    imports: dict        # name -> (module of the project, name in it)


# ---- what is asked -----------------------------------------------------------------------------------------

def code_of(*functions, home=HOME):
    """{module: hash of what is used of it} for functions by their full names, "xmodal.learner.train".

    home: folder that holds the packages. Raises `Problem` where a module was changed after this process
    loaded it, see `_changed`.
    """
    return _hashes([name.rpartition(".")[::2] for name in functions], {}, Path(home))


def code_of_own(name):
    """The same for the whole module of a class "module.Class" that lies anywhere on Python's path; {} for "".
    Raises `Problem` where there is no such module."""
    if not name:
        return {}
    module = name.rpartition(".")[0]
    spec = importlib.util.find_spec(module) if module else None
    if spec is None:
        raise Problem(f"There is no module for {name!r}; write module.Class, and put its file into the "
                      "checkout or on PYTHONPATH.")
    return code_of(f"{module}.{WHOLE}", home=Path(spec.origin).parents[module.count(".")])


def code_of_notebook(path, home=HOME):
    """The same for the code cells of a notebook, which stand as the module "notebook"."""
    cells = json.loads(Path(path).read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = [line for line in "\n".join(sources).splitlines() if not line.startswith(("%", "!"))]
    written = {"notebook": _source("\n".join(lines), "notebook", Path(home))}
    return _hashes([("notebook", WHOLE)], written, Path(home))


def differing(made, asked):
    """Names of the settings, and of the modules, in which two configurations of a run differ.

    A switch of a method or a field of a profile that is at its default counts as one that is not recorded: a
    new one with a default changes no identity.
    """
    made = flat(made)
    asked = flat(asked)
    if any(map(is_code, asked)) and not any(map(is_code, made)):
        asked = {name: value for name, value in asked.items() if not is_code(name)}
        made["code, which it does not name"] = True
    names = made.keys() | asked.keys()
    return sorted(name for name in names if made.get(name, MISSING) != asked.get(name, MISSING))


def is_code(name):
    """Whether a name of `flat` is that of a module."""
    return name.startswith(CODE)


def flat(config):
    """A configuration on one level: "profile.epochs", "switches.irm", "code of xmodal.losses". What is at its
    default is left out."""
    settings = {}
    for name, value in config.items():
        if not isinstance(value, dict):
            settings[name] = value
            continue
        begins = CODE if name == "code" else f"{name}."
        values = non_default(value, KINDS[name]) if name in KINDS else value
        settings |= {f"{begins}{key}": each for key, each in values.items()}
    return settings


def non_default(values, kind):
    """{name: value} of a dataclass `kind` without those at their default."""
    defaults = {field.name: field.default for field in fields(kind)}
    return {name: value for name, value in values.items() if value != defaults.get(name, MISSING)}


# ---- names that lead to names ------------------------------------------------------------------------------

def _hashes(waiting, written, home):
    """{module: hash} of the (module, name) that are `waiting` and of all that these use."""
    used = {}
    while waiting:
        module, name = waiting.pop()
        names = used.setdefault(module, set())
        if name in names or f"{module}.{name}".startswith(LEFT_OUT):
            continue
        names.add(name)
        source = written.get(module) or _read(home, module, _changed(home, module))
        waiting += [(module, ALWAYS), *_uses(source, module, name, home)]
    hashes = {}
    for module, names in sorted(used.items()):
        source = written.get(module) or _read(home, module, _changed(home, module))
        texts = [ast.unparse(node) for name in sorted(names) for node in source.definitions.get(name, ())]
        if texts:
            hashes[module] = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
    return hashes


def _uses(source, module, name, home):
    """Yields the (module, name) that a name of a module uses."""
    if name == WHOLE:
        yield from ((module, each) for each in source.definitions)
    if name in source.imports:
        yield source.imports[name]
    elif name not in source.definitions and _path(home, f"{module}.{name}"):
        yield f"{module}.{name}", WHOLE
    for statement in source.definitions.get(name, ()):
        for base, attribute in _names(statement):
            if base in source.imports:
                imported, inside = source.imports[base]
                yield imported, attribute if inside == WHOLE and attribute else inside
            if base in source.definitions:
                yield module, base


def _names(node):
    """Yields (name, its attribute or None) wherever a name stands below a node."""
    if isinstance(node, ast.Name):
        yield node.id, None
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield node.value.id, node.attr
    else:
        for child in ast.iter_child_nodes(node):
            yield from _names(child)


# ---- a module as it is written -----------------------------------------------------------------------------

def _path(home, module):
    """The file of a module of the project, or None."""
    path = home.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _changed(home, module):
    """When the file of a module was written last, in nanoseconds; of a module that this process has loaded,
    when it was read here first.

    A warning names one that was changed since: the loaded code goes on, and its identity with it. Raises
    `Problem` where one was changed before it was read here, so that nothing says what was loaded.
    """
    path = _path(home, module)
    if path is None:
        return 0
    changed = path.stat().st_mtime_ns
    if getattr(sys.modules.get(module), "__file__", None) != str(path):
        return changed
    first = READ.setdefault(path, changed)
    if first > LOADED * 1e9:
        raise Problem(f"{path} was changed after it was loaded; restart the kernel (or the program), so that "
                      "what runs is what is written.")
    if changed != first and path not in NAMED:
        NAMED.add(path)
        log.warning("%s was changed after it was loaded; restart the kernel (or the program) to use it.",
                    path)
    return first


@functools.lru_cache(maxsize=None)
def _read(home, module, changed):
    """The `Source` of a module whose file was `changed` then."""
    path = _path(home, module)
    return _source(path.read_text() if path else "", module, home, path and path.name == "__init__.py")


def _source(text, module, home, is_package=False):
    definitions = {ALWAYS: []}
    imports = {}
    for statement in Plain().visit(ast.parse(text)).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            imports |= _imported(statement, module, home, is_package)
            continue
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [statement.name]
        else:
            names = [node.id for node in ast.walk(statement)
                     if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) and not hasattr(statement, "name"):
            names.append(ALWAYS)
        for name in names or [ALWAYS]:
            definitions.setdefault(name, []).append(statement)
    return Source(definitions, imports)


def _imported(statement, module, home, is_package):
    """{name: (module of the project, name in it)} of an import statement."""
    if isinstance(statement, ast.Import):
        return {alias.asname or alias.name.partition(".")[0]: (alias.name, WHOLE)
                for alias in statement.names if alias.name.startswith(PACKAGES)}
    base = statement.module or ""
    if statement.level:
        parts = module.split(".")
        above = parts[:len(parts) - statement.level + is_package]
        base = ".".join([*above, *base.split(".")]).strip(".")
    if base.partition(".")[0] not in PACKAGES:
        return {}
    imports = {}
    for alias in statement.names:
        whole = f"{base}.{alias.name}"
        imports[alias.asname or alias.name] = (whole, WHOLE) if _path(home, whole) else (base, alias.name)
    return imports


class Plain(ast.NodeTransformer):
    """Takes out what does not count: docstrings, and the sentences of `Problem`."""

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()
        return self.generic_visit(node)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name) and node.func.id == Problem.__name__:
            return node.func
        return self.generic_visit(node)
