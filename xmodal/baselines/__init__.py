"""The systems that the paper compares with, under the same folds, budget and selection as all methods.

Radiomic features with six classic learners (Fig. 1); networks of one modality, early and late fusion
(Fig. 5q); the localisers of Fig. 4. Each leaves a run like any other method's. Classic learners say malignant
or not, as Fig. 1 asks; their run has settings and predictions but no weights: most of them could only be
pickled, and all are fitted again in seconds. The map of the wing:

    backbones    Swin and DenseNet (a feature pyramid) in the frame of the model
    common       what all baselines share: where a run begins, and late fusion
    classic      radiomic features with six classic learners
    networks     networks of one modality, early and late fusion, localisers
    probe        a linear reader of the encoder that all trainings begin with
    trivial      what 16 x 16 pixels tell: the yardstick for how hard a cohort is
"""
from ..methods import BASELINES, CLASSIC, NETWORKS, PROBE, chosen
from .classic import train_classic
from .networks import train_late, train_network
from .probe import train_probe


def train(profile, method, held_out, seed, table):
    """One run of a baseline: fit on the sources' training patients, choose on their validation patients,
    predict all, record it. Returns `record.Run`.

    A run that is done with the same settings, cohort, encoder and code is loaded; where one of these differs,
    a warning names it and the run is made again. Raises `Problem` for an unknown method. A method
    of one modality predicts the rows of that modality only: where the other one is held out, its run has no
    target rows.
    """
    chosen(method, BASELINES)
    if method in PROBE:
        return train_probe(profile, method, held_out, seed, table)
    if method in CLASSIC:
        return train_classic(profile, method, held_out, seed, table)
    if method in NETWORKS:
        return train_network(profile, method, held_out, seed, table)
    return train_late(profile, method, held_out, seed, table)
