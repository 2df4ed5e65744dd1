"""The `student` stage: diffusion forcing, then one-step generation on the model's own rollouts.

First every frame of a clip gets a noise level of its own and the network estimates the clean frame (diffusion forcing,
Chen et al. 2024), from a slightly corrupted past that it is told is clean (GameNGen, Valevski et al. 2024).
Then the network learns to be right in one pass. Several passes over the clip replace the true past by the model's own
frames, all frames at once, until the last ones stand on a rollout of `rollout` frames (parallel scheduled sampling,
Duckworth et al. 2019). On that past two samples are drawn per frame and scored with the energy score (Gneiting and
Raftery 2007), which is least for samples of the true distribution: neither blur nor invention pays.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import ClipConfig, StudentStageConfig
from drivedit.models import DiTStudent, HeadOutputs, World
from drivedit.models.flow.path import add_noise, weighted
from drivedit.models.layers.past import past_of
from drivedit.utils import generator

Logs = dict[str, Tensor]
MOTION = slice(4, 7)  # of the controls: steering and throttle now and before come first


class ClipStage(nn.Module, ABC):
    """Trains a network on clips of a world's latents, with their past, their controls and their route.

    Args:
        world: Gives the tokens.
        config: How the clips are blurred.
    """

    hot: tuple[str, ...] = ()  # methods that the loop may compile

    def __init__(self, world: World, config: ClipConfig) -> None:
        super().__init__()
        self.clips, self.history = config, world.config.student.history
        self.to_tokens = world.tokens

    def forward(self, batch: dict[str, Tensor], progress: float, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """Loss of a batch of `drivedit.training.stages.Clips`."""
        draw = Draw(rng, batch["latents"].device, generator(0, "alike", int(progress * 2**31)))
        tokens = self.to_tokens(batch["latents"])  # [B, history + T, P, D]
        truth = tokens[:, self.history :]
        route = batch["route"] * (draw.uniform(len(truth), 1, 1) >= self.clips.drop_route)
        control = self._blur_motion(batch["control"], draw)
        return self.objective(progress)(tokens, truth, control, route, batch, draw)

    @abstractmethod
    def objective(self, progress: float) -> Callable[..., tuple[Tensor, Logs]]:
        """The loss at a share of the run."""

    def _blur_motion(self, control: Tensor, draw: Draw) -> Tensor:
        """Noise on the ego-motion that a clip is told; none is told in `drop_motion` of the clips."""
        motion = control[..., MOTION]
        told = draw.uniform(len(control), 1, 1) >= self.clips.drop_motion
        motion = (motion + self.clips.motion_noise * draw.normal(*motion.shape)) * told
        return torch.cat([control[..., : MOTION.start], motion], -1)

    def _past(self, tokens: Tensor) -> Tensor:
        """The clean frames before each target, the latest first, as channels `[B, T, P, history * D]`."""
        return past_of(tokens, self.history)[:, self.history :]

    def _corrupt(self, tokens: Tensor, draw: Draw) -> Tensor:
        """The clips' past with noise of a half-Cauchy size: mostly little, sometimes so much that the route must do."""
        rows = (len(tokens), 1, 1, 1)
        scale = self.clips.context_noise * (torch.pi / 2 * draw.uniform(*rows)).tan()
        noise = draw.normal(*tokens.shape)
        lost = draw.uniform(*rows) < self.clips.drop_past
        return torch.where(lost, noise, tokens + scale.clamp(max=1) * noise)


