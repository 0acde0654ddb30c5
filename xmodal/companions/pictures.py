"""What the companions read, as plain data: labelled pictures, patches of a slide, patients with tables.

No model is here, so that `data_scripts` can return these classes.
"""
import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..config import Problem
from ..imaging.photos import open_photo
from ..imaging.regions import open_slide
from ..imaging.slides import extract, tile_grid
from . import study

# ---- pictures with labels ----------------------------------------------------------------------------------

@dataclass
class Modality:
    """Pictures of one modality.

    table: columns sample, patient, label, split (train, validation, test); pictures(table) -> list of uint8.
    Features are computed once, and not before they are asked for: whoever does not ask for the low end has
    not seen it. Pictures are opened 32 at a time, since a published mammogram alone takes 90 MB.
    """
    name: str
    table: pd.DataFrame
    pictures: object
    checksum: str = ""           # of the file that holds the pictures, if there is one
    _features: dict = field(default_factory=dict)

    def features(self, model, split):
        """(unit features (N, D), rows of `table`) of a split."""
        if (model.name, split) not in self._features:
            rows = self.table[self.table.split == split]
            if not len(rows):
                raise Problem(f"There are no {split} pictures of {self.name}; "
                              "look at the split column of its table.")
            parts = [model.images(self.pictures(rows[i:i + 32])) for i in range(0, len(rows), 32)]
            self._features[model.name, split] = torch.cat(parts), rows
        return self._features[model.name, split]

    def digest(self):
        """A sha256 of name, table and checksum, not of paths, so that a result can name its pictures."""
        table = self.table.drop(columns="path", errors="ignore").to_csv(index=False)
        return hashlib.sha256((self.name + table + self.checksum).encode()).hexdigest()


@dataclass
class Pair:
    """A high-end and a low-end modality with the same classes."""
    classes: tuple
    high: Modality
    low: Modality
    name: str = "pair"

    def labels(self, rows):
        """Class numbers of rows of a table. Raises `Problem` for a class that the pair does not have."""
        return study.class_numbers(rows.label, self.classes)


def split_patients(table, seed=42, shares=(0.4, 0.15)):
    """`table` with a column split. Of the patients of each label `shares` train and validate; others test."""
    split = pd.Series("test", index=table.index)
    for k, (_, rows) in enumerate(table.groupby("label")):
        order = np.random.default_rng([seed, k]).permutation(rows.patient.unique())
        first = int(round(len(order) * shares[0]))
        second = int(round(len(order) * sum(shares)))
        split[table.patient.isin(order[:first])] = "train"
        split[table.patient.isin(order[first:second])] = "validation"
    return table.assign(split=split)


def open_pictures(rows):
    """The uint8 pictures (H, W, 3) at the paths of a table's rows.

    16-bit pictures are scaled to their range. Raises `Problem` for a picture that cannot be read.
    """
    pictures = []
    for path in rows.path:
        try:
            with open_photo(path) as file:
                as_it_is = file.mode in ("L", "RGB") or file.mode.startswith("I;16")
                pixels = np.asarray(file if as_it_is else file.convert("RGB"))
        except Problem:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Problem(f"The picture {path} cannot be read ({error}); "
                          "fetch it again, or leave its row out.") from None
        if pixels.dtype != np.uint8:
            low, high = np.percentile(pixels, (0.5, 99.5))
            pixels = np.round(255 * np.clip((pixels - low) / max(high - low, 1), 0, 1)).astype(np.uint8)
        pictures.append(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2))
    return pictures


# ---- patches of a slide ------------------------------------------------------------------------------------

TILE_UM = 112.0            # 224 pixels at 20x, 0.5 um per pixel


class Patches(NamedTuple):
    """The patches of one slide, row by row of its grid."""
    features: np.ndarray   # float32 (N, D_p)
    xy: np.ndarray         # (N, 2) upper left corners, level-0 pixels
    side: float            # of a patch, level-0 pixels


