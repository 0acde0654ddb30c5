"""MIRROR: losses in closed form, the study and its controls, survival of real patients."""
import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from data_scripts import breast_expression
from xmodal.companions import mirror, mirror_control, mirror_rna, mirror_study, mirror_world, study, tasks
from xmodal.config import Problem
from xmodal.controls.verdict import judge
from xmodal.losses import info_nce
from xmodal.runtime import checkpoints

LESSON = mirror.SETTINGS["lesson"]
TINY = dataclasses.replace(LESSON, epochs=2)


# ---- losses ------------------------------------------------------------------------------------------------

def test_style_divergence_is_that_of_torch():
    x = torch.randn(6, 8)
    normal = torch.distributions.Normal
    drawn_from = normal(x[:, :4], (x[:, 4:] / 2).exp())
    expected = torch.distributions.kl_divergence(drawn_from, normal(0.0, 1.0)).mean()
    assert torch.allclose(mirror.draw_style(x)[1], expected, atol=1e-6)
    assert mirror.draw_style(torch.zeros(3, 8))[1] == 0


def test_cluster_loss_is_the_two_divergences_and_zero_for_equal_assignments():
    torch.manual_seed(0)
    a, b = (mirror.assign(torch.randn(5, 4), torch.randn(7, 4)) for _ in range(2))
    one_way = F.kl_div(b, a, log_target=True, reduction="batchmean")
    other_way = F.kl_div(a, b, log_target=True, reduction="batchmean")
    assert torch.allclose(mirror.symmetric_kl(a, b), one_way + other_way, atol=1e-5)
    assert mirror.symmetric_kl(a, a) == 0
    assert torch.allclose(a.exp().sum(1), torch.ones(5))


def test_alignment_pairs_expression_with_slides_in_both_denominators():
    """Eq. 8 with T_i . S_j in the second denominator is a symmetric cross-entropy of similarities."""
    torch.manual_seed(0)
    s, t, ids = torch.randn(6, 4), torch.randn(6, 4), torch.arange(6)
    logits = F.normalize(s, dim=1) @ F.normalize(t, dim=1).T / 0.1
    expected = (F.cross_entropy(logits, ids) + F.cross_entropy(logits.T, ids)) / 2
    assert torch.allclose(info_nce(s, t, ids, ids, 0.1, symmetric=True), expected, atol=1e-5)


def test_retention_hides_genes_and_patches_before_the_encoders_and_scores_only_these():
    """The encoders read visible genes, scaled up, and visible patches; the loss is that of the others."""
    torch.manual_seed(0)
    model = mirror.Mirror(12, 48, TINY)
    seen = []
    model.rna.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.slide.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    bags, expression = torch.randn(6, 9, 12), torch.randn(6, 48)
    model.of_hidden_genes(expression)
    assert (seen[0] == 0).sum(1).tolist() == [36] * 6
    scale = (seen[0] / expression)[seen[0] != 0]
    assert torch.allclose(scale, torch.tensor(4.0)), "the others are scaled up"
    model.of_hidden_patches(bags)
    assert seen[1].shape == (6, 2, 12), "two of nine patches are visible"
    for layer in model.retain:
        torch.nn.init.zeros_(layer.rebuild[2].weight)
        torch.nn.init.zeros_(layer.rebuild[2].bias)
    assert model.of_hidden_genes(torch.ones(6, 48)).item() == pytest.approx(1)
    assert model.of_hidden_patches(torch.full((6, 9, 12), 2.0)).item() == pytest.approx(4)


def test_as_printed_tokens_are_hidden_after_the_encoder_and_constant_ones_cost_nothing():
    torch.manual_seed(0)
    layer = mirror.PrintedRetention(8, 2, tokens=0, ratio=0.75)
    torch.nn.init.zeros_(layer.out.weight)
    layer.out.bias.data.fill_(3.0)
    hidden = []

    def count(_, args):
        hidden.append((args[0][:, 1:] == layer.mask).all(-1).sum(1).tolist())

    layer.block.register_forward_pre_hook(count)
    assert float(layer(torch.randn(2, 8), torch.full((2, 8, 8), 3.0))) == 0
    assert hidden == [[6, 6]]


def test_the_weights_of_the_terms_are_settings():
    torch.manual_seed(0)
    bags, expression = torch.randn(6, 9, 12), torch.randn(6, 48)
    weights = {"align": 2.0, "retention": 0.5, "style": 0.0, "cluster": 3.0}
    plain = mirror.Mirror(12, 48, TINY)
    weighted = mirror.Mirror(12, 48, dataclasses.replace(TINY, **weights))
    weighted.load_state_dict(plain.state_dict())
    terms = []
    for model in (plain, weighted):
        torch.manual_seed(1)
        terms.append({name: float(term) for name, term in model.loss(bags, expression).items()})
    assert terms[1] == pytest.approx({name: weights[name] * value for name, value in terms[0].items()})


