"""Paired patients for MIRROR, from known factors that act together, so that no outcome is linear in the data.

Every patient has normally distributed factors, two of each kind:

    shared       shown by slide and genes alike; decides the subtype
    slide, rna   private: shown by one side only; decide survival
    stain, batch style: strong in one side, and nothing depends on it

Both outcomes depend on a sum of factors and on their product. No sum of patch features or genes is a product,
so that a linear model of the raw data cannot reach what one of the factors and their products does.
"""
import numpy as np
import pandas as pd

from ..config import Problem
from .pictures import Cohort

KINDS = ("shared", "slide", "rna", "stain", "batch")
WIDTH = 12                                          # features of a patch
GENES = ("shared", "rna", "batch", "silent")       # what a gene answers to; a quarter of the genes each
CURATED = tuple(f"{kind}_{i:02d}" for kind in GENES[:2] for i in range(3))      # known beforehand to matter


def draw(n, seed=42, interplay=0.5, private=1.0, style=1.0, side=3, genes=48):
    """A `Cohort` of n patients with side * side patches; equal arguments give equal bits.

    interplay  share of the product in what decides, 0 to 1; the rest is the sum
    private    how strongly each side shows its private factors, in standard deviations of the noise of a
               patch or gene; 1 as strongly as the shared ones, 0 not at all
    style      the same of the style
    Raises `Problem` for an interplay outside 0 to 1.
    """
    if not 0 <= interplay <= 1:
        raise Problem(f"The interplay is {interplay}, which is no share; give a number from 0 to 1.")
    rng = np.random.default_rng([seed, 7])
    factors = {kind: rng.normal(size=(n, 2)) for kind in KINDS}
    bags, xy, tumour = _slides(rng, factors, private, style, side)
    expression = _expression(rng, factors, private, style, genes)
    score = scores(factors, interplay)
    subtype = (score["subtype"] + 0.2 * rng.normal(size=n) > 0).astype(int)
    time = rng.exponential(60 * np.exp(-1.5 * score["survival"]))
    limit = rng.uniform(24, 180, n)
    nothing = pd.DataFrame(index=range(n))
    return Cohort(
        patient=np.array([f"P{i:04d}" for i in range(n)]), site=np.full(n, "generated"), bags=bags, xy=xy,
        tumour=tumour, expression=expression, copies=nothing, clinical=nothing, factors=factors,
        subtype=subtype, pam50=np.full(n, -1), time=np.maximum(np.minimum(time, limit), 0.1),
        event=(time <= limit).astype(int))


def scores(factors, interplay):
    """{"subtype", "survival"}: what decides the two outcomes, (N,) each, with variance of about 1."""
    def decided_by(kind):
        first, second = factors[kind].T
        total = (1 - interplay) * (first + second) / 2 ** 0.5 + interplay * first * second
        return total / ((1 - interplay) ** 2 + interplay ** 2) ** 0.5

    return {"subtype": decided_by("shared"),
            "survival": (decided_by("slide") + decided_by("rna")) / 2 ** 0.5}


def _directions(rng, size):
    """(2, size): what each of two factors does to `size` features or genes, of length 1 in the mean."""
    return rng.normal(size=(2, size)) / size ** 0.5


def _slides(rng, factors, private, style, side):
    """Bags float32 (N, P, WIDTH), corners (N, P, 2), tumour (N, P): a round tumour in normal tissue."""
    n, width = len(factors["shared"]), WIDTH
    axis = np.linspace(-1, 1, side)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    distance = np.linalg.norm(grid - rng.uniform(-0.4, 0.4, (n, 1, 2)), axis=2)
    tumour = distance < np.median(distance, 1, keepdims=True) + 0.1
    scale = width ** 0.5
    own = scale * factors["shared"] @ _directions(rng, width)
    own = own + private * scale * factors["slide"] @ _directions(rng, width)
    of_tumours = scale * _directions(rng, width)[0]
    everywhere = style * scale * factors["stain"] @ _directions(rng, width)
    bags = rng.normal(size=(n, side * side, width)) + everywhere[:, None]
    bags += tumour[..., None] * (own[:, None] + of_tumours)
    xy = np.stack(np.divmod(np.arange(side * side), side)[::-1], 1)
    return bags.astype(np.float32), np.tile(xy, (n, 1, 1)), tumour


def _expression(rng, factors, private, style, genes):
    """A DataFrame (N, G) of log2(TPM + 1); a gene is named after the kind of factor that it answers to."""
    strength = {"shared": 1.0, "rna": private, "batch": style, "silent": 0.0}
    kind = np.array(GENES)[np.arange(genes) % len(GENES)]
    level = rng.uniform(6, 9, genes)
    values = level + rng.normal(size=(len(factors["shared"]), genes))
    for name in GENES[:3]:
        values[:, kind == name] += strength[name] * factors[name] @ rng.normal(size=(2, (kind == name).sum()))
    names = [f"{name}_{i // len(GENES):02d}" for i, name in enumerate(kind)]
    return pd.DataFrame(np.maximum(values, 0), columns=names)
