"""Prompt learning: soft context tokens before class names, trained through a frozen text encoder.

The prompts, losses and switches of K-MaT and its baselines CoOp, CoCoOp (Zhou et al. 2022), KgCoOp (Yao et
al. 2023) and BiomedCoOp (Koleilat et al. 2025). C classes, M context tokens of width W, D dimensions;
modality 0 is the high end, 1 the low end.
"""
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..config import Problem
from ..record import seed_everything
from . import study
from .transport import fgw

DESCRIPTIONS = Path(__file__).parent / "descriptions"
SHOWN = {   # what a modality shows, for its hand-written prompt; a skin lesion where nothing stands here
    "mammography": "breast", "ultrasound": "breast", "ct": "chest", "xray": "chest"}


@dataclass(frozen=True)
class Settings:
    """How prompts are trained."""
    shots: int             # training pictures of each class
    epochs: int
    batch: int
    lr: float              # of SGD, after one epoch of warm-up, falling with a cosine
    tokens: int = 4        # of the context
    alpha: float = 0.1     # share of structure in fused Gromov-Wasserstein
    epsilon: float = 0.1   # temperature of its Sinkhorn
    iterations: int = 100
    starts: int = 2        # of its solver


@dataclass(frozen=True)
class Method:
    """A row of switches. The numbers are weights of loss terms; 0 is off."""
    learned: bool = True
    csc: bool = False            # a context of its own for each class
    msc: bool = False            # a context of its own for each modality
    anchor: float = 0.0          # L_anc
    fgw: float = 0.0             # L_fgw
    conditional: bool = False    # CoCoOp: the context moves with the picture
    keep: float = 0.0            # KgCoOp: squared distance to the hand-written prompt
    mean: float = 0.0            # BiomedCoOp: squared distance to the mean description of the high end
    distil: float = 0.0          # BiomedCoOp: KL from what typical descriptions predict


def read_descriptions(modality, label):
    """The lines of descriptions/<modality>_<class>.txt. Raises `Problem` if the file is missing or empty."""
    path = DESCRIPTIONS / f"{modality}_{label.lower().replace(' ', '_').replace('-', '_')}.txt"
    if not path.exists():
        raise Problem(f"There are no descriptions of {label} in {modality}; write {path.name}, "
                      f"a sentence a line, into {DESCRIPTIONS.name}/.")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise Problem(f"The descriptions in {path} are empty; write a sentence a line.")
    return lines


# ---- prompts -----------------------------------------------------------------------------------------------

