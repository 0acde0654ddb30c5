"""From the cohort table and its arrays to paired batches. A batch is (x, y): what the model may see, and what the losses may."""
import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader

from .cohort import allowed_matrix, malignant, pairing
from .config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem

VISITS = 2      # images of each modality that an epoch shows of a patient


class Images:
    """images/<domain>.npy and masks/<domain>.npy of a data folder, memory-mapped."""

    def __init__(self, folder):
        self.folder, self.arrays = folder, {}

    def _open(self, kind, domain):
        path = self.folder / kind / f"{domain}.npy"
        if path not in self.arrays:
            try:
                self.arrays[path] = np.load(path, mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise Problem(f"The image array {path} cannot be read ({error}); delete the folder and run 02_preprocess again.") from None
        return self.arrays[path]

    def gather(self, rows, kind="images"):
        """The images (or kind="masks") of some rows of one modality, in their order: uint8 array (B, S, S[, 3])."""
        domains, index = rows["domain"].to_numpy(), rows["index"].to_numpy()
        parts = [(domains == d, self._open(kind, d)) for d in pd.unique(domains)]
        out = np.empty((len(rows), *parts[0][1].shape[1:]), parts[0][1].dtype)
        for where, array in parts:
            if index[where].max() >= len(array):
                raise Problem(f"The cohort has more rows than {self.folder / kind} has images; run 02_preprocess again.")
            out[where] = array[index[where]]
        return out


class PairedBatches:
    """The batches of an epoch: `batch` patients each, with a mammogram and a histology tile of every patient who has them.

    Batch k of epoch e depends on (seed, e, k) alone, so a resumed run sees what the uninterrupted one would have seen.
    Where no patient has both modalities, patients are paired by label (`cohort.pairing`), and equal labels are positives.
    x: modality -> uint8 images; "domain"; "pairs"; "lesion". y: modality -> allowed, grade, domain, id, (mask, localised); "both".
    """

    def __init__(self, table, images, batch, seed, train=True):
        self.images, self.batch, self.seed, self.train, self.epoch = images, batch, seed, train, 0
        self.by_label = pairing(table) == "label"
        self.domains = sorted(table.domain.unique())
        self.rows = {m: table[table.modality == m].reset_index(drop=True) for m in MODALITIES}
        self.of = {m: rows.groupby("patient").indices for m, rows in self.rows.items()}
        self.codes = {p: i for i, p in enumerate(sorted(table.patient.unique()))}
        self.units = None

    def __len__(self):
        return -(-len(self._draw(0)) // self.batch)

    def _draw(self, epoch):
        """Who is shown with whom in an epoch: list of (mammography patient or None, histopathology patient or None)."""
        if self.units is None or self.units[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            units = [u for _ in range(VISITS if self.train else 1) for u in self._pass(rng)]
            self.units = epoch, units
        return self.units[1]

    def _pass(self, rng):
        m, p = self.of[MAMMOGRAPHY], self.of[HISTOPATHOLOGY]
        if not self.by_label:
            people = rng.permutation(list(self.codes))
            return [(x if x in m else None, x if x in p else None) for x in people]
        units = []
        label = {x: str(malignant(self.rows[k].allowed.iloc[rows]).max()) for k in MODALITIES for x, rows in self.of[k].items()}
        for value in sorted(set(label.values())):
            some = [rng.permutation([x for x in side if label[x] == value]) for side in (m, p)]
            for i in range(max(map(len, some))):                  # the smaller side comes round again
                units.append(tuple(s[i % len(s)] if len(s) else None for s in some))
        return [units[i] for i in rng.permutation(len(units))]

    def __getitem__(self, k):
        rng = np.random.default_rng([self.seed, self.epoch, k + 1])
        units = self._draw(self.epoch)[k * self.batch:(k + 1) * self.batch]
        x, y = {"domain": {}}, {}
        for side, modality in enumerate(MODALITIES):
            people = [u[side] for u in units if u[side] is not None]
            if people:
                of = self.of[modality]
                rows = self.rows[modality].iloc[[of[p][rng.integers(len(of[p]))] for p in people]]
                x[modality], y[modality] = self._stream(rows, modality, rng)
                x["domain"][modality] = y[modality]["domain"]
        if MAMMOGRAPHY in x:
            x["lesion"] = y[MAMMOGRAPHY]["mask"]
        both = np.array([u[0] is not None and u[1] is not None for u in units])
        if both.any():
            rank = [np.cumsum([u[s] is not None for u in units]) - 1 for s in (0, 1)]
            x["pairs"] = torch.from_numpy(np.stack([r[both] for r in rank], 1))
            y["both"] = torch.stack([y[m]["allowed"][x["pairs"][:, s]] for s, m in enumerate(MODALITIES)]).all(0)
            known = y["both"].any(1)                      # two labels that contradict each other say nothing of the pair
            x["pairs"], y["both"] = x["pairs"][known], y["both"][known]
        return x, y

    def _stream(self, rows, modality, rng):
        images = torch.from_numpy(self.images.gather(rows))
        allowed = torch.from_numpy(allowed_matrix(rows.allowed))
        y = {"allowed": allowed, "grade": torch.tensor(rows.grade.to_numpy()), "id": torch.tensor(self._ids(rows, modality)),
             "domain": torch.tensor([self.domains.index(d) for d in rows.domain])}
        mask = None
        if modality == MAMMOGRAPHY:
            mask = torch.from_numpy(self.images.gather(rows, "masks")).bool()
            healthy = (allowed == torch.tensor([True, False, False, False])).all(1)
            y["localised"] = torch.tensor(rows.has_mask.to_numpy()) | healthy       # "normal" says: no lesion anywhere
        if self.train:
            images, mask = augment(images, mask, rng)
        if mask is not None:
            y["mask"] = mask
        return images, y

    def _ids(self, rows, modality):
        """(B,) numbers that are equal for a positive pair: the patient's, or by label 1 for malignant and 0 for not. A row whose
        label leaves that open gets a number of its own, which no row of the other modality has."""
        if not self.by_label:
            return rows.patient.map(self.codes).to_numpy()
        bad, own = malignant(rows.allowed), -1 - 2 * np.arange(len(rows)) - MODALITIES.index(modality)
        return np.where(np.isnan(bad), own, bad).astype(int)


def augment(images, mask, rng):
    """Flips, tiles in both directions, mammograms top to bottom (the chest wall stays at the left); then shifts by up to a
    twelfth of the side, with air around a mammogram and a tile reflected at its border. Outlines move with their images."""
    upside = torch.from_numpy(rng.random(len(images)) < 0.5)
    images[upside] = images[upside].flip(1)
    if mask is not None:
        mask[upside] = mask[upside].flip(1)
    else:
        mirror = torch.from_numpy(rng.random(len(images)) < 0.5)
        images[mirror] = images[mirror].flip(2)
    reach = images.shape[1] // 12
    corners = rng.integers(0, 2 * reach + 1, (len(images), 2))
    images = shift(images, corners, reach, "reflect" if mask is None else "constant")
    return images, mask if mask is None else shift(mask, corners, reach, "constant")


def shift(images, corners, reach, mode):
    """(N, S, S[, 3]) images cut out of themselves padded by `reach` pixels, at `corners` (N, 2) in 0..2 reach; `reach` shifts none."""
    side = images.shape[1]
    padded = np.pad(images.numpy(), [(0, 0), (reach, reach), (reach, reach)] + [(0, 0)] * (images.ndim - 3), mode=mode)
    return torch.from_numpy(np.stack([p[y:y + side, x:x + side] for p, (y, x) in zip(padded, corners)]))


def dataloaders(fold, images, profile, seed):
    """fastai DataLoaders of a fold (table with `split`): training and validation patients, never the target's."""
    sets = [PairedBatches(fold[fold.split == s], images, profile.batch, seed, train=s == "train") for s in ("train", "validation")]
    for name, part in zip(("training", "validation"), sets):
        if not part.codes:
            raise Problem(f"The fold has no {name} patients; the cohort is too small for a split by patient.")
    where = device(profile)
    return DataLoaders(*[loader(s, where, 2 if where.type == "cuda" else 0) for s in sets], device=where)


def loader(batches, where, workers):
    """A fastai DataLoader of the batches, drawn ahead in as many processes, so that a GPU need not wait; they are the same in any number."""
    return DataLoader(batches, bs=None, shuffle=False, num_workers=workers, device=where)


def device(profile):
    """The torch device of the profile. Raises `Problem` where that is a GPU and torch finds none."""
    if profile.device == "cuda" and not torch.cuda.is_available():
        raise Problem(f"The profile {profile.name} trains on a GPU, and torch finds none on this machine (`nvidia-smi` says whether its driver does); "
                      "run it where there is one, or take PROFILE=lesson.")
    return torch.device(profile.device)


def sweep(table, images, size=128):
    """All rows, modality by modality, in order: yields (rows, x) with at most `size` images, for prediction and adaptation."""
    for modality in MODALITIES:
        rows = table[table.modality == modality]
        for start in range(0, len(rows), size):
            part = rows.iloc[start:start + size]
            yield part, {modality: torch.from_numpy(images.gather(part))}
