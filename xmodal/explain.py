"""What links a suspicious region of a mammogram to tissue: cross-modal attention, top-K patches, the conclusion card; and whether the
map tells where the lesion is (pointing game) and what the prediction rests on (deletion and insertion)."""
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from .config import CLASSES, HISTOPATHOLOGY, MAMMOGRAPHY

THRESHOLD, TOP_K = 0.7, 5      # the paper's: regions of interest have alpha > 0.7; five patches of each


class Card(NamedTuple):
    """The reasoning card of one patient."""
    p: np.ndarray          # (4,) class probabilities of the joint prediction
    heat: np.ndarray       # (g, g) attention over mammogram patches, in [0, 1]
    patches: np.ndarray    # (K, 2) tile and token of the supporting histology patches, best first
    weights: np.ndarray    # (K,) their attention weights, summing to at most 1
    mask: np.ndarray       # (4g, 4g) lesion probability
    grade: int             # ordinal grade of the joint prediction
    conclusion: str        # in plain words


def attention(z_m, z_p):
    """Eq. 11 put right (correction 1). z_m (N_M, D), z_p (N_P, D) patch tokens -> A (N_M, N_P): for each pathology token j a
    distribution over the mammogram's tokens i, from the scores z_m . z_p / sqrt(D). Printed, the softmax runs over j instead,
    and then summing over j gives 1 for every i."""
    return (z_m @ z_p.T / z_m.shape[1] ** 0.5).softmax(0)


def heatmap(a):
    """A (N_M, N_P) -> alpha (N_M,): the mean over pathology tokens, scaled to [0, 1] within the image (0 where it is constant)."""
    alpha = a.mean(1)
    spread = alpha.max() - alpha.min()
    return (alpha - alpha.min()) / spread if spread > 0 else torch.zeros_like(alpha)


def top_patches(z_m, z_p, alpha, k=TOP_K, threshold=THRESHOLD):
    """The k pathology tokens that the region of interest {alpha > threshold} attends to most: (indices, weights), best first.

    The weights are a softmax over pathology tokens of the scores, averaged over the region: they sum to 1 over all tokens.
    The region is never empty, since alpha reaches 1; on a constant image (alpha 0) it is the whole image.
    """
    region = alpha > threshold if (alpha > threshold).any() else torch.ones_like(alpha, dtype=torch.bool)
    weight = (z_m[region] @ z_p.T / z_m.shape[1] ** 0.5).softmax(1).mean(0)
    best = weight.topk(min(k, len(weight)))
    return best.indices, best.values


