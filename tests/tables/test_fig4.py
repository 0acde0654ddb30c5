"""fig4: the tables hold what was planted, and agree with the measures of `stats`."""
import numpy as np
import pandas as pd
import pytest
from small_runs import Pictures, boxed

from xmodal import stats
from xmodal.tables import cases, fig4

METHODS = ("ours", "fusion_localiser")
SEEDS = (42, 1234)


def test_localisers_are_compared_on_the_runs_that_all_have():
    runs = [("ours", 42), ("ours", 1234), ("fusion_localiser", 42)]
    rows = pd.concat([boxed(method, seed) for method, seed in runs], ignore_index=True)
    assert set(fig4.unseen_mammograms(rows).seed) == {42}
    assert set(fig4.unseen_mammograms(rows[rows.method == "ours"]).seed) == {42, 1234}


def test_nothing_has_run():
    tables = fig4.fig4_tables(boxed().iloc[:0])
    assert list(tables) == ["fig4i", "fig4j", "fig4k", "fig4l"]
    for table in tables.values():
        assert table.empty and "method" in table
    assert fig4.fig4a(boxed().iloc[:0], None, None).empty


def test_the_histogram_counts_every_outlined_image_once_and_misses_apart():
    rows = boxed()
    table = fig4.fig4i(rows, n=50)
    outlined = rows[rows.has_mask]
    assert table.share.sum() == pytest.approx(1) and (table.images == 40).all()
    assert table["mean"].iloc[0] == pytest.approx(outlined.iou.mean())
    missed = table[(table.low == 0) & (table.high == 0)]
    assert missed.share.iloc[0] == pytest.approx((outlined.iou == 0).mean())
    assert table.share.iloc[-1] == pytest.approx((outlined.iou >= 0.9).mean())


def average_precision(run):
    """That of the boxes themselves, by `stats.box_average_precision`."""
    marks = [[]] * len(run)
    for i, row in enumerate(run.itertuples()):
        if row.box_score == row.box_score:
            marks[i] = [[row.x0, row.y0, row.x1, row.y1, row.box_score]]
    lesions = [[[10, 10, 20, 20]] * outlined for outlined in run.has_mask]
    return stats.box_average_precision(marks, lesions, fig4.MIN_IOU)


def test_average_precision_is_that_of_the_boxes_themselves():
    """Here each image has one lesion and at most one box."""
    rows = pd.concat([boxed(method, seed) for method in METHODS for seed in SEEDS], ignore_index=True)
    table = fig4.fig4j(rows)
    for method, curve in table.groupby("method"):
        expected = [average_precision(run) for _, run in rows[rows.method == method].groupby("seed")]
        assert curve.ap.unique() == pytest.approx([np.mean(expected)])
        assert curve.ap_sd.unique() == pytest.approx([np.std(expected, ddof=1)])
        assert (curve.precision.diff().dropna() <= 1e-12).all()
        assert curve.images.unique() == [60] and curve.runs.unique() == [2]


def test_an_outline_that_nobody_drew_is_no_false_positive():
    rows = boxed()
    without_outline = rows[rows.has_mask].assign(has_mask=False, iou=np.nan, dice=np.nan)
    without_outline["sample"] += "x"
    pd.testing.assert_frame_equal(fig4.fig4j(pd.concat([rows, without_outline])), fig4.fig4j(rows))


def test_dice_and_sensitivity_are_means_over_images_not_over_seeds():
    parts = [boxed(seed=seed, held_out=held_out) for seed in SEEDS for held_out in ("inbreast", "cbis_ddsm")]
    rows = pd.concat(parts, ignore_index=True)
    table = fig4.fig4k(rows, n=50).set_index("lesion_type")
    mass = rows[rows.has_mask & (rows.lesion_type == "mass")]
    assert table.loc["mass", "value"] == pytest.approx(mass.dice.mean())
    assert table.loc["mass", "images"] == mass["sample"].nunique() == 20
    assert (table.low <= table.value).all() and (table.value <= table.high).all()


def test_diameters_on_an_edge_are_in_the_bin_above_and_unknown_ones_are_told():
    rows = boxed()
    table = fig4.fig4l(rows, n=20)
    assert set(table.diameter_mm.astype(str)) == set(fig4.DIAMETERS) and table.images.sum() == 40
    table = table.set_index(table.diameter_mm.astype(str))
    for name, mm in (("<5", 4.9), ("5-10", 5.0), ("10-15", 14.0), ("15-20", 15.5), (">20", 20.0)):
        of_size = rows[rows.has_mask & (rows.diameter_mm == mm)]
        assert table.loc[name, "images"] == len(of_size), name
        assert table.loc[name, "value"] == pytest.approx((of_size.iou >= 0.5).mean()), name
    assert table.loc["unknown", "images"] == (rows.has_mask & rows.diameter_mm.isna()).sum()


def test_sixteen_cases_are_chosen_by_rule_and_keep_what_each_localiser_marked():
    rows = pd.concat([boxed(), boxed("densenet_mammography")], ignore_index=True)
    cohort = rows[rows.method == "ours"][["sample", "patient"]].assign(boxes="[[10, 10, 20, 20]]")
    table = fig4.fig4a(rows, cohort, Pictures())
    assert len(table) == 16 and "".join(table.panel) == "aaaabbbbccccdddd"
    assert table.lesion_type.tolist()[::4] == list(fig4.GROUPS)
    for _, panel in table.groupby("panel"):
        assert panel.iou_ours.is_monotonic_increasing
    assert table.iou_fusion_localiser.isna().all(), "it has not run"
    assert (table.box_fusion_localiser == "").all()
    case = table.iloc[9]
    iou = rows[rows["sample"] == case.case].set_index("method").iou
    assert case.iou_ours == iou["ours"]
    assert case.iou_densenet_mammography == iou["densenet_mammography"]
    assert cases.from_uri(case.image).shape == (32, 32)
    shuffled = rows.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(fig4.fig4a(shuffled, cohort, Pictures()), table)
