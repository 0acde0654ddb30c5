"""Nystrom attention against exact attention, its cost, and the published convolutions of TransMIL."""
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from xmodal.companions import nystrom
from xmodal.config import HOME


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(n, scale=0.5, d=16):
    """Queries, keys and values that change slowly along the tokens, as patches in the order of a slide do."""
    waves = torch.arange(1, d + 1) * torch.linspace(0, 1, n)[:, None]
    base = torch.sin(2 * torch.pi * waves)[None, None]
    mixes = drawn(2, d, d)
    return base @ mixes[0] * scale, base @ mixes[1] * scale, base


def error(q, k, v, m, iterations=6):
    exact = F.scaled_dot_product_attention(q, k, v)
    return float((nystrom.nystrom(q, k, v, m, iterations) - exact).norm() / exact.norm())


def test_with_as_many_landmarks_as_tokens_it_is_exact_attention():
    q, k, v = (drawn(2, 4, 256, 16, seed=s) for s in range(3))
    assert error(q, k, v, 256) < 1e-6
    more = nystrom.nystrom(q, k, v, 999)
    assert torch.equal(nystrom.nystrom(q, k, v, 256), more), "no more landmarks than tokens"


def test_with_a_quarter_of_the_tokens_the_error_is_below_six_per_cent_and_falls_with_landmarks():
    errors = [error(*smooth(256), m) for m in (32, 64, 128)]
    assert errors[1] < 0.06 and errors == sorted(errors, reverse=True)


def test_the_inverse_is_that_of_linear_algebra():
    noise = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    a = (torch.eye(12) * 4 + noise).softmax(-1)
    assert torch.allclose(nystrom.pseudo_inverse(a, 20), torch.linalg.pinv(a), atol=1e-3)


@pytest.mark.parametrize("n, m", [(10, 5), (11, 4), (7, 7), (9, 1)])
def test_landmarks_are_means_of_segments_that_cover_every_token_once(n, m):
    x = torch.arange(float(n))[None, None, :, None]
    segments = np.array_split(np.arange(n), m)                    # the longer segments first, as numpy does
    assert nystrom.landmarks(x, m).flatten().tolist() == pytest.approx([s.mean() for s in segments])


@pytest.mark.parametrize("m", [16, 64])
def test_attention_of_a_token_is_what_the_fused_products_use(m):
    """Values that are the unit matrix show the weights, approximate (16 landmarks) or exact (64)."""
    torch.manual_seed(0)
    layer = nystrom.NystromAttention(16, 2, m)
    x = torch.randn(1, 64, 16)
    q, k, _ = layer.split(x)
    weights = nystrom.nystrom(q, k, torch.eye(64).expand(1, 2, -1, -1), m)
    assert torch.allclose(layer.weights_of_first(x), weights[:, :, 0].mean(1), atol=1e-5)


def cost(n, model):
    """(floating point operations, bytes stored for the backward pass) of one bag of n patches."""
    stored = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor):
        return tensor

    with FlopCounterMode(display=False) as flops, torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        model(torch.randn(1, n, 32))[0].sum()
    return flops.get_total_flops(), sum(stored.values())


def test_operations_and_memory_are_linear_in_the_number_of_patches():
    model = nystrom.TransMIL(32, 32, 2, 16)
    small, middle, large = (np.array(cost(n, model)) for n in (1024, 2048, 4096))
    assert (large - middle) / (middle - small) == pytest.approx([2, 2], rel=0.02)


FIFTY_THOUSAND = """
import torch
from xmodal.companions.nystrom import TransMIL
torch.manual_seed(0)
model = TransMIL(256, 256, 8, 128)
cls, tokens = model(torch.randn(1, 50_000, 256))
cls.sum().backward()
peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(tokens.shape[1], int(peak) / 2 ** 20)
"""


def test_fifty_thousand_patches_fit_in_four_gigabytes():
    command = [sys.executable, "-c", FIFTY_THOUSAND]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True)
    patches, gigabytes = done.stdout.split()
    assert int(patches) == 50_000 and float(gigabytes) < 4


def test_the_convolutions_are_the_published_ones():
    """A (33, 1) kernel per head over the values, and three depthwise ones of the square of patches."""
    torch.manual_seed(0)
    layer = nystrom.NystromAttention(16, 2, 4)
    v = torch.randn(3, 2, 50, 8)
    published = F.conv2d(v, layer.local.weight[..., None], padding=(16, 0), groups=2)
    assert torch.allclose(layer.near(v), published, atol=1e-6)
    ppeg = nystrom.PPEG(4)
    x = torch.randn(2, 9, 4)
    square = x.transpose(1, 2).unflatten(2, (3, 3))
    position = sum(conv(square) for conv in ppeg.scales).flatten(2).transpose(1, 2)
    assert torch.allclose(ppeg(x), x + position, atol=1e-6)


def test_ppeg_adds_nothing_when_its_kernels_are_zero_and_any_number_of_patches_passes():
    layer = nystrom.PPEG(4)
    for p in layer.parameters():
        torch.nn.init.zeros_(p)
    for n in (1, 5, 9, 10):
        x = torch.randn(2, n, 4)
        assert torch.equal(layer(x), x)
