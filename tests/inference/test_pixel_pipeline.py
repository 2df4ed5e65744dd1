"""Pictures of texts: what they depend on, what is refused, and that texts of a trained network show in its pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from drivedit.config import PixelHDMConfig
from drivedit.config.pixel_training import DataConfig, TrainingConfig
from drivedit.data import create_dataloader_from_config_v2
from drivedit.inference import PixelHDMPipeline, create_pipeline_from_config
from drivedit.models import PixelHDM, create_pixelhdm_for_t2i
from drivedit.models.flow.unified import UnifiedSampler
from drivedit.training.pixel_trainer import create_trainer

CONFIG = PixelHDMConfig.for_testing()
SIZE: dict[str, Any] = {"height": 16, "width": 24, "num_steps": 3, "output_type": "tensor"}


@pytest.fixture
def pipeline() -> PixelHDMPipeline:
    torch.manual_seed(0)
    return PixelHDMPipeline(create_pixelhdm_for_t2i(CONFIG, load_dino_encoder=False))


def test_a_seed_and_a_text_make_a_picture_whatever_is_made_beside_it(pipeline):
    one = pipeline("a road at night", seed=5, **SIZE)
    assert one.images.shape == (1, 3, 16, 24) and one.seed == 5 and one.intermediates == []
    assert one.images.min() >= 0 and one.images.max() <= 1
    again = pipeline("a road at night", seed=5, num_images_per_prompt=3, **SIZE).images
    assert torch.allclose(again[0], one.images[0], atol=1e-5)
    assert all((again[i] - again[j]).abs().mean() > 0.05 for i in range(3) for j in range(i))
    both = pipeline(["rain", "a road at night"], seed=5, num_images_per_prompt=2, **SIZE).images
    assert torch.allclose(both[2:], again[:2], atol=1e-5) and not torch.allclose(both[:2], both[2:], atol=1e-3)
    other = pipeline("a road at night", seed=6, **SIZE).images
    assert (other - one.images).abs().mean() > 0.05


def test_a_seed_that_is_drawn_is_told(pipeline):
    first, second = (pipeline("rain", **SIZE) for _ in range(2))
    assert first.seed != second.seed
    assert torch.equal(pipeline("rain", seed=first.seed, **SIZE).images, first.images)


def test_guidance_leads_from_the_negative_text_to_the_text(pipeline):
    def make(*texts: Any, **how: Any) -> torch.Tensor:
        return pipeline(*texts, seed=1, **SIZE, **how).images

    assert torch.equal(make("rain", guidance_scale=1.0), make("rain", "sun", guidance_scale=1.0))
    unguided = make("sun", guidance_scale=1.0)
    assert torch.allclose(make("rain", "sun", guidance_scale=0.0), unguided, atol=1e-5)
    assert torch.allclose(make("sun", "sun", guidance_scale=9.0), unguided, atol=1e-5)
    assert not torch.allclose(make("rain", "sun"), make("rain"), atol=1e-3)
    assert torch.equal(make("rain", ""), make("rain")) and torch.equal(make(["rain"], ["sun"]), make("rain", "sun"))
    assert not torch.allclose(make("rain", guidance_rescale=1.0), make("rain"), atol=1e-3)


@pytest.mark.parametrize("method", ["euler", "heun", "dpm_pp", "dpm_pp_2s"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_network_is_called_as_often_as_the_sampler_says(pipeline, method, scale):
    calls, forward = [], pipeline.model.forward
    pipeline.model.forward = lambda *given, **told: calls.append(1) or forward(*given, **told)
    pipeline("rain", sampler_method=method, guidance_scale=scale, **SIZE)
    assert len(calls) == UnifiedSampler(method, 3, CONFIG.time_eps).count_nfe(use_cfg=scale != 1)


def test_what_is_made_on_the_way_can_be_seen(pipeline):
    seen: list[Any] = []
    out = pipeline("rain", seed=2, return_intermediates=True, callback=lambda *told: seen.append(told), **SIZE)
    assert [(step, total) for step, total, _ in seen] == [(0, 3), (1, 3), (2, 3)]
    assert len(out.intermediates) == 3 and out.intermediates[0].shape == out.images.shape
    assert torch.equal((seen[1][2].movedim(-1, 1) / 2 + 0.5).clamp(0, 1), out.intermediates[1])
    picture = pipeline("rain", seed=2, **(SIZE | {"output_type": "pil"})).images[0]
    assert isinstance(picture, Image.Image) and picture.size == (24, 16)
    assert np.array_equal(np.asarray(picture), (out.images[0] * 255).round().byte().movedim(0, -1).numpy())


def test_the_network_stays_as_it_was(pipeline):
    pipeline.model.train()
    drawn = torch.get_rng_state()
    pipeline("rain", seed=1, **SIZE)
    assert pipeline.model.training and torch.equal(torch.get_rng_state(), drawn)
    assert all(p.grad is None and p.requires_grad for p in pipeline.model.parameters())
    exact = pipeline("rain", seed=1, **SIZE).images
    pipeline.model.bfloat16()
    assert (pipeline("rain", seed=1, **SIZE).images - exact).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 20}, "multiples of the patch size 8, got 20 x 24; take 16 x 24"),
        ({"width": 0}, "got 16 x 0; take 16 x 8"),
        ({"height": 800, "width": 800}, "at most max_patches 4096 patches of 8 x 8 pixels, 800 x 800 are 10000"),
        ({"sampler_method": "ddim"}, "method must be one of euler, heun, dpm_pp, dpm_pp_2s, got 'ddim'"),
        ({"output_type": "latent"}, "output_type must be one of pil, tensor, got 'latent'"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1, got 0"),
        ({"negative_prompt": ["a", "b"]}, "one negative text, or one for each of 1, got 2"),
        ({"prompt": []}, "needed are texts"),
    ],
)
def test_what_cannot_be_made_is_named(pipeline, change, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**({"prompt": "rain"} | SIZE | change))


def test_texts_need_an_encoder(tmp_path):
    with pytest.raises(ValueError, match="needs a model that encodes texts .*, got a PixelHDM"):
        PixelHDMPipeline(PixelHDM(CONFIG))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no text encoder: make it with load_text_encoder=True"):
        create_pipeline_from_config(CONFIG, "cpu", load_text_encoder=False)("rain", **SIZE)
    absent = replace(CONFIG, text_encoder_name=str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        create_pipeline_from_config(absent, "cpu")("rain", **SIZE)


def test_weights_of_another_configuration_are_refused(pipeline, tmp_path):
    pipeline.model.save(tmp_path / "model.safetensors")
    made = create_pipeline_from_config(CONFIG, "cpu", weights=tmp_path / "model.safetensors")
    assert torch.equal(made("rain", seed=1, **SIZE).images, pipeline("rain", seed=1, **SIZE).images)
    assert made.model.dino_encoder is None and not made.model.training
    other = replace(CONFIG, patch_layers=3)
    with pytest.raises(ValueError, match="model.safetensors is of another .*: it has patch_layers 2 and not 3"):
        create_pipeline_from_config(other, "cpu", weights=tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        create_pipeline_from_config(CONFIG, "cpu", weights=tmp_path / "none.safetensors")
    half = create_pipeline_from_config(CONFIG, "cpu", torch.bfloat16)
    assert half.model.out.weight.dtype == torch.bfloat16


def write_pictures(folder: Path) -> None:
    """Eight red and eight blue pictures with their captions."""
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        for number in range(8):
            Image.new("RGB", (16, 16), colour).save(folder / f"{name}{number}.png")
            (folder / f"{name}{number}.txt").write_text(f"a {name} wall")


def test_a_network_that_is_trained_paints_what_its_text_says(tmp_path):
    """From a folder of captioned pictures to pictures of their captions, by the published names alone."""
    write_pictures(tmp_path)
    torch.manual_seed(0)
    data = DataConfig(
        min_bucket_size=16, max_bucket_size=16, bucket_step=8, target_pixels=256, caption_dropout=0.0,
    )  # fmt: skip
    training = TrainingConfig(learning_rate=2e-3, mixed_precision="no", ema_decay=0.95)
    model = create_pixelhdm_for_t2i(CONFIG, load_dino_encoder=False)
    loader = create_dataloader_from_config_v2(tmp_path, CONFIG, data)
    trainer = create_trainer(model, CONFIG, training, loader, out=tmp_path / "run")
    losses: list[float] = []
    trainer.train(
        num_steps=120, callback=lambda _, figures: losses.append(figures["vloss"]), save_interval=0,
        use_progress_bar=False,
    )  # fmt: skip
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) / 5  # 15 times less when it was calibrated
    pipeline = create_pipeline_from_config(CONFIG, "cpu", weights=tmp_path / "run" / "model.safetensors")
    how: dict[str, Any] = SIZE | {"width": 16, "num_steps": 10, "guidance_scale": 1.0}
    made = pipeline(["a red wall", "a blue wall"], seed=3, **how).images
    wanted = torch.tensor([[220, 30, 30], [30, 30, 220]]) / 255
    assert (made.mean((2, 3)) - wanted).abs().max() < 0.15  # .07; a network that hears no text is .7 off
