"""K-MaT: prompts learned on a high-end modality that also read a low-end one, of which no picture is trained on (Zeng, Albarqouni 2026).

Class embeddings w (2, C, D) of both modalities come from soft prompts through the frozen text encoder of `frozen.ImageText`:

    L = L_ce + lambda_anc L_anc + lambda_fgw L_fgw

cross-entropy on 16 high-end pictures a class; anchors, which hold every w near the mean embedding of 50 clinical descriptions; and fused
Gromov-Wasserstein, which lets the low-end classes lie to each other as the high-end ones do. A method is a row of switches. C classes,
M context tokens of width W, D dimensions; modality 0 is high-end, 1 low-end.
"""
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score

from .. import config
from ..config import Problem
from ..runtime.checkpoints import checkpoint_path
from ..runtime.files import sha256
from . import study
from .measures import harmonic
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
# Table 3. Its check marks are lost; rows are those of its discussion, where row 5 adds the anchors and row 8 the transport to them. In the
# printed numbers rows 3 and 5 share their high end, and so do 4 and 8, which a transport that is detached there would give if 4 and 5 were
# the other way round.
ABLATION = {
    "1": Method(), "2": Method(csc=True), "3": Method(csc=True, msc=True), "4": replace(OURS, anchor=0.0), "5": replace(OURS, fgw=0.0),
    "6": replace(OURS, csc=False), "7": replace(OURS, msc=False), "8": OURS,
}
LAMBDAS = (0.1, 1.0, 10.0)


# ---- data --------------------------------------------------------------------------------------------------------

def phantom_pair(folder, seed=42):
    """The default pair: magnified mammograms and ultrasound of the phantom studies in `folder` (data_scripts.phantom.studies.write)."""
    if not (folder / "studies.parquet").exists():
        raise Problem(f"There are no phantom studies in {folder}; write them with data_scripts.phantom.studies.write, as 11_kmat does.")
    table = split_patients(pd.read_parquet(folder / "studies.parquet"), seed)
    file = lambda view: folder / "images" / f"{view}.npy"
    side = lambda name, view: Modality(name, table[["patient", "label", "split"]].assign(sample=table.patient + "/" + view),
                                       lambda rows: np.load(file(view), mmap_mode="r")[rows.index], sha256(file(view)))
    return Pair(("normal", "benign", "malignant"), side("mammography", "magnified"), side("ultrasound", "ultrasound"))


def few_shots(labels, shots, seed):
    """Row numbers of `shots` pictures of each class, or all where there are fewer."""
    rng = np.random.default_rng([seed, 16])
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)])


# ---- a run -------------------------------------------------------------------------------------------------------

def run(profile, pair, model, texts, name, method, seed, settings=None):
    """One method and seed: trained on few shots of the high end, then tested on both modalities. Done runs are read back.

    Returns {"history", "predictions" (a row a test picture: modality, sample, patient, truth, p0..), "embeddings" (modality, class, d0..)}.
    """
    settings = settings or SETTINGS[getattr(profile, "name", profile)]
    folder, about = place(profile, name, seed), told(profile, pair, model, method, settings, seed)

    def make():
        prompts, history = trained(pair, model, texts, method, settings, seed, checkpoint_path(folder, about))
        w = embeddings(prompts, texts)
        found = pd.concat([predict(prompts, texts, pair, k) for k in (0, 1)], ignore_index=True)       # the first look at the low end
        return {"history": history, "predictions": found, "embeddings": w}, prompts.state_dict() if prompts else {"none": torch.zeros(0)}
    return study.computed_once(folder, about, make)


def place(profile, name, seed):
    """runs/<profile>/companions/kmat/<name>/seed_<n>."""
    return config.RUNS / getattr(profile, "name", profile) / "companions" / "kmat" / name / f"seed_{seed}"


def told(profile, pair, model, method, settings, seed):
    """What a result was made with: its config.json."""
    return {"profile": getattr(profile, "name", profile), "companion": "kmat", "method": asdict(method), "settings": asdict(settings),
            "seed": seed, "model": model.name, "weights": model.digest(), "classes": list(pair.classes), "high": pair.high.digest(),
            "low": pair.low.digest()}


def trained(pair, model, texts, method, settings, seed, resume=None):
    """(Prompts, history) of a method on the few shots of a seed; (None, empty) for zero-shot. Never asks for the low end. resume: as for
    `study.fit`. Raises `Problem` for a class without a training picture."""
    if not method.learned:
        return None, pd.DataFrame({"epoch": []})
    features, rows = pair.high.features(model, "train")
    labels = pair.labels(rows)
    missing = [name for k, name in enumerate(pair.classes) if not (labels == k).any()]
    if missing:
        raise Problem(f"No training picture of {pair.high.name} shows {missing[0]}; look at its table, or leave the class out of the pair.")
    few = few_shots(labels.numpy(), settings.shots, seed)
    return learn(method, model, texts, features[few], labels[few], pair.classes, settings, seed, resume)


@torch.no_grad()
def predict(prompts, texts, pair, modality, split="test"):
    """Predictions of a split of modality 0 or 1 as a table. prompts None: zero-shot, by the hand-written prompts."""
    model = prompts.model if prompts else texts.model
    side = (pair.high, pair.low)[modality]
    features, rows = side.features(model, split)
    logits = prompts.logits(features, modality) if prompts else model.scale * features @ texts.plain[modality].T
    table = rows[["sample", "patient"]].assign(modality=side.name, end=("high", "low")[modality], truth=pair.labels(rows).numpy())
    p = pd.DataFrame(logits.softmax(1).cpu().numpy(), columns=[f"p{c}" for c in range(len(pair.classes))], index=rows.index)
    return table.join(p).reset_index(drop=True)


