"""From a model and cohort rows to predictions (probabilities, grades, boxes, overlaps) and embeddings."""
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from .cohort import of_breast, patients_with_both
from .config import HISTOPATHOLOGY, MAMMOGRAPHY
from .imaging import mammograms
from .loaders import device, sweep
from .model import build
from .stats import dice, iou

# Columns that a prediction copies from its cohort row, and columns that only mammograms fill.
COPIED = ["sample", "patient", "domain", "allowed", "truth", "grade", "has_mask",
          "density", "lesion_type", "lesion_shape", "diameter_mm"]
LOCALISATION = ("dice", "iou", "x0", "y0", "x1", "y1", "box_score")


def load_model(profile, run):
    """The trained model of a `record.Run`, in evaluation mode."""
    switches = run.config["switches"]
    model = build(profile, mixstyle=switches["mixstyle"], concat=switches["concat"])
    model.load_state_dict(run.state)
    return model.to(device(profile)).eval()


@torch.no_grad()
def predict(model, table, images, condition="source", boxes=True):
    """What a model says of the rows of `table`: (predictions, embeddings), see `record.PREDICTIONS`.

    The model is put into evaluation mode. Patients with both modalities also get a joint prediction (modality
    "both"), from the mean of their features. Without `boxes` the columns of lesion boxes and overlaps stay
    NaN, which is enough for model selection.
    """
    model.eval()
    where = next(model.parameters()).device
    tables = []
    features = []
    for rows, x in sweep(table, images):
        modality, pixels = next(iter(x.items()))
        out = model({modality: pixels.to(where)})
        features.append(out[modality].z.float().cpu())
        predicted = describe(rows, out[modality], out["cutpoints"])
        if modality == MAMMOGRAPHY and boxes:
            p = out[modality].mask.sigmoid().float().cpu().numpy()
            predicted = predicted.assign(**boxes_and_overlap(p, rows, images))
        tables.append(predicted.assign(modality=modality))
    predictions = pd.concat(tables, ignore_index=True)
    z = torch.cat(features)
    names = ["sample", "patient", "modality", "domain", "truth"]
    embeddings = {name: predictions[name].to_numpy() for name in names}
    embeddings["z"] = z.numpy()
    if "split" in table:
        embeddings["split"] = predictions["split"].to_numpy()
    both = joint(predictions, z.to(where), model.joint, model.grade.cutpoints)
    predictions = pd.concat([predictions, both], ignore_index=True)
    return predictions.assign(condition=condition), embeddings


def describe(rows, out, cutpoints):
    """Columns of the predictions of cohort `rows` (N), from a `model.Stream` or `model.Joint` of N images."""
    p = out.logits.float().softmax(1).cpu().numpy()
    grade = (out.score[:, None] > cutpoints).sum(1).cpu().numpy()        # the first k with P(Y <= k) >= 1/2
    names = COPIED + (["split"] if "split" in rows else [])
    return rows[names].reset_index(drop=True).assign(
        **{f"p{c}": p[:, c] for c in range(4)},
        severity=out.score.float().cpu().numpy(),
        grade_pred=grade,
        **dict.fromkeys(LOCALISATION, np.nan),
    )


# ---- patients with both modalities -----------------------------------------------------------------------

def joint(predictions, z, fuse, cutpoints):
    """Joint predictions (modality "both") of the patients with both modalities.

    z (N, D): a feature for each row of `predictions`; those of a patient are averaged within each modality.
    fuse(z_m, z_p): the mean features (K, D) of K patients -> `model.Joint`.
    """
    both = predictions[predictions.patient.isin(patients_with_both(predictions))]
    if both.empty:
        return predictions.iloc[:0]
    of_mammography = both[both.modality == MAMMOGRAPHY]
    of_histopathology = both[both.modality == HISTOPATHOLOGY]
    out = fuse(mean_of_patients(of_mammography, z), mean_of_patients(of_histopathology, z))
    first = of_mammography.groupby("patient").first().reset_index()
    of_each = both.assign(allowed=of_breast(both.allowed, both.domain))
    first["allowed"] = of_each.groupby("patient")["allowed"].agg(allowed_by_all).to_numpy()
    first["sample"] = first["patient"] + "/both"
    first["has_mask"] = False
    return describe(first, out, cutpoints).assign(modality="both")


def mean_of_patients(rows, z):
    """Mean features (K, D) of the patients, ordered by name. The index of `rows` points into z (N, D)."""
    return torch.stack([z[list(i)].mean(0) for i in rows.groupby("patient").groups.values()])


def allowed_by_all(masks):
    """The classes that all label sets (bit masks) of a patient allow; the first set where they contradict."""
    return np.bitwise_and.reduce(masks.to_numpy()) or masks.iloc[0]


# ---- Eq. 7 put right: boxes from the components of a mask (correction 6) ---------------------------------

def boxes_and_overlap(p, rows, images):
    """The predicted box of each mammogram and, where a lesion is outlined, its overlap: dict of columns (B,).

    p (B, h, w) lesion probabilities. x0, y0, x1, y1, box_score: of `strongest_box`, in pixels of the stored
    image. dice: of p > 0.5 with the outlined mask. iou: of the box with the nearest true box.
    """
    masks = images.gather(rows, "masks").astype(bool)
    scale = masks.shape[-1] / p.shape[-1]
    columns = {name: np.full(len(p), np.nan) for name in LOCALISATION}
    for i in range(len(p)):
        box, score = strongest_box(p[i])
        if box is not None:
            columns["box_score"][i] = score
            for name, edge in zip(("x0", "y0", "x1", "y1"), box):
                columns[name][i] = edge * scale
        if masks[i].any():
            enlarged = ndimage.zoom(p[i], scale, order=1, grid_mode=True, mode="nearest")
            columns["dice"][i] = dice(enlarged > 0.5, masks[i])
            columns["iou"][i] = 0.0
            if box is not None:
                box = np.array(box) * scale
                columns["iou"][i] = max(iou(box, true_box) for true_box in mammograms.boxes(masks[i]))
    return columns


def strongest_box(p, threshold=0.5):
    """(x0, y0, x1, y1) and score of the connected component of p > threshold with the largest sum.

    p (h, w) lesion probabilities; the score is the largest of them in the component. (None, nan) without any.
    """
    labels, n = ndimage.label(p > threshold)
    if n == 0:
        return None, np.nan
    strongest = 1 + int(np.argmax(ndimage.sum(p, labels, range(1, n + 1))))
    y, x = ndimage.find_objects(labels)[strongest - 1]
    return (x.start, y.start, x.stop, y.stop), float(p[labels == strongest].max())
