"""Loosely coupled fusion: a classifier a modality, each trained alone; their logits are weighted, so that modalities come and go.

Amer et al. 2025 (PAM50 from copy number, clinical record, and the slide twice: as a bag and as a graph of patches). B or N patients,
P patches, D features, C classes. A modality that a patient lacks is simply not in the sum; what is there is never trained again.
"""
import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GraphConv, global_max_pool, global_mean_pool

from ..config import Problem
from .mil import GatedAttention
from .pictures import PAM50
from .tasks import draw_patches, spread


@dataclass(frozen=True)
class Settings:
    """Everything that differs between the lesson and the paper."""
    width: int
    dropout: float
    patches: int        # drawn from a slide for its bag; the graph has them all
    epochs: int
    batch: int
    lr: float
    weight_decay: float


SETTINGS = {"lesson": Settings(width=32, dropout=0.2, patches=49, epochs=25, batch=64, lr=3e-3, weight_decay=1e-3),
            "paper": Settings(width=256, dropout=0.25, patches=2048, epochs=100, batch=32, lr=1e-4, weight_decay=1e-4)}


# ---- encoders ----------------------------------------------------------------------------------------------------

class Columns(nn.Module):
    """(B, D) columns, copy number or clinical record -> (B, W)."""

    def __init__(self, features, settings):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, settings.width), nn.ReLU(), nn.Dropout(settings.dropout),
                                    nn.Linear(settings.width, settings.width), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


class Bag(GatedAttention):
    """(B, P, D) patches -> (B, W): attention MIL, blind to where a patch lies."""

    def __init__(self, features, settings):
        super().__init__(features, settings.width)


class Graph(nn.Module):
    """A batch of graphs of patches -> (B, W): two rounds of messages between neighbours, then mean and maximum over the slide."""

    def __init__(self, features, settings):
        super().__init__()
        w = settings.width
        self.rounds = nn.ModuleList([GraphConv(features, w, aggr="mean"), GraphConv(w, w, aggr="mean")])
        self.out = nn.Sequential(nn.Linear(2 * w, w), nn.ReLU())

    def forward(self, graphs):
        x = graphs.x
        for layer in self.rounds:
            x = layer(x, graphs.edge_index).relu()
        return self.out(torch.cat([global_mean_pool(x, graphs.batch), global_max_pool(x, graphs.batch)], 1))


ENCODERS = {"copy number": Columns, "clinical": Columns, "bag": Bag, "graph": Graph}


class Arm(nn.Module):
    """One modality: encoder and classifier -> logits (B, C)."""

    def __init__(self, name, features, settings, classes=len(PAM50)):
        super().__init__()
        self.encoder, self.head = ENCODERS[name](features, settings), nn.Linear(settings.width, classes)

    def forward(self, x):
        return self.head(self.encoder(x))


class Concatenated(nn.Module):
    """The baseline: all encoders into one classifier, trained together. inputs: {name: batch}; a patient's missing ones become zeros."""

    def __init__(self, features, settings, classes=len(PAM50)):
        super().__init__()
        self.encoders = nn.ModuleDict({name: ENCODERS[name](d, settings) for name, d in features.items()})
        self.head = nn.Linear(len(features) * settings.width, classes)

    def forward(self, inputs, present):
        return self.head(torch.cat([encoder(inputs[name]) * present[name][:, None] for name, encoder in self.encoders.items()], 1))


# ---- what goes in ------------------------------------------------------------------------------------------------

def neighbours(xy, side):
    """(2, E) edges in both directions between patches that touch, also by a corner: xy (P, 2) corners, side of a patch, same unit."""
    pairs = cKDTree(xy).query_pairs(1.5 * side, output_type="ndarray")
    return torch.as_tensor(np.concatenate([pairs, pairs[:, ::-1]]).T.copy(), dtype=torch.long)


def _scaled(table, train):
    """(N, D) of a table of numbers, scaled by the rows `train` as `tasks.scaled` does; 0 where a number is missing."""
    known = table.iloc[train].astype(float)
    return ((table - known.mean()) / known.std(ddof=0).where(known.std(ddof=0) > 1e-6, 1)).fillna(0).to_numpy(float)


def clinical_columns(table, train):
    """(N, D) float32 of a raw clinical table: numbers scaled by the rows `train` with 0 for what is not recorded, every text a column of
    0 and 1, and a column for what is not recorded."""
    parts = []
    for name, column in table.items():
        missing = column.isna()
        if pd.api.types.is_numeric_dtype(column):
            parts += [_scaled(column.to_frame(), train)]
        else:
            parts += [(column == value).to_numpy(float) for value in sorted(column.iloc[train].dropna().unique())]
        if missing.any():
            parts += [missing.to_numpy(float)]
    return np.column_stack(parts).astype(np.float32)


def having(cohort):
    """{modality: (N,) bool} of the patients who have it, in the order of MODALITIES; one that nobody has is not there."""
    slide = np.array([len(bag) > 0 for bag in cohort.bags])
    told = lambda table: np.array(table.notna().any(axis=1))
    found = {"copy number": told(cohort.copies), "clinical": told(cohort.clinical), "bag": slide, "graph": slide}
    return {name: there for name, there in found.items() if there.any()}


