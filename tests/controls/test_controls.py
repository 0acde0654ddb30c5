"""Controls: the rule that says "holds" on known tables, the world's dials, and what holds at a small size."""
import numpy as np
import pandas as pd
import pytest
import torch

import figures
from figures import controls as figure
from xmodal import config
from xmodal.config import HISTOPATHOLOGY, MAMMOGRAPHY, MODALITIES, Problem
from xmodal.controls import domains, power, table, training
from xmodal.controls.verdict import DOSE_RESPONSE, NEGATIVE, POSITIVE, Control, Rule, judge, measure
from xmodal.controls.world import Dials, World, targets
from xmodal.tables import common

# ---- the rules ---------------------------------------------------------------------------------------------


def known(start, slope):
    """A control whose arm "new" is better than "old" by start + slope * dose, and a little by the seed."""
    def run(dose, seed):
        own = 0.001 * seed * (1 + dose)
        return {"old": 0.5 + 0.01 * seed, "new": 0.5 + 0.01 * seed + start + slope * dose + own}
    rules = (Rule(POSITIVE, "it helps", "new", "old", 3, 0.2),
             Rule(NEGATIVE, "not here", "new", "old", 0, 0.05),
             Rule(DOSE_RESPONSE, "the more the more", "new", "old"))
    return Control("known", "Known", "dose", "value", (0, 1, 2, 3), run, rules)


HOLDS, FAILS = "holds", "does not hold"


@pytest.mark.parametrize(("start", "slope", "verdicts"), [
    (0.0, 0.1, [HOLDS, HOLDS, HOLDS]),
    (0.0, 0.0, [FAILS, HOLDS, FAILS]),
    (0.3, 0.0, [HOLDS, FAILS, FAILS]),
    (0.0, -0.1, [FAILS, HOLDS, FAILS]),
], ids=["as it should be", "nothing", "always", "the wrong way round"])
def test_a_verdict_follows_from_the_differences(start, slope, verdicts):
    control = known(start, slope)
    judged = judge(control, measure(control, (1, 2, 3)))
    assert judged.verdict.tolist() == verdicts
    assert judged.difference[0] == pytest.approx(start + 3 * slope + 0.008)


def test_every_control_has_four_doses_and_rules_that_name_its_arms():
    names = [each.name for each in table.CONTROLS]
    assert len(set(names)) == len(names) and len(table.SEEDS) >= 3
    for each in table.CONTROLS:
        assert len(each.doses) >= 4 and list(each.doses) == sorted(each.doses)
        assert {DOSE_RESPONSE, POSITIVE} <= {rule.kind for rule in each.rules}
        assert all(rule.dose is None or rule.dose in each.doses for rule in each.rules)
    with pytest.raises(Problem, match="astrology.*alignment_link"):
        table.control("astrology")


# ---- the world ---------------------------------------------------------------------------------------------

def test_without_style_sites_differ_by_nothing_and_a_style_is_a_gain_and_a_shift_of_channels():
    for modality in MODALITIES:
        pictures = []
        for distance, site in ((0.0, 0), (0.0, 2), (1.0, 2)):
            world = World(3)
            dials = Dials(style=distance)
            pictures.append(world.images(world.people(5, dials), modality, dials, site).tokens)
        assert torch.equal(pictures[0], pictures[1])
        expected = pictures[0] * world.gain[2].exp() + world.shift[2]
        torch.testing.assert_close(pictures[2], expected)


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.6])
def test_the_mark_correlates_with_malignancy_as_asked(correlation):
    world = World(1)
    people = world.people(20_000, Dials())
    mark = world.marked(people, Dials(shortcut=(correlation, 0.0, 0.0)), 0)
    assert np.corrcoef(people.truth >= 2, mark)[0, 1] == pytest.approx(correlation, abs=0.03)


def test_the_mark_is_as_frequent_as_asked_and_each_patient_can_have_a_site():
    world = World(1)
    people = world.people(20_000, Dials())
    dials = Dials(marked=(0.75, 0.25, 0.5), shortcut=(0.5, 0.0, 0.0))
    site = torch.arange(20_000) % 2
    mark, bad = world.marked(people, dials, site), people.truth >= 2
    for of, share in (((site == 0) & bad, 1.0), ((site == 0) & ~bad, 0.5), (site == 1, 0.25)):
        assert mark[of].mean() == pytest.approx(share, abs=0.02)
    few, apart = World(2).people(4, Dials()), Dials(style=1.0)
    both = torch.tensor([0, 1, 1, 0])
    first, second, mixed = (World(3).images(few, MAMMOGRAPHY, apart, sites).tokens for sites in (0, 1, both))
    assert torch.equal(mixed[[0, 3]], first[[0, 3]]) and torch.equal(mixed[1:3], second[1:3])


