"""Which method is better on domains that none has seen: paired differences, and what they say in words.

A word needs a difference with its interval beside it. *Better* and *worse*: the p-value, adjusted over the
whole table, lies below ALPHA. *Tie*: the whole interval lies within EQUIVALENT. Everything else is *not
distinguished*, which is no proof that two methods are equal.
"""
import numpy as np
import pandas as pd
from scipy.stats import norm

from .. import stats
from ..methods import ADAPTED, BASELINE_LABELS, COMPARED, METHOD_LABELS, OURS, UNTOUCHED
from ..metrics.weighted import interval
from .common import RUN, adjusted, contenders, tidy

ALPHA = 0.05
EQUIVALENT = 0.03           # of AUC, the drop that the paper states for itself
LABELS = METHOD_LABELS | BASELINE_LABELS


def word(difference, low, high, p, margin=EQUIVALENT):
    """"better", "worse", "tie" (within the margin) or "not distinguished", see above; "" without a p."""
    if np.isnan(p):
        return ""
    if p < ALPHA:
        return "better" if difference > 0 else "worse"
    if -margin < low and high < margin:
        return "tie"
    return "not distinguished"


def worded(tests, p, columns=("difference", "low", "high")):
    """The `word` of every row of a table, by its columns of the difference with its interval, and of p."""
    return [word(*row) for row in tests[[*columns, p]].to_numpy(float)]


def signed(difference, low, high):
    """"+0.02 [-0.01, +0.05]"."""
    return f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


def several(n, what):
    """"1 method", "4 methods"."""
    return f"{n} {what}" + ("s" if n != 1 else "")


# ---- domain by domain ------------------------------------------------------------------------------------

def lodo(predictions):
    """AUC on the unseen domain, mean ± sd over seeds: one row per method, one column per held-out domain."""
    rows = [(*key, stats.auc(group.y, group.p)) for key, group in contenders(predictions).groupby(RUN)]
    table = tidy(rows, [*RUN, "auc"])
    return table.groupby(["method", "held_out"])["auc"].agg(lambda auc: stats.mean_sd(auc)).unstack()


def _on_the_same_images(ours, other):
    """Decided rows of two methods -> (N,) labels, (N, S) scores of both, (N,) patients.

    Of the seeds that both have, and of the images that all of those have.
    """
    both = ours.merge(other[["sample", "seed", "p"]], on=["sample", "seed"], suffixes=("_ours", "_other"))
    columns = ["p_ours", "p_other"]
    wide = both.pivot(index=["sample", "patient", "y"], columns="seed", values=columns).dropna()
    y = wide.index.get_level_values("y").to_numpy()
    scores = [wide[column].to_numpy() for column in columns]
    return y, *scores, wide.index.get_level_values("patient").to_numpy()


def _patients_called(y, p, patient):
    """Labels of the patients, and whether the mean probability over their images and the seeds is 0.5 or
    more."""
    people = pd.DataFrame({"y": y, "p": p.mean(1)}).groupby(patient).agg({"y": "max", "p": "mean"})
    return people.y.to_numpy(), people.p.to_numpy() >= 0.5


def against_ours(predictions):
    """DeLong and McNemar of ours against every method on the unseen patients of each domain.

    AUC is by image and its mean over the seeds that both methods have, as in `lodo`; its test and the
    interval of the difference count patients (Obuchowski 1997). McNemar compares one call for each patient,
    at 0.5 of the mean probability over images and seeds. p-values are adjusted over all domains and methods.
    Columns held_out, method, images, patients, auc_ours, auc, difference (ours less the other), low, high, z,
    p_delong, chi2, p_mcnemar, p_delong_holm, p_delong_bonferroni, ..., family, word (of ours).
    """
    rows = contenders(predictions)
    tests = []
    for held_out, group in rows.groupby("held_out"):
        ours = group[group.method == OURS]
        for method, other in group[group.method != OURS].groupby("method"):
            if not set(ours.seed) & set(other.seed):
                continue
            y, p_ours, p_other, patient = _on_the_same_images(ours, other)
            delong = stats.delong(y, p_ours, p_other, patient)
            truth, called_ours = _patients_called(y, p_ours, patient)
            mcnemar = stats.mcnemar(truth, called_ours, _patients_called(y, p_other, patient)[1])
            tests.append((held_out, method, len(y), len(truth), delong.auc_p, delong.auc_q,
                          delong.auc_p - delong.auc_q, delong.low, delong.high, delong.z, delong.p,
                          mcnemar.statistic, mcnemar.p))
    columns = ["held_out", "method", "images", "patients", "auc_ours", "auc", "difference", "low", "high",
               "z", "p_delong", "chi2", "p_mcnemar"]
    table = adjusted(tidy(tests, columns), ["p_delong", "p_mcnemar"],
                     "Holm over all domains and methods against ours")
    for p in ("p_delong", "p_mcnemar"):
        table[f"{p}_bonferroni"] = stats.bonferroni(table[p])
    return table.assign(word=worded(table, "p_delong_holm"))


def _counted(group, called):
    """"2 of 9 methods (ERM +0.05 [...], IRM ...)": the rows of a group with a word, by their differences."""
    rows = group[group.word == called]
    text = f"{len(rows)} of {several(len(group), 'method')}"
    if called == "not distinguished" or rows.empty:
        return text
    differences = [signed(*row) for row in rows[["difference", "low", "high"]].to_numpy()]
    listed = [f"{LABELS[method]} {shown}" for method, shown in zip(rows.method, differences)]
    return f"{text} ({'; '.join(listed)})"


