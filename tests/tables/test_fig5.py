"""fig5: every reading counts once, and the numbers are those of `stats`."""
import numpy as np
import pandas as pd
import pytest
from small_runs import study

from xmodal import stats
from xmodal.config import CLASSES
from xmodal.metrics import weighted
from xmodal.tables import fig5


@pytest.fixture(scope="module")
def predictions():
    return study()


@pytest.fixture(scope="module")
def tables(predictions):
    return fig5.fig5_tables(predictions, n=200)


@pytest.fixture(scope="module")
def rows(predictions):
    return fig5.readings(predictions)


def test_confusion_counts_every_reading_once(rows, tables):
    table = tables["fig5n"]
    assert len(table) == len(CLASSES) ** 2 and table["count"].sum() == len(rows) == table.readings.iloc[0]
    assert table.groupby("truth")["value"].sum().to_numpy() == pytest.approx(1)
    diagonal = table[table.truth == table.predicted]["count"].sum()
    assert diagonal == (rows.truth == rows.called).sum()
    by_finding = tables["fig5m"]
    assert by_finding.readings.sum() == len(rows)
    assert (by_finding["value"] * by_finding.readings).sum() == pytest.approx(diagonal)
    assert set(by_finding[by_finding.finding == "none"].truth) == {0}


def test_calibration_of_classes_and_of_confidence(rows, tables):
    table = tables["fig5o"].groupby("of").first()
    by_domain = [stats.ece(part.truth == 3, part.p3, weighted.BINS) for _, part in rows.groupby("domain")]
    assert table.plain_ece["invasive"] == pytest.approx(np.mean(by_domain))
    confidence = rows[fig5.PROBABILITIES].max(axis=1)
    error = stats.debiased_ece(rows.truth == rows.called, confidence, rows.patient, weighted.BINS,
                               runs=rows.domain)
    assert tuple(table.loc["confidence", ["ece", "low", "high", "plain_ece"]]) == pytest.approx(error)


def test_simulated_readers_do_not_know_the_ai_before_they_see_it():
    truth, patients = np.repeat(np.arange(4), 2000), np.arange(8000)
    with_bad = fig5.simulated_readers(truth, 3.0 - truth, patients, 1)
    with_good = fig5.simulated_readers(truth, truth + 0.0, patients, 1)
    without = with_bad["readers without AI"]
    np.testing.assert_array_equal(without, with_good["readers without AI"])

    def kappa(classes):
        return np.mean([stats.kappa(truth, of_reader) for of_reader in classes])

    assert kappa(without) == pytest.approx(0.72, abs=0.02)       # what the paper prints without AI
    assert kappa(with_bad["readers with AI"]) < kappa(without) < kappa(with_good["readers with AI"])


def test_a_reader_reads_a_patient_once():
    classes = fig5.simulated_readers([1, 1, 2], [0.0, 0.0, 0.0], ["a", "a", "b"])["readers without AI"]
    assert (classes[:, 0] == classes[:, 1]).all() and classes.shape == (fig5.READERS, 3)


def test_kappa_of_readers_and_of_ours_alone(rows, tables):
    table = tables["fig5p"]
    alone = table[table.condition == "AI alone"].iloc[0]
    assert alone["mean"] == alone.kappa == pytest.approx(stats.kappa(rows.truth, rows.called))
    means = table.groupby("condition", sort=False)["mean"].first()
    before = means["readers with AI"]
    assert alone.gain == pytest.approx(means["AI alone"] - before)
    assert alone.relative == pytest.approx(alone.gain / before)
    readers = table.condition.value_counts().to_dict()
    assert readers == {"AI alone": 1, "readers with AI": 5, "readers without AI": 5}


def test_a_method_of_one_modality_is_judged_on_the_same_patients(predictions, rows):
    """Its class is that of the mean probability over the patient's images.

    Patients without a joint prediction do not count.
    """
    swin = predictions.query("method == 'radiomics_lr' and modality == 'mammography'")
    swin = swin.assign(method="swin_mammography")
    table = fig5.shared_readings(pd.concat([predictions, swin]), ("ours", "swin_mammography"))
    assert 0 < len(table) < len(rows) and set(table.index) <= set(rows.set_index(fig5.READING).index)
    of_patient = swin.set_index(fig5.READING).loc[[table.index[0]]]
    assert table["swin_mammography"].iloc[0] == of_patient[fig5.PROBABILITIES].mean().to_numpy().argmax()


def test_quadratic_kappa_against_ours(predictions):
    late = predictions.query("method == 'radiomics_rf'").assign(method="late_fusion")
    table = fig5.fig5q(pd.concat([predictions, late]), n=50).set_index("method")
    shared = fig5.shared_readings(pd.concat([predictions, late]))
    kappa = stats.kappa(shared["true class"], shared["late_fusion"], "quadratic")
    assert table.qwk["late_fusion"] == pytest.approx(kappa)
    assert table.difference["ours"] == 0
    assert table.difference["late_fusion"] == pytest.approx(table.qwk["late_fusion"] - table.qwk["ours"])
    assert table.qwk["ours_ordinal"] == pytest.approx(table.qwk["ours"])    # says the likeliest class here


def test_the_threshold_of_panel_r_is_from_validation(predictions, rows, tables):
    row = tables["fig5r"].iloc[0]
    chosen = {}
    for run, group in fig5.readings(predictions, split="validation").groupby(["held_out", "seed"]):
        chosen[run] = stats.youden(group.truth >= 2, group.malignant).threshold
    assert len(set(chosen.values())) > 1 and row.chosen == pytest.approx(np.mean(list(chosen.values())))
    malignant = rows[rows.truth >= 2]
    thresholds = [chosen[run] for run in zip(malignant.held_out, malignant.seed)]
    assert row.sensitivity_at == pytest.approx((malignant.malignant >= thresholds).mean())
    assert row.youden_at == pytest.approx(row.sensitivity_at + row.specificity_at - 1)
    assert row.youden_at_low <= row.youden_at <= row.youden_at_high


def test_each_run_of_panel_r_is_called_at_its_own_threshold():
    """Two runs on different scales: each tells all apart at its own threshold.

    At their mean half would be missed.
    """
    rows = pd.DataFrame({"held_out": "bach", "seed": [42, 42, 1234, 1234], "patient": list("abcd"),
                         "truth": [0, 3, 1, 2], "malignant": [.2, .4, .6, .8]})
    row = fig5.fig5r(rows, np.ones((3, 4)), rows).iloc[0]
    assert (row.sensitivity_at, row.specificity_at, row.youden_at) == (1, 1, 1)


def test_where_nobody_is_malignant_panel_r_has_no_index():
    rows = pd.DataFrame({"held_out": "bach", "seed": 42, "patient": list("abc"), "truth": [0, 1, 1],
                         "malignant": [.2, .4, .6]})
    assert fig5.fig5r(rows, np.ones((3, 3)), rows).youden.isna().all()


@pytest.mark.parametrize("ran", ["method == 'ours'", "condition == 'source'", "modality != 'none'"])
def test_nothing_that_ran_gives_empty_tables(predictions, ran):
    tables = fig5.fig5_tables(predictions.query(f"not ({ran})"), n=5)
    assert set(tables) == {f"fig5{letter}" for letter in "mnopqr"}
    assert not any(len(table) for table in tables.values())


def test_the_same_seed_gives_the_same_tables(predictions, tables):
    again = fig5.fig5_tables(predictions.sample(frac=1, random_state=1), n=200)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table)
