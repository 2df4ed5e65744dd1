"""Which levels of noise are trained, and how often: densities over a list of levels, and the lists themselves.

Densities are those of Esser et al. 2024 (arXiv 2403.03206). A density gives places u in [0, 1] of a list that begins
with noise: u = 0 is noise. Lists of levels rise here, from least noise to 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEMES = ("uniform", "logit_normal", "mode")
MODE_SCALES = (-1.0, 2 / (math.pi - 2))  # between which the map of the mode density is monotone


def compute_density_for_timestep_sampling(
    weighting_scheme: str,
    batch_size: int,
    generator: torch.Generator,
    logit_mean: float | None = None,
    logit_std: float | None = None,
    mode_scale: float | None = None,
) -> Tensor:
    """Draws places `[B]` in [0, 1].

    Args:
        weighting_scheme: "uniform"; "logit_normal", the logistic function of a normal number; or "mode", which weighs
            the middle more the larger its scale is, and at 0 is uniform.
        batch_size: How many.
        generator: What they are drawn with, on its device.
        logit_mean: Mean of the normal number.
        logit_std: Its standard deviation, at least 0.
        mode_scale: From -1 to 2 / (pi - 2) = 1.75, beyond which places would fold back.

    Raises:
        ValueError: The scheme is unknown, what it needs is missing, or a number is out of its range.
    """
    if weighting_scheme not in SCHEMES:
        raise ValueError(f"weighting_scheme must be one of {', '.join(SCHEMES)}, got {weighting_scheme!r}")
    if weighting_scheme == "logit_normal":
        if logit_mean is None or logit_std is None or not logit_std >= 0:
            raise ValueError(
                f"logit_normal needs logit_mean and a logit_std of at least 0, got {logit_mean} and {logit_std}"
            )
        drawn = torch.randn(batch_size, generator=generator, device=generator.device)
        return (logit_mean + logit_std * drawn).sigmoid()
    place = torch.rand(batch_size, generator=generator, device=generator.device)
    if weighting_scheme == "uniform":
        return place
    low, high = MODE_SCALES
    if mode_scale is None or not low <= mode_scale <= high:
        raise ValueError(f"mode needs a mode_scale from {low:g} to {high:.5g}, got {mode_scale}")
    bent = (math.pi / 2 * place).cos().square() - 1 + place
    return (1 - place - mode_scale * bent).clamp(0, 1)


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Levels moved towards noise: `a s / (1 + (a - 1) s)` with a = `shift`, which is above 0 (1: as they are)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def training_levels(steps: int, shift: float = 1.0) -> Tensor:
    """Levels `[T]` of evenly spaced steps, shifted; they rise from above 0 to 1.

    Raises:
        ValueError: There is no step, or the shift is not above 0.
    """
    if steps < 1 or not shift > 0:
        raise ValueError(f"there must be at least 1 step, and a shift above 0, got {steps} and {shift}")
    return shifted(torch.arange(1, steps + 1) / steps, shift)


def linear_quadratic_levels(steps: int, threshold: float = 0.025, linear_range: float = 0.5) -> Tensor:
    """Levels `[T]` that fall from 1 by small even steps at first, then faster and faster; told rising (Mochi 1, 2024).

    Args:
        steps: Their number T.
        threshold: How far they have come down at the end of the even steps, in (0, 1).
        linear_range: Share of the steps that are even, in (0, 1).

    Raises:
        ValueError: A number is out of its range.
    """
    if steps < 1 or not 0 < threshold < 1 or not 0 < linear_range < 1:
        raise ValueError(
            "there must be at least 1 step, and threshold and linear_range must be between 0 and 1, got "
            f"{steps}, {threshold} and {linear_range}"
        )
    place = torch.arange(steps, dtype=torch.float64) / steps
    slope = threshold / linear_range
    curve = (1 - slope) / (1 - linear_range) ** 2  # which ends at level 0, and begins with the slope of the line
    down = slope * place + curve * (place - linear_range).clamp(min=0).square()
    return (1 - down).flip(0).float()