class StudentStage(ClipStage):
    """Trains the dynamics and the heads of a world.

    Args:
        world: Whose `dynamics` and `heads` are trained.
        config: The loss.

    Raises:
        ValueError: The world is not told the frames before.
    """

    hot = ("run",)

    def __init__(self, world: World, config: StudentStageConfig) -> None:
        super().__init__(world, config)
        if self.history < 1:
            raise ValueError(
                "the student stage teaches worlds that are told the frames before: world.student.history must be at "
                "least 1, got 0"
            )
        self.config = config
        self.dynamics, self.heads = world.dynamics, world.heads

    def trained(self) -> dict[str, nn.Module]:
        """The parts of the world that this stage trains."""
        return {"dynamics": self.dynamics, "heads": self.heads}

    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices inside the blocks, which Muon trains."""
        return [p for p in self.dynamics.blocks.parameters() if p.ndim == 2]

    def objective(self, progress: float) -> Callable[..., tuple[Tensor, Logs]]:
        """The loss at a share of the run."""
        return self._forcing if progress < self.config.few_step_from else self._few_step

    def _forcing(
        self, tokens: Tensor, truth: Tensor, control: Tensor, route: Tensor, batch: dict[str, Tensor], draw: Draw
    ) -> tuple[Tensor, Logs]:
        rows, frames = truth.shape[:2]
        sigma = draw.normal(rows, frames).sigmoid()
        sigma = torch.where(draw.uniform(rows, frames) < self.config.pure_noise, torch.ones_like(sigma), sigma)
        noisy = add_noise(truth, draw.normal(*truth.shape), sigma)
        out, readings = self.run(noisy, sigma, control, route, self._past(self._corrupt(tokens, draw)))
        error = (out - truth).square().mean((2, 3))
        heads, logs = self._head_losses(readings, error, batch)
        loss = weighted(error, sigma).mean() + self.config.head_weight * heads
        pure = sigma == 1
        return loss, {"mse": (error.detach() * pure).sum() / pure.sum().clamp(min=1), **logs}

    def _few_step(
        self, tokens: Tensor, truth: Tensor, control: Tensor, route: Tensor, batch: dict[str, Tensor], draw: Draw
    ) -> tuple[Tensor, Logs]:
        past, control = self._own_past(tokens, control, route, draw)
        sigma = truth.new_ones(truth.shape[:2])
        samples = [self.run(draw.normal(*truth.shape), sigma, control, route, past) for _ in range(2)]
        (first, readings), (second, _) = samples
        error = (first - truth).square().mean((2, 3))
        heads, logs = self._head_losses(readings, error, batch)
        energy, apart = energy_score(first, second, truth)
        loss = energy + self.config.head_weight * heads
        return loss, {"energy": energy.detach(), "mse": error.detach().mean(), "apart": apart.detach(), **logs}

    @torch.no_grad()
    def _own_past(self, tokens: Tensor, control: Tensor, route: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """A past of 0 to `rollout` frames of the model's own, and the controls with the ego-motion that it dreamed."""
        passes = draw.alike(self.config.rollout + 1)
        noise = draw.normal(*tokens[:, self.history :].shape)
        context, control = self.dream(self._corrupt(tokens, draw), control, route, passes, noise)
        return self._past(context), control

    def run(
        self, noisy: Tensor, sigma: Tensor, control: Tensor, route: Tensor, past: Tensor
    ) -> tuple[Tensor, HeadOutputs]:
        """One pass over clips: clean estimate `[B, T, P, D]` and readings."""
        out, hidden = estimate(self.dynamics, noisy, sigma, control, route, past)
        return out, self.heads(hidden)

    def dream(
        self, tokens: Tensor, control: Tensor, route: Tensor, passes: int, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Replaces the targets in `[B, history + T, P, D]` by the model's frames, each on the pass before's past.

        They are made from the `noise` `[B, T, P, D]`, in every pass the same: after n passes the first n frames are
        those of a rollout. The ego-motion among the controls is replaced by the model's as well.
        """
        sigma = noise.new_ones(noise.shape[:2])
        for _ in range(passes):
            out, readings = self.run(noise, sigma, control, route, self._past(tokens))
            tokens = torch.cat([tokens[:, : self.history], out], 1)
            motion = torch.cat([control[:, :1, MOTION], readings.motion[:, :-1]], 1)
            control = torch.cat([control[..., : MOTION.start], motion.to(control)], -1)
        return tokens, control

    def _head_losses(self, readings: HeadOutputs, error: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Logs]:
        losses = {
            "motion": F.smooth_l1_loss(readings.motion, batch["motion"], beta=1.0),
            "telemetry": F.smooth_l1_loss(readings.telemetry, batch["telemetry"], beta=0.5),
            "reward": F.mse_loss(readings.reward, batch["reward"]),
            "ended": F.binary_cross_entropy_with_logits(readings.ended, batch["ended"]),
            "expected_error": F.smooth_l1_loss(readings.log_error, error.detach().clamp(min=1e-6).log()),
        }
        total = torch.stack(list(losses.values())).sum()
        return total, {name: value.detach() for name, value in losses.items()}


class Draw:
    """Random tensors from one generator, on the stage's device; all processes have the generator `shared` alike."""

    def __init__(self, rng: torch.Generator, device: torch.device, shared: torch.Generator) -> None:
        self.rng, self.device, self.shared = rng, device, shared

    def alike(self, count: int) -> int:
        """A number below `count`, the same in all processes: none waits for the passes of another."""
        return int(torch.randint(count, (1,), generator=self.shared))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.rng).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.rand(shape, generator=self.rng).to(self.device)


