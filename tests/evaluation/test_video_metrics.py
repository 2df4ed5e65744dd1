"""Metrics of frames, controls and paths against torchmetrics, closed forms and planted answers."""

import math
import sys

import numpy as np
import pytest
import torch

from drivedit.evaluation import ControlMetrics, PhysicsMetrics, TemporalConsistencyMetrics, VideoMetrics
from drivedit.evaluation import compute_all_metrics as all_metrics


@pytest.fixture(scope="module")
def videos() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 3, 24, 24, generator=rng)
    return (target + 0.1 * torch.randn(target.shape, generator=rng)).clamp(0, 1), target


def texture(height: int = 48, width: int = 64) -> torch.Tensor:
    """A smooth random picture `[1, H, W]`, larger than what is cut out of it."""
    noise = torch.rand(1, 1, height // 4, width // 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]


def moving(right: int, down: int, frames: int = 3) -> torch.Tensor:
    """A texture that moves by whole pixels per frame: `[T, 3, 32, 40]`."""
    picture = texture()
    cuts = [picture[:, 8 - down * t : 40 - down * t, 12 - right * t : 52 - right * t] for t in range(frames)]
    return torch.stack(cuts).expand(-1, 3, -1, -1)


# -- frames ------------------------------------------------------------------------------------------------------


def test_agreement_with_torchmetrics(videos):
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    pred, target = videos
    flat = (pred.flatten(0, 1), target.flatten(0, 1))
    assert float(VideoMetrics.psnr(pred, target)) == pytest.approx(float(PeakSignalNoiseRatio(1.0)(*flat)), abs=1e-4)
    oracle = StructuralSimilarityIndexMeasure(data_range=1.0, kernel_size=11, sigma=1.5)
    assert float(VideoMetrics.ssim(pred, target)) == pytest.approx(float(oracle(*flat)), abs=1e-4)
    bytes_psnr = VideoMetrics.psnr(255 * pred, 255 * target, max_val=255)
    assert float(bytes_psnr) == pytest.approx(float(VideoMetrics.psnr(pred, target)), abs=1e-4)


def test_ssim_looks_through_the_window_that_was_asked_for(videos):
    from scipy.ndimage import correlate1d

    def by_hand(x: np.ndarray, y: np.ndarray, window: int) -> float:
        """SSIM of two planes by its definition, mirrored at the edges."""
        offsets = np.arange(window) - window // 2
        kernel = np.exp(-(offsets**2) / (2 * (1.5 / 11 * window) ** 2))
        kernel /= kernel.sum()

        def blur(z: np.ndarray) -> np.ndarray:
            return correlate1d(correlate1d(z, kernel, 0, mode="mirror"), kernel, 1, mode="mirror")

        mx, my = blur(x), blur(y)
        xx, yy, xy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        return float(((2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (xx + yy + c2))).mean())

    pred, target = (video[0, 0].double() for video in videos)
    for window in (3, 7, 11, 21):
        expected = np.mean([by_hand(pred[c].numpy(), target[c].numpy(), window) for c in range(3)])
        assert float(VideoMetrics.ssim(pred, target, window)) == pytest.approx(expected, abs=1e-4)


def test_equal_frames_are_perfect_and_the_order_of_rows_is_nothing(videos):
    pred, target = videos
    assert VideoMetrics.mse(pred, pred) == 0 and VideoMetrics.lpips_proxy(pred, pred) == 0
    assert math.isinf(VideoMetrics.psnr(pred, pred)) and float(VideoMetrics.ssim(pred, pred)) == pytest.approx(1)
    for metric in (VideoMetrics.mse, VideoMetrics.psnr, VideoMetrics.ssim, VideoMetrics.lpips_proxy):
        assert float(metric(pred.flip(0), target.flip(0))) == pytest.approx(float(metric(pred, target)), rel=1e-5)


def test_a_known_difference():
    target = torch.full((2, 3, 16, 16), 0.5)
    assert float(VideoMetrics.mse(target + 0.2, target)) == pytest.approx(0.04)
    assert float(VideoMetrics.psnr(target + 0.2, target)) == pytest.approx(-20 * math.log10(0.2), rel=1e-5)


def test_a_mask_is_a_weight_of_what_it_broadcasts_to():
    target, pred = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    pred[..., :4] = 0.5  # the left half is wrong
    left = torch.zeros(1, 1, 1, 8)
    left[..., :4] = 1
    assert float(VideoMetrics.mse(pred, target)) == pytest.approx(0.125)
    assert float(VideoMetrics.mse(pred, target, left)) == pytest.approx(0.25)  # not three times that
    assert VideoMetrics.mse(pred, target, 1 - left) == 0
    with pytest.raises(ValueError, match="broadcast"):
        VideoMetrics.mse(pred, target, torch.ones(5))
    with pytest.raises(ValueError, match="positive sum"):
        VideoMetrics.mse(pred, target, 0 * left)


def test_the_perceptual_proxy_sees_edges_and_no_constant():
    ramp = (torch.arange(16.0) / 16).expand(1, 3, 16, 16)
    flat = torch.zeros(1, 3, 16, 16)
    assert float(VideoMetrics.lpips_proxy(flat + 0.3, flat)) == 0
    slopes = [(2**scale / 16) ** 2 for scale in range(3)]  # along the ramp; across it there is nothing
    assert float(VideoMetrics.lpips_proxy(ramp, flat)) == pytest.approx(sum(slopes) / 6)
    sharp = moving(0, 0, 1)
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2, count_include_pad=False)
    assert VideoMetrics.lpips_proxy(blurred, sharp) > 0.1 * VideoMetrics.lpips_proxy(torch.zeros_like(sharp), sharp)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: VideoMetrics.mse(x, x[:1]), "one shape"),
        (lambda x: VideoMetrics.psnr(x, x, max_val=0), "max_val must be above 0, got 0"),
        (lambda x: VideoMetrics.ssim(x, x, 4), "odd, from 3 to 16"),
        (lambda x: VideoMetrics.ssim(x, x, 17), "got 17"),
        (lambda x: VideoMetrics.ssim(x[0, 0], x[0, 0]), r"\[\.\.\., C, H, W\]"),
        (lambda x: VideoMetrics.lpips_proxy(x[:0], x[:0]), "not be empty"),
        (lambda x: VideoMetrics.lpips_proxy(x[..., :1], x[..., :1]), "2 x 2"),
        (lambda x: TemporalConsistencyMetrics.optical_flow_consistency(x[..., :9]), "16 x 16 or more"),
        (lambda x: TemporalConsistencyMetrics.temporal_mse(x[:1]), "T >= 2"),
        (lambda x: TemporalConsistencyMetrics.frame_warping_error(x, torch.zeros(1, 2, 16, 16)), r"\[1, 3, 2, 16, 16"),
        (lambda x: TemporalConsistencyMetrics.frame_warping_error(x, torch.full((3, 2, 16, 16), 99.0)), "everywhere"),
        (lambda x: ControlMetrics.steering_accuracy(x, x, 0), "threshold"),
        (lambda x: ControlMetrics.control_smoothness(x[0, 0, :1]), r"controls must be \[\.\.\., T >= 2"),
        (lambda x: PhysicsMetrics.turning_radius(x[0, 0, :2]), r"positions must be \[\.\.\., T >= 3"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 3, 16, 16))


