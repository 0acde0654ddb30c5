"""What links a suspicious region of a mammogram to tissue: attention, top-K patches, the conclusion card."""
from typing import NamedTuple

import numpy as np
import torch

from .config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem
from .loaders import sweep
from .predict import strongest_box

THRESHOLD = 0.7      # the paper's: regions of interest have alpha > 0.7
TOP_K = 5            # the paper's: five patches of each region
BOTH = "both"
ALONE = {            # what a card says where only one modality was there
    BOTH: "",
    MAMMOGRAPHY: " From the mammogram alone: there was no tissue.",
    HISTOPATHOLOGY: " From tissue alone: there was no mammogram.",
}


class Card(NamedTuple):
    """The reasoning card of one patient. What needs a modality that was not there is None."""
    p: np.ndarray          # (4,) class probabilities
    grade: int             # ordinal grade
    read: str              # MAMMOGRAPHY, HISTOPATHOLOGY or BOTH: what was there
    conclusion: str        # in plain words
    box: tuple             # (x0, y0, x1, y1) of the lesion in pixels of the mammogram, () where there is none
    mask: np.ndarray       # (4g, 4g) lesion probability; needs a mammogram
    heat: np.ndarray       # (g, g) attention over mammogram patches, in [0, 1]; needs both, as do the rest
    tissue: np.ndarray     # (T, g, g) attention over the patches of the tiles, in [0, 1]
    patches: np.ndarray    # (K, 2) tile and token of the supporting histology patches, best first
    weights: np.ndarray    # (K,) their attention weights, summing to at most 1


# ---- Eq. 11 ----------------------------------------------------------------------------------------------

def attention(z_m, z_p):
    """Eq. 11 put right (correction 1): z_m (N_M, D), z_p (N_P, D) patch tokens -> A (N_M, N_P).

        A_ij = softmax_i(z_m_i . z_p_j / sqrt(D))

    For each pathology token j it is a distribution over the mammogram's tokens i. In the printed equation the
    softmax runs over j, and then the sum over j is 1 for every i. The tokens are centred ones
    (`centred_tokens`, correction 9).
    """
    return (z_m @ z_p.T / z_m.shape[1] ** 0.5).softmax(0)


@torch.no_grad()
def centre(model, table, images):
    """Keeps in the model the mean token of each modality over `table`, the training rows of the source.

    The tokens of a modality share one large mean. Left in, it decides every product of Eq. 11, and the map of
    a mammogram is nearly the same with another patient's tissue (correction 9).
    """
    model.eval()
    for number, modality in enumerate(MODALITIES):
        sums = []
        for rows, x in sweep(table[table.modality == modality], images):
            tokens = model.tokens(x[modality].to(model.token_means.device), modality)
            sums.append(tokens.mean(1).sum(0))
        if sums:
            model.token_means[number] = sum(sums) / (table.modality == modality).sum()


def centred_tokens(model, tokens, modality):
    """Patch tokens (..., D) less the mean token of their modality, in the scale of its neck.

    In that scale the modalities were aligned. The neck's shift is that of pooled features, not of tokens, and
    is left out.
    """
    neck = model.necks[modality]
    scale = neck.weight / (neck.running_var + neck.eps).sqrt()
    return (tokens - model.token_means[MODALITIES.index(modality)]) * scale


def heatmap(a):
    """A (N_M, N_P) -> alpha (N_M,): the mean over pathology tokens, scaled to [0, 1] within the image.

        alpha_i = mean_j A_ij, less its minimum, over its range

    An image where it is constant gets 0 everywhere.
    """
    alpha = a.mean(1)
    spread = alpha.max() - alpha.min()
    return (alpha - alpha.min()) / spread if spread > 0 else torch.zeros_like(alpha)


def region_of(alpha, threshold=THRESHOLD):
    """The region of interest {i: alpha_i > threshold} as bool (N_M,).

    It is never empty, since alpha reaches 1; on a constant image (alpha 0) it is the whole image.
    """
    region = alpha > threshold
    return region if region.any() else torch.ones_like(region)


def top_patches(z_m, z_p, alpha, k=TOP_K, threshold=THRESHOLD):
    """The k pathology tokens that the region of interest attends to most: (indices, weights), best first.

    The weights are a softmax over pathology tokens of the scores, averaged over the region (`region_of`);
    they sum to 1 over all tokens.
    """
    region = region_of(alpha, threshold)
    weight = (z_m[region] @ z_p.T / z_m.shape[1] ** 0.5).softmax(1).mean(0)
    best = weight.topk(min(k, len(weight)))
    return best.indices, best.values


# ---- the card of a patient -------------------------------------------------------------------------------

