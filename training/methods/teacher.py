"""The `teacher` stage: a bidirectional network learns whole clips.

It is told what is known before a clip begins (the frames and the ego-motion before it), the controls and the route.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import ClipConfig
from drivedit.models import DiTTeacher, DiTWorld
from drivedit.models.flow.path import add_noise, clean_estimate
from drivedit.training.methods.clips import MOTION, Clip, ClipMethod, Rngs
from drivedit.training.methods.method import Logs, Progress
from drivedit.utils import generator


class TeacherMethod(ClipMethod):
    """Trains a bidirectional teacher.

    Args:
        world: Gives the tokens.
        teacher: The network.
        config: How the clips are blurred.
    """

    hot = ("teacher._predict",)

    def __init__(self, world: DiTWorld, teacher: DiTTeacher, config: ClipConfig) -> None:
        super().__init__(world, config)
        self.teacher = teacher

    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices inside the blocks, which Muon trains."""
        return [p for p in self.teacher.trunk.blocks.parameters() if p.ndim == 2]

    def clip_loss(self, clip: Clip, progress: Progress, rngs: Rngs) -> tuple[Tensor, Logs]:
        """The teacher's own loss, the same all along."""
        told, before = before_clip(clip.control, self.past(self.corrupted(clip.tokens, rngs)))
        return self.teacher.loss(clip.target.flatten(1, 2), told, route=clip.route, past=before, generator=rngs.own)


def before_clip(control: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """What is known when a clip begins, as a network is told that sees all of it.

    Args:
        control: `[B, T, 7]`, each with the ego-motion before its own frame.
        past: `[B, T, P, history * D]`, the frames before each frame.

    Returns:
        The controls with the ego-motion before the first frame only, and the frames before the first one for all,
        `[B, T * P, history * D]`.
    """
    motion = control[:, :1, MOTION].expand(-1, control.shape[1], -1)
    told = torch.cat([control[..., : MOTION.start], motion], -1)
    return told, past[:, :1].expand_as(past).flatten(1, 2)


@torch.no_grad()
def teacher_figures(method: nn.Module, batch: dict[str, Any]) -> dict[str, float]:
    """Held-back figures: the error of the clean estimate with a quarter, half and three quarters of noise."""
    assert isinstance(method, TeacherMethod)
    was, method = method.training, method.eval()
    rngs = Rngs(generator(0, "figures", 0), batch["latents"].device, generator(0, "alike", 0))
    tokens = method.to_tokens(batch["latents"])
    target, network = tokens[:, method.history :].flatten(1, 2), method.teacher
    told, before = before_clip(batch["control"], method.past(tokens))
    figures = {}
    for level in (0.25, 0.5, 0.75):
        step = network.nearest_step(target.new_full((len(target),), level))
        sigma = network.sigma(step).to(target)
        noisy = add_noise(target, rngs.normal(*target.shape), sigma)
        velocity = network.velocity(noisy, step, told, route=batch["route"], past=before)
        figures[f"mse_{level}"] = F.mse_loss(clean_estimate(noisy, velocity, sigma), target).item()
    method.train(was)
    return figures
