"""RFPMSS: a study's views and its report in one space, with anchors that keep each modality's own structure (Shi et al. 2025).

    tokens of a view -> transformer with an aggregation token -> joint feature --+-> attention over views -> study v -> report decoder
    tokens of the report -> one transformer block -> joint feature t             |
    L = language (Eq. 4) + study against report (Eq. 7) + four pairs of modalities (Eq. 8-9) + anchor consistency (Eq. 5-6)

N studies, three views, P tokens a view, D width, K anchors of which a sample takes K'. The variants of Tables 3 to 5 are rows of switches.
"""
import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..losses import info_nce
from ..model import to_input
from ..record import seed_everything
from . import frozen, study
from .reporter import Decoder, language_loss
from .transport import multi_sk, sinkhorn

VIEWS = ("mammogram", "magnified", "ultrasound")
MODALITIES = (*VIEWS, "report")
PAIRS = (("mammogram", "magnified"), ("magnified", "ultrasound"), ("magnified", "report"), ("ultrasound", "report"))   # Eq. 9
TAU = 0.1


@dataclass(frozen=True)
class Settings:
    """Sizes and training."""
    width: int
    depth: int             # transformer blocks a view
    heads: int
    anchors: int           # K
    chosen: int            # K'
    length: int            # words of a report, at most
    epochs: int
    batch: int
    lr: float
    patches: str           # "frozen": feature maps of EfficientNet-Lite0; "pixels": the picture's own patches
    decay: float = 1.0     # of the learning rate, an epoch
    damping: float = 0.25
    bank: int = 0          # past samples that take part in the assignment of anchors


SETTINGS = {
    "lesson": Settings(width=64, depth=2, heads=4, anchors=16, chosen=8, length=128, epochs=16, batch=48, lr=2e-3, patches="frozen", bank=96),
    "paper": Settings(width=768, depth=12, heads=12, anchors=64, chosen=32, length=256, epochs=15, batch=32, lr=5e-5, patches="pixels",
                      decay=0.9, bank=5500)}


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
    within: str = "anchors"        # consistency of a modality with itself: "anchors", "self" (no consistency), "reconstruction", ""
    across: bool = True            # ... and between modalities
    assign: str = "multi"          # Multi-SK, or "modified": plain Sinkhorn with rows of K'


OURS = Variant()
NO_ALIGNMENT = Variant(study=False, pairs=False, across=False)
TABLE4A = {"reconstruction": Variant(within="reconstruction", across=False), "without cross-modal": Variant(across=False),
           "without consistency": Variant(within="self"), "modified Sinkhorn": Variant(assign="modified"), "RFPMSS": OURS}
TABLE5 = {"0 RFPMSS": OURS, "1 CNN": Variant(encoder="cnn"), "2 no re-concatenation": Variant(reconcat=False),
          "3 no view fusion": Variant(fusion=False),
          "4 labels": Variant(language=False, study=False, pairs=False, within="", across=False, labels=True),
          "5 generation only": Variant(study=False, pairs=False, within="", across=False), "6 consistency only": Variant(language=False)}


# ---- what goes in ------------------------------------------------------------------------------------------------

@dataclass
class Studies:
    """Tokens of N studies, computed once, and their table (patient, label, report, boxes_<view>)."""
    table: object
    tokens: dict           # view -> (N, P, F)
    words: torch.Tensor    # (N, T, 384) hidden states of the frozen text encoder
    mask: torch.Tensor     # (N, T)

    def __len__(self):
        return len(self.table)

    def digest(self):
        """A sha256 of table and tokens, so that a result knows its studies."""
        tokens = b"".join(t.numpy().tobytes() for t in self.tokens.values())
        return hashlib.sha256(self.table.to_csv(index=False).encode() + tokens).hexdigest()


def tokens_of(pictures, patches, encoder=None):
    """uint8 pictures (N, S, S) -> tokens (N, P, F): "frozen" 8 x 8 feature vectors at 128 pixels; "pixels" flattened patches of 16 x 16."""
    if patches == "frozen":
        return encoder.maps(pictures)[0].flatten(2).transpose(1, 2).contiguous()
    x = to_input(torch.as_tensor(np.asarray(pictures)))[:, :1]
    return F.unfold(x, 16, stride=16).transpose(1, 2).contiguous()


@torch.no_grad()
def read(table, pictures, settings, device="cpu"):
    """`Studies` from a table with a column report and uint8 pictures {view: (N, S, S)}."""
    encoder = frozen.ImageEncoder(device) if settings.patches == "frozen" else None
    transformer, tokenizer = frozen.minilm(device)
    found = tokenizer(list(table.report), return_tensors="pt", padding=True, truncation=True, max_length=256)
    parts = [transformer(ids.to(device), m.to(device)).last_hidden_state.cpu()
             for ids, m in zip(found["input_ids"].split(32), found["attention_mask"].split(32))]
    return Studies(table.reset_index(drop=True), {v: tokens_of(pictures[v], settings.patches, encoder) for v in VIEWS},
                   torch.cat(parts), found["attention_mask"])


