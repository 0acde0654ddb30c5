"""The tables of Fig. 3: each domain held out in turn, whom the model fails there, and the tests against ours."""
import itertools

import pandas as pd

from .. import stats
from ..cohort import LESION_TYPES
from ..config import CLASSES, MAMMOGRAPHY
from ..methods import ADAPTED, OURS, SHARES
from .common import FOUND, RUN, aucs, contenders, paired_tests, tidy


def fig3_held_out(predictions, held_out, n=1000, seed=42):
    """Fig. 3 a-d: AUC of each method and seed on a domain that it has not seen, with mean and sd over seeds.

    low, high: 95 % bootstrap interval, by patient, of the mean over seeds. Columns method, held_out, seed, auc, mean, sd,
    low, high, images, patients.
    """
    rows, out = contenders(predictions), []
    for method, g in rows[rows.held_out == held_out].groupby("method"):
        wide = g.pivot(index=["sample", "patient", "y"], columns="seed", values="p").dropna()
        y, patient = wide.index.get_level_values("y").to_numpy(), wide.index.get_level_values("patient").to_numpy()
        each = {s: stats.auc(y, wide[s]) for s in wide}
        mean, interval = stats.mean_sd(list(each.values())), stats.bootstrap(stats.auc, y, wide.to_numpy(), patient, n, seed)
        summary = (mean.mean, mean.sd, interval.low, interval.high, len(wide), len(set(patient)))
        out += [(method, held_out, s, a, *summary) for s, a in each.items()]
    return tidy(out, [*RUN, "auc", "mean", "sd", "low", "high", "images", "patients"])


def fig3e(predictions, method=OURS):
    """Fig. 3 e: AUC of our runs, a row a held-out fold, a column a domain: source test patients, or the unseen target."""
    table = aucs(predictions[(predictions.method == method) & (predictions.condition == "source")
                             & predictions.split.isin(["source test", "target"])])
    by = ["held_out", "domain", "split"]
    return tidy([(*key, *stats.mean_sd(g.auc)) for key, g in table.groupby(by)], [*by, "mean", "sd", "seeds"])


def fig3f(predictions):
    """Fig. 3 f: the domain gap of every run: its mean AUC on the source domains' test patients - its AUC on the target.

    Tests against ours over folds and seeds are repeated on each row of a method.
    """
    table = aucs(predictions[(predictions.condition == "source") & predictions.split.isin(["source test", "target"])])
    wide = table.pivot_table(index=RUN, columns="split", values="auc", aggfunc="mean").reindex(columns=["source test", "target"]).dropna()
    gaps = wide.reset_index().rename(columns={"source test": "source_auc", "target": "target_auc"})
    gaps["gap"] = stats.domain_gap(gaps.source_auc, gaps.target_auc)
    return gaps.merge(paired_tests(gaps, "gap", ["held_out", "seed"]), "left")


def fig3g(predictions):
    """Fig. 3 g: AUC of our runs on the target as trained and after each adaptation. Columns held_out, condition, seed, auc."""
    table = aucs(predictions[(predictions.method == OURS) & (predictions.split == "target")])
    return table[["held_out", "condition", "seed", "auc"]]


def fig3h(runs, condition="causal"):
    """Fig. 3 h: entropy (nats) and AUC of our runs by adaptation step; `stopped` marks the step that the label-free rule chose."""
    tables = [run.trajectory.assign(held_out=held_out, seed=seed)
              for (method, held_out, seed), run in runs.items() if method == OURS and run.trajectory is not None]
    columns = ["held_out", "seed", "condition", "step", "entropy", "auc", "stopped"]
    table = pd.concat(tables, ignore_index=True)[columns] if tables else tidy([], columns)
    return table[table.condition == condition].rename(columns={"entropy": "entropy_nats"})