class Slides:
    """The slides of a cohort, scaled by the patches of its training patients: bags (N, P, D) of at most `most` patches, and graphs of all.
    A patient without a slide has zeros. there: (N,) bool, who has one. Raises `Problem` if no training patient has."""

    def __init__(self, cohort, there, train, most, seed):
        known, most = train[there[train]], min(most, max(map(len, cohort.bags)))
        if not len(known):
            raise Problem("No training patient has a slide; add some, or leave slides out.")
        self.bags = np.zeros((len(there), most, cohort.bags[known[0]].shape[1]), np.float32)
        for i in np.flatnonzero(there):
            self.bags[i] = draw_patches(cohort.bags[i], most, seed)
        self.mean, self.spread = self.bags[known].mean((0, 1)), spread(self.bags[known], (0, 1))
        self.bags[there] = self.scaled(self.bags[there])
        self.patches = [(bag, neighbours(xy, 1)) if len(bag) else (self.mean[None], torch.empty(2, 0, dtype=torch.long))
                        for bag, xy in zip(cohort.bags, cohort.xy)]

    def scaled(self, bag):
        return (bag - self.mean) / self.spread

    def graph(self, i):
        bag, edges = self.patches[i]
        return Data(x=torch.as_tensor(self.scaled(bag)), edge_index=edges)


class Inputs:
    """A cohort as the arms read it, scaled by its training patients: batch(name, rows) is what the arm `name` takes, features[name] its
    width. Patients who lack a modality have a row all the same, which tells nothing: ask `having` first."""

    def __init__(self, cohort, train, settings, seed=42, device="cpu"):
        there, self.device, columns = having(cohort), device, {}
        if "copy number" in there:
            columns["copy number"] = _scaled(cohort.copies, train)
        if "clinical" in there:
            columns["clinical"] = clinical_columns(cohort.clinical, train)
        if "bag" in there:
            self.slides = Slides(cohort, there["bag"], train, settings.patches, seed)
            columns["bag"] = self.slides.bags
        self.columns = {name: torch.as_tensor(np.asarray(v, np.float32), device=device) for name, v in columns.items()}
        self.features = {name: self.columns["bag" if name == "graph" else name].shape[-1] for name in there}

    def batch(self, name, rows):
        rows = np.atleast_1d(rows)
        return Batch.from_data_list([self.slides.graph(i) for i in rows]).to(self.device) if name == "graph" else self.columns[name][rows]


# ---- fusion ------------------------------------------------------------------------------------------------------

def subsets(names):
    """Every non-empty subset, small ones first."""
    return [s for k in range(1, len(names) + 1) for s in itertools.combinations(names, k)]


class Fusion(nn.Module):
    """Fused logits = sum over the modalities present of weight_m * logits_m + bias_m; weight a number and bias (C,) a modality."""

    def __init__(self, classes=len(PAM50)):
        super().__init__()
        self.classes, self.weight, self.bias = classes, nn.ParameterDict(), nn.ParameterDict()

    def forward(self, logits, present):
        """logits {name: (N, C)}, present {name: (N,) bool} -> (N, C). Raises `Problem` for a patient without any modality."""
        there = torch.stack([present[name] for name in logits])
        if not there.any(0).all():
            first = int((~there.any(0)).nonzero()[0])
            raise Problem(f"Patient {first} has none of {', '.join(logits)}; leave the patient out, or bring one.")
        terms = [present[name][:, None] * (self.weight[name] * x + self.bias[name]) for name, x in logits.items()]
        return torch.stack(terms).sum(0)

    def add(self, logits, present, y, names):
        """Fits weight and bias of the new modalities `names` on validation patients, over every subset that holds one of them. What was
        there before, here and in the encoders, is not touched. logits and present as in `forward`, with all names; y (N,) classes."""
        for name in names:
            start = torch.zeros(self.classes, device=logits[name].device)
            self.weight[name], self.bias[name] = nn.Parameter(start.sum() + 1), nn.Parameter(start)
        new = [p for name in names for p in (self.weight[name], self.bias[name])]
        chosen = [s for s in subsets(list(logits)) if set(s) & set(names)]
        rows = [torch.stack([present[m] for m in s]).any(0) for s in chosen]
        cases = [({m: logits[m][r] for m in s}, {m: present[m][r] for m in s}, y[r]) for s, r in zip(chosen, rows) if r.any()]
        solver = torch.optim.LBFGS(new, max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            solver.zero_grad()
            terms = [F.cross_entropy(self(z, there), truth) for z, there, truth in cases]
            loss = torch.stack(terms).mean() + 1e-3 * sum((p - float(p.ndim == 0)).square().sum() for p in new)
            torch.autograd.backward(loss, inputs=new)
            return loss

        solver.step(closure)
        return self

    def remove(self, name):
        """Forgets a modality; the others stay as they are."""
        del self.weight[name], self.bias[name]
        return self


@torch.no_grad()
def one_patient(arms, fusion, given):
    """(C,) probabilities of one patient from whatever was brought: given {name: batch of one}. Unknown or no modality: `Problem`."""
    unknown = set(given) - set(arms)
    if unknown or not given:
        raise Problem(f"There is no arm for {', '.join(sorted(unknown))}; add one." if unknown else
                      f"The patient has no modality; bring one of {', '.join(arms)}.")
    logits = {name: arms[name](x) for name, x in given.items()}
    return fusion(logits, {name: torch.ones(1, dtype=torch.bool, device=z.device) for name, z in logits.items()}).softmax(1)[0]
