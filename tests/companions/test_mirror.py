"""MIRROR: Nystrom attention against exact attention, the losses in closed form, known factors, patches of a slide, real tables."""
import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from xmodal.companions import genes, mirror, nystrom, paired, tasks
from xmodal.config import HOME, Problem
from xmodal.losses import info_nce
from xmodal.record import seed_everything
from xmodal.runtime import checkpoints

TINY = dataclasses.replace(mirror.SETTINGS["lesson"], epochs=2)


@pytest.fixture(scope="module")
def cohort():
    return paired.draw(160, seed=1, side=5)


# ---- Nystrom attention -------------------------------------------------------------------------------------------

def smooth(n, scale=0.5, d=16, seed=0):
    """Queries, keys and values that change slowly along the tokens, as patches in the order of a slide do."""
    g = torch.Generator().manual_seed(seed)
    base = torch.cat([torch.sin(2 * torch.pi * k * torch.linspace(0, 1, n))[:, None] for k in range(1, d + 1)], 1)
    return *(base @ torch.randn(d, d, generator=g)[None, None] * scale for _ in range(2)), base[None, None]


def error(q, k, v, m, iterations=6):
    exact = F.scaled_dot_product_attention(q, k, v)
    return float((nystrom.nystrom(q, k, v, m, iterations) - exact).norm() / exact.norm())


def test_with_as_many_landmarks_as_tokens_it_is_exact_attention():
    q, k, v = (torch.randn(2, 4, 256, 16, generator=torch.Generator().manual_seed(s)) for s in range(3))
    assert error(q, k, v, 256, iterations=20) < 1e-3
    assert torch.equal(nystrom.nystrom(q, k, v, 256), nystrom.nystrom(q, k, v, 999)), "no more landmarks than tokens"


def test_with_a_quarter_of_the_tokens_the_error_is_below_six_per_cent_and_falls_with_landmarks():
    errors = [error(*smooth(256), m) for m in (32, 64, 128)]
    assert errors[1] < 0.06 and errors == sorted(errors, reverse=True)


def test_the_inverse_is_that_of_linear_algebra():
    a = (torch.eye(12) * 4 + torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))).softmax(-1)
    assert torch.allclose(nystrom.pseudo_inverse(a, 20), torch.linalg.pinv(a), atol=1e-3)


@pytest.mark.parametrize("n, m", [(10, 5), (11, 4), (7, 7), (9, 1)])
def test_landmarks_are_means_of_segments_that_cover_every_token_once(n, m):
    x = torch.arange(float(n))[None, None, :, None]
    parts = np.array_split(np.arange(n), m)                                     # the longer segments first, as numpy does
    assert nystrom.landmarks(x, m).flatten().tolist() == pytest.approx([p.mean() for p in parts])


def test_attention_of_a_token_is_what_the_fused_products_use():
    torch.manual_seed(0)
    layer, x = nystrom.NystromAttention(16, 2, 64), torch.randn(1, 64, 16)
    q, k, _ = layer.split(x)
    exact = (q[:, :, :1] @ k.mT * 8 ** -0.5).softmax(-1).mean(1).squeeze(1)
    layer.iterations = 25
    assert torch.allclose(layer.weights_of_first(x), exact, atol=1e-3)


def cost(n, model):
    """(floating point operations, bytes kept for the backward pass) of one bag of n patches."""
    from torch.utils.flop_counter import FlopCounterMode
    kept = {}
    pack = lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t
    with FlopCounterMode(display=False) as flops, torch.autograd.graph.saved_tensors_hooks(lambda t: (pack(t), t)[1], lambda t: t):
        model(torch.randn(1, n, 32))[0].sum()
    return flops.get_total_flops(), sum(kept.values())


def test_operations_and_memory_are_linear_in_the_number_of_patches():
    model = nystrom.TransMIL(32, 32, 2, 16)
    small, middle, large = (np.array(cost(n, model)) for n in (1024, 2048, 4096))
    assert (large - middle) / (middle - small) == pytest.approx([2, 2], rel=0.02)


