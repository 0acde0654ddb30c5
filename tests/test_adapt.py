"""Test-time adaptation: labels never enter, reset restores every bit, Eq. 5's sign, and the stopping rule."""
import inspect

import pytest
import torch

from xmodal import adapt as tta
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, Problem
from xmodal.model import build, pool


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build("lesson")
    for neck in model.necks.values():
        neck.running_mean.normal_()
    return model.eval()


@pytest.fixture
def batches():
    g = torch.Generator().manual_seed(3)
    tiles = [torch.randint(60, 200, (8, 96, 96, 3), generator=g, dtype=torch.uint8) for _ in range(3)]
    return [{HISTOPATHOLOGY: images} for images in tiles]


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def changed(model, before):
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


ALLOWED = {"source": (), "adabn": ("running_",), "tent": ("necks.",), "causal": ("necks.", "adapters.")}


@pytest.mark.parametrize("how", ALLOWED)
def test_reset_restores_every_bit_and_only_what_should_move_moves(model, batches, how):
    before = bits(model)
    tta.adapt(model, batches, how, steps=3)
    moved = changed(model, before)
    for name in moved:
        assert any(part in name for part in ALLOWED[how])
        assert not name.startswith(f"necks.{MAMMOGRAPHY}"), "that modality was not seen"
    assert bool(moved) == (how != "source")
    tta.reset(model)
    assert not changed(model, before)


def test_two_adaptations_in_a_row_still_reset_to_the_source(model, batches):
    before = bits(model)
    tta.adapt(model, batches, "tent")
    tta.adapt(model, batches, "causal", steps=2)
    tta.reset(model)
    assert not changed(model, before)


def test_adabn_takes_the_statistics_of_the_target(model, batches):
    tta.adapt(model, batches, "adabn")
    with torch.no_grad():
        f = torch.cat([pool(model.tokens(x[HISTOPATHOLOGY], HISTOPATHOLOGY)) for x in batches])
    neck = model.necks[HISTOPATHOLOGY]
    assert torch.allclose(neck.running_mean, f.mean(0), atol=1e-5)
    assert torch.allclose(neck.running_var, f.var(0), atol=1e-5)


def test_adaptation_is_deterministic(model, batches):
    trajectory = tta.adapt(model, batches, "causal", steps=3)
    first = bits(model)
    tta.reset(model)
    again = tta.adapt(model, batches, "causal", steps=3)
    assert trajectory.equals(again) and not changed(model, first)


def test_no_label_can_enter():
    arguments = list(inspect.signature(tta.adapt).parameters)
    assert arguments == ["model", "batches", "how", "steps", "lr", "anchor", "watch"]


def test_correction_2_minus_entropy_spreads_the_predictions_and_plus_sharpens_them(model, batches):
    """Eq. 5 as printed minimises -H: its gradient raises the entropy that the text wants lowered."""
    def after(sign):
        parameters = tta.configure(model, "causal")
        tta.keep_source(model)
        optimiser = torch.optim.SGD(parameters, lr=1e-2)
        for _ in range(3):
            optimiser.zero_grad()
            (sign * tta.entropy(tta.logits_of(model, batches[0]))).backward()
            optimiser.step()
        result = float(tta.entropy(tta.logits_of(model, batches[0])))
        tta.reset(model)
        return result
    start = float(tta.entropy(tta.logits_of(model, batches[0])))
    assert after(-1) > start > after(+1)


def test_correction_7_it_stops_by_itself_and_ends_with_the_step_it_names(model, batches):
    seen = {}

    def watch(step, logits):
        seen[step] = logits.clone()
    table = tta.adapt(model, batches, "causal", steps=200, lr=1e-2, watch=watch)
    stopped = table.step[table.stopped].item()
    assert len(table) < 200
    ends_with = torch.cat([tta.logits_of(model, x) for x in batches[:tta.PROBE]])
    assert torch.allclose(ends_with, seen[stopped], atol=1e-5)
    assert table.diversity[stopped] >= tta.COLLAPSE * table.diversity[1]


def test_a_strong_anchor_holds_the_adapters_in_place(model, batches):
    before = bits(model)

    def distance():
        moved = [v - before[k] for k, v in model.state_dict().items() if "adapters" in k]
        return sum(d.square().sum().item() for d in moved)
    tta.adapt(model, batches, "causal", steps=12, anchor=0.0)
    free = distance()
    tta.reset(model)
    tta.adapt(model, batches, "causal", steps=12, anchor=1e3)
    assert distance() < free


def test_unknown_ways_and_no_images_are_refused(model, batches):
    with pytest.raises(Problem, match="no adaptation 'casual'"):
        tta.adapt(model, batches, "casual")
    with pytest.raises(Problem, match="no target images"):
        tta.adapt(model, [])
