"""RFPMSS's losses and its training.

N studies, B of a batch, D width, K anchors of which a sample takes K'.
"""
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ..losses import info_nce
from ..record import seed_everything
from . import study
from .reporter import Vocabulary, language_loss
from .rfpmss import RFPMSS
from .rfpmss_data import MODALITIES, VIEWS, batch, exchange_sides, patches, vary
from .transport import multi_sk, sinkhorn

PAIRS = (("mammogram", "magnified"), ("magnified", "ultrasound"), ("magnified", "report"),
         ("ultrasound", "report"))   # Eq. 9
TAU = 0.1


# ---- the objective -----------------------------------------------------------------------------------------

def similarity(a, anchors):
    """Cosine (..., N, K) of samples (..., N, D) and anchors (..., K, D).

    The printed exp(a . b / tau (|a| + |b|)) is above 0 for every pair, which as a logit says that every
    anchor is taken; the cosine over tau is used instead.
    """
    return F.normalize(a, dim=-1) @ F.normalize(anchors, dim=-1).mT


def sharpened(scores):
    """Similarities (..., N, K) stretched so that each sample's least is 0 and its greatest 1.

    Cosines with anchors in many dimensions lie within a few tenths; at the sharpness of `multi_sk` as they
    are, each sample would get nearly the same K' / K of every anchor.
    """
    least = scores.amin(-1, keepdim=True)
    return (scores - least) / (scores.amax(-1, keepdim=True) - least).clamp_min(1e-6)


def weight(m, n):
    """Weight of a pair of modalities: with the report ten times the others, as printed."""
    return 1.0 if "report" in (m, n) else 0.1


def couples(variant):
    """[(m, n)] of the modalities whose assignments shall agree, m before and n after projection."""
    agree = []
    for m in MODALITIES:
        for n in MODALITIES:
            wanted = variant.within in ("anchors", "self") if m == n else variant.across
            if wanted:
                agree.append((m, n))
    return agree


class Consistency:
    """Eq. 5-6: anchor assignments before and after projection agree, within and across modalities.

    It remembers the features of past samples, which meet the anchors as they are now; similarities that were
    kept would be those to anchors that have moved since. C couples of modalities, M past samples.
    """

    def __init__(self, settings, variant):
        self.settings = settings
        self.variant = variant
        self.couples = couples(variant)
        self.memory = {}                        # "input", "joint": (4, M, D) features, newest first

    def state_dict(self):
        return dict(self.memory)

    def load_state_dict(self, state):
        self.memory = dict(state)

    def with_past(self, space, features):
        """Features (4, B, D) and, after them, those remembered: (4, B + M, D) without gradient."""
        past = self.memory.get(space, features[:, :0]).to(features)
        both = torch.cat([features.detach(), past], 1)
        self.memory[space] = both[:, :self.settings.bank]
        return both

    def assigned(self, scores):
        """Assignments (C, N, K) of C sets of similarities to the anchors, each set by itself."""
        scores = sharpened(scores.detach())
        chosen = self.settings.chosen
        if self.variant.assign == "modified":
            p = chosen * sinkhorn(scores, iterations=200, tolerance=1e-4)
        else:
            p = multi_sk(scores, chosen, self.settings.damping, tolerance=1e-4)
        if self.variant.assign == "shuffled":
            p = p.roll(1, 1)
        return p.clamp(0, 1).to(scores)

    def __call__(self, model, out):
        features, anchors = {}, {}
        for space, of_space in (("input", out["inputs"]), ("joint", out["joint"])):
            features[space] = torch.stack([of_space[m] for m in MODALITIES])
            anchors[space] = torch.stack([model.anchors[f"{m}_{space}"] for m in MODALITIES])
        before = [MODALITIES.index(m) for m, _ in self.couples]
        after = [MODALITIES.index(n) for _, n in self.couples]
        n = len(out["v"])

        def scores(of_input, of_joint):
            return (similarity(of_input, anchors["input"])[before],
                    similarity(of_joint[after], anchors["joint"][before]))

        with torch.no_grad():
            past = scores(self.with_past("input", features["input"]),
                          self.with_past("joint", features["joint"]))
            of_before, of_after = self.assigned(torch.cat(past))[:, :n].chunk(2)
        if self.variant.within == "self":                              # each space agrees with itself only
            alike = torch.tensor([m == n for m, n in self.couples], device=of_before.device)[:, None, None]
            of_before, of_after = (torch.where(alike, of_after, of_before),
                                   torch.where(alike, of_before, of_after))
        scores_before, scores_after = scores(features["input"], features["joint"])
        losses = _cross_entropy(scores_before, of_after) + _cross_entropy(scores_after, of_before)
        weights = [weight(m, n) for m, n in self.couples]
        return (losses * torch.tensor(weights, device=losses.device)).sum()


