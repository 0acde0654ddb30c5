"""diagnosis and grading: measures of weighted rows are those of `stats` on resampled rows; what all methods have in common is compared."""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_common_fig2_fig3 import predictions

import figures
from figures import fig1 as drawn1, fig5 as drawn5, says
from xmodal import config, stats
from xmodal.config import CLASSES
from xmodal.metrics import weighted
from xmodal.tables import common, fig1 as fig1_tables, fig3 as fig3_tables, fig5 as fig5_tables

SKILL = {"radiomics_lr": 0.3, "radiomics_rf": 0.6, "ours": 0.9}


def joint(table, skill, seed):
    """Joint predictions of "patients" with both modalities, as rows that fit beside `predictions`."""
    one = table.drop_duplicates("patient").assign(modality="both", condition="source")
    one["sample"] = "both/" + one.patient
    one["lesion_type"] = np.where(one.truth == 0, "", "mass")
    logits = np.random.default_rng(seed).normal(size=(len(one), 4)) + 3 * skill * np.eye(4)[one.truth]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return one.assign(**{f"p{c}": p[:, c] for c in range(4)}, grade_pred=p.argmax(1))


def study(methods=SKILL, held_outs=("cbis_ddsm", "bach"), seeds=(42, 1234)):
    """Predictions of several runs as `record.collect` gives them, with joint ones."""
    tables = []
    for k, (method, skill) in enumerate(methods.items()):
        for held_out in held_outs:
            for seed in seeds:
                rows = predictions(held_out, seed, skill)
                both = joint(rows[rows.split != "target"], skill, [seed, k])
                tables.append(pd.concat([rows, both]).assign(method=method, held_out=held_out, seed=seed))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def found():
    return study()


@pytest.fixture(scope="module")
def fig1(found):
    return fig1_tables.fig1(found, n=200)


@pytest.fixture(scope="module")
def fig5(found):
    return fig5_tables.fig5(found, n=200)


# ---- weighted rows -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def rows():
    """Labels, scores with ties, patients, and weights of 20 resamples."""
    rng = np.random.default_rng(3)
    y, patient = rng.random(90) < 0.4, rng.integers(0, 30, 90).astype(str)
    p = np.round(np.clip(0.3 * y + 0.7 * rng.random(90), 0, 1), 2)
    return y, p, patient, weighted.resamples(patient, n=20)


def test_resamples_are_of_whole_patients_and_begin_with_the_data(rows):
    _, _, patient, w = rows
    assert w.shape == (21, 90) and (w[0] == 1).all() and not (w[1:] == 1).all()
    per_patient = pd.DataFrame(w.T).groupby(patient).nunique()
    assert (per_patient == 1).all(axis=None)                                # all rows of a patient come and go together
    first = pd.DataFrame(w.T).groupby(patient).first()
    assert (first.sum() == len(first)).all()                                # as many patients as there are


@pytest.mark.parametrize("name, weighted", [
    ("auc", lambda y, p, w: weighted.ranking(y, p, w)[0]),
    ("average_precision", lambda y, p, w: weighted.ranking(y, p, w)[1]),
    ("ece", weighted.calibration_error),
    *[(name, lambda y, p, w, name=name: fig1_tables.measures(y, p, w, 0.5)[name])
      for name in ("accuracy", "f1", "sensitivity", "specificity")],
    ("integrated_net_benefit", lambda y, p, w: fig1_tables.measures(y, p, w, 0.5)["inb"])])
def test_a_weighted_measure_is_the_plain_one_of_repeated_rows(rows, name, weighted):
    y, p, _, w = rows
    plain = {"ece": lambda a, b: stats.ece(a, b, weighted.BINS)}.get(name, getattr(stats, name))
    repeated = [np.repeat(np.arange(len(y)), counts.astype(int)) for counts in w]
    np.testing.assert_allclose(weighted(y, p, w), [plain(y[r], p[r]) for r in repeated], rtol=1e-10)


