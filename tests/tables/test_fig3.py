"""fig3: the right numbers of domains held out in turn, also when little has run."""
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from small_runs import SKILL, decided_mammograms

from xmodal import config, stats
from xmodal.tables import common, fig3


def of(table, **values):
    """The rows of a table that have these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def test_held_out_panels(collected):
    table = fig3.fig3_held_out(collected, "inbreast", n=100)
    assert set(table.method) == {*SKILL, "ours_tta"} and len(table) == 7 * 2
    run = of(collected, method="erm", held_out="inbreast", seed=42, split="target")
    row = of(table, method="erm", seed=42).iloc[0]
    assert row.auc == stats.auc(run.truth >= 2, run.p2 + run.p3)
    assert (row.patients, row.images) == (24, 48)
    mean = of(table, method="erm").auc.mean()
    assert row["mean"] == pytest.approx(mean) and row.low < row["mean"] < row.high


def held_out_bach(predictions):
    return fig3.fig3_held_out(predictions, "bach", n=50)


@pytest.mark.parametrize("panel", [
    held_out_bach, fig3.fig3e, fig3.fig3f, fig3.fig3g, fig3.fig3i])
def test_tables_do_not_depend_on_the_order_of_rows(collected, panel):
    pd.testing.assert_frame_equal(panel(collected), panel(collected.sample(frac=1, random_state=0)))


def test_source_target_matrix(collected):
    table = fig3.fig3e(collected)
    target = of(table, split="target")
    assert len(table) == 16 and (target.held_out == target.domain).all() and (table.seeds == 2).all()


def test_domain_gap_and_its_tests(collected):
    table = fig3.fig3f(collected)
    assert len(table) == 7 * 4 * 2 and table.gap.mean() > 0
    assert np.allclose(table.gap, table.source_auc - table.target_auc)
    assert table.p_t[table.method == "ours"].isna().all()
    assert (table.p_t_holm.dropna() >= table.p_t.dropna()).all()
    erm = of(table, method="erm").set_index(["held_out", "seed"])
    ours = of(table, method="ours").set_index(["held_out", "seed"])
    by_fold = (erm.gap - ours.gap).groupby("held_out").mean()
    assert erm.p_t.iloc[0] == pytest.approx(ttest_1samp(by_fold, 0).pvalue) and (erm.folds == 4).all()
    assert erm.difference.iloc[0] == pytest.approx(by_fold.mean())
    assert (erm.family == "Holm over all methods against ours, 6 tests").all()


def test_an_adaptation_is_tested_against_the_model_as_trained(collected):
    """Over folds: the seeds of a fold are averaged first."""
    table = fig3.fig3g(collected)
    assert table.p_t[table.condition == "source"].isna().all()
    by_fold = table.pivot_table(index="held_out", columns="condition", values="auc")
    gain = by_fold.causal - by_fold.source
    row = of(table, condition="causal").iloc[0]
    assert row.difference == pytest.approx(gain.mean())
    assert row.p_t == pytest.approx(ttest_1samp(gain, 0).pvalue) and row.folds == len(gain)


def test_adaptation_and_confusion(collected, finished):
    assert set(fig3.fig3g(collected).condition) == set(config.CONDITIONS)
    steps = fig3.fig3h(finished)
    assert (steps.groupby(["held_out", "seed"]).stopped.sum() == 1).all() and "entropy_nats" in steps
    table = fig3.fig3i(collected)
    assert (table.groupby(["method", "held_out"]).images.sum() == 48 * 2).all()
    assert set(table.held_out) == {"cbis_ddsm", "inbreast"}
    hits = table[table.truth == table.predicted].groupby("method").images.sum()
    assert hits["ours"] > hits["mixstyle"]


# ---- little has run --------------------------------------------------------------------------------------

def test_a_short_run_gives_short_tables(collected):
    short = of(collected, method="erm", held_out="bach", seed=42)
    assert len(fig3.fig3_held_out(short, "bach", n=20)) == 1 and fig3.fig3_held_out(short, "inbreast").empty
    gap, = fig3.fig3f(short).itertuples()
    assert np.isnan(gap.p_t_holm)
    empty = [panel(short) for panel in (fig3.fig3e, fig3.fig3g, fig3.fig3i)]
    for table in (*empty, fig3.fig3h({})):
        assert table.empty and len(table.columns)


def test_the_whole_figure(collected, finished):
    tables = fig3.fig3_tables(collected, finished, n=20)
    assert list(tables) == [f"fig3{letter}" for letter in "abcdefghijkl"]
    assert set(tables["fig3b"].held_out) == {"camelyon"}


def test_nothing_has_run():
    nothing = decided_mammograms().iloc[:0]
    for panel in (fig3.fig3j, fig3.fig3k, fig3.fig3l):
        assert panel(nothing).empty


# ---- j-l: whom the model fails ---------------------------------------------------------------------------

def test_auc_by_density_is_that_of_the_stratum_averaged_over_seeds():
    both_seeds = pd.concat([decided_mammograms(seed=seed) for seed in (42, 1234)])
    others = [decided_mammograms("mixstyle", skill=0.1), decided_mammograms("irm")]
    table = fig3.fig3j(pd.concat([both_seeds, *others], ignore_index=True), n=50)
    assert list(table.columns) == ["method", "held_out", "density", "measure", *common.ESTIMATE]
    assert set(zip(table.method, table.density)) == {(m, d) for m in ("mixstyle", "ours") for d in "ABCD"}
    assert set(table.measure) == {"AUC"}
    row = of(table, method="ours", density="B").iloc[0]
    aucs = [stats.auc(stratum.y, stratum.p) for _, stratum in of(both_seeds, density="B").groupby("seed")]
    assert row.value == pytest.approx(np.mean(aucs))
    assert (row.images, row.patients) == (20, 10) and row.low <= row.value <= row.high


@pytest.mark.parametrize("y, measure", [(1.0, "sensitivity"), (0.0, "specificity")])
def test_a_stratum_of_one_class_says_sensitivity_or_specificity_instead(y, measure):
    rows = decided_mammograms()
    rows = rows[(rows.density != "A") | (rows.y == y)]
    rows = rows.assign(p=np.arange(len(rows)) / len(rows))
    row = fig3.fig3j(rows, n=20).set_index("density").loc["A"]
    share = ((rows[rows.density == "A"].p >= 0.5) == bool(y)).mean()
    assert row.measure == measure and row.value == pytest.approx(share)


def test_each_lesion_type_is_held_against_all_that_is_not_malignant():
    rows = decided_mammograms(skill=0.3)
    table = fig3.fig3k(rows, n=20).set_index("lesion_type")
    assert set(table.index) == {"mass", "calcification", "distortion", "asymmetry"}
    chosen = rows[(rows.y == 0) | (rows.lesion_type == "mass")]
    assert table.loc["mass", "value"] == pytest.approx(stats.auc(chosen.y, chosen.p))
    assert table.loc["mass", "images"] == len(chosen)
    assert table.malignant.sum() == 40 and (table.images - table.malignant == 40).all()
    without_masses = fig3.fig3k(rows[(rows.y == 0) | (rows.lesion_type != "mass")], n=20)
    assert "mass" not in set(without_masses.lesion_type)


def test_share_of_training_data_keeps_every_run_and_its_mean():
    parts = []
    for method, skill in {"ours_25": 0.2, "ours_50": 0.4, "ours": 1.0, "erm": 0.1}.items():
        for seed in (42, 1234):
            for held_out in ("inbreast", "bach"):
                parts.append(decided_mammograms(method, seed, held_out=held_out, skill=skill))
    table = fig3.fig3l(pd.concat(parts))
    assert table.share.tolist() == [25] * 4 + [50] * 4 + [100] * 4
    full = table[table.share == 100]
    assert full["mean"].unique() == pytest.approx([full.auc.mean()])
    assert full.sd.unique() == pytest.approx([full.auc.std()])


def test_shares_are_compared_on_the_runs_that_all_have():
    runs = [("ours_25", 42), ("ours", 42), ("ours", 1234)]
    table = fig3.fig3l(pd.concat([decided_mammograms(method, seed) for method, seed in runs]))
    assert table[["share", "seed"]].to_numpy().tolist() == [[25, 42], [100, 42]]
