"""K-MaT and RFPMSS give on a GPU what they give on the processor; without one all runs on the processor."""
import numpy as np
import torch
from test_gpu import device  # noqa: F401 (a fixture)
from test_kmat import SMALL as FEW, pair
from test_rfpmss import SMALL, toy

from xmodal.companions import clip, kmat, prompts, reporter, rfpmss, rfpmss_study, rfpmss_training


def test_rfpmss(device, tmp_path):  # noqa: F811
    studies, rows = toy(48), np.arange(48)
    model, history = rfpmss_training.train(studies, np.arange(40), SMALL, rfpmss.OURS, 0, device,
                                           tmp_path / "checkpoint.safetensors")
    on_device = rfpmss_study.represent(model, studies, rows, device)
    assert reporter.beam(model.decoder, on_device["v"][0].to(device)).device.type == device
    on_cpu = rfpmss_study.represent(model.cpu(), studies, rows)
    torch.testing.assert_close(on_device["v"], on_cpu["v"], atol=1e-3, rtol=1e-3)
    assert history.language.iloc[-1] < history.language.iloc[0]
    assert len(rfpmss_study.retrieval_table(on_device)) == 14


def test_kmat_with_a_stand_in(device, tmp_path):  # noqa: F811
    given = pair(n=24)
    pictures = np.random.default_rng(0).integers(0, 255, (24, 128, 128), dtype=np.uint8)
    reports = [[f"a {label} breast", label] for label in given.high.table.label]
    model = clip.standin(pictures, reports, tmp_path / "standin", epochs=1, device=device)
    for side in (given.high, given.low):
        side.pictures = lambda rows: pictures[rows.index]
    texts = prompts.Texts(model, given)
    for name in ("kmat", "cocoop", "biomedcoop"):
        checkpoint = tmp_path / f"{name}.safetensors"
        [learned, other], _ = kmat.trained(given, texts, kmat.METHODS[name], FEW, [0, 1], checkpoint)
        low = kmat.predict(learned, texts, given, 1)
        assert learned.context.device.type == other.context.device.type == device
        assert np.isfinite(low[["p0", "p1", "p2"]]).all(axis=None)
