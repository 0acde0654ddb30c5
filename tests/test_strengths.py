"""Strengths are chosen on source validation: known answers, and nothing read from the target."""
import itertools

import pandas as pd
import pytest
from test_learner import TINY, write_cohort

from xmodal import adapt, adapt_run, config, learner, strengths
from xmodal.methods import METHODS, OURS


def test_the_best_mean_over_folds_is_chosen_and_of_equals_the_smallest():
    rows = []
    for held_out, scores in (("bach", (0.7, 0.8, 0.8)), ("inbreast", (0.9, 0.8, 0.8))):
        for value, score in zip((0.1, 1.0, 10.0), scores):
            common = {"value": value, "held_out": held_out, "unseen": -value}
            rows.append({"method": "irm", "switch": "irm", "validation": score, **common})
            rows.append({"method": "coral", "switch": "coral", "validation": value / 100, **common})
    chosen = strengths.choose(pd.DataFrame(rows)).set_index("method")
    assert chosen.value.to_dict() == {"coral": 10.0, "irm": 0.1}
    assert chosen.validation["irm"] == pytest.approx(0.8)


def test_every_method_has_the_same_budget():
    assert len({len(values) for _, values in strengths.SWEEP.values()}) == 1


@pytest.mark.parametrize("method", strengths.SWEEP)
def test_methods_have_the_strengths_that_were_chosen(method):
    """docs/strengths.csv is what `make strengths` measured."""
    swept = pd.read_csv(config.HOME / "docs" / "strengths.csv")
    switch, values = strengths.SWEEP[method]
    mine = swept[(swept.method == method) & (swept.switch == switch)]
    assert sorted(zip(mine.held_out, mine.value)) == sorted(itertools.product(config.DOMAINS, values))
    assert getattr(METHODS[method], switch) == strengths.choose(mine).value.item()


def test_labels_of_the_target_choose_nothing(home):
    table = write_cohort(config.DATA / "lesson", people=8)
    clean = strengths.sweep(TINY, table, ["irm"], ["bach"])
    poisoned = table.copy()
    target = poisoned.domain == "bach"
    poisoned.loc[target, ["allowed", "file_allowed"]] = 1
    poisoned["truth"] = 3 - poisoned.truth
    swept = strengths.sweep(TINY, poisoned, ["irm"], ["bach"])
    assert swept.validation.equals(clean.validation) and not swept.unseen.equals(clean.unseen)
    assert len(clean) == 3 and clean.validation.between(0, 1).all()


def test_every_anchor_adapts_every_run_to_its_target(home, monkeypatch):
    table = write_cohort(config.DATA / "lesson", people=8)
    for held_out in config.DOMAINS:
        learner.train(TINY, OURS, held_out, 42, table)
    anchors = []

    def noted(model, target, how, anchor, watch):
        anchors.append((how, anchor))
        return adapt.adapt(model, target, how, anchor=anchor, watch=watch)

    monkeypatch.setattr(config, "SEEDS", (42,))
    monkeypatch.setattr(strengths, "ANCHORS", (0.0, 1e9))
    monkeypatch.setattr(adapt_run, "adapt", noted)
    measured = strengths.sweep_anchor(TINY, table)
    assert anchors == [("causal", 0.0), ("causal", 1e9)] * len(config.DOMAINS)
    assert measured.held_out.tolist() == sorted(config.DOMAINS) * 2
    assert measured.value.tolist() == [0.0] * 4 + [1e9] * 4 and measured.unseen.between(0, 1).all()


def test_the_table_in_paper_md_is_what_was_measured():
    swept = pd.read_csv(strengths.TABLE)
    page = (config.HOME / "PAPER.md").read_text()
    for (method, switch), rows in swept.groupby(["method", "switch"]):
        means = rows.groupby("value")[["validation", "unseen"]].mean()
        values = ", ".join(f"{value:g}" for value in means.index)
        read = ", ".join(f"{auc:.3f}" for auc in means.validation.dropna()) or "not read"
        unseen = ", ".join(f"{auc:.3f}" for auc in means.unseen)
        assert f" | {values} | {read} | {unseen} |" in page, (method, switch)
