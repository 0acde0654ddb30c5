"""Whether attention tells anything: other maps beside it, the pointing game, deletion and insertion."""
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn

from .cohort import leave_one_out, unseen_partners
from .config import HISTOPATHOLOGY, MAMMOGRAPHY
from .explain import attention, card_of, centre, centred_tokens, heatmap, stream
from .loaders import Images
from .model import CrossModal, normalise, pool
from .record import Run

MAPS = ("attention", "token_norm", "grad_cam", "decoder", "other_tissue", "random_weights")
CENTRED = 512        # images of the training rows whose mean token the untrained model takes
POINTING = ["sample", "patient", "domain", "lesion_type", "map", "inside", "area", "hit", "chance", "swap",
            "random"]


class Study(NamedTuple):
    """A run and the cohort, as all that looks into the model takes them."""
    run: Run
    model: CrossModal         # of the run
    untrained: CrossModal     # the same with random weights
    table: pd.DataFrame       # the cohort
    images: Images
    tissue_of: dict           # mammography patient -> whose tissue stands beside the mammogram
    other: dict               # patient with tissue -> whose tissue the swap test shows: the next by name

    def pixels(self, patient, sample):
        """The mammogram `sample`, its patient's tissue, and the other tissue."""
        mammogram = self.images.gather(self.table[self.table["sample"] == sample])[0]
        tissue = self.tissue_of[patient]
        return mammogram, self.tiles(tissue), self.tiles(self.other[tissue])

    def tiles(self, patient):
        """The tiles of a patient."""
        of_patient = (self.table.patient == patient) & (self.table.modality == HISTOPATHOLOGY)
        return self.images.gather(self.table[of_patient].sort_values("sample"))


def study(run, model, table, images, tissue_of=None):
    """The `Study` of a run. tissue_of: {mammography patient: whose tissue}, for other mammograms than those
    of the held-out domain; else `cohort.unseen_partners`."""
    held_out = run.config["held_out"]
    seed = run.config["seed"]
    if tissue_of is None:
        tissue_of = unseen_partners(table, held_out, seed)
    tissues = sorted(set(table.patient[table.modality == HISTOPATHOLOGY]))
    other = dict(zip(tissues, tissues[1:] + tissues[:1]))
    fold = leave_one_out(table, held_out, seed)
    training = fold[fold.split == "train"]
    untrained = fresh(model)
    centre(untrained, training.sample(min(len(training), CENTRED), random_state=seed), images)
    return Study(run, model, untrained, table, images, tissue_of, other)


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
    """The pointing game (Zhang et al. 2018): 1 where the hottest patch touches the lesion, else 0.

    Of several that are equally hot, the share that touches: a constant map hits as often as chance.
    """
    return float(touched(mask, len(heat))[heat == heat.max()].mean())


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


def maps(model, untrained, mammogram, tiles, other_tiles):
    """{name of MAPS: (g, g)}: the attention of a mammogram (S, S) with its tissue (T, S, S, 3), and beside it

    token_norm: the length of the centred tokens, without any tissue; grad_cam and decoder: what the class and
    the lesion heads look at; other_tissue: attention with another patient's tiles, which a map that rests on
    the tissue must notice; random_weights: attention of an untrained model (Adebayo et al. 2018).
    """
    shown = {}
    with torch.no_grad():
        m = stream(model, mammogram, MAMMOGRAPHY)
        side = int(m.tokens.shape[1] ** 0.5)
        z_m = centred_tokens(model, m.tokens[0], MAMMOGRAPHY)
        shown["attention"] = attended(model, z_m, tiles)
        shown["token_norm"] = z_m.norm(dim=1).view(side, side).cpu().numpy()
        shown["grad_cam"] = grad_cam(model, m.tokens)
        shown["decoder"] = F.adaptive_max_pool2d(m.mask.sigmoid()[None], side)[0, 0].cpu().numpy()
        shown["other_tissue"] = attended(model, z_m, other_tiles)
        tokens = stream(untrained, mammogram, MAMMOGRAPHY).tokens[0]
        z_m = centred_tokens(untrained, tokens, MAMMOGRAPHY)
        shown["random_weights"] = attended(untrained, z_m, tiles)
    return shown


def attended(model, z_m, tiles):
    """Eq. 11 of centred mammogram tokens (N, D) with tiles (T, S, S, 3) -> (g, g)."""
    tokens = stream(model, tiles, HISTOPATHOLOGY).tokens.flatten(0, 1)
    alpha = heatmap(attention(z_m, centred_tokens(model, tokens, HISTOPATHOLOGY)))
    side = int(len(alpha) ** 0.5)
    return alpha.view(side, side).cpu().numpy()


def alike(a, b):
    """Correlation of two maps (g, g); NaN where one is constant."""
    if not (np.ptp(a) and np.ptp(b)):
        return float("nan")
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def pointing(study):
    """How well each map of `maps` finds lesions: one row per map and mammogram of the held-out domain that
    has an outline and tissue beside it.

    Columns sample, patient, domain, lesion_type, map, inside (share of the map in the lesion), area (share of
    the image that the lesion covers), hit (pointing game), chance (share of the patches that the lesion
    touches: how often a random patch would hit), and of the attention its correlation with that by other
    tissue (swap) and with that of random weights (random).
    """
    table = study.table
    outlined = table[(table.domain == study.run.config["held_out"]) & table.has_mask]
    rows = []
    outlined = outlined[outlined.patient.isin(study.tissue_of)]
    masks = study.images.gather(outlined, "masks").astype(bool) if len(outlined) else ()
    for (_, row), mask in zip(outlined.iterrows(), masks):
        shown = maps(study.model, study.untrained, *study.pixels(row.patient, row["sample"]))
        for name, heat in shown.items():
            rows.append({
                "sample": row["sample"], "patient": row.patient, "domain": row.domain,
                "lesion_type": row.lesion_type, "map": name,
                "inside": inside(heat, mask), "area": float(mask.mean()), "hit": pointing_hit(heat, mask),
                "chance": float(touched(mask, len(heat)).mean()),
                "swap": alike(shown["attention"], shown["other_tissue"]),
                "random": alike(shown["attention"], shown["random_weights"]),
            })
    return pd.DataFrame(rows, columns=POINTING)


def fresh(model, seed=0):
    """A copy of a model with random weights: what its maps show without training (Adebayo et al. 2018)."""
    copy = deepcopy(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for part in copy.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        for tokens in (copy.encoder.pos_embed, copy.encoder.cls_token):
            nn.init.trunc_normal_(tokens, std=0.02)
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


def faithful(study, samples, orders=2):
    """Whether the joint prediction rests on the hot patches: one row per mammogram of `samples`.

    The tissue beside it stays as it is; the score is the probability of the class that is predicted for the
    whole image. Columns sample, deletion and insertion by the order of the heatmap, and their means over
    `orders` random orders as deletion_random and insertion_random.
    """
    patients = study.table.set_index("sample")["patient"]
    rows = []
    for k, sample in enumerate(samples):
        patient = patients[sample]
        card, mammogram, tiles = card_of(study.model, study.table, study.images, patient, sample,
                                         study.tissue_of[patient])
        score = score_with(study.model, tiles, int(card.p.argmax()))
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
