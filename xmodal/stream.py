"""Test-time adaptation as a clinic could run it: each batch is adapted to and predicted when it comes.

The statistics of the necks run: they are those of all target images that have come so far.
"""
import copy

import torch

from .adapt import (
    ANCHOR,
    LR,
    Answer,
    Target,
    answers,
    configure,
    features_of,
    information,
    keep_source,
    look,
    mean_prediction,
    step,
    thaw,
    together,
)
from .config import STREAMS, Problem
from .layers import Statistics


def stream(model, batches, how="causal_stream", lr=LR, anchor=ANCHOR):
    """Adapts `model` in place to batches (or a `Target`) in their order, and predicts each as it comes.

    The statistics are those of all batches so far, this one included. "causal_stream" predicts with them and
    with what the steps on earlier batches changed, then takes one step on Eq. 5. Where the information of
    these predictions is lower than with statistics alone, the weights go back to the source and the batch is
    predicted with statistics alone (recovery, as in Niu et al. 2023). Returns one dict modality -> `Answer`
    for each batch.
    """
    if how not in STREAMS:
        raise Problem(f"There is no streaming adaptation {how!r}; choose one of {', '.join(STREAMS)}.")
    target = batches if isinstance(batches, Target) else look(model, batches)
    keep_source(model)
    causal = how == "causal_stream"
    trained = [p for p in model.parameters() if p.requires_grad]
    parameters = configure(model, how.removesuffix("_stream"))
    source = [p.detach().clone() for p in parameters]
    statistics = Statistics(model.necks, anchor if causal else 0.0)
    recalibrated = copy.deepcopy(model.necks)
    optimiser = torch.optim.Adam(parameters, lr=lr) if causal else None
    predicted = []
    for x, features in zip(target.batches, target.features):
        statistics.add(features)
        statistics.write(model.necks)
        statistics.write(recalibrated)
        with torch.no_grad():
            answered = answers(model, features, recalibrated)
        if causal:
            answered = step_of_stream(model, x, optimiser, (parameters, source), answered)
            statistics.draw_back(model.necks, lr)
        predicted.append(answered)
    thaw(model, trained)
    return predicted


def step_of_stream(model, x, optimiser, theta, recalibrated):
    """Answers to the batch x, then one step; or the answers of the `recalibrated` source, and recovery.

    theta: the parameters that move, and their values in the source model.
    """
    answered = answers(model, features_of(model, x))
    if information(together(answered)) < information(together(recalibrated)):
        with torch.no_grad():
            for p, source in zip(*theta):
                p.copy_(source)
        optimiser.state.clear()
        return recalibrated
    step(together(answered), optimiser, mean_prediction(together(recalibrated)))
    return {m: Answer(answer.logits.detach(), answer.score.detach()) for m, answer in answered.items()}
