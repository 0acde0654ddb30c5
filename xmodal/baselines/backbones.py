"""Encoders of other families in the frame of `model.CrossModal`: necks, heads and decoder stay the same.

B images, N tokens, D width. A modality without an encoder of its own here is read by the vision transformer
of `CrossModal`.
"""
import timm
import torch
from torch import nn
from torch.nn import functional as F

from ..config import MODALITIES, Problem
from ..layers import to_input
from ..model import CrossModal

# family -> (timm name, levels of feature maps that become tokens, sizes)
WHOLE = {
    "swin": ("swin_base_patch4_window7_224", (3,), {}),
    "densenet": ("densenet121", (2, 3, 4), {}),
}
THIN = {         # a few thin layers, for small images
    "swin": ("swin_tiny_patch4_window7_224", (1,),
             dict(patch_size=6, embed_dim=48, depths=(2, 2), num_heads=(3, 6), window_size=8)),
    "densenet": ("densenet121", (2, 3), dict(growth_rate=12, block_config=(3, 3, 3))),
}
FROZEN = {"swin": "layers_0", "densenet": "features_transition1"}     # last frozen part, where any is


def encoders_of(profile):
    """`WHOLE` for images of the size that timm's weights were made for, or larger ones; else `THIN`."""
    return WHOLE if profile.image_size >= 224 else THIN


class Input(nn.Module):
    """`layers.to_input` as the first part of a network."""

    def forward(self, x):
        return to_input(x)


class Grid(nn.Module):
    """Feature maps of a timm network as tokens: images uint8 (B, S, S[, 3]), or what `early` made of them ->
    (B, N, D).

    The chosen levels are each projected to D, brought to the finest grid and added. With several levels this
    is a feature pyramid (Lin et al. 2017): coarse maps say what, fine ones where.
    """

    def __init__(self, profile, family, pretrained=False):
        super().__init__()
        name, levels, sizes = encoders_of(profile)[family]
        if family == "swin":
            sizes = {**sizes, "img_size": profile.image_size}
        try:
            self.maps = timm.create_model(
                name, features_only=True, out_indices=levels, pretrained=pretrained, **sizes)
        except Exception as error:               # the hub's are many: no cache, no network, a damaged file
            if not pretrained:
                raise
            raise Problem(f"timm cannot give the weights of {name} ({error}); "
                          "put them into its cache as those of the ViT.") from error
        self.channels_last = family == "swin"
        channels = self.maps.feature_info.channels()
        self.project = nn.ModuleList(nn.Conv2d(c, profile.width, 1) for c in channels)
        names = list(self.maps)
        self.frozen = names[:names.index(FROZEN[family]) + 1] if profile.frozen else []
        self.early().requires_grad_(False)

    def early(self):
        """The module that no training changes: from images to what comes out of the last frozen part."""
        return nn.Sequential(Input(), *(self.maps[name] for name in self.frozen))

    def forward(self, x):
        if x.dtype == torch.uint8:
            x = self.early()(x)
        maps = []
        for name, part in self.maps.items():
            if name in self.frozen:
                continue
            x = part(x)
            if name in self.maps.return_layers:
                features = x.permute(0, 3, 1, 2) if self.channels_last else x
                maps.append(self.project[len(maps)](features))
        finest = maps[0].shape[-2:]
        pyramid = sum(F.interpolate(m, finest, mode="nearest") for m in maps)
        return pyramid.flatten(2).transpose(1, 2)


class Mixed(CrossModal):
    """`CrossModal` in which some modalities are read by a network of another family.

    families: modality -> "vit", "swin" or "densenet"; with both modalities their features are concatenated
    before the heads (early fusion). pretrained: with timm's weights.
    """

    def __init__(self, profile, families, pretrained=False):
        super().__init__(profile, concat=len(families) == len(MODALITIES))
        self.grids = nn.ModuleDict()
        for modality, family in families.items():
            if family != "vit":
                self.grids[modality] = Grid(profile, family, pretrained)
        if "vit" not in families.values():
            self.encoder = self.adapters = None

    def tokens(self, x, modality, domain=None):
        """Images -> patch tokens (B, N, D), by the encoder of the modality."""
        if modality in self.grids:
            return self.grids[modality](x)
        return super().tokens(x, modality, domain)

    def frozen_part(self, modality):
        """As `CrossModal.frozen_part`; None also for a modality that nothing reads."""
        if modality in self.grids:
            return self.grids[modality].early() if self.frozen else None
        return super().frozen_part(modality) if self.encoder is not None else None
