"""MIRROR's RNA arm alone: survival from expression, beside a ridge Cox model. G genes, N patients."""
import numpy as np
import pandas as pd
from torch import nn

from ..metrics.survival import ridge_cox, uno
from ..stats import bootstrap, concordance
from .mirror import RNAEncoder
from .tasks import Outcome, cox_risk, parted, scaled


class RNARisk(RNAEncoder):
    """Expression (B, G) -> risk (B, 1): a linear layer on the gene token."""

    def __init__(self, genes, width, heads, tokens, depth):
        super().__init__(genes, width, heads, tokens, depth)
        self.risk = nn.Linear(width, 1)

    def forward(self, expression):
        return self.risk(super().forward(expression)[0])


def rna_arm(expression, time, event, settings, seed=42, device="cpu"):
    """Survival from expression alone on five folds: one row per patient.

    Columns time, event, fold, and two risks, standardised by the training patients: `encoder` by the RNA
    encoder under the Cox loss, `cox` by a ridge Cox model. expression (N, G) DataFrame or array, time (N,),
    event (N,).
    """
    x = np.asarray(expression, np.float32)
    outcome = Outcome(np.asarray(time, float), np.asarray(event, int))
    table = pd.DataFrame({"time": outcome.time, "event": outcome.event, "fold": -1,
                          "encoder": np.nan, "cox": np.nan})
    for k, (train, test) in enumerate(parted(outcome.event, seed)):
        z = scaled(x, train)

        def network(genes=z.shape[1]):
            return RNARisk(genes, settings.width, settings.heads, settings.gene_tokens, settings.depth)

        penalty = z.shape[1]                                       # grows with the genes
        by_encoder = cox_risk(network, z, outcome, train, settings, seed, device)
        by_cox = z @ ridge_cox(z[train], outcome.time[train], outcome.event[train], alpha=penalty)
        for name, risk in (("encoder", by_encoder), ("cox", by_cox)):
            table.loc[test, name] = (risk[test] - risk[train].mean()) / risk[train].std()
        table.loc[test, "fold"] = k
    return table


def c_index(arm, which, n=1000, tau=None):
    """`stats.Interval` of the concordance of the risk `which`, a column of `rna_arm`'s table.

    Pairs are of one fold; patients are resampled. Harrell's; or, with `tau` in the unit of time, Uno's up to
    then, its censoring estimated on all patients.
    """
    known = arm.time.to_numpy(float), arm.event.to_numpy(int)
    fold_numbers = np.unique(arm.fold)

    def index(time, event, risk):
        if tau is None:
            return concordance(time, event, risk)
        return uno(time, event, risk, tau, known)

    def within_folds(outcome, risk):
        time, event, fold = outcome.T
        values = [index(time[fold == k], event[fold == k], risk[fold == k]) for k in fold_numbers]
        return np.nanmean(values)

    outcome = arm[["time", "event", "fold"]].to_numpy(float)
    return bootstrap(within_folds, outcome, arm[which].to_numpy(), n=n)
