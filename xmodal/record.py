"""Seeding, provenance, and the run folder: what a training wrote, each file whole and `done` last
(`checkpoints.finish`).

A run lies in runs/<profile>/<method>/<held_out>/seed_<n>/:
    config.json  environment.json  model.safetensors  history.csv  predictions.parquet  embeddings.npz
    trajectory.csv  label_shift.csv  adapted.json (after test-time adaptation)
    done (a sha256 of each other file, so that damage is seen)
Nothing is pickled.
"""
import json
import logging
import os
import random
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pyarrow import ArrowException
from safetensors import SafetensorError

from . import config
from .config import CONDITIONS, DOMAINS, MODALITIES, SEEDS, SPLITS, STREAMS, Problem
from .runtime.bounds import read_arrays, read_parquet
from .runtime.checkpoints import damage, finish, finished, vouched_for
from .runtime.doctor import environment
from .runtime.files import held
from .runtime.identity import differing

log = logging.getLogger(__name__)

# The door to evaluation: one row per sample and condition. A row with modality "both" is the joint prediction
# of a patient.
PROBABILITY = pa.Check.in_range(-1e-6, 1 + 1e-6)
PREDICTIONS = pa.DataFrameSchema({
    "sample": pa.Column(str),
    "patient": pa.Column(str),
    "domain": pa.Column(str, pa.Check.isin(DOMAINS)),
    "modality": pa.Column(str, pa.Check.isin((*MODALITIES, "both"))),
    "split": pa.Column(str, pa.Check.isin(SPLITS)),
    "condition": pa.Column(str, pa.Check.isin((*CONDITIONS, *STREAMS))),
    "allowed": pa.Column(int, pa.Check.in_range(1, 15)),      # bit mask of the classes that the label allows
    "truth": pa.Column(int, pa.Check.in_range(-1, 3)),        # evaluation only, -1 unknown
    "grade": pa.Column(int, pa.Check.in_range(-1, 3)),        # true grade, -1 unknown
    "p0": pa.Column(float, PROBABILITY),                      # class probabilities
    "p1": pa.Column(float, PROBABILITY),
    "p2": pa.Column(float, PROBABILITY),
    "p3": pa.Column(float, PROBABILITY),
    "severity": pa.Column(float),                             # ordinal score, w . Phi
    "grade_pred": pa.Column(int, pa.Check.in_range(0, 3)),
    "has_mask": pa.Column(bool),
    "dice": pa.Column(float, nullable=True),
    "iou": pa.Column(float, nullable=True),
    "x0": pa.Column(float, nullable=True),                    # corners of the predicted box
    "y0": pa.Column(float, nullable=True),
    "x1": pa.Column(float, nullable=True),
    "y1": pa.Column(float, nullable=True),
    "box_score": pa.Column(float, nullable=True),
    "density": pa.Column(str),
    "lesion_type": pa.Column(str),
    "lesion_shape": pa.Column(str),
    "diameter_mm": pa.Column(float, nullable=True),
}, unique=["sample", "modality", "condition"], coerce=True)


# ---- seeds ------------------------------------------------------------------------------------------------

def seed_everything(seed, threads=1):
    """Seeds python, numpy and torch, and asks torch for deterministic algorithms on `threads` threads."""
    import torch
    # without it CUDA matrix products refuse to be deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)  # sums depend on the number of threads, so it is part of what is fixed


def run_dir(profile, method, held_out, seed):
    """runs/<profile>/<method>/<held_out>/seed_<n>; `profile` is a Profile or its name."""
    name = getattr(profile, "name", profile)
    return config.RUNS / name / method / config.domain(held_out) / f"seed_{int(seed)}"


# ---- a run -------------------------------------------------------------------------------------------------

USUAL = {f"seed_{seed}" for seed in SEEDS}
FILES = ("config.json", "environment.json", "model.safetensors", "history.csv", "predictions.parquet",
         "embeddings.npz")
LATER = ("trajectory.csv", "label_shift.csv", "adapted.json")  # after test-time adaptation


