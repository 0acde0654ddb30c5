"""K-MaT: prompts learned on a high-end modality also read a low-end one, of which no picture is trained on.

Zeng and Albarqouni 2026. Class embeddings w (2, C, D) of both modalities come from soft prompts through the
frozen text encoder of `clip.ImageText`:

    L = L_ce + lambda_anc L_anc + lambda_fgw L_fgw

L_ce is the cross-entropy on 16 high-end pictures per class. The anchors (L_anc) hold every w near the mean
embedding of 50 clinical descriptions. Fused Gromov-Wasserstein (L_fgw) lets the low-end classes lie to each
other as the high-end ones do. A method is a row of switches. C classes, M context tokens of width W, D
dimensions; modality 0 is the high end, 1 the low end.
"""
import logging
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold

from .. import config
from ..config import Problem
from ..runtime.checkpoints import checkpoint_path
from ..runtime.files import sha256
from . import study
from .pictures import Modality, Pair, split_patients
from .prompts import Method, Settings, learn
from .transport import fgw_plan, fgw_space

log = logging.getLogger(__name__)
SETTINGS = {"lesson": Settings(shots=16, epochs=15, batch=16, lr=0.05),
            "paper": Settings(shots=16, epochs=50, batch=4, lr=0.0025)}
METHODS = {                      # their weights are multiplied by one of FACTORS, see `choose`
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
SEARCHED = ("anchor", "keep", "mean", "distil")
FACTORS = (0.0, 0.1, 1.0, 10.0)


# ---- data --------------------------------------------------------------------------------------------------

SHARES = 0.23, 0.09     # of the phantom's patients train and validate


def phantom_pair(folder, seed=42, gap=1.0):
    """The default pair: mammograms and ultrasound of the textbook cases in `folder`, which
    data_scripts.phantom.textbook.write makes.

    gap: share of ultrasound in the grey levels of a low-end picture; the rest is the patient's mammogram. At
    0 both ends are the same pictures, at 1 the low end is ultrasound.
    """
    if not (folder / "cases.parquet").exists():
        raise Problem(f"There are no phantom cases in {folder}; "
                      "write them with data_scripts.phantom.textbook.write, as 11_kmat does.")
    table = split_patients(pd.read_parquet(folder / "cases.parquet"), seed, SHARES)
    files = [folder / "images" / f"{view}.npy" for view in ("mammography", "ultrasound")]
    sums = [sha256(file) for file in files]

    def mixed(share, rows):
        parts = [np.load(file, mmap_mode="r")[rows.index] for file in files]
        return np.round((1 - share) * parts[0] + share * parts[1]).astype(np.uint8)

    ends = []
    for name, share in (("mammography", 0.0), ("ultrasound", gap)):
        samples = table[["patient", "label", "split"]].assign(sample=table.patient + "/" + name)
        ends.append(Modality(name, samples, partial(mixed, share), f"{share} of {sums}"))
    return Pair(("normal", "benign", "malignant"), *ends, "phantom")


def few_shots(labels, shots, seed):
    """Row numbers of `shots` pictures of each class, or of all its pictures where it has fewer."""
    rng = np.random.default_rng([seed, 16])
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)])


# ---- a run -------------------------------------------------------------------------------------------------

def run(profile, pair, texts, name, method, seed, settings=None):
    """One method and seed: trained on few shots of the high end, then tested on both ends.

    A finished run is read back.

    texts: `prompts.Texts` of the pair. Returns four tables: "history"; "predictions", one row per test
    picture with modality, sample, patient, end, truth, p0, p1, ...; "embeddings" with end, class, d0, d1,
    ...; "plan" with high, low, share (see `coupling`).
    """
    settings = settings or config.settings_of(SETTINGS, profile)
    folder = place(profile, pair, name, seed)
    configuration = configured(profile, pair, texts, method, settings, seed)

    def make():
        resume = checkpoint_path(folder, configuration)
        prompts, history = trained(pair, texts, method, settings, seed, resume)
        both = [predict(prompts, texts, pair, k) for k in (0, 1)]       # the first look at the low end
        tables = {"history": history, "predictions": pd.concat(both, ignore_index=True),
                  "embeddings": embeddings(prompts, texts), "plan": coupling(prompts, texts, settings)}
        return tables, prompts.state_dict() if prompts else {"none": torch.zeros(0)}

    tables = study.computed_once(folder, configuration, make)
    partners = partner_of(tables["plan"])
    if method.fgw and not np.array_equal(partners, np.arange(len(partners))):
        crossed = ", ".join(f"{pair.classes[i]} with {pair.classes[j]}" for i, j in enumerate(partners))
        log.warning("K-MaT %s, seed %s: the plan couples %s.", name, seed, crossed)
    return tables


def ablation(profile, pair, texts, ours, seeds, settings=None):
    """{(row, seed): tables of `run`} of Table 3, with the anchor weight of `ours` where a row has anchors."""
    runs = {}
    for row, method in ABLATION.items():
        method = replace(method, anchor=ours.anchor if method.anchor else 0.0)
        name = SAME.get(row, f"row_{row}")
        for seed in seeds:
            runs[row, seed] = run(profile, pair, texts, name, method, seed, settings)
    return runs


