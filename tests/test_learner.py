"""Training: what it must not read, and what must come out bit for bit. A tiny model on a tiny cohort of noise with a planted square."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import adapt, cohort, config, learner, methods, record
from xmodal.config import DOMAINS, HISTOPATHOLOGY, MAMMOGRAPHY, PROFILES, Problem
from xmodal.loaders import Images, PairedBatches
from xmodal.predict import predict
from xmodal.runtime import checkpoints

TINY = dataclasses.replace(PROFILES["lesson"], image_size=24, patch=6, width=24, depth=2, adapter=2, batch=8, epochs=4, pretrained="")
PROBABILITIES = ["p0", "p1", "p2", "p3"]
LABELS = {"cbis_ddsm": {1: 2, 2: 12, 3: 12}, "inbreast": {0: 1, 1: 2, 2: 12, 3: 12}, "bach": {c: 1 << c for c in range(4)},
          "camelyon": {0: 3, 1: 3, 2: 12, 3: 12}}


def write_cohort(folder, people=12):
    """`people` patients in each pair of domains, two images in each; the planted square grows with the diagnosis."""
    rng, rows, stacks, masks = np.random.default_rng(0), [], {d: [] for d in DOMAINS}, {d: [] for d in DOMAINS}
    for site, pair in enumerate([(m, p) for m in ("cbis_ddsm", "inbreast") for p in ("bach", "camelyon")]):
        for k in range(people):
            truth = k % 3 + 1
            for domain, copy in [(d, c) for d in pair for c in range(2)]:
                mammogram, allowed = DOMAINS[domain] == MAMMOGRAPHY, LABELS[domain][truth]
                image = rng.integers(0, 120, (24, 24) if mammogram else (24, 24, 3)).astype(np.uint8)
                mask = np.zeros((24, 24), np.uint8)
                mask[4:6 + 4 * truth, 6:16] = mammogram
                image[4:6 + 4 * truth, 6:16] += 90
                rows.append(dict(sample=f"{domain}/{site}{k}{copy}", patient=f"P{site}{k:02d}", study="", domain=domain, modality=DOMAINS[domain],
                                 view="CC" if mammogram else "", laterality="", allowed=allowed, truth=truth, density="A" if mammogram else "",
                                 grade=truth if domain == "bach" else -1, lesion_type="mass" if mammogram else "", lesion_shape="", diameter_mm=5.0,
                                 annotation="", source="", index=len(stacks[domain]), has_mask=mammogram, boxes="[]", mm_per_px=1.0, checksum=""))
                stacks[domain].append(image)
                masks[domain].append(mask)
    for kind, arrays in (("images", stacks), ("masks", masks)):
        (folder / kind).mkdir(parents=True)
        for domain, parts in arrays.items():
            np.save(folder / kind / f"{domain}.npy", np.stack(parts))
    cohort.validate(pd.DataFrame(rows)).to_parquet(folder / "cohort.parquet")
    return cohort.load(folder / "cohort.parquet")


def write_encoder(state):
    """A finished pretrained encoder of these tensors."""
    folder = config.RUNS / "lesson" / "pretrained"
    checkpoints.finish(folder, {"model.safetensors": state, "history.csv": pd.DataFrame({"epoch": [0]}), "config.json": {}})


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains_and_leaves_a_whole_run(table, method):
    run = learner.train(TINY, method, "bach", 42, table)
    assert set(run.predictions.split) == set(config.SPLITS) and np.isfinite(run.history.loss).all() and len(run.history) == 4
    assert (run.predictions.modality == "both").any()
    assert set(run.embeddings["split"]) == {"validation", "source test", "target"}
    assert run.folder == record.run_dir("lesson", method, "bach", 42) and not (run.folder / "checkpoint.safetensors").exists()


def test_same_seed_same_bits_another_seed_other_bits(table, home):
    first = learner.train(TINY, "ours", "camelyon", 42, table)
    state, predictions = first.state, first.predictions
    (first.folder / "done").unlink()
    again = learner.train(TINY, "ours", "camelyon", 42, table)
    assert same(state, again.state) and predictions.equals(again.predictions) and first.history.equals(again.history)
    assert not same(state, learner.train(TINY, "ours", "camelyon", 1234, table).state)


def test_a_finished_run_is_loaded_and_other_settings_train_anew(table, monkeypatch):
    run = learner.train(TINY, "erm", "bach", 42, table)
    written = (run.folder / "model.safetensors").stat().st_mtime_ns
    learner.train(TINY, "erm", "bach", 42, table)
    assert (run.folder / "model.safetensors").stat().st_mtime_ns == written
    longer = learner.train(dataclasses.replace(TINY, epochs=5), "erm", "bach", 42, table)
    assert len(longer.history) == 5


@pytest.mark.parametrize("method", ["ours", "groupdro", "dann"])
def test_an_interrupted_run_goes_on_to_the_same_bits(table, method, monkeypatch):
    whole = learner.train(TINY, method, "inbreast", 42, table)
    state, history = whole.state, whole.history
    (whole.folder / "done").unlink()

    def stop_after_two(path, modules, optimiser, state, tensors):
        checkpoints.save_checkpoint(path, modules, optimiser, state, tensors)
        if state["epoch"] == 1:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learner, "save_checkpoint", stop_after_two)
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


def test_another_cohort_trains_anew_and_a_damaged_encoder_is_named(table):
    first = learner.train(TINY, "erm", "bach", 42, table)
    other = learner.train(TINY, "erm", "bach", 42, table[table.patient != table.patient.iloc[0]])
    assert first.config["cohort"] != other.config["cohort"] and len(other.predictions) < len(first.predictions)
    write_encoder(first.state)
    (config.RUNS / "lesson" / "pretrained" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(Problem, match="damaged .* run 03a_pretrain again"):
        learner.train(dataclasses.replace(TINY, pretrained="phantom"), "erm", "bach", 42, table)


def test_a_damaged_or_unfinished_pretraining_is_done_again(home, caplog):
    """On the cohort of noise in place of the pretraining phantom."""
    profile = dataclasses.replace(TINY, pretrained="phantom", pretrain_epochs=2)
    write_cohort(home / "phantom", people=6)
    first = learner.pretrain(profile, home / "phantom")
    folder = config.RUNS / "lesson" / "pretrained"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(whole) == {"model.safetensors", "history.csv", "config.json", "done"}
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert learner.pretrain(profile, home / "phantom").equals(first)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written and not caplog.text
    for name, content in (("model.safetensors", whole["model.safetensors"][:-9]), ("history.csv", b"epoch\n"), ("done", b"{}")):
        (folder / name).write_bytes(content)
        assert learner.pretrain(profile, home / "phantom").equals(first)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
        assert f"The result in {folder} is damaged" in caplog.messages[-1]
    assert len(caplog.messages) == 3


def test_another_encoder_trains_anew(table):
    profile = dataclasses.replace(TINY, pretrained="phantom")
    encoders = [learner.train(TINY, "erm", "bach", seed, table).state for seed in (42, 1234)]
    runs = []
    for state in (*encoders, encoders[1]):
        write_encoder(state)
        run = learner.train(profile, "erm", "bach", 5678, table)
        runs.append((run.config["encoder"], (run.folder / "model.safetensors").stat().st_mtime_ns))
    assert runs[0] != runs[1] == runs[2] and runs[0][0] != runs[1][0] and "sha256" in runs[0][0]


def test_an_epoch_counts_once_every_term_has_full_weight(table, monkeypatch):
    """The AUC falls from epoch to epoch: of four, the first ends at a quarter of the training, before RAMP's end."""
    scores = iter(np.repeat([0.9, 0.8, 0.7, 0.6], 3))              # three source domains an epoch
    monkeypatch.setattr(learner, "auc", lambda y, p: next(scores))
    fold = cohort.leave_one_out(table, "bach", 42)
    learn = learner.learner(TINY, "erm", fold, Images(config.DATA / "lesson"), 42)
    history = learner.fit(learn, 4)
    assert list(history.valid_auc.round(6)) == [0.9, 0.8, 0.7, 0.6] and round(learn.select.best, 6) == 0.8


