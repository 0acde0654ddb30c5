"""posthoc: a temperature mends what it can mend, sets cover what they promise, readers are crossed."""
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from small_runs import boxed

from xmodal import stats
from xmodal.methods import OURS
from xmodal.tables import posthoc
from xmodal.tables.fig5 import READERS


def patients(split, n, seed, sharpened=1.0, shift=0.0):
    """Images of n patients whose probability is right where `sharpened` is 1 and `shift` is 0."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    y = rng.random(n) < expit(score)
    p = expit(sharpened * (score + shift))
    names = np.char.add(split, np.arange(n).astype(str))
    return pd.DataFrame({
        "method": OURS, "held_out": "bach", "seed": 42, "condition": "source", "modality": "histopathology",
        "split": split, "domain": "bach", "patient": names, "sample": np.char.add(names, "/0"),
        "allowed": np.where(y, 12, 3),
        "p0": 1 - p, "p1": 0.0, "p2": p, "p3": 0.0})


@pytest.fixture(scope="module")
def overconfident():
    """Four times too sure, on validation, source test and target alike."""
    return pd.concat([patients(split, 800, k, 4.0) for k, split in
                      enumerate(("validation", "source test", "target"))])


def test_a_temperature_mends_a_model_that_is_too_sure(overconfident):
    row = posthoc.fig1_temperature(overconfident, n=100).iloc[0]
    assert row.temperature == pytest.approx(4, rel=0.2)
    assert row.ece_before > 0.15 and row.ece_after < 0.05 and row.high < 0
    assert row.change == pytest.approx(row.brier_after - row.brier_before)
    assert row.reliability_after < row.reliability_before
    y = stats.brier_parts([0, 1], [0.5, 0.5]).uncertainty
    assert row.uncertainty == pytest.approx(y, abs=0.01)


def test_the_temperature_is_not_of_the_target(overconfident):
    target = overconfident.split == "target"
    swapped = overconfident.assign(allowed=overconfident.allowed.where(~target, 15 - overconfident.allowed))
    before = posthoc.fig1_temperature(overconfident, n=5).temperature
    assert posthoc.fig1_temperature(swapped, n=5).temperature.equals(before)


def test_sets_cover_like_patients_and_not_a_shifted_domain():
    """By the same thresholds, so that what their calibration lacks is no difference between domains."""
    source = pd.concat([patients("validation", 800, 0), patients("source test", 800, 1)])
    alike = pd.concat([source, patients("target", 800, 3)])
    shifted = pd.concat([source, patients("target", 800, 2, shift=-3.0)]).assign(held_out="camelyon")
    table = posthoc.fig1_sets(pd.concat([alike, shifted]), n=100).set_index("held_out")
    assert abs(table.source_coverage["bach"] - 0.9) < 0.04 and table.word["camelyon"] == "falls"
    row = table.loc["bach"]
    assert row.difference == pytest.approx(row.coverage - row.source_coverage) and abs(row.difference) < 0.05
    assert row.decided == pytest.approx(2 - row["size"])


def test_free_response_counts_hits_and_false_boxes():
    rows = pd.concat([boxed(), boxed(seed=1234)])
    table = posthoc.fig4_froc(rows, [OURS])
    assert list(table.false_per_image) == list(posthoc.RATES) and (table.runs == 2).all()
    assert table.sensitivity.is_monotonic_increasing and table.sensitivity.between(0, 1).all()
    never = posthoc.fig4_froc(rows.assign(box_score=np.nan, iou=0.0), [OURS])
    assert (never.sensitivity == 0).all()


def readings(n=40):
    truth = np.arange(n) % 4
    return pd.DataFrame({"patient": np.arange(n).astype(str), "truth": truth, "severity": truth + 0.0})


def test_simulated_readers_are_compared_by_readers_and_cases():
    table = posthoc.fig5_readers(readings()).set_index("random")
    assert list(table.index) == ["readers and cases", "cases", "readers"]
    row = table.loc["readers and cases"]
    assert (row.readers, row.patients) == (READERS, 40)
    assert row.difference == pytest.approx(row.auc_with - row.auc_without) and row.difference >= 0
    test = stats.obuchowski_rockette(posthoc.reader_table(readings()))
    assert row.p == pytest.approx(test.p) and row.low == pytest.approx(test.low)


def test_little_gives_empty_tables(overconfident):
    nothing = overconfident.iloc[:0]
    assert posthoc.fig1_temperature(nothing).empty and posthoc.fig1_sets(nothing).empty
    assert posthoc.fig1_temperature(overconfident[overconfident.split != "validation"]).empty
    assert posthoc.fig4_froc(boxed().iloc[:0]).empty
    assert posthoc.fig5_readers(readings()[lambda rows: rows.truth < 2]).empty


def test_a_probability_of_0_or_1_has_a_logit():
    sure = patients("target", 8, 0).assign(p2=1.0, p0=0.0)
    assert np.isfinite(logit(posthoc._as_trained(sure, [OURS]).p)).all()
