"""Prompt learning: soft context tokens before class names, trained through a frozen text encoder.

The prompts, losses and switches of K-MaT and its baselines CoOp, CoCoOp (Zhou et al. 2022), KgCoOp (Yao et
al. 2023) and BiomedCoOp (Koleilat et al. 2025). C classes, M context tokens of width W, D dimensions;
modality 0 is the high end, 1 the low end.
"""
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..config import Problem
from ..record import seed_everything
from . import study
from .transport import fgw

DESCRIPTIONS = Path(__file__).parent / "descriptions"
PLAIN = {   # the hand-written prompt of a modality, before the name of a class
    "mammography": "a mammogram of the breast", "ultrasound": "an ultrasound image of the breast",
    "ct": "a CT slice of the chest", "xray": "a chest X-ray",
    "dermoscopy": "a dermoscopic image of a skin lesion", "clinical": "a photograph of a skin lesion"}
TAU = 1.5   # BiomedCoOp: how many deviations a description may lie from the others
ORDER = 0   # seed of the order of rows in an epoch; which pictures they are is drawn for each training


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
    starts: int = 7        # of its solver: of three classes all, see `transport.fgw_plan`


@dataclass(frozen=True)
class Method:
    """A row of switches. The numbers are weights of loss terms; 0 is off."""
    learned: bool = True
    csc: bool = False            # a context of its own for each class
    msc: bool = False            # a context of its own for each modality
    anchor: float = 0.0          # L_anc
    fgw: float = 0.0             # L_fgw
    solved: bool = True          # its plan; else each class is coupled with itself
    conditional: bool = False    # CoCoOp: the context moves with the picture
    keep: float = 0.0            # KgCoOp: squared distance to the hand-written prompt
    mean: float = 0.0            # BiomedCoOp: squared distance to the mean description of the high end
    distil: float = 0.0          # BiomedCoOp: KL from what typical descriptions say


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


def plain_prompt(modality, label):
    """The hand-written prompt of a class, by which zero-shot reads a picture."""
    return f"{PLAIN.get(modality, modality)}: {label}"


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
        return read_together([self])[0]

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


def read_together(members):
    """The class embeddings (2, C, D) of each of several `Prompts`, as a list. The text encoder reads them in
    one pass: for many short prompts that takes a third of the time of one after another."""
    model, classes = members[0].model, members[0].classes
    contexts = [p.context.expand(-1, len(classes), -1, -1) for p in members]
    w = model.prompts(torch.cat(contexts).flatten(0, 1), classes * sum(map(len, contexts)))
    parts = w.unflatten(0, (-1, len(classes))).split(list(map(len, contexts)))
    return [own.expand(2, -1, -1) for own in parts]


class Texts:
    """What is fixed of the classes of a pair, read by the image-text model `model`.

    plain: hand-written prompts (2, C, D); descriptions: for each modality (C, N_p, D), as many as every class
    has; anchors: the means of all (2, C, D).
    """

    def __init__(self, model, pair):
        self.model = model
        self.classes = pair.classes
        self.sentences = []
        plain, descriptions, anchors = [], [], []
        for modality in (pair.high.name, pair.low.name):
            by_hand = [plain_prompt(modality, label) for label in pair.classes]
            described = [read_descriptions(modality, label) for label in pair.classes]
            self.sentences += sum(described, by_hand)
            plain.append(model.texts(by_hand))
            read = [model.texts(sentences) for sentences in described]
            fewest = min(map(len, read))
            descriptions.append(torch.stack([embedded[:fewest] for embedded in read]))
            anchors.append(torch.stack([embedded.mean(0) for embedded in read]))
        self.plain = torch.stack(plain)
        self.descriptions = descriptions
        self.anchors = torch.stack(anchors)

    def digest(self):
        """A sha256 of the prompts and descriptions, so that a result can name its texts."""
        return hashlib.sha256("\n".join(self.sentences).encode()).hexdigest()


# ---- the objective -----------------------------------------------------------------------------------------

def anchor_loss(w, anchors):
    """L_anc: mean over the class embeddings w (2, C, D) of the squared distance to their mean description."""
    return (w - anchors).square().sum(2).mean()


