"""MIRROR: losses in closed form, what they keep of known factors, the study, survival of real patients."""
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from data_scripts import breast_expression
from xmodal.companions import mirror, mirror_rna, mirror_study, paired, tasks
from xmodal.config import Problem
from xmodal.losses import info_nce
from xmodal.record import seed_everything
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


def test_retention_hides_the_share_it_says_and_scores_only_what_is_hidden():
    torch.manual_seed(0)
    layer = mirror.Retention(8, 2, 3, tokens=0, ratio=0.75)
    torch.nn.init.zeros_(layer.out.weight)
    torch.nn.init.zeros_(layer.out.bias)
    goal = torch.ones(2, 8, 3)
    assert float(layer(torch.randn(2, 8), torch.randn(2, 8, 8), goal)) == pytest.approx(1)
    hidden = []

    def count(_, args):
        hidden.append((args[0][:, 1:] == layer.mask).all(-1).sum(1).tolist())

    layer.block.register_forward_pre_hook(count)
    layer(torch.randn(2, 8), torch.randn(2, 8, 8), goal)
    assert hidden == [[6, 6]]


@pytest.mark.parametrize("term", mirror.TERMS)
def test_every_loss_can_be_left_out_and_reaches_both_encoders(term):
    torch.manual_seed(0)
    model = mirror.Mirror(24, 96, TINY, terms=(term,))
    terms = model.loss(torch.randn(6, 25, 24), torch.randn(6, 96))
    assert set(terms) == {term}
    terms[term].backward()
    for part in (model.slide, model.rna):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0


# ---- known factors -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def r2():
    """{training: {side: R2 of each factor}}."""
    cohort = paired.draw(300, side=5)
    train, test = tasks.folds(cohort, 42)[0]
    inputs = tasks.prepare(cohort, train, LESSON, 42)
    by_training = {}
    for name in ("MIRROR", "no alignment", "alignment", "retention"):
        seed_everything(42)
        z, _ = mirror_study.embeddings(name, inputs, train, LESSON, 42)
        by_training[name] = {side: tasks.recovered(z[side], cohort.factors, train, test) for side in z}
    return by_training


def test_alignment_recovers_what_is_shared_and_retention_keeps_what_is_private(r2):
    def both(name, of_slide, of_rna):
        return r2[name]["slide"][of_slide] + r2[name]["rna"][of_rna]

    assert both("MIRROR", "shared", "shared") > both("no alignment", "shared", "shared") + 0.1
    assert both("retention", "slide", "rna") > both("alignment", "slide", "rna") + 0.2
    assert r2["MIRROR"]["slide"]["rna"] < 0.2, "the slide cannot know what is RNA's own"
    assert r2["MIRROR"]["rna"]["slide"] < 0.2


# ---- the study ---------------------------------------------------------------------------------------------

def test_a_study_gives_the_same_bits_resumes_and_makes_damage_anew(tmp_path, caplog):
    cohort = paired.draw(160, seed=1, side=5)
    five = dict.fromkeys(["MIRROR", "ABMIL", "PORPOISE", "linear", "TANGLE"], [0])

    def study(methods, folder):
        return mirror_study.study(cohort, methods, TINY, 42, tmp_path / folder)["tasks"]

    first = study(five, "a")
    ours = study({"MIRROR": [0]}, "b")
    assert first[first.method == "MIRROR"].reset_index(drop=True).equals(ours)
    assert first.groupby("method").size().eq(6).all() and first.value.between(0, 1).all()
    folder = tmp_path / "a" / "MIRROR" / "fold_0"
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert study(five, "a").equals(first)
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    (folder / "tasks.csv").write_text("damaged")
    assert study({"MIRROR": [0]}, "a").equals(ours) and "damaged" in caplog.text
    assert not checkpoints.finished(folder, {"another": "config"})


def test_the_comparison_of_the_paper_trains_each_method_once_on_its_folds(tmp_path, monkeypatch):
    """Baselines and the rows of Table III on five folds, the other ablations on two."""
    asked = []

    def study(cohort, methods, **_):
        asked.append({name: list(numbers) for name, numbers in methods.items()})
        return methods

    monkeypatch.setattr(mirror_study, "study", study)
    results, removed = mirror_study.compare("cohort", TINY, 42, tmp_path)
    assert set(results) == {*mirror_study.BASELINES, *mirror_study.TABLE3}
    assert set(removed) == set(mirror_study.REMOVED)
    assert asked[:5] == [dict.fromkeys(results, [k]) for k in range(5)]
    assert asked[5:7] == [dict.fromkeys(removed, [k]) for k in range(2)]
    assert list(results["MIRROR"]) == [0, 1, 2, 3, 4] and list(removed["no style"]) == [0, 1]


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
