"""From a model and cohort rows to the predictions table: probabilities, grades, boxes, overlaps; and the features behind them."""
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from .config import HISTOPATHOLOGY, MAMMOGRAPHY
from .loaders import device, sweep
from .model import build
from .stats import dice, iou


@torch.no_grad()
def predict(model, table, images, condition="source", boxes=True):
    """What a model in evaluation mode says of the rows of `table`: (predictions, embeddings), see `record.PREDICTIONS`.

    Patients with both modalities also get a joint prediction (modality "both"), from the means of their features. Without
    `boxes` the columns of lesion boxes and overlaps stay NaN: model selection does not look at them.
    """
    model.eval()
    device, rows, features = next(model.parameters()).device, [], []
    for part, x in sweep(table, images):
        modality = next(iter(x))
        out = model({modality: x[modality].to(device)})
        features.append(out[modality].z.float().cpu())
        found = describe(part, out[modality], out["cutpoints"])
        if modality == MAMMOGRAPHY and boxes:
            found = found.assign(**boxes_and_overlap(out[modality].mask.sigmoid().float().cpu().numpy(), part, images))
        rows.append(found.assign(modality=modality))
    predictions = pd.concat(rows, ignore_index=True)
    z = torch.cat(features)
    embeddings = {k: predictions[k].to_numpy() for k in ("sample", "patient", "modality", "domain", "truth")} | {"z": z.numpy()}
    if "split" in table:
        embeddings["split"] = predictions["split"].to_numpy()
    predictions = pd.concat([predictions, joint(model, predictions, z.to(device))], ignore_index=True)
    return predictions.assign(condition=condition), embeddings


COPIED = ["sample", "patient", "domain", "allowed", "truth", "grade", "has_mask", "density", "lesion_type", "lesion_shape", "diameter_mm"]


def describe(rows, out, cutpoints):
    """Columns of the predictions that a Stream or Joint gives for `rows`."""
    p = out.logits.float().softmax(1).cpu().numpy()
    grade = (out.score[:, None] > cutpoints).sum(1).cpu().numpy()        # the first k with P(Y <= k) >= 1/2
    table = rows[COPIED + (["split"] if "split" in rows else [])].reset_index(drop=True)
    nothing = dict.fromkeys(("dice", "iou", "x0", "y0", "x1", "y1", "box_score"), np.nan)
    return table.assign(**{f"p{c}": p[:, c] for c in range(4)}, severity=out.score.float().cpu().numpy(), grade_pred=grade, **nothing)


def joint(model, predictions, z):
    """Joint predictions of the patients with both modalities: from the mean feature of each."""
    both = predictions.groupby("patient")["modality"].nunique()
    both = predictions[predictions.patient.isin(both.index[both > 1])]
    if both.empty:
        return predictions.iloc[:0]
    mean = lambda m: torch.stack([z[list(i)].mean(0) for i in both[both.modality == m].groupby("patient").groups.values()])
    first = both[both.modality == MAMMOGRAPHY].groupby("patient").first().reset_index()
    first["allowed"] = both.groupby("patient")["allowed"].agg(lambda a: np.bitwise_and.reduce(a.to_numpy()) or a.iloc[0]).to_numpy()
    first["sample"], first["has_mask"] = first["patient"] + "/both", False
    out = model.joint(mean(MAMMOGRAPHY), mean(HISTOPATHOLOGY))
    return describe(first, out, model.grade.cutpoints).assign(modality="both")


def boxes_and_overlap(p, rows, images):
    """Per mammogram the box (pixels of the stored image) around the strongest connected component of the lesion
    probability p (B, h, w) above 0.5, its score, and where a lesion is outlined Dice with it and IoU with the nearest true box."""
    masks = images.gather(rows, "masks").astype(bool)
    scale = masks.shape[-1] / p.shape[-1]
    found = {k: np.full(len(p), np.nan) for k in ("dice", "iou", "x0", "y0", "x1", "y1", "box_score")}
    for i in range(len(p)):
        box, score = strongest_box(p[i])
        if box is not None:
            found["box_score"][i] = score
            for name, edge in zip(("x0", "y0", "x1", "y1"), box):
                found[name][i] = edge * scale
        if masks[i].any():
            up = ndimage.zoom(p[i], scale, order=1, grid_mode=True, mode="nearest") > 0.5
            found["dice"][i] = dice(up, masks[i])
            found["iou"][i] = 0.0 if box is None else max(iou(np.array(box) * scale, true) for true in boxes_of(masks[i]))
    return found


def strongest_box(p, threshold=0.5):
    """(x0, y0, x1, y1), score of the connected component of p > threshold with the largest sum, or (None, nan)."""
    labels, n = ndimage.label(p > threshold)
    if n == 0:
        return None, np.nan
    best = 1 + int(np.argmax(ndimage.sum(p, labels, range(1, n + 1))))
    y, x = ndimage.find_objects(labels)[best - 1]
    return (x.start, y.start, x.stop, y.stop), float(p[labels == best].max())


def boxes_of(mask):
    """Boxes (x0, y0, x1, y1) of the connected components of a mask."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]


def load_model(profile, run):
    """The trained model of a `record.Run`, in evaluation mode."""
    model = build(profile, mixstyle=run.config["switches"]["mixstyle"], concat=run.config["switches"]["concat"])
    model.load_state_dict(run.state)
    return model.to(device(profile)).eval()
