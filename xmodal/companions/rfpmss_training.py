"""RFPMSS's losses and its training.

N studies, B of a batch, D width, K anchors of which a sample takes K'.
"""
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ..losses import info_nce
from ..record import seed_everything
from . import study
from .reporter import Vocabulary, language_loss
from .rfpmss import RFPMSS
from .rfpmss_data import LABELS, MODALITIES, VIEWS, batch
from .transport import multi_sk, sinkhorn

PAIRS = (("mammogram", "magnified"), ("magnified", "ultrasound"), ("magnified", "report"),
         ("ultrasound", "report"))   # Eq. 9
TAU = 0.1


# ---- the objective -----------------------------------------------------------------------------------------

def similarity(a, anchors):
    """Cosine (N, K) of samples (N, D) and anchors (K, D).

    The printed exp(a . b / tau (|a| + |b|)) is above 0 for every pair, which as a logit says that every
    anchor is taken; the cosine over tau is used instead.
    """
    return F.normalize(a, dim=1) @ F.normalize(anchors, dim=1).T


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

    It keeps a bank of past samples.
    """

    def __init__(self, settings, variant):
        self.settings = settings
        self.variant = variant
        self.couples = couples(variant)
        self.bank = {}

    def state_dict(self):
        return dict(self.bank)

    def load_state_dict(self, state):
        self.bank = dict(state)

    def assigned(self, scores):
        """{key: (B, K) targets} of similarities {key: (B, K)}.

        Each is assigned together with what the bank holds of its key.
        """
        whole = []
        for key, score in scores.items():
            past = self.bank.get(key)
            score = score.detach()
            whole.append(score if past is None else torch.cat([score, past.to(score)]))
        whole = torch.stack(whole)
        chosen = self.settings.chosen
        if self.variant.assign == "multi":
            p = multi_sk(whole, chosen, self.settings.damping)
        else:
            p = chosen * sinkhorn(whole, iterations=200, tolerance=1e-4)
        for key, rows in zip(scores, whole):
            self.bank[key] = rows[:self.settings.bank]
        n = len(next(iter(scores.values())))
        return dict(zip(scores, p[:, :n].clamp(0, 1).to(whole)))

    def __call__(self, model, out):
        scores = {}
        for m in MODALITIES:
            scores[m] = similarity(out["inputs"][m], model.anchors[f"{m}_input"])
        for m, n in self.couples:
            scores[f"{m} {n}"] = similarity(out["joint"][n], model.anchors[f"{m}_joint"])
        targets = self.assigned(scores)
        total = 0
        for m, n in self.couples:
            before, after = m, f"{m} {n}"
            of_before, of_after = targets[after], targets[before]
            if self.variant.within == "self" and m == n:              # each space agrees with itself only
                of_before, of_after = targets[before], targets[after]
            loss = _cross_entropy(scores[before], of_before) + _cross_entropy(scores[after], of_after)
            total = total + weight(m, n) * loss
        return total / len(self.couples)


def _cross_entropy(scores, target):
    return F.binary_cross_entropy_with_logits(scores / TAU, target)


def pair_loss(joint, ids):
    """Eq. 8-9: mean over four pairs of modalities of the weighted InfoNCE of their joint features."""
    losses = [weight(m, n) * info_nce(joint[m], joint[n], ids, ids, TAU, symmetric=True) for m, n in PAIRS]
    return sum(losses) / len(PAIRS)


def objective(model, consistency, studies, numbers, labels, device, rows):
    """{term: scalar} of the studies `rows` (array of numbers).

    numbers: (N, T) reports as `Vocabulary.encode` gives them; labels: (N,).
    """
    variant = model.variant
    out = model(*batch(studies, rows, device))
    ids = torch.as_tensor(rows, device=device)
    joint = out["joint"]
    met = [out["v"]]                                               # what meets the report
    if not variant.fusion:
        met = [joint[view] for view in VIEWS]
    terms = {}
    if variant.language:
        report = numbers[rows].to(device)
        terms["language"] = sum(language_loss(model.decoder, report, v) for v in met) / len(met)
    if variant.study:
        losses = [info_nce(v, joint["report"], ids, ids, TAU, symmetric=True) for v in met]
        terms["study"] = sum(losses) / len(met)
    if variant.pairs:
        terms["pairs"] = pair_loss(joint, ids)
    if variant.consistent:
        terms["consistency"] = consistency(model, out)
    if variant.within == "reconstruction":
        rebuilt = [F.mse_loss(model.rebuild[m](joint[m]), out["inputs"][m].detach()) for m in MODALITIES]
        terms["reconstruction"] = sum(rebuilt)
    if variant.labels:
        terms["labels"] = F.cross_entropy(model.classify(out["v"]), labels[rows].to(device))
    return terms


# ---- training ----------------------------------------------------------------------------------------------

def vocabulary_of(studies, rows):
    """The `Vocabulary` of the reports of the training studies `rows`."""
    return Vocabulary(studies.table.report[rows])


def untrained(studies, settings, variant, vocabulary):
    """The model for these studies as it is before training."""
    first = studies.tokens[VIEWS[0]]
    return RFPMSS(settings, variant, first.shape[2], len(vocabulary), first.shape[1])


def train(studies, rows, settings, variant, seed, device="cpu", resume=None):
    """(model, history) of a variant trained on the studies `rows`; resume as for `study.fit`."""
    vocabulary = vocabulary_of(studies, rows)
    seed_everything(seed, threads=torch.get_num_threads())
    model = untrained(studies, settings, variant, vocabulary).to(device)
    for view in VIEWS:
        model.project[view].fit(studies.tokens[view][rows].flatten(0, 1))
    model.project["report"].fit(studies.reports[rows][studies.mask[rows] > 0])
    numbers = vocabulary.encode(studies.table.report, settings.length)
    labels = study.class_numbers(studies.table.label, LABELS)
    consistency = Consistency(settings, variant)
    terms = partial(objective, model, consistency, studies, numbers, labels, device)

    def of_rows(positions):
        return terms(np.asarray(rows)[positions])

    def schedule(epoch):
        return settings.decay ** epoch

    descent = study.Descent(settings.epochs, settings.batch, settings.lr, 1e-4, schedule=schedule)
    history = study.fit(model, of_rows, len(rows), descent, seed, resume, memory=consistency)
    return model, history
