"""TransMIL: a bag of patches read by Nystrom attention, linear in the number of patches.

B bags, N patches, H heads, M landmarks, d dimensions of a head. Sources: Xiong et al., AAAI 2021 (Nystrom
attention); Shao et al., NeurIPS 2021 (TransMIL, PPEG).
"""
import torch
import torch.nn.functional as F
from torch import nn


def landmarks(x, m):
    """Means of m consecutive segments of nearly equal length: (B, H, N, d) -> (B, H, m, d), m at most N."""
    q, r = divmod(x.shape[2], m)                 # the first r segments have q + 1 tokens, the others q
    long = x[:, :, :r * (q + 1)]
    short = x[:, :, r * (q + 1):]
    means = [short.unflatten(2, (m - r, q)).mean(3)]
    if r:
        means.insert(0, long.unflatten(2, (r, q + 1)).mean(3))
    return torch.cat(means, 2)


def pseudo_inverse(a, iterations=6):
    """Moore-Penrose inverse of (..., M, M) by the cubic iteration of Razavi et al. 2014.

    It starts from the transposed of `a`, scaled to a small enough norm. For rows of `a` that sum to one the
    large singular values converge first; more iterations reach smaller ones.
    """
    norms = a.abs().sum(-1).amax(-1) * a.abs().sum(-2).amax(-1)
    z = a.mT / norms[..., None, None]
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z


def nystrom(q, k, v, m, iterations=6):
    """softmax(q k~) pinv(softmax(q~ k~)) softmax(q~ k) v for q, k, v (B, H, N, d).

    The ~ stands for `landmarks`. With m >= N, where nothing would be saved, it is exact attention. With m =
    N / 4, and queries and keys that change slowly along the tokens, the relative error is below 6 % (a test
    holds it). The two outer products go through torch's fused attention, so that no N x M matrix is stored.
    """
    if m >= q.shape[2]:
        return F.scaled_dot_product_attention(q, k, v)
    q_marks = landmarks(q, m)
    k_marks = landmarks(k, m)
    inner = pseudo_inverse((q_marks @ k_marks.mT * q.shape[-1] ** -0.5).softmax(-1), iterations)
    of_marks = F.scaled_dot_product_attention(q_marks, k, v)
    return F.scaled_dot_product_attention(q, k_marks, inner @ of_marks)


class NystromAttention(nn.Module):
    """Multi-head Nystrom attention over tokens (B, N, D), plus the published convolution of the values."""

    def __init__(self, width, heads, m, iterations=6, kernel=33):
        super().__init__()
        self.heads = heads
        self.m = m
        self.iterations = iterations
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.local = nn.Conv1d(heads, heads, kernel, groups=heads, bias=False)

    def split(self, x):
        """Queries, keys and values of tokens (B, N, D), each (B, H, N, d)."""
        return (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))

    def near(self, v):
        """The convolution of the values along the tokens, one kernel per head.

        It is computed with one channel per value, which gives the same and is twice as fast on a processor.
        """
        kernel = self.local.weight.repeat_interleave(v.shape[3], 0)
        x = v.transpose(2, 3).flatten(1, 2)
        x = F.conv1d(x, kernel, padding=kernel.shape[2] // 2, groups=len(kernel))
        return x.unflatten(1, (self.heads, -1)).transpose(2, 3)

    def forward(self, x):
        q, k, v = self.split(x)
        seen = nystrom(q, k, v, self.m, self.iterations) + self.near(v)
        return self.out(seen.transpose(1, 2).flatten(2))

    def weights_of_first(self, x):
        """Attention of token 0 to every token, averaged over heads: (B, N).

        Rows sum to about one; since it is an approximation, single values may be slightly below 0.
        """
        q, k, _ = self.split(x)
        scale = q.shape[-1] ** -0.5

        def soft(a, b):
            return (a @ b.mT * scale).softmax(-1)

        if self.m >= x.shape[1]:
            return soft(q[:, :, :1], k).mean(1).squeeze(1)
        q_marks = landmarks(q, self.m)
        k_marks = landmarks(k, self.m)
        inner = pseudo_inverse(soft(q_marks, k_marks), self.iterations)
        return (soft(q[:, :, :1], k_marks) @ inner @ soft(q_marks, k)).mean(1).squeeze(1)


class PPEG(nn.Module):
    """Pyramid position encoding of patch tokens (B, N, D).

    The tokens are laid on a square; depthwise convolutions of size 7, 5 and 3 are added to them.
    """

    def __init__(self, width):
        super().__init__()
        sizes = (7, 5, 3)
        self.scales = nn.ModuleList(nn.Conv2d(width, width, n, padding=n // 2, groups=width) for n in sizes)

    def forward(self, x):
        n = x.shape[1]
        side = int(n ** 0.5)
        side += side * side < n
        lack = side * side - n            # the square is filled up with the first tokens, as published
        square = torch.cat([x, x[:, :lack]], 1).transpose(1, 2).unflatten(2, (side, side))
        padded = [F.pad(conv.weight, [3 - conv.padding[0]] * 4) for conv in self.scales]
        kernel = sum(padded)                                    # the three convolutions in one of 7 x 7
        bias = sum(conv.bias for conv in self.scales)
        seen = F.conv2d(square, kernel, bias, padding=3, groups=len(kernel))
        return x + seen.flatten(2).transpose(1, 2)[:, :n]


class TransMIL(nn.Module):
    """Bag (B, N, D_p) -> [CLS] (B, D) and patch tokens (B, N, D): linear, attention, PPEG, attention, norm.

    PPEG takes the patches to lie on a square in the order given, so give them in the order of the slide.
    50,000 patches of 1,024 features at the paper's size (width 512, 8 heads, 256 landmarks) take 3.1 GB for
    both passes.
    """

    def __init__(self, features, width, heads, m):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, width), nn.GELU())
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.ModuleList(NystromAttention(width, heads, m) for _ in range(2))
        self.position = PPEG(width)

    def before_last(self, bag):
        """[CLS] and patch tokens (B, 1 + N, D) before the last attention block."""
        x = self.embed(bag)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        x = x + self.attention[0](self.norms[0](x))
        return torch.cat([x[:, :1], self.position(x[:, 1:])], 1)

    def forward(self, bag):
        x = self.before_last(bag)
        x = self.norms[2](x + self.attention[1](self.norms[1](x)))
        return x[:, 0], x[:, 1:]

    def attention_map(self, bag):
        """(B, N): what [CLS] attends to in the last block."""
        return self.attention[1].weights_of_first(self.norms[1](self.before_last(bag)))[:, 1:]
