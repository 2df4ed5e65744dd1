"""PixelHDM: what the network sees, where it begins, how large it is, and that it learns a picture by heart."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drivedit.config import PixelHDMConfig
from drivedit.models.flow.path import add_noise
from drivedit.models.layers.rotary import axial_rotations, rotate
from drivedit.models.pixel.attention import GatedAttention
from drivedit.models.pixel.blocks import PixelBlock
from drivedit.models.pixel.network import PixelHDM, patchify, unpatchify
from drivedit.models.pixel.text_to_image import PixelHDMForT2I, create_pixelhdm_for_t2i, create_pixelhdm_from_config
from drivedit.utils import count_parameters

CONFIG = PixelHDMConfig.for_testing()
WIDE = CONFIG.text_hidden_size


@pytest.fixture
def network() -> PixelHDM:
    torch.manual_seed(0)
    return create_pixelhdm_from_config(CONFIG).eval()


def inputs(height: int = 16, width: int = 24, words: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Noisy pictures, times, text tokens, their mask, and pooled texts, of two pictures."""
    text = torch.randn(2, words, WIDE)
    mask = torch.ones(2, words, dtype=torch.bool)
    return torch.randn(2, height, width, 3), torch.tensor([0.2, 0.7]), text, mask, F.rms_norm(text.sum(1), (WIDE,))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (8, 16)])
@torch.no_grad()
def test_a_velocity_has_the_shape_of_its_pictures_with_channels_last(network, height, width):
    x, t, *told = inputs(height, width)
    out, features = network(x, t, *told, return_features=True)
    assert out.shape == x.shape and out.isfinite().all()
    assert features.shape == (2, height * width // 64, CONFIG.hidden_dim)
    first = x.permute(0, 3, 1, 2).contiguous()
    assert torch.equal(network(first, t, *told), out)


def test_the_last_axis_decides_the_layout(network):
    with pytest.raises(ValueError, match="multiples of the patch size 8, got 3 x 16"):
        network(torch.zeros(1, 3, 16, 3), torch.zeros(1))  # 3 rows of 16, not 3 channels of 16 x 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 20, 24, 3)}, r"multiples of the patch size 8, got 20 x 24; take 16 x 24"),
        ({0: torch.zeros(2, 0, 8, 3)}, "got 0 x 8; take 8 x 8"),
        ({0: torch.zeros(16, 24, 3)}, r"pictures must be \[B, H, W, 3\] or \[B, 3, H, W\], got \(16, 24, 3\)"),
        ({0: torch.zeros(2, 16, 24, 4)}, r"pictures must be .* got \(2, 16, 24, 4\)"),
        ({1: torch.zeros(1)}, r"times must be \[2\]"),
        ({2: torch.zeros(2, 5, 12)}, r"text_embed must be \[2, T, 64\], got \(2, 5, 12\)"),
        ({3: torch.ones(2, 4)}, r"text_mask must be \(2, 5\), got \(2, 4\)"),
        ({2: None}, r"text_mask must be None, as there is no text_embed"),
        ({4: torch.zeros(1, 64)}, r"pooled_text_embed must be \[2, 64\]"),
    ],
)
def test_wrong_shapes_are_named(network, change, message):
    with pytest.raises(ValueError, match=message):
        network(*(dict(enumerate(inputs())) | change).values())


@torch.no_grad()
def test_a_new_network_sees_the_time_and_the_text(network):
    x, _, *_ = inputs()
    x = x[:1].expand(2, -1, -1, -1)
    early, late = network(x, torch.tensor([0.1, 0.9]))
    assert (early - late).abs().max() > 1e-3
    told = PixelHDMForT2I(CONFIG, load_dino_encoder=False).encode_text(["a red car in rain", "a bridge at night"])
    one, other = network(x, torch.full((2,), 0.5), *told)
    assert F.cosine_similarity(one.flatten(), other.flatten(), 0) < 0.999
    one, other = network(x, torch.full((2,), 0.5), *told[:2])  # by the tokens alone, without the pooled text
    assert (one - other).abs().max() > 1e-3


@torch.no_grad()
def test_tokens_that_are_masked_are_not_there(network):
    x, t, text, mask, pooled = inputs()
    mask[0, 3:] = False
    padded = network(x, t, text, mask, pooled)
    alone = network(x[:1], t[:1], text[:1, :3], None, pooled[:1])
    assert torch.allclose(padded[:1], alone, atol=1e-5)
    other = torch.where(mask[..., None], text, 9 * torch.randn(text.shape))
    assert torch.allclose(network(x, t, other, mask.long(), pooled), padded, atol=1e-5)
    left = network(x[:1], t[:1], text[:1].roll(2, 1), mask[:1].roll(2, 1), pooled[:1])
    assert torch.allclose(left, alone, atol=1e-5)
    assert not torch.allclose(network(x, t, text, None, pooled)[0], padded[0], atol=1e-4)
    assert torch.allclose(network(x, t, text, torch.zeros_like(mask)), network(x, t), atol=1e-5)


