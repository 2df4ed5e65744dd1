"""Flow matching and the losses of pixel-space transformers: closed forms, JPEG's own tables, and where a loss ends."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drivedit.config import PixelHDMConfig
from drivedit.training.alignment import AlignmentLoss, token_grid
from drivedit.training.flow_matching import (
    PixelFlowMatching,
    create_flow_matching,
    create_flow_matching_from_config,
)
from drivedit.training.frequency import (
    CHROMINANCE,
    LUMINANCE,
    FrequencyLoss,
    block_dct,
    dct_matrix,
    frequency_weights,
    quantisation,
    to_ycbcr,
)
from drivedit.training.pixel_losses import create_combined_loss_from_config

ON = replace(PixelHDMConfig.for_testing(), repa_enabled=True, freq_loss_enabled=True)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- flow matching ---------------------------------------------------------------------------------------------------


def test_training_samples_lie_on_the_path():
    flow, pictures = create_flow_matching_from_config(PixelHDMConfig()), normal(500, 4, 4, 3).double()
    t, z, x, noise = flow.prepare_training(pictures, generator=torch.Generator().manual_seed(1))
    weight = t[:, None, None, None]
    assert x is pictures and torch.allclose(z, weight * x + (1 - weight) * noise, rtol=0, atol=1e-12)
    assert t.shape == (500,) and t.min() >= 0.05 and t.max() <= 0.95
    assert noise.mean().abs() < 0.03 and abs(noise.std() - 1) < 0.03  # 4 standard deviations at least
    v = flow.compute_v_target(x, noise)
    assert torch.equal(v, x - noise) and torch.allclose(flow.recover_x(z, v, t), x, atol=1e-6)
    again = flow.prepare_training(pictures, generator=torch.Generator().manual_seed(1))
    assert all(
        torch.equal(one, other) for one, other in zip((t, z, noise), (again[0], again[1], again[3]), strict=True)
    )


@pytest.mark.parametrize("t", [0.0, 0.3, 0.999, 1.0])
def test_the_picture_is_recovered_of_the_velocity_at_any_time(t):
    flow, x, noise, times = PixelFlowMatching(), normal(3, 8, 8, 3), normal(3, 8, 8, 3, seed=1), torch.full((3,), t)
    told, z, _, _ = flow.prepare_training(x, noise, times)
    assert told is times and torch.allclose(flow.recover_x(z, x - noise, times), x, atol=1e-6)
    assert t not in (0, 1) or torch.equal(z, x if t else noise)


def test_times_are_logistic_functions_of_normal_numbers():
    flow = create_flow_matching(PixelHDMConfig(time_p_mean=0.5, time_p_std=0.8, time_eps=0.1))
    drawn = ((flow.sample_timesteps(20_000, torch.Generator().manual_seed(0)) - 0.1) / 0.8).logit()
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03) and drawn.std().item() == pytest.approx(0.8, abs=0.02)
    assert create_flow_matching().t_eps == 0.05
    with pytest.raises(ValueError, match="t_eps from 0 to below 0.5, got 1.0 and 0.5"):
        PixelFlowMatching(t_eps=0.5)


# -- frequencies -----------------------------------------------------------------------------------------------------


def test_cosines_are_orthonormal_and_blocks_are_those_of_opencv():
    waves = dct_matrix()
    assert torch.allclose(waves @ waves.T, torch.eye(8, dtype=torch.float64), atol=1e-12)
    picture = normal(1, 1, 16, 24)
    blocks = block_dct(picture)
    assert blocks.shape == (1, 1, 2, 3, 8, 8)
    theirs = cv2.dct(picture[0, 0, 8:, 16:].numpy())
    assert np.allclose(blocks[0, 0, 1, 2], theirs, atol=1e-5)


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 90, 100])
def test_tables_are_those_that_a_jpeg_file_is_written_with(quality):
    file = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    zigzag = sorted(np.ndindex(8, 8), key=lambda p: (sum(p), p[0] if sum(p) % 2 else p[1]))
    found, rest = [], file
    while b"\xff\xdb" in rest:  # a segment: marker, length (2), then of each table its number (1) and 64 entries
        rest = rest.split(b"\xff\xdb", 1)[1]
        length = int.from_bytes(rest[:2], "big")
        found += [rest[start + 1 : start + 65] for start in range(2, length, 65)]
    for table, entries in zip((LUMINANCE, CHROMINANCE), found, strict=True):
        ours = quantisation(table, quality)
        assert [int(ours[place]) for place in zigzag] == list(entries)


def test_weights_have_mean_one_and_low_frequencies_count_most():
    for table in (LUMINANCE, CHROMINANCE):
        weights = frequency_weights(table, 90)
        assert weights.mean().item() == pytest.approx(1) and weights[0, 0] > 3 * weights[7, 7]
        assert torch.equal(frequency_weights(table, 100), torch.ones(8, 8, dtype=torch.float64))
    luminance = frequency_weights(LUMINANCE, 90)
    assert luminance.min().item() == pytest.approx(0.27, abs=0.01)
    assert luminance.max().item() == pytest.approx(3.28, abs=0.01)
    with pytest.raises(ValueError, match="quality must be from 1 to 100, got 0"):
        FrequencyLoss(0)


@pytest.mark.parametrize("size", [(16, 24), (8, 8), (13, 30), (3, 1)])
def test_at_full_quality_it_is_the_error_of_pixels(size):
    """Parseval's theorem, in pictures of any size."""
    one, other = normal(2, 3, *size), normal(2, 3, *size, seed=1)
    plain = FrequencyLoss(100, use_ycbcr=False)(one, other)
    assert plain.item() == pytest.approx((one - other).square().mean().item(), rel=1e-5)
    coloured = FrequencyLoss(100, weight=2.0)(one, other)
    assert coloured.item() == pytest.approx(2 * to_ycbcr(one - other).square().mean().item(), rel=1e-5)


