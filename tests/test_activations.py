"""Kept activations stand in for images: the same numbers, and outlines that moved with their copies."""
import dataclasses

import numpy as np
import pytest
import torch
from test_learner import TINY, write_cohort

from xmodal import activations, config, learner
from xmodal.config import MAMMOGRAPHY
from xmodal.loaders import Images, augment


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson", people=6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return learner.begin(TINY, "ours").eval()


def test_tokens_are_those_of_the_images_to_half_precision(table, model):
    images = activations.images_of(TINY, model, table)
    plain = Images(config.DATA / "lesson")
    for modality in config.MODALITIES:
        rows = table[table.modality == modality].sample(frac=1, random_state=0)       # domains in any order
        with torch.no_grad():
            whole = model.tokens(torch.from_numpy(plain.gather(rows)), modality)
            stored = model.tokens(torch.from_numpy(images.gather(rows)), modality)
        assert torch.allclose(whole, stored, atol=0.02)
        assert (whole - whole.mean(0)).abs().max() > 0.2, "or the test could not fail"


def test_an_augmented_copy_and_its_outline_moved_together(table, model):
    """The copies are drawn in order, image by image, so `augment` draws them again."""
    images = activations.images_of(TINY, model, table)
    plain = Images(config.DATA / "lesson")
    rows = table[table.domain == "inbreast"]
    for copy in range(1, 1 + activations.COPIES):
        rng = np.random.default_rng([copy, *b"inbreast"])
        pixels = torch.from_numpy(plain.array("images", "inbreast")[:].copy())
        mask = torch.from_numpy(plain.array("masks", "inbreast")[:].copy())
        pixels, mask = augment(pixels, mask, rng)
        with torch.no_grad():
            expected = model.early(pixels).half().numpy()
        copies = np.full(len(rows), copy)
        assert np.array_equal(images._pick(rows, "images", copies), expected[rows["index"]])
        assert np.array_equal(images._pick(rows, "masks", copies), mask.numpy()[rows["index"]])
    tokens, outlines = images.augmented(rows, np.random.default_rng(0))
    assert tokens.dtype == torch.float32 and outlines.dtype == torch.bool and outlines.any()


def test_they_are_computed_once_for_an_encoder_and_a_cohort(table, model, monkeypatch):
    first = activations.images_of(TINY, model, table).folders
    monkeypatch.setattr(activations, "_compute", None)
    assert activations.images_of(TINY, model, table).folders == first
    assert len(set(first.values())) == len(config.MODALITIES)
    with pytest.raises(TypeError):                                     # another encoder is computed again
        activations.images_of(TINY, learner.begin(TINY, "ours"), table)
    with pytest.raises(TypeError):                                     # and so is another cohort
        activations.images_of(TINY, model, table.iloc[1:])


def test_other_code_computes_them_again(table, model, monkeypatch):
    first = activations.images_of(TINY, model, table).folders
    monkeypatch.setattr(activations, "code_of", lambda *names: dict.fromkeys(names, "other"))
    assert not set(activations.images_of(TINY, model, table).folders.values()) & set(first.values())


def test_a_model_without_a_frozen_part_reads_the_images(table):
    whole = dataclasses.replace(TINY, frozen=0)
    model = learner.begin(whole, "ours")
    assert type(activations.images_of(whole, model, table)) is Images
    assert all(p.requires_grad for p in model.parameters()) and model.frozen_part(MAMMOGRAPHY) is None
