"""What all baselines share: where a run begins, and late fusion."""
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch

from ..cohort import fingerprint, leave_one_out
from ..model import Joint
from ..predict import joint
from ..record import run_dir

CUTPOINTS = torch.tensor([0.5, 1.5, 2.5])      # the grade is the expected class, rounded


def prepare(profile, method, held_out, seed, table, **made):
    """What every run begins with: (folder, fold, config of the run). `made` is added to the config.

    Target labels pass through and are never read.
    """
    fold = leave_one_out(table, held_out, seed)
    run_config = {
        "profile": asdict(profile), "method": method, "held_out": held_out, "seed": seed,
        "cohort": fingerprint(table), "left_out_rows": fold.attrs["left_out"], **made,
    }
    return run_dir(profile, method, held_out, seed), fold, run_config


def embeddings_of_unseen(predictions, z):
    """Embeddings of a run: z (N, D) and whose they are, without the rows of the training patients."""
    unseen = (predictions.split != "train").to_numpy()
    names = ("sample", "patient", "modality", "domain", "truth", "allowed", "split")
    embeddings = {name: predictions[name].to_numpy()[unseen] for name in names}
    embeddings["z"] = np.asarray(z)[unseen]
    return embeddings


def outcome(p):
    """Class probabilities (N, 4) as a `Joint`: their logs as logits, the expected class as severity."""
    return Joint(p, p.clamp_min(1e-9).log(), p @ torch.arange(4.0, dtype=p.dtype))


def mean_probability(p_m, p_p):
    """Late fusion: class probabilities (K, 4) from both modalities of K patients -> `Joint` of their mean."""
    return outcome((p_m + p_p) / 2)


def late(predictions):
    """(predictions of both modalities with the joint ones by late fusion, embeddings of the run).

    A patient's probabilities are averaged over the images of each modality, and then over the modalities.
    """
    p = torch.tensor(predictions[["p0", "p1", "p2", "p3"]].to_numpy())
    fused = joint(predictions, p, mean_probability, CUTPOINTS).assign(condition="source")
    return pd.concat([predictions, fused], ignore_index=True), embeddings_of_unseen(predictions, p)
