"""Solutions of 05_evaluate."""
from math import exp, log

# Holm: 0.01 * 3, then 0.03 * 2, then 0.04 * 1, and none is smaller than the one before it
ANSWERS = {"05-1": max(0.01 * 3, 0.03 * 2, 0.04 * 1)}


def tempered(p, temperature):
    """The logit of p is divided by the temperature."""
    logit = log(p / (1 - p))
    return 1 / (1 + exp(-logit / temperature))


ANSWERS["05-2"] = tempered
