"""Seeding, provenance, and the run folder: what a training wrote, each file atomically, `done` last.

A run lies in runs/<profile>/<method>/<held_out>/seed_<n>/:
    config.json  environment.json  model.safetensors  history.csv  predictions.parquet  embeddings.npz
    trajectory.csv (after test-time adaptation)  done (a sha256 for each of the others, so that damage is seen)
Nothing is pickled. `python -m xmodal.record NOTEBOOK OUT NAME=VALUE ...` runs a notebook with checked parameters.
"""
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from . import config
from .config import CONDITIONS, DOMAINS, MODALITIES, SPLITS, Problem

log = logging.getLogger(__name__)

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


# ---- seeds, atomic files, provenance -----------------------------------------------------------------------------

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


@contextlib.contextmanager
def atomic(path):
    """Yields a temporary path in the same folder; it takes the name `path` only if the block ends well, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")  # the suffix stays: writers look at it
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path):
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path, value):
    """`value` as sorted, indented JSON, atomically."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def run_dir(profile, method, held_out, seed):
    """runs/<profile>/<method>/<held_out>/seed_<n>; `profile` is a Profile or its name."""
    return config.RUNS / getattr(profile, "name", profile) / method / config.domain(held_out) / f"seed_{int(seed)}"
