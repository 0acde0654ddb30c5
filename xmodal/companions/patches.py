"""Patch features of a whole slide from a frozen encoder: tissue, tiles, numbers. The slide pipeline is that of `xmodal.slides`."""
from typing import NamedTuple

import numpy as np
import timm
import torch

from ..config import Problem
from ..slides import extract, open_slide, tile_grid
from .frozen import ImageEncoder

TILE_UM = 112.0            # 224 pixels at 20x, 0.5 um a pixel


class Patches(NamedTuple):
    """The patches of one slide, row by row of its grid."""
    features: np.ndarray   # float32 (N, D_p)
    xy: np.ndarray         # (N, 2) upper left corners, level-0 pixels
    side: float            # of a patch, level-0 pixels


def frozen_encoder(name="tf_efficientnet_lite0", device="cpu"):
    """A timm model without its classifier, frozen: images (B, 3, H, W) -> (B, D_p).

    tf_efficientnet_lite0 has its ImageNet weights here (`frozen.ImageEncoder`); any other name takes timm's, which must be in its
    cache, else `Problem`.
    """
    if name == "tf_efficientnet_lite0":
        model = ImageEncoder(device).net
    else:
        try:
            model = timm.create_model(name, pretrained=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise Problem(f"timm has no weights for {name!r} here ({str(error).splitlines()[0]}); choose tf_efficientnet_lite0, or fill "
                          "timm's cache.") from None
    model.reset_classifier(0)
    return model.requires_grad_(False).eval().to(device)


def scaled(model, pixels):
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) with the mean and deviation that `model` was trained with."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(model.default_cfg[k], device=device)[:, None, None] for k in ("mean", "std"))
    return (torch.as_tensor(pixels, device=device).permute(0, 3, 1, 2) / 255 - mean) / std


@torch.no_grad()
def of_slide(path, model, mpp=None, tile_um=TILE_UM, size=224, tissue=0.5, batch=64):
    """`Patches` of a slide: all tiles with at least the share `tissue`, read and encoded `batch` at a time, so that memory does not
    grow with the slide. mpp: um per pixel where the file does not say.

    Raises `Problem` for a file that cannot be read, and for a slide without a tile of tissue.
    """
    slide, mpp = open_slide(path, mpp)
    with slide:
        xy, share, _ = tile_grid(slide, mpp, tile_um)
        xy = xy[share >= tissue]
        if not len(xy):
            raise Problem(f"{path} has no tile with {tissue:.0%} tissue; look at its overview, lower the share, or leave the patient out.")
        side = tile_um / mpp
        parts = [model(scaled(model, extract(slide, xy[i:i + batch], side, size))).cpu() for i in range(0, len(xy), batch)]
    return Patches(torch.cat(parts).numpy(), xy, side)
