"""Text-to-video networks: shapes, what sees what, and files."""

import pytest
import torch

from drivedit.config import MODEL_TYPES, VAEConfig, VideoTransformerConfig
from drivedit.models.dits import TRANSFORMERS, HunyuanVideoTransformer3DModel, WanVideoTransformer3DModel
from drivedit.models.vaes import WanVAE, latent_frames

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "text_dim": 12, "grid": (2, 3)}
VAE = VAEConfig(3, 16, [4, 4, 8, 8], 1, False, 0.1)


def alive(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random weights everywhere: new ones begin with zeros at their ends."""
    for weight in network.parameters():
        weight.data.add_(0.2 * torch.randn(weight.shape))
    return network.eval()


@pytest.fixture
def transformer() -> WanVideoTransformer3DModel:
    return alive(WanVideoTransformer3DModel(**SIZES))  # type: ignore[arg-type, return-value]


@pytest.fixture
def vae() -> WanVAE:
    return alive(WanVAE(VAE))  # type: ignore[return-value]


def inputs(height: int = 4, width: int = 6, words: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(2, 16, 3, height, width), torch.randn(2, words, 12), torch.tensor([200.0, 900.0])


@pytest.mark.parametrize(("height", "width"), [(4, 6), (6, 4), (5, 7), (2, 2)])
def test_a_velocity_has_the_shape_of_its_latents_at_any_size(transformer, height, width):
    latents, words, times = inputs(height, width)
    with torch.no_grad():
        out = transformer(latents, words, times)
    assert out.shape == latents.shape and out.isfinite().all() and out.std() > 0


def test_text_time_and_every_frame_are_seen(transformer):
    latents, words, times = inputs()
    with torch.no_grad():
        plain = transformer(latents, words, times)
        late = latents.clone()
        late[:, :, 2] += 1  # the last frame: the first sees it, for the trunk is bidirectional
        for other in (transformer(late, words, times), transformer(latents, -words, times),
                      transformer(latents, words, times / 2)):  # fmt: skip
            assert not torch.allclose(other[:, :, 0], plain[:, :, 0], atol=1e-4)
        each = times[:, None].expand(-1, 3)
        assert torch.equal(transformer(latents, words, each), plain)


def test_words_that_are_masked_are_not_there(transformer):
    latents, words, times = inputs()
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 3:] = False
    with torch.no_grad():
        masked, short = transformer(latents, words, times, mask), transformer(latents, words[:, :3], times)
        assert torch.allclose(masked, short, atol=1e-5)
        assert not torch.allclose(masked, transformer(latents, words, times), atol=1e-4)


def test_a_new_network_tells_no_velocity():
    latents, words, times = inputs()
    assert WanVideoTransformer3DModel(**SIZES)(latents, words, times).abs().max() == 0  # type: ignore[arg-type]


def test_guidance_is_told_to_models_that_take_it(transformer):
    latents, words, times = inputs()
    told = alive(HunyuanVideoTransformer3DModel(**SIZES))  # type: ignore[arg-type]
    with torch.no_grad():
        plain = told(latents, words, times)
        assert torch.equal(told(latents, words, times, None, torch.zeros(2)), plain)
        assert not torch.allclose(told(latents, words, times, None, torch.full((2,), 6.0)), plain, atol=1e-4)
        with pytest.raises(ValueError, match="is told no guidance"):
            transformer(latents, words, times, None, torch.full((2,), 6.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 12, 3, 4, 6)}, r"latents must be \[B, 16, T, h, w\], got \(2, 12"),
        ({1: torch.zeros(1, 5, 12)}, r"text must be \[2, L, 12\], got \(1, 5, 12\)"),
        ({1: torch.zeros(2, 5, 16)}, r"text must be"),
    ],
)
def test_wrong_shapes_are_named(transformer, change, message):
    given = dict(enumerate(inputs())) | change
    with pytest.raises(ValueError, match=message):
        transformer(*given.values())


def test_the_registry_has_the_published_types():
    assert {name: made.in_channels for name, made in MODEL_TYPES.items()} == {
        "mochi": 12, "hunyuan": 16, "hunyuan_hf": 16, "wan": 16
    }  # fmt: skip
    assert {made.patch for made in MODEL_TYPES.values()} == {2} and TRANSFORMERS.keys() == MODEL_TYPES.keys()
    for name, made in MODEL_TYPES.items():
        with torch.device("meta"):
            network = TRANSFORMERS[name].from_config(made)
        assert network.config == made and network(*(part.to("meta") for part in (
            torch.zeros(1, made.in_channels, 2, 8, 8), torch.zeros(1, 3, made.text_dim), torch.zeros(1)
        ))).shape == (1, made.in_channels, 2, 8, 8)  # fmt: skip


def test_networks_are_read_as_they_were_written(transformer, vae, tmp_path):
    transformer.save(tmp_path / "transformer.safetensors")
    vae.save(tmp_path / "vae.safetensors")
    again = WanVideoTransformer3DModel.load(tmp_path / "transformer.safetensors")
    latents, words, times = inputs()
    with torch.no_grad():
        assert torch.equal(again(latents, words, times), transformer(latents, words, times))
        assert torch.equal(WanVAE.load(tmp_path / "vae.safetensors").decode(latents), vae.decode(latents))
    assert again.config == VideoTransformerConfig(**SIZES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has format 'drivedit-video-vae-1'"):
        WanVideoTransformer3DModel.load(tmp_path / "vae.safetensors")


@torch.no_grad()
def test_four_frames_and_eight_pixels_are_one_latent_cell(vae):
    video = torch.rand(2, 3, 9, 16, 24) * 2 - 1
    latents = vae.encode(video)
    assert latents.shape == (2, 16, 3, 2, 3) and vae.decode(latents).shape == video.shape
    assert torch.equal(vae.moments(video)[0], latents)


@torch.no_grad()
def test_no_latent_sees_a_later_frame_and_no_frame_a_later_latent(vae):
    video = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    latents, changed = vae.encode(video), video.clone()
    changed[:, :, 5] *= -1  # of the third latent, which has frames 5 to 8
    other = vae.encode(changed)
    assert torch.equal(other[:, :, :2], latents[:, :, :2]) and not torch.allclose(other[:, :, 2], latents[:, :, 2])
    moved = latents.clone()
    moved[:, :, 1] += 1  # of frames 1 to 4
    before, after = vae.decode(latents), vae.decode(moved)
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    assert not torch.allclose(before[:, :, 1:5], after[:, :, 1:5])
    alone = vae.decode(latents[:, :, :1])
    assert alone.shape[2] == 1 and torch.allclose(alone[:, :, 0], before[:, :, 0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("frames", [0, 2, 4, 8, -3])
def test_other_numbers_of_frames_are_refused(vae, frames):
    with pytest.raises(ValueError, match=r"4 k \+ 1 frames .*got"):
        latent_frames(frames)
    if frames > 0:
        with pytest.raises(ValueError, match=r"4 k \+ 1"):
            vae.encode(torch.zeros(1, 3, frames, 16, 16))


def test_other_videos_are_refused(vae):
    with pytest.raises(ValueError, match=r"videos must be \[B, 3, T, H, W\]"):
        vae.encode(torch.zeros(1, 4, 5, 16, 16))
    with pytest.raises(ValueError, match="multiples of 8"):
        vae.encode(torch.zeros(1, 3, 5, 12, 16))
