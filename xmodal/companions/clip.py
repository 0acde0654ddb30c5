"""The image-text model that prompts are learned for: pictures and texts as unit vectors of one space.

It is BiomedCLIP (Zhang et al. 2023) where its weights are on disk. Elsewhere a stand-in is made by
locked-image tuning (Zhai et al. 2022): both encoders stay frozen, and two linear projections are trained on
phantom pictures and their captions. The model's `name` says which one it is; it goes into every record and
onto every figure. N pictures or texts, S side of a picture, T tokens of a text, D dimensions of the common
space, W width of a token.
"""
import hashlib
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from .. import config
from ..config import Problem
from ..losses import info_nce
from ..runtime.checkpoints import checkpoint_path
from . import study
from .frozen import ImageEncoder, freeze, mean_pool, minilm

BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
TAU = 0.07                       # temperature of the stand-in, the same as of the main model's alignment
WIDTH = 128                      # dimensions of the stand-in's common space
SIZE = 128                       # side of the pictures that the stand-in sees


class ImageTower(NamedTuple):
    """How pictures are read."""
    vision: object           # list of pictures -> (N, F)
    project: nn.Module       # (N, F) -> (N, D)


class TextTower(NamedTuple):
    """How texts are read."""
    transformer: nn.Module
    tokenizer: object
    pool: object             # (hidden (N, T, W), mask (N, T)) -> (N, W)
    project: nn.Module       # (N, W) -> (N, D)


