"""The tables of K-MaT's figure: its runs in, one tidy table per panel out. Drawn by `figures.kmat`."""
import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from .. import config, stats
from .kmat import guess, partner_of
from .measures import harmonic

AVERAGE = "Avg."


def scores(predictions):
    """{acc, f1 of high and low} in percent, of the predictions of one run."""
    percent = {}
    for end, rows in predictions.groupby("end"):
        truth, predicted = rows.truth.to_numpy(), guess(rows)
        f1 = f1_score(truth, predicted, average="macro", zero_division=0)
        percent[f"{end}_acc"] = 100 * float((truth == predicted).mean())
        percent[f"{end}_f1"] = 100 * float(f1)
    return percent


def table_of(runs, model_name):
    """Table 2 or 3: one row per method of {(method, seed): tables of `kmat.run`}, in percent.

    Accuracy and macro-F1 of both ends and their harmonic mean h, per seed and then averaged; `h_of_means` is
    the other definition, the harmonic mean of the averaged columns.
    """
    rows = []
    for (method, seed), tables in runs.items():
        rows.append({"method": method, "seed": seed, **scores(tables["predictions"])})
    each = pd.DataFrame(rows)
    for k in ("acc", "f1"):
        each[f"h_{k}"] = harmonic(each[f"high_{k}"], each[f"low_{k}"])
    numbers = [c for c in each if c not in ("method", "seed")]
    methods = each.groupby("method", sort=False)
    table = methods[numbers].mean()
    for k in numbers:
        table[f"{k}_sd"] = methods[k].std(ddof=1)
    for k in ("acc", "f1"):
        table[f"h_of_means_{k}"] = harmonic(table[f"high_{k}"], table[f"low_{k}"])
    return table.assign(seeds=methods.seed.nunique(), model=model_name).reset_index()


def side_by_side(table, name, pair, data):
    """The table of the pair called `pair` beside those that the panel `name` holds of other pairs.

    data: "phantom" or "public"; rows of the other kind are dropped. A pair that is there already is
    replaced. Where pairs are several, their mean follows as the pair "Avg." (Table 2). A first column says
    the pair.
    """
    tables = [table.assign(pair=pair)]
    path = config.panel_path(name)
    if path.exists():
        before = pd.read_csv(path)
        if "pair" in before:
            others = before[(before.data == data) & ~before.pair.isin([pair, AVERAGE])]
            tables.insert(0, others.drop(columns="data").astype({"method": str}))
    every = pd.concat(tables, ignore_index=True)
    if every.pair.nunique() > 1:
        numbers = every.select_dtypes("number").columns
        mean = every.groupby("method", sort=False)[numbers].mean().reset_index()
        every = pd.concat([every, mean.assign(pair=AVERAGE, model=every.model.iloc[-1])], ignore_index=True)
    return every[["pair", *every.columns.drop("pair")]]


def couplings(runs, classes):
    """What the plan of each run {seed: tables} couples: seed, high, low (names), share, and `most`, whether
    the low-end class gets most of the high-end one."""
    rows = []
    for seed, tables in runs.items():
        partners = partner_of(tables["plan"])
        for i, j, share in tables["plan"].itertuples(index=False):
            rows.append((seed, classes[int(i)], classes[int(j)], share, partners[int(i)] == j))
    return pd.DataFrame(rows, columns=["seed", "high", "low", "share", "most"])


def against(runs, reference="kmat"):
    """The paired differences over seeds, K-MaT less each other method of {(method, seed): tables}, of the
    accuracy in percent: end, method, difference, low, high (95 %), seeds."""
    rows = []
    for (method, seed), tables in runs.items():
        rows.append({"method": method, "seed": seed, **scores(tables["predictions"])})
    wide = pd.DataFrame(rows).pivot(index="seed", columns="method")
    differences = []
    for end in ("high", "low"):
        accuracy = wide[f"{end}_acc"]
        for method in accuracy.columns.drop(reference):
            gap = stats.paired_mean(accuracy[reference] - accuracy[method])
            differences.append((end, method, gap.difference, gap.low, gap.high, gap.units))
    return pd.DataFrame(differences, columns=["end", "method", "difference", "low", "high", "seeds"])


def fig2a(with_fgw, without, classes, seed=42):
    """Fig. 2 a: t-SNE of the class embeddings of runs {seed: tables} with and without L_fgw.

    Columns run, end, class, seed, name, x, y.
    """
    from openTSNE import TSNE
    tables, embeddings = [], []
    for run, runs in (("with", with_fgw), ("without", without)):
        for number, run_tables in runs.items():
            table = run_tables["embeddings"]
            tables.append(table[["end", "class"]].assign(run=run, seed=number))
            embeddings.append(table.filter(regex=r"^d\d+$").to_numpy())
    table = pd.concat(tables, ignore_index=True)
    z = np.concatenate(embeddings)
    tsne = TSNE(perplexity=min(10, (len(z) - 1) / 3), initialization="pca", random_state=seed, n_jobs=1)
    xy = np.asarray(tsne.fit(z))
    names = [classes[c] for c in table["class"]]
    return table[["run", "end", "class", "seed"]].assign(name=names, x=xy[:, 0], y=xy[:, 1])


def fig2b(with_fgw, without, classes):
    """Fig. 2 b: accuracy (percent) of each class on the low end, with and without L_fgw.

    Columns run, seed, class, name, accuracy, n.
    """
    rows = []
    for run, runs in (("with", with_fgw), ("without", without)):
        for seed, tables in runs.items():
            low = tables["predictions"].query("end == 'low'")
            truth = low.truth.to_numpy()
            hit = guess(low) == truth
            for c, label in enumerate(classes):
                rows.append((run, seed, c, label, 100 * hit[truth == c].mean(), (truth == c).sum()))
    return pd.DataFrame(rows, columns=["run", "seed", "class", "name", "accuracy", "n"])
