"""Attention, retrieval, conclusion: the printed Eq. 11 fails, ours finds what was planted."""
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import explain as ex, model
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY
from xmodal.imaging import mammograms
from xmodal.losses import dice_ce
from xmodal.predict import strongest_box
from xmodal.tables import cases, fig4 as fig4_tables, fig5 as fig5_tables

# ---- Eq. 11 ----------------------------------------------------------------------------------------------

def planted():
    """64 mammogram tokens and 30 tissue tokens; only mammogram token 10 matches, tissue tokens 3 and 7."""
    g = torch.Generator().manual_seed(0)
    m = torch.randn(64, 16, generator=g) * 0.1
    p = torch.randn(30, 16, generator=g) * 0.1
    m[10] += 8
    p[[3, 7]] += torch.tensor([[8.0], [6.0]])
    return m, p


def test_correction_1_the_printed_heatmap_is_one_everywhere():
    m, p = planted()
    printed = (m @ p.T / 4).softmax(1).sum(1)
    assert torch.allclose(printed, torch.ones(64), atol=1e-6)
    assert (printed > 0.7).all(), "every patch is suspicious"


def test_ours_points_at_the_planted_match_and_retrieves_its_tissue():
    m, p = planted()
    a = ex.attention(m, p)
    assert torch.allclose(a.sum(0), torch.ones(30))
    alpha = ex.heatmap(a)
    assert alpha.argmax() == 10 and alpha.max() == 1 and alpha.min() == 0 and (alpha > 0.7).sum() == 1
    index, weight = ex.top_patches(m, p, alpha, k=5)
    assert index[:2].tolist() == [3, 7] and (weight.diff() <= 0).all() and weight.sum() <= 1 + 1e-6


def test_a_constant_image_has_no_hot_spot_and_still_retrieves():
    m = torch.ones(64, 16)
    p = torch.randn(30, 16)
    alpha = ex.heatmap(ex.attention(m, p))
    assert (alpha == 0).all()
    assert len(ex.top_patches(m, p, alpha)[0]) == 5


def test_fewer_patches_than_k_are_all_returned():
    m, p = planted()
    assert len(ex.top_patches(m, p[:3], ex.heatmap(ex.attention(m, p[:3])))[0]) == 3


def test_conclusion_says_what_and_when_it_is_unsure():
    sure = ex.conclude(np.array([0.02, 0.03, 0.05, 0.9]), 3, True)
    assert sure == "Most likely invasive (90 %). A lesion is outlined."
    unsure = ex.conclude(np.array([0.1, 0.42, 0.4, 0.08]), 2, False)
    assert "benign (42 %), but unsure: in situ has 40 %" in unsure
    assert "ordinal head says in situ" in unsure and "No lesion" in unsure


# ---- lesions ---------------------------------------------------------------------------------------------

def test_share_of_attention_in_the_lesion_and_the_pointing_game():
    heat = np.zeros((8, 8))
    heat[2, 3] = 1.0
    mask = np.zeros((96, 96), bool)
    mask[24:36, 36:48] = True
    assert ex.inside(heat, mask) == 1.0 and ex.pointing_hit(heat, mask)
    elsewhere = np.roll(mask, 40, 0)
    assert ex.inside(heat, elsewhere) == 0.0 and not ex.pointing_hit(heat, elsewhere)
    assert np.isnan(ex.inside(heat, np.zeros((96, 96))))


def test_correction_6_dice_is_a_loss_on_masks_and_boxes_come_from_their_components():
    """Boxes that do not overlap have no Dice gradient; a mask has one, and its components give the boxes."""
    p = np.zeros((32, 32))
    p[4:8, 6:12] = 0.9
    p[20:22, 20:22] = 0.95
    box, score = strongest_box(p)
    assert box == (6, 4, 12, 8) and score == 0.9
    assert sorted(mammograms.boxes(p > 0.5)) == [[6, 4, 12, 8], [20, 20, 22, 22]]
    assert strongest_box(np.zeros((32, 32)))[0] is None
    apart = torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True)
    low = torch.maximum(apart[:2], torch.tensor([5.0, 5.0]))
    high = torch.minimum(apart[2:], torch.tensor([6.0, 6.0]))
    (high - low).clamp_min(0).prod().backward()
    assert (apart.grad == 0).all(), "printed: nothing to learn from"
    logits = torch.zeros(1, 32, 32, requires_grad=True)
    dice_ce(logits, torch.tensor(p > 0.5)[None].float()).backward()
    assert logits.grad[0, 5, 7] < 0 < logits.grad[0, 0, 0], "ours: grow here, shrink there"