def test_slow_errors_cost_more_than_fast_ones_and_luminance_is_grey():
    column = torch.arange(16)
    slow = (torch.pi / 8 * (column + 0.5)).cos().expand(1, 3, 16, 16)
    fast = (torch.pi / 8 * (column + 0.5) * 7).cos().expand(1, 3, 16, 16)
    loss, nothing = FrequencyLoss(90), torch.zeros(1, 3, 16, 16)
    assert loss(slow, nothing) > 3 * loss(fast, nothing) > 0 and loss(fast, fast) == 0
    grey = to_ycbcr(torch.ones(1, 3, 2, 2))
    assert torch.allclose(grey[:, 0], torch.ones(1, 2, 2)) and grey[:, 1:].abs().max() < 1e-6
    half = loss(slow.bfloat16(), nothing.bfloat16())
    assert half.dtype == torch.float32 and half.item() == pytest.approx(loss(slow, nothing).item(), rel=0.01)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\] of one shape, got \(1, 16, 16, 3\)"):
        loss(slow.movedim(1, -1), nothing)


# -- alignment -------------------------------------------------------------------------------------------------------


def identity(loss: AlignmentLoss) -> AlignmentLoss:
    nn.init.dirac_(loss.projector.weight)
    assert loss.projector.bias is not None
    nn.init.zeros_(loss.projector.bias)
    return loss


