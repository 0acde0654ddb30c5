"""Networks of one modality, early and late fusion, and the localisers of Fig. 4."""
import pandas as pd
from safetensors.torch import load_file

from .. import config, learner
from ..config import MAMMOGRAPHY
from ..loaders import Images
from ..methods import LATE, NETWORKS
from ..predict import predict
from ..record import is_done, load_run, save_run, seed_everything
from ..runtime.checkpoints import checkpoint_path
from .backbones import Mixed
from .common import embeddings_of_unseen, late, prepare


def pretrain(profile, family, seed=7):
    """Weights of a family of `backbones`, trained on the mammograms of the pretraining phantom, once."""
    name = f"pretrained_{family}"
    seed_everything(seed)
    model = Mixed(profile, {MAMMOGRAPHY: family})
    learner.pretrain(profile, config.DATA / profile.name / "pretraining", seed, model=model, name=name,
                     modalities=(MAMMOGRAPHY,))
    return load_file(config.RUNS / profile.name / name / "model.safetensors")


def build(profile, families, state):
    """The network of these families with the weights it starts from.

    state: those of the vision transformer, or None (`learner.pretrained`). From the phantom, each encoder
    brings its neck, and that of mammograms its decoder.
    """
    model = Mixed(profile, families, pretrained=profile.pretrained == "timm" and state is not None)
    start = dict(state or {}) if "vit" in families.values() else {}
    if profile.pretrained == "phantom":
        own_parts = ("grids.", "decoder.", f"necks.{MAMMOGRAPHY}.")
        for family in set(families.values()) - {"vit"}:
            own = pretrain(profile, family)
            start = own | start | {k: v for k, v in own.items() if k.startswith(own_parts)}
    if start:
        learner.load_encoder(model, start)
    return model


def train_network(profile, method, held_out, seed, table):
    """A network on the modalities that it reads. Returns `record.Run`."""
    families = NETWORKS[method]
    state, source_of_state = learner.pretrained(profile)
    folder, fold, run_config = prepare(profile, method, held_out, seed, table,
                                       families=families, encoder=source_of_state)
    if is_done(folder, run_config):
        return load_run(folder)
    fold = fold[fold.modality.isin(families)].reset_index(drop=True)
    images = Images(config.DATA / profile.name)
    seed_everything(seed)
    model = build(profile, families, state)
    seed_everything(seed)                # again, since building may have trained an encoder
    learn = learner.learner(profile, "erm", fold, images, seed, folder=folder, model=model)
    history = learner.fit(learn, profile.epochs, resume=checkpoint_path(folder, run_config))
    predictions, embeddings = predict(model, fold, images)
    embeddings = embeddings_of_unseen(predictions[predictions.modality != "both"], embeddings["z"])
    save_run(folder, run_config, model.state_dict(), history, predictions, embeddings)
    return load_run(folder)


def train_late(profile, method, held_out, seed, table):
    """Late fusion: the networks of one modality, trained first where they are not, and the mean of their
    probabilities. Returns `record.Run`."""
    parts = [train_network(profile, part, held_out, seed, table) for part in LATE[method]]
    encoder = parts[0].config["encoder"]
    folder, _, run_config = prepare(profile, method, held_out, seed, table, of=LATE[method], encoder=encoder)
    if is_done(folder, run_config):
        return load_run(folder)
    predictions = pd.concat([part.predictions for part in parts], ignore_index=True)
    predictions, embeddings = late(predictions)
    histories = [part.history.assign(part=part.config["method"]) for part in parts]
    state = {}
    for part in parts:
        state |= {f"{part.config['method']}.{name}": value for name, value in part.state.items()}
    save_run(folder, run_config, state, pd.concat(histories, ignore_index=True), predictions, embeddings)
    return load_run(folder)
