"""Paired patients made from known factors: slide, expression, copy number, clinical record.

Every patient has normally distributed factors, and each factor is seen by some modalities only (`SEEN`). So
there is a right answer to the question what a representation should have kept:

    shared           drives slide, expression, copy number and receptors, and the disease
    slide, rna, copy, age   seen by one modality each, and drive the disease
    arrangement      how the two cell kinds of a tumour lie to each other: the grid shows it, no bag does
    stain, batch     nuisance: large in one modality, and nothing depends on them
"""
import dataclasses
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..config import Problem
from .genes import CURATED
from .pictures import Cohort

SEEN = {   # factor -> dimensions
    "shared": 3, "slide": 2, "rna": 2, "copy": 2, "age": 1, "arrangement": 1, "stain": 2, "batch": 2}
SITES = ("north", "south", "west")
MODALITIES = ("copy number", "clinical", "bag", "graph")    # bag and graph: the same slide, read in two ways


class Arrangement(NamedTuple):
    """The dials of the factor `arrangement`: how well a slide shows it, and what depends on it."""
    contrast: float = 2.0    # half the distance of the two cell kinds, standard deviations of a patch's noise
    weight: float = 1.0      # in the PAM50 class, in which a slide's own factors weigh 0.7 and 1


def draw(n, seed=42, side=7, width=24, genes=96, arrangement=Arrangement()):
    """A `Cohort` of n patients with side * side patches of `width` features.

    The more patches, the better they show the arrangement: where every cell kind is known, the share of equal
    ones among the eight neighbours correlates with it .49 at side 7, .61 at 9 and .70 at 11. The same
    arguments give the same bits.
    """
    if genes < len(CURATED):
        raise Problem(f"The generator names its first {len(CURATED)} genes after the curated list; "
                      "ask for at least as many genes.")
    rng = np.random.default_rng([seed, 6])
    factors = {name: rng.normal(size=(n, k)) for name, k in SEEN.items()}
    site = rng.integers(len(SITES), size=n)
    factors["stain"] = factors["stain"] + np.array([-1.0, 0.0, 1.0])[site, None]      # a site has its stain
    bags, xy, tumour = _slides(rng, factors, side, width, arrangement.contrast)
    time, event = _survival(rng, factors)
    names = np.array([f"P{i:04d}" for i in range(n)])
    tables = _expression(rng, factors, genes), _copies(rng, factors), _clinical(rng, factors)
    classes = _subtype(rng, factors), _pam50(rng, factors, arrangement.weight)
    return Cohort(names, np.array(SITES)[site], bags, xy, tumour, *tables, factors, *classes, time, event)


