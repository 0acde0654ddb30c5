"""RFPMSS: anchors with right marginals, retrieval against brute force, reports, and studies whose reports agree with them."""
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from figure_text import text_of
from PIL import Image

from data_scripts.phantom import patients, studies as phantom, ultrasound
from figures import rfpmss as figure
from xmodal.companions import measures, reporter, rfpmss, rfpmss_study, transport
from xmodal.config import Problem
from xmodal.tables import common

SMALL = rfpmss.Settings(width=32, depth=1, heads=2, anchors=6, chosen=3, length=24, epochs=14, batch=40, lr=5e-3, patches="pixels", bank=20)


# ---- several anchors a sample ------------------------------------------------------------------------------------

def scores(n, k, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).uniform(-1, 1, (n, k)))


@pytest.mark.parametrize("how", [{}, {"sharpness": 0.01}, {"sharpness": 100.0}, {"damping": 0.01, "sharpness": 50.0}, {"damping": 0.99}], ids=str)
@pytest.mark.parametrize("n, k, chosen", [(48, 16, 8), (30, 64, 32), (64, 12, 3), (20, 5, 4), (32, 8, 1)])
def test_marginals_of_multi_sk_hold(n, k, chosen, how):
    p = transport.multi_sk(scores(n, k).float(), chosen, **how)
    assert (p.sum(1) - chosen).abs().max() < 1e-6 and (p.sum(0) - n * chosen / k).abs().max() < 1e-6
    assert p.min() >= 0 and p.max() <= 1 + 1e-6, "no anchor is taken more than once"


def test_one_anchor_a_sample_is_plain_sinkhorn():
    import ot
    x = scores(24, 6)
    theirs = ot.sinkhorn(np.ones(24), np.full(6, 4.0), -x.numpy(), reg=0.1, numItermax=10000, stopThr=1e-12)
    np.testing.assert_allclose(transport.multi_sk(x, 1, sharpness=10.0), theirs, atol=1e-7)


def test_multi_sk_is_algorithm_1_with_all_its_channels():
    """The printed three-way scaling of a (K, N, K) tensor, a loop a direction, against the two channels that are kept of it."""
    n, k, chosen, damping = 12, 5, 2, 0.25
    x = scores(n, k)
    tensor = torch.exp(10 * torch.stack([x if c < chosen else damping * x for c in range(k)]))      # channel, sample, anchor
    for _ in range(5000):
        tensor = tensor / tensor.sum(2, keepdim=True)
        tensor = tensor / tensor.sum(1, keepdim=True) * n / k
        tensor = tensor / tensor.sum(0, keepdim=True)
    torch.testing.assert_close(transport.multi_sk(x, chosen, damping), tensor[:chosen].sum(0), atol=1e-6, rtol=0)


def test_more_similar_anchors_are_taken_and_impossible_numbers_refused():
    x = scores(40, 8)
    p = transport.multi_sk(x, 4)
    assert np.corrcoef(x.flatten(), p.flatten())[0, 1] > 0.8
    batched = transport.multi_sk(torch.stack([x, -x]), 4)
    torch.testing.assert_close(batched[0], p, atol=1e-6, rtol=0)
    for chosen in (0, 8):
        with pytest.raises(Problem, match="1 to 7"):
            transport.multi_sk(x, chosen)


# ---- retrieval and text ------------------------------------------------------------------------------------------

def test_retrieval_is_that_of_sorting():
    similarity = np.random.default_rng(0).normal(size=(37, 37)) + 1.5 * np.eye(37)
    by_hand = np.array([1 + list(np.argsort(-row)).index(i) for i, row in enumerate(similarity)])
    found = measures.retrieval(similarity)
    np.testing.assert_array_equal(measures.ranks(similarity), by_hand)
    assert found["MedR"] == np.median(by_hand) and found["MeanR"] == by_hand.mean()
    assert all(found[f"R@{k}"] == pytest.approx(100 * np.mean([i in np.argsort(-row)[:k] for i, row in enumerate(similarity)])) for k in (1, 5, 10))


