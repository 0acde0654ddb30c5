"""What adaptation gains and costs: paired with the runs as trained, over folds, adjusted over the table."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from xmodal.tables import adaptation

FOLDS = ("cbis_ddsm", "inbreast", "bach", "camelyon")


def shifted(loss, spread=0.001):
    """{key: run} with a loss of AUC by causal adaptation under label shift, and a spread over folds."""
    runs = {}
    for k, held_out in enumerate(FOLDS):
        for seed in (42, 1234):
            auc = {"source": 0.8, "adabn": 0.8 + spread * k, "causal": 0.8 - loss + spread * k}
            table = pd.DataFrame({
                "condition": list(auc), "auc": list(auc.values()), "brier": 0.2, "images": 60,
                "patients": 40, "malignant_share": 0.2, "malignant_share_before": 0.5})
            runs["ours", held_out, seed] = SimpleNamespace(label_shift=table)
    return runs


@pytest.mark.parametrize("loss, spread, verdict", [
    (0.0, 0.001, "no such loss"), (0.1, 0.001, "loss"), (0.02, 0.01, "not distinguished")])
def test_a_loss_under_label_shift_is_judged_by_its_interval(loss, spread, verdict):
    table = adaptation.label_shift(shifted(loss, spread))
    causal = table[table.condition == "causal"]
    assert len(table) == 4 * 2 * 3 and (causal.verdict == verdict).all() and (causal.folds == 4).all()
    assert np.allclose(causal.difference, 1.5 * spread - loss)
    assert table.p_t[table.condition == "source"].isna().all()


def test_gains_are_differences_of_folds(collected):
    table = adaptation.gains(collected)
    assert set(table.method) == {"ours"} and "source" not in set(table.condition)
    row = table[table.condition == "causal"].iloc[0]
    aucs = adaptation.aucs(collected[(collected.method == "ours") & (collected.split == "target")])
    wide = aucs.pivot_table(index="held_out", columns="condition", values="auc")
    gain = wide.causal - wide.source
    assert row.difference == pytest.approx(gain.mean()) == pytest.approx(row.auc - row.auc_source)
    if np.ptp(gain) > 1e-9:
        assert row.p_t == pytest.approx(ttest_1samp(gain, 0).pvalue)


def test_without_runs_the_tables_are_empty():
    assert not len(adaptation.label_shift({}))
    run = SimpleNamespace(label_shift=None)
    assert not len(adaptation.label_shift({("erm", "bach", 42): run}))
