"""The study of fusion: what is kept and goes on, tables and intervals, the control, survival by region."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from test_fusion import TINY, cohort, fold_of  # noqa: F401 (cohort is a fixture)

from data_scripts import tcga_tables
from figures import fusion as figure, mirror as mirror_figure
from xmodal import config
from xmodal.companions import (
    fusion, fusion_control, fusion_inputs, fusion_panels, fusion_study, fusion_survival, paired, study,
)
from xmodal.companions.fusion_study import CONCATENATED, FUSED, HIDDEN, MEAN
from xmodal.companions.paired import MODALITIES
from xmodal.config import HOME
from xmodal.controls import verdict
from xmodal.tables import common

CLINICAL = HOME.parent / "shared" / "data" / "tcga_brca_clinical"


def everyone(n, names=MODALITIES):
    return {m: torch.ones(n, dtype=torch.bool) for m in names}


# ---- the study ---------------------------------------------------------------------------------------------

def without(n, share):
    """{modality: (n,) bool}: a share of the patients lacks each; who lacks everything has the record."""
    copy, clinical, slide = np.random.default_rng(1).random((3, n)) >= share
    return {"copy number": copy, "clinical": clinical | ~(copy | slide), "bag": slide, "graph": slide}


def test_a_study_covers_every_subset_with_missing_modalities_and_resumes(tmp_path, home):
    few = paired.draw(80, seed=1, side=5)
    present = without(80, 0.3)
    p = fusion_study.study(few, TINY, 42, tmp_path, present)["probabilities"]
    every = {" + ".join(s) for s in fusion.subsets(MODALITIES)}
    assert {way: set(rows.subset) for way, rows in p.groupby("way") if way in (FUSED, HIDDEN)} == {
        FUSED: every, HIDDEN: every}
    fused = p[p.way == FUSED]
    whole = fused[fused.subset == " + ".join(MODALITIES)]
    assert sorted(whole.patient) == sorted(few.patient), "each patient is tested once, whatever is missing"
    assert fused.groupby("subset").patient.nunique()["bag"] == present["bag"].sum()
    assert np.allclose(p.filter(regex=r"^p\d$").sum(axis=1), 1, atol=1e-5)
    stamp = (tmp_path / "fold_0" / "done").stat().st_mtime_ns
    again = fusion_study.study(few, TINY, 42, tmp_path, present)
    assert again["probabilities"].equals(p) and (tmp_path / "fold_0" / "done").stat().st_mtime_ns == stamp
    scores = fusion_panels.scores(p.assign(unit=p.fold))
    missing = fusion_panels.by_missing(scores, MODALITIES)
    common.write(fusion_panels.summary(scores, ["subset", "way"]), "fusion_subsets", "lesson")
    common.write(fusion_panels.summary(missing, ["missing", "way"]), "fusion_missing", "lesson")
    figure.draw()
    assert (config.FIGURES / "fusion" / "fusion.png").stat().st_size > 10_000


def test_an_arm_that_is_kept_is_not_trained_again_when_a_modality_is_added(tmp_path, cohort):  # noqa: F811
    """What an arm's folder depends on is what the arm reads: a further table leaves the others' folders."""
    few = cohort.select(range(90))
    more = dataclasses.replace(few, more={"miRNA": few.expression.iloc[:, :5]})
    fusion_study.study(few, TINY, 42, tmp_path, folds=[0])
    names = [m.replace(" ", "_") for m in MODALITIES]
    before = [(tmp_path / "fold_0" / name / "done").stat().st_mtime_ns for name in names]
    p = fusion_study.study(more, TINY, 42, tmp_path, folds=[0])["probabilities"]
    after = [(tmp_path / "fold_0" / name / "done").stat().st_mtime_ns for name in names]
    assert before == after and "miRNA" in set(p.subset) and (tmp_path / "fold_0" / "miRNA" / "done").exists()


@pytest.mark.parametrize("which", ["clinical", "concatenated_hidden"])
def test_a_training_that_was_cut_goes_on_to_the_same_bits(tmp_path, cohort, monkeypatch, which):  # noqa: F811
    """Cut after its second epoch, with dropout and hidden modalities drawn at random; nothing is repeated."""
    fold = fold_of(cohort, dataclasses.replace(TINY, epochs=4))

    def train(folder):
        if which == "clinical":
            fusion_study.train_arm(which, fold, folder)
        else:
            fusion_study.train_concatenated(("copy number", "clinical"), fold, folder, 0.3)
        return study.tensors(folder / which)

    whole = train(tmp_path / "whole")
    epochs = []

    def counted(epoch, *rest):
        epochs.append(epoch)
        if epoch == 2 and len(epochs) == 3:
            raise KeyboardInterrupt
        return one_epoch(epoch, *rest)

    one_epoch = study.one_epoch
    monkeypatch.setattr(study, "one_epoch", counted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    resumed = train(tmp_path / "cut")
    assert epochs == [0, 1, 2, 2, 3]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_concatenation_reads_nothing_of_what_a_subset_lacks(tmp_path, cohort):  # noqa: F811
    names = ("copy number", "clinical")
    fold = fold_of(cohort)
    model = fusion_study.train_concatenated(names, fold, tmp_path)
    alone = model(np.arange(5), ("clinical",))
    whole = model(np.arange(5))
    fold.inputs.columns["copy number"] = torch.randn_like(fold.inputs.columns["copy number"])
    assert torch.equal(alone, model(np.arange(5), ("clinical",)))
    assert not torch.equal(whole, model(np.arange(5)))


def test_hidden_modalities_are_a_share_and_a_slide_is_hidden_whole():
    torch.manual_seed(0)
    shown = fusion_study._some(everyone(4000), 0.3)
    assert torch.equal(shown["bag"], shown["graph"]) and not torch.equal(shown["bag"], shown["clinical"])
    assert all(0.66 < mask.float().mean() < 0.74 for mask in shown.values())


def test_parts_of_a_table_hold_every_column_once(cohort):  # noqa: F811
    whole = dataclasses.replace(cohort, more={"miRNA": cohort.expression})
    parts = fusion_inputs.in_parts(whole, "miRNA", 3, seed=1)
    assert list(parts.more) == ["miRNA 1", "miRNA 2", "miRNA 3"]
    assert sorted(sum((list(table) for table in parts.more.values()), [])) == sorted(cohort.expression)
    assert {"miRNA 1", "miRNA 3"} < set(fusion_inputs.having(parts)) and list(whole.more) == ["miRNA"]


def test_logistic_regression_knows_an_easy_table_and_chance_on_noise(cohort):  # noqa: F811
    rng = np.random.default_rng(0)
    easy = pd.DataFrame(np.eye(5)[cohort.pam50] + 0.1 * rng.normal(size=(150, 5)))
    tables = {"easy": easy, "noise": pd.DataFrame(rng.normal(size=(150, 2)))}
    tabled = dataclasses.replace(cohort, more=tables)
    right = {}
    for name in tables:
        p = fusion_study.linear(tabled, name, 42)
        assert sorted(p.patient) == sorted(cohort.patient)
        right[name] = fusion_panels.accuracy(p.truth.to_numpy(), p.filter(regex=r"^p\d$").to_numpy())
    assert right["easy"] > 0.95 and right["noise"] < 0.45, right


# ---- its tables --------------------------------------------------------------------------------------------

def test_macro_f1_is_scikit_learns():
    from sklearn.metrics import f1_score
    rng = np.random.default_rng(0)
    for n in (3, 20, 200):
        truth, guess = rng.integers(5, size=(2, n))
        theirs = f1_score(truth, guess, average="macro")
        assert fusion_panels.macro_f1(truth, guess) == pytest.approx(theirs, abs=1e-12)


def scored(values):
    """A table as of `fusion_panels.scores` from {(unit, subset, way): accuracy}; f1 and auc are half."""
    rows = [(*key, 10, value, value / 2, value / 2) for key, value in values.items()]
    return pd.DataFrame(rows, columns=["unit", "subset", "way", "patients", *fusion_panels.MEASURES])


def test_a_difference_is_paired_by_unit():
    """Units differ by .3, the two ways by .02 and .04 in each: the interval is that of these two numbers."""
    table = scored({(1, "a", FUSED): 0.52, (1, "a", MEAN): 0.50, (2, "a", FUSED): 0.84, (2, "a", MEAN): 0.80})
    row = fusion_panels.against(table, ["subset"]).query("measure == 'accuracy'").iloc[0]
    assert (row.way, row.other, row.units) == (FUSED, MEAN, 2) and row.difference == pytest.approx(0.03)
    assert (row.low, row.high) == pytest.approx((0.03 - 12.7062 * 0.01, 0.03 + 12.7062 * 0.01), abs=1e-4)


def test_missing_modalities_are_counted_by_patient_and_half_a_slide_is_no_case():
    lacking = {" + ".join(s): fusion_panels.lacking(s, MODALITIES) for s in fusion.subsets(MODALITIES)}
    assert lacking["copy number + clinical + bag + graph"] == 0 and lacking["bag + graph"] == 2
    assert lacking["copy number"] == lacking["clinical"] == 2 and lacking["clinical + bag + graph"] == 1
    assert lacking["bag"] is None and lacking["copy number + graph"] is None
    assert fusion_panels.lacking(["miRNA 2"], ["miRNA 1", "miRNA 2", "miRNA 3"]) == 2
    values = {(1, "clinical", "alone"): 0.2, (1, "bag + graph", MEAN): 0.4, (1, "bag", "alone"): 0.9,
              (1, "copy number", "alone"): 0.6, (1, "clinical", CONCATENATED): 0.1}
    table = fusion_panels.by_missing(scored(values), MODALITIES).set_index("way")
    assert table.accuracy.to_dict() == pytest.approx({MEAN: 0.4, CONCATENATED: 0.1})
    assert (table.missing == 2).all()


# ---- the control -------------------------------------------------------------------------------------------

def test_the_control_reads_four_arms_of_one_world_and_its_rules_name_them(tmp_path):
    control = fusion_control.control(tmp_path, TINY, patients=60)
    values = control.run(2.0, 1)
    assert all({rule.arm, rule.against} <= set(values) for rule in control.rules)
    assert {rule.dose for rule in control.rules if rule.dose is not None} <= set(control.doses)
    assert values["bag and graph"] != values["bag and graph of shuffled places"]
    assert values == control.run(2.0, 1), "a second time the arms are read"
    assert (tmp_path / "weight_2" / "seed_1" / "fold_0" / "graph" / "done").exists()


def test_the_rules_can_fail():
    """Equal arms break the positive rules and keep the negative ones; a large gain does the opposite."""
    control = fusion_control.control(None)
    rows = []
    for dose in control.doses:
        for seed in range(5):
            for arm in ("bag", "graph", "bag and graph", "bag and graph of shuffled places"):
                value = 0.8 + 0.001 * seed
                rows.append((control.name, "", "", "", dose, seed, arm, value))
    equal = pd.DataFrame(rows, columns=verdict.COLUMNS)
    verdicts = verdict.judge(control, equal).set_index("kind").verdict
    assert set(verdicts["positive"]) == {"does not hold"} and set(verdicts["negative"]) == {"holds"}
    seeing = equal.arm == "bag and graph"
    gain = equal.assign(value=equal.value + seeing * (0.03 * equal.dose + 0.001 * equal.seed * equal.dose))
    assert set(verdict.judge(control, gain).verdict) == {"holds"}


def test_a_figure_without_tables_says_so(home):
    assert figure.draw() and mirror_figure.draw()


@pytest.mark.skipif(not CLINICAL.exists(), reason="the real TCGA-BRCA tables lie outside the project")
def test_the_clinical_arm_on_real_patients_of_held_out_regions():
    """1,083 patients, 151 deaths: age and stage carry over to a region that training never saw."""
    table = tcga_tables.regions(CLINICAL)
    regions = fusion_survival.held_out_regions(table, dataclasses.replace(TINY, epochs=10), n=50)
    regions = regions.set_index("region")
    total = regions.loc["mean of regions"]
    regions = regions.drop("mean of regions")
    assert set(regions.index) <= {"Northeast", "South", "West", "Midwest", "Europe", "Canada"}
    assert len(regions) >= 5 and regions.loc["Europe", "warning"].startswith("only 9 events")
    assert total.difference == pytest.approx((regions.encoder - regions.cox).mean())
    weight = regions.events / regions.events.sum()
    assert (regions.encoder * weight).sum() > 0.6 and (regions.cox * weight).sum() > 0.6


def test_regions_are_compared_in_pairs_and_few_events_are_warned_of():
    """Hazard follows one column alike in all regions; in one of them few are seen to die."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 2))
    region = np.repeat(["north", "south", "west"], 80)
    event = (rng.random(240) < np.where(region == "west", 0.15, 0.8)).astype(int)
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": rng.exponential(np.exp(-1.5 * x[:, 0])),
                          "event": event, "region": region})
    regions = fusion_survival.held_out_regions(table, dataclasses.replace(TINY, epochs=10), n=30)
    assert regions.region.tolist() == ["north", "south", "west", "mean of regions"]
    assert regions.difference.to_numpy() == pytest.approx((regions.encoder - regions.cox).to_numpy())
    assert (regions.difference_low <= regions.difference).all() and regions.cox.min() > 0.6
    few = event[region == "west"].sum()
    assert 5 <= few < 20
    assert regions.warning.tolist() == ["", "", f"only {few} events: read nothing into it", ""]