def test_ties_are_what_all_orders_of_them_give_on_average():
    similarity = np.random.default_rng(1).integers(0, 3, (5, 5)).astype(float)
    orders = [np.lexsort((order, -row)).tolist().index(i) + 1 for i, row in enumerate(similarity)
              for order in itertools.permutations(range(5))]                     # lexsort: ties stand as in `order`
    by_hand = np.reshape(orders, (5, -1))
    np.testing.assert_allclose(measures.ranks(similarity), by_hand.mean(1))
    assert measures.retrieval(similarity)["R@1"] == pytest.approx(100 * (by_hand == 1).mean())


def test_a_constant_similarity_has_the_ranks_of_chance():
    assert measures.retrieval(np.zeros((50, 50))) == pytest.approx(measures.chance(50)) and measures.chance(50)["MedR"] == 25.5
    with pytest.raises(Problem, match="as many items"):
        measures.ranks(np.zeros((3, 4)))
    with pytest.raises(Problem, match="not a number"):
        measures.ranks(np.full((3, 3), np.nan))


def test_bleu_and_rouge_of_published_examples():
    the = ("the " * 7).split()
    assert measures.bleu([the], ["the cat is on the mat".split()], 1) == pytest.approx(2 / 7)        # Papineni et al. 2002, Example 2
    police = "police killed the gunman".split()
    assert measures.rouge_l(["police kill the gunman".split()], [police]) == pytest.approx(3 / 4)     # Lin 2004
    assert measures.rouge_l(["the gunman kill police".split()], [police]) == pytest.approx(2 / 4)
    assert measures.bleu([police], [police]) == 1 and measures.bleu([police[:3]], [police], 1) == pytest.approx(np.exp(1 - 4 / 3))


def test_bleu_is_that_of_torchmetrics():
    bleu_score = pytest.importorskip("torchmetrics.functional.text").bleu_score
    rng = np.random.default_rng(0)
    said, meant = ([list(rng.choice(list("abcde"), 12)) for _ in range(6)] for _ in range(2))
    theirs = bleu_score([" ".join(s) for s in said], [[" ".join(m)] for m in meant], n_gram=2)
    assert measures.bleu(said, meant, 2) == pytest.approx(float(theirs), abs=1e-6)


def test_the_decoder_learns_to_say_what_it_is_given_and_beam_search_is_no_worse():
    reports = ["There is a mass of 12 mm.", "No mass.", "There are calcifications, BI-RADS 4."]
    vocabulary = reporter.Vocabulary(reports)
    assert vocabulary.decode(vocabulary.encode(reports, 16)[0]) == reporter.words(reports[0])
    torch.manual_seed(0)
    decoder, v = reporter.Decoder(len(vocabulary), 16, 2, 1, 16), torch.eye(3, 16)
    numbers, step = vocabulary.encode(reports, 16), torch.optim.Adam(decoder.parameters(), 0.02)
    log_p = lambda row, z: float(torch.gather(decoder(row[None, :-1], z[None]).log_softmax(2)[0], 1, row[1:, None])[row[1:] != 0].sum().detach())
    for trained in (False, True):
        rows = reporter.greedy(decoder, v)
        best = [reporter.beam(decoder, z, 8) for z in v]
        assert all(torch.equal(reporter.beam(decoder, z, 1), r[:len(reporter.beam(decoder, z, 1))]) for z, r in zip(v, rows))
        mean = lambda row, z: log_p(row, z) / max(int((row[1:] != 0).sum()), 1)
        assert all(mean(b, z) >= mean(r, z) - 1e-4 for b, r, z in zip(best, rows, v)) or not trained
        for _ in range(0 if trained else 150):
            loss = reporter.language_loss(decoder, numbers, v)
            step.zero_grad()
            loss.backward()
            step.step()
    assert [vocabulary.decode(r) for r in rows] == [reporter.words(r) for r in reports] and loss < 0.1
    with pytest.raises(Problem, match="empty"):
        reporter.Vocabulary(["", " "])


# ---- the phantom's studies ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    return folder, phantom.write(folder / "studies", 2, size=64, workers=1)


