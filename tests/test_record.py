"""record: atomic files, seeds, and run folders that are whole or say what to do."""
import contextlib
import json
import os
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import config, record
from xmodal.config import PROFILES, Problem
from xmodal.runtime import doctor, files


def predictions(patients=6, condition="source"):
    rng = np.random.default_rng(3)
    p0, p1, p2, p3 = rng.dirichlet(np.ones(4), patients).T
    table = pd.DataFrame({
        "sample": [f"bach/{i}" for i in range(patients)], "domain": "bach", "modality": "histopathology",
        "split": ["validation", "source test", "target"] * (patients // 3), "condition": condition,
        "allowed": 12, "truth": 3, "grade": 3, "p0": p0, "p1": p1, "p2": p2, "p3": p3,
        "severity": rng.normal(size=patients), "grade_pred": 2, "has_mask": False,
        "dice": np.nan, "iou": np.nan, "x0": np.nan, "y0": np.nan, "x1": np.nan, "y1": np.nan,
        "box_score": np.nan, "density": "", "lesion_type": "", "lesion_shape": "", "diameter_mm": np.nan})
    table.insert(1, "patient", [f"p{i}" for i in range(patients)])
    return table


def write(method="erm", held_out="bach", seed=42, profile=PROFILES["lesson"], **changed):
    parts = {"config": {"profile": asdict(profile), "method": method, "held_out": held_out, "seed": seed},
             "model_state": {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)},
             "history": pd.DataFrame({"epoch": [0, 1], "loss": [1 / 3, 0.1]}), "predictions": predictions(),
             "embeddings": {"z": np.eye(3, dtype="float32"), "sample": pd.Series(["a", "bb", "c"]),
                            "truth": np.arange(3)}}
    return record.save_run(record.run_dir(profile, method, held_out, seed), **(parts | changed))


# ---- files and seeds ---------------------------------------------------------------------------------------

def test_atomic_leaves_the_old_file_or_the_new_one_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "a.npy"
    with files.atomic(path) as partial:
        assert partial.parent == path.parent and partial.suffix == ".npy" and not path.exists()
        partial.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_seed_fixes_python_numpy_and_torch():
    import random

    def draw():
        return random.random(), np.random.rand(), torch.rand(3).tolist()
    record.seed_everything(42)
    first = draw()
    record.seed_everything(42)
    assert draw() == first
    record.seed_everything(1234)
    assert draw() != first
    assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1


def test_the_environment_is_plain_json_and_the_same_for_every_seed():
    record.seed_everything(42)
    first = doctor.environment()
    record.seed_everything(1234)
    assert doctor.environment() == first == json.loads(json.dumps(first))
    assert first["packages"]["torch"] == torch.__version__.split("+")[0] and first["cpu"]


# ---- a run -------------------------------------------------------------------------------------------------

def test_a_run_comes_back_as_it_was_written(home):
    folder = write()
    assert folder == home / "runs" / "lesson" / "erm" / "bach" / "seed_42"
    run = record.load_run(folder)
    pd.testing.assert_frame_equal(run.predictions, predictions(), check_dtype=False)
    assert run.history.loss.tolist() == [1 / 3, 0.1], "every digit of the history is kept"
    names = run.embeddings["sample"]
    assert names.tolist() == ["a", "bb", "c"] and names.dtype.kind == "U"
    assert run.embeddings["z"].dtype == np.float32
    assert torch.equal(run.state["w"], torch.arange(6.0).reshape(2, 3))
    assert run.config["method"] == "erm" and run.trajectory is None


def test_the_same_run_gives_the_same_bytes(home):
    first = {p.name: p.read_bytes() for p in write().iterdir()}
    assert {p.name: p.read_bytes() for p in write().iterdir()} == first
    assert set(first) == {*record.FILES, "done"}, "no temporary file stays"


