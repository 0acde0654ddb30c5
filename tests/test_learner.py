"""Training: what it must not read, and what must come out bit for bit. A tiny model on a tiny cohort of noise
with a planted square."""
import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import adapt_run, cohort, config, learner, methods, objective, record
from xmodal.config import DOMAINS, MAMMOGRAPHY, PROFILES, Problem
from xmodal.loaders import Images
from xmodal.model import build
from xmodal.predict import predict
from xmodal.runtime import checkpoints

TINY = dataclasses.replace(PROFILES["lesson"], image_size=24, patch=6, width=24, depth=2, frozen=1, adapter=2,
                           batch=8, epochs=4, pretrained="")
PROBABILITIES = ["p0", "p1", "p2", "p3"]
LABELS = {  # domain -> {truth: bit mask of the classes that the label allows}
    "cbis_ddsm": {1: 2, 2: 12, 3: 12},
    "inbreast": {0: 1, 1: 2, 2: 12, 3: 12},
    "bach": {0: 1, 1: 2, 2: 4, 3: 8},
    "camelyon": {0: 3, 1: 3, 2: 12, 3: 12},
}


PAIRS = (("cbis_ddsm", "bach"), ("cbis_ddsm", "camelyon"), ("inbreast", "bach"), ("inbreast", "camelyon"))


def write_cohort(folder, people=12):
    """`people` patients in each pair of domains, two images in each; the planted square grows with the
    diagnosis."""
    rng = np.random.default_rng(0)
    rows = []
    images = {domain: [] for domain in DOMAINS}
    masks = {domain: [] for domain in DOMAINS}
    for site, k, side, copy in itertools.product(range(len(PAIRS)), range(people), (0, 1), (0, 1)):
        domain = PAIRS[site][side]
        truth = k % 3 + 1
        image, mask = noise_with_a_square(rng, domain, truth)
        rows.append({"sample": f"{domain}/{site}{k}{copy}", "patient": f"P{site}{k:02d}",
                     **cohort_row(domain, truth), "index": len(images[domain])})
        images[domain].append(image)
        masks[domain].append(mask)
    for kind, arrays in (("images", images), ("masks", masks)):
        (folder / kind).mkdir(parents=True)
        for domain, parts in arrays.items():
            np.save(folder / kind / f"{domain}.npy", np.stack(parts))
    cohort.validate(pd.DataFrame(rows)).to_parquet(folder / "cohort.parquet")
    return cohort.load(folder / "cohort.parquet")


def noise_with_a_square(rng, domain, truth):
    """(image, mask), each 24 pixels high and wide; the mask of a histopathology tile is empty."""
    mammogram = DOMAINS[domain] == MAMMOGRAPHY
    image = rng.integers(0, 120, (24, 24) if mammogram else (24, 24, 3)).astype(np.uint8)
    mask = np.zeros((24, 24), np.uint8)
    mask[4:6 + 4 * truth, 6:16] = mammogram
    image[4:6 + 4 * truth, 6:16] += 90
    return image, mask


def cohort_row(domain, truth):
    """The columns of a cohort row that follow from its domain and diagnosis."""
    row = {"study": "", "domain": domain, "modality": DOMAINS[domain], "view": "", "laterality": "",
           "allowed": LABELS[domain][truth], "truth": truth, "density": "", "grade": -1, "lesion_type": "",
           "lesion_shape": "", "diameter_mm": 5.0, "annotation": "", "source": "", "has_mask": False,
           "boxes": "[]", "mm_per_px": 1.0, "checksum": "", "file_allowed": LABELS[domain][truth],
           **cohort.NO_TILE}
    if DOMAINS[domain] == MAMMOGRAPHY:
        row |= {"view": "CC", "density": "A", "lesion_type": "mass", "has_mask": True}
    if domain == "bach":
        row["grade"] = truth
    return row


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains_and_leaves_a_whole_run(table, method):
    run = learner.train(TINY, method, "bach", 42, table)
    assert set(run.predictions.split) == set(config.SPLITS)
    epochs = round(4 / methods.METHODS[method].train_share)
    assert np.isfinite(run.history.loss).all() and len(run.history) == epochs
    assert (run.predictions.modality == "both").any()
    assert set(run.embeddings["split"]) == set(config.SPLITS), "retrieval is measured on all"
    assert run.folder == record.run_dir("lesson", method, "bach", 42)
    assert not (run.folder / "checkpoint.safetensors").exists()


def test_same_seed_same_bits_another_seed_other_bits(table, home):
    first = learner.train(TINY, "ours", "camelyon", 42, table)
    state, predictions = first.state, first.predictions
    (first.folder / "done").unlink()
    again = learner.train(TINY, "ours", "camelyon", 42, table)
    assert same(state, again.state)
    assert predictions.equals(again.predictions) and first.history.equals(again.history)
    assert not same(state, learner.train(TINY, "ours", "camelyon", 1234, table).state)


