"""What the frozen part of an encoder makes of a cohort's images, computed once and kept on disk.

No training changes it, so no training need compute it again in every step. Augmentation comes before it, and
so it is drawn beforehand: each image is kept as it is, and `COPIES` times augmented.
"""
import hashlib

import numpy as np
import torch

from . import config
from .cohort import fingerprint
from .config import DOMAINS, MAMMOGRAPHY, MODALITIES, PRETRAINING
from .loaders import Images, augment, check_made, device
from .runtime.checkpoints import digest
from .runtime.files import atomic, held
from .runtime.identity import code_of

COPIES = 4      # augmented ones of each image
CHUNK = 128     # images at a time


class Activations(Images):
    """Stands in for `Images`: gives tokens float32 (B, T, D) where that gives pixels."""

    mend = "delete the folder activations/, which is then made again"

    def __init__(self, images, folders):
        super().__init__(images.folder)
        self.images = images
        self.folders = folders           # modality -> where its tokens lie

    def folder_of(self, domain):
        return self.folders[(DOMAINS | PRETRAINING)[domain]]

    def gather(self, rows, kind="images"):
        """Tokens of the images as they are; or their masks, as `Images.gather` gives them."""
        if kind == "masks":
            return self.images.gather(rows, kind)
        return self._pick(rows, "images", np.zeros(len(rows), int)).astype(np.float32)

    def augmented(self, rows, rng):
        """(tokens, outlines) of an augmented copy of each image, drawn by `rng`; the outlines of tiles are
        None."""
        copies = 1 + rng.integers(0, COPIES, len(rows))
        tokens = torch.from_numpy(self._pick(rows, "images", copies).astype(np.float32))
        if rows.modality.iloc[0] != MAMMOGRAPHY:
            return tokens, None
        return tokens, torch.from_numpy(self._pick(rows, "masks", copies)).bool()

    def _pick(self, rows, kind, copies):
        """The chosen copies (B,) of the rows' images or masks."""
        domains = rows["domain"].to_numpy()
        index = rows["index"].to_numpy()
        parts = []
        places = []
        for domain in dict.fromkeys(domains):
            mine = np.flatnonzero(domains == domain)
            parts.append(self.array(kind, domain)[copies[mine], index[mine]])
            places.append(mine)
        return np.concatenate(parts)[np.argsort(np.concatenate(places))]


def images_of(profile, model, table):
    """What a training or an evaluation of `model` on the cohort `table` reads: its `Activations`, computed
    where they are missing, or the `Images` themselves where no part of the model is frozen.

    Raises `Problem` where another process is computing them, and for a cohort of other sizes.
    """
    images = Images(config.DATA / profile.name)
    check_made(images.folder, profile)
    folders = {}
    for modality in MODALITIES:
        early = model.frozen_part(modality)
        if early is None:
            continue
        made_by = code_of("xmodal.activations._compute", "xmodal.model.CrossModal")
        key = f"{digest(early.state_dict(), modality)} {fingerprint(table)} {made_by}"
        folders[modality] = images.folder / "activations" / hashlib.sha256(key.encode()).hexdigest()[:16]
        if not (folders[modality] / "done").exists():
            with held(folders[modality]):
                _compute(early, device(profile), images, table, folders[modality], modality)
    return Activations(images, folders) if folders else images


def _compute(early, where, images, table, folder, modality):
    """Writes images/<domain>.npy, float16 (1 + COPIES, N, T, D), masks/<domain>.npy of mammograms, uint8
    (1 + COPIES, N, S, S), and `done`, for the domains of one modality in the table."""
    early = early.to(where).eval()
    for domain in sorted(set(table.domain[table.modality == modality])):
        tokens = []
        masks = []
        for copy in range(1 + COPIES):
            rng = np.random.default_rng([copy, *domain.encode()])
            for pixels, mask in _chunks(images, domain, modality):
                if copy:
                    pixels, mask = augment(pixels, mask, rng)
                with torch.no_grad():
                    tokens.append(early(pixels.to(where)).half().cpu().numpy())
                if mask is not None:
                    masks.append(mask.numpy())
        _save(folder / "images" / f"{domain}.npy", tokens)
        if masks:
            _save(folder / "masks" / f"{domain}.npy", masks)
    (folder / "done").write_text("")


def _chunks(images, domain, modality):
    """All images of a domain in order, at most `CHUNK` at a time, and the masks of mammograms."""
    pixels = images.array("images", domain)
    for start in range(0, len(pixels), CHUNK):
        part = slice(start, start + CHUNK)
        mask = None
        if modality == MAMMOGRAPHY:
            mask = torch.from_numpy(images.array("masks", domain)[part].copy())
        yield torch.from_numpy(pixels[part].copy()), mask


def _save(path, parts):
    """Writes parts (n, ...), which go through all images once for each copy, as one array (copies, N, ...).
    """
    whole = np.concatenate(parts)
    with atomic(path) as partial_path:
        np.save(partial_path, whole.reshape(1 + COPIES, -1, *whole.shape[1:]))
