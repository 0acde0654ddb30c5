"""Which run, and which of its steps, counts: model selection that never sees the target, and the oracle that does.

Source: Gulrajani and Lopez-Paz 2021, "In search of lost domain generalization", section 3.
"""
import pandas as pd

from ..config import Problem

HOW = ("training-domain", "leave-one-domain-out", "oracle")
COLUMNS = ("trial", "run", "held_out", "step", "domain", "score", "validation")


def _candidates(runs, pairs, target, how):
    """(run, step) -> `validation`, what is selected by, and `score` on the target, of the runs of one trial that held out the target."""
    on_target = runs[runs.domain == target].set_index(["run", "step"])
    if how == "oracle":                                                     # sees the target, and so may not choose a step
        last = on_target.reset_index().groupby("run")["step"].transform("max").to_numpy()
        return on_target.loc[on_target.index.get_level_values("step") == last, ["validation", "score"]]
    if how == "training-domain":
        validation = runs[runs.domain != target].groupby(["run", "step"])["validation"].mean()
    else:                                                                   # the same run without one more domain, at the same step
        others = set(runs.domain) - {target}
        pairs = pairs[[target in held and domain in held and domain != target for held, domain in zip(pairs.held_out, pairs.domain)]]
        scores = pairs.groupby(["run", "step"])["score"].agg(["mean", "size"])
        validation = scores.loc[scores["size"] == len(others), "mean"]
    return on_target[["score"]].assign(validation=validation).dropna()


def select(records, how="training-domain"):
    """The selected run and step of every trial and target domain. A frame: trial, target, run, step, validation, score.

    records: a row a measurement, with columns trial (a repetition), run (a configuration: the same in all its folds), held_out (a tuple
    of the domains it did not see), step, domain, score (on the domain's larger part) and validation (on the part set aside of it).

    how: "training-domain", the mean `validation` over the domains seen, at the best step; "leave-one-domain-out", the mean `score` on
    each domain seen of the run of the same configuration that held it out too, at the same step, so that steps at which one is missing
    are out; "oracle", `validation` on the target, last step only. Of equals the earliest run and step. Raises `Problem` where a column,
    a number or a run that the rule needs is missing, or is there twice.
    """
    if how not in HOW:
        raise Problem(f"There is no selection {how!r}; choose one of {', '.join(HOW)}.")
    if missing := set(COLUMNS) - set(records.columns):
        raise Problem(f"The records have no column {sorted(missing)[0]!r}; they need {', '.join(COLUMNS)}.")
    if records[list(COLUMNS)].isna().any(axis=None) or records.duplicated(["trial", "run", "held_out", "step", "domain"]).any():
        raise Problem("The records hold NaN, or one measurement twice; drop what is not finished.")
    count, rows = records.held_out.map(len), []
    for (trial, held_out), runs in records[count == 1].groupby(["trial", "held_out"]):
        pairs = records[(count == 2) & (records.trial == trial)]
        found = _candidates(runs, pairs, held_out[0], how).sort_index()
        if found.empty:
            raise Problem(f"Nothing to select by {how} for target {held_out[0]} of trial {trial}; runs, or those that hold out one more "
                          "domain at the same steps, are missing.")
        run, step = found["validation"].idxmax()
        rows.append((trial, held_out[0], run, step, *found.loc[(run, step), ["validation", "score"]]))
    return pd.DataFrame(rows, columns=["trial", "target", "run", "step", "validation", "score"])
