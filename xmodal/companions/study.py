"""What the companion studies share: one training loop, and tables that are computed once."""
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..config import Problem
from ..runtime.checkpoints import kept_when_done, load_checkpoint, save_checkpoint
from ..runtime.doctor import environment


class Descent(NamedTuple):
    """How the loss goes down."""
    epochs: int
    batch: int                                    # rows
    lr: float
    weight_decay: float = 0.0
    optimiser: type = torch.optim.Adam            # a torch optimiser's class, or what is called like one
    schedule: Callable | None = None              # epoch -> factor on the learning rate


def fit(modules, objective, n, descent, seed, resume=None, memory=None):
    """Trains over shuffled batches of n rows. objective(rows) -> dict of scalar terms, whose sum goes down.

    modules    one nn.Module or a list; only their parameters are trained
    resume     path of a checkpoint (of `checkpoints.checkpoint_path`), which is written after every epoch
               and from which an interrupted training goes on to the same bits; or None
    memory     what the objective remembers from batch to batch, with state_dict and load_state_dict; or None

    Returns the history, a DataFrame with the mean of every term in each epoch. Raises `Problem` where the
    loss is not finite.
    """
    modules = torch.nn.ModuleList([modules] if isinstance(modules, torch.nn.Module) else modules).train()
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimiser = descent.optimiser(parameters, lr=descent.lr, weight_decay=descent.weight_decay)
    saved = {"model": modules, "memory": memory} if memory else {"model": modules}
    rng = np.random.default_rng([seed, 1])
    history = begun_history(resume, saved, optimiser)
    for epoch in range(descent.epochs):
        order = rng.permutation(n)  # drawn also for epochs that a resumed training skips
        if epoch < len(history):
            continue
        factor = descent.schedule(epoch) if descent.schedule else 1
        for group in optimiser.param_groups:
            group["lr"] = descent.lr * factor
        means = one_epoch(epoch, objective, order, descent.batch, optimiser)
        history.append({"epoch": epoch, **means})
        if resume:
            save_checkpoint(resume, saved, optimiser, {"history": history})
    modules.eval()
    return pd.DataFrame(history)


def one_epoch(epoch, objective, order, batch, optimiser):
    """One step for each batch of the rows in `order`; a last batch of one row is left out. Returns the mean
    of every term."""
    values = []
    for start in range(0, len(order), batch):
        rows = order[start:start + batch]
        if len(rows) < 2:
            continue
        terms = objective(rows)
        loss = sum(terms.values())
        if not torch.isfinite(loss):
            raise Problem(f"The loss is not finite in epoch {epoch} ({', '.join(terms)}); lower the learning "
                          "rate, or look for values without bounds.")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append({name: float(term.detach()) for name, term in terms.items()})
    return pd.DataFrame(values).mean()


def begun_history(path, modules, optimiser):
    """The history (list of dicts) in the checkpoint at `path`; puts modules and optimiser where that training
    stopped.

    [] where `path` is None, or the checkpoint is missing or damaged.
    """
    if not path or not path.exists():
        return []
    loaded = load_checkpoint(path, modules, optimiser)
    if loaded is None:
        return []
    state, _ = loaded
    return state["history"]


def computed_once(folder, config, make):
    """The tables {name: DataFrame} that make() returns, computed once by `checkpoints.kept_when_done`: CSVs
    in `folder`, with config.json and environment.json.

    make() returns (tables, state); state is a dict of tensors, written as model.safetensors. The numbers are
    always those on disk. Raises `Problem` where another process is making them.
    """
    folder = Path(folder)

    def make_files():
        tables, state = make()
        csvs = {f"{name}.csv": table for name, table in tables.items()}
        return {**csvs, "model.safetensors": state, "environment.json": environment()}
    names = kept_when_done(folder, config, make_files)
    return {Path(name).stem: pd.read_csv(folder / name) for name in names if name.endswith(".csv")}


def tensors(folder):
    """The state that `computed_once` wrote. Raises `Problem` where it cannot be read."""
    try:
        return load_file(Path(folder) / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise Problem(f"The weights in {folder} cannot be read ({error}); "
                      "delete that folder and run its notebook again.") from None


def class_numbers(labels, classes):
    """Numbers (N,) of labels among `classes`. Raises `Problem` for a label that is none of them."""
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise Problem(f"There is no class {unknown[0]!r} among {', '.join(classes)}; "
                      "rename it in the table, or leave its rows out.")
    return torch.tensor([list(classes).index(label) for label in labels])
