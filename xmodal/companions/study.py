"""What the companion studies share: one training loop, and tables that are computed once for their settings."""
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError

from ..config import Problem
from ..record import environment
from ..runtime.checkpoints import kept_when_done, load_checkpoint, save_checkpoint


def fit(modules, objective, n, epochs, batch, lr, seed, weight_decay=0.0, optimiser=torch.optim.Adam, schedule=None, resume=None,
        memory=None):
    """Adam over shuffled batches of n rows. objective(rows) -> dict of scalar terms, whose sum is minimised.

    optimiser: a torch optimiser's class; schedule(epoch) -> factor on the learning rate. resume: path of a checkpoint (of
    `checkpoints.checkpoint_path`), written after every epoch, from which an interrupted training goes on to the same bits. memory:
    what the objective itself remembers between batches, with state_dict and load_state_dict.

    modules: one nn.Module or a list; only their parameters are touched. A last batch of one row is left out. Returns the history, a
    DataFrame with the mean of every term in each epoch. Raises `Problem` where the loss is not finite.
    """
    modules = torch.nn.ModuleList([modules] if isinstance(modules, torch.nn.Module) else modules).train()
    optimiser = optimiser([p for p in modules.parameters() if p.requires_grad], lr=lr, weight_decay=weight_decay)
    saved = {"model": modules, "memory": memory} if memory else {"model": modules}
    rng = np.random.default_rng([seed, 1])
    history = begun_history(resume, saved, optimiser)
    for epoch in range(epochs):
        order, seen = rng.permutation(n), []
        if epoch < len(history):                             # it was drawn, so that later epochs see the same batches
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
        history.append({"epoch": epoch, **pd.DataFrame(seen).mean()})
        if resume:
            save_checkpoint(resume, saved, optimiser, {"history": history})
    modules.eval()
    return pd.DataFrame(history)


def begun_history(path, modules, optimiser):
    """The epochs (list of dicts) that the checkpoint at `path` holds, with modules and optimiser as they were after the last of them;
    [] where there is no path, no checkpoint, or a damaged one."""
    if not path or not path.exists():
        return []
    loaded = load_checkpoint(path, modules, optimiser)
    if loaded is None:
        return []
    state, _ = loaded
    return state["history"]


def computed_once(folder, config, make):
    """The tables {name: DataFrame} that make() returns, computed once by `checkpoints.kept_when_done`: CSVs in `folder`, with
    config.json and environment.json.

    make() returns (tables, state); state is a dict of tensors, written as model.safetensors. The numbers are always those on
    disk. Raises `Problem` where another process is making them.
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
