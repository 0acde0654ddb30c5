"""Solutions of 03_train."""
from math import exp, log

# -log of e^(1/0.5) over e^(1/0.5) + 2 e^0
ANSWERS = {"03-1": -log(exp(2) / (exp(2) + 2))}


def task(loss, sigma):
    """One task of Eq. 10."""
    return loss / (2 * sigma ** 2) + log(sigma)


ANSWERS["03-2"] = task