class Prompts(nn.Module):
    """The context tokens of a method, (1 or 2 modalities, 1 or C classes, M, W), before the class names."""

    def __init__(self, method, model, classes, tokens, seed):
        super().__init__()
        width = model.transformer.config.hidden_size
        contexts = 2 if method.msc else 1
        shape = (contexts, len(classes) if method.csc else 1, tokens, width)
        self.context = nn.Parameter(0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        narrow = model.dim // 16
        squeeze = nn.Sequential(nn.Linear(model.dim, narrow), nn.ReLU(), nn.Linear(narrow, width))
        self.meta = squeeze if method.conditional else None
        self.to(model.device)
        object.__setattr__(self, "model", model)              # frozen, and no part of what is learned
        self.classes = list(classes)
        self.method = method

    def forward(self):
        """Class embeddings (2, C, D); without MSC both modalities have the same."""
        c = len(self.classes)
        each = [self.model.prompts(context.expand(c, -1, -1), self.classes) for context in self.context]
        return torch.stack([each[0], each[-1]])

    def conditioned(self, features):
        """CoCoOp: class embeddings of each picture (N, C, D) from unit features (N, D)."""
        n, c = len(features), len(self.classes)
        context = self.context[0].expand(c, -1, -1)[None] + self.meta(features)[:, None, None]
        return self.model.prompts(context.flatten(0, 1), self.classes * n).unflatten(0, (n, c))

    def logits(self, features, modality):
        """(N, C) logits of unit features (N, D) of a modality."""
        if self.meta is not None:
            return self.model.scale * torch.einsum("nd,ncd->nc", features, self.conditioned(features))
        return self.model.scale * features @ self()[modality].T


class Texts:
    """What is fixed of the classes of a pair, read by the image-text model `model`.

    plain: hand-written prompts (2, C, D); descriptions: for each modality and class (N_p, D); anchors: their
    means (2, C, D).
    """

    def __init__(self, model, pair):
        self.model = model
        self.classes = pair.classes
        plain, descriptions, anchors = [], [], []
        for modality in (pair.high.name, pair.low.name):
            shown = SHOWN.get(modality, "skin lesion")
            plain.append(model.texts([f"{modality} of a {label} {shown}" for label in pair.classes]))
            read = [model.texts(read_descriptions(modality, label)) for label in pair.classes]
            descriptions.append(read)
            anchors.append(torch.stack([embedded.mean(0) for embedded in read]))
        self.plain = torch.stack(plain)
        self.descriptions = descriptions
        self.anchors = torch.stack(anchors)


# ---- the objective -----------------------------------------------------------------------------------------

def anchor_loss(w, anchors):
    """L_anc: mean over the class embeddings w (2, C, D) of the squared distance to their mean description."""
    return (w - anchors).square().sum(2).mean()


def typical(descriptions, images, keep=0.9):
    """BiomedCoOp's selective prompting: the share `keep` of the descriptions (N_p, D) that outlie least.

    A description outlies by how far its mean similarity to the images lies from the median of all
    descriptions.
    """
    score = (descriptions @ images.T).mean(1)
    order = (score - score.median()).abs().argsort()
    return descriptions[order[:max(1, int(keep * len(score)))]]


def objective(prompts, texts, features, labels, settings, rows):
    """{term: weighted scalar} of a batch of few-shot features of the high end."""
    method, model = prompts.method, prompts.model
    if method.conditional:
        return {"ce": F.cross_entropy(prompts.logits(features[rows], 0), labels[rows])}
    w = prompts()
    logits = model.scale * features[rows] @ w[0].T
    terms = {"ce": F.cross_entropy(logits, labels[rows])}
    if method.anchor:
        terms["anchor"] = method.anchor * anchor_loss(w, texts.anchors)
    if method.fgw:
        transported = fgw(w[0], w[1], settings.alpha, settings.epsilon, settings.iterations, settings.starts)
        terms["fgw"] = method.fgw * transported
    if method.keep:
        terms["keep"] = method.keep * (w[0] - texts.plain[0]).square().sum(1).mean()
    if method.mean:
        terms["mean"] = method.mean * (w[0] - texts.anchors[0]).square().sum(1).mean()
    if method.distil:
        with torch.no_grad():
            teacher = torch.stack([typical(d, features).mean(0) for d in texts.descriptions[0]])
            target = (model.scale * features[rows] @ teacher.T).softmax(1)
        terms["distil"] = method.distil * F.kl_div(logits.log_softmax(1), target, reduction="batchmean")
    return terms


def schedule(epochs, epoch):
    """Factor on the learning rate: a first epoch of warm-up at a hundredth, then a cosine to zero."""
    if epoch == 0:
        return 0.01
    return 0.5 * (1 + np.cos(np.pi * (epoch - 1) / max(epochs - 1, 1)))


def learn(method, texts, features, labels, settings, seed, resume=None):
    """(Prompts, history) of a method trained on few-shot features (N, D) and labels (N,) of the high end.

    resume: as for `study.fit`.
    """
    seed_everything(seed, threads=torch.get_num_threads())
    prompts = Prompts(method, texts.model, texts.classes, settings.tokens, seed)
    terms = partial(objective, prompts, texts, features, labels.to(features.device), settings)
    sgd = partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4)
    descent = study.Descent(settings.epochs, settings.batch, settings.lr, optimiser=sgd,
                            schedule=partial(schedule, settings.epochs))
    history = study.fit(prompts, terms, len(features), descent, seed, resume)
    return prompts, history
