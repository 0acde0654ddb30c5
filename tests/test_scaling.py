"""What more patients bring: who learns and who is unseen, and a curve whose answer is known."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_learner import TINY

from data_scripts.phantom import pretraining
from xmodal import config, scaling
from xmodal.controls.power import power_law


def test_a_power_law_is_read_back():
    n = np.array([70, 300, 1000])
    assert power_law(n, 1 - 0.8 * n ** -0.25) == pytest.approx((0.8, 0.25))


def cohort(patients=500):
    names = [f"p{i:03d}" for i in range(patients)]
    return pd.DataFrame({"patient": np.repeat(names, 2), "modality": list(config.MODALITIES) * patients})


def test_the_unseen_are_the_same_for_every_size_and_nobody_is_in_two_splits():
    folds = [scaling.fold_of(cohort(), n, seed) for n, seed in ((20, 42), (100, 42), (100, 43))]
    of = [fold.groupby("split").patient.agg(set) for fold in folds]
    for splits, n in zip(of, (20, 100, 100)):
        assert [len(splits[name]) for name in ("train", "validation", "target")] == [
            n, scaling.VALIDATION, scaling.UNSEEN]
        assert not splits.train & splits.target and not splits.train & splits.validation
    assert of[0].target == of[1].target == of[2].target and of[0].train < of[1].train != of[2].train


def test_a_training_is_measured_on_the_unseen(home, monkeypatch):
    small = {"PATIENTS": (8,), "VALIDATION": 8, "AMONG": 4, "UNSEEN": 8, "STEPS": 4}
    for name, value in small.items():
        monkeypatch.setattr(scaling, name, value)
    profile = replace(TINY, name="scaling", batch=4)
    folder = home / "data" / "scaling"
    table = pretraining.write(folder, replace(profile, pretrain_patients=24), seed=13, workers=1)
    assert table.patient.nunique() == 24
    row = scaling.measured(profile, "align_only", 8, 42, table)
    assert row["chance_at_10"] == 1 == row["r_at_10"], "four tissues are all among the first ten"
    assert 0 <= row["auc"] <= 1


def test_the_table_holds_every_size_method_and_seed():
    table = pd.read_csv(scaling.TABLE)
    index = pd.MultiIndex.from_product([scaling.METHODS, scaling.PATIENTS, config.SEEDS])
    assert sorted(zip(table.method, table.patients, table.seed)) == sorted(index)
    assert table.r_at_10.between(0, 1).all()
    assert np.allclose(table.chance_at_10, 10 / scaling.AMONG, atol=1e-4)


def test_make_draws_as_many_patients_as_are_needed():
    target = (config.HOME / "Makefile").read_text().split("\nscaling:")[1].split("\n\n")[0]
    assert f" {max(scaling.PATIENTS) + scaling.VALIDATION + scaling.UNSEEN} " in target