@pytest.mark.parametrize("quadratic", [False, True])
def test_weighted_agreement_is_kappa_of_repeated_rows(rows, quadratic):
    rng, w = np.random.default_rng(5), rows[3]
    truth = rng.integers(0, 4, 90)
    called = np.where(rng.random(90) < 0.6, truth, rng.integers(0, 4, 90))
    repeated = [np.repeat(np.arange(90), counts.astype(int)) for counts in w]
    expected = [stats.kappa(truth[r], called[r], "quadratic" if quadratic else None) for r in repeated]
    np.testing.assert_allclose(weighted.agreement(truth, called, w, quadratic), expected, rtol=1e-10)


def test_the_interval_is_that_of_the_plain_bootstrap(rows):
    """One run, one method: the same draw of patients as `stats.bootstrap`, so the same percentiles."""
    y, p, patient, _ = rows
    value, low, high = weighted.interval(weighted.ranking(y, p, weighted.resamples(patient, 300, seed=1))[0])
    assert (value, low, high) == pytest.approx(stats.bootstrap(stats.auc, y, p, patient, 300, seed=1)[:3], rel=1e-12)


def test_resamples_in_parts_give_what_all_at_once_give(found, monkeypatch):
    wide = fig1_tables.scores(found)
    whole = fig1_tables.fig1_measures(wide, n=30)
    monkeypatch.setattr(fig1_tables, "AT_ONCE", 4 * len(wide))
    parts = fig1_tables.fig1_measures(wide, n=30)
    assert list(parts) == list(whole)
    for key, values in whole.items():
        np.testing.assert_allclose(parts[key], values, rtol=1e-12)


def test_one_class_only_is_undefined_and_no_error():
    w = np.ones((3, 4))
    auc, precision = weighted.ranking(np.zeros(4, bool), np.arange(4) / 4, w)
    assert np.isnan(auc).all() and np.isnan(precision).all()
    assert np.isnan(fig1_tables.roc(np.ones(3, bool), np.arange(3.0))).all()
    assert np.isnan(fig1_tables.precision_recall(np.zeros(3, bool), np.arange(3.0))).all()


# ---- Fig. 1 ------------------------------------------------------------------------------------------------------

def test_auc_is_averaged_over_runs(found, fig1):
    rows = common.decided(found[(found.method == "ours") & (found.split == "target")])
    each = [stats.auc(g.y, g.p) for _, g in rows.groupby(["held_out", "seed"])]
    row = fig1["fig1a"].query("method == 'ours'").iloc[0]
    assert row.auc == pytest.approx(np.mean(each)) and row.low < row.auc < row.high
    assert (row.runs, row.cohort, row.seeds) == (4, "external test", "42 1234")
    assert list(fig1["fig1a"].method.unique()) == ["radiomics_lr", "radiomics_rf", "ours"]


def test_roc_curves_of_a_perfect_and_of_a_constant_score():
    y = np.array([True, True, False, False, False])
    np.testing.assert_array_equal(fig1_tables.roc(y, y + 0.0), np.ones(101))
    np.testing.assert_allclose(fig1_tables.roc(y, np.ones(5)), weighted.GRID)
    np.testing.assert_array_equal(fig1_tables.precision_recall(y, y + 0.0), np.ones(101))
    np.testing.assert_allclose(fig1_tables.precision_recall(y, np.ones(5)), 0.4)


def test_the_mean_roc_curve_has_the_mean_area(fig1):
    for _, g in fig1["fig1a"].groupby("method"):
        assert np.trapezoid(g.tpr, g.fpr) == pytest.approx(g.auc.iloc[0], abs=0.02)


def test_ece_is_of_all_images_and_its_shift_is_against_training(found, fig1):
    rows = common.decided(found[found.method == "ours"])
    ece = {split: stats.ece(g.y, g.p, weighted.BINS) for split, g in rows.groupby("split")}
    row = fig1["fig1d"].query("method == 'ours'").iloc[0]
    assert row.ece == pytest.approx(ece["target"]) and row["shift"] == pytest.approx(ece["target"] - ece["train"])
    assert (fig1["fig1f"]["shift"] == 0).all()
    assert fig1["fig1d"].groupby("method")["rows"].sum().unique() == [len(rows[rows.split == "target"])]


