"""The tables of RFPMSS's figure: runs in, one tidy table per panel out. Drawn by `figures.rfpmss`."""
import json

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..faithfulness import inside, pointing_hit
from ..predict import strongest_box
from ..stats import iou, paired_mean
from ..tables.cases import to_uri
from .rfpmss_data import MODALITIES, VIEWS
from .rfpmss_training import sharpened, similarity
from .transport import multi_sk

MEASURES = ("R@1", "R@5", "R@10", "MedR", "MeanR")
AREAS = ("auc", "auc_10", "auc_1")
OURS = "RFPMSS"


def per_run(results):
    """One row per training, seed and site of {(name, seed): tables}, as of `rfpmss_study.run_all`.

    Columns name, seed, site, `MEASURES` (between study and report, means of both ways; R@k in percent), n of
    unseen studies, and the columns of scores.
    """
    rows = []
    for (name, seed), tables in results.items():
        of_report = tables["retrieval"].query("query in ('report', 'study') and item in ('report', 'study')")
        ranks = of_report.groupby("site", sort=False)[[*MEASURES, "n"]].mean()
        rows.append(ranks.join(tables["scores"].set_index("site")).reset_index().assign(name=name, seed=seed))
    return pd.concat(rows, ignore_index=True)


def compare(runs, names, against=OURS):
    """One row per name and site: means over seeds, and how the name differs from `against`.

    runs: as of `per_run`. For each of `MEASURES` and `AREAS` the mean, and its paired difference over the
    seeds that both have, as <measure>_difference, _low, _high (95 % interval) and _p; seeds is their number.
    """
    measured = [*MEASURES, *AREAS]
    wide = runs.pivot(index="seed", columns=["site", "name"], values=measured)
    rows = []
    for name in names:
        for site in runs.site.unique():
            row = {"name": name, "site": site, "n": runs.n.iloc[0]}
            for measure in measured:
                values = wide[measure, site, name]
                row[measure] = values.mean()
                test = paired_mean(values - wide[measure, site, against])
                row[f"{measure}_difference"] = test.difference
                row |= {f"{measure}_low": test.low, f"{measure}_high": test.high, f"{measure}_p": test.p}
            rows.append({**row, "seeds": test.units})
    return pd.DataFrame(rows)


def shown(table, *measures):
    """A table of `compare` to read: one row per name, for each site and measure its mean and the difference.

    The difference stands with its 95 % interval, as "+1.2 [-0.5, 2.9]".
    """
    rows = {}
    for _, row in table.iterrows():
        cells = rows.setdefault(row["name"], {})
        for measure in measures:
            digits = 3 if measure in AREAS else 1
            gap, low, high = (row[f"{measure}_{part}"] for part in ("difference", "low", "high"))
            cells[row.site, measure] = f"{row[measure]:.{digits}f}"
            interval = f"{gap:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
            cells[row.site, f"less {OURS}'s"] = "" if row["name"] == OURS else interval
    return pd.DataFrame.from_dict(rows, orient="index")


def attention_table(studies, pictures, out, rows, crop=0, view="magnified", threshold=0.6):
    """Attention of the aggregation token against lesion boxes, one row per study with a lesion. Source: Fig.
    4.

    crop: pixels of the middle of a picture that the model saw, 0: all. Share of the attention inside, share
    of the area, pointing hit, IoU of the box of what exceeds `threshold` of the maximum; heat and picture as
    text.
    """
    table = studies.table
    side = int(out["attention"][view].shape[1] ** 0.5)
    full = pictures[view].shape[1]
    crop = crop or full
    seen = slice((full - crop) // 2, (full - crop) // 2 + crop)
    lesions = []
    for k, row in enumerate(rows):
        mask = np.zeros((full, full), bool)
        for x0, y0, x1, y1 in json.loads(table[f"boxes_{view}"][row]):
            mask[y0:y1, x0:x1] = True
        mask = mask[seen, seen]
        if not mask.any():
            continue
        boxes = (np.array(json.loads(table[f"boxes_{view}"][row])) - seen.start).tolist()
        picture = pictures[view][row][seen, seen]
        heat = out["attention"][view][k].reshape(side, side).numpy()
        heat = heat / heat.max()
        large = F.interpolate(torch.tensor(heat)[None, None], mask.shape, mode="bilinear")[0, 0].numpy()
        box = strongest_box(large, threshold)[0]
        overlap = 0.0
        if box:
            overlap = max(iou(box, b) for b in boxes)
        corners = [int(c) for c in box or ()]
        lesions.append({
            "patient": table.patient[row], "lesion_type": table.lesion_type[row],
            "inside": inside(heat, mask), "area": float(mask.mean()),
            "hit": pointing_hit(heat, mask), "iou": overlap,
            "boxes": json.dumps(boxes), "box": json.dumps(corners),
            "image": to_uri(np.asarray(picture)), "heat": to_uri(heat),
        })
    columns = ["patient", "lesion_type", "inside", "area", "hit", "iou", "boxes", "box", "image", "heat"]
    return pd.DataFrame(lesions, columns=columns)


def spread(table, column, n=6):
    """n rows at evenly spaced ranks of a column, best first: a rule, not a choice by hand."""
    order = table.sort_values(column, ascending=False)
    ranks = np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)
    return order.iloc[ranks].reset_index(drop=True)


