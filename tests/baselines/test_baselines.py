"""Baselines: features that are what they say, runs like any other method's, and nothing learned from the target."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from test_learner import TINY as FOUR_EPOCHS, same, write_cohort

from xmodal import baselines, cohort, config, methods, record
from xmodal.baselines import backbones, classic, common, networks
from xmodal.cohort import malignant
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, PROFILES, Problem
from xmodal.imaging import radiomics
from xmodal.loaders import Images
from xmodal.stats import auc

P = ["p0", "p1", "p2", "p3"]
TINY = dataclasses.replace(FOUR_EPOCHS, epochs=2)


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


@pytest.fixture
def quick(monkeypatch):
    """Stands for the 102 features where what is tested comes after them: the same rows always give the same five numbers."""
    def five(rows, images):
        parts = [images.gather(rows[rows.modality == m]).reshape((rows.modality == m).sum(), -1) for m in config.MODALITIES]
        x = [np.quantile(part, (0.1, 0.5, 0.75, 0.9, 1), axis=1).T for part in parts]
        return pd.concat([pd.DataFrame(v, index=rows.index[rows.modality == m]) for v, m in zip(x, config.MODALITIES)]).loc[rows.index]
    monkeypatch.setattr(networks, "features", five)


# ---- radiomic features -------------------------------------------------------------------------------------------

def test_there_are_102_features_and_those_with_a_closed_form_are_right():
    image = np.random.default_rng(0).integers(1, 256, (24, 24)).astype(np.uint8)
    image[:, 16:] = 0                                                    # background
    found, inside = radiomics.measure(image), image[:, :16].astype(float)
    assert len(found) == 102 and np.isfinite(list(found.values())).all()
    assert {name.split("_")[0] for name in found} == set(radiomics.FAMILIES)
    closed = {"firstorder_Mean": inside.mean(), "firstorder_Variance": inside.var(), "firstorder_Median": np.median(inside),
              "firstorder_Energy": (inside ** 2).sum(), "firstorder_Range": np.ptp(inside), "shape2D_PixelSurface": 24 * 16}
    assert all(np.isclose(found[name], value) for name, value in closed.items())
    levels = (image[:, :16] // 8).ravel()                                # fixed bins of 8 grey levels
    share = np.unique(levels, return_counts=True)[1] / levels.size
    assert np.isclose(found["firstorder_Entropy"], -(share * np.log2(share)).sum())


def test_the_region_is_breast_or_tissue_and_never_empty():
    tile = np.full((24, 24, 3), 240, np.uint8)
    assert radiomics.region(tile).all(), "too little tissue: the whole tile"
    tile[:12] = (200, 100, 180)
    assert radiomics.region(tile)[:12].all() and not radiomics.region(tile)[12:].any()
    assert np.isclose(radiomics.grey(tile)[0, 0], 0.299 * 200 + 0.587 * 100 + 0.114 * 180)


def test_features_are_kept_for_the_same_arrays_and_do_not_see_outlines(table):
    images, path = Images(config.DATA / "lesson"), config.DATA / "lesson" / "radiomics" / "inbreast.parquet"
    rows = table[table.domain == "inbreast"].sample(frac=1, random_state=0)
    first = radiomics.features(rows, images)
    one = images.gather(rows.iloc[:1])[0]
    assert first.shape == (len(rows), 102) and np.allclose(first.iloc[0], list(radiomics.measure(one).values()))
    written = path.stat().st_mtime_ns
    masks = config.DATA / "lesson" / "masks" / "inbreast.npy"
    np.save(masks, 1 - np.load(masks))
    assert radiomics.features(rows, Images(config.DATA / "lesson")).equals(first) and path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:200])                            # damaged: computed again
    assert radiomics.features(rows, images).equals(first)
    pixels = config.DATA / "lesson" / "images" / "inbreast.npy"
    np.save(pixels, 255 - np.load(pixels))                               # other pixels: computed again
    assert not radiomics.features(rows, Images(config.DATA / "lesson")).equals(first)


def test_missing_arrays_are_named(table):
    (config.DATA / "lesson" / "images" / "bach.npy").unlink()
    with pytest.raises(Problem, match="bach.npy cannot be read"):
        radiomics.features(table, Images(config.DATA / "lesson"))


# ---- probabilities -----------------------------------------------------------------------------------------------

def test_a_probability_of_malignancy_is_divided_as_the_training_labels_are():
    p = classic.four_classes(np.array([0.2, 0.9]), np.array([0.1, 0.3, 0.0, 0.6]))
    assert np.allclose(p, [[0.2, 0.6, 0.0, 0.2], [0.025, 0.075, 0.0, 0.9]])
    assert np.allclose(classic.four_classes(np.array([0.4]), np.array([0, 1, 0, 0])), [[0, 0.6, 0.2, 0.2]])


def test_an_outcome_gives_back_its_probabilities_and_the_rounded_expected_class():
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.0, 0.1, 0.1, 0.8]], dtype=torch.float64)
    out = common.outcome(p)
    assert torch.allclose(out.logits.softmax(1), p, atol=1e-8) and torch.allclose(out.score, torch.tensor([0.6, 2.7], dtype=torch.float64))
    assert ((out.score[:, None] > common.MeanProbability.grade.cutpoints).sum(1) == torch.tensor([1, 3])).all()


# ---- runs --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", methods.BASELINES)
def test_every_baseline_leaves_a_whole_run(table, quick, method):
    run = baselines.train(TINY, method, "inbreast", 42, table)
    p, seen = run.predictions, set(methods.NETWORKS.get(method, config.MODALITIES))
    assert run.folder == record.run_dir("lesson", method, "inbreast", 42) and not (run.folder / "checkpoint.safetensors").exists()
    assert set(p.modality) - {"both"} == seen and ("both" in set(p.modality)) == (len(seen) == 2)
    assert (set(p.split) == set(config.SPLITS)) == (MAMMOGRAPHY in seen), "the target is mammograms"
    assert np.allclose(p[P].sum(axis=1), 1, atol=1e-5) and "train" not in run.embeddings["split"]
    assert len(run.embeddings["z"]) == ((p.modality != "both") & (p.split != "train")).sum()
    localised = p[(p.modality == MAMMOGRAPHY) & p.has_mask].dice.notna()
    assert localised.all() if method in methods.NETWORKS and MAMMOGRAPHY in seen or method == "late_fusion" else not localised.any()
    assert run.history.valid_auc.notna().all()


@pytest.mark.parametrize("method", ["radiomics_svm", "radiomics_lightgbm", "early_fusion", "late_fusion"])
def test_target_labels_and_reference_diagnoses_are_never_read(table, quick, method):
    """Poison: every label of the target and every reference diagnosis is replaced, and no probability anywhere moves."""
    clean = baselines.train(TINY, method, "inbreast", 42, table)
    p, settings = clean.predictions[P].to_numpy(), clean.history
    poisoned, target = table.copy(), table.domain == "inbreast"
    poisoned.loc[target, "allowed"] = np.where(malignant(table.allowed[target]) == 1, 2, 12)
    poisoned.loc[target, ["grade", "truth"]] = 0
    poisoned["truth"] = 3 - poisoned.truth
    for name in (method, *methods.LATE.get(method, ())):
        (record.run_dir("lesson", name, "inbreast", 42) / "done").unlink()
    again = baselines.train(TINY, method, "inbreast", 42, poisoned)
    assert np.array_equal(p, again.predictions[P].to_numpy()) and settings.equals(again.history)
    poisoned.loc[poisoned.domain == "cbis_ddsm", "allowed"] = np.where(np.arange((poisoned.domain == "cbis_ddsm").sum()) % 3, 2, 12)
    for name in (method, *methods.LATE.get(method, ())):
        (record.run_dir("lesson", name, "inbreast", 42) / "done").unlink()
    other = baselines.train(TINY, method, "inbreast", 42, poisoned)
    assert not np.array_equal(p, other.predictions[P].to_numpy()), "labels of a source are read, so this test can fail"


def test_the_setting_is_the_one_that_is_best_on_source_validation(table):
    fold = cohort.leave_one_out(table, "bach", 42)
    rows = fold[fold.modality == MAMMOGRAPHY]
    y = np.nan_to_num(malignant(rows.allowed))
    x = np.column_stack([y, np.random.default_rng(0).normal(size=(len(rows), 3))])
    model, tried = classic.choose("radiomics_lr", rows, x, 42)
    assert [t["value"] for t in tried] == list(methods.CLASSIC["radiomics_lr"]["C"]) and max(t["valid_auc"] for t in tried) == 1
    best = next(t["value"] for t in tried if t["valid_auc"] == 1)
    assert model[-1].C == best, "of equals the first"
    assert auc(y[rows.split == "target"] if (rows.split == "target").any() else y, model.predict_proba(x)[:, 1]) == 1


def test_late_fusion_is_the_mean_of_the_probabilities_of_its_parts(table):
    late = baselines.train(TINY, "late_fusion", "bach", 42, table).predictions.set_index("sample")
    parts = [record.load_run(record.run_dir("lesson", m, "bach", 42)).predictions for m in methods.LATE["late_fusion"]]
    for part in parts:
        assert np.allclose(late.loc[part["sample"], P], part[P])
    patient = late[late.modality == "both"].patient.iloc[0]
    mean = np.mean([part[part.patient == patient][P].mean() for part in parts], axis=0)
    assert np.allclose(late.loc[f"{patient}/both", P].to_numpy(float), mean, atol=1e-6)


def test_a_finished_run_is_loaded_and_the_same_seed_gives_the_same_bits(table):
    run = baselines.train(TINY, "densenet_mammography", "cbis_ddsm", 42, table)
    state, written = run.state, (run.folder / "model.safetensors").stat().st_mtime_ns
    assert (baselines.train(TINY, "densenet_mammography", "cbis_ddsm", 42, table).folder / "model.safetensors").stat().st_mtime_ns == written
    (run.folder / "done").unlink()
    assert same(state, baselines.train(TINY, "densenet_mammography", "cbis_ddsm", 42, table).state)


def test_pretrained_encoders_are_made_once_and_brought_along(table):
    """On the pretraining phantom (here: the cohort itself), then into the network of two modalities."""
    profile = dataclasses.replace(TINY, pretrained="phantom", pretrain_epochs=2)
    folder = config.DATA / "lesson" / "pretraining"
    write_cohort(folder, people=6)
    own = networks.pretrain(profile, "densenet")
    written = (config.RUNS / "lesson" / "pretrained_densenet" / "model.safetensors").stat().st_mtime_ns
    assert same(own, networks.pretrain(profile, "densenet"))
    assert (config.RUNS / "lesson" / "pretrained_densenet" / "model.safetensors").stat().st_mtime_ns == written
    families = methods.NETWORKS["fusion_localiser"]
    vit = {f"encoder.{k}": v for k, v in backbones.Mixed(profile, families).encoder.state_dict().items()}
    model = networks.build(profile, families, vit).state_dict()
    assert all(torch.equal(v, model[k]) for k, v in own.items() if k.startswith(("grids.", "decoder.")))
    assert all(torch.equal(v, model[k]) for k, v in vit.items())


# ---- networks ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family, side", [("swin", 8), ("densenet", 12)])
def test_the_grids_of_the_lesson_have_the_sides_they_should(family, side):
    profile = PROFILES["lesson"]
    model = backbones.Mixed(profile, {MAMMOGRAPHY: family}).eval()
    out = model({MAMMOGRAPHY: torch.zeros(2, 96, 96, dtype=torch.uint8)})[MAMMOGRAPHY]
    assert out.tokens.shape == (2, side ** 2, 96) and out.mask.shape == (2, 4 * side, 4 * side) and model.encoder is None


def test_features_are_concatenated_only_where_there_are_two():
    model = backbones.Mixed(PROFILES["lesson"], {HISTOPATHOLOGY: "vit"})
    assert not model.concat and not len(model.grids)
    assert backbones.Mixed(PROFILES["lesson"], {MAMMOGRAPHY: "swin", HISTOPATHOLOGY: "vit"}).concat


def test_a_baseline_that_there_is_not_is_named(table):
    with pytest.raises(Problem, match="no method 'radiomics_knn'; choose from radiomics_lr"):
        methods.chosen("radiomics_lr,radiomics_knn", methods.BASELINES)
    assert methods.chosen("all", methods.BASELINES) == list(methods.BASELINES)


def test_a_site_alone_or_with_few_patients_has_no_pixel_regression_of_the_missing(table):
    images = Images(config.DATA / "lesson")
    both = classic.pixel_regression(table, images, "bach")
    assert all(0 <= value <= 1 for value in both.values())
    alone = classic.pixel_regression(table[table.domain != "camelyon"], images, "bach")
    assert alone["same site"] == both["same site"] and np.isnan(alone["other site"])
    few = table[table.patient.isin(table.patient[table.domain == "bach"].unique()[:6])]
    assert all(np.isnan(value) for value in classic.pixel_regression(few, images, "bach").values())
