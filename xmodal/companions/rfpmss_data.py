"""Studies of three views and a report, from phantoms or from one's own table and pictures, and their tokens.

N studies, S side of a picture, P tokens of a view with F features, T tokens of a report.
"""
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from ..config import Problem
from ..layers import to_input
from ..runtime.bounds import check_matrix
from . import frozen
from .pictures import open_pictures, split_patients
from .study import class_numbers

VIEWS = ("mammogram", "magnified", "ultrasound")
MODALITIES = (*VIEWS, "report")
LABELS = ("normal", "benign", "malignant")
METHYLATION = ("unmethylated", "methylated")        # of gliomas, see data_scripts/gliomas.py
SITES = {"home": "inbreast", "away": "cbis_ddsm"}   # folder of phantom studies -> detector: digital, film


# ---- tables and pictures -----------------------------------------------------------------------------------

def load(folder, sites=SITES, seed=42):
    """(table, pictures {view: (N, S, S)}) of the phantom studies in folder/<site>/.

    The table gets columns site and split. N counts the studies of all sites.
    """
    tables = []
    pictures = {view: [] for view in VIEWS}
    for site in sites:
        path = Path(folder) / site / "studies.parquet"
        if not path.exists():
            raise Problem(f"There are no phantom studies at {path}; "
                          "write them with data_scripts.phantom.studies.write, as 13_rfpmss does.")
        table = split_patients(pd.read_parquet(path), seed, (0.6, 0.0))
        tables.append(table.assign(site=site, patient=site + "/" + table.patient))
        for view in VIEWS:
            pictures[view].append(np.load(path.parent / "images" / f"{view}.npy", mmap_mode="r"))
    table = pd.concat(tables, ignore_index=True)
    check_reports(table)
    return table, {view: np.concatenate(parts) for view, parts in pictures.items()}


def load_table(root, size=128, seed=42):
    """(table, pictures) as of `load`, of studies of one's own.

    root/studies.csv has one row per study with columns patient, label (one of `LABELS`, or of `METHYLATION`;
    empty if not known), report, mammogram, magnified, ultrasound (a picture file each, below `root`); and, if
    known, site, split (train, test), lesion_type and boxes_<view> (JSON, corners x0, y0, x1, y1 in pixels of
    the file). The three columns may hold any three kinds of pictures, such as CT, MRI and pathology. Pictures
    become uint8 (N, size, size, 3), in colour.

    Raises `Problem` for a missing table, column or picture and for an empty report.
    """
    path = Path(root) / "studies.csv"
    if not path.exists():
        raise Problem(f"There is no table of studies at {path}; write one as rfpmss_data.load_table tells, "
                      "or leave ROOT empty for phantoms.")
    check_matrix(path)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [c for c in ("patient", "label", "report", *VIEWS) if c not in table]
    if missing:
        raise Problem(f"{path} has no column {missing[0]!r}; "
                      f"give it a row a study with patient, label, report and {', '.join(VIEWS)}.")
    table = table.assign(site=table.get("site", "studies"), lesion_type=table.get("lesion_type", "lesion"))
    check_reports(table)
    pictures = {}
    for view in VIEWS:
        pictures[view], table[f"boxes_{view}"] = _small(table, view, path, size)
    if "split" not in table:
        table = split_patients(table, seed, (0.6, 0.0))
    return table, pictures


def _small(table, view, path, size):
    """Pictures uint8 (N, size, size, 3) of a view of the table at `path`, and its boxes in their pixels."""
    boxes = table.get(f"boxes_{view}", pd.Series("[]", table.index))
    pictures = []
    for row, name in table[view].items():
        pixels = open_pictures(pd.DataFrame({"path": [path.parent / name]}))[0]
        picture = Image.fromarray(pixels).convert("RGB")
        pictures.append(np.asarray(picture.resize((size, size), Image.Resampling.BOX)))
        scale = np.tile(size / np.array(picture.size), 2)
        try:
            corners = []
            for box in json.loads(boxes[row] or "[]"):
                corners.append([int(c) for c in np.round(box * scale)])
        except (ValueError, TypeError):
            raise Problem(f"{boxes[row]!r} in boxes_{view} of {path} is no list of boxes; "
                          "write them like [[10, 20, 60, 80]].") from None
        boxes[row] = json.dumps(corners)
    return np.stack(pictures), boxes


