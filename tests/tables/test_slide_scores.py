"""Slides from their tiles: scores, AUC and FROC with known answers."""
import json

import numpy as np
import pandas as pd
import pytest

from xmodal import cohort
from xmodal.config import HISTOPATHOLOGY, Problem
from xmodal.metrics.pooling import log_mean_exp, top_mean
from xmodal.tables import slides


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def outlines(*squares):
    return json.dumps({"polygons": [square(*corner) for corner in squares], "exclude": []})


TUMOUR = outlines((0, 0, 1000))                # 500 um a side at half a micrometre a pixel
# slide -> (annotation, [(x, y of the tile, p, label set of the tile)])
SLIDES = {
    "camelyon/tumor_001": (TUMOUR, [(500, 500, 0.9, 8), (3000, 500, 0.8, 1), (3000, 3000, 0.1, 1)]),
    "camelyon/tumor_002": (TUMOUR, [(500, 500, 0.3, 8), (3000, 500, 0.2, 1), (3000, 3000, 0.2, 1)]),
    "camelyon/normal_001": ("", [(500, 500, 0.5, 1), (3000, 500, 0.1, 1), (3000, 3000, 0.1, 1)]),
    "camelyon/patient_000_node_1": ("", [(500, 500, 0.2, 1)]),
}


@pytest.fixture
def made():
    """(predictions of one run, cohort table) of `SLIDES`, with a tile that was drawn by outline."""
    rows = []
    for slide, (annotation, marks) in SLIDES.items():
        for k, (x, y, p, allowed) in enumerate(marks):
            rows.append({**cohort.NO_TILE, "sample": f"{slide}#{k}", "patient": slide,
                         "annotation": annotation, "allowed": allowed, "p2": 0.0, "p3": p,
                         "file_allowed": 8 if annotation else 1,
                         "tile_x": x, "tile_y": y, "slide_mpp": 0.5})
    rows.append({**rows[3], "sample": "camelyon/tumor_002#3", "drawn": "outline", "p3": 1.0})
    table = pd.DataFrame(rows)
    run = {"method": "ours", "held_out": "camelyon", "seed": 1, "condition": "source", "split": "target",
           "domain": "camelyon", "modality": HISTOPATHOLOGY}
    return table[["sample", "patient", "allowed", "p2", "p3"]].assign(**run), table


def test_a_slide_has_the_mean_of_its_top_tiles_or_something_between_mean_and_highest():
    scores = [0.9, 0.1, 0.5, 0.2]
    names = ["a", "a", "a", "b"]
    assert top_mean(scores, names).to_dict() == pytest.approx({"a": 0.7, "b": 0.2})
    assert top_mean(scores, names, k=1)["a"] == 0.9
    assert log_mean_exp(scores, names, 1e-6)["a"] == pytest.approx(0.5)
    assert log_mean_exp(scores, names, 1e4)["a"] == pytest.approx(0.9, abs=1e-3)
    assert log_mean_exp(scores, names)["b"] == pytest.approx(0.2)
    for pool, wrong in ((top_mean, (scores, names, 0)), (log_mean_exp, (scores, names, 0)),
                        (top_mean, (scores, names[:2]))):
        with pytest.raises(Problem):
            pool(*wrong)


def test_auc_by_slide_and_by_tile(made):
    by_slide = slides.slide_scores(*made).set_index("slide")
    assert by_slide.top_mean.to_dict() == pytest.approx({
        "camelyon/tumor_001": 0.85, "camelyon/tumor_002": 0.25, "camelyon/normal_001": 0.3,
        "camelyon/patient_000_node_1": 0.2})
    assert by_slide.y.to_dict() == {name: float(text != "") for name, (text, _) in SLIDES.items()}
    row, = slides.slide_aucs(*made).to_dict("records")
    assert (row["tiles"], row["slides"]) == (10, 4)
    assert row["auc_top_mean"] == pytest.approx(3 / 4)
    assert row["auc_tile"] == pytest.approx((8 + 6) / 16), "0.8 and 0.5 of normal tiles are above 0.3"


def test_froc_is_that_of_the_challenge(made):
    """Three slides; thresholds .9: one of two tumours; .3: both, at two false positives."""
    row, = slides.camelyon16(*made).to_dict("records")
    assert (row["slides"], row["tumours"], row["reachable"]) == (3, 2, 1)
    at = np.interp([0.25, 0.5, 1, 2, 4, 8], [0, 0, 1 / 3, 2 / 3, 2 / 3], [0, 0.5, 0.5, 0.5, 1])
    assert row["froc"] == pytest.approx(at.mean())


def test_tumours_near_each_other_are_one_and_isolated_cells_do_not_count():
    def counted(*squares):
        return slides.hits(np.zeros(0), np.zeros(0), outlines(*squares), 0.5)[1]
    assert len(counted((0, 0, 1000), (1100, 0, 1000))) == 1, "50 um apart"
    assert len(counted((0, 0, 1000), (1400, 0, 1000))) == 2, "200 um apart"
    assert counted((0, 0, 100)) == [], "50 um: isolated tumour cells"
    hit, of_slide = slides.hits(np.array([500, 1060, 1200]), np.array([500, 500, 500]), TUMOUR, 0.5)
    assert hit.tolist() == [1, 1, 0] and of_slide == [1], "30 um outside is a hit, 100 um is none"
    assert slides.hits(np.array([1]), np.array([1]), "", 0.5)[0].tolist() == [0]
    hit, of_slide = slides.hits(np.array([50]), np.array([50]), outlines((0, 0, 100)), 0.5)
    assert hit.tolist() == [1] and of_slide == [], "a mark on isolated cells is neither hit nor false"


def test_moving_a_slide_moves_its_hits():
    x = np.array([90500, 91500])
    hit, _ = slides.hits(x, np.array([50500, 50500]), outlines((90000, 50000, 1000)), 0.5)
    assert hit.tolist() == [1, 0]
