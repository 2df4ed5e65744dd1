"""All metrics of frames, controls, depths and paths at once, and a model judged by the sequences that it continues.

Legend: B rows, T frames, Tc context frames, Tg generated frames, C H W frame, K controls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.evaluation.metrics.driving import ControlMetrics, PhysicsMetrics
from drivedit.evaluation.metrics.video import TemporalConsistencyMetrics, VideoMetrics, same_shape
from drivedit.inference import InferenceConfig, StreamingRollout
from drivedit.models import DiTStudent, World
from drivedit.utils import resolve_device

ENDLESS = 2**31  # frames; an evaluation sets no bound of its own
Continue = Callable[[Tensor, Tensor | None, int], Tensor]  # context, controls, Tg -> frames [B, Tg, C, H, W]


def compute_all_metrics(
    pred_frames: Tensor,
    target_frames: Tensor,
    pred_controls: Tensor | None = None,
    target_controls: Tensor | None = None,
    pred_depth: Tensor | None = None,
    target_depth: Tensor | None = None,
    positions: Tensor | None = None,
    *,
    expensive: bool = True,
) -> dict[str, Tensor]:
    """Every metric that the arguments allow.

    Args:
        pred_frames: `[B, T, C, H, W]` or `[T, C, H, W]` in [0, 1].
        target_frames: The true frames, the same shape.
        pred_controls: `[..., T, K]`, steering first.
        target_controls: The true controls, the same shape.
        pred_depth: Depths in metres, any shape.
        target_depth: True depths, the same shape; those that are not above 0 are unknown and do not count.
        positions: `[..., T, 2 or 3]` path in metres.
        expensive: Also SSIM, the perceptual proxy and what needs optical flow (frames of 16 x 16 pixels or more).

    Returns:
        Scalars by name. What is told of one clip alone is told of the predicted one.

    Raises:
        ValueError: Shapes differ, or of a pair only one is given.
    """
    pairs = {"controls": (pred_controls, target_controls), "depth": (pred_depth, target_depth)}
    for name, (pred, target) in pairs.items():
        if (pred is None) != (target is None):
            raise ValueError(f"pred_{name} and target_{name} belong together: give both or none")
    metrics = {"mse": VideoMetrics.mse(pred_frames, target_frames)}
    metrics["psnr"] = VideoMetrics.psnr(pred_frames, target_frames)
    several = pred_frames.ndim >= 4 and pred_frames.shape[-4] > 1
    if several:
        metrics["temporal_mse"] = TemporalConsistencyMetrics.temporal_mse(pred_frames)
    if expensive:
        metrics["ssim"] = VideoMetrics.ssim(pred_frames, target_frames)
        metrics["lpips_proxy"] = VideoMetrics.lpips_proxy(pred_frames, target_frames)
        if several:
            flow = TemporalConsistencyMetrics
            metrics["optical_flow_consistency"] = flow.optical_flow_consistency(pred_frames)
            metrics["frame_warping_error"] = flow.frame_warping_error(pred_frames)
    if pred_controls is not None and target_controls is not None:
        metrics["control_mse"] = ControlMetrics.control_mse(pred_controls, target_controls)
        metrics["steering_accuracy"] = ControlMetrics.steering_accuracy(pred_controls, target_controls)
        if pred_controls.shape[-2] > 1:
            metrics["control_smoothness"] = ControlMetrics.control_smoothness(pred_controls)
    if pred_depth is not None and target_depth is not None:
        metrics |= _depth_metrics(pred_depth, target_depth)
    if positions is not None:
        metrics["trajectory_smoothness"] = PhysicsMetrics.trajectory_smoothness(positions)
        metrics["speed_variance"] = PhysicsMetrics.speed_variance(positions)
        metrics["turning_radius"] = PhysicsMetrics.turning_radius(positions)
    return metrics


def _depth_metrics(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Root mean squared error in metres and mean relative error (Eigen et al. 2014)."""
    same_shape(pred, target)
    known = target > 0
    if not known.any():
        raise ValueError("target_depth must be above 0 somewhere: no depth is known")
    error = (pred.float() - target.float())[known]
    return {"depth_rmse": error.square().mean().sqrt(), "depth_abs_rel": (error.abs() / target[known]).mean()}


