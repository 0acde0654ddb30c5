"""The table of Fig. 6: the parts of the model, measured on the model object."""
import copy
from typing import NamedTuple

import torch

from ..adapt import configure
from ..config import MODALITIES
from .common import tidy


class Part(NamedTuple):
    """A box of the figure."""
    name: str
    kind: str           # shared, own (of one modality), head, loss (in training), reading (after it)
    modules: list       # alike modules that data pass one after another; none of what has no parameters
    inputs: str         # the parts that feed it
    extra: tuple = ()   # parameters that belong to no module of its own
    shape: str = ""     # of what has no module


def _parts(model):
    """The `Part`s of a `model.CrossModal`, in the order in which data pass.

    The adapters are bottlenecks beside the shared blocks, x + up(GELU(down(x))) behind each block that is not
    frozen, one set a modality: they take what a block gives and hand it to the next.
    """
    encoder = model.encoder
    mammography, histopathology = MODALITIES
    tokens = tuple(p for name, p in encoder.named_parameters() if "." not in name)   # class token, positions
    frozen = encoder.blocks[:model.frozen]
    trained = encoder.blocks[model.frozen:]
    parts = [Part("patch embedding", "shared", [encoder.patch_embed], "mammogram, histology tile", tokens)]
    before = "patch embedding"
    if len(frozen):
        parts.append(Part("frozen blocks", "shared", frozen, before))
        before = "frozen blocks"
    parts.append(Part("transformer blocks", "shared", trained, before))
    for modality in MODALITIES:
        parts.append(Part(f"{modality} adapters", "own", model.adapters[modality], "transformer blocks"))
    parts.append(Part("layer norm", "shared", [encoder.norm], "transformer blocks"))
    for modality in MODALITIES:
        parts.append(Part(f"{modality} neck", "own", [model.necks[modality]], "layer norm"))
    necks = f"{mammography} neck, {histopathology} neck"
    parts += [Part("lesion neck", "own", [model.lesion_neck], "layer norm"),
              Part("classification", "head", [model.classify], necks),
              Part("grading", "head", [model.grade], necks),
              Part("lesion mask", "head", [model.decoder], "layer norm")]
    return parts + _without_parameters(before, necks)


def _without_parameters(before, necks):
    """What the figure of the paper shows besides the model: terms of training, and what is read from it."""
    return [
        Part("MixStyle", "loss", [], before, shape="Eq. 3, in training"),
        Part("alignment", "loss", [], f"{necks}, lesion neck", shape="InfoNCE, Eq. 2"),
        Part("IRM", "loss", [], "classification", shape="Eq. 4, in training"),
        Part("heatmap", "reading", [], necks, shape="attention, Eq. 11"),
        Part("conclusion", "reading", [], "heatmap, classification, lesion mask", shape="a card"),
    ]


def _shapes(model, parts, side):
    """{name of a part: shape of its output without the batch}, from a forward pass on blank images."""
    shapes = {}

    def remember(name):
        def hook(module, inputs, output):
            shapes[name] = tuple(output.shape[1:])
        return hook

    for part in parts:
        if part.modules:
            part.modules[-1].register_forward_hook(remember(part.name))
    mammography, histopathology = MODALITIES
    with torch.no_grad():
        model({mammography: torch.zeros(2, side, side, dtype=torch.uint8),
               histopathology: torch.zeros(2, side, side, 3, dtype=torch.uint8),
               "lesion": torch.ones(2, side, side, dtype=torch.bool)})
    return shapes


def _numbers(parameters, chosen):
    """How many numbers those of the parameters hold whose ids are `chosen`."""
    return sum(p.numel() for p in parameters if id(p) in chosen)


def fig6_table(model):
    """Fig. 6 from the model object, a `model.CrossModal`, which is left unchanged.

    One row per part, in the order in which data pass. Columns name, kind (input, or that of `Part`), count
    (how many alike), parameters, trainable, adapted (how many of them test-time adaptation changes), inputs
    (the parts that feed it), shape (of its output, B images; measured by a forward pass).
    """
    model = copy.deepcopy(model).cpu().eval()
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    adapted = {id(p) for p in configure(model, "causal")}
    parts = _parts(model)
    side = model.encoder.patch_embed.img_size[0]
    shapes = _shapes(model, parts, side)
    rows = [("mammogram", "input", 1, 0, 0, 0, "", f"B x {side} x {side}"),
            ("histology tile", "input", 1, 0, 0, 0, "", f"B x {side} x {side} x 3")]
    for part in parts:
        parameters = [*part.extra]
        for module in part.modules:
            parameters += module.parameters()
        every = {id(p) for p in parameters}
        sizes = [_numbers(parameters, of) for of in (every, trainable, adapted)]
        shape = part.shape or " x ".join(map(str, ("B", *shapes[part.name])))
        rows.append((part.name, part.kind, len(part.modules), *sizes, part.inputs, shape))
    return tidy(rows, ["name", "kind", "count", "parameters", "trainable", "adapted", "inputs", "shape"])