def fig3i(predictions, methods=("mixstyle", OURS), held_outs=("cbis_ddsm", "inbreast")):
    """Fig. 3 i: four-class confusion on the target images whose class is known, added up over seeds.

    Columns method, held_out, truth, predicted, images (0 where none), seeds.
    """
    rows = predictions[(predictions.split == "target") & (predictions.condition == "source") & (predictions.modality != "both")
                       & (predictions.truth >= 0) & predictions.method.isin(methods) & predictions.held_out.isin(held_outs)]
    guess = rows[[f"p{c}" for c in range(len(CLASSES))]].to_numpy().argmax(1)
    cells = itertools.product(range(len(CLASSES)), repeat=2)
    counts = rows.assign(predicted=guess).groupby(["method", "held_out", "truth", "predicted"]).size()
    seeds = rows.groupby(["method", "held_out"])["seed"].nunique()
    return tidy([(*key, t, c, int(counts.get((*key, t, c), 0)), n) for (key, n), (t, c) in itertools.product(seeds.items(), cells)],
                  ["method", "held_out", "truth", "predicted", "images", "seeds"])


def fig3(predictions, runs, n=1000, seed=42):
    """{"fig3a": table, ...}: all panels of Fig. 3. runs: those of ours, for their trajectories; n: bootstrap resamples."""
    shown = ("cbis_ddsm", "camelyon", "inbreast", "bach")                    # the paper's order of panels a to d
    rows = contenders(predictions)
    return {**{f"fig3{k}": fig3_held_out(predictions, d, n, seed) for k, d in zip("abcd", shown)},
            "fig3e": fig3e(predictions), "fig3f": fig3f(predictions), "fig3g": fig3g(predictions),
            "fig3h": fig3h(runs), "fig3i": fig3i(predictions),
            "fig3j": fig3j(rows, n, seed), "fig3k": fig3k(rows, n, seed), "fig3l": fig3l(rows)}


def lodo(predictions):
    """AUC on the unseen domain, mean ± sd over seeds: a row a method, a column a held-out domain, and the mean of those."""
    table = tidy([(*key, stats.auc(g.y, g.p)) for key, g in contenders(predictions).groupby(RUN)], [*RUN, "auc"])
    return table.groupby(["method", "held_out"])["auc"].agg(lambda a: stats.mean_sd(a)).unstack()


def against_ours(predictions):
    """DeLong and McNemar of ours against every method on the unseen patients of each domain, p-values corrected within it.

    A patient's probability of malignancy is the mean over images and over the seeds that both methods have, lest the one with more
    be an ensemble; McNemar compares the calls at 0.5. Columns
    held_out, method, patients, auc_ours, auc, z, p_delong, p_delong_holm, p_delong_bonferroni, chi2, p_mcnemar, ...
    """
    rows, out = contenders(predictions), []
    people = rows.groupby(["held_out", "method", "seed", "patient"]).agg(y=("y", "max"), p=("p", "mean"))
    for held_out, g in people.groupby("held_out"):
        wide, y = g.p.droplevel("held_out").unstack("method"), g.y.droplevel("held_out").groupby("patient").max()
        for method in wide.columns.drop(OURS, errors="ignore") if OURS in wide else ():
            both = wide[[OURS, method]].dropna().groupby("patient").mean()
            truth, ours, other = y[both.index].to_numpy(), both[OURS].to_numpy(), both[method].to_numpy()
            d, m = stats.delong(truth, ours, other), stats.mcnemar(truth, ours >= 0.5, other >= 0.5)
            out.append((held_out, method, len(both), d.auc_p, d.auc_q, d.z, d.p, m.statistic, m.p))
    table = tidy(out, ["held_out", "method", "patients", "auc_ours", "auc", "z", "p_delong", "chi2", "p_mcnemar"])
    for test, (name, correct) in itertools.product(("p_delong", "p_mcnemar"), (("holm", stats.holm), ("bonferroni", stats.bonferroni))):
        table[f"{test}_{name}"] = table.groupby("held_out")[test].transform(lambda p: correct(p)) if len(table) else []
    return table