def scaled(model, pixels):
    """uint8 (B, H, W, 3) -> float (B, 3, H, W), standardised as for the training of the timm model."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(model.default_cfg[k], device=device)[:, None, None] for k in ("mean", "std"))
    return (torch.as_tensor(pixels, device=device).permute(0, 3, 1, 2) / 255 - mean) / std


@torch.no_grad()
def of_slide(path, model, mpp=None, tile_um=TILE_UM, size=224, tissue=0.5, batch=64):
    """`Patches` of a slide: all tiles with at least the share `tissue` of tissue, encoded by `model`.

    Tiles are read and encoded `batch` at a time, so that memory does not grow with the slide. mpp: um per
    pixel where the file does not say. Raises `Problem` for a file that cannot be read, and for a slide
    without a tile of tissue.
    """
    slide, mpp = open_slide(path, mpp)
    with slide:
        xy, share = tile_grid(slide, mpp, tile_um)
        xy = xy[share >= tissue]
        if not len(xy):
            raise Problem(f"{path} has no tile with {tissue:.0%} tissue; look at its overview, "
                          "lower the share, or leave the patient out.")
        side = tile_um / mpp
        parts = []
        for start in range(0, len(xy), batch):
            tiles = extract(slide, xy[start:start + batch], side, size)
            parts.append(model(scaled(model, tiles)).cpu())
    return Patches(torch.cat(parts).numpy(), xy, side)


def read_patches(path):
    """`Patches` from an npz file. Raises `Problem` where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Patches(arrays["features"], arrays["xy"], float(arrays["side"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise Problem(f"{path} is damaged ({error}); delete it, and it is made anew.") from None


class SlideFiles:
    """The patch features of N slides, each read from its file when it is asked for.

    paths: of npz files of `Patches`, None for a patient without a slide; width: D_p. A number gives an array
    (P, D_p); a list of numbers the SlideFiles of these patients.
    """

    def __init__(self, paths, width):
        self.paths = np.array(paths, object)
        self.width = width

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            return SlideFiles(self.paths[index], self.width)
        path = self.paths[index]
        return np.empty((0, self.width), np.float32) if path is None else read_patches(path).features

    def checksums(self):
        """(N,) CRC-32 of the features of each slide, as its file says; 0 without a slide."""
        values = []
        for path in self.paths:
            crc = 0
            if path is not None:
                with ZipFile(path) as file:
                    crc = file.getinfo("features.npy").CRC
            values.append(crc)
        return np.array(values, np.int64)


# ---- patients with slides and tables -----------------------------------------------------------------------

PAM50 = ("Normal", "Basal", "Her2", "LumA", "LumB")


@dataclass(frozen=True)
class Cohort:
    """N patients; row i of every field is patient i. `select` takes some of them.

    Real slides differ in P: bags, xy and tumour are then object arrays (N,) of arrays. A patient without a
    slide has no patches; one without copy number or clinical record has a row of NaN.
    """
    patient: np.ndarray        # (N,) names
    site: np.ndarray           # (N,) where they were treated
    bags: np.ndarray           # float32 (N, P, D) features of patches, row by row of a grid; or SlideFiles
    xy: np.ndarray             # (N, P, 2) upper left corners of the patches, in sides of a patch
    tumour: np.ndarray         # bool (N, P) patches of the tumour, NaN if unknown: only to judge attention by
    expression: pd.DataFrame   # (N, G) log2(TPM + 1), one column per gene
    copies: pd.DataFrame       # (N, S) log2 copy ratios, one column per segment
    clinical: pd.DataFrame     # (N, 6) raw columns; NaN where not recorded
    factors: dict              # name of a known factor -> (N, dimensions); empty for real patients
    subtype: np.ndarray        # (N,) 0 or 1
    pam50: np.ndarray          # (N,) 0..4, an index of PAM50
    time: np.ndarray           # (N,) months
    event: np.ndarray          # (N,) 1 death seen, 0 censored
    more: dict = field(default_factory=dict)    # name of a further modality -> DataFrame (N, D) of numbers

    def __len__(self):
        return len(self.patient)

    def digest(self):
        """Hexadecimal sha256 of names, slides, tables and outcomes: equal for equal cohorts."""
        names = "/".join([*self.patient, *self.expression.columns, *self.copies.columns])
        for name, table in self.more.items():
            names += name + table.to_csv()
        sha256 = hashlib.sha256((names + self.clinical.to_csv()).encode())
        tables = self.expression.to_numpy(float), self.copies.to_numpy(float)
        slides = [self.bags.checksums()] if isinstance(self.bags, SlideFiles) else self.bags
        for part in (*tables, self.time, self.event, self.subtype, self.pam50, *slides, *self.xy):
            sha256.update(np.ascontiguousarray(part).tobytes())
        return sha256.hexdigest()

    def select(self, rows):
        """The patients `rows` (an index array or a boolean mask) as a Cohort."""
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        selected = {}
        for name, value in vars(self).items():
            if isinstance(value, dict):
                selected[name] = {key: _rows(part, rows) for key, part in value.items()}
            else:
                selected[name] = _rows(value, rows)
        return Cohort(**selected)


def _rows(values, rows):
    return values.iloc[rows] if isinstance(values, pd.DataFrame) else values[rows]