def test_fifty_thousand_patches_fit_in_four_gigabytes():
    code = ("import torch; from xmodal.companions.nystrom import TransMIL; torch.manual_seed(0)\n"
            "model = TransMIL(256, 256, 8, 128); cls, tokens = model(torch.randn(1, 50_000, 256)); cls.sum().backward()\n"
            "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
            "print(tokens.shape[1], int(peak) / 2 ** 20)")
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    patches, gigabytes = done.stdout.split()
    assert int(patches) == 50_000 and float(gigabytes) < 4


def test_the_convolutions_are_the_published_ones():
    """A (33, 1) kernel a head over the values, and the sum of three depthwise convolutions of the square of patches."""
    torch.manual_seed(0)
    layer, v = nystrom.NystromAttention(16, 2, 4), torch.randn(3, 2, 50, 8)
    assert torch.allclose(layer.near(v), F.conv2d(v, layer.local.weight[..., None], padding=(16, 0), groups=2), atol=1e-6)
    ppeg, x = nystrom.PPEG(4), torch.randn(2, 9, 4)
    square = x.transpose(1, 2).unflatten(2, (3, 3))
    assert torch.allclose(ppeg(x), x + sum(conv(square) for conv in ppeg.scales).flatten(2).transpose(1, 2), atol=1e-6)


def test_ppeg_adds_nothing_when_its_kernels_are_zero_and_any_number_of_patches_passes():
    layer = nystrom.PPEG(4)
    for p in layer.parameters():
        torch.nn.init.zeros_(p)
    for n in (1, 5, 9, 10):
        x = torch.randn(2, n, 4)
        assert torch.equal(layer(x), x)


# ---- losses ------------------------------------------------------------------------------------------------------

def test_style_divergence_is_that_of_torch():
    x = torch.randn(6, 8)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(x[:, :4], (x[:, 4:] / 2).exp()), normal(0.0, 1.0)).mean()
    assert torch.allclose(mirror.draw_style(x)[1], expected, atol=1e-6)
    assert mirror.draw_style(torch.zeros(3, 8))[1] == 0


def test_cluster_loss_is_the_two_divergences_and_zero_for_equal_assignments():
    torch.manual_seed(0)
    a, b = (mirror.assign(torch.randn(5, 4), torch.randn(7, 4)) for _ in range(2))
    both = F.kl_div(b, a, log_target=True, reduction="batchmean") + F.kl_div(a, b, log_target=True, reduction="batchmean")
    assert torch.allclose(mirror.symmetric_kl(a, b), both, atol=1e-5) and mirror.symmetric_kl(a, a) == 0
    assert torch.allclose(a.exp().sum(1), torch.ones(5))


def test_alignment_pairs_expression_with_slides_in_both_denominators():
    """Eq. 8 with T_i . S_j in the second denominator is the symmetric cross-entropy of the similarity matrix."""
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
    seen = []
    layer.block.register_forward_pre_hook(lambda _, args: seen.append((args[0][:, 1:] == layer.mask).all(-1).sum(1).tolist()))
    layer(torch.randn(2, 8), torch.randn(2, 8, 8), goal)
    assert seen == [[6, 6]]


@pytest.mark.parametrize("term", mirror.TERMS)
def test_every_loss_can_be_left_out_and_reaches_both_encoders(cohort, term):
    torch.manual_seed(0)
    model = mirror.Mirror(24, 96, TINY, terms=(term,))
    terms = model.loss(torch.randn(6, 25, 24), torch.randn(6, 96))
    assert set(terms) == {term}
    terms[term].backward()
    for part in (model.slide, model.rna):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0


# ---- known factors -----------------------------------------------------------------------------------------------

