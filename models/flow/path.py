"""The path from data at level 0 to noise at level 1: `x_sigma = (1 - sigma) x0 + sigma n` (Lipman et al. 2023).

Its velocity is `v = n - x0`. What networks tell is the clean estimate, the mean of x0 given x_sigma. This mathematics
stands here once. A level is one number for all, or a tensor over the leading axes of x: `[B]`, `[B, F]`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def over(level: Tensor, x: Tensor) -> Tensor:
    """A level over the leading axes of `x`, shaped to multiply it; one number stays one."""
    return level.reshape(*level.shape, *[1] * (x.ndim - level.ndim)) if level.ndim else level


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point of the path at level `sigma` between `clean` and `noise`, two of one shape."""
    sigma = over(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """The velocity of the path between `clean` and `noise`, the same at all levels."""
    return noise - clean


def velocity_estimate(x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """The velocity at a point of the path, of the clean estimate there; `sigma` is above 0."""
    return (x - clean) / over(sigma, x)


def clean_estimate(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The clean estimate at a point of the path, of the velocity there."""
    return x - over(sigma, x) * velocity


def euler_step(x: Tensor, clean: Tensor, sigma: Tensor, lower: Tensor) -> Tensor:
    """The point at level `lower` of the straight line from `clean` through `x` at `sigma`, which is above 0.

    It is a step of Euler's method along the velocity, and of DDIM (Song et al. 2021).
    """
    return clean + over(lower / sigma, x) * (x - clean)


def along(x: Tensor, velocity: Tensor, sigma: Tensor, lower: Tensor) -> Tensor:
    """The point at level `lower` of the straight line through `x` at `sigma` with a velocity; `x` where both are one.

    It is a step of Euler's method, as `euler_step`, which is told the clean estimate instead.
    """
    return x + over(lower - sigma, x) * velocity


def jump(x: Tensor, clean: Tensor, sigma: Tensor, lower: Tensor) -> Tensor:
    """`euler_step`, and bit for bit `x` where both levels are one, be it 0."""
    still = lower == sigma
    return torch.where(over(still, x), x, euler_step(x, clean, sigma.masked_fill(still, 1.0), lower))


def renoise(x: Tensor, noise: Tensor, sigma: Tensor, higher: Tensor) -> Tensor:
    """The point at level `higher` that has the data of `x` at `sigma`, which is below 1, and its noise in part.

    Signal and variance are the path's: `a x + sqrt(higher^2 - (a sigma)^2) noise` with a = (1 - higher) / (1 - sigma).
    """
    kept = (1 - higher) / (1 - sigma)
    spread = (higher.square() - (kept * sigma).square()).clamp(min=0).sqrt()
    return over(kept, x) * x + over(spread, x) * noise


def noise_levels(steps: int, device: torch.device | str = "cpu") -> Tensor:
    """The levels `[steps + 1]` between which a sampler steps, evenly from noise to data.

    Raises:
        ValueError: There is no step.
    """
    if steps < 1:
        raise ValueError(f"there must be at least 1 sampling step, got {steps}")
    return torch.linspace(1, 0, steps + 1, device=device)


def weighted(error: Tensor, sigma: Tensor) -> Tensor:
    """Squared errors of clean estimates, each `[...]` times `1 / (sigma^2 + 1/4)`: little noise counts five times."""
    return error / (sigma.square() + 0.25)