def typical(descriptions, images, scale, tau=TAU):
    """BiomedCoOp's selective prompting: bool (N_p,), the descriptions (C, N_p, D) that are no outliers.

    The j-th description of all classes scores by the mean over the unit images (B, D) of the largest logit
    that it gives. Scores less their median, over their median absolute deviation, are standardised, and an
    outlier lies more than `tau` from 0. So does the authors' code; as its last step standardises, the first
    two change nothing. If no score differs from another, all are kept.
    """
    scores = scale * torch.einsum("bd,cjd->bcj", images, descriptions).amax(1).mean(0)
    centred = scores - scores.median()
    z = centred / centred.abs().median().clamp_min(1e-8)
    spread = z.std()
    if not spread > 0:
        return torch.ones_like(z, dtype=torch.bool)
    return (z - z.mean()).abs() / spread <= tau


def distillation(texts, features, logits):
    """BiomedCoOp: KL of the logits (B, C) from what the mean of typical descriptions says of the features."""
    with torch.no_grad():
        descriptions = texts.descriptions[0]
        keep = typical(descriptions, features, texts.model.scale)
        teacher = F.normalize(descriptions[:, keep].mean(1), dim=1)
        target = (texts.model.scale * features @ teacher.T).log_softmax(1)
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)


def transported(w, method, settings):
    """L_fgw of class embeddings w (2, C, D)."""
    plan = None if method.solved else torch.eye(w.shape[1]).to(w) / w.shape[1]
    return fgw(w[0], w[1], settings.alpha, settings.epsilon, settings.iterations, settings.starts, plan)


def terms_of(prompts, w, texts, features, labels, settings):
    """{term: weighted scalar} of class embeddings w (2, C, D) on a batch of few-shot features of the high
    end; w is None where they depend on the picture."""
    method, model = prompts.method, prompts.model
    if method.conditional:
        return {"ce": F.cross_entropy(prompts.logits(features, 0), labels)}
    logits = model.scale * features @ w[0].T
    terms = {"ce": F.cross_entropy(logits, labels)}
    if method.anchor:
        terms["anchor"] = method.anchor * anchor_loss(w, texts.anchors)
    if method.fgw:
        terms["fgw"] = method.fgw * transported(w, method, settings)
    if method.keep:
        terms["keep"] = method.keep * (w[0] - texts.plain[0]).square().sum(1).mean()
    if method.mean:
        mean = F.normalize(texts.anchors[0], dim=1)
        terms["mean"] = method.mean * (w[0] - mean).square().sum(1).mean()
    if method.distil:
        terms["distil"] = method.distil * distillation(texts, features, logits)
    return terms


class Training(NamedTuple):
    """What prompts are learned from."""
    method: Method
    features: torch.Tensor   # (N, D) of few pictures of the high end, in the order in which they are shown
    labels: torch.Tensor     # (N,)
    seed: int                # of the prompts


def objective(members, trainings, texts, settings, rows):
    """{"<number of the training> <term>": weighted scalar} of a batch; no term reaches two of the `Prompts`
    in `members`, so that each goes its own way. Where a training has fewer pictures than others its batches
    are smaller."""
    read = [None] * len(members)
    if not members[0].method.conditional:
        read = read_together(members)
    terms = {}
    for k, (prompts, w, training) in enumerate(zip(members, read, trainings)):
        own = rows[rows < len(training.labels)]
        if not len(own):
            continue
        labels = training.labels[own].to(training.features.device)
        of_one = terms_of(prompts, w, texts, training.features[own], labels, settings)
        terms |= {f"{k} {name}": value for name, value in of_one.items()}
    return terms


def schedule(epochs, epoch):
    """Factor on the learning rate: a first epoch of warm-up at a hundredth, then a cosine to zero."""
    if epoch == 0:
        return 0.01
    return 0.5 * (1 + np.cos(np.pi * (epoch - 1) / max(epochs - 1, 1)))


def learn(trainings, texts, settings, resume=None):
    """([Prompts], [history]) of several `Training`s of one kind of method, which run side by side.

    resume: as for `study.fit`.
    """
    members = []
    for training in trainings:
        seed_everything(training.seed, threads=torch.get_num_threads())
        members.append(Prompts(training.method, texts.model, texts.classes, settings.tokens, training.seed))
    terms = partial(objective, members, trainings, texts, settings)
    sgd = partial(torch.optim.SGD, momentum=0.9)
    descent = study.Descent(settings.epochs, settings.batch, settings.lr, 5e-4, sgd,
                            partial(schedule, settings.epochs))
    most = max(len(training.labels) for training in trainings)
    history = study.fit(members, terms, most, descent, ORDER, resume)
    return members, [_own_history(history, k) for k in range(len(trainings))]


def _own_history(history, k):
    """The terms of training number k."""
    own = history.filter(regex=rf"^{k} ")
    return history[["epoch"]].join(own.rename(columns=lambda name: name.partition(" ")[2]))
