"""loaders: paired batches, on the cohort of noise of test_learner."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_learner import write_cohort

from xmodal import cohort, config, predict
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY
from xmodal.loaders import Images, PairedBatches


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


def test_batches_pair_patients_and_depend_on_seed_epoch_and_number_alone(table):
    fold = cohort.leave_one_out(table, "inbreast", 42)
    images = Images(config.DATA / "lesson")
    part = fold[fold.split == "train"]
    fresh = PairedBatches(part, images, 8, 42)
    used = PairedBatches(part, images, 8, 42)
    for number in (0, 1, 0, 1):
        used[number]  # looking at others first changes nothing
    fresh.epoch = used.epoch = 3
    x, y = fresh[1]
    x_used, y_used = used[1]
    assert torch.equal(x[MAMMOGRAPHY], x_used[MAMMOGRAPHY]) and torch.equal(y["both"], y_used["both"])
    m, p = x["pairs"].T
    assert torch.equal(y[MAMMOGRAPHY]["id"][m], y[HISTOPATHOLOGY]["id"][p])
    fresh.epoch = 4
    assert not torch.equal(fresh[1][0][MAMMOGRAPHY], x[MAMMOGRAPHY])


def test_without_shared_patients_pairs_share_a_label(table):
    apart = table.assign(patient=table.domain + table.patient)
    batches = PairedBatches(apart, Images(config.DATA / "lesson"), 8, 42)
    assert batches.by_label
    x, y = batches[0]
    m, p = x["pairs"].T
    allowed = y[MAMMOGRAPHY]["bag_allowed"][m] & y[HISTOPATHOLOGY]["bag_allowed"][p]
    assert len(m) and torch.equal(allowed, y["both"]) and allowed.any(1).all()
    bits = torch.tensor([1, 2, 4, 8])
    bad = [cohort.malignant((y[k]["allowed"] * bits).sum(1).numpy()) for k in config.MODALITIES]
    same_id = (y[MAMMOGRAPHY]["id"][:, None] == y[HISTOPATHOLOGY]["id"][None]).numpy()
    assert np.array_equal(same_id, bad[0][:, None] == bad[1][None])


def test_outlines_stay_on_their_lesions_under_augmentation(table):
    x, y = PairedBatches(table, Images(config.DATA / "lesson"), 16, 42)[0]
    inside = x[MAMMOGRAPHY].float()[y[MAMMOGRAPHY]["mask"]].mean()
    outside = x[MAMMOGRAPHY].float()[~y[MAMMOGRAPHY]["mask"]].mean()
    assert inside > outside + 80


def test_a_bag_holds_images_of_one_patient_with_one_label(table):
    table = table.copy()
    odd = table.modality == MAMMOGRAPHY
    second = odd & (table.index % 2 == 1)
    table.loc[second, "allowed"] = 1                      # the second view of each is of another label
    batches = PairedBatches(table, Images(config.DATA / "lesson"), 8, 42)
    x, y = batches[0]
    for modality, size in ((MAMMOGRAPHY, 1), (HISTOPATHOLOGY, 2)):
        bag = x["bag"][modality]
        assert bag.unique().tolist() == list(range(len(y[modality]["bag_id"])))
        assert torch.equal(y[modality]["id"], y[modality]["bag_id"][bag])
        allowed = (y[modality]["allowed"] * torch.tensor([1, 2, 4, 8])).sum(1).numpy()
        domains = [batches.domains[d] for d in y[modality]["domain"]]
        breast = torch.from_numpy(cohort.allowed_matrix(cohort.of_breast(allowed, domains)))
        assert torch.equal(breast, y[modality]["bag_allowed"][bag])
        assert bag.bincount().max() == size


def test_a_node_without_tumour_takes_nothing_from_the_label_of_the_breast(table):
    """A benign breast and a normal node are a pair, and what both allow is benign."""
    table = table.copy()
    for domain, mask in (("cbis_ddsm", 2), ("inbreast", 2), ("camelyon", 1)):
        table.loc[table.domain == domain, ["allowed", "file_allowed"]] = mask
    pairs = table[table.patient.isin(table.patient[table.domain == "camelyon"])]
    _, y = PairedBatches(pairs, Images(config.DATA / "lesson"), 8, 42)[0]
    assert len(y["both"]) and (y["both"] == torch.tensor([False, True, False, False])).all()
    assert not y[HISTOPATHOLOGY]["allowed"][:, 1].any(), "the tiles themselves are taught as normal"
    columns = {name: np.nan for name in set(predict.COPIED) - set(pairs)}
    joint = predict.joint(pairs.assign(**columns), torch.zeros(len(table), 2), lambda m, p: SimpleNamespace(
        logits=torch.zeros(len(m), 4), score=torch.zeros(len(m))), torch.zeros(3))
    assert len(joint) and (joint.allowed == 2).all()
