"""Loosely coupled fusion: classifiers trained alone, one per modality, whose logits are weighted and added.

So modalities come and go: what a patient lacks is simply not in the sum, and what is trained is never trained
again. Amer et al. 2025 (PAM50 from copy number, clinical record, and the slide twice: as a bag and as a graph
of patches). N or B patients, P patches, D features, W width, C classes.
"""
import itertools
import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GraphConv, global_max_pool, global_mean_pool
from torch_geometric.utils import to_torch_csr_tensor

from ..config import Problem
from .mil import GatedAttention
from .pictures import PAM50

# of the sparse product, which gives what a mean over the edges gives (tests/companions/test_fusion.py)
warnings.filterwarnings("ignore", message="Sparse (CSR tensor|invariant)", category=UserWarning)


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


SETTINGS = {
    "lesson": Settings(width=32, dropout=0.2, patches=81, epochs=25, batch=64, lr=3e-3, weight_decay=1e-3),
    "paper": Settings(width=256, dropout=0.25, patches=2048, epochs=100, batch=32, lr=1e-4,
                      weight_decay=1e-4),
}


# ---- encoders ----------------------------------------------------------------------------------------------

class Columns(nn.Module):
    """(B, D) columns, copy number or clinical record -> (B, W)."""

    def __init__(self, features, settings):
        super().__init__()
        width = settings.width
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(settings.dropout),
                                    nn.Linear(width, width), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


class Bag(GatedAttention):
    """(B, P, D) patches -> (B, W): attention MIL, blind to where a patch lies."""

    def __init__(self, features, settings):
        super().__init__(features, settings.width)


class Graph(nn.Module):
    """A batch of graphs of patches -> (B, W).

    Two rounds of messages between neighbours, then mean and maximum over the slide.
    """

    def __init__(self, features, settings):
        super().__init__()
        width = settings.width
        first = GraphConv(features, width, aggr="mean")
        self.rounds = nn.ModuleList([first, GraphConv(width, width, aggr="mean")])
        self.out = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU())

    def forward(self, graphs):
        x = graphs.x
        links = to_torch_csr_tensor(graphs.edge_index, size=(len(x), len(x)))  # both ways: its own transpose
        for layer in self.rounds:
            x = layer(x, links).relu()
        return self.out(torch.cat([global_mean_pool(x, graphs.batch), global_max_pool(x, graphs.batch)], 1))


SLIDE = {"bag": Bag, "graph": Graph}    # how a slide is read; every other modality is `Columns`


def encoder(name, features, settings):
    """The untrained encoder of a modality with `features` columns, or features of a patch."""
    return SLIDE.get(name, Columns)(features, settings)


class Arm(nn.Module):
    """One modality: encoder and classifier -> logits (B, C)."""

    def __init__(self, name, features, settings, classes=len(PAM50)):
        super().__init__()
        self.encoder = encoder(name, features, settings)
        self.head = nn.Linear(settings.width, classes)

    def forward(self, x):
        return self.head(self.encoder(x))


class Concatenated(nn.Module):
    """The baseline: all encoders into one classifier, trained together. features: {modality: D}."""

    def __init__(self, features, settings, classes=len(PAM50)):
        super().__init__()
        self.encoders = nn.ModuleDict({name: encoder(name, d, settings) for name, d in features.items()})
        self.head = nn.Linear(len(features) * settings.width, classes)

    def forward(self, inputs, present):
        """Logits (B, C) of inputs {modality: batch}.

        What a patient lacks by present {modality: (B,)} becomes zeros.
        """
        encoded = [reads(inputs[name]) * present[name][:, None] for name, reads in self.encoders.items()]
        return self.head(torch.cat(encoded, 1))


# ---- fusion ------------------------------------------------------------------------------------------------

def subsets(names):
    """Every non-empty subset, small ones first."""
    return [s for k in range(1, len(names) + 1) for s in itertools.combinations(names, k)]


class Fusion(nn.Module):
    """Fused logits = sum over the modalities present of weight_m * logits_m + bias_m.

    The weight is a number per modality, the bias (C,).
    """

    def __init__(self, classes=len(PAM50)):
        super().__init__()
        self.classes = classes
        self.weight = nn.ParameterDict()
        self.bias = nn.ParameterDict()

    def forward(self, logits, present):
        """logits {name: (N, C)}, present {name: (N,) bool} -> (N, C).

        Raises `Problem` for a patient without a modality.
        """
        nobody = ~torch.stack([present[name] for name in logits]).any(0)
        if nobody.any():
            first = int(nobody.nonzero()[0])
            raise Problem(f"Patient {first} has none of {', '.join(logits)}; "
                          "leave the patient out, or bring one.")
        terms = []
        for name, x in logits.items():
            terms.append(present[name][:, None] * (self.weight[name] * x + self.bias[name]))
        return torch.stack(terms).sum(0)

    def add(self, logits, present, y, names):
        """Fits weight and bias of the new modalities `names` on validation patients; returns the Fusion.

        They are fitted over every subset of modalities that holds a new one. Older parameters, here and in
        the encoders, are not touched. logits and present as in `forward`, with all names; y (N,) classes.
        """
        for name in names:
            start = torch.zeros(self.classes, device=logits[name].device)
            self.weight[name] = nn.Parameter(start.sum() + 1)
            self.bias[name] = nn.Parameter(start)
        new = [p for name in names for p in (self.weight[name], self.bias[name])]
        cases = []                                         # (logits, present, classes) of each subset
        for subset in subsets(list(logits)):
            rows = torch.stack([present[m] for m in subset]).any(0)
            if set(subset) & set(names) and rows.any():
                cases.append((cut(logits, subset, rows), cut(present, subset, rows), y[rows]))
        solver = torch.optim.LBFGS(new, max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            solver.zero_grad()
            terms = [F.cross_entropy(self(z, has), truth) for z, has, truth in cases]
            loss = torch.stack(terms).mean()
            away = sum((p - float(p.ndim == 0)).square().sum() for p in new)      # from weight 1 and bias 0
            loss = loss + 1e-3 * away
            torch.autograd.backward(loss, inputs=new)
            return loss

        solver.step(closure)
        return self

    def remove(self, name):
        """Forgets a modality; the others stay as they are."""
        del self.weight[name], self.bias[name]
        return self


def cut(parts, names, rows):
    """{name: its rows} of the modalities `names`."""
    return {name: parts[name][rows] for name in names}


@torch.no_grad()
def one_patient(arms, fusion, given):
    """(C,) probabilities of one patient from whatever was brought: given {name: batch of one}.

    Raises `Problem` for an unknown modality, and for a patient without any.
    """
    unknown = set(given) - set(arms)
    if unknown:
        raise Problem(f"There is no arm for {', '.join(sorted(unknown))}; add one.")
    if not given:
        raise Problem(f"The patient has no modality; bring one of {', '.join(arms)}.")
    logits = {name: arms[name](x) for name, x in given.items()}
    present = {name: torch.ones(1, dtype=torch.bool, device=z.device) for name, z in logits.items()}
    return fusion(logits, present).softmax(1)[0]
