"""The table of Fig. 6: the parts of the model, measured on the model object."""
import copy

from ..adapt import configure
from ..config import MODALITIES
from .common import tidy


def fig6_table(model):
    """Fig. 6 from the model object: a row a part, in the order in which data pass. model: `model.CrossModal`, left unchanged.

    Columns name, kind (input, shared, own, head), count (how many alike), parameters, trainable, adapted (of which test-time
    adaptation changes), inputs (the parts that feed it), shape (of its output, B images; measured by a forward pass).
    """
    import torch
    model = copy.deepcopy(model).cpu().eval()
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    adapted = {id(p) for p in configure(model, "causal")}
    e, (m, h) = model.encoder, MODALITIES
    parts = [("patch embedding", "shared", [e.patch_embed], "mammogram, histology tile"),
             ("transformer blocks", "shared", e.blocks, "patch embedding")]
    parts += [(f"{a} adapters", "own", model.adapters[a], "transformer blocks") for a in MODALITIES]
    parts += [("layer norm", "shared", [e.norm], f"{m} adapters, {h} adapters")]
    parts += [(f"{a} neck", "own", [model.necks[a]], "layer norm") for a in MODALITIES]
    parts += [("classification", "head", [model.classify], f"{m} neck, {h} neck"), ("grading", "head", [model.grade], f"{m} neck, {h} neck"),
              ("lesion mask", "head", [model.decoder], "layer norm")]
    tokens = torch.nn.ParameterList(p for name, p in e.named_parameters() if "." not in name)   # class token, positions
    shapes, side = {}, e.patch_embed.img_size[0]
    for name, _, modules, _ in parts:
        modules[-1].register_forward_hook(lambda module, _, out, name=name: shapes.update({name: ("B", *out.shape[1:])}))
    with torch.no_grad():
        model({m: torch.zeros(2, side, side, dtype=torch.uint8), h: torch.zeros(2, side, side, 3, dtype=torch.uint8)})
    size = lambda modules, known=None: sum(p.numel() for x in modules for p in x.parameters() if known is None or id(p) in known)
    rows = [("mammogram", "input", 1, 0, 0, 0, "", f"B x {side} x {side}"),
            ("histology tile", "input", 1, 0, 0, 0, "", f"B x {side} x {side} x 3")]
    for name, kind, modules, inputs in parts:
        whole = [*modules, tokens] if name == "patch embedding" else modules
        sizes = (size(whole), size(whole, trainable), size(whole, adapted))
        rows.append((name, kind, len(modules), *sizes, inputs, " x ".join(map(str, shapes[name]))))
    return tidy(rows, ["name", "kind", "count", "parameters", "trainable", "adapted", "inputs", "shape"])
