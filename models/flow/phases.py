"""The path cut into phases: a consistency function ends each phase (PCM, Wang et al. 2024, arXiv 2405.18407).

Between data at level 0 and noise there are N points of a grid, and P phases of them. A function of one phase carries
every point of it to the phase's lower end: with P = 1 that is data (consistency models, Song et al. 2023), with P = N
it is a step of Euler's method. Point j lies at `grid[j + 1]`, the point below it at `grid[j]`, and `grid[0]` is 0.

Legend: B samples, N points, P phases, T training timesteps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from drivedit.models.flow.path import along
from drivedit.models.flow.schedules import linear_quadratic_levels, training_levels


def phase_edges(points: int, phases: int) -> Tensor:
    """The lowest point of each phase `[P]`, the first one 0.

    Raises:
        ValueError: There is no phase, or there are more phases than points.
    """
    if not 1 <= phases <= points:
        raise ValueError(f"there must be from 1 to {points} phases of {points} points, got {phases}")
    return torch.arange(phases) * points // phases


def phase_of(index: Tensor, points: int, phases: int) -> tuple[Tensor, Tensor]:
    """Of points `[...]`: the lowest point of the phase of each, and the lowest one of the next phase (or N)."""
    edges = torch.cat([phase_edges(points, phases), torch.tensor([points])]).to(index.device)
    place = torch.searchsorted(edges, index.contiguous(), right=True)
    return edges[place - 1], edges[place]


def parse_phases(schedule: str) -> list[tuple[int, int]]:
    """Pairs (last step, phases) of a schedule as "2000-2,4000-4"; a single number stands for all steps.

    Raises:
        ValueError: It is no such schedule, or its steps do not rise.
    """
    if re.fullmatch(r"\d+", schedule):
        schedule = f"0-{schedule}"
    if not re.fullmatch(r"\d+-\d+(,\d+-\d+)*", schedule):
        raise ValueError(f"a schedule of phases is 'STEP-PHASES,STEP-PHASES,...' or a number, got {schedule!r}")
    pairs = [(int(step), int(phases)) for step, phases in (pair.split("-") for pair in schedule.split(","))]
    if any(later <= step for (step, _), (later, _) in pairwise(pairs)) or min(phases for _, phases in pairs) < 1:
        raise ValueError(f"the steps of a schedule must rise, and every part have a phase at least, got {schedule!r}")
    return pairs


def phases_at(schedule: str, step: int) -> int:
    """How many phases there are at a step, counted from 1; after the last one that is told, those of the last."""
    pairs = parse_phases(schedule)
    return next((phases for last, phases in pairs if step <= last), pairs[-1][1])


def check_phases(schedule: str, points: int) -> None:
    """Raises ValueError for a schedule that has more phases than there are points somewhere, or is none."""
    for _, phases in parse_phases(schedule):
        phase_edges(points, phases)


def euler_grid(levels: Tensor, points: int) -> Tensor:
    """Levels `[N + 1]` of a grid of N of T rising levels, after an exact 0.

    Raises:
        ValueError: N does not divide T, or the levels do not rise.
    """
    if points < 1 or len(levels) % points:
        raise ValueError(f"the points of the grid must divide the {len(levels)} timesteps, got {points}")
    if len(levels) > 1 and not bool((levels.diff() > 0).all()):
        raise ValueError("the levels of a grid must rise, from little noise to much")
    ratio = len(levels) // points
    return torch.cat([levels.new_zeros(1), levels[ratio - 1 :: ratio]])


class EulerSolver:
    """Steps of Euler's method between the points of a grid, and jumps to the ends of phases.

    Args:
        sigmas: Rising levels `[T]`, one for each training timestep.
        timesteps: Their number T.
        euler_timesteps: Points N, a divisor of T.

    Raises:
        ValueError: The numbers do not fit together.
    """

    def __init__(self, sigmas: Tensor | Sequence[float], timesteps: int = 1000, euler_timesteps: int = 50) -> None:
        levels = torch.as_tensor(sigmas)
        if levels.shape != (timesteps,):
            raise ValueError(f"sigmas must be [{timesteps}], one for each timestep, got {list(levels.shape)}")
        self.grid = euler_grid(levels, euler_timesteps)

    @property
    def sigmas(self) -> Tensor:
        """Levels of the points `[N]`."""
        return self.grid[1:]

    @property
    def sigmas_prev(self) -> Tensor:
        """Levels below the points `[N]`; below the first one is data, exactly 0."""
        return self.grid[:-1]

    def to(self, device: torch.device | str) -> Self:
        """Moves the levels to a device."""
        self.grid = self.grid.to(device)
        return self

    def euler_step(self, sample: Tensor, model_pred: Tensor, timestep_index: Tensor) -> Tensor:
        """One step down.

        Args:
            sample: `[B, ...]` at the points.
            model_pred: The velocity there.
            timestep_index: Points `[B]`.
        """
        return along(sample, model_pred, self.sigmas[timestep_index], self.sigmas_prev[timestep_index])

    def euler_style_multiphase_pred(
        self,
        sample: Tensor,
        model_pred: Tensor,
        timestep_index: Tensor,
        multiphase: int,
        is_target: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """A jump to the lower end of the phase.

        Args:
            sample: `[B, ...]` at the points; with `is_target` one step below them.
            model_pred: The velocity there.
            timestep_index: Points `[B]`.
            multiphase: Phases P.
            is_target: Whether the step down was taken already. Of a phase's lowest point that leaves nothing to jump:
                the sample comes back bit for bit.

        Returns:
            The samples at the ends, and the lowest points `[B]` of the phases.

        Raises:
            ValueError: There are more phases than points.
        """
        edge, _ = phase_of(timestep_index, len(self.sigmas), multiphase)
        here = (self.sigmas_prev if is_target else self.sigmas)[timestep_index]
        return along(sample, model_pred, here, self.sigmas_prev[edge]), edge


class Stepped(NamedTuple):
    """What a step of a scheduler gives.

    Attributes:
        prev_sample: The sample, one step nearer to data.
    """

    prev_sample: Tensor


class PCMFMScheduler:
    """The levels that a phased student was trained at, and steps of Euler's method between some of them.

    Args:
        num_train_timesteps: Training timesteps T.
        shift: How far levels are moved towards noise (1: not).
        pcm_timesteps: Points N of the grid, a divisor of T.
        linear_quadratic: Whether levels are linear-quadratic instead.
        linear_quadratic_threshold: See `linear_quadratic_levels`.
        linear_range: See there.

    Attributes:
        sigmas: Levels of the points `[N]`, noise first; after `set_timesteps` `[n + 1]`, those of the steps and 0.
        timesteps: The same as a network is told, T times the level of each step.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        pcm_timesteps: int = 50,
        linear_quadratic: bool = False,
        linear_quadratic_threshold: float = 0.025,
        linear_range: float = 0.5,
    ) -> None:
        levels = (
            linear_quadratic_levels(num_train_timesteps, linear_quadratic_threshold, linear_range)
            if linear_quadratic
            else training_levels(num_train_timesteps, shift)
        )
        self.num_train_timesteps = num_train_timesteps
        self.grid = euler_grid(levels, pcm_timesteps)
        self.sigmas = self.grid[1:].flip(0)
        self.timesteps = self.sigmas * num_train_timesteps

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None, *, multiphase: int | None = None
    ) -> None:
        """Chooses the levels to step between.

        Args:
            num_inference_steps: Steps n.
            device: Of the levels.
            multiphase: Phases of the student, a divisor of n: then the ends of all phases are among the levels, for a
                function of one phase is only right within it. None: evenly over the grid, which hits them where n
                divides N.

        Raises:
            ValueError: There are more steps than points, or the phases do not divide them.
        """
        points, steps = len(self.grid) - 1, num_inference_steps
        if not 1 <= steps <= points:
            raise ValueError(f"there must be from 1 to {points} steps, got {steps}")
        if multiphase is not None and (multiphase < 1 or steps % multiphase):
            raise ValueError(f"a student of {multiphase} phases steps a multiple of {multiphase} times, got {steps}")
        if multiphase is None:
            places = points - torch.arange(steps) * points // steps
        else:
            places = torch.arange(steps, 0, -1) * points // steps
        self.sigmas = torch.cat([self.grid[places], self.grid[:1]]).to(device)
        self.timesteps = self.sigmas[:-1] * self.num_train_timesteps

    def step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> Stepped:
        """One step down.

        Args:
            model_output: The velocity at the sample.
            timestep: One of `timesteps`.
            sample: `[B, ...]` at its level.

        Raises:
            RuntimeError: `set_timesteps` was not called.
            ValueError: There is no such timestep.
        """
        if len(self.sigmas) != len(self.timesteps) + 1:
            raise RuntimeError("call set_timesteps(n) before step")
        found = (self.timesteps == torch.as_tensor(timestep).to(self.timesteps)).nonzero()
        if not len(found):
            raise ValueError(f"timestep must be one of {self.timesteps.tolist()}, got {float(timestep)}")
        place = int(found[0])
        return Stepped(along(sample, model_output, self.sigmas[place], self.sigmas[place + 1]))
