"""docs/extending.md, followed word by word: its blocks of code are taken from the page and run."""
import dataclasses
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from test_learner import TINY, write_cohort

from xmodal import config, learner, methods
from xmodal.config import PROFILES, Problem
from xmodal.loaders import Images

PAGE = (config.HOME / "docs" / "extending.md").read_text()


def block(title):
    """The block of code on the page whose first line is the comment `title`."""
    return re.search(rf"^```\w*\n# {re.escape(title)}\n(.*?)^```", PAGE, re.M | re.S)[1]


@pytest.fixture
def own(home, tmp_path, monkeypatch):
    """The methods of the page, in a file outside the checkout that is on Python's path."""
    (tmp_path / "my_methods.py").write_text(block("my_methods.py"))
    os.utime(tmp_path / "my_methods.py", (0, 0))        # written before this process began
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    rows = eval("{" + block("xmodal/methods.py, in METHODS") + "}", {"Method": methods.Method})
    for name, row in rows.items():
        monkeypatch.setitem(methods.METHODS, name, row)
    yield tmp_path / "my_methods.py"
    sys.modules.pop("my_methods", None)


def first_batch(callback, table):
    """A callback of the page beside a model that has seen one batch."""
    fold = learner.leave_one_out(table, "bach", 42)
    learn = learner.learner(TINY, methods.Method(), fold, Images(config.DATA / "lesson"), 42)
    learn.model.train()
    x, y = learn.dls.train.dataset[0]
    callback.learn = SimpleNamespace(pred=learn.model(x), x=x, y=y)
    return callback


def test_the_methods_of_the_page_train_and_learn_otherwise_than_erm(own):
    table = write_cohort(config.DATA / "lesson")
    profile = dataclasses.replace(TINY, epochs=2)
    runs = {method: learner.train(profile, method, "bach", 42, table) for method in ("erm", "vrex", "mixup")}
    erm = runs.pop("erm")
    for run in runs.values():
        assert any(not torch.equal(run.state[name], tensor) for name, tensor in erm.state.items())
        assert run.config["code"].keys() - erm.config["code"].keys() == {"my_methods"}


def test_vrex_is_the_variance_of_the_losses_of_the_domains(own):
    table = write_cohort(config.DATA / "lesson")
    vrex = first_batch(methods.own_class("my_methods.VRex")(), table)
    rows = sys.modules["my_methods"].one_table(vrex.learn.pred, vrex.learn.y)
    p = (rows.logits.softmax(1) * rows.allowed).sum(1)
    losses = torch.stack([-p[rows.domain == d].log().mean() for d in rows.domain.unique()])
    assert len(losses) > 1 and vrex.term().item() == pytest.approx(losses.var(correction=0).item(), rel=1e-4)


def test_a_changed_file_is_another_identity_and_a_comment_is_not(own):
    name = "my_methods.VRex"
    code = learner.code_of_own(name)
    own.write_text(own.read_text() + "\n# a comment\n")
    assert learner.code_of_own(name) == code
    own.write_text(own.read_text().replace("weight = 1.0", "weight = 2.0"))
    assert learner.code_of_own(name) != code


@pytest.mark.parametrize("name", ["no_such_file.VRex", "my_methods.VRexx", "VRex"])
def test_a_callback_that_cannot_be_loaded_is_named(own, name):
    with pytest.raises(Problem, match=f"{name}.*module.Class"):
        methods.own_class(name)


def test_the_profile_of_the_page_differs_in_its_fields_alone(tmp_path):
    path = tmp_path / "my_profile.yaml"
    path.write_text(block("my_profile.yaml"))
    profile = config.profile(str(path))
    assert profile == dataclasses.replace(PROFILES["lesson"], name="longer", epochs=40, lr=5e-4)
    assert config.profile(profile) is profile


@pytest.mark.parametrize("text, match", [
    ("name: mine\nbase: lesson\nepoch: 3", "field 'epoch'"),
    ("name: mine\nbase: lesson\nepochs: three", "'three', which is no int"),
    ("name: mine\nbase: lesson\nepochs: 2.5", "2.5, which is no int"),
    ("name: mine\nbase: lesson\nlr: fast", "'fast', which is no float"),
    ("name: mine\nbase: lesson\namp: 1", "1, which is no bool"),
    ("name: mine\nbase: lesson\nimage_size: 100", "multiple of patch"),
    ("name: lesson\nbase: lesson", "name of its own"),
    ("name: ../mine\nbase: lesson", "name of its own"),
    ("name: mine\nbase: lessons", "no base"),
    ("- mine", "no base"),
    ("{", "cannot be read")])
def test_a_profile_that_does_not_fit_is_a_problem(tmp_path, text, match):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(Problem, match=match):
        config.profile(str(path))


def test_a_profile_that_is_missing_is_a_problem():
    with pytest.raises(Problem, match="absent.yaml cannot be read"):
        config.profile("absent.yaml")


FOLLOWED = """
import sys, pathlib
import numpy as np, pydicom.uid
text = pathlib.Path("xmodal/config.py").read_text()
text = text.replace("DATASETS = {", "DATASETS = {\\n" + sys.argv[2], 1)
import xmodal.config as config
exec(text, config.__dict__)
import data_scripts, figures
from data_scripts.phantom.native import DIGITAL_MAMMOGRAM, write_dicom
folder = pathlib.Path(sys.argv[1], "native", "mysite")
folder.mkdir(parents=True)
for name in "abc":
    pixels = np.zeros((300, 200), np.uint16)
    pixels[50:250, :120] = 3000
    write_dicom(folder / f"{name}.dcm", pixels, pydicom.uid.ExplicitVRLittleEndian, DIGITAL_MAMMOGRAM, 12,
                SOPInstanceUID="2.25.1", ViewPosition="CC", ImageLaterality="L")
(folder / "labels.csv").write_text("file,patient,label\\na.dcm,1,benign\\nb.dcm,2,malignant\\n")
native = data_scripts.index_all(folder.parent, config.PROFILES["paper"])
assert native.rows.allowed.tolist() == [2, 12] and len(native.exclusions) == 1
from xmodal import cohort, record
from xmodal.runtime import parameters
from xmodal.tables import fig3
assert cohort.validate(native.rows, cohort.INDEX, "index").domain.unique().tolist() == ["mysite"]
assert list(figures.DOMAINS)[-1] == "mysite" and figures.DOMAINS["mysite"] == ("my site", "#882255")
assert "mysite" in fig3.BREASTS and "mysite" in parameters.CHOICES["HELD_OUT"]
assert record.run_dir("lesson", "erm", "mysite", 42)
"""


def test_the_dataset_of_the_page_is_read_and_is_in_every_list_of_domains(tmp_path):
    (tmp_path / "mysite.py").write_text(block("mysite.py"))
    row = block("xmodal/config.py, in DATASETS")
    path = os.pathsep.join([str(tmp_path), str(config.HOME)])
    subprocess.run([sys.executable, "-c", FOLLOWED, str(tmp_path), row], cwd=config.HOME, check=True,
                   env={**os.environ, "PYTHONPATH": path})
