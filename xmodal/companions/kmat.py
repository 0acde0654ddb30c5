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

from .. import config
from ..config import Problem
from ..runtime.checkpoints import checkpoint_path
from ..runtime.files import sha256
from . import study
from .pictures import Modality, Pair, split_patients
from .prompts import Method, Settings, Training, learn
from .transport import fgw_plan, fgw_space

log = logging.getLogger(__name__)
SETTINGS = {"lesson": Settings(shots=16, epochs=15, batch=16, lr=0.05),
            "paper": Settings(shots=16, epochs=50, batch=4, lr=0.0025)}
METHODS = {                      # their weights are multiplied by a factor, see `kmat_choice`
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
NOTHING = {"none": torch.zeros(0)}  # the weights of a result without weights


# ---- data --------------------------------------------------------------------------------------------------

SHARES = 0.23, 0.09     # of the phantom's patients train and validate


def phantom_pair(folder, seed=42, gap=1.0, high=None):
    """The default pair: mammograms and ultrasound of the textbook cases in `folder`, which
    data_scripts.phantom.textbook.write makes.

    gap: share of ultrasound in the grey levels of a low-end picture; the rest is the patient's mammogram.
    At 0 both ends are the same pictures, at 1 the low end is ultrasound. high: the high end of such a pair,
    whose pictures then are not read again; at gap 0 neither are those of the low end.
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

    def end(name, share):
        samples = table[["patient", "label", "split"]].assign(sample=table.patient + "/" + name)
        return Modality(name, samples, partial(mixed, share), f"{share} of {sums}")

    high = high or end("mammography", 0.0)
    low = end("ultrasound", gap)
    if gap == 0:
        low = replace(low, _features=high._features)
    return Pair(("normal", "benign", "malignant"), high, low, "phantom")


def few_shots(labels, shots, seed):
    """Row numbers of `shots` pictures of each class, or of all its pictures where it has fewer, shuffled."""
    rng = np.random.default_rng([seed, 16])
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)]
    return rng.permutation(np.concatenate(drawn))


# ---- runs --------------------------------------------------------------------------------------------------

def run(profile, pair, texts, name, method, seeds, settings=None):
    """A method trained on few shots of the high end, then tested on both ends: {seed: tables}.

    The seeds are trained side by side; what comes out for one does not depend on the others but for rounding.
    A finished run of the same seeds is read back. A method of the table with another name, as KgCoOp with
    weight 0 is CoOp, is run once.

    texts: `prompts.Texts` of the pair. Four tables: "history"; "predictions", one row per test picture with
    modality, sample, patient, end, truth, p0, p1, ...; "embeddings" with end, class, d0, d1, ...; "plan" with
    high, low, share (see `coupling`).
    """
    settings = settings or config.settings_of(SETTINGS, profile)
    name = next((other for other, same in METHODS.items() if same == method), name)
    folder = place(profile, pair, name, seeds)
    configuration = configured(profile, pair, texts, method, settings, seeds)

    def make():
        resume = checkpoint_path(folder, configuration)
        members, histories = trained(pair, texts, method, settings, seeds, resume)
        made = {"history": histories, "predictions": [], "embeddings": [], "plan": []}
        for prompts in members:
            both = [predict(prompts, texts, pair, k) for k in (0, 1)]       # the first look at the low end
            made["predictions"].append(pd.concat(both, ignore_index=True))
            made["embeddings"].append(embeddings(prompts, texts))
            made["plan"].append(coupling(prompts, texts, settings))
        joined = {key: pd.concat(parts, keys=seeds, names=["seed"]) for key, parts in made.items()}
        state = torch.nn.ModuleList(filter(None, members)).state_dict()
        return {key: table.reset_index("seed") for key, table in joined.items()}, state or NOTHING

    tables = study.computed_once(folder, configuration, make)
    of_seeds = {}
    for seed in seeds:
        rows = {key: table[table.seed == seed] for key, table in tables.items()}
        of_seeds[seed] = {key: own.drop(columns="seed").reset_index(drop=True) for key, own in rows.items()}
        _warn_of_crossing(of_seeds[seed]["plan"], pair.classes, method, f"{name}, seed {seed}")
    return of_seeds


def _warn_of_crossing(plan, classes, method, which):
    partners = partner_of(plan)
    if method.fgw and not np.array_equal(partners, np.arange(len(partners))):
        crossed = ", ".join(f"{classes[i]} with {classes[j]}" for i, j in enumerate(partners))
        log.warning("K-MaT %s: the plan couples %s.", which, crossed)


def ablation(profile, pair, texts, ours, seeds, settings=None):
    """{(row, seed): tables of `run`} of Table 3, with the anchor weight of `ours` where a row has anchors."""
    runs = {}
    for row, method in ABLATION.items():
        method = replace(method, anchor=ours.anchor if method.anchor else 0.0)
        name = SAME.get(row, f"row_{row}")
        for seed, tables in run(profile, pair, texts, name, method, seeds, settings).items():
            runs[row, seed] = tables
    return runs


def place(profile, pair, name, seeds):
    """runs/<profile>/companions/kmat/<pair>/<name>/seeds_<n>_<n>..."""
    folder = config.RUNS / getattr(profile, "name", profile) / "companions" / "kmat"
    return folder / pair.name / name / f"seeds_{'_'.join(map(str, seeds))}"


def configured(profile, pair, texts, method, settings, seeds):
    """What a result was made with: its config.json."""
    model = texts.model
    return {"profile": getattr(profile, "name", profile), "companion": "kmat", "method": asdict(method),
            "settings": asdict(settings), "seeds": list(seeds), "model": model.name,
            "weights": model.digest(), "texts": texts.digest(), "classes": list(pair.classes),
            "high": pair.high.digest(), "low": pair.low.digest()}


def trained(pair, texts, method, settings, seeds, resume=None):
    """([Prompts], [history]) of a method on the few shots of each seed; None and empty ones for zero-shot.

    The low end is never asked for. resume: as for `study.fit`. Raises `Problem` for a class without a
    training picture.
    """
    if not method.learned:
        return [None] * len(seeds), [pd.DataFrame({"epoch": []})] * len(seeds)
    features, rows = pair.high.features(texts.model, "train")
    pool = features, pair.labels(rows)
    return learn([training(pair, method, settings, seed, pool) for seed in seeds], texts, settings, resume)


def training(pair, method, settings, seed, pool):
    """The `Training` of a method on few shots drawn from `pool`, features (N, D) and labels (N,)."""
    features, labels = pool
    missing = [name for k, name in enumerate(pair.classes) if not (labels == k).any()]
    if missing:
        raise Problem(f"No training picture of {pair.high.name} shows {missing[0]}; look at its table, "
                      "or leave the class out of the pair.")
    few = few_shots(labels.numpy(), settings.shots, seed)
    return Training(method, features[few], labels[few], seed)


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
