"""IRM and adaptation are right, not only present: on real handwritten digits (scikit-learn's), with colours
and corruptions.

Coloured digits (Arjovsky et al. 2019, on 8 x 8 digits): the label is "five or more", flipped with probability
.25; the colour agrees with it in .9 and .8 of the training environments' images, and in .1 at test. No
predictor that ignores colour can pass .75; one that uses it reaches .85 in training and .10 at test.
"""
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from xmodal import adapt as tta
from xmodal.config import HISTOPATHOLOGY, PROFILES
from xmodal.losses import irm_penalty
from xmodal.model import build

X, DIGIT = (torch.tensor(a) for a in load_digits(return_X_y=True))
X = X.float() / 16


def coloured(rows, agree, generator):
    """Draws an environment anew: (N, 128) images in one of two colour channels, (N,) labels."""
    def flip(p):
        return torch.rand(len(rows), generator=generator) < p
    label = ((DIGIT[rows] >= 5) ^ flip(0.25)).float()
    colour = torch.where(flip(agree), label, 1 - label)[:, None]
    return torch.cat([X[rows] * (1 - colour), X[rows] * colour], 1), label


def train_coloured(seed, irm, steps=600, anneal=200, weight=1e4):
    """Accuracy in training (colour agrees .9) and at test (.1) of a small MLP; the environments are drawn
    anew every step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(X), generator=generator)
    sites = (order[:700], order[700:1400])
    test = order[1400:]
    net = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1),
                        nn.Flatten(0))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(steps if irm else 300):
        out = []
        for site, agree in zip(sites, (0.9, 0.8)):
            x, y = coloured(site, agree, generator)
            out.append((net(x), y))
        loss = sum(F.binary_cross_entropy_with_logits(z, y) for z, y in out) / 2
        if irm and step >= anneal:
            loss = loss / weight + sum(irm_penalty(z, y) for z, y in out) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def accuracy(rows, agree):
        x, y = coloured(rows.repeat(8), agree, generator)
        return ((net(x) > 0) == (y > 0.5)).float().mean().item()
    return accuracy(sites[0], 0.9), accuracy(test, 0.1)


@pytest.mark.parametrize("seed", [42, 1234])
def test_erm_falls_below_chance_on_the_flipped_environment_and_irm_does_not(seed):
    erm_train, erm_test = train_coloured(seed, irm=False)
    irm_train, irm_test = train_coloured(seed, irm=True)
    assert erm_train > 0.8 and erm_test < 0.25            # it lives on colour
    assert irm_test > 0.53                                # well above chance: the deviation is below .01
    assert irm_test < 0.77 and irm_train < 0.80           # and does not pass the bound by using colour


@pytest.fixture(scope="module")
def digit_model():
    """A small model of ours that reads the digits 0-3 as histology tiles of four classes, and its clean
    accuracy."""
    torch.manual_seed(0)
    profile = dataclasses.replace(PROFILES["lesson"], image_size=16, patch=4, stem=False, width=48, depth=3,
                                  adapter=4)
    model = build(profile)
    rows = torch.nonzero(DIGIT < 4).flatten()
    rows = rows[torch.randperm(len(rows))]
    train, test = rows[:500], rows[500:]
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(25):
        for part in train[torch.randperm(500)].split(50):
            out = model({HISTOPATHOLOGY: picture(part)})[HISTOPATHOLOGY]
            optimiser.zero_grad()
            F.cross_entropy(out.logits, DIGIT[part]).backward()
            optimiser.step()
    return model.eval(), test


def picture(rows, corrupt=False):
    """(N, 16, 16, 3) uint8; corrupted: low contrast, a bright haze and noise, as from another scanner."""
    x = X[rows].view(-1, 8, 8).repeat_interleave(2, 1).repeat_interleave(2, 2)
    if corrupt:
        x = 0.35 + 0.35 * x + 0.08 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x.clamp(0, 1) * 255).byte().unsqueeze(-1).repeat(1, 1, 1, 3)


def test_tent_and_ours_recover_accuracy_over_source_on_corrupted_digits(digit_model):
    model, test = digit_model

    @torch.no_grad()
    def accuracy(corrupt=True):
        logits = model({HISTOPATHOLOGY: picture(test, corrupt)})[HISTOPATHOLOGY].logits
        return (logits.argmax(1) == DIGIT[test]).float().mean().item()
    clean = accuracy(corrupt=False)
    source = accuracy()
    batches = [{HISTOPATHOLOGY: picture(part, corrupt=True)} for part in test.split(55)]
    after = {}
    for how in ("adabn", "tent", "causal"):
        tta.adapt(model, batches, how)
        after[how] = accuracy()
        tta.reset(model)
    assert clean > 0.9 and source < clean - 0.1, (clean, source)
    assert after["tent"] > source + 0.05 and after["causal"] > source + 0.05, (source, after)
    assert accuracy() == source
