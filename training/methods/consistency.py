"""Causal consistency (Song et al. 2023; Causal Forcing, arXiv 2602.02214): a step of the teacher changes no estimate.

From a noisy frame the frozen block-causal teacher goes one step towards data, and the student's estimate before that
step has to agree with its averaged self after it. The student never starts from a bidirectional network, for then it
would learn a conditional mean.

Legend: B clips, T frames.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from drivedit.config import DistillConfig
from drivedit.models import DiTWorld
from drivedit.models.flow.path import add_noise, euler_step, over
from drivedit.training.averaging import follow
from drivedit.training.methods.clips import Clip, Rngs
from drivedit.training.methods.dynamics import DynamicsMethod, error_from_noise, predict_clean, squared_error
from drivedit.training.methods.method import Frozen, Logs, Progress


class Consistency(DynamicsMethod):
    """Trains a student on the steps of a world that was trained on recordings.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.
    """

    hot = ("run", "predict_clean")

    def __init__(self, world: DiTWorld, config: DistillConfig) -> None:
        super().__init__(world, config)
        self.distill = config
        self.predict_clean = predict_clean
        self.teacher = Frozen(self.dynamics)
        self.target = copy.deepcopy(self.dynamics).requires_grad_(False)

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The distance of the student's estimates before and after a step, and the heads' losses."""
        shape, grid = clip.target.shape[:2], self.distill.grid
        given = clip.control, clip.route, self.past(self.corrupted(clip.tokens, rngs))
        index = 1 + (rngs.uniform(*shape) * grid).floor()
        index = torch.where(rngs.uniform(*shape) < self.config.pure_noise, float(grid), index)
        sigma, lower = index / grid, (index - 1) / grid
        noisy = add_noise(clip.target, rngs.normal(*clip.target.shape), sigma)
        with torch.no_grad():
            clean, _ = self.predict_clean(self.teacher.network, noisy, sigma, *given)
            nearer = euler_step(noisy, clean, sigma, lower)
            aim, _ = self.predict_clean(self.target, nearer, lower, *given)
            aim = torch.where(over(lower, nearer) == 0, nearer, aim)  # data is its own estimate
        out, read = self.run(noisy, sigma, *given)
        error = squared_error(out, clip.target)
        heads, logs = self.head_losses(read, error, clip)
        loss = (out - aim).square().mean()
        logs = {"consistency": loss.detach(), "mse": error_from_noise(error, sigma), **logs}
        return loss + self.config.head_weight * heads, logs

    def after_step(self) -> None:
        """Moves the averaged student on."""
        follow(self.target.parameters(), self.dynamics.parameters(), 1 - self.distill.target_ema)
