"""What methods that train the dynamics of a world share: passes over clips, rollouts in parallel, the heads' losses.

Several passes over a clip replace the true past by the network's own frames, all frames at once, until the last ones
stand on a rollout (parallel scheduled sampling, Duckworth et al. 2019).

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import StudentStageConfig
from drivedit.models import DiTStudent, DiTWorld, HeadOutputs
from drivedit.models.dit.networks import without_controls
from drivedit.models.flow.path import noise_levels
from drivedit.models.flow.sampler import sample
from drivedit.training.methods.clips import MOTION, Clip, ClipMethod, Given, Rngs
from drivedit.training.methods.method import Logs
from drivedit.utils import generator


class DynamicsMethod(ClipMethod):
    """Trains the dynamics and the heads of a world.

    Args:
        world: Whose `dynamics` and `heads` are trained.
        config: The loss.

    Raises:
        ValueError: The world is not told the frames before.
    """

    hot = ("run",)
    null_control: Tensor
    motion_spread: Tensor  # [3] in the world's units

    def __init__(self, world: DiTWorld, config: StudentStageConfig) -> None:
        super().__init__(world, config)
        if self.history < 1:
            raise ValueError(
                "the student stage teaches worlds that are told the frames before: world.student.history must be at "
                "least 1, got 0"
            )
        self.config = config
        self.dynamics, self.heads = world.dynamics, world.heads
        self.register_buffer("null_control", world.null_control, persistent=False)
        self.register_buffer("motion_spread", torch.ones_like(world.motion_scale), persistent=False)

    def spread(self, motion: Tensor) -> None:
        """Sets in what size of ego-motion `[3]`, in the world's units, errors of it count; 0: as the world's units are.

        In units of another domain's motion a head learns little of what is small beside them: of turns, most of all.
        """
        self.motion_spread.copy_(torch.where(motion > 0, motion, 1.0))

    def trained(self) -> dict[str, nn.Module]:
        """The parts of the world that are trained."""
        return {"dynamics": self.dynamics, "heads": self.heads}

    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices inside the blocks, which Muon trains."""
        return [p for p in self.dynamics.blocks.parameters() if p.ndim == 2]

    def blur_motion(self, control: Tensor, rngs: Rngs) -> Tensor:
        """Beside the noise on the ego-motion: `drop_control` of the frames are not told their controls."""
        control, share = super().blur_motion(control, rngs), self.config.drop_control
        if not share:
            return control
        return without_controls(control, self.null_control, rngs.uniform(*control.shape[:2], 1) < share)

    def run(
        self, noisy: Tensor, sigma: Tensor, control: Tensor, route: Tensor, past: Tensor, apart: bool = False
    ) -> tuple[Tensor, HeadOutputs]:
        """One pass over clips: clean estimate `[B, T, P, D]` and what the heads read.

        Where they read `apart`, the trunk learns nothing from them.
        """
        clean, hidden = predict_clean(self.dynamics, noisy, sigma, control, route, past)
        return clean, self.heads(hidden.detach() if apart else hidden)

    def levels_to_exit(self, target: Tensor, rngs: Rngs) -> Tensor:
        """Levels `[N, B, T]` from noise down to the pass that is scored, one of N for each frame; N is 1 to `exits`.

        A student that is scored there is good in any number of passes, on what its own passes before have left (exits
        of Self-Forcing, Huang et al. 2025). The last pass is scored in more than half of the frames, for it is the last
        one of the frames before that a sampler remembers.
        """
        shape = target.shape[:2]
        levels = noise_levels(1 + rngs.shared_integer(self.config.exits), target.device)[:-1]
        last = len(levels) - 1
        ends = torch.where(rngs.uniform(*shape) < 0.5, last, (rngs.uniform(*shape) * len(levels)).long())
        passes = torch.arange(len(levels), device=target.device)[:, None, None]
        return levels[torch.minimum(passes, ends)]

    def run_to_exit(self, noise: Tensor, levels: Tensor, given: Given) -> tuple[Tensor, HeadOutputs]:
        """`run` at the last of these levels, on what passes without gradient at those before it make of noise."""
        with torch.no_grad():
            noisy = sample(lambda x, sigma, given: self.run(x, sigma, *given)[0], noise, levels, given)
        return self.run(noisy, levels[-1], *given)

    def roll_out(
        self, tokens: Tensor, control: Tensor, route: Tensor, passes: int, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Replaces the targets in `[B, history + T, P, D]` by the model's frames, each on the pass before's past.

        They are made from the `noise` `[B, T, P, D]`, in every pass the same: after n passes the first n frames are
        those of a rollout. The ego-motion among the controls is replaced by the model's as well.
        """
        sigma = noise.new_ones(noise.shape[:2])
        for _ in range(passes):
            clean, read = self.run(noise, sigma, control, route, self.past(tokens))
            tokens = torch.cat([tokens[:, : self.history], clean], 1)
            motion = torch.cat([control[:, :1, MOTION], read.motion[:, :-1]], 1)
            control = torch.cat([control[..., : MOTION.start], motion.to(control)], -1)
        return tokens, control

    @torch.no_grad()
    def own_past(self, clip: Clip, rngs: Rngs, grown: float = 1.0) -> tuple[Tensor, Tensor]:
        """A past of 0 to `grown * rollout` frames of the model's own, and the controls with its own ego-motion."""
        passes = rngs.shared_integer(round(min(grown, 1.0) * self.config.rollout) + 1)
        noise = rngs.normal(*clip.target.shape)
        tokens, control = self.roll_out(self.corrupted(clip.tokens, rngs), clip.control, clip.route, passes, noise)
        return self.past(tokens), control

    def head_losses(self, read: HeadOutputs, error: Tensor, clip: Clip) -> tuple[Tensor, Logs]:
        """The sum of the heads' losses, and each; `error` `[B, T]` is what they should expect of the clean estimate."""
        wanted = clip.read
        losses = {
            "motion": F.smooth_l1_loss(
                read.motion / self.motion_spread, wanted["motion"] / self.motion_spread, beta=1.0
            ),
            "telemetry": F.smooth_l1_loss(read.telemetry, wanted["telemetry"], beta=0.5),
            "reward": F.mse_loss(read.reward, wanted["reward"]),
            "ended": F.binary_cross_entropy_with_logits(read.ended, wanted["ended"]),
            "expected_error": F.smooth_l1_loss(read.log_error, error.detach().clamp(min=1e-6).log()),
        }
        total = torch.stack(list(losses.values())).sum()
        return total, {name: value.detach() for name, value in losses.items()}


def predict_clean(
    dynamics: DiTStudent, noisy: Tensor, sigma: Tensor, control: Tensor, route: Tensor, past: Tensor
) -> tuple[Tensor, Tensor]:
    """One pass of a network over clips: clean estimate `[B, T, P, D]` and hidden tokens `[B, T, P, E]`."""
    past = past.flatten(1, 2)
    hidden, modulation, _ = dynamics.features(noisy.flatten(1, 2), sigma=sigma, control=control, route=route, past=past)
    return dynamics.read(hidden, modulation, past).unflatten(1, noisy.shape[1:3]), hidden


def squared_error(clean: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each frame `[B, T]`."""
    return (clean - target).square().mean((2, 3))


def error_from_noise(error: Tensor, sigma: Tensor) -> Tensor:
    """The mean, to log, of those errors `[B, T]` that were made from noise alone."""
    pure = sigma == 1
    return (error.detach() * pure).sum() / pure.sum().clamp(min=1)


@torch.no_grad()
def dynamics_figures(method: nn.Module, batch: dict[str, Any]) -> dict[str, float]:
    """Held-back figures: latent error one frame and eight frames ahead, against copying, and how well heads read."""
    assert isinstance(method, DynamicsMethod)
    was, method = method.training, method.eval()
    rngs = Rngs(generator(0, "figures", 0), batch["latents"].device, generator(0, "alike", 0))
    tokens = method.to_tokens(batch["latents"])
    target = tokens[:, method.history :]
    ahead, sigma = min(8, target.shape[1]), target.new_ones(target.shape[:2])
    control, route = batch["control"], batch["route"]
    context, moved = method.roll_out(tokens, control, route, ahead - 1, rngs.normal(*target.shape))
    near, _ = method.run(rngs.normal(*target.shape), sigma, control, route, method.past(tokens))
    far, read = method.run(rngs.normal(*target.shape), sigma, moved, route, method.past(context))
    method.train(was)
    last = slice(ahead - 1, None)
    wrong = (read.motion - batch["motion"])[:, last].abs().mean((0, 1))
    spread = batch["motion"][:, last].abs().mean((0, 1))
    figures = {
        "mse_1": F.mse_loss(near, target).item(),
        "copy_1": F.mse_loss(tokens[:, method.history - 1 : -1], target).item(),
        "mse_8": F.mse_loss(far[:, last], target[:, last]).item(),
        "copy_8": F.mse_loss(tokens[:, method.history - 1 : -ahead], target[:, last]).item(),
    }
    errors = {"forward_error_8": (wrong / spread)[0].item(), "turn_error_8": (wrong / spread)[2].item()}
    return figures | {name: error for name, error in errors.items() if math.isfinite(error)}  # not without poses
