"""Survival by the clinical arm of loosely coupled fusion, beside a Cox model, in held-out regions."""
import functools

import numpy as np
import pandas as pd
from torch import nn

from ..metrics.survival import ridge_cox
from ..stats import bootstrap, concordance, paired_mean
from .fusion import Columns
from .fusion_inputs import clinical_columns
from .tasks import Outcome, cox_risk

FEW_EVENTS = 20    # a region with fewer deaths says little


def held_out_regions(table, settings, seed=42, device="cpu", n=1000):
    """Survival from clinical columns, each region held out in turn.

    region, patients, events, and the C-index of the clinical encoder under the Cox loss (`encoder`), of a
    ridge Cox model (`cox`) and the `difference` encoder less cox, with 95 % intervals from n resamples of the
    region's patients; `warning` where fewer than FEW_EVENTS died. The last row, "mean of regions", has
    intervals over regions, which count alike. table: columns, `time`, `event`, `region`. Regions with fewer
    than five events are trained on and not reported.
    """
    columns = table.drop(columns=["time", "event", "region"])
    outcome = Outcome(table.time.to_numpy(float), table.event.to_numpy(int))
    place = table.region.to_numpy()
    rows = []
    for region in sorted(set(place)):
        test = np.flatnonzero(place == region)
        train = np.flatnonzero(place != region)
        events = int(outcome.event[test].sum())
        if events < 5:
            continue
        z = clinical_columns(columns, train)
        network = functools.partial(_survival_network, z.shape[1], settings)
        by_encoder = cox_risk(network, z, outcome, train, settings, seed, device)
        by_cox = z @ ridge_cox(z[train], outcome.time[train], outcome.event[train], alpha=50)
        warning = f"only {events} events: read nothing into it" if events < FEW_EVENTS else ""
        row = {"region": region, "patients": len(test), "events": events, "warning": warning}
        risks = np.column_stack([by_encoder, by_cox])[test]
        for name, metric in MEASURED.items():
            value, low, high, _ = bootstrap(metric, np.column_stack(outcome)[test], risks, n=n)
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    regions = pd.DataFrame(rows)
    total = {"region": "mean of regions", "patients": regions.patients.sum(), "events": regions.events.sum(),
             "warning": ""}
    for name in MEASURED:
        mean = paired_mean(regions[name])
        total |= {name: mean.difference, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return pd.concat([regions, pd.DataFrame([total])], ignore_index=True)


def _survival_network(features, settings):
    return nn.Sequential(Columns(features, settings), nn.Linear(settings.width, 1))


def _of_encoder(outcome, risks):
    return concordance(outcome[:, 0], outcome[:, 1], risks[:, 0])


def _of_cox(outcome, risks):
    return concordance(outcome[:, 0], outcome[:, 1], risks[:, 1])


def _difference(outcome, risks):
    return _of_encoder(outcome, risks) - _of_cox(outcome, risks)


MEASURED = {"encoder": _of_encoder, "cox": _of_cox, "difference": _difference}
