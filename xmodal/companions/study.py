"""What the companion studies share: one training loop, and results that are computed once and kept with the settings that made them."""
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..config import Problem
from ..files import atomic, sha256, write_json
from ..record import environment

log = logging.getLogger(__name__)


def fit(modules, objective, n, epochs, batch, lr, seed, weight_decay=0.0, optimiser=torch.optim.Adam, schedule=None):
    """Adam over shuffled batches of n rows. objective(rows) -> dict of scalar terms, whose sum is minimised.

    optimiser: a torch optimiser's class; schedule(epoch) -> factor on the learning rate.

    modules: one nn.Module or a list; only their parameters are touched. A last batch of one row is left out. Returns the history, a
    DataFrame with the mean of every term a epoch. Raises `Problem` where the loss is not finite.
    """
    modules = torch.nn.ModuleList([modules] if isinstance(modules, torch.nn.Module) else modules).train()
    optimiser = optimiser([p for p in modules.parameters() if p.requires_grad], lr=lr, weight_decay=weight_decay)
    rng, history = np.random.default_rng([seed, 1]), []
    for epoch in range(epochs):
        order, seen = rng.permutation(n), []
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
        history.append({"epoch": epoch, **pd.DataFrame(seen).mean()})
    modules.eval()
    return pd.DataFrame(history)


def kept(folder, config, make):
    """The tables {name: DataFrame} that make() returns, computed once: CSVs in `folder` with config.json and environment.json, `done` last.

    make() returns (tables, state); state is a dict of tensors, written as model.safetensors. A folder that is finished, undamaged and
    was made with the same `config` is read back, otherwise made anew; either way the numbers are those on disk.
    """
    from safetensors.torch import save_file
    folder = Path(folder)
    if not finished(folder, config):
        tables, state = make()
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
    names = json.loads((folder / "done").read_text())
    return {Path(name).stem: pd.read_csv(folder / name) for name in names if name.endswith(".csv")}


def finished(folder, config):
    """True if `folder` holds a finished, undamaged result of `config`; what is there but damaged is logged."""
    try:
        done = json.loads((folder / "done").read_text())
        damaged = [name for name, digest in done.items() if sha256(folder / name) != digest]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError) as error:
        damaged = [str(error)]
    if damaged:
        log.warning("The result in %s is damaged (%s) and is made anew.", folder, damaged[0])
        return False
    return json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(config))
