"""Baselines: probabilities, runs like any other method's, and nothing learned from the target."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from test_learner import TINY as FOUR_EPOCHS, same, write_cohort

from xmodal import baselines, cohort, config, encoders, methods, record
from xmodal.baselines import backbones, classic, common, networks, trivial
from xmodal.cohort import malignant
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, PROFILES, Problem
from xmodal.loaders import Images
from xmodal.stats import auc

P = ["p0", "p1", "p2", "p3"]
TINY = dataclasses.replace(FOUR_EPOCHS, epochs=2)


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


@pytest.fixture
def quick(monkeypatch):
    """Five numbers for each row in place of the 102 features, where what is tested comes after them."""
    def five(rows, images):
        parts = []
        for modality in config.MODALITIES:
            of_modality = rows[rows.modality == modality]
            pixels = images.gather(of_modality).reshape(len(of_modality), -1)
            quantiles = np.quantile(pixels, (0.1, 0.5, 0.75, 0.9, 1), axis=1).T
            parts.append(pd.DataFrame(quantiles, index=of_modality.index))
        return pd.concat(parts).loc[rows.index]
    monkeypatch.setattr(classic, "features", five)


def folder_of(method, held_out):
    return record.run_dir("lesson", method, held_out, 42)


# ---- probabilities ---------------------------------------------------------------------------------------

def test_a_probability_of_malignancy_is_divided_as_the_training_labels_are():
    p = classic.four_classes(np.array([0.2, 0.9]), np.array([0.1, 0.3, 0.0, 0.6]))
    assert np.allclose(p, [[0.2, 0.6, 0.0, 0.2], [0.025, 0.075, 0.0, 0.9]])
    without_malignant = classic.four_classes(np.array([0.4]), np.array([0, 1, 0, 0]))
    assert np.allclose(without_malignant, [[0, 0.6, 0.2, 0.2]])


def test_an_outcome_gives_back_its_probabilities_and_the_rounded_expected_class():
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.0, 0.1, 0.1, 0.8]], dtype=torch.float64)
    out = common.outcome(p)
    assert torch.allclose(out.logits.softmax(1), p, atol=1e-8)
    assert torch.allclose(out.score, torch.tensor([0.6, 2.7], dtype=torch.float64))
    assert (out.score[:, None] > common.CUTPOINTS).sum(1).tolist() == [1, 3]


# ---- runs ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", methods.BASELINES)
def test_every_baseline_leaves_a_whole_run(table, quick, method):
    run = baselines.train(TINY, method, "inbreast", 42, table)
    p = run.predictions
    seen = set(methods.NETWORKS.get(method, config.MODALITIES))
    assert run.folder == folder_of(method, "inbreast")
    assert not (run.folder / "checkpoint.safetensors").exists()
    assert set(p.modality) - {"both"} == seen and ("both" in set(p.modality)) == (len(seen) == 2)
    assert (set(p.split) == set(config.SPLITS)) == (MAMMOGRAPHY in seen), "the target is mammograms"
    assert np.allclose(p[P].sum(axis=1), 1, atol=1e-5) and "train" not in run.embeddings["split"]
    assert len(run.embeddings["z"]) == ((p.modality != "both") & (p.split != "train")).sum()
    has_dice = p[(p.modality == MAMMOGRAPHY) & p.has_mask].dice.notna()
    localises = method == "late_fusion" or method in methods.NETWORKS and MAMMOGRAPHY in seen
    assert has_dice.all() if localises else not has_dice.any()
    assert run.history.valid_auc.notna().any()


@pytest.mark.parametrize("method", ["radiomics_svm", "radiomics_lightgbm", "early_fusion", "late_fusion"])
def test_target_labels_and_reference_diagnoses_are_never_read(table, quick, method):
    """Poison: all labels of the target and all reference diagnoses are replaced, and no probability moves."""
    def train_again(cohort_table):
        for name in (method, *methods.LATE.get(method, ())):
            (folder_of(name, "inbreast") / "done").unlink(missing_ok=True)
        run = baselines.train(TINY, method, "inbreast", 42, cohort_table)
        return run.predictions[P].to_numpy(), run.history
    p, settings = train_again(table)
    poisoned = table.copy()
    target = table.domain == "inbreast"
    poisoned.loc[target, "allowed"] = np.where(malignant(table.allowed[target]) == 1, 2, 12)
    poisoned.loc[target, ["grade", "truth"]] = 0
    poisoned["truth"] = 3 - poisoned.truth
    p_poisoned, settings_poisoned = train_again(poisoned)
    assert np.array_equal(p, p_poisoned) and settings.equals(settings_poisoned)
    source = poisoned.domain == "cbis_ddsm"
    poisoned.loc[source, "allowed"] = np.where(np.arange(source.sum()) % 3, 2, 12)
    p_other, _ = train_again(poisoned)
    assert not np.array_equal(p, p_other), "labels of a source are read, so this test can fail"


def test_the_setting_is_the_one_that_is_best_on_source_validation(table):
    fold = cohort.leave_one_out(table, "bach", 42)
    rows = fold[fold.modality == MAMMOGRAPHY]
    y = np.nan_to_num(malignant(rows.allowed))
    x = np.column_stack([y, np.random.default_rng(0).normal(size=(len(rows), 3))])
    model, tried = classic.choose("radiomics_lr", rows, x, 42)
    scores = {t["value"]: t["valid_auc"] for t in tried}
    assert list(scores) == list(methods.CLASSIC["radiomics_lr"]["C"]) and max(scores.values()) == 1
    best = next(value for value, score in scores.items() if score == 1)
    assert model[-1].C == best, "of equals the first"
    target = (rows.split == "target").to_numpy()
    scored = y[target] if target.any() else y
    assert auc(scored, model.predict_proba(x)[:, 1]) == 1


def test_late_fusion_is_the_mean_of_the_probabilities_of_its_parts(table):
    late = baselines.train(TINY, "late_fusion", "bach", 42, table).predictions.set_index("sample")
    parts = [record.load_run(folder_of(m, "bach")).predictions for m in methods.LATE["late_fusion"]]
    for part in parts:
        assert np.allclose(late.loc[part["sample"], P], part[P])
    patient = late[late.modality == "both"].patient.iloc[0]
    mean = np.mean([part[part.patient == patient][P].mean() for part in parts], axis=0)
    assert np.allclose(late.loc[f"{patient}/both", P].to_numpy(float), mean, atol=1e-6)


def test_a_finished_run_is_loaded_and_the_same_seed_gives_the_same_bits(table):
    def train():
        return baselines.train(TINY, "densenet_mammography", "cbis_ddsm", 42, table)
    run = train()
    state = run.state
    written = (run.folder / "model.safetensors").stat().st_mtime_ns
    assert (train().folder / "model.safetensors").stat().st_mtime_ns == written
    (run.folder / "done").unlink()
    assert same(state, train().state)


def test_a_network_begins_with_the_encoders_of_its_families(monkeypatch):
    shipped = {}
    for name, families in (("encoder", {HISTOPATHOLOGY: "vit"}), ("densenet", {MAMMOGRAPHY: "densenet"})):
        state = backbones.Mixed(TINY, families).state_dict()
        shipped[name] = {k: v for k, v in state.items() if k.startswith(("encoder.", "grids."))}
    monkeypatch.setattr(encoders, "shipped", lambda name: (shipped[name], f"{name} of a test"))
    profile = dataclasses.replace(TINY, pretrained="reference")
    model, description = networks.build(profile, methods.NETWORKS["fusion_localiser"])
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for part in shipped.values() for k, v in part.items())
    assert description == "densenet of a test; encoder of a test"


# ---- networks --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family, side", [("swin", 8), ("densenet", 12)])
def test_the_grids_of_the_lesson_have_the_sides_they_should(family, side):
    model = backbones.Mixed(PROFILES["lesson"], {MAMMOGRAPHY: family}).eval()
    out = model({MAMMOGRAPHY: torch.zeros(2, 96, 96, dtype=torch.uint8)})[MAMMOGRAPHY]
    assert out.tokens.shape == (2, side ** 2, 96) and out.mask.shape == (2, 4 * side, 4 * side)
    assert model.encoder is None


@pytest.mark.parametrize("family", ["swin", "densenet"])
def test_a_profile_of_ones_own_has_networks_by_its_size_and_not_by_its_name(family):
    mine = dataclasses.replace(PROFILES["lesson"], name="mine", image_size=48)
    images = {MAMMOGRAPHY: torch.zeros(2, 48, 48, dtype=torch.uint8)}
    out = backbones.Mixed(mine, {MAMMOGRAPHY: family})(images)
    assert out[MAMMOGRAPHY].tokens.shape[::2] == (2, mine.width)
    for name in ("pilot", "paper"):
        assert backbones.encoders_of(PROFILES[name]) is backbones.WHOLE


def test_features_are_concatenated_only_where_there_are_two():
    model = backbones.Mixed(PROFILES["lesson"], {HISTOPATHOLOGY: "vit"})
    assert not model.concat and not len(model.grids)
    assert backbones.Mixed(PROFILES["lesson"], {MAMMOGRAPHY: "swin", HISTOPATHOLOGY: "vit"}).concat


def test_a_baseline_that_there_is_not_is_named():
    with pytest.raises(Problem, match="no method 'radiomics_knn'; choose from linear_probe, radiomics_lr"):
        methods.chosen("radiomics_lr,radiomics_knn", methods.BASELINES)
    assert methods.chosen("all", methods.BASELINES) == list(methods.BASELINES)


# ---- a trivial reader ------------------------------------------------------------------------------------

def test_a_site_alone_or_with_few_patients_has_no_pixel_regression_of_the_missing(table):
    images = Images(config.DATA / "lesson")
    both = trivial.pixel_regression(table, images, "bach")
    assert all(0 <= value <= 1 for value in both.values())
    alone = trivial.pixel_regression(table[table.domain != "camelyon"], images, "bach")
    assert alone["same site"] == both["same site"] and np.isnan(alone["other site"])
    six = table.patient[table.domain == "bach"].unique()[:6]
    few = trivial.pixel_regression(table[table.patient.isin(six)], images, "bach")
    assert all(np.isnan(value) for value in few.values())
