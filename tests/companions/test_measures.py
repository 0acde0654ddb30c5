"""Retrieval against brute force, BLEU and ROUGE against published examples, the harmonic mean of two ends."""
import itertools

import numpy as np
import pytest

from xmodal import stats
from xmodal.companions import measures
from xmodal.config import Problem


def test_retrieval_is_that_of_sorting():
    similarity = np.random.default_rng(0).normal(size=(37, 37)) + 1.5 * np.eye(37)
    by_hand = np.array([1 + list(np.argsort(-row)).index(i) for i, row in enumerate(similarity)])
    retrieval = measures.retrieval(similarity)
    np.testing.assert_array_equal(measures.ranks(similarity), by_hand)
    assert retrieval["MedR"] == np.median(by_hand) and retrieval["MeanR"] == by_hand.mean()
    for k in (1, 5, 10):
        first = [i in np.argsort(-row)[:k] for i, row in enumerate(similarity)]
        assert retrieval[f"R@{k}"] == pytest.approx(100 * np.mean(first))


def test_ties_are_what_all_orders_of_them_give_on_average():
    similarity = np.random.default_rng(1).integers(0, 3, (5, 5)).astype(float)
    ranks = []
    for i, row in enumerate(similarity):
        for order in itertools.permutations(range(5)):
            stand = np.lexsort((order, -row)).tolist()                 # ties stand as in `order`
            ranks.append(stand.index(i) + 1)
    by_hand = np.reshape(ranks, (5, -1))
    np.testing.assert_allclose(measures.ranks(similarity), by_hand.mean(1))
    assert measures.retrieval(similarity)["R@1"] == pytest.approx(100 * (by_hand == 1).mean())


def test_a_harmonic_mean_of_what_is_not_known_is_not_known():
    assert measures.harmonic(10, 30) == 15 and measures.harmonic(0, 10) == measures.harmonic(0, 0) == 0
    assert np.isnan(measures.harmonic(np.nan, 10)) and np.isnan(measures.harmonic(10, None))
    assert np.isnan(measures.harmonic(np.nan, 0))
    np.testing.assert_array_equal(measures.harmonic([10, np.nan, 0], [30, 10, 5]), [15, np.nan, 0])
    for wrong in (-1, np.inf, "ten"):
        with pytest.raises(Problem):
            measures.harmonic(wrong, 10)


def test_a_constant_similarity_has_the_ranks_of_chance():
    assert measures.retrieval(np.zeros((50, 50))) == pytest.approx(measures.chance(50))
    assert measures.chance(50)["MedR"] == 25.5
    with pytest.raises(Problem, match="as many items"):
        measures.ranks(np.zeros((3, 4)))
    with pytest.raises(Problem, match="not a number"):
        measures.ranks(np.full((3, 3), np.nan))


def test_bleu_and_rouge_of_published_examples():
    the = ("the " * 7).split()
    cat = "the cat is on the mat".split()
    assert measures.bleu([the], [cat], 1) == pytest.approx(2 / 7), "Papineni et al. 2002, Example 2"
    police = "police killed the gunman".split()
    assert measures.rouge_l(["police kill the gunman".split()], [police]) == pytest.approx(3 / 4), "Lin 2004"
    assert measures.rouge_l(["the gunman kill police".split()], [police]) == pytest.approx(2 / 4), "Lin 2004"
    assert measures.bleu([police], [police]) == 1
    assert measures.bleu([police[:3]], [police], 1) == pytest.approx(np.exp(1 - 4 / 3))


def test_bleu_is_that_of_torchmetrics():
    bleu_score = pytest.importorskip("torchmetrics.functional.text").bleu_score
    rng = np.random.default_rng(0)
    letters = list("abcde")
    written, meant = rng.choice(letters, (2, 6, 12)).tolist()
    theirs = bleu_score(list(map(" ".join, written)), [[" ".join(row)] for row in meant], n_gram=2)
    assert measures.bleu(written, meant, 2) == pytest.approx(float(theirs), abs=1e-6)


def test_the_harmonic_mean_is_zero_where_an_end_is():
    assert float(measures.harmonic(34.6, 31.7)) == pytest.approx(33.1, abs=0.05), "printed: 37.9"
    assert measures.harmonic(0, 50) == 0


def test_the_interval_over_folds_is_wider_than_that_of_independent_runs():
    """Nadeau and Bengio: the variance of the mean is that of a run times 1/15 + 1/4, not times 1/15."""
    differences = np.random.default_rng(0).normal(0.1, 0.05, 15)
    corrected = measures.over_folds(differences)
    independent = stats.paired_mean(differences)
    width = (corrected.high - corrected.low) / (independent.high - independent.low)
    assert width == pytest.approx((1 + 15 / 4) ** 0.5)
    assert corrected.difference == pytest.approx(differences.mean()) and corrected.runs == 15
    assert np.isnan(measures.over_folds([0.1]).low)
