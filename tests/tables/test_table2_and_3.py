"""table2, table3: paired over folds, and criteria that say whether they are reached."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from xmodal import methods
from xmodal.tables import common, table2, table3


def test_every_ablation_has_a_row_that_says_what_is_changed():
    assert {*methods.ABLATIONS, "erm", "mixstyle", "irm", methods.BEFORE, methods.OURS} == set(table2.CHANGES)


def test_ablations_are_paired_over_folds(collected):
    table = table2.table2_table(collected).set_index("method")
    assert list(table.index) == ["mixstyle_irm", "mixstyle", "erm", "ours"], "what has run, in order"
    target = common.aucs(collected[collected.condition == "source"]).query("split == 'target'")
    by_fold = target.pivot_table(index="held_out", columns="method", values="auc")
    gap = by_fold.erm - by_fold.ours
    row = table.loc["erm"]
    assert row.difference == pytest.approx(gap.mean())
    assert row.p_t == pytest.approx(ttest_1samp(gap, 0).pvalue)
    assert row.auc == pytest.approx(by_fold.erm.mean()) and row.folds == 4 and row.p_t_holm >= row.p_t
    assert np.isnan(table.difference["ours"]) and table2.table2_table(collected.iloc[:0]).empty


def retrieval(times_chance):
    rows = []
    for method, times in times_chance.items():
        for seed in (42, 1234):
            rows.append({"method": method, "held_out": "bach", "seed": seed, "whom": "unseen",
                         "r_at_10": 0.1 * times, "chance_at_10": 0.1})
    return pd.DataFrame(rows)


def course(*sigma):
    return SimpleNamespace(history=pd.DataFrame({"sigma_cls": sigma}))


def row_of(table, begins):
    return table[table.criterion.str.startswith(begins)].iloc[0]


def test_criteria_are_of_the_best_method_and_say_whether_they_are_reached(collected):
    runs = {("ours", "bach", 42): course(1, 0.7, 0.52, 0.5, 0.5, 0.5, 0.5, 0.5)}
    table = table3.table3_table(collected, retrieval({"ours": 4, "mixstyle_irm": 2}), runs)
    best = row_of(table, "source test AUC, bach")
    seen = common.aucs(collected[collected.condition == "source"]).query("split == 'source test'")
    means = seen[seen.domain == "bach"].groupby("method").auc.mean()
    assert (best.method, best.value) == (means.idxmax(), pytest.approx(means.max()))
    assert best.result == ("reached" if best.value >= 0.9 else "not reached") and best.runs == 6
    assert row_of(table, "retrieval").result == "reached"
    assert row_of(table, "the same, not aligned").result == "not reached"
    assert row_of(table, "learned sigma_cls").result == "reached"


@pytest.mark.parametrize("sigma", [(1, 1, 1, 0.99), (1, 0.9, 0.8, 0.6)])
def test_a_weight_that_stays_or_still_runs_has_not_settled(collected, sigma):
    table = table3.table3_table(collected.iloc[:0], retrieval({}), {("ours", "bach", 42): course(*sigma)})
    assert row_of(table, "learned sigma_cls").result == "not reached"


def test_what_has_not_run_is_not_measured(collected):
    table = table3.table3_table(collected.iloc[:0], retrieval({}), {})
    assert set(table.result) == {"not measured"} and len(table) == 8
