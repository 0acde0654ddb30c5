"""Made-up predictions, embeddings and runs, small enough to know what the tables must say of them."""
import numpy as np
import pandas as pd
import torch

from xmodal import config, record, stats
from xmodal.cohort import label_set
from xmodal.config import DOMAINS, HISTOPATHOLOGY, MAMMOGRAPHY
from xmodal.explain import BOTH, Card
from xmodal.faithfulness import MAPS
from xmodal.tables.cards import card_columns
from xmodal.tables.cases import to_uri
from xmodal.tables.fig4 import GROUPS

SKILL = {"erm": .3, "groupdro": .4, "mixstyle": .5, "mixstyle_irm": .6, "concat": .4, "ours": .8}
LEARNERS = {"radiomics_lr": 0.3, "radiomics_rf": 0.6, "ours": 0.9}
NOT_MEASURED = ["dice", "iou", "x0", "y0", "x1", "y1", "box_score", "diameter_mm"]


def softmax(logits):
    p = np.exp(logits)
    return p / p.sum(-1, keepdims=True)


def predictions(held_out, seed, skill, conditions=("source",), patients=24):
    """A run's predictions: two images per patient in each domain.

    skill: how well the classes are told apart.
    """
    rows = []
    for d, domain in enumerate(DOMAINS):
        for i in range(patients):
            patient = {"patient": f"{domain}/{i}", "domain": domain, "modality": DOMAINS[domain],
                       "split": ("train", "validation", "source test")[i % 3], "truth": i // 3 % 4}
            if domain == held_out:
                patient["split"] = "target"
            rows += images_of(patient, np.random.default_rng([seed, d, i]), skill, conditions)
    return pd.DataFrame(rows).assign(**dict.fromkeys(NOT_MEASURED, np.nan))


def images_of(patient, rng, skill, conditions):
    """The rows of two images of a patient; an image of the target is read in each of the conditions."""
    rows = []
    unseen = patient["split"] == "target"
    for view in range(2):
        for condition in conditions if unseen else ("source",):
            p = softmax(rng.normal(size=4) + skill * (2 - unseen) * np.eye(4)[patient["truth"]])
            rows.append({
                **patient, "sample": f"{patient['patient']}_{view}", "condition": condition,
                "allowed": 3 if patient["truth"] < 2 else 12, "grade": -1,
                "p0": p[0], "p1": p[1], "p2": p[2], "p3": p[3], "severity": rng.normal(),
                "grade_pred": int(p.argmax()), "has_mask": False, "density": "B", "lesion_type": "",
                "lesion_shape": ""})
    return rows


def joint(table, skill, seed):
    """Joint predictions of "patients" with both modalities, as rows that fit beside `predictions`."""
    rows = table.drop_duplicates("patient").assign(modality="both", condition="source")
    rows["sample"] = "both/" + rows.patient
    rows["lesion_type"] = np.where(rows.truth == 0, "", "mass")
    p = softmax(np.random.default_rng(seed).normal(size=(len(rows), 4)) + 3 * skill * np.eye(4)[rows.truth])
    return rows.assign(p0=p[:, 0], p1=p[:, 1], p2=p[:, 2], p3=p[:, 3], grade_pred=p.argmax(1))


def study(methods=LEARNERS, held_outs=("cbis_ddsm", "bach"), seeds=(42, 1234)):
    """Predictions of several runs as `record.collect` gives them, with joint ones."""
    tables = []
    for k, (method, skill) in enumerate(methods.items()):
        for held_out in held_outs:
            for seed in seeds:
                rows = predictions(held_out, seed, skill)
                both = joint(rows[rows.split != "target"], skill, [seed, k])
                tables.append(pd.concat([rows, both]).assign(method=method, held_out=held_out, seed=seed))
    return pd.concat(tables, ignore_index=True)


def embeddings(seed, aligned, patients=30, width=8):
    """Embeddings in which class is a direction, and modality another one unless aligned.

    seed: a number, or several.
    """
    rng = np.random.default_rng(seed)
    truth = np.arange(patients) % 4
    common = 2 * np.eye(width)[truth] + 0.5 * rng.normal(size=(patients, width))
    of_modalities = []
    for sign in (1, -1):
        z = common + 0.3 * rng.normal(size=common.shape)
        if not aligned:
            z[:, -1] += 3 * sign
        of_modalities.append(z)
    names = np.array([f"p{i:02d}" for i in range(patients)])
    splits = np.array(["validation", "source test"])[np.arange(patients) % 2]
    return {
        "sample": np.concatenate([np.char.add(names, "/m"), np.char.add(names, "/p")]),
        "patient": np.tile(names, 2), "modality": np.repeat([MAMMOGRAPHY, HISTOPATHOLOGY], patients),
        "domain": np.repeat(["inbreast", "bach"], patients), "split": np.tile(splits, 2),
        "truth": np.tile(truth, 2), "z": np.concatenate(of_modalities).astype(np.float32)}


def trajectory(held_out, seed):
    """The steps of an adaptation."""
    steps = np.arange(9 + seed % 3)
    return pd.DataFrame({
        "condition": "causal", "domain": held_out, "step": steps, "entropy": 1 / (1 + steps / 5),
        "diversity": 1.3, "probe_images": 64,
        "auc": .7 + .1 * (1 - 1 / (1 + steps)), "stopped": steps == 6})


def write_runs(methods=tuple(SKILL), held_outs=tuple(DOMAINS), seeds=(42, 1234), profile="lesson"):
    """Runs in config.RUNS, as training would leave them; those of ours are also adapted."""
    for method in methods:
        conditions = config.CONDITIONS if method == "ours" else ("source",)
        for fold, held_out in enumerate(held_outs):
            for seed in seeds:
                settings = {"profile": profile, "method": method, "held_out": held_out, "seed": seed}
                folder = record.save_run(
                    record.run_dir(profile, method, held_out, seed), settings, {"w": torch.zeros(1)},
                    pd.DataFrame({"epoch": [0]}), predictions(held_out, seed, SKILL[method], conditions),
                    embeddings([seed, fold], method == "ours"))
                if method == "ours":
                    record.update_run(folder, trajectory=trajectory(held_out, seed))


# ---- lesions ---------------------------------------------------------------------------------------------

def decided_mammograms(method="ours", seed=42, n=80, held_out="inbreast", skill=1.0):
    """Two mammograms per patient: odd patients malignant; densities and lesion types in turn."""
    rng = np.random.default_rng([seed, len(method)])
    i = np.arange(n)
    y = (i // 2 % 2).astype(float)
    lesion_type = np.array(["mass", "calcification", "distortion", "asymmetry"])[i // 4 % 4]
    return pd.DataFrame({
        "method": method, "held_out": held_out, "seed": seed, "modality": "mammography",
        "sample": [f"{held_out}/{k}" for k in i], "patient": np.char.add("p", (i // 2).astype(str)),
        "density": np.array(list("ABCD"))[i // 4 % 4], "y": y, "p": skill * y + rng.random(n),
        "lesion_type": np.where((y == 1) | (i % 8 < 3), lesion_type, "")})


def boxed(method="ours", seed=42, held_out="inbreast", n=60, normal=20, skill=0.5):
    """Unseen mammograms as `predict` leaves them, the first ones normal.

    The others have a lesion of one 10 x 10 pixel box each, met with an IoU of 0 or more.
    """
    rng = np.random.default_rng([seed, len(method)])
    i = np.arange(n)
    lesion = i >= normal
    seen = rng.random(n) < 0.8
    shift = rng.integers(0, 5, n) * (rng.random(n) > skill)
    truth = np.tile([10.0, 10.0, 20.0, 20.0], (n, 1))
    box = np.where(seen[:, None], truth + shift[:, None] * [1, 0, 1, 0], np.nan)
    iou = np.where(lesion, np.nan_to_num(stats.iou(box, truth)), np.nan)
    diameter = np.array([4.9, 5.0, 14.0, 15.5, 20.0, np.nan])[i % 6]
    return pd.DataFrame({
        "method": method, "held_out": held_out, "seed": seed, "split": "target", "condition": "source",
        "modality": "mammography", "sample": np.char.add(f"{held_out}/", np.char.zfill(i.astype(str), 2)),
        "patient": np.char.add(f"{held_out}/p", (i // 2).astype(str)), "has_mask": lesion,
        "allowed": np.where(lesion, 12, label_set("normal")), "iou": iou,
        "dice": np.where(lesion, (1 + iou) / 2, np.nan),
        "box_score": np.where(seen, rng.random(n).round(1), np.nan),
        "x0": box[:, 0], "y0": box[:, 1], "x1": box[:, 2], "y1": box[:, 3],
        "lesion_type": np.where(lesion, np.array(GROUPS)[i % 4], ""), "lesion_shape": "",
        "diameter_mm": np.where(lesion, diameter, np.nan)})


class Pictures:
    """As `loaders.Images`: for each row an image of noise."""
    def gather(self, rows, what="images"):
        images = []
        for sample in rows["sample"]:
            images.append(np.random.default_rng(len(sample)).integers(0, 256, (32, 32), dtype=np.uint8))
        return np.stack(images)


# ---- cases -----------------------------------------------------------------------------------------------

def card(p, weights=(.1,) * 5, conclusion="Most likely normal.", grade=0):
    """A reasoning card of both modalities with 4 x 4 patches; one supporting patch for each weight."""
    patches = np.array([(tile, 0) for tile in range(len(weights))])
    heat = np.linspace(0, 1, 16).reshape(4, 4)
    return Card(p=np.asarray(p), grade=grade, read=BOTH, conclusion=conclusion, box=(), mask=None, heat=heat,
                tissue=np.zeros((5, 4, 4)), patches=patches, weights=np.asarray(weights))


def columns(of_patient, truth_boxes=()):
    """The columns of a case with this card, of noise, with the maps beside the attention."""
    rng = np.random.default_rng(0)
    mammogram = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    tiles = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    beside = {"swap": 0.25, "random": 0.125, "chance": 0.06}
    for name in MAPS:
        beside |= {f"map_{name}": to_uri(of_patient.heat), f"hit_{name}": 1.0}
    return card_columns(of_patient, mammogram, tiles, truth_boxes) | beside


def outlined(sample, lesion_type, box=(np.nan,) * 4, iou=np.nan, dice=np.nan):
    """A row of predictions of an outlined mammogram."""
    x0, y0, x1, y1 = box
    return pd.Series({"sample": sample, "lesion_type": lesion_type, "x0": x0, "y0": y0, "x1": x1, "y1": y1,
                      "iou": iou, "dice": dice})
