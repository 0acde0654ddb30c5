"""selection: the published sweep of DomainBed, and small tables whose best run is known."""
import json

import pandas as pd
import pytest
from test_stats import REFERENCE, needs_reference

from xmodal.config import Problem
from xmodal.metrics.selection import COLUMNS, HOW, select

TRAINING, LODO, ORACLE = HOW


def sweep():
    """DomainBed's records of ERM on VLCS: 2 trials x 2 configurations, 5 steps.

    Every domain and pair of domains is held out.
    """
    rows = []
    for path in sorted((REFERENCE / "domainbed_sweep" / "test_sweep_data").glob("*/results.jsonl")):
        for record in map(json.loads, path.read_text().splitlines()):
            args = record["args"]
            run = (args["trial_seed"], args["hparams_seed"], tuple(args["test_envs"]), record["step"])
            for env in range(4):
                rows.append((*run, env, record[f"env{env}_in_acc"], record[f"env{env}_out_acc"]))
    return pd.DataFrame(rows, columns=COLUMNS)


@needs_reference
@pytest.mark.parametrize("how, domains, mean", [
    (TRAINING, [98.0, 64.2, 74.1, 77.1], 78.3), (LODO, [96.9, 64.4, 70.5, 76.7], 77.1),
    (ORACLE, [96.9, 65.9, 71.6, 76.9], 77.8)])
def test_the_published_sweep(how, domains, mean):
    score = 100 * select(sweep().sample(frac=1, random_state=0), how).groupby("target")["score"].mean()
    assert list(score.round(1)) == domains and round(score.mean(), 1) == mean


def small():
    """Domains a, b, c; runs 0 and 1; steps 0 and 1.

    On target a, each rule has another favourite (run, step).
    """
    rows = []
    for run, step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        seen = {(0, 0): .9}.get((run, step), .5)                            # training-domain: (0, 0)
        target = {(0, 0): .99, (1, 1): .8}.get((run, step), .6)             # oracle: the last step of run 1
        pair = {(1, 0): .7}.get((run, step), .4)                            # leave-one-domain-out: (1, 0)
        for domain, validation in (("a", target), ("b", seen), ("c", seen)):
            rows.append((0, run, ("a",), step, domain, run + step / 10, validation))
        for also_held_out in "bc":
            for domain, score in (("a", 0), (also_held_out, pair)):
                rows.append((0, run, ("a", also_held_out), step, domain, score, 0))
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.mark.parametrize("how, run, step", [(TRAINING, 0, 0), (LODO, 1, 0), (ORACLE, 1, 1)])
def test_each_rule_by_hand(how, run, step):
    chosen, = select(small(), how).itertuples(index=False)
    assert (chosen.target, chosen.run, chosen.step, chosen.score) == ("a", run, step, run + step / 10)


@pytest.mark.parametrize("how", HOW[:2])
def test_selection_does_not_see_the_target(how):
    records = small()
    spoiled = records.assign(validation=records.validation.where(records.domain != "a", 0),
                             score=records.score.where(records.domain != "a", 0))
    columns = ["trial", "target", "run", "step", "validation"]
    assert select(spoiled, how)[columns].equals(select(records, how)[columns])


@pytest.mark.parametrize("how", HOW)
def test_order_of_the_records_does_not_matter_and_the_earliest_of_equals_wins(how):
    records = small()
    assert select(records.sample(frac=1, random_state=1), how).equals(select(records, how))
    chosen = select(records.assign(validation=.5, score=.5), how).iloc[0]
    assert (chosen.run, chosen.step) == (0, 1 if how == ORACLE else 0)


def test_steps_are_aligned():
    """Where a fold of the favourite has no record at that step, the step is out, also if others are there."""
    records = small()
    hole = (records.run == 1) & (records.step == 0) & records.held_out.map(lambda h: h == ("a", "c"))
    assert tuple(select(records[~hole], LODO).iloc[0][["run", "step"]]) != (1, 0)
    shifted = records.assign(step=records.step + 10 * (records.held_out.map(len) == 2))
    with pytest.raises(Problem, match="same steps"):
        select(shifted, LODO)


RECORDS = small()


@pytest.mark.parametrize("records, how", [
    (RECORDS, "target"), (RECORDS.drop(columns="run"), TRAINING),
    (RECORDS.assign(score=float("nan")), TRAINING),
    (pd.concat([RECORDS, RECORDS[:1]]), TRAINING), (RECORDS[RECORDS.domain == "a"], TRAINING)])
def test_bad_records_are_a_problem(records, how):
    with pytest.raises(Problem):
        select(records, how)


def test_of_no_records_nothing_is_selected():
    assert select(RECORDS[:0], TRAINING).empty
