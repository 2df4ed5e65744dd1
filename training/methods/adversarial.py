"""Consistency in phases with a discriminator (LADD, Sauer et al. 2024, arXiv 2403.12015; PCM, arXiv 2405.18407).

Where the student arrives and where it should have arrived are given noise again, at a random level of the phase. The
frozen teacher looks at both, and small heads on what its layers see tell them apart (hinge, Lim and Ye 2017). Heads
look at each token by itself: they are convolutions of one by one.

Legend: B clips, T frames, P tokens per frame, D token width, E model width, L layers that are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from drivedit.config import DistillConfig
from drivedit.models import DiTWorld
from drivedit.models.flow.path import add_noise, renoise
from drivedit.models.layers.blocks import norm
from drivedit.training.losses import discriminator_hinge, generator_hinge
from drivedit.training.methods.clips import Clip, Given, Rngs
from drivedit.training.methods.consistency import Jumps
from drivedit.training.methods.dynamics import error_from_noise, squared_error
from drivedit.training.methods.method import Logs, ParameterGroup, Progress, untouched
from drivedit.training.methods.phased import Phased


class FeatureHeads(nn.Module):
    """Scores of tokens, one for each layer that is looked at: two linear layers of its own.

    Args:
        width: Model width E.
        layers: Their number L.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        hidden = width // 2
        self.first = nn.Parameter(torch.empty(layers, width, hidden).normal_().mul_(width**-0.5))
        self.second = nn.Parameter(torch.empty(layers, hidden).normal_().mul_(hidden**-0.5))
        self.shift, self.bias = nn.Parameter(torch.zeros(layers, hidden)), nn.Parameter(torch.zeros(layers))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Scores `[B, T, P, L]` of what the layers see, each `[B, T, P, E]`."""
        seen = norm(torch.stack(list(features), -2))
        hidden = F.silu(torch.einsum("...le,leh->...lh", seen, self.first) + self.shift)
        return (hidden * self.second).sum(-1) + self.bias


class Adversarial(Phased):
    """Trains a student on the steps of its teacher, and against heads on the teacher's layers.

    The heads move at every step, the student at every `critic_steps`-th.

    Args:
        world: The student, and the teacher as it is now.
        config: The loss.

    Raises:
        ValueError: There is no such layer.
    """

    def __init__(self, world: DiTWorld, config: DistillConfig) -> None:
        super().__init__(world, config)
        count = len(self.dynamics.blocks)
        self.layers = config.layers or list(range(count))
        if wrong := [layer for layer in self.layers if not 0 <= layer < count]:
            raise ValueError(f"layers must be from 0 to {count - 1}, got {wrong}")
        self.discriminator = FeatureHeads(self.dynamics.d_model, len(self.layers)).to(world.device)

    def groups(self, step: int) -> list[ParameterGroup]:
        """The heads, at a rate and with a clip norm of their own; the student too where it is its turn."""
        heads = self.discriminator.parameters()
        groups = [
            self.group("discriminator", heads, clip=self.distill.discriminator_clip, lr=self.distill.discriminator_lr)
        ]
        if not self.heads_alone(step):
            groups.append(self.group("student", self._students_weights(), self.matrices()))
        return groups

    def heads_alone(self, step: int) -> bool:
        """Whether the student waits while the heads learn."""
        return step % self.distill.critic_steps > 0

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The losses of heads and student."""
        alone, given = self.heads_alone(progress.step), self.given(clip, rngs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not alone):
            jumps = self.jumps(clip, given, progress, rngs)
            fake, real = self.seen(jumps, clip, given, rngs)
        fooled = self.discriminator([layer.detach() for layer in fake])
        heads_loss = discriminator_hinge(self.discriminator(real), fooled)
        error = squared_error(jumps.clean, clip.target)
        told = {"discriminator": heads_loss.detach(), "mse": error_from_noise(error, jumps.sigma)}
        if alone:
            return heads_loss + untouched(self._students_weights()), told
        judges = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        scores = functional_call(self.discriminator, judges, (fake,))
        generator = generator_hinge(scores, self.distill.saturating)
        near = self.distance(jumps.out, jumps.aim)
        read_loss, logs = self.head_losses(jumps.read, error, clip)
        loss = near + self.distill.adversarial * generator + heads_loss + self.config.head_weight * read_loss
        return loss, {**told, "consistency": near.detach(), "generator": generator.detach(), **logs}

    def seen(self, jumps: Jumps, clip: Clip, given: Given, rngs: Rngs) -> tuple[list[Tensor], list[Tensor]]:
        """What the teacher's layers see of the student's ends, and of the right ones: each `[B, T, P, E]`."""
        level = jumps.end + (jumps.top - jumps.end) * rngs.uniform(*jumps.end.shape)
        noise = rngs.normal(*jumps.out.shape)
        right = add_noise(clip.target, jumps.noise, jumps.end) if self.distill.against_data else jumps.aim
        fake = self.features(renoise(jumps.out, noise, jumps.end, level), level, given)
        with torch.no_grad():
            real = self.features(renoise(right, noise, jumps.end, level), level, given)
        return fake, real

    def features(self, noisy: Tensor, sigma: Tensor, given: Given) -> list[Tensor]:
        """What the layers of the frozen teacher see of frames at levels `[B, T]`: each `[B, T, P, E]`."""
        with outputs_of([self.teacher.network.blocks[layer] for layer in self.layers]) as outputs:
            self._estimate(noisy, sigma, given)
        return outputs

    def _students_weights(self) -> list[nn.Parameter]:
        return [*self.dynamics.parameters(), *self.heads.parameters()]


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects what modules give, in the order in which they are called."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Tensor) -> None:
        outputs.append(output)

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
