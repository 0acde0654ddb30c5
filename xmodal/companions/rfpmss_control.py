"""RFPMSS's control: clusters that alignment loses and consistency is to keep.

Every sample shows a shared factor in all four modalities, by which they can be aligned, and in each modality
a cluster of that modality's own, of which the others know nothing. Contrast has no use for such clusters;
agreement of anchors before and after projection is to keep them. "shuffled" asks for agreement with the
anchors of another sample. N samples, D width.

The bounds on neighbours were written before any result. Noise, shared factor, distances and epochs were then
chosen on one seed that is not used here (1001): at distances of 8 the shared factor was not learned at all,
so the distances end at 4, where the rules are read. On that seed "shuffled" kept clusters too, by learning
less; the rules on retrieval and the comparison with "shuffled" were added for that, before the seeds that are
used.
"""
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..controls.verdict import COLUMNS, DOSE_RESPONSE, NEGATIVE, POSITIVE, Control, Rule, judge
from .rfpmss import SETTINGS, Variant
from .rfpmss_data import MODALITIES, VIEWS, Studies, rows_of
from .rfpmss_study import place, represent, retrieval_table
from .rfpmss_training import train
from .study import computed_once

SEEDS = (42, 43, 44)
NAME, TITLE = "rfpmss_clusters", "RFPMSS: consistency"
DIAL = "distance of a modality's own clusters, standard deviations of the shared factor"
DOSES = (0.0, 2.0, 4.0)
NEAR = "ten nearest neighbours of the same cluster"
RECALL = "R@10 between study and report"
CLUSTERS = 8                      # of each modality: four axes, two centres on each
SHARED = 6                        # dimensions of the shared factor
FEATURES = 16                     # dimensions of what a modality shows
NOISE = 0.5                       # its standard deviation, in each dimension
NEIGHBOURS = 10
SMALL = replace(SETTINGS["lesson"], batch=64, length=8, epochs=20, decay=0.89)
ARMS = {
    "aligned": Variant(language=False, within="", across=False),
    "consistent": Variant(language=False),
    "shuffled": Variant(language=False, assign="shuffled"),
}


def draw(distance, seed, train_on=192, test_on=160):
    """(Studies, clusters {modality: (N,)}) of samples whose clusters' centres lie `distance` apart."""
    rng = np.random.default_rng([seed, 18])
    n = train_on + test_on
    shared = rng.normal(size=(n, SHARED))
    tokens, clusters = {}, {}
    for m in MODALITIES:
        clusters[m] = rng.integers(CLUSTERS, size=n)
        shown = NOISE * rng.normal(size=(n, FEATURES))
        shown[:, :SHARED] += shared
        axis = SHARED + clusters[m] // 2
        shown[np.arange(n), axis] += distance / np.sqrt(2) * (1 - 2 * (clusters[m] % 2))
        width = 384 if m == "report" else FEATURES
        turned, _ = np.linalg.qr(rng.normal(size=(width, FEATURES)))
        tokens[m] = torch.as_tensor(shown @ turned.T, dtype=torch.float32)[:, None]
    split = np.where(np.arange(n) < train_on, "train", "test")
    table = pd.DataFrame({"patient": np.arange(n), "label": "normal", "report": "no text", "split": split})
    table["site"] = "drawn"
    mask = torch.ones(n, 1, dtype=torch.long)
    return Studies(table, {view: tokens[view] for view in VIEWS}, tokens["report"], mask), clusters


def same_cluster(z, clusters):
    """Share of the `NEIGHBOURS` nearest neighbours, by cosine, of each row of z (N, D) in its cluster."""
    z = F.normalize(z, dim=1)
    near = (z @ z.T).fill_diagonal_(-2).topk(NEIGHBOURS, 1).indices.numpy()
    return float((clusters[near] == clusters[:, None]).mean())


def of_dose(distance, seed):
    """{measure: {arm: value}} among unseen samples, as shares.

    "before projection" is what the modalities show, of which no arm can keep more than there is.
    """
    studies, clusters = draw(distance, seed)
    test = rows_of(studies.table, "test")
    shown = {view: studies.tokens[view][test, 0] for view in VIEWS}
    shown["report"] = studies.reports[test, 0]
    near = {"before projection": np.mean([same_cluster(shown[m], clusters[m][test]) for m in MODALITIES])}
    recalled = {"chance": NEIGHBOURS / len(test)}
    for arm, variant in ARMS.items():
        model, _ = train(studies, rows_of(studies.table, "train"), SMALL, variant, seed)
        out = represent(model, studies, test)
        near[arm] = np.mean([same_cluster(out["joint"][m], clusters[m][test]) for m in MODALITIES])
        recalled[arm] = retrieval_table(out)["R@10"][:2].mean() / 100
    return {NEAR: near, RECALL: recalled}


def of_seed(profile, seed):
    """The tables of `CONTROLS` for one seed, one below the other, with `verdict.COLUMNS`; computed once."""
    torch.set_num_threads(1)
    arms = {arm: asdict(variant) for arm, variant in ARMS.items()}
    configuration = {"control": NAME, "seed": seed, "doses": DOSES, "settings": asdict(SMALL), "arms": arms}

    def make():
        rows = []
        for dose in DOSES:
            for measure, values in of_dose(dose, seed).items():
                for arm, value in values.items():
                    rows.append((NAME, TITLE, DIAL, measure, dose, seed, arm, float(value)))
        return {"control": pd.DataFrame(rows, columns=COLUMNS)}, {}

    return computed_once(place(profile, "control", seed), configuration, make)["control"]


def verdicts(table):
    """One row per rule of `CONTROLS`, as of `controls.verdict.judge`."""
    judged = [judge(control, table[table.measure == control.measure]) for control in CONTROLS]
    return pd.concat(judged, ignore_index=True)


CONTROLS = (
    Control(NAME, TITLE, DIAL, NEAR, DOSES, of_dose, (
        Rule(POSITIVE, "alignment alone loses clusters", "before projection", "aligned", 4.0, 0.2),
        Rule(POSITIVE, "consistency keeps them", "consistent", "aligned", 4.0, 0.1),
        Rule(POSITIVE, "better than anchors of another sample", "consistent", "shuffled", 4.0, 0.05),
        Rule(NEGATIVE, "without clusters there are none to keep", "consistent", "aligned", 0.0, 0.02),
        Rule(NEGATIVE, "anchors of another sample keep none", "shuffled", "aligned", 4.0, 0.05),
        Rule(DOSE_RESPONSE, "the more the further apart", "consistent", "aligned"))),
    Control(NAME, TITLE, DIAL, RECALL, DOSES, of_dose, (
        Rule(POSITIVE, "alignment finds the report of a sample", "aligned", "chance", 4.0, 0.2),
        Rule(NEGATIVE, "consistency costs no retrieval", "consistent", "aligned", 4.0, 0.05))),
)
