"""The shared vision transformer with an adapter set, a neck and the heads of each modality. B images, N patch tokens, D width."""
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, profile as profile_named

MIXSTYLE_SHARE = 4         # MixStyle acts after the first quarter of the blocks, where statistics are still style


class Stream(NamedTuple):
    """What the model says of the images of one modality."""
    tokens: torch.Tensor   # (B, N, D) patch tokens after the last norm
    feature: torch.Tensor  # (B, D) pooled tokens
    z: torch.Tensor        # (B, D) the feature after the BatchNorm neck: what is aligned and classified
    logits: torch.Tensor   # (B, 4) classes
    score: torch.Tensor    # (B,) severity, w . Phi of Eq. 8
    mask: torch.Tensor     # (B, 4 sqrt N, 4 sqrt N) lesion logits; None for histopathology


class Joint(NamedTuple):
    """What it says of patients seen by both modalities."""
    z: torch.Tensor
    logits: torch.Tensor
    score: torch.Tensor


class ConvStem(PatchEmbed):
    """Patch embedding by small convolutions, strides 3, 2, 2, ..., instead of one as large as the patch (3 x 2^n pixels). A small
    transformer trained on few images learns more with it. Source: Xiao et al. 2021, "Early convolutions help transformers see better"."""

    def __init__(self, *args, patch_size, in_chans, embed_dim, **rest):
        super().__init__(*args, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **rest)
        halvings = (patch_size // 3).bit_length() - 1
        layers, channels = [nn.Conv2d(in_chans, embed_dim >> halvings, 5, 3, 2)], embed_dim >> halvings
        for _ in range(halvings):
            layers += [nn.GroupNorm(1, channels), nn.GELU(), nn.Conv2d(channels, 2 * channels, 3, 2, 1)]
            channels *= 2
        self.proj = nn.Sequential(*layers, nn.GroupNorm(1, channels), nn.GELU(), nn.Conv2d(channels, embed_dim, 1))


class Adapter(nn.Module):
    """Residual bottleneck D -> r -> D; starts as the identity."""

    def __init__(self, width, bottleneck):
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        return x + self.up(F.gelu(self.down(x)))


class Ordinal(nn.Module):
    """Severity score and its ordered cut-points theta_1 < theta_2 < theta_3 (Eq. 8): a start and positive steps."""

    def __init__(self, width, classes=len(CLASSES)):
        super().__init__()
        self.weight = nn.Linear(width, 1, bias=False)
        self.first = nn.Parameter(torch.tensor(-(classes - 2) / 2))
        self.steps = nn.Parameter(torch.full((classes - 2,), 0.5413))   # softplus(0.5413) = 1

    @property
    def cutpoints(self):
        return torch.cat([self.first[None], self.first + F.softplus(self.steps).cumsum(0)])

    def forward(self, z):
        return self.weight(z).squeeze(-1)


class Decoder(nn.Module):
    """Patch tokens -> lesion logits, 4 x 4 a patch, smoothed by one convolution (correction 6)."""

    def __init__(self, width):
        super().__init__()
        self.to_pixels = nn.Linear(width, 16 * 8)
        self.smooth = nn.Conv2d(8, 1, 3, padding=1)
        nn.init.constant_(self.smooth.bias, -3.0)       # lesions are rare: begin near "none"

    def forward(self, tokens):                          # (B, N, D)
        side = int(tokens.shape[1] ** 0.5)
        x = self.to_pixels(tokens).transpose(1, 2).unflatten(2, (side, side))   # (B, 128, side, side)
        return self.smooth(F.gelu(F.pixel_shuffle(x, 4))).squeeze(1)            # (B, 4 side, 4 side)


def pool(tokens):
    """Patch tokens (B, N, D) -> (B, D): their mean, for what fills the image, plus their maximum, for a lesion of one patch."""
    return tokens.mean(1) + tokens.amax(1)


def mixstyle(x, domain, alpha=0.1, p=0.5):
    """MixStyle (Eq. 3) on tokens x (B, N, D): channel mean and deviation over the tokens, mixed with those of an image of
    another domain. `domain` (B,) integers; with a single domain the partner is any other image. Source: Zhou et al., ICLR 2021."""
    if torch.rand(()) > p or len(x) < 2:
        return x
    mean, std = x.mean(1, keepdim=True).detach(), (x.var(1, keepdim=True) + 1e-6).sqrt().detach()
    partner = cross_domain(domain)
    lam = torch.distributions.Beta(alpha, alpha).sample((len(x), 1, 1)).to(x)
    gamma = lam * std + (1 - lam) * std[partner]
    beta = lam * mean + (1 - lam) * mean[partner]
    return gamma * (x - mean) / std + beta


def cross_domain(domain):
    """(B,) -> for each image the index of a random image of another domain, or of any image where there is but one."""
    draw = torch.rand(len(domain), len(domain), device=domain.device)
    other = (domain[:, None] != domain[None, :]).float()
    return (draw + other).argmax(1)


class CrossModal(nn.Module):
    """f(x_M, x_P) -> class, lesion mask, grade; every head also works with one modality alone."""

    def __init__(self, profile, mixstyle=False, concat=False):
        super().__init__()
        self.encoder = timm.create_model(
            "vit_base_patch16_224", pretrained=False, num_classes=0, img_size=profile.image_size, patch_size=profile.patch,
            embed_dim=profile.width, depth=profile.depth, num_heads=profile.heads, embed_layer=ConvStem if profile.stem else PatchEmbed)
        width = profile.width
        self.adapters = nn.ModuleDict({m: nn.ModuleList(Adapter(width, profile.adapter) for _ in range(profile.depth)) for m in MODALITIES})
        self.necks = nn.ModuleDict({m: nn.BatchNorm1d(width) for m in MODALITIES})   # BNNeck (correction 5)
        head = 2 * width if concat else width
        self.classify = nn.Sequential(nn.Linear(head, 512), nn.GELU(), nn.Linear(512, len(CLASSES)))
        self.grade = Ordinal(head)
        self.decoder = Decoder(width)
        self.mixstyle, self.concat, self.amp = mixstyle, concat, profile.amp

    def tokens(self, x, modality, domain=None):
        """Images uint8 (B, S, S) or (B, S, S, 3) -> patch tokens (B, N, D). After `model.encoder.set_grad_checkpointing()` blocks are
        computed again on the way back, which saves most of the memory of activations."""
        encoder = self.encoder
        again = encoder.grad_checkpointing and self.training
        x = encoder.norm_pre(encoder._pos_embed(encoder.patch_embed(to_input(x))))
        for i, (block, adapter) in enumerate(zip(encoder.blocks, self.adapters[modality])):
            x = adapter(checkpoint(block, x, use_reentrant=False) if again else block(x))
            if self.mixstyle and self.training and domain is not None and i < max(1, len(encoder.blocks) // MIXSTYLE_SHARE):
                x = mixstyle(x, domain)
        return encoder.norm(x)[:, encoder.num_prefix_tokens:]

    def fuse(self, z_m=None, z_p=None):
        """One feature of a mammogram's, a tile's, or both: their mean; with `concat` side by side, zeros for what is missing."""
        if not self.concat:
            return z_m if z_p is None else z_p if z_m is None else (z_m + z_p) / 2
        some = z_m if z_m is not None else z_p
        return torch.cat([torch.zeros_like(some) if z is None else z for z in (z_m, z_p)], dim=1)

    def stream(self, x, modality, domain=None):
        tokens = self.tokens(x, modality, domain)
        feature = pool(tokens)
        z = self.neck(feature, modality, running=len(feature) == 1)        # one image has no batch statistics
        head = self.fuse(z, None) if modality == MAMMOGRAPHY else self.fuse(None, z)
        mask = self.decoder(tokens) if modality == MAMMOGRAPHY else None
        return Stream(tokens, feature, z, self.classify(head), self.grade(head), mask)

    def joint(self, z_m, z_p):
        """Features (K, D) of both modalities of K patients -> Joint."""
        z = self.fuse(z_m, z_p)
        return Joint(z, self.classify(z), self.grade(z))

    def forward(self, x):
        """x: modality -> images. In training also "domain": modality -> (B,) integers; "pairs": (K, 2) rows of one patient;
        "lesion": (B, S, S) outlines on the mammograms. -> dict: a Stream a modality; a Joint under "both" where there are pairs;
        "lesion" (B, D), the neck's feature of the outlined lesions; "cutpoints" (3,). A profile with `amp` trains in bfloat16; what
        comes out is float32, so that the losses are."""
        if not (self.amp and self.training):
            return self.streams(x)
        with torch.autocast(next(self.parameters()).device.type, torch.bfloat16):
            out = self.streams(x)
        single = lambda value: None if value is None else value.float()
        return {name: single(value) if torch.is_tensor(value) else type(value)(*map(single, value)) for name, value in out.items()}

    def streams(self, x):
        """What `forward` returns, in the precision around it."""
        domain = x.get("domain", {})
        out = {m: self.stream(x[m], m, domain.get(m)) for m in MODALITIES if m in x and len(x[m])}
        if len(out) == 2 and len(x.get("pairs", ())):
            m, p = x["pairs"].unbind(1)
            out["both"] = self.joint(out[MAMMOGRAPHY].z[m], out[HISTOPATHOLOGY].z[p])
        if "lesion" in x and MAMMOGRAPHY in out:
            out["lesion"] = self.lesion(out[MAMMOGRAPHY].tokens, x["lesion"])
        out["cutpoints"] = self.grade.cutpoints
        return out

    def lesion(self, tokens, mask):
        """Mean of the patch tokens (B, N, D) under the outlines (B, S, S), weighted by the share of each patch they cover, through
        the neck with its running statistics (a crop must not move those of whole images) -> (B, D)."""
        side = int(tokens.shape[1] ** 0.5)
        cover = F.adaptive_avg_pool2d(mask.to(tokens).unsqueeze(1), side).flatten(1)
        feature = (tokens * cover[..., None]).sum(1) / cover.sum(1, keepdim=True).clamp_min(1e-6)
        return self.neck(feature, MAMMOGRAPHY, running=True)

    def neck(self, feature, modality, running=False):
        """Features (B, D) through the neck of their modality; `running`: by its running statistics, which stay as they are."""
        neck = self.necks[modality]
        return F.batch_norm(feature, neck.running_mean, neck.running_var, neck.weight, neck.bias) if running else neck(feature)


def to_input(x):
    """uint8 images, grey (B, S, S) or colour (B, S, S, 3), -> float (B, 3, S, S) in [-1, 1]. Floats pass as they are."""
    if x.dtype != torch.uint8:
        return x
    x = x.unsqueeze(-1).expand(*x.shape, 3) if x.ndim == 3 else x
    return x.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def build(profile, **switches):
    """The model of a profile (a `Profile` or its name), random weights. Switches: mixstyle, concat."""
    return CrossModal(profile_named(profile) if isinstance(profile, str) else profile, **switches)


def adapter_share(model):
    """Parameters of all adapters over those of the encoder; the paper wants less than 0.05."""
    size = lambda module: sum(p.numel() for p in module.parameters())
    return size(model.adapters) / size(model.encoder)
