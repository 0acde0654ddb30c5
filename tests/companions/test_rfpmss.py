"""RFPMSS on studies whose answer is known: retrieval, variants, consistency, the same bits after a cut."""
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal.companions import measures, rfpmss, rfpmss_data, rfpmss_study, rfpmss_training
from xmodal.config import Problem

SMALL = rfpmss.Settings(width=32, depth=1, heads=2, anchors=6, chosen=3, length=24, epochs=14, batch=40,
                        lr=5e-3, patches="pixels", bank=20)


def grade_report(grades):
    """A report of four graded factors, such as "mass low. margin high. ..."."""
    names = ("mass", "margin", "density", "shadow")
    levels = ("low", "middle", "high")
    return " ".join(f"{name} {levels[grade]}." for name, grade in zip(names, grades))


def toy(n=160, seed=0):
    """Studies whose four factors show in every view's tokens and in the report's words."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 4)).astype(np.float32)

    def tokens(p, features):
        mixed = torch.as_tensor(factors @ rng.normal(size=(4, features)).astype(np.float32))
        noise = torch.as_tensor(rng.normal(size=(n, p, features)).astype(np.float32))
        return mixed[:, None].expand(n, p, features) + 0.3 * noise

    grades = np.digitize(factors, [-0.5, 0.5])
    table = pd.DataFrame({
        "patient": [f"p{i}" for i in range(n)],
        "label": np.array(["normal", "benign", "malignant"])[grades[:, 0]],
        "report": list(map(grade_report, grades)),
        "site": "studies",
        "split": np.where(np.arange(n) < 120, "train", "test"),
    })
    views = {view: tokens(4, 12) for view in rfpmss_data.VIEWS}
    return rfpmss_data.Studies(table, views, tokens(5, 384), torch.ones(n, 5, dtype=torch.long))


@pytest.fixture(scope="module")
def trained():
    studies = toy()
    rows = [rfpmss_data.rows_of(studies.table, split) for split in ("train", "test")]
    models = {}
    for name, variant in (("whole", rfpmss.OURS), ("no alignment", rfpmss.NO_ALIGNMENT)):
        models[name], _ = rfpmss_training.train(studies, rows[0], SMALL, variant, 42)
    return studies, rows, models


def test_retrieval_is_far_above_chance_and_at_chance_without_alignment(trained):
    studies, (_, test), models = trained
    report_to_study = {}
    for name, model in models.items():
        out = rfpmss_study.represent(model, studies, test)
        report_to_study[name] = rfpmss_study.retrieval_table(out).iloc[0]
    whole, without = report_to_study["whole"], report_to_study["no alignment"]
    chance = measures.chance(len(test))
    assert whole["R@10"] > 2.5 * chance["R@10"] and whole.MedR < chance["MedR"] / 3
    assert abs(without.MeanR - chance["MeanR"]) < 4 * len(test) / np.sqrt(12 * len(test))


def test_a_poisoned_report_is_not_found(trained):
    studies, (_, test), models = trained
    out = rfpmss_study.represent(models["whole"], studies, test)
    cosine = rfpmss_study.cosine(out["v"], out["joint"]["report"])
    before = measures.ranks(cosine)
    drawn = rfpmss_study.poison_at_random(out)
    assert (drawn.other != drawn.study).all() and drawn.before.tolist() == before.tolist()
    assert drawn.equals(rfpmss_study.poison_at_random(out, 42)), "the seed says whose report it is"
    assert (rfpmss_study.poison_at_random(out, 1).other != drawn.other).any()
    assert drawn.after.median() > 3 * drawn.before.median()
    swapped = rfpmss_data.Studies(studies.table, studies.tokens, studies.reports.clone(), studies.mask)
    swapped.reports[test] = swapped.reports[test[::-1].copy()]            # every study gets another's report
    out = rfpmss_study.represent(models["whole"], swapped, test)
    after = measures.ranks(rfpmss_study.cosine(out["v"], out["joint"]["report"]))
    assert np.median(after) > 3 * np.median(before)


def test_what_was_never_aligned_is_not_hurt_by_poison():
    """Random vectors: the report least like a study comes last, whatever the model; a random one does not."""
    torch.manual_seed(0)
    out = {"v": torch.randn(100, 16), "joint": {"report": torch.randn(100, 16)}}
    drawn = rfpmss_study.poison_at_random(out)
    assert abs(drawn.before.mean() - 50.5) < 10 and abs(drawn.after.mean() - 50.5) < 10
    least_like = int(rfpmss_study.cosine(out["v"], out["joint"]["report"])[0].argmin())
    assert rfpmss_study.poisoned(out, 0, least_like)[1] == 99.5
    with pytest.raises(Problem, match="two studies"):
        rfpmss_study.poison_at_random({"v": torch.randn(1, 16), "joint": {}})


@pytest.mark.parametrize("name", [*rfpmss.TABLE4A, *rfpmss.TABLE5])
def test_every_variant_trains_the_terms_it_names(name):
    variant = {**rfpmss.TABLE4A, **rfpmss.TABLE5}[name]
    studies = toy(24)
    rows = np.arange(24)
    model, history = rfpmss_training.train(studies, rows, replace(SMALL, epochs=1, batch=12), variant, 0)
    terms = {"language": variant.language, "study": variant.study, "pairs": variant.pairs,
             "labels": variant.labels,
             "consistency": variant.across or variant.within in ("anchors", "self"),
             "reconstruction": variant.within == "reconstruction"}
    assert set(history) - {"epoch"} == {k for k, on in terms.items() if on}
    out = rfpmss_study.represent(model, studies, rows)
    torch.testing.assert_close(out["view_weights"].sum(1), torch.ones(24))
    assert (out["attention"]["magnified"].sum(1) <= 1 + 1e-5).all() and out["v"].shape == (24, 32)


def test_consistency_is_least_where_assignments_agree():
    modalities = rfpmss_data.MODALITIES
    model = rfpmss.RFPMSS(SMALL, rfpmss.OURS, 12, 20, 4)
    with torch.no_grad():
        for m in modalities:
            model.anchors[f"{m}_input"].copy_(model.anchors["report_input"])
            model.anchors[f"{m}_joint"].copy_(model.anchors["report_input"])
    z = torch.randn(40, 32)
    same = {"inputs": dict.fromkeys(modalities, z), "joint": dict.fromkeys(modalities, z)}
    other = {"inputs": same["inputs"], "joint": dict.fromkeys(modalities, z.flip(0))}
    losses = [rfpmss_training.Consistency(SMALL, rfpmss.OURS)(model, out).item() for out in (same, other)]
    assert losses[0] < losses[1]


def test_a_run_is_kept_and_the_same_seed_gives_the_same_bits(home):
    studies = toy(60)
    settings = replace(SMALL, epochs=1)
    training = rfpmss_study.Training("whole", rfpmss.OURS, settings, np.arange(40), np.arange(40, 60),
                                     report=True)
    first = rfpmss_study.run("lesson", studies, training, 1)
    model, _ = rfpmss_study.again("lesson", studies, training, 1)
    second, _ = rfpmss_training.train(studies, training.train, settings, rfpmss.OURS, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), second.state_dict().values()))
    assert {"auc", "bleu4", "rouge_l", "bleu4_beam_few"} <= set(first["scores"])
    scores = first["scores"].iloc[0]
    both = first["retrieval"].iloc[:2]
    assert scores["R@10_low"] < both["R@10"].mean() < scores["R@10_high"]
    again = rfpmss_study.run("lesson", studies, training, 1)
    pd.testing.assert_frame_equal(first["retrieval"], again["retrieval"])


def test_a_training_that_was_cut_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    studies = toy(60)
    rows = np.arange(40)
    settings = replace(SMALL, epochs=3)
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole, history = rfpmss_training.train(studies, rows, settings, rfpmss.OURS, 1)
    objective, batches = rfpmss_training.objective, itertools.count()

    def cut(*args):
        """Stops after two batches, of one epoch each."""
        if next(batches) == 2:
            raise KeyboardInterrupt
        return objective(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rfpmss_training, "objective", cut)
        rfpmss_training.train(studies, rows, settings, rfpmss.OURS, 1, resume=checkpoint)
    model, again = rfpmss_training.train(studies, rows, settings, rfpmss.OURS, 1, resume=checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), model.state_dict().values()))
    pd.testing.assert_frame_equal(history, again)


def test_the_trainings_of_the_tables_are_run_side_by_side_and_answer_by_name(home):
    """Each row of Tables 3 to 5 has its training, on its own patients."""
    studies = toy(60)
    table = studies.table.assign(site=["a", "b"] * 30, split=["train"] * 40 + ["test"] * 20)
    plan = rfpmss_study.trainings(table, replace(SMALL, anchors=16, chosen=8), 1)
    assert len({training.name for training in plan.values()}) == len(plan) == 2 + 5 + 6 + 4 + 3
    assert plan["RFPMSS"].settings.epochs == SMALL.epochs and plan["loss", "RFPMSS"].settings.epochs == 1
    assert plan[4, 2].settings.anchors == 4 and (16, 8) not in plan and ("joint", "a") not in plan
    assert plan["RFPMSS"].test.tolist() == list(range(40, 60, 2))
    assert plan["joint", "b"].test.tolist() == list(range(41, 60, 2))
    assert plan["apart", "b"].train.tolist() == list(range(1, 40, 2)) and len(plan["joint", "b"].train) == 40
    short = replace(SMALL, epochs=1, length=8)
    few = {key: plan[key]._replace(settings=short) for key in ("RFPMSS", ("apart", "b"))}
    done = rfpmss_study.run_all("lesson", studies, few, 1)
    assert list(done) == list(few) and done["apart", "b"]["retrieval"].n.eq(10).all()
