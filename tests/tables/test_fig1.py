"""fig1: what all methods have in common is compared, and the numbers are those of `stats`."""
import numpy as np
import pandas as pd
import pytest
from small_runs import study

from xmodal import stats
from xmodal.metrics import weighted
from xmodal.tables import common, fig1


@pytest.fixture(scope="module")
def predictions():
    return study()


@pytest.fixture(scope="module")
def tables(predictions):
    return fig1.fig1_tables(predictions, n=200)


def test_resamples_in_parts_give_what_all_at_once_give(predictions, monkeypatch):
    wide = fig1.scores(predictions)
    whole = fig1.fig1_measures(wide, n=30)
    monkeypatch.setattr(fig1, "AT_ONCE", 4 * len(wide))
    parts = fig1.fig1_measures(wide, n=30)
    assert list(parts) == list(whole)
    for key, values in whole.items():
        np.testing.assert_allclose(parts[key], values, rtol=1e-12)


def test_one_class_only_gives_no_curve_and_no_error():
    assert np.isnan(fig1.roc(np.ones(3, bool), np.arange(3.0))).all()
    assert np.isnan(fig1.precision_recall(np.zeros(3, bool), np.arange(3.0))).all()


def test_auc_is_averaged_over_runs(predictions, tables):
    rows = common.decided(predictions[(predictions.method == "ours") & (predictions.split == "target")])
    aucs = [stats.auc(run.y, run.p) for _, run in rows.groupby(["held_out", "seed"])]
    row = tables["fig1a"].query("method == 'ours'").iloc[0]
    assert row.auc == pytest.approx(np.mean(aucs)) and row.low < row.auc < row.high
    assert (row.runs, row.cohort, row.seeds) == (4, "external test", "42 1234")
    assert list(tables["fig1a"].method.unique()) == ["radiomics_lr", "radiomics_rf", "ours"]


def test_curves_of_a_perfect_and_of_a_constant_score():
    y = np.array([True, True, False, False, False])
    np.testing.assert_array_equal(fig1.roc(y, y + 0.0), np.ones(101))
    np.testing.assert_allclose(fig1.roc(y, np.ones(5)), weighted.GRID)
    np.testing.assert_array_equal(fig1.precision_recall(y, y + 0.0), np.ones(101))
    np.testing.assert_allclose(fig1.precision_recall(y, np.ones(5)), 0.4)


def test_the_mean_roc_curve_has_the_mean_area(tables):
    for _, curve in tables["fig1a"].groupby("method"):
        assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(curve.auc.iloc[0], abs=0.02)


def test_ece_is_of_every_domain_and_its_shift_is_against_training(predictions, tables):
    rows = common.decided(predictions[predictions.method == "ours"])
    target = rows[rows.split == "target"].groupby(["held_out", "seed"])
    row = tables["fig1d"].query("method == 'ours'").iloc[0]
    plain = [stats.ece(run.y, run.p, weighted.BINS) for _, run in target]
    assert row.plain_ece == pytest.approx(np.mean(plain))
    assert row.low <= row.ece <= row.high and row.ece < row.plain_ece
    assert row["shift"] == pytest.approx(row.ece - tables["fig1f"].query("method == 'ours'").ece.iloc[0])
    assert (tables["fig1f"]["shift"] == 0).all()
    bach = rows[(rows.split == "target") & (rows.domain == "bach")]
    error = stats.debiased_ece(bach.y, bach.p, bach.patient, weighted.BINS, runs=bach.seed)
    assert f"bach {error.value:.2f} [{error.low:.2f}, {error.high:.2f}]" in row.by_domain
    assert tables["fig1d"].groupby("method")["rows"].sum().unique() == [len(rows[rows.split == "target"])]


def test_the_threshold_is_from_validation_and_never_from_the_target(predictions, tables):
    """Other labels on the target change no threshold; Youden's on the validation rows is what is used."""
    thresholds = fig1.thresholds(fig1.scores(predictions))
    target = predictions.split == "target"
    swapped = predictions.allowed.map({3: 12, 12: 3})
    other = predictions.assign(allowed=predictions.allowed.mask(target, swapped))
    assert fig1.thresholds(fig1.scores(other)) == thresholds
    run = predictions.query("method == 'ours' and held_out == 'bach' and seed == 42")
    rows = common.decided(run[run.split == "validation"])
    assert thresholds[("bach", 42), "ours"] == stats.youden(rows.y, rows.p).threshold
    calls = tables["fig1g"].query("method == 'ours'").set_index("measure")
    assert set(calls.index) == {"accuracy", "f1", "sensitivity", "specificity"}
    assert (calls.low <= calls.value).all() and (calls.value <= calls.high).all()


def test_net_benefit_and_precision_begin_where_they_must(tables):
    benefit, curves = tables["fig1i"], tables["fig1h"]
    at_zero = benefit[benefit.threshold == 0]
    np.testing.assert_allclose(at_zero.net_benefit, at_zero.treat_all)      # everyone is treated
    prevalence = curves.prevalence.iloc[0]
    assert at_zero.treat_all.iloc[0] == pytest.approx(prevalence)
    np.testing.assert_allclose(curves[curves.recall == 1].precision, prevalence, atol=0.2)
    inb = benefit.groupby("method").inb.first()
    relative = benefit.query("method == 'radiomics_lr'").relative.iloc[0]
    assert relative == pytest.approx(inb["radiomics_lr"] / inb.drop("radiomics_lr").max() - 1)


def test_only_what_all_methods_have_is_compared(predictions):
    """A learner with one run leaves that run to all; the same images are counted for every method."""
    one_run = (predictions.held_out == "bach") & (predictions.seed == 42)
    table = fig1.fig1_tables(predictions[(predictions.method != "radiomics_lr") | one_run], n=20)["fig1a"]
    assert set(table.runs) == {1} and table.images.nunique() == 1
    alone = fig1.fig1_tables(predictions[predictions.method == "ours"], n=20)["fig1a"]
    assert set(alone.method) == {"ours"} and set(alone.runs) == {4}


@pytest.mark.parametrize("ran", [
    "method in ('ours', 'radiomics_lr', 'radiomics_rf')", "condition == 'source'", "modality != 'none'"])
def test_nothing_that_ran_gives_empty_tables(predictions, ran):
    tables = fig1.fig1_tables(predictions.query(f"not ({ran})"), n=5)
    assert list(tables) == [f"fig1{letter}" for letter in "abcdefghi"]
    assert not any(len(table) for table in tables.values())


def test_without_validation_patients_there_is_no_call(predictions):
    table = fig1.fig1_tables(predictions[predictions.split != "validation"], n=5)["fig1g"]
    assert table["value"].isna().all() and table.threshold.isna().all()


def test_the_same_seed_gives_the_same_tables(predictions, tables):
    again = fig1.fig1_tables(predictions.sample(frac=1, random_state=1), n=200)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table)
