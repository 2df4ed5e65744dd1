"""Stochastic differential equations by fixed steps, on Brownian paths that are a function of (seed, time) alone.

A path is a tree of bridges over cells of time (Li et al. 2020, arXiv 2001.01328), so its increments depend on neither
batch nor device, nor on how a stretch of time is split. The equation is dx = f(x) dt + g(x) dW with diagonal noise,
Ito's for "euler" (Euler-Maruyama), Stratonovich's for all others (Kloeden and Platen 1992).

Legend: B rows, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from drivedit.models.flow.path import over
from drivedit.models.flow.sampler import SOLVERS, integrate
from drivedit.utils import noise

DEPTH = 8  # halvings of a cell that are drawn; between them a path is straight
FINEST = 2.0**-20  # of a cell or step: times that differ by less are one

Field = Callable[[Tensor], Tensor]  # x `[B, ...]` to its drift or diffusion there


class BrownianPath:
    """A Brownian path for each row: its increments are normal, of variance equal to the time that they take.

    Args:
        seeds: B whole numbers; equal ones have equal paths.
        shape: Of one row.
        spacing: Length of a cell of time, above 0. Increments of cells are drawn at once, of parts along a tree.
        stream: Name that sets these paths apart from other noise of the same seeds.

    Raises:
        ValueError: The spacing is not above 0.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], spacing: float, stream: str = "brownian") -> None:
        if not spacing > 0:
            raise ValueError(f"spacing must be above 0, got {spacing}")
        self.seeds, self.shape, self.spacing, self.stream = list(seeds), tuple(shape), spacing, stream

    def increment(self, start: Tensor, end: Tensor) -> Tensor:
        """What the paths gain between two times of each row.

        Args:
            start: float64 `[B]`, in the unit of `spacing`.
            end: float64 `[B]`.

        Returns:
            float32 `[B, *shape]`, on the CPU.

        Raises:
            ValueError: There are other numbers of times than seeds.
        """
        if start.shape != (len(self.seeds),) or end.shape != start.shape:
            got = f"{list(start.shape)} and {list(end.shape)}"
            raise ValueError(f"there must be a time for each of {len(self.seeds)} seeds, got {got}")
        first, last = ((time.double().cpu() / self.spacing / FINEST).round() * FINEST for time in (start, end))
        rows = zip(self.seeds, first.tolist(), last.tolist(), strict=True)
        return torch.stack([self._between(seed, *times) for seed, *times in rows])

    def _between(self, seed: int, start: float, end: float) -> Tensor:
        """The increment of one row, between two times in cells."""
        cells = range(int(start // 1), int(end // 1))
        whole = sum((self._cell(seed, cell) for cell in cells), torch.zeros(self.shape))
        return whole + self._part(seed, end) - self._part(seed, start)

    def _cell(self, seed: int, cell: int) -> Tensor:
        """The increment of a whole cell."""
        return self.spacing**0.5 * noise([seed], f"{self.stream}/0", [cell], self.shape)[0]

    def _part(self, seed: int, time: float) -> Tensor:
        """What a path has gained since the beginning of the cell that a time lies in."""
        node, share = int(time // 1), time % 1
        left = torch.zeros(self.shape)
        if share == 0:
            return left
        right, width = self._cell(seed, node), 1.0
        for level in range(1, DEPTH + 1):
            drawn = noise([seed], f"{self.stream}/{level}", [node], self.shape)[0]
            middle = (left + right + (width * self.spacing) ** 0.5 * drawn) / 2
            width, node = width / 2, 2 * node
            if share == width:
                return middle
            if share < width:
                right = middle
            else:
                left, share, node = middle, share - width, node + 1
        return torch.lerp(left, right, share / width)


class FreshPath:
    """Increments that are drawn anew at every call, on a device: for training, where no path is asked for twice.

    Args:
        rng: A generator of the device.
        shape: Of one row.
    """

    def __init__(self, rng: torch.Generator, shape: Sequence[int]) -> None:
        self.rng, self.shape = rng, tuple(shape)

    def increment(self, start: Tensor, end: Tensor) -> Tensor:
        """What the paths gain between two times float64 `[B]` of each row, float32 `[B, *shape]` on the device."""
        drawn = torch.randn(len(start), *self.shape, generator=self.rng, device=self.rng.device)
        return over((end - start).clamp(min=0).sqrt().to(drawn), drawn) * drawn


def grid_steps(start: Tensor, end: Tensor, dt: float) -> Tensor:
    """The times between which each row steps: its start, the multiples of `dt` after it, and its end.

    Times that lie on the grid are taken as the same number wherever they come from, so that a stretch that is split
    there is stepped through as the whole is. Rows that need fewer steps than others end with steps of length 0.

    Args:
        start: float64 `[B]`.
        end: float64 `[B]`, not before the start.
        dt: The longest step, above 0.

    Returns:
        float64 `[S + 1, B]` on the CPU, rising.

    Raises:
        ValueError: `dt` is not above 0, a time is not finite, or an end lies before its start.
    """
    start, end = start.double().cpu(), end.double().cpu()
    if not dt > 0 or not bool(((end - start) >= 0).all() and end.isfinite().all()):
        raise ValueError(
            f"dt must be above 0 and times finite and not fall, got {dt}, {start.tolist()}, {end.tolist()}"
        )
    low, high = (torch.where((u - u.round()).abs() < FINEST, u.round(), u) for u in (start / dt, end / dt))
    steps = int((high.ceil() - low.floor()).max())
    grid = low.floor() + torch.arange(steps + 1, dtype=torch.float64)[:, None]
    return grid.clamp(low, high) * dt


def _euler(drift: Field, diffusion: Field, x: Tensor, h: Tensor, dw: Tensor) -> Tensor:
    """Euler-Maruyama, of Ito's equation; strong order 1/2, and 1 where the noise is additive."""
    return x + drift(x) * h + diffusion(x) * dw


def _euler_heun(drift: Field, diffusion: Field, x: Tensor, h: Tensor, dw: Tensor) -> Tensor:
    """Euler-Heun: a predictor for the noise alone; strong order 1."""
    here = diffusion(x)
    return x + drift(x) * h + (here + diffusion(x + here * dw)) * dw / 2


def _heun(drift: Field, diffusion: Field, x: Tensor, h: Tensor, dw: Tensor) -> Tensor:
    """Heun: a predictor for both; strong order 1, order 2 without noise."""
    f, g = drift(x), diffusion(x)
    ahead = x + f * h + g * dw
    return x + (f + drift(ahead)) * h / 2 + (g + diffusion(ahead)) * dw / 2


def _midpoint(drift: Field, diffusion: Field, x: Tensor, h: Tensor, dw: Tensor) -> Tensor:
    """Midpoint; strong order 1, order 2 without noise."""
    middle = x + (drift(x) * h + diffusion(x) * dw) / 2
    return x + drift(middle) * h + diffusion(middle) * dw


SDE_METHODS = {"euler": _euler, "euler_heun": _euler_heun, "heun": _heun, "midpoint": _midpoint}
ODE_METHODS = tuple(SOLVERS)


def calculus(method: str) -> str:
    """Whose equation a method of `integrate_sde` solves: "ito" or "stratonovich".

    Raises:
        ValueError: There is no such method.
    """
    if method not in SDE_METHODS:
        raise ValueError(f"the method of an SDE must be one of {', '.join(SDE_METHODS)}, got {method!r}")
    return "ito" if method == "euler" else "stratonovich"


def integrate_sde(
    drift: Field, diffusion: Field, x: Tensor, start: Tensor, end: Tensor, path: BrownianPath | FreshPath,
    dt: float, method: str = "euler_heun",
) -> Tensor:  # fmt: skip
    """Carries rows along dx = f(x) dt + g(x) dW, each from its own time to its own.

    Args:
        drift: f, of the shape of x.
        diffusion: g, of the shape of x.
        x: `[B, ...]` at the start.
        start: float64 `[B]`.
        end: float64 `[B]`; the last step is shortened to land there.
        path: W.
        dt: The longest step; steps end on its multiples.
        method: "euler" (Ito), "euler_heun", "heun" or "midpoint" (Stratonovich).

    Returns:
        `[B, ...]` at the end.

    Raises:
        ValueError: The method is unknown, or times fall.
    """
    calculus(method)
    for before, after in pairwise(grid_steps(start, end, dt)):
        h, dw = over((after - before).to(x), x), path.increment(before, after).to(x)
        x = SDE_METHODS[method](drift, diffusion, x, h, dw)
    return x


def integrate_ode(field: Field, x: Tensor, start: Tensor, end: Tensor, dt: float, method: str = "rk4") -> Tensor:
    """Carries rows along dx = f(x) dt, each from its own time to its own, by a Runge-Kutta method (`integrate`).

    Args:
        field: f.
        x: `[B, ...]` at the start.
        start: float64 `[B]`.
        end: float64 `[B]`; the last step is shortened to land there.
        dt: The longest step; steps end on its multiples.
        method: "euler", "midpoint", "heun" or "rk4".

    Returns:
        `[B, ...]` at the end.

    Raises:
        ValueError: The method is unknown, or times fall.
    """

    def slope(x: Tensor, sigma: Tensor, given: Any) -> Tensor:
        return field(x)

    for before, after in pairwise(grid_steps(start, end, dt)):
        h = (after - before).to(x)
        x = integrate(slope, x, torch.stack([torch.zeros_like(h), h]), None, method)
    return x
