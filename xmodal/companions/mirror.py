"""MIRROR: a slide and an expression profile encoded so that what they share is aligned and what is their own is retained.

Wang et al. 2025, section III. B patients, N patches, D_p patch features, G genes, K gene tokens, D width.
"""
import functools
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from ..losses import info_nce
from ..metrics.survival import ridge_cox, uno
from ..record import seed_everything
from ..stats import bootstrap, concordance
from .genes import CURATED
from .mil import ABMIL, PORPOISE, GatedAttention
from .nystrom import TransMIL
from .study import computed_once, fit
from .tasks import (
    cox_risk,
    encode,
    end_to_end,
    folds,
    parted,
    prepare,
    probe,
    recovered,
    scaled,
    score,
    shots,
)

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
    "lesson": Settings(width=32, heads=2, landmarks=8, patches=25, gene_tokens=8, depth=1, latent=8, centres=32, mask=0.75, tau=0.1,
                       epochs=25, batch=64, lr=3e-3),
    "paper": Settings(width=512, heads=8, landmarks=256, patches=2048, gene_tokens=64, depth=2, latent=128, centres=3000, mask=0.75,
                      tau=0.07, epochs=100, batch=16, lr=2e-5),
}


class RNAEncoder(nn.Module):
    """Expression (B, G) -> T (B, D) and tokens (B, K, D): a linear embedding read as K tokens, a learnable gene token, a Transformer."""

    def __init__(self, genes, width, heads, tokens, depth):
        super().__init__()
        self.tokens = tokens
        self.embed = nn.Linear(genes, tokens * width)
        self.gene = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, expression):
        x = self.embed(expression).unflatten(1, (self.tokens, -1))
        x = self.blocks(torch.cat([self.gene.expand(len(x), -1, -1), x], 1))
        return x[:, 0], x[:, 1:]


class Retention(nn.Module):
    """Eq. 10 and 12: tokens hidden behind a mask token are rebuilt from the pooled token and the visible ones."""

    def __init__(self, width, heads, out, tokens, ratio):
        super().__init__()
        self.ratio = ratio
        self.mask = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.place = nn.Parameter(torch.randn(1, tokens, width) * 0.02) if tokens else None     # patches have no fixed place
        self.block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.out = nn.Linear(width, out)

    def forward(self, pooled, tokens, target):
        """Mean squared error of the hidden tokens. pooled (B, D), tokens (B, N, D), target (B, N, out)."""
        rank = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1).argsort(1)
        hidden = rank < round(self.ratio * tokens.shape[1])
        x = torch.where(hidden[..., None], self.mask, tokens)
        x = x if self.place is None else x + self.place
        x = self.out(self.block(torch.cat([pooled[:, None], x], 1))[:, 1:])
        return (x - target)[hidden].square().mean()


