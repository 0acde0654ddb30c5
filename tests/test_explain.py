"""Attention, retrieval, conclusion: the printed Eq. 11 fails, ours finds what was planted."""
import numpy as np
import pandas as pd
import torch

from xmodal import explain as ex
from xmodal.predict import boxes_of, strongest_box


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
    assert ex.patch_box(19, 8, 96) == (36, 24, 48, 36)


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


def test_cases_are_the_median_ones_and_not_the_best():
    rows = pd.DataFrame({"sample": list("cabd"), "iou": [0.9, 0.1, 0.5, 0.5]})
    assert ex.median_of(rows, "iou")["sample"] == "b"             # 0.1, 0.5 (b), 0.5 (d), 0.9: the lower of the middle two
    assert ex.median_of(rows.sample(frac=1, random_state=3), "iou")["sample"] == "b"


def test_patches_are_cut_around_their_token_and_inside_their_tile():
    tiles = np.zeros((2, 96, 96, 3), np.uint8)
    tiles[1, 24:36, 36:48] = 255                                  # token 2 * 8 + 3 of the second tile
    middle, corner = ex.patch_picture(tiles, [(1, 19), (1, 0)], side=8)
    assert middle.shape == corner.shape == (36, 36, 3)
    assert (middle[12:24, 12:24] == 255).all() and middle[:12].max() == 0 and corner.shape[0] == 36


def test_only_patients_with_both_modalities_can_be_explained():
    table = pd.DataFrame({"patient": ["a", "a", "b"], "modality": ["mammography", "histopathology", "mammography"]})
    assert ex.paired(table) == {"a"}