def test_done_means_finished_with_this_config(home):
    folder = write()
    made = {"profile": asdict(PROFILES["lesson"]), "method": "erm", "held_out": "bach", "seed": 42}
    assert record.is_done(folder, made)
    assert not record.is_done(folder, made | {"seed": 1234})
    (folder / "history.csv").write_text("epoch\n")
    assert not record.is_done(folder, made), "a damaged run is not done"
    assert not record.is_done(folder.parent / "seed_1", made)


@pytest.mark.parametrize("name", record.FILES)
def test_any_damaged_or_missing_file_is_a_problem_naming_folder_and_remedy(home, name):
    folder = write()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Problem, match=f"{folder}.*{name}.*03_train"):
        record.load_run(folder)
    (folder / name).unlink()
    with pytest.raises(Problem, match=f"{folder}.*03_train"):
        record.collect("lesson")


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": 1}'])
def test_a_damaged_done_is_a_problem(home, text):
    folder = write()
    (folder / "done").write_text(text)
    with pytest.raises(Problem, match="damaged"):
        record.load_run(folder)


def test_a_run_without_done_is_unfinished(home):
    folder = write()
    (folder / "done").unlink()
    with pytest.raises(Problem, match="not finished"):
        record.load_run(folder)
    with pytest.raises(Problem, match="no finished runs"):
        record.collect("lesson")


def test_a_failed_save_leaves_no_done_and_no_partial(home):
    with pytest.raises(Problem, match="p1"):
        write(predictions=predictions().assign(p1=2.0))
    assert not (home / "runs").exists(), "the predictions are checked before anything is written"
    with pytest.raises(ValueError):
        write(embeddings={"bad": np.array([{}, None], dtype=object)})  # could only be pickled
    folder = record.run_dir("lesson", "erm", "bach", 42)
    assert list(folder.iterdir()) == []


def test_a_save_cut_short_anywhere_is_never_taken_for_done(home, monkeypatch):
    folder = write()
    move = os.replace
    for survived in range(8):
        calls = iter(range(100))
        def cut(a, b):
            if next(calls) == survived:
                raise KeyboardInterrupt
            move(a, b)
        monkeypatch.setattr(os, "replace", cut)
        with contextlib.suppress(KeyboardInterrupt):
            write(history=pd.DataFrame({"epoch": [0], "loss": [float(survived)]}))
        assert (folder / "done").exists() == (survived == 7), "six files and then done; here nothing was cut"
    assert record.load_run(folder).history.loss.tolist() == [7.0]
    assert not [p for p in folder.iterdir() if "partial" in p.name]


@pytest.mark.parametrize("column, value", [
    ("condition", "tta"), ("split", "test"), ("domain", "x"), ("p0", np.nan), ("grade_pred", 4),
    ("modality", "mri"), ("allowed", 0)])
def test_predictions_that_do_not_fit_are_refused_at_the_door(column, value):
    with pytest.raises(Problem, match=column):
        record.check_predictions(predictions().assign(**{column: value}), "here")
    with pytest.raises(Problem, match=column):
        record.check_predictions(predictions().drop(columns=column), "here")


def test_a_patient_in_two_splits_is_refused():
    with pytest.raises(Problem, match="two splits"):
        record.check_predictions(predictions().assign(patient="p0"), "here")


def test_adaptation_adds_its_conditions_and_keeps_the_rest(home):
    folder = write()
    state = (folder / "model.safetensors").read_bytes()
    steps = pd.DataFrame({"condition": "tent", "domain": "bach", "step": [0], "entropy": [0.5], "auc": [0.7],
                          "stopped": [True]})
    record.update_run(folder, predictions(condition="tent"), steps)
    record.update_run(folder, predictions(condition="tent").assign(p0=0.0), steps)
    run = record.load_run(folder)
    table = run.predictions
    rows = table.condition.value_counts().to_dict()
    assert rows == {"source": 6, "tent": 6}, "a second time replaces the first"
    assert (table.p0[table.condition == "tent"] == 0).all() and run.trajectory.stopped.tolist() == [True]
    assert (folder / "model.safetensors").read_bytes() == state
    write()
    assert record.load_run(folder).trajectory is None, "a new training forgets the adaptation of the old"


