"""What the companion studies share: one training loop, and results that are computed once and kept with the settings that made them."""
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError

from ..config import Problem
from ..record import environment, forget_checkpoint
from ..runtime.files import atomic, hold, release, sha256, write_json

log = logging.getLogger(__name__)


def fit(modules, objective, n, epochs, batch, lr, seed, weight_decay=0.0, optimiser=torch.optim.Adam, schedule=None, resume=None,
        memory=None):
    """Adam over shuffled batches of n rows. objective(rows) -> dict of scalar terms, whose sum is minimised.

    optimiser: a torch optimiser's class; schedule(epoch) -> factor on the learning rate. resume: path of a checkpoint (of
    `record.checkpoint`), written after every epoch, from which an interrupted training goes on to the same bits. memory: what the
    objective itself remembers between batches, with state_dict and load_state_dict.

    modules: one nn.Module or a list; only their parameters are touched. A last batch of one row is left out. Returns the history, a
    DataFrame with the mean of every term a epoch. Raises `Problem` where the loss is not finite.
    """
    modules = torch.nn.ModuleList([modules] if isinstance(modules, torch.nn.Module) else modules).train()
    optimiser = optimiser([p for p in modules.parameters() if p.requires_grad], lr=lr, weight_decay=weight_decay)
    rng, begun = np.random.default_rng([seed, 1]), Begun(resume, modules, optimiser, memory)
    for epoch in range(epochs):
        order, seen = rng.permutation(n), []
        if epoch < len(begun.history):
            continue
        for group in optimiser.param_groups:
            group["lr"] = lr * (schedule(epoch) if schedule else 1)
        for start in range(0, n, batch):
            rows = order[start:start + batch]
            if len(rows) < 2:
                continue
            terms = objective(rows)
            loss = sum(terms.values())
            if not torch.isfinite(loss):
                raise Problem(f"The loss is not finite in epoch {epoch} ({', '.join(terms)}); lower the learning rate, or look for values "
                              "without bounds.")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seen.append({k: float(v.detach()) for k, v in terms.items()})
        begun.add({"epoch": epoch, **pd.DataFrame(seen).mean()})
    modules.eval()
    return pd.DataFrame(begun.history)


class Begun:
    """A training on its way: its history, and where `path` is given the checkpoint of the main job (`checkpoints.save_checkpoint`)."""

    def __init__(self, path, modules, optimiser, memory):
        self.path = path
        self.parts = SimpleNamespace(model=modules, loss_func=memory or torch.nn.Module(), opt=SimpleNamespace(opt=optimiser), epoch=0,
                                     select=SimpleNamespace(history=[], best=0.0, weights={}), create_opt=lambda: None)
        if path and path.exists():
            from ..runtime.checkpoints import load_checkpoint
            load_checkpoint(path, self.parts)

    @property
    def history(self):
        return self.parts.select.history

    def add(self, row):
        """The end of an epoch."""
        self.parts.select.history.append(row)
        if self.path:
            from ..runtime.checkpoints import save_checkpoint
            self.parts.epoch = row["epoch"]
            save_checkpoint(self.path, self.parts, self.parts.select)


def kept(folder, config, make):
    """The tables {name: DataFrame} that make() returns, computed once: CSVs in `folder` with config.json and environment.json, `done` last.

    make() returns (tables, state); state is a dict of tensors, written as model.safetensors. A folder that is finished, undamaged and
    was made with the same `config` is read back, otherwise made anew; either way the numbers are those on disk. Raises `Problem` where
    another process is making it.
    """
    folder = Path(folder)
    if not finished(folder, config):
        hold(folder)
        try:
            _write(folder, config, *make())
            forget_checkpoint(folder)
        finally:
            release(folder)
    names = json.loads((folder / "done").read_text())
    return {Path(name).stem: pd.read_csv(folder / name) for name in names if name.endswith(".csv")}


def _write(folder, config, tables, state):
    """All of a finished result, `done` last."""
    from safetensors.torch import save_file
    (folder / "done").unlink(missing_ok=True)
    for name, table in tables.items():
        with atomic(folder / f"{name}.csv") as partial:
            table.to_csv(partial, index=False)
    with atomic(folder / "model.safetensors") as partial:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, partial)
    write_json(folder / "config.json", config)
    write_json(folder / "environment.json", environment())
    files = [f"{name}.csv" for name in tables] + ["model.safetensors", "config.json", "environment.json"]
    write_json(folder / "done", {name: sha256(folder / name) for name in files})


def finished(folder, config):
    """True if `folder` holds a finished, undamaged result of `config`; what is there but damaged is logged."""
    if not (folder / "done").exists():
        return False
    try:
        done = json.loads((folder / "done").read_text())
        damaged = [name for name in sorted({"config.json", *done}) if sha256(folder / name) != done.get(name)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        damaged = [str(error)]
    if damaged:
        log.warning("The result in %s is damaged (%s) and is made anew.", folder, damaged[0])
        return False
    return json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(config))


def tensors(folder):
    """The state that `kept` wrote. Raises `Problem` where it cannot be read."""
    from safetensors.torch import load_file
    try:
        return load_file(Path(folder) / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise Problem(f"The weights in {folder} cannot be read ({error}); delete that folder and run its notebook again.") from None


def class_numbers(labels, classes):
    """Numbers (N,) of labels among `classes`. Raises `Problem` for a label that is none of them."""
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise Problem(f"There is no class {unknown[0]!r} among {', '.join(classes)}; rename it in the table, or leave its rows out.")
    return torch.tensor([list(classes).index(label) for label in labels])
