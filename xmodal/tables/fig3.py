"""The tables of Fig. 3: each domain held out in turn (a-i), and whom the model fails there (j-l)."""
import itertools

import pandas as pd

from .. import stats
from ..cohort import LESION_TYPES
from ..config import CLASSES, DOMAINS, MAMMOGRAPHY, PAPER_ORDER
from ..methods import ADAPTED, OURS, SHARES, UNTOUCHED
from .adaptation import gains
from .common import ESTIMATE, FOLD_AND_SEED, RUN, adjusted, aucs, contenders, paired_tests, tidy

SHOWN_BESIDE = (UNTOUCHED, "mixstyle", OURS)                # in i to k; the paper shows MixStyle and ours
BREASTS = tuple(name for name, modality in DOMAINS.items() if modality == MAMMOGRAPHY)


def _by_seed(rows):
    """Decided rows of several seeds -> (N,) labels, (N, seeds) scores, (N,) patients.

    Of the images that all seeds have.
    """
    wide = rows.pivot(index=["sample", "patient", "y"], columns="seed", values="p").dropna()
    y = wide.index.get_level_values("y").to_numpy()
    return y, wide, wide.index.get_level_values("patient").to_numpy()


# ---- a-i: each domain held out in turn -------------------------------------------------------------------

def fig3_held_out(predictions, held_out, n=1000, seed=42):
    """Fig. 3 a-d: AUC of each method and seed on a domain that it has not seen, with mean and sd over seeds.

    low, high: 95 % bootstrap interval, by patient, of the mean over seeds. Columns method, held_out, seed,
    auc, mean, sd, low, high, images, patients.
    """
    unseen = contenders(predictions)
    rows = []
    for method, group in unseen[unseen.held_out == held_out].groupby("method"):
        y, p, patient = _by_seed(group)
        auc_of_seed = {each: stats.auc(y, p[each]) for each in p}
        mean = stats.mean_sd(list(auc_of_seed.values()))
        interval = stats.bootstrap(stats.auc, y, p.to_numpy(), patient, n, seed)
        summary = (mean.mean, mean.sd, interval.low, interval.high, len(p), len(set(patient)))
        rows += [(method, held_out, each, auc, *summary) for each, auc in auc_of_seed.items()]
    return tidy(rows, [*RUN, "auc", "mean", "sd", "low", "high", "images", "patients"])


def _as_trained(predictions):
    """The rows without adaptation of patients who were not trained on: source test, and the unseen target."""
    rows = predictions[predictions.condition == "source"]
    return rows[rows.split.isin(["source test", "target"])]


def fig3e(predictions, method=OURS):
    """Fig. 3 e: AUC of our runs by held-out fold and domain.

    It is on the source test patients of a domain, or on the unseen target.
    Columns held_out, domain, split, mean, sd, seeds.
    """
    table = aucs(_as_trained(predictions[predictions.method == method]))
    by = ["held_out", "domain", "split"]
    rows = [(*key, *stats.mean_sd(group.auc)) for key, group in table.groupby(by)]
    return tidy(rows, [*by, "mean", "sd", "seeds"])


def fig3f(predictions):
    """Fig. 3 f: the domain gap of every run.

    That is its mean AUC on the source domains' test patients - its AUC on the target; `ours_tta` is ours
    adapted to the target. `paired_tests` against ours, over folds, are repeated on each row of a method;
    p_t_holm is adjusted over all methods.
    """
    ours = predictions[predictions.method == OURS]
    adapted = ours[ours.condition.eq("causal") | ours.split.eq("source test")].assign(method=ADAPTED)
    table = aucs(pd.concat([_as_trained(predictions), adapted], ignore_index=True))
    wide = table.pivot_table(index=RUN, columns="split", values="auc", aggfunc="mean")
    wide = wide.reindex(columns=["source test", "target"]).dropna()
    gaps = wide.reset_index().rename(columns={"source test": "source_auc", "target": "target_auc"})
    gaps["gap"] = stats.domain_gap(gaps.source_auc, gaps.target_auc)
    tests = adjusted(paired_tests(gaps, "gap"), ["p_t"], "Holm over all methods against ours")
    return gaps.merge(tests, "left")


def fig3g(predictions):
    """Fig. 3 g: AUC of our runs on the target as trained and after each adaptation.

    Columns held_out, condition, seed, auc, and the tests of `adaptation.gains`, repeated on each row.
    """
    ours = predictions[(predictions.method == OURS) & (predictions.split == "target")]
    tests = gains(ours).drop(columns=["method", "auc_source", "auc"])
    return aucs(ours)[["held_out", "condition", "seed", "auc"]].merge(tests, "left", "condition")


def fig3h(runs, condition="causal"):
    """Fig. 3 h: entropy and diversity (nats) and AUC of our runs by adaptation step.

    Read on so many `probe_images`. `stopped` marks the step that the label-free rule chose.
    """
    columns = [*FOLD_AND_SEED, "condition", "step", "entropy", "diversity", "auc", "probe_images", "stopped"]
    tables = []
    for (method, held_out, seed), run in runs.items():
        if method == OURS and run.trajectory is not None:
            tables.append(run.trajectory.assign(held_out=held_out, seed=seed))
    table = pd.concat(tables, ignore_index=True)[columns] if tables else tidy([], columns)
    return table[table.condition == condition].rename(columns={"entropy": "entropy_nats"})