def _direction(rng, k, d):
    """(k, d) directions of length 1."""
    x = rng.normal(size=(k, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def shuffled(cohort, seed=42):
    """The same `Cohort` with the patches of every tumour at random places of it: what a bag sees stays."""
    rng = np.random.default_rng([seed, 7])
    bags = cohort.bags.copy()
    for bag, tumour in zip(bags, cohort.tumour):
        bag[tumour] = rng.permutation(bag[tumour])
    return dataclasses.replace(cohort, bags=bags)


def _slides(rng, factors, side, width, contrast):
    """Bags float32 (N, P, D), corners (N, P, 2), tumour (N, P).

    A slide is a round tumour of two equally frequent cell kinds in normal tissue.
    """
    n = len(factors["shared"])
    axis = np.linspace(-1, 1, side)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    centre = rng.uniform(-0.4, 0.4, (n, 1, 2))
    radius = rng.uniform(0.6, 0.9, (n, 1))
    tumour = np.linalg.norm(grid - centre, axis=2) < radius
    kind = _cell_kinds(rng, factors["arrangement"], grid, tumour)
    noise = rng.normal(size=(*tumour.shape, width))
    stain = factors["stain"] @ _direction(rng, 2, width)
    bags = noise + 2 * stain[:, None]
    own = factors["shared"] @ _direction(rng, 3, width) + factors["slide"] @ _direction(rng, 2, width)
    of_tumours = 2 * _direction(rng, 1, width)
    of_kinds = contrast * kind[..., None] * _direction(rng, 1, width)
    bags += tumour[..., None] * (2 * own[:, None] + of_tumours + of_kinds)
    xy = np.stack(np.divmod(np.arange(side * side), side)[::-1], 1)
    return bags.astype(np.float32), np.tile(xy, (n, 1, 1)), tumour


def _cell_kinds(rng, arrangement, grid, tumour):
    """(N, P) cell kind of each patch, 1 or -1; within the tumour (N, P) both are equally frequent.

    The two kinds part along a random direction, or mix, as the factor `arrangement` (N, 1) says. grid: (P,
    2).
    """
    angle = rng.uniform(0, 2 * np.pi, len(tumour))
    noise = rng.normal(size=tumour.shape)
    direction = np.stack([np.cos(angle), np.sin(angle)], 1)
    along = (grid * direction[:, None]).sum(2)
    position = 1 / (1 + np.exp(-2 * arrangement)) * along / along.std() * 2 + noise
    median = np.array([np.median(row[mask]) for row, mask in zip(position, tumour)])
    return np.where(position > median[:, None], 1.0, -1.0)


def _expression(rng, factors, genes):
    """A DataFrame (N, G) of log2(TPM + 1).

    Each gene has a level of its own and answers to one group of factors, or to none. The batch moves a third
    of them.
    """
    sources = ("shared", "rna", "batch")                    # rows 0-2, 3-4 and 5-6 of `loads`
    loads = np.zeros((sum(SEEN[k] for k in sources), genes))
    group = rng.permutation(np.arange(genes) % 6)           # 0, 1 shared; 2 rna; 3, 4 batch; 5 nothing
    in_batch = (group == 3) | (group == 4)
    for rows, members, size in ((slice(0, 3), group < 2, 0.8), (slice(3, 5), group == 2, 0.8),
                                (slice(5, 7), in_batch, 1.5)):
        loads[rows, members] = rng.normal(size=(loads[rows].shape[0], members.sum())) * size
    answer = np.concatenate([factors[k] for k in sources], 1) @ loads
    values = rng.uniform(4, 9, genes) + answer + rng.normal(size=answer.shape)
    invented = [f"GENE{i:05d}" for i in range(genes - len(CURATED))]
    return pd.DataFrame(np.maximum(values, 0), columns=[*CURATED, *invented])


def _copies(rng, factors, segments=40):
    """A DataFrame (N, S) of log2 copy ratios; about half of the segments answer to the factors."""
    seen = np.concatenate([factors["shared"], factors["copy"]], 1)
    answer = 0.25 * seen @ rng.normal(size=(5, segments)) * (rng.random(segments) < 0.5)
    values = answer + 0.3 * rng.normal(size=(len(seen), segments))
    return pd.DataFrame(values, columns=[f"segment_{i:02d}" for i in range(segments)])


def _clinical(rng, factors):
    """Age, three receptors, stage and nodes, a tenth of the fields not recorded."""
    shared = factors["shared"]
    n = len(shared)

    def receptor(x):
        return np.where(x + 0.7 * rng.normal(size=n) > 0, "positive", "negative")

    stage = np.digitize(0.5 * shared[:, 2] + rng.normal(size=n), [-0.8, 0.5, 1.3]) + 1
    table = pd.DataFrame({
        "age": np.round(58 + 12 * factors["age"][:, 0]),
        "er": receptor(shared[:, 0]),
        "pr": receptor(shared[:, 0]),
        "her2": receptor(shared[:, 1] - 0.8),
        "stage": stage.astype(float),
        "nodes": rng.poisson(np.exp(0.4 * shared[:, 2])) + 0.0,
    })
    return table.mask(rng.random(table.shape) < 0.1)


# What depends on the factors: the weights below are the right answer.

def _signal(factors, **weights):
    """Sum of the factors, each weighted by its list of numbers."""
    return sum(factors[name] @ np.asarray(w, float) for name, w in weights.items())


def _subtype(rng, factors):
    signal = _signal(factors, shared=[1, 0.5, 0], slide=[1, 0], rna=[1, 0])
    return (signal + 0.3 * rng.normal(size=len(signal)) > 0).astype(int)


def _pam50(rng, factors, weight):
    """The class whose prototype is nearest in a space to which every factor of the disease contributes.

    weight: of the arrangement.
    """
    towards = np.stack([_signal(factors, shared=[1.5, 0, 0], copy=[0.7, 0], arrangement=[0.5 * weight]),
                        _signal(factors, shared=[0, 1.2, 0], slide=[1, 0], copy=[0, 0.8], age=[0.3]),
                        _signal(factors, arrangement=[weight], slide=[0, 0.7], age=[0.8])], 1)
    prototypes = np.array([[0, 0, -1.5], [-1.6, 0, 1], [0, 1.6, 0], [1.2, -1, 0], [1.2, 0.8, 1]])   # as PAM50
    distance = ((towards[:, None] - prototypes) ** 2).sum(2)
    noise = 0.3 * rng.normal(size=(len(towards), len(prototypes)))
    return (distance + noise).argmin(1)


def _survival(rng, factors):
    """(time, event): exponential times under a log hazard of shared and private factors.

    Times are months to one decimal. Patients are censored between 1 and 12 years.
    """
    log_hazard = _signal(factors, shared=[0.9, 0, 0.5], slide=[0, 0.6], rna=[0, 0.6], age=[0.3])
    time = rng.exponential(70 * np.exp(-log_hazard))
    limit = rng.uniform(12, 144, len(time))
    return np.maximum(np.round(np.minimum(time, limit), 1), 0.1), (time <= limit).astype(int)
