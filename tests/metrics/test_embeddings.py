"""embeddings: closed forms, and what is not there or damaged."""
import numpy as np
import pytest
import torch

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics.embeddings import retrieval

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


# ---- retrieval -------------------------------------------------------------------------------------------

def test_a_pair_that_is_nearest_is_found_and_a_farthest_is_not():
    z = np.eye(20)
    best = retrieval(z, z)
    assert (best["rank"], best["r_at_1"], best["pair_gain"], best["patients"]) == (0, 1, 1, 20)
    worst = retrieval(z, -z)
    assert (worst["rank"], worst["r_at_10"], worst["pair_gain"]) == (1, 0, -1)
    assert [best[f"chance_at_{k}"] for k in (1, 5, 10)] == pytest.approx([1 / 20, 5 / 20, 10 / 20])


def test_without_information_retrieval_is_at_chance():
    constant = retrieval(np.ones((12, 3)), np.ones((12, 3)))
    rng = np.random.default_rng(0)
    noise = [retrieval(rng.normal(size=(40, 6)), rng.normal(size=(40, 6))) for _ in range(40)]
    for k in (1, 5, 10):
        assert constant[f"r_at_{k}"] == pytest.approx(constant[f"chance_at_{k}"])
        shares = [trial[f"r_at_{k}"] - trial[f"chance_at_{k}"] for trial in noise]
        assert abs(np.mean(shares)) < 4 * np.std(shares) / 40 ** 0.5
    assert constant["rank"] == 0.5 and constant["pair_gain"] == pytest.approx(0)
    assert np.mean([trial["rank"] for trial in noise]) == pytest.approx(0.5, abs=0.02)


def test_the_cosine_of_pairs_alone_is_no_yardstick():
    """A direction that all share raises the cosine of every pair, and finds nobody."""
    rng = np.random.default_rng(0)
    shared = 10 * np.eye(8)[0]
    z_m, z_p = (rng.normal(size=(60, 8)) + shared for _ in range(2))
    assert stats.intra_pair_similarity(z_m, z_p) > 0.9 and abs(retrieval(z_m, z_p)["pair_gain"]) < 0.02


def test_pairs_by_label_have_several_right_answers():
    """Two of four tissues have the label of the mammogram, the nearest and the third."""
    z_m = np.array([[1.0, 0]])
    z_p = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    values = retrieval(z_m, z_p, [1], [1, 0, 1, 0], ks=(1, 2))
    assert (values["r_at_1"], values["r_at_2"], values["rank"]) == (1, 1, 0.5)
    assert values["chance_at_1"] == pytest.approx(1 / 2) and values["chance_at_2"] == pytest.approx(5 / 6)
    nobody = retrieval(z_m, z_p, [7], [1, 0, 1, 0])
    assert nobody["patients"] == 0 and np.isnan(nobody["rank"]) and np.isnan(nobody["r_at_1"])
    with pytest.raises(Problem, match="numbers of patients"):
        retrieval(z_m, z_p, [1], [1, 0])