def test_patches_are_cut_around_their_token_and_inside_their_tile():
    tiles = np.zeros((2, 96, 96, 3), np.uint8)
    tiles[1, 24:36, 36:48] = 255                                  # token 2 * 8 + 3 of the second tile
    middle, corner = ex.patch_picture(tiles, [(1, 19), (1, 0)], side=8)
    assert middle.shape == corner.shape == (36, 36, 3)
    assert (middle[12:24, 12:24] == 255).all() and middle[:12].max() == 0 and corner.shape[0] == 36


# ---- deletion and insertion ------------------------------------------------------------------------------

def weighted(weights):
    """A score that adds up, over the patches, weight x (share of the way from grey 0 to the patch's 200)."""
    step = 12

    def score(images):
        patches = np.asarray(images, float).reshape(len(images), 8, step, 8, step)
        return patches.mean((2, 4)).reshape(len(images), -1) @ weights / 200
    return score


def test_deletion_and_insertion_have_the_areas_of_the_closed_form():
    """One patch of 64 has the whole score, and the image is 0 elsewhere; blank is its mean, 200 / 64 = 3."""
    image = np.zeros((96, 96), np.uint8)
    image[24:36, 36:48] = 200
    score = weighted(np.eye(64)[19])
    hottest_first = np.array([19, *np.delete(np.arange(64), 19)])
    blank = 3 / 200
    small = blank + (1 - blank) / 64 / 2
    large = 1 - (1 - blank) / 64 / 2
    first = ex.faithfulness(score, image, hottest_first, steps=64)
    assert first.deletion == pytest.approx(small) and first.insertion == pytest.approx(large)
    last = ex.faithfulness(score, image, hottest_first[::-1], steps=64)
    assert last.deletion == pytest.approx(large) and last.insertion == pytest.approx(small)


def test_for_a_score_that_adds_up_insertion_and_deletion_mirror_each_other():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 96), dtype=np.uint8)
    score = weighted(rng.random(64))
    order = rng.permutation(64)
    areas = ex.faithfulness(score, image, order)
    ends = score(np.stack([image, np.full_like(image, round(image.mean()))])).sum()
    assert areas.deletion + areas.insertion == pytest.approx(ends)
    constant = ex.faithfulness(lambda images: np.full(len(images), 0.3), image, order)
    assert constant == pytest.approx((0.3, 0.3))


# ---- cases -----------------------------------------------------------------------------------------------

def study_table():
    """16 patients with two mammograms and two tiles each; four of each kind of lesion."""
    rows = []
    for i in range(16):
        kind, shape = list(fig4_tables.KINDS.values())[i % 4]
        for modality, domain in ((MAMMOGRAPHY, "inbreast"), (HISTOPATHOLOGY, "bach")):
            for k in range(2):
                rows.append({
                    "sample": f"{modality}/{i:02d}_{k}", "patient": f"p{i:02d}", "modality": modality,
                    "domain": domain, "lesion_type": kind, "lesion_shape": shape,
                    "has_mask": modality == MAMMOGRAPHY, "boxes": "[[8, 8, 40, 40]]",
                })
    return pd.DataFrame(rows)


def study_predictions(table, rng):
    """Made-up predictions: one joint prediction for each patient, and one for each mammogram."""
    patients = [f"p{i:02d}" for i in range(16)]
    p = {f"p{c}": rng.dirichlet(np.ones(4), 16)[:, c] for c in range(4)}
    both = pd.DataFrame({
        "sample": [f"{patient}/both" for patient in patients], "patient": patients, "modality": "both",
        "split": "source test", "condition": "source", "truth": np.arange(16) // 4, "grade_pred": 1,
        "has_mask": False, **p,
    })
    unseen = table[table.has_mask].assign(split="target", condition="source", truth=-1, iou=rng.random(32),
                                          dice=0.5, x0=1.0, y0=2.0, x1=9.0, y1=9.0)
    return pd.concat([both, unseen], ignore_index=True)