def verdict(tests, alpha=0.05):
    """What the table of `against_ours` says in words, a sentence a held-out domain. Only a Holm-adjusted DeLong p below alpha
    counts as better or worse; everything else is a tie."""
    sentences = []
    for held_out, g in tests[tests.method != ADAPTED].groupby("held_out"):
        if g.auc.isna().all():
            sentences.append(f"{held_out}: no AUC is defined, since its patients are all malignant or all not.")
            continue
        sure = g.p_delong_holm < alpha
        named = lambda rows: f"{len(rows)} of {len(g)} methods" + (f" ({', '.join(rows.method)})" if len(rows) else "")
        best = g.loc[g.auc.idxmax()]
        sentences.append(f"{held_out}: ours has AUC {best.auc_ours:.3f} and the best of the others, {best.method}, {best.auc:.3f}. "
                         f"It is better than {named(g[sure & (g.z > 0)])}, worse than {named(g[sure & (g.z < 0)])}, "
                         f"and ties with {named(g[~sure])}.")
    return sentences


def _right(y, p):
    """Share of right calls at 0.5, averaged over runs. y (N,), p (N, S)."""
    return float(((p >= 0.5) == (y[:, None] == 1)).mean())


def _read_well(rows, n, seed):
    """Measure, value averaged over seeds, 95 % bootstrap interval by patient, images and patients of decided rows of several seeds.

    The measure is the AUC; where all images are malignant the sensitivity, where none is the specificity, both at 0.5.
    """
    wide = rows.pivot(index=["sample", "patient", "y"], columns="seed", values="p").dropna()
    y, patient = wide.index.get_level_values("y").to_numpy(), wide.index.get_level_values("patient").to_numpy()
    measure = "AUC" if len(set(y)) == 2 else "sensitivity" if y[0] == 1 else "specificity"
    found = stats.bootstrap(stats.auc if measure == "AUC" else _right, y, wide.to_numpy(), patient, n, seed)
    return measure, found.value, found.low, found.high, len(wide), len(set(patient))


def fig3j(rows, n=1000, seed=42, methods=("erm", "ours")):
    """Fig. 3 j: malignant or not within each breast density (A-D, as the report gives it) of the unseen mammography domains.

    Columns method, held_out, density, measure, value, low, high, images, patients; see `_read_well`. Images without density are
    not counted.
    """
    rows = rows[(rows.modality == MAMMOGRAPHY) & rows.method.isin(methods) & (rows.density != "")]
    by = ["method", "held_out", "density"]
    return pd.DataFrame([(*key, *_read_well(g, n, seed)) for key, g in rows.groupby(by)], columns=[*by, "measure", *FOUND])


def fig3k(rows, n=1000, seed=42, methods=("erm", "ours")):
    """Fig. 3 k: malignant images with a lesion of one type against *all* images of the domain without a malignant finding.

    The negatives are the same for every type, so types differ by how their cancers are ranked, and a type without benign lesions
    has an AUC too. Columns method, held_out, lesion_type, measure, value, low, high, images, patients, malignant.
    """
    rows, out = rows[(rows.modality == MAMMOGRAPHY) & rows.method.isin(methods)], []
    for ((method, held_out), g), kind in itertools.product(rows.groupby(["method", "held_out"]), filter(None, LESION_TYPES)):
        of_type = (g.y == 1) & (g.lesion_type == kind)
        if of_type.any():
            malignant = g["sample"][of_type].nunique()
            out.append((method, held_out, kind, *_read_well(g[of_type | (g.y == 0)], n, seed), malignant))
    return pd.DataFrame(out, columns=["method", "held_out", "lesion_type", "measure", *FOUND, "malignant"])


def fig3l(rows):
    """Fig. 3 l: AUC on the unseen domain by share (per cent) of the training patients, a row a run; `mean`, `sd` over a share's runs.

    The sd is over seeds and domains, so most of it is how hard the domains are. Only folds and seeds that every share has run.
    """
    by = ["method", "held_out", "seed"]
    out = [(SHARES[key[0]], *key[1:], stats.auc(g.y, g.p)) for key, g in rows[rows.method.isin(SHARES)].groupby(by)]
    table = pd.DataFrame(out, columns=["share", "held_out", "seed", "auc"]).sort_values(["share", "held_out", "seed"], ignore_index=True)
    table = table.groupby(["held_out", "seed"]).filter(lambda g: len(g) == table.share.nunique()).reset_index(drop=True)
    runs = table.groupby("share")["auc"]
    return table.assign(mean=runs.transform("mean"), sd=runs.transform("std"))
