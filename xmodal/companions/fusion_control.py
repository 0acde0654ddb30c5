"""The control of loosely coupled fusion: does a slide that is read as a graph too say more than a bag?

The cell kinds of a tumour part or mix (`paired.Arrangement`), which no bag shows. The dial is how much the
class depends on it. The rules and the sizes were written before any result; only that a graph can see the
arrangement at all, at this contrast and side, was tried before.
"""
import functools

import numpy as np
import torch

from ..controls.verdict import DOSE_RESPONSE, NEGATIVE, POSITIVE, Control, Rule, measure
from .fusion import SETTINGS, cut
from .fusion_inputs import having
from .fusion_panels import macro_auc
from .fusion_study import Fold, all_logits, fused, parts_of, study, train_arm
from .paired import Arrangement, draw, shuffled

SIDE, CONTRAST = 9, 6.0
PATIENTS = 800         # three fifths train, one fits the fusion, one tests
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
BAG, GRAPH, BOTH, MIXED = "bag", "graph", "bag and graph", "bag and graph of shuffled places"

RULES = (
    Rule(POSITIVE, "read as a graph too, a slide says more", BOTH, BAG, 2.0, 0.02),
    Rule(POSITIVE, "which it does since places tell", BOTH, MIXED, 2.0, 0.02),
    Rule(NEGATIVE, "where the class does not depend on them, places add nothing", BOTH, MIXED, 0.0, 0.01),
    Rule(NEGATIVE, "a graph of shuffled places adds nothing to the bag", MIXED, BAG, 2.0, 0.01),
    Rule(DOSE_RESPONSE, "the more the class depends on places", BOTH, MIXED),
)


def control(folder, settings=SETTINGS["lesson"], patients=PATIENTS):
    """The `verdict.Control`, whose arms are kept in `folder`."""
    run = functools.partial(measured, folder, settings, patients)
    return Control("fusion_graph", "Bag and graph of a slide", "weight of the arrangement in the class",
                   "macro-AUC, PAM50", WEIGHTS, run, RULES)


def drawn(patients, seed, weight=1.0):
    """The `Cohort` of one world of the control; the studies of the notebook are on those of weight 1."""
    return draw(patients, seed, SIDE, arrangement=Arrangement(CONTRAST, weight))


def measured(folder, settings, patients, weight, seed):
    """{arm: macro-AUC on unseen patients} of one world of generated slides, read in four ways."""
    world = drawn(patients, seed, weight)
    place = folder / f"weight_{weight:g}" / f"seed_{seed}" / "fold_0"    # where a study finds its arms again
    in_order = _fold(world, settings, seed)
    mixed = _fold(shuffled(world, seed), settings, seed)
    bag, graph = (_logits(name, in_order, place) for name in (BAG, GRAPH))
    of_mixed = _logits(GRAPH, mixed, place / "shuffled")
    return {BAG: _score((BAG,), {BAG: bag}, in_order), GRAPH: _score((GRAPH,), {GRAPH: graph}, in_order),
            BOTH: _score((BAG, GRAPH), {BAG: bag, GRAPH: graph}, in_order),
            MIXED: _score((BAG, GRAPH), {BAG: bag, GRAPH: of_mixed}, in_order)}


def one_seed(folder, settings, patients, seed):
    """What a seed gives, with column unit: {name: DataFrame} of `study` on its world of weight 1, and under
    "control" the table of `verdict.measure`. On one processor core."""
    torch.set_num_threads(1)
    world = drawn(patients, seed)
    tables = study(world, settings, seed, folder / "weight_1" / f"seed_{seed}", folds=[0])
    tables["control"] = measure(control(folder, settings, patients), [seed])
    return {name: table.assign(unit=seed) for name, table in tables.items()}


def _fold(cohort, settings, seed):
    return Fold(cohort, having(cohort), parts_of(cohort, seed)[0], settings, seed)


def _logits(name, fold, folder):
    return all_logits(name, train_arm(name, fold, folder), fold)


@torch.no_grad()
def _score(names, logits, fold):
    """Macro-AUC of the test patients from the fused logits of `names`."""
    test = fold.rows.test
    with torch.enable_grad():
        fusion = fused(names, logits, fold)
    p = fusion(cut(logits, names, test), cut(fold.has, names, test)).softmax(1).numpy()
    return macro_auc(fold.cohort.pam50[test], np.asarray(p))
