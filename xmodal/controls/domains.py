"""Controls of what shall help at another site: IRM, GroupDRO, MixStyle, CORAL, DANN, adaptation, adapters."""
from dataclasses import replace

import torch

from ..adapt import adapt, reset
from ..config import HISTOPATHOLOGY, MAMMOGRAPHY
from ..methods import METHODS, Method
from .training import SOURCES, TARGET, auc, begin, fit, from_sites, in_pairs, malignancy
from .world import Dials, World

STRONG = 30.0          # weight of IRM's penalty, 0.1 in `methods.METHODS`
LONG = {"steps": 200, "batch": 64}     # of `from_sites`, and the weights there
LONG_IRM = 100.0
LONG_DRO = 1.0
LONG_CORAL = LONG_DANN = 10.0
PATIENTS = 400         # that are tested


def at_target(seed, dials, switches, **length):
    """The AUC at the third site of a model that was trained at the other two; length: of `from_sites`."""
    world = World(seed)
    model, objective = begin(seed, switches)
    fit(model, objective, from_sites(world, dials, **length))
    people = world.people(PATIENTS, dials)
    return auc(model, people, world.images(people, HISTOPATHOLOGY, dials, TARGET))


def shortcut(dose, seed):
    """AUC where a mark goes with malignancy by `dose` at one source, half of it at the other, and the other
    way round at the target."""
    arms = {"ERM": Method(), "IRM": METHODS["irm"], "strong IRM": Method(irm=STRONG),
            "GroupDRO": METHODS["groupdro"]}
    return {arm: at_target(seed, with_mark(dose), switches) for arm, switches in arms.items()}


def shortcut_long(dose, seed):
    """The same after a longer training on more patients, with stronger terms."""
    arms = {"ERM": Method(), "IRM": METHODS["irm"], "strong IRM": Method(irm=LONG_IRM),
            "strong GroupDRO": Method(dro=LONG_DRO)}
    return {arm: at_target(seed, with_mark(dose), switches, **LONG) for arm, switches in arms.items()}


def with_mark(dose):
    """The dials of a shortcut of this strength."""
    return Dials(style=0.0, shortcut=(dose, dose / 2, -dose))


def style_goes(dose, seed, modality=HISTOPATHOLOGY):
    """AUC where images come in the style of either source, and the share of malignant patients, which at the
    sources differs by `dose`, is one half in both styles."""
    alike = Dials(style=0.5)
    scores = {}
    for arm, method in (("ERM", "erm"), ("MixStyle", "mixstyle")):
        world = World(seed)
        model, objective = begin(seed, METHODS[method])
        fit(model, objective, from_sites(world, unlike_shares(alike, dose), modality))
        people = world.people(PATIENTS, alike)
        styles = torch.randint(len(SOURCES), (PATIENTS,), generator=world.random)
        scores[arm] = auc(model, people, world.images(people, modality, alike, styles), modality)
    return scores


def style_goes_films(dose, seed):
    """The same in mammograms, where the lesion fills a quarter of the patches and not half."""
    return style_goes(dose, seed, MAMMOGRAPHY)


def unlike_shares(dials, dose):
    """The dials of two sources whose shares of malignant patients differ by `dose`, around one half."""
    return [replace(dials, prevalence=0.5 + dose / 2), replace(dials, prevalence=0.5 - dose / 2)]


def mark_rates(dose, seed):
    """AUC where a mark goes with malignancy by `dose` at both sources, the other way round at the target, and
    is three times as frequent at one source as at the other.

    So nothing that depends on the mark is distributed alike at the sources, which is what CORAL asks for.
    """
    dials = Dials(style=0.0, marked=(0.75, 0.25, 0.5), shortcut=(dose, dose, -dose))
    arms = {"ERM": Method(), "CORAL": METHODS["coral"], "strong CORAL": Method(coral=LONG_CORAL),
            "strong DANN": Method(dann=LONG_DANN)}
    return {arm: at_target(seed, dials, switches, steps=LONG["steps"]) for arm, switches in arms.items()}


def style(dose, seed):
    """AUC at a site in another style."""
    arms = {"ERM": "erm", "MixStyle": "mixstyle", "CORAL": "coral", "DANN": "dann"}
    return {arm: at_target(seed, Dials(style=dose), METHODS[method]) for arm, method in arms.items()}


# ---- test-time adaptation ----------------------------------------------------------------------------------

def adapted(seed, dials, at_test, score):
    """{arm: score} of an ERM model as trained, and adapted to new patients of the target."""
    world = World(seed)
    model, objective = begin(seed)
    fit(model, objective, from_sites(world, dials))
    people = world.people(PATIENTS, at_test)
    images = world.images(people, HISTOPATHOLOGY, at_test, TARGET)
    batches = [{HISTOPATHOLOGY: part} for part in images.tokens.split(100)]
    scores = {"as trained": score(model, people, images)}
    for arm, how in (("AdaBN", "adabn"), ("Tent", "tent"), ("causal", "causal")):
        adapt(model, batches, how)
        scores[arm] = score(model, people, images)
        reset(model)
    return scores


def adapted_to_style(dose, seed):
    """AUC at a site in another style, without and with adaptation."""
    dials = Dials(style=dose)
    return adapted(seed, dials, dials, auc)


def adapted_threshold(dose, seed):
    """The balanced accuracy there, which asks besides the order of the patients for the right threshold."""
    dials = Dials(style=dose)
    return adapted(seed, dials, dials, balanced_accuracy)


def adapted_to_prevalence(dose, seed):
    """Balanced accuracy at a site that looks alike, where another share of the patients is malignant."""
    dials = Dials(style=0.0)
    return adapted(seed, dials, replace(dials, prevalence=dose), balanced_accuracy)


def balanced_accuracy(model, people, images):
    """Mean of sensitivity and specificity at a probability of one half."""
    called = torch.as_tensor(malignancy(model, images)) > 0.5
    malignant = people.truth >= 2
    return float((called[malignant].float().mean() + (~called[~malignant]).float().mean()) / 2)


# ---- adapters ----------------------------------------------------------------------------------------------

def adapters(dose, seed):
    """Mean AUC of both modalities by a frozen encoder that learned from modalities which look alike.

    Arms: no adapters, adapters of each modality, and as many parameters in adapters that both share.
    """
    world = World(seed)
    teacher, objective = begin(seed)
    alike = Dials(style=0.0, apart=0.0)
    fit(teacher, objective, in_pairs(world, world.people(300, alike), alike))
    dials = Dials(style=0.0, apart=dose)
    batches = in_pairs(world, world.people(300, dials), dials)
    people = world.people(PATIENTS, dials)
    tests = {m: world.images(people, m, dials) for m in (MAMMOGRAPHY, HISTOPATHOLOGY)}
    scores = {}
    for arm in ("none", "of each modality", "shared"):
        model, objective = begin(seed)
        model.encoder.load_state_dict(teacher.encoder.state_dict())
        model.encoder.requires_grad_(False)
        if arm == "none":
            model.adapters.requires_grad_(False)
        if arm == "shared":
            model.adapters[MAMMOGRAPHY] = model.adapters[HISTOPATHOLOGY] = wider(model.adapters[MAMMOGRAPHY])
        fit(model, objective, batches)
        scores[arm] = sum(auc(model, people, images, m) for m, images in tests.items()) / len(tests)
    return scores


def wider(own):
    """Adapters as `own` with twice the bottleneck."""
    width = own[0].down.in_features
    return torch.nn.ModuleList([type(layer)(width, 2 * layer.down.out_features) for layer in own])
