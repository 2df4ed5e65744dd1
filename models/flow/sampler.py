"""Data from noise: the one denoising loop of the package, solvers of higher order, and guidance.

A sampler knows a network as a `Denoiser` only. It steps down the levels of noise along the straight line from the point
where it is through the clean estimate there, which is Euler's method on the flow, and DDIM (Song et al. 2021). The
C++ step of a compiled world (`drivedit.inference`) is the only other place where this loop is written. Networks that
tell velocities, also at level 0, can be followed by Runge-Kutta methods (`integrate`); clean estimates by the solvers
of `drivedit.models.flow.dpm`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from drivedit.models.flow.path import along, euler_step, jump, over

SOLVERS = {  # places of the stages in a step, each reached along the stage before; and their weights
    "euler": ((0.0,), (1.0,)),
    "midpoint": ((0.0, 1 / 2), (0.0, 1.0)),
    "heun": ((0.0, 1.0), (1 / 2, 1 / 2)),
    "rk4": ((0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}

Callback = Callable[[int, Tensor], None]  # told the number of a step and where it led


class Denoiser(Protocol):
    """A network as samplers see it."""

    def __call__(self, x: Tensor, sigma: Tensor, given: Any) -> Tensor:
        """The clean estimate `[B, ...]` for `x` `[B, ...]` at level `sigma` `[B]` or `[B, F]`, under what is given."""
        ...


def sample(denoiser: Denoiser, x: Tensor, levels: Tensor, given: Any = None) -> Tensor:
    """Carries `x` down the levels of noise, with one call of the denoiser for each step.

    Args:
        denoiser: The network.
        x: `[B, ...]` at the first level; at level 1 it is noise.
        levels: `[S + 1]`, falling (`noise_levels`); all but the last are above 0. A single one leaves `x` as it is.
            Or `[S + 1, B, ...]`: own ones of each row or frame, which wait where two that follow are one.
        given: What the denoiser is given beside them.

    Returns:
        `[B, ...]` at the last level; at level 0 it is the clean estimate of the last step.
    """
    own = levels.ndim > 1
    for sigma, lower in pairwise(levels):
        clean = denoiser(x, sigma if own else sigma.expand(len(x)), given)
        x = (jump if own else euler_step)(x, clean, sigma, lower)
    return x


def integrate(
    field: Denoiser,
    x: Tensor,
    levels: Tensor,
    given: Any = None,
    solver: str = "rk4",
    callback: Callback | None = None,
) -> Tensor:
    """Carries `x` down the levels of noise along a field of velocities, by an explicit Runge-Kutta method.

    Args:
        field: Called as a `Denoiser`, it gives the velocity (noise minus data) in place of the clean estimate.
        x: `[B, ...]` at the first level.
        levels: `[S + 1]`, falling (`noise_levels`); or `[S + 1, B]`, own ones of each row.
        given: What the field is given beside them.
        solver: "euler", "midpoint", "heun" or "rk4": 1, 2, 2 or 4 calls for a step, which are its order as well.
        callback: Called after each step with its number, from 0, and `x`.

    Returns:
        `[B, ...]` at the last level.

    Raises:
        ValueError: The solver is unknown.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    for step, (sigma, lower) in enumerate(pairwise(levels.to(x.dtype))):
        slope = mean = torch.zeros_like(x)
        for place, weight in zip(*SOLVERS[solver], strict=True):
            level = torch.lerp(sigma, lower, place)
            slope = field(along(x, slope, sigma, level), level.expand(len(x)), given)
            mean = mean + weight * slope
        x = along(x, mean, sigma, lower)
        if callback is not None:
            callback(step, x)
    return x


def guidance(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """Two estimates under classifier-free guidance (Ho and Salimans 2022): `u + scale (c - u)`, of one shape.

    Args:
        conditional: `[B, ...]`, c.
        unconditional: Likewise, u.
        scale: 1 is plain conditional, 0 unconditional.
        rescale: Share in which the estimate is brought back to the spread of c, row by row (Lin et al. 2024).
    """
    out = unconditional + scale * (conditional - unconditional)
    if not rescale:
        return out
    wanted, got = (over(each.flatten(1).std(1), out) for each in (conditional, out))
    return torch.lerp(out, out * wanted / got.clamp(min=1e-12), rescale)


def guided(denoiser: Denoiser, scale: float, plain: Any, rescale: float = 0.0) -> Denoiser:
    """A denoiser under classifier-free guidance (`guidance`).

    Args:
        denoiser: The network, called twice for an estimate unless the scale is 1; it may tell velocities as well.
        scale: 1 is plain conditional, 0 unconditional.
        plain: What the denoiser is given for the unconditional estimate, which is asked first.
        rescale: Share in which the estimate is brought back to the spread of the conditional one, row by row.
    """

    def estimate(x: Tensor, sigma: Tensor, given: Any) -> Tensor:
        unconditional = denoiser(x, sigma, plain)
        return guidance(denoiser(x, sigma, given), unconditional, scale, rescale)

    return denoiser if scale == 1 else estimate
