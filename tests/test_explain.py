"""Attention, retrieval, conclusion: the printed Eq. 11 fails, ours finds what was planted."""
import numpy as np
import pytest
import torch
from test_learner import TINY, write_cohort

from xmodal import config, explain as ex, learner, model
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, Problem
from xmodal.imaging import mammograms
from xmodal.loaders import Images
from xmodal.losses import dice_ce
from xmodal.predict import strongest_box

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


def test_a_conclusion_does_not_contradict_itself_and_says_what_was_read():
    p = np.array([0.9, 0.04, 0.03, 0.03])
    assert ex.conclude(p, 0, (1, 2, 3, 4)).endswith("A lesion is outlined all the same.")
    assert "lesion" not in ex.conclude(p, 0, None, HISTOPATHOLOGY), "no mammogram, no word on lesions"
    assert "From tissue alone" in ex.conclude(p, 0, None, HISTOPATHOLOGY)
    assert "From the mammogram alone" in ex.conclude(p, 0, (), MAMMOGRAPHY)


def test_a_conclusion_says_where_the_heads_and_the_decoder_disagree():
    invasive = np.array([0.03, 0.03, 0.04, 0.9])
    assert ex.conclude(invasive, 3, ()).endswith("No lesion is outlined, though.")
    assert ex.conclude(invasive[::-1], 0, ()).endswith("No lesion is outlined.")


def test_a_model_without_probabilities_has_no_card():
    net = model.build("lesson").eval()
    net.classify[-1].bias.data[:] = torch.nan
    with pytest.raises(Problem, match="no probabilities"):
        ex.explain(net, np.zeros((96, 96), np.uint8))


@pytest.mark.parametrize("concat", [False, True])
def test_a_card_needs_one_modality_and_says_which_it_had(concat):
    torch.manual_seed(0)
    net = model.build("lesson", concat=concat).eval()
    rng = np.random.default_rng(0)
    mammogram = rng.integers(0, 256, (96, 96), dtype=np.uint8)
    tiles = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    both, m, p = ex.explain(net, mammogram, tiles), ex.explain(net, mammogram), ex.explain(net, tiles=tiles)
    assert (both.read, m.read, p.read) == (ex.BOTH, MAMMOGRAPHY, HISTOPATHOLOGY)
    for card in (both, m, p):
        assert card.p.sum() == pytest.approx(1, abs=1e-5) and 0 <= card.grade <= 3
    assert both.heat.shape == (8, 8) and both.tissue.shape == (2, 8, 8) and len(both.patches) == 5
    assert m.heat is None and m.tissue is None and m.mask.shape == (32, 32)
    assert p.heat is None and p.mask is None and p.box == ()
    assert ("No lesion" in both.conclusion) == (both.box == ())
    with pytest.raises(Problem, match="mammogram or tissue"):
        ex.explain(net)


# ---- lesions ---------------------------------------------------------------------------------------------

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


def test_centred_tokens_have_mean_zero_over_the_rows_that_a_model_was_centred_on(home):
    table = write_cohort(config.DATA / "lesson", people=4)
    images = Images(config.DATA / "lesson")
    torch.manual_seed(0)
    net = learner.begin(TINY, "ours").eval()
    ex.centre(net, table, images)
    for modality in config.MODALITIES:
        with torch.no_grad():
            tokens = net.tokens(torch.from_numpy(images.gather(table[table.modality == modality])), modality)
        assert tokens.mean((0, 1)).norm() > 0.5, "there is a common mean to take away"
        assert ex.centred_tokens(net, tokens, modality).mean((0, 1)).norm() < 1e-4