def test_the_threshold_is_from_validation_and_never_from_the_target(found, fig1):
    """Other labels on the target change no threshold; Youden's on the validation rows is what is used."""
    other = found.copy()
    other.loc[other.split == "target", "allowed"] = np.where(other.loc[other.split == "target", "allowed"] == 3, 12, 3)
    assert fig1_tables.thresholds(fig1_tables.scores(other)) == fig1_tables.thresholds(fig1_tables.scores(found))
    rows = common.decided(found.query("method == 'ours' and split == 'validation' and held_out == 'bach' and seed == 42"))
    chosen = stats.youden(rows.y, rows.p).threshold
    assert fig1_tables.thresholds(fig1_tables.scores(found))[("bach", 42), "ours"] == chosen
    every = fig1["fig1g"].query("method == 'ours'").set_index("measure")
    assert set(every.index) == {"accuracy", "f1", "sensitivity", "specificity"}
    assert (every.low <= every.value).all() and (every.value <= every.high).all()


def test_net_benefit_and_precision_begin_where_they_must(fig1):
    i, h = fig1["fig1i"], fig1["fig1h"]
    at0 = i[i.threshold == 0]
    np.testing.assert_allclose(at0.net_benefit, at0.treat_all)              # at threshold 0 everyone is treated
    assert at0.treat_all.iloc[0] == pytest.approx(h.prevalence.iloc[0])
    np.testing.assert_allclose(h[h.recall == 1].precision, h.prevalence.iloc[0], atol=0.2)
    best = i.groupby("method").inb.first()
    assert i.query("method == 'radiomics_lr'").relative.iloc[0] == pytest.approx(best["radiomics_lr"] / best.drop("radiomics_lr").max() - 1)


def test_only_what_all_methods_have_is_compared(found):
    """A learner with one run leaves that run to all; the same images are counted for every method."""
    few = found[(found.method != "radiomics_lr") | ((found.held_out == "bach") & (found.seed == 42))]
    table = fig1_tables.fig1(few, n=20)["fig1a"]
    assert set(table.runs) == {1} and table.images.nunique() == 1
    alone = fig1_tables.fig1(found[found.method == "ours"], n=20)["fig1a"]
    assert set(alone.method) == {"ours"} and set(alone.runs) == {4}


@pytest.mark.parametrize("drop", ["method in ('ours', 'radiomics_lr', 'radiomics_rf')", "condition == 'source'", "modality != 'none'"])
def test_nothing_that_ran_gives_empty_tables(found, drop):
    none = found.query(f"not ({drop})")
    tables = {**fig1_tables.fig1(none, n=5), **fig5_tables.fig5(none, n=5)}
    assert set(tables) == {f"fig1{k}" for k in "abcdefghi"} | {f"fig5{k}" for k in "mnopqr"} and not any(len(t) for t in tables.values())


def test_without_validation_patients_there_is_no_call(found):
    table = fig1_tables.fig1(found[found.split != "validation"], n=5)["fig1g"]
    assert table["value"].isna().all() and table.threshold.isna().all()


# ---- Fig. 5 ------------------------------------------------------------------------------------------------------

def test_confusion_counts_every_reading_once(found, fig5):
    rows, table = fig5_tables.readings(found), fig5["fig5n"]
    assert len(table) == len(CLASSES) ** 2 and table["count"].sum() == len(rows) == table.readings.iloc[0]
    assert table.groupby("truth")["value"].sum().to_numpy() == pytest.approx(1)
    diagonal = table[table.truth == table.predicted]["count"].sum()
    assert diagonal == (rows.truth == rows.called).sum()
    m = fig5["fig5m"]
    assert m.readings.sum() == len(rows) and (m["value"] * m.readings).sum() == pytest.approx(diagonal)
    assert set(m[m.finding == "none"].truth) == {0}


