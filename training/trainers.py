"""The published trainers: self-forcing, and distillation from a bidirectional teacher."""

from __future__ import annotations

import torch
from torch import nn

from drivedit.training.epochs import Trainer
from drivedit.training.methods.self_forcing import SelfForcing
from drivedit.training.methods.velocity import VelocityDistillation


class SelfForcingTrainer(Trainer):
    """Trains a student to go on from what it made itself (Self-Forcing, Huang et al. 2025).

    A growing share of the student's own frames takes the place of recorded ones in the context. Given that context, the
    flow loss and the energy score compare with the next recorded frame; `drivedit.training.methods.self_forcing` says
    how.

    Args:
        student_model: The student; its `latent_dim` is that of the autoencoder times the square of a whole number.
        vae_model: The autoencoder; its latents should be about normal.
        optimizer: Of the student's parameters.
        device: Where to train.
        mixed_precision: Autocast to bfloat16 where the hardware multiplies it.
        use_wandb: Log to Weights & Biases.
        epochs: Epochs planned: the share of self-made context grows from 0 in the first to the whole in the last.
        self_forcing_ratio: That share in the last epoch.
        rollout_weight: Weight of the score of self-made frames.
        sampling_steps: Most passes for a self-made frame.
        grad_clip: Largest norm of the gradient.
        seed: Of all noise.
    """

    def __init__(
        self,
        student_model: nn.Module,
        vae_model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: str = "cuda",
        mixed_precision: bool = True,
        use_wandb: bool = False,
        *,
        epochs: int = 10,
        self_forcing_ratio: float = 0.8,
        rollout_weight: float = 0.5,
        sampling_steps: int = 4,
        grad_clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        if epochs < 1 or sampling_steps < 1 or not 0 <= self_forcing_ratio <= 1:
            raise ValueError(
                "epochs and sampling_steps must be at least 1 and self_forcing_ratio in [0, 1], "
                f"got {epochs}, {sampling_steps} and {self_forcing_ratio}"
            )
        self.method = SelfForcing(student_model, vae_model, self_forcing_ratio, rollout_weight, sampling_steps)
        super().__init__(self.method, optimizer, device, mixed_precision, use_wandb, grad_clip, seed)
        self.epochs = epochs

    def ratio(self) -> float:
        """The share of self-made context in the present epoch; validation always has the last epoch's."""
        return self.method.ratio * self.share()


class DistillationTrainer(Trainer):
    """Trains a student on a teacher's velocity and on the data.

    The teacher sees whole clips, past and future. The student learns the teacher's velocity (weight alpha), and from
    the flow loss of each next frame on clean frames before it (weight 1 - alpha), which is how it is used;
    `drivedit.training.methods.velocity` says how.

    Args:
        teacher_model: The teacher, used in evaluation mode; made of the same tokens as the student.
        student_model: The student; its `latent_dim` is that of the autoencoder times the square of a whole number.
        vae_model: The autoencoder; its latents should be about normal.
        optimizer: Of the student's parameters.
        device: Where to train.
        distillation_alpha: Weight of the teacher, in [0, 1].
        temperature: Above 0; without effect here.
        mixed_precision: Autocast to bfloat16 where the hardware multiplies it.
        use_wandb: Log to Weights & Biases.
        grad_clip: Largest norm of the gradient.
        seed: Of all noise.
    """

    def __init__(
        self,
        teacher_model: nn.Module,
        student_model: nn.Module,
        vae_model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: str = "cuda",
        distillation_alpha: float = 0.7,
        temperature: float = 4.0,
        *,
        mixed_precision: bool = True,
        use_wandb: bool = False,
        grad_clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.method = VelocityDistillation(teacher_model, student_model, vae_model, distillation_alpha, temperature)
        super().__init__(self.method, optimizer, device, mixed_precision, use_wandb, grad_clip, seed)
