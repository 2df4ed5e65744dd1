"""Distillation of a teacher's velocity: a causal student learns what a teacher of whole clips says of the same state.

The teacher sees whole clips, past and future, at one noise level for all frames. The student gets the same state and
learns the teacher's velocity for it (weight alpha); and it learns from the flow loss of each next frame on clean frames
before it (weight 1 - alpha), which is how it is used. Softening both outputs by a temperature and scaling by its square
(Hinton et al. 2015) leaves the loss of Gaussian outputs as it was: the temperature would act on discrete ones only.

Legend: B clips, T frames, P tokens per frame, D token width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models import DiTTeacher
from drivedit.models.flow.path import velocity_estimate
from drivedit.models.layers.past import past_of
from drivedit.training.losses import CompositeLoss
from drivedit.training.methods.method import Frozen, Logs, Progress
from drivedit.training.methods.next_frames import LEAST_NOISE, NextFrames, noisy


class VelocityDistillation(NextFrames):
    """Trains a student on a teacher's velocity and on the data.

    Args:
        teacher: The teacher, made of the same tokens as the student.
        student: The student.
        vae: The autoencoder.
        alpha: Weight of the teacher, in [0, 1].
        temperature: Above 0; without effect here.

    Raises:
        ValueError: The networks do not fit together, or an option is out of its range.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, vae: nn.Module, alpha: float, temperature: float
    ) -> None:
        super().__init__(student, vae)
        if not isinstance(teacher, DiTTeacher):
            raise ValueError(f"a DiTTeacher is needed, got {type(teacher).__name__}")
        for name in ("latent_dim", "tokens_per_frame"):
            if getattr(teacher.trunk, name) != getattr(self.student, name):
                raise ValueError(
                    f"teacher and student must have one {name}, got {getattr(teacher.trunk, name)} and "
                    f"{getattr(self.student, name)}"
                )
        if teacher.control_dim not in (0, self.student.control_dim):
            raise ValueError(
                f"the teacher's control_dim must be 0 or the student's {self.student.control_dim}, "
                f"got {teacher.control_dim}"
            )
        if not 0 <= alpha <= 1 or not temperature > 0:
            raise ValueError(
                f"distillation_alpha must be in [0, 1] and temperature above 0, got {alpha} and {temperature}"
            )
        self.teacher, self.temperature = Frozen(teacher), temperature
        self.total = CompositeLoss({"soft": alpha, "hard": 1 - alpha})
        every = torch.arange(teacher.num_diffusion_steps, device=teacher.alphas.device)
        self.steps = every[teacher.sigma(every) >= LEAST_NOISE].cpu()

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The losses "soft" (the teacher) and "hard" (the data), weighted."""
        clean, control = self.tokens(batch)
        teacher = self.teacher.network
        timesteps = self.steps[torch.randint(len(self.steps), (len(clean),), generator=rng)].to(clean.device)
        level = teacher.sigma(timesteps)[:, None].expand(clean.shape[:2]).to(clean)
        state, _ = noisy(clean, level, rng)
        with torch.no_grad():
            wanted = teacher.velocity(state.flatten(1, 2), timesteps, control if teacher.control_dim else None)
        past = past_of(clean, self.student.history).flatten(1, 2)
        guess, _ = self.student(state.flatten(1, 2), sigma=level, control=control, past=past)
        guessed = velocity_estimate(state, guess.float().unflatten(1, state.shape[1:3]), level)
        soft = softened_distance(guessed.flatten(1, 2), wanted.float(), self.temperature)

        sigma = self.flow.draw(*clean[:, 1:].shape[:2], generator=rng).to(clean)
        later, noise = noisy(clean[:, 1:], sigma, rng)
        (made,) = self.estimates(clean, control, [later], [sigma])
        hard = self.flow(velocity_estimate(later, made, sigma), clean[:, 1:], noise)
        total = self.total({"soft": soft, "hard": hard})["total"]
        return total, {"soft": soft.detach(), "hard": hard.detach()}


def softened_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Twice the divergence of two unit Gaussians with these means, both wider by `temperature`, times its square."""
    divergence = 0.5 * ((student - teacher) / temperature).square()
    return 2 * temperature**2 * divergence.mean()
