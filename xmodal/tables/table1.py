"""Table 1: the terms of the objective, read from the loss object."""
from .common import tidy


def table1(objective):
    """Table 1 from the loss object: component, objective, equation, supervision, weight."""
    return tidy(objective.table(), ["component", "objective", "equation", "supervision", "weight"])
