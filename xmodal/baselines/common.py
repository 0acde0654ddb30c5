"""What all baselines share: where a run begins, and late fusion."""
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from ..cohort import fingerprint, leave_one_out
from ..model import Joint
from ..predict import joint
from ..record import run_dir


def prepare(profile, method, held_out, seed, table, **made):
    """What every run begins with: (folder, fold, what the run is made of). Target labels pass through and are never read."""
    fold = leave_one_out(table, held_out, seed)
    about = {"profile": asdict(profile), "method": method, "held_out": held_out, "seed": seed,
             "cohort": fingerprint(table), "left_out_rows": fold.attrs["left_out"]}
    return run_dir(profile, method, held_out, seed), fold, {**about, **made}


def kept(predictions, z):
    """Embeddings of a run: z (N, D) with who it is of, for the rows of one modality that were not trained on."""
    keep = (predictions.split != "train").to_numpy()
    names = ("sample", "patient", "modality", "domain", "truth", "split")
    return {k: predictions[k].to_numpy()[keep] for k in names} | {"z": np.asarray(z)[keep]}


def outcome(p):
    """Class probabilities (N, 4), a tensor, as a model's output: their logs as logits, the expected class as severity."""
    return Joint(p, p.clamp_min(1e-9).log(), p @ torch.arange(4.0, dtype=p.dtype))


class MeanProbability:
    """Late fusion, with the names that `predict.joint` asks of a model: what it gets as features are class probabilities."""
    grade = SimpleNamespace(cutpoints=torch.tensor([0.5, 1.5, 2.5]))      # the grade is the expected class, rounded

    @staticmethod
    def joint(p_m, p_p):
        return outcome((p_m + p_p) / 2)


def late(predictions):
    """`predictions` of both modalities with the joint ones by late fusion: the mean, over the modalities, of the mean probability
    over a patient's images."""
    p = torch.tensor(predictions[["p0", "p1", "p2", "p3"]].to_numpy())
    fused = joint(MeanProbability, predictions, p).assign(condition="source")
    return pd.concat([predictions, fused], ignore_index=True), kept(predictions, p)
