"""Test-time adaptation: labels never enter, reset restores every bit, Eq. 5's sign and what it anchors, the
stopping rule, and batches that come one by one."""
import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xmodal import adapt as tta
from xmodal.adapt_run import SHARE, resample
from xmodal.cohort import malignant
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, STREAMS, Problem, profile
from xmodal.model import build, pool
from xmodal.stream import stream


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build(replace(profile("lesson"), image_size=48))
    for neck in model.necks.values():
        neck.running_mean.normal_()
    return model.eval()


@pytest.fixture
def batches():
    g = torch.Generator().manual_seed(3)
    tiles = [torch.randint(60, 200, (8, 48, 48, 3), generator=g, dtype=torch.uint8) for _ in range(3)]
    return [{HISTOPATHOLOGY: images} for images in tiles]


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def changed(model, before):
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


ALLOWED = {"source": (), "adabn": ("running_",), "tent": ("necks.",), "causal": ("necks.", "adapters."),
           "adabn_stream": ("running_",), "causal_stream": ("necks.", "adapters.")}


def adapted(model, batches, how):
    """Adapts the model in the mode of `how`."""
    if how in STREAMS:
        return stream(model, batches, how)
    return tta.adapt(model, batches, how, steps=3)


@pytest.mark.parametrize("how", ALLOWED)
def test_reset_restores_every_bit_and_only_what_should_move_moves(model, batches, how):
    before = bits(model)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    adapted(model, batches, how)
    moved = changed(model, before)
    for name in moved:
        assert any(part in name for part in ALLOWED[how])
        assert MAMMOGRAPHY not in name, "that modality was not seen"
    assert bool(moved) == (how != "source")
    assert all(not p.requires_grad for p in frozen)
    assert sum(not p.requires_grad for p in model.parameters()) == len(frozen)
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


def test_correction_7_information_rises_as_predictions_sharpen_and_falls_as_they_collapse():
    """Entropy falls in both, and so does diversity: neither tells the two apart."""
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0, 0, 0])
    sharp = 2 * logits
    collapsed = logits + torch.tensor([4.0, 0, 0, 0])
    for now in (sharp, collapsed):
        assert tta.entropy(now) < tta.entropy(logits) and tta.diversity(now) < tta.diversity(logits)
    assert tta.information(sharp) > tta.information(logits) > tta.information(collapsed)
    assert tta.information(torch.zeros(9, 4)) == pytest.approx(0, abs=1e-6)
    assert tta.information(1e4 * torch.eye(4)) == pytest.approx(np.log(4), abs=1e-6)


def test_correction_7_it_stops_by_itself_and_ends_with_the_step_it_names(model, batches):
    seen = {}

    def watch(step, logits):
        seen[step] = logits.clone()
    table = tta.adapt(model, batches, "causal", steps=200, lr=3e-2, watch=watch)
    stopped = table.step[table.stopped].item()
    assert len(table) < 202, "it ended before its last step"
    ends_with = torch.cat([tta.logits_of(model, x) for x in batches[:tta.PROBE]])
    assert torch.allclose(ends_with, seen[stopped], atol=1e-5)
    nats = {step: tta.information(logits) for step, logits in seen.items() if step}
    assert nats[stopped] >= max(nats.values()) - tta.PROGRESS
    assert (table.probe_images == 16).all()


