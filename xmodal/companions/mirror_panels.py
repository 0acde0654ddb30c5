"""The tables of MIRROR's figures: a study's results in, one small tidy table a panel out. Drawn by `figures.mirror`."""
import numpy as np
import pandas as pd

from ..stats import auc, silhouette
from .mirror import c_index
from .tasks import draw_patches

PRIVATE = {"slide": "slide", "rna": "rna"}             # the factor that only this side sees
NUISANCE = {"slide": "stain", "rna": "batch"}


def fig3a(cohort, genes, patients=50, most=40):
    """Heat map: z of the `most` chosen genes whose class means differ most, and `patients` a subtype. Columns row, gene, subtype, z."""
    table = cohort.expression[genes]
    z = (table - table.mean()) / table.std()
    gap = z[cohort.subtype == 1].mean() - z[cohort.subtype == 0].mean()
    order = gap.reindex(gap.abs().nlargest(most).index).sort_values().index
    rows = np.concatenate([np.flatnonzero(cohort.subtype == s)[:patients] for s in (0, 1)])
    long = z.loc[z.index[rows], order].reset_index(drop=True).rename_axis("row").reset_index().melt("row", var_name="gene", value_name="z")
    return long.assign(subtype=cohort.subtype[rows][long.row])


def fig3b(cohort, genes, curated, most=10):
    """The `most` variable of the chosen genes: gene, variance, curated."""
    variance = cohort.expression[genes].var().nlargest(most)
    return pd.DataFrame({"gene": variance.index, "variance": variance.to_numpy(), "curated": variance.index.isin(curated)})


def fig4(cohort, attention, seed):
    """Attention of the median case: of each subtype the patient whose AUC of attention for tumour patches is the median, and the AUC of
    every patient; where nobody outlined a tumour AUCs are nan, and the case is the middle one by name.

    attention, seed: the study's table and seed, by which patches were drawn. Columns patient, subtype, auc, x and y (of a patch, in sides
    of one), tumour, attention.
    """
    seen = attention.set_index("patient").drop(columns=["method", "fold"])
    number = {name: i for i, name in enumerate(cohort.patient)}
    drawn = lambda values, p: draw_patches(values[number[p]], seen.shape[1], seed).astype(float)
    area = lambda truth, row: np.nan if np.isnan(truth).any() else auc(truth, row)
    rows = [(p, cohort.subtype[number[p]], area(drawn(cohort.tumour, p), row.to_numpy())) for p, row in seen.iterrows()]
    found = pd.DataFrame(rows, columns=["patient", "subtype", "auc"])
    parts = []
    for _, rows in found.groupby("subtype"):
        case = rows.sort_values(["auc", "patient"]).iloc[[len(rows) // 2]]
        patient = case.patient.item()
        x, y = drawn(cohort.xy, patient).T
        values = {"x": x, "y": y, "tumour": drawn(cohort.tumour, patient), "attention": seen.loc[patient].to_numpy(float)}
        parts.append(case.merge(pd.DataFrame(values), "cross"))
    return pd.concat(parts, ignore_index=True), found


def rna(arms, n=300, tau=60.0):
    """The RNA arm on real patients beside a ridge Cox model: a row a cohort and model with Harrell's C, its 95 % interval, and Uno's up to
    `tau` months. arms: {cohort: what `mirror.rna_arm` found}."""
    rows = []
    for cohort, arm in arms.items():
        for which, model in (("encoder", "RNA encoder"), ("cox", "ridge Cox")):
            value, low, high, _ = c_index(arm, which, n)
            rows.append((cohort, len(arm), int(arm.event.sum()), model, value, low, high, c_index(arm, which, 1, tau).value))
    return pd.DataFrame(rows, columns=["cohort", "patients", "events", "model", "c_index", "low", "high", "uno"])


def fig5(rna, fold=0, seed=42):
    """UMAP of the gene token of unseen patients of one fold, by method: method, subtype, silhouette (of the embedding), x, y."""
    import umap
    parts = []
    for method, rows in rna[rna.fold == fold].groupby("method"):
        z = rows.drop(columns=["patient", "subtype", "method", "fold"]).to_numpy()
        xy = umap.UMAP(n_neighbors=15, metric="cosine", random_state=seed, n_jobs=1).fit_transform(z)
        parts.append(pd.DataFrame({"method": method, "subtype": rows.subtype.to_numpy(), "silhouette": silhouette(z, rows.subtype),
                                   "x": xy[:, 0], "y": xy[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def recovery(factors):
    """What each training kept: method, side and the R2 of shared, private, nuisance and other factors, averaged over folds."""
    r2 = factors.groupby(["method", "side", "factor"], sort=False).r2.mean().unstack()
    rows = [(method, side, row["shared"], row[PRIVATE[side]], row[NUISANCE[side]]) for (method, side), row in r2.iterrows()]
    return pd.DataFrame(rows, columns=["method", "side", "shared", "private", "nuisance"])


def performance(tasks, methods, measures=None):
    """Table I, II or III: mean and sd over folds. Columns method, task, setting, measure, mean, sd, folds."""
    rows = tasks[tasks.method.isin(methods) & tasks.measure.isin(measures or set(tasks.measure))]
    found = rows.groupby(["method", "task", "setting", "measure"]).value.agg(mean="mean", sd="std", folds="size").reset_index()
    return found.sort_values("method", key=lambda m: m.map(list(methods).index), kind="stable", ignore_index=True)
