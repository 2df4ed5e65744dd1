"""Methods for text-to-video transformers: flow matching, and consistency in phases.

A network is called with noisy latents, words and 1000 times the level of noise, and tells the velocity of the package's
path; `drivedit.models.flow` says what that is, and what a phase is. The functions are the losses of one pass, with all
that is random given to them.

Legend: B clips, C channels, T latents in time, h w cells, L words, D width of a word.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.models.flow.path import add_noise, clean_estimate, velocity
from drivedit.models.flow.phases import EulerSolver, phases_at
from drivedit.models.flow.sampler import guided
from drivedit.models.flow.schedules import compute_density_for_timestep_sampling
from drivedit.training.averaging import follow
from drivedit.training.losses import prediction_decay, pseudo_huber
from drivedit.training.methods.method import Frozen, Logs, Method, Progress

TIMESTEPS = 1000.0  # of level 1, as networks are told it


class Words(NamedTuple):
    """What a network is told beside the latents.

    Attributes:
        text: `[B, L, D]`.
        mask: `[B, L]`, true where there is a word; None: everywhere.
        guidance: Scale of guidance that networks are told that were made for it; None: none.
    """

    text: Tensor
    mask: Tensor | None = None
    guidance: float | None = None


@dataclass(frozen=True)
class PhaseOptions:
    """How a student is taught in phases.

    Attributes:
        multiphase: Phases.
        guidance: Scale of the teacher's guidance on the words, w of `u + w (c - u)`; 1: it is asked once.
        decay_weight: Weight of the size of what the student predicts.
        decay_type: "l1" or "l2" (`prediction_decay`).
    """

    multiphase: int = 1
    guidance: float = 1.0
    decay_weight: float = 0.0
    decay_type: str = "l1"


def velocity_of(network: Any, x: Tensor, sigma: Tensor, words: Words) -> Tensor:
    """The velocity `[B, C, T, h, w]` that a network tells at levels `[B]`.

    A mask of words goes to networks that take one (`encoder_attention_mask`); for others masked words are zeros.
    """
    taken = inspect.signature(getattr(network, "module", network).forward).parameters
    text, more = words.text, {}
    if words.mask is not None and "encoder_attention_mask" in taken:
        more["encoder_attention_mask"] = words.mask
    elif words.mask is not None:
        text = text * words.mask[..., None].to(text)
    if words.guidance is not None and "guidance" in taken:
        more["guidance"] = x.new_full((len(x),), words.guidance)
    return network(x, text, TIMESTEPS * sigma, **more)


def flow_matching(
    network: Any, latents: Tensor, words: Words, sigma: Tensor, noise: Tensor, precondition_outputs: bool = False
) -> Tensor:
    """Mean squared error of the velocity, or with `precondition_outputs` of the clean estimate, at levels `[B]`."""
    x = add_noise(latents, noise, sigma)
    guess = velocity_of(network, x, sigma, words)
    if precondition_outputs:
        return F.mse_loss(clean_estimate(x, guess, sigma).float(), latents.float())
    return F.mse_loss(guess.float(), velocity(latents, noise).float())


def phase_distance(
    networks: tuple[Any, Any, Any],
    latents: Tensor,
    words: tuple[Words, Words | None],
    index: Tensor,
    noise: Tensor,
    solver: EulerSolver,
    options: PhaseOptions,
) -> tuple[Tensor, Tensor]:
    """How far a student's jump to the end of its phase ends from where it should.

    Args:
        networks: The student, the frozen teacher, and the network that the aim comes from.
        latents: Clean `[B, C, T, h, w]`.
        words: What they are told; what stands for no words, where the teacher is guided.
        index: Points of the grid `[B]`.
        noise: Like the latents.
        solver: The grid.
        options: Phases, guidance and decay.

    Returns:
        The loss, and where the student arrives `[B, C, T, h, w]`.
    """
    student, teacher, target = networks
    told, plain = words
    sigma, lower = solver.sigmas[index], solver.sigmas_prev[index]
    x = add_noise(latents, noise, sigma)
    jump = solver.euler_style_multiphase_pred
    end, _ = jump(x, velocity_of(student, x, sigma, told), index, options.multiphase)
    with torch.no_grad():

        def ask(x: Tensor, sigma: Tensor, given: Words) -> Tensor:  # velocities, which mix as clean estimates do
            return velocity_of(teacher, x, sigma, given)

        guess = guided(ask, options.guidance if plain is not None else 1.0, plain)(x, sigma, told)
        nearer = solver.euler_step(x, guess, index)
        aim, _ = jump(nearer, velocity_of(target, nearer, lower, told), index, options.multiphase, is_target=True)
    loss = pseudo_huber(end.float() - aim.float())
    if options.decay_weight:
        loss = loss + options.decay_weight * prediction_decay(end.float(), options.decay_type)
    return loss, end


class TextVideoMethod(Method):
    """Trains a transformer on batches of `latents` `[B, C, T, h, w]`, `text` `[B, L, D]` and `mask` `[B, L]`.

    Args:
        transformer: What is trained.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def noise(self, latents: Tensor, rng: torch.Generator) -> Tensor:
        """Standard normal numbers in the shape of latents."""
        return torch.randn(latents.shape, generator=rng).to(latents)


