"""RFPMSS fine-tuned with few labels: it learns what tokens show, at the target alone; rules are judged."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_rfpmss import SMALL, toy

from xmodal.companions import rfpmss_study, rfpmss_tuning
from xmodal.companions.rfpmss_tuning import Tuning
from xmodal.controls.verdict import COLUMNS

SHORT = replace(SMALL, epochs=1, length=8)
QUICK = Tuning(24, 3e-3)


def two_sites():
    """The toy's studies, the second half of training and of test studies at another site."""
    studies = toy()
    away = np.arange(160) % 2 == 1
    table = studies.table.assign(site=np.where(away, "away", "home")).sort_values("site", ascending=False)
    rows = table.index.to_numpy().copy()
    tokens = {view: x[rows] for view, x in studies.tokens.items()}
    return replace(studies, table=table.reset_index(drop=True), tokens=tokens, reports=studies.reports[rows])


@pytest.fixture(scope="module")
def starts():
    studies = two_sites()
    plan = rfpmss_study.trainings(studies.table, SHORT)
    return studies, {"RFPMSS": plan["RFPMSS"]._replace(name=rfpmss_tuning.UNTRAINED)}, plan


def test_a_label_that_tokens_show_is_learned_more_labels_teach_more_and_exchanged_ones_do_not(starts):
    studies, untrained, _ = starts
    whole, few = (rfpmss_tuning.of_share("lesson", studies, untrained, QUICK, "cpu", 0, share)
                  for share in (1.0, 0.01))
    assert whole["RFPMSS"] > 0.9 and whole["RFPMSS"] > few["RFPMSS"] + 0.05
    assert whole["RFPMSS"] > whole[rfpmss_tuning.SHUFFLED] + 0.2 and rfpmss_tuning.SHUFFLED not in few


def test_labels_and_test_studies_are_of_the_target_and_the_start_is_of_home(starts, monkeypatch):
    studies, untrained, plan = starts
    seen = []

    def tune(model, studies, rows, truth, *_):
        seen.append((rows, truth))
        raise KeyboardInterrupt

    monkeypatch.setattr(rfpmss_tuning, "tune", tune)
    with pytest.raises(KeyboardInterrupt):
        rfpmss_tuning.of_share("lesson", studies, untrained, QUICK, "cpu", 0, 0.1)
    rows, truth = seen[0]
    assert set(studies.table.site[rows]) == {"away"} and set(studies.table.split[rows]) == {"train"}
    assert set(studies.table.site[plan["RFPMSS"].train]) == {"home"}
    assert np.array_equal(truth, studies.table.label[rows] == "malignant")


@pytest.mark.parametrize("share, counts", [(1.0, [70, 30]), (0.1, [7, 3]), (0.01, [1, 1])])
def test_a_share_of_labels_is_of_either_class_and_the_seed_draws_it(share, counts):
    truth = np.arange(100) % 10 // 7
    rows = rfpmss_study.some_labels(truth, share, 1)
    assert np.bincount(truth[rows]).tolist() == counts and len(set(rows)) == len(rows)
    assert np.array_equal(rows, rfpmss_study.some_labels(truth, share, 1))
    if share < 1:
        assert not np.array_equal(rows, rfpmss_study.some_labels(truth, share, 2))


def test_all_starts_are_tuned_once_and_pretrained_weights_stay(home, starts, monkeypatch):
    studies, _, plan = starts
    of_starts = {name: plan[name] for name in rfpmss_tuning.STARTS if name != rfpmss_tuning.UNTRAINED}
    rfpmss_study.run_all("lesson", studies, of_starts, [3])
    files = sorted(rfpmss_study.place("lesson", "RFPMSS", 3).iterdir())
    before = [path.read_bytes() for path in files]
    short = Tuning(2, 1e-3)
    table = rfpmss_tuning.of_seed("lesson", studies, plan, short, "cpu", 3)
    assert before == [path.read_bytes() for path in files]
    arms = {*rfpmss_tuning.STARTS, "chance"}
    for dose, of_dose in table.groupby("dose"):
        assert set(of_dose.arm) == (arms | {rfpmss_tuning.SHUFFLED} if dose == 0 else arms)
    monkeypatch.setattr(rfpmss_tuning, "of_share", None)          # what is done is read back
    again = rfpmss_tuning.of_seed("lesson", studies, plan, short, "cpu", 3)
    pd.testing.assert_frame_equal(table, again)


def made_up(gains):
    """A table of six seeds, whose differences between seeds are far larger than those between starts."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(6):
        for dose in rfpmss_tuning.SHARES:
            level = rng.uniform(0.5, 0.8)
            values = {name: level + gains.get(name, 0) * (1 + dose) for name in rfpmss_tuning.STARTS}
            values |= {"chance": 0.5, rfpmss_tuning.SHUFFLED: 0.5}
            for arm, value in values.items():
                value += rng.normal(0, 0.002)
                rows.append(("", "", "", "", dose, seed, arm, value))
    return pd.DataFrame(rows, columns=COLUMNS)


def test_differences_are_paired_by_seed_and_rules_follow_from_them():
    table = made_up({"RFPMSS": 0.05})
    compared = rfpmss_tuning.compare(table).set_index(["name", "labels"])
    row = compared.loc["untrained", 0.01]
    assert row.difference == pytest.approx(0.15, abs=0.01) and row.low > 0.14 and row.high < 0.16
    assert row.p < 1e-6 and row.seeds == 6 and compared.loc["RFPMSS", 1.0].difference == 0
    judged = rfpmss_tuning.verdicts(table)
    assert len(judged) == len(rfpmss_tuning.RULES) and judged.verdict.eq("holds").all()
    failed = rfpmss_tuning.verdicts(made_up({})).query("verdict != 'holds'")
    assert len(failed) == len(rfpmss_tuning.RULES) - 1 and "negative" not in set(failed.kind)