def fig5(studies, out, rows, seed=42):
    """Fig. 5 a-c: t-SNE of the study features, of the views' mean and of the reports.

    Columns patient, label, part, x, y.
    """
    from openTSNE import TSNE
    views = torch.stack([F.normalize(out["joint"][v], dim=1) for v in VIEWS]).mean(0)
    parts = []
    for part, z in (("study", out["v"]), ("views", views), ("report", out["joint"]["report"])):
        z = F.normalize(z, dim=1).numpy()
        tsne = TSNE(perplexity=min(20, (len(z) - 1) / 3), initialization="pca", random_state=seed, n_jobs=1)
        xy = np.asarray(tsne.fit(z))
        table = studies.table.iloc[rows]
        parts.append(table[["patient", "label"]].assign(part=part, x=xy[:, 0], y=xy[:, 1]))
    return pd.concat(parts, ignore_index=True)


def anchor_shares(model, out):
    """{modality: (N, K)} assignment by Multi-SK of the joint features to the report's anchors."""
    anchors = model.anchors["report_joint"].detach().cpu()
    chosen, damping = model.settings.chosen, model.settings.damping
    shares = {}
    for m in MODALITIES:
        scores = sharpened(similarity(out["joint"][m], anchors))           # as in training
        shares[m] = multi_sk(scores, chosen, damping).numpy()
    return shares


def fig5d(shares, labels, label="malignant"):
    """Fig. 5 d: mean assignment of the studies of a label to each anchor. Columns modality, anchor, share,
    label."""
    rows = []
    for modality, p in shares.items():
        for k in range(p.shape[1]):
            rows.append((modality, k, float(p[labels == label, k].mean()), label))
    return pd.DataFrame(rows, columns=["modality", "anchor", "share", "label"])


def fig7(shares, studies, rows, pictures, view="magnified"):
    """Fig. 7: the anchors that two studies take.

    Once for the two studies that share most anchors, once for the two that share least. Columns pair, side
    (0, 1), patient, label, assigned (JSON, 1 for the K' largest shares, else 0), image.
    """
    p = shares[view]
    chosen = int(round(p.sum(1)[0]))
    taken = np.zeros(p.shape, int)
    np.put_along_axis(taken, np.argsort(-p, 1)[:, :chosen], 1, 1)
    common = taken @ taken.T + np.tri(len(taken)) * 1e6              # each pair once, nobody with himself
    alike = np.unravel_index(np.argmax(np.where(common < 1e6, common, -1)), common.shape)
    apart = np.unravel_index(np.argmin(common), common.shape)
    table = studies.table
    cases = []
    for name, pair in (("alike", alike), ("apart", apart)):
        for side, i in enumerate(pair):
            row = rows[i]
            assigned = json.dumps(taken[i].tolist())
            image = to_uri(np.asarray(pictures[view][row]))
            cases.append((name, side, table.patient[row], table.label[row], assigned, image))
    return pd.DataFrame(cases, columns=["pair", "side", "patient", "label", "assigned", "image"])