class ImageText(nn.Module):
    """Pictures and texts as unit vectors of one space; `scale` times their inner product are the logits."""

    def __init__(self, name, image, text, scale, device="cpu"):
        super().__init__()
        self.name = name
        self.scale = float(scale)
        self.device = device
        self.vision, self.see_images = image
        self.transformer, self.tokenizer, self.pool, self.see_text = text
        freeze(self, device)
        self.dim = self.texts(["breast"]).shape[1]

    @torch.no_grad()
    def images(self, pictures):
        """uint8 pictures, an array (N, S, S[, 3]) or a list of any sizes -> (N, D)."""
        return F.normalize(self.see_images(self.vision(pictures).to(self.device)), dim=1)

    @torch.no_grad()
    def texts(self, sentences, batch=64):
        """Sentences -> (N, D). Raises `Problem` for an empty sentence."""
        if not sentences or not all(s.strip() for s in sentences):
            raise Problem("A description is empty; every line of a description file must say something.")
        parts = [self.tokens(sentences[i:i + batch]) for i in range(0, len(sentences), batch)]
        return torch.cat([self.encode(self.embed(ids), mask) for ids, mask in parts])

    def digest(self):
        """A sha256 of both projections, so that a result can name its model."""
        tensors = [*self.see_images.state_dict().values(), *self.see_text.state_dict().values()]
        return hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in tensors)).hexdigest()

    def tokens(self, sentences):
        """Sentences -> token numbers and mask, both (N, T)."""
        batch = self.tokenizer(list(sentences), return_tensors="pt", padding=True, truncation=True,
                               max_length=256)
        return batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)

    def embed(self, ids):
        """Token numbers (..., T) -> word embeddings (..., T, W)."""
        return self.transformer.get_input_embeddings()(ids)

    def encode(self, embeddings, mask):
        """Word embeddings (N, T, W) -> (N, D); gradients reach the embeddings."""
        hidden = self.transformer(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
        return F.normalize(self.see_text(self.pool(hidden, mask)), dim=1)

    def prompts(self, context, names):
        """Soft prompts [CLS] context, name [SEP]: context (N, M, W) and N class names -> (N, D)."""
        ids, mask = self.tokens(names)
        embedded = self.embed(ids)
        whole = torch.cat([embedded[:, :1], context, embedded[:, 1:]], 1)
        return self.encode(whole, torch.cat([mask[:, :1].expand(-1, context.shape[1]), mask], 1))


def image_text(cases, folder, weights="", device="cpu", real=None):
    """open_clip's model from the folder `weights`, or BiomedCLIP from disk, or else the stand-in.

    The stand-in is trained on the textbook cases in the folder `cases` (data_scripts.phantom.textbook), and
    on `real`, pictures (H, W, 3) and two captions of each (data_scripts.busi_findings), where given:
    drawings alone do not teach it real ultrasound. It is stored in `folder`. Raises `Problem` where
    `weights` holds no open_clip model, and where none of the three can be had.
    """
    on_this_disk = weights or on_disk()
    if on_this_disk:
        return biomedclip(on_this_disk, device)
    cases = Path(cases)
    if not (cases / "cases.parquet").exists():
        weights_folder = config.DATA / "weights" / "biomedclip"
        raise Problem("There are no weights of an image-text model on disk, and no phantom cases in "
                      f"{cases} to make a stand-in from; put {BIOMEDCLIP} into {weights_folder}, "
                      "or write the cases as 11_kmat does.")
    table = pd.read_parquet(cases / "cases.parquet")
    pictures, texts = [], []
    for view in ("mammography", "ultrasound"):
        pictures.append(np.load(cases / "images" / f"{view}.npy"))
        texts += [json.loads(captions) for captions in table[f"{view}_captions"]]
    pictures = np.concatenate(pictures)
    if real:
        pictures = np.concatenate([_square(np.repeat(pictures[..., None], 3, 3)), _square(real[0])])
        texts += real[1]
    return standin(pictures, texts, folder, real=len(pictures) - 2 * len(table), device=device)


# ---- open_clip ---------------------------------------------------------------------------------------------

def biomedclip(path, device="cpu"):
    """The open_clip model in the folder `path`: open_clip_config.json and weights, laid out as on its hub.

    Raises `Problem` if they cannot be loaded.
    """
    import open_clip
    try:
        with tempfile.TemporaryDirectory() as folder:
            text_tower = _text_tower(Path(path), folder)
            model, see = open_clip.create_model_from_pretrained(f"local-dir:{path}", text_cfg=text_tower)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{path}").tokenizer
        transformer, pooler = model.text.transformer, model.text.pooler
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise Problem(f"No image-text model can be loaded from {path} ({reason}); put open_clip_config.json, "
                      f"the weights and the tokenizer of {BIOMEDCLIP} there.") from None
    freeze(model, device)

    def vision(pictures, batch=32):
        seen = torch.stack([see(Image.fromarray(np.asarray(p)).convert("RGB")) for p in pictures])
        return torch.cat([model.visual(part.to(device)) for part in seen.split(batch)])

    def pool(hidden, mask):
        output = type("Out", (), {"last_hidden_state": hidden})       # what the pooler of open_clip expects
        return pooler(output, mask)

    text = TextTower(transformer, tokenizer, pool, model.text.proj)
    name = f"open_clip {Path(path).name}"
    return ImageText(name, ImageTower(vision, nn.Identity()), text, model.logit_scale.exp(), device)


def _text_tower(path, folder):
    """The text_cfg of the open_clip folder `path`, with a text tower whose config.json is on disk.

    That file is where the tower's name says, or in `path`. BiomedCLIP's release has none, and its tower is of
    BERT's size: then one is written to `folder`.
    """
    from transformers import BertConfig
    text = json.loads((path / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    if not Path(text["hf_model_name"]).is_dir():
        if (path / "config.json").exists():
            text["hf_model_name"] = str(path)
        else:
            BertConfig().save_pretrained(folder)
            text["hf_model_name"] = str(folder)
    return {**text, "hf_model_pretrained": False}


def on_disk():
    """The folder of BiomedCLIP's weights: data/weights/biomedclip, or in the hub's cache, or None."""
    from transformers.utils import cached_file
    folder = config.DATA / "weights" / "biomedclip"
    if folder.exists():
        return folder
    try:
        return Path(cached_file(BIOMEDCLIP, "open_clip_config.json", local_files_only=True)).parent
    except OSError:
        return None


# ---- the stand-in ------------------------------------------------------------------------------------------

def standin(pictures, texts, folder, epochs=10, real=0, seed=7, device="cpu"):
    """The stand-in, whose projections are trained once and stored in `folder`.

    pictures: grey (N, S, S) or a list of any sizes, of which the last `real` ones are no drawings; texts:
    for each picture a list of texts. All texts of a picture are its positives, and so are equal texts of
    other pictures.
    """
    pictures = _square(pictures)
    encoder = ImageEncoder(device)
    transformer, tokenizer = minilm(device)
    layers = nn.ModuleDict({"image": nn.Linear(2560, WIDTH), "text": nn.Linear(384, WIDTH)})
    name = (f"stand-in: EfficientNet-Lite0 and MiniLM with projections trained on {len(pictures) - real} "
            "phantom pictures and captions")
    if real:
        name += f" and {real} real ones"

    def vision(seen):
        return encoder.pooled(_square(seen))

    text = TextTower(transformer, tokenizer, mean_pool, layers["text"])
    model = ImageText(name, ImageTower(vision, layers["image"]), text, 1 / TAU, device)
    seen = hashlib.sha256(np.ascontiguousarray(pictures).tobytes() + json.dumps(texts).encode()).hexdigest()
    settings = {"what": name, "epochs": epochs, "width": WIDTH, "seed": seed, "seen": seen}

    def make():
        return _project(model, layers, pictures, texts, settings, checkpoint_path(folder, settings))

    study.computed_once(folder, settings, make)
    layers.load_state_dict(study.tensors(folder))
    freeze(layers, device)
    return model


def _square(pictures):
    """Pictures of any sizes as uint8 (N, SIZE, SIZE[, 3]), grey ones without a channel."""
    if isinstance(pictures, np.ndarray) and pictures.shape[1:3] == (SIZE, SIZE):
        return pictures
    images = [Image.fromarray(np.asarray(p)) for p in pictures]
    return np.stack([np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)) for image in images])


def _project(model, layers, pictures, texts, settings, resume):
    """Trains the projections; returns the history and their tensors."""
    epochs, seed = settings["epochs"], settings["seed"]
    torch.manual_seed(seed)
    for layer in layers.values():
        layer.reset_parameters()
    layers.requires_grad_(True)
    seen = model.vision(pictures)
    unique = sorted({t for row in texts for t in row})
    pooled = []
    with torch.no_grad():
        for start in range(0, len(unique), 64):
            ids, mask = model.tokens(unique[start:start + 64])
            pooled.append(mean_pool(model.transformer(ids, mask).last_hidden_state, mask))
    read = torch.cat(pooled)
    number_of = {text: i for i, text in enumerate(unique)}
    numbers = torch.tensor([list(map(number_of.get, row)) for row in texts], device=model.device)

    def objective(rows):
        z = layers["image"](seen[rows].to(model.device))
        terms = {}
        for k in range(numbers.shape[1]):
            ids = numbers[rows, k]
            terms[f"text {k}"] = info_nce(z, layers["text"](read[ids]), ids, ids, TAU, symmetric=True)
        return terms

    descent = study.Descent(epochs, batch=64, lr=1e-3, weight_decay=1e-3)
    history = study.fit(layers, objective, len(seen), descent, seed, resume)
    return {"history": history}, layers.state_dict()