def verdict(tests):
    """What the table of `against_ours` says in words, one sentence per held-out domain.

    With the difference and its interval behind each word; those that are not distinguished are counted.
    """
    sentences = []
    for held_out, group in tests[tests.method != ADAPTED].groupby("held_out"):
        if group.auc.isna().all():
            sentences.append(f"{held_out}: no AUC is defined, "
                             "since its patients are all malignant or all not.")
            continue
        sentences.append(
            f"{held_out}: ours is better than {_counted(group, 'better')}, "
            f"worse than {_counted(group, 'worse')}, within ±{EQUIVALENT} of {_counted(group, 'tie')}, "
            f"and not distinguished from {_counted(group, 'not distinguished')}.")
    return sentences


# ---- all unseen domains together -------------------------------------------------------------------------

def _aucs_of_resamples(predictions, n, seed):
    """{method: {(held_out, seed): (1 + n,)}} AUCs on the unseen domain, on the data and on n resamples.

    Resampled are patients, the same ones in all domains and methods.
    """
    rows = contenders(predictions)
    people, patient = np.unique(rows.patient.to_numpy(str), return_inverse=True)
    drawn = stats.draws(len(people), n, seed)
    taken = np.concatenate([np.ones((1, len(people)), int), drawn])
    aucs = {}
    for (method, *fold_and_seed), index in rows.groupby(RUN).indices.items():
        run = rows.iloc[index]
        values = stats.auc_by_group(run.y.to_numpy() == 1, run.p.to_numpy(), patient[index], taken)
        aucs.setdefault(method, {})[tuple(fold_and_seed)] = values
    return aucs


def _over_domains(of_runs, runs):
    """(1 + n,) AUCs of `runs`, averaged over the seeds of a domain and then over the domains."""
    table = pd.DataFrame({run: of_runs[run] for run in runs}).T
    return table.groupby(level=0).mean().mean().to_numpy()


def normal_p(values):
    """Two-sided p of (1 + n,) a difference on the data and on n resamples, whose sd is its standard error.

    NaN where the resamples do not vary.
    """
    varied = pd.Series(values[1:]).std()
    return float(2 * norm.sf(abs(values[0] / varied))) if varied > 1e-12 else np.nan


def _difference(a, b):
    """Mean AUC of one method less that of another over the runs that both have: value, low, high, p."""
    runs = sorted(set(a) & set(b))
    if not runs:
        return [np.nan] * 4
    values = _over_domains(a, runs) - _over_domains(b, runs)
    return [*interval(values), normal_p(values)]


def unseen_means(predictions, n=1000, seed=42):
    """Mean AUC of every method over its unseen domains, less that of UNTOUCHED, and less that of ours.

    By image, averaged over seeds, then over domains; differences are over the folds and seeds that both have.
    Intervals (95 %) resample patients in all domains and methods at once. Columns method, domains, runs, auc,
    low, high, and for `untouched` and for `ours` minus_*, *_low, *_high, p_*, p_*_holm (over all methods).
    """
    aucs = _aucs_of_resamples(predictions, n, seed)
    rows = []
    for method, of_runs in aucs.items():
        row = {"method": method, "domains": len({held_out for held_out, _ in of_runs}), "runs": len(of_runs)}
        row |= dict(zip(("auc", "low", "high"), interval(_over_domains(of_runs, list(of_runs)))))
        for name, reference in (("untouched", UNTOUCHED), ("ours", OURS)):
            against = {} if method == reference else aucs.get(reference, {})
            columns = (f"minus_{name}", f"{name}_low", f"{name}_high", f"p_{name}")
            row |= dict(zip(columns, _difference(of_runs, against)))
        rows.append(row)
    columns = ["method", "domains", "runs", "auc", "low", "high"]
    for name in ("untouched", "ours"):
        columns += [f"minus_{name}", f"{name}_low", f"{name}_high", f"p_{name}"]
    table = tidy(rows, columns)
    for name in ("untouched", "ours"):
        table = adjusted(table, [f"p_{name}"], "Holm over all methods")
    return table


def first_sentence(means):
    """What comes first of all results: whether training beats the pretrained encoder as it is.

    means: the table of `unseen_means`. Of the methods of Fig. 3.
    """
    trained = means[means.method.isin(COMPARED)].dropna(subset=["minus_untouched"])
    if trained.empty:
        return (f"Whether training beats the pretrained encoder untouched is not known: runs of {UNTOUCHED}, "
                "or of all methods, are missing.")
    columns = ["minus_untouched", "untouched_low", "untouched_high"]
    trained = trained.assign(word=worded(trained, "p_untouched_holm", columns)).sort_values("auc")
    texts = pd.Series(
        [f"{LABELS[method]} {auc:.3f}, {signed(*difference)}" for method, auc, *difference in
         trained[["method", "auc", *columns]].itertuples(index=False)], trained.method.to_list(), dtype=str)
    auc = means.set_index("method").auc[UNTOUCHED]
    text = f"{LABELS[UNTOUCHED]}: mean AUC {auc:.3f} on the unseen domains"
    of_all = several(len(trained), "trained method")
    called = trained.set_index("method").word
    worse = f"{(called == 'worse').sum()} are worse"
    of_ours = f" {texts[OURS]}: {called[OURS] or 'no difference'}." if OURS in texts else ""
    better = texts[(called == "better").to_numpy()]
    if len(better):
        return (f"Training beats doing nothing ({text}) with {len(better)} of {of_all}: "
                f"{'; '.join(better)}; {worse}.{of_ours}")
    return (f"Training does not beat doing nothing ({text}): none of {of_all} is better, {worse}, "
            f"and the highest is {texts.iloc[-1]}.{of_ours}")
