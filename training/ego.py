"""Ego-motion is learned before all else, from poses and controls alone: on paths that go on from their own motion.

A car that is too fast by now cannot know it from the recording: what counts is that it gets where it got in truth.

Legend: B paths, n intervals, S states of drives, A controls.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from drivedit.data.clips import Drives
from drivedit.models.layers.ego import EgoMotion
from drivedit.training.stages import is_main
from drivedit.utils import advance_pose, generator, motion_between

log = logging.getLogger(__name__)
ROWS = 512  # paths of a step
INTERVALS = 16  # of a path, where drives are so long
RATE = 5e-3  # of learning
FALLING_FROM = 0.4  # share of the steps after which it falls
CHANGE = 0.3  # of the unit: larger errors count by their size, smaller ones by its square
LARGEST = 10.0  # norm of a gradient: a jump of one recorded pose must not undo what was learned
USUAL = 0.99  # quantile beyond which a change is no longer a car's
LEAST = 1e-6  # change of ego-motion in its units; what is less is rounding
JUDGED = 512  # paths that are only looked at


@dataclass
class Paths:
    """Paths of cars.

    Attributes:
        rates: `[B, n + 1, 3]` ego-motion of a unit of time, before the first interval and in each.
        known: `[B, n + 1]` 1 where it is known.
        controls: `[B, n, A]` of each interval.
        dt: `[B, n]` their lengths in units of time.
    """

    rates: Tensor
    known: Tensor
    controls: Tensor
    dt: Tensor


class Tracks:
    """Where the cars of drives went, and how they were steered, between any of their states.

    Args:
        drives: The recordings.
        unit: Of (forward, right, turn) of the ego-motion in a unit of time.
        strides: Fewest and most states of an interval.
    """

    def __init__(self, drives: Drives, unit: Sequence[float], strides: tuple[int, int] = (1, 1)) -> None:
        self.drives, self.unit, self.strides = drives, np.asarray(unit), strides
        self.steered = np.cumsum(np.nan_to_num(np.asarray(drives.control)).astype(np.float64), 0)

    def controls(self, index: np.ndarray) -> np.ndarray:
        """Mean controls `[B, n, A]` between states `[B, n + 1]`."""
        return np.diff(self.steered[index], axis=1) / np.diff(index, axis=1)[..., None]

    def rates(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ego-motion of a unit of time `[B, n, 3]` between states `[B, n + 1]`, and where it is known `[B, n]`."""
        pose = torch.from_numpy(np.array(self.drives.pose[index]))
        passed = np.diff(np.array(self.drives.times[index]), axis=1) / self.drives.spec.dt
        moved = motion_between(pose[:, :-1], pose[:, 1:]).numpy() / np.maximum(passed, 1e-6)[..., None]
        rates = (moved / self.unit).astype(np.float32)
        known = np.isfinite(rates).all(-1) & (passed > 0)
        return np.where(known[..., None], rates, 0.0), known

    def starts(self, chosen: np.ndarray) -> tuple[np.ndarray, int]:
        """States of some drives that paths begin from, with a known motion before them; and the intervals of a path."""
        first, last = self.drives.first[chosen], self.drives.first[chosen + 1] - 1
        longest = int((last - first).max()) - 1 if len(chosen) else 0
        intervals = max(1, min(INTERVALS, longest // self.strides[1]))
        span = intervals * self.strides[1]
        found = [np.arange(a + 1, max(a, b - span) + 1) for a, b in zip(first, last, strict=True)]
        states = np.concatenate([np.zeros(0, int), *found])
        poses = np.asarray(self.drives.pose)
        known = np.isfinite(poses[states]).all(1) & np.isfinite(poses[states - 1]).all(1)
        return states[known], intervals

    def paths(self, starts: np.ndarray, steps: np.ndarray) -> Paths:
        """Paths from states `[B]` on, of intervals of so many states `[B, n]`."""
        index = np.concatenate([starts[:, None], starts[:, None] + np.cumsum(steps, 1)], 1)
        rates, known = self.rates(np.concatenate([starts[:, None] - 1, index], 1))
        dt = np.diff(np.array(self.drives.times[index]), axis=1) / self.drives.spec.dt
        found = rates, known, self.controls(index), dt
        return Paths(*(torch.from_numpy(np.ascontiguousarray(each)).float() for each in found))


def fit_ego(ego: EgoMotion, tracks: Tracks, chosen: np.ndarray, checked: np.ndarray, steps: int, seed: int) -> float:
    """Learns ego-motion; methods leave it as it is from then on.

    Args:
        ego: The network, on the CPU or elsewhere.
        tracks: What it learns of.
        chosen: Numbers of the drives to learn from.
        checked: Of those that are only looked at.
        steps: How long.
        seed: Of what is drawn.

    Returns:
        How far a car is off at the end of a path, in metres, a mean over drives that are only looked at; not a number
        where no pose is known.
    """
    device = ego.unit.device
    least, most = tracks.strides
    starts, intervals = tracks.starts(chosen)
    if not len(starts):
        log.warning("ego-motion: no drive has known poses of %d states; it goes on as it is", most + 2)
        return float("nan")
    rng, optimizer = generator(seed, "ego"), torch.optim.AdamW(ego.net.parameters(), RATE)

    def drawn() -> Paths:
        begin = starts[torch.randint(len(starts), (ROWS,), generator=rng).numpy()]
        return tracks.paths(begin, torch.randint(least, most + 1, (ROWS, intervals), generator=rng).numpy())

    ego.unit.copy_(usual_change(drawn()))
    for step in tqdm(range(steps), desc="ego-motion", delay=5, mininterval=5, disable=not is_main(device)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (1 - step / steps) / (1 - FALLING_FROM))
        paths = drawn()
        wanted, known = paths.rates[:, 1:].to(device), paths.known[:, 1:, None].to(device)
        off = F.smooth_l1_loss(go_on(ego, paths) / ego.unit, wanted / ego.unit, reduction="none", beta=CHANGE)
        optimizer.zero_grad()
        (off * known).mean().backward()
        torch.nn.utils.clip_grad_norm_(ego.net.parameters(), LARGEST)
        optimizer.step()
    held, intervals = tracks.starts(checked)
    if not len(held):
        log.warning("ego-motion: no drive that is only looked at has known poses of %d states", most + 2)
        return float("nan")
    held = held[np.linspace(0, len(held) - 1, min(JUDGED, len(held))).astype(int)]
    off_m = apart(ego, tracks.paths(held, np.full((len(held), intervals), least)), tracks.unit)
    log.info("ego-motion: %.2f m off after %d frames of drives that are only looked at", off_m, intervals * least)
    return off_m


def usual_change(paths: Paths) -> Tensor:
    """Mean size of the change of ego-motion in a unit of time `[3]`, without the largest ones; 1 where it is even."""
    change = paths.rates.diff(dim=1).abs() / paths.dt[..., None]
    both = paths.known[:, 1:] * paths.known[:, :-1] > 0
    change = change[both] if bool(both.any()) else torch.zeros(1, 3)
    size = change.minimum(change.quantile(USUAL, 0)).mean(0)
    return torch.where(size > LEAST, size, torch.ones(3))


def go_on(ego: EgoMotion, paths: Paths) -> Tensor:
    """Ego-motion of a unit of time in each interval `[B, n, 3]`, of paths that go on from their own."""
    rates, controls, dt = (each.to(ego.unit) for each in (paths.rates[:, 0], paths.controls, paths.dt))
    found = []
    for control, passed in zip(controls.unbind(1), dt.unbind(1), strict=True):
        rates = ego(control, rates, passed)
        found.append(rates)
    return torch.stack(found, 1)


@torch.no_grad()
def apart(ego: EgoMotion, paths: Paths, unit: np.ndarray) -> float:
    """How far paths end from where they ended in truth, a mean in metres over those that are known all along."""
    scale, known = torch.from_numpy(unit).float(), paths.known.all(1)
    ends = []
    for rates in (go_on(ego, paths).cpu(), paths.rates[:, 1:]):
        pose = torch.zeros(len(rates), 3)
        for moved in (rates * paths.dt[..., None] * scale).unbind(1):
            pose = advance_pose(pose, moved)
        ends.append(pose)
    return float((ends[0] - ends[1])[known > 0, :2].norm(dim=1).mean())
