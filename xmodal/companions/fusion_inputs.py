"""What loosely coupled fusion reads of a cohort: columns, bags and graphs, scaled by the training patients.

N patients, P patches, D features.
"""
import dataclasses
import hashlib

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree
from torch_geometric.data import Batch, Data

from ..config import Problem
from .tasks import draw_patches, spread


def neighbours(xy, side):
    """(2, E) edges in both directions between patches that touch, also by a corner.

    xy: (P, 2) corners; side: of a patch, in the same unit.
    """
    pairs = cKDTree(xy).query_pairs(1.5 * side, output_type="ndarray")
    return torch.as_tensor(np.concatenate([pairs, pairs[:, ::-1]]).T.copy(), dtype=torch.long)


def _scaled(table, train):
    """(N, D) of a table of numbers, scaled by the rows `train` like `tasks.scaled`; 0 where missing."""
    known = table.iloc[train].astype(float)
    deviation = known.std(ddof=0)
    deviation = deviation.where(deviation > 1e-6, 1)
    return ((table - known.mean()) / deviation).fillna(0).to_numpy(float)


def clinical_columns(table, train):
    """(N, D) float32 of a raw clinical table.

    Numbers are scaled by the rows `train`, with 0 for what is not recorded. Every value of a text column
    becomes a column of 0 and 1. A column with gaps is followed by a column that says where they are.
    """
    parts = []
    for name, column in table.items():
        missing = column.isna()
        if pd.api.types.is_numeric_dtype(column):
            parts.append(_scaled(column.to_frame(), train))
        else:
            values = sorted(column.iloc[train].dropna().unique())
            parts += [(column == value).to_numpy(float) for value in values]
        if missing.any():
            parts.append(missing.to_numpy(float))
    return np.column_stack(parts).astype(np.float32)


def having(cohort):
    """{modality: (N,) bool} of the patients who have it; a modality that nobody has is left out."""
    slide = np.array([len(bag) > 0 for bag in cohort.bags])
    copies = np.array(cohort.copies.notna().any(axis=1))
    clinical = np.array(cohort.clinical.notna().any(axis=1))
    present = {"copy number": copies, "clinical": clinical, "bag": slide, "graph": slide}
    for name, table in cohort.more.items():
        present[name] = np.array(table.notna().any(axis=1))
    return {name: mask for name, mask in present.items() if mask.any()}


def in_parts(cohort, name, parts, seed=42):
    """A `Cohort` whose further table `name` is parted at random into `parts` tables of its columns.

    They stand for modalities of their own, "<name> 1" and so on, where real patients have only this table.
    """
    table = cohort.more[name]
    order = np.random.default_rng([seed, 10]).permutation(table.shape[1])
    more = {other: whole for other, whole in cohort.more.items() if other != name}
    for k, columns in enumerate(np.array_split(order, parts), 1):
        more[f"{name} {k}"] = table.iloc[:, np.sort(columns)]
    return dataclasses.replace(cohort, more=more)


class Slides:
    """The slides of a cohort, scaled by the patches of its training patients.

    bags: (N, P, D) of at most `most` patches; `graph` has all of them. A patient without a slide has zeros.
    present: (N,) bool, who has a slide. Raises `Problem` if no training patient has one.
    """

    def __init__(self, cohort, present, train, most, seed):
        known = train[present[train]]
        most = min(most, max(map(len, cohort.bags)))
        if not len(known):
            raise Problem("No training patient has a slide; add some, or leave slides out.")
        self.bags = np.zeros((len(present), most, cohort.bags[known[0]].shape[1]), np.float32)
        for i in np.flatnonzero(present):
            self.bags[i] = draw_patches(cohort.bags[i], most, seed)
        self.mean = self.bags[known].mean((0, 1))
        self.spread = spread(self.bags[known], (0, 1))
        self.bags[present] = self.scaled(self.bags[present])
        self.graphs = []
        for bag, xy in zip(cohort.bags, cohort.xy):
            if len(bag):
                features, edges = self.scaled(bag), neighbours(xy, 1)
            else:
                features, edges = np.zeros_like(self.mean[None]), torch.empty(2, 0, dtype=torch.long)
            self.graphs.append(Data(x=torch.as_tensor(features), edge_index=edges))

    def scaled(self, bag):
        return (bag - self.mean) / self.spread

    def graph(self, i):
        """The graph of patient i."""
        return self.graphs[i]


class Inputs:
    """A cohort as the arms read it, scaled by its training patients.

    features: {modality: D}. Patients who lack a modality have a row all the same, which tells nothing: ask
    `having` first.
    """

    def __init__(self, cohort, train, settings, seed=42, device="cpu"):
        present = having(cohort)
        columns = {}
        if "copy number" in present:
            columns["copy number"] = _scaled(cohort.copies, train)
        if "clinical" in present:
            columns["clinical"] = clinical_columns(cohort.clinical, train)
        if "bag" in present:
            self.slides = Slides(cohort, present["bag"], train, settings.patches, seed)
            columns["bag"] = self.slides.bags
        for name, table in cohort.more.items():
            columns[name] = _scaled(table, train)
        self.device = device
        self.columns = {}
        for name, values in columns.items():
            self.columns[name] = torch.as_tensor(np.asarray(values, np.float32), device=device)
        self.features = {}
        for name in present:
            source = "bag" if name == "graph" else name
            self.features[name] = self.columns[source].shape[-1]

    def digest(self, name):
        """Hexadecimal sha256 of all that the arm `name` reads."""
        sha256 = hashlib.sha256()
        if name == "graph":
            for graph in self.slides.graphs:
                sha256.update(graph.x.numpy().tobytes() + graph.edge_index.numpy().tobytes())
        else:
            sha256.update(self.columns[name].cpu().numpy().tobytes())
        return sha256.hexdigest()

    def batch(self, name, rows):
        """What the arm `name` takes of the patients `rows`."""
        rows = np.atleast_1d(rows)
        if name == "graph":
            return Batch.from_data_list([self.slides.graph(i) for i in rows]).to(self.device)
        return self.columns[name][rows]
