"""Self-Forcing (Huang et al. 2025) against the data: a student learns to go on from what it made itself.

The student rolls a clip out with its cache, without gradient, in as many passes as a random exit step says. A growing
share of its frames takes the place of recorded ones in the context. Given that context, two losses compare with the
next recorded frame: the flow loss, at a state of the recording's own path; and the energy score of two self-made frames
(Gneiting and Raftery 2007), whose gradient goes through their last denoising step only. A plain distance of self-made
frames would teach the mean of all futures, a blur; the score is least for their true spread.

Legend: B clips, T frames, P tokens per frame, D token width, cd width of the controls, S passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drivedit.models.dit.generation import cached
from drivedit.models.flow.path import noise_levels, velocity_estimate
from drivedit.models.flow.sampler import sample
from drivedit.models.layers.past import past_of_next
from drivedit.training.methods.energy import energy_score
from drivedit.training.methods.method import Logs, Progress
from drivedit.training.methods.next_frames import NextFrames, noisy, normal


class SelfForcing(NextFrames):
    """Trains a student on a context that is partly its own.

    Args:
        student: The student.
        vae: The autoencoder.
        ratio: Share of self-made context at the end of the run; at its beginning there is none.
        rollout_weight: Weight of the score of self-made frames.
        sampling_steps: Most passes for a self-made frame.
    """

    def __init__(
        self, student: nn.Module, vae: nn.Module, ratio: float, rollout_weight: float, sampling_steps: int
    ) -> None:
        super().__init__(student, vae)
        self.ratio, self.rollout_weight, self.sampling_steps = ratio, rollout_weight, sampling_steps

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The flow loss, and with self-made context also the "rollout" score."""
        clean, control = self.tokens(batch)
        ratio = self.ratio * progress.share
        passes = int(torch.randint(1, self.sampling_steps + 1, (), generator=rng))
        levels = noise_levels(self.sampling_steps)[:passes].to(clean)
        target, context = clean[:, 1:], clean
        drawn = self.flow.draw(*target.shape[:2], generator=rng)
        exits = torch.rand(drawn.shape, generator=rng) < 0.5  # the other half: levels between those of a rollout
        last = levels[-1].expand(drawn.shape)
        sigma = torch.where(exits.to(last.device), last, drawn.to(clean))
        state, noise = noisy(target, sigma, rng)
        states, sigmas = [state], [sigma]
        if ratio:
            own = (torch.rand(clean.shape[:2], generator=rng) < ratio).to(clean.device)
            context, ends = self.roll_out(clean, control, own, levels, rng)
            states += ends
            sigmas += [last] * len(ends)
        made, *samples = self.estimates(context, control, states, sigmas)
        flow = self.flow(velocity_estimate(state, made, sigma), target, noise)
        if not samples:
            return flow, {"flow": flow.detach()}
        rollout, _ = energy_score(samples[0], samples[1], target)
        return flow + self.rollout_weight * rollout, {"flow": flow.detach(), "rollout": rollout.detach()}

    @torch.no_grad()
    def roll_out(
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
        cache, context = student.empty_cache(len(clean), clean.device), clean[:, :1]
        denoiser = cached(student, cache)
        pairs: list[list[Tensor]] = []
        for index in range(frames):
            now = None if control is None else control[:, index : index + 1]
            given = {"control": now, "past": past_of_next(context, student.history)}
            if index:
                noises = [normal(clean[:, index], rng) for _ in range(2)]
                pairs.append([sample(denoiser, noise, levels, given) for noise in noises])
                made = denoiser(pairs[-1][0], levels[-1].expand(len(clean)), given)
                frame = torch.where(own[:, index, None, None], made.float(), clean[:, index])
                context = torch.cat([context, frame[:, None]], 1)
            student(context[:, -1], cache, True, **given)
        return context, [torch.stack(states, 1) for states in zip(*pairs, strict=True)]
