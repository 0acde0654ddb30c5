"""K-MaT and RFPMSS train on a GPU as on the processor; without a GPU, on the processor alone."""
import numpy as np
import torch
from test_gpu import device  # noqa: F401 (a fixture)
from test_kmat import SMALL as FEW, pair
from test_rfpmss import SMALL, toy

from xmodal.companions import frozen, kmat, prompts, reporter, rfpmss, rfpmss_study


def test_rfpmss(device, tmp_path):  # noqa: F811
    studies = toy(48)
    vocabulary = reporter.Vocabulary(studies.table.report)
    model, history = rfpmss.train(studies, np.arange(40), SMALL, rfpmss.OURS, 0, vocabulary, device=device,
                                  resume=tmp_path / "checkpoint.safetensors")
    on_device = rfpmss_study.represent(model, studies, np.arange(48), device)
    assert reporter.beam(model.decoder, on_device["v"][0].to(device)).device.type == device
    on_processor = rfpmss_study.represent(model.cpu(), studies, np.arange(48))
    torch.testing.assert_close(on_device["v"], on_processor["v"], atol=1e-3, rtol=1e-3)
    assert history.language.iloc[-1] < history.language.iloc[0]
    assert len(rfpmss_study.retrieval_table(on_device)) == 14


def test_kmat_with_a_stand_in(device, tmp_path):  # noqa: F811
    sides = pair(n=24)
    images = np.random.default_rng(0).integers(0, 255, (24, 128, 128), dtype=np.uint8)
    sentences = [[f"a {label} breast", label] for label in sides.high.table.label]
    model = frozen.standin(images, sentences, tmp_path / "standin", epochs=1, device=device)
    for side in (sides.high, sides.low):
        side.pictures = lambda rows: images[rows.index]
    texts = prompts.Texts(model, sides)
    for name in ("kmat", "cocoop", "biomedcoop"):
        checkpoint = tmp_path / f"{name}.safetensors"
        learned, _ = kmat.trained(sides, model, texts, kmat.METHODS[name], FEW, 0, checkpoint)
        predictions = kmat.predict(learned, texts, sides, 1)
        assert learned.context.device.type == device
        assert np.isfinite(predictions[["p0", "p1", "p2"]]).all(axis=None)