def test_each_source_has_its_own_share_of_malignant_patients():
    dials = domains.unlike_shares(Dials(), 1.0)
    (_, y), = training.from_sites(World(1), dials, steps=1, batch=20)
    y = y[HISTOPATHOLOGY]
    assert (y["allowed"][:, 2:].any(1) == (y["domain"] == 0)).all() and len(y["domain"]) == 40
    nearer = [source.prevalence for source in domains.unlike_shares(Dials(), 0.3)]
    assert nearer == pytest.approx([0.65, 0.35])


def test_mixstyle_is_asked_of_the_modality_that_its_title_names(monkeypatch):
    """Trained and judged on one modality: tissue, or mammograms."""
    images, asked = World.images, []

    def watched(world, people, modality, *rest):
        asked.append(modality)
        return images(world, people, modality, *rest)
    monkeypatch.setattr(World, "images", watched)
    monkeypatch.setattr(domains, "fit", lambda model, objective, batches: next(iter(batches)))
    for control, modality in (("style_goes", HISTOPATHOLOGY), ("style_goes_films", MAMMOGRAPHY)):
        asked.clear()
        table.control(control).run(0.5, 1)
        assert set(asked) == {modality}


def test_label_noise_and_prevalence_are_the_shares_that_the_dials_say():
    people = World(2).people(20_000, Dials(label_noise=0.3, prevalence=0.8))
    off = (people.label - people.truth).abs()
    assert off.max() == 1 and off.float().mean() == pytest.approx(0.3, abs=0.02)
    assert (people.truth >= 2).float().mean() == pytest.approx(0.8, abs=0.02)


def test_targets_are_those_of_the_loaders_and_open_labels_have_no_grade():
    world, dials = World(4), Dials()
    people = world.people(6, dials)
    images = world.images(people, MAMMOGRAPHY, dials)
    assert (images.lesion.flatten(1).sum(1) == 4).all() and torch.equal(images.lesion, images.outline)
    allowed = torch.nn.functional.one_hot(people.label, 4).bool()
    allowed[0] = True
    y = targets(people, images, allowed)
    assert y["grade"].tolist() == [-1, *people.label[1:].tolist()]
    assert y["mask"].shape == (6, 16, 16)


# ---- what holds at a small size ----------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["task_weights", "calibration", "conformal"])
def test_what_needs_no_training_holds(name):
    judged = table.verdicts([table.run(name)])
    assert (judged.verdict == "holds").all(), judged.to_string()


def test_asked_again_are_the_positive_rules_alone_where_they_are_read_with_other_seeds():
    measured = table.run_again("calibration")
    assert set(measured.dose) == {4.0} and set(measured.seed) == set(table.FRESH)
    assert not set(table.FRESH) & {1, 2, *table.SEEDS}, "seeds that were looked at"
    judged = table.verdicts([measured], table.positive)
    assert judged[["kind", "seeds", "verdict"]].to_numpy().tolist() == [[POSITIVE, 20, "holds"]]


@pytest.mark.parametrize(("name", "dose", "arm", "against", "least"), [
    ("lesion_term", 0.0, "with", "without", 0.05), ("attention", 1.0, "attention", "chance", 0.2),
    ("ordinal", 0.45, "ordinal", "classes", 0.02), ("adaptation_style", 3.0, "AdaBN", "as trained", 0.01),
    ("decoder", 0.0, "own outlines", "best fixed place", 0.3)])
def test_one_seed_shows_what_a_short_training_can_show(name, dose, arm, against, least):
    values = table.control(name).run(dose, 42)
    assert values[arm] >= values[against] + least


def test_power_is_the_error_of_the_first_kind_without_a_difference_and_grows_with_patients():
    assert power.power(0.0, 200, draws=200) == pytest.approx(0.05, abs=0.05)
    rising = [power.power(0.07, patients, draws=60) for patients in (50, 200, 800)]
    assert rising == sorted(rising) and rising[2] > 0.9
    known = pd.DataFrame({"difference": 0.05, "patients": [100, 400], "power": [0.6, 1.0], "draws": 1})
    assert power.needed(known).patients_needed[0] == 200           # half the way on the logarithmic scale


# ---- the figure --------------------------------------------------------------------------------------------

def test_the_figure_is_drawn_from_the_tables_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "FIGURES", tmp_path)
    figure.draw()                                          # says that nothing has been run
    assert (tmp_path / "controls" / "controls.png").exists()
    measured = table.run("conformal", seeds=(1, 2))
    common.write(measured, "controls_conformal", "lesson")
    common.write(table.verdicts([measured]), "controls_verdicts", "lesson")
    figure.draw()
    assert figure.summary("conformal", figures.read("controls_verdicts"), []).count("/") == 3


def test_a_title_counts_the_rules_that_hold_by_kind_and_those_asked_again():
    rules = pd.DataFrame({"control": ["a", "a", "a", "b"], "verdict": [HOLDS, FAILS, HOLDS, FAILS],
                          "kind": [POSITIVE, POSITIVE, NEGATIVE, POSITIVE]})
    assert figure.summary("a", rules, rules[3:]) == "pos 1/2, neg 1/1"
    assert figure.summary("b", rules, rules[3:]) == "pos 0/1, again 0/1"
