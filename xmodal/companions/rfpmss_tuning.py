"""RFPMSS fine-tuned with few labels (Table 2): starts, shares of labels, and rules written before the result.

A network that was trained at home is fine-tuned whole at the target, the last site, on 1, 10 and 100 % of the
labels of training studies there (at least one of either class), and tested on unseen studies there. Every
start gets the same head, labels, steps and learning rate. (Where all studies are of one site, the start "4
labels" has seen all labels of the target.) Steps and rate were set by the loss in training from the start
"untrained" on a seed that is not used here (1001), before any test. The bounds of `RULES` come from the
paper's Table 2, whose RFPMSS is ahead of an ImageNet start by 4.6 to 6.8 points of AUC at UPENN-GBM and of a
start from labels by 2.4 to 2.7. N studies, D width.
"""
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..controls.verdict import COLUMNS, DOSE_RESPONSE, NEGATIVE, POSITIVE, Control, Rule, judge
from ..record import seed_everything
from ..stats import auc, paired_mean
from . import rfpmss_training, study
from .rfpmss_data import batch, rows_of, vary
from .rfpmss_study import again, place, represent, some_labels

UNTRAINED = "untrained"
STARTS = ("RFPMSS", "without both", "4 labels", UNTRAINED)
SHUFFLED = "labels exchanged"      # RFPMSS's start, labels drawn anew among the training studies
SHARES = {0: 1.0, 1: 0.1, 2: 0.01}
NAME, TITLE = "rfpmss_tuning", "RFPMSS fine-tuned"
DIAL = "powers of ten by which labels are fewer"
MEASURE = "AUC at the target"


class Tuning(NamedTuple):
    """How every start is fine-tuned."""
    steps: int      # of gradient descent, at least, however few labels there are
    lr: float       # at the beginning; it falls to 0 in a straight line


TUNINGS = {"lesson": Tuning(60, 1e-3), "paper": Tuning(1000, 2e-5)}
RULES = (
    Rule(POSITIVE, "with 1 % of the labels a start from reports helps", "RFPMSS", UNTRAINED, 2, 0.03),
    Rule(POSITIVE, "with 10 % it helps", "RFPMSS", UNTRAINED, 1, 0.03),
    Rule(POSITIVE, "with all labels it helps", "RFPMSS", UNTRAINED, 0, 0.03),
    Rule(DOSE_RESPONSE, "the fewer labels the more it helps", "RFPMSS", UNTRAINED),
    Rule(POSITIVE, "with 10 % reports are a better start than labels at home", "RFPMSS", "4 labels", 1, 0.02),
    Rule(POSITIVE, "with 10 % consistency adds to it", "RFPMSS", "without both", 1, 0.01),
    Rule(NEGATIVE, "labels exchanged at random teach nothing", SHUFFLED, "chance", 0, 0.1))


def tune(model, studies, rows, truth, tuning, seed, device="cpu"):
    """(head, history): `model` and a new linear head are trained on the studies `rows` and their truth
    (0, 1)."""
    settings = model.settings
    seed_everything(seed, threads=torch.get_num_threads())
    head = torch.nn.Linear(settings.joint, 2).to(device)
    model = model.to(device)
    targets = torch.as_tensor(truth, device=device)

    def objective(positions):
        of_batch = rows[positions]
        variation = vary(of_batch, seed) if settings.crop else None
        out = model(*batch(studies, of_batch, device, settings.crop, variation))
        return {"label": F.cross_entropy(head(out["v"]), targets[positions])}

    epochs = int(np.ceil(tuning.steps / np.ceil(len(rows) / settings.batch)))
    adam = partial(torch.optim.Adam, fused=True)

    def schedule(epoch):
        return 1 - epoch / epochs

    descent = study.Descent(epochs, settings.batch, tuning.lr, 1e-4, adam, schedule)
    history = study.fit([model, head], objective, len(rows), descent, seed)
    return head, history


