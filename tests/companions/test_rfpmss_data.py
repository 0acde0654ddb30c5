"""RFPMSS on a table and pictures of one's own, and the panels drawn from it; what is missing is named."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from figure_text import text_of
from PIL import Image
from test_rfpmss import SMALL

from data_scripts.phantom import studies as phantom
from figures import rfpmss as figure
from xmodal.companions import (
    rfpmss, rfpmss_control, rfpmss_data, rfpmss_panels, rfpmss_study, rfpmss_training, rfpmss_tuning,
)
from xmodal.config import Problem
from xmodal.tables import common

SHORT = replace(SMALL, epochs=1, length=8)


@pytest.fixture
def own(tmp_path):
    """Ten studies as a table and pictures on disk: (folder, table as written)."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(10):
        row = {"patient": f"p{i}", "label": ("normal", "benign", "malignant")[i % 3], "report": f"mass {i}.",
               "boxes_magnified": "[[30, 10, 60, 40]]"}
        for view in rfpmss_data.VIEWS:
            row[view] = f"{view}{i}.png"
            Image.fromarray(rng.integers(0, 255, (40, 60), dtype=np.uint8)).save(tmp_path / row[view])
        rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "studies.csv", index=False)
    return tmp_path, table


def test_studies_of_ones_own_are_read_from_a_table_and_pictures(own):
    table, pictures = rfpmss_data.load_table(own[0], size=32)
    assert table.split.value_counts().to_dict() == {"train": 6, "test": 4}
    assert table.boxes_magnified[0] == "[[16, 8, 32, 32]]"
    assert all(p.shape == (10, 32, 32, 3) and p.dtype == np.uint8 for p in pictures.values())
    studies = rfpmss_data.read(table, pictures, SHORT)
    model, _ = rfpmss_training.train(studies, np.arange(6), SHORT, rfpmss.OURS, 0)
    out = rfpmss_study.represent(model, studies, np.arange(10))
    looked = rfpmss_panels.attention_table(studies, pictures, out, np.arange(10))
    assert len(looked) == 10 and looked.area.eq(16 * 24 / 32 ** 2).all()


@pytest.mark.parametrize("column, value, message", [
    ("report", " ", "empty report"),
    ("mammogram", "gone.png", "cannot be read"),
    ("boxes_magnified", "[[1, 2", "no list of boxes"),
    ("boxes_magnified", "[[1, 2]]", "no list of boxes"),
])
def test_what_is_wrong_with_ones_own_table_is_named(own, column, value, message):
    folder, table = own
    table.assign(**{column: value}).to_csv(folder / "studies.csv", index=False)
    with pytest.raises(Problem, match=message):
        rfpmss_data.load_table(folder)


def test_a_missing_column_and_an_unknown_label_are_named(own):
    folder, table = own
    table.drop(columns="ultrasound").to_csv(folder / "studies.csv", index=False)
    with pytest.raises(Problem, match="no column 'ultrasound'"):
        rfpmss_data.load_table(folder)
    table.assign(label="cyst").to_csv(folder / "studies.csv", index=False)
    studies = rfpmss_data.read(*rfpmss_data.load_table(folder, size=32), SHORT)
    with pytest.raises(Problem, match="no class 'cyst'"):
        rfpmss_training.train(studies, np.arange(6), SHORT, rfpmss.OURS, 0)