def test_the_generator_has_the_answers_it_says(cohort):
    train, test = np.arange(120), np.arange(120, 160)
    views = {"slide": cohort.bags.mean(1), "rna": cohort.expression.to_numpy(), "copy": cohort.copies.to_numpy()}
    r2 = {k: tasks.recovered(z, cohort.factors, train, test) for k, z in views.items()}
    for view, own, foreign in (("slide", ("shared", "slide", "stain"), ("rna", "copy", "arrangement", "batch")),
                               ("rna", ("shared", "rna", "batch"), ("slide", "copy", "arrangement")),
                               ("copy", ("shared", "copy"), ("slide", "rna", "arrangement"))):
        assert min(r2[view][f] for f in own) > 0.4 and max(r2[view][f] for f in foreign) < 0.2, (view, r2[view])


def test_the_generator_is_its_seed():
    a, b, c = paired.draw(5, 7), paired.draw(5, 7), paired.draw(5, 8)
    assert np.array_equal(a.bags, b.bags) and a.expression.equals(b.expression) and a.clinical.equals(b.clinical)
    assert not np.array_equal(a.bags, c.bags)
    assert np.array_equal(a.select(a.event == 1).patient, a.patient[a.event == 1]) and len(a.select([3, 1])) == 2


@pytest.fixture(scope="module")
def trained():
    """R2 of the shared factors and of the private ones, by the terms trained with."""
    data = paired.draw(300, side=5)
    train, test = tasks.folds(data, 42)[0]
    inputs = tasks.prepare(data, train, mirror.SETTINGS["lesson"], 42)
    found = {}
    for name in ("MIRROR", "no alignment", "alignment", "retention"):
        seed_everything(42)
        z, _ = mirror.embeddings(name, inputs, train, mirror.SETTINGS["lesson"], 42)
        found[name] = {side: tasks.recovered(z[side], data.factors, train, test) for side in z}
    return found


def test_alignment_recovers_what_is_shared_and_retention_keeps_what_is_private(trained):
    both = lambda name, a, b: trained[name]["slide"][a] + trained[name]["rna"][b]
    assert both("MIRROR", "shared", "shared") > both("no alignment", "shared", "shared") + 0.1
    assert both("retention", "slide", "rna") > both("alignment", "slide", "rna") + 0.2
    assert trained["MIRROR"]["slide"]["rna"] < 0.2 and trained["MIRROR"]["rna"]["slide"] < 0.2, "neither side can know the other's own"


# ---- genes and inputs --------------------------------------------------------------------------------------------

def test_genes_are_those_eliminated_last_and_those_curated(cohort):
    chosen = genes.select(cohort.expression, cohort.subtype)
    assert set(genes.CURATED) <= set(chosen) and len(genes.CURATED) == len(set(genes.CURATED)) == 50
    assert chosen == [g for g in cohort.expression if g in set(chosen)]
    assert {"NKX2-1", "TP63"} <= set(genes.LUNG) and len(genes.LUNG) == len(set(genes.LUNG))
    noise = pd.DataFrame(np.random.default_rng(0).normal(size=(160, 30)), columns=[f"G{i}" for i in range(30)])
    noise["G3"] += 3 * cohort.subtype
    few = genes.select(noise, cohort.subtype, curated=["G7", "not there"], least=1)
    assert {"G3", "G7"} <= set(few) and len(few) < 30


def test_a_gene_that_is_missing_twice_or_not_finite_is_named(cohort):
    with pytest.raises(Problem, match="lacks 1 of the 2 genes.*TP53"):
        genes.take(cohort.expression, ["ESR1", "TP53"])
    with pytest.raises(Problem, match="ESR1 has two columns"):
        genes.check(pd.concat([cohort.expression, cohort.expression[["ESR1"]]], axis=1))
    with pytest.raises(Problem, match="ESR1 has values that are not finite"):
        genes.check(cohort.expression.assign(ESR1=np.nan))
    with pytest.raises(Problem, match="cannot be read"):
        genes.read_list("nowhere.txt")


