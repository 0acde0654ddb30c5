"""What links a suspicious region of a mammogram to tissue: attention, top-K patches, the conclusion card.

And whether the attention lies where the lesion is (pointing game), and whether the prediction rests on the
hot patches (deletion and insertion).
"""
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from .cohort import patients_with_both
from .config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY

THRESHOLD = 0.7      # the paper's: regions of interest have alpha > 0.7
TOP_K = 5            # the paper's: five patches of each region


class Card(NamedTuple):
    """The reasoning card of one patient."""
    p: np.ndarray          # (4,) class probabilities of the joint prediction
    heat: np.ndarray       # (g, g) attention over mammogram patches, in [0, 1]
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
    softmax runs over j, and then the sum over j is 1 for every i.
    """
    return (z_m @ z_p.T / z_m.shape[1] ** 0.5).softmax(0)


def heatmap(a):
    """A (N_M, N_P) -> alpha (N_M,): the mean over pathology tokens, scaled to [0, 1] within the image.

        alpha_i = mean_j A_ij, less its minimum, over its range

    An image where it is constant gets 0 everywhere.
    """
    alpha = a.mean(1)
    spread = alpha.max() - alpha.min()
    return (alpha - alpha.min()) / spread if spread > 0 else torch.zeros_like(alpha)


def top_patches(z_m, z_p, alpha, k=TOP_K, threshold=THRESHOLD):
    """The k pathology tokens that the region of interest attends to most: (indices, weights), best first.

    The region is {i: alpha_i > threshold}. It is never empty, since alpha reaches 1; on a constant image
    (alpha 0) it is the whole image. The weights are a softmax over pathology tokens of the scores, averaged
    over the region: they sum to 1 over all tokens.
    """
    region = alpha > threshold
    if not region.any():
        region = torch.ones_like(region)
    weight = (z_m[region] @ z_p.T / z_m.shape[1] ** 0.5).softmax(1).mean(0)
    best = weight.topk(min(k, len(weight)))
    return best.indices, best.values


# ---- the card of a patient -------------------------------------------------------------------------------

@torch.no_grad()
def explain(model, mammogram, tiles):
    """The `Card` of one patient. mammogram uint8 (S, S), tiles uint8 (T, S, S, 3), T >= 1.

    Tokens are compared in the scale of the necks, in which the modalities were aligned. The necks' shift is
    that of pooled features, not of tokens, and is left out.
    """
    model.eval()
    device = next(model.parameters()).device
    m = model.stream(torch.as_tensor(np.array(mammogram))[None].to(device), MAMMOGRAPHY)
    p = model.stream(torch.as_tensor(np.array(tiles)).to(device), HISTOPATHOLOGY)
    joint = model.joint(m.z, p.z.mean(0, keepdim=True))
    probability = joint.logits.softmax(1)[0].cpu().numpy()
    grade = int((joint.score[0] > model.grade.cutpoints).sum())
    mask = m.mask[0].sigmoid().cpu().numpy()
    z_m = m.tokens[0] * scale_of(model.necks[MAMMOGRAPHY])
    z_p = p.tokens.flatten(0, 1) * scale_of(model.necks[HISTOPATHOLOGY])
    alpha = heatmap(attention(z_m, z_p))
    index, weight = top_patches(z_m, z_p, alpha)
    tokens_per_tile = p.tokens.shape[1]
    side = int(len(alpha) ** 0.5)
    return Card(
        p=probability,
        heat=alpha.view(side, side).cpu().numpy(),
        patches=torch.stack([index // tokens_per_tile, index % tokens_per_tile], 1).cpu().numpy(),
        weights=weight.cpu().numpy(),
        mask=mask,
        grade=grade,
        conclusion=conclude(probability, grade, mask.max() > 0.5),
    )


def scale_of(neck):
    """(D,): by what a BatchNorm neck multiplies each channel at evaluation."""
    return neck.weight / (neck.running_var + neck.eps).sqrt()


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


# ---- does the attention lie in the lesion? ---------------------------------------------------------------

def inside(heat, mask):
    """Share of the attention that lies in the lesion: heat (g, g), mask (S, S) bool -> number in [0, 1].

    NaN without attention or lesion.
    """
    mask = torch.as_tensor(np.array(mask, dtype=np.float32))
    cover = F.adaptive_avg_pool2d(mask[None, None], heat.shape[0])[0, 0].numpy()
    if not (heat.sum() and cover.sum()):
        return float("nan")
    return float((heat * cover).sum() / heat.sum())


def pointing_hit(heat, mask):
    """The pointing game: True where the hottest patch touches the lesion (Zhang et al. 2018)."""
    mask = torch.as_tensor(np.array(mask, dtype=np.float32))
    cover = F.adaptive_max_pool2d(mask[None, None], heat.shape[0])[0, 0].numpy()
    return bool(cover.flat[int(np.argmax(heat))] > 0)


def pointing(run, model, table, images):
    """How well attention finds lesions: one row per mammogram of the held-out domain that has an outline and
    tissue of the same patient.

    Columns sample, patient, lesion_type, inside (share of the attention in the lesion), area (share of the
    image that the lesion covers), hit (pointing game).
    """
    outlined = (table.domain == run.config["held_out"]) & table.has_mask
    mammograms = table[outlined & table.patient.isin(patients_with_both(table))]
    masks = images.gather(mammograms, "masks").astype(bool) if len(mammograms) else ()
    rows = []
    for (_, row), mask in zip(mammograms.iterrows(), masks):
        card, _, _ = card_of(model, table, images, row.patient, row["sample"])
        rows.append({
            "sample": row["sample"], "patient": row.patient, "lesion_type": row.lesion_type,
            "inside": inside(card.heat, mask),
            "area": float(mask.mean()),
            "hit": pointing_hit(card.heat, mask),
        })
    return pd.DataFrame(rows, columns=["sample", "patient", "lesion_type", "inside", "area", "hit"])


# ---- does the prediction rest on it? ---------------------------------------------------------------------

class Faithfulness(NamedTuple):
    """Areas under the score while patches change, the hottest first."""
    deletion: float     # while patches are blanked: small where they mattered
    insertion: float    # while they are put back on a blank image: large where they suffice


def faithfulness(score, image, order, steps=16):
    """Deletion and insertion (Petsiuk et al. 2018): areas over the share of patches, 0 to 1, trapezoid rule.

    score: uint8 (B, S, S) -> (B,) numbers; image uint8 (S, S); order (g * g,) patch numbers, hottest first.
    Blank is the image's mean grey, which is itself a picture that no model was trained on: compare with a
    random order, never with 0 or 1.
    """
    image = np.asarray(image)
    side = int(len(order) ** 0.5)
    rank = np.empty(len(order))
    rank[np.asarray(order)] = np.arange(len(order))
    rank = np.kron(rank.reshape(side, side), np.ones((image.shape[0] // side,) * 2))
    share = np.linspace(0, 1, steps + 1)
    changed = rank < np.round(share * len(order))[:, None, None]
    blank = np.uint8(round(image.mean()))
    deleted = np.where(changed, blank, image)
    inserted = np.where(changed, image, blank)
    scores = np.asarray(score(np.concatenate([deleted, inserted])))
    return Faithfulness(
        deletion=float(np.trapezoid(scores[:steps + 1], share)),
        insertion=float(np.trapezoid(scores[steps + 1:], share)),
    )


def faithful(model, table, images, samples, orders=2):
    """Whether the joint prediction rests on the hot patches: one row per mammogram of `samples`.

    Each is of a patient with tissue, which stays as it is; the score is the probability of the class that is
    predicted for the whole image. Columns sample, deletion and insertion by the order of the heatmap, and
    their means over `orders` random orders as deletion_random and insertion_random.
    """
    patients = table.set_index("sample")["patient"]
    rows = []
    for k, sample in enumerate(samples):
        card, mammogram, tiles = card_of(model, table, images, patients[sample], sample)
        score = score_with(model, tiles, int(card.p.argmax()))
        rng = np.random.default_rng([len(mammogram), k])
        hot = faithfulness(score, mammogram, np.argsort(-card.heat.ravel(), kind="stable"))
        chance = [faithfulness(score, mammogram, rng.permutation(card.heat.size)) for _ in range(orders)]
        rows.append((sample, *hot, *np.mean(chance, axis=0)))
    columns = ["sample", "deletion", "insertion", "deletion_random", "insertion_random"]
    return pd.DataFrame(rows, columns=columns)


@torch.no_grad()
def score_with(model, tiles, target):
    """A function: mammograms uint8 (B, S, S) -> (B,) joint probabilities of class `target` with `tiles`."""
    device = next(model.parameters()).device
    tiles = torch.as_tensor(np.array(tiles)).to(device)
    tissue = model.stream(tiles, HISTOPATHOLOGY).z.mean(0, keepdim=True)

    @torch.no_grad()
    def score(mammograms):
        z = model.stream(torch.as_tensor(mammograms).to(device), MAMMOGRAPHY).z
        return model.joint(z, tissue.expand(len(z), -1)).logits.softmax(1)[:, target].cpu().numpy()
    return score