def fig3i(predictions, methods=SHOWN_BESIDE, held_outs=BREASTS):
    """Fig. 3 i: four-class confusion on the target images whose class is known, added up over seeds.

    Columns method, held_out, truth, predicted, images (0 where there are none), seeds.
    """
    rows = predictions[predictions.method.isin(methods) & predictions.held_out.isin(held_outs)]
    rows = rows[(rows.split == "target") & (rows.condition == "source")]
    rows = rows[(rows.modality != "both") & (rows.truth >= 0)]
    predicted = rows[[f"p{c}" for c in range(len(CLASSES))]].to_numpy().argmax(1)
    counts = rows.assign(predicted=predicted).groupby(["method", "held_out", "truth", "predicted"]).size()
    cells = []
    for (method, held_out), seeds in rows.groupby(["method", "held_out"])["seed"].nunique().items():
        for truth, called in itertools.product(range(len(CLASSES)), repeat=2):
            images = int(counts.get((method, held_out, truth, called), 0))
            cells.append((method, held_out, truth, called, images, seeds))
    return tidy(cells, ["method", "held_out", "truth", "predicted", "images", "seeds"])


# ---- j-l: whom the model fails. rows: what `contenders` returns ------------------------------------------

def _share_right(y, p):
    """Share of right calls at 0.5, averaged over runs. y (N,), p (N, S)."""
    return float(((p >= 0.5) == (y[:, None] == 1)).mean())


def _read_well(rows, n, seed):
    """How well decided rows of several seeds are told apart: (measure, value, low, high, images, patients).

    The value is averaged over seeds, with its 95 % bootstrap interval by patient. The measure is the AUC;
    where all images are malignant the sensitivity, where none is the specificity, both at 0.5.
    """
    y, p, patient = _by_seed(rows)
    metric = _share_right
    if len(set(y)) == 2:
        measure, metric = "AUC", stats.auc
    elif y[0] == 1:
        measure = "sensitivity"
    else:
        measure = "specificity"
    interval = stats.bootstrap(metric, y, p.to_numpy(), patient, n, seed)
    return measure, interval.value, interval.low, interval.high, len(p), len(set(patient))


def fig3j(rows, n=1000, seed=42, methods=SHOWN_BESIDE):
    """Fig. 3 j: malignant or not within each breast density (A-D, as the report gives it).

    Of the unseen mammography domains; images without density are not counted. Columns method, held_out,
    density, measure, value, low, high, images, patients; see `_read_well`.
    """
    rows = rows[(rows.modality == MAMMOGRAPHY) & rows.method.isin(methods) & (rows.density != "")]
    by = ["method", "held_out", "density"]
    strata = [(*key, *_read_well(group, n, seed)) for key, group in rows.groupby(by)]
    return tidy(strata, [*by, "measure", *ESTIMATE])


def fig3k(rows, n=1000, seed=42, methods=SHOWN_BESIDE):
    """Fig. 3 k: malignant images with a lesion of one type against *all* images that are not malignant.

    The negatives are the same for every type, so types differ by how their cancers are ranked, and a type
    without benign lesions has an AUC too. Columns method, held_out, lesion_type, measure, value, low, high,
    images, patients, malignant.
    """
    rows = rows[(rows.modality == MAMMOGRAPHY) & rows.method.isin(methods)]
    strata = []
    for (method, held_out), group in rows.groupby(["method", "held_out"]):
        for lesion_type in filter(None, LESION_TYPES):
            of_type = (group.y == 1) & (group.lesion_type == lesion_type)
            if of_type.any():
                estimate = _read_well(group[of_type | (group.y == 0)], n, seed)
                strata.append((method, held_out, lesion_type, *estimate, group["sample"][of_type].nunique()))
    return tidy(strata, ["method", "held_out", "lesion_type", "measure", *ESTIMATE, "malignant"])


def fig3l(rows):
    """Fig. 3 l: AUC on the unseen domain by share (per cent) of the training patients.

    One row per run; `mean` over a share's runs, `sd` over seeds and domains: most of it is how hard the
    domains are, so that it is no interval. Only folds and seeds that every share has run.
    """
    of_runs = []
    for (method, held_out, seed), group in rows[rows.method.isin(SHARES)].groupby(RUN):
        of_runs.append((SHARES[method], held_out, seed, stats.auc(group.y, group.p)))
    columns = ["share", *FOLD_AND_SEED]
    table = tidy(of_runs, [*columns, "auc"]).sort_values(columns, ignore_index=True)
    complete = table.groupby(FOLD_AND_SEED).filter(lambda group: len(group) == table.share.nunique())
    complete = complete.reset_index(drop=True)
    auc_of_share = complete.groupby("share")["auc"]
    return complete.assign(mean=auc_of_share.transform("mean"), sd=auc_of_share.transform("std"))


def fig3_tables(predictions, runs, n=1000, seed=42):
    """{"fig3a": table, ...}: all panels of Fig. 3.

    runs: those of ours, for their trajectories; n: bootstrap resamples.
    """
    tables = {}
    for letter, held_out in zip("abcd", PAPER_ORDER):
        tables[f"fig3{letter}"] = fig3_held_out(predictions, held_out, n, seed)
    rows = contenders(predictions)
    return {**tables, "fig3e": fig3e(predictions), "fig3f": fig3f(predictions), "fig3g": fig3g(predictions),
            "fig3h": fig3h(runs), "fig3i": fig3i(predictions),
            "fig3j": fig3j(rows, n, seed), "fig3k": fig3k(rows, n, seed), "fig3l": fig3l(rows)}
