"""Networks of one modality, early and late fusion, and the localisers of Fig. 4. Each leaves a run like any other method's."""

import pandas as pd
from safetensors.torch import load_file

from .. import config
from ..config import MAMMOGRAPHY
from ..learner import fit, learner, load_encoder, pretrain as learn_first, pretrained
from ..loaders import Images
from ..methods import LATE, NETWORKS
from ..predict import predict
from ..record import is_done, load_run, save_run, seed_everything
from ..runtime.checkpoints import checkpoint_path
from .backbones import Mixed
from .common import kept, late, prepare

# ---- networks ----------------------------------------------------------------------------------------------------

def pretrain(profile, family, seed=7):
    """Weights of a `backbones` family trained on the mammograms of the pretraining phantom, by `learner.pretrain`, once a profile."""
    name = f"pretrained_{family}"
    seed_everything(seed)
    learn_first(profile, config.DATA / profile.name / "pretraining", seed, model=Mixed(profile, {MAMMOGRAPHY: family}), name=name,
                modalities=(MAMMOGRAPHY,))
    return load_file(config.RUNS / profile.name / name / "model.safetensors")


def build(profile, families, state):
    """The network of these families with the weights it starts from. state: those of the vision transformer, or None (`pretrained`).
    From the phantom, each encoder brings its neck, and that of mammograms its decoder."""
    model = Mixed(profile, families, pretrained=profile.pretrained == "timm" and state is not None)
    start = dict(state or {}) if "vit" in families.values() else {}
    if profile.pretrained == "phantom":
        for family in set(families.values()) - {"vit"}:
            own = pretrain(profile, family)
            start = {**own, **start, **{k: v for k, v in own.items() if k.startswith(("grids.", "decoder.", f"necks.{MAMMOGRAPHY}."))}}
    if start:
        load_encoder(model, start)
    return model


def train_network(profile, method, held_out, seed, table):
    """A network on the modalities that it reads."""
    families, (state, words) = NETWORKS[method], pretrained(profile)
    folder, fold, about = prepare(profile, method, held_out, seed, table, families=families, encoder=words)
    if is_done(folder, about):
        return load_run(folder)
    fold, data = fold[fold.modality.isin(families)].reset_index(drop=True), config.DATA / profile.name
    seed_everything(seed)
    model = build(profile, families, state)
    seed_everything(seed)                                                # building may have trained an encoder first
    learn = learner(profile, "erm", fold, Images(data), seed, folder=folder, model=model)
    history = fit(learn, profile.epochs, resume=checkpoint_path(folder, about))
    predictions, embeddings = predict(model, fold, Images(data))
    save_run(folder, about, model.state_dict(), history, predictions, kept(predictions[predictions.modality != "both"], embeddings["z"]))
    return load_run(folder)


def train_late(profile, method, held_out, seed, table):
    """Late fusion: the networks of one modality, trained first where they are not, and the mean of their probabilities."""
    parts = [train_network(profile, part, held_out, seed, table) for part in LATE[method]]
    folder, _, about = prepare(profile, method, held_out, seed, table, of=LATE[method], encoder=parts[0].config["encoder"])
    if is_done(folder, about):
        return load_run(folder)
    predictions, embeddings = late(pd.concat([p.predictions for p in parts], ignore_index=True))
    history = pd.concat([p.history.assign(part=p.config["method"]) for p in parts], ignore_index=True)
    save_run(folder, about, {f"{p.config['method']}.{k}": v for p in parts for k, v in p.state.items()}, history, predictions, embeddings)
    return load_run(folder)


# ---- a trivial reader --------------------------------------------------------------------------------------------