@torch.no_grad()
def embeddings(prompts, texts):
    """Class embeddings as a table: end, class, d0, d1, ..."""
    w = (prompts() if prompts else texts.plain).cpu().numpy()
    rows = [(end, c, *w[k, c]) for k, end in enumerate(("high", "low")) for c in range(w.shape[1])]
    return pd.DataFrame(rows, columns=["end", "class", *(f"d{i}" for i in range(w.shape[2]))])


def choose(profile, pair, model, texts, seed, settings=None, grid=LAMBDAS):
    """The method K-MaT with its lambdas chosen by accuracy on high-end validation pictures alone, and the table of what was tried.

    Of equal accuracies the first counts. The high end does not feel lambda_fgw where modalities have contexts of their own (it is
    detached there), so only lambda_anc is searched and lambda_fgw stays 1.
    """
    settings = settings or SETTINGS[getattr(profile, "name", profile)]

    def make():
        rows = []
        for anchor in grid:
            prompts, _ = trained(pair, model, texts, replace(OURS, anchor=anchor), settings, seed)
            found = predict(prompts, texts, pair, 0, "validation")
            rows.append((anchor, OURS.fgw, float((guess(found) == found.truth).mean())))
        return {"tried": pd.DataFrame(rows, columns=["lambda_anc", "lambda_fgw", "high_validation_accuracy"])}, {"none": torch.zeros(0)}
    about = {**told(profile, pair, model, OURS, settings, seed), "grid": list(grid)}
    table = study.computed_once(place(profile, "choice", seed), about, make)["tried"]
    return replace(OURS, anchor=float(table.lambda_anc[table.high_validation_accuracy.idxmax()])), table


# ---- panels ------------------------------------------------------------------------------------------------------

def guess(predictions):
    """(N,) predicted class numbers."""
    return predictions.filter(regex=r"^p\d+$").to_numpy().argmax(1)


def scores(predictions):
    """{acc, f1 of high and low} in percent of the predictions of one run."""
    out = {}
    for end, rows in predictions.groupby("end"):
        truth, said = rows.truth.to_numpy(), guess(rows)
        out[f"{end}_acc"] = 100 * float((truth == said).mean())
        out[f"{end}_f1"] = 100 * float(f1_score(truth, said, average="macro", zero_division=0))
    return out


def table_of(runs, model_name):
    """Table 2 or 3: a row a method of {(method, seed): tables of `run`}. Per seed, then averaged: accuracy and macro-F1 of both ends and
    their harmonic mean H; `h_of_means` is the other definition, the harmonic mean of the averaged columns. Percent."""
    each = pd.DataFrame([{"method": m, "seed": s, **scores(t["predictions"])} for (m, s), t in runs.items()])
    for k in ("acc", "f1"):
        each[f"h_{k}"] = harmonic(each[f"high_{k}"], each[f"low_{k}"])
    numbers = [c for c in each if c not in ("method", "seed")]
    table = each.groupby("method", sort=False)[numbers].mean()
    for k in numbers:
        table[f"{k}_sd"] = each.groupby("method", sort=False)[k].std(ddof=1)
    for k in ("acc", "f1"):
        table[f"h_of_means_{k}"] = harmonic(table[f"high_{k}"], table[f"low_{k}"])
    return table.assign(seeds=each.groupby("method", sort=False).seed.nunique(), model=model_name).reset_index()


def fig2a(with_fgw, without, classes, seed=42):
    """Fig. 2 a: t-SNE of the class embeddings of runs with and without L_fgw. Columns run, end, class, name, seed, x, y."""
    from openTSNE import TSNE
    parts = [(t["embeddings"], name, s) for name, runs in (("with", with_fgw), ("without", without)) for s, t in runs.items()]
    table = pd.concat([t[["end", "class"]].assign(run=name, seed=s) for t, name, s in parts], ignore_index=True)
    z = np.concatenate([t.filter(regex=r"^d\d+$").to_numpy() for t, *_ in parts])
    xy = np.asarray(TSNE(perplexity=min(10, (len(z) - 1) / 3), initialization="pca", random_state=seed, n_jobs=1).fit(z))
    names = [classes[c] for c in table["class"]]
    return table[["run", "end", "class", "seed"]].assign(name=names, x=xy[:, 0], y=xy[:, 1])


def fig2b(with_fgw, without, classes):
    """Fig. 2 b: accuracy of each class on the low end, with and without L_fgw. Columns run, seed, class, name, accuracy (percent), n."""
    rows = []
    for name, runs in (("with", with_fgw), ("without", without)):
        for seed, tables in runs.items():
            low = tables["predictions"].query("end == 'low'")
            truth, hit = low.truth.to_numpy(), guess(low) == low.truth.to_numpy()
            rows += [(name, seed, c, label, 100 * hit[truth == c].mean(), (truth == c).sum()) for c, label in enumerate(classes)]
    return pd.DataFrame(rows, columns=["run", "seed", "class", "name", "accuracy", "n"])
