"""K-MaT's texts and splits: descriptions, captions of the stand-in, hand-written prompts, Table 1."""
import itertools
import re

import numpy as np
import pandas as pd
import pytest
import torch

from data_scripts import kmat_pairs
from data_scripts.phantom import textbook
from xmodal.companions import clip, frozen, pictures, prompts


def shared_words(a, b):
    """Share of the words of two sentences that both have."""
    first, second = (set(sentence.lower().strip(".").replace(",", "").split()) for sentence in (a, b))
    return len(first & second) / len(first | second)


BREAST_TEXTS = list(itertools.product(("mammography", "ultrasound"), kmat_pairs.BREAST))


ALL_TEXTS = []
for classes, *both_ends in kmat_pairs.PAIRS.values():
    ALL_TEXTS += itertools.product((modality for modality, _ in both_ends), classes)


@pytest.mark.parametrize("modality, label", sorted(set(ALL_TEXTS)))
def test_descriptions_of_a_class_are_independent_sentences_and_not_one_in_many_templates(modality, label):
    sentences = prompts.read_descriptions(modality, label)
    assert len(sentences) == 50
    assert max(shared_words(a, b) for a, b in itertools.combinations(sentences, 2)) < 0.5


@pytest.mark.parametrize("modality", ["mammography", "ultrasound"])
def test_descriptions_alone_tell_the_classes_apart(modality, minilm_alone):
    """For three in five at least the nearest mean is that of the other 49 of the own class; chance is one in
    three. MiniLM reads them, which has learned no picture."""
    z = torch.stack([minilm_alone.texts(prompts.read_descriptions(modality, c)) for c in kmat_pairs.BREAST])
    right = []
    for c in range(3):
        for sentence in z[c]:
            own = (torch.arange(3) == c)[:, None]
            means = torch.nn.functional.normalize(z.sum(1) - sentence * own, dim=1)
            right.append(int((means @ sentence).argmax()) == c)
    assert np.mean(right) > 0.6


@pytest.fixture(scope="module")
def minilm_alone():
    transformer, tokenizer = frozen.minilm()
    tower = clip.TextTower(transformer, tokenizer, frozen.mean_pool, torch.nn.Identity())
    return clip.ImageText("MiniLM", clip.ImageTower(None, torch.nn.Identity()), tower, 1.0)


DIAGNOSIS = re.compile("normal|benign|malignan|cancer|carcinoma|harmless|healthy|tumour", re.IGNORECASE)


def test_captions_of_the_stand_in_are_no_prompts_and_ultrasound_comes_without_labels():
    written = {prompts.plain_prompt(m, c) for m, c in BREAST_TEXTS}
    for m, c in BREAST_TEXTS:
        written |= set(prompts.read_descriptions(m, c))
    for person in textbook.cases(60, "pretrain", 7):
        for view in textbook.VIEWS:
            texts_of = textbook.captions(person, view, np.random.default_rng(0))
            assert not written & set(texts_of)
            if view == "ultrasound":
                assert not DIAGNOSIS.search(" ".join(texts_of))


def test_a_description_far_from_the_others_is_left_out_by_biomedcoop_for_all_classes():
    images = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0]]), dim=1)
    angles = torch.tensor([0.50, 0.52, 0.54, 0.56, 0.58, 0.60, 1.5])
    first = torch.stack([angles.cos(), torch.zeros(7), angles.sin()], 1)
    keep = prompts.typical(torch.stack([first, first * torch.tensor([0.9, 1, 1])]), images, 10.0)
    assert keep.tolist() == [True] * 6 + [False]
    assert prompts.typical(first[:1].expand(2, 5, 3), images, 10.0).all()


def test_hand_written_prompts_are_english_for_every_published_class():
    assert prompts.plain_prompt("clinical", "melanoma") == "a photograph of a skin lesion: melanoma"
    modalities = {modality for _, *ends in kmat_pairs.PAIRS.values() for modality, _ in ends}
    assert modalities == set(prompts.PLAIN)


def test_table_1_s_splits_are_those_of_the_paper():
    for name, ends in kmat_pairs.COUNTS.items():
        for counts in ends:
            names = [f"{i}" for i in range(sum(counts))]
            table = pd.DataFrame({"patient": names, "label": "benign"})
            shares = tuple(np.array(counts[:2]) / sum(counts))
            made = pictures.split_patients(table, 0, shares).split.value_counts()
            assert [made[k] for k in ("train", "validation", "test")] == list(counts), name