def test_labels_may_be_two_others_and_unknown_where_reports_are_not(home, own):
    """As of gliomas: the last class is looked for; who has no label is trained on, and counts in no AUC."""
    folder, table = own
    labels = ["unmethylated", "methylated", "", "methylated", "unmethylated"] * 2
    split = ["train"] * 5 + ["test"] * 5
    table.assign(label=labels, split=split).to_csv(folder / "studies.csv", index=False)
    studies = rfpmss_data.read(*rfpmss_data.load_table(folder, size=32), SHORT)
    assert studies.classes == ("unmethylated", "methylated")
    assert studies.positive().tolist() == studies.numbers().tolist() == [0, 1, -1, 1, 0] * 2
    plan = rfpmss_study.trainings(studies.table, SHORT)
    assert plan["RFPMSS"].train.tolist() == [0, 1, 2, 3, 4]
    assert plan["4 labels"].train.tolist() == [0, 1, 3, 4]
    tables = rfpmss_study.run_all("lesson", studies, {"4 labels": plan["4 labels"]}, [0])["4 labels", 0]
    assert np.isfinite(tables["history"].labels).all() and tables["retrieval"].n.eq(5).all()
    known = np.array([0, 1, 3, 4, 5, 6, 8, 9])
    of_known = rfpmss_data.Studies(studies.table.iloc[known].reset_index(drop=True),
                                   {view: tokens[known] for view, tokens in studies.tokens.items()},
                                   studies.reports[known], studies.mask[known])
    areas = [rfpmss_study.of_frozen_features(s, np.arange(n), [0]) for s, n in ((studies, 5), (of_known, 4))]
    pd.testing.assert_frame_equal(*areas)
    shares = {"report": np.array([[0.0, 1.0]] * 5 + [[1.0, 0.0]] * 5)}
    of_label = rfpmss_panels.fig5d(shares, np.array(["", "methylated"] * 5), studies.classes[-1])
    assert of_label.label.eq("methylated").all() and of_label.share.tolist() == [0.6, 0.4]


def test_every_panel_is_drawn_from_its_table_alone(home, own):
    table, pictures = rfpmss_data.load_table(own[0], size=32)
    rows = np.arange(10)
    studies = rfpmss_data.read(table, pictures, SHORT)
    plan = {name: rfpmss_study.Training(name, rfpmss.OURS, SHORT, rows[:6]) for name in ("RFPMSS", "other")}
    runs = rfpmss_panels.per_run(rfpmss_study.run_all("lesson", studies, plan, (0, 1)))
    model, _ = rfpmss_study.again("lesson", studies, plan["RFPMSS"], 0)
    out = rfpmss_study.represent(model, studies, rows)
    shares = rfpmss_panels.anchor_shares(model, out)
    looked = rfpmss_panels.attention_table(studies, pictures, out, rows)
    gaps = rfpmss_panels.compare(runs, ["RFPMSS", "other"])
    control = [("arm", dose, seed, dose / 10) for dose in (0, 1) for seed in (0, 1)]
    control = pd.DataFrame(control, columns=["arm", "dose", "seed", "value"])
    tables = {
        "table1": gaps, "table3": gaps, "table4a": gaps, "table4b": gaps, "table5": gaps,
        "control": control.assign(measure=rfpmss_control.NEAR),
        "fig4": rfpmss_panels.spread(looked, "iou"),
        "fig5": rfpmss_panels.fig5(studies, out, rows),
        "fig5d": rfpmss_panels.fig5d(shares, table.label.to_numpy()),
        "fig7": rfpmss_panels.fig7(shares, studies, rows, pictures),
    }
    assert set(tables) == set(figure.PANELS)
    for name, panel in tables.items():
        common.write(panel, f"rfpmss_{name}", "lesson")
    shown = text_of(figure.draw())
    assert "difference from RFPMSS over seeds" in shown and "phantom data" in shown
    assert "no finished runs" not in shown and "other (" in shown