def place(profile, pair, name, seed):
    """runs/<profile>/companions/kmat/<pair>/<name>/seed_<n>."""
    folder = config.RUNS / getattr(profile, "name", profile) / "companions" / "kmat"
    return folder / pair.name / name / f"seed_{seed}"


def configured(profile, pair, texts, method, settings, seed):
    """What a result was made with: its config.json."""
    model = texts.model
    return {"profile": getattr(profile, "name", profile), "companion": "kmat", "method": asdict(method),
            "settings": asdict(settings), "seed": seed, "model": model.name, "weights": model.digest(),
            "texts": texts.digest(), "classes": list(pair.classes),
            "high": pair.high.digest(), "low": pair.low.digest()}


def trained(pair, texts, method, settings, seed, resume=None):
    """(Prompts, history) of a method on the few shots of a seed; (None, empty) for zero-shot.

    The low end is never asked for. resume: as for `study.fit`. Raises `Problem` for a class without a
    training picture.
    """
    if not method.learned:
        return None, pd.DataFrame({"epoch": []})
    features, rows = pair.high.features(texts.model, "train")
    return from_few(pair, texts, method, settings, seed, (features, pair.labels(rows)), resume)


def from_few(pair, texts, method, settings, seed, pool, resume=None):
    """(Prompts, history) of a method on few shots drawn from `pool`, features (N, D) and labels (N,)."""
    features, labels = pool
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


@torch.no_grad()
def coupling(prompts, texts, settings):
    """The plan between the class embeddings of both ends as a table: high, low (class numbers), share of the
    high-end class that goes to the low-end one."""
    w = prompts() if prompts else texts.plain
    plan = fgw_plan(fgw_space(w[0], w[1]), settings.alpha, settings.epsilon, settings.iterations,
                    settings.starts)
    share = (plan / plan.sum(1, keepdim=True)).cpu().numpy()
    rows = [(i, j, share[i, j]) for i in range(len(share)) for j in range(len(share))]
    return pd.DataFrame(rows, columns=["high", "low", "share"])


def partner_of(plan):
    """(C,) the low-end class to which a plan (table of `coupling`) gives most of each high-end class."""
    return plan.pivot(index="high", columns="low", values="share").to_numpy().argmax(1)


# ---- the choice of weights ---------------------------------------------------------------------------------

def scaled(method, factor):
    """A method whose searched weights are multiplied by a factor."""
    return replace(method, **{name: factor * getattr(method, name) for name in SEARCHED})


def choose(profile, pair, texts, name, seeds, settings=None, factors=FACTORS):
    """(method `name` with its weights, table of what was tried: factor, seed, accuracy).

    Cross-validated on training and validation pictures of the high end alone: they are parted into folds by
    patient, each seed holds out one of them, draws its shots from the others and is scored on its own. The
    factor of the best mean accuracy is taken, of equal ones the first. With contexts of their own the high
    end does not feel lambda_fgw, as its embeddings are detached there, so that it stays 1 and is left out of
    these trainings. A method without such weights comes back as it is, with None.
    """
    method = METHODS[name]
    if scaled(method, 2.0) == method:
        return method, None
    settings = settings or config.settings_of(SETTINGS, profile)
    seeds = list(seeds)
    judged = replace(method, fgw=0.0) if method.msc else method

    def make():
        rows = []
        for factor in factors:
            for fold, seed in enumerate(seeds):
                held_out = fold, max(3, len(seeds))
                score = validated(pair, texts, scaled(judged, factor), settings, seed, held_out)
                rows.append((factor, seed, score))
        tried = pd.DataFrame(rows, columns=["factor", "seed", "accuracy"])
        return {"tried": tried}, {"none": torch.zeros(0)}

    configuration = {**configured(profile, pair, texts, method, settings, seeds[0]),
                     "factors": list(factors), "seeds": seeds}
    folder = place(profile, pair, f"choice_{name}", seeds[0])
    tried = study.computed_once(folder, configuration, make)["tried"]
    best = tried.groupby("factor", sort=False).accuracy.mean().idxmax()
    return scaled(method, float(best)), tried


def validated(pair, texts, method, settings, seed, fold):
    """Accuracy on the held-out fold `fold` = (number, of how many) of the high end's pictures to learn
    from."""
    number, count = fold
    parts = [pair.high.features(texts.model, split) for split in ("train", "validation")]
    features = torch.cat([part for part, _ in parts])
    rows = pd.concat([rows for _, rows in parts])
    labels = pair.labels(rows)
    fewest = rows.groupby("label").patient.nunique().min()
    if fewest < count:
        raise Problem(f"{fewest} patients of a class in {pair.high.name} do not part into {count} folds; "
                      "give fewer seeds, or more patients.")
    parted = StratifiedGroupKFold(count, shuffle=True, random_state=0).split(labels, labels, rows.patient)
    rest, held_out = list(parted)[number]
    prompts, _ = from_few(pair, texts, method, settings, seed, (features[rest], labels[rest]))
    with torch.no_grad():
        guessed = prompts.logits(features[held_out], 0).argmax(1).cpu()
    return float((guessed == labels[held_out]).float().mean())
