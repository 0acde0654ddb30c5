"""lesions: the tables of Fig. 3 j-l and Fig. 4 hold what was planted, and agree with the measures of `stats`."""
import numpy as np
import pandas as pd
import pytest

from xmodal import stats
from xmodal.cohort import label_set
from xmodal.tables import cases, common, fig3 as fig3_tables, fig4 as fig4_tables


def read(method="ours", seed=42, n=80, held_out="inbreast", skill=1.0):
    """Decided mammograms, two a patient: odd patients malignant; densities and lesion types in turn."""
    rng, i = np.random.default_rng([seed, len(method)]), np.arange(n)
    y = (i // 2 % 2).astype(float)
    return pd.DataFrame({"method": method, "held_out": held_out, "seed": seed, "modality": "mammography", "sample": [f"{held_out}/{k}" for k in i],
                         "patient": [f"p{k // 2}" for k in i], "density": np.array(list("ABCD"))[i // 4 % 4], "y": y, "p": skill * y + rng.random(n),
                         "lesion_type": np.where((y == 1) | (i % 8 < 3), np.array(["mass", "calcification", "distortion", "asymmetry"])[i // 4 % 4], "")})


def boxed(method="ours", seed=42, held_out="inbreast", n=60, normal=20, skill=0.5):
    """Unseen mammograms as `predict` leaves them: lesions of one 10 x 10 pixel box each, found with IoU 0 or in between; some normal."""
    rng, i = np.random.default_rng([seed, len(method)]), np.arange(n)
    lesion, seen, shift = i >= normal, rng.random(n) < 0.8, rng.integers(0, 5, n) * (rng.random(n) > skill)
    truth = np.tile([10.0, 10.0, 20.0, 20.0], (n, 1))
    box = np.where(seen[:, None], truth + shift[:, None] * [1, 0, 1, 0], np.nan)
    iou = np.where(lesion, np.nan_to_num(stats.iou(box, truth)), np.nan)
    return pd.DataFrame({"method": method, "held_out": held_out, "seed": seed, "split": "target", "condition": "source", "modality": "mammography",
                         "sample": [f"{held_out}/{k:02d}" for k in i], "patient": [f"{held_out}/p{k // 2}" for k in i], "has_mask": lesion,
                         "allowed": np.where(lesion, 12, label_set("normal")), "iou": iou, "dice": np.where(lesion, (1 + iou) / 2, np.nan),
                         "box_score": np.where(seen, rng.random(n).round(1), np.nan), **{c: box[:, k] for k, c in enumerate(("x0", "y0", "x1", "y1"))},
                         "lesion_type": np.where(lesion, np.array(fig4_tables.GROUPS)[i % 4], ""), "lesion_shape": "",
                         "diameter_mm": np.where(lesion, [(4.9, 5.0, 14.0, 15.5, 20.0, np.nan)[k % 6] for k in i], np.nan)})


# ---- Fig. 3 j-l --------------------------------------------------------------------------------------------------

def test_auc_by_density_is_that_of_the_stratum_averaged_over_seeds():
    rows = pd.concat([read(seed=s) for s in (42, 1234)] + [read("erm", skill=0.1), read("irm")], ignore_index=True)
    table = fig3_tables.fig3j(rows, n=50)
    assert list(table.columns) == ["method", "held_out", "density", "measure", *common.FOUND]
    assert set(zip(table.method, table.density)) == {(m, d) for m in ("erm", "ours") for d in "ABCD"} and set(table.measure) == {"AUC"}
    row = table[(table.method == "ours") & (table.density == "B")].iloc[0]
    strata = [rows[(rows.method == "ours") & (rows.seed == s) & (rows.density == "B")] for s in (42, 1234)]
    assert row.value == pytest.approx(np.mean([stats.auc(g.y, g.p) for g in strata]))
    assert (row.images, row.patients) == (20, 10) and row.low <= row.value <= row.high


@pytest.mark.parametrize("y, measure", [(1.0, "sensitivity"), (0.0, "specificity")])
def test_a_stratum_of_one_class_says_sensitivity_or_specificity_instead(y, measure):
    rows = read()
    rows = rows[(rows.density != "A") | (rows.y == y)].assign(p=lambda r: np.arange(len(r)) / len(r))
    row = fig3_tables.fig3j(rows, n=20).set_index("density").loc["A"]
    share = ((rows[rows.density == "A"].p >= 0.5) == bool(y)).mean()
    assert row.measure == measure and row.value == pytest.approx(share)


def test_each_lesion_type_is_held_against_all_that_is_not_malignant():
    rows = read(skill=0.3)
    table = fig3_tables.fig3k(rows, n=20).set_index("lesion_type")
    assert set(table.index) == {"mass", "calcification", "distortion", "asymmetry"}
    chosen = rows[(rows.y == 0) | (rows.lesion_type == "mass")]
    assert table.loc["mass", "value"] == pytest.approx(stats.auc(chosen.y, chosen.p))
    assert table.loc["mass", "images"] == len(chosen) and table.malignant.sum() == 40 and (table.images - table.malignant == 40).all()
    assert "mass" not in set(fig3_tables.fig3k(rows[(rows.y == 0) | (rows.lesion_type != "mass")], n=20).lesion_type)


def test_share_of_training_data_keeps_every_run_and_its_mean():
    methods = {"ours_25": 0.2, "ours_50": 0.4, "ours": 1.0, "erm": 0.1}
    rows = pd.concat([read(m, s, held_out=d, skill=k) for m, k in methods.items() for s in (42, 1234) for d in ("inbreast", "bach")])
    table = fig3_tables.fig3l(rows)
    assert table.share.tolist() == [25] * 4 + [50] * 4 + [100] * 4
    last = table[table.share == 100]
    assert last["mean"].unique() == pytest.approx([last.auc.mean()]) and last.sd.unique() == pytest.approx([last.auc.std()])


def test_shares_and_localisers_are_compared_on_the_runs_that_all_have():
    both = pd.concat([read(m, s) for m, seeds in {"ours_25": (42,), "ours": (42, 1234)}.items() for s in seeds])
    assert fig3_tables.fig3l(both)[["share", "seed"]].to_numpy().tolist() == [[25, 42], [100, 42]]
    rows = pd.concat([boxed("ours", 42), boxed("ours", 1234), boxed("fusion_localiser", 42)], ignore_index=True)
    assert set(fig4_tables.unseen_mammograms(rows).seed) == {42} and set(fig4_tables.unseen_mammograms(rows[rows.method == "ours"]).seed) == {42, 1234}


def test_nothing_has_run():
    nothing = read().iloc[:0]
    assert all(f(nothing).empty for f in (fig3_tables.fig3j, fig3_tables.fig3k, fig3_tables.fig3l))
    tables = fig4_tables.fig4(boxed().iloc[:0])
    assert all(t.empty and "method" in t for t in tables.values()) and list(tables) == ["fig4i", "fig4j", "fig4k", "fig4l"]
    assert fig4_tables.fig4a(boxed().iloc[:0], None, None).empty


# ---- Fig. 4 ------------------------------------------------------------------------------------------------------

def test_the_histogram_counts_every_outlined_image_once_and_misses_apart():
    rows = boxed()
    table = fig4_tables.fig4i(rows, n=50)
    known = rows[rows.has_mask]
    assert table.share.sum() == pytest.approx(1) and table["mean"].iloc[0] == pytest.approx(known.iou.mean()) and (table.images == 40).all()
    assert table.share[(table.low == 0) & (table.high == 0)].iloc[0] == pytest.approx((known.iou == 0).mean())
    assert table.share.iloc[-1] == pytest.approx((known.iou >= 0.9).mean())


def test_average_precision_is_that_of_the_boxes_themselves():
    """Known from `stats.box_average_precision`, which sees boxes; here each image has one lesion and at most one box."""
    rows = pd.concat([boxed(m, s) for m in ("ours", "fusion_localiser") for s in (42, 1234)], ignore_index=True)
    table = fig4_tables.fig4j(rows)
    for method, g in table.groupby("method"):
        expected = []
        for _, run in rows[rows.method == method].groupby("seed"):
            marks = [r[["x0", "y0", "x1", "y1", "box_score"]].to_numpy(float)[None] if r.box_score == r.box_score else [] for _, r in run.iterrows()]
            expected.append(stats.box_average_precision(marks, [[[10, 10, 20, 20]] if h else [] for h in run.has_mask], fig4_tables.AT))
        assert g.ap.unique() == pytest.approx([np.mean(expected)]) and g.ap_sd.unique() == pytest.approx([np.std(expected, ddof=1)])
        assert (g.precision.diff().dropna() <= 1e-12).all() and g.images.unique() == [60] and g.runs.unique() == [2]


def test_an_outline_that_nobody_drew_is_no_false_positive():
    rows = boxed()
    open_ = rows[rows.has_mask].assign(has_mask=False, sample=lambda r: r["sample"] + "x", iou=np.nan, dice=np.nan)
    pd.testing.assert_frame_equal(fig4_tables.fig4j(pd.concat([rows, open_])), fig4_tables.fig4j(rows))


def test_dice_and_sensitivity_are_means_over_images_not_over_seeds():
    rows = pd.concat([boxed(seed=s, held_out=d) for s in (42, 1234) for d in ("inbreast", "cbis_ddsm")], ignore_index=True)
    known = rows[rows.has_mask]
    table = fig4_tables.fig4k(rows, n=50).set_index("lesion_type")
    mass = known[known.lesion_type == "mass"]
    assert table.loc["mass", "value"] == pytest.approx(mass.dice.mean()) and table.loc["mass", "images"] == mass["sample"].nunique() == 20
    assert (table.low <= table.value).all() and (table.value <= table.high).all()


def test_diameters_on_an_edge_are_in_the_bin_above_and_unknown_ones_are_told():
    table = fig4_tables.fig4l(boxed(), n=20)
    assert set(table.diameter_mm.astype(str)) == set(fig4_tables.DIAMETERS) and table.images.sum() == 40
    rows = boxed()
    at = lambda mm: rows[rows.has_mask & (rows.diameter_mm == mm)]
    table = table.set_index(table.diameter_mm.astype(str))
    for name, mm in (("<5", 4.9), ("5-10", 5.0), ("10-15", 14.0), ("15-20", 15.5), (">20", 20.0)):
        assert table.loc[name, "images"] == len(at(mm)) and table.loc[name, "value"] == pytest.approx((at(mm).iou >= 0.5).mean()), name
    assert table.loc["unknown", "images"] == (rows.has_mask & rows.diameter_mm.isna()).sum()


class Pictures:
    """As `loaders.Images`: an image of noise a row."""
    def gather(self, rows, what="images"):
        return np.stack([np.random.default_rng(len(s)).integers(0, 256, (32, 32), dtype=np.uint8) for s in rows["sample"]])


def test_sixteen_cases_are_chosen_by_rule_and_keep_what_each_localiser_found():
    rows = pd.concat([boxed(), boxed("densenet_mammography")], ignore_index=True)
    cohort = rows[rows.method == "ours"][["sample", "patient"]].assign(boxes="[[10, 10, 20, 20]]")
    table = fig4_tables.fig4a(rows, cohort, Pictures())
    assert len(table) == 16 and "".join(table.panel) == "aaaabbbbccccdddd" and table.lesion_type.tolist()[::4] == list(fig4_tables.GROUPS)
    for _, g in table.groupby("panel"):
        assert g.iou_ours.is_monotonic_increasing
    assert table.iou_fusion_localiser.isna().all() and (table.box_fusion_localiser == "").all()         # it has not run
    one = table.iloc[9]
    own = rows[(rows["sample"] == one.case)].set_index("method")
    assert one.iou_ours == own.iou["ours"] and one.iou_densenet_mammography == own.iou["densenet_mammography"]
    assert cases.from_uri(one.image).shape == (32, 32)
    pd.testing.assert_frame_equal(fig4_tables.fig4a(rows.sample(frac=1, random_state=1), cohort, Pictures()), table)


def test_a_case_at_a_quantile_is_the_lower_of_two_and_ties_go_by_name():
    rows = pd.DataFrame({"sample": list("cabd"), "iou": [0.9, 0.1, 0.5, 0.5]})
    assert [cases.at_quantile(rows, "iou", q)["sample"] for q in (0, 0.25, 0.5, 0.75, 1)] == ["a", "a", "b", "d", "c"]
    assert cases.at_quantile(rows.sample(frac=1, random_state=3), "iou")["sample"] == "b"
