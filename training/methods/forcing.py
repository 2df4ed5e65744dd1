"""Diffusion forcing (Chen et al. 2024): every frame of a clip has a noise level of its own, and is estimated clean.

Legend: B clips, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drivedit.models.flow.path import add_noise, weighted
from drivedit.training.methods.clips import Clip, Rngs
from drivedit.training.methods.dynamics import DynamicsMethod, error_from_noise, squared_error
from drivedit.training.methods.method import Logs, Progress


class DiffusionForcing(DynamicsMethod):
    """Learns from recordings alone, from a past that is told is clean."""

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The weighted error of clean estimates, and the heads' losses."""
        return forcing_loss(self, clip, rngs)


def mean_loss(method: DynamicsMethod, clip: Clip, rngs: Rngs) -> tuple[Tensor, Logs]:
    """The error of clean estimates from zeros in place of noise alone, and the heads' losses.

    The mean of all futures is learned sooner so than beside noise, and the sooner where the heads only watch: rare
    rewards, a collision among them, have gradients that drown those of the picture.
    """
    past = method.past(method.corrupted(clip.tokens, rngs))
    sigma = clip.target.new_ones(clip.target.shape[:2])
    clean, read = method.run(torch.zeros_like(clip.target), sigma, clip.control, clip.route, past, apart=True)
    error = squared_error(clean, clip.target)
    heads, logs = method.head_losses(read, error, clip)
    return error.mean() + method.config.head_weight * heads, {"mse": error.detach().mean(), **logs}


def draw_levels(target: Tensor, pure_noise: float, rngs: Rngs) -> Tensor:
    """Levels `[B, T]` for frames `[B, T, P, D]`: logit-normal, and 1 in a share `pure_noise` of the frames."""
    shape = target.shape[:2]
    sigma = rngs.normal(*shape).sigmoid()
    return torch.where(rngs.uniform(*shape) < pure_noise, torch.ones_like(sigma), sigma)


def forcing_loss(method: DynamicsMethod, clip: Clip, rngs: Rngs) -> tuple[Tensor, Logs]:
    """The loss at levels of a logit-normal distribution, and of noise alone in `pure_noise` of the frames."""
    sigma = draw_levels(clip.target, method.config.pure_noise, rngs)
    noisy = add_noise(clip.target, rngs.normal(*clip.target.shape), sigma)
    past = method.past(method.corrupted(clip.tokens, rngs))
    clean, read = method.run(noisy, sigma, clip.control, clip.route, past)
    error = squared_error(clean, clip.target)
    heads, logs = method.head_losses(read, error, clip)
    loss = weighted(error, sigma).mean() + method.config.head_weight * heads
    return loss, {"mse": error_from_noise(error, sigma), **logs}
