"""A control: one dial, at least four doses, several arms, and rules that were written before the result."""
from dataclasses import dataclass
from typing import Callable

import numpy as np
import pandas as pd

from .. import stats

COLUMNS = ["control", "title", "dial", "measure", "dose", "seed", "arm", "value"]
POSITIVE, NEGATIVE, DOSE_RESPONSE = "positive", "negative", "dose-response"


@dataclass(frozen=True)
class Rule:
    """What must hold of the paired differences `arm` less `against` of the seeds."""
    kind: str
    sentence: str        # what it says in words
    arm: str
    against: str
    dose: float = None   # where it is read; of a dose-response, None: at all doses
    bound: float = 0.0   # positive: the least mean difference; negative: the largest, in either direction


@dataclass(frozen=True)
class Control:
    """One mechanism and one dial."""
    name: str
    title: str
    dial: str            # with its unit
    measure: str         # what is measured
    doses: tuple
    run: Callable        # (dose, seed) -> {arm: value}
    rules: tuple


def measure(control, seeds, doses=None):
    """The table of a control, with `COLUMNS`: one row per dose, seed and arm."""
    rows = []
    for dose in doses or control.doses:
        for seed in seeds:
            for arm, value in control.run(dose, seed).items():
                rows.append((control.name, control.title, control.dial, control.measure, dose, seed, arm,
                             float(value)))
    return pd.DataFrame(rows, columns=COLUMNS)


def differences(table, arm, against):
    """(doses, seeds) table of the value of `arm` less that of `against`."""
    wide = table.pivot_table(index="dose", columns=["arm", "seed"], values="value")
    return wide[arm] - wide[against]


def judge(control, table):
    """One row per rule of a control: whether it holds, by the mean over seeds of paired differences.

    Positive: the mean is at least the bound and its 95 % interval lies above 0. Negative: the mean is at most
    the bound, in either direction. Dose-response: the slope of the difference over the doses (from one dose
    to the next) has an interval above 0.

    Columns control, kind, sentence, difference, low, high, seeds, verdict.
    """
    rows = []
    for rule in control.rules:
        gap = differences(table, rule.arm, rule.against)
        if rule.kind == DOSE_RESPONSE:
            per_seed = np.polyfit(np.arange(len(gap)), gap.to_numpy(), 1)[0]
        else:
            per_seed = gap.loc[rule.dose].to_numpy()
        mean = stats.paired_mean(per_seed)
        if rule.kind == NEGATIVE:
            holds = abs(mean.difference) <= rule.bound
        else:
            holds = mean.difference >= rule.bound and mean.low > 0
        rows.append((control.name, rule.kind, rule.sentence, mean.difference, mean.low, mean.high, mean.units,
                     "holds" if holds else "does not hold"))
    columns = ["control", "kind", "sentence", "difference", "low", "high", "seeds", "verdict"]
    return pd.DataFrame(rows, columns=columns)
