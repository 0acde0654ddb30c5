"""Table 3: can this study tell a method that fails from code that is broken?

An instrument without sensitivity cannot. The targets below were written before the runs, for the best of the
methods, whichever it is; which method wins is left open.
"""
import numpy as np
import pandas as pd

from ..cohort import label_set
from ..methods import ABLATIONS, BEFORE, COMPARED, OURS
from ..metrics.detection import precision_recall
from .common import FOLD_AND_SEED, RUN, aucs, tidy
from .fig4 import unseen_mammograms
from .fig5 import readings

INSTRUMENTS = (*COMPARED, *ABLATIONS)
SOURCE_AUC = {"cbis_ddsm": 0.75, "camelyon": 0.90, "inbreast": 0.90, "bach": 0.90}      # CBIS-DDSM is film
JOINT = 0.70            # accuracy of four classes
BOXES = 0.45            # average precision
ALIGNED = 3.0           # times chance, recall among the first 10
UNALIGNED = 1.5
MOVED = 0.1             # change of a learned sigma that counts as a move, from 1
SETTLED = 0.25          # of that move, at most, in the last quarter of the epochs
COLUMNS = ["criterion", "method", "value", "sd", "runs", "target", "result"]


def verdict(value, reached):
    """"reached", "not reached", or "not measured"."""
    if not np.isfinite(value):
        return "not measured"
    return "reached" if reached else "not reached"


def _best(criterion, values, goal):
    """The row of a criterion: the method with the largest mean. values: {method: values of its runs}."""
    means = pd.Series({method: pd.Series(of_runs).mean() for method, of_runs in values.items()}, dtype=float)
    means = means.dropna()
    if means.empty:
        return criterion, "", np.nan, np.nan, 0, f"at least {goal:g}", "not measured"
    method = means.idxmax()
    runs = pd.Series(values[method]).dropna()
    value = means[method]
    result = verdict(value, value >= goal)
    return criterion, method, value, runs.std(), len(runs), f"at least {goal:g}", result


def _source_aucs(predictions):
    """One row per source domain: AUC of its test patients, who were not trained on."""
    rows = predictions[(predictions.split == "source test") & (predictions.condition == "source")]
    table = aucs(rows)
    for domain, goal in SOURCE_AUC.items():
        values = {}
        for method, runs in table[table.domain == domain].groupby("method"):
            values[method] = runs.auc.to_numpy()
        yield _best(f"source test AUC, {domain}", values, goal)


def _joint(predictions):
    """Accuracy of four classes on source test patients with both modalities."""
    values = {}
    for method in predictions.method.unique():
        rows = readings(predictions, method)
        right = rows.called == rows.truth
        values[method] = right.groupby([rows[name] for name in FOLD_AND_SEED]).mean().to_numpy(float)
    return _best("joint accuracy, four classes, source test", values, JOINT)


def _boxes(predictions):
    """Average precision of the strongest boxes on unseen mammograms, counted as in Fig. 4 j."""
    values = {}
    for (method, *_), run in predictions.groupby(RUN):
        rows = unseen_mammograms(run, [method])
        rows = rows[rows.has_mask | (rows.allowed == label_set("normal"))]
        marks = rows[rows.box_score.notna()]
        if len(marks) and rows.has_mask.any():
            precision, recall = precision_recall(marks.box_score, marks.hit, rows.has_mask.sum())
            values.setdefault(method, []).append((np.diff(recall, prepend=0) * precision).sum())
    return _best("average precision of boxes, unseen", values, BOXES)


def _retrieval(retrieval, method, criterion, goal):
    """Recall among the first 10 by what chance gives, of unseen patients, by one method."""
    if len(retrieval):
        retrieval = retrieval[(retrieval.whom == "unseen") & (retrieval.method == method)]
    value, sd = np.nan, np.nan
    if len(retrieval):
        times_chance = retrieval.r_at_10 / retrieval.chance_at_10
        value, sd = times_chance.mean(), times_chance.std()
    reached = value >= goal if method == OURS else value <= goal
    target = f"at least {goal:g}"
    if method != OURS:
        target = f"at most {goal:g}"
    return criterion, method, value, sd, len(retrieval), target, verdict(value, reached)


def _weights(runs):
    """One row per task of ours: the learned sigma of the last epoch, whether it moved from 1 and settled."""
    histories = [run.history for key, run in runs.items() if key[0] == OURS and len(run.history) > 1]
    for name in ("sigma_cls", "sigma_loc", "sigma_grade"):
        if not histories or name not in histories[0]:
            continue
        course = pd.DataFrame([history[name].to_numpy() for history in histories])
        mean = course.mean().to_numpy()
        move = mean[-1] - 1
        late = mean[-1] - mean[-1 - max(1, len(mean) // 4)]
        reached = abs(move) >= MOVED and abs(late) <= SETTLED * abs(move)
        target = f"moves by {MOVED:g} from 1 and settles (first epoch: {mean[0]:.2f})"
        yield (f"learned {name}, last epoch", OURS, mean[-1], course.iloc[:, -1].std(), len(histories),
               target, verdict(move, reached))


def table3_table(predictions, retrieval, runs):
    """Table 3: each criterion with the best method's mean over folds and seeds, its target, and whether it is
    reached.

    retrieval: the table fig2_retrieval; runs: {(method, held_out, seed): Run} with those of ours.
    Columns criterion, method, value, sd (over runs), runs, target, result.
    """
    rows = predictions[predictions.method.isin(INSTRUMENTS)]
    table = [*_source_aucs(rows), _joint(rows), _boxes(rows)]
    table.append(_retrieval(retrieval, OURS, "retrieval of unseen patients, R@10 / chance, aligned", ALIGNED))
    table.append(_retrieval(retrieval, BEFORE, "the same, not aligned", UNALIGNED))
    return tidy([*table, *_weights(runs)], COLUMNS)
