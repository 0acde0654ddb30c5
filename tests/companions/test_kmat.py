"""K-MaT: prompts through a frozen encoder, the low end unseen until the test, runs, tables and the figure."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from figure_text import text_of
from PIL import Image

from data_scripts import kmat_pairs
from figures import kmat as figure
from xmodal import config
from xmodal.companions import clip, frozen, kmat, kmat_panels, pictures, prompts
from xmodal.config import HOME, Problem
from xmodal.tables import common

LEARNED = [name for name, method in kmat.METHODS.items() if method.learned]
SMALL = prompts.Settings(shots=4, epochs=2, batch=6, lr=0.05)


# ---- a small image-text model of the real classes ----------------------------------------------------------

def grey_of_quarters(images):
    """Mean grey of the four quarters of pictures (N, 16, 16)."""
    tiles = torch.as_tensor(np.asarray(images, np.float32)).unfold(1, 8, 8).unfold(2, 8, 8)
    return tiles.mean((3, 4)).flatten(1) / 255


@pytest.fixture(scope="module")
def model():
    """A stand-in with MiniLM's tokenizer, a random transformer of one layer, and quarters' grey as vision."""
    from transformers import BertConfig, BertModel
    torch.manual_seed(0)
    _, tokenizer = frozen.minilm()
    tiny = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                intermediate_size=32, vocab_size=len(tokenizer)))
    image = clip.ImageTower(grey_of_quarters, torch.nn.Linear(4, 16))
    text = clip.TextTower(tiny, tokenizer, frozen.mean_pool, torch.nn.Linear(32, 16))
    return clip.ImageText("tiny", image, text, 10.0)


def shown(images):
    """How a Modality opens an array of pictures."""
    return lambda rows: images[rows.index]


def pair(low=None, n=60):
    """Pictures 16 x 16 whose bright quarter tells the class; `low` opens other pictures for the low end."""
    rng = np.random.default_rng(0)
    labels = np.array(kmat_pairs.BREAST)[np.arange(n) % 3]
    images = rng.integers(0, 60, (n, 16, 16)).astype(np.uint8)
    for i in range(n):
        y, x = divmod(i % 3, 2)
        images[i, 8 * y:8 * y + 8, 8 * x:8 * x + 8] += 150
    names = [f"{i}" for i in range(n)]
    table = pd.DataFrame({"sample": names, "patient": names, "label": labels})
    table = pictures.split_patients(table, 0)
    high = pictures.Modality("mammography", table, shown(images))
    return pictures.Pair(kmat_pairs.BREAST, high,
                         pictures.Modality("ultrasound", table, low or shown(255 - images)))


@pytest.fixture(scope="module")
def texts(model):
    return prompts.Texts(model, pair())


# ---- prompts -----------------------------------------------------------------------------------------------

def test_switches_shape_the_context_and_what_differs(model):
    for csc, msc in ((False, False), (True, False), (False, True), (True, True)):
        shape = (1 + msc, 3 if csc else 1)
        p = prompts.Prompts(prompts.Method(csc=csc, msc=msc), model, kmat_pairs.BREAST, 4, 0)
        assert p.context.shape == (*shape, 4, 32) and p().shape == (2, 3, 16)
        assert torch.equal(p()[0], p()[1]) != msc
    assert [name for name, _ in p.named_parameters()] == ["context"], "nothing of the frozen model is learned"


def test_terms_reach_the_prompts_they_should(model, texts):
    high, rows = pair().high.features(model, "train")
    labels = pair().labels(rows)

    def terms(row):
        p = prompts.Prompts(kmat.ABLATION[row], model, kmat_pairs.BREAST, 4, 0)
        return p, prompts.terms_of(p, p(), texts, high[:6], labels[:6], SMALL)

    reached = {}
    for row in ("3", "4", "5"):
        p, losses = terms(row)
        sum(losses.values()).backward()
        reached[row] = [float(g.abs().sum()) > 0 for g in p.context.grad]
    assert reached == {"3": [True, False], "4": [True, True], "5": [True, True]}
    p, losses = terms("4")
    losses["fgw"].backward()
    assert p.context.grad[0].abs().sum() == 0, "the high end is detached in the transport term"


def test_the_anchor_is_the_printed_sum():
    w, anchors = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    by_hand = sum(((w[m, i] - anchors[m, i]) ** 2).sum() for m in range(2) for i in range(3)) / 6
    assert float(prompts.anchor_loss(w, anchors)) == pytest.approx(float(by_hand))


# ---- runs --------------------------------------------------------------------------------------------------

def learned(texts, name, low=None):
    members, _ = kmat.trained(pair(low), texts, kmat.METHODS[name], SMALL, [42])
    return members[0]


def forbidden(rows):
    raise AssertionError("the low end was looked at")


@pytest.mark.parametrize("name", LEARNED)
def test_the_low_end_is_not_looked_at_before_the_test(texts, name):
    """Forbidden low-end pictures change no bit of what is learned; the test is the first to ask for them."""
    plain = learned(texts, name).state_dict()
    blind = learned(texts, name, forbidden)
    assert all(torch.equal(plain[k], value) for k, value in blind.state_dict().items())
    with pytest.raises(AssertionError, match="looked at"):
        kmat.predict(blind, texts, pair(forbidden), 1)


def test_a_training_that_was_cut_goes_on_and_the_first_look_at_the_low_end_may_fail(home, texts, monkeypatch):
    """Whatever stops a run, the next finds its epochs; the low end is asked for when they are all done."""
    def run(low=None):
        return kmat.run("lesson", pair(low), texts, "kmat", kmat.METHODS["kmat"], [42], SMALL)

    with pytest.raises(AssertionError, match="looked at"):
        run(forbidden)
    folder = config.RUNS / "lesson" / "companions" / "kmat" / "pair" / "kmat" / "seeds_42"
    assert (folder / "checkpoint.safetensors").exists() and not (folder / "done").exists()
    with monkeypatch.context() as patch:
        patch.setattr(prompts, "terms_of", lambda *_: pytest.fail("an epoch was trained twice"))
        tables = run()[42]
    assert not (folder / "checkpoint.safetensors").exists() and not (folder / "begun.json").exists()
    whole = kmat.embeddings(learned(texts, "kmat"), texts)
    np.testing.assert_allclose(tables["embeddings"].iloc[:, 2:], whole.iloc[:, 2:], rtol=1e-6)


def test_training_learns_the_high_end(texts):
    settings = prompts.Settings(shots=8, epochs=30, batch=24, lr=0.3)
    [p], [history] = kmat.trained(pair(), texts, prompts.Method(csc=True), settings, [42])
    assert history.ce.iloc[-1] < history.ce.iloc[0] - 0.2
    high = kmat.predict(p, texts, pair(), 0)
    assert (kmat.guess(high) == high.truth).mean() > 0.6


def test_a_run_is_recorded_and_not_repeated(home, texts, monkeypatch):
    first = kmat.run("lesson", pair(), texts, "coop", kmat.METHODS["coop"], [42], SMALL)[42]
    folder = config.RUNS / "lesson" / "companions" / "kmat" / "pair" / "coop" / "seeds_42"
    recorded = json.loads((folder / "config.json").read_text())
    assert recorded["model"] == "tiny"
    assert (folder / "done").exists() and (folder / "environment.json").exists()
    monkeypatch.setattr(kmat, "trained", lambda *_: pytest.fail("a finished run was trained again"))
    again = kmat.run("lesson", pair(), texts, "coop", kmat.METHODS["coop"], [42], SMALL)[42]
    pd.testing.assert_frame_equal(first["predictions"], again["predictions"])
    tested = (pair().high.table.split == "test").sum()
    assert first["predictions"].groupby("end").size().eq(tested).all()


# ---- tables and figure -------------------------------------------------------------------------------------

def predictions(high, low):
    """Predictions of which so many of ten are right at either end."""
    right = np.array([1.0] * high + [0.0] * (10 - high) + [1.0] * low + [0.0] * (10 - low))
    table = pd.DataFrame({"end": ["high"] * 10 + ["low"] * 10, "truth": 0, "p0": right, "p1": 1 - right})
    return {"predictions": table}


def test_pairs_stand_side_by_side_with_their_mean_and_a_second_run_replaces_its_own_rows(home):
    def write(pair_name, high, low, data="public"):
        table = kmat_panels.table_of({("coop", 1): predictions(high, low)}, "m")
        table = kmat_panels.side_by_side(table, "kmat_table2", pair_name, data)
        common.write(table, "kmat_table2", "lesson" if data == "phantom" else "paper")
        return table.set_index("pair").high_acc

    assert write("phantom", 1, 1, "phantom").to_dict() == {"phantom": 10.0}
    assert write("breast", 8, 2).to_dict() == {"breast": 80.0}, "phantom rows do not stand beside public ones"
    assert write("chest", 4, 2).to_dict() == {"breast": 80.0, "chest": 40.0, "Avg.": 60.0}
    assert write("breast", 6, 2).to_dict() == {"chest": 40.0, "breast": 60.0, "Avg.": 50.0}


def test_differences_are_paired_by_seed():
    runs = {}
    for seed, (ours, theirs) in enumerate(((8, 6), (6, 5), (9, 6))):
        runs["kmat", seed] = predictions(5, ours)
        runs["coop", seed] = predictions(5, theirs)
    table = kmat_panels.against(runs).set_index("end")
    assert table.difference.to_dict() == pytest.approx({"high": 0.0, "low": 20.0})
    assert table.low["low"] < 20 < table.high["low"] and table.seeds.eq(3).all()


def test_tables_hold_both_definitions_of_the_harmonic_mean():
    table = kmat_panels.table_of({("coop", 1): predictions(8, 2), ("coop", 2): predictions(4, 4)}, "m")
    assert table.h_acc[0] == pytest.approx((32 + 40) / 2)
    assert table.h_of_means_acc[0] == pytest.approx(2 * 60 * 30 / 90)


def of_row(runs, row):
    """{seed: tables} of a row of Table 3."""
    return {seed: tables for (name, seed), tables in runs.items() if name == row}


def test_tables_and_figure_of_three_seeds_name_the_model(home, model, texts):
    few = replace(SMALL, epochs=1)
    runs = kmat.ablation("lesson", pair(), texts, kmat.OURS, (1, 2, 3), few)
    table3 = kmat_panels.table_of(runs, model.name)
    assert table3.method.tolist() == list("12345678") and table3.seeds.eq(3).all()
    high = {row: runs[row, 1]["embeddings"].iloc[:3, 2:].to_numpy() for row in kmat.ABLATION}
    assert np.array_equal(high["3"], high["4"]), "transport leaves the high end alone"
    assert np.array_equal(high["5"], high["8"])
    assert not np.array_equal(high["3"], high["5"]), "anchors do not"
    ours = of_row(runs, "8")
    named = {(method, seed): tables for method in figure.METHODS for seed, tables in ours.items()}
    with_fgw, without = of_row(runs, "4"), of_row(runs, "3")
    tables = {"table2": kmat_panels.table_of(named, model.name).assign(pair="phantom"),
              "table3": table3.assign(pair="phantom"),
              "plan": kmat_panels.couplings(with_fgw, pair().classes),
              "control": pd.DataFrame({"arm": ["CoOp", "CoOp"], "dose": [0.0, 1.0], "seed": 1, "dial": "gap",
                                       "value": [0.5, 0.4]}),
              "fig2a": kmat_panels.fig2a(with_fgw, without, pair().classes),
              "fig2b": kmat_panels.fig2b(with_fgw, without, pair().classes)}
    for name, table in tables.items():
        common.write(table, f"kmat_{name}", "lesson")
    drawn = text_of(figure.draw())
    assert "image-text model: tiny; mean and sd over 3 seeds" in drawn and "phantom data" in drawn
    assert "no finished runs" not in drawn


# ---- errors and real pictures ------------------------------------------------------------------------------

def test_errors_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(Problem, match="no class 'cyst'"):
        pair().labels(pd.DataFrame({"label": ["benign", "cyst"]}))
    with pytest.raises(Problem, match="write mammography_cyst.txt"):
        prompts.read_descriptions("mammography", "cyst")
    monkeypatch.setattr(prompts, "DESCRIPTIONS", tmp_path)
    (tmp_path / "mammography_benign.txt").write_text("\n \n")
    with pytest.raises(Problem, match="empty"):
        prompts.read_descriptions("mammography", "benign")


BUSI = HOME.parent / "shared" / "data" / "busi"


def small_grey(rows):
    opened = [Image.fromarray(p).convert("L").resize((16, 16)) for p in pictures.open_pictures(rows)]
    return np.stack(opened)


@pytest.mark.skipif(not BUSI.exists(), reason="the real BUSI subset is not on this machine")
def test_real_busi_is_the_low_end(home, texts):
    table = pictures.split_patients(kmat_pairs.busi(BUSI))
    assert set(table.label) == set(kmat_pairs.BREAST) and (table.label == "benign").sum() > 50
    real = pictures.Pair(kmat_pairs.BREAST, pair().high, pictures.Modality("ultrasound", table, small_grey))
    tables = kmat.run("lesson", real, texts, "kmat", kmat.METHODS["kmat"], [42], SMALL)[42]
    low = tables["predictions"].query("end == 'low'")
    assert len(low) == (table.split == "test").sum()
    assert low[["p0", "p1", "p2"]].sum(axis=1).sub(1).abs().max() < 1e-5