def test_a_bar_shows_the_training_and_changes_no_bit(table, capsys):
    quiet = learner.train(TINY, "erm", "camelyon", 7, table)
    assert not capsys.readouterr().out
    (quiet.folder / "done").unlink()
    shown = learner.train(TINY, "erm", "camelyon", 7, table, progress=True)
    assert "Epoch 1/" in capsys.readouterr().out
    assert same(quiet.state, shown.state)


def test_a_finished_run_is_loaded_and_other_settings_train_anew(table, monkeypatch):
    run = learner.train(TINY, "erm", "bach", 42, table)
    written = (run.folder / "model.safetensors").stat().st_mtime_ns
    learner.train(TINY, "erm", "bach", 42, table)
    assert (run.folder / "model.safetensors").stat().st_mtime_ns == written
    longer = learner.train(dataclasses.replace(TINY, epochs=5), "erm", "bach", 42, table)
    assert len(longer.history) == 5


def test_a_changed_loss_trains_and_adapts_again_and_is_named(table, monkeypatch, caplog):
    run = learner.train(TINY, "irm", "bach", 42, table)
    adapt_run.adapt_run(TINY, "irm", "bach", 42, table)
    adapted = (run.folder / "trajectory.csv").stat().st_mtime_ns
    adapt_run.adapt_run(TINY, "irm", "bach", 42, table)
    assert (run.folder / "trajectory.csv").stat().st_mtime_ns == adapted and not caplog.messages
    with monkeypatch.context() as patch:
        patch.setattr(adapt_run, "code_of", lambda *names: {"xmodal.adapt": "other"})
        adapt_run.adapt_run(TINY, "irm", "bach", 42, table)
    assert (run.folder / "trajectory.csv").stat().st_mtime_ns > adapted
    assert "xmodal.adapt" in caplog.messages[0] and "is adapted again" in caplog.messages[0]
    used = run.config["code"]
    monkeypatch.setattr(learner, "code_of", lambda *names: used | {"xmodal.losses": "other"})
    monkeypatch.setattr(objective, "irm_penalty", lambda logits, y: 0 * logits.sum())
    again = learner.train(TINY, "irm", "bach", 42, table)
    assert "made with other code of xmodal.losses and is made anew" in caplog.messages[1]
    assert not again.history.irm.any() and again.trajectory is None and run.history.irm.any()


@pytest.mark.parametrize("method", ["ours", "groupdro", "dann"])
def test_an_interrupted_run_goes_on_to_the_same_bits(table, method, monkeypatch):
    whole = learner.train(TINY, method, "inbreast", 42, table)
    state, history = whole.state, whole.history
    (whole.folder / "done").unlink()

    def stop(*what):
        checkpoints.save_checkpoint(*what)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learner, "save_checkpoint", stop)
        learner.train(TINY, method, "inbreast", 42, table)
    assert (whole.folder / "checkpoint.safetensors").exists() and not (whole.folder / "done").exists()
    resumed = learner.train(TINY, method, "inbreast", 42, table)
    assert same(state, resumed.state)
    pd.testing.assert_frame_equal(history, resumed.history)


def test_a_checkpoint_of_other_settings_is_not_gone_on_with(table, monkeypatch):
    slower = dataclasses.replace(TINY, lr=TINY.lr / 10)
    whole = learner.train(slower, "erm", "inbreast", 42, table)
    state = whole.state
    (whole.folder / "done").unlink()

    def stop(*what):
        checkpoints.save_checkpoint(*what)
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learner, "save_checkpoint", stop)
        learner.train(TINY, "erm", "inbreast", 42, table)
    assert same(state, learner.train(slower, "erm", "inbreast", 42, table).state)
    assert not {"checkpoint.safetensors", "begun.json"} & {p.name for p in whole.folder.iterdir()}


def test_another_cohort_trains_anew(table):
    first = learner.train(TINY, "erm", "bach", 42, table)
    other = learner.train(TINY, "erm", "bach", 42, table[table.patient != table.patient.iloc[0]])
    assert first.config["cohort"] != other.config["cohort"]
    assert len(other.predictions) < len(first.predictions)


def test_all_methods_begin_alike():
    """But for the heads of concatenation, which are twice as wide."""
    starts = []
    for method in methods.METHODS:
        torch.manual_seed(3)
        starts.append(learner.begin(TINY, method).state_dict())
    for start in starts[1:]:
        alike = [name for name in start if not name.startswith(("classify.", "grade."))]
        assert all(torch.equal(start[name], starts[0][name]) for name in alike)


def test_what_a_method_leaves_out_stays_as_it_began(table):
    def moved(method, part):
        torch.manual_seed(42)
        before = learner.begin(TINY, method).state_dict()
        after = learner.train(TINY, method, "bach", 42, table).state
        names = [name for name in before if name.startswith(part) and "frozen" not in name]
        return any(not torch.equal(before[name], after[name]) for name in names)
    assert moved("ours", "adapters.") and moved("ours", "encoder.blocks.1.")
    assert not moved("ours", "encoder.blocks.0.") and not moved("ours", "encoder.patch_embed.")
    assert not moved("no_adapters", "adapters.") and moved("no_adapters", "encoder.blocks.1.")
    assert not moved("frozen_encoder", "encoder.") and moved("frozen_encoder", "adapters.")
    sigmas = ["sigma_cls", "sigma_loc"]                  # in this fold no label fixes a grade
    assert (learner.train(TINY, "fixed_weights", "bach", 42, table).history[sigmas] == 1).all(axis=None)
    assert (learner.train(TINY, "ours", "bach", 42, table).history[sigmas].iloc[-1] != 1).all()


