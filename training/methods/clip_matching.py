"""Distribution matching of whole rollouts, with a bidirectional teacher for the real score.

As in Self-Forcing (arXiv 2506.08009) it judges rollouts as a whole: the student makes every frame on its own frames,
one level of noise is put on the whole clip, and the difference of the teacher's score and of a critic's, which began as
the teacher, moves the student.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drivedit.config import DistillConfig
from drivedit.models import DiTTeacher, DiTWorld
from drivedit.models.flow.path import add_noise, clean_estimate
from drivedit.training.methods.clips import Clip, Given, Rngs
from drivedit.training.methods.matching import LEVELS, DistributionMatching
from drivedit.training.methods.method import Frozen
from drivedit.training.methods.teacher import before_clip

SHARED = ("latent_dim", "tokens_per_frame", "control_dim", "history", "route_dim", "map_dim")  # with the student


class ClipDistributionMatching(DistributionMatching):
    """Trains a student to draw whole clips as a teacher of clips would.

    Args:
        world: The student, and the block-causal teacher of the consistency that is kept.
        config: The loss.
        teacher: The network that `TeacherMethod` trained.

    Raises:
        ValueError: The method is not `matching`, the clips are longer than the teacher's, there are several exits, or
            the teacher learned other tokens or conditions than the student's.
    """

    hot = ("run", "predict_clean", "real.network._predict", "critic._predict")

    def __init__(self, world: DiTWorld, config: DistillConfig, teacher: DiTTeacher) -> None:
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
        super().__init__(world, config, teacher)
        self.real = Frozen(teacher)
        every = teacher.sigma(torch.arange(teacher.num_diffusion_steps))
        self.steps = ((every >= LEVELS[0]) & (every <= LEVELS[1])).nonzero()[:, 0]

    def own_rollout(self, clip: Clip, rngs: Rngs) -> tuple[Given, Tensor]:
        """What the frames to be made are given, all of them on a rollout, and the noise to make them from."""
        noise = rngs.normal(*clip.target.shape)
        with torch.no_grad():
            tokens = self.corrupted(clip.tokens, rngs)
            context, control = self.roll_out(tokens, clip.control, clip.route, noise.shape[1] - 1, noise)
        return (control, clip.route, self.past(context)), noise

    @torch.no_grad()
    def scores(self, made: Tensor, given: Given, rngs: Rngs) -> tuple[Tensor, Tensor]:
        """The clean estimates of teacher and critic for the clips made, with noise on them."""
        noisy, steps = self.renoised_clips(made, rngs)
        real, fake = (self.predict_clip(net, noisy, steps, given) for net in (self.real.network, self.critic))
        return real, fake

    def critic_loss(self, made: Tensor, given: Given, rngs: Rngs) -> Tensor:
        """The loss of the critic, for which the clips made are the data."""
        control, route, past = given
        told, before = before_clip(control, past)
        return self.critic.loss(made.flatten(1, 2), told, route=route, past=before, generator=rngs.own)[0]

    def renoised_clips(self, made: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
        """Clips at one level of noise each, and the steps of the teacher's chain that have these levels."""
        steps = self.steps[(len(self.steps) * rngs.uniform(len(made))).long().cpu()].to(made.device)
        level = self.real.network.sigma(steps).to(made)
        return add_noise(made, rngs.normal(*made.shape), level), steps

    def predict_clip(self, network: DiTTeacher, noisy: Tensor, steps: Tensor, given: Given) -> Tensor:
        """The clean estimate `[B, T, P, D]` of a bidirectional network."""
        control, route, past = given
        told, before = before_clip(control, past)
        velocity = network.velocity(noisy.flatten(1, 2), steps, told, route=route, past=before)
        return clean_estimate(noisy, velocity.unflatten(1, noisy.shape[1:3]), network.sigma(steps).to(noisy))
