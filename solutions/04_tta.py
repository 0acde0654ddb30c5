"""Solutions of 04_tta."""
from math import log

ANSWERS = {"04-1": (32 * 0 + 64 * 3) / (32 + 64)}   # the source counts as 32 images


def entropy(p):
    return -sum(x * log(x) for x in p)


def information(predictions):
    """Entropy of the mean prediction less the mean entropy of the predictions."""
    n = len(predictions)
    mean = [sum(column) / n for column in zip(*predictions)]
    return entropy(mean) - sum(map(entropy, predictions)) / n


ANSWERS["04-2"] = information