class Mirror(nn.Module):
    """Both encoders and the three modules. loss(bags, expression) gives the terms of Eq. 19 by name."""

    def __init__(self, features, genes, settings, terms=TERMS, printed=False):
        super().__init__()
        k, self.tau, self.terms, self.printed = settings, settings.tau, tuple(terms), printed
        self.slide = TransMIL(features, k.width, k.heads, k.landmarks)
        self.rna = RNAEncoder(genes, k.width, k.heads, k.gene_tokens, k.depth)
        head = lambda: nn.Sequential(nn.Linear(k.width, k.width), nn.GELU(), nn.Linear(k.width, k.width))
        self.align = nn.ModuleList([head(), head()])
        self.share = -(-genes // k.gene_tokens)                      # genes that a token has to rebuild
        rebuilt = (k.width, k.width) if printed else (features, self.share)
        self.retain = nn.ModuleList(Retention(k.width, k.heads, out, places, k.mask) for out, places in zip(rebuilt, (0, k.gene_tokens)))
        self.style = nn.ModuleList(nn.Linear(k.width, 2 * k.latent) for _ in range(2))
        self.centres = nn.Parameter(torch.randn(k.centres, k.latent))

    def forward(self, bags, expression):
        """(B, N, D_p) and (B, G) -> [CLS] and T, each (B, D): what the tasks read."""
        return self.slide(bags)[0], self.rna(expression)[0]

    def loss(self, bags, expression):
        slide, patches = self.slide(bags)
        rna, tokens = self.rna(expression)
        terms = {}
        if "align" in self.terms:                                    # Eq. 8, the second denominator over slides (correction)
            ids = torch.arange(len(bags), device=bags.device)
            terms["align"] = info_nce(self.align[0](slide), self.align[1](rna), ids, ids, self.tau, symmetric=True)
        if "retention" in self.terms:                                # Eq. 14
            goals = (patches, tokens) if self.printed else (bags, self.by_token(expression))
            terms["retention"] = (self.retain[0](slide, patches, goals[0]) + self.retain[1](rna, tokens, goals[1])) / 2
        styles = [draw_style(layer(x)) for layer, x in zip(self.style, (slide, rna))]
        if "style" in self.terms:                                    # Eq. 15
            terms["style"] = styles[0][1] + styles[1][1]
        if "cluster" in self.terms:                                  # Eq. 16
            terms["cluster"] = symmetric_kl(*(assign(z, self.centres) for z, _ in styles))
        return terms

    def by_token(self, expression):
        """(B, G) -> (B, K, G / K): the genes in the order of the matrix, dealt to the tokens, the last one filled up with zeros."""
        return F.pad(expression, (0, self.share * self.rna.tokens - expression.shape[1])).unflatten(1, (self.rna.tokens, self.share))


def draw_style(x):
    """(B, 2d) mean and log variance -> a draw (B, d) and its KL divergence to N(0, I), averaged over dimensions and patients (Eq. 15)."""
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
    """TANGLE (Jaume et al., CVPR 2024): ABMIL and a gene network, aligned by symmetric InfoNCE and nothing else. As in the paper's
    comparison both its embeddings are read by the tasks."""

    def __init__(self, features, genes, settings):
        super().__init__()
        self.tau = settings.tau
        self.slide = GatedAttention(features, settings.width)
        self.rna = nn.Sequential(nn.Linear(genes, settings.width), nn.GELU(), nn.Linear(settings.width, settings.width))

    def forward(self, bags, expression):
        return self.slide(bags), self.rna(expression)

    def loss(self, bags, expression):
        ids = torch.arange(len(bags), device=bags.device)
        return {"align": info_nce(*self(bags, expression), ids, ids, self.tau, symmetric=True)}


def pretrain(model, inputs, train, settings, seed):
    """Trains `model` on the training patients without any label; returns its history."""
    loss = lambda rows: model.loss(inputs.bags[train[rows]], inputs.expression[train[rows]])
    return fit(model, loss, len(train), settings.epochs, settings.batch, settings.lr, seed)


# ---- the RNA arm alone -------------------------------------------------------------------------------------------

class RNARisk(RNAEncoder):
    """Expression (B, G) -> risk (B, 1): a linear layer on the gene token."""

    def __init__(self, genes, width, heads, tokens, depth):
        super().__init__(genes, width, heads, tokens, depth)
        self.risk = nn.Linear(width, 1)

    def forward(self, expression):
        return self.risk(super().forward(expression)[0])


def rna_arm(expression, time, event, settings, seed=42, device="cpu"):
    """Survival from expression alone, five folds of patients: a row a patient with `fold`, and the risk by the RNA encoder under the Cox
    loss (`encoder`) and by a ridge Cox model (`cox`), both standardised by their training patients.

    expression (N, G) DataFrame or array, time (N,), event (N,).
    """
    x, time, event = np.asarray(expression, np.float32), np.asarray(time, float), np.asarray(event, int)
    found = pd.DataFrame({"time": time, "event": event, "fold": -1, "encoder": np.nan, "cox": np.nan})
    for k, (train, test) in enumerate(parted(event, seed)):
        z = scaled(x, train)
        net = lambda: RNARisk(z.shape[1], settings.width, settings.heads, settings.gene_tokens, settings.depth)
        risks = {"encoder": cox_risk(net, z, time, event, train, settings, seed, device),
                 "cox": z @ ridge_cox(z[train], time[train], event[train], alpha=z.shape[1])}       # the penalty grows with the genes
        for name, risk in risks.items():
            found.loc[test, name] = (risk[test] - risk[train].mean()) / risk[train].std()
        found.loc[test, "fold"] = k
    return found


def c_index(arm, which, n=1000, tau=None):
    """`stats.Interval` of the concordance of `rna_arm`'s column `which`: of pairs within a fold, patients resampled. Harrell's, or with
    `tau`, in the unit of time, Uno's up to then, its censoring estimated on all patients."""
    known = arm.time.to_numpy(float), arm.event.to_numpy(int)
    c = concordance if tau is None else lambda time, event, risk: uno(time, event, risk, tau, known)
    pairs = lambda y, p: np.nanmean([c(y[f, 0], y[f, 1], p[f]) for f in (y[:, 2] == k for k in np.unique(arm.fold))])
    return bootstrap(pairs, arm[["time", "event", "fold"]].to_numpy(float), arm[which].to_numpy(), n=n)


# ---- the study ---------------------------------------------------------------------------------------------------

ABLATIONS = {   # what is trained -> its terms; the first four are the rows of Table III
    "alignment": ("align",), "alignment, retention": ("align", "retention"), "alignment, clustering": ("align", "style", "cluster"),
    "MIRROR": TERMS,
    "retention": ("retention",), "no alignment": TERMS[1:], "no style": ("align", "retention", "cluster"),
    "no cluster": ("align", "retention", "style"), "retention as printed": TERMS,
}
BASELINES = ("ABMIL", "PORPOISE", "linear", "TANGLE")
FEW = 10               # patients a class, or a time bin, of the few-shot setting


def embeddings(name, inputs, train, settings, seed):
    """(embeddings z (B, d) by name, model or None) of a method that is trained without labels. "linear" is the data themselves."""
    if name == "linear":
        return {"slide": inputs.bags.mean(1).cpu().numpy(), "rna": inputs.expression.cpu().numpy()}, None
    shape = inputs.bags.shape[2], inputs.expression.shape[1], settings
    model = (Tangle(*shape) if name == "TANGLE" else Mirror(*shape, ABLATIONS[name], name == "retention as printed")).to(inputs.bags.device)
    pretrain(model, inputs, train, settings, seed)
    return dict(zip(("slide", "rna"), encode(model, inputs))), model


def tasks(name, z, inputs, cohort, train, test, settings, seed):
    """A row a task, setting ("all" or "10-shot") and measure, on the test patients: columns task, setting, measure, value."""
    rows = []
    for task in ("subtype", "survival"):
        for setting, known in (("all", train), ("10-shot", shots(cohort, train, task, FEW, seed))):
            net = {"ABMIL": ABMIL, "PORPOISE": PORPOISE}.get(name)
            scores = (end_to_end(net, inputs, cohort, known, task, settings, seed) if net else
                      probe(np.concatenate(list(z.values()), 1), cohort, known, task))
            rows += [(task, setting, k, v) for k, v in score(cohort, test, task, scores).items()]
    return pd.DataFrame(rows, columns=["task", "setting", "measure", "value"])


def one(name, inputs, cohort, train, test, settings, seed):
    """(tables, state) of one method on one fold, as `study.computed_once` takes them."""
    seed_everything(seed)
    z, model = ({}, None) if name in ("ABMIL", "PORPOISE") else embeddings(name, inputs, train, settings, seed)
    tables = {"tasks": tasks(name, z, inputs, cohort, train, test, settings, seed)}
    if z and cohort.factors:
        found = [(side, *pair) for side in z for pair in recovered(z[side], cohort.factors, train, test).items()]
        tables["factors"] = pd.DataFrame(found, columns=["side", "factor", "r2"])
    if name in ("MIRROR", "TANGLE"):
        tables["rna"] = pd.DataFrame(z["rna"][test]).assign(patient=cohort.patient[test], subtype=cohort.subtype[test])
    if name == "MIRROR":
        with torch.no_grad():
            seen = torch.cat([model.slide.attention_map(bags) for bags in inputs.bags[test].split(64)]).cpu().numpy()
        tables["attention"] = pd.DataFrame(seen).assign(patient=cohort.patient[test])
        tables["genes"] = pd.DataFrame({"gene": inputs.genes})
    return tables, model.state_dict() if model else {}


def study(cohort, names, settings, seed, folder, which=range(5), device="cpu", curated=CURATED):
    """The tables {name: DataFrame} of `names` (ABLATIONS or BASELINES) on the folds `which`, with columns method and fold; each is kept in
    folder/<method>/fold_<k> and not trained twice. curated: genes that are read whatever elimination says."""
    found, digest = {}, cohort.digest()
    for k, (train, test) in enumerate(folds(cohort, seed)):
        inputs = functools.cache(lambda: prepare(cohort, train, settings, seed, device, curated))    # if something is still to be trained
        for name in names if k in which else ():
            config = {"method": name, "fold": k, "seed": seed, "cohort": digest, "curated": curated, "settings": asdict(settings)}
            tables = computed_once(folder / name.replace(", ", "_").replace(" ", "_") / f"fold_{k}", config,
                          lambda: one(name, inputs(), cohort, train, test, settings, seed))
            for table, rows in tables.items():
                found.setdefault(table, []).append(rows.assign(method=name, fold=k))
    return {table: pd.concat(rows, ignore_index=True) for table, rows in found.items()}
