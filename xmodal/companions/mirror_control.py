"""What MIRROR's parts must do where patients are made so that they have something to do, and where they must
not.

The rules were written on 2026-11-28, after a look at one seed of other sizes and before any result of the
study or of a control; none was changed afterwards.
"""
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..controls.verdict import DOSE_RESPONSE, NEGATIVE, POSITIVE, Control, Rule, judge, measure
from ..record import seed_everything
from . import mirror_world
from .measures import over_folds
from .mirror import SETTINGS, Mirror, pretrain
from .mirror_panels import PRIVATE
from .study import computed_once
from .tasks import encode, prepare, probe, recovered, score

SEEDS = (42, 43, 44)
TRAIN, TEST = 640, 800          # patients of a control


# ---- controls: a dial of the generator, and what must follow -----------------------------------------------

def trained(cohort, terms, seed, shuffled=False, printed=False, **settings):
    """Embeddings {side: (B, D)} of a training with these terms on the first TRAIN patients, on one core.

    shuffled: each slide is paired with the expression of another patient. printed: as of `Mirror`. settings:
    what differs from the lesson's.
    """
    torch.set_num_threads(1)
    seed_everything(seed)
    how = replace(SETTINGS["lesson"], **settings)
    train = np.arange(TRAIN)
    inputs = inputs_of(cohort)
    model = Mirror(inputs.bags.shape[2], len(inputs.genes), how, terms, printed)
    paired = inputs
    if shuffled:
        order = torch.cat([torch.randperm(TRAIN), torch.arange(TRAIN, len(cohort))])
        paired = inputs._replace(expression=inputs.expression[order])
    pretrain(model, paired, train, how, seed)
    return dict(zip(("slide", "rna"), encode(model, inputs)))


def inputs_of(cohort):
    """`tasks.Inputs` of a control: all genes are read, so that no label plays a part."""
    return prepare(cohort, np.arange(TRAIN), SETTINGS["lesson"], 0, list(cohort.expression))


def raw(cohort):
    """The data themselves as embeddings: mean patch and genes."""
    return {"slide": cohort.bags.mean(1), "rna": cohort.expression.to_numpy()}


def asked(z, cohort, task):
    """Accuracy of the subtype or concordance of survival, on the unseen patients of a control."""
    train, test = np.arange(TRAIN), np.arange(TRAIN, TRAIN + TEST)
    scores = probe(np.concatenate(list(z.values()), 1), cohort, train, task)
    return score(cohort, test, task, scores)["accuracy" if task == "subtype" else "c_index"]


def private_kept(z, cohort):
    """R2 of the private factors in the embedding of their own side, mean of both sides."""
    train, test = np.arange(TRAIN), np.arange(TRAIN, TRAIN + TEST)
    return np.mean([recovered(z[side], {"own": cohort.factors[factor]}, train, test)["own"]
                    for side, factor in PRIVATE.items()])


def by_interplay(dose, seed):
    """Subtype by `mirror_world.draw`'s interplay: {arm: accuracy}."""
    cohort = mirror_world.draw(TRAIN + TEST, seed, interplay=dose)
    return {"raw linear": asked(raw(cohort), cohort, "subtype"),
            "alignment": asked(trained(cohort, ("align",), seed), cohort, "subtype"),
            "pairs shuffled": asked(trained(cohort, ("align",), seed, shuffled=True), cohort, "subtype")}


def by_private(dose, seed):
    """Survival by how strongly private factors are shown: {arm: concordance}."""
    cohort = mirror_world.draw(TRAIN + TEST, seed, private=dose)
    return {"alignment": asked(trained(cohort, ("align",), seed), cohort, "survival"),
            "alignment, retention": asked(trained(cohort, ("align", "retention"), seed), cohort, "survival")}


def by_weight(dose, seed):
    """What is kept of private factors by the weight of retention: {arm: R2}."""
    cohort = mirror_world.draw(TRAIN + TEST, seed)
    both = ("align", "retention")
    return {"alignment": private_kept(trained(cohort, ("align",), seed), cohort),
            "retention": private_kept(trained(cohort, both, seed, retention=dose), cohort),
            "retention as printed": private_kept(trained(cohort, both, seed, printed=True, retention=dose),
                                                 cohort)}


