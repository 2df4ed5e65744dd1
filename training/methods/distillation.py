"""The `distill` stage: a student that is right in few passes, taught by the many-pass network that it starts from.

Causal consistency (Song et al. 2023; Causal Forcing, arXiv 2602.02214): from a noisy frame the frozen block-causal
teacher goes one step towards data, and the student's estimate before that step has to agree with its averaged self
after it. Self-forcing with distribution matching (Self-Forcing, arXiv 2506.08009; DMD2, arXiv 2405.14867): the student
makes frames on its own rollouts, and moves them along the difference of two scores, the teacher's and that of a critic
which learns by flow matching what the student makes. The student never starts from a bidirectional network, for then it
would learn a conditional mean; but one may tell the score of whole clips (`drivedit.training.methods.teacher`).

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from drivedit.config import DistillConfig
from drivedit.models import World
from drivedit.models.flow.path import add_noise, euler_step, noise_levels, weighted
from drivedit.models.flow.sampler import sample
from drivedit.training.methods.student import Draw, Logs, StudentStage, estimate

LEVELS = (0.02, 0.98)  # noise at which the scores are compared


class DistillStage(StudentStage):
    """Trains the dynamics and the heads of a world that was trained on recordings.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.
    """

    hot = ("run", "score")

    def __init__(self, world: World, config: DistillConfig) -> None:
        super().__init__(world, config)
        self.distill = config
        self.score = estimate
        self.teacher = copy.deepcopy(self.dynamics).requires_grad_(False)
        self.target = copy.deepcopy(self.dynamics).requires_grad_(False)
        self.critic = copy.deepcopy(self.dynamics).requires_grad_(config.method == "matching")
        self.turn: Tensor
        self.register_buffer("turn", torch.zeros(()))  # optimizer steps so far

    def objective(self, progress: float) -> Callable[..., tuple[Tensor, Logs]]:
        """The loss of the method."""
        return {
            "forcing": self._forcing,
            "consistency": self._consistency,
            "matching": self._matching,
            "energy": self._few_step,
        }[self.distill.method]

    def _consistency(
        self, tokens: Tensor, truth: Tensor, control: Tensor, route: Tensor, batch: dict[str, Tensor], draw: Draw
    ) -> tuple[Tensor, Logs]:
        rows, frames = truth.shape[:2]
        past, grid = self._past(self._corrupt(tokens, draw)), self.distill.grid
        index = 1 + (draw.uniform(rows, frames) * grid).floor()
        index = torch.where(draw.uniform(rows, frames) < self.config.pure_noise, float(grid), index)
        sigma, lower = index / grid, (index - 1) / grid
        noisy = add_noise(truth, draw.normal(*truth.shape), sigma)
        with torch.no_grad():
            clean, _ = self.score(self.teacher, noisy, sigma, control, route, past)
            nearer = euler_step(noisy, clean, sigma, lower)
            aim, _ = self.score(self.target, nearer, lower, control, route, past)
            aim = torch.where(lower[..., None, None] == 0, nearer, aim)  # data is its own estimate
        out, readings = self.run(noisy, sigma, control, route, past)
        error = (out - truth).square().mean((2, 3))
        heads, logs = self._head_losses(readings, error, batch)
        loss = (out - aim).square().mean()
        pure = sigma == 1
        mse = (error.detach() * pure).sum() / pure.sum().clamp(min=1)
        return loss + self.config.head_weight * heads, {"consistency": loss.detach(), "mse": mse, **logs}

    def _critic_alone(self) -> bool:
        return self.distill.method == "matching" and bool(self.turn % self.distill.critic_steps)

    def before_step(self) -> None:
        """Leaves the student as it is while the critic catches up."""
        if self._critic_alone():
            for weight in self._students_weights():
                weight.grad = None

    def _students_weights(self) -> list[Tensor]:
        return [*self.dynamics.parameters(), *self.heads.parameters()]

    def _matching(
        self, tokens: Tensor, truth: Tensor, control: Tensor, route: Tensor, batch: dict[str, Tensor], draw: Draw
    ) -> tuple[Tensor, Logs]:
        past, moved, noisy = self._own_rollout(tokens, control, route, draw)
        levels = noise_levels(self.distill.exits, truth.device)[: draw.alike(self.distill.exits) + 1]

        def denoiser(x: Tensor, sigma: Tensor, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            return self.run(x, sigma[:, None].expand(truth.shape[:2]), *given)[0]

        with torch.no_grad():
            noisy = sample(denoiser, noisy, levels, (moved, route, past))
        sigma = levels[-1].expand(truth.shape[:2])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._critic_alone()):
            made, readings = self.run(noisy, sigma, moved, route, past)
        critic = self._critic_loss(made.detach(), moved, route, past, draw)
        error = (made - truth).square().mean((2, 3))
        logs = {"critic": critic.detach(), "mse": error.detach().mean()}
        if self._critic_alone():
            untouched = torch.stack([weight.sum() for weight in self._students_weights()]).sum()
            return critic + 0 * untouched, logs  # data-parallel training wants a gradient for every weight
        difference = self._difference_of_scores(made.detach(), moved, route, past, draw)
        matching = 0.5 * (made - (made - difference).detach()).square().mean()
        heads, read = self._head_losses(readings, error, batch)
        loss = matching + critic + self.config.head_weight * heads
        if self.distill.consistency:
            kept, _ = self._consistency(tokens, truth, control, route, batch, draw)
            loss = loss + self.distill.consistency * kept
        return loss, {**logs, "matching": matching.detach(), **read}

    def _own_rollout(self, tokens: Tensor, control: Tensor, route: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """The past of the frames to be made, their controls, and the noise to make them from."""
        past, moved = self._own_past(tokens, control, route, draw)
        return past, moved, draw.normal(*tokens[:, self.history :].shape)

    @torch.no_grad()
    def _difference_of_scores(self, made: Tensor, control: Tensor, route: Tensor, past: Tensor, draw: Draw) -> Tensor:
        """Where the teacher would have the samples differ from where they are, per unit of its own disagreement."""
        noisy, sigma = self._renoise(made, draw)
        real, _ = self.score(self.teacher, noisy, sigma, control, route, past)
        fake, _ = self.score(self.critic, noisy, sigma, control, route, past)
        return pull(made, real, fake)

    def _critic_loss(self, made: Tensor, control: Tensor, route: Tensor, past: Tensor, draw: Draw) -> Tensor:
        noisy, sigma = self._renoise(made, draw)
        out, _ = self.score(self.critic, noisy, sigma, control, route, past)
        return weighted((out - made).square().mean((2, 3)), sigma).mean()

    def _renoise(self, made: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        low, high = LEVELS
        sigma = low + (high - low) * draw.uniform(*made.shape[:2])
        return add_noise(made, draw.normal(*made.shape), sigma), sigma

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the averaged student on."""
        self.turn += 1
        for mean, now in zip(self.target.parameters(), self.dynamics.parameters(), strict=True):
            mean.lerp_(now, 1 - self.distill.target_ema)


def pull(made: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The difference of two clean estimates `[B, T, P, D]`, per unit of the real one's distance to each frame."""
    return (fake - real) / (made - real).abs().mean((2, 3), keepdim=True).clamp(min=1e-2)