@torch.no_grad()
def test_patches_of_both_levels_lie_in_the_same_places(network):
    x = torch.randn(2, 16, 24, 3)
    patches = patchify(x, 8)
    assert patches.shape == (2, 6, 64, 3) and torch.equal(unpatchify(patches, 2, 3), x)
    assert torch.equal(patches[1, 4, 8 * 2 + 5], x[1, 8 + 2, 8 + 5])  # fifth patch: second row, second column
    point = x.clone()
    point[1, 10, 13] += 1
    changed = [embed(patchify(point, 8)) - embed(patches) for embed in (
        lambda pixels: network.embed_patches(pixels.flatten(2)), network.embed_pixels
    )]  # fmt: skip
    for each in changed:
        assert each.flatten(2).abs().amax(2).nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize("kept", [True, False])
def test_a_gradient_reaches_every_weight(kept):
    torch.manual_seed(0)
    config = replace(CONFIG, use_gradient_checkpointing=not kept, text_hidden_size=24, pixel_layers=2)
    network, x, t = PixelHDM(config).train(), torch.randn(1, 16, 16, 3), torch.tensor([0.4])
    network(x, t, torch.randn(1, 3, 24), None, torch.randn(1, 24)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_activations_that_are_computed_again_give_the_same_gradients(network):
    x, t, *told = inputs()
    found = []
    for again in (False, True):
        network.config = replace(CONFIG, use_gradient_checkpointing=again)
        out, gamma = network.train()(x, t, *told, return_gamma=True)
        found.append(torch.autograd.grad(out.square().mean() + gamma, list(network.parameters())))
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("make", [PixelHDM, PixelHDMForT2I])
@torch.no_grad()
def test_a_new_network_has_half_open_gates_and_a_small_attention_of_pixels(make):
    """What a later pass over all layers would undo."""
    torch.manual_seed(0)
    network = make(CONFIG)
    layers = [m for m in network.modules() if isinstance(m, GatedAttention)]
    assert len(layers) == CONFIG.patch_layers + CONFIG.pixel_layers
    for layer in layers:
        assert torch.equal(layer.gate(torch.randn(7, 64)).sigmoid(), torch.full((7, 4), 0.5))
    x = torch.randn(2, 6, 64, CONFIG.pixel_dim)
    turn = axial_rotations(torch.zeros(2, 6, 3), CONFIG.mrope_dims, 1e4, torch.float32)
    for block in (m for m in network.modules() if isinstance(m, PixelBlock)):
        assert 0.02 < float(block.attend(x, turn).square().mean().sqrt()) < 0.1  # sqrt(.02 * 64 / (64 + 512)) = .047
        biases = block.modulation.maps.bias.view(2, 3, -1)
        assert biases[:, :2].abs().max() == 0 and (biases[:, 2] == 1).all()
    for block in network.patch_blocks:
        assert block.modulation.bias.view(2, 3, -1).mean((0, 2)).tolist() == [1, 0, 1]
        assert float(block.modulation.weight.std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("kv_heads", "mask"), [(4, False), (2, False), (1, True), (4, True)])
@torch.no_grad()
def test_grouped_queries_are_plain_attention_with_keys_that_heads_share(kv_heads, mask):
    layer, x = GatedAttention(64, 4, kv_heads), torch.randn(2, 6, 64)
    layer.gate.weight.normal_(std=0.3)
    turn = axial_rotations(torch.randint(5, (2, 6, 3)), (4, 6, 6), 1e4, torch.float32)
    seen = torch.tensor([[1, 1, 1, 1, 0, 1], [1] * 6]).bool() if mask else torch.ones(2, 6).bool()
    heads = [range(4), *[[head * kv_heads // 4 for head in range(4)]] * 2]
    weights = [layer.q.weight, *layer.kv.weight.chunk(2)]
    q, k, v = (torch.stack([F.linear(x, w.unflatten(0, (-1, 16))[each]) for each in which], 1)
               for w, which in zip(weights, heads, strict=True))  # fmt: skip
    turn_heads = turn[0].transpose(1, 2), turn[1].transpose(1, 2)
    q, k = (rotate(F.rms_norm(part, (16,), eps=1e-6), turn_heads) for part in (q, k))
    scores = (q @ k.mT / 4).masked_fill(~seen[:, None, None], -torch.inf)
    y = (scores.softmax(-1) @ v) * layer.gate(x).sigmoid().mT[..., None]
    expected = layer.out(y.transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x, turn, seen[:, None, None] if mask else None), expected, atol=1e-5)


def test_heads_that_do_not_divide_are_refused():
    for sizes in (64, 4, 3), (64, 6, 2):
        with pytest.raises(ValueError, match="kv_heads must divide heads, and heads the width 64"):
            GatedAttention(*sizes)


def test_logits_between_patches_know_only_how_far_apart_they_are():
    places = torch.randint(9, (1, 12, 3))
    q, k = torch.randn(2, 1, 12, 1, 16).unbind()

    def logits(places: Tensor) -> Tensor:
        turn = axial_rotations(places, (4, 6, 6), 1e4, torch.float32)
        return rotate(q, turn)[:, :, 0] @ rotate(k, turn)[:, :, 0].mT

    assert torch.allclose(logits(places + torch.tensor([0, 30, 7])), logits(places), atol=1e-4)
    assert torch.allclose(logits(places + torch.tensor([511, 0, 0])), logits(places), atol=1e-4)
    for axis in range(3):
        moved = places + torch.arange(12)[:, None] * torch.eye(3, dtype=torch.long)[axis]
        assert not torch.allclose(logits(moved), logits(places), atol=1e-2)
    with pytest.raises(ValueError, match=r"every one of 3 axes has an even width, got \[8, 8\]"):
        axial_rotations(places, (8, 8), 1e4, torch.float32)


def test_a_patch_lies_after_the_valid_tokens_of_its_own_text(network):
    valid = torch.tensor([[True, True, False], [False, False, False]])
    places = torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0], [2, 0, 1]],
                           [[-1, 0, 0]] * 3 + [[0, 0, 0], [0, 0, 1]]])  # fmt: skip
    expected = axial_rotations(places, CONFIG.mrope_dims, CONFIG.mrope_theta, torch.float32)
    for one, other in zip(network._turn(valid, (1, 2)), expected, strict=True):
        assert torch.equal(one, other)


