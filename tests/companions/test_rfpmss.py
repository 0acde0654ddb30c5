"""RFPMSS on studies whose answer is known: retrieval, variants, consistency, the same bits after a cut."""
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal.companions import measures, rfpmss, rfpmss_data, rfpmss_study, rfpmss_training
from xmodal.config import Problem

SMALL = rfpmss.Settings(width=24, depth=0, heads=2, common=32, common_heads=2, joint=28, anchors=6, chosen=3,
                        length=24, layers=1, epochs=16, batch=40, lr=5e-3, patches="pixels", bank=20)


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


VARIANTS = {**rfpmss.TABLE1, **rfpmss.TABLE4A, **rfpmss.TABLE5}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_the_terms_it_names(name):
    variant = VARIANTS[name]
    studies = toy(24)
    rows = np.arange(24)
    settings = replace(SMALL, epochs=1, batch=12, depth=1)
    model, history = rfpmss_training.train(studies, rows, settings, variant, 0)
    terms = {"language": variant.language, "study": variant.study, "pairs": variant.pairs,
             "labels": variant.labels,
             "consistency": variant.across or variant.within in ("anchors", "self"),
             "reconstruction": variant.within == "reconstruction"}
    assert set(history) - {"epoch"} == {k for k, on in terms.items() if on}
    out = rfpmss_study.represent(model, studies, rows)
    torch.testing.assert_close(out["view_weights"].sum(1), torch.ones(24))
    assert (out["attention"]["magnified"].sum(1) <= 1 + 1e-5).all() and out["v"].shape == (24, 28)


def test_a_row_of_the_tables_differs_from_the_whole_in_what_it_asks_about():
    whole = rfpmss.OURS
    assert rfpmss.TABLE4A["without both"] == replace(whole, within="", across=False)
    assert rfpmss.TABLE5["5 generation only"] == replace(whole, study=False)
    assert rfpmss.TABLE5["6 contrast only"] == replace(whole, language=False)
    assert not rfpmss.TABLE4A["without both"].consistent and rfpmss.TABLE5["5 generation only"].consistent


def features(n=40, seed=0, moved=0):
    """Outputs of a model for n samples; the joint features are those of `moved` places further on."""
    z = torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))
    modalities = rfpmss_data.MODALITIES
    return {"inputs": dict.fromkeys(modalities, z), "joint": dict.fromkeys(modalities, z.roll(moved, 0)),
            "v": z}


def with_anchors(seed=1):
    """A model whose input and joint anchors are the same six."""
    model = rfpmss.RFPMSS(replace(SMALL, joint=32), rfpmss.OURS, 12, 20, 4)
    anchors = torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.anchors.values():
            parameter.copy_(anchors)
    return model


def test_consistency_is_least_where_assignments_agree():
    model = with_anchors()
    losses = []
    for moved in (0, 1):
        consistency = rfpmss_training.Consistency(SMALL, rfpmss.OURS)
        losses.append(consistency(model, features(moved=moved)).item())
    assert losses[0] < 0.9 * losses[1]


def test_consistency_is_the_weighted_sum_over_all_couples():
    """Eq. 6 written out: 7 couples with the report at weight 1, 9 others at 0.1, each both ways."""
    model, out = with_anchors(), features(moved=3)
    scores_before = rfpmss_training.similarity(out["inputs"]["report"], model.anchors["report_input"])
    scores_after = rfpmss_training.similarity(out["joint"]["report"], model.anchors["report_joint"])
    consistency = rfpmss_training.Consistency(SMALL, rfpmss.OURS)
    of_before, of_after = consistency.assigned(torch.stack([scores_before, scores_after]))
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    of_one = cross_entropy(scores_before / 0.1, of_after) + cross_entropy(scores_after / 0.1, of_before)
    torch.testing.assert_close(consistency(model, out), (7 * 1.0 + 9 * 0.1) * of_one)


