"""Distribution matching (DMD2, arXiv 2405.14867) on a student's own rollouts (Self-Forcing, arXiv 2506.08009).

The student makes frames on its own rollouts and moves them along the difference of two scores: the teacher's, and that
of a critic, which learns by flow matching what the student makes. Some consistency beside it keeps it from collapse.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from drivedit.config import DistillConfig
from drivedit.models import DiTWorld
from drivedit.models.flow.path import add_noise, weighted
from drivedit.training.methods.clips import Clip, Given, Rngs
from drivedit.training.methods.consistency import Consistency
from drivedit.training.methods.dynamics import squared_error
from drivedit.training.methods.method import Logs, ParameterGroup, Progress, untouched

LEVELS = (0.02, 0.98)  # of the noise at which the scores are compared


class DistributionMatching(Consistency):
    """Trains a student to draw what its teacher would draw; every few steps of the critic it takes one.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.
        critic: The network that the critic begins as; None: the student.
    """

    def __init__(self, world: DiTWorld, config: DistillConfig, critic: nn.Module | None = None) -> None:
        super().__init__(world, config)
        self.critic: Any = copy.deepcopy(critic or self.dynamics).requires_grad_(True)

    def groups(self, step: int) -> list[ParameterGroup]:
        """The critic, each by its own norm; the student too where it is its turn."""
        groups = [self.group("critic", self.critic.parameters())]
        if not self.critic_alone(step):
            groups.append(self.group("student", self._students_weights(), self.matrices()))
        return groups

    def critic_alone(self, step: int) -> bool:
        """Whether the student waits while the critic catches up."""
        return step % self.distill.critic_steps > 0

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The losses of critic and student."""
        alone = self.critic_alone(progress.step)
        given, noise = self.own_rollout(clip, rngs)
        levels = self.levels_to_exit(noise, rngs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            made, read = self.run_to_exit(noise, levels, given)
        critic = self.critic_loss(made.detach(), given, rngs)
        error = squared_error(made, clip.target)
        logs = {"critic": critic.detach(), "mse": error.detach().mean()}
        if alone:
            return critic + untouched(self._students_weights()), logs
        gradient = dmd_gradient(made.detach(), *self.scores(made.detach(), given, rngs))
        matching = 0.5 * (made - (made - gradient).detach()).square().mean()
        heads, head_logs = self.head_losses(read, error, clip)
        loss = matching + critic + self.config.head_weight * heads
        if self.distill.consistency:
            kept, _ = super().clip_loss(clip, progress, rngs)
            loss = loss + self.distill.consistency * kept
        return loss, {**logs, "matching": matching.detach(), **head_logs}

    def own_rollout(self, clip: Clip, rngs: Rngs) -> tuple[Given, Tensor]:
        """What the frames to be made are given, and the noise to make them from."""
        past, control = self.own_past(clip, rngs)
        return (control, clip.route, past), rngs.normal(*clip.target.shape)

    @torch.no_grad()
    def scores(self, made: Tensor, given: Given, rngs: Rngs) -> tuple[Tensor, Tensor]:
        """The clean estimates of teacher and critic for the frames made, with noise on them."""
        noisy, sigma = self._renoised(made, rngs)
        real, _ = self.predict_clean(self.teacher.network, noisy, sigma, *given)
        fake, _ = self.predict_clean(self.critic, noisy, sigma, *given)
        return real, fake

    def critic_loss(self, made: Tensor, given: Given, rngs: Rngs) -> Tensor:
        """The loss of the critic, for which the frames made are the data."""
        noisy, sigma = self._renoised(made, rngs)
        clean, _ = self.predict_clean(self.critic, noisy, sigma, *given)
        return weighted(squared_error(clean, made), sigma).mean()

    def _renoised(self, made: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
        low, high = LEVELS
        sigma = low + (high - low) * rngs.uniform(*made.shape[:2])
        return add_noise(made, rngs.normal(*made.shape), sigma), sigma

    def _students_weights(self) -> list[nn.Parameter]:
        return [*self.dynamics.parameters(), *self.heads.parameters()]


def dmd_gradient(made: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The difference of two clean estimates `[B, T, P, D]`, per unit of the real one's distance to each frame."""
    return (fake - real) / (made - real).abs().mean((2, 3), keepdim=True).clamp(min=1e-2)