@torch.no_grad()
def explain(model, mammogram=None, tiles=None):
    """The `Card` of one patient: mammogram uint8 (S, S) and tiles uint8 (T, S, S, 3), T >= 1.

    One of them may be None: then the heads read the other alone, and there is no attention between the two.
    """
    if mammogram is None and tiles is None:
        raise Problem("A card needs a mammogram or tissue; give `explain` at least one of them.")
    model.eval()
    m = stream(model, mammogram, MAMMOGRAPHY)
    p = stream(model, tiles, HISTOPATHOLOGY)
    out = model.joint(m and m.z, p and p.z.mean(0, keepdim=True))
    probability = out.logits.softmax(1)[0].cpu().numpy()
    grade = int((out.score[0] > model.grade.cutpoints).sum())
    if not np.isfinite(probability).all():
        raise Problem("The model gives no probabilities for these images (not a number); take another run.")
    read = BOTH
    links = [None] * 4
    if m and p:
        links = linked(model, m.tokens[0], p.tokens)
    else:
        read = MAMMOGRAPHY if m else HISTOPATHOLOGY
    mask, box = outlined(m.mask[0], len(mammogram)) if m else (None, None)
    conclusion = conclude(probability, grade, box, read)
    return Card(probability, grade, read, conclusion, box or (), mask, *links)


def outlined(logits, size):
    """Lesion logits (h, w) -> lesion probabilities (h, w), and the box of the lesion in pixels of a mammogram
    of `size` x `size`, () where there is none."""
    mask = logits.sigmoid().cpu().numpy()
    corners = strongest_box(mask)[0] or ()
    return mask, tuple(edge * size / len(mask) for edge in corners)


def stream(model, pixels, modality):
    """The `model.Stream` of one mammogram (S, S) or of tiles (T, S, S, 3); None of None."""
    if pixels is None:
        return None
    x = torch.as_tensor(np.array(pixels)).to(next(model.parameters()).device)
    return model.stream(x[None] if x.ndim == 2 else x, modality)


def linked(model, of_mammogram, of_tiles):
    """Eq. 11 in both directions: tokens (N, D), (T, N, D) -> heat, tissue, patches, weights of a `Card`."""
    z_m = centred_tokens(model, of_mammogram, MAMMOGRAPHY)
    z_p = centred_tokens(model, of_tiles.flatten(0, 1), HISTOPATHOLOGY)
    alpha = heatmap(attention(z_m, z_p))
    in_tissue = heatmap(attention(z_p, z_m[region_of(alpha)]))
    index, weight = top_patches(z_m, z_p, alpha)
    tokens_per_tile = of_tiles.shape[1]
    side = int(len(alpha) ** 0.5)
    patches = torch.stack([index // tokens_per_tile, index % tokens_per_tile], 1)
    maps = [alpha.view(side, side), in_tissue.view(-1, side, side), patches, weight]
    return [values.cpu().numpy() for values in maps]


def conclude(p, grade, lesion, read=BOTH):
    """The last lines of the card; where the model is unsure or its heads disagree, they say so.

    p (4,) class probabilities, grade 0-3, lesion: its box, empty or False where the decoder outlines none,
    None where it saw no mammogram; read: what was there, see `Card`.
    """
    first, second = np.argsort(p)[::-1][:2]
    sentence = f"Most likely {CLASSES[first]} ({100 * p[first]:.0f} %)"
    if p[first] - p[second] < 0.2:
        sentence += f", but unsure: {CLASSES[second]} has {100 * p[second]:.0f} %"
    if grade != first:
        sentence += f"; the ordinal head says {CLASSES[grade]}"
    sentence += "."
    if lesion:
        sentence += " A lesion is outlined" + (" all the same." if first == 0 else ".")
    elif lesion is not None:
        sentence += " No lesion is outlined" + (", though." if first > 0 else ".")
    return sentence + ALONE[read]


def card_of(model, table, images, patient, sample="", tissue_of=""):
    """(Card, mammogram, tiles) of a patient, for the mammogram `sample` or the first; None for what the
    patient has not.

    tissue_of: whose tissue stands beside the mammogram, another patient's only where pairs are by label.
    """
    m = table[(table.patient == patient) & (table.modality == MAMMOGRAPHY)].sort_values("sample")
    p = table[(table.patient == (tissue_of or patient)) & (table.modality == HISTOPATHOLOGY)]
    if sample:
        m = m[m["sample"] == sample]
    mammogram = images.gather(m.head(1))[0] if len(m) else None
    tiles = images.gather(p.sort_values("sample")) if len(p) else None
    return explain(model, mammogram, tiles), mammogram, tiles


def patch_picture(tiles, patches, side):
    """The retrieved patches (K, 2: tile, token) as pictures: each with its neighbours, inside its tile.

    tiles (T, S, S, 3) of side x side patches; returns K pictures (3 S / side, 3 S / side, 3).
    """
    size = tiles.shape[1]
    step = size // side
    pictures = []
    for tile, token in patches:
        row, column = divmod(int(token), side)
        y = min(max(row * step - step, 0), size - 3 * step)
        x = min(max(column * step - step, 0), size - 3 * step)
        pictures.append(tiles[tile][y:y + 3 * step, x:x + 3 * step])
    return pictures