def test_past_samples_meet_the_anchors_as_they_are_now():
    """What is remembered are features: after the anchors moved, a second step is as if both batches came at
    once, and no more than `bank` samples stay."""
    consistency = rfpmss_training.Consistency(replace(SMALL, bank=50), rfpmss.OURS)
    first, second = features(seed=0), features(seed=3)
    consistency(with_anchors(seed=1), first)
    moved = with_anchors(seed=2)
    got = consistency(moved, second)
    fresh = rfpmss_training.Consistency(replace(SMALL, bank=50), rfpmss.OURS)
    fresh.load_state_dict({"input": torch.stack([first["v"]] * 4), "joint": torch.stack([first["v"]] * 4)})
    torch.testing.assert_close(got, fresh(moved, second))
    assert consistency.state_dict()["joint"].shape == (4, 50, 32)
    assert torch.equal(consistency.state_dict()["joint"][0, :40], second["v"]), "the newest come first"
    none = rfpmss_training.Consistency(replace(SMALL, bank=0), rfpmss.OURS)
    assert not torch.isclose(got, none(moved, second)), "the past takes part in the assignment"


def test_assignments_are_decided_however_close_the_cosines_lie():
    scores = 0.01 * torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    consistency = rfpmss_training.Consistency(SMALL, rfpmss.OURS)
    p = consistency.assigned(scores)
    torch.testing.assert_close(p, consistency.assigned(5 + 30 * scores))
    torch.testing.assert_close(p.sum(2), torch.full((2, 40), 3.0), atol=1e-3, rtol=0)
    assert (p - 0.5).abs().mean() > 0.25, "0 where every anchor is given by half"


def test_a_run_is_kept_and_the_same_seed_gives_the_same_bits(home):
    studies = toy(60)
    settings = replace(SMALL, epochs=1)
    studies.table.split = ["train"] * 40 + ["test"] * 20
    training = rfpmss_study.Training("whole", rfpmss.OURS, settings, np.arange(40), report=True)
    first = rfpmss_study.run("lesson", studies, training, 1)
    model, _ = rfpmss_study.again("lesson", studies, training, 1)
    second, _ = rfpmss_training.train(studies, training.train, settings, rfpmss.OURS, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), second.state_dict().values()))
    assert {"auc", "auc_10", "auc_1", "bleu4", "rouge_l", "bleu4_beam_few"} <= set(first["scores"])
    assert first["retrieval"].n.eq(20).all() and first["scores"].site.tolist() == ["studies"]
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


def test_the_trainings_of_the_tables_are_run_side_by_side_and_answer_by_name_and_seed(home):
    """Each row has its training on the first site, but for those that ask for others, all on one test."""
    studies = toy(60)
    studies.table["site"] = ["a", "b"] * 30
    studies.table["split"] = ["train"] * 40 + ["test"] * 20
    plan = rfpmss_study.trainings(studies.table, replace(SMALL, anchors=16, chosen=8))
    assert len(plan) == 3 + 1 + 5 + 6 + len(rfpmss_study.GRID) + 2
    assert {training.settings.epochs for name, training in plan.items()} == {SMALL.epochs, 2 * SMALL.epochs}
    assert plan["K 4, K' 2"].settings.anchors == 4
    assert plan["RFPMSS"].train.tolist() == plan["without both"].train.tolist() == list(range(0, 40, 2))
    assert plan["b alone"].train.tolist() == list(range(1, 40, 2)) and len(plan["all sites"].train) == 40
    short = replace(SMALL, epochs=1, length=8)
    few = {name: plan[name]._replace(settings=short) for name in ("without both", "b alone")}
    done = rfpmss_study.run_all("lesson", studies, few, (1, 2))
    assert list(done) == [("without both", 1), ("b alone", 1), ("without both", 2), ("b alone", 2)]
    retrieval = done["b alone", 1]["retrieval"]
    assert retrieval.n.eq(10).all() and set(retrieval.site) == {"a", "b"} and len(retrieval) == 2 * 14
    assert not retrieval.equals(done["b alone", 2]["retrieval"])


def test_a_probe_learns_from_the_labels_it_is_given():
    """Features that separate the classes but for noise: the more labels, the better, and one of each class
    at the least."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    x = rng.normal(size=(400, 20)) + 0.8 * truth[:, None] * (np.arange(20) < 4)
    areas = [rfpmss_study.probes(x[:200], x[200:], truth[:200], truth[200:], seed) for seed in range(8)]
    means = pd.DataFrame(areas).mean()
    assert means.auc > means.auc_10 + 0.03 and means.auc_10 > means.auc_1 + 0.03 and means.auc_1 > 0.5
