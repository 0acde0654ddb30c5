"""Paths, names and the three profiles. Nothing else in the package holds a path or branches on a profile."""
import contextlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

HOME = Path(__file__).resolve().parents[1]                # the checkout
ROOT = Path(os.environ.get("XMODAL_HOME", HOME)).resolve()  # where data/, runs/ and figures/ are written
DATA = ROOT / "data"
RUNS = ROOT / "runs"
FIGURES = ROOT / "figures"

CLASSES = ("normal", "benign", "in situ", "invasive")    # y in {0, 1, 2, 3}; also the ordered grades of Eq. 8
MODALITIES = ("mammography", "histopathology")
MAMMOGRAPHY, HISTOPATHOLOGY = MODALITIES


@dataclass(frozen=True)
class Dataset:
    """A dataset of the main job: its row puts it into training, evaluation and the lists of the figures."""
    modality: str
    label: str               # in figures
    colour: str
    module: str = ""         # which reads its native files, where that is not the package's own reader
    real: bool = False       # images of patients also in a profile whose data are phantoms


DATASETS = {
    "cbis_ddsm": Dataset(MAMMOGRAPHY, "CBIS-DDSM", "#56B4E9"),
    "inbreast": Dataset(MAMMOGRAPHY, "INbreast", "#0072B2"),
    "bach": Dataset(HISTOPATHOLOGY, "BACH", "#D55E00"),
    "camelyon": Dataset(HISTOPATHOLOGY, "CAMELYON", "#E69F00"),
}
DOMAINS = {name: row.modality for name, row in DATASETS.items()}
PAPER_ORDER = ("cbis_ddsm", "camelyon", "inbreast", "bach")    # of the panels of Fig. 3 a-d
PRETRAINING = {  # never evaluated
    "pretraining_mammography": MAMMOGRAPHY,
    "pretraining_histopathology": HISTOPATHOLOGY,
}
SEEDS = (42, 1234, 5678)
SPLITS = ("train", "validation", "source test", "target")
CONDITIONS = ("source", "adabn", "tent", "causal")     # as trained, or adapted to all target images at once
STREAMS = ("adabn_stream", "causal_stream")            # adapted to each batch of the target as it comes

LIMITS = {  # what is larger is refused before it is read or decoded
    "mammogram pixels": 100_000_000,       # the largest have less than half of it
    "mammogram bytes": 250_000_000,        # of a DICOM file, inflated if it is deflated, and of its pixels
    "mammogram elements": 50_000,          # of a DICOM file, its items and each time that it is read included
    "jpeg scans": 20,                      # in one image
    "jpeg 2000 tiles": 10_000,             # in one image
    "jpeg 2000 blocks": 1_000_000,         # in one image: code-blocks, or packets
    "answer bytes": 32_000_000,            # of a list that a server sends, after it is decompressed
    "pages of a list": 10_000,
    "unsized file bytes": 200_000_000,     # of a file of which the server does not say how large it is
    "table bytes": 10_000_000,             # of a small table
    "table cells": 2_000_000,              # of a small table, its short lines filled up
    "matrix columns": 100_000,             # of a table such as genes by samples
    "matrix line bytes": 20_000_000,
    "matrix cells": 100_000_000,
    "matrix bytes": 4_000_000_000,         # as text, after it is decompressed
    "parquet cells": 50_000_000,
    "parquet bytes": 4_000_000_000,        # of its texts, each written out as often as it occurs
    "array bytes": 2_000_000_000,          # of the arrays in an .npz, after they are inflated
    "outline bytes": 32_000_000,           # of a file of outlines
    "picture pixels": 50_000_000,          # of a photograph or ultrasound image
    "archive list bytes": 10_000_000,      # of the list of files in a zip archive: some 100,000 files
}

# what stands beside every prediction and on every card of a model that has seen any
FROM_PHANTOMS = "the model was trained on phantoms: no evidence about patients"


class Problem(ValueError):
    """Something the user can mend. The message is one sentence: what was wrong, where, and what to do."""


@dataclass(frozen=True)
class Profile:
    """Everything that differs between a lesson on a laptop and the paper on a GPU."""
    name: str
    phantom: bool            # phantom data (and every figure says so), or the public datasets
    image_size: int          # side of the square model input, pixels
    patch: int               # side of a ViT patch, pixels
    stem: bool               # a few small convolutions embed a patch, instead of one of its size
    width: int               # embedding dimension
    depth: int               # transformer blocks
    frozen: int              # the first of them, which keep what they begin with, as then the patch embedding
    heads: int               # attention heads
    adapter: int             # bottleneck width of an adapter
    tile_um: float           # side of a histology tile, micrometres
    tiles_per_slide: int     # at most so many tiles are kept of a slide or a field of view
    batch: int               # patients per batch, each with one mammogram and one tile
    epochs: int
    lr: float                # of adapters, necks and heads, which begin at random
    encoder_lr: float
    weight_decay: float
    amp: bool                # bfloat16 autocast
    device: str
    pretrained: str          # what a training begins from, see `encoders.begin_from`
    pretrain_patients: int   # of the phantom that the reference encoder is trained on
    pretrain_epochs: int
    fetched: int = 0         # at most so many patients or slides of a public dataset are fetched, 0 for all


