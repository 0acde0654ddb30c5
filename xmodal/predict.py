"""From a model and cohort rows to predictions (probabilities, grades, boxes, overlaps) and embeddings."""
import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy import ndimage

from .cohort import of_breast, pairing, partners
from .config import FROM_PHANTOMS, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem, profile as profile_named
from .imaging import mammograms
from .loaders import device, sweep
from .model import build
from .stats import dice, iou

# Columns that a prediction copies from its cohort row, and columns that only mammograms fill.
COPIED = ["sample", "patient", "domain", "allowed", "truth", "grade", "has_mask",
          "density", "lesion_type", "lesion_shape", "diameter_mm"]
SHIPPED = Path(__file__).parent / "weights" / "ours"      # a trained run that comes with the package
LOCALISATION = ("dice", "iou", "x0", "y0", "x1", "y1", "box_score")


def load_model(profile, run):
    """The trained model of a `record.Run`, in evaluation mode."""
    return trained(profile, run.config, run.state)


def shipped(profile):
    """(model, settings) of the trained run that comes with the package, of a profile or its name.

    settings: its config.json. Raises `Problem` where it is missing or of another profile.
    """
    profile = profile_named(profile)
    try:
        settings = json.loads((SHIPPED / "config.json").read_text())
        state = load_file(SHIPPED / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise Problem(f"The model that comes with the package cannot be read ({error}); "
                      "install the package again, or train one with 03_train.") from None
    try:
        return trained(profile, settings, state), settings
    except RuntimeError:            # tensors of another shape
        name = settings["profile"]["name"]
        raise Problem(f"The model in {SHIPPED} is of the profile {name} and does not fit {profile.name}; "
                      "take that profile, or train a model with 03_train.") from None


def trained(profile, settings, state):
    """The model of a run with these settings and tensors, in evaluation mode."""
    switches = settings["switches"]
    model = build(profile, mixstyle=switches["mixstyle"], concat=switches["concat"])
    model.load_state_dict(state)
    return model.to(device(profile)).eval()


def trained_on(settings):
    """"phantom" or "public": what a run with these settings learned from, which every card of it says."""
    profile = settings["profile"]
    if isinstance(profile, str):
        return "phantom" if profile_named(profile).phantom else "public"
    return "phantom" if profile["phantom"] else "public"


def warning_of(settings):
    """What has to stand beside every prediction of a run with these settings: a sentence, or ""."""
    return FROM_PHANTOMS if trained_on(settings) == "phantom" else ""


@torch.no_grad()
def predict(model, table, images, condition="source", boxes=True):
    """What a model says of the rows of `table`: (predictions, embeddings), see `record.PREDICTIONS`.

    The model is put into evaluation mode. Patients with both modalities, or pairs by label where there are
    none, also get a joint prediction (modality "both"), from the mean of their features. Without `boxes` the
    columns of lesion boxes and overlaps stay NaN, which is enough for model selection.
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
    names = ["sample", "patient", "modality", "domain", "truth", "allowed"]
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


# ---- pairs -----------------------------------------------------------------------------------------------

def joint(predictions, z, fuse, cutpoints):
    """Joint predictions (modality "both") of the pairs of `cohort.partners`, one row per pair.

    z (N, D): a feature for each row of `predictions`; those of a patient are averaged within each modality.
    fuse(z_m, z_p): the mean features (K, D) of K pairs -> `model.Joint`. A pair by label carries the name of
    its mammography patient; the class that both know is its truth, and pairs whose label sets contradict each
    other are left out.
    """
    by_label = pairing(predictions) == "label"
    partner = partners(predictions)
    rows = {m: predictions[predictions.modality == m] for m in MODALITIES}
    sets = {}
    for modality, part in rows.items():
        of_each = part.assign(allowed=of_breast(part.allowed, part.domain))
        sets[modality] = of_each.groupby("patient")["allowed"].agg(allowed_by_all)
    pairs = []
    for patient, tissue in partner.items():
        if not by_label or sets[MAMMOGRAPHY][patient] & sets[HISTOPATHOLOGY][tissue]:
            pairs.append((patient, tissue))
    if not pairs:
        return predictions.iloc[:0]
    of_m, of_p = map(list, zip(*pairs))
    out = fuse(mean_of_patients(rows[MAMMOGRAPHY], z, of_m), mean_of_patients(rows[HISTOPATHOLOGY], z, of_p))
    first = rows[MAMMOGRAPHY].groupby("patient").first().loc[of_m].reset_index()
    own = sets[MAMMOGRAPHY][of_m].to_numpy()
    shared = own & sets[HISTOPATHOLOGY][of_p].to_numpy()
    first["allowed"] = np.where(shared, shared, own)
    if by_label:
        of_tissue = rows[HISTOPATHOLOGY].groupby("patient").first().loc[of_p]
        of_node = of_breast(of_tissue.allowed, of_tissue.domain) != of_tissue.allowed
        for column in ("truth", "grade"):               # a free lymph node says nothing of the breast
            first[column] = agreed(first[column].to_numpy(), np.where(of_node, -1, of_tissue[column]))
    first["sample"] = first["patient"] + "/both"
    first["has_mask"] = False
    return describe(first, out, cutpoints).assign(modality="both")


def agreed(a, b):
    """What two arrays of classes say, -1 for unknown: -1 where they differ, and where one is -1 the other."""
    return np.select([a < 0, b < 0, a == b], [b, a, a], -1)


def mean_of_patients(rows, z, patients):
    """Mean features (K, D) of K patients. The index of `rows` points into z (N, D)."""
    numbers = rows.groupby("patient").groups
    return torch.stack([z[list(numbers[patient])].mean(0) for patient in patients])


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


if __name__ == "__main__":
    runpy.run_module("figures.yours", run_name="__main__")    # the command, which draws