@pytest.mark.parametrize("term", mirror.TERMS)
def test_every_loss_can_be_left_out_and_reaches_both_encoders(term):
    torch.manual_seed(0)
    model = mirror.Mirror(12, 48, TINY, terms=(term,))
    terms = model.loss(torch.randn(6, 9, 12), torch.randn(6, 48))
    assert set(terms) == {term}
    terms[term].backward()
    for part in (model.slide, model.rna):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0


# ---- the study ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cohort():
    return mirror_world.draw(120, seed=1)


def test_a_study_gives_the_same_bits_is_read_back_and_damage_is_made_anew(cohort, tmp_path, caplog):
    five = dict.fromkeys(["MIRROR", "ABMIL", "PORPOISE", "linear", "TANGLE"], [0])

    def study(methods, folder):
        return mirror_study.study(cohort, methods, TINY, 42, tmp_path / folder)["tasks"]

    first = study(five, "a")
    ours = study({"MIRROR": [0]}, "b")
    assert first[first.method == "MIRROR"].reset_index(drop=True).equals(ours)
    assert first.groupby("method").size().eq(3).all() and first.value.between(0, 1).all()
    folder = tmp_path / "a" / "MIRROR" / "all" / "seed_42" / "fold_0"
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert study(five, "a").equals(first)
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    (folder / "tasks.csv").write_text("damaged")
    assert study({"MIRROR": [0]}, "a").equals(ours) and "damaged" in caplog.text
    assert not checkpoints.finished(folder, {"another": "config"})


def test_a_training_that_was_cut_goes_on_to_the_same_bits(cohort, tmp_path, monkeypatch):
    """Cut while the second of three epochs is written, it trains one and a half epochs more, not three."""
    settings = dataclasses.replace(TINY, epochs=3)
    whole = mirror_study.study(cohort, {"MIRROR": [0]}, settings, 42, tmp_path / "whole")
    epochs = []
    one_epoch, save = study.one_epoch, study.save_checkpoint

    def counted(epoch, *others):
        epochs.append(epoch)
        return one_epoch(epoch, *others)

    def cut(*args):
        if len(epochs) == 2:
            raise KeyboardInterrupt
        save(*args)

    monkeypatch.setattr(study, "one_epoch", counted)
    monkeypatch.setattr(study, "save_checkpoint", cut)
    with pytest.raises(KeyboardInterrupt):
        mirror_study.study(cohort, {"MIRROR": [0]}, settings, 42, tmp_path / "cut")
    monkeypatch.setattr(study, "save_checkpoint", save)
    resumed = mirror_study.study(cohort, {"MIRROR": [0]}, settings, 42, tmp_path / "cut")
    assert epochs == [0, 1, 1, 2]
    assert all(resumed[name].equals(whole[name]) for name in ("tasks", "factors", "attention", "history"))


def test_with_ten_shots_genes_are_chosen_by_these_alone_and_trainings_are_as_long(cohort):
    train, test = tasks.folds(cohort, 42)[0]
    few = dataclasses.replace(TINY, shots=10)
    fold = mirror_study.Fold(cohort, train, test, few, 42, "cpu", [], None)
    known = fold.known("subtype")
    assert len(known) == 20 and set(known) <= set(train)
    other = dataclasses.replace(cohort, subtype=cohort.subtype.copy())
    others = np.setdiff1d(train, known)
    other.subtype[others] = 1 - other.subtype[others]
    again = mirror_study.Fold(other, train, test, few, 42, "cpu", [], None)
    assert fold.inputs.genes == tasks.prepare(other, train, few, 42, [], known).genes
    assert again.settings.shots == 10
    steps = tasks.steps_of(TINY.epochs, len(train), TINY.batch)
    assert tasks.steps_of(fold.as_long(20).epochs, 20, TINY.batch) >= steps > 1


def test_the_comparison_trains_each_method_once_on_its_folds_and_seeds(tmp_path, monkeypatch):
    asked = []

    def study(cohort, methods, settings, seed, *_):
        asked.extend((cohort, name, settings.shots, seed, k) for name, ks in methods.items() for k in ks)
        return {"tasks": pd.DataFrame({"seed": [seed]})}

    monkeypatch.setattr(mirror_study, "study", study)
    results = mirror_study.compare({7: "a", 8: "b", 9: "b"}, TINY, tmp_path)
    assert len(asked) == len(set(asked)) and len(results["tasks"]) == 22
    everywhere = {(name, seed, k) for _, name, shots, seed, k in asked if not shots}
    for name in (*mirror_study.BASELINES, *mirror_study.TABLE3):
        assert {(name, seed, k) for seed in (7, 8, 9) for k in range(5)} <= everywhere
    with_few = {(name, k) for _, name, shots, seed, k in asked if shots}
    assert with_few == set(itertools.product((*mirror_study.BASELINES, "MIRROR"), range(5)))
    assert {cohort for cohort, *_, seed, _ in asked if seed == 7} == {"a"}


# ---- controls ----------------------------------------------------------------------------------------------

