"""What the tests of the house share: the project's files, and what their syntax trees import."""
import ast
import functools
import subprocess

from xmodal.config import HOME

MADE = {".venv", ".uv", ".git", ".snakemake", "build", "data", "runs", "__pycache__", ".pytest_cache"}
PACKAGES = ("xmodal", "data_scripts", "figures")


def tracked():
    """The text files of the project: what git tracks, or without git all but what is made."""
    command = ["git", "-c", f"safe.directory={HOME}", "ls-files"]
    listed = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    if listed.returncode == 0:
        paths = [HOME / name for name in listed.stdout.splitlines()]
    else:
        paths = [path for path in HOME.rglob("*") if not MADE & set(path.relative_to(HOME).parts)]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def name_of(path):
    """The path of a file within the project, as text."""
    return str(path.relative_to(HOME))


def module_of(path):
    """The dotted name of a Python file of the project."""
    parts = path.relative_to(HOME).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PYTHON = [path for path in tracked() if path.suffix == ".py"]
SOURCE = [path for path in PYTHON if path.relative_to(HOME).parts[0] in PACKAGES]
MODULES = {module_of(path) for path in SOURCE}
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))


@functools.cache
def tree_of(path):
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def imports(path, tree=None):
    """Every module or name that a file imports, as absolute names: in a.b "from . import x" is "a.x"."""
    tree = tree_of(path) if tree is None else tree
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_modules(path, tree=None):
    """The modules of this project that a file imports, as dotted names."""
    for name in imports(path, tree):
        module = name if name in MODULES else name.rpartition(".")[0]
        if module in MODULES:
            yield module


def nodes(path, kinds):
    """The nodes of these kinds in the syntax tree of a file."""
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, kinds)]