@dataclass(frozen=True)
class Run:
    """What a run folder holds. `state`, the model's tensors by name, is read from disk when asked for."""
    folder: Path
    config: dict
    history: pd.DataFrame
    predictions: pd.DataFrame
    embeddings: dict
    trajectory: pd.DataFrame | None          # None before test-time adaptation
    label_shift: pd.DataFrame | None = None  # where it was adapted under label shift too
    adapted: dict | None = None              # the code that adapted it, {"code": {module: hash}}

    @property
    def state(self):
        from safetensors.torch import load_file
        try:
            return load_file(self.folder / "model.safetensors")
        except (SafetensorError, OSError) as error:
            raise Problem(f"The weights in {self.folder} cannot be read ({error}); "
                          "delete that folder and train it again.") from None


def check_predictions(table, where):
    """`table` with the types of PREDICTIONS. Raises `Problem` if it does not fit, or splits a patient."""
    try:
        table = PREDICTIONS.validate(table)
    except (pa.errors.SchemaError, pa.errors.SchemaErrors) as error:
        raise Problem(f"The predictions of {where} do not fit their schema ({str(error).splitlines()[0]}); "
                      "delete that folder and train it again with 03_train.") from None
    splits = table.groupby("patient")["split"].nunique()
    in_two = splits.index[splits > 1]
    if len(in_two):
        raise Problem(f"In the predictions of {where} patient {in_two[0]!r} is in two splits; "
                      "split by patient (cohort.leave_one_out does) and train again.")
    return table


def save_run(folder, config, model_state, history, predictions, embeddings):
    """Writes a finished training to `folder`, each file atomically and `done` last; returns `folder`.

    config       dict: profile (a name, or the Profile as a dict), method, held_out, seed, other settings
    model_state  dict of tensors
    history      DataFrame, one row per epoch
    predictions  DataFrame fitting PREDICTIONS; otherwise `Problem`, and nothing is written
    embeddings   dict of arrays with the same first dimension
    """
    folder = Path(folder)
    contents = {
        "config.json": config,
        "environment.json": environment(),
        "model.safetensors": model_state,
        "history.csv": history,
        "predictions.parquet": check_predictions(predictions, folder),
        "embeddings.npz": embeddings,
    }
    finish(folder, contents, dropped=LATER)  # a trajectory belongs to the weights that are now replaced
    return folder


def _check_intact(folder):
    """Raises `Problem` if the run in `folder` is not there, is unfinished, or differs from what `done` says.
    """
    if not folder.exists():
        raise Problem(f"There is no run {folder}; train it with 03_train, or choose one that is there.")
    if not (folder / "done").exists():
        raise Problem(f"The run {folder} is not finished; run 03_train for it again, or delete the folder.")
    if harm := damage(folder, FILES):
        raise Problem(f"The run {folder} is damaged ({harm}); "
                      "delete the folder and run 03_train for it again.")


# What readers raise for a file that is not what its name says.
UNREADABLE = (OSError, ValueError, EOFError, LookupError, TypeError, RecursionError, MemoryError,
              zipfile.BadZipFile, zlib.error, ArrowException)


def _own_folder(settings):
    """The folder of the run with these settings, whose profile is a name, or a Profile as a dict."""
    name = settings["profile"]["name"] if isinstance(settings["profile"], dict) else settings["profile"]
    return run_dir(name, settings["method"], settings["held_out"], settings["seed"])


def load_run(folder):
    """The `Run` in `folder`. Raises `Problem` if it is missing, unfinished, damaged, or not of the schema.

    Nothing in it is ever executed: arrays that would have to be unpickled are refused.
    """
    folder = Path(folder)
    _check_intact(folder)
    try:
        settings = json.loads((folder / "config.json").read_text())
        _own_folder(settings)
        embeddings = read_arrays(folder / "embeddings.npz")
        predictions = read_parquet(folder / "predictions.parquet")
        history = pd.read_csv(folder / "history.csv")  # pandas reads back every digit that it wrote
        later = {name: _read_later(folder / name) for name in set(LATER) & set(vouched_for(folder))}
    except UNREADABLE as error:
        raise Problem(f"The run {folder} cannot be read ({error}); "
                      "delete the folder and run 03_train for it again.") from None
    return Run(folder, settings, history, check_predictions(predictions, folder), embeddings,
               *map(later.get, LATER))


