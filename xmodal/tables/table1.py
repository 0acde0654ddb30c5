"""Table 1: the terms of the objective, read from the loss object."""
from .common import tidy


def table1_table(objective):
    """Table 1 from a `losses.Objective`, one row per term.

    Columns component, objective, equation, supervision, weight.
    """
    return tidy(objective.table(), ["component", "objective", "equation", "supervision", "weight"])
