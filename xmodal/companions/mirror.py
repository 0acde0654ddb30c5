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
    mask: float         # share of patches and genes that retention hides
    tau: float          # temperature of Eq. 8; the printed tau multiplies and is its inverse
    epochs: int
    batch: int
    lr: float
    align: float = 1.0      # weights of the terms of Eq. 19, which is printed as a plain sum
    retention: float = 1.0
    style: float = 1.0
    cluster: float = 1.0
    shots: int = 0          # patients of each class whose labels are known; 0: all of the training patients


SETTINGS = {
    "lesson": Settings(width=16, heads=2, landmarks=10, patches=9, gene_tokens=4, depth=1, latent=8,
                       centres=16, mask=0.75, tau=0.1, epochs=15, batch=64, lr=5e-3),
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


def hidden_places(batch, places, ratio, device):
    """Boolean (batch, places): which are hidden, in each row the share `ratio`, at least one, drawn anew."""
    rank = torch.rand(batch, places, device=device).argsort(1).argsort(1)
    return rank < max(round(ratio * places), 1)


class Retention(nn.Module):
    """Eq. 10 and 12: what was hidden from an encoder is rebuilt from its embedding alone, place by place."""

    def __init__(self, width, places, out):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, places, width) * 0.02)
        self.rebuild = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out))

    def forward(self, pooled):
        """Embedding (B, D) -> (B, places, out)."""
        return self.rebuild(pooled[:, None] + self.place)


class PrintedRetention(nn.Module):
    """Eq. 14 as printed: tokens that the encoder made from all it was given are hidden and rebuilt.

    The goal is these tokens themselves, so that an encoder whose output is constant has no loss.
    tokens: how many places the tokens have; 0 for patches, which have no fixed place.
    """

    def __init__(self, width, heads, tokens, ratio):
        super().__init__()
        self.ratio = ratio
        self.mask = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.place = nn.Parameter(torch.randn(1, tokens, width) * 0.02) if tokens else None
        self.block = _encoder_layer(width, heads)
        self.out = nn.Linear(width, width)

    def forward(self, pooled, tokens):
        """Mean squared error of the hidden tokens. pooled (B, D), tokens (B, N, D)."""
        hidden = hidden_places(*tokens.shape[:2], self.ratio, tokens.device)
        x = torch.where(hidden[..., None], self.mask, tokens)
        if self.place is not None:
            x = x + self.place
        x = self.out(self.block(torch.cat([pooled[:, None], x], 1))[:, 1:])
        return (x - tokens)[hidden].square().mean()


def _alignment_head(width):
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


class Mirror(nn.Module):
    """Both encoders and the three modules. loss(bags, expression) gives the weighted terms of Eq. 19 by name.

    terms: those of TERMS that are trained. printed: retention as in Eq. 14 (`PrintedRetention`); ours hides
    patches and genes *before* the encoders and rebuilds what came in.
    """

    def __init__(self, features, genes, settings, terms=TERMS, printed=False):
        super().__init__()
        width, heads = settings.width, settings.heads
        self.settings = settings
        self.terms = tuple(terms)
        self.printed = printed
        self.slide = TransMIL(features, width, heads, settings.landmarks)
        self.rna = RNAEncoder(genes, width, heads, settings.gene_tokens, settings.depth)
        self.align = nn.ModuleList([_alignment_head(width), _alignment_head(width)])
        if printed:
            places = (0, settings.gene_tokens)
            self.retain = nn.ModuleList(PrintedRetention(width, heads, n, settings.mask) for n in places)
        else:
            share = -(-genes // settings.gene_tokens)                # genes that are rebuilt at one place
            self.retain = nn.ModuleList([Retention(width, settings.patches, features),
                                         Retention(width, settings.gene_tokens, share)])
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
            terms["align"] = info_nce(z_slide, z_rna, ids, ids, self.settings.tau, symmetric=True)
        if "retention" in self.terms:           # Eq. 14
            if self.printed:
                of_slide, of_rna = self.retain[0](slide, patches), self.retain[1](rna, tokens)
            else:
                of_slide, of_rna = self.of_hidden_patches(bags), self.of_hidden_genes(expression)
            terms["retention"] = (of_slide + of_rna) / 2
        slide_style, slide_kl = draw_style(self.style[0](slide))
        rna_style, rna_kl = draw_style(self.style[1](rna))
        if "style" in self.terms:               # Eq. 15
            terms["style"] = slide_kl + rna_kl
        if "cluster" in self.terms:             # Eq. 16
            of_slide = assign(slide_style, self.centres)
            of_rna = assign(rna_style, self.centres)
            terms["cluster"] = symmetric_kl(of_slide, of_rna)
        return {term: getattr(self.settings, term) * value for term, value in terms.items()}

    def of_hidden_patches(self, bags):
        """Mean squared error of hidden patches; the encoder reads the others, in their order."""
        hidden = hidden_places(*bags.shape[:2], self.settings.mask, bags.device)
        visible = bags[~hidden].unflatten(0, (len(bags), -1))
        rebuilt = self.retain[0](self.slide(visible)[0])
        return (rebuilt - bags)[hidden].square().mean()

    def of_hidden_genes(self, expression):
        """Mean squared error of hidden genes.

        The encoder reads 0, their mean over patients, in their place, and the others scaled up as by dropout.
        """
        hidden = hidden_places(*expression.shape, self.settings.mask, expression.device)
        visible = expression.masked_fill(hidden, 0) / (~hidden).float().mean()
        pooled, _ = self.rna(visible)
        rebuilt = self.retain[1](pooled).flatten(1)[:, :expression.shape[1]]
        return (rebuilt - expression)[hidden].square().mean()


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


def pretrain(model, inputs, train, settings, seed, resume=None):
    """Trains `model` on the training patients without any label; returns its history.

    resume: path of a checkpoint from which a training that was cut goes on, as `study.fit` takes it.
    """
    def objective(rows):
        return model.loss(*inputs.batch(train[rows]))

    descent = Descent(settings.epochs, settings.batch, settings.lr)
    return fit(model, objective, len(train), descent, seed, resume)