def test_bags_are_drawn_to_one_size_and_an_empty_slide_is_named():
    bag = np.arange(12.0).reshape(6, 2)
    assert np.array_equal(tasks.draw_patches(bag, 6), bag), "in the order of the slide"
    assert tasks.draw_patches(bag, 20).shape == (20, 2)
    with pytest.raises(Problem, match="The slide of P1 has no patch with tissue"):
        tasks.draw_patches(bag[:0], 5, slide="The slide of P1")


def test_test_patients_have_no_say_in_how_inputs_are_chosen_and_scaled(cohort):
    train = np.arange(120)
    changed = dataclasses.replace(cohort, expression=cohort.expression.copy(), bags=cohort.bags.copy())
    changed.expression.iloc[120:] *= 3
    changed.bags[120:] *= 3
    a, b = (tasks.prepare(c, train, TINY, 42) for c in (cohort, changed))
    assert a.genes == b.genes and torch.equal(a.bags[train], b.bags[train]) and torch.equal(a.expression[train], b.expression[train])


# ---- the study ---------------------------------------------------------------------------------------------------

def test_folds_part_patients_and_shots_come_from_training(cohort):
    parts = tasks.folds(cohort, 42)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(160)) and all(not set(a) & set(b) for a, b in parts)
    few = tasks.shots(cohort, parts[0][0], "subtype", 10, 42)
    assert set(few) <= set(parts[0][0]) and np.bincount(cohort.subtype[few]).tolist() == [10, 10]


def test_a_study_gives_the_same_bits_resumes_and_makes_damage_anew(cohort, tmp_path, caplog):
    names = ["MIRROR", "ABMIL", "PORPOISE", "linear", "TANGLE"]
    first = mirror.study(cohort, names, TINY, 42, tmp_path / "a", which=[0])
    again = mirror.study(cohort, names[:1], TINY, 42, tmp_path / "b", which=[0])
    assert first["tasks"][first["tasks"].method == "MIRROR"].reset_index(drop=True).equals(again["tasks"])
    assert first["tasks"].groupby("method").size().eq(6).all() and first["tasks"].value.between(0, 1).all()
    folder = tmp_path / "a" / "MIRROR" / "fold_0"
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert mirror.study(cohort, names, TINY, 42, tmp_path / "a", which=[0])["tasks"].equals(first["tasks"])
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    (folder / "tasks.csv").write_text("damaged")
    assert mirror.study(cohort, names[:1], TINY, 42, tmp_path / "a", which=[0])["tasks"].equals(again["tasks"]) and "damaged" in caplog.text
    assert not checkpoints.finished(folder, {"another": "config"})


def test_a_kept_result_belongs_to_its_cohort():
    a, b = paired.draw(20, 1), paired.draw(20, 1)
    assert a.digest() == b.digest() and a.digest() != paired.draw(20, 2).digest() != a.select(range(19)).digest()
    b.clinical.loc[0, "age"] = 99
    assert a.digest() != b.digest(), "fusion reads the clinical record"


def test_rna_arm_and_ridge_cox_on_real_patients():
    """Desmedt's 198 patients. The ridge Cox model's concordance must clear one half; the encoder's interval is reported beside it."""
    from data_scripts import breast_expression
    found = breast_expression.load("desmedt")
    assert (found.genes.shape, found.event.sum()) == ((198, 76), 51)
    arm = mirror.rna_arm(found.genes, found.time, found.event, dataclasses.replace(TINY, epochs=10))
    intervals = {name: mirror.c_index(arm, name, n=100) for name in ("cox", "encoder")}
    assert intervals["cox"].low > 0.5 and all(i.low < i.value < i.high for i in intervals.values())
    assert mirror.c_index(arm, "cox", n=1, tau=60).value > 0.5, "also by Uno's C up to five years"
    other = breast_expression.load("nki295")
    assert (other.genes.shape, other.event.sum()) == ((295, 4919), 79)
    with pytest.raises(Problem, match="choose one of desmedt, nki295"):
        breast_expression.load("metabric")
