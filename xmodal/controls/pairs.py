"""Controls of what links two modalities: alignment, its lesion term, the decoder's outlines, attention."""
import numpy as np
import torch

from ..config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES
from ..explain import attention, centred_tokens, heatmap
from ..faithfulness import pointing_hit
from ..methods import Method
from ..metrics.embeddings import retrieval
from .training import begin, fit, in_pairs, of_patients, stream
from .world import SIDE, Dials, World

ALIGN = 0.1             # as in `methods.FULL`
TRAINED = 300           # patients with both modalities
UNSEEN = 70
K = 10


def trained(seed, dials, switches, pairs=TRAINED, shuffled=False):
    """A world and a model that was trained on `pairs` of its patients."""
    world = World(seed)
    model, objective = begin(seed, switches)
    fit(model, objective, in_pairs(world, world.people(pairs, dials), dials, shuffled=shuffled))
    return world, model


def unseen(world, model, dials):
    """What a model says of both modalities of new patients, and their images: two dicts by modality."""
    people = world.people(UNSEEN, dials)
    images = {m: world.images(people, m, dials) for m in MODALITIES}
    return {m: stream(model, images[m], m) for m in MODALITIES}, images


def recall(seed, dials, switches, pairs=TRAINED, shuffled=False):
    """(share of new patients whose tissue is among the first K of UNSEEN, chance)."""
    world, model = trained(seed, dials, switches, pairs, shuffled)
    out, _ = unseen(world, model, dials)
    measured = retrieval(out[MAMMOGRAPHY].z.numpy(), out[HISTOPATHOLOGY].z.numpy(), ks=(K,))
    return measured[f"r_at_{K}"], measured[f"chance_at_{K}"]


def alignment(seed, dials, pairs=TRAINED):
    """R@10 among 70 unseen patients: with alignment, without, with the pairs of training shuffled."""
    switches = Method(align=ALIGN, lesion=False)
    aligned, chance = recall(seed, dials, switches, pairs)
    return {"aligned": aligned, "not aligned": recall(seed, dials, Method(), pairs)[0],
            "pairs shuffled": recall(seed, dials, switches, pairs, shuffled=True)[0], "chance": chance}


def alignment_by_link(dose, seed):
    return alignment(seed, Dials(link=dose, style=0.0))


def alignment_by_pairs(dose, seed):
    return alignment(seed, Dials(style=0.0), pairs=int(dose))


def lesion_term(dose, seed):
    """R@10 of tissue by the features under the outline, trained with the term on lesions and without."""
    dials = Dials(style=0.0, outline_error=dose)
    values = {}
    for arm, on in (("with", True), ("without", False)):
        world, model = trained(seed, dials, Method(align=ALIGN, lesion=on))
        out, images = unseen(world, model, dials)
        with torch.no_grad():
            z = model.lesion(out[MAMMOGRAPHY].tokens, images[MAMMOGRAPHY].lesion)
        values[arm] = retrieval(z.numpy(), out[HISTOPATHOLOGY].z.numpy(), ks=(K,))[f"r_at_{K}"]
    return values


# ---- where it looks ----------------------------------------------------------------------------------------

def hits(heats, images):
    """Share of the maps (n, g, g) `heats` whose hottest place lies in the lesion."""
    lesions = images.lesion.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    return np.mean([pointing_hit(heat, lesion) for heat, lesion in zip(heats, lesions)])


def decoder(dose, seed):
    """Pointing game of the decoder, taught by displaced outlines and by those of other patients."""
    dials = Dials(style=0.0, outline_error=dose)
    values = {}
    for arm in ("own outlines", "of others"):
        world = World(seed)
        people = world.people(TRAINED, dials)
        images = world.images(people, MAMMOGRAPHY, dials)
        if arm == "of others":
            order = torch.randperm(TRAINED, generator=world.random)
            images = images._replace(outline=images.outline[order])
        model, objective = begin(seed)
        fit(model, objective, of_patients(people, images, MAMMOGRAPHY, world.random))
        tested = world.images(world.people(3 * UNSEEN, dials), MAMMOGRAPHY, dials)
        mask = stream(model, tested, MAMMOGRAPHY).mask
        coarse = torch.nn.functional.adaptive_avg_pool2d(mask[:, None], SIDE)[:, 0]
        values[arm] = hits(coarse.numpy(), tested)
    return values | {"best fixed place": tested.lesion.float().mean(0).max()}


def maps(z_m, z_p):
    """[(SIDE, SIDE)] of Eq. 11: centred tokens (n, N, D) of mammograms, each with the tissue of its row."""
    return [heatmap(attention(a, b)).view(SIDE, SIDE).numpy() for a, b in zip(z_m, z_p)]


def attention_by_link(dose, seed):
    """Pointing game of Eq. 11, and by how much its map changes with another patient's tissue (1 - r)."""
    dials = Dials(link=dose, style=0.0)
    world, model = trained(seed, dials, Method(align=ALIGN))
    out, images = unseen(world, model, dials)
    for number, modality in enumerate(MODALITIES):
        model.token_means[number] = out[modality].tokens.mean((0, 1))
    z = {m: centred_tokens(model, out[m].tokens, m).detach() for m in MODALITIES}
    own = maps(z[MAMMOGRAPHY], z[HISTOPATHOLOGY])
    other = maps(z[MAMMOGRAPHY], z[HISTOPATHOLOGY].roll(1, 0))
    swap = [1 - np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(own, other)]
    norm = z[MAMMOGRAPHY].norm(dim=2).view(-1, SIDE, SIDE).numpy()
    lesions = images[MAMMOGRAPHY]
    return {"attention": hits(own, lesions), "other tissue": hits(other, lesions),
            "token norm": hits(norm, lesions), "chance": 4 / SIDE ** 2, "change by swap": np.nanmean(swap),
            "no change": 0.0}