# ---- the model ---------------------------------------------------------------------------------------------------

class Project(nn.Module):
    """Tokens (B, P, F) standardised by what the training studies showed, then a linear layer -> (B, P, D)."""

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
    """Self-attention and perceptron with Mish, layer norm before each, and afterwards the aggregation token joined to every patch again."""

    def __init__(self, width, heads, reconcat):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.Mish(), nn.Linear(2 * width, width))
        self.join = nn.Linear(2 * width, width) if reconcat else None

    def forward(self, x, ignore=None):
        """Tokens (B, 1 + P, D), the first the aggregation token -> tokens, attention of the aggregation token to the patches (B, P)."""
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
        self.blocks = nn.ModuleList(Block(width, heads, reconcat) for _ in range(depth)) if kind == "transformer" else None
        layers = (layer for _ in range(depth) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.Mish()))
        self.convs = nn.Sequential(*layers) if kind == "cnn" else None
        self.aggregation, self.norm = nn.Parameter(0.02 * torch.randn(1, 1, width)), nn.LayerNorm(width)
        self.gate, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, mask=None):
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
        return self.out(pooled) * torch.sigmoid(self.gate(pooled)), weights      # gated linear projection into the joint space


class RFPMSS(nn.Module):
    """forward(batch) -> dict: `inputs` and `joint` {modality: (B, D)}, `v` (B, D), `view_weights` (B, 3), `attention` {view: (B, P)}."""

    def __init__(self, settings, variant, features, vocabulary, places, labels=3):
        super().__init__()
        d, s = settings.width, settings
        self.variant, self.settings = variant, settings
        self.project = nn.ModuleDict({**{v: Project(features, d) for v in VIEWS}, "report": Project(384, d)})
        self.places = nn.Parameter(0.02 * torch.randn(1, places, d))
        self.encode = nn.ModuleDict({v: Encoder(d, s.heads, s.depth, variant.reconcat, variant.encoder) for v in VIEWS})
        self.encode["report"] = Encoder(d, s.heads, 1, reconcat=False)
        self.weigh = nn.Sequential(nn.Linear(3 * d, d), nn.Mish(), nn.Linear(d, 3))
        self.fuse = nn.Linear(3 * d, d)
        self.decoder = Decoder(vocabulary, d, s.heads, 2, s.length)
        self.classify = nn.Linear(d, labels)
        self.rebuild = nn.ModuleDict({m: nn.Linear(d, d) for m in MODALITIES})
        self.anchors = nn.ParameterDict({f"{m}_{k}": nn.Parameter(torch.randn(s.anchors, d))
                                         for m in MODALITIES for k in ("input", "joint")})

    def forward(self, tokens, words, mask):
        inputs, joint, attention = {}, {}, {}
        for view in VIEWS:
            x = self.project[view](tokens[view])
            inputs[view] = x.mean(1)
            joint[view], attention[view] = self.encode[view](x + self.places)
        x = self.project["report"](words)
        inputs["report"] = frozen.mean_pool(x, mask)
        joint["report"], _ = self.encode["report"](x, mask)
        stacked = torch.stack([joint[v] for v in VIEWS], 1)                                  # (B, 3, D)
        weights = self.weigh(stacked.flatten(1)).softmax(1) if self.variant.fusion else torch.full_like(stacked[:, :, 0], 1 / 3)
        v = self.fuse((weights[..., None] * stacked).flatten(1)) if self.variant.fusion else stacked.mean(1)
        return {"inputs": inputs, "joint": joint, "v": v, "view_weights": weights, "attention": attention}


# ---- the objective -----------------------------------------------------------------------------------------------

def similarity(a, anchors):
    """Cosine of samples (N, D) and anchors (K, D). The printed exp(a . b / tau (|a| + |b|)) is above 0 for every pair, which as a logit
    says that every anchor is taken; the cosine over tau is used instead."""
    return F.normalize(a, dim=1) @ F.normalize(anchors, dim=1).T


def weight(m, n):
    """Loss terms with the report count ten times the others, as printed."""
    return 1.0 if "report" in (m, n) else 0.1


