"""Causal consistency (Song et al. 2023; Causal Forcing, arXiv 2602.02214): a step of the teacher changes no estimate.

From a noisy frame the frozen block-causal teacher goes one step towards data, and the student's estimate before that
step has to agree with its averaged self after it. The student never starts from a bidirectional network, for then it
would learn a conditional mean.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from drivedit.config import DistillConfig
from drivedit.models import DiTWorld, HeadOutputs
from drivedit.models.flow.path import add_noise, euler_step, jump
from drivedit.models.flow.phases import phase_of
from drivedit.models.flow.schedules import shifted
from drivedit.training.averaging import follow
from drivedit.training.methods.clips import Clip, Given, Rngs
from drivedit.training.methods.dynamics import error_from_noise, squared_error
from drivedit.training.methods.method import Logs, Progress
from drivedit.training.methods.taught import TaughtMethod


@dataclass
class Jumps:
    """Where student and averaged student arrive, from two points of the teacher's flow that follow one another.

    Attributes:
        out: `[B, T, P, D]` of the student.
        aim: `[B, T, P, D]` of its average, without gradient.
        sigma: Levels `[B, T]` from which the student jumps.
        end: Levels `[B, T]` at which both arrive.
        top: Levels `[B, T]` at which the phases begin.
        noise: `[B, T, P, D]` that the frames were given.
        clean: The student's clean estimates `[B, T, P, D]`.
        read: What its heads read.
    """

    out: Tensor
    aim: Tensor
    sigma: Tensor
    end: Tensor
    top: Tensor
    noise: Tensor
    clean: Tensor
    read: HeadOutputs


class Consistency(TaughtMethod):
    """Trains a student on the steps of a world that was trained on recordings.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.
    """

    grid: Tensor  # levels [N + 1], from 0 to 1

    def __init__(self, world: DiTWorld, config: DistillConfig) -> None:
        super().__init__(world, config)
        self.target = copy.deepcopy(self.dynamics).requires_grad_(False)
        grid = shifted(torch.arange(config.grid + 1) / config.grid, config.shift)
        self.register_buffer("grid", grid, persistent=False)

    def phases(self, step: int) -> int:
        """Into how many phases the path is cut at a step."""
        return 1

    def distance(self, out: Tensor, aim: Tensor) -> Tensor:
        """How far the student's jumps end from where they should."""
        return (out - aim).square().mean()

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The distance of the student's estimates before and after a step, and the heads' losses."""
        jumps = self.jumps(clip, self.given(clip, rngs), progress, rngs)
        loss = self.distance(jumps.out, jumps.aim)
        error = squared_error(jumps.clean, clip.target)
        heads, logs = self.head_losses(jumps.read, error, clip)
        logs = {"consistency": loss.detach(), "mse": error_from_noise(error, jumps.sigma), **logs}
        return loss + self.config.head_weight * heads, logs

    def jumps(self, clip: Clip, given: Given, progress: Progress, rngs: Rngs) -> Jumps:
        """Jumps from random points of the grid to the ends of their phases."""
        shape, points = clip.target.shape[:2], self.distill.grid
        index = (rngs.uniform(*shape) * points).long()
        index = index.masked_fill(rngs.uniform(*shape) < self.config.pure_noise, points - 1)
        edge, after = phase_of(index, points, self.phases(progress.step))
        sigma, lower, end, top = (self.grid[place] for place in (index + 1, index, edge, after))
        noise = rngs.normal(*clip.target.shape)
        noisy = add_noise(clip.target, noise, sigma)
        with torch.no_grad():
            nearer = euler_step(noisy, self.teach(noisy, sigma, given), sigma, lower)
            aim, _ = self.predict_clean(self.target, nearer, lower, *given)
            aim = jump(nearer, aim, lower, end)  # the end of a phase is its own estimate
        clean, read = self.run(noisy, sigma, *given)
        return Jumps(jump(noisy, clean, sigma, end), aim, sigma, end, top, noise, clean, read)

    def after_step(self) -> None:
        """Moves the averaged student on."""
        follow(self.target.parameters(), self.dynamics.parameters(), 1 - self.distill.target_ema)
