"""The dials of the phantom: how hard it is, and in what way, each with its unit.

The defaults are the phantom of the lesson. `07_controls` turns one dial at a time. Some dials act at one
domain, the `target`, which is to be the unseen one; the other three are sources.

The defaults were chosen on 2026-11-28, before any method was run on them, by three criteria that look at no
method, and are left alone since:

1. What both modalities show of a patient (`patients.FACTORS` through `patients.shown`, `patients.LATENTS`)
   finds its partner at rank 1 among all patients with both at least 90 times in 100: measured .95 among 240,
   mean of three seeds (the factors alone: .50, and .75 among 60).
2. A linear reader (CCA) on the features of the reference encoder finds the tissue of an unseen patient among
   the first 10 of 70 at least 50 times in 100.
3. ERM loses at least .05 of AUC on an unseen site against the sources' own test patients.
"""
from dataclasses import dataclass, fields, replace
from math import isnan

import numpy as np

MATES = {"cbis_ddsm": "inbreast", "inbreast": "cbis_ddsm", "bach": "camelyon", "camelyon": "bach"}
FIXED = "white", "glass", "quality"      # of a style: they belong to the layout of the files
NAN = float("nan")


@dataclass(frozen=True)
class Dials:
    """Settings of a phantom cohort."""
    # correlation, over patients, of what each modality shows of a factor with the factor itself: 0 to 1
    link: float = 0.97
    # distance between the styles of two sites: 0 they look alike, 1 as in `STYLES`, 2 twice as far apart
    style: float = 1.0
    # correlation of a mark (a bead on the skin, pigment on the section) with malignancy at the sources:
    # -1 to 1; NaN draws no marks, 0 draws them at random
    shortcut: float = NAN
    # the same at the target
    shortcut_at_target: float = NAN
    # share of malignant patients at the target, 0 to 1; NaN leaves the site's own
    prevalence: float = NAN
    # standard deviation by which outlines are displaced, millimetres on mammograms (see `displaced`)
    outline_error: float = 0.0
    # share of the patients whose label is that of a neighbouring class; slides of lymph nodes keep theirs
    label_noise: float = 0.0
    # patients with both modalities in each pair of domains
    pairs: int = 60
    # the domain where `shortcut_at_target` and `prevalence` act
    target: str = "inbreast"

    def shortcut_of(self, site):
        """The correlation of marks with malignancy at a site."""
        return self.shortcut_at_target if site == self.target else self.shortcut


def style_of(styles, site, distance):
    """The style of `site`, one of `styles` by site, at a `distance` from the mean of the two sites of its
    modality.

    Every number goes from the mean (0) through the site's own (1) beyond it, never below 0. What is true or
    false is the site's own from .5 on, and false below. `FIXED` fields are the site's own at any distance.
    """
    own = styles[site]
    if site not in MATES or distance == 1:
        return own
    mate = styles[MATES[site]]
    changed = {}
    for field in fields(own):
        mine = getattr(own, field.name)
        if field.name in FIXED:
            continue
        if isinstance(mine, bool):
            changed[field.name] = mine and distance >= 0.5
            continue
        middle = (np.array(mine) + getattr(mate, field.name)) / 2
        value = np.clip(middle + distance * (mine - middle), 0, None)
        changed[field.name] = tuple(value.tolist()) if isinstance(mine, tuple) else float(value)
    return replace(own, **changed)


def marks(malignant, correlation, rng):
    """bool (n,): which of n patients carry the mark, so that it correlates with `malignant` (bool, (n,)).

    As many carry it as are malignant, or, where the correlation is negative, as are not.
    """
    malignant = np.asarray(malignant, bool)
    chance = rng.random(len(malignant))
    if isnan(correlation):
        return np.zeros(len(malignant), bool)
    wanted = malignant if correlation >= 0 else ~malignant
    share = wanted.mean() if len(wanted) else 0.0
    strength = abs(correlation)
    return chance < np.where(wanted, share + (1 - share) * strength, share * (1 - strength))


def with_prevalence(shares, malignant):
    """Shares of normal, benign, in situ, invasive, of which the last two become `malignant` in sum."""
    shares = np.array(shares, float)
    if isnan(malignant):
        return shares
    for part, total in ((slice(0, 2), 1 - malignant), (slice(2, 4), malignant)):
        shares[part] *= total / shares[part].sum()
    return shares


def neighbour(diagnosis, rng):
    """A class beside `diagnosis` on the way from normal (0) to invasive (3)."""
    beside = [label for label in (diagnosis - 1, diagnosis + 1) if 0 <= label <= 3]
    return int(rng.choice(beside))


def displaced(mask, error, rng, field=120.0):
    """A bool (H, W) mask moved by a normal distance down and across, as far as the image's border at most.

    `error` is the standard deviation in millimetres of a `field` that is as high as the image: slides, which
    are 1 mm high, are displaced by the same share of their height as mammograms.
    """
    step = rng.normal(0, 1, 2) * error / field * mask.shape[0]
    if not error or not mask.any():
        return mask
    moved = mask
    for axis, shift in enumerate(np.round(step).astype(int)):
        places = np.flatnonzero(mask.any(1 - axis))
        shift = np.clip(shift, -places[0], mask.shape[axis] - 1 - places[-1])
        moved = np.roll(moved, shift, axis)
    return moved
