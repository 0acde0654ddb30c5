"""One vision transformer for both modalities: adapters, necks, heads. B images, N patch tokens, D width."""
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, profile as profile_named
from .layers import Adapter, ConvStem, bag_means, to_float32, to_input

MIXSTYLE_SHARE = 4         # MixStyle acts in the first quarter of the blocks, where statistics are style, or
                           # where these are frozen, on what they give


class Stream(NamedTuple):
    """What the model says of the images of one modality."""
    tokens: torch.Tensor   # (B, N, D) patch tokens after the last norm
    feature: torch.Tensor  # (B, D) pooled tokens
    z: torch.Tensor        # (B, D) the feature after the BatchNorm neck: what is aligned and classified
    logits: torch.Tensor   # (B, 4) classes
    score: torch.Tensor    # (B,) severity, w . Phi of Eq. 8
    mask: torch.Tensor     # (B, 4 sqrt N, 4 sqrt N) lesion logits; None for histopathology


class Joint(NamedTuple):
    """What the model says of K patients who are seen by both modalities, from the means of their bags."""
    z: torch.Tensor        # (K, D), or (K, 2 D) for a model with `concat`
    logits: torch.Tensor   # (K, 4) classes
    score: torch.Tensor    # (K,) severity


# ---- parts -----------------------------------------------------------------------------------------------

def mixstyle(x, domain, alpha=0.1, p=0.5):
    """Eq. 3, MixStyle: the tokens of an image take statistics mixed with those of an image of another domain.

        MixStyle(x) = gamma (x - mu(x)) / sigma(x) + beta
        gamma = lam sigma(x) + (1 - lam) sigma(x')
        beta = lam mu(x) + (1 - lam) mu(x')          lam ~ Beta(alpha, alpha)

    x (B, N, D) tokens, mu and sigma of each channel over the tokens; domain (B,) integers. Where there is a
    single domain the partner x' is any image. p: how likely a batch is mixed. Source: Zhou et al., ICLR 2021.
    """
    if torch.rand(()) > p or len(x) < 2:
        return x
    mean = x.mean(1, keepdim=True).detach()
    std = (x.var(1, keepdim=True) + 1e-6).sqrt().detach()
    partner = cross_domain(domain)
    lam = torch.distributions.Beta(alpha, alpha).sample((len(x), 1, 1)).to(x)
    gamma = lam * std + (1 - lam) * std[partner]
    beta = lam * mean + (1 - lam) * mean[partner]
    return gamma * (x - mean) / std + beta


def cross_domain(domain):
    """(B,) domains -> (B,) index of a random image of another domain; of any where there is one domain."""
    draw = torch.rand(len(domain), len(domain), device=domain.device)
    other = (domain[:, None] != domain[None, :]).float()
    return (draw + other).argmax(1)


def pool(tokens):
    """Patch tokens (B, N, D) -> (B, D): mean plus maximum, since a lesion may fill a single patch."""
    return tokens.mean(1) + tokens.amax(1)


class Decoder(nn.Module):
    """Eq. 7 on masks (correction 6): patch tokens -> lesion logits, 4 x 4 per patch, smoothed."""

    def __init__(self, width):
        super().__init__()
        self.to_pixels = nn.Linear(width, 16 * 8)
        self.smooth = nn.Conv2d(8, 1, 3, padding=1)
        nn.init.constant_(self.smooth.bias, -3.0)       # lesions are rare: begin near "none"

    def forward(self, tokens):                          # (B, N, D)
        side = int(tokens.shape[1] ** 0.5)
        x = self.to_pixels(tokens).transpose(1, 2).unflatten(2, (side, side))   # (B, 128, side, side)
        return self.smooth(F.gelu(F.pixel_shuffle(x, 4))).squeeze(1)            # (B, 4 side, 4 side)


class Ordinal(nn.Module):
    """Eq. 8: the severity w . Phi, and cut-points theta_1 < theta_2 < theta_3, a start and positive steps."""

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