def test_calibration_of_classes_and_of_confidence(found, fig5):
    rows, table = fig5_tables.readings(found), fig5["fig5o"].groupby("of").first()
    assert table.ece["invasive"] == pytest.approx(stats.ece(rows.truth == 3, rows.p3, weighted.BINS))
    assert table.ece["confidence"] == pytest.approx(stats.ece(rows.truth == rows.called, rows[fig5_tables.P].max(axis=1), weighted.BINS))


def test_simulated_readers_do_not_know_the_ai_before_they_see_it():
    truth, patients = np.repeat(np.arange(4), 2000), np.arange(8000)
    with_bad, with_good = (fig5_tables.readers(truth, severity, patients, 1) for severity in (3.0 - truth, truth + 0.0))
    without = with_bad["readers without AI"]
    np.testing.assert_array_equal(without, with_good["readers without AI"])
    kappa = lambda read: np.mean([stats.kappa(truth, r) for r in read])
    assert kappa(without) == pytest.approx(0.72, abs=0.02)                   # what the paper prints without AI
    assert kappa(with_bad["readers with AI"]) < kappa(without) < kappa(with_good["readers with AI"])


def test_a_reader_reads_a_patient_once():
    read = fig5_tables.readers([1, 1, 2], [0.0, 0.0, 0.0], ["a", "a", "b"])["readers without AI"]
    assert (read[:, 0] == read[:, 1]).all() and read.shape == (fig5_tables.READERS, 3)


def test_kappa_of_readers_and_of_ours_alone(found, fig5):
    rows, table = fig5_tables.readings(found), fig5["fig5p"]
    alone = table[table.condition == "AI alone"].iloc[0]
    assert alone["mean"] == alone.kappa == pytest.approx(stats.kappa(rows.truth, rows.called))
    means = table.groupby("condition", sort=False)["mean"].first()
    before = means["readers with AI"]
    assert alone.gain == pytest.approx(means["AI alone"] - before) and alone.relative == pytest.approx(alone.gain / before)
    assert table.groupby("condition").size().to_dict() == {"AI alone": 1, "readers with AI": 5, "readers without AI": 5}


def test_a_method_of_one_modality_is_judged_on_the_same_patients(found):
    """Its class is that of the mean probability over the patient's images; patients without a joint prediction do not count."""
    alone = found.query("method == 'radiomics_lr' and modality == 'mammography'").assign(method="swin_mammography")
    table = fig5_tables.compared(pd.concat([found, alone]), ("ours", "swin_mammography"))
    ours = fig5_tables.readings(found)
    assert 0 < len(table) < len(ours) and set(table.index) <= set(ours.set_index(fig5_tables.KEY).index)
    held_out, seed, patient = table.index[0]
    rows = alone.query("held_out == @held_out and seed == @seed and patient == @patient")
    assert table["swin_mammography"].iloc[0] == rows[fig5_tables.P].mean().to_numpy().argmax()


def test_quadratic_kappa_against_ours(found):
    late = found.query("method == 'radiomics_rf'").assign(method="late_fusion")
    table = fig5_tables.fig5q(pd.concat([found, late]), n=50).set_index("method")
    both = fig5_tables.compared(pd.concat([found, late]))
    assert table.qwk["late_fusion"] == pytest.approx(stats.kappa(both["true class"], both["late_fusion"], "quadratic"))
    assert table.difference["ours"] == 0 and table.difference["late_fusion"] == pytest.approx(table.qwk["late_fusion"] - table.qwk["ours"])
    assert table.qwk["ours_ordinal"] == pytest.approx(table.qwk["ours"])    # in this study the ordinal head says the likeliest class


def test_the_threshold_of_panel_r_is_from_validation(found, fig5):
    validation, rows, row = fig5_tables.readings(found, split="validation"), fig5_tables.readings(found), fig5["fig5r"].iloc[0]
    each = {run: stats.youden(g.truth >= 2, g.malignant).threshold for run, g in validation.groupby(["held_out", "seed"])}
    assert len(set(each.values())) > 1 and row.chosen == pytest.approx(np.mean(list(each.values())))
    ill = rows[rows.truth >= 2]
    assert row.sensitivity_at == pytest.approx(np.mean([p >= each[run] for *run, p in zip(ill.held_out, ill.seed, ill.malignant) for run in [tuple(run)]]))
    assert row.youden_at == pytest.approx(row.sensitivity_at + row.specificity_at - 1)
    assert row.youden_at_low <= row.youden_at <= row.youden_at_high


