"""predict: joint predictions of patients and of pairs by label, and the model that comes with the package."""
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from xmodal import cohort, model, predict
from xmodal.config import DOMAINS, Problem


def images(patients):
    """Rows as a model's predictions of images, from (patient, domain, split, allowed, truth)."""
    rows = []
    for patient, domain, split, allowed, truth in patients:
        row = cohort.index_row(sample=f"{domain}/{patient}/{len(rows)}", patient=patient, domain=domain,
                               modality=DOMAINS[domain], allowed=allowed, truth=truth, source="", grade=truth)
        rows.append({**row, "split": split, "has_mask": False})
    return pd.DataFrame(rows)


def fuse(z_m, z_p):
    """A joint prediction whose severity is 100 times the mammogram's feature and once the tissue's."""
    return model.Joint(z_m, torch.zeros(len(z_m), 4), 100 * z_m[:, 0] + z_p[:, 0])


def joint(rows):
    z = torch.arange(len(rows), dtype=torch.float32)[:, None]
    return predict.joint(rows, z, fuse, torch.tensor([0.0, 1, 2]))


def test_the_images_of_a_patient_are_averaged_within_each_modality():
    rows = images([("a", "inbreast", "train", 12, 2), ("a", "inbreast", "train", 12, 2),
                   ("a", "bach", "train", 4, 2), ("b", "inbreast", "train", 2, 1)])
    both = joint(rows)
    assert both["sample"].tolist() == ["a/both"] and both.severity.tolist() == [52.0]
    assert both.allowed.tolist() == [4]


def test_pairs_by_label_are_of_one_split_and_label_and_know_what_both_know():
    rows = images([("m0", "inbreast", "train", 3, -1), ("m1", "inbreast", "source test", 12, -1),
                   ("m2", "cbis_ddsm", "source test", 12, 2), ("m3", "inbreast", "target", 12, 3),
                   ("t0", "bach", "train", 2, 1), ("t1", "bach", "source test", 8, 3),
                   ("t2", "bach", "train", 8, 3)])
    both = joint(rows).set_index("patient")
    assert set(both.index) == {"m0", "m1", "m2"}, "no tissue of its split, no pair"
    assert both.severity["m0"] == 4 and both.severity["m1"] == 100 + 5
    assert both.truth.to_dict() == {"m0": 1, "m1": 3, "m2": -1}, "two truths that differ are none"
    assert both.allowed.to_dict() == {"m0": 2, "m1": 8, "m2": 8} and both.split["m1"] == "source test"
    pd.testing.assert_frame_equal(joint(rows), joint(rows))


def test_partners_of_a_target_are_of_tissue_that_training_did_not_see():
    people = []
    for i in range(40):
        people += [(f"m{i}", ("inbreast", "cbis_ddsm")[i % 2], "", (1, 12)[i // 2 % 2], -1),
                   (f"t{i}", "bach", "", (1, 8)[i // 2 % 2], -1)]
    table = images(people).drop(columns="split")
    partner = cohort.unseen_partners(table, "inbreast", 42)
    fold = cohort.leave_one_out(table, "inbreast", 42).set_index("patient").split
    assert {f"m{i}" for i in range(0, 40, 2)} <= set(partner)
    assert {fold[tissue] for tissue in partner.values()} == {"source test"}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder with an untrained model in place of the one that comes with the package."""
    monkeypatch.setattr(predict, "SHIPPED", tmp_path)
    torch.manual_seed(0)
    net = model.build("lesson", mixstyle=True)
    halves = {}
    for name, values in net.state_dict().items():
        halves[name] = values.half() if values.is_floating_point() else values
    save_file(halves, tmp_path / "model.safetensors")
    settings = {"profile": "lesson", "switches": {"mixstyle": True, "concat": False}, "method": "ours"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return net


def test_the_model_that_ships_is_loaded_from_half_precision_and_says_what_it_saw(shipped, tmp_path):
    net, settings = predict.shipped("lesson")
    assert not net.training and predict.trained_on(settings) == "phantom"
    assert predict.trained_on({"profile": {"name": "paper", "phantom": False}}) == "public"
    for name, values in net.state_dict().items():
        assert np.allclose(values, shipped.state_dict()[name], atol=2e-3) and values.dtype != torch.float16
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(Problem, match="comes with the package"):
        predict.shipped("lesson")