def test_what_a_row_adds_is_a_paired_difference_over_the_seeds_that_both_have():
    """Seeds that differ by far more than the rows do: the difference is 2 with a narrow interval."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(6):
        level = rng.normal(50, 20)
        for name, gain in (("RFPMSS", 0), ("other", 2)):
            values = dict.fromkeys((*rfpmss_panels.MEASURES, *rfpmss_panels.AREAS), level + gain)
            values["R@10"] += rng.normal(0, 0.1)
            if (name, seed) != ("other", 5):
                rows.append({"name": name, "site": "a", "seed": seed, "n": 96, **values})
    gaps = rfpmss_panels.compare(pd.DataFrame(rows), ["RFPMSS", "other"])
    own, other = gaps.iloc[0], gaps.iloc[1]
    assert own["R@10_difference"] == 0 and other.seeds == 5
    assert 1.5 < other["R@10_low"] < other["R@10_difference"] < other["R@10_high"] < 2.5
    assert other["auc_difference"] == pytest.approx(2) and other["R@10_p"] < 1e-4
    read = rfpmss_panels.shown(gaps, "R@10")
    assert read.loc["other", ("a", "less RFPMSS's")].startswith("+2.0 [1.")


# ---- the paper's way of reading: pixels in colour, varied, words exchanged ---------------------------------

PAPER = replace(SHORT, side=48, crop=32, depth=1)


def test_left_and_right_are_exchanged_and_nothing_else():
    report = "Left breast. A mass in the upper left part, bright; RIGHT is upright."
    mirrored = rfpmss_data.exchange_sides(report)
    assert mirrored == "Right breast. A mass in the upper right part, bright; Left is upright."
    assert rfpmss_data.exchange_sides(mirrored).lower() == report.lower()


def test_a_variation_crops_turns_and_mirrors_and_the_same_rows_get_the_same_again():
    rows = np.arange(8)
    variation = rfpmss_data.vary(rows, 1)
    again = rfpmss_data.vary(rows, 1)
    assert torch.equal(variation.mirrored, again.mirrored) and 0 < variation.mirrored.sum() < 8
    assert not torch.equal(variation.place["mammogram"], rfpmss_data.vary(rows[::-1], 1).place["mammogram"])
    still = {view: torch.zeros(8) for view in rfpmss_data.VIEWS}
    middle = {view: torch.zeros(8, 2) for view in rfpmss_data.VIEWS}
    grey = {view: torch.tensor([[1.0, 0.0]] * 8) for view in rfpmss_data.VIEWS}
    only_mirrored = rfpmss_data.Variation(variation.mirrored, middle, still, grey)
    pictures = torch.randint(0, 255, (8, 48, 48, 3), dtype=torch.uint8)
    plain = rfpmss_data.patches(pictures, 32)
    varied = rfpmss_data.patches(pictures, 32, only_mirrored, "mammogram")
    flipped = rfpmss_data.patches(pictures.flip(2), 32)
    assert plain.shape == (8, 4, 768)
    expected = torch.where(variation.mirrored[:, None, None], flipped, plain)
    torch.testing.assert_close(varied, expected, atol=1e-4, rtol=0)


def test_pictures_in_colour_train_varied_with_mirrored_reports(own):
    folder, table = own
    table = table.assign(report=[f"mass {i} in the left breast." for i in range(10)])
    table.to_csv(folder / "studies.csv", index=False)
    studies = rfpmss_data.read(*rfpmss_data.load_table(folder, size=48), PAPER)
    variation = rfpmss_data.vary(np.arange(6), 0)
    views, reports, mask = rfpmss_data.batch(studies, np.arange(6), crop=32, variation=variation)
    assert views["ultrasound"].shape == (6, 4, 768) and reports.shape[:2] == mask.shape
    for i, mirrored in enumerate(variation.mirrored):
        assert torch.equal(reports[i], (studies.mirrored if mirrored else studies.reports)[i])
    assert not torch.equal(studies.mirrored, studies.reports)
    model, history = rfpmss_training.train(studies, np.arange(6), PAPER, rfpmss.OURS, 0)
    second, _ = rfpmss_training.train(studies, np.arange(6), PAPER, rfpmss.OURS, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), second.state_dict().values()))
    assert np.isfinite(history).all(axis=None)
    before = model.state_dict()["fuse.weight"].clone()
    tuning = rfpmss_tuning.Tuning(3, 1e-3)
    _, tuned = rfpmss_tuning.tune(second, studies, np.arange(6), studies.positive()[:6], tuning, 0)
    assert len(tuned) == 3 and np.isfinite(tuned).all(axis=None)
    assert not torch.equal(second.state_dict()["fuse.weight"], before), "the whole network is trained"
    out = rfpmss_study.represent(model, studies, np.arange(10))
    pictures = {view: studies.tokens[view].numpy() for view in rfpmss_data.VIEWS}
    looked = rfpmss_panels.attention_table(studies, pictures, out, np.arange(10), PAPER.crop)
    assert looked.boxes.eq("[[16, 4, 40, 40]]").all(), "in pixels of the part that the model saw"
    assert np.allclose(looked.area, 16 * 28 / 32 ** 2)


def test_the_paper_profile_has_the_sizes_that_the_paper_prints():
    paper = rfpmss.SETTINGS["paper"]
    assert (paper.epochs, paper.lr, paper.decay, paper.damping, paper.bank) == (15, 5e-5, 0.9, 0.25, 5500)
    assert (paper.side, paper.crop, paper.depth, paper.patches) == (256, 224, 12, "pixels")
    assert (paper.common, paper.common_heads, paper.joint) == (4096, 64, 6144)
    assert (paper.anchors, paper.chosen) == (64, 32)
    assert rfpmss_study.anchor_grid(paper) == [(16, 8), (32, 16), (64, 16), (64, 48)]      # Table 4 b


def test_neighbouring_words_are_averaged_and_padding_has_no_part():
    hidden = torch.arange(5.0).view(1, 5, 1).expand(1, 5, 384)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    means, whole = rfpmss_data.together(hidden, mask, 2)
    assert means[0, :, 0].tolist() == [0.5, 2.0, 0.0] and whole.tolist() == [[1, 1, 0]]
    assert torch.equal(rfpmss_data.together(hidden, mask, 1)[0], hidden * mask[..., None])


def test_clusters_of_a_modality_are_neighbours_as_far_as_they_lie_apart():
    """The control's data: chance without distance, nearly all neighbours with much; those of one modality say
    nothing of another's."""
    shares = []
    for distance in (0.0, 8.0):
        studies, clusters = rfpmss_control.draw(distance, 1)
        z = studies.tokens["ultrasound"][:, 0]
        shares.append(rfpmss_control.same_cluster(z, clusters["ultrasound"]))
        other = rfpmss_control.same_cluster(z, clusters["mammogram"])
        assert abs(other - 1 / 8) < 0.03
    assert abs(shares[0] - 1 / 8) < 0.03 and shares[1] > 0.9