def test_each_run_of_panel_r_is_called_at_its_own_threshold():
    """Two runs on different scales: each tells all apart at its own threshold, and half would be missed at their mean."""
    rows = pd.DataFrame({"held_out": "bach", "seed": [42, 42, 1234, 1234], "patient": list("abcd"), "truth": [0, 3, 1, 2], "malignant": [.2, .4, .6, .8]})
    row = fig5_tables.fig5r(rows, np.ones((3, 4)), rows).iloc[0]
    assert (row.sensitivity_at, row.specificity_at, row.youden_at) == (1, 1, 1)


def test_panel_r_is_drawn_where_nobody_is_malignant():
    rows = pd.DataFrame({"held_out": "bach", "seed": 42, "patient": list("abc"), "truth": [0, 1, 1], "malignant": [.2, .4, .6]})
    table = fig5_tables.fig5r(rows, np.ones((3, 3)), rows)
    ax = drawn5.fig5r(plt.figure().subplots(), table)
    assert table.youden.isna().all() and not ax.texts and len(ax.lines) == 3, "the curves, and no best threshold"
    plt.close("all")


def test_the_same_seed_gives_the_same_tables(found, fig1, fig5):
    again = {**fig1_tables.fig1(found.sample(frac=1, random_state=1), n=200), **fig5_tables.fig5(found.sample(frac=1, random_state=1), n=200)}
    for name, table in {**fig1, **fig5}.items():
        pd.testing.assert_frame_equal(again[name], table)


# ---- drawn from their tables -------------------------------------------------------------------------------------

def words(fig):
    return " ".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def test_the_figures_say_what_the_tables_say(home, fig1, fig5):
    for name, table in {**fig1, **fig5}.items():
        common.write(table, name, "lesson")
    text = words(drawn1.draw())
    for panel, value in (("fig1a", "auc"), ("fig1d", "ece"), ("fig1h", "ap"), ("fig1i", "inb")):
        row = fig1[panel].query("method == 'ours'").iloc[0]
        assert f"ours {row[value]:.2f} [{row.low:.2f}, {row.high:.2f}]" in text
    assert "phantom data" in text and "treat all" in text and "prevalence" in text and "external test" in text
    text, n = words(drawn5.draw_numbers()), fig5["fig5n"].iloc[0]
    assert "Simulated readers" in text and "phantom data" in text
    assert f"{n.readings} readings of {n.patients} patients, 4 runs" in text and f"{100 * n['value']:.0f} %\n({n['count']})" in text
    before = [(config.FIGURES / f / name).read_bytes() for f, name in (("fig1", "fig1.png"), ("fig5", "fig5_numbers.png"))]
    drawn1.draw(), drawn5.draw()
    assert before == [(config.FIGURES / f / name).read_bytes() for f, name in (("fig1", "fig1.png"), ("fig5", "fig5_numbers.png"))]
    assert not plt.get_fignums()


def test_without_tables_every_panel_says_so(home):
    assert words(drawn1.draw()).count("no finished runs") == 9 and words(drawn5.draw_numbers()).count("no finished runs") == 6
    for name, table in {**fig1_tables.fig1(study().iloc[:0], n=2), **fig5_tables.fig5(study().iloc[:0], n=2)}.items():
        common.write(table, name, "lesson")
    assert words(drawn1.draw()).count("no finished runs") == 9 and words(drawn5.draw_numbers()).count("no finished runs") == 6


