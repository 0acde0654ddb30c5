"""cases: pictures survive as text, a rule chooses, and rows of cases hold what they are given."""
import json

import numpy as np
import pandas as pd
import pytest
from small_runs import card, columns, outlined

from xmodal.config import Problem
from xmodal.tables import cases
from xmodal.tables.cards import card_columns, fig5_case
from xmodal.tables.fig4 import fig4_case


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
    row = fig4_case("a mass", outlined("p1", "mass"), columns(card([1, 0, 0, 0]), [[0, 0, 2, 2]]))
    assert (row["case"], row["title"], row["lesion_type"]) == ("p1", "a mass", "mass")
    assert json.loads(row["box"]) == [] and json.loads(row["truth_boxes"]) == [[0, 0, 2, 2]]


def test_a_case_of_grading_with_two_patches():
    row = fig5_case("p1", 2, columns(card([.1, .2, .6, .1], [.7, .3], "in situ")), "patient", "phantom")
    assert row["predicted"] == 2 and row["tile3"] == "" and np.isnan(row["w3"]) and row["w1"] == .7
    assert cases.from_uri(row["tile"]).shape == (8, 8, 3) and cases.from_uri(row["tile_heat"]).shape == (4, 4)


def test_a_case_of_one_modality_has_no_picture_of_the_other():
    alone = card([1, 0, 0, 0])._replace(heat=None, tissue=None, patches=None, weights=None)
    tiles = np.zeros((2, 8, 8, 3), np.uint8)
    m = card_columns(alone, np.zeros((8, 8), np.uint8), None)
    p = card_columns(alone, None, tiles)
    assert m["image"] and not any(m[name] for name in ("heat", "tile", "tile_heat", "tile1"))
    assert p["tile"] and not any(p[name] for name in ("image", "heat", "tile_heat", "tile1"))
