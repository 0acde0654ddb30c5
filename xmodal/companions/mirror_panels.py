"""The tables of MIRROR's figures: results in, one tidy table per panel out. Drawn by `figures.mirror`."""
import re

import numpy as np
import pandas as pd

from .. import config
from ..stats import auc, silhouette
from .mirror_rna import c_index
from .tasks import draw_patches

PRIVATE = {"slide": "slide", "rna": "rna"}             # the factor that only this side sees
NUISANCE = {"slide": "stain", "rna": "batch"}


def fig3a(cohort, genes, patients=50, most=40):
    """Heat map of z-scores of chosen genes.

    The `most` genes whose class means differ most, and `patients` of each subtype. Columns row, gene, z,
    subtype.
    """
    table = cohort.expression[genes]
    z = (table - table.mean()) / table.std()
    gap = z[cohort.subtype == 1].mean() - z[cohort.subtype == 0].mean()
    order = gap.reindex(gap.abs().nlargest(most).index).sort_values().index
    rows = np.concatenate([np.flatnonzero(cohort.subtype == s)[:patients] for s in (0, 1)])
    shown = z.loc[z.index[rows], order].reset_index(drop=True).rename_axis("row").reset_index()
    long = shown.melt("row", var_name="gene", value_name="z")
    return long.assign(subtype=cohort.subtype[rows][long.row])


def fig3b(cohort, genes, curated, most=10):
    """The `most` variable of the chosen genes: gene, variance, curated (was it on the list)."""
    variance = cohort.expression[genes].var().nlargest(most)
    on_list = variance.index.isin(curated)
    return pd.DataFrame({"gene": variance.index, "variance": variance.to_numpy(), "curated": on_list})