def test_the_published_size():
    with torch.device("meta"):
        network = create_pixelhdm_for_t2i()
    assert count_parameters(network) == pytest.approx(356.4e6, rel=0.01)
    assert count_parameters(network.pixel_blocks) / count_parameters(network) == pytest.approx(0.17, abs=0.005)
    assert count_parameters(network.patch_blocks[0]) == pytest.approx(18.38e6, rel=1e-3)
    assert count_parameters(network.pixel_blocks[0]) == pytest.approx(15.23e6, rel=1e-3)


@pytest.mark.parametrize("make", [PixelHDMConfig.default, PixelHDMConfig.small, PixelHDMConfig.large])
def test_every_preset_describes_a_network(make):
    with torch.device("meta"):
        config = make()
        network, x = PixelHDM(config).eval(), torch.zeros(1, 32, 48, 3)
        text = torch.zeros(1, 3, config.text_hidden_size)
        out, features = network(x, torch.zeros(1), text, torch.ones(1, 3), text[:, 0], True)
    assert out.shape == x.shape and features.shape == (1, 6, config.hidden_dim)


@torch.no_grad()
def test_features_are_those_of_the_aligned_block(network):
    x, t, *told = inputs()
    seen = []
    handle = network.patch_blocks[CONFIG.repa_align_layer - 1].register_forward_hook(lambda *all: seen.append(all[2]))
    _, features, gamma = network(x, t, *told, return_features=True, return_gamma=True)
    handle.remove()
    assert torch.equal(features, seen[0][:, 5:]) and gamma.ndim == 0 and 0 < gamma < 1


@torch.no_grad()
def test_half_precision_stays_near(network):
    x, t, *told = inputs()
    exact = network(x, t, *told)
    with torch.autocast("cpu", torch.bfloat16):
        near = network(x, t, *told).float()
    assert (near - exact).square().mean() < 1e-3 * exact.square().mean()
    half = network.bfloat16()(x.bfloat16(), t, *told)
    assert half.dtype == torch.bfloat16 and (half - exact).square().mean() < 1e-3 * exact.square().mean()


def test_a_network_is_read_as_it_was_written(network, tmp_path):
    network.save(tmp_path / "pixel.safetensors")
    x, t, *told = inputs()
    for kind in (PixelHDM, PixelHDMForT2I):
        again = kind.load(tmp_path / "pixel.safetensors")
        assert again.config == CONFIG and torch.equal(again(x, t, *told), network(x, t, *told))


def test_it_learns_a_picture_by_heart():
    torch.manual_seed(0)
    network, picture = PixelHDM(CONFIG), F.interpolate(torch.rand(1, 3, 4, 4) * 2 - 1, (32, 32), mode="bilinear")
    picture = picture.permute(0, 2, 3, 1).expand(4, -1, -1, -1)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)

    def error(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        noise, t = torch.randn(picture.shape, generator=rng), 0.05 + 0.9 * torch.rand(4, generator=rng)
        return (network(add_noise(picture, noise, 1 - t), t) - (picture - noise)).square().mean()

    def held_out() -> float:
        with torch.no_grad():
            return float(torch.stack([error(10_000 + seed) for seed in range(8)]).mean())

    before = held_out()
    for step in range(200):
        optimizer.zero_grad()
        error(step).backward()
        optimizer.step()
    assert held_out() < before / 5
