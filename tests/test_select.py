"""Which epoch's weights are kept: by the source domains' validation patients, or by each source domain in
turn."""
import numpy as np
import pandas as pd
import pytest
from test_learner import PROBABILITIES, TINY, same, write_cohort

from xmodal import cohort, config, learner, record
from xmodal.activations import images_of
from xmodal.config import Problem
from xmodal.explain import centre
from xmodal.loaders import Images


@pytest.fixture
def table(home):
    return write_cohort(config.DATA / "lesson")


def test_an_epoch_counts_once_every_term_has_full_weight(table, monkeypatch):
    """Of eight epochs the third ends before RAMP does; from the last, every third is read. The AUC falls."""
    scores = iter([0.8, 0.7])
    monkeypatch.setattr(learner, "mean_auc", lambda *columns: next(scores))
    fold = cohort.leave_one_out(table, "bach", 42)
    learn = learner.learner(TINY, "erm", fold, Images(config.DATA / "lesson"), 42)
    history = learner.fit(learn, 8)
    read = history.valid_auc.dropna()
    assert read.to_dict() == {4: 0.8, 7: 0.7} and learn.select.best == 0.8


def test_a_validation_set_that_cannot_judge_is_named(table, monkeypatch):
    monkeypatch.setattr(learner, "mean_auc", lambda *columns: np.nan)
    with pytest.raises(Problem, match="no epoch can be chosen"):
        learner.train(TINY, "erm", "bach", 42, table)


@pytest.fixture
def alone(table):
    """Nobody is in two domains, as in the public sets: with two domains held out somebody is left to train
    on."""
    return table.assign(patient=table.domain + table.patient)


def test_leave_one_domain_out_takes_the_epoch_that_is_best_on_the_domains_left_out(alone, monkeypatch):
    # the first is not read; the means of the others are .53, .67, .70
    aucs = {"bach": [np.nan, .6, .5, .7], "camelyon": [np.nan, .5, .8, .6], "inbreast": [np.nan, .5, .7, .8]}
    trained_on = {}

    def fit(learn, epochs):
        left_out, = set(learn.select.validation.domain)
        trained_on[left_out] = set(learn.dls.train.dataset.domains)
        return pd.DataFrame({"valid_auc": aucs[left_out]})
    monkeypatch.setattr(learner, "fit", fit)
    epoch = learner.epoch_by_left_out(TINY, "erm", "cbis_ddsm", 42, alone)
    assert epoch == 3
    assert list(trained_on) == sorted(aucs)
    for left_out, domains in trained_on.items():
        assert not {left_out, "cbis_ddsm"} & domains


def test_leave_one_domain_out_selection_keeps_that_epoch_and_never_reads_the_target(alone):
    epoch = learner.epoch_by_left_out(TINY, "ours", "inbreast", 42, alone)
    run = learner.train(TINY, "ours", "inbreast", 42, alone, selection="leave-one-domain-out")
    first, state = run.predictions[PROBABILITIES], run.state
    fold = cohort.leave_one_out(alone, "inbreast", 42)
    record.seed_everything(42)
    model = learner.begin(TINY, "ours")
    images = images_of(TINY, model, alone)
    record.seed_everything(42)
    by_hand = learner.learner(TINY, "ours", fold, images, 42, model)
    by_hand.select.chosen_epoch = epoch
    learner.fit(by_hand, TINY.epochs)
    centre(model, fold[fold.split == "train"], images)
    assert run.config["selection"] == "leave-one-domain-out" and same(state, by_hand.model.state_dict())
    poisoned = alone.copy()
    poisoned.loc[alone.domain == "inbreast", ["allowed", "file_allowed", "truth"]] = 2, 2, 1
    (run.folder / "done").unlink()
    again = learner.train(TINY, "ours", "inbreast", 42, poisoned, selection="leave-one-domain-out")
    assert same(state, again.state)
    assert np.array_equal(first.to_numpy(), again.predictions[PROBABILITIES].to_numpy())
    with pytest.raises(Problem, match="no selection 'oracle' for a training"):
        learner.train(TINY, "ours", "inbreast", 42, alone, selection="oracle")
