"""Attention, retrieval, conclusion: the printed Eq. 11 fails, ours finds what was planted."""
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import explain as ex
from xmodal.predict import boxes_of, strongest_box
from xmodal.tables import cases, fig4 as fig4_tables, fig5 as fig5_tables


def planted():
    """64 mammogram tokens and 30 tissue tokens; mammogram token 10 matches tissue tokens 3 and 7, and nothing else matches."""
    g = torch.Generator().manual_seed(0)
    m, p = torch.randn(64, 16, generator=g) * 0.1, torch.randn(30, 16, generator=g) * 0.1
    m[10] += 8
    p[[3, 7]] += torch.tensor([[8.0], [6.0]])
    return m, p


def test_correction_1_the_printed_heatmap_is_one_everywhere():
    m, p = planted()
    printed = (m @ p.T / 4).softmax(1).sum(1)
    assert torch.allclose(printed, torch.ones(64), atol=1e-6) and (printed > 0.7).all()      # every patch is "suspicious"


def test_ours_points_at_the_planted_match_and_retrieves_its_tissue():
    m, p = planted()
    a = ex.attention(m, p)
    assert torch.allclose(a.sum(0), torch.ones(30))
    alpha = ex.heatmap(a)
    assert alpha.argmax() == 10 and alpha.max() == 1 and alpha.min() == 0 and (alpha > 0.7).sum() == 1
    index, weight = ex.top_patches(m, p, alpha, k=5)
    assert index[:2].tolist() == [3, 7] and (weight.diff() <= 0).all() and weight.sum() <= 1 + 1e-6


def test_a_constant_image_has_no_hot_spot_and_still_retrieves():
    m, p = torch.ones(64, 16), torch.randn(30, 16)
    alpha = ex.heatmap(ex.attention(m, p))
    assert (alpha == 0).all()
    assert len(ex.top_patches(m, p, alpha)[0]) == 5


def test_fewer_patches_than_k_are_all_returned():
    m, p = planted()
    assert len(ex.top_patches(m, p[:3], ex.heatmap(ex.attention(m, p[:3])))[0]) == 3


def test_conclusion_says_what_and_when_it_is_unsure():
    assert ex.conclude(np.array([0.02, 0.03, 0.05, 0.9]), 3, True) == "Most likely invasive (90 %). A lesion is outlined."
    unsure = ex.conclude(np.array([0.1, 0.42, 0.4, 0.08]), 2, False)
    assert "benign (42 %), but unsure: in situ has 40 %" in unsure and "ordinal head says in situ" in unsure and "No lesion" in unsure


def test_share_of_attention_in_the_lesion_and_the_pointing_game():
    heat, mask = np.zeros((8, 8)), np.zeros((96, 96), bool)
    heat[2, 3], mask[24:36, 36:48] = 1.0, True
    assert ex.inside(heat, mask) == 1.0 and ex.pointing_hit(heat, mask)
    assert ex.inside(heat, np.roll(mask, 40, 0)) == 0.0 and not ex.pointing_hit(heat, np.roll(mask, 40, 0))
    assert np.isnan(ex.inside(heat, np.zeros((96, 96))))


def test_correction_6_dice_is_a_loss_on_masks_and_boxes_come_from_their_components():
    """Two boxes have no Dice gradient where they do not overlap; a mask has one, and its components give the boxes."""
    p = np.zeros((32, 32))
    p[4:8, 6:12], p[20:22, 20:22] = 0.9, 0.95
    box, score = strongest_box(p)
    assert box == (6, 4, 12, 8) and score == 0.9
    assert sorted(boxes_of(p > 0.5)) == [(6, 4, 12, 8), (20, 20, 22, 22)]
    assert strongest_box(np.zeros((32, 32)))[0] is None
    apart = torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True)
    overlap = (torch.minimum(apart[2:], torch.tensor([6.0, 6.0])) - torch.maximum(apart[:2], torch.tensor([5.0, 5.0]))).clamp_min(0).prod()
    overlap.backward()
    assert (apart.grad == 0).all()                                       # printed: nothing to learn from
    from xmodal.losses import dice_ce
    logits = torch.zeros(1, 32, 32, requires_grad=True)
    dice_ce(logits, torch.tensor(p > 0.5)[None].float()).backward()
    assert (logits.grad[0, 5, 7] < 0) and (logits.grad[0, 0, 0] > 0)     # ours: grow here, shrink there


