"""MIRROR: slide and expression encoded so that what they share is aligned and what is their own retained.

Wang et al. 2025, section III. B patients, N patches, D_p patch features, G genes, K gene tokens, D width.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..losses import info_nce
from .mil import GatedAttention
from .nystrom import TransMIL
from .study import Descent, fit

TERMS = ("align", "retention", "style", "cluster")


@dataclass(frozen=True)
class Settings:
    """Everything that differs between the lesson and the paper."""
    width: int          # D, the shared latent space
    heads: int
    landmarks: int      # of the Nystrom attention
    patches: int        # drawn from a slide
    gene_tokens: int    # K: the compact expression is read as K tokens
    depth: int          # blocks of the RNA Transformer
    latent: int         # dimensions of the style space
    centres: int        # learnable cluster centres
    mask: float         # share of tokens that retention hides
    tau: float          # temperature of Eq. 8; the printed tau multiplies and is its inverse
    epochs: int
    batch: int
    lr: float


SETTINGS = {
    "lesson": Settings(width=32, heads=2, landmarks=8, patches=25, gene_tokens=8, depth=1, latent=8,
                       centres=32, mask=0.75, tau=0.1, epochs=25, batch=64, lr=3e-3),
    "paper": Settings(width=512, heads=8, landmarks=256, patches=2048, gene_tokens=64, depth=2, latent=128,
                      centres=3000, mask=0.75, tau=0.07, epochs=100, batch=16, lr=2e-5),
}


def _encoder_layer(width, heads):
    return nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, activation="gelu",
                                      batch_first=True, norm_first=True)


class RNAEncoder(nn.Module):
    """Expression (B, G) -> T (B, D) and tokens (B, K, D).

    A linear embedding is read as K tokens; together with a learnable gene token they pass a Transformer.
    """

    def __init__(self, genes, width, heads, tokens, depth):
        super().__init__()
        self.tokens = tokens
        self.embed = nn.Linear(genes, tokens * width)
        self.gene = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        layer = _encoder_layer(width, heads)
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, expression):
        x = self.embed(expression).unflatten(1, (self.tokens, -1))
        x = self.blocks(torch.cat([self.gene.expand(len(x), -1, -1), x], 1))
        return x[:, 0], x[:, 1:]


class Retention(nn.Module):
    """Eq. 10 and 12: hidden tokens are rebuilt from the pooled token and the visible ones.

    tokens: how many places the tokens have; 0 for patches, which have no fixed place.
    """

    def __init__(self, width, heads, out, tokens, ratio):
        super().__init__()
        self.ratio = ratio
        self.mask = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.place = nn.Parameter(torch.randn(1, tokens, width) * 0.02) if tokens else None
        self.block = _encoder_layer(width, heads)
        self.out = nn.Linear(width, out)

    def forward(self, pooled, tokens, target):
        """Mean squared error of the hidden tokens. pooled (B, D), tokens (B, N, D), target (B, N, out)."""
        rank = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1).argsort(1)
        hidden = rank < round(self.ratio * tokens.shape[1])
        x = torch.where(hidden[..., None], self.mask, tokens)
        if self.place is not None:
            x = x + self.place
        x = self.out(self.block(torch.cat([pooled[:, None], x], 1))[:, 1:])
        return (x - target)[hidden].square().mean()


def _alignment_head(width):
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


class Mirror(nn.Module):
    """Both encoders and the three modules. loss(bags, expression) gives the terms of Eq. 19 by name.

    terms: those of TERMS that are trained. printed: retention rebuilds the encoders' own outputs (Eq. 14 as
    printed, which constant outputs would satisfy) and not the patch features and genes that came in.
    """

    def __init__(self, features, genes, settings, terms=TERMS, printed=False):
        super().__init__()
        width, heads = settings.width, settings.heads
        self.tau = settings.tau
        self.terms = tuple(terms)
        self.printed = printed
        self.slide = TransMIL(features, width, heads, settings.landmarks)
        self.rna = RNAEncoder(genes, width, heads, settings.gene_tokens, settings.depth)
        self.align = nn.ModuleList([_alignment_head(width), _alignment_head(width)])
        self.share = -(-genes // settings.gene_tokens)               # genes that one token has to rebuild
        rebuilt = (width, width) if printed else (features, self.share)
        self.retain = nn.ModuleList([
            Retention(width, heads, rebuilt[0], 0, settings.mask),
            Retention(width, heads, rebuilt[1], settings.gene_tokens, settings.mask),
        ])
        self.style = nn.ModuleList(nn.Linear(width, 2 * settings.latent) for _ in range(2))
        self.centres = nn.Parameter(torch.randn(settings.centres, settings.latent))

    def forward(self, bags, expression):
        """(B, N, D_p) and (B, G) -> [CLS] and T, each (B, D): what the tasks read."""
        return self.slide(bags)[0], self.rna(expression)[0]

    def loss(self, bags, expression):
        """{term: scalar} of a batch."""
        slide, patches = self.slide(bags)
        rna, tokens = self.rna(expression)
        terms = {}
        if "align" in self.terms:               # Eq. 8, the second denominator over slides (correction)
            ids = torch.arange(len(bags), device=bags.device)
            z_slide, z_rna = self.align[0](slide), self.align[1](rna)
            terms["align"] = info_nce(z_slide, z_rna, ids, ids, self.tau, symmetric=True)
        if "retention" in self.terms:           # Eq. 14
            goals = (patches, tokens) if self.printed else (bags, self.by_token(expression))
            of_slide = self.retain[0](slide, patches, goals[0])
            of_rna = self.retain[1](rna, tokens, goals[1])
            terms["retention"] = (of_slide + of_rna) / 2
        slide_style, slide_kl = draw_style(self.style[0](slide))
        rna_style, rna_kl = draw_style(self.style[1](rna))
        if "style" in self.terms:               # Eq. 15
            terms["style"] = slide_kl + rna_kl
        if "cluster" in self.terms:             # Eq. 16
            of_slide = assign(slide_style, self.centres)
            of_rna = assign(rna_style, self.centres)
            terms["cluster"] = symmetric_kl(of_slide, of_rna)
        return terms

    def by_token(self, expression):
        """(B, G) -> (B, K, G / K): the genes dealt to the tokens in order, the last filled up with 0."""
        lack = self.share * self.rna.tokens - expression.shape[1]
        return F.pad(expression, (0, lack)).unflatten(1, (self.rna.tokens, self.share))


def draw_style(x):
    """(B, 2d) mean and log variance -> a draw (B, d) and its KL divergence to N(0, I).

    The divergence is averaged over dimensions and patients (Eq. 15).
    """
    mean, log_var = x.chunk(2, 1)
    kl = (mean.square() + log_var.exp() - 1 - log_var) / 2
    return mean + torch.randn_like(mean) * (log_var / 2).exp(), kl.mean()


def assign(z, centres, tau=0.1):
    """Log probabilities (B, C) of soft assignment to centres (C, d), both normalised."""
    return (F.normalize(z, dim=1) @ F.normalize(centres, dim=1).T / tau).log_softmax(1)


def symmetric_kl(a, b):
    """KL(a || b) + KL(b || a) of log probabilities (B, C), mean over B (Eq. 16)."""
    return ((a.exp() - b.exp()) * (a - b)).sum(1).mean()


class Tangle(nn.Module):
    """TANGLE (Jaume et al., CVPR 2024): ABMIL and a gene network, aligned by symmetric InfoNCE alone.

    As in the paper's comparison the tasks read both its embeddings.
    """

    def __init__(self, features, genes, settings):
        super().__init__()
        width = settings.width
        self.tau = settings.tau
        self.slide = GatedAttention(features, width)
        self.rna = nn.Sequential(nn.Linear(genes, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, bags, expression):
        return self.slide(bags), self.rna(expression)

    def loss(self, bags, expression):
        ids = torch.arange(len(bags), device=bags.device)
        return {"align": info_nce(*self(bags, expression), ids, ids, self.tau, symmetric=True)}


def pretrain(model, inputs, train, settings, seed):
    """Trains `model` on the training patients without any label; returns its history."""
    def objective(rows):
        rows = train[rows]
        return model.loss(inputs.bags[rows], inputs.expression[rows])

    descent = Descent(settings.epochs, settings.batch, settings.lr)
    return fit(model, objective, len(train), descent, seed)
