"""embeddings: closed forms, and what is not there or damaged."""
import numpy as np
import pytest
import torch

from xmodal import stats
from xmodal.config import Problem

NAN = float("nan")


def test_embedding_measures():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20, 5))
    assert stats.intra_pair_similarity(z, 3 * z) == pytest.approx(1)
    assert stats.intra_pair_similarity(z, -z) == pytest.approx(-1)
    assert stats.modality_gap(z, 2 * z) == pytest.approx(0)
    assert stats.modality_gap([[1, 0]], [[-3, 0]]) == pytest.approx(2)
    tight = np.repeat([[0, 0], [10, 0]], 5, axis=0) + rng.normal(size=(10, 2)) * .01
    labels = np.repeat([0, 1], 5)
    assert stats.silhouette(tight, labels) > .99 and stats.davies_bouldin(tight, labels) < .01
    assert np.isnan(stats.silhouette(tight, np.zeros(10)))
    assert np.isnan(stats.davies_bouldin(tight, np.arange(10)))


def test_classes_at_the_corners_of_a_rectangle():
    """Two classes at a distance of 4, each of two points 1 from its centre.

    Every point is 2 from the other of its class, and 4 or sqrt(20) from those of the other class.
    """
    square = [[0, -1], [0, 1], [4, -1], [4, 1]]
    classes = [0, 0, 1, 1]
    assert stats.davies_bouldin(square, classes) == pytest.approx((1 + 1) / 4)
    far = (4 + np.sqrt(20)) / 2
    assert stats.silhouette(square, classes) == pytest.approx((far - 2) / far)


def test_embeddings_of_nobody():
    none = np.zeros((0, 3))
    assert np.isnan(stats.intra_pair_similarity(none, none))
    assert np.isnan(stats.modality_gap(none, [[1, 0, 0]]))
    assert stats.unit([[0, 0], [3, 4]]).tolist() == [[0, 0], [.6, .8]]


@pytest.mark.parametrize("measure, z, other", [
    (stats.intra_pair_similarity, [[1, 0]], [[1, 0]] * 2), (stats.modality_gap, [[1, 0]], [[1, 0, 0]]),
    (stats.modality_gap, [[1, NAN]], [[1, 0]]), (stats.silhouette, [[NAN], [1], [2]], [0, 0, 1]),
    (stats.davies_bouldin, [1, 2, 3], [0, 0, 1]), (stats.modality_gap, [[1, float("inf")]], [[1, 0]]),
    (stats.silhouette, [[float("inf")], [1], [2]], [0, 0, 1]), (stats.silhouette, [[0], [1], [2]], [0, 1]),
    (stats.davies_bouldin, [[0], [1], [2]], [0, 0, NAN]), (stats.unit, [["a"]], None),
    (stats.modality_gap, torch.ones(2, 2, requires_grad=True), torch.ones(2, 2))])
def test_damaged_embeddings_are_a_problem(measure, z, other):
    arguments = [z] if other is None else [z, other]
    with pytest.raises(Problem):
        measure(*arguments)
