"""From the cohort table and its arrays to paired batches (x, y): x is for the model, y for the losses."""
import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader

from .cohort import allowed_matrix, made_otherwise, malignant, of_breast, pairing
from .config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem

BAG = 2         # images of each modality that stand for a patient in a batch, where there are so many


class Images:
    """images/<domain>.npy and masks/<domain>.npy of a data folder, memory-mapped."""

    mend = "delete the folder and run 02_preprocess again"

    def __init__(self, folder):
        self.folder = folder
        self.arrays = {}

    def array(self, kind, domain):
        """The whole array of a kind ("images" or "masks") and a domain, memory-mapped."""
        path = self.folder_of(domain) / kind / f"{domain}.npy"
        if path not in self.arrays:
            try:
                self.arrays[path] = np.load(path, mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise Problem(f"The image array {path} cannot be read ({error}); {self.mend}.") from None
        return self.arrays[path]

    def folder_of(self, domain):
        """Where the arrays of a domain lie."""
        return self.folder

    def gather(self, rows, kind="images"):
        """The images (or kind="masks") of rows of one modality, in their order: uint8 (B, S, S[, 3])."""
        domains = rows["domain"].to_numpy()
        index = rows["index"].to_numpy()
        parts = [(domains == d, self.array(kind, d)) for d in pd.unique(domains)]
        first = parts[0][1]
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for where, array in parts:
            if index[where].max() >= len(array):
                raise Problem(f"The cohort has more rows than {self.folder / kind} has images; "
                              "run 02_preprocess again.")
            out[where] = array[index[where]]
        return out

    def augmented(self, rows, rng):
        """(images, outlines), as `augment` changes them; the outlines of tiles are None. Tensors."""
        images = torch.from_numpy(self.gather(rows))
        mask = None
        if rows.modality.iloc[0] == MAMMOGRAPHY:
            mask = torch.from_numpy(self.gather(rows, "masks")).bool()
        return augment(images, mask, rng)


def check_made(folder, profile):
    """Raises `Problem` where the cohort in `folder` was made with other sizes than `profile` has."""
    if differences := made_otherwise(folder, profile):
        raise Problem(f"The cohort in {folder} was made with {differences}, as the profile {profile.name} "
                      "asks; run 02_preprocess again.")


class PairedBatches:
    """The batches of an epoch: `batch` patients each, with a bag of mammograms and one of tiles, of a patient
    who has them. A bag is up to `BAG` images with the same label.

    Batch k of epoch e depends on (seed, e, k) alone, so a resumed run sees what the uninterrupted one would
    have seen. Where no patient has both modalities, patients are paired by label (`cohort.pairing`), and
    equal labels are positives. A batch is (x, y):

    x: modality -> uint8 images; "domain" and "bag" -> modality -> (B,) numbers; "pairs" (K, 2) bags of one
       patient; "lesion" (B, S, S) outlines on the mammograms.
    y: modality -> allowed, grade, id, domain of each image; bag_id of each bag, and bag_allowed, what its
       label says of the patient's breast (`cohort.of_breast`); for mammograms
       localised, mask; "both" (K, 4) what both labels of a pair allow.
    """

    def __init__(self, table, images, batch, seed):
        self.images = images
        self.batch = batch
        self.seed = seed
        self.epoch = 0
        self.by_label = pairing(table) == "label"
        self.domains = sorted(table.domain.unique())
        self.codes = {p: i for i, p in enumerate(sorted(table.patient.unique()))}
        self.rows = {m: self._columns(table[table.modality == m]) for m in MODALITIES}
        self.of = {m: rows.groupby("patient").indices for m, rows in self.rows.items()}
        self.units = None

    def _columns(self, rows):
        """What a batch reads of the rows of one modality. Texts are Python objects: rows are picked in every
        batch, which takes ten times as long from Arrow's texts."""
        texts = {name: object for name in ("patient", "domain", "modality")}
        rows = rows.astype(texts)[[*texts, "index", "allowed", "file_allowed", "grade", "has_mask"]]
        return rows.reset_index(drop=True).assign(
            code=rows.patient.map(self.codes).to_numpy(),
            site=[self.domains.index(domain) for domain in rows.domain],
            breast=of_breast(rows.allowed, rows.domain))

    def __len__(self):
        return -(-len(self._draw(0)) // self.batch)

    # ---- who is shown with whom

    def _draw(self, epoch):
        """The units of an epoch: list of (mammography patient or None, histopathology patient or None)."""
        if self.units is None or self.units[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            units = self._units_by_label(rng) if self.by_label else self._units_by_patient(rng)
            self.units = (epoch, units)
        return self.units[1]

    def _units_by_patient(self, rng):
        """Each patient once, with the modalities that the patient has."""
        units = []
        for patient in rng.permutation(list(self.codes)):
            m = patient if patient in self.of[MAMMOGRAPHY] else None
            p = patient if patient in self.of[HISTOPATHOLOGY] else None
            units.append((m, p))
        return units

    def _units_by_label(self, rng):
        """Each patient with one of the other modality who has the same label; the fewer come round again."""
        label = {}
        for modality in MODALITIES:
            for patient, rows in self.of[modality].items():
                label[patient] = str(malignant(self.rows[modality].file_allowed.iloc[rows]).max())
        units = []
        for value in sorted(set(label.values())):
            of_m = rng.permutation([x for x in self.of[MAMMOGRAPHY] if label[x] == value])
            of_p = rng.permutation([x for x in self.of[HISTOPATHOLOGY] if label[x] == value])
            for i in range(max(len(of_m), len(of_p))):
                m = of_m[i % len(of_m)] if len(of_m) else None
                p = of_p[i % len(of_p)] if len(of_p) else None
                units.append((m, p))
        return [units[i] for i in rng.permutation(len(units))]

    # ---- what is shown

    def __getitem__(self, k):
        rng = np.random.default_rng([self.seed, self.epoch, k + 1])
        units = self._draw(self.epoch)[k * self.batch:(k + 1) * self.batch]
        x = {"domain": {}, "bag": {}}
        y = {}
        for modality, patients in zip(MODALITIES, zip(*units)):
            bags = [self._bag(patient, modality, rng) for patient in patients if patient is not None]
            if bags:
                rows = self.rows[modality].iloc[np.concatenate(bags)]
                x[modality], y[modality] = self._stream(rows, modality, rng)
                x["domain"][modality] = y[modality]["domain"]
                sizes = np.array([len(bag) for bag in bags])
                first = sizes.cumsum() - sizes
                x["bag"][modality] = torch.from_numpy(np.repeat(np.arange(len(bags)), sizes))
                y[modality]["bag_id"] = y[modality]["id"][first]
                y[modality]["bag_allowed"] = torch.from_numpy(allowed_matrix(rows.breast)[first])
        if MAMMOGRAPHY in x:
            x["lesion"] = y[MAMMOGRAPHY]["mask"]
        self._add_pairs(units, x, y)
        return x, y

    def _bag(self, patient, modality, rng):
        """Numbers of up to `BAG` rows of a patient: one at random, and others whose labels allow the same."""
        drawn = rng.permutation(self.of[modality][patient])
        allowed = self.rows[modality].allowed.to_numpy()[drawn]
        return drawn[allowed == allowed[0]][:BAG]

    def _stream(self, rows, modality, rng):
        """Images and targets of the drawn rows of one modality."""
        allowed = torch.from_numpy(allowed_matrix(rows.allowed))
        y = {
            "allowed": allowed,
            "grade": torch.tensor(rows.grade.to_numpy()),
            "id": torch.tensor(self._ids(rows, modality)),
            "domain": torch.tensor(rows.site.to_numpy()),
        }
        images, mask = self.images.augmented(rows, rng)
        if modality == MAMMOGRAPHY:
            normal = (allowed == torch.tensor([True, False, False, False])).all(1)
            y["localised"] = torch.tensor(rows.has_mask.to_numpy()) | normal    # normal: no lesion anywhere
            y["mask"] = mask
        return images, y

    def _ids(self, rows, modality):
        """(B,) numbers that are equal for a positive pair.

        That is the patient's number or, where pairs are by label, 1 for malignant and 0 for not. A row whose
        label leaves that open gets a number that no row of the other modality has.
        """
        if not self.by_label:
            return rows.code.to_numpy()
        bad = malignant(rows.allowed)
        own = -1 - 2 * np.arange(len(rows)) - MODALITIES.index(modality)
        return np.where(np.isnan(bad), own, bad).astype(int)

    @staticmethod
    def _add_pairs(units, x, y):
        """Adds x["pairs"] and y["both"]; pairs whose two labels contradict each other are left out."""
        has_m = np.array([m is not None for m, _ in units], bool)
        has_p = np.array([p is not None for _, p in units], bool)
        both = has_m & has_p
        if not both.any():
            return
        rows = [np.cumsum(has)[both] - 1 for has in (has_m, has_p)]
        pairs = torch.from_numpy(np.stack(rows, 1))
        of_mammograms = y[MAMMOGRAPHY]["bag_allowed"][pairs[:, 0]]
        of_tissue = y[HISTOPATHOLOGY]["bag_allowed"][pairs[:, 1]]
        allowed = of_mammograms & of_tissue
        agree = allowed.any(1)
        x["pairs"] = pairs[agree]
        y["both"] = allowed[agree]


def augment(images, mask, rng):
    """Random flips and shifts of images (N, S, S[, 3]); the outlines `mask` (N, S, S) or None move with them.

    Tiles are flipped in both directions, mammograms only top to bottom: the chest wall stays at the left.
    Shifts go up to a twelfth of the side; around a mammogram is air, and a tile is reflected at its border.
    """
    upside = torch.from_numpy(rng.random(len(images)) < 0.5)
    images[upside] = images[upside].flip(1)
    if mask is not None:
        mask[upside] = mask[upside].flip(1)
    else:
        mirror = torch.from_numpy(rng.random(len(images)) < 0.5)
        images[mirror] = images[mirror].flip(2)
    reach = images.shape[1] // 12
    corners = rng.integers(0, 2 * reach + 1, (len(images), 2))
    if mask is None:
        return shift(images, corners, reach, "reflect"), None
    return shift(images, corners, reach, "constant"), shift(mask, corners, reach, "constant")


def shift(images, corners, reach, mode):
    """Images (N, S, S[, 3]) cut out of themselves after padding by `reach` pixels on each side.

    corners (N, 2): where each cut begins, 0 to 2 reach; at `reach` nothing is shifted. mode: of `np.pad`.
    """
    side = images.shape[1]
    padding = [(0, 0), (reach, reach), (reach, reach)] + [(0, 0)] * (images.ndim - 3)
    padded = np.pad(images.numpy(), padding, mode=mode)
    shifted = [image[y:y + side, x:x + side] for image, (y, x) in zip(padded, corners)]
    return torch.from_numpy(np.stack(shifted))


def dataloaders(fold, images, profile, seed):
    """fastai DataLoaders of the training and validation patients of a fold (table with `split`)."""
    training = PairedBatches(fold[fold.split == "train"], images, profile.batch, seed)
    validation = PairedBatches(fold[fold.split == "validation"], images, profile.batch, seed)
    for name, part in (("training", training), ("validation", validation)):
        if not part.codes:
            raise Problem(f"The fold has no {name} patients; the cohort is too small for a split by patient.")
    where = device(profile)
    workers = 2 if where.type == "cuda" else 0
    return DataLoaders(loader(training, where, workers), loader(validation, where, workers), device=where)


def loader(batches, where, workers):
    """A fastai DataLoader of the batches on the device `where`.

    `workers` processes draw ahead, so that a GPU need not wait; with any number the batches are the same.
    """
    return DataLoader(batches, bs=None, shuffle=False, num_workers=workers, device=where)


def device(profile):
    """The torch device of the profile. Raises `Problem` where that is a GPU and torch finds none."""
    if profile.device == "cuda" and not torch.cuda.is_available():
        raise Problem(f"The profile {profile.name} trains on a GPU, and torch finds none on this machine "
                      "(`nvidia-smi` says whether its driver does); "
                      "run it where there is one, or take PROFILE=lesson.")
    return torch.device(profile.device)


def sweep(table, images, size=128):
    """All rows, modality by modality, in order: yields (rows, x) with at most `size` images."""
    for modality in MODALITIES:
        rows = table[table.modality == modality]
        for start in range(0, len(rows), size):
            part = rows.iloc[start:start + size]
            yield part, {modality: torch.from_numpy(images.gather(part))}
