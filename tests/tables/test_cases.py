"""cases: pictures survive as text, a rule chooses, and rows of cases hold what they are given."""
import json

import numpy as np
import pandas as pd
import pytest
from small_runs import card, outlined

from xmodal.config import Problem
from xmodal.tables import cases
from xmodal.tables.fig4 import fig4_case
from xmodal.tables.fig5 import fig5_case

IMAGE = np.zeros((8, 8), np.uint8)
HEAT = np.zeros((4, 4))
TILE = np.zeros((4, 4, 3), np.uint8)


def test_pictures_survive_as_text():
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (6, 6, 3)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        assert (cases.from_uri(cases.to_uri(image)) == image).all()
    assert (cases.from_uri(cases.to_uri(np.array([[0, .5], [1, 2.]]))) == [[0, 128], [255, 255]]).all()
    for bad in ("", "no picture", float("nan")):
        with pytest.raises(Problem):
            cases.from_uri(bad)


def test_a_case_at_a_quantile_is_the_lower_of_two_and_ties_go_by_name():
    rows = pd.DataFrame({"sample": list("cabd"), "iou": [0.9, 0.1, 0.5, 0.5]})
    chosen = [cases.at_quantile(rows, "iou", q)["sample"] for q in (0, 0.25, 0.5, 0.75, 1)]
    assert chosen == ["a", "a", "b", "d", "c"]
    assert cases.at_quantile(rows.sample(frac=1, random_state=3), "iou")["sample"] == "b"


def test_a_case_of_localisation_without_a_box():
    row = fig4_case("a mass", outlined("p1", "mass"), IMAGE, HEAT, [[0, 0, 2, 2]], [TILE])
    assert (row["case"], row["title"], row["lesion_type"]) == ("p1", "a mass", "mass")
    assert json.loads(row["predicted_box"]) == [] and json.loads(row["truth_boxes"]) == [[0, 0, 2, 2]]
    assert len(json.loads(row["tiles"])) == 1


def test_a_case_of_grading_with_two_patches():
    row = fig5_case("p1", 2, IMAGE, card(HEAT, [.1, .2, .6, .1], [.7, .3], "in situ"), [TILE, TILE])
    assert row["predicted"] == 2 and row["tile3"] == "" and np.isnan(row["w3"]) and row["w1"] == .7
