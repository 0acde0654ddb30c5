"""The tables that the figures are drawn from: runs in, one small tidy table a panel out. A figure needs nothing else.

`predictions` is what `record.collect` returns, `runs` what `runs` here returns. Runs that are missing (a method, a domain,
a seed) are simply not in a table; where none is there the table is empty and its panel says so.
"""
import copy
import itertools
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from . import config, lesions, record, stats
from .adapt import configure
from .cohort import malignant
from .config import CLASSES, DOMAINS, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem
from .files import atomic

BEFORE, CONCAT, OURS, ADAPTED = "mixstyle_irm", "concat", "ours", "ours_tta"   # "before" is ours without its alignment
RUN = ["method", "held_out", "seed"]


def write(table, name, profile):
    """Writes `table` as figures/fig3/fig3f.csv for the name "fig3f", or figures/kmat/kmat_table2.csv for "kmat_table2", atomically;
    returns the path.

    profile: the Profile (or its name) whose runs the numbers are from; the first column, `data`, says phantom or public.
    """
    profile = config.profile(getattr(profile, "name", profile))
    folder = re.fullmatch(r"(fig\d+|table\d+)[a-z]?", name) or re.fullmatch(r"(kmat|mirror|rfpmss|fusion)_\w+", name)
    if not folder:
        raise Problem(f"There is no panel {name!r}; call it like fig3f, fig6, table1 or kmat_table2.")
    path = config.FIGURES / folder[1] / f"{name}.csv"
    table = table.copy()
    table.insert(0, "data", "phantom" if profile.phantom else "public")
    with atomic(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g")
    return path


def runs(profile, methods):
    """{(method, held_out, seed): Run} of the finished runs of these methods. Raises `Problem` where one is damaged."""
    name = getattr(profile, "name", profile)
    found = {}
    for method, held_out in itertools.product(methods, DOMAINS):
        for folder in sorted((config.RUNS / name / method / held_out).glob("seed_*/done")):
            run = record.load_run(folder.parent)
            found[method, held_out, int(run.config["seed"])] = run
    return found


def _table(rows, columns):
    """Rows (dicts) as a table that has its columns also when it is empty."""
    return pd.DataFrame(rows, columns=columns)


def _paired(table, value, by, reference=OURS):
    """Per method: paired t and Wilcoxon p of `value` against the reference method over the rows that share `by`, Holm-adjusted.

    The rows of one fold share their target patients, so these p-values are rather small than large.
    """
    from scipy import stats as dist
    wide = table.pivot_table(index=by, columns="method", values=value)
    rows = []
    for method in wide.columns.drop(reference, errors="ignore"):
        both = wide[[method, reference]].dropna() if reference in wide else wide.iloc[:0]
        gap = both[method] - both[reference] if len(both) else pd.Series(dtype=float)
        testable = len(gap) > 1 and gap.std() > 0
        rows.append((method, len(gap), dist.ttest_1samp(gap, 0).pvalue if testable else np.nan,
                     dist.wilcoxon(gap).pvalue if testable else np.nan))
    tests = pd.DataFrame(rows, columns=["method", "pairs", "p_t", "p_wilcoxon"])
    return tests.assign(p_t_holm=stats.holm(tests.p_t), p_wilcoxon_holm=stats.holm(tests.p_wilcoxon))


# ---- Fig. 2: alignment -------------------------------------------------------------------------------------------

class Pairs(NamedTuple):
    """Patients seen by both modalities: (N,) names, (N,) classes (-1 unknown), (N, D) mean embeddings of unit length."""
    patient: np.ndarray
    truth: np.ndarray
    z_m: np.ndarray
    z_p: np.ndarray


def pairs(embeddings, splits=("validation", "source test")):
    """The `Pairs` of a run's embeddings (a dict of arrays, see `record`) in splits that it was not trained on."""
    e = pd.DataFrame({name: embeddings[name] for name in ("patient", "modality", "truth")})
    keep = np.isin(embeddings["split"], splits)
    z, e = stats.unit(embeddings["z"])[keep], e[keep].reset_index(drop=True)
    rows = {m: e.index[e.modality == m].to_series().groupby(e.patient).agg(list) for m in MODALITIES}
    people = sorted(set(rows[MAMMOGRAPHY].index) & set(rows[HISTOPATHOLOGY].index))
    mean = lambda m: stats.unit(np.array([z[rows[m][p]].mean(0) for p in people]).reshape(len(people), z.shape[1]))
    truth = e.groupby("patient")["truth"].max()
    return Pairs(np.array(people, dtype=str), truth.reindex(people).to_numpy(int), mean(MAMMOGRAPHY), mean(HISTOPATHOLOGY))


def _spread(z, labels):
    """(within, between) class variance of the rows z, summed over dimensions."""
    centre = np.stack([z[labels == c].mean(0) for c in labels])
    return ((z - centre) ** 2).sum(1).mean(), ((centre - z.mean(0)) ** 2).sum(1).mean()


def alignment(p):
    """How well modalities are aligned and classes kept apart in `Pairs`; {} for fewer than two patients of known class.

    On unit vectors: intra-pair cosine; share of the variance that lies between classes; distance between the modalities'
    centroids; mean cosine of an embedding to its class's mean direction; silhouette and Davies-Bouldin index of the
    classes; variance within classes.
    """
    known = p.truth >= 0
    if known.sum() < 2:
        return {}
    z, labels = np.concatenate([p.z_m[known], p.z_p[known]]), np.tile(p.truth[known], 2)
    within, between = _spread(z, labels)
    means = stats.unit(np.stack([z[labels == c].mean(0) for c in labels]))
    return {"intra_pair_similarity": stats.intra_pair_similarity(p.z_m, p.z_p), "class_separability": between / (within + between),
            "modality_gap": stats.modality_gap(p.z_m, p.z_p), "cluster_compactness": float((z * means).sum(1).mean()),
            "silhouette": stats.silhouette(z, labels), "davies_bouldin": stats.davies_bouldin(z, labels),
            "intra_class_variance": within}


def fig2_map(p, how, seed=42):
    """Fig. 2 a-d: both embeddings of every patient in the plane. how: "umap" or "tsne" (arbitrary units), cosine distances.

    Columns patient, modality, truth, x, y. Fewer than 5 patients: empty, as there is no neighbourhood to draw.
    """
    columns = ["patient", "modality", "truth", "x", "y"]
    if len(p.patient) < 5:
        return _table([], columns)
    z = np.concatenate([p.z_m, p.z_p])
    if how == "umap":
        import umap
        xy = umap.UMAP(n_neighbors=min(15, len(z) - 1), metric="cosine", random_state=seed, n_jobs=1).fit_transform(z)
    else:
        import openTSNE
        xy = np.asarray(openTSNE.TSNE(perplexity=min(30, (len(z) - 1) / 3), metric="cosine", random_state=seed, n_jobs=1).fit(z))
    return pd.DataFrame({"patient": np.tile(p.patient, 2), "modality": np.repeat(MODALITIES, len(p.patient)),
                         "truth": np.tile(p.truth, 2), "x": xy[:, 0], "y": xy[:, 1]})


def fig2e(p, per_class=25):
    """Fig. 2 e: cosine of every mammogram to every tissue embedding, at most `per_class` patients a class, ordered by class."""
    order = [i for c in range(len(CLASSES)) for i in np.flatnonzero(p.truth == c)[:per_class]]
    similarity = p.z_m[order] @ p.z_p[order].T
    return _table([(i, j, p.truth[a], p.truth[b], similarity[i, j]) for i, a in enumerate(order) for j, b in enumerate(order)],
                  ["mammogram", "tissue", "truth_mammogram", "truth_tissue", "cosine"])


def fig2f(runs):
    """Fig. 2 f: the measures of `alignment` of every run, and `modality_gap_reduction`, 1 - gap / gap before alignment.

    runs: {(method, held_out, seed): Run}. Columns method, held_out, seed, measure, value; p_t is the paired t-test of the
    method against ours over folds and seeds.
    """
    values = {key: alignment(pairs(run.embeddings)) for key, run in runs.items() if key[0] in (BEFORE, CONCAT, OURS)}
    for (method, held_out, seed), measures in values.items():
        before = values.get((BEFORE, held_out, seed))
        if measures and before:
            measures["modality_gap_reduction"] = 1 - measures["modality_gap"] / before["modality_gap"]
    table = _table([(*key, name, value) for key, measures in values.items() for name, value in measures.items()], [*RUN, "measure", "value"])
    tests = [_paired(part, "value", ["held_out", "seed"]).assign(measure=name) for name, part in table.groupby("measure")]
    return table.merge(pd.concat(tests)[["method", "measure", "p_t"]], "left") if tests else table.assign(p_t=np.nan)


def fig2(runs, seed=42):
    """{"fig2a": table, ...}: maps and matrix of one fold (the first of ours), measures of all. What did not run is empty."""
    fold = next((key[1:] for key in runs if key[0] == OURS), None)
    nobody = Pairs(np.array([], str), np.array([], int), np.zeros((0, 1)), np.zeros((0, 1)))
    before, ours = (pairs(runs[m, *fold].embeddings) if fold and (m, *fold) in runs else nobody for m in (BEFORE, OURS))
    flat = fig2_map(before, "umap", seed)
    return {"fig2a": flat, "fig2b": fig2_map(ours, "tsne", seed), "fig2c": flat, "fig2d": fig2_map(ours, "umap", seed),
            "fig2e": fig2e(ours), "fig2f": fig2f(runs)}


# ---- Fig. 3: leave one domain out --------------------------------------------------------------------------------

def decided(predictions):
    """Rows of a single modality whose label says malignant or not, with columns `y` (0/1) and `p` = p2 + p3."""
    rows = predictions[predictions.modality != "both"]
    rows = rows.assign(y=malignant(rows.allowed), p=rows.p2 + rows.p3)
    return rows[rows.y.notna()]


def contenders(predictions):
    """Decided target rows of every method as trained, and of ours after causal adaptation as the method `ours_tta`."""
    rows = decided(predictions[predictions.split == "target"])
    adapted = rows[(rows.method == OURS) & (rows.condition == "causal")].assign(method=ADAPTED)
    return pd.concat([rows[rows.condition == "source"], adapted], ignore_index=True)


def aucs(predictions):
    """AUC (malignant or not, by image) of every run, condition, split and domain. Columns method, held_out, seed, condition,
    split, domain, auc, images, patients."""
    by = [*RUN, "condition", "split", "domain"]
    return _table([(*key, stats.auc(g.y, g.p), len(g), g.patient.nunique()) for key, g in decided(predictions).groupby(by)],
                  [*by, "auc", "images", "patients"])


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
    return _table(out, [*RUN, "auc", "mean", "sd", "low", "high", "images", "patients"])


def fig3e(predictions, method=OURS):
    """Fig. 3 e: AUC of our runs, a row a held-out fold, a column a domain: source test patients, or the unseen target."""
    table = aucs(predictions[(predictions.method == method) & (predictions.condition == "source")
                             & predictions.split.isin(["source test", "target"])])
    by = ["held_out", "domain", "split"]
    return _table([(*key, *stats.mean_sd(g.auc)) for key, g in table.groupby(by)], [*by, "mean", "sd", "seeds"])


def fig3f(predictions):
    """Fig. 3 f: the domain gap of every run: its mean AUC on the source domains' test patients - its AUC on the target.

    Tests against ours over folds and seeds are repeated on each row of a method.
    """
    table = aucs(predictions[(predictions.condition == "source") & predictions.split.isin(["source test", "target"])])
    wide = table.pivot_table(index=RUN, columns="split", values="auc", aggfunc="mean").reindex(columns=["source test", "target"]).dropna()
    gaps = wide.reset_index().rename(columns={"source test": "source_auc", "target": "target_auc"})
    gaps["gap"] = stats.domain_gap(gaps.source_auc, gaps.target_auc)
    return gaps.merge(_paired(gaps, "gap", ["held_out", "seed"]), "left")


def fig3g(predictions):
    """Fig. 3 g: AUC of our runs on the target as trained and after each adaptation. Columns held_out, condition, seed, auc."""
    table = aucs(predictions[(predictions.method == OURS) & (predictions.split == "target")])
    return table[["held_out", "condition", "seed", "auc"]]


def fig3h(runs, condition="causal"):
    """Fig. 3 h: entropy (nats) and AUC of our runs by adaptation step; `stopped` marks the step that the label-free rule chose."""
    tables = [run.trajectory.assign(held_out=held_out, seed=seed)
              for (method, held_out, seed), run in runs.items() if method == OURS and run.trajectory is not None]
    columns = ["held_out", "seed", "condition", "step", "entropy", "auc", "stopped"]
    table = pd.concat(tables, ignore_index=True)[columns] if tables else _table([], columns)
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
    return _table([(*key, t, c, int(counts.get((*key, t, c), 0)), n) for (key, n), (t, c) in itertools.product(seeds.items(), cells)],
                  ["method", "held_out", "truth", "predicted", "images", "seeds"])


def fig3(predictions, runs, n=1000, seed=42):
    """{"fig3a": table, ...}: all panels of Fig. 3. runs: those of ours, for their trajectories; n: bootstrap resamples."""
    shown = ("cbis_ddsm", "camelyon", "inbreast", "bach")                    # the paper's order of panels a to d
    rows = contenders(predictions)
    return {**{f"fig3{k}": fig3_held_out(predictions, d, n, seed) for k, d in zip("abcd", shown)},
            "fig3e": fig3e(predictions), "fig3f": fig3f(predictions), "fig3g": fig3g(predictions),
            "fig3h": fig3h(runs), "fig3i": fig3i(predictions),
            "fig3j": lesions.fig3j(rows, n, seed), "fig3k": lesions.fig3k(rows, n, seed), "fig3l": lesions.fig3l(rows)}


# ---- tests, and the table of methods -----------------------------------------------------------------------------

def lodo(predictions):
    """AUC on the unseen domain, mean ± sd over seeds: a row a method, a column a held-out domain, and the mean of those."""
    table = _table([(*key, stats.auc(g.y, g.p)) for key, g in contenders(predictions).groupby(RUN)], [*RUN, "auc"])
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
    table = _table(out, ["held_out", "method", "patients", "auc_ours", "auc", "z", "p_delong", "chi2", "p_mcnemar"])
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


# ---- Fig. 6 and Table 1: the model and the objective -------------------------------------------------------------

def fig6_table(model):
    """Fig. 6 from the model object: a row a part, in the order in which data pass. model: `model.CrossModal`, left unchanged.

    Columns name, kind (input, shared, own, head), count (how many alike), parameters, trainable, adapted (of which test-time
    adaptation changes), inputs (the parts that feed it), shape (of its output, B images; measured by a forward pass).
    """
    import torch
    model = copy.deepcopy(model).cpu().eval()
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    adapted = {id(p) for p in configure(model, "causal")}
    e, (m, h) = model.encoder, MODALITIES
    parts = [("patch embedding", "shared", [e.patch_embed], "mammogram, histology tile"),
             ("transformer blocks", "shared", e.blocks, "patch embedding")]
    parts += [(f"{a} adapters", "own", model.adapters[a], "transformer blocks") for a in MODALITIES]
    parts += [("layer norm", "shared", [e.norm], f"{m} adapters, {h} adapters")]
    parts += [(f"{a} neck", "own", [model.necks[a]], "layer norm") for a in MODALITIES]
    parts += [("classification", "head", [model.classify], f"{m} neck, {h} neck"), ("grading", "head", [model.grade], f"{m} neck, {h} neck"),
              ("lesion mask", "head", [model.decoder], "layer norm")]
    tokens = torch.nn.ParameterList(p for name, p in e.named_parameters() if "." not in name)   # class token, positions
    shapes, side = {}, e.patch_embed.img_size[0]
    for name, _, modules, _ in parts:
        modules[-1].register_forward_hook(lambda module, _, out, name=name: shapes.update({name: ("B", *out.shape[1:])}))
    with torch.no_grad():
        model({m: torch.zeros(2, side, side, dtype=torch.uint8), h: torch.zeros(2, side, side, 3, dtype=torch.uint8)})
    size = lambda modules, known=None: sum(p.numel() for x in modules for p in x.parameters() if known is None or id(p) in known)
    rows = [("mammogram", "input", 1, 0, 0, 0, "", f"B x {side} x {side}"),
            ("histology tile", "input", 1, 0, 0, 0, "", f"B x {side} x {side} x 3")]
    for name, kind, modules, inputs in parts:
        whole = [*modules, tokens] if name == "patch embedding" else modules
        sizes = (size(whole), size(whole, trainable), size(whole, adapted))
        rows.append((name, kind, len(modules), *sizes, inputs, " x ".join(map(str, shapes[name]))))
    return _table(rows, ["name", "kind", "count", "parameters", "trainable", "adapted", "inputs", "shape"])


def table1(objective):
    """Table 1 from the loss object: component, objective, equation, supervision, weight."""
    return _table(objective.table(), ["component", "objective", "equation", "supervision", "weight"])