def test_patches_are_cut_around_their_token_and_inside_their_tile():
    tiles = np.zeros((2, 96, 96, 3), np.uint8)
    tiles[1, 24:36, 36:48] = 255                                  # token 2 * 8 + 3 of the second tile
    middle, corner = ex.patch_picture(tiles, [(1, 19), (1, 0)], side=8)
    assert middle.shape == corner.shape == (36, 36, 3)
    assert (middle[12:24, 12:24] == 255).all() and middle[:12].max() == 0 and corner.shape[0] == 36


def test_only_patients_with_both_modalities_can_be_explained():
    table = pd.DataFrame({"patient": ["a", "a", "b"], "modality": ["mammography", "histopathology", "mammography"]})
    assert ex.paired(table) == {"a"}


# ---- deletion and insertion --------------------------------------------------------------------------------------

def weighted(weights):
    """A score that adds up, over the patches, weight x (share of the way from grey 0 to the patch's 200)."""
    step = 12
    mean = lambda x: x.reshape(len(x), 8, step, 8, step).mean((2, 4)).reshape(len(x), -1)
    return lambda x: mean(np.asarray(x, float)) @ weights / 200


def test_deletion_and_insertion_have_the_areas_of_the_closed_form():
    """One patch of 64 holds the whole score, on an image that is 0 but for it; blank is the mean, 200 / 64 = 3 of 200 greys."""
    image, weights = np.zeros((96, 96), np.uint8), np.eye(64)[19]
    image[24:36, 36:48] = 200
    order = lambda first: np.array([first, *np.delete(np.arange(64), first)])
    blank = 3 / 200
    step = 1 / 64
    found = ex.faithfulness(weighted(weights), image, order(19), steps=64)
    assert found.deletion == pytest.approx(blank + (1 - blank) * step / 2) and found.insertion == pytest.approx(1 - (1 - blank) * step / 2)
    last = ex.faithfulness(weighted(weights), image, order(19)[::-1], steps=64)
    assert last.deletion == pytest.approx(1 - (1 - blank) * step / 2) and last.insertion == pytest.approx(blank + (1 - blank) * step / 2)


def test_for_a_score_that_adds_up_insertion_and_deletion_mirror_each_other():
    rng = np.random.default_rng(0)
    image, weights = rng.integers(0, 256, (96, 96), dtype=np.uint8), rng.random(64)
    score, order = weighted(weights), rng.permutation(64)
    found = ex.faithfulness(score, image, order)
    ends = score(np.stack([image, np.full_like(image, round(image.mean()))])).sum()
    assert found.deletion + found.insertion == pytest.approx(ends)
    constant = ex.faithfulness(lambda x: np.full(len(x), 0.3), image, order)
    assert constant == pytest.approx((0.3, 0.3))


# ---- cases -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def study():
    """A run as it were: an untrained small model, 16 patients with two mammograms and two tiles each, and made-up predictions."""
    from xmodal import model
    rng, rows = np.random.default_rng(0), []
    for i in range(16):
        kind, shape = list(fig4_tables.KINDS.values())[i % 4]
        for modality, k in ((m, k) for m in ("mammography", "histopathology") for k in range(2)):
            rows.append({"sample": f"{modality}/{i:02d}_{k}", "patient": f"p{i:02d}", "modality": modality, "lesion_type": kind, "lesion_shape": shape,
                         "domain": "inbreast" if modality == "mammography" else "bach", "has_mask": modality == "mammography", "boxes": "[[8, 8, 40, 40]]"})
    table = pd.DataFrame(rows)
    pixels = {"mammography": rng.integers(0, 256, (96, 96), dtype=np.uint8), "histopathology": rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)}
    mask = np.zeros((96, 96), np.uint8)
    mask[8:40, 8:40] = 1
    images = SimpleNamespace(gather=lambda rows, what="images": np.stack([mask if what == "masks" else np.roll(pixels[m], 7 * int(s[-4:-2]), 0)
                                                                          for m, s in zip(rows.modality, rows["sample"])]))
    torch.manual_seed(0)
    both = pd.DataFrame({"sample": [f"p{i:02d}/both" for i in range(16)], "patient": [f"p{i:02d}" for i in range(16)], "modality": "both",
                         "split": "source test", "condition": "source", "truth": np.arange(16) // 4, "grade_pred": 1, "has_mask": False,
                         **{f"p{c}": rng.dirichlet(np.ones(4), 16)[:, c] for c in range(4)}})
    seen = table[table.has_mask].assign(split="target", condition="source", truth=-1, iou=rng.random(32), dice=0.5, x0=1.0, y0=2.0, x1=9.0, y1=9.0)
    run = SimpleNamespace(predictions=pd.concat([both, seen], ignore_index=True), config={"held_out": "inbreast"})
    return run, model.build("lesson").eval(), table, images