CONTROLS = (
    Control("interplay", "Alignment", "share of the product in what decides", "accuracy of the subtype",
            (0.0, 0.4, 0.8), by_interplay, (
        Rule(POSITIVE, "it reads what no linear model reads", "alignment", "raw linear", 0.8, 0.05),
        Rule(POSITIVE, "not from shuffled pairs", "alignment", "pairs shuffled", 0.8, 0.05),
        Rule(NEGATIVE, "where a sum decides it gains nothing", "alignment", "raw linear", 0.0, 0.05),
        Rule(DOSE_RESPONSE, "the more the larger the product", "alignment", "raw linear"))),
    Control("private", "Retention", "strength of private factors, SD of the noise", "concordance of survival",
            (0.0, 1.0, 2.0), by_private, (
        Rule(POSITIVE, "it keeps what survival depends on", "alignment, retention", "alignment", 2.0, 0.02),
        Rule(NEGATIVE, "where nothing private is shown it gains nothing", "alignment, retention",
             "alignment", 0.0, 0.03),
        Rule(DOSE_RESPONSE, "the more the stronger they are", "alignment, retention", "alignment"))),
    Control("weight", "Retention, ours and as printed", "weight of retention, alignment 1",
            "R2 of private factors", (0.0, 1.0, 8.0), by_weight, (
        Rule(POSITIVE, "ours keeps private factors", "retention", "alignment", 8.0, 0.1),
        Rule(POSITIVE, "more than as printed", "retention", "retention as printed", 8.0, 0.05),
        Rule(NEGATIVE, "without weight nothing changes", "retention", "alignment", 0.0, 0.05),
        Rule(DOSE_RESPONSE, "the more the larger its weight", "retention", "alignment"))),
)


def control(folder, job):
    """The table of one control, dose and seed (`verdict.measure`), computed once and kept in `folder`.

    job: (number of the control, dose, seed).
    """
    number, dose, seed = job
    asked_for = CONTROLS[number]
    config = {"control": asked_for.name, "dose": dose, "seed": seed, "patients": [TRAIN, TEST],
              "settings": asdict(SETTINGS["lesson"])}
    place = folder / asked_for.name / f"dose_{dose:g}" / f"seed_{seed}"
    return computed_once(place, config, lambda: ({"arms": measure(asked_for, (seed,), (dose,))}, {}))["arms"]


def controls(folder, seeds=SEEDS, each=map):
    """(table of all controls, one row per rule with its verdict). each: as of `mirror_study.compare`."""
    jobs = [(number, dose, seed) for seed in seeds for number, asked_for in enumerate(CONTROLS)
            for dose in asked_for.doses]
    table = pd.concat(list(each(partial(control, folder), jobs)), ignore_index=True)
    judged = [judge(each_control, table[table.control == each_control.name]) for each_control in CONTROLS]
    return table, pd.concat(judged, ignore_index=True)


# ---- the study: paired differences of the same folds -------------------------------------------------------

class Question(NamedTuple):
    """What must hold of the paired differences `arm` less `against` over folds and seeds."""
    sentence: str
    measure: str         # accuracy, c_index, or the R2 of a kind of factor
    arm: str
    against: str
    bound: float         # the least mean difference; its interval must lie above 0


QUESTIONS = (
    Question("MIRROR reads subtypes that no linear model reads", "accuracy", "MIRROR", "linear", 0.03),
    Question("MIRROR's parts gain over alignment alone", "accuracy", "MIRROR", "alignment", 0.01),
    Question("retention helps survival", "c_index", "MIRROR", "alignment, clustering", 0.01),
    Question("retention keeps what is private", "private", "MIRROR", "alignment, clustering", 0.05),
    Question("clustering makes style fade", "style", "alignment, retention", "MIRROR", 0.05),
    Question("clustering helps the subtype", "accuracy", "MIRROR", "alignment, retention", 0.01),
    Question("MIRROR gains over TANGLE", "accuracy", "MIRROR", "TANGLE", 0.01),
)


def answers(tasks, recovery):
    """One row per question: its fields, difference, low, high, runs, and verdict.

    tasks: of `mirror_study`, with all labels. recovery: of `mirror_panels.recovery` by run, with the columns
    method, seed, fold, private and style; without known factors empty, and what asks for them is left out.
    """
    rows = []
    every = tasks[tasks.setting == "all"].pivot_table(index=["seed", "fold", "method"], columns="measure",
                                                      values="value")
    if len(recovery):
        sides = recovery.groupby(["seed", "fold", "method"])[["private", "nuisance"]].mean()
        every = every.join(sides.rename(columns={"nuisance": "style"}))
    for question in QUESTIONS:
        if question.measure in every:
            wide = every[question.measure].unstack("method")
            mean = over_folds((wide[question.arm] - wide[question.against]).dropna())
            holds = mean.difference >= question.bound and mean.low > 0
            rows.append({**question._asdict(), **mean._asdict(),
                         "verdict": "holds" if holds else "does not hold"})
    return pd.DataFrame(rows)
