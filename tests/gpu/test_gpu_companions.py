"""K-MaT and RFPMSS train on a GPU and say there what they say on the processor; without one the same runs on the processor alone."""
import numpy as np
import torch
from test_gpu import device  # noqa: F401 (a fixture)
from test_kmat import SMALL as FEW, pair
from test_rfpmss import SMALL, toy

from xmodal.companions import frozen, kmat, prompts, reporter, rfpmss, rfpmss_study


def test_rfpmss(device, tmp_path):  # noqa: F811
    studies = toy(48)
    model, history = rfpmss.train(studies, np.arange(40), SMALL, rfpmss.OURS, 0, reporter.Vocabulary(studies.table.report), device=device,
                                  resume=tmp_path / "checkpoint.safetensors")
    there = rfpmss_study.represent(model, studies, np.arange(48), device)
    assert reporter.beam(model.decoder, there["v"][0].to(device)).device.type == device
    here = rfpmss_study.represent(model.cpu(), studies, np.arange(48))
    torch.testing.assert_close(there["v"], here["v"], atol=1e-3, rtol=1e-3)
    assert history.language.iloc[-1] < history.language.iloc[0] and len(rfpmss_study.retrieval_table(there)) == 14


def test_kmat_with_a_stand_in(device, tmp_path):  # noqa: F811
    given, rng = pair(n=24), np.random.default_rng(0)
    pictures, said = rng.integers(0, 255, (24, 128, 128), dtype=np.uint8), [[f"a {label} breast", label] for label in given.high.table.label]
    model = frozen.standin(pictures, said, tmp_path / "standin", epochs=1, device=device)
    for side in (given.high, given.low):
        side.pictures = lambda rows: pictures[rows.index]
    texts = prompts.Texts(model, given)
    for name in ("kmat", "cocoop", "biomedcoop"):
        learned, _ = kmat.trained(given, model, texts, kmat.METHODS[name], FEW, 0, tmp_path / f"{name}.safetensors")
        found = kmat.predict(learned, texts, given, 1)
        assert learned.context.device.type == device and np.isfinite(found[["p0", "p1", "p2"]]).all(axis=None)
