"""RFPMSS: a study's views and its report in one space, with anchors that keep each modality's structure.

Shi et al. 2025.

    patches of a view -> medical image transformer -> token projection: input feature
    its tokens -> one transformer block -> gated projection: joint feature
    joint features of the views -> attention over views -> study v -> report decoder
    tokens of the report, of a frozen text encoder -> the same projections and block -> joint feature t
    L = language (Eq. 4) + v against t (Eq. 7) + pairs of modalities (Eq. 8-9) + consistency (Eq. 5-6)

Here: settings, variants and the model; `rfpmss_training` has the losses. N studies, three views, P patches of
a view, D width of the joint space, K anchors of which a sample takes K'. The variants of Tables 1, 4 and 5
are rows of switches.
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
    width: int             # of the medical image transformer and of the decoder
    depth: int             # its blocks; 0 where a frozen network stands in for it
    heads: int
    common: int            # width of the token projection, and of the block that follows it
    common_heads: int
    joint: int             # D
    anchors: int           # K
    chosen: int            # K'
    length: int            # words of a report that are written, at most
    layers: int            # of the decoder
    epochs: int
    batch: int
    lr: float
    patches: str           # "frozen": feature maps of EfficientNet-Lite0; "pixels": the picture's own patches
    write_every: int = 1   # of the studies of a batch, every how many-th has its report written
    together: int = 1      # neighbouring words of a report that are read as one, their mean
    side: int = 128        # of a picture, pixels
    crop: int = 0          # pixels of the part that is taken of it, at random in training; 0: the whole
    decay: float = 1.0     # of the learning rate, per epoch
    damping: float = 0.25
    bank: int = 0          # past samples that take part in the assignment of anchors


SETTINGS = {
    "lesson": Settings(width=32, depth=0, heads=2, common=32, common_heads=2, joint=32, anchors=16, chosen=8,
                       length=112, layers=1, epochs=15, batch=48, lr=3e-3, patches="frozen", decay=0.86,
                       bank=96, write_every=4, together=4),
    "paper": Settings(width=768, depth=12, heads=12, common=4096, common_heads=64, joint=6144, anchors=64,
                      chosen=32, length=256, layers=2, epochs=15, batch=32, lr=5e-5, patches="pixels",
                      side=256, crop=224, decay=0.9, bank=5500),
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
    assign: str = "multi"          # Multi-SK; "modified": plain Sinkhorn with rows of K';
    #                                "shuffled": Multi-SK of another sample, which says nothing of this one

    @property
    def consistent(self):
        """True if anchors are assigned at all."""
        return self.across or self.within in ("anchors", "self")


OURS = Variant()
NO_ALIGNMENT = Variant(study=False, pairs=False, across=False)
TABLE1 = {   # by what others align, in this model: AVLnet and EAO by pairs; a study is the mean of its views
    "contrast of pairs": Variant(fusion=False, language=False, study=False, within="", across=False),
}
TABLE4A = {
    "reconstruction": Variant(within="reconstruction", across=False),
    "without both": Variant(within="", across=False),
    "without cross-modal": Variant(across=False),
    "each space by itself": Variant(within="self"),
    "modified Sinkhorn": Variant(assign="modified"),
    "RFPMSS": OURS,
}
TABLE5 = {
    "RFPMSS": OURS,
    "1 CNN": Variant(encoder="cnn"),
    "2 no re-concatenation": Variant(reconcat=False),
    "3 no view fusion": Variant(fusion=False),
    "4 labels": Variant(language=False, study=False, pairs=False, within="", across=False, labels=True),
    "5 generation only": Variant(study=False),
    "6 contrast only": Variant(language=False),
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

    def __init__(self, width, heads, hidden, reconcat):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.Mish(), nn.Linear(hidden, width))
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


class Convolutions(nn.Module):
    """Row 1 of Table 5: 3 x 3 convolutions in place of a block, and the mean in place of attention."""

    def __init__(self, width):
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Mish(),
                                   nn.Conv2d(width, width, 3, padding=1), nn.Mish())

    def forward(self, x, ignore=None):
        """As `Block.forward`; the first token becomes the mean of the others."""
        side = int((x.shape[1] - 1) ** 0.5)
        x = self.convs(x[:, 1:].transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        weights = torch.full(x.shape[:2], 1 / x.shape[1], device=x.device)
        return torch.cat([x.mean(1, keepdim=True), x], 1), weights


class Encoder(nn.Module):
    """Tokens (B, P, width) of one modality -> input feature (B, common), joint feature (B, D), attention
    (B, P) of the aggregation token in the last block."""

    def __init__(self, settings, depth, kind="transformer", reconcat=True):
        super().__init__()

        def block(width, heads, hidden):
            return Block(width, heads, hidden, reconcat) if kind == "transformer" else Convolutions(width)

        width, common = settings.width, settings.common
        self.aggregation = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(block(width, settings.heads, 4 * width) for _ in range(depth))
        self.common = nn.Linear(width, common)
        self.last = block(common, settings.common_heads, common)
        self.norm = nn.LayerNorm(common)
        self.gate = nn.Linear(common, settings.joint)
        self.out = nn.Linear(common, settings.joint)

    def forward(self, x, mask):
        """mask: (B, P), 0 for tokens that are padding."""
        ignore = F.pad(mask == 0, (1, 0))
        x = torch.cat([self.aggregation.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x, _ = block(x, ignore)
        x = self.common(x)
        before = frozen.mean_pool(x[:, 1:], mask)
        x, weights = self.last(x, ignore)
        pooled = self.norm(x[:, 0])
        return before, self.out(pooled) * torch.sigmoid(self.gate(pooled)), weights    # a gated projection


class RFPMSS(nn.Module):
    """The model. features: F of a view's patches; vocabulary: number of the decoder's words; places: P."""

    def __init__(self, settings, variant, features, vocabulary, places, labels=len(LABELS)):
        super().__init__()
        width, common, joint = settings.width, settings.common, settings.joint
        self.variant = variant
        self.settings = settings
        self.project = nn.ModuleDict({view: Project(features, width) for view in VIEWS})
        self.project["report"] = Project(384, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, places, width))
        self.encode = nn.ModuleDict()
        for view in VIEWS:
            self.encode[view] = Encoder(settings, settings.depth, variant.encoder, variant.reconcat)
        self.encode["report"] = Encoder(settings, 0, reconcat=False)
        self.weigh = nn.Sequential(nn.Linear(3 * joint, width), nn.Mish(), nn.Linear(width, 3))
        self.fuse = nn.Linear(3 * joint, joint)
        self.decoder = Decoder(vocabulary, width, settings.heads, settings.layers, settings.length, joint)
        self.classify = nn.Linear(joint, labels)
        self.rebuild = nn.ModuleDict({m: nn.Linear(joint, common) for m in MODALITIES})
        self.anchors = nn.ParameterDict()
        for m in MODALITIES:
            self.anchors[f"{m}_input"] = nn.Parameter(torch.randn(settings.anchors, common))
            self.anchors[f"{m}_joint"] = nn.Parameter(torch.randn(settings.anchors, joint))

    def forward(self, patches, reports, mask):
        """A batch as of `rfpmss_data.batch` -> dict.

        `inputs` {modality: (B, common)}, `joint` {modality: (B, D)}, `v` (B, D), `view_weights` (B, 3),
        `attention` {view: (B, P)}.
        """
        inputs, joint, attention = {}, {}, {}
        for view in VIEWS:
            x = self.project[view](patches[view]) + self.places
            every = torch.ones(x.shape[:2], device=x.device)
            inputs[view], joint[view], attention[view] = self.encode[view](x, every)
        x = self.project["report"](reports)
        inputs["report"], joint["report"], _ = self.encode["report"](x, mask)
        stacked = torch.stack([joint[view] for view in VIEWS], 1)                             # (B, 3, D)
        if self.variant.fusion:
            weights = self.weigh(stacked.flatten(1)).softmax(1)
            v = self.fuse((weights[..., None] * stacked).flatten(1))
        else:
            weights = torch.full_like(stacked[:, :, 0], 1 / 3)
            v = stacked.mean(1)
        return {"inputs": inputs, "joint": joint, "v": v, "view_weights": weights, "attention": attention}
