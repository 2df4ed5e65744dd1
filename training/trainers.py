"""The published trainers: self-forcing, and distillation from a bidirectional teacher.

Legend: B clips, T frames, P tokens per frame, D token width, cd width of the controls.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drivedit.models import DiTTeacher
from drivedit.models.dit.generation import cached
from drivedit.models.flow.path import noise_levels, velocity_estimate
from drivedit.models.flow.sampler import sample
from drivedit.models.layers.past import past_of, past_of_next
from drivedit.training.epochs import LEAST_NOISE, Batch, Losses, Trainer
from drivedit.training.losses import CompositeLoss
from drivedit.training.methods.student import energy_score


class SelfForcingTrainer(Trainer):
    """Trains a student to go on from what it made itself (Self-Forcing, Huang et al. 2025).

    The student rolls a clip out with its cache, without gradient, in as many passes as a random exit step says. A
    growing share of its frames takes the place of recorded ones in the context. Given that context, two losses compare
    with the next recorded frame: the flow loss, at a state of the recording's own path; and the energy score of two
    self-made frames (Gneiting and Raftery 2007), whose gradient goes through their last denoising step only. A plain
    distance of self-made frames would teach the mean of all futures, a blur; the score is least for their true spread.

    Args:
        student_model: The student; see `drivedit.training.epochs.Trainer`, also for the rest.
        vae_model: The autoencoder.
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
        super().__init__(student_model, vae_model, optimizer, device, mixed_precision, use_wandb, grad_clip, seed)
        if epochs < 1 or sampling_steps < 1 or not 0 <= self_forcing_ratio <= 1:
            raise ValueError(
                "epochs and sampling_steps must be at least 1 and self_forcing_ratio in [0, 1], "
                f"got {epochs}, {sampling_steps} and {self_forcing_ratio}"
            )
        self.epochs, self.self_forcing_ratio = epochs, self_forcing_ratio
        self.rollout_weight, self.sampling_steps = rollout_weight, sampling_steps

    def ratio(self) -> float:
        """The share of self-made context in the present epoch; validation always has the last epoch's."""
        return self.self_forcing_ratio * min(1.0, self.epoch / max(self.epochs - 1, 1))

    def losses(self, batch: Batch, rng: torch.Generator) -> Losses:
        """Losses of a batch: "flow", with self-made context also "rollout", and "loss", their weighted sum."""
        clean, control = self._clips(batch)
        ratio = self.ratio() if self.student.training else self.self_forcing_ratio
        passes = int(torch.randint(1, self.sampling_steps + 1, (), generator=rng))
        levels = noise_levels(self.sampling_steps)[:passes]
        target, context = clean[:, 1:], clean
        drawn = self.flow.draw(*target.shape[:2], generator=rng)
        exits = torch.rand(drawn.shape, generator=rng) < 0.5  # the other half: levels between those of a rollout
        sigma = torch.where(exits, levels[-1], drawn).to(clean)
        state, noise = self._noisy(target, sigma, rng)
        states, sigmas = [state], [sigma]
        if ratio:
            own = (torch.rand(clean.shape[:2], generator=rng) < ratio).to(self.device)
            context, ends = self._roll_out(clean, control, own, levels, rng)
            states += ends
            sigmas += [levels[-1].to(sigma).expand_as(sigma)] * len(ends)
        made, *samples = self._next_frames(context, control, states, sigmas)
        flow = self.flow(velocity_estimate(state, made, sigma), target, noise)
        if not samples:
            return {"flow": flow, "loss": flow}
        rollout, _ = energy_score(samples[0], samples[1], target)
        return {"flow": flow, "rollout": rollout, "loss": flow + self.rollout_weight * rollout}

    @torch.no_grad()
    def _roll_out(
        self, clean: Tensor, control: Tensor | None, own: Tensor, levels: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, list[Tensor]]:
        """Makes every frame after the first, on the frames before it, twice.

        Args:
            clean: Recorded `[B, T, P, D]`.
            control: What led to each frame `[B, T, cd]`, or None.
            own: `[B, T]` where the first of the two takes the recorded frame's place in what comes before the next.
            levels: Noise levels of the passes `[S]`.
            rng: Of the noise.

        Returns:
            The frames that stood before others `[B, T, P, D]`, and the states that the last pass made the two from,
            each `[B, T - 1, P, D]`.
        """
        student, frames = self.student, clean.shape[1]
        cache, context = student.empty_cache(len(clean), self.device), clean[:, :1]
        pairs: list[list[Tensor]] = []
        with self._autocast():
            for index in range(frames):
                now = None if control is None else control[:, index : index + 1]
                past = past_of_next(context, student.history)
                if index:
                    given, net = {"control": now, "past": past}, cached(student, cache)
                    noises = [self._normal(clean[:, index], rng) for _ in range(2)]
                    states = [sample(net, noise, levels.to(noise), given) for noise in noises]
                    pairs.append(states)
                    made = net(states[0], levels[-1].to(states[0]).expand(len(clean)), given)
                    frame = torch.where(own[:, index, None, None], made.float(), clean[:, index])
                    context = torch.cat([context, frame[:, None]], 1)
                student(context[:, -1], cache, True, control=now, past=past)
        return context, [torch.stack(states, 1) for states in zip(*pairs, strict=True)]