def estimate(
    dynamics: DiTStudent, noisy: Tensor, sigma: Tensor, control: Tensor, route: Tensor, past: Tensor
) -> tuple[Tensor, Tensor]:
    """One pass of a network over clips: clean estimate `[B, T, P, D]` and hidden tokens `[B, T, P, E]`."""
    past = past.flatten(1, 2)
    hidden, modulation, _ = dynamics.features(noisy.flatten(1, 2), sigma=sigma, control=control, route=route, past=past)
    return dynamics.read(hidden, modulation, past).unflatten(1, noisy.shape[1:3]), hidden


def energy_score(first: Tensor, second: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Energy score of two samples, each a vector `[..., D]`, and how far apart they are; both means per sqrt(D)."""
    size = truth.shape[-1] ** 0.5
    far = (_norm(first - truth) + _norm(second - truth)).mean() / (2 * size)
    apart = _norm(first - second).mean() / size
    return far - 0.5 * apart, apart


def _norm(difference: Tensor) -> Tensor:
    return (difference.square().sum(-1) + 1e-6).sqrt()


@torch.no_grad()
def student_figures(stage: nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    """Held-back figures: latent error one frame and eight frames ahead, against copying, and how well heads read."""
    assert isinstance(stage, StudentStage)
    was, stage = stage.training, stage.eval()
    draw = Draw(generator(0, "figures", 0), batch["latents"].device, generator(0, "alike", 0))
    tokens = stage.to_tokens(batch["latents"])
    truth = tokens[:, stage.history :]
    ahead = min(8, truth.shape[1])
    control, route = batch["control"], batch["route"]
    context, moved = stage.dream(tokens, control, route, ahead - 1, draw.normal(*truth.shape))
    out, _ = stage.run(draw.normal(*truth.shape), truth.new_ones(truth.shape[:2]), control, route, stage._past(tokens))
    far, readings = stage.run(
        draw.normal(*truth.shape), truth.new_ones(truth.shape[:2]), moved, route, stage._past(context)
    )
    stage.train(was)
    last = slice(ahead - 1, None)
    wrong = (readings.motion - batch["motion"])[:, last].abs().mean((0, 1))
    spread = batch["motion"][:, last].abs().mean((0, 1))
    figures = {
        "mse_1": F.mse_loss(out, truth).item(),
        "copy_1": F.mse_loss(tokens[:, stage.history - 1 : -1], truth).item(),
        "mse_8": F.mse_loss(far[:, last], truth[:, last]).item(),
        "copy_8": F.mse_loss(tokens[:, stage.history - 1 : -ahead], truth[:, last]).item(),
    }
    errors = {"forward_error_8": (wrong / spread)[0].item(), "turn_error_8": (wrong / spread)[2].item()}
    return figures | {name: error for name, error in errors.items() if math.isfinite(error)}  # not without poses
