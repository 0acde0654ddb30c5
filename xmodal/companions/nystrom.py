"""TransMIL: a bag of patches read by Nystrom attention, linear in the number of patches. B bags, N patches, H heads, M landmarks.

Sources: Xiong et al., AAAI 2021 (Nystrom attention); Shao et al., NeurIPS 2021 (TransMIL, PPEG).
"""
import torch
import torch.nn.functional as F
from torch import nn


def landmarks(x, m):
    """Means of m consecutive segments of nearly equal length: (B, H, N, d) -> (B, H, m, d), m at most N."""
    q, r = divmod(x.shape[2], m)
    long, short = x[:, :, :r * (q + 1)], x[:, :, r * (q + 1):]
    means = [short.unflatten(2, (m - r, q)).mean(3)]
    return torch.cat([long.unflatten(2, (r, q + 1)).mean(3), *means] if r else means, 2)


def pseudo_inverse(a, iterations=6):
    """Moore-Penrose inverse of (..., M, M) by the cubic iteration of Razavi et al. 2014, started from a transposed of small enough norm.

    Rows of a that sum to one converge for their large singular values first; more iterations reach smaller ones.
    """
    norms = a.abs().sum(-1).amax(-1) * a.abs().sum(-2).amax(-1)
    z, eye = a.mT / norms[..., None, None], torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z


def nystrom(q, k, v, m, iterations=6):
    """softmax(q k~) pinv(softmax(q~ k~)) softmax(q~ k) v for q, k, v (B, H, N, d), ~ being `landmarks`; exact attention where m = N.

    With m = N / 4 and queries and keys that change slowly along the tokens the relative error is below 6 % (tests/test_mirror.py).
    The two outer products go through torch's fused attention, so no N x M matrix is kept.
    """
    m = min(m, q.shape[2])
    q_, k_ = landmarks(q, m), landmarks(k, m)
    inner = pseudo_inverse((q_ @ k_.mT * q.shape[-1] ** -0.5).softmax(-1), iterations)
    return F.scaled_dot_product_attention(q, k_, inner @ F.scaled_dot_product_attention(q_, k, v))


class NystromAttention(nn.Module):
    """Multi-head Nystrom attention over tokens (B, N, D), with the published depthwise convolution of the values beside it."""

    def __init__(self, width, heads, m, iterations=6, kernel=33):
        super().__init__()
        self.heads, self.m, self.iterations = heads, m, iterations
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.local = nn.Conv1d(heads, heads, kernel, groups=heads, bias=False)

    def split(self, x):
        return (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))   # each (B, H, N, d)

    def near(self, v):
        """The convolution along the tokens, a kernel a head. As one channel a value it is the same and, on a processor, twice as fast."""
        kernel = self.local.weight.repeat_interleave(v.shape[3], 0)
        x = F.conv1d(v.transpose(2, 3).flatten(1, 2), kernel, padding=kernel.shape[2] // 2, groups=len(kernel))
        return x.unflatten(1, (self.heads, -1)).transpose(2, 3)

    def forward(self, x):
        q, k, v = self.split(x)
        seen = nystrom(q, k, v, self.m, self.iterations) + self.near(v)
        return self.out(seen.transpose(1, 2).flatten(2))

    def weights_of_first(self, x):
        """Attention of token 0 to every token, averaged over heads: (B, N). Rows sum to about one; an approximation may dip below 0."""
        q, k, _ = self.split(x)
        m, scale = min(self.m, x.shape[1]), q.shape[-1] ** -0.5
        q_, k_ = landmarks(q, m), landmarks(k, m)
        soft = lambda a, b: (a @ b.mT * scale).softmax(-1)
        return (soft(q[:, :, :1], k_) @ pseudo_inverse(soft(q_, k_), self.iterations) @ soft(q_, k)).mean(1).squeeze(1)


class PPEG(nn.Module):
    """Pyramid position encoding: depthwise 7, 5 and 3 convolutions of the patch tokens (B, N, D) laid on a square, added to them."""

    def __init__(self, width):
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(width, width, n, padding=n // 2, groups=width) for n in (7, 5, 3))

    def forward(self, x):
        n = x.shape[1]
        side = int(n ** 0.5)
        side += side * side < n
        lack = side * side - n                                  # the square is filled up with the first tokens, as published
        square = torch.cat([x, x[:, :lack]], 1).transpose(1, 2).unflatten(2, (side, side))
        kernel = sum(F.pad(conv.weight, [3 - conv.padding[0]] * 4) for conv in self.scales)     # of 7 x 7, the three in one
        seen = F.conv2d(square, kernel, sum(conv.bias for conv in self.scales), padding=3, groups=len(kernel))
        return x + seen.flatten(2).transpose(1, 2)[:, :n]


class TransMIL(nn.Module):
    """Bag (B, N, D_p) -> [CLS] (B, D) and patch tokens (B, N, D): linear, attention, PPEG, attention, norm.

    PPEG takes the patches to lie on a square in the order given, so give them in the order of the slide. 50,000 patches of 1,024 features
    at the paper's size (width 512, 8 heads, 256 landmarks) take 3.1 GB forwards and back.
    """

    def __init__(self, features, width, heads, m):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, width), nn.GELU())
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.ModuleList(NystromAttention(width, heads, m) for _ in range(2))
        self.position = PPEG(width)

    def before_last(self, bag):
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
