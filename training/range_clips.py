"""Clips of recorded scans at drawn times: one to several recorded frames from each frame of a clip to the next.

Legend: B clips, n intervals of a clip, S states of drives, H W rows and columns of a scan.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from drivedit.config import Quantity, RangeWorldConfig, WorldSpec
from drivedit.config.range import FREE_DISTANCE, TIME_TO_COLLISION
from drivedit.data.clips import Drives
from drivedit.data.known import fit_rewards
from drivedit.models.conditions.route import route_code
from drivedit.models.sde.beams import LONGEST
from drivedit.training.ego import Tracks
from drivedit.utils import Route, advance_pose

RARE = 0.05  # share of clips that end with an ending, where there are any


def fit_range(world: RangeWorldConfig, drives: Drives, strides: tuple[int, int], kind: str) -> RangeWorldConfig:
    """The world that these recordings can teach: their spec with one range image, without what they do not know.

    Args:
        world: The world that is wanted; a spec of its own goes before that of the recordings, and must fit them.
        drives: The recordings.
        strides: Fewest and most recorded frames of an interval.
        kind: Name of the range image.

    Raises:
        ValueError: The spec that is wanted is not that of the recordings.
    """
    facts, seen = drives.facts(), drives.spec.only([kind])
    spec = seen
    if world.spec.observations:
        spec = world.spec
        spec.check_same(seen, "the world", "the recordings", ("observations", "controls", "learned"))
    ending, reach = facts.ended > 0, spec.observations[kind].high
    known = [value for value in spec.telemetry if facts.telemetry.get(value.name)]
    names = [value.name for value in known]
    read = [
        Quantity(FREE_DISTANCE, 0.0, reach, reach / 4, "m"), Quantity(TIME_TO_COLLISION, 0.0, LONGEST, LONGEST / 6, "s")
    ]  # fmt: skip
    spec = replace(
        spec,
        telemetry=known + [value for value in read if value.name not in names],
        rewards=fit_rewards(spec, facts),
        conditions=["route"] * bool(facts.routed and world.route_offsets),
        dt=seen.dt,
        any_dt=True,
        endings=spec.endings if ending else {},
    )
    return replace(
        world, spec=spec, seconds=(strides[0] * seen.dt, strides[1] * seen.dt),
        end_threshold=world.end_threshold if ending else 1.0,
    )  # fmt: skip


class RangeClips:
    """Makes batches of clips.

    Args:
        drives: The recordings, with one kind of observation.
        world: The world that learns of them.
        chosen: Numbers of the drives that clips are cut from.
        intervals: n, most of a clip.
        strides: Fewest and most recorded frames of an interval.

    Raises:
        ValueError: No drive is long enough for a clip.
    """

    def __init__(
        self, drives: Drives, world: RangeWorldConfig, chosen: np.ndarray, intervals: int, strides: tuple[int, int]
    ) -> None:
        self.drives, self.world, self.intervals, self.strides = drives, world, intervals, strides
        span = intervals * strides[1]
        first, last = drives.first[chosen], drives.first[chosen + 1] - 1
        parts = [np.arange(a + span, b + 1) for a, b in zip(first, last, strict=True) if b >= a + span]
        if not parts:
            raise ValueError(
                f"no drive has {span + 1} states; record longer episodes, or lower loss.clip_frames, loss.lead or "
                f"loss.strides"
            )
        self.ends = np.concatenate(parts)
        self.rare = last[np.asarray(drives.ended)[last] & (last >= first + span)]
        self.drive = np.repeat(np.arange(len(drives)), np.diff(drives.first))
        spec = world.spec
        self.learned, self.told = spec.learned(), world.learned_telemetry()
        self.tracks = Tracks(drives, world.rate_scale, strides)
        self.earned = _totals([drives.earned(name) for name in self.learned] or [np.zeros(len(drives.ended))])
        self.route = stacked_routes(drives) if world.route_dim else None
        self.arc = state_arcs(drives, self.route) if self.route is not None else None

    def draw(self, rows: int, rng: torch.Generator) -> dict[str, Tensor]:
        """A batch of clips with drawn ends and intervals."""
        ends = self.ends[torch.randint(len(self.ends), (rows,), generator=rng).numpy()]
        if len(self.rare):
            rare = torch.rand(rows, generator=rng).numpy() < RARE
            ends = np.where(rare, self.rare[torch.randint(len(self.rare), (rows,), generator=rng).numpy()], ends)
        least, most = self.strides
        steps = torch.randint(least, most + 1, (rows, self.intervals), generator=rng).numpy()
        return self.batch(ends, steps)

    def even(self, rows: int) -> dict[str, Tensor]:
        """At most so many clips of the shortest intervals, spread evenly over the drives."""
        ends = self.ends[np.unique(np.linspace(0, len(self.ends) - 1, rows).astype(int))]
        return self.batch(ends, np.full((len(ends), self.intervals), self.strides[0]))

    def batch(self, ends: np.ndarray, steps: np.ndarray) -> dict[str, Tensor]:
        """Clips that end at states `[B]`, with so many recorded frames `[B, n]` in each interval.

        Returns:
            `scans` `[B, n + 1, H, W, 2]`; of the intervals `dt` `[B, n]` in units, `controls` `[B, n, A]` (their mean),
            `rewards` `[B, n, L]` of a unit of time in units of the terms, `ended` `[B, n]` and the route's code
            `[B, n, R]`; `rates` `[B, n + 1, 3]` of the ego-motion that led to each state and whether they are `known`;
            and `telemetry` `[B, n + 1, K]` in units of the spec.
        """
        drives, spec = self.drives, self.world.spec
        index = np.concatenate([ends[:, None], ends[:, None] - np.cumsum(steps[:, ::-1], 1)], 1)[:, ::-1]
        dt = np.diff(np.array(drives.times[index]), axis=1) / spec.dt
        scales = {value.name: value.scale for value in spec.telemetry}
        units = np.array([spec.rewards[name].value or 1.0 for name in self.learned] or [1.0])
        told = [np.asarray(drives.telemetry[name])[index] / scales[name] for name in self.told]
        before = np.maximum(index[:, :1] - 1, drives.first[self.drive[index[:, :1]]])
        rates, known = self.tracks.rates(np.concatenate([before, index], 1))
        arrays = {
            "scans": np.array(drives.frames[index]), "dt": dt, "rates": rates, "known": known,
            "controls": self.tracks.controls(index),
            "rewards": np.diff(self.earned[index], axis=1) / units / dt[..., None],
            "ended": np.asarray(drives.ended)[index[:, 1:]], "route": self._codes(index, rates, dt),
            "telemetry": np.stack(told or [np.zeros(index.shape)], -1),
        }  # fmt: skip
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        return {name: value if value.dtype == torch.bool else value.float() for name, value in tensors.items()}

    def _codes(self, index: np.ndarray, rates: np.ndarray, dt: np.ndarray) -> np.ndarray:
        """The route's code of every interval `[B, n, R]`, from where the ego-motion before would bring the car."""
        if self.route is None or self.arc is None:
            return np.zeros((*dt.shape, 0), np.float32)
        states, world = index[:, :-1].reshape(-1), self.world
        rows = torch.from_numpy(self.drive[states])
        route = self.route.rows(rows)
        pose = torch.from_numpy(np.array(self.drives.pose[states])).float().nan_to_num()
        gone = (rates[:, :-1] * dt[..., None]).reshape(-1, 3) * np.array(world.rate_scale, np.float32)
        ahead = advance_pose(pose, torch.from_numpy(gone).float())
        arc = torch.from_numpy(self.arc[states])
        code = route_code(route, ahead, arc, torch.tensor(world.route_offsets), world.route_scale)
        return code.reshape(*dt.shape, -1).numpy()


