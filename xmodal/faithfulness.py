"""Whether attention tells anything: other maps beside it, the pointing game, deletion and insertion."""
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn

from .cohort import partners
from .config import HISTOPATHOLOGY, MAMMOGRAPHY
from .explain import attention, card_of, centred_tokens, heatmap
from .model import normalise, pool

POINTING = ["sample", "patient", "lesion_type", "map", "inside", "area", "hit", "chance", "swap"]

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
    return bool(touched(mask, len(heat)).flat[int(np.argmax(heat))])


def touched(mask, side):
    """(side, side) bool: the patches that the lesion mask (S, S) touches."""
    mask = torch.as_tensor(np.array(mask, dtype=np.float32))
    return F.adaptive_max_pool2d(mask[None, None], side)[0, 0].numpy() > 0


class Diagnosis(nn.Module):
    """From a grid of mammogram tokens (B, D, g, g) to class logits (B, 4): what Grad-CAM needs of a model."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.grid = nn.Identity()

    def forward(self, grid):
        tokens = self.grid(grid).flatten(2).transpose(1, 2)
        z = normalise(self.model.necks[MAMMOGRAPHY], pool(tokens), running=True)
        return self.model.classify(self.model.fuse(z, None))


def grad_cam(model, tokens):
    """Grad-CAM (Selvaraju et al. 2017) of the likeliest class on the last tokens (1, N, D) -> (g, g)."""
    side = int(tokens.shape[1] ** 0.5)
    grid = tokens.detach().transpose(1, 2).unflatten(2, (side, side)).requires_grad_()
    diagnosis = Diagnosis(model)
    likeliest = int(diagnosis(grid).argmax())
    cam = LayerGradCam(diagnosis, diagnosis.grid).attribute(grid, likeliest, relu_attributions=True)
    return cam[0, 0].detach().cpu().numpy()


def maps(model, mammogram, tiles, other_tiles):
    """{name: (g, g)}: the attention of a mammogram (S, S) with its tissue (T, S, S, 3), and maps beside it.

    other tissue: attention with another patient's tiles, which a map that rests on the tissue must notice.
    token norm: the length of the centred tokens, without any tissue. Grad-CAM, and decoder: what the class
    and the lesion heads look at.
    """
    device = next(model.parameters()).device
    with torch.no_grad():
        m = model.stream(torch.as_tensor(np.array(mammogram))[None].to(device), MAMMOGRAPHY)
        z_m = centred_tokens(model, m.tokens[0], MAMMOGRAPHY)
        tissue = []
        for pixels in (tiles, other_tiles):
            tokens = model.tokens(torch.as_tensor(np.array(pixels)).to(device), HISTOPATHOLOGY)
            tissue.append(centred_tokens(model, tokens.flatten(0, 1), HISTOPATHOLOGY))
        own, other = (heatmap(attention(z_m, z_p)) for z_p in tissue)
    side = int(len(own) ** 0.5)
    by_token = {"attention": own, "other tissue": other, "token norm": z_m.norm(dim=1)}
    of_mammogram = {name: values.view(side, side).cpu().numpy() for name, values in by_token.items()}
    lesion = F.adaptive_max_pool2d(m.mask.sigmoid()[None], side)[0, 0]
    return of_mammogram | {"Grad-CAM": grad_cam(model, m.tokens), "decoder": lesion.cpu().numpy()}


def pointing(run, model, table, images):
    """How well each map finds lesions: one row per map and mammogram of the held-out domain that has an
    outline and tissue. The maps are those of `maps`, and "random weights": the attention of an untrained
    model.

    Columns sample, patient, lesion_type, map, inside (share of the map in the lesion), area (share of the
    image that the lesion covers), hit (pointing game), chance (share of the patches that the lesion touches:
    how often a random patch would hit), swap (correlation of the attention with that by other tissue).
    """
    outlined = table[(table.domain == run.config["held_out"]) & table.has_mask]
    tissue_of = partners(table)
    outlined = outlined[outlined.patient.isin(tissue_of)]
    tissue = table[table.modality == HISTOPATHOLOGY]
    names = sorted(set(outlined.patient))
    after = dict(zip(names, names[1:] + names[:1]))           # whose tissue is the other tissue
    untrained = fresh(model)
    rows = []
    for _, row in outlined.iterrows():
        patients = (tissue_of[row.patient], tissue_of[after[row.patient]])
        own, other = (images.gather(tissue[tissue.patient == patient]) for patient in patients)
        mammogram = images.gather(row.to_frame().T)[0]
        mask = images.gather(row.to_frame().T, "masks")[0].astype(bool)
        shown = maps(model, mammogram, own, other)
        shown["random weights"] = maps(untrained, mammogram, own, other)["attention"]
        swap = np.corrcoef(shown["attention"].ravel(), shown["other tissue"].ravel())[0, 1]
        for name, heat in shown.items():
            rows.append({
                "sample": row["sample"], "patient": row.patient, "lesion_type": row.lesion_type, "map": name,
                "inside": inside(heat, mask), "area": float(mask.mean()), "hit": pointing_hit(heat, mask),
                "chance": float(touched(mask, len(heat)).mean()), "swap": swap,
            })
    return pd.DataFrame(rows, columns=POINTING)


def fresh(model, seed=0):
    """A copy of a model with random weights: what its maps show without training (Adebayo et al. 2018)."""
    copy = deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in copy.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return copy


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