def test_grading_cases_are_the_quartiles_of_each_class(study):
    run, _, _, _ = study
    found = fig5_tables.grading_cases(*study)
    assert found.truth.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for truth, group in run.predictions[run.predictions.modality == "both"].groupby("truth"):
        assert found.case[found.truth == truth].tolist() == group.sort_values(f"p{truth}").patient.tolist()[:3]    # the lower ones of four
    row = found.iloc[0]
    said = run.predictions.set_index("sample").loc[f"{row.case}/both"]
    assert [row[f"p{c}"] for c in range(4)] == pytest.approx([said[f"p{c}"] for c in range(4)]) and row.grade == 1
    assert json.loads(row.truth_boxes) == [[8, 8, 40, 40]] and len(json.loads(row.box)) in (0, 4)
    assert row.conclusion.endswith("No lesion is outlined.") == (json.loads(row.box) == [])


def test_attention_cases_are_the_four_kinds_of_the_paper(study):
    found = fig4_tables.localisation_cases(*study)
    assert found.panel.tolist() == list("efgh") and found.title.tolist() == list(fig4_tables.KINDS)
    mammograms = study[0].predictions.query("modality == 'mammography'")
    for row in found.itertuples():
        assert row.iou == np.sort(mammograms.iou[mammograms.lesion_type == row.lesion_type])[3]      # the lower median of eight
    assert cases.from_uri(found.heat.iloc[0]).shape == (8, 8)


def test_faithfulness_and_pointing_tell_of_every_case(study):
    run, model, table, images = study
    found = ex.faithful(model, table, images, ["mammography/00_0", "mammography/03_1"])
    assert found["sample"].tolist() == ["mammography/00_0", "mammography/03_1"]
    assert found.drop(columns="sample").stack().between(0, 1).all()
    pd.testing.assert_frame_equal(ex.faithful(model, table, images, ["mammography/00_0"]), found.iloc[:1])
    pointed = ex.pointing(run, model, table, images)
    assert len(pointed) == 32 and pointed.area.unique() == pytest.approx([32 * 32 / 96 ** 2])


def test_where_nobody_has_both_modalities_there_is_no_case_and_no_error(study):
    run, model, table, images = study
    alone = table.assign(patient=table.patient + table.modality)
    single = SimpleNamespace(predictions=run.predictions[run.predictions.modality != "both"], config=run.config)
    found = [cases(single, model, alone, images) for cases in (fig5_tables.grading_cases, fig4_tables.localisation_cases, ex.pointing)]
    assert all(f.empty for f in found) and list(found[2].groupby("lesion_type")[["inside", "area", "hit"]].mean()) == ["inside", "area", "hit"]


# ---- browser -----------------------------------------------------------------------------------------------------

def test_the_browser_shows_the_first_case_as_a_picture_and_follows_the_choice():
    """Executed as a notebook: the first output is a picture where no widget works; choosing replaces that picture."""
    import nbformat
    from nbclient import NotebookClient
    code = ["""import matplotlib.pyplot as plt
from xmodal.runtime.browser import browse
def draw(name):
    fig = plt.figure(figsize=(1, 1))
    fig.text(0, 0.5, name)
    plt.close(fig)
    return fig
chooser = browse(["p1", "p2"], draw)"""]
    run = lambda cells: NotebookClient(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells))), kernel_name="python3").execute()
    first, second = run(code).cells[0].outputs, run([*code, 'chooser.value = "p2"']).cells[0].outputs
    assert [set(o.data) for o in first] == [{"image/png", "text/plain"}, {"application/vnd.jupyter.widget-view+json", "text/plain"}]
    assert "JupyterLab" in first[1].data["text/plain"] and "2 cases" in first[1].data["text/plain"] and len(second) == 2
    assert first[0].data["image/png"] != second[0].data["image/png"]


def test_a_browser_over_nothing_is_refused():
    from xmodal.config import Problem
    from xmodal.runtime.browser import browse
    with pytest.raises(Problem, match="no case"):
        browse([], None)