def check_reports(table):
    """Raises `Problem` for an empty report."""
    empty = table.report.str.strip() == ""
    if empty.any():
        raise Problem(f"The study of {table.patient[empty].iloc[0]} has an empty report; "
                      "write one, or leave the study out.")


def rows_of(table, split, sites=None):
    """Row numbers of a split, of some sites (or all)."""
    return np.flatnonzero((table.split == split) & table.site.isin(sites or table.site.unique()))


# ---- tokens ------------------------------------------------------------------------------------------------

@dataclass
class Studies:
    """N studies as the model reads them, and their table (patient, label, report, boxes_<view>)."""
    table: pd.DataFrame
    tokens: dict             # view -> float (N, P, F), computed once, or pictures uint8 (N, S, S[, 3])
    reports: torch.Tensor    # (N, T, 384) hidden states of the frozen text encoder
    mask: torch.Tensor       # (N, T)
    mirrored: torch.Tensor = None   # as `reports`, left and right exchanged; where pictures are turned over

    def __len__(self):
        return len(self.table)

    @property
    def classes(self):
        """`METHYLATION` where all labels are of it, else `LABELS`. The last is the one that is looked for."""
        known = set(self.table.label) - {""}
        return METHYLATION if known and known <= set(METHYLATION) else LABELS

    def numbers(self):
        """(N,) class numbers, -1 where the label is not known (""). Raises `Problem` for another label."""
        known = np.flatnonzero(self.table.label != "")
        numbers = torch.full((len(self),), -1)
        numbers[known] = class_numbers(self.table.label.iloc[known], self.classes)
        return numbers

    def positive(self):
        """(N,) array: 1 for studies of the class that is looked for, 0 for others, -1 where it is not
        known."""
        numbers = self.numbers().numpy()
        return np.where(numbers < 0, -1, numbers == len(self.classes) - 1)

    def digest(self):
        """A sha256 of table and tokens, so that a result can name its studies."""
        tokens = b"".join(t.numpy().tobytes() for t in self.tokens.values())
        return hashlib.sha256(self.table.to_csv(index=False).encode() + tokens).hexdigest()


def exchange_sides(report):
    """The report of the same study seen in a mirror: left and right exchanged, in any case of letters."""
    def other(match):
        side = {"left": "right", "right": "left"}[match.group().lower()]
        return side.capitalize() if match.group()[0].isupper() else side
    return re.sub(r"\b(left|right)\b", other, report, flags=re.IGNORECASE)


def feature_maps(pictures, encoder):
    """uint8 pictures (N, S, S[, 3]) -> (N, P, 112): feature vectors of EfficientNet-Lite0, one in 32 pixels.

    At 128 pixels these are 4 x 4, the means of 2 x 2 of its middle map.
    """
    return F.avg_pool2d(encoder.maps(pictures)[0], 2).flatten(2).transpose(1, 2).contiguous()


@torch.no_grad()
def read(table, pictures, settings, device="cpu"):
    """`Studies` from a table with a column report and uint8 pictures {view: (N, S, S[, 3])}."""
    if settings.patches == "frozen":
        encoder = frozen.ImageEncoder(device)
        tokens = {view: feature_maps(pictures[view], encoder) for view in VIEWS}
    else:
        tokens = {view: torch.as_tensor(np.asarray(pictures[view])) for view in VIEWS}
    reports = list(table.report)
    if settings.crop:
        reports += map(exchange_sides, table.report)
    hidden, mask = together(*_hidden_states(reports, device), settings.together)
    n = len(table)
    mirrored = hidden[n:] if settings.crop else None
    return Studies(table.reset_index(drop=True), tokens, hidden[:n], mask[:n], mirrored)


def _hidden_states(reports, device):
    """(hidden states (N, T, 384) of the frozen text encoder, mask (N, T)) of N texts."""
    transformer, tokenizer = frozen.minilm(device)
    batch = tokenizer(reports, return_tensors="pt", padding=True, truncation=True, max_length=256)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    hidden = []
    for some_ids, some_mask in zip(ids.split(32), mask.split(32)):
        hidden.append(transformer(some_ids.to(device), some_mask.to(device)).last_hidden_state.cpu())
    return torch.cat(hidden), mask


