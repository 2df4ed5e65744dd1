"""Flow matching of sets: the loss of a field under conditions that are dropped at times, and its samples.

The seed's time t runs from noise to data and is one minus the level of noise; its field dx/dt is the negative of the
velocity of `drivedit.models.flow`. With `sigma_min` the noise is narrower by that share from the start.

Legend: B rows, P parameters, K tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models.flow.path import add_noise, noise_levels, velocity
from drivedit.models.flow.sampler import guided, integrate


class SetFlow(nn.Module):
    """An encoder of observations and a vector field that is trained on them.

    Args:
        encoder: Observations to conditions.
        vector_field: As `ApproxEquivTransformer`: `forward(x, t, conditioning)`, `apply_dropout`, `penalty`.
        dropout: Chance that a row is not told its condition.
        sigma_min: Share by which the noise is narrower than a standard normal.

    Raises:
        ValueError: A share is out of [0, 1], or `sigma_min` is 1.
    """

    def __init__(self, encoder: nn.Module, vector_field: nn.Module, dropout: float = 0.1, sigma_min: float = 0.0):
        super().__init__()
        if not 0 <= dropout <= 1 or not 0 <= sigma_min < 1:
            raise ValueError(f"dropout must be in [0, 1] and sigma_min in [0, 1), got {dropout} and {sigma_min}")
        self.encoder, self.dropout, self.sigma_min = encoder, dropout, sigma_min
        self.vector_field: Any = vector_field

    def loss(
        self, observation: Tensor, params: Tensor, noise: Tensor, rng: torch.Generator, *,
        mask: Tensor | None = None, weight: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        """The squared error of the field at a random time, with its penalty; and named scalars to log.

        Args:
            observation: What the encoder takes.
            params: Data `[B, P]`.
            noise: `[B, P]`, coupled to them.
            rng: On the CPU, for times and dropout.
            mask: `[B, K]`, true for tokens that are there; None: all are.
            weight: `[B, P]`, how much each number counts, not all zero; None: all alike.
        """
        start = (1 - self.sigma_min) * noise
        condition = self.vector_field.apply_dropout(self.encoder(observation), self.dropout, rng=rng)
        sigma = torch.rand(len(params), generator=rng).to(params)
        error = (self.velocity(add_noise(params, start, sigma), sigma, condition, mask) - velocity(params, start)) ** 2
        flow = error.mean() if weight is None else (weight * error).sum() / weight.sum()
        penalty = self.vector_field.penalty()
        return flow + penalty, {"flow": flow.detach(), "penalty": penalty.detach()}

    def velocity(self, x: Tensor, sigma: Tensor, given: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """The velocity `[B, P]` at points of the path, of levels of noise `[B]`."""
        told = {} if mask is None else {"mask": mask}
        return -self.vector_field(x, 1 - sigma[:, None], given, **told)

    @torch.no_grad()
    def sample(
        self, observation: Tensor | None, noise: Tensor, steps: int, guidance: float = 1.0, *, solver: str = "rk4",
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Parameters `[B, P]` that fit observations.

        Args:
            observation: What the encoder takes; None: they fit none.
            noise: Standard normal numbers `[B, P]`.
            steps: Of the solver.
            guidance: Scale of guidance (1: none, and half the calls).
            solver: As in `drivedit.models.flow.sampler.integrate`.
            mask: `[B, K]`, true for tokens that are there; None: all are.

        Raises:
            ValueError: There is no step, or no such solver.
        """
        condition = None if observation is None else self.encoder(observation)
        field = guided(lambda x, sigma, given: self.velocity(x, sigma, given, mask), guidance, None)
        return integrate(field, (1 - self.sigma_min) * noise, noise_levels(steps, noise.device), condition, solver)