def test_an_affine_shift_of_features_is_undone_exactly_by_adabn(model):
    """Another scale and offset of each feature, as from another scanner: the neck gives what it gave."""
    g = torch.Generator().manual_seed(1)
    features = torch.randn(300, 96, generator=g)
    scale = torch.rand(96, generator=g) + 0.5
    neck = model.necks[HISTOPATHOLOGY]
    z = []
    for f in (features, features * scale + torch.randn(96, generator=g)):
        tta.recalibrate(model, [{HISTOPATHOLOGY: part} for part in f.split(64)])
        z.append(neck(f))
    torch.testing.assert_close(*z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("images, share", [(10, 0.25), (30, 0.5), (270, 0.9)])
def test_the_source_counts_as_so_many_images(model, images, share):
    """Eq. 5's anchor on statistics: n target images beside 30 of the source weigh n / (n + 30)."""
    neck = model.necks[HISTOPATHOLOGY]
    source = neck.running_mean.clone()
    f = torch.randn(images, 96)
    tta.recalibrate(model, [{HISTOPATHOLOGY: f}], anchor=30)
    torch.testing.assert_close(neck.running_mean, (1 - share) * source + share * f.mean(0))


def test_an_infinite_anchor_leaves_the_necks_at_the_source_and_the_adapters_free(model, batches):
    """Eq. 5 anchors theta_BN alone."""
    before = bits(model)
    tta.adapt(model, batches, "causal", steps=3, lr=1e-2, anchor=float("inf"))
    moved = changed(model, before)
    assert all("adapters" in name for name in moved)
    stream(model, batches, "causal_stream", anchor=float("inf"))
    assert not any("necks" in name for name in changed(model, before))


def test_one_image_has_no_statistics(model):
    before = bits(model)
    tta.recalibrate(model, [{HISTOPATHOLOGY: torch.randn(1, 96)}])
    assert not changed(model, before)


# ---- streaming -------------------------------------------------------------------------------------------

def logits_in_order(answers):
    return torch.cat([answer[HISTOPATHOLOGY].logits for answer in answers])


def test_a_stream_of_one_batch_is_the_whole_target(model, batches):
    everything = [{HISTOPATHOLOGY: torch.cat([x[HISTOPATHOLOGY] for x in batches])}]
    for streamed, whole in (("adabn_stream", "adabn"), ("causal_stream", "causal")):
        predicted = logits_in_order(stream(model, everything, streamed))
        tta.reset(model)
        tta.adapt(model, everything, whole, steps=0)
        with torch.no_grad():
            torch.testing.assert_close(predicted, tta.logits_of(model, everything[0]))
        tta.reset(model)


def test_adabn_of_a_stream_ends_with_the_statistics_of_the_whole_target(model, batches):
    stream(model, batches, "adabn_stream")
    after = bits(model)
    tta.reset(model)
    tta.adapt(model, batches, "adabn")
    assert not changed(model, after)


@pytest.mark.parametrize("how", STREAMS)
def test_a_stream_knows_nothing_of_what_comes_later(model, batches, how):
    whole = stream(model, batches, how)
    tta.reset(model)
    begun = stream(model, batches[:2], how)
    tta.reset(model)
    assert torch.equal(logits_in_order(whole[:2]), logits_in_order(begun))


def test_a_stream_recovers_where_a_step_made_its_predictions_tell_less(model, batches, monkeypatch):
    """A step that ruins the necks is undone before the next batch is predicted, with statistics alone."""
    def ruin(logits, optimiser, held):
        for p in optimiser.param_groups[0]["params"]:
            p.data.zero_()
    monkeypatch.setattr("xmodal.stream.step", ruin)
    predicted = stream(model, batches[:2], "causal_stream", anchor=1e-6)
    tta.reset(model)
    tta.recalibrate(model, tta.look(model, batches[:2]).features, anchor=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(logits_in_order(predicted[1:]), tta.logits_of(model, batches[1]))


# ---- another mix of diagnoses ----------------------------------------------------------------------------

@pytest.mark.parametrize("lean", [1.5, 2.5])
def test_a_target_that_leans_to_one_class_does_not_collapse_into_it(lean):
    """Entropy alone calls every image the same; with the balance held the mean prediction stays as it was."""
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))

    def mean_after(hold):
        torch.manual_seed(1)
        layer = torch.nn.Linear(8, 4)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([lean, 0.0, 0.0, 0.0]))
            start = tta.mean_prediction(layer(x))
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(200):
            tta.step(layer(x), optimiser, start if hold else None)
        return start, tta.mean_prediction(layer(x)).detach()
    start, free = mean_after(hold=False)
    _, held = mean_after(hold=True)
    assert tta.diversity(free.log()[None]) < 0.8 * tta.diversity(start.log()[None])
    assert (held - start).abs().max() < 0.05


def test_resampling_cuts_the_malignant_share_to_a_third_and_spares_the_others():
    patients = np.repeat(np.arange(120), 2)
    rows = pd.DataFrame({"patient": patients.astype(str), "allowed": np.where(patients % 2, 8, 3)})
    less = resample(rows, 42)
    share = (malignant(less.allowed) == 1).mean()
    assert share == pytest.approx(SHARE * 0.5, abs=0.02)
    assert less[less.allowed == 3].equals(rows[rows.allowed == 3])
    assert resample(rows, 42).equals(less) and not resample(rows, 1234).equals(less)


def test_unknown_ways_and_no_images_are_refused(model, batches):
    with pytest.raises(Problem, match="no adaptation 'casual'"):
        tta.adapt(model, batches, "casual")
    with pytest.raises(Problem, match="no streaming adaptation 'causal'"):
        stream(model, batches, "causal")
    for empty in (tta.adapt, stream):
        with pytest.raises(Problem, match="no target images"):
            empty(model, [])
