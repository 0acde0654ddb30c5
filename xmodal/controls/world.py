"""The world of the controls: tokens, not pictures, in which every mechanism has something known to do.

What is synthetic: the tokens, drawn from a patient's class, severity and factors. What is real: everything
behind them, which is the package's own model (without its patch embedding), objective and adaptation. The
dials are those of the phantom, acting on tokens: a style is a gain and a shift of every channel, which all
tokens of a site share; a mark is a direction that is added to all tokens of an image.
"""
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..config import CLASSES, HISTOPATHOLOGY, MODALITIES, PROFILES

SIDE = 4                # patches along an image
WIDTH = 32
FACTORS = 6
SMALL = replace(PROFILES["lesson"], image_size=4 * SIDE, patch=4, stem=False, width=WIDTH, depth=2, frozen=1,
                heads=2, adapter=4)


@dataclass(frozen=True)
class Dials:
    """How hard the world is; as `data_scripts.phantom.dials`."""
    link: float = 0.95          # correlation of what a modality shows of a factor with the factor
    style: float = 0.5          # distance of the sites
    # by how much more malignant patients than others have the mark, by site: where half have it, its
    # correlation with malignancy
    shortcut: tuple = (0.0, 0.0, 0.0)
    marked: tuple = (0.5, 0.5, 0.5)          # share of patients with the mark, by site
    prevalence: float = 0.5     # share of malignant patients
    outline_error: float = 0.0  # standard deviation by which outlines are displaced, patches
    label_noise: float = 0.0    # share of labels of a neighbouring class
    apart: float = 1.0          # 0: both modalities show everything alike, 1: in ways of their own


class People(NamedTuple):
    """n patients."""
    truth: torch.Tensor      # (n,) classes
    label: torch.Tensor      # (n,) classes as labelled
    severity: torch.Tensor   # (n,) near the class, overlapping
    factors: torch.Tensor    # (n, FACTORS)
    ids: torch.Tensor        # (n,) numbers


class Images(NamedTuple):
    """One image of each of n patients."""
    tokens: torch.Tensor     # (n, 1 + SIDE^2, WIDTH), the first of the class token
    lesion: torch.Tensor     # (n, SIDE, SIDE) bool: where the lesion is
    outline: torch.Tensor    # (n, SIDE, SIDE) bool: where it is said to be
    site: int


class World:
    """How patients look at three sites in two modalities, drawn once from a seed."""

    def __init__(self, seed):
        self.random = torch.Generator().manual_seed(seed)
        common = self.normal(FACTORS + 2, WIDTH)
        self.own = {modality: self.normal(FACTORS + 2, WIDTH) for modality in MODALITIES}
        self.common = common
        self.place = 0.5 * self.normal(SIDE ** 2, WIDTH)
        self.gain = 0.6 * self.normal(3, WIDTH)
        self.shift = 1.5 * self.normal(3, WIDTH)
        self.mark = self.normal(WIDTH)
        self.patients = 0

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.random)

    def uniform(self, *shape):
        return torch.rand(*shape, generator=self.random)

    def people(self, n, dials):
        """n new patients, half of the malignant and half of the others in each of their two classes."""
        malignant = self.uniform(n) < dials.prevalence
        truth = 2 * malignant.long() + (self.uniform(n) < 0.5).long()
        severity = truth + 0.6 * self.normal(n)
        step = torch.where(self.uniform(n) < 0.5, -1, 1)
        step = torch.where((truth + step < 0) | (truth + step > 3), -step, step)
        label = torch.where(self.uniform(n) < dials.label_noise, truth + step, truth)
        ids = torch.arange(n) + self.patients
        self.patients += n
        return People(truth, label, severity, self.normal(n, FACTORS), ids)

    def looks(self, modality, dials):
        """(FACTORS + 2, WIDTH): how severity, a lesion and the factors look in tokens of a modality."""
        mixed = np.sqrt(1 - dials.apart) * self.common + np.sqrt(dials.apart) * self.own[modality]
        return mixed / WIDTH ** 0.5 * 3

    def images(self, people, modality, dials, site=0):
        """An `Images` of each patient, at one site or at (n,) sites. Severity and factors show in the lesion
        alone; in tissue, half of the patches are of it, in a mammogram 2 x 2."""
        n = len(people.truth)
        looks = self.looks(modality, dials)
        shown = dials.link * people.factors + np.sqrt(1 - dials.link ** 2) * self.normal(n, FACTORS)
        lesion = self.lesions(n, modality)
        content = (people.severity[:, None] - 1.5) * looks[0] + looks[1] + 0.6 * shown @ looks[2:]
        tokens = self.place + self.normal(n, SIDE ** 2, WIDTH)
        tokens = tokens + lesion.flatten(1)[..., None] * content[:, None]
        tokens = torch.cat([torch.zeros(n, 1, WIDTH), tokens], 1)
        tokens = tokens + 1.5 * self.marked(people, dials, site)[:, None, None] * self.mark
        gain, shift = (of[site].view(-1, 1, WIDTH) for of in (self.gain, self.shift))
        tokens = tokens * (dials.style * gain).exp() + dials.style * shift
        return Images(tokens, lesion, self.displaced(lesion, dials.outline_error), site)

    def lesions(self, n, modality):
        """(n, SIDE, SIDE) bool: a square of 2 x 2 patches anywhere, or, in tissue, half of all patches."""
        if modality == HISTOPATHOLOGY:
            order = self.uniform(n, SIDE ** 2).argsort(1)
            return (order < SIDE ** 2 // 2).view(n, SIDE, SIDE)
        corner = (self.uniform(n, 2) * (SIDE - 1)).long()
        away = torch.arange(SIDE)[None, None] - corner[..., None]
        covered = (away >= 0) & (away <= 1)
        return covered[:, 0, :, None] & covered[:, 1, None, :]

    def displaced(self, lesion, error):
        """Outlines moved by a normal number of patches down and across; what leaves the image comes back in
        at the other side."""
        steps = (error * self.normal(len(lesion), 2)).round().long().tolist()
        moved = [torch.roll(outline, step, (0, 1)) for outline, step in zip(lesion, steps)]
        return torch.stack(moved)

    def marked(self, people, dials, site):
        """(n,) 1 or 0: whether a patient has the mark, which correlates with malignancy where half have it.
        """
        share, correlation = (torch.tensor(of)[site] for of in (dials.marked, dials.shortcut))
        chance = share + torch.where(people.truth >= 2, correlation, -correlation) / 2
        return (self.uniform(len(chance)) < chance).float()


def targets(people, images, allowed=None):
    """What `objective.Objective` reads of the images of one modality.

    allowed: (n, 4) bool, or None where every label names one class.
    """
    n = len(people.label)
    mask = images.outline.repeat_interleave(4, 1).repeat_interleave(4, 2)
    if allowed is None:
        allowed = F.one_hot(people.label, len(CLASSES)).bool()
    grade = allowed.int().argmax(1).where(allowed.sum(1) == 1, -1)
    return {"allowed": allowed, "grade": grade, "domain": torch.full((n,), images.site), "id": people.ids,
            "bag_id": people.ids, "mask": mask, "localised": torch.ones(n, dtype=torch.bool)}


def joined(parts):
    """The targets of several sites, one after the other."""
    columns = zip(*[part.values() for part in parts])
    return dict(zip(parts[0], map(torch.cat, columns)))


def chosen(target, rows):
    """The targets of some rows."""
    return {name: values[rows] for name, values in target.items()}

