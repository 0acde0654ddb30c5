"""What the companions share: a result is made once, kept whole, told when damaged, and never made by two at a
time."""
import json
import subprocess
import sys

import pandas as pd
import pytest
import torch

from xmodal.companions import study
from xmodal.config import Problem


def make(calls):
    """A result that counts how often it was made."""
    def made():
        calls.append(1)
        tables = {"a": pd.DataFrame({"x": [0.1, 1 / 3]}), "b": pd.DataFrame({"y": [1]})}
        return tables, {"w": torch.arange(3.0)}
    return made


@pytest.mark.parametrize("harm", ["a.csv gone", "b.csv changed", "model.safetensors cut", "done empty",
                                  "done cut", "done a list", "config.json gone"])
def test_a_damaged_result_is_told_and_made_anew(tmp_path, caplog, harm):
    calls = []
    first = study.computed_once(tmp_path, {"seed": 1}, make(calls))
    name, how = harm.split(" ", 1)
    path = tmp_path / name
    text = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"changed": text + b"1\n", "cut": text[:20], "empty": b"{}", "a list": b"[]"}[how])
    again = study.computed_once(tmp_path, {"seed": 1}, make(calls))
    assert len(calls) == 2 and "damaged" in caplog.text
    assert set(again) == {"a", "b"} and all(again[k].equals(first[k]) for k in again)
    assert torch.equal(study.tensors(tmp_path)["w"], torch.arange(3.0))


def test_a_result_is_made_once_for_a_configuration(tmp_path):
    calls = []
    for seed in (1, 1, 2, 2, 1):
        study.computed_once(tmp_path, {"seed": seed, "shape": (1, 2)}, make(calls))
    assert len(calls) == 3 and json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_a_result_that_another_process_makes_is_left_to_it(tmp_path):
    waits = ("import sys; from xmodal.runtime.files import hold; "
             f"hold({str(tmp_path)!r}); print('held', flush=True); sys.stdin.read()")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", waits], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Problem, match="Another process"):
            study.computed_once(tmp_path, {}, make([]))
        other.stdin.close()
    assert study.computed_once(tmp_path, {}, make([]))


def test_unreadable_weights_and_unknown_classes_are_named(tmp_path):
    with pytest.raises(Problem, match="cannot be read"):
        study.tensors(tmp_path)
    assert study.class_numbers(["b", "a"], ("a", "b")).tolist() == [1, 0]
    with pytest.raises(Problem, match="no class 'c'"):
        study.class_numbers(["a", "c"], ("a", "b"))
