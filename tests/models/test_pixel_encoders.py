"""Encoders of PixelHDM: stand-ins that are the same everywhere, and pretrained ones of local folders alone."""

import copy
import logging
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drivedit.config import PixelHDMConfig
from drivedit.models import PixelHDM, create_dinov3_encoder_from_config, create_text_encoder_from_config
from drivedit.models.pixel.text_to_image import PixelHDMForT2I, create_pixelhdm_for_t2i_from_config

CONFIG = PixelHDMConfig.for_testing()


def test_texts_become_tokens_a_mask_and_one_vector():
    encoder = create_text_encoder_from_config(CONFIG)
    hidden, mask, pooled = encoder(["a red car, at night", "rain", ""])
    assert hidden.shape == (3, 6, 64) and mask.sum(1).tolist() == [6, 1, 0] and pooled.shape == (3, 64)
    assert pooled.square().mean(1).tolist() == pytest.approx([1, 1, 0], abs=1e-4)
    again, *_ = create_text_encoder_from_config(CONFIG)(["rain"])
    assert torch.equal(again[0, 0], hidden[1, 0])
    assert encoder([""])[0].shape == (1, 1, 64) and not encoder([""])[1].any()
    assert encoder(["word " * 99])[0].shape == (1, CONFIG.text_max_length, 64)
    for wrong in ([], [3]):
        with pytest.raises(ValueError, match="needed are texts"):
            encoder(wrong)  # type: ignore[arg-type]


def test_pictures_become_features_of_their_patches():
    encoder = create_dinov3_encoder_from_config(CONFIG)
    drawn = torch.get_rng_state()
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = encoder(x)
    assert features.shape == (2, 6, 32) and not features.requires_grad and torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(create_dinov3_encoder_from_config(CONFIG)(x.permute(0, 2, 3, 1)), features)
    assert features[0, 0].tolist() != features[0, 1].tolist()
    published = create_dinov3_encoder_from_config(PixelHDMConfig.default())
    assert published(torch.zeros(1, 3, 32, 48)).shape == (1, 6, 768)
    with pytest.raises(ValueError, match=r"multiples of 8, got \(12, 24\)"):
        encoder(torch.zeros(1, 3, 12, 24))


def test_stand_ins_are_named(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("drivedit.models.pixel.encoders"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        create_pixelhdm_for_t2i_from_config(CONFIG)
    assert "no folder Qwen/Qwen3-0.6B: texts are encoded by the hash" in caplog.text
    assert "random convolutions (RandomConvolutions) replace dinov3-vit-b" in caplog.text


def test_weights_that_are_absent_are_told_at_first_use(tmp_path):
    config = replace(CONFIG, text_encoder_name=str(tmp_path / "qwen"), repa_local_path=str(tmp_path / "dino"))
    model = create_pixelhdm_for_t2i_from_config(config)
    with pytest.raises(RuntimeError, match=r"text encoder .*qwen' cannot be loaded \(there is no folder"):
        model.encode_text(["rain"])
    assert model.dino_encoder is not None
    with pytest.raises(RuntimeError, match=r"image encoder .*dino' cannot be loaded \(there is no folder"):
        model.dino_encoder(torch.zeros(1, 16, 16, 3))
    with pytest.raises(RuntimeError, match="no text encoder: make it with load_text_encoder=True"):
        create_pixelhdm_for_t2i_from_config(CONFIG, False, False).encode_text(["rain"])


def test_encoders_are_no_part_of_the_weights():
    model, bare = PixelHDMForT2I(CONFIG), PixelHDM(CONFIG)
    assert model.dino_encoder is not None
    model.dino_encoder(torch.zeros(1, 16, 16, 3))
    assert model.state_dict().keys() == bare.state_dict().keys()
    assert len(list(model.parameters())) == len(list(bare.parameters()))
    hidden, mask, pooled = copy.deepcopy(model).bfloat16().encode_text(["rain"])
    assert hidden.dtype == pooled.dtype == torch.bfloat16 and mask.dtype == torch.bool


class Pretrained(torch.nn.Module):
    """Looks as a DINOv3 of transformers does: a class token, two registers, then patches."""

    config = SimpleNamespace(hidden_size=32, patch_size=8)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values: torch.Tensor) -> Any:
        patches = torch.nn.functional.avg_pool2d(pixel_values + self.weight, 8).mean(1).flatten(1)
        return SimpleNamespace(last_hidden_state=torch.cat([patches[:, :3] + 100, patches], 1)[..., None].expand(
            -1, -1, 32
        ))  # fmt: skip


def test_a_pretrained_image_encoder_comes_from_a_folder_alone(tmp_path, monkeypatch):
    asked: list[Any] = []

    def load(path: Any, **how: Any) -> torch.nn.Module:
        asked.append((path, how))
        return Pretrained()

    config = replace(CONFIG, repa_local_path=str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeError, match=r"pretrained image encoder needs transformers.*\[text\]"):
        create_dinov3_encoder_from_config(config)(torch.zeros(1, 3, 16, 16))
    fake = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=load))
    monkeypatch.setitem(sys.modules, "transformers", fake)
    features = create_dinov3_encoder_from_config(config)(torch.zeros(1, 3, 16, 16))
    assert asked == [(tmp_path, {"local_files_only": True, "use_safetensors": True})]
    grey = sum((0.5 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))) / 3
    assert features.shape == (1, 4, 32) and features.dtype == torch.float32
    assert features.mean() == pytest.approx(grey, abs=2e-3) and features.std() < 1e-6
    other = replace(config, repa_hidden_size=48)
    with pytest.raises(RuntimeError, match=r"must be its \(32, 8\), got \(48, 8\)"):
        create_dinov3_encoder_from_config(other)(torch.zeros(1, 3, 16, 16))