def probabilities(run, rows):
    """(N, 4) class probabilities of the predictions that a query chooses."""
    return run.predictions.query(rows)[PROBABILITIES].to_numpy()


def test_target_labels_and_reference_diagnoses_are_never_read(table):
    """Poison: every label of the target, and every reference diagnosis anywhere, is replaced. No weight and
    no target probability moves."""
    clean = learner.train(TINY, "ours", "bach", 42, table)
    state = clean.state
    target_before = probabilities(clean, "split == 'target'")
    run = adapt_run.adapt_run(TINY, "ours", "bach", 42, table)
    adapted_before = probabilities(run, "condition != 'source'")
    poisoned = table.assign(truth=3 - table.truth)
    target = poisoned.domain == "bach"
    for column in ("allowed", "file_allowed"):
        poisoned.loc[target, column] = 2 ** poisoned.truth[target]
    poisoned.loc[target, "grade"] = 0
    (clean.folder / "done").unlink()
    again = learner.train(TINY, "ours", "bach", 42, poisoned)
    assert same(state, again.state)
    assert np.array_equal(target_before, probabilities(again, "split == 'target'"))
    adapted = adapt_run.adapt_run(TINY, "ours", "bach", 42, poisoned)
    assert np.array_equal(adapted_before, probabilities(adapted, "condition != 'source'"))


def test_source_labels_are_read(table):
    """The counterpart: poison in a source domain does change the weights, so the test above can fail."""
    clean = learner.train(TINY, "erm", "bach", 42, table).state
    poisoned = table.copy()
    poisoned.loc[poisoned.domain == "camelyon", "allowed"] = 3
    (record.run_dir("lesson", "erm", "bach", 42) / "done").unlink()
    assert not same(clean, learner.train(TINY, "erm", "bach", 42, poisoned).state)


def test_adaptation_adds_its_conditions_and_a_shifted_target_and_is_not_repeated(table):
    learner.train(TINY, "ours", "cbis_ddsm", 42, table)
    run = adapt_run.adapt_run(TINY, "ours", "cbis_ddsm", 42, table)
    assert set(run.predictions.condition) == {*config.CONDITIONS, *config.STREAMS}
    assert run.trajectory.groupby("condition").stopped.sum().to_dict() == {"adabn": 1, "causal": 1, "tent": 1}
    target = run.predictions[run.predictions.condition == "causal"]
    assert set(target.split) == {"target"} and len(target) == (table.domain == "cbis_ddsm").sum()
    assert list(run.label_shift.condition) == ["source", "adabn", "causal"]


def test_tiles_that_outlines_chose_are_trained_on_and_nothing_else(table):
    """Neither predicted outside training nor adapted to, since labels chose them."""
    chosen = table["sample"].str.startswith(("bach/", "camelyon/")) & (table["index"] % 2 == 1)
    table.loc[chosen, "drawn"] = "outline"
    learner.train(TINY, "ours", "bach", 42, table)
    run = adapt_run.adapt_run(TINY, "ours", "bach", 42, table)
    seen = run.predictions[run.predictions["sample"].isin(table["sample"][chosen])]
    assert set(seen.split) == {"train"} and set(seen.domain) == {"camelyon"}
    adapted = run.predictions[run.predictions.condition == "causal"]
    assert len(adapted) == ((table.domain == "bach") & ~chosen).sum() > 0


def test_predictions_do_not_depend_on_the_order_of_rows(table):
    model = build(TINY).eval()
    images = Images(config.DATA / "lesson")
    shuffled = table.sample(frac=1, random_state=0)
    a, b = (predict(model, t, images)[0].set_index("sample").sort_index() for t in (table, shuffled))
    assert np.allclose(a.p3, b.p3, atol=1e-6) and a.index.equals(b.index)


def test_what_is_missing_or_unknown_is_named(table):
    with pytest.raises(Problem, match="no method 'oours'; choose from erm"):
        methods.chosen("erm,oours")
    with pytest.raises(Problem, match="no domain 'bacch'"):
        learner.train(TINY, "erm", "bacch", 42, table)
    if not torch.cuda.is_available():
        with pytest.raises(Problem, match="trains on a GPU, and torch finds none"):
            learner.train(dataclasses.replace(TINY, device="cuda"), "erm", "bach", 42, table)
    (config.DATA / "lesson" / "images" / "camelyon.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(Problem, match="camelyon.npy cannot be read"):
        learner.train(TINY, "erm", "bach", 42, table)
