"""What links a suspicious region of a mammogram to tissue: attention, top-K patches, the conclusion card."""
from typing import NamedTuple

import numpy as np
import torch

from .config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES
from .loaders import sweep

THRESHOLD = 0.7      # the paper's: regions of interest have alpha > 0.7
TOP_K = 5            # the paper's: five patches of each region


class Card(NamedTuple):
    """The reasoning card of one patient."""
    p: np.ndarray          # (4,) class probabilities of the joint prediction
    heat: np.ndarray       # (g, g) attention over mammogram patches, in [0, 1]
    tissue: np.ndarray     # (T, g, g) attention over the patches of the tiles, in [0, 1]
    patches: np.ndarray    # (K, 2) tile and token of the supporting histology patches, best first
    weights: np.ndarray    # (K,) their attention weights, summing to at most 1
    mask: np.ndarray       # (4g, 4g) lesion probability
    grade: int             # ordinal grade of the joint prediction
    conclusion: str        # in plain words


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
def explain(model, mammogram, tiles):
    """The `Card` of one patient. mammogram uint8 (S, S), tiles uint8 (T, S, S, 3), T >= 1."""
    model.eval()
    device = next(model.parameters()).device
    m = model.stream(torch.as_tensor(np.array(mammogram))[None].to(device), MAMMOGRAPHY)
    p = model.stream(torch.as_tensor(np.array(tiles)).to(device), HISTOPATHOLOGY)
    joint = model.joint(m.z, p.z.mean(0, keepdim=True))
    probability = joint.logits.softmax(1)[0].cpu().numpy()
    grade = int((joint.score[0] > model.grade.cutpoints).sum())
    mask = m.mask[0].sigmoid().cpu().numpy()
    z_m = centred_tokens(model, m.tokens[0], MAMMOGRAPHY)
    z_p = centred_tokens(model, p.tokens.flatten(0, 1), HISTOPATHOLOGY)
    alpha = heatmap(attention(z_m, z_p))
    in_tissue = heatmap(attention(z_p, z_m[region_of(alpha)]))
    index, weight = top_patches(z_m, z_p, alpha)
    tokens_per_tile = p.tokens.shape[1]
    side = int(len(alpha) ** 0.5)
    return Card(
        p=probability,
        heat=alpha.view(side, side).cpu().numpy(),
        tissue=in_tissue.view(-1, side, side).cpu().numpy(),
        patches=torch.stack([index // tokens_per_tile, index % tokens_per_tile], 1).cpu().numpy(),
        weights=weight.cpu().numpy(),
        mask=mask,
        grade=grade,
        conclusion=conclude(probability, grade, mask.max() > 0.5),
    )


def conclude(p, grade, lesion):
    """The last line of the card; where the model is unsure, the line says so.

    p (4,) class probabilities, grade 0-3, lesion: whether the decoder outlines one.
    """
    first, second = np.argsort(p)[::-1][:2]
    sentence = f"Most likely {CLASSES[first]} ({100 * p[first]:.0f} %)"
    if p[first] - p[second] < 0.2:
        sentence += f", but unsure: {CLASSES[second]} has {100 * p[second]:.0f} %"
    if grade != first:
        sentence += f"; the ordinal head says {CLASSES[grade]}"
    return sentence + ". " + ("A lesion is outlined." if lesion else "No lesion is outlined.")


def card_of(model, table, images, patient, sample=""):
    """(Card, mammogram, tiles) of a patient with both modalities, for the mammogram `sample` or the first."""
    rows = table[table.patient == patient].sort_values("sample")
    m = rows[rows.modality == MAMMOGRAPHY]
    p = rows[rows.modality == HISTOPATHOLOGY]
    if sample:
        m = m[m["sample"] == sample]
    mammogram = images.gather(m.head(1))[0]
    tiles = images.gather(p)
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