class Consistency:
    """Eq. 5-6: anchor assignments before and after projection agree, within and across modalities. Keeps a bank of past samples."""

    def __init__(self, settings, variant):
        self.settings, self.variant, self.bank = settings, variant, {}

    def state_dict(self):
        return dict(self.bank)

    def load_state_dict(self, state):
        self.bank = dict(state)

    def assigned(self, scores, keys):
        """M(scores): targets for a list of (B, K) similarities, assigned together with what the bank keeps for each of `keys`."""
        past = [self.bank.get(k) for k in keys]
        whole = torch.stack([s.detach() if p is None else torch.cat([s.detach(), p.to(s)]) for s, p in zip(scores, past)])
        chosen, n = self.settings.chosen, len(scores[0])
        found = (multi_sk(whole, chosen, self.settings.damping) if self.variant.assign == "multi"
                 else chosen * sinkhorn(whole, iterations=200, tolerance=1e-4))
        for key, rows in zip(keys, whole):
            self.bank[key] = rows[:self.settings.bank]
        return found[:, :n].clamp(0, 1).to(whole)

    def __call__(self, model, out):
        z, zhat = ({m: model.anchors[f"{m}_{k}"] for m in MODALITIES} for k in ("input", "joint"))
        couples = [(m, n) for m in MODALITIES for n in MODALITIES if (m == n and self.variant.within in ("anchors", "self")) or
                   (m != n and self.variant.across)]
        before = {m: similarity(out["inputs"][m], z[m]) for m in MODALITIES}
        after = {f"{m} {n}": similarity(out["joint"][n], zhat[m]) for m, n in couples}
        keys = [*before, *after]
        targets = dict(zip(keys, self.assigned([*before.values(), *after.values()], keys)))
        bce = lambda scores, target: F.binary_cross_entropy_with_logits(scores / TAU, target)
        total = 0
        for m, n in couples:
            swap = self.variant.within == "self" and m == n              # each space agrees with itself only
            both = f"{m} {n}"
            total = total + weight(m, n) * (bce(before[m], targets[m if swap else both]) + bce(after[both], targets[both if swap else m]))
        return total / len(couples)


def objective(model, consistency, studies, numbers, labels, device, rows):
    """{term: scalar} of the studies `rows` (array of numbers)."""
    variant, out = model.variant, model(*batch(studies, rows, device))
    ids, numbers, terms = torch.as_tensor(rows, device=device), numbers[rows].to(device), {}
    t = out["joint"]["report"]
    meets = [out["v"]] if variant.fusion else [out["joint"][v] for v in VIEWS]               # without fusion every view on its own
    if variant.language:
        terms["language"] = sum(language_loss(model.decoder, numbers, v) for v in meets) / len(meets)
    if variant.study:
        terms["study"] = sum(info_nce(v, t, ids, ids, TAU, symmetric=True) for v in meets) / len(meets)
    if variant.pairs:
        terms["pairs"] = sum(weight(m, n) * info_nce(out["joint"][m], out["joint"][n], ids, ids, TAU, symmetric=True)
                             for m, n in PAIRS) / len(PAIRS)
    if variant.across or variant.within in ("anchors", "self"):
        terms["consistency"] = consistency(model, out)
    if variant.within == "reconstruction":
        terms["reconstruction"] = sum(F.mse_loss(model.rebuild[m](out["joint"][m]), out["inputs"][m].detach()) for m in MODALITIES)
    if variant.labels:
        terms["labels"] = F.cross_entropy(model.classify(out["v"]), labels[rows].to(device))
    return terms


def batch(studies, rows, device="cpu"):
    """Tokens {view: (B, P, F)}, words (B, T, 384), mask (B, T) of some studies."""
    rows = torch.as_tensor(rows)
    return {v: studies.tokens[v][rows].to(device) for v in VIEWS}, studies.words[rows].to(device), studies.mask[rows].to(device)


def train(studies, rows, settings, variant, seed, vocabulary, labels=("normal", "benign", "malignant"), device="cpu", resume=None):
    """(model, history) of a variant trained on the studies `rows`; resume as for `study.fit`."""
    seed_everything(seed, threads=torch.get_num_threads())
    first = studies.tokens[VIEWS[0]]
    model = RFPMSS(settings, variant, first.shape[2], len(vocabulary), first.shape[1], len(labels)).to(device)
    for view in VIEWS:
        model.project[view].fit(studies.tokens[view][rows].flatten(0, 1))
    model.project["report"].fit(studies.words[rows][studies.mask[rows] > 0])
    numbers = vocabulary.encode(studies.table.report, settings.length)
    truth = study.class_numbers(studies.table.label, labels)
    consistency = Consistency(settings, variant)
    terms = partial(objective, model, consistency, studies, numbers, truth, device)
    history = study.fit(model, lambda k: terms(np.asarray(rows)[k]), len(rows), settings.epochs, settings.batch, settings.lr, seed, 1e-4,
                        schedule=lambda epoch: settings.decay ** epoch, resume=resume, memory=consistency)
    return model, history
