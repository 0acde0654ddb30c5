"""What is promised: names with their signatures, doors checked on both sides, the rhythm of the notebooks."""
import ast
import importlib
import inspect
import re

import nbformat
import pytest
from house import HOME, NOTEBOOKS, name_of, nodes

FINISHED = [path for path in NOTEBOOKS if path.stem != "_template"]


# ---- promised names ------------------------------------------------------------------------------

PROMISED = {
    "xmodal.stats": {
        "auc": "y, p", "delong": "y, p, q", "bootstrap": "metric, y, p, groups=None, n=1000, seed=42",
        "mcnemar": "y, a, b, exact=False, correction=True", "ece": "y, p, bins=15",
        "net_benefit": "y, p, thresholds", "kappa": "a, b, weights=None",
        "youden": "y, p", "concordance": "time, event, risk",
        "obuchowski_rockette": "frame", "froc_score": "fp_probs, tp_probs, lesions, images"},
    "xmodal.losses": {
        "info_nce": "z_m, z_p, ids_m, ids_p, tau=0.07, symmetric=False", "irm_penalty": "logits, y",
        "ordinal": "score, cutpoints, y", "dice_ce": "logits, mask, ce_weight=0.5",
        "set_cross_entropy": "logits, allowed", "Uncertainty": "tasks"},
    "xmodal.model": {"build": "profile", "adapter_share": "model"},
    "xmodal.adapt": {"adapt": "model, batches, how='causal'", "reset": "model"},
    "xmodal.cohort": {"load": "path", "leave_one_out": "table, held_out, seed"},
}
for dataset in ("cbis_ddsm", "inbreast", "bach", "camelyon", "tcga", "busi"):
    PROMISED[f"data_scripts.{dataset}"] = {"index": "root", "fetch": "root, limit=None, dry_run=False"}


def every_promise():
    for module, names in PROMISED.items():
        yield from ((module, name) for name in names)


@pytest.mark.parametrize("module, name", list(every_promise()))
def test_promised_names_have_their_signature(module, name):
    """The promised parameters come first, with the promised defaults; what follows must be optional."""
    function = getattr(importlib.import_module(module), name)
    parameters = list(inspect.signature(function).parameters.values())
    wanted = inspect.signature(eval(f"lambda {PROMISED[module][name]}: 0"))
    promised = list(wanted.parameters.values())
    for parameter, promise in zip(parameters, promised, strict=False):
        assert (parameter.name, parameter.default) == (promise.name, promise.default)
    assert len(parameters) >= len(promised)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for parameter in parameters[len(promised):]:
        assert parameter.default is not parameter.empty or parameter.kind in variable
    assert function.__doc__, "shapes, units, errors and source stand in the docstring"


def test_both_profiles_are_there():
    from xmodal.config import PROFILES
    assert PROFILES["lesson"].phantom and not PROFILES["paper"].phantom


# ---- doors ---------------------------------------------------------------------------------------

def calls(path, name):
    """How often a file calls a function of this name."""
    functions = [node.func for node in nodes(path, ast.Call)]
    return sum(getattr(function, "attr", getattr(function, "id", "")) == name for function in functions)


def test_the_cohort_door_is_checked_on_both_sides():
    """What is written is checked here; test_cohort holds the reading."""
    for name in ("cbis_ddsm", "inbreast", "bach", "camelyon"):
        assert calls(HOME / "data_scripts" / f"{name}.py", "validate"), f"{name} does not check its index"
    assert calls(HOME / "xmodal" / "preprocess.py", "validate")


def test_the_predictions_door_is_checked_on_both_sides(home):
    """save_run refuses (test_record); load_run refuses too, also where every checksum is right."""
    from test_record import predictions, write

    from xmodal import config, record
    from xmodal.runtime import checkpoints
    folder = write()
    predictions().assign(p0=2.0).to_parquet(folder / "predictions.parquet")
    checkpoints.finish(folder, {}, unchanged=record.FILES)
    with pytest.raises(config.Problem, match="p0"):
        record.load_run(folder)


# ---- notebooks -----------------------------------------------------------------------------------

@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_have_the_rhythm_of_the_house(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert path.stat().st_size < 1_000_000
    tagged = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].cell_type == "code"
    for line in tagged[0].source.splitlines():
        fits = re.fullmatch(r"[A-Z_]+: (int|float|str|bool|list) = [^=]+  # [^=]+", line)
        assert fits, f"a parameter is NAME: type = default  # help; not {line!r}"
    assert book.cells[0].cell_type == "markdown" and book.cells[-1].cell_type == "markdown"
    in_a_row = 0
    for cell in [cell for cell in book.cells if cell not in tagged]:
        in_a_row = in_a_row + 1 if cell.cell_type == "code" else 0
        assert in_a_row <= 2, f"words come before code: {cell.source.splitlines()[:1]}"
        assert cell.cell_type != "code" or len(cell.source.splitlines()) <= 15, cell.source.splitlines()[0]


@pytest.mark.parametrize("path", FINISHED, ids=name_of)
def test_notebooks_are_committed_executed_without_traces_of_the_machine(path):
    book = nbformat.read(path, 4)
    code = [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and "error" not in {output.output_type for output in outputs}
    assert "papermill" not in book.metadata
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in book.cells)