PROFILES = {
    "lesson": Profile(
        "lesson", phantom=True, image_size=96, patch=12, stem=True, width=96, depth=4, frozen=3, heads=3,
        adapter=16, tile_um=256.0, tiles_per_slide=4, batch=8, epochs=28, lr=1e-3, encoder_lr=2e-4,
        weight_decay=1e-4, amp=False, device="cpu", pretrained="reference", pretrain_patients=3000,
        pretrain_epochs=24),
    "pilot": Profile(
        "pilot", phantom=False, image_size=224, patch=16, stem=False, width=384, depth=12, frozen=0, heads=6,
        adapter=32, tile_um=128.0, tiles_per_slide=50, batch=16, epochs=10, lr=1e-4, encoder_lr=1e-4,
        weight_decay=1e-4, amp=True, device="cuda", pretrained="timm", pretrain_patients=0,
        pretrain_epochs=0, fetched=24),
    "paper": Profile(
        "paper", phantom=False, image_size=224, patch=16, stem=False, width=768, depth=12, frozen=0, heads=12,
        adapter=64, tile_um=128.0, tiles_per_slide=200, batch=16, epochs=50, lr=1e-4, encoder_lr=1e-4,
        weight_decay=1e-4, amp=True, device="cuda", pretrained="timm", pretrain_patients=0,
        pretrain_epochs=0),
}


def profile(name):
    """The profile called `name`, or that of the YAML file `name` (see `own_profile`); a `Profile` is returned
    as it is. Raises `Problem`, which lists the profiles, for another name."""
    if isinstance(name, Profile):
        return name
    if name.endswith((".yaml", ".yml")):
        return own_profile(name)
    if name not in PROFILES:
        raise Problem(f"There is no profile {name!r}; choose one of {', '.join(PROFILES)}, or give the "
                      "path of a .yaml file.")
    return PROFILES[name]


def own_profile(path):
    """The `Profile` of a YAML file: its `name`, the `base` that it begins from (one of `PROFILES`), and the
    fields that differ. A relative path is looked for from where one stands, then in the checkout.

    Raises `Problem` where the file cannot be read, a field is misspelt, or a value is of another type.
    """
    file = Path(path) if Path(path).is_file() else HOME / path
    try:
        given = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Problem(f"The profile {path} cannot be read ({str(error).splitlines()[0]}); give the path of a "
                      "YAML file with a name, a base and the fields that differ.") from None
    if not isinstance(given, dict) or given.get("base") not in PROFILES:
        raise Problem(f"The profile {path} names no base; write `base: lesson`, or another of "
                      f"{', '.join(PROFILES)}.")
    base = PROFILES[given.pop("base")]
    name = str(given.get("name", ""))
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in PROFILES:
        raise Problem(f"The profile {path} needs a name of its own, of small letters, digits and _, for the "
                      f"folders of its data and runs; {name!r} is none.")
    own = replace(base, **{field: _value(path, base, field, value) for field, value in given.items()})
    if min(own.patch, own.heads) < 1 or own.image_size % own.patch or own.width % own.heads:
        raise Problem(f"The profile {path} does not fit together: image_size must be a multiple of patch, "
                      "and width one of heads; change one of them.")
    return own


def _value(path, base, field, value):
    """`value` as the type that the profile `base` has in this field; YAML reads 1e-3 as text."""
    if field not in base.__dataclass_fields__:
        raise Problem(f"The profile {path} has a field {field!r}, which no profile has; the fields are "
                      f"{', '.join(base.__dataclass_fields__)}.")
    kind = type(getattr(base, field))
    with contextlib.suppress(ValueError, TypeError):
        if kind is float and not isinstance(value, bool):
            return float(value)
        if type(value) is kind and (kind is not int or value >= 0):
            return value
    raise Problem(f"In the profile {path} {field} is {value!r}, which is no {kind.__name__}; write it like "
                  f"{field}: {getattr(base, field)}.")


def data_of(profile):
    """What the results of a profile are computed from: "phantom", "public", or "phantom; real: mysite" where
    rows of `DATASETS` are real beside phantoms."""
    real = [name for name, row in DATASETS.items() if row.real]
    if not profile.phantom:
        return "public"
    return f"phantom; real: {', '.join(real)}" if real else "phantom"


def settings_of(settings, profile):
    """What `settings`, a dict by names of profiles, has for a Profile or its name. Raises `Problem`, which
    lists the names, for a profile that is none of them."""
    name = getattr(profile, "name", profile)
    if name not in settings:
        raise Problem(f"A companion system has settings for the profiles {', '.join(settings)} and none for "
                      f"{name}; choose one of them.")
    return settings[name]


def domain(name):
    """`name` if it is a domain. Raises `Problem`, which lists the domains, for another name."""
    if name not in DOMAINS:
        raise Problem(f"There is no domain {name!r}; choose one of {', '.join(DOMAINS)}.")
    return name


def panel_path(name, suffix=".csv"):
    """Where a panel's table or a figure lies: figures/fig3/fig3f.csv for "fig3f",
    figures/kmat/kmat_table2.csv for "kmat_table2", figures/fig1/fig1.png for "fig1" and the suffix ".png".
    Raises `Problem` for a name that is no panel's and no figure's."""
    paper = re.fullmatch(r"((?:fig|table)\d+)(?:[a-z]|_\w+)?", name)
    companion = re.fullmatch(r"(kmat|mirror|rfpmss|fusion|controls)(?:_\w+)?", name)
    match = paper or companion
    if not match:
        raise Problem(f"There is no panel {name!r}; call it like fig3f, fig6, table1 or kmat_table2.")
    return FIGURES / match[1] / f"{name}{suffix}"
