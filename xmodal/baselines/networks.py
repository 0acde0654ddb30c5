"""Networks of one modality, early and late fusion, and the localisers of Fig. 4."""
import pandas as pd

from .. import learner
from ..activations import images_of
from ..encoders import REFERENCE, begin_from, put_into
from ..methods import LATE, NETWORKS
from ..predict import predict
from ..record import is_done, load_run, save_run, seed_everything
from ..runtime.checkpoints import checkpoint_path
from ..runtime.identity import code_of
from .backbones import Mixed
from .common import embeddings_of_unseen, late, prepare


def build(profile, families):
    """(the network of these families with the encoders it begins from, a description of these)."""
    model = Mixed(profile, families, pretrained=profile.pretrained == "timm")
    start = {}
    descriptions = []
    for family in sorted(set(families.values())):
        if family != "vit" and profile.pretrained == "timm":
            continue                                     # `Mixed` has them from timm
        state, description = begin_from(profile, REFERENCE if family == "vit" else family)
        start |= state or {}
        descriptions.append(description)
    if start:
        put_into(model, start)
    return model, "; ".join(descriptions) or profile.pretrained


def train_network(profile, method, held_out, seed, table):
    """A network on the modalities that it reads. Returns `record.Run`."""
    families = NETWORKS[method]
    seed_everything(seed)
    model, encoder = build(profile, families)
    folder, fold, run_config = prepare(profile, method, held_out, seed, table,
                                       families=families, encoder=encoder,
                                       code=code_of("xmodal.baselines.networks.train_network"))
    if is_done(folder, run_config):
        return load_run(folder)
    fold = fold[fold.modality.isin(families)].reset_index(drop=True)
    images = images_of(profile, model, table)
    seed_everything(seed)
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
    folder, _, run_config = prepare(profile, method, held_out, seed, table, of=LATE[method], encoder=encoder,
                                    code=code_of("xmodal.baselines.networks.train_late"))
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
