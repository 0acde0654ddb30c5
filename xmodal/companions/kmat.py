"""K-MaT: prompts learned on a high-end modality also read a low-end one, of which no picture is trained on.

Zeng and Albarqouni 2026. Class embeddings w (2, C, D) of both modalities come from soft prompts through the
frozen text encoder of `clip.ImageText`:

    L = L_ce + lambda_anc L_anc + lambda_fgw L_fgw

L_ce is the cross-entropy on 16 high-end pictures per class. The anchors (L_anc) hold every w near the mean
embedding of 50 clinical descriptions. Fused Gromov-Wasserstein (L_fgw) lets the low-end classes lie to each
other as the high-end ones do. A method is a row of switches. C classes, M context tokens of width W, D
dimensions; modality 0 is the high end, 1 the low end.
"""
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch

from .. import config
from ..config import Problem
from ..runtime.checkpoints import checkpoint_path
from ..runtime.files import sha256
from . import study
from .pictures import Modality, Pair, split_patients
from .prompts import Method, Settings, learn

SETTINGS = {"lesson": Settings(shots=16, epochs=12, batch=16, lr=0.02),
            "paper": Settings(shots=16, epochs=50, batch=4, lr=0.0025, starts=3)}
METHODS = {                      # K-MaT's anchor weight is chosen by `choose`
    "zero-shot": Method(learned=False),
    "coop": Method(),
    "kgcoop": Method(keep=8.0),
    "cocoop": Method(conditional=True),
    "biomedcoop": Method(mean=1.0, distil=1.0),
    "kmat": Method(csc=True, msc=True, anchor=1.0, fgw=1.0),
}
OURS = METHODS["kmat"]
# The rows of Table 3. Its check marks are lost; these are the rows of its discussion, where row 5 adds the
# anchors and row 8 the transport to them. In the printed numbers rows 3 and 5 share their high end, and so do
# 4 and 8. Transport that is detached at the high end, as here, would give that if rows 4 and 5 were swapped.
ABLATION = {
    "1": Method(),
    "2": Method(csc=True),
    "3": Method(csc=True, msc=True),
    "4": replace(OURS, anchor=0.0),
    "5": replace(OURS, fgw=0.0),
    "6": replace(OURS, csc=False),
    "7": replace(OURS, msc=False),
    "8": OURS,
}
SAME = {"1": "coop", "8": "kmat"}   # rows of Table 3 that are methods of Table 2, and their names there
LAMBDAS = (0.1, 1.0, 10.0)


# ---- data --------------------------------------------------------------------------------------------------

def phantom_pair(folder, seed=42):
    """The default pair: magnified mammograms and ultrasound of the phantom studies in `folder`.

    data_scripts.phantom.studies.write makes them.
    """
    if not (folder / "studies.parquet").exists():
        raise Problem(f"There are no phantom studies in {folder}; "
                      "write them with data_scripts.phantom.studies.write, as 11_kmat does.")
    table = split_patients(pd.read_parquet(folder / "studies.parquet"), seed)
    high = _phantom_modality("mammography", table, "magnified", folder)
    low = _phantom_modality("ultrasound", table, "ultrasound", folder)
    return Pair(("normal", "benign", "malignant"), high, low)


def _phantom_modality(name, table, view, folder):
    """One view of the phantom studies, its pictures read from disk when they are asked for."""
    file = folder / "images" / f"{view}.npy"

    def pictures(rows):
        return np.load(file, mmap_mode="r")[rows.index]

    samples = table[["patient", "label", "split"]].assign(sample=table.patient + "/" + view)
    return Modality(name, samples, pictures, sha256(file))


def few_shots(labels, shots, seed):
    """Row numbers of `shots` pictures of each class, or of all its pictures where it has fewer."""
    rng = np.random.default_rng([seed, 16])
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)])


# ---- a run -------------------------------------------------------------------------------------------------

def run(profile, pair, texts, name, method, seed, settings=None):
    """One method and seed: trained on few shots of the high end, then tested on both ends.

    A finished run is read back.

    texts: `prompts.Texts` of the pair. Returns three tables: "history"; "predictions", one row per test
    picture with modality, sample, patient, end, truth, p0, p1, ...; "embeddings" with end, class, d0, d1, ...
    """
    settings = settings or SETTINGS[getattr(profile, "name", profile)]
    folder = place(profile, name, seed)
    configuration = configured(profile, pair, texts, method, settings, seed)

    def make():
        resume = checkpoint_path(folder, configuration)
        prompts, history = trained(pair, texts, method, settings, seed, resume)
        both = [predict(prompts, texts, pair, k) for k in (0, 1)]       # the first look at the low end
        tables = {"history": history, "predictions": pd.concat(both, ignore_index=True),
                  "embeddings": embeddings(prompts, texts)}
        return tables, prompts.state_dict() if prompts else {"none": torch.zeros(0)}

    return study.computed_once(folder, configuration, make)


