"""The parameters of a notebook: what it declares, and whether what is given fits.

Parameters are the lines `NAME: type = default  # help` of the cell tagged "parameters". papermill passes on
any value and only logs a name that no notebook knows; so they are checked twice: by the wrapper before a
kernel starts, and by the first cell of each notebook, for whoever calls papermill itself.
"""
import ast
import re
from pathlib import Path

import yaml

from .. import config
from ..config import DOMAINS, Problem
from ..methods import BASELINES, METHODS

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}
SEED_RANGE = (0, 2**32 - 1)                      # what numpy takes
ANY = float("inf")
RANGES = {
    "SEED": SEED_RANGE, "SEEDS": SEED_RANGE, "LIMIT": (0, ANY), "WORKERS": (1, ANY), "N_BOOTSTRAP": (1, ANY),
    "PATIENTS": (1, ANY), "EPOCHS": (1, ANY), "ABLATION_EPOCHS": (1, ANY)}
CHOICES = {
    "HELD_OUT": (*DOMAINS, "all"), "FETCH": tuple(DOMAINS), "METHOD": tuple(METHODS),
    "METHODS": (*METHODS, *BASELINES, "classic", "networks", "all")}     # separated by commas


# ---- what a notebook declares, and what fits it ------------------------------------------------------------

def parameters(path):
    """The parameters of a notebook: name -> (type, default, help). Raises `Problem` for a missing notebook or
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
    declared = {}
    for name, parameter in known.items():
        kind = parameter["inferred_type_name"].split("[")[0].strip()
        declared[name] = kind, ast.literal_eval(parameter["default"]), parameter["help"]
    return declared


def _fits(value, kind):
    """True if `value` is of the annotated type; an int is a float, but a bool is no number."""
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    return isinstance(value, (int, float) if kind == "float" else TYPES.get(kind, object))


def check_parameters(path, given):
    """`given` (name -> value) if the notebook knows every name, and types and values fit; otherwise a
    `Problem` that lists what it knows."""
    known = parameters(path)
    for name, value in given.items():
        if name not in known:
            raise Problem(f"{Path(path).name} has no parameter {name!r}; it has {', '.join(known)}.")
        kind, default, _ = known[name]
        if not _fits(value, kind):
            raise Problem(f"{name}={value!r} is no {kind}, which {Path(path).name} expects; "
                          f"an example is {name}={default!r}.")
        check_value(name, value)
    return given


def check_value(name, value):
    """Raises `Problem` for a value that no notebook can work with: a number out of its range, a domain or a
    method that does not exist. Lists are checked item by item."""
    if name == "PROFILE":
        config.profile(value)
    items = value if isinstance(value, list) else [value]
    if name == "METHODS":
        items = [item.strip() for item in value.split(",")]
    for item in items:
        if name in CHOICES and item not in CHOICES[name]:
            raise Problem(f"{name}={value!r}: there is no {item!r}; choose from {', '.join(CHOICES[name])}.")
        if name in RANGES:
            _check_number(name, item)


def _check_number(name, number):
    low, high = RANGES[name]
    if not _fits(number, "int"):
        raise Problem(f"{name} holds {number!r}, which is no whole number; give whole numbers.")
    if not low <= number <= high:
        reach = f"at least {low}" if high == ANY else f"from {low} to {high}"
        raise Problem(f"{name} is {number}, which no notebook can work with; give a whole number {reach}.")


def check(names):
    """Checks the parameters of the running notebook, whose `globals()` are `names`.

    papermill puts what it is given into a cell that begins with the comment "Parameters". Raises `Problem`
    where such a cell sets a name that the notebook does not declare (declared are names with an annotation),
    and where the type or the value of a declared one does not fit.
    """
    declared = names["__annotations__"]
    for cell in names.get("In", ()):
        if not cell.startswith("# Parameters\n"):
            continue
        for name in _assigned(cell):
            if name not in declared:
                raise Problem(f"This notebook has no parameter {name!r}; it has {', '.join(declared)}.")
    for name, kind in declared.items():
        kind = getattr(kind, "__name__", str(kind))
        if name not in names:
            continue
        if not _fits(names[name], kind):
            raise Problem(f"{name} is {names[name]!r}, which is no {kind}; give another value.")
        check_value(name, names[name])


def _assigned(cell):
    """The names to which the statements of a cell give values."""
    for statement in ast.parse(cell).body:
        if isinstance(statement, ast.Assign):
            yield statement.targets[0].id


# ---- values on the command line ----------------------------------------------------------------------------

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