@pytest.fixture(scope="module")
def study():
    """A run with made-up predictions, an untrained small model, and the table and images of the patients."""
    rng = np.random.default_rng(0)
    table = study_table()
    pixels = {MAMMOGRAPHY: rng.integers(0, 256, (96, 96), dtype=np.uint8),
              HISTOPATHOLOGY: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)}
    mask = np.zeros((96, 96), np.uint8)
    mask[8:40, 8:40] = 1

    def gather(rows, kind="images"):
        if kind == "masks":
            return np.stack([mask] * len(rows))
        numbers = rows["sample"].str[-4:-2].astype(int)
        return np.stack([np.roll(pixels[m], 7 * n, 0) for m, n in zip(rows.modality, numbers)])
    torch.manual_seed(0)
    run = SimpleNamespace(predictions=study_predictions(table, rng), config={"held_out": "inbreast"})
    return run, model.build("lesson").eval(), table, SimpleNamespace(gather=gather)


def test_grading_cases_are_the_quartiles_of_each_class(study):
    predictions = study[0].predictions
    cards = fig5_tables.grading_cases(*study)
    assert cards.truth.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for truth, group in predictions[predictions.modality == "both"].groupby("truth"):
        lower_ones = group.sort_values(f"p{truth}").patient.tolist()[:3]       # of four
        assert cards.case[cards.truth == truth].tolist() == lower_ones
    row = cards.iloc[0]
    names = ["p0", "p1", "p2", "p3"]
    predicted = predictions.set_index("sample").loc[f"{row.case}/both"]
    assert row[names].tolist() == pytest.approx(predicted[names].tolist()) and row.grade == 1
    assert json.loads(row.truth_boxes) == [[8, 8, 40, 40]] and len(json.loads(row.box)) in (0, 4)
    assert row.conclusion.endswith("No lesion is outlined.") == (json.loads(row.box) == [])


def test_attention_cases_are_the_four_kinds_of_the_paper(study):
    chosen = fig4_tables.localisation_cases(*study)
    assert chosen.panel.tolist() == list("efgh") and chosen.title.tolist() == list(fig4_tables.KINDS)
    unseen = study[0].predictions.query("modality == 'mammography'")
    for row in chosen.itertuples():
        iou = np.sort(unseen.iou[unseen.lesion_type == row.lesion_type])
        assert row.iou == iou[3], "the lower median of eight"
    assert cases.from_uri(chosen.heat.iloc[0]).shape == (8, 8)


def test_faithfulness_and_pointing_tell_of_every_case(study):
    run, network, table, images = study
    samples = ["mammography/00_0", "mammography/03_1"]
    areas = ex.faithful(network, table, images, samples)
    assert areas["sample"].tolist() == samples
    assert areas.drop(columns="sample").stack().between(0, 1).all()
    pd.testing.assert_frame_equal(ex.faithful(network, table, images, samples[:1]), areas.iloc[:1])
    pointed = ex.pointing(run, network, table, images)
    assert len(pointed) == 32 and pointed.area.unique() == pytest.approx([32 * 32 / 96 ** 2])


def test_where_nobody_has_both_modalities_there_is_no_case_and_no_error(study):
    run, network, table, images = study
    alone = table.assign(patient=table.patient + table.modality)
    predictions = run.predictions[run.predictions.modality != "both"]
    single = SimpleNamespace(predictions=predictions, config=run.config)
    for make in (fig5_tables.grading_cases, fig4_tables.localisation_cases, ex.pointing):
        assert make(single, network, alone, images).empty
    pointed = ex.pointing(single, network, alone, images)
    names = ["inside", "area", "hit"]
    assert list(pointed.groupby("lesion_type")[names].mean()) == names


# ---- correction 9: tokens less their mean ----------------------------------------------------------------

def test_correction_9_a_large_common_mean_makes_every_map_alike_and_centring_undoes_it():
    """Two patients' tissue match different tokens of one mammogram, under a mean that all tokens share."""
    g = torch.Generator().manual_seed(0)
    shared = 6 * torch.randn(16, generator=g)
    m = torch.randn(64, 16, generator=g)
    tissues = [m[[k]] + 0.1 * torch.randn(30, 16, generator=g) for k in (10, 40)]
    printed = [ex.heatmap(ex.attention(m + shared, p + shared)) for p in tissues]
    centred = [ex.heatmap(ex.attention(m, p)) for p in tissues]
    assert torch.corrcoef(torch.stack(printed))[0, 1] > 0.95, "the map hardly sees whose tissue it is"
    assert [int(alpha.argmax()) for alpha in centred] == [10, 40]
    assert torch.corrcoef(torch.stack(centred))[0, 1] < 0.5