class SequenceEvaluator:
    """Judges how well a model continues sequences.

    Args:
        model: A `World`, or a `DiTStudent` with `vae_model` (they dream at the world's own temperature, untruncated); a
            `StreamingRollout` with settings of its own; or any function of pixels, such as a baseline:
            `model(context_frames, controls, count)` returns the next frames `[B, count, C, H, W]`.
        vae_model: The autoencoder of a `DiTStudent`.
        device: Where to compute.
        compute_expensive_metrics: See `compute_all_metrics`.

    Raises:
        ValueError: The model cannot make frames.
    """

    def __init__(
        self,
        model: Any,
        vae_model: nn.Module | None = None,
        device: str = "cuda",
        compute_expensive_metrics: bool = True,
    ) -> None:
        self.compute_expensive_metrics = compute_expensive_metrics
        self.rollout = as_rollout(model, vae_model, device)
        if self.rollout is None and not callable(model):
            raise ValueError(f"model must be a World, a StreamingRollout or a function of frames, got {type(model)}")
        self._device = resolve_device(device)
        if isinstance(model, nn.Module) and self.rollout is None:
            model.to(self._device).eval()
        pixels: Any = model
        self._continue: Continue = pixels if self.rollout is None else self._roll

    def evaluate_sequence(
        self,
        context_frames: Tensor,
        target_frames: Tensor,
        controls: Tensor | None = None,
        return_generated: bool = False,
    ) -> dict[str, Any]:
        """Continues the context and compares with what followed.

        Args:
            context_frames: `[B, Tc, C, H, W]` in [0, 1].
            target_frames: `[B, Tg, C, H, W]`.
            controls: `[B, Tc + Tg, K]`, or None.
            return_generated: Also return the frames.

        Returns:
            The metrics of `compute_all_metrics` as numbers, `psnr_per_frame` (Tg of them), `generation_time_s`, `fps`
            (generated frames of all rows per second), and `generated_frames` on the CPU if asked for.

        Raises:
            ValueError: Shapes do not fit together, or the model made something else than the frames asked for.
        """
        if target_frames.ndim != 5 or context_frames.shape[2:] != target_frames.shape[2:]:
            raise ValueError(
                "context and target frames must be [B, T, C, H, W] and alike but for T, got "
                f"{tuple(context_frames.shape)} and {tuple(target_frames.shape)}"
            )
        context = context_frames.to(self._device)
        driven = None if controls is None else controls.to(self._device)
        begun = time.perf_counter()
        with torch.no_grad():
            generated = self._continue(context, driven, target_frames.shape[1]).cpu()
        seconds = time.perf_counter() - begun
        if generated.shape != target_frames.shape or not torch.isfinite(generated).all():
            raise ValueError(
                f"the model must make finite frames {tuple(target_frames.shape)}, got {tuple(generated.shape)}"
            )
        target = target_frames.cpu()
        values = compute_all_metrics(generated, target, expensive=self.compute_expensive_metrics)
        pairs = zip(generated.unbind(1), target.unbind(1), strict=True)
        result: dict[str, Any] = {name: float(value) for name, value in values.items()}
        result["psnr_per_frame"] = [float(VideoMetrics.psnr(made, true)) for made, true in pairs]
        result |= {"generation_time_s": seconds, "fps": len(generated) * generated.shape[1] / seconds}
        return result | ({"generated_frames": generated} if return_generated else {})

    def evaluate_batch(self, batch: dict[str, Tensor], context_ratio: float = 0.5) -> dict[str, Any]:
        """Cuts clips into context and target, at least one frame each, and evaluates them.

        Args:
            batch: `frames` `[B, T >= 2, C, H, W]`, and `controls` `[B, T, K]` if there are any.
            context_ratio: Share of the frames that is context, in (0, 1).

        Raises:
            KeyError: There are no frames.
            ValueError: The ratio is out of range, or a shape does not fit.
        """
        if "frames" not in batch:
            raise KeyError(f"a batch needs 'frames', got {sorted(batch)}")
        frames = batch["frames"]
        if not 0 < context_ratio < 1:
            raise ValueError(f"context_ratio must be between 0 and 1, got {context_ratio}")
        if frames.ndim != 5 or frames.shape[1] < 2:
            raise ValueError(f"frames must be [B, T >= 2, C, H, W], got {tuple(frames.shape)}")
        cut = min(max(int(frames.shape[1] * context_ratio), 1), frames.shape[1] - 1)
        return self.evaluate_sequence(frames[:, :cut], frames[:, cut:], batch.get("controls"))

    def _roll(self, context: Tensor, controls: Tensor | None, count: int) -> Tensor:
        assert self.rollout is not None
        self.rollout.reset_state()
        return self.rollout.generate_sequence(context, controls, count)["generated_frames"]


def as_rollout(model: Any, vae_model: nn.Module | None, device: str) -> StreamingRollout | None:
    """The rollout of a model that has latents; None for a model of pixels.

    Raises:
        ValueError: An autoencoder is missing, or there is one too many.
    """
    if isinstance(model, DiTStudent) and vae_model is None:
        raise ValueError("a DiTStudent makes latents, not frames: give its VAE3D as vae_model")
    if isinstance(model, (World, DiTStudent)):
        heat = model.config.temperature if isinstance(model, World) else 1.0
        config = InferenceConfig(max_sequence_length=ENDLESS, context_window=ENDLESS, temperature=heat, top_p=None)
        return StreamingRollout(model, vae_model, config, device)
    if vae_model is not None:
        raise ValueError(f"vae_model is the autoencoder of a DiTStudent, the model is a {type(model).__name__}")
    return model if isinstance(model, StreamingRollout) else None
