"""panels and cases: predictions in, the right numbers out, also when little has run."""
import json

import numpy as np
import pandas as pd
import pytest

from xmodal import config, model, record, stats
from xmodal.config import DOMAINS, HISTOPATHOLOGY, MAMMOGRAPHY, Problem
from xmodal.losses import Objective
from xmodal.methods import Method
from xmodal.tables import (
    cases,
    common,
    fig2 as fig2_tables,
    fig3 as fig3_tables,
    fig4 as fig4_tables,
    fig5 as fig5_tables,
    fig6 as fig6_tables,
    table1 as table1_tables,
)


def predictions(held_out, seed, skill, conditions=("source",), patients=24):
    """A run's predictions: two images a patient in each domain; `skill` sets how well the classes are told apart."""
    rows = []
    for d, domain in enumerate(DOMAINS):
        for i in range(patients):
            split = "target" if domain == held_out else ("train", "validation", "source test")[i % 3]
            rng = np.random.default_rng([seed, d, i])
            truth = i // 3 % 4
            for view in range(2):
                for condition in conditions if split == "target" else ("source",):
                    logits = rng.normal(size=4) + skill * (1 + (split != "target")) * np.eye(4)[truth]
                    p = np.exp(logits) / np.exp(logits).sum()
                    rows.append({"sample": f"{domain}/{i}_{view}", "patient": f"{domain}/{i}", "domain": domain, "modality": DOMAINS[domain], "split": split,
                                 "condition": condition, "allowed": 3 if truth < 2 else 12, "truth": truth, "grade": -1, **{f"p{c}": v for c, v in enumerate(p)},
                                 "severity": rng.normal(), "grade_pred": int(p.argmax()), "has_mask": False, "density": "B", "lesion_type": "", "lesion_shape": ""})
    table = pd.DataFrame(rows)
    table[["dice", "iou", "x0", "y0", "x1", "y1", "box_score", "diameter_mm"]] = np.nan
    return table


def embeddings(seed, aligned, patients=30, width=8):
    """Embeddings in which class is a direction, and modality another one unless aligned."""
    rng = np.random.default_rng(seed)
    truth = np.arange(patients) % 4
    common = 2 * np.eye(width)[truth] + 0.5 * rng.normal(size=(patients, width))
    z = [common + 0.3 * rng.normal(size=common.shape) + (0 if aligned else 3 * sign) * np.eye(width)[-1] for sign in (1, -1)]
    name = np.array([f"p{i:02d}" for i in range(patients)])
    columns = {"sample": np.concatenate([np.char.add(name, "/m"), np.char.add(name, "/p")]), "patient": np.tile(name, 2),
               "modality": np.repeat([MAMMOGRAPHY, HISTOPATHOLOGY], patients), "domain": np.repeat(["inbreast", "bach"], patients),
               "split": np.tile(np.array(["validation", "source test"])[np.arange(patients) % 2], 2), "truth": np.tile(truth, 2)}
    return columns | {"z": np.concatenate(z).astype(np.float32)}


SKILL = {"erm": .3, "groupdro": .4, "mixstyle": .5, "mixstyle_irm": .6, "concat": .4, "ours": .8}