def _cross_entropy(scores, target):
    """(C,) mean of the binary cross-entropy with logits of (C, B, K) similarities."""
    return F.binary_cross_entropy_with_logits(scores / TAU, target, reduction="none").mean((1, 2))


def pair_loss(joint, ids):
    """Eq. 8-9: weighted sum over four pairs of modalities of the InfoNCE of their joint features."""
    return sum(weight(m, n) * info_nce(joint[m], joint[n], ids, ids, TAU, symmetric=True) for m, n in PAIRS)


def rebuilding(model, out):
    """Table 4 a: sum over modalities of the squared error of input features, rebuilt from joint ones."""
    errors = [F.mse_loss(model.rebuild[m](out["joint"][m]), out["inputs"][m].detach()) for m in MODALITIES]
    return sum(errors)


@dataclass
class Targets:
    """What N studies are trained to say."""
    numbers: torch.Tensor    # (N, T) reports as `Vocabulary.encode` gives them
    mirrored: torch.Tensor   # the same, left and right exchanged
    labels: torch.Tensor     # (N,) class numbers
    seed: int                # of the variations

    def reports(self, rows, variation=None):
        """(B, T) reports of the studies `rows`, of those that are mirrored with left and right exchanged."""
        if variation is None:
            return self.numbers[rows]
        return torch.where(variation.mirrored[:, None], self.mirrored[rows], self.numbers[rows])


def objective(model, consistency, studies, targets, device, rows):
    """{term: scalar} of the studies `rows` (array of numbers)."""
    variant = model.variant
    crop = model.settings.crop
    variation = vary(rows, targets.seed) if crop else None
    out = model(*batch(studies, rows, device, crop, variation))
    ids = torch.as_tensor(rows, device=device)
    joint = out["joint"]
    met = [out["v"]]                                               # what meets the report
    if not variant.fusion:
        met = [joint[view] for view in VIEWS]
    terms = {}
    if variant.language:
        some = slice(None, None, model.settings.write_every)
        report = targets.reports(rows, variation)[some].to(device)
        terms["language"] = sum(language_loss(model.decoder, report, v[some]) for v in met) / len(met)
    if variant.study:
        losses = [info_nce(v, joint["report"], ids, ids, TAU, symmetric=True) for v in met]
        terms["study"] = sum(losses) / len(met)
    if variant.pairs:
        terms["pairs"] = pair_loss(joint, ids)
    if variant.consistent:
        terms["consistency"] = consistency(model, out)
    if variant.within == "reconstruction":
        terms["reconstruction"] = rebuilding(model, out)
    if variant.labels:
        terms["labels"] = F.cross_entropy(model.classify(out["v"]), targets.labels[rows].to(device))
    return terms


# ---- training ----------------------------------------------------------------------------------------------

def vocabulary_of(studies, rows):
    """The `Vocabulary` of the reports of the training studies `rows`."""
    return Vocabulary(studies.table.report[rows])


def untrained(studies, settings, variant, vocabulary):
    """The model for these studies as it is before training."""
    first = patches(studies.tokens[VIEWS[0]][:1], settings.crop)
    return RFPMSS(settings, variant, first.shape[2], len(vocabulary), first.shape[1])


def fit_projections(model, studies, rows):
    """Standardises patches and words as those of (at most 256 of) the training studies `rows` are."""
    some = rows[:256]
    for view in VIEWS:
        model.project[view].fit(patches(studies.tokens[view][some], model.settings.crop).flatten(0, 1))
    model.project["report"].fit(studies.reports[some][studies.mask[some] > 0])


def train(studies, rows, settings, variant, seed, device="cpu", resume=None):
    """(model, history) of a variant trained on the studies `rows`; resume as for `study.fit`."""
    rows = np.asarray(rows)
    vocabulary = vocabulary_of(studies, rows)
    seed_everything(seed, threads=torch.get_num_threads())
    model = untrained(studies, settings, variant, vocabulary)
    fit_projections(model, studies, rows)
    model = model.to(device)
    reports = studies.table.report
    targets = Targets(vocabulary.encode(reports, settings.length),
                      vocabulary.encode(reports.map(exchange_sides), settings.length),
                      studies.numbers(), seed)
    consistency = Consistency(settings, variant)
    terms = partial(objective, model, consistency, studies, targets, device)

    def of_rows(positions):
        return terms(rows[positions])

    def schedule(epoch):
        return settings.decay ** epoch

    adam = partial(torch.optim.Adam, fused=True)                 # many small tensors in one step
    descent = study.Descent(settings.epochs, settings.batch, settings.lr, 1e-4, adam, schedule)
    history = study.fit(model, of_rows, len(rows), descent, seed, resume, memory=consistency)
    return model, history