def test_a_missing_extra_is_named(videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    with pytest.raises(ImportError, match=r"\.\[train\]"):
        VideoMetrics.psnr(*videos)


# -- time --------------------------------------------------------------------------------------------------------


def test_temporal_mse_of_steady_brightening():
    frames = (0.1 * torch.arange(5.0))[:, None, None, None].expand(5, 3, 8, 8)
    assert float(TemporalConsistencyMetrics.temporal_mse(frames)) == pytest.approx(0.01)
    assert float(TemporalConsistencyMetrics.temporal_mse(frames[None].repeat(2, 1, 1, 1, 1))) == pytest.approx(0.01)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (0, 3), (-1, 2)])
def test_the_true_flow_of_a_shifted_texture_warps_it_without_error(right, down):
    frames = moving(right, down)
    flow = torch.tensor([right, down], dtype=torch.float32)[None, :, None, None].expand(2, 2, 32, 40)
    still = TemporalConsistencyMetrics.frame_warping_error(frames, 0 * flow)
    assert TemporalConsistencyMetrics.frame_warping_error(frames, flow) < 1e-9 < still
    assert TemporalConsistencyMetrics.frame_warping_error(frames, -flow) > still  # the direction matters
    assert TemporalConsistencyMetrics.frame_warping_error(frames) < 0.2 * still  # told from the frames