def write_runs(methods=tuple(SKILL), held_outs=tuple(DOMAINS), seeds=(42, 1234), profile="lesson"):
    """Runs in config.RUNS, as training would leave them; those of ours are also adapted."""
    import torch
    for method in methods:
        for held_out in held_outs:
            for seed in seeds:
                conditions = config.CONDITIONS if method == "ours" else ("source",)
                about = {"profile": profile, "method": method, "held_out": held_out, "seed": seed}
                folder = record.save_run(record.run_dir(profile, method, held_out, seed), about, {"w": torch.zeros(1)}, pd.DataFrame({"epoch": [0]}),
                                         predictions(held_out, seed, SKILL[method], conditions), embeddings(seed, method == "ours"))
                if method == "ours":
                    steps = np.arange(9 + seed % 3)
                    record.update_run(folder, trajectory=pd.DataFrame({"condition": "causal", "domain": held_out, "step": steps, "entropy": 1 / (1 + steps / 5),
                                                                       "auc": .7 + .1 * (1 - 1 / (1 + steps)), "stopped": steps == 6}))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs of six methods, two seeds, four held-out domains."""
    root, patch = tmp_path_factory.mktemp("home"), pytest.MonkeyPatch()
    patch.setattr(config, "RUNS", root / "runs")
    patch.setattr(config, "FIGURES", root / "figures")
    write_runs()
    yield root
    patch.undo()


@pytest.fixture(scope="module")
def found(home):
    return common.runs("lesson", ["mixstyle_irm", "concat", "ours"])


@pytest.fixture(scope="module")
def collected(home):
    return record.collect("lesson")


def test_runs_are_found_by_name(found):
    assert len(found) == 3 * 4 * 2 and ("ours", "bach", 1234) in found and common.runs("lesson", ["dann"]) == {}


def test_pairs_are_unit_means_of_the_same_patients():
    e = embeddings(1, True)
    e["split"][e["patient"] == "p03"] = "target"                     # not a patient that the model may be judged on here
    twice = {k: np.concatenate([v, v[:30]]) for k, v in e.items()}   # a second mammogram each, the same again: the mean stays
    a, b = fig2_tables.patient_pairs(e), fig2_tables.patient_pairs(twice)
    assert "p03" not in a.patient and len(a.patient) == 29
    assert np.allclose(np.linalg.norm(a.z_m, axis=1), 1) and np.allclose(a.z_m, b.z_m)
    first = e["z"][0] / np.linalg.norm(e["z"][0])
    assert np.allclose(a.z_m[0], first) and a.truth[0] == 0


def test_pairs_without_any_are_empty():
    e = {k: v[:30] for k, v in embeddings(1, True).items()}          # mammograms only
    p = fig2_tables.patient_pairs(e)
    assert len(p.patient) == 0 and fig2_tables.alignment(p) == {} and fig2_tables.fig2_map(p, "tsne").empty and fig2_tables.fig2e(p).empty


def test_alignment_measures_on_known_geometry():
    axis = np.eye(4)[[0, 0, 1, 1]]
    perfect = fig2_tables.alignment(fig2_tables.Pairs(np.array(list("abcd")), np.array([0, 0, 1, 1]), axis, axis))
    assert perfect["intra_pair_similarity"] == pytest.approx(1) and perfect["modality_gap"] == pytest.approx(0)
    assert perfect["class_separability"] == pytest.approx(1) and perfect["cluster_compactness"] == pytest.approx(1)
    assert perfect["silhouette"] == pytest.approx(1) and perfect["intra_class_variance"] == pytest.approx(0)
    apart = fig2_tables.alignment(fig2_tables.Pairs(np.array(list("abcd")), np.array([0, 0, 1, 1]), axis, -axis))
    assert apart["intra_pair_similarity"] == pytest.approx(-1) and apart["class_separability"] < .2


def test_fig2(found):
    p = fig2_tables.patient_pairs(found["ours", "bach", 42].embeddings)
    tsne = fig2_tables.fig2_map(p, "tsne")
    assert len(tsne) == 2 * len(p.patient) and tsne.equals(fig2_tables.fig2_map(p, "tsne"))
    e = fig2_tables.fig2e(p)
    cosine = e.pivot(index="mammogram", columns="tissue", values="cosine").to_numpy()
    assert (np.diff(e[e.tissue == 0].truth_mammogram) >= 0).all() and np.diag(cosine).mean() > cosine.mean()
    f = fig2_tables.fig2f(found)
    wide = f.pivot_table(index="method", columns="measure", values="value")
    assert wide.loc["mixstyle_irm", "modality_gap_reduction"] == 0 and wide.loc["ours", "modality_gap_reduction"] > .5
    assert wide.loc["ours", "intra_pair_similarity"] > wide.loc["mixstyle_irm", "intra_pair_similarity"]
    assert f.p_t[f.method == "ours"].isna().all() and (f[(f.method == "mixstyle_irm") & (f.measure == "intra_pair_similarity")].p_t < .01).all()


def test_decided_leaves_out_open_labels_and_joint_rows(collected):
    rows = pd.concat([collected.iloc[:3].assign(allowed=[6, 12, 3]), collected.iloc[:1].assign(modality="both", allowed=12)])
    kept = common.decided(rows)
    assert list(kept.y) == [1, 0] and np.allclose(kept.p, kept.p2 + kept.p3)


def test_held_out_panels(collected):
    table = fig3_tables.fig3_held_out(collected, "inbreast", n=100)
    assert set(table.method) == {*SKILL, "ours_tta"} and len(table) == 7 * 2
    one = collected[(collected.method == "erm") & (collected.held_out == "inbreast") & (collected.seed == 42) & (collected.split == "target")]
    row = table[(table.method == "erm") & (table.seed == 42)].iloc[0]
    assert row.auc == stats.auc(one.truth >= 2, one.p2 + one.p3) and row.patients == 24 and row.images == 48
    assert row["mean"] == pytest.approx(table[table.method == "erm"].auc.mean()) and row.low < row["mean"] < row.high


def test_tables_do_not_depend_on_the_order_of_rows(collected):
    mixed = collected.sample(frac=1, random_state=0)
    for build in (lambda p: fig3_tables.fig3_held_out(p, "bach", n=50), fig3_tables.fig3e, fig3_tables.fig3f, fig3_tables.fig3g, fig3_tables.fig3i, fig3_tables.against_ours):
        pd.testing.assert_frame_equal(build(collected), build(mixed))


def test_source_target_matrix(collected):
    table = fig3_tables.fig3e(collected)
    assert len(table) == 16 and (table[table.split == "target"].held_out == table[table.split == "target"].domain).all()
    assert (table.seeds == 2).all()


def test_domain_gap_and_its_tests(collected):
    table = fig3_tables.fig3f(collected)
    assert len(table) == 6 * 4 * 2 and np.allclose(table.gap, table.source_auc - table.target_auc) and table.gap.mean() > 0
    assert table.p_t[table.method == "ours"].isna().all() and (table.p_t_holm.dropna() >= table.p_t.dropna()).all()
    erm = table[table.method == "erm"].set_index(["held_out", "seed"]).gap
    ours = table[table.method == "ours"].set_index(["held_out", "seed"]).gap
    from scipy.stats import ttest_rel
    assert table.p_t[table.method == "erm"].iloc[0] == pytest.approx(ttest_rel(erm, ours).pvalue)


def test_adaptation_and_confusion(collected, found):
    assert set(fig3_tables.fig3g(collected).condition) == set(config.CONDITIONS)
    steps = fig3_tables.fig3h(found)
    assert (steps.groupby(["held_out", "seed"]).stopped.sum() == 1).all() and "entropy_nats" in steps
    table = fig3_tables.fig3i(collected)
    assert (table.groupby(["method", "held_out"]).images.sum() == 48 * 2).all() and set(table.held_out) == {"cbis_ddsm", "inbreast"}
    hits = table[table.truth == table.predicted].groupby("method").images.sum()
    assert hits["ours"] > hits["mixstyle"]


def test_a_method_of_one_seed_is_compared_with_ours_of_that_seed(collected):
    """The mean of ours over more seeds would be an ensemble."""
    short = collected[(collected.method != "erm") | (collected.seed == 42)]
    alone = fig3_tables.against_ours(collected[collected.seed == 42]).set_index(["held_out", "method"])
    found, both = (fig3_tables.against_ours(t).set_index(["held_out", "method"]) for t in (short, collected))
    columns = ["patients", "auc_ours", "auc", "z", "p_delong", "chi2", "p_mcnemar"]
    pd.testing.assert_frame_equal(found.loc[pd.IndexSlice[:, "erm"], columns], alone.loc[pd.IndexSlice[:, "erm"], columns])
    assert not found.auc_ours.loc[:, "erm"].equals(both.auc_ours.loc[:, "erm"])


def test_tests_against_ours(collected):
    table = fig3_tables.against_ours(collected)
    assert len(table) == 4 * 6 and "ours" not in set(table.method) and (table.p_delong_bonferroni >= table.p_delong_holm - 1e-12).all()
    row = table[(table.held_out == "bach") & (table.method == "erm")].iloc[0]
    assert row.p_delong_bonferroni == pytest.approx(min(1, 6 * row.p_delong)) and row.patients == 24



def test_table_of_methods(collected):
    table = fig3_tables.lodo(collected)
    assert list(table.columns) == ["bach", "camelyon", "cbis_ddsm", "inbreast"] and table.loc["ours", "bach"].n == 2


def test_a_short_run_gives_short_tables(collected):
    short = collected[(collected.method == "erm") & (collected.held_out == "bach") & (collected.seed == 42)]
    assert len(fig3_tables.fig3_held_out(short, "bach", n=20)) == 1 and fig3_tables.fig3_held_out(short, "inbreast").empty
    assert len(fig3_tables.fig3f(short)) == 1 and np.isnan(fig3_tables.fig3f(short).p_t_holm.iloc[0])
    for table in (fig3_tables.fig3e(short), fig3_tables.fig3g(short), fig3_tables.fig3i(short), fig3_tables.against_ours(short), fig3_tables.fig3h({}), fig2_tables.fig2f({})):
        assert table.empty and len(table.columns)


def test_whole_figures_of_nothing_and_of_something(collected, found):
    assert all(table.empty and len(table.columns) for table in fig2_tables.fig2({}).values())
    tables = fig3_tables.fig3(collected, found, n=20)
    assert list(tables) == [f"fig3{k}" for k in "abcdefghijkl"] and set(tables["fig3b"].held_out) == {"camelyon"}


def test_the_verdict_calls_only_what_is_sure():
    rows = [("bach", "erm", .8, .6, 3., .001), ("bach", "irm", .8, .9, -3., .002), ("bach", "dann", .8, .7, 1., .3)]
    tests = pd.DataFrame(rows, columns=["held_out", "method", "auc_ours", "auc", "z", "p_delong_holm"])
    [words] = fig3_tables.verdict(tests)
    assert "better than 1 of 3 methods (erm), worse than 1 of 3 methods (irm), and ties with 1 of 3 methods (dann)" in words
    assert "the best of the others, irm, 0.900" in words and fig3_tables.verdict(tests.iloc[:0]) == []
    assert "no AUC is defined" in fig3_tables.verdict(tests.assign(auc=np.nan))[0]


def test_write_says_what_the_data_are(home, collected):
    path = common.write(fig3_tables.fig3e(collected), "fig3e", "lesson")
    assert path == home / "figures" / "fig3" / "fig3e.csv" and list(path.parent.iterdir()) == [path]
    back = pd.read_csv(path)
    assert back.columns[0] == "data" and set(back["data"]) == {"phantom"}
    assert common.write(pd.DataFrame({"a": [1]}), "table1", config.PROFILES["paper"]).read_text() == "data,a\npublic,1\n"
    with pytest.raises(Problem):
        common.write(back, "../fig3e", "lesson")
    with pytest.raises(Problem):
        common.write(back, "fig3e", "nosuch")


def test_fig6_counts_every_parameter_once():
    net = model.build("lesson", mixstyle=True)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    table = fig6_tables.fig6_table(net).set_index("name")
    assert table.parameters.sum() == sum(p.numel() for p in net.parameters()) == table.trainable.sum()
    assert table.adapted.sum() == sum(p.numel() for m in (net.adapters, net.necks) for p in m.parameters())
    assert table.loc["classification", "shape"] == "B x 4" and table.loc["lesion mask", "shape"] == "B x 32 x 32"
    fed = {name.strip() for names in table.inputs for name in names.split(",") if name}
    assert fed <= set(table.index)                                   # every arrow begins at a part
    assert all((before[k] == v).all() for k, v in net.state_dict().items()) and all(p.requires_grad for p in net.parameters())


def test_table1_comes_from_the_objective():
    table = table1_tables.table1(Objective(8, 3, Method(align=.25, irm=1.)))
    assert list(table.columns) == ["component", "objective", "equation", "supervision", "weight"]
    assert table.set_index("component").weight["Cross-modal alignment"] == .25 and len(table) == 6


def test_pictures_survive_as_text():
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (6, 6, 3)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        assert (cases.from_uri(cases.to_uri(image)) == image).all()
    assert (cases.from_uri(cases.to_uri(np.array([[0, .5], [1, 2.]]))) == [[0, 128], [255, 255]]).all()
    for bad in ("", "no picture", float("nan")):
        with pytest.raises(Problem):
            cases.from_uri(bad)


def test_case_rows():
    image, tile = np.zeros((8, 8), np.uint8), np.zeros((4, 4, 3), np.uint8)
    row = fig4_tables.fig4_case("p1", "mass", "mass", image, np.zeros((4, 4)), [[0, 0, 2, 2]], np.full(4, np.nan), np.nan, np.nan, [tile])
    assert json.loads(row["predicted_box"]) == [] and json.loads(row["truth_boxes"]) == [[0, 0, 2, 2]] and len(json.loads(row["tiles"])) == 1
    row = fig5_tables.fig5_case("p1", 2, image, np.zeros((4, 4)), [tile, tile], [.7, .3], [.1, .2, .6, .1], "in situ")
    assert row["predicted"] == 2 and row["tile3"] == "" and np.isnan(row["w3"]) and row["w1"] == .7