def ablation(profile, pair, texts, ours, seeds, settings=None):
    """{(row, seed): tables of `run`} of Table 3, with the anchor weight of `ours` where a row has anchors."""
    runs = {}
    for row, method in ABLATION.items():
        method = replace(method, anchor=ours.anchor if method.anchor else 0.0)
        name = SAME.get(row, f"row_{row}")
        for seed in seeds:
            runs[row, seed] = run(profile, pair, texts, name, method, seed, settings)
    return runs


def place(profile, name, seed):
    """runs/<profile>/companions/kmat/<name>/seed_<n>."""
    return config.RUNS / getattr(profile, "name", profile) / "companions" / "kmat" / name / f"seed_{seed}"


def configured(profile, pair, texts, method, settings, seed):
    """What a result was made with: its config.json."""
    model = texts.model
    return {"profile": getattr(profile, "name", profile), "companion": "kmat", "method": asdict(method),
            "settings": asdict(settings), "seed": seed, "model": model.name, "weights": model.digest(),
            "classes": list(pair.classes), "high": pair.high.digest(), "low": pair.low.digest()}


def trained(pair, texts, method, settings, seed, resume=None):
    """(Prompts, history) of a method on the few shots of a seed; (None, empty) for zero-shot.

    The low end is never asked for. resume: as for `study.fit`. Raises `Problem` for a class without a
    training picture.
    """
    if not method.learned:
        return None, pd.DataFrame({"epoch": []})
    features, rows = pair.high.features(texts.model, "train")
    labels = pair.labels(rows)
    missing = [name for k, name in enumerate(pair.classes) if not (labels == k).any()]
    if missing:
        raise Problem(f"No training picture of {pair.high.name} shows {missing[0]}; look at its table, "
                      "or leave the class out of the pair.")
    few = few_shots(labels.numpy(), settings.shots, seed)
    return learn(method, texts, features[few], labels[few], settings, seed, resume)


@torch.no_grad()
def predict(prompts, texts, pair, modality, split="test"):
    """Predictions of a split of modality 0 or 1 as a table.

    prompts None: zero-shot, by the hand-written prompts.
    """
    model = texts.model
    side = (pair.high, pair.low)[modality]
    features, rows = side.features(model, split)
    if prompts:
        logits = prompts.logits(features, modality)
    else:
        logits = model.scale * features @ texts.plain[modality].T
    table = rows[["sample", "patient"]].assign(modality=side.name, end=("high", "low")[modality],
                                               truth=pair.labels(rows).numpy())
    columns = [f"p{c}" for c in range(len(pair.classes))]
    p = pd.DataFrame(logits.softmax(1).cpu().numpy(), columns=columns, index=rows.index)
    return table.join(p).reset_index(drop=True)


@torch.no_grad()
def embeddings(prompts, texts):
    """Class embeddings as a table: end, class, d0, d1, ..."""
    w = (prompts() if prompts else texts.plain).cpu().numpy()
    rows = [(end, c, *w[k, c]) for k, end in enumerate(("high", "low")) for c in range(w.shape[1])]
    return pd.DataFrame(rows, columns=["end", "class", *(f"d{i}" for i in range(w.shape[2]))])


def guess(predictions):
    """(N,) predicted class numbers."""
    return predictions.filter(regex=r"^p\d+$").to_numpy().argmax(1)


def choose(profile, pair, texts, seed, settings=None, grid=LAMBDAS):
    """(K-MaT with its lambdas, the table of what was tried).

    The lambdas are chosen by accuracy on high-end validation pictures alone.

    Of equal accuracies the first counts. The high end does not feel lambda_fgw where modalities have contexts
    of their own (it is detached there), so only lambda_anc is searched and lambda_fgw stays 1.
    """
    settings = settings or SETTINGS[getattr(profile, "name", profile)]

    def make():
        rows = []
        for anchor in grid:
            prompts, _ = trained(pair, texts, replace(OURS, anchor=anchor), settings, seed)
            valid = predict(prompts, texts, pair, 0, "validation")
            rows.append((anchor, OURS.fgw, float((guess(valid) == valid.truth).mean())))
        tried = pd.DataFrame(rows, columns=["lambda_anc", "lambda_fgw", "high_validation_accuracy"])
        return {"tried": tried}, {"none": torch.zeros(0)}

    configuration = {**configured(profile, pair, texts, OURS, settings, seed), "grid": list(grid)}
    tried = study.computed_once(place(profile, "choice", seed), configuration, make)["tried"]
    best = tried.lambda_anc[tried.high_validation_accuracy.idxmax()]
    return replace(OURS, anchor=float(best)), tried
