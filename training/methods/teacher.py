"""The `teacher` stage: a bidirectional network learns whole clips; and `distill` with the score that it tells.

The teacher is told what is known before a clip begins (the frames and the ego-motion before it), the controls and the
route. As in Self-Forcing (arXiv 2506.08009) it then judges rollouts as a whole: the student makes every frame on its
own frames, one level of noise is put on the whole clip, and the difference of the teacher's score and of a critic's,
which began as the teacher, moves the student.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import ClipConfig, DistillConfig
from drivedit.models import DiTTeacher, World
from drivedit.models.flow.path import add_noise, clean_estimate
from drivedit.training.methods.distillation import LEVELS, DistillStage, pull
from drivedit.training.methods.student import MOTION, ClipStage, Draw, Logs
from drivedit.utils import generator

SHARED = ("latent_dim", "tokens_per_frame", "control_dim", "history", "route_dim", "map_dim")  # with the student


class TeacherStage(ClipStage):
    """Trains a bidirectional teacher.

    Args:
        world: Gives the tokens.
        teacher: The network.
        config: How the clips are blurred.
    """

    hot = ("teacher._predict",)

    def __init__(self, world: World, teacher: DiTTeacher, config: ClipConfig) -> None:
        super().__init__(world, config)
        self.teacher = teacher

    def matrices(self) -> list[nn.Parameter]:
        """The weight matrices inside the blocks, which Muon trains."""
        return [p for p in self.teacher.trunk.blocks.parameters() if p.ndim == 2]

    def objective(self, progress: float) -> Callable[..., tuple[Tensor, Logs]]:
        """The loss, the same all along."""
        return self._denoising

    def _denoising(
        self, tokens: Tensor, truth: Tensor, control: Tensor, route: Tensor, batch: dict[str, Tensor], draw: Draw
    ) -> tuple[Tensor, Logs]:
        told, before = before_clip(control, self._past(self._corrupt(tokens, draw)))
        return self.teacher.loss(truth.flatten(1, 2), told, route=route, past=before, generator=draw.rng)


class BothWaysStage(DistillStage):
    """Distribution matching of whole rollouts, with a bidirectional teacher for the real score.

    Args:
        world: The student, and the block-causal teacher of the consistency that is kept.
        config: The loss.
        teacher: The network that `TeacherStage` trained.

    Raises:
        ValueError: The method is not `matching`, the clips are longer than the teacher's, there are several exits, or
            the teacher learned other tokens or conditions than the student's.
    """

    hot = ("run", "score", "real._predict", "critic._predict")

    def __init__(self, world: World, config: DistillConfig, teacher: DiTTeacher) -> None:
        super().__init__(world, config)
        longest = teacher.config.max_seq_len // teacher.config.tokens_per_frame
        if config.method != "matching" or config.exits != 1 or config.clip_frames > longest:
            raise ValueError(
                f"a bidirectional score needs method = matching, exits = 1 and clip_frames of at most {longest}, "
                f"got {config.method}, {config.exits} and {config.clip_frames}"
            )
        told = {name: getattr(teacher.config, name) for name in SHARED}
        wanted = {name: getattr(world.config.student, name) for name in SHARED}
        if told != wanted:
            raise ValueError(f"the bidirectional teacher must have the student's {wanted}, got {told}")
        self.real = copy.deepcopy(teacher).requires_grad_(False)
        self.critic = copy.deepcopy(teacher).requires_grad_(True)
        every = teacher.sigma(torch.arange(teacher.num_diffusion_steps))
        self.steps = ((every >= LEVELS[0]) & (every <= LEVELS[1])).nonzero()[:, 0]

    def _own_rollout(self, tokens: Tensor, control: Tensor, route: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        noise = draw.normal(*tokens[:, self.history :].shape)
        with torch.no_grad():
            context, moved = self.dream(self._corrupt(tokens, draw), control, route, noise.shape[1] - 1, noise)
        return self._past(context), moved, noise

    @torch.no_grad()
    def _difference_of_scores(self, sample: Tensor, control: Tensor, route: Tensor, past: Tensor, draw: Draw) -> Tensor:
        scored = self._noised(sample, draw)
        real, fake = (self._clean(net, *scored, control, route, past) for net in (self.real, self.critic))
        return pull(sample, real, fake)

    def _critic_loss(self, sample: Tensor, control: Tensor, route: Tensor, past: Tensor, draw: Draw) -> Tensor:
        told, before = before_clip(control, past)
        return self.critic.loss(sample.flatten(1, 2), told, route=route, past=before, generator=draw.rng)[0]

    def _noised(self, sample: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Clips at one level of noise each, and the steps of the teacher's chain that have these levels."""
        chosen = self.steps[(len(self.steps) * draw.uniform(len(sample))).long().cpu()].to(sample.device)
        level = self.real.sigma(chosen).to(sample)
        return add_noise(sample, draw.normal(*sample.shape), level), chosen

    def _clean(
        self, net: DiTTeacher, noisy: Tensor, chosen: Tensor, control: Tensor, route: Tensor, past: Tensor
    ) -> Tensor:
        """The clean estimate `[B, T, P, D]` of a bidirectional network."""
        told, before = before_clip(control, past)
        velocity = net.velocity(noisy.flatten(1, 2), chosen, told, route=route, past=before)
        return clean_estimate(noisy, velocity.unflatten(1, noisy.shape[1:3]), net.sigma(chosen).to(noisy))


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
def teacher_figures(stage: nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    """Held-back figures: the error of the clean estimate with a quarter, half and three quarters of noise."""
    assert isinstance(stage, TeacherStage)
    was, stage = stage.training, stage.eval()
    draw = Draw(generator(0, "figures", 0), batch["latents"].device, generator(0, "alike", 0))
    tokens = stage.to_tokens(batch["latents"])
    truth, net = tokens[:, stage.history :].flatten(1, 2), stage.teacher
    told, before = before_clip(batch["control"], stage._past(tokens))
    figures = {}
    for level in (0.25, 0.5, 0.75):
        step = net.nearest_step(truth.new_full((len(truth),), level))
        sigma = net.sigma(step).to(truth)
        noisy = add_noise(truth, draw.normal(*truth.shape), sigma)
        clean = clean_estimate(noisy, net.velocity(noisy, step, told, route=batch["route"], past=before), sigma)
        figures[f"mse_{level}"] = F.mse_loss(clean, truth).item()
    stage.train(was)
    return figures
