"""Other ways to say where on the path one is: the steps of DDPM (Ho et al. 2020), and the noise of EDM.

DDPM has a chain of discrete steps that keeps the variance, `sqrt(a) x0 + sqrt(1 - a) n` with a the product of alphas.
Divided by `sqrt(a) + sqrt(1 - a)` that is the point of the path at `sigma = s / (1 + s)`, `s = sqrt((1 - a) / a)`.
EDM (Karras et al. 2022) adds noise, `x0 + s n`: divided by `1 + s` that is the point of the path at `s / (1 + s)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drivedit.models.flow.path import over


def level_of_edm(log_s: Tensor) -> Tensor:
    """The level of the path at which EDM has noise s, of its logarithm."""
    return log_s.sigmoid()


def level_of_ddpm(alpha: Tensor) -> Tensor:
    """The level of the path at which a chain has the product of alphas `alpha`."""
    s = ((1 - alpha) / alpha).sqrt()
    return s / (1 + s)


def signal_and_spread(alpha: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of signal and noise in a chain's state `x` `[B, ...]`, of products of alphas `[B]`, to multiply it."""
    alpha = over(alpha, x)
    return alpha.sqrt().to(x.dtype), (1 - alpha).sqrt().to(x.dtype)


def nearest_step(alphas: Tensor, sigma: Tensor) -> Tensor:
    """The steps `[B]` of a chain whose levels are nearest to `sigma` `[B]`."""
    return (level_of_ddpm(alphas) - sigma.to(alphas)[:, None]).abs().argmin(1)


def alpha_products(schedule: str, steps: int) -> Tensor:
    """The share of the signal's variance after each step of a chain, `[K]` in double precision, falling.

    Args:
        schedule: "linear" (from 1e-4 to 2e-2 over 1000 steps, Ho et al. 2020; steeper over fewer) or "cosine"
            (Nichol and Dhariwal 2021).
        steps: Steps K of the chain.

    Raises:
        ValueError: The schedule is unknown, or there are no steps.
    """
    if steps < 1:
        raise ValueError(f"num_diffusion_steps must be at least 1, got {steps}")
    if schedule == "linear":
        betas = torch.linspace(1e-4, 2e-2, steps, dtype=torch.float64) * 1000 / steps
    elif schedule == "cosine":
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        share = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
        betas = 1 - share[1:] / share[:-1]
    else:
        raise ValueError(f"beta_schedule must be 'linear' or 'cosine', got {schedule!r}")
    return (1 - betas.clamp(max=0.999)).cumprod(0)