def test_flow_is_consistent_in_a_moving_texture_and_not_in_noise():
    noise = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(3))
    assert TemporalConsistencyMetrics.optical_flow_consistency(moving(2, 1)) > 0.95
    assert TemporalConsistencyMetrics.optical_flow_consistency(noise) < 0.5
    assert TemporalConsistencyMetrics.optical_flow_consistency(moving(0, 0)) == 1


# -- controls and paths ------------------------------------------------------------------------------------------


def test_controls():
    target = torch.zeros(2, 5, 2)
    pred = target.clone()
    pred[0, :3, 0], pred[:, :, 1] = 0.2, 0.5
    assert float(ControlMetrics.control_mse(pred, target)) == pytest.approx((3 * 0.04 + 10 * 0.25) / 20)
    assert float(ControlMetrics.steering_accuracy(pred, target)) == pytest.approx(0.7)
    assert float(ControlMetrics.steering_accuracy(pred, target, threshold=0.3)) == 1
    wave = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None].expand(4, 2)
    assert ControlMetrics.control_smoothness(wave) == 1 and ControlMetrics.control_smoothness(wave * 0 + 3) == 0


def test_a_circle_a_straight_and_a_stop():
    turn = torch.linspace(0, 2, 50)
    circle = 30 * torch.stack([turn.cos(), turn.sin()], -1)
    step = float(2 * 30 * math.sin(1 / 49))
    assert float(PhysicsMetrics.turning_radius(circle)) == pytest.approx(30, rel=1e-3)
    assert float(PhysicsMetrics.speed_variance(circle)) == pytest.approx(0, abs=1e-6)
    assert float(PhysicsMetrics.trajectory_smoothness(circle)) == pytest.approx(step**2 / 30, rel=1e-2)
    straight = torch.arange(10.0)[:, None] * torch.tensor([2.0, 0.0])
    assert math.isinf(PhysicsMetrics.turning_radius(straight))
    assert PhysicsMetrics.trajectory_smoothness(straight) == 0
    assert float(PhysicsMetrics.turning_radius(torch.stack([circle, circle / 3])[:1])) == pytest.approx(30, rel=1e-3)
    stopped = torch.zeros(4, 2)
    assert math.isnan(PhysicsMetrics.turning_radius(stopped)) and PhysicsMetrics.speed_variance(stopped) == 0
    uneven = torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]])  # speeds 1 and 3
    assert float(PhysicsMetrics.speed_variance(uneven)) == pytest.approx(1)
    assert float(PhysicsMetrics.trajectory_smoothness(uneven)) == pytest.approx(2)


# -- all ---------------------------------------------------------------------------------------------------------


def test_all_metrics_are_those_of_the_classes(videos):
    pred, target = videos
    controls = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(4))
    depth = 1 + torch.rand(2, 3, 1, 24, 24, generator=torch.Generator().manual_seed(5))
    path = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(6))
    found = all_metrics(pred, target, controls, controls.flip(1), 1.1 * depth, depth, path)
    assert set(found) == {
        "mse", "psnr", "ssim", "lpips_proxy", "temporal_mse", "optical_flow_consistency", "frame_warping_error",
        "control_mse", "steering_accuracy", "control_smoothness", "depth_rmse", "depth_abs_rel",
        "trajectory_smoothness", "speed_variance", "turning_radius",
    }  # fmt: skip
    assert all(value.ndim == 0 and torch.isfinite(value) for value in found.values())
    assert found["ssim"] == VideoMetrics.ssim(pred, target)
    assert found["temporal_mse"] == TemporalConsistencyMetrics.temporal_mse(pred)
    assert float(found["depth_abs_rel"]) == pytest.approx(0.1, rel=1e-5)
    assert set(all_metrics(pred[:, :1], target[:, :1])) == {"mse", "psnr", "ssim", "lpips_proxy"}
    assert set(all_metrics(pred, target, expensive=False)) == {"mse", "psnr", "temporal_mse"}


def test_unknown_depths_do_not_count_and_halves_of_pairs_are_refused(videos):
    pred, target = videos
    depth = torch.full((2, 3, 1, 24, 24), 2.0)
    depth[0] = 0
    found = all_metrics(pred, target, pred_depth=torch.full_like(depth, 3.0), target_depth=depth)
    assert float(found["depth_rmse"]) == pytest.approx(1) and float(found["depth_abs_rel"]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no depth is known"):
        all_metrics(pred, target, pred_depth=depth, target_depth=0 * depth)
    with pytest.raises(ValueError, match="pred_controls and target_controls belong together"):
        all_metrics(pred, target, pred_controls=torch.zeros(2, 3, 2))