def _totals(columns: list[np.ndarray]) -> np.ndarray:
    """What was told up to each state, float64 `[S, D]`; what is not known counts as zero."""
    return np.cumsum(np.nan_to_num(np.stack(columns, 1)).astype(np.float64), 0)


def stacked_routes(drives: Drives) -> Route:
    """The routes of all drives."""
    lines = [line if len(line) else None for line in drives.routes]
    return Route.from_points(lines, [bool(closed) for closed in drives.closed], list(drives.bounds))


def state_arcs(drives: Drives, route: Route) -> np.ndarray:
    """Foot point of every state on its route, float32 `[S]`, tracked along the drives."""
    lengths, arc = np.diff(drives.first), None
    arcs = np.zeros(int(drives.first[-1]), np.float32)
    for step in range(int(lengths.max())):
        state = drives.first[:-1] + np.minimum(step, lengths - 1)
        pose = torch.from_numpy(np.array(drives.pose[state])).float().nan_to_num()
        arc = route.foot(pose[:, :2], arc)
        arcs[state] = arc.numpy()
    return arcs


def range_image(spec: WorldSpec, name: str | None = None) -> str:
    """Name of the range image, float32 `[H, W, 2]`, that a world learns of what was recorded.

    Args:
        spec: Of the recordings.
        name: Of the image; None: the only one that there is.

    Raises:
        ValueError: There is none, or not that one, or there are several and none is named.
    """
    found = [
        each for each, kind in spec.observations.items()
        if kind.dtype == "float32" and len(kind.shape) == 3 and kind.shape[2] == 2
    ]  # fmt: skip
    if name is None and len(found) == 1:
        return found[0]
    if name is None or name not in found:
        seen = {each: f"{kind.dtype} {list(kind.shape)}" for each, kind in spec.observations.items()}
        wanted = "one range image" if name is None else f"the range image {name!r}"
        raise ValueError(f"a world of this kind learns {wanted}, float32 [H, W, 2]; the recordings have {seen}")
    return name