def start(profile, studies, training, seed, device="cpu"):
    """The model of a finished `rfpmss_study.Training`, or, where that is called "untrained", as it was
    before."""
    if training.name != UNTRAINED:
        return again(profile, studies, training, seed, device)[0]
    seed_everything(seed, threads=torch.get_num_threads())
    vocabulary = rfpmss_training.vocabulary_of(studies, training.train)
    model = rfpmss_training.untrained(studies, training.settings, training.variant, vocabulary)
    rfpmss_training.fit_projections(model, studies, training.train)
    return model


def of_seed(profile, studies, plan, tuning, device, seed):
    """The table of `CONTROL` for one seed, with `verdict.COLUMNS`; computed once.

    plan: {name: Training} of `rfpmss_study.trainings`, whose `STARTS` are done for this seed.
    """
    if device == "cpu":
        torch.set_num_threads(1)
    starts = {name: plan[name] for name in STARTS if name != UNTRAINED}
    starts[UNTRAINED] = plan["RFPMSS"]._replace(name=UNTRAINED)
    described = {}
    for name, training in starts.items():
        described[name] = {"variant": asdict(training.variant), "settings": asdict(training.settings),
                           "train": np.asarray(training.train).tolist()}
    configuration = {"control": NAME, "seed": seed, "tuning": tuning._asdict(), "starts": described,
                     "shares": list(SHARES.values()), "studies": studies.digest()}

    def make():
        rows = []
        for dose, share in SHARES.items():
            for arm, value in of_share(profile, studies, starts, tuning, device, seed, share).items():
                rows.append((NAME, TITLE, DIAL, MEASURE, dose, seed, arm, float(value)))
        return {"tuning": pd.DataFrame(rows, columns=COLUMNS)}, {}

    return study.computed_once(place(profile, "tuning", seed), configuration, make)["tuning"]


def of_share(profile, studies, starts, tuning, device, seed, share):
    """{arm: AUC among unseen studies of the target} of all starts, fine-tuned with a share of its labels."""
    target = studies.table.site.unique()[-1:]
    positive = studies.positive()
    train, test = (rows_of(studies.table, split, target) for split in ("train", "test"))
    train, test = train[positive[train] >= 0], test[positive[test] >= 0]
    some = train[some_labels(positive[train], share, seed)]
    truth = {name: positive[some] for name in starts}
    values = {"chance": 0.5}
    if share == 1:
        starts = {**starts, SHUFFLED: starts["RFPMSS"]}
        truth[SHUFFLED] = np.random.default_rng([seed, 2]).permutation(positive[some])
    for name, training in starts.items():
        model = start(profile, studies, training, seed, device)
        head, _ = tune(model, studies, some, truth[name], tuning, seed, device)
        with torch.no_grad():
            scores = head.cpu()(represent(model, studies, test, device)["v"]).softmax(1)[:, 1]
        values[name] = auc(positive[test], scores.numpy())
    return values


def compare(table):
    """One row per start and share of labels: mean AUC, and the paired difference of RFPMSS's less it.

    table: as of `of_seed`, of several seeds. Columns name, labels (the share), auc, difference, low, high
    (95 % interval), p (paired t-test), seeds.
    """
    wide = table.pivot(index="seed", columns=["dose", "arm"], values="value")
    rows = []
    for name in (*STARTS, SHUFFLED):
        for dose, share in SHARES.items():
            if (dose, name) not in wide:
                continue
            gap = paired_mean(wide[dose, "RFPMSS"] - wide[dose, name])
            rows.append((name, share, wide[dose, name].mean(), gap.difference, gap.low, gap.high, gap.p,
                         gap.units))
    return pd.DataFrame(rows, columns=["name", "labels", "auc", "difference", "low", "high", "p", "seeds"])


def verdicts(table):
    """One row per rule of `RULES`, as of `controls.verdict.judge`."""
    return judge(CONTROL, table)


CONTROL = Control(NAME, TITLE, DIAL, MEASURE, tuple(SHARES), of_share, RULES)