def test_alignment_is_0_at_the_normalised_target_and_twice_its_weight_opposite_to_it():
    loss, target, picture = identity(AlignmentLoss(8, 8, weight=0.5)), 3 + 2 * normal(2, 32, 8), normal(2, 3, 32, 64)
    normalised = (target - target.mean(1, keepdim=True)) / target.std(1, correction=0, keepdim=True)
    assert loss(normalised, picture, 0, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(-normalised, picture, 0, target).item() == pytest.approx(1, abs=1e-6)
    assert 0 < loss(normal(2, 32, 8, seed=5), picture, 0, target).item() < 1
    assert loss(normalised, picture, 0, 7 * target - 2).item() == pytest.approx(0, abs=1e-6)


def test_it_ends_at_its_step_and_the_encoder_with_it():
    asked, picture, features = [], normal(2, 3, 32, 32), normal(2, 16, 8, seed=1)

    def encoder(pictures: Tensor) -> Tensor:
        asked.append(torch.is_grad_enabled())
        return normal(2, 16, 6)

    loss = AlignmentLoss(8, 6, encoder=encoder)
    assert loss(features, picture, 249_999) > 0 and asked == [False]
    assert loss(features, picture, 250_000).item() == 0.0 and asked == [False]
    assert loss.active(249_999) and not loss.active(250_000)
    with pytest.raises(RuntimeError, match="needs dino_features or an encoder"):
        AlignmentLoss(8, 6)(features, picture)


def test_grids_of_other_sizes_are_resized():
    assert token_grid(32, 32, 64) == (4, 8) and token_grid(24, 100, 64) == (6, 4) and token_grid(1, 5, 7) == (1, 1)
    with pytest.raises(ValueError, match="square patches of the 32 x 64 picture, got 33"):
        token_grid(33, 32, 64)
    loss, picture = identity(AlignmentLoss(5, 5, weight=1.0)), normal(2, 3, 32, 64)
    maps, target = normal(2, 5, 4, 8), normal(2, 8, 5, seed=1)  # of 4 x 8 patches, and 2 x 4
    halved = nn.functional.avg_pool2d(maps, 2).flatten(2).transpose(1, 2)  # what bilinear resizing by 1/2 is
    resized = loss(maps.flatten(2).transpose(1, 2), picture, 0, target)
    assert resized.item() == pytest.approx(loss(halved, picture, 0, target).item(), rel=1e-5)


def test_the_projector_is_trained_and_the_encoder_is_not():
    encoder = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.Flatten(2), nn.Unflatten(2, (16,)))
    ask = lambda pictures: encoder(pictures).transpose(1, 2)  # noqa: E731
    for given in (encoder, ask):
        loss = create_combined_loss_from_config(ON, encoder=given)
        assert {name for name, _ in loss.named_parameters()} == {
            "alignment.projector.weight",
            "alignment.projector.bias",
        }
    h_t = normal(2, 16, 64).requires_grad_()
    v = normal(2, 32, 32, 3).requires_grad_()
    loss(v, normal(2, 32, 32, 3, seed=1), normal(2, 32, 32, 3, seed=2), h_t)["total"].backward()
    reached = [v.grad, h_t.grad, *(weight.grad for weight in loss.parameters())]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in reached)
    assert all(weight.grad is None for weight in encoder.parameters())


# -- their sum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["last", "first"])
def test_the_total_is_the_sum_of_its_parts(layout):
    pictures = [normal(2, 24, 32, 3, seed=seed) for seed in range(3)]
    v, x, noise = pictures if layout == "last" else [each.movedim(-1, 1) for each in pictures]
    loss = create_combined_loss_from_config(replace(ON, pixel_gamma_l2_lambda=0.1))
    told = {"h_t": normal(2, 12, 64), "dino_features": normal(2, 12, 32, seed=1)}
    out = loss(v, x, noise, step=7, gamma_l2=torch.tensor(2.0), **told)
    assert list(out) == ["total", "vloss", "freq_loss", "repa_loss", "gamma_l2"]
    total, *parts = out.values()
    assert total.item() == pytest.approx(sum(part.item() for part in parts)) and all(part > 0 for part in parts)
    assert out["vloss"].item() == pytest.approx((v - (x - noise)).square().mean().item(), rel=1e-5)
    assert out["gamma_l2"].item() == pytest.approx(0.2)
    frequency = FrequencyLoss()(*(each.movedim(-1, 1) for each in (pictures[0], pictures[1] - pictures[2])))
    assert out["freq_loss"].item() == pytest.approx(frequency.item(), rel=1e-5)


def test_what_is_off_is_there_and_0():
    v, x, noise = (normal(2, 16, 16, 3, seed=seed) for seed in range(3))
    out = create_combined_loss_from_config(PixelHDMConfig.for_testing())(v, x, noise, normal(2, 4, 64))
    assert list(out) == ["total", "vloss", "freq_loss", "repa_loss"]
    assert out["freq_loss"].item() == out["repa_loss"].item() == 0.0 and out["total"] == out["vloss"]
    on = create_combined_loss_from_config(ON)
    assert on(v, x, noise)["repa_loss"].item() == 0.0  # where no features are told, as in validation
    assert on(v, x, noise, normal(2, 4, 64), step=250_000)["repa_loss"].item() == 0.0
    assert on(x - noise, x, noise)["total"].item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(RuntimeError, match="set repa_enabled to False"):
        on(v, x, noise, normal(2, 4, 64))
    with pytest.raises(ValueError, match="must have one shape"):
        on(v[:, :8], x, noise)
    with pytest.raises(ValueError, match=r"must be \[B, H, W, 3\] or \[B, 3, H, W\], got \(2, 16, 16, 4\)"):
        on(*(torch.zeros(2, 16, 16, 4) for _ in range(3)))
