"""The model: shapes, the share of the adapters, MixStyle, and what one modality alone may depend on."""
import pytest
import torch

from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, PROFILES, Problem
from xmodal.layers import bag_means, to_input
from xmodal.model import Ordinal, adapter_share, build, cross_domain, mixstyle


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("lesson").eval()


def batch(n=4, size=96, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        MAMMOGRAPHY: torch.randint(0, 256, (n, size, size), generator=g, dtype=torch.uint8),
        HISTOPATHOLOGY: torch.randint(0, 256, (n, size, size, 3), generator=g, dtype=torch.uint8),
        "bag": {MAMMOGRAPHY: torch.arange(n), HISTOPATHOLOGY: torch.arange(n)},
        "pairs": torch.arange(n)[:, None].expand(n, 2),
    }


def test_shapes(model):
    out = model(batch())
    m = out[MAMMOGRAPHY]
    assert m.tokens.shape == (4, 64, 96) and m.z.shape == (4, 96)
    assert m.logits.shape == (4, 4) and m.score.shape == (4,)
    assert m.mask.shape == (4, 32, 32) and out[HISTOPATHOLOGY].mask is None
    assert out["both"].logits.shape == (4, 4) and out["cutpoints"].shape == (3,)


def test_adapters_are_under_five_percent_of_the_encoder():
    for name in PROFILES:
        with torch.device("meta"):
            assert 0 < adapter_share(build(name)) < 0.05


def test_the_paper_profile_is_a_vit_b_16():
    with torch.device("meta"):
        encoder = build("paper").encoder
    assert len(encoder.blocks) == 12 and encoder.embed_dim == 768 and encoder.blocks[0].attn.num_heads == 12
    assert encoder.patch_embed.patch_size == (16, 16) and encoder.patch_embed.img_size == (224, 224)


def test_adapters_start_as_the_identity(model):
    images = batch()[MAMMOGRAPHY]
    assert torch.equal(model.tokens(images, MAMMOGRAPHY), model.tokens(images, HISTOPATHOLOGY))


def test_one_modality_alone_says_the_same_as_beside_the_other(model):
    x = batch()
    alone = model({MAMMOGRAPHY: x[MAMMOGRAPHY]})[MAMMOGRAPHY].logits
    assert torch.equal(alone, model(x)[MAMMOGRAPHY].logits)


def test_patients_of_a_batch_do_not_see_each_other(model):
    x = batch()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = model({MAMMOGRAPHY: x[MAMMOGRAPHY][order]})[MAMMOGRAPHY].logits
    assert torch.allclose(shuffled, model(x)[MAMMOGRAPHY].logits[order], atol=1e-5)


def test_grey_and_colour_images_go_to_minus_one_and_one():
    assert to_input(torch.full((1, 2, 2), 255, dtype=torch.uint8)).unique().tolist() == [1.0]
    assert to_input(torch.zeros(1, 2, 2, 3, dtype=torch.uint8)).unique().tolist() == [-1.0]


def test_cutpoints_are_ordered_whatever_the_parameters():
    head = Ordinal(8)
    torch.nn.init.normal_(head.steps, std=20)
    assert (head.cutpoints.diff() >= 0).all()


def test_mixstyle_changes_channel_statistics_and_nothing_else():
    torch.manual_seed(0)
    x = torch.randn(6, 10, 4) + torch.arange(6)[:, None, None]
    domain = torch.tensor([0, 0, 0, 1, 1, 1])
    mixed = mixstyle(x, domain, p=1.0)
    before, after = ((t - t.mean(1, keepdim=True)) / t.std(1, keepdim=True) for t in (x, mixed))
    assert torch.allclose(after, before, atol=1e-3) and not torch.allclose(mixed, x)
    assert torch.equal(mixstyle(x, domain, p=0.0), x)


def test_mixstyle_partners_come_from_another_domain():
    domain = torch.tensor([0, 0, 0, 1, 1, 2])
    for _ in range(20):
        assert (domain[cross_domain(domain)] != domain).all()


def test_mixstyle_acts_on_what_the_frozen_blocks_give(monkeypatch):
    """As early as a training may: before the first trained block, once for each modality."""
    model = build("lesson", mixstyle=True).train()
    x = batch()
    x["domain"] = {m: torch.zeros(len(x[m]), dtype=int) for m in (MAMMOGRAPHY, HISTOPATHOLOGY)}
    met = []
    monkeypatch.setattr("xmodal.model.mixstyle", lambda tokens, domain: met.append(tokens) or tokens)
    model(x)
    assert len(met) == 2 and torch.equal(met[0], model.early(x[MAMMOGRAPHY]))


def test_mixstyle_is_off_at_evaluation():
    torch.manual_seed(0)
    model = build("lesson", mixstyle=True).eval()
    x = batch()
    domains = {MAMMOGRAPHY: torch.arange(4), HISTOPATHOLOGY: torch.arange(4)}
    assert torch.equal(model({**x, "domain": domains})[MAMMOGRAPHY].z, model(x)[MAMMOGRAPHY].z)


