"""detection: overlap, average precision and free-response curves by hand; what must not change an answer."""
import tracemalloc

import numpy as np
import pytest

from xmodal import stats
from xmodal.config import Problem

NAN = float("nan")
LEFT = [0, 0, 10, 10]
RIGHT = [20, 0, 30, 10]


def test_overlap():
    assert stats.iou([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    assert stats.iou([0, 0, 1, 1], [2, 2, 3, 3]) == 0 and np.isnan(stats.iou([NAN] * 4, [0, 0, 1, 1]))
    assert np.isnan(stats.iou([1, 1, 1, 1], [1, 1, 1, 1]))
    assert stats.iou(np.zeros((3, 4)), np.ones((3, 4))).shape == (3,)
    assert stats.dice([1, 1, 0], [0, 1, 1]) == .5 and np.isnan(stats.dice([0, 0], [0, 0]))


def test_dice_and_iou_of_a_box_go_together():
    """Dice = 2 IoU / (1 + IoU), here of boxes drawn as masks."""
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, 10, (20, 2, 2)):
        masks = np.zeros((2, 20, 20), bool)
        for mask, (x, y) in zip(masks, (a, b)):
            mask[y:y + 8, x:x + 6] = True
        overlap = stats.iou([*a, *(a + [6, 8])], [*b, *(b + [6, 8])])
        assert stats.dice(*masks) == pytest.approx(2 * overlap / (1 + overlap))


def test_average_precision_by_hand():
    marks = [[[*LEFT, .9], [*RIGHT, .8]], [[*LEFT, .7]]]        # right, wrong, right, and one lesion missed
    truth = [[LEFT], [LEFT, [50, 50, 60, 60]]]
    assert stats.box_average_precision(marks, truth) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert stats.box_average_precision(marks, [[LEFT, RIGHT], [LEFT]]) == 1


def test_average_precision_is_that_of_the_envelope():
    """Precision 1/2 at the first lesion is raised to the 2/3 reached at the second."""
    marks = [[[*RIGHT, .9], [*LEFT, .8]], [[*LEFT, .7]]]
    assert stats.box_average_precision(marks, [[LEFT], [LEFT]]) == pytest.approx(2 / 3)


def test_a_lesion_counts_once():
    twice = [[[*LEFT, .9], [0, 0, 10, 9, .8]]]
    assert stats.box_average_precision(twice, [[LEFT, RIGHT]]) == pytest.approx(.5)
    other = [0, 0, 10, 8]
    assert stats.box_average_precision(twice, [[LEFT, other]]) == 1, "the second takes what is left"
    marks = stats.free_response(twice, [[LEFT, RIGHT]])
    assert list(marks.tp_probs) == [.9, 0] and len(marks.fp_probs) == 0     # for FROC, it is no error


@pytest.mark.parametrize("at, expected", [(.5, 1), (.8, 1), (.81, 0)])
def test_overlap_that_counts(at, expected):
    marks = [[[0, 0, 10, 8, .9]]]
    assert stats.box_average_precision(marks, [[LEFT]], at) == expected
    assert len(stats.free_response(marks, [[LEFT]], at).fp_probs) == 1 - expected


def test_marks_without_lesions_and_lesions_without_marks():
    assert np.isnan(stats.box_average_precision([[[*LEFT, .9]]], [[]]))
    assert np.isnan(stats.box_average_precision([], []))
    assert stats.box_average_precision([[]], [[LEFT]]) == 0
    marks = stats.free_response([[], [[*LEFT, .5]]], [[LEFT], []])
    assert list(marks.fp_probs) == [.5] and list(marks.tp_probs) == [0]
    assert (marks.lesions, marks.images) == (1, 2)
    assert stats.froc_score(*marks) == 0 and np.isnan(stats.froc_score(*stats.free_response([], [])))


def test_all_ties_are_one_point():
    """With one score for everything precision is the same at every recall reached."""
    marks = [[[*LEFT, .5], [*RIGHT, .5]], [[*LEFT, .5]]]
    assert stats.box_average_precision(marks, [[LEFT], [LEFT]]) == pytest.approx(2 / 3)
    assert [list(x) for x in stats.froc([.5], [.5, .5], 2, 2)] == [[0, .5], [0, 1]]


def test_froc_score():
    fp, tp = [.8, .6], [1, 1, 0, 0, .8, .8, 0]
    assert stats.froc_score(fp, tp, 4, 2) == pytest.approx(.95833333, abs=1e-8)
    assert stats.froc_score(fp, tp, 4, 2, at=.25) == .75
    assert stats.froc_score([], [.9, 0], 2, 5) == .5 and np.isnan(stats.froc_score([], [], 0, 1))
    curve = stats.froc(fp, tp, 4, 2)
    assert list(curve.false_positives) == [0, 0, .5, 1] and list(curve.sensitivity) == [0, .5, 1, 1]


def test_order_of_images_and_marks_does_not_matter():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (6, 4, 2)).round()
    truth = np.concatenate([corner, corner + 12], axis=2)[:, :2]
    score = rng.integers(1, 4, (6, 4, 1)) / 4                           # many ties
    marks = np.concatenate([corner + 1, corner + 13, score], axis=2)
    order = rng.permutation(6)
    within = rng.permutation(4)
    shuffled = (marks[order][:, within], truth[order][:, ::-1])
    value = stats.box_average_precision(marks, truth)
    assert 0 < value < 1 and stats.box_average_precision(*shuffled) == pytest.approx(value)
    froc_score = stats.froc_score(*stats.free_response(marks, truth))
    assert stats.froc_score(*stats.free_response(*shuffled)) == pytest.approx(froc_score)


def test_a_free_response_curve_of_a_hundred_thousand_marks():
    """False and true marks of one distribution: the curve is a straight line."""
    rng = np.random.default_rng(0)
    tracemalloc.start()
    curve = stats.froc(rng.random(100_000), 1e-9 + rng.random(100_000), 100_000, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6 and len(curve.sensitivity) > 199_000
    assert np.abs(curve.false_positives / 100 - curve.sensitivity).max() < 0.01


@pytest.mark.parametrize("measure, arguments", [
    (stats.iou, ([0, 0, 1], [0, 0, 1])), (stats.dice, ([1, 0], [1])), (stats.dice, ([NAN], [1])),
    (stats.dice, ([.4], [1])), (stats.box_average_precision, ([[]], [[], []])),
    (stats.box_average_precision, ([[[*LEFT, NAN]]], [[LEFT]])),
    (stats.free_response, ([[[*LEFT, .5]]], [[[NAN] * 4]])),
    (stats.free_response, ([[[*LEFT, 0]]], [[LEFT]])),
    (stats.froc, ([float("inf")], [], 1, 1)), (stats.froc, ([-.5], [], 1, 1)),
    (stats.free_response, ([[[0, 0, float("inf"), 5, .5]]], [[LEFT]])),
    (stats.iou, ([0, 0, 1, float("inf")], LEFT)),
    (stats.box_average_precision, ([[[0, 0, 10, 10]]], [[LEFT]])), (stats.dice, (["a"], [1])),
    (stats.froc, ([NAN], [], 1, 1)), (stats.froc, ([], [.5, .5], 1, 1))])
def test_bad_input_is_a_problem(measure, arguments):
    with pytest.raises(Problem):
        measure(*arguments)