@pytest.mark.parametrize("many", [3, 5, 13])
def test_any_number_of_cases_is_drawn(home, many):
    """Twelve at most, each with its true class; in two columns."""
    rng = np.random.default_rng(0)
    image, heat, tile = (rng.integers(0, 256, s, dtype=np.uint8) for s in ((32, 32), (4, 4), (8, 8, 3)))
    one = lambda i: fig5_tables.fig5_case(f"case{i:02d}", i % 4, image, heat, [tile] * (1 + i % 5), [.1] * 5, np.eye(4)[0], "Most likely normal.")
    found = [one(i) for i in range(many)]
    common.write(pd.DataFrame(found), "fig5", "lesson")
    fig = drawn5.draw_cases()
    text = words(fig)
    assert [f"case{i:02d}" in text for i in range(many)] == [i < 12 for i in range(many)]
    assert text.count("(wrong)") == sum(i % 4 != 0 for i in range(min(many, 12)))
    assert len([ax for ax in fig.axes if ax.get_subplotspec()]) == 2 * -(-min(many, 12) // 2)


def test_learners_and_graders_have_a_label_and_a_colour():
    assert set(fig1_tables.LEARNERS) == set(drawn1.SHORT) and set(fig5_tables.GRADERS) | {"ours_ordinal"} <= set(drawn5.GRADERS)
    assert {*fig1_tables.LEARNERS, *fig5_tables.GRADERS} <= set(figures.BASELINES)
    assert len({figures.BASELINES[m][1] for m in fig1_tables.LEARNERS}) == len(fig1_tables.LEARNERS)


# ---- what the paper says -----------------------------------------------------------------------------------------

def nothing_measured():
    letters = {1: "abcdefghi", 2: "abcdef", 3: "abcdefghijkl", 4: "ijkl", 5: "mnopqr"}
    names = {f"fig{n}{k}" for n in letters for k in letters[n]}
    return dict.fromkeys(names, pd.DataFrame()) | {"fig3i": fig3_tables.fig3i(study().iloc[:0])}


def test_no_cell_is_left_out(fig1, fig5):
    empty, table = says.beside(nothing_measured()), says.beside(nothing_measured() | fig1 | fig5)
    assert (empty["we measured"] == says.NOT).all() and (empty != "").all(axis=None)
    assert {f"fig{n}" for n in range(1, 6)} <= set(table.panel.str[:4]) and "abstract" in set(table.panel) and not table.duplicated().any()
    cell = lambda panel, quantity: table[(table.panel == panel) & (table.quantity == quantity)].iloc[0]
    row = fig1["fig1a"].query("method == 'ours'").iloc[0]
    found = cell("fig1a", "AUC, external test, ours")
    assert found["paper says"] == "0.85 [0.81, 0.89]" and found["we measured"] == f"{row.auc:.3f} [{row.low:.3f}, {row.high:.3f}]"
    assert cell("fig1a", "AUC, external test, SVM")["we measured"] == says.NOT                # did not run
    kappa = fig5["fig5p"].query("condition == 'AI alone'").iloc[0]
    assert cell("fig5p", "Cohen's kappa, AI alone")["we measured"] == f"{kappa['mean']:.3f} [{kappa.low:.3f}, {kappa.high:.3f}]"


def test_shares_of_a_confusion():
    table = pd.DataFrame({"method": "ours", "held_out": "bach", "truth": [0, 0, 1, 1], "predicted": [0, 1, 0, 1], "images": [6, 2, 1, 1]})
    assert says.with_shares(table).share.tolist() == [0.75, 0.25, 0.5, 0.5] and says.with_shares(table).accuracy.unique() == [0.7]


@pytest.mark.parametrize("column, text", [("a", "0.375 ± 0.177"), ("a low high", "0.250 [0.100, 0.300]"), ("a low", "0.250 ± 0.100"),
                                          ("range a", "0.250 to 0.500"), ("sum a", "0.750"), ("max a", "0.500"), ("n", "34"),
                                          ("p", "< 0.001")])
def test_a_cell_of_ours_as_text(column, text):
    table = pd.DataFrame({"a": [0.25, 0.5], "low": 0.1, "high": 0.3, "n": 34, "p": 1e-5})
    assert says.measured(table, "n == 34", column) == text and says.measured(table, "n == 35", column) == says.NOT