def _read_later(path):
    return json.loads(path.read_text()) if path.suffix == ".json" else pd.read_csv(path)


def is_done(folder, config):
    """True if the run in `folder` is finished, undamaged, and was made with `config`, its code included.
    Where not, a warning names what differs, and the run is to be made again."""
    return finished(folder, config, needed=FILES)


def update_run(folder, predictions=None, trajectory=None, label_shift=None, adapted=None):
    """Adds the results of test-time adaptation to a run; returns its folder.

    `predictions` replace the run's predictions of the same conditions, the others earlier ones (see `Run`).
    """
    folder = Path(folder)
    _check_intact(folder)
    with held(folder):  # before it is read, so that nobody writes in between
        run = load_run(folder)
        contents = {}
        if predictions is not None:
            others = run.predictions[~run.predictions.condition.isin(set(predictions.condition))]
            table = pd.concat([others, predictions], ignore_index=True)
            contents["predictions.parquet"] = check_predictions(table, folder)
        later = dict(zip(LATER, (trajectory, label_shift, adapted)))
        contents |= {name: table for name, table in later.items() if table is not None}
        finish(folder, contents, unchanged=vouched_for(folder))
    return folder


def finished_runs(name):
    """Folders of the finished runs of the profile `name`, in order: those of config.SEEDS, or of whatever
    seeds there are where none of these has a run."""
    folders = sorted(done.parent for done in (config.RUNS / name).glob("*/*/seed_*/done"))
    usual = [folder for folder in folders if folder.name in USUAL]
    return usual or folders


def _name_left_out(runs, used):
    """Warns of the run folders below `runs` that are not `used`."""
    folders = sorted(folder for folder in runs.glob("*/*/seed_*") if folder.is_dir() and folder not in used)
    names = [str(folder.relative_to(runs)) for folder in folders if not (folder / "done").exists()]
    if names:
        log.warning("Runs that are not finished are left out (run 03_train or 03b_baselines for them): %s.",
                    ", ".join(names))
    seeds = sorted({folder.name for folder in folders if (folder / "done").exists()})
    if seeds:
        log.warning("Runs of %s are left out: results are over the seeds %s; to count others, name them in "
                    "config.SEEDS.", ", ".join(seeds), ", ".join(map(str, SEEDS)))


def collect(profile):
    """The predictions of all `finished_runs` of a profile (or its name), with columns method, held_out, seed.

    Runs that are not finished, and seeds beyond config.SEEDS, are named in a warning. Raises `Problem` where
    there are no runs, where a run is damaged or lies in a folder that is not its own, and where two runs were
    made with different settings of the profile or on different cohorts: such numbers are not compared.
    """
    name = getattr(profile, "name", profile)
    folders = finished_runs(name)
    _name_left_out(config.RUNS / name, folders)
    if not folders:
        raise Problem(f"There are no finished runs in {config.RUNS / name}; "
                      "run 03_train first (or `make reproduce`).")
    tables, first = [], None
    for folder in folders:
        run = load_run(folder)
        first = first or run
        _check_comparable(run, first, name)
        made = run.config
        table = run.predictions.assign(method=made["method"], held_out=made["held_out"], seed=made["seed"])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _check_comparable(run, first, name):
    """Raises `Problem` where a run is not of the profile `name`, differs from the `first` run in what all
    runs must share, or lies in a folder that is not its own."""
    made = run.config
    used = made["profile"]["name"] if isinstance(made["profile"], dict) else made["profile"]
    profiles = [{"profile": settings["profile"]} for settings in (made, first.config)]
    if used != name or differing(*profiles):
        raise Problem(f"The run {run.folder} was made with other settings ({used}) than {first.folder}; "
                      "delete one of them: results of two profiles are not mixed.")
    if made.get("cohort") != first.config.get("cohort"):
        raise Problem(f"The runs {run.folder} and {first.folder} were trained on different cohorts; "
                      "run 03_train and 03b_baselines again for those that are older than data/, "
                      "or delete them.")
    own = _own_folder(made)
    if own != run.folder:
        raise Problem(f"The run {run.folder} says that it is {own}; move it there, or delete it.")
