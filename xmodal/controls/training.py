"""A short training of the package's own model and objective on the tokens of a `World`."""
import torch
import torch.nn.functional as F
from torch import nn

from .. import stats
from ..config import HISTOPATHOLOGY, MAMMOGRAPHY
from ..learner import RAMP
from ..methods import Method
from ..model import build
from ..objective import Objective
from .world import SMALL, chosen, joined, targets

BATCH = 32              # patients of each source site in a step
STEPS = 60
RATE = 4e-3
SOURCES = (0, 1)
TARGET = 2


class Block(nn.Module):
    """In place of a transformer block, which would take ten times as long: x + up(GELU(down(x)))."""

    def __init__(self, width):
        super().__init__()
        self.down = nn.Linear(width, 2 * width)
        self.up = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.up(F.gelu(self.down(x)))


def begin(seed, switches=Method(), sites=3):
    """A fresh small model and its objective. Its tokens are what a frozen part would have made of images."""
    torch.manual_seed(seed)
    model = build(SMALL, mixstyle=switches.mixstyle)
    model.encoder.blocks = nn.ModuleList([Block(SMALL.width) for _ in range(SMALL.depth)])
    return model, Objective(SMALL.width, sites, switches)


def fit(model, objective, batches):
    """Adam over (x, y) batches, with the invariance terms ramped up as `learner.Schedule` does."""
    model.train()
    parameters = [p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    low, high = RAMP
    for step, (x, y) in enumerate(batches):
        share = step / len(batches)
        objective.ramp = min(max((share - low) / (high - low), 0.0), 1.0)
        loss = objective(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def from_sites(world, dials, modality=HISTOPATHOLOGY, steps=STEPS, batch=BATCH, sites=SOURCES):
    """`steps` batches of one modality, of `batch` new patients at each site.

    dials: of all sites, or a list with those of each.
    """
    at = dials if isinstance(dials, list) else [dials] * len(sites)
    batches = []
    for _ in range(steps):
        drawn = []
        for site, own in zip(sites, at):
            people = world.people(batch, own)
            drawn.append((people, world.images(people, modality, own, site)))
        x = torch.cat([images.tokens for _, images in drawn])
        y = joined([targets(people, images) for people, images in drawn])
        batches.append(({modality: x, "domain": {modality: y["domain"]}}, {modality: y}))
    return batches


def of_patients(people, images, modality, generator, allowed=None, steps=STEPS):
    """`steps` batches of 2 `BATCH` of these images of one modality; allowed as for `world.targets`."""
    y = targets(people, images, allowed)
    batches = []
    for _ in range(steps):
        rows = torch.randperm(len(people.ids), generator=generator)[:2 * BATCH]
        batches.append(({modality: images.tokens[rows]}, {modality: chosen(y, rows)}))
    return batches


def in_pairs(world, people, dials, steps=STEPS, shuffled=False):
    """`steps` batches of both modalities of these patients, at the first site.

    shuffled: every mammogram goes with the tissue of another patient.
    """
    seen = {m: world.images(people, m, dials) for m in (MAMMOGRAPHY, HISTOPATHOLOGY)}
    y = {m: targets(people, images) for m, images in seen.items()}
    if shuffled:
        order = torch.randperm(len(people.ids), generator=world.random)
        y[HISTOPATHOLOGY]["id"] = y[HISTOPATHOLOGY]["bag_id"] = people.ids[order]
    outlines = y[MAMMOGRAPHY]["mask"]
    batches = []
    for _ in range(steps):
        rows = torch.randperm(len(people.ids), generator=world.random)[:2 * BATCH]
        x = {m: images.tokens[rows] for m, images in seen.items()}
        x |= {"bag": {m: torch.arange(len(rows)) for m in seen}, "lesion": outlines[rows]}
        batches.append((x, {m: chosen(of, rows) for m, of in y.items()}))
    return batches


@torch.no_grad()
def stream(model, images, modality):
    """What a trained model says of images of one modality."""
    return model.eval().stream(images.tokens, modality)


def malignancy(model, images, modality=HISTOPATHOLOGY):
    """(n,) probabilities."""
    return stream(model, images, modality).logits.softmax(1)[:, 2:].sum(1).numpy()


def auc(model, people, images, modality=HISTOPATHOLOGY):
    """AUC of malignant or not."""
    return stats.auc(people.truth.numpy() >= 2, malignancy(model, images, modality))
