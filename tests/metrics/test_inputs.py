"""inputs: what is no plain table of numbers is a `Problem` with one sentence, in every measure."""
import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import stats
from xmodal.config import Problem
from xmodal.metrics import inputs

ON_SCORES = [
    stats.auc, stats.average_precision, stats.pr_trapezoid, stats.accuracy, stats.f1, stats.sensitivity,
    stats.specificity, stats.youden, stats.ece, stats.brier, stats.brier_parts, stats.reliability,
    stats.case_benefit, stats.integrated_net_benefit, stats.decision_curve, stats.debiased_ece]


@pytest.mark.parametrize("measure", ON_SCORES)
def test_tensors_with_gradients_text_and_gaps_are_a_problem(measure):
    scores = torch.tensor([.2, .8, .6], requires_grad=True)
    for p in (scores, ["low", "high", "high"], [".2", ".8", ".6"], [[.2], [.8, .9], [.6]],
              pd.array([.2, None, .6], dtype="Float64"), pd.to_datetime(["2020"] * 3)):
        with pytest.raises(Problem):
            measure([0, 1, 1], p)
    for y in (["no", "yes", "yes"], ["0", "1", "1"], pd.array([0, 1, None], dtype="Int64"), scores):
        with pytest.raises(Problem):
            measure(y, [.2, .8, .6])


@pytest.mark.parametrize("measure", ON_SCORES)
def test_tensors_and_nullable_columns_are_read(measure):
    plain = measure([0, 1, 1, 0], [.25, .75, .5, .5])
    for y, p in ((torch.tensor([0, 1, 1, 0]), torch.tensor([.25, .75, .5, .5])),
                 (pd.array([0, 1, 1, 0], dtype="Int64"), pd.array([.25, .75, .5, .5], dtype="Float64")),
                 (np.array([False, True, True, False], object), np.array([.25, .75, .5, .5], object))):
        np.testing.assert_equal(tuple(np.atleast_1d(measure(y, p))), tuple(np.atleast_1d(plain)))


@pytest.mark.parametrize("measure", [stats.ece, stats.brier, stats.integrated_net_benefit, stats.sensitivity,
                                     stats.average_precision, stats.debiased_ece])
def test_infinite_scores_are_a_problem(measure):
    with pytest.raises(Problem):
        measure([0, 1], [.2, float("inf")])


def test_plain_values():
    assert inputs.plain([1, None]).dtype == float
    assert inputs.plain(pd.array([1, 2], dtype="Int64")).dtype == int
    assert inputs.plain(["a", "b"]).tolist() == ["a", "b"]
    assert np.isnan(inputs.numbers([pd.NA, 1], "Values")[0]) and inputs.numbers(True, "Values") == 1
    with pytest.raises(Problem, match="Times must be numbers"):
        inputs.numbers(["soon", 1.0], "Times")
    with pytest.raises(Problem, match="detach"):
        inputs.plain(torch.ones(2, requires_grad=True))


def test_patients_have_names_of_one_kind():
    names, number = inputs.patients(["b", "a", "b"], 3)
    assert list(names) == ["a", "b"] and list(number) == [1, 0, 1]
    for groups in (["a", None, "b"], [1.0, float("nan"), 2], np.array([1, "a", 2], object), ["a", "b"]):
        with pytest.raises(Problem):
            inputs.patients(groups, 3)