class FlowMatching(TextVideoMethod):
    """Learns the velocity at levels of a density.

    Args:
        transformer: What is trained.
        levels: Levels `[T]`, noise first.
        density: Arguments of `compute_density_for_timestep_sampling`, by name.
        precondition_outputs: Whether clean estimates are compared.
    """

    levels: Tensor

    def __init__(
        self, transformer: nn.Module, levels: Tensor, density: dict[str, Any], precondition_outputs: bool = False
    ) -> None:
        super().__init__(transformer)
        self.register_buffer("levels", levels, persistent=False)
        self.density, self.precondition_outputs = density, precondition_outputs

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The flow matching loss."""
        latents = batch["latents"]
        place = compute_density_for_timestep_sampling(batch_size=len(latents), generator=rng, **self.density)
        sigma = level_at(self.levels, place.to(latents.device))
        words = Words(batch["text"], batch.get("mask"))
        noise = self.noise(latents, rng)
        return flow_matching(self.transformer, latents, words, sigma, noise, self.precondition_outputs), {}


class TextVideoPhases(TextVideoMethod):
    """Learns a teacher's steps, to the end of each phase.

    Args:
        transformer: The student.
        teacher: What it learns from, and stays.
        solver: The grid.
        schedule: Of phases (`drivedit.models.flow.phases.parse_phases`).
        options: Guidance and decay.
        plain: What stands for no words, `[1, L, D]`, where the teacher is guided.
        ema_decay: Of the averaged student that is aimed at; None: the student aims at itself.
        guidance: What networks are told as a number.
    """

    def __init__(
        self,
        transformer: nn.Module,
        teacher: nn.Module,
        solver: EulerSolver,
        schedule: str,
        options: PhaseOptions,
        plain: Words | None = None,
        ema_decay: float | None = None,
        guidance: float | None = None,
    ) -> None:
        super().__init__(transformer)
        self.teacher, self.ema_decay = Frozen(teacher), ema_decay
        self.target = None if ema_decay is None else copy.deepcopy(transformer).requires_grad_(False)
        self.solver, self.schedule, self.options = solver, schedule, options
        self.plain, self.guidance = plain, guidance

    def loss(self, batch: dict[str, Any], progress: Progress, rng: torch.Generator) -> tuple[Tensor, Logs]:
        """The distance, with decay."""
        latents = batch["latents"]
        solver = self.solver.to(latents.device)
        index = torch.randint(len(solver.sigmas), (len(latents),), generator=rng).to(latents.device)
        options = replace(self.options, multiphase=phases_at(self.schedule, progress.step + 1))
        words = Words(batch["text"], batch.get("mask"), self.guidance)
        plain = None if self.plain is None else like_rows(self.plain, latents)
        networks = (self.transformer, self.teacher.network, self.target or self.transformer)
        loss, end = phase_distance(networks, latents, (words, plain), index, self.noise(latents, rng), solver, options)
        return loss, {"size": end.detach().abs().mean()}

    def after_step(self) -> None:
        """Moves the averaged student on."""
        if self.target is not None and self.ema_decay is not None:
            follow(self.target.parameters(), self.transformer.parameters(), 1 - self.ema_decay)


def level_at(levels: Tensor, place: Tensor) -> Tensor:
    """Levels at places `[B]` in [0, 1] of a list of them."""
    return levels[(place * len(levels)).long().clamp(max=len(levels) - 1)]


def like_rows(words: Words, latents: Tensor) -> Words:
    """What one text is told as, for every clip of a batch."""
    text = words.text.to(latents).expand(len(latents), -1, -1)
    mask = None if words.mask is None else words.mask.to(latents.device).expand(len(latents), -1)
    return Words(text, mask, words.guidance)