@torch.no_grad()
def explain(model, mammogram, tiles):
    """The `Card` of one patient. mammogram uint8 (S, S), tiles uint8 (T, S, S, 3), T >= 1.

    Tokens are compared in the scale of the necks, in which the modalities were aligned. The necks' shift is that of pooled
    features, not of tokens, and is left out.
    """
    model.eval()
    device = next(model.parameters()).device
    m = model.stream(torch.as_tensor(np.array(mammogram))[None].to(device), MAMMOGRAPHY)
    p = model.stream(torch.as_tensor(np.array(tiles)).to(device), HISTOPATHOLOGY)
    joint = model.joint(m.z, p.z.mean(0, keepdim=True))
    scale = lambda neck: neck.weight / (neck.running_var + neck.eps).sqrt()
    z_m = m.tokens[0] * scale(model.necks[MAMMOGRAPHY])
    z_p = p.tokens.flatten(0, 1) * scale(model.necks[HISTOPATHOLOGY])
    alpha = heatmap(attention(z_m, z_p))
    index, weight = top_patches(z_m, z_p, alpha)
    side = int(len(alpha) ** 0.5)
    patches = np.stack([i.cpu().numpy() for i in (index // p.tokens.shape[1], index % p.tokens.shape[1])], 1)
    probability = joint.logits.softmax(1)[0].cpu().numpy()
    grade = int((joint.score[0] > model.grade.cutpoints).sum())
    mask = m.mask[0].sigmoid().cpu().numpy()
    return Card(probability, alpha.view(side, side).cpu().numpy(), patches, weight.cpu().numpy(), mask, grade,
                conclude(probability, grade, mask.max() > 0.5))


def conclude(p, grade, lesion):
    """The card's last line. p (4,) class probabilities, grade 0-3, lesion: whether the decoder outlines one. Unsure is said plainly."""
    first, second = np.argsort(p)[::-1][:2]
    words = f"{CLASSES[first]} ({100 * p[first]:.0f} %)"
    if p[first] - p[second] < 0.2:
        words += f", but unsure: {CLASSES[second]} has {100 * p[second]:.0f} %"
    if grade != first:
        words += f"; the ordinal head says {CLASSES[grade]}"
    return f"Most likely {words}. " + ("A lesion is outlined." if lesion else "No lesion is outlined.")


def inside(heat, mask):
    """Share of the attention that lies in the lesion: heat (g, g), mask (S, S) bool -> number in [0, 1], NaN without attention or lesion."""
    cover = F.adaptive_avg_pool2d(torch.as_tensor(np.array(mask, dtype=np.float32))[None, None], heat.shape[0])[0, 0].numpy()
    return float((heat * cover).sum() / heat.sum()) if heat.sum() and cover.sum() else float("nan")


def pointing_hit(heat, mask):
    """The pointing game: True where the hottest patch touches the lesion (Zhang et al. 2018)."""
    cover = F.adaptive_max_pool2d(torch.as_tensor(np.array(mask, dtype=np.float32))[None, None], heat.shape[0])[0, 0].numpy()
    return bool(cover.flat[int(np.argmax(heat))] > 0)


class Faithfulness(NamedTuple):
    deletion: float     # area under the score while patches are blanked, the hottest first: small where they mattered
    insertion: float    # area under the score while they are put back on a blank image: large where they suffice


def faithfulness(score, image, order, steps=16):
    """Deletion and insertion (Petsiuk et al. 2018), areas over the share of patches, 0 to 1, by the trapezoid rule.

    score: uint8 (B, S, S) -> (B,) numbers; image uint8 (S, S); order (g * g,) patch numbers, the hottest first. Blank is the
    image's mean grey, which is itself a picture that no model was trained on: compare with a random order, never with 0 or 1.
    """
    side, image = int(len(order) ** 0.5), np.asarray(image)
    rank = np.empty(len(order))
    rank[np.asarray(order)] = np.arange(len(order))
    rank = np.kron(rank.reshape(side, side), np.ones((image.shape[0] // side,) * 2))
    share = np.linspace(0, 1, steps + 1)
    gone = rank < np.round(share * len(order))[:, None, None]
    blank = np.uint8(round(image.mean()))
    both = score(np.concatenate([np.where(gone, blank, image), np.where(gone, image, blank)]))
    return Faithfulness(*(float(np.trapezoid(part, share)) for part in np.split(np.asarray(both), 2)))


# ---- cases, chosen by a rule and not by hand ---------------------------------------------------------------------

def patch_picture(tiles, patches, side):
    """The retrieved patches (K, 2: tile, token) as pictures: each patch with its neighbours, (3 step, 3 step, 3), inside its tile."""
    step, size, out = tiles.shape[1] // side, tiles.shape[1], []
    for tile, token in patches:
        y, x = (min(max(k * step - step, 0), size - 3 * step) for k in divmod(int(token), side))
        out.append(tiles[tile][y:y + 3 * step, x:x + 3 * step])
    return out


def card_of(model, table, images, patient, sample=""):
    """(Card, mammogram, tiles) of a patient with both modalities; the mammogram called `sample`, else the first."""
    rows = table[table.patient == patient]
    m, p = (rows[rows.modality == k].sort_values("sample") for k in (MAMMOGRAPHY, HISTOPATHOLOGY))
    m = m[m["sample"] == sample] if sample else m
    mammogram, tiles = images.gather(m.head(1))[0], images.gather(p)
    return explain(model, mammogram, tiles), mammogram, tiles


def paired(table):
    """Names of the patients who have both modalities."""
    both = table.groupby("patient")["modality"].nunique()
    return set(both.index[both > 1])


def pointing(run, model, table, images):
    """How well attention finds lesions: a row a mammogram of the held-out domain with an outline and tissue of its patient, with
    `inside` (share of the attention in the lesion), `area` (share of the image that the lesion covers) and `hit` (pointing game)."""
    found = table[(table.domain == run.config["held_out"]) & table.has_mask & table.patient.isin(paired(table))]
    rows = []
    for (_, row), mask in zip(found.iterrows(), images.gather(found, "masks").astype(bool) if len(found) else ()):
        card = card_of(model, table, images, row.patient, row["sample"])[0]
        rows.append({"sample": row["sample"], "patient": row.patient, "lesion_type": row.lesion_type, "inside": inside(card.heat, mask),
                     "area": float(mask.mean()), "hit": pointing_hit(card.heat, mask)})
    return pd.DataFrame(rows, columns=["sample", "patient", "lesion_type", "inside", "area", "hit"])


def faithful(model, table, images, samples, orders=2):
    """Whether the joint prediction rests on what is hot: a row a mammogram, each of a patient with tissue, which stays as it is.

    Columns sample, deletion and insertion by the order of the heatmap, and the mean over `orders` random orders as
    deletion_random and insertion_random; the score is the probability of the class that is predicted for the whole image.
    """
    rows, people = [], table.set_index("sample")["patient"]
    for k, sample in enumerate(samples):
        card, mammogram, tiles = card_of(model, table, images, people[sample], sample)
        score, rng = _score(model, tiles, int(card.p.argmax())), np.random.default_rng([len(mammogram), k])
        hot = faithfulness(score, mammogram, np.argsort(-card.heat.ravel(), kind="stable"))
        chance = np.mean([faithfulness(score, mammogram, rng.permutation(card.heat.size)) for _ in range(orders)], axis=0)
        rows.append((sample, *hot, *chance))
    return pd.DataFrame(rows, columns=["sample", "deletion", "insertion", "deletion_random", "insertion_random"])


@torch.no_grad()
def _score(model, tiles, target):
    """mammograms uint8 (B, S, S) -> (B,) joint probability of the class `target` with these tiles of the patient's tissue."""
    device = next(model.parameters()).device
    tissue = model.stream(torch.as_tensor(np.array(tiles)).to(device), HISTOPATHOLOGY).z.mean(0, keepdim=True)

    @torch.no_grad()
    def score(mammograms):
        z = model.stream(torch.as_tensor(mammograms).to(device), MAMMOGRAPHY).z
        return model.joint(z, tissue.expand(len(z), -1)).logits.softmax(1)[:, target].cpu().numpy()
    return score
