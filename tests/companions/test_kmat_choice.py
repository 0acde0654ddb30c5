"""K-MaT's weights by cross-validation, and trainings side by side: what is left out changes nothing."""
from dataclasses import replace

import pandas as pd
import pytest
import torch
from test_kmat import LEARNED, SMALL, forbidden, model, pair, texts  # noqa: F401 (model, texts: fixtures)

from xmodal.companions import kmat, kmat_choice, prompts
from xmodal.config import Problem


def test_the_choice_takes_the_best_factor_and_looks_at_the_high_end_alone(home, texts):  # noqa: F811
    for name, weight in (("kmat", "anchor"), ("kgcoop", "keep"), ("biomedcoop", "distil")):
        method, tried = kmat_choice.choose("lesson", pair(forbidden), texts, name, (42, 1), SMALL, (0.0, 2.0))
        mean = tried.groupby("factor").accuracy.mean()
        best = 2.0 * (mean[2.0] > mean[0.0])
        assert getattr(method, weight) == best * getattr(kmat.METHODS[name], weight) and len(tried) == 4
    assert kmat_choice.choose("lesson", pair(), texts, "coop", (42, 1), SMALL) == (kmat.METHODS["coop"], None)
    with pytest.raises(Problem, match="do not part into 40 folds"):
        kmat_choice.choose("lesson", pair(), texts, "kmat", range(40), SMALL)


def test_the_choice_trains_the_high_end_as_the_method_does(texts):  # noqa: F811
    """Without its low-end prompts, its transport and the other end's half of the anchors."""
    def high(method, texts_of):
        members, _ = kmat.trained(pair(), texts_of, method, SMALL, [42])
        return members[0].context[0]

    whole = high(kmat.OURS, texts)
    assert torch.equal(whole, high(replace(kmat.OURS, fgw=0.0), texts)), "transport is detached here"
    torch.testing.assert_close(high(*kmat_choice.high_end_of(kmat.OURS, texts)), whole, atol=1e-6, rtol=1e-4)
    assert (high(replace(kmat.OURS, anchor=0.0), texts) - whole).abs().max() > 1e-4
    assert kmat_choice.high_end_of(kmat.METHODS["kgcoop"], texts) == (kmat.METHODS["kgcoop"], texts)


@pytest.mark.parametrize("name", LEARNED)
def test_seeds_that_train_side_by_side_come_out_as_each_alone(texts, name):  # noqa: F811
    """Also where one of them has fewer pictures than the others."""
    high, rows = pair().high.features(texts.model, "train")
    pool = high, pair().labels(rows)
    trainings = [kmat.training(pair(), kmat.METHODS[name], SMALL, seed, pool) for seed in (1, 2, 3)]
    trainings[1] = trainings[1]._replace(features=trainings[1].features[:7], labels=trainings[1].labels[:7])
    members, histories = prompts.learn(trainings, texts, SMALL)
    for own, prompt, history in zip(trainings, members, histories):
        [alone], [its_history] = prompts.learn([own], texts, SMALL)
        if len(own.labels) == len(trainings[0].labels):     # else an epoch has another order
            torch.testing.assert_close(prompt.context, alone.context, atol=1e-6, rtol=1e-4)
            pd.testing.assert_frame_equal(history, its_history, atol=1e-4)
        assert not torch.equal(prompt.context, members[0].context) or prompt is members[0]


def test_kgcoop_and_biomedcoop_without_weights_are_coop_and_run_once(home, texts, monkeypatch):  # noqa: F811
    first = kmat.run("lesson", pair(), texts, "coop", kmat.METHODS["coop"], [42], SMALL)[42]
    monkeypatch.setattr(kmat, "trained", lambda *_: pytest.fail("CoOp was trained twice"))
    for name in ("kgcoop", "biomedcoop"):
        off = kmat_choice.scaled(kmat.METHODS[name], 0.0)
        tables = kmat.run("lesson", pair(), texts, name, off, [42], SMALL)[42]
        pd.testing.assert_frame_equal(tables["predictions"], first["predictions"])