def batch_norms(module):
    return [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]


def test_correction_5_a_vit_has_no_batch_statistics_and_the_neck_gives_it_some(model):
    assert not batch_norms(model.encoder) and len(batch_norms(model.necks)) == 2


def test_concatenation_sees_both_features():
    torch.manual_seed(0)
    model = build("lesson", concat=True).eval()
    z_m = torch.randn(2, 96)
    z_p = torch.randn(2, 96)
    assert torch.equal(model.fuse(z_m, z_p), torch.cat([z_m, z_p], 1))
    assert torch.equal(model.fuse(z_m, None)[:, 96:], torch.zeros(2, 96))


def test_an_unknown_profile_is_named():
    with pytest.raises(Problem, match="no profile 'papre'"):
        build("papre")


def test_the_stem_gives_a_token_a_patch_in_the_order_of_the_decoder(model):
    embed = model.encoder.patch_embed
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[..., 48:60, 24:36] *= -1                         # patch (4, 2) of 8 x 8
    moved = (embed(changed) - embed(x)).abs().sum(-1)
    assert moved.shape == (1, 64) and moved.argmax() == 4 * 8 + 2


def gradients(checkpointing):
    """How often the last block ran in one step of training, and the gradients of all parameters."""
    torch.manual_seed(0)
    model = build("lesson", mixstyle=True).train()
    model.encoder.set_grad_checkpointing(checkpointing)
    runs = []
    hook = model.encoder.blocks[-1].register_forward_pre_hook(lambda *_: runs.append(1))
    out = model(batch())
    (out[MAMMOGRAPHY].logits.square().sum() + out[HISTOPATHOLOGY].logits.square().sum()).backward()
    hook.remove()
    return len(runs), [p.grad for p in model.parameters() if p.grad is not None]


def test_gradient_checkpointing_changes_no_bit():
    once, plain = gradients(False)
    twice, recomputed = gradients(True)
    assert twice == 2 * once and len(plain) == len(recomputed)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed))


def test_a_bag_is_the_mean_of_its_images_in_whatever_order_they_come(model):
    z = torch.tensor([[1.0, 0], [3, 2], [5, 5]])
    assert bag_means(z, torch.tensor([0, 0, 1])).tolist() == [[2, 1], [5, 5]]
    assert bag_means(z[[2, 0, 1]], torch.tensor([1, 0, 0])).tolist() == [[2, 1], [5, 5]]
    x = batch()
    x["bag"] = {MAMMOGRAPHY: torch.tensor([0, 0, 1, 1]), HISTOPATHOLOGY: torch.tensor([0, 1, 1, 1])}
    x["pairs"] = torch.tensor([[0, 0], [1, 1]])
    out = model(x)
    means = [out[m].z[first:].mean(0, keepdim=True) for m, first in ((MAMMOGRAPHY, 2), (HISTOPATHOLOGY, 1))]
    both = model.joint(*means)
    assert torch.allclose(out["both"].logits[1], both.logits[0], atol=1e-5)


def test_a_lesion_is_pooled_as_an_image_is():
    """An outline of the whole image gives the pooled image; one of a single patch gives twice its token."""
    model = build("lesson")
    tokens = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
    whole = torch.ones(3, 96, 96, dtype=torch.bool)
    assert torch.allclose(lesions(model, tokens, whole), tokens.mean(1) + tokens.amax(1), atol=1e-5)
    patch = torch.zeros(3, 96, 96, dtype=torch.bool)
    patch[:2, 12:24, 36:48] = True                       # row 1, column 3 of 8; the third has no outline
    assert torch.allclose(lesions(model, tokens, patch), 2 * tokens[:2, 11], atol=1e-5)


def lesions(model, tokens, mask):
    """`CrossModal.lesion` without the norm that follows."""
    model.lesion_neck = torch.nn.BatchNorm1d(96, eps=0, affine=False).eval()
    return model.lesion(tokens, mask)


def test_lesions_of_different_patients_are_no_more_alike_than_whole_images():
    """As they were when lesions, pooled by the mean, went through the neck of images: cosine above .9."""
    torch.manual_seed(0)
    model = build("lesson").train()
    x = batch(16)
    mask = torch.zeros(16, 96, 96, dtype=torch.bool)
    for i in range(16):
        mask[i, 5 * i:5 * i + 12, 30:60] = True
    with torch.no_grad():
        out = model({MAMMOGRAPHY: x[MAMMOGRAPHY], "lesion": mask})
    assert mean_cosine(out["lesion"]) < mean_cosine(out[MAMMOGRAPHY].z) + 0.1 < 0.2


def mean_cosine(z):
    """Mean cosine between different rows."""
    unit = torch.nn.functional.normalize(z, dim=1)
    return float((unit @ unit.T)[~torch.eye(len(z), dtype=torch.bool)].mean())