@pytest.fixture
def alone(table):
    """Nobody is in two domains, as in the public sets: with two domains held out somebody is left to train on."""
    return table.assign(patient=table.domain + table.patient)


def test_leave_one_domain_out_takes_the_epoch_that_is_best_on_the_domains_left_out(alone, monkeypatch):
    judged, aucs = [], {"bach": [.9, .6, .5, .7], "camelyon": [.9, .5, .8, .6], "inbreast": [.9, .5, .7, .8]}     # means .9, .53, .67, .70

    def fit(learn, epochs):
        left_out, = set(learn.select.validation.domain)
        judged.append((left_out, learn.dls.train.dataset.domains))
        return pd.DataFrame({"valid_auc": aucs[left_out]})
    monkeypatch.setattr(learner, "fit", fit)
    assert learner.epoch_by_left_out(TINY, "erm", "cbis_ddsm", 42, alone) == 3, "the first epoch is better and does not count"
    assert [j[0] for j in judged] == sorted(aucs) and all(j[0] not in j[1] and "cbis_ddsm" not in j[1] for j in judged)


def test_leave_one_domain_out_selection_keeps_that_epoch_and_never_reads_the_target(alone):
    epoch = learner.epoch_by_left_out(TINY, "ours", "inbreast", 42, alone)
    run = learner.train(TINY, "ours", "inbreast", 42, alone, selection="leave-one-domain-out")
    first, state = run.predictions, run.state
    fold, images = cohort.leave_one_out(alone, "inbreast", 42), Images(config.DATA / "lesson")
    record.seed_everything(42)
    by_hand = learner.learner(TINY, "ours", fold, images, 42, epoch=epoch)
    learner.fit(by_hand, TINY.epochs)
    assert run.config["selection"] == "leave-one-domain-out" and same(state, by_hand.model.state_dict())
    poisoned = alone.copy()
    poisoned.loc[alone.domain == "inbreast", ["allowed", "truth"]] = 2, 1
    (run.folder / "done").unlink()
    again = learner.train(TINY, "ours", "inbreast", 42, poisoned, selection="leave-one-domain-out")
    assert same(state, again.state) and np.array_equal(first[PROBABILITIES].to_numpy(), again.predictions[PROBABILITIES].to_numpy())
    with pytest.raises(Problem, match="no selection 'oracle' for a training"):
        learner.train(TINY, "ours", "inbreast", 42, alone, selection="oracle")


