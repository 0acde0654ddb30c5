"""Which run, and which of its steps, counts: model selection that never sees the target, and the oracle that
does.

Source: Gulrajani and Lopez-Paz 2021, "In search of lost domain generalization", section 3.
"""
import pandas as pd

from ..config import Problem

HOW = ("training-domain", "leave-one-domain-out", "oracle")
COLUMNS = ("trial", "run", "held_out", "step", "domain", "score", "validation")


def _left_out_scores(pairs, target, seen):
    """(run, step) -> mean over the domains `seen` of the score of the run that held it out beside the target.

    Only steps at which the run of every such domain has a score.
    """
    also_held_out = []
    for held_out, domain in zip(pairs.held_out, pairs.domain):
        also_held_out.append(target in held_out and domain in held_out and domain != target)
    pairs = pairs[pd.Series(also_held_out, pairs.index, dtype=bool)]
    scores = pairs.groupby(["run", "step"])["score"].agg(["mean", "size"])
    return scores.loc[scores["size"] == len(seen), "mean"]


def _candidates(runs, pairs, target, how):
    """(run, step) -> `validation`, what is selected by, and `score` on the target, of the runs of one trial.

    runs: those that held out the target alone; pairs: those that held out two domains.
    """
    on_target = runs[runs.domain == target].set_index(["run", "step"])
    if how == "oracle":                                     # sees the target, and so may not choose a step
        last = on_target.reset_index().groupby("run")["step"].transform("max").to_numpy()
        is_last = on_target.index.get_level_values("step") == last
        return on_target.loc[is_last, ["validation", "score"]]
    if how == "training-domain":
        validation = runs[runs.domain != target].groupby(["run", "step"])["validation"].mean()
    else:
        validation = _left_out_scores(pairs, target, set(runs.domain) - {target})
    return on_target[["score"]].assign(validation=validation).dropna()


def select(records, how="training-domain"):
    """The selected run and step of every trial and target domain.

    A frame: trial, target, run, step, validation, score.

    records: one row per measurement, with columns trial (a repetition), run (a configuration: the same in all
    its folds), held_out (a tuple of the domains it did not see), step, domain, score (on the domain's larger
    part) and validation (on the part set aside of it).

    how: "training-domain", the mean `validation` over the domains seen, at the best step;
    "leave-one-domain-out", the mean `score` on each domain seen of the run of the same configuration that
    held it out too, at the same step, so that steps at which one is missing are out; "oracle", `validation`
    on the target, last step only. Of equals the earliest run and step.

    Raises `Problem` where a column, a number or a run that the rule needs is missing, or a measurement comes
    twice.
    """
    if how not in HOW:
        raise Problem(f"There is no selection {how!r}; choose one of {', '.join(HOW)}.")
    if missing := set(COLUMNS) - set(records.columns):
        raise Problem(f"The records have no column {sorted(missing)[0]!r}; they need {', '.join(COLUMNS)}.")
    twice = records.duplicated(["trial", "run", "held_out", "step", "domain"]).any()
    if records[list(COLUMNS)].isna().any(axis=None) or twice:
        raise Problem("The records hold NaN, or one measurement twice; drop what is not finished.")
    domains_held_out = records.held_out.map(len)
    rows = []
    for (trial, (target,)), runs in records[domains_held_out == 1].groupby(["trial", "held_out"]):
        pairs = records[(domains_held_out == 2) & (records.trial == trial)]
        candidates = _candidates(runs, pairs, target, how).sort_index()
        if candidates.empty:
            raise Problem(f"Nothing to select by {how} for target {target} of trial {trial}; runs, or those "
                          "that hold out one more domain at the same steps, are missing.")
        run, step = candidates["validation"].idxmax()
        best = candidates.loc[(run, step)]
        rows.append((trial, target, run, step, best["validation"], best["score"]))
    return pd.DataFrame(rows, columns=["trial", "target", "run", "step", "validation", "score"])
