"""The whole objective of a method: Eq. 10 over the tasks, and the terms that the method switches on."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES
from .losses import (
    Reverse,
    Uncertainty,
    coral,
    group_dro,
    info_nce,
    irm_penalty,
    localisation,
    ordinal,
    set_cross_entropy,
)
from .methods import Method

MEMORY = 128        # bags of each modality that alignment remembers
EMPTY = -10 ** 9    # patient number of a place in the memory that holds none


class Rows(NamedTuple):
    """A batch as one table: the mammograms and then the tiles, one row per image."""
    logits: torch.Tensor     # (B, 4)
    z: torch.Tensor          # (B, D)
    score: torch.Tensor      # (B,)
    allowed: torch.Tensor    # (B, 4) bool
    domain: torch.Tensor     # (B,) numbers of domains
    grade: torch.Tensor      # (B,), -1 where it is unknown


def one_table(out, y):
    """`Rows` of a batch, from what the model says (`out`) and the targets (`y`) of each modality."""
    streams = [m for m in MODALITIES if m in out]
    columns = []
    for name in ("logits", "z", "score"):
        columns.append(torch.cat([getattr(out[m], name) for m in streams]))
    for name in ("allowed", "domain", "grade"):
        columns.append(torch.cat([y[m][name] for m in streams]))
    return Rows(*columns)


class Memory(nn.Module):
    """The features of the last `size` bags of a modality, which give Eq. 2 more negatives than a batch has.

    Source: He et al. 2020, MoCo, section 3.1, without its second encoder: a bag is a few steps old at most.
    """

    def __init__(self, size, width):
        super().__init__()
        self.register_buffer("z", torch.zeros(size, width))
        self.register_buffer("ids", torch.full((size,), EMPTY))

    def beside(self, z, ids):
        """The features z (K, D) and patients (K,) of a batch and, after them, those of other patients."""
        others = (self.ids != EMPTY) & ~torch.isin(self.ids, ids)
        return torch.cat([z, self.z[others]]), torch.cat([ids, self.ids[others]])

    def add(self, z, ids):
        """Remembers a batch; a label that leaves the class open (a negative number) is nobody's negative."""
        known = ids >= 0
        self.z = torch.cat([z.detach()[known].to(self.z), self.z])[:len(self.z)]
        self.ids = torch.cat([ids[known], self.ids])[:len(self.ids)]