def test_studies_are_the_same_bytes_again_and_say_what_they_show(drawn, tmp_path):
    folder, table = drawn
    again = phantom.write(tmp_path, 2, size=64, workers=1)
    pd.testing.assert_frame_equal(table, again)
    for view in phantom.VIEWS:
        assert (folder / "studies" / "images" / f"{view}.npy").read_bytes() == (tmp_path / "images" / f"{view}.npy").read_bytes()
    for row in table.itertuples():
        side = {"L": "left", "R": "right"}[row.laterality]
        assert side in row.report and phantom.COMPOSITION[row.density] in row.report
        assert (row.boxes_ultrasound == "[]") == (row.label == "normal") == ("BI-RADS 1" in row.report)
        assert row.label == "normal" or row.lesion_type not in ("mass", "calcification") or f"{round(row.diameter_mm)} mm" in row.report


def test_the_ultrasound_of_a_mass_is_dark_inside_and_shadows_or_enhances():
    rows = patients.cohort(3, 40, 0)
    masses = rows[rows.lesion_type == "mass"]
    dark, behind = [], []
    for row in masses.to_dict("records"):
        image, mask = ultrasound.draw(row, patients.generator(1, row["patient"]))
        y, x = np.nonzero(mask)
        below = image[y.max() + 2:y.max() + 18, x.min():x.max()].astype(float).mean()
        beside = np.delete(image[y.max() + 2:y.max() + 18].astype(float), np.s_[max(x.min() - 6, 0):x.max() + 6], 1).mean()
        dark.append(image[mask].mean() < image[~mask].mean())
        behind.append(below - beside)
    assert np.mean(dark) > 0.95
    assert np.corrcoef(masses.spread, behind)[0, 1] < -0.4, "the more a mass spreads, the more shadow"


# ---- training on studies whose answer is known -------------------------------------------------------------------

