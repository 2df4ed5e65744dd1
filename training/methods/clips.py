"""Clips of a world's latents as training methods see them: with their past, their controls and their route, blurred.

A past that is told is clean but carries a little noise makes dreams sturdy (GameNGen, Valevski et al. 2024).

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drivedit.config import ClipConfig
from drivedit.models import DiTWorld
from drivedit.models.conditions.layout import layout_part
from drivedit.models.layers.past import past_of
from drivedit.training.methods.method import Logs, Method, Progress
from drivedit.utils import generator

MOTION = slice(-3, None)  # of what a frame is told of the driving: the controls now and before come first
Given = tuple[Tensor, Tensor, Tensor]  # controls, route, past


class Rngs:
    """Random tensors from one generator, on a device; all processes have the generator `shared` alike.

    An accelerator draws its own numbers, from a seed of the generator: millions for a step would keep it waiting.
    """

    def __init__(self, own: torch.Generator, device: torch.device, shared: torch.Generator) -> None:
        if device.type != "cpu":
            own = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=own)))
        self.own, self.device, self.shared = own, device, shared

    def shared_integer(self, count: int) -> int:
        """A number below `count`, the same in all processes: none waits for the passes of another."""
        return int(torch.randint(count, (1,), generator=self.shared))

    def shared_lead(self, most: int) -> int:
        """A number up to `most`, small ones more often, the same in all processes."""
        return int((most + 1) * float(torch.rand((), generator=self.shared)) ** 2)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.own, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.rand(shape, generator=self.own, device=self.device)


@dataclass
class Clip:
    """Clips, and what is told about their targets.

    Attributes:
        tokens: `[B, history + T, P, D]`.
        target: The last T frames of them.
        control: `[B, T, 7]` what led to each target, and the ego-motion before it.
        route: `[B, T, route_dim]`.
        read: What the heads should read off the targets, by name.
    """

    tokens: Tensor
    target: Tensor
    control: Tensor
    route: Tensor
    read: dict[str, Tensor]


class ClipMethod(Method):
    """Trains a network on clips of a world's latents.

    Args:
        world: Gives the tokens.
        config: How the clips are blurred.
    """

    of_others: Tensor  # which numbers of the code tell of others on the road

    def __init__(self, world: DiTWorld, config: ClipConfig) -> None:
        super().__init__()
        self.clips, self.history, self.others = config, world.config.student.history, world.config.others
        self.to_tokens = world.tokenizer.tokens
        self.register_buffer("of_others", layout_part(world.config), persistent=False)

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """Loss of a batch of `drivedit.training.latents.Clips`."""
        rngs = Rngs(rng, batch["latents"].device, generator(0, "alike", int(progress.share * 2**31)))
        tokens = self.to_tokens(batch["latents"])
        target = tokens[:, self.history :]
        route = self.told(batch["route"], rngs)
        control = self.blur_motion(batch["control"], rngs)
        return self.clip_loss(Clip(tokens, target, control, route, batch), progress, rngs)

    def given(self, clip: Clip, rngs: Rngs) -> Given:
        """What a pass over recorded frames is given: the past is theirs, with a little noise."""
        return clip.control, clip.route, self.past(self.corrupted(clip.tokens, rngs))

    @abstractmethod
    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The loss of clips."""

    def told(self, code: Tensor, rngs: Rngs) -> Tensor:
        """Of the code of clips, the route is dropped from some, and others on the road from some."""
        routed = (rngs.uniform(len(code), 1, 1) >= self.clips.drop_route).to(code)
        if not self.others:
            return code * routed
        peopled = (rngs.uniform(len(code), 1, 1) >= self.clips.drop_layout).to(code)
        return code * torch.lerp(routed, peopled, self.of_others)

    def blur_motion(self, control: Tensor, rngs: Rngs) -> Tensor:
        """Noise on the ego-motion that a clip is told; none is told in `drop_motion` of the clips."""
        motion = control[..., MOTION]
        told = rngs.uniform(len(control), 1, 1) >= self.clips.drop_motion
        motion = (motion + self.clips.motion_noise * rngs.normal(*motion.shape)) * told
        return torch.cat([control[..., : MOTION.start], motion], -1)

    def past(self, tokens: Tensor) -> Tensor:
        """The clean frames before each target, the latest first, as channels `[B, T, P, history * D]`."""
        return past_of(tokens, self.history)[:, self.history :]

    def corrupted(self, tokens: Tensor, rngs: Rngs) -> Tensor:
        """Clips with noise of a half-Cauchy size: mostly little, sometimes so much that the route must do."""
        rows = (len(tokens), 1, 1, 1)
        scale = self.clips.context_noise * (torch.pi / 2 * rngs.uniform(*rows)).tan()
        noise = rngs.normal(*tokens.shape)
        lost = rngs.uniform(*rows) < self.clips.drop_past
        return torch.where(lost, noise, tokens + scale.clamp(max=1) * noise)
