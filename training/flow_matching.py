"""Flow matching as PixelHDM has it: time t rises from noise at 0 to data at 1, and velocities are v = x - e.

It is the package's path at level `sigma = 1 - t`, whose velocity is -v (Lipman et al. 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from drivedit.config.pixel import PixelHDMConfig
from drivedit.models.flow.path import add_noise, clean_estimate, velocity
from drivedit.models.flow.schedules import compute_density_for_timestep_sampling


class PixelFlowMatching:
    """Noisy pictures to train on, and what a predicted velocity says of the picture.

    Args:
        p_mean: Mean of the normal number whose logistic function gives the time (Esser et al. 2024).
        p_std: Its standard deviation, at least 0.
        t_eps: Times lie in [t_eps, 1 - t_eps]; from 0 to below 1/2.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, p_mean: float = 0.0, p_std: float = 1.0, t_eps: float = 0.05) -> None:
        if not p_std >= 0 or not 0 <= t_eps < 0.5:
            raise ValueError(f"p_std must be at least 0, and t_eps from 0 to below 0.5, got {p_std} and {t_eps}")
        self.p_mean, self.p_std, self.t_eps = p_mean, p_std, t_eps

    def sample_timesteps(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws times `[B]`; `generator` None: torch's own randomness, on the CPU."""
        generator = torch.default_generator if generator is None else generator
        place = compute_density_for_timestep_sampling(
            "logit_normal", batch_size, generator, logit_mean=self.p_mean, logit_std=self.p_std
        )
        return self.t_eps + (1 - 2 * self.t_eps) * place

    def prepare_training(
        self,
        x_clean: Tensor,
        noise: Tensor | None = None,
        t: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mixes pictures `[B, ...]` with noise.

        Args:
            x_clean: The pictures x.
            noise: e of their shape; None: drawn.
            t: Times `[B]`; None: drawn.
            generator: What it is drawn with; None: torch's own randomness.

        Returns:
            t, z_t = t x + (1 - t) e, x and e.
        """
        if noise is None:
            device = x_clean.device if generator is None else generator.device
            noise = torch.randn(x_clean.shape, generator=generator, device=device).to(x_clean)
        if t is None:
            t = self.sample_timesteps(len(x_clean), generator).to(x_clean)
        return t, add_noise(x_clean, noise, 1 - t), x_clean, noise

    def compute_v_target(self, x_clean: Tensor, noise: Tensor) -> Tensor:
        """The velocity x - e that a network learns."""
        return -velocity(x_clean, noise)

    def recover_x(self, z_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The clean estimate z + (1 - t) v, of z and v `[B, ...]` at times `[B]`."""
        return clean_estimate(z_t, -v, 1 - t)


def create_flow_matching_from_config(config: PixelHDMConfig) -> PixelFlowMatching:
    """Flow matching with the times of a configuration."""
    return PixelFlowMatching(config.time_p_mean, config.time_p_std, config.time_eps)


def create_flow_matching(config: PixelHDMConfig | None = None) -> PixelFlowMatching:
    """Flow matching with the times of a configuration, or with the published ones."""
    return create_flow_matching_from_config(PixelHDMConfig() if config is None else config)
