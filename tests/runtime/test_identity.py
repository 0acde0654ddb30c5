"""identity: of the project's code exactly what a result uses counts, and a switch at its default does not."""
import json
import os
import sys
import time
from dataclasses import asdict, make_dataclass, replace

import pytest

from xmodal import config, methods
from xmodal.runtime import identity

FILES = {
    "xmodal/__init__.py": "",
    "xmodal/config.py": "SEEDS = (42,)\n",
    "xmodal/losses.py": '''"""Losses."""
import numpy as np
SCALE = 1.0
TABLE = {}
TABLE["a"] = 1

def penalty(x):
    """A penalty."""
    return SCALE * half(x)  # a comment

def half(x):
    if x is None:
        raise Problem("No x.")
    return x / 2

def other(x):
    return 0
''',
    "xmodal/stats.py": "from .wing.weighted import auc\nfrom .config import SEEDS\n",
    "xmodal/wing/__init__.py": "from ..losses import other\ndef of_wing():\n    return other(1)\n",
    "xmodal/wing/weighted.py": "def auc(y):\n    return y\n\ndef unused():\n    pass\n",
    "xmodal/learner.py": '''from . import config, losses as terms, wing
from .stats import auc
def train(x):
    return terms.penalty(auc(x)) + wing.of_wing() + config.SEEDS[0]
'''}
EVERYTHING = ["xmodal.learner", "xmodal.losses", "xmodal.wing", "xmodal.wing.weighted"]


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def changed(project, name, old, new):
    """The modules whose hash differs after `old` has become `new` in a file."""
    before = identity.code_of("xmodal.learner.train", home=project)
    path = project / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    os.utime(path, ns=(0, time.time_ns()))
    after = identity.code_of("xmodal.learner.train", home=project)
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def test_what_a_function_uses_is_followed_through_modules_aliases_packages_and_passed_on_names(project):
    assert list(identity.code_of("xmodal.learner.train", home=project)) == EVERYTHING
    assert list(identity.code_of("xmodal.wing.weighted.auc", home=project)) == ["xmodal.wing.weighted"]


@pytest.mark.parametrize("old, new", [
    ("SCALE * half(x)", "0 * SCALE * half(x)"), ("SCALE = 1.0", "SCALE = 0.0"), ("x / 2", "x / 3"),
    ('TABLE["a"] = 1', 'TABLE["a"] = 2'), ("return 0", "return 1")])
def test_any_change_of_what_is_used_is_seen_and_named(project, old, new):
    assert changed(project, "xmodal/losses.py", old, new) == ["xmodal.losses"]


@pytest.mark.parametrize("name, old, new", [
    ("xmodal/losses.py", "# a comment", "# another"), ("xmodal/losses.py", "A penalty.", "Another."),
    ("xmodal/losses.py", "No x.", "There is no x."), ("xmodal/losses.py", "x / 2", "(x  /  2)"),
    ("xmodal/wing/weighted.py", "    pass", "    return 1"), ("xmodal/config.py", "42", "43")])
def test_comments_docstrings_layout_sentences_and_what_is_not_used_do_not_count(project, name, old, new):
    assert changed(project, name, old, new) == []


def test_a_notebook_counts_with_its_code_and_what_it_uses(project):
    path = project / "a.ipynb"

    def write(code, text="words", outputs=()):
        cells = [{"cell_type": "markdown", "source": [text]},
                 {"cell_type": "code", "source": ["%matplotlib inline\n", code], "outputs": list(outputs)}]
        path.write_text(json.dumps({"cells": cells}))
        return identity.code_of_notebook(path, home=project)
    first = write("from xmodal import wing\nwing.of_wing()")
    assert list(first) == ["notebook", "xmodal.losses", "xmodal.wing"]
    assert write("from xmodal import wing\nwing.of_wing()  # now", "other words", [1]) == first
    assert write("from xmodal import wing\nwing.of_wing() + 1")["notebook"] != first["notebook"]


def test_of_the_project_itself_a_training_uses_its_losses_and_no_figure():
    used = identity.code_of("xmodal.learner.train")
    assert {"xmodal.losses", "xmodal.model", "xmodal.loaders", "xmodal.objective"} <= used.keys()
    assert not [name for name in used if name.startswith(("figures", "xmodal.tables", "xmodal.runtime"))]


def test_a_module_that_was_changed_after_it_was_loaded_is_named(project, monkeypatch, caplog):
    path = project / "xmodal" / "losses.py"
    monkeypatch.setattr(identity, "READ", {})
    monkeypatch.setitem(sys.modules, "xmodal.losses", type("Loaded", (), {"__file__": str(path)}))
    os.utime(path, (identity.LOADED - 9, identity.LOADED - 9))
    first = identity.code_of("xmodal.losses.half", home=project)
    path.write_text(path.read_text().replace("x / 2", "x / 3"))
    os.utime(path, (identity.LOADED + 9, identity.LOADED + 9))
    assert identity.code_of("xmodal.losses.half", home=project) == first, "the loaded code is what runs"
    assert f"{path} was changed after it was loaded; restart the kernel" in caplog.text
    monkeypatch.setattr(identity, "READ", {})
    with pytest.raises(config.Problem, match="was changed after it was loaded; restart the kernel"):
        identity.code_of("xmodal.losses.half", home=project)


# ---- settings ----------------------------------------------------------------------------------------------

MADE = {"profile": asdict(config.PROFILES["lesson"]), "switches": asdict(methods.METHODS["irm"]), "seed": 42,
        "code": {"xmodal.losses": "a"}}


def test_what_differs_is_named():
    other = {"profile": MADE["profile"] | {"epochs": 5}, "switches": asdict(methods.METHODS["erm"]),
             "seed": 1, "code": {"xmodal.losses": "b"}}
    named = ["code of xmodal.losses", "profile.epochs", "seed", "switches.irm"]
    assert identity.differing(MADE, MADE) == [] and identity.differing(MADE, other) == named


def test_a_run_that_does_not_name_its_code_is_of_other_code():
    old = {name: value for name, value in MADE.items() if name != "code"}
    assert identity.differing(old, MADE) == ["code, which it does not name"]
    assert identity.differing(old, old) == []


def test_a_new_switch_or_field_with_a_default_changes_no_identity(monkeypatch):
    for name, kind in identity.KINDS.items():
        wider = make_dataclass("Wider", [("vrex", float, 0.0)], bases=(kind,), frozen=True, kw_only=True)
        monkeypatch.setitem(identity.KINDS, name, wider)
        for value, differs in ((0.0, []), (0.1, [f"{name}.vrex"])):
            assert identity.differing(MADE, MADE | {name: MADE[name] | {"vrex": value}}) == differs


def test_a_switch_at_its_default_need_not_be_recorded():
    short = {"irm": methods.METHODS["irm"].irm}
    assert identity.differing(MADE | {"switches": short}, MADE) == []
    assert identity.differing(MADE | {"switches": {}}, MADE) == ["switches.irm"]
    assert replace(methods.Method(), **short) == methods.METHODS["irm"]