class Objective(nn.Module):
    """The whole objective of a method: Eq. 10 over the tasks, and the terms that the method switches on.

        L = L_tasks + align * L_align + ramp * (irm * L_IRM + coral * L_CORAL + dann * L_DANN)

    domains: their number. switches: a row of `methods.METHODS`; a weight of 0 switches a term off. `.ramp`
    anneals the terms of domain generalisation from 0 to 1; `.parts` has all terms of the last batch.
    """

    def __init__(self, width, domains, switches=Method(), tau=0.07, lambda_ce=0.5):
        super().__init__()
        self.weights = {name: getattr(switches, name) for name in ("align", "irm", "coral", "dann")}
        self.dro = switches.dro
        self.lesion = switches.lesion
        self.tau, self.lambda_ce = tau, lambda_ce
        self.ramp = 1.0
        self.parts = {}
        self.uncertainty = Uncertainty(("cls", "loc", "grade")).requires_grad_(switches.task_weights)
        self.memory = nn.ModuleDict()
        if switches.align:
            self.memory.update({m: Memory(MEMORY, width) for m in MODALITIES})
        self.which_domain = None
        if switches.dann:
            self.which_domain = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, domains))
        self.register_buffer("group_weights", torch.full((domains,), 1 / domains) if switches.dro else None)

    def forward(self, out, y):
        """out: what the model returns; y: the targets of `loaders.PairedBatches`. Returns a scalar."""
        rows = one_table(out, y)
        present = rows.domain.unique()
        members = [rows.domain == d for d in present]
        tasks = self.tasks(rows, present, members, out, y)
        terms = self.terms(rows, members, out, y)
        self.parts = {name: value.detach() for name, value in {**tasks, **terms}.items()}
        task_loss = self.uncertainty(tasks)
        term_loss = 0
        for name, term in terms.items():
            ramp = 1.0 if name == "align" else self.ramp
            term_loss = term_loss + self.weights[name] * ramp * term
        return task_loss + term_loss

    def tasks(self, rows, present, members, out, y):
        """name -> loss of each task with a label in the batch. members: the rows of each domain present."""
        tasks = {"cls": self.classification(rows, present, members, out, y)}
        graded = rows.grade >= 0
        if graded.any():
            tasks["grade"] = ordinal(rows.score[graded], out["cutpoints"], rows.grade[graded])
        if MAMMOGRAPHY in out and y[MAMMOGRAPHY]["localised"].any():
            tasks["loc"] = self.localisation(out[MAMMOGRAPHY].mask, y[MAMMOGRAPHY])
        return tasks

    def terms(self, rows, members, out, y):
        """name -> loss of each term that is switched on."""
        terms = {}
        if self.weights["align"]:
            terms["align"] = self.alignment(out, y)
        if self.weights["irm"]:
            terms["irm"] = sum(irm_penalty(rows.logits[d], rows.allowed[d]) for d in members)
        if self.weights["coral"]:
            terms["coral"] = coral([rows.z[d] for d in members])
        if self.weights["dann"]:
            terms["dann"] = F.cross_entropy(self.which_domain(Reverse.apply(rows.z)), rows.domain)
        return terms

    def classification(self, rows, present, members, out, y):
        """Eq. 6 as the mean (or GroupDRO's mixture) over domains, averaged with that of the pairs, if any."""
        losses = torch.stack([set_cross_entropy(rows.logits[d], rows.allowed[d]) for d in members])
        loss = group_dro(losses, self.group_weights, present, self.dro) if self.dro else losses.mean()
        if "both" in out:
            loss = (loss + set_cross_entropy(out["both"].logits, y["both"])) / 2
        return loss

    def localisation(self, logits, y):
        """Eq. 7 on the mammograms whose lesions are outlined, or that are known to have none."""
        known = y["localised"]
        return localisation(logits[known], y["mask"][known], self.lambda_ce)

    def alignment(self, out, y):
        """Eq. 2 on the bags of the patients, and on their lesions alone where they are outlined.

        The negatives are the other patients of the batch and those that `Memory` holds.
        """
        if not all(m in out for m in MODALITIES):
            return out["cutpoints"].sum() * 0
        z = out["bags"]
        ids = {m: y[m]["bag_id"] for m in MODALITIES}
        candidates = {m: self.memory[m].beside(z[m], ids[m]) for m in MODALITIES}
        losses = []
        for anchor, other in (MODALITIES, MODALITIES[::-1]):
            z_other, ids_other = candidates[other]
            losses.append(info_nce(z[anchor], z_other, ids[anchor], ids_other, self.tau))
        loss = sum(losses) / 2
        if self.lesion and len(out["lesion"]):
            outlined = y[MAMMOGRAPHY]["mask"].flatten(1).any(1)
            z_p, ids_p = candidates[HISTOPATHOLOGY]
            loss = (loss + info_nce(out["lesion"], z_p, y[MAMMOGRAPHY]["id"][outlined], ids_p, self.tau)) / 2
        for m in MODALITIES:
            self.memory[m].add(z[m], ids[m])
        return loss

    def table(self):
        """Rows of Table 1: component, objective, equation, supervision, weight."""
        return [
            ("Classification", "set cross-entropy", "Eq. 6",
             "image or slide label, as the set of classes it allows", "1 / (2 sigma_cls^2)"),
            ("Localisation", "soft Dice + %g binary cross-entropy" % self.lambda_ce, "Eq. 7",
             "lesion outlines, where there are any", "1 / (2 sigma_loc^2)"),
            ("Grading", "ordinal, cumulative link", "Eq. 8-9",
             "ordered diagnosis, where the label fixes one", "1 / (2 sigma_grade^2)"),
            ("Cross-modal alignment", "InfoNCE, tau %g" % self.tau, "Eq. 2",
             "same patient (or same label): bags of images, and lesions", self.weights["align"]),
            ("Domain generalisation", "IRM penalty + MixStyle", "Eq. 3-4",
             "which site an image comes from", self.weights["irm"]),
            ("Test-time adaptation", "entropy + anchor to the source", "Eq. 5",
             "none: unlabelled target images", "at test time"),
        ]
