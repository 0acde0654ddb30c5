"""Fusion: nothing is retrained when modalities come and go, patients may lack any, a graph sees places."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Batch, Data

from xmodal.companions import fusion, fusion_inputs, fusion_study, paired, study
from xmodal.companions.paired import MODALITIES
from xmodal.config import Problem
from xmodal.record import seed_everything

TINY = dataclasses.replace(fusion.SETTINGS["lesson"], epochs=2)


@pytest.fixture(scope="module")
def cohort():
    return paired.draw(150, seed=1, side=5)


def fold_of(cohort, settings=TINY):
    """The first 90 patients train, 30 fit the fusion, the others test; nobody lacks anything."""
    rows = fusion_study.Rows(np.arange(90), np.arange(90, 120), np.arange(120, 150))
    return fusion_study.Fold(cohort, fusion_inputs.having(cohort), rows, settings, 42)


@pytest.fixture(scope="module")
def inputs(cohort):
    return fusion_inputs.Inputs(cohort, np.arange(90), TINY)


@pytest.fixture(scope="module")
def arms(cohort, tmp_path_factory):
    folder, fold = tmp_path_factory.mktemp("arms"), fold_of(cohort)
    return torch.nn.ModuleDict({m: fusion_study.train_arm(m, fold, folder) for m in MODALITIES})


@pytest.fixture(scope="module")
def logits(inputs, arms):
    with torch.no_grad():
        return {m: arms[m](inputs.batch(m, np.arange(150))) for m in MODALITIES}


@pytest.fixture(scope="module")
def fused(cohort, logits):
    return fusion.Fusion().add(logits, everyone(150), torch.as_tensor(cohort.pam50), MODALITIES)


def everyone(n, names=MODALITIES):
    return {m: torch.ones(n, dtype=torch.bool) for m in names}


def bits(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def pick(parts, names):
    return {m: parts[m] for m in names}


# ---- modalities come and go --------------------------------------------------------------------------------

def test_every_existing_parameter_is_bit_identical_after_a_modality_is_added(cohort, arms, logits):
    y = torch.as_tensor(cohort.pam50)
    old = MODALITIES[:3]
    model = fusion.Fusion().add(pick(logits, old), everyone(150, old), y, old)
    before = bits(model)
    encoders = bits(arms)
    model.add(logits, everyone(150), y, ["graph"])
    after = bits(model)
    assert set(after) - set(before) == {"weight.graph", "bias.graph"}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(arms.state_dict()[name], value) for name, value in encoders.items())
    assert after["weight.graph"] != 1, "and the new one was fitted"


def test_a_new_modality_changes_nothing_for_patients_who_lack_it(cohort, logits):
    y = torch.as_tensor(cohort.pam50)
    old, all_three = MODALITIES[:2], MODALITIES[:3]
    model = fusion.Fusion().add(pick(logits, old), everyone(150, old), y, old)
    alone = model(pick(logits, old), everyone(150, old)).detach()
    model.add(pick(logits, all_three), everyone(150, all_three), y, ["bag"])
    no_slide = everyone(150, all_three) | {"bag": torch.zeros(150, dtype=torch.bool)}
    assert torch.equal(model(pick(logits, all_three), no_slide), alone)
    model.remove("bag")
    assert torch.equal(model(pick(logits, old), everyone(150, old)), alone) and set(model.weight) == set(old)


def test_arms_take_no_gradient_from_fusion(arms):
    assert not any(p.requires_grad for p in arms.parameters())


@pytest.mark.parametrize("subset", fusion.subsets(MODALITIES), ids="+".join)
def test_one_patient_with_any_subset_gets_what_the_batch_gave(inputs, arms, logits, fused, subset):
    p = fusion.one_patient(arms, fused, {m: inputs.batch(m, 7) for m in subset})
    batch = fused(pick(logits, subset), everyone(150, subset)).softmax(1)[7]
    assert p.sum() == pytest.approx(1, abs=1e-5) and torch.allclose(p, batch, atol=1e-5)


def test_a_patient_without_any_modality_is_said(arms, logits, fused):
    with pytest.raises(Problem, match="The patient has no modality; bring one of copy number"):
        fusion.one_patient(arms, fused, {})
    with pytest.raises(Problem, match="no arm for methylation"):
        fusion.one_patient(arms, fused, {"methylation": torch.zeros(1, 3)})
    nobody = {m: torch.arange(150) != 3 for m in MODALITIES}
    with pytest.raises(Problem, match="Patient 3 has none of"):
        fused(logits, nobody)


# ---- weights -----------------------------------------------------------------------------------------------

def test_a_modality_that_knows_nothing_gets_little_weight():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 5, (400,), generator=g)
    good = 3 * F.one_hot(y, 5).float() + torch.randn(400, 5, generator=g)
    noise = 3 * torch.randn(400, 5, generator=g)
    names = ("good", "noise")
    model = fusion.Fusion().add({"good": good, "noise": noise}, everyone(400, names), y, names)
    assert abs(float(model.weight["noise"])) < 0.1 * float(model.weight["good"])


def test_weights_of_one_modality_undo_a_temperature():
    """Logits drawn calibrated and then multiplied by k need the weight 1 / k, and no bias."""
    g = torch.Generator().manual_seed(1)
    z = 1.5 * torch.randn(20_000, 5, generator=g)
    y = torch.distributions.Categorical(logits=z).sample()
    model = fusion.Fusion().add({"a": 4 * z}, everyone(20_000, ("a",)), y, ["a"])
    assert float(model.weight["a"]) == pytest.approx(0.25, abs=0.02)
    assert (model.bias["a"] - model.bias["a"].mean()).abs().max() < 0.1


# ---- encoders and inputs -----------------------------------------------------------------------------------

def test_neighbours_of_a_grid_are_those_that_touch():
    xy = np.array([[x, y] for y in range(3) for x in range(3)]) * 224
    edges = fusion_inputs.neighbours(xy, 224)
    degree = torch.bincount(edges[0], minlength=9)
    assert degree.tolist() == [3, 5, 3, 5, 8, 5, 3, 5, 3]
    both = set(map(tuple, edges.T.tolist()))
    assert len(both) == edges.shape[1] and both == {(b, a) for a, b in both}


def graphs(x, edges):
    """A batch of graphs of patches (B, P, D) that lie alike."""
    return Batch.from_data_list([Data(x=patches, edge_index=edges) for patches in x])


def test_the_bag_is_blind_to_where_patches_lie_and_the_graph_is_not(inputs, arms):
    bag = inputs.columns["bag"][:1]
    shuffled = bag[:, torch.randperm(25, generator=torch.Generator().manual_seed(0))]
    assert torch.allclose(arms["bag"](bag), arms["bag"](shuffled), atol=1e-5)
    edges = inputs.slides.graph(0).edge_index
    in_place, mixed = (arms["graph"](graphs(patches, edges)) for patches in (bag, shuffled))
    assert not torch.allclose(in_place, mixed, atol=1e-3)


def test_a_sparse_product_is_the_mean_over_neighbours(inputs):
    """Also its gradients, and for a patch without neighbours."""
    layer = torch.manual_seed(0) and fusion.GraphConv(24, 8, aggr="mean")
    graph = inputs.batch("graph", [0, 1])
    edges = graph.edge_index[:, (graph.edge_index != 3).all(0)]
    links = fusion.to_torch_csr_tensor(edges, size=(50, 50))
    values, gradients = [], []
    for how in (edges, links):
        x = graph.x.clone().requires_grad_()
        out = layer(x, how)
        out.square().sum().backward()
        values.append(out.detach())
        gradients.append(x.grad)
    assert torch.allclose(*values, atol=1e-5) and torch.allclose(*gradients, atol=1e-4)


def arrangements(n, side=7):
    """(patches, parted, edges) of n slides whose patches are of two equally frequent kinds.

    patches: (n, P, 2) kind and noise; parted: (n,) 1 where the kinds part along a line, 0 where they mix.
    """
    rng = np.random.default_rng(0)
    grid = np.stack(np.divmod(np.arange(side * side), side), 1) - side // 2
    parted = rng.integers(2, size=n)
    angle = rng.uniform(0, 2 * np.pi, n)
    along = (grid * np.stack([np.cos(angle), np.sin(angle)], 1)[:, None]).sum(2)
    position = np.where(parted[:, None] == 1, along, rng.normal(size=along.shape))
    kind = np.where(position > np.median(position, axis=1, keepdims=True), 1, -1)
    patches = torch.tensor(np.stack([kind, rng.normal(size=kind.shape)], 2), dtype=torch.float32)
    return patches, torch.tensor(parted), fusion_inputs.neighbours(grid, 1)


@pytest.mark.parametrize("name", ["bag", "graph"])
def test_only_the_graph_sees_how_cells_are_arranged(name):
    """Whether two kinds of patches mix or part leaves every bag as it is. 200 slides train, 100 are new."""
    x, parted, edges = arrangements(300)
    seed_everything(0)
    arm = fusion.Arm(name, 2, TINY, classes=2)

    def logits(rows):
        return arm(graphs(x[rows], edges) if name == "graph" else x[rows])

    def objective(rows):
        return {"ce": F.cross_entropy(logits(rows), parted[rows])}

    study.fit(arm, objective, 200, study.Descent(epochs=15, batch=64, lr=3e-3), seed=0)
    right = float((logits(np.arange(200, 300)).argmax(1) == parted[200:]).float().mean())
    assert right > 0.9 if name == "graph" else 0.3 < right < 0.7


def test_test_patients_have_no_say_in_how_arms_are_fed(cohort, inputs):
    changed = dataclasses.replace(cohort, bags=cohort.bags.copy(), copies=cohort.copies.copy(),
                                  clinical=cohort.clinical.copy())
    changed.bags[90:] *= 3
    changed.copies.iloc[90:] *= 3
    changed.clinical.loc[90:, "age"] *= 3
    train = np.arange(90)
    again = fusion_inputs.Inputs(changed, train, TINY)
    for m in MODALITIES[:3]:
        assert torch.equal(inputs.batch(m, train), again.batch(m, train))
    assert torch.equal(inputs.batch("graph", train).x, again.batch("graph", train).x)
    assert not torch.equal(inputs.batch("bag", 95), again.batch("bag", 95))


def test_clinical_columns_say_what_is_not_recorded():
    table = pd.DataFrame({"age": [40.0, 60.0, np.nan], "er": ["positive", None, "negative"]})
    columns = fusion_inputs.clinical_columns(table, [0, 1, 2])
    expected = np.array([[-1, 0, 0, 1, 0], [1, 0, 0, 0, 1], [0, 1, 1, 0, 0]])
    assert columns.tolist() == pytest.approx(expected, abs=1e-3)
    rare = fusion_inputs.clinical_columns(pd.DataFrame({"rare": [0.0, 0, 0, 1]}), [0, 1, 2])
    assert rare.tolist() == [[0], [0], [0], [1]], "what is new to training is not scaled to a million"
