"""How alike controls are, and how smooth controls and paths are.

Legend: B rows, T frames, K controls (steering first, right positive).
"""

from __future__ import annotations

import torch
from torch import Tensor

from drivedit.evaluation.metrics.video import same_shape


class ControlMetrics:
    """Controls `[..., T, K]`, steering at index 0."""

    @staticmethod
    def control_mse(pred_controls: Tensor, target_controls: Tensor) -> Tensor:
        """Mean squared error of all controls.

        Raises:
            ValueError: Shapes differ.
        """
        same_shape(pred_controls, target_controls)
        return (pred_controls.float() - target_controls.float()).square().mean()

    @staticmethod
    def steering_accuracy(pred_controls: Tensor, target_controls: Tensor, threshold: float = 0.1) -> Tensor:
        """Share in [0, 1] of steering values that are off by less than `threshold`.

        Raises:
            ValueError: Shapes differ, or the threshold is not positive.
        """
        same_shape(pred_controls, target_controls)
        if not threshold > 0:
            raise ValueError(f"threshold must be above 0, got {threshold}")
        return ((pred_controls[..., 0] - target_controls[..., 0]).abs() < threshold).float().mean()

    @staticmethod
    def control_smoothness(controls: Tensor) -> Tensor:
        """Mean absolute change from frame to frame; 0 for constant controls, smaller is smoother.

        Raises:
            ValueError: Fewer than two frames.
        """
        return _steps(controls, 2, "controls").diff(dim=-2).abs().mean()


class PhysicsMetrics:
    """Paths: positions `[..., T, 2]` or `[..., T, 3]` in metres, one per frame."""

    @staticmethod
    def trajectory_smoothness(positions: Tensor) -> Tensor:
        """Mean length of the second difference, m per frame squared; 0 for even motion, smaller is smoother.

        Raises:
            ValueError: Fewer than three frames.
        """
        return _steps(positions, 3, "positions").diff(n=2, dim=-2).norm(dim=-1).mean()

    @staticmethod
    def speed_variance(positions: Tensor) -> Tensor:
        """Variance of the speed along a path, m^2 per frame squared, mean over paths.

        Raises:
            ValueError: Fewer than three frames.
        """
        speed = _steps(positions, 3, "positions").diff(dim=-2).norm(dim=-1)
        return speed.var(-1, correction=0).mean()

    @staticmethod
    def turning_radius(positions: Tensor) -> Tensor:
        """Median radius in metres of the circles through three positions in a row; infinite on a straight.

        Positions that stand still count for nothing; the radius is NaN where there are no others.

        Raises:
            ValueError: Fewer than three frames.
        """
        first, second, third = _steps(positions.double(), 3, "positions").unfold(-2, 3, 1).unbind(-1)
        a, b, c = (side.norm(dim=-1) for side in (second - first, third - second, third - first))
        moving = (a > 1e-9) & (b > 1e-9)
        aside = torch.linalg.vecdot(second - first, third - second).square()
        twice_area = (a.square() * b.square() - aside).clamp(min=0).sqrt()
        straight = twice_area <= 1e-7 * a * b
        radius = torch.where(straight, torch.inf, a * b * c / (2 * twice_area))
        return radius[moving].median().to(positions.dtype)


def _steps(values: Tensor, least: int, name: str) -> Tensor:
    """Values `[..., T >= least, K]` as floats (doubles stay)."""
    if values.ndim < 2 or values.shape[-2] < least or not values.numel():
        raise ValueError(f"{name} must be [..., T >= {least}, K], got {tuple(values.shape)}")
    return values if values.dtype == torch.float64 else values.float()
