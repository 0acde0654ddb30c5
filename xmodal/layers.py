"""Small layers and conversions of the model that no equation of the paper names."""
import copy

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import nn


class ConvStem(PatchEmbed):
    """Patch embedding by small convolutions with strides 3, 2, 2, ..., for patches of 3 x 2^n pixels.

    It takes the place of one convolution as large as the patch: a small transformer trained on few images
    learns more with it. Source: Xiao et al. 2021, "Early convolutions help transformers see better".
    """

    def __init__(self, *args, patch_size, in_chans, embed_dim, **rest):
        super().__init__(*args, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **rest)
        halvings = (patch_size // 3).bit_length() - 1
        channels = embed_dim >> halvings
        layers = [nn.Conv2d(in_chans, channels, 5, 3, 2)]
        for _ in range(halvings):
            layers += [nn.GroupNorm(1, channels), nn.GELU(), nn.Conv2d(channels, 2 * channels, 3, 2, 1)]
            channels *= 2
        layers += [nn.GroupNorm(1, channels), nn.GELU(), nn.Conv2d(channels, embed_dim, 1)]
        self.proj = nn.Sequential(*layers)


class Adapter(nn.Module):
    """Residual bottleneck x + up(GELU(down(x))), D -> r -> D; it starts as the identity."""

    def __init__(self, width, bottleneck):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        return x + self.up(F.gelu(self.down(x)))


def to_input(x):
    """uint8 images, (B, S, S) or (B, S, S, 3), -> float (B, 3, S, S) in [-1, 1]. Floats pass unchanged."""
    if x.dtype != torch.uint8:
        return x
    if x.ndim == 3:
        x = x.unsqueeze(-1).expand(*x.shape, 3)
    return x.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def to_float32(value):
    """A tensor in float32; a dict, `Stream` or `Joint` with its tensors in float32; None stays None."""
    if value is None:
        return None
    if torch.is_tensor(value):
        return value.float()
    if isinstance(value, dict):
        return {name: to_float32(part) for name, part in value.items()}
    return type(value)(*map(to_float32, value))


def bag_means(z, bag):
    """Features z (B, D) and the number of the bag (B,) that each belongs to -> the means (K, D) of the bags.

    A bag is what one modality shows of a patient: several views, or several tiles. Every number up to the
    largest occurs. A product of matrices, since adding by index gives other bits on a GPU each time.
    """
    members = F.one_hot(bag).T.to(z)
    return members @ z / members.sum(1, keepdim=True)


class Statistics:
    """Mean and variance of features over the target images that have come, and the necks of the source.

    An anchor of 0 is AdaBN (Li et al. 2016); with another the source counts as so many images (Schneider et
    al. 2020).
    """

    def __init__(self, necks, anchor):
        self.anchor = anchor
        self.source = copy.deepcopy(necks)
        self.sums = {}

    def add(self, features):
        """Counts a batch, modality -> (B, D)."""
        for modality, feature in features.items():
            f = feature.double()
            batch = torch.stack([f.sum(0), f.square().sum(0)])
            n, sums = self.sums.get(modality, (0, 0))
            self.sums[modality] = (n + len(f), sums + batch)

    @torch.no_grad()
    def write(self, necks):
        """Gives necks the statistics; of a single image there are none."""
        for modality, (n, (total, squares)) in self.sums.items():
            if n > 1:
                share = n / (n + self.anchor)
                mean = total / n
                var = (squares - n * mean.square()) / (n - 1)
                source = self.source[modality]
                neck = necks[modality]
                neck.running_mean.copy_(torch.lerp(source.running_mean.double(), mean, share))
                neck.running_var.copy_(torch.lerp(source.running_var.double(), var.clamp_min(0), share))

    @torch.no_grad()
    def draw_back(self, necks, lr):
        """The last term of Eq. 5 on affine parameters: a proximal step after a gradient step of size lr."""
        for modality, (n, _) in self.sums.items():
            share = 1 / (1 + 2 * lr * self.anchor / n)
            for p, source in zip(necks[modality].parameters(), self.source[modality].parameters()):
                p.copy_(source + share * (p - source))