def test_a_validation_set_that_cannot_judge_is_named(table, monkeypatch):
    monkeypatch.setattr(learner, "auc", lambda y, p: np.nan)
    with pytest.raises(Problem, match="no epoch can be chosen"):
        learner.train(TINY, "erm", "bach", 42, table)


def test_target_labels_and_reference_diagnoses_are_never_read(table):
    """Poison: every label of the target, and every reference diagnosis anywhere, is replaced. No weight and no target probability moves."""
    clean = learner.train(TINY, "ours", "bach", 42, table)
    state, p = clean.state, clean.predictions.query("split == 'target'")[["p0", "p1", "p2", "p3"]].to_numpy()
    adapted = adapt.adapt_run(TINY, "ours", "bach", 42, table).predictions.query("condition == 'causal'")[["p0", "p1", "p2", "p3"]].to_numpy()
    poisoned = table.copy()
    target = poisoned.domain == "bach"
    poisoned.loc[target, "allowed"] = 2 ** (3 - poisoned.truth[target])
    poisoned.loc[target, "grade"] = 0
    poisoned["truth"] = 3 - poisoned.truth
    (clean.folder / "done").unlink()
    again = learner.train(TINY, "ours", "bach", 42, poisoned)
    assert same(state, again.state)
    assert np.array_equal(p, again.predictions.query("split == 'target'")[["p0", "p1", "p2", "p3"]].to_numpy())
    after = adapt.adapt_run(TINY, "ours", "bach", 42, poisoned).predictions.query("condition == 'causal'")[["p0", "p1", "p2", "p3"]].to_numpy()
    assert np.array_equal(adapted, after)


def test_source_labels_are_read(table):
    """The counterpart: poison in a source domain does change the weights, so the test above can fail."""
    clean = learner.train(TINY, "erm", "bach", 42, table).state
    poisoned = table.copy()
    poisoned.loc[poisoned.domain == "camelyon", "allowed"] = 3
    (record.run_dir("lesson", "erm", "bach", 42) / "done").unlink()
    assert not same(clean, learner.train(TINY, "erm", "bach", 42, poisoned).state)