def test_collect_names_method_domain_and_seed(home):
    write("erm", "bach", 42)
    write("ours", "camelyon", 1234)
    table = record.collect(PROFILES["lesson"])
    runs = set(zip(table.method, table.held_out, table.seed))
    assert len(table) == 12 and runs == {("erm", "bach", 42), ("ours", "camelyon", 1234)}
    with pytest.raises(Problem, match="no finished runs.*03_train"):
        record.collect("paper")


def test_cohorts_are_not_mixed(home):
    settings = {"profile": asdict(PROFILES["lesson"]), "held_out": "bach", "seed": 42}
    write(config=settings | {"method": "erm", "cohort": "a"})
    write("ours", config=settings | {"method": "ours", "cohort": "b"})
    with pytest.raises(Problem, match="different cohorts.*03_train"):
        record.collect("lesson")


def test_profiles_are_not_mixed(home):
    write("erm")
    write("ours", profile=replace(PROFILES["lesson"], epochs=1))
    with pytest.raises(Problem, match="other settings.*delete"):
        record.collect("lesson")


def test_a_run_of_another_profile_or_place_is_refused(home):
    folder = write(profile=PROFILES["paper"])
    other = record.run_dir("lesson", "erm", "bach", 42)
    other.parent.mkdir(parents=True)
    folder.rename(other)
    with pytest.raises(Problem, match="paper.*not mixed"):
        record.collect("lesson")
    write("ours").rename(other.parent / "seed_7")
    other.rename(home / "away")
    with pytest.raises(Problem, match="move it there"):
        record.collect("lesson")


def test_run_dir_refuses_an_unknown_domain():
    with pytest.raises(Problem, match="choose one of"):
        record.run_dir("lesson", "erm", "ddsm", 42)
    assert record.run_dir("lesson", "erm", "bach", 42) == config.RUNS / "lesson/erm/bach/seed_42"


# ---- hostile and damaged -----------------------------------------------------------------------------------

@pytest.mark.parametrize("content", [
    "[]", "3", "null", "[" * 100_000, '{"../x": "0"}', '{"/dev/zero": "0"}', '{"config.json": 3}', "\xff"])
def test_a_done_that_is_none_is_one_sentence(home, content):
    folder = write()
    (folder / "done").write_text(content)
    with pytest.raises(Problem, match="is damaged .*; delete the folder and run 03_train"):
        record.load_run(folder)
    assert not record.is_done(folder, {})


@pytest.mark.parametrize("settings", [[], {}, {"profile": {}}, {"profile": "lesson", "method": "erm"},
                                      {"profile": "lesson", "method": "erm", "held_out": "x", "seed": 1}])
def test_settings_that_name_no_run_are_one_sentence(home, settings):
    folder = write(config=settings)
    with pytest.raises(Problem, match="cannot be read .*; delete the folder and run 03_train"):
        record.load_run(folder)


def test_a_run_is_read_once_nobody_else_writes_it(home, monkeypatch):
    folder = write()
    held_while_read = []
    load = record.load_run

    def watched(path):
        held_while_read.append(path in files._held)
        return load(path)
    monkeypatch.setattr(record, "load_run", watched)
    record.update_run(folder, predictions(condition="tent"))
    assert held_while_read == [True] and folder not in files._held
    missing = folder.parent / "seed_7"
    with pytest.raises(Problem, match="There is no run .*seed_7"):
        record.update_run(missing, predictions(condition="tent"))
    assert not missing.exists()


def test_a_repository_around_the_checkout_is_not_asked(tmp_path, monkeypatch):
    (tmp_path / "checkout").mkdir()
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(config, "HOME", tmp_path / "checkout")
    monkeypatch.setattr(doctor, "_git", lambda *command: pytest.fail("git is asked"))
    assert doctor.commit() == ""