class DistillationTrainer(Trainer):
    """Trains a student on a teacher's velocity and on the data.

    The teacher sees whole clips, past and future, at one noise level for all frames. The student gets the same state
    and learns the teacher's velocity for it (weight alpha); and it learns from the flow loss of each next frame on
    clean frames before it (weight 1 - alpha), which is how it is used. Softening both outputs by a temperature and
    scaling by its square (Hinton et al. 2015) leaves the loss of Gaussian outputs as it was: the temperature would act
    on discrete ones only.

    Args:
        teacher_model: The teacher, used in evaluation mode; made of the same tokens as the student.
        student_model: The student; see `drivedit.training.epochs.Trainer`, also for the rest.
        vae_model: The autoencoder.
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
        super().__init__(student_model, vae_model, optimizer, device, mixed_precision, use_wandb, grad_clip, seed)
        if not isinstance(teacher_model, DiTTeacher):
            raise ValueError(f"a DiTTeacher is needed, got {type(teacher_model).__name__}")
        for name in ("latent_dim", "tokens_per_frame"):
            if getattr(teacher_model.trunk, name) != getattr(self.student, name):
                raise ValueError(
                    f"teacher and student must have one {name}, got {getattr(teacher_model.trunk, name)} and "
                    f"{getattr(self.student, name)}"
                )
        if teacher_model.control_dim not in (0, self.student.control_dim):
            raise ValueError(
                f"the teacher's control_dim must be 0 or the student's {self.student.control_dim}, "
                f"got {teacher_model.control_dim}"
            )
        if not 0 <= distillation_alpha <= 1 or not temperature > 0:
            raise ValueError(
                "distillation_alpha must be in [0, 1] and temperature above 0, "
                f"got {distillation_alpha} and {temperature}"
            )
        self.teacher, self.temperature = teacher_model.to(self.device).eval(), temperature
        self.total = CompositeLoss({"soft": distillation_alpha, "hard": 1 - distillation_alpha})
        every = torch.arange(self.teacher.num_diffusion_steps, device=self.device)
        self.steps = every[self.teacher.sigma(every) >= LEAST_NOISE]

    def losses(self, batch: Batch, rng: torch.Generator) -> Losses:
        """Losses of a batch: "soft" (the teacher), "hard" (the data), and "loss", their weighted sum."""
        clean, control = self._clips(batch)
        timesteps = self.steps[torch.randint(len(self.steps), (len(clean),), generator=rng).to(self.device)]
        level = self.teacher.sigma(timesteps)[:, None].expand(clean.shape[:2]).to(clean)
        state, _ = self._noisy(clean, level, rng)
        with self._autocast():
            with torch.no_grad():
                told = control if self.teacher.control_dim else None
                wanted = self.teacher.velocity(state.flatten(1, 2), timesteps, told)
            past = past_of(clean, self.student.history).flatten(1, 2)
            guess, _ = self.student(state.flatten(1, 2), sigma=level, control=control, past=past)
        guessed = velocity_estimate(state, guess.float().unflatten(1, state.shape[1:3]), level)
        soft = softened_distance(guessed.flatten(1, 2), wanted.float(), self.temperature)

        sigma = self.flow.draw(*clean[:, 1:].shape[:2], generator=rng).to(clean)
        noisy, noise = self._noisy(clean[:, 1:], sigma, rng)
        (made,) = self._next_frames(clean, control, [noisy], [sigma])
        hard = self.flow(velocity_estimate(noisy, made, sigma), clean[:, 1:], noise)
        total = self.total({"soft": soft, "hard": hard})
        return {"soft": soft, "hard": hard, "loss": total["total"]}


def softened_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Twice the divergence of two unit Gaussians with these means, both wider by `temperature`, times its square."""
    divergence = 0.5 * ((student - teacher) / temperature).square()
    return 2 * temperature**2 * divergence.mean()
