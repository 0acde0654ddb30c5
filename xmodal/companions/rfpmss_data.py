"""Studies of three views and a report, from phantoms or from one's own table and pictures, and their tokens.

N studies, S side of a picture, P tokens of a view with F features, T tokens of a report.
"""
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

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

VIEWS = ("mammogram", "magnified", "ultrasound")
MODALITIES = (*VIEWS, "report")
LABELS = ("normal", "benign", "malignant")
SITES = {"studies": "inbreast", "pretraining": "pretrain"}   # folder of phantom studies -> its detector


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

    root/studies.csv has one row per study with columns patient, label, report, mammogram, magnified,
    ultrasound (a picture file each, below `root`); and, if known, site, split (train, test), lesion_type and
    boxes_<view> (JSON, corners x0, y0, x1, y1 in pixels of the file). Pictures become `size` x `size`, grey.

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
    """Pictures uint8 (N, size, size) of a view of the table at `path`, and its boxes in their pixels."""
    boxes = table.get(f"boxes_{view}", pd.Series("[]", table.index))
    pictures = []
    for row, name in table[view].items():
        pixels = open_pictures(pd.DataFrame({"path": [path.parent / name]}))[0]
        picture = Image.fromarray(pixels).convert("L")
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
    """Tokens of N studies, computed once, and their table (patient, label, report, boxes_<view>)."""
    table: pd.DataFrame
    tokens: dict             # view -> (N, P, F)
    reports: torch.Tensor    # (N, T, 384) hidden states of the frozen text encoder
    mask: torch.Tensor       # (N, T)

    def __len__(self):
        return len(self.table)

    def digest(self):
        """A sha256 of table and tokens, so that a result can name its studies."""
        tokens = b"".join(t.numpy().tobytes() for t in self.tokens.values())
        return hashlib.sha256(self.table.to_csv(index=False).encode() + tokens).hexdigest()


def tokens_of(pictures, patches, encoder=None):
    """uint8 pictures (N, S, S) -> tokens (N, P, F).

    patches "frozen": 8 x 8 feature vectors at 128 pixels; "pixels": flattened patches of 16 x 16.
    """
    if patches == "frozen":
        return encoder.maps(pictures)[0].flatten(2).transpose(1, 2).contiguous()
    x = to_input(torch.as_tensor(np.asarray(pictures)))[:, :1]
    return F.unfold(x, 16, stride=16).transpose(1, 2).contiguous()


@torch.no_grad()
def read(table, pictures, settings, device="cpu"):
    """`Studies` from a table with a column report and uint8 pictures {view: (N, S, S)}."""
    encoder = frozen.ImageEncoder(device) if settings.patches == "frozen" else None
    transformer, tokenizer = frozen.minilm(device)
    batch = tokenizer(list(table.report), return_tensors="pt", padding=True, truncation=True, max_length=256)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    hidden = []
    for some_ids, some_mask in zip(ids.split(32), mask.split(32)):
        hidden.append(transformer(some_ids.to(device), some_mask.to(device)).last_hidden_state.cpu())
    tokens = {view: tokens_of(pictures[view], settings.patches, encoder) for view in VIEWS}
    return Studies(table.reset_index(drop=True), tokens, torch.cat(hidden), mask)


def batch(studies, rows, device="cpu"):
    """Tokens {view: (B, P, F)}, reports (B, T, 384) and mask (B, T) of some studies."""
    rows = torch.as_tensor(rows)
    tokens = {view: studies.tokens[view][rows].to(device) for view in VIEWS}
    return tokens, studies.reports[rows].to(device), studies.mask[rows].to(device)