def test_adaptation_adds_three_conditions_and_is_not_repeated(table):
    learner.train(TINY, "ours", "cbis_ddsm", 42, table)
    run = adapt.adapt_run(TINY, "ours", "cbis_ddsm", 42, table)
    assert set(run.predictions.condition) == set(config.CONDITIONS)
    assert set(run.trajectory.condition) == {"adabn", "tent", "causal"} and run.trajectory.groupby("condition").stopped.sum().eq(1).all()
    target = run.predictions[(run.predictions.condition == "causal")]
    assert set(target.split) == {"target"} and len(target) == (table.domain == "cbis_ddsm").sum()


def test_batches_pair_patients_and_depend_on_seed_epoch_and_number_alone(table):
    fold = cohort.leave_one_out(table, "inbreast", 42)
    images = Images(config.DATA / "lesson")
    part = fold[fold.split == "train"]
    one, two = PairedBatches(part, images, 8, 42), PairedBatches(part, images, 8, 42)
    for _ in range(2):
        two[0], two[1]                                                       # looking at others first changes nothing
    one.epoch = two.epoch = 3
    (x, y), (x2, y2) = one[1], two[1]
    assert torch.equal(x[MAMMOGRAPHY], x2[MAMMOGRAPHY]) and torch.equal(y["both"], y2["both"])
    m, p = x["pairs"].T
    assert torch.equal(y[MAMMOGRAPHY]["id"][m], y[HISTOPATHOLOGY]["id"][p])
    one.epoch = 4
    assert not torch.equal(one[1][0][MAMMOGRAPHY], x[MAMMOGRAPHY])


def test_without_shared_patients_pairs_share_a_label(table):
    apart = table.assign(patient=table.domain + table.patient)
    batches = PairedBatches(apart, Images(config.DATA / "lesson"), 8, 42)
    assert batches.by_label
    x, y = batches[0]
    m, p = x["pairs"].T
    allowed = y[MAMMOGRAPHY]["allowed"][m] & y[HISTOPATHOLOGY]["allowed"][p]
    assert len(m) and torch.equal(allowed, y["both"]) and allowed.any(1).all()
    bad = [cohort.malignant((y[k]["allowed"] * torch.tensor([1, 2, 4, 8])).sum(1).numpy()) for k in config.MODALITIES]
    same_id = (y[MAMMOGRAPHY]["id"][:, None] == y[HISTOPATHOLOGY]["id"][None]).numpy()
    assert np.array_equal(same_id, bad[0][:, None] == bad[1][None])


def test_outlines_stay_on_their_lesions_under_augmentation(table):
    x, y = PairedBatches(table, Images(config.DATA / "lesson"), 16, 42)[0]
    inside = x[MAMMOGRAPHY].float()[y[MAMMOGRAPHY]["mask"]].mean()
    outside = x[MAMMOGRAPHY].float()[~y[MAMMOGRAPHY]["mask"]].mean()
    assert inside > outside + 80


def test_predictions_do_not_depend_on_the_order_of_rows(table):
    model = learner.build(TINY).eval()
    images, shuffled = Images(config.DATA / "lesson"), table.sample(frac=1, random_state=0)
    a, b = (predict(model, t, images)[0].set_index("sample").sort_index() for t in (table, shuffled))
    assert np.allclose(a.p3, b.p3, atol=1e-6) and a.index.equals(b.index)


def test_what_is_missing_or_unknown_is_named(table):
    with pytest.raises(Problem, match="no method 'oours'; choose from erm"):
        methods.chosen("erm,oours")
    with pytest.raises(Problem, match="no domain 'bacch'"):
        learner.train(TINY, "erm", "bacch", 42, table)
    with pytest.raises(Problem, match="run 03a_pretrain first"):
        learner.train(PROFILES["lesson"], "erm", "bach", 42, table)
    if not torch.cuda.is_available():
        with pytest.raises(Problem, match="trains on a GPU, and torch finds none"):
            learner.train(dataclasses.replace(TINY, device="cuda"), "erm", "bach", 42, table)
    (config.DATA / "lesson" / "images" / "camelyon.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(Problem, match="camelyon.npy cannot be read"):
        learner.train(TINY, "erm", "bach", 42, table)
