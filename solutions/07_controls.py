"""Solutions of 07_controls."""
from statistics import mean, stdev

differences = [0.02, 0.04, 0.03]
ANSWERS = {"07-1": mean(differences) / (stdev(differences) / 3 ** 0.5)}


def verdict(low, high):
    """An interval that holds zero leaves it open."""
    if low > 0:
        return "gain"
    if high < 0:
        return "loss"
    return "open"


ANSWERS["07-2"] = verdict