class Early(nn.Module):
    """The patch embedding and the first blocks of a vision transformer: images uint8 (B, S, S) or
    (B, S, S, 3) -> all tokens (B, 1 + N, D). Both modalities share it."""

    def __init__(self, encoder, depth):
        super().__init__()
        self.embed = encoder.patch_embed
        self.cls_token, self.pos_embed = encoder.cls_token, encoder.pos_embed
        self.add_position = encoder._pos_embed
        self.norm = encoder.norm_pre
        self.blocks = encoder.blocks[:depth]

    def forward(self, x):
        return self.blocks(self.norm(self.add_position(self.embed(to_input(x)))))


# ---- the whole -------------------------------------------------------------------------------------------

class CrossModal(nn.Module):
    """f(x_M, x_P) -> class, lesion mask, grade; every head also works with one modality alone."""

    def __init__(self, profile, mixstyle=False, concat=False):
        super().__init__()
        width = profile.width
        self.frozen = profile.frozen
        self.mixstyle = mixstyle
        self.concat = concat
        self.amp = profile.amp
        self.encoder = timm.create_model(
            "vit_base_patch16_224", pretrained=False, num_classes=0,
            img_size=profile.image_size, patch_size=profile.patch,
            embed_dim=width, depth=profile.depth, num_heads=profile.heads,
            embed_layer=ConvStem if profile.stem else PatchEmbed,
        )
        self.adapters = nn.ModuleDict()
        for modality in MODALITIES:
            adapters = [Adapter(width, profile.adapter) for _ in range(profile.depth - profile.frozen)]
            self.adapters[modality] = nn.ModuleList(adapters)
        self.necks = nn.ModuleDict({m: nn.BatchNorm1d(width) for m in MODALITIES})   # BNNeck (correction 5)
        self.lesion_neck = nn.BatchNorm1d(width)
        self.register_buffer("token_means", torch.zeros(len(MODALITIES), width))     # see explain.centre
        self.decoder = Decoder(width)
        head = 2 * width if concat else width           # last, so that all else begins alike with `concat`
        self.classify = nn.Sequential(nn.Linear(head, 512), nn.GELU(), nn.Linear(512, len(CLASSES)))
        self.grade = Ordinal(head)
        if self.frozen:
            Early(self.encoder, self.frozen).requires_grad_(False)

    def forward(self, x):
        """x: dict with the images of each modality and, in training, "domain": modality -> (B,) integers;
        "bag": modality -> (B,) numbers of the bags; "pairs": (K, 2) bags of one patient; "lesion": (B, S, S)
        outlines on the mammograms.

        Returns a dict: a `Stream` for each modality; "bags": modality -> (bags, D) mean features; a `Joint`
        under "both" where there are pairs; "lesion" (L, D), the features of the L mammograms with an outline;
        "cutpoints" (3,). A profile with `amp` trains in bfloat16; what is returned is float32, so that the
        losses are computed in float32.
        """
        if not (self.amp and self.training):
            return self.streams(x)
        with torch.autocast(next(self.parameters()).device.type, torch.bfloat16):
            return to_float32(self.streams(x))

    def streams(self, x):
        """What `forward` returns, in the precision of its surroundings."""
        domain = x.get("domain", {})
        out = {}
        for modality in MODALITIES:
            if modality in x and len(x[modality]):
                out[modality] = self.stream(x[modality], modality, domain.get(modality))
        if "bag" in x:
            out["bags"] = {m: bag_means(out[m].z, x["bag"][m]) for m in MODALITIES if m in out}
        if len(x.get("pairs", ())):
            m, p = x["pairs"].unbind(1)
            out["both"] = self.joint(out["bags"][MAMMOGRAPHY][m], out["bags"][HISTOPATHOLOGY][p])
        if "lesion" in x and MAMMOGRAPHY in out:
            out["lesion"] = self.lesion(out[MAMMOGRAPHY].tokens, x["lesion"])
        out["cutpoints"] = self.grade.cutpoints
        return out

    def stream(self, x, modality, domain=None):
        """Images of one modality -> `Stream`."""
        tokens = self.tokens(x, modality, domain)
        feature = pool(tokens)
        z = normalise(self.necks[modality], feature, running=len(feature) == 1)   # one has no statistics
        if modality == MAMMOGRAPHY:
            head = self.fuse(z, None)
            mask = self.decoder(tokens)
        else:
            head = self.fuse(None, z)
            mask = None
        return Stream(tokens, feature, z, self.classify(head), self.grade(head), mask)

    def tokens(self, x, modality, domain=None):
        """Images uint8 (B, S, S) or (B, S, S, 3), or what `frozen_part` made of them -> patch tokens (B, N,
        D).

        After `model.encoder.set_grad_checkpointing()` the blocks are computed again in the backward pass,
        which saves most of the memory of activations.
        """
        encoder = self.encoder
        compute_again = encoder.grad_checkpointing and self.training
        mix = self.mixstyle and self.training and domain is not None
        if x.dtype == torch.uint8:
            x = self.early(x)
        if mix and self.frozen:
            x = mixstyle(x, domain)
        for i, (block, adapter) in enumerate(zip(encoder.blocks[self.frozen:], self.adapters[modality])):
            x = checkpoint(block, x, use_reentrant=False) if compute_again else block(x)
            x = adapter(x)
            if mix and self.frozen + i < len(encoder.blocks) // MIXSTYLE_SHARE:
                x = mixstyle(x, domain)
        return encoder.norm(x)[:, encoder.num_prefix_tokens:]

    def early(self, x):
        """Images uint8 -> all tokens (B, 1 + N, D) behind the patch embedding and the frozen blocks."""
        return Early(self.encoder, self.frozen)(x)

    def frozen_part(self, modality):
        """The module that makes of the images of a modality what no training changes; None without any."""
        return Early(self.encoder, self.frozen) if self.frozen else None

    def fuse(self, z_m=None, z_p=None):
        """One feature of a mammogram, of a tile, or of both, each (B, D).

        Of both it is their mean (B, D); with `concat` they stand side by side (B, 2 D), and a missing one is
        zeros.
        """
        if not self.concat:
            if z_m is None:
                return z_p
            if z_p is None:
                return z_m
            return (z_m + z_p) / 2
        if z_m is None:
            z_m = torch.zeros_like(z_p)
        if z_p is None:
            z_p = torch.zeros_like(z_m)
        return torch.cat([z_m, z_p], dim=1)

    def joint(self, z_m, z_p):
        """Features (K, D) of both modalities of K patients -> `Joint`."""
        z = self.fuse(z_m, z_p)
        return Joint(z, self.classify(z), self.grade(z))

    def lesion(self, tokens, mask):
        """For Eq. 2 on lesions: patch tokens (B, N, D) and outlines (B, S, S) -> features (L, D) of the L
        mammograms that have an outline.

        Pooled like a whole image, by mean plus maximum, over the patches that the outline touches, the mean
        weighted by the share that is outlined; then through a BatchNorm of its own, since the statistics of
        lesions are not those of whole images.
        """
        side = int(tokens.shape[1] ** 0.5)
        cover = F.adaptive_avg_pool2d(mask.to(tokens).unsqueeze(1), side).flatten(1)
        outlined = cover.any(1)
        tokens, cover = tokens[outlined], cover[outlined].unsqueeze(2)
        mean = (tokens * cover).sum(1) / cover.sum(1)
        strongest = tokens.masked_fill(cover == 0, -torch.inf).amax(1)
        return normalise(self.lesion_neck, mean + strongest, running=len(mean) < 2)


def normalise(norm, feature, running=False):
    """Features (B, D) through a BatchNorm. running: by its running statistics, which then stay as they are.
    """
    if not running:
        return norm(feature)
    return F.batch_norm(feature, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def build(profile, **switches):
    """The model of a profile (a `Profile` or its name) with random weights. Switches: mixstyle, concat."""
    if isinstance(profile, str):
        profile = profile_named(profile)
    return CrossModal(profile, **switches)


def adapter_share(model):
    """Parameters of all adapters over those of the encoder; the paper wants less than 0.05."""
    adapters = sum(p.numel() for p in model.adapters.parameters())
    encoder = sum(p.numel() for p in model.encoder.parameters())
    return adapters / encoder