def toy(n=160, seed=0):
    """Studies whose four factors show in every view's tokens and in the report's words."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 4)).astype(np.float32)
    mix = lambda p, f, noise: torch.as_tensor(factors @ rng.normal(size=(4, f)).astype(np.float32))[:, None].expand(n, p, f) + noise * torch.as_tensor(
        rng.normal(size=(n, p, f)).astype(np.float32))
    grades = np.digitize(factors, [-0.5, 0.5])
    table = pd.DataFrame({"patient": [f"p{i}" for i in range(n)], "label": np.array(["normal", "benign", "malignant"])[grades[:, 0]],
                          "report": [" ".join(f"{w} {'low middle high'.split()[g]}." for w, g in zip(("mass", "margin", "density", "shadow"), row)) for row in grades],
                          "site": "studies", "split": np.where(np.arange(n) < 120, "train", "test")})
    return rfpmss.Studies(table, {v: mix(4, 12, 0.3) for v in rfpmss.VIEWS}, mix(5, 384, 0.3), torch.ones(n, 5, dtype=torch.long))


@pytest.fixture(scope="module")
def trained():
    studies = toy()
    rows = [rfpmss_study.rows_of(studies.table, s) for s in ("train", "test")]
    vocabulary = reporter.Vocabulary(studies.table.report[rows[0]])
    models = {name: rfpmss.train(studies, rows[0], SMALL, variant, 42, vocabulary)[0]
              for name, variant in (("whole", rfpmss.OURS), ("no alignment", rfpmss.NO_ALIGNMENT))}
    return studies, rows, models


def test_retrieval_is_far_above_chance_and_at_chance_without_alignment(trained):
    studies, (_, test), models = trained
    found = {k: rfpmss_study.retrieval_table(rfpmss_study.represent(m, studies, test)).iloc[0] for k, m in models.items()}
    chance = measures.chance(len(test))
    assert found["whole"]["R@10"] > 2.5 * chance["R@10"] and found["whole"].MedR < chance["MedR"] / 3
    assert abs(found["no alignment"].MeanR - chance["MeanR"]) < 4 * len(test) / np.sqrt(12 * len(test))


def test_a_poisoned_report_is_not_found(trained):
    studies, (_, test), models = trained
    out = rfpmss_study.represent(models["whole"], studies, test)
    cosine = lambda o: rfpmss_study.cosine(o["v"], o["joint"]["report"])
    before = measures.ranks(cosine(out))
    who, own = int(np.argmin(before)), cosine(out)
    assert rfpmss_study.poisoned(out, who, int(own[who].argmin())) == (before[who], len(test) - 0.5), "one study with the report least like its own"
    swapped = rfpmss.Studies(studies.table, studies.tokens, studies.words.clone(), studies.mask)
    swapped.words[test] = swapped.words[test[::-1].copy()]                  # every study gets another's report
    after = measures.ranks(cosine(rfpmss_study.represent(models["whole"], swapped, test)))
    assert np.median(after) > 3 * np.median(before)


@pytest.mark.parametrize("name", [*rfpmss.TABLE4A, *rfpmss.TABLE5])
def test_every_variant_trains_the_terms_it_names(name):
    variant, studies = {**rfpmss.TABLE4A, **rfpmss.TABLE5}[name], toy(24)
    model, history = rfpmss.train(studies, np.arange(24), replace(SMALL, epochs=1, batch=12), variant, 0, reporter.Vocabulary(studies.table.report))
    terms = {"language": variant.language, "study": variant.study, "pairs": variant.pairs, "labels": variant.labels,
             "consistency": variant.across or variant.within in ("anchors", "self"), "reconstruction": variant.within == "reconstruction"}
    assert set(history) - {"epoch"} == {k for k, on in terms.items() if on}
    out = rfpmss_study.represent(model, studies, np.arange(24))
    torch.testing.assert_close(out["view_weights"].sum(1), torch.ones(24))
    assert (out["attention"]["magnified"].sum(1) <= 1 + 1e-5).all() and out["v"].shape == (24, 32)


def test_consistency_is_least_where_assignments_agree():
    model = rfpmss.RFPMSS(SMALL, rfpmss.OURS, 12, 20, 4)
    with torch.no_grad():
        for m in rfpmss.MODALITIES:
            model.anchors[f"{m}_joint"].copy_(model.anchors[f"{m}_input"])
            model.anchors[f"{m}_input"].copy_(model.anchors["report_input"])
            model.anchors[f"{m}_joint"].copy_(model.anchors["report_input"])
    z = torch.randn(40, 32)
    same = {"inputs": dict.fromkeys(rfpmss.MODALITIES, z), "joint": dict.fromkeys(rfpmss.MODALITIES, z)}
    other = {"inputs": same["inputs"], "joint": dict.fromkeys(rfpmss.MODALITIES, z.flip(0))}
    loss = lambda out: rfpmss.Consistency(SMALL, rfpmss.OURS)(model, out).item()
    assert loss(same) < loss(other)


def test_a_run_is_kept_and_the_same_seed_gives_the_same_bits(home):
    studies = toy(60)
    settings, rows = replace(SMALL, epochs=1), (np.arange(40), np.arange(40, 60))
    first = rfpmss_study.run("lesson", studies, "whole", rfpmss.OURS, 1, settings, *rows, report=True)
    model, _ = rfpmss_study.again("lesson", studies, "whole", rfpmss.OURS, 1, settings, rows[0])
    second = rfpmss.train(studies, rows[0], settings, rfpmss.OURS, 1, reporter.Vocabulary(studies.table.report[rows[0]]))[0]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), second.state_dict().values()))
    assert {"auc", "bleu4", "rouge_l", "bleu4_beam_few"} <= set(first["scores"])
    whole = rfpmss_study.summary({"whole": first}).iloc[0]
    assert whole["R@10_low"] < whole["R@10"] < whole["R@10_high"]
    again = rfpmss_study.run("lesson", studies, "whole", rfpmss.OURS, 1, settings, *rows, report=True)
    pd.testing.assert_frame_equal(first["retrieval"], again["retrieval"])


def test_a_training_that_was_cut_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    studies, rows, settings = toy(60), np.arange(40), replace(SMALL, epochs=3)
    train = lambda resume=None: rfpmss.train(studies, rows, settings, rfpmss.OURS, 1, reporter.Vocabulary(studies.table.report), resume=resume)
    whole, history = train()
    left, objective = iter(range(2)), rfpmss.objective                             # two batches, of an epoch each

    def cut(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return objective(*args)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rfpmss, "objective", cut)
        train(tmp_path / "checkpoint.safetensors")
    model, again = train(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), model.state_dict().values()))
    pd.testing.assert_frame_equal(history, again)


@pytest.fixture
def own(tmp_path):
    """Ten studies as a table and pictures on disk: (folder, table as written)."""
    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        for view in rfpmss.VIEWS:
            Image.fromarray(rng.integers(0, 255, (40, 60), dtype=np.uint8)).save(tmp_path / f"{view}{i}.png")
        rows.append({"patient": f"p{i}", "label": ("normal", "benign", "malignant")[i % 3], "report": f"mass {i}.", "boxes_magnified": "[[30, 10, 60, 40]]",
                     **{view: f"{view}{i}.png" for view in rfpmss.VIEWS}})
    pd.DataFrame(rows).to_csv(tmp_path / "studies.csv", index=False)
    return tmp_path, pd.DataFrame(rows)


def test_studies_of_ones_own_are_read_from_a_table_and_pictures(own):
    folder, table = own
    found, pictures = rfpmss_study.load_table(folder, size=32)
    assert found.split.value_counts().to_dict() == {"train": 6, "test": 4} and found.boxes_magnified[0] == "[[16, 8, 32, 32]]"
    assert all(p.shape == (10, 32, 32) and p.dtype == np.uint8 for p in pictures.values())
    settings = replace(SMALL, epochs=1, length=8)
    studies = rfpmss.read(found, pictures, settings)
    model, _ = rfpmss.train(studies, np.arange(6), settings, rfpmss.OURS, 0, reporter.Vocabulary(found.report))
    looked = rfpmss_study.attention_table(studies, pictures, rfpmss_study.represent(model, studies, np.arange(10)), np.arange(10))
    assert len(looked) == 10 and looked.area.eq(16 * 24 / 32 ** 2).all()
    for wrong, said in (({"label": "cyst"}, "no class 'cyst'"), ({"report": " "}, "empty report"), ({"mammogram": "gone.png"}, "cannot be read"),
                        ({"boxes_magnified": "[[1, 2"}, "no list of boxes"), ({"boxes_magnified": "[[1, 2]]"}, "no list of boxes")):
        table.assign(**wrong).to_csv(folder / "studies.csv", index=False)
        with pytest.raises(Problem, match=said):
            rfpmss.train(rfpmss.Studies(rfpmss_study.load_table(folder)[0], studies.tokens, studies.words, studies.mask), np.arange(6), settings,
                         rfpmss.OURS, 0, reporter.Vocabulary(found.report))
    table.drop(columns="ultrasound").to_csv(folder / "studies.csv", index=False)
    with pytest.raises(Problem, match="no column 'ultrasound'"):
        rfpmss_study.load_table(folder)


def test_every_panel_is_drawn_from_its_table_alone(home, own):
    found, pictures = rfpmss_study.load_table(own[0], size=32)
    settings, rows = replace(SMALL, epochs=1, length=8), np.arange(10)
    studies = rfpmss.read(found, pictures, settings)
    done = rfpmss_study.summary({"RFPMSS": rfpmss_study.run("lesson", studies, "RFPMSS", rfpmss.OURS, 0, settings, rows[:6], rows)})
    model, _ = rfpmss_study.again("lesson", studies, "RFPMSS", rfpmss.OURS, 0, settings, rows[:6])
    out = rfpmss_study.represent(model, studies, rows)
    shares = rfpmss_study.anchor_shares(model, out)
    tables = {"table1": done, "table3": done, "table4a": done, "table4b": done.drop(columns="name").assign(anchors=6, chosen=3), "table5": done,
              "fig4": rfpmss_study.spread(rfpmss_study.attention_table(studies, pictures, out, rows), "iou"),
              "fig5": rfpmss_study.fig5(studies, out, rows), "fig5d": rfpmss_study.fig5d(shares, found.label.to_numpy()),
              "fig7": rfpmss_study.fig7(shares, studies, rows, pictures)}
    assert set(tables) == set(figure.PANELS)
    for name, table in tables.items():
        common.write(table, f"rfpmss_{name}", "lesson")
    said = text_of(figure.draw())
    assert "one training of one seed" in said and "phantom data" in said and "no finished runs" not in said and "K 6, K' 3" in said


def test_missing_studies_and_empty_reports_are_named(drawn, tmp_path):
    folder, table = drawn
    with pytest.raises(Problem, match="no phantom studies"):
        rfpmss_study.load(tmp_path)
    target = tmp_path / "studies"
    target.mkdir()
    (target / "images").symlink_to(folder / "studies" / "images")
    table.assign(report=["", *table.report[1:]]).to_parquet(target / "studies.parquet")
    with pytest.raises(Problem, match="empty report"):
        rfpmss_study.load(tmp_path, ("studies",))