def together(hidden, mask, count):
    """Means of `count` neighbouring words: hidden (N, T, 384), mask (N, T) -> (N, ceil(T / count), 384) and
    its mask. A word that the mask leaves out has no part in a mean."""
    room = -hidden.shape[1] % count
    mask = F.pad(mask, (0, room)).unflatten(1, (-1, count))
    hidden = F.pad(hidden, (0, 0, 0, room)).unflatten(1, (-1, count))
    any_word = mask.any(2)
    means = (hidden * mask[..., None]).sum(2) / mask.sum(2).clamp_min(1)[..., None]
    return means, any_word.to(mask)


# ---- batches -----------------------------------------------------------------------------------------------

class Variation(NamedTuple):
    """How B studies are varied in training: each study is seen in a mirror or not, each picture by itself is
    cropped, turned by up to 10 degrees, and made darker or lighter."""
    mirrored: torch.Tensor   # (B,) bool
    place: dict              # view -> (B, 2) of the crop, from -1 to 1 of the room there is
    turn: dict               # view -> (B,) radians
    grey: dict               # view -> (B, 2): factor on the contrast, shift of the brightness


def vary(rows, seed):
    """The `Variation` of the studies `rows`; the same rows in the same order get the same again."""
    rng = np.random.default_rng([seed, *rows])
    n = len(rows)
    mirrored = torch.tensor(rng.random(n) < 0.5)
    place, turn, grey = {}, {}, {}
    for view in VIEWS:
        place[view] = torch.tensor(rng.uniform(-1, 1, (n, 2)), dtype=torch.float32)
        turn[view] = torch.tensor(np.deg2rad(rng.uniform(-10, 10, n)), dtype=torch.float32)
        grey[view] = torch.tensor(rng.uniform([0.8, -0.2], [1.2, 0.2], (n, 2)), dtype=torch.float32)
    return Variation(mirrored, place, turn, grey)


def patches(x, crop=0, variation=None, view=None):
    """Patches of 16 x 16 pixels of a view: tokens float (B, P, F), which pass, or pictures uint8 (B, S, S[,
    3]), of which the middle `crop` pixels are taken (0: all) -> (B, P, 768). With `variation`: a crop that it
    says."""
    if x.dtype != torch.uint8:
        return x
    x = to_input(x)
    side = x.shape[-1]
    crop = crop or side
    if variation is None:
        start = (side - crop) // 2
        x = x[:, :, start:start + crop, start:start + crop]
    else:
        x = _varied(x, crop, variation, view)
    return F.unfold(x, 16, stride=16).transpose(1, 2).contiguous()


def _varied(x, crop, variation, view):
    """Pictures (B, 3, S, S) cropped, turned, mirrored and with other grey values -> (B, 3, crop, crop)."""
    scale = crop / x.shape[-1]
    cos, sin = torch.cos(variation.turn[view]), torch.sin(variation.turn[view])
    over = torch.where(variation.mirrored, -1.0, 1.0)
    where = (1 - scale) * variation.place[view]
    rows = [torch.stack([scale * cos * over, -scale * sin, where[:, 0]], 1),
            torch.stack([scale * sin * over, scale * cos, where[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(x.device), (len(x), 3, crop, crop), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    contrast, brightness = variation.grey[view].to(x.device)[:, :, None, None, None].unbind(1)
    return (x * contrast + brightness).clamp(-1, 1)


def batch(studies, rows, device="cpu", crop=0, variation=None):
    """Patches {view: (B, P, F)}, reports (B, T, 384) and mask (B, T) of some studies.

    crop, variation: as of `patches`; the reports of studies that are mirrored have left and right exchanged.
    """
    rows = torch.as_tensor(rows)
    views = {view: patches(studies.tokens[view][rows].to(device), crop, variation, view) for view in VIEWS}
    reports = studies.reports[rows]
    if variation is not None:
        reports = torch.where(variation.mirrored[:, None, None], studies.mirrored[rows], reports)
    return views, reports.to(device), studies.mask[rows].to(device)
