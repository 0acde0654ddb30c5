"""Controls of labels and probabilities: ordinal head, sets, task weights, temperature, conformal sets."""
import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax

from .. import stats
from ..config import CLASSES, HISTOPATHOLOGY
from ..losses import Uncertainty
from .training import begin, fit, of_patients, stream
from .world import Dials, World

LABELLED = 120          # patients to learn from
TESTED = 600


def ordinal(dose, seed):
    """Kappa with quadratic weights, against the truth, of the ordinal head and of the likeliest class."""
    world = World(seed)
    noisy, clean = Dials(style=0.0, label_noise=dose), Dials(style=0.0)
    people = world.people(LABELLED, noisy)
    model, objective = begin(seed)
    images = world.images(people, HISTOPATHOLOGY, noisy)
    fit(model, objective, of_patients(people, images, HISTOPATHOLOGY, world.random))
    people = world.people(TESTED, clean)
    out = stream(model, world.images(people, HISTOPATHOLOGY, clean), HISTOPATHOLOGY)
    grade = (out.score[:, None] > model.grade.cutpoints.detach()).sum(1)
    called = {"ordinal": grade, "classes": out.logits.argmax(1)}
    return {arm: stats.kappa(people.truth.numpy(), y.numpy(), "quadratic") for arm, y in called.items()}


def sets(dose, seed):
    """Accuracy over four classes where a share `dose` of the labels says malignant or not, and no more.

    Arms: these labels as sets, these images left out, and all labels whole.
    """
    world = World(seed)
    dials = Dials(style=0.0)
    people = world.people(LABELLED, dials)
    images = world.images(people, HISTOPATHOLOGY, dials)
    whole = F.one_hot(people.label, len(CLASSES)).bool()
    either = torch.arange(len(CLASSES))[None] // 2 == people.label[:, None] // 2
    open_label = (torch.arange(LABELLED) < dose * LABELLED)[:, None]
    labels = {"sets": whole | (either & open_label), "left out": whole | open_label, "whole": whole}
    tested = world.people(TESTED, dials)
    pictures = world.images(tested, HISTOPATHOLOGY, dials)
    values = {}
    for arm, allowed in labels.items():
        model, objective = begin(seed)
        generator = torch.Generator().manual_seed(seed)
        fit(model, objective, of_patients(people, images, HISTOPATHOLOGY, generator, allowed))
        predicted = stream(model, pictures, HISTOPATHOLOGY).logits.argmax(1)
        values[arm] = float((predicted == tested.truth).float().mean())
    return values


def task_weights(dose, seed, steps=400):
    """log2 of the sigmas that Eq. 10 learns for two tasks, whose squared errors are noise of deviation 1 and
    of deviation `dose`."""
    generator = torch.Generator().manual_seed(seed)
    weights = Uncertainty(("quiet", "noisy"))
    optimiser = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(steps):
        noise = torch.randn(2, 64, generator=generator)
        losses = {"quiet": noise[0].square().mean(), "noisy": (dose * noise[1]).square().mean()}
        optimiser.zero_grad()
        weights(losses).backward()
        optimiser.step()
    return {task: np.log2(sigma) for task, sigma in weights.sigmas().items()}


# ---- probabilities -----------------------------------------------------------------------------------------

def sharpened(rng, factor):
    """(logits, y) of `TESTED` cases: y is drawn from the softmax, then the logits are multiplied."""
    logits = 1.5 * rng.standard_normal((TESTED, len(CLASSES)))
    p = softmax(logits, axis=1)
    y = (rng.random((TESTED, 1)) > p.cumsum(1)).sum(1).clip(0, len(CLASSES) - 1)
    return factor * logits, y


def calibration(dose, seed):
    """Debiased calibration error of logits that are `dose` times too large: before and after a temperature
    that was read on other cases."""
    rng = np.random.default_rng([seed, 1])
    known, new = sharpened(rng, dose), sharpened(rng, dose)
    values = {}
    for arm, temperature in (("before", 1.0), ("after", stats.temperature(*known))):
        p = softmax(new[0] / temperature, axis=1)[:, 2:].sum(1)
        values[arm] = stats.debiased_ece(new[1] >= 2, p).value
    return values


def conformal(dose, seed):
    """Coverage of sets that are to cover 90 %, of cases whose logits are `dose` times too large: calibrated
    on such cases, and on cases of calibrated logits."""
    rng = np.random.default_rng([seed, 2])
    logits, y = sharpened(rng, dose)
    values = {"stated": 0.9}
    for arm, factor in (("same site", dose), ("another site", 1.0)):
        known, labels = sharpened(rng, factor)
        possible = stats.conformal_sets(softmax(known, axis=1), labels, softmax(logits, axis=1))
        values[arm] = possible[np.arange(len(y)), y].mean()
    return values
