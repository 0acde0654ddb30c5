"""RFPMSS: a study's views and its report in one space, with anchors that keep each modality's structure.

Shi et al. 2025.

    tokens of a view -> transformer with an aggregation token -> joint feature
    joint features of the views -> attention over views -> study v -> report decoder
    tokens of the report -> one transformer block -> joint feature t
    L = language (Eq. 4) + v against t (Eq. 7) + pairs of modalities (Eq. 8-9) + consistency (Eq. 5-6)

Here: settings, variants and the model; `rfpmss_training` has the losses. N studies, three views, P tokens of
a view, D width, K anchors of which a sample takes K'. The variants of Tables 3 to 5 are rows of switches.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from . import frozen
from .reporter import Decoder
from .rfpmss_data import LABELS, MODALITIES, VIEWS


@dataclass(frozen=True)
class Settings:
    """Sizes and training."""
    width: int
    depth: int             # transformer blocks of a view
    heads: int
    anchors: int           # K
    chosen: int            # K'
    length: int            # tokens of a report, at most
    epochs: int
    batch: int
    lr: float
    patches: str           # "frozen": feature maps of EfficientNet-Lite0; "pixels": the picture's own patches
    decay: float = 1.0     # of the learning rate, per epoch
    damping: float = 0.25
    bank: int = 0          # past samples that take part in the assignment of anchors


SETTINGS = {
    "lesson": Settings(width=64, depth=2, heads=4, anchors=16, chosen=8, length=128, epochs=16, batch=48,
                       lr=2e-3, patches="frozen", bank=96),
    "paper": Settings(width=768, depth=12, heads=12, anchors=64, chosen=32, length=256, epochs=15, batch=32,
                      lr=5e-5, patches="pixels", decay=0.9, bank=5500),
}


@dataclass(frozen=True)
class Variant:
    """A row of switches; as it stands it is RFPMSS whole."""
    encoder: str = "transformer"   # or "cnn"
    reconcat: bool = True          # the aggregation token joins every patch again after each block
    fusion: bool = True            # attention over views; otherwise every view meets the report alone
    language: bool = True          # Task 1
    study: bool = True             # Task 2, Eq. 7
    labels: bool = False           # cross-entropy on the label instead of reports
    pairs: bool = True             # Eq. 9
    within: str = "anchors"        # a modality: "anchors", "self" (no consistency), "reconstruction", ""
    across: bool = True            # consistency between modalities
    assign: str = "multi"          # Multi-SK, or "modified": plain Sinkhorn with rows of K'

    @property
    def consistent(self):
        """True if anchors are assigned at all."""
        return self.across or self.within in ("anchors", "self")


OURS = Variant()
NO_ALIGNMENT = Variant(study=False, pairs=False, across=False)
TABLE4A = {
    "reconstruction": Variant(within="reconstruction", across=False),
    "without cross-modal": Variant(across=False),
    "without consistency": Variant(within="self"),
    "modified Sinkhorn": Variant(assign="modified"),
    "RFPMSS": OURS,
}
TABLE5 = {
    "0 RFPMSS": OURS,
    "1 CNN": Variant(encoder="cnn"),
    "2 no re-concatenation": Variant(reconcat=False),
    "3 no view fusion": Variant(fusion=False),
    "4 labels": Variant(language=False, study=False, pairs=False, within="", across=False, labels=True),
    "5 generation only": Variant(study=False, pairs=False, within="", across=False),
    "6 consistency only": Variant(language=False),
}


class Project(nn.Module):
    """Tokens (B, P, F), standardised as the training studies were, then a linear layer -> (B, P, D)."""

    def __init__(self, features, width):
        super().__init__()
        self.linear = nn.Linear(features, width)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit(self, tokens):
        """tokens (M, F) of the training studies."""
        self.mean.copy_(tokens.mean(0))
        self.std.copy_(tokens.std(0) + 1e-3)

    def forward(self, x):
        return self.linear((x - self.mean) / self.std)


class Block(nn.Module):
    """Self-attention and a perceptron with Mish, layer norm before each.

    With `reconcat` the aggregation token is joined to every patch again afterwards.
    """

    def __init__(self, width, heads, reconcat):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.Mish(), nn.Linear(2 * width, width))
        self.join = nn.Linear(2 * width, width) if reconcat else None

    def forward(self, x, ignore=None):
        """(tokens, attention of the aggregation token to the patches (B, P)) of tokens (B, 1 + P, D).

        The first token is the aggregation token.
        """
        y = self.norms[0](x)
        y, weights = self.attend(y, y, y, key_padding_mask=ignore, need_weights=True)
        x = x + y
        x = x + self.perceptron(self.norms[1](x))
        if self.join is not None:
            whole = x[:, :1].expand(-1, x.shape[1] - 1, -1)
            x = torch.cat([x[:, :1], x[:, 1:] + self.join(torch.cat([x[:, 1:], whole], 2))], 1)
        return x, weights[:, 0, 1:]


class Encoder(nn.Module):
    """Projected tokens (B, P, D) of one modality -> joint feature (B, D) and attention (B, P)."""

    def __init__(self, width, heads, depth, reconcat=True, kind="transformer"):
        super().__init__()
        self.blocks = None
        self.convs = None
        if kind == "transformer":
            self.blocks = nn.ModuleList(Block(width, heads, reconcat) for _ in range(depth))
        else:
            layers = []
            for _ in range(depth):
                layers += [nn.Conv2d(width, width, 3, padding=1), nn.Mish()]
            self.convs = nn.Sequential(*layers)
        self.aggregation = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x, mask=None):
        """mask: (B, P), 0 for tokens that are padding."""
        if self.convs is not None:
            side = int(x.shape[1] ** 0.5)
            pooled = self.convs(x.transpose(1, 2).unflatten(2, (side, side))).mean((2, 3))
            weights = torch.full(x.shape[:2], 1 / x.shape[1], device=x.device)
        else:
            ignore = None if mask is None else F.pad(mask == 0, (1, 0))
            x = torch.cat([self.aggregation.expand(len(x), -1, -1), x], 1)
            for block in self.blocks:
                x, weights = block(x, ignore)
            pooled = x[:, 0]
        pooled = self.norm(pooled)
        joint = self.out(pooled) * torch.sigmoid(self.gate(pooled))              # a gated projection
        return joint, weights


class RFPMSS(nn.Module):
    """The model. features: F of a view's tokens; vocabulary: number of the decoder's words; places: P."""

    def __init__(self, settings, variant, features, vocabulary, places, labels=len(LABELS)):
        super().__init__()
        width, heads = settings.width, settings.heads
        self.variant = variant
        self.settings = settings
        self.project = nn.ModuleDict({view: Project(features, width) for view in VIEWS})
        self.project["report"] = Project(384, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, places, width))
        self.encode = nn.ModuleDict()
        for view in VIEWS:
            self.encode[view] = Encoder(width, heads, settings.depth, variant.reconcat, variant.encoder)
        self.encode["report"] = Encoder(width, heads, 1, reconcat=False)
        self.weigh = nn.Sequential(nn.Linear(3 * width, width), nn.Mish(), nn.Linear(width, 3))
        self.fuse = nn.Linear(3 * width, width)
        self.decoder = Decoder(vocabulary, width, heads, 2, settings.length)
        self.classify = nn.Linear(width, labels)
        self.rebuild = nn.ModuleDict({m: nn.Linear(width, width) for m in MODALITIES})
        self.anchors = nn.ParameterDict({f"{m}_{space}": nn.Parameter(torch.randn(settings.anchors, width))
                                         for m in MODALITIES for space in ("input", "joint")})

    def forward(self, tokens, reports, mask):
        """A batch as of `rfpmss_data.batch` -> dict.

        `inputs` and `joint` {modality: (B, D)}, `v` (B, D), `view_weights` (B, 3), `attention` {view: (B,
        P)}.
        """
        inputs, joint, attention = {}, {}, {}
        for view in VIEWS:
            x = self.project[view](tokens[view])
            inputs[view] = x.mean(1)
            joint[view], attention[view] = self.encode[view](x + self.places)
        x = self.project["report"](reports)
        inputs["report"] = frozen.mean_pool(x, mask)
        joint["report"], _ = self.encode["report"](x, mask)
        stacked = torch.stack([joint[view] for view in VIEWS], 1)                             # (B, 3, D)
        if self.variant.fusion:
            weights = self.weigh(stacked.flatten(1)).softmax(1)
            v = self.fuse((weights[..., None] * stacked).flatten(1))
        else:
            weights = torch.full_like(stacked[:, :, 0], 1 / 3)
            v = stacked.mean(1)
        return {"inputs": inputs, "joint": joint, "v": v, "view_weights": weights, "attention": attention}
