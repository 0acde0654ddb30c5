"""The paper's two cohorts with two backbones each, at a tiny size, by the notebook's own cells."""
import dataclasses
import itertools
import json

import pandas as pd
import pytest

from xmodal import config
from xmodal.companions import frozen, mirror, mirror_study, mirror_world
from xmodal.config import HOME

TINY = dataclasses.replace(mirror.SETTINGS["lesson"], epochs=2)
PAIRS = list(itertools.product(("BRCA", "NSCLC"), ("tf_efficientnet_lite0", "vit_small")))
CELLS = ("cell-02", "cell-04", "cell-10", "cell-12")      # paths, cohort, trainings, tables I and II
PARAMETERS = {"PROFILE": "paper", "SEEDS": [42], "ROOT": "tcga", "WORKERS": 1}


@pytest.fixture
def tiny(home, monkeypatch):
    """The notebook's cells as one function of project and encoder, which returns what they displayed. Each
    pair has patients of its own and one fold."""
    cells = json.loads((HOME / "notebooks" / "12_mirror.ipynb").read_text())["cells"]
    source = {cell["id"]: "".join(cell["source"]) for cell in cells}
    code = compile("\n".join(map(source.get, CELLS)), "12_mirror", "exec")
    paper = dataclasses.replace(config.profile("paper"), device="cpu")
    monkeypatch.setattr(config, "profile", lambda name: paper)
    monkeypatch.setitem(mirror.SETTINGS, "paper", TINY)
    monkeypatch.setattr(frozen, "frozen_encoder", lambda name, device: name)
    job = mirror_study.Job((*mirror_study.BASELINES, "MIRROR"), 42, 0)
    monkeypatch.setattr(mirror_study, "plan", lambda seeds: [job])
    monkeypatch.setattr("data_scripts.tcga_tables.cohort", of_pair)

    def run(project, encoder):
        shown = []
        exec(code, {**PARAMETERS, "PROJECT": project, "ENCODER": encoder, "display": shown.append})
        return shown
    return run


def of_pair(root, project, encoder):
    return mirror_world.draw(60, seed=PAIRS.index((project, encoder)))


def written(home):
    """{path below home: bytes} of every result and panel."""
    paths = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(home)): path.read_bytes() for path in paths}


def test_no_pair_of_cohort_and_backbone_overwrites_another(tiny, home, monkeypatch):
    after = {}
    for pair in PAIRS:
        before = written(home)
        tiny(*pair)
        after[pair] = written(home)
        assert {name: after[pair].get(name) for name in before} == before, f"{pair} touched what was there"
        assert set(after[pair]) > set(before)
    mine = home / "runs" / "paper" / "companions" / "mirror"
    own = [mine / project / encoder for project, encoder in PAIRS]
    assert [len(list(folder.glob("*/all/seed_42/fold_0/done"))) for folder in own] == [5] * 4
    panels = sorted((home / "figures" / "mirror").glob("mirror_table1_*.csv"))
    assert len(panels) == 4
    accuracies = {tuple(pd.read_csv(path)["mean"]) for path in panels}
    assert len(accuracies) == 4, "each has the numbers of its own patients"
    monkeypatch.setattr(mirror_study, "train_method", lambda *_: pytest.fail("a result was trained again"))
    shown = tiny(*PAIRS[0])
    beside = shown[1]
    assert sorted(set(beside.cohort)) == ["brca_tf_efficientnet_lite0", "brca_vit_small",
                                          "nsclc_tf_efficientnet_lite0", "nsclc_vit_small"]
    assert written(home) == after[PAIRS[-1]], "the first pair again: read back, nothing else changes"