def test_verdicts_follow_the_rules_from_the_stored_values():
    """Values as a mechanism that works would give them: every rule holds; without it, the right ones fail."""
    rng = np.random.default_rng(0)
    share = {"before projection": 1.0, "aligned": 0.1, "consistent": 0.9, "shuffled": 0.1, "chance": 0.0}
    rows = []
    for control in rfpmss_control.CONTROLS:
        for dose in rfpmss_control.DOSES:
            for seed in range(4):
                for arm, factor in share.items():
                    value = factor * dose / 8 + rng.normal(0, 0.001)
                    if control.measure == rfpmss_control.RECALL:
                        value = (arm != "chance") * 0.7 + rng.normal(0, 0.001)
                    rows.append((control.name, control.measure, dose, seed, arm, value))
    table = pd.DataFrame(rows, columns=["control", "measure", "dose", "seed", "arm", "value"])
    judged = rfpmss_control.verdicts(table)
    assert len(judged) == sum(len(control.rules) for control in rfpmss_control.CONTROLS)
    assert judged.verdict.eq("holds").all()
    nothing = table.value.where(table.arm != "consistent", table.dose * 0.1 / 8)
    failed = rfpmss_control.verdicts(table.assign(value=nothing)).query("verdict != 'holds'").sentence
    assert {"consistency keeps them", "better than anchors of another sample"} <= set(failed)


def test_missing_studies_and_empty_reports_are_named(tmp_path):
    with pytest.raises(Problem, match="no phantom studies"):
        rfpmss_data.load(tmp_path)
    folder = tmp_path / "studies"
    table = phantom.write(folder, 2, size=64, workers=1)
    table.assign(report=["", *table.report[1:]]).to_parquet(folder / "studies.parquet")
    with pytest.raises(Problem, match="empty report"):
        rfpmss_data.load(tmp_path, {"studies": "inbreast"})