def test_no_linear_model_of_the_generated_data_reaches_what_the_factors_do():
    cohort = mirror_world.draw(1500, interplay=0.8)
    train, test = np.arange(1000), np.arange(1000, 1500)
    first, second = cohort.factors["shared"].T
    right = np.column_stack([first, second, first * second])
    data = np.hstack([cohort.bags.mean(1), cohort.expression])
    accuracy = {}
    for name, z in (("factors", right), ("data", data)):
        scores = tasks.probe(z, cohort, train, "subtype")
        accuracy[name] = tasks.score(cohort, test, "subtype", scores)["accuracy"]
    assert accuracy["factors"] > 0.8 and accuracy["data"] < accuracy["factors"] - 0.2, accuracy


def test_genes_are_named_by_what_they_answer_to_and_style_decides_nothing():
    cohort = mirror_world.draw(4000, private=1.5)
    factors = np.hstack([cohort.factors[kind] for kind in ("shared", "rna", "batch")])
    for gene in cohort.expression:
        kind = gene.split("_")[0]
        r = np.corrcoef(factors.T, cohort.expression[gene])[-1, :-1] ** 2
        by_kind = dict(zip(("shared", "rna", "batch"), r.reshape(3, 2).sum(1)))
        own = by_kind.pop(kind, 1)
        if kind != "silent":
            assert own > 2 * max(by_kind.values()), (gene, by_kind)
    before = mirror_world.scores(cohort.factors, 0.5)
    changed = {**cohort.factors, "batch": -cohort.factors["batch"], "stain": cohort.factors["stain"] + 1}
    after = mirror_world.scores(changed, 0.5)
    assert all(np.array_equal(before[task], after[task]) for task in before)
    private = mirror_world.scores({**cohort.factors, "shared": 0 * cohort.factors["shared"]}, 0.5)
    assert np.array_equal(private["survival"], before["survival"]), "survival hangs on what is private"
    with pytest.raises(Problem, match="The interplay is 2"):
        mirror_world.draw(5, interplay=2)


def test_questions_are_answered_by_paired_differences_of_the_same_folds():
    """MIRROR is 0.1 better than linear on every fold, and the folds differ by more than that."""
    rows = [(method, seed, fold, "subtype", "all", "accuracy", 0.5 + fold / 10 + gain)
            for method, gain in (("MIRROR", 0.1), ("linear", 0.0), ("alignment", 0.1)) for seed in (1, 2)
            for fold in range(5)]
    columns = ["method", "seed", "fold", "task", "setting", "measure", "value"]
    for missing in ("TANGLE", "alignment, retention"):
        rows += [(missing, *row[1:]) for row in rows if row[0] == "linear"]
    table = mirror_control.answers(pd.DataFrame(rows, columns=columns), pd.DataFrame())
    row = table[table.against == "linear"].iloc[0]
    assert row.difference == pytest.approx(0.1) and row.runs == 10 and row.verdict == "holds"
    assert table[table.against == "alignment"].verdict.tolist() == ["does not hold"]
    assert set(table.measure) == {"accuracy"}, "without factors nothing is asked of them"


def test_a_control_is_judged_by_its_rules():
    """Known arms: alignment gains as much as the dial says."""
    control = mirror_control.CONTROLS[0]
    rows = [(dose, seed, arm, value) for dose in control.doses for seed in (1, 2, 3)
            for arm, value in (("raw linear", 0.8), ("alignment", 0.8 + dose * (0.25 + seed / 100)),
                               ("pairs shuffled", 0.5))]
    table = pd.DataFrame(rows, columns=["dose", "seed", "arm", "value"])
    assert judge(control, table).verdict.tolist() == ["holds"] * 4
    table.loc[table.arm == "alignment", "value"] = 0.8
    first, *_, last = judge(control, table).verdict
    assert first == last == "does not hold"


# ---- real patients -----------------------------------------------------------------------------------------

def test_rna_arm_and_ridge_cox_on_real_patients():
    """Desmedt's 198 patients: the concordance of the ridge Cox model must clear one half."""
    desmedt = breast_expression.load("desmedt")
    assert (desmedt.genes.shape, desmedt.event.sum()) == ((198, 76), 51)
    settings = dataclasses.replace(TINY, epochs=10)
    arm = mirror_rna.rna_arm(desmedt.genes, desmedt.time, desmedt.event, settings)
    intervals = {name: mirror_rna.c_index(arm, name, n=100) for name in ("cox", "encoder")}
    assert intervals["cox"].low > 0.5 and all(i.low < i.value < i.high for i in intervals.values())
    assert mirror_rna.c_index(arm, "cox", n=1, tau=60).value > 0.5, "also by Uno's C up to five years"
    nki = breast_expression.load("nki295")
    assert (nki.genes.shape, nki.event.sum()) == ((295, 4919), 79)
    with pytest.raises(Problem, match="choose one of desmedt, nki295"):
        breast_expression.load("metabric")