def fig4(cohort, attention, seed):
    """(attention of the median case of each subtype, AUC of every patient).

    The AUC is that of attention for tumour patches; the case is the patient whose AUC is the median. Where
    nobody outlined a tumour AUCs are nan, and the case is the middle one by name. attention, seed: the
    study's table and the seed by which patches were drawn. Columns of the first table: patient, subtype, auc,
    x and y (of a patch, in sides of one), tumour, attention.
    """
    seen = attention.set_index("patient").drop(columns=["method", "seed", "fold", "setting"], errors="ignore")
    number = {name: i for i, name in enumerate(cohort.patient)}

    def drawn(values, patient):
        """What the study read of values (N,) of arrays: the patches that it drew."""
        return draw_patches(values[number[patient]], seen.shape[1], seed).astype(float)

    rows = []
    for patient, row in seen.iterrows():
        tumour = drawn(cohort.tumour, patient)
        area = np.nan if np.isnan(tumour).any() else auc(tumour, row.to_numpy())
        rows.append((patient, cohort.subtype[number[patient]], area))
    everyone = pd.DataFrame(rows, columns=["patient", "subtype", "auc"])
    cases = []
    for _, same_subtype in everyone.groupby("subtype"):
        case = same_subtype.sort_values(["auc", "patient"]).iloc[[len(same_subtype) // 2]]
        patient = case.patient.item()
        x, y = drawn(cohort.xy, patient).T
        patches = pd.DataFrame({"x": x, "y": y, "tumour": drawn(cohort.tumour, patient),
                                "attention": seen.loc[patient].to_numpy(float)})
        cases.append(case.merge(patches, "cross"))
    return pd.concat(cases, ignore_index=True), everyone


def rna(arms, n=300, tau=60.0):
    """The RNA arm on real patients beside a ridge Cox model: one row per cohort and model.

    Harrell's C with its 95 % interval, and Uno's C up to `tau` months. arms: {cohort: table of
    `mirror_rna.rna_arm`}.
    """
    rows = []
    for cohort, arm in arms.items():
        for which, model in (("encoder", "RNA encoder"), ("cox", "ridge Cox")):
            value, low, high, _ = c_index(arm, which, n)
            uno = c_index(arm, which, 1, tau).value
            rows.append((cohort, len(arm), int(arm.event.sum()), model, value, low, high, uno))
    columns = ["cohort", "patients", "events", "model", "c_index", "low", "high", "uno"]
    return pd.DataFrame(rows, columns=columns)


def fig5(rna, fold=0, seed=42):
    """UMAP of the gene token of unseen patients of one fold; with several seeds, of the first.

    Columns method, subtype, silhouette (of the embedding), x, y.
    """
    import umap
    parts = []
    first = rna[(rna.fold == fold) & (rna.seed == rna.seed.iloc[0])]
    for method, rows in first.groupby("method"):
        z = rows.drop(columns=["patient", "subtype", "method", "seed", "fold"]).to_numpy()
        xy = umap.UMAP(n_neighbors=15, metric="cosine", random_state=seed, n_jobs=1).fit_transform(z)
        apart = silhouette(z, rows.subtype)
        parts.append(pd.DataFrame({"method": method, "subtype": rows.subtype.to_numpy(), "silhouette": apart,
                                   "x": xy[:, 0], "y": xy[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def by_run(factors):
    """R2 of shared, private and nuisance factors of every training and side: one row each.

    Columns method, seed, fold, side, shared, private, nuisance. factors: the study's table.
    """
    if factors is None:
        return pd.DataFrame()
    names = ["method", "seed", "fold", "side"]
    r2 = factors.groupby([*names, "factor"], sort=False).r2.mean().unstack().reset_index()
    side = r2.side.tolist()
    own = [row[PRIVATE[name]] for name, (_, row) in zip(side, r2.iterrows())]
    nuisance = [row[NUISANCE[name]] for name, (_, row) in zip(side, r2.iterrows())]
    return r2[[*names, "shared"]].assign(private=own, nuisance=nuisance)


def recovery(factors):
    """What each training kept: `by_run`, averaged over folds and seeds. Columns method, side, three kinds."""
    means = by_run(factors).groupby(["method", "side"], sort=False)[["shared", "private", "nuisance"]].mean()
    return means.reset_index()


def convergence(history):
    """How far the loss still fell: one row per method, mean over its runs.

    Columns method, first (loss of the first epoch), before and last (means of the fifth of epochs before the
    last fifth, and of the last), fell (before less last, as a share of first less last).
    """
    names = ["method", "seed", "fold", "setting", "epoch"]
    loss = history.drop(columns=names, errors="ignore").sum(axis=1)
    rows = []
    for method, part in history.assign(loss=loss).groupby("method", sort=False):
        by_epoch = part.groupby("epoch").loss.mean().to_numpy()
        fifth = max(len(by_epoch) // 5, 1)
        first, before, last = by_epoch[0], by_epoch[-2 * fifth:-fifth].mean(), by_epoch[-fifth:].mean()
        rows.append((method, first, before, last, (before - last) / (first - last)))
    return pd.DataFrame(rows, columns=["method", "first", "before", "last", "fell"])


def side_by_side(name):
    """The tables `name` of all cohorts and backbones that were run so far, one below the other; see `suffix`.

    name: say "mirror_table1". Columns as of `performance`, with cohort.
    """
    paths = sorted((config.FIGURES / "mirror").glob(f"{name}_*.csv"))
    parts = [pd.read_csv(path).assign(cohort=path.stem.removeprefix(f"{name}_")) for path in paths]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def suffix(project, encoder):
    """What is added to the names of panels of a real cohort, as in mirror_table1_brca_resnet50."""
    return "_" + re.sub(r"\W+", "_", f"{project}_{encoder}".lower())


def performance(tasks, methods, measures=None):
    """Table I, II or III: mean and sd over folds. Columns method, task, setting, measure, mean, sd, folds."""
    rows = tasks[tasks.method.isin(methods) & tasks.measure.isin(measures or set(tasks.measure))]
    values = rows.groupby(["method", "task", "setting", "measure"]).value
    table = values.agg(mean="mean", sd="std", folds="size").reset_index()
    order = {method: i for i, method in enumerate(methods)}
    return table.sort_values("method", key=lambda column: column.map(order), kind="stable", ignore_index=True)
