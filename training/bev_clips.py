"""Clips of recorded pictures with all that a `BevWorld` learns from: poses, others by name, routes.

Legend: B clips, n states of a clip, A others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from drivedit.config import BevWorldConfig
from drivedit.config.bev import GAP
from drivedit.data.clips import Drives, clip_starts
from drivedit.models.conditions.layout import SPEED
from drivedit.training.latents import drawn_starts, nearest_others, nearest_rows
from drivedit.training.range_clips import stacked_routes, state_arcs

NONE = -1  # id of nobody


class BevClips:
    """Makes batches of clips: GAP states, the present one, and those after it.

    Args:
        drives: The recordings, with one picture, and poses at every state.
        world: The world that learns of them.
        ahead: States after the present one.
    """

    def __init__(self, drives: Drives, world: BevWorldConfig, ahead: int) -> None:
        self.drives, self.world, self.ahead = drives, world, ahead
        spec = world.spec
        states = len(drives.control)
        told = [np.asarray(drives.telemetry[value.name]) / np.float32(value.scale) for value in spec.telemetry]
        self.telemetry = np.stack(told or [np.zeros(states, np.float32)], 1)
        units = {name: spec.rewards[name].value for name in spec.learned()}
        earned = [np.asarray(drives.earned(name)) / unit if unit else np.zeros(states) for name, unit in units.items()]
        self.reward = np.stack(earned or [np.zeros(states)], 1)
        self.motion = drives.motion() / np.asarray(world.motion_scale, np.float32)
        self.drive = np.repeat(np.arange(len(drives)), np.diff(drives.first))
        self.boxes, _ = nearest_others(drives, world.others)
        nearest = nearest_rows(drives, world.others)
        self.ids = np.where(nearest >= 0, drives.agents.ids[nearest] if len(drives.agents.ids) else NONE, NONE)
        self.routes = stacked_routes(drives)
        self.arc = state_arcs(drives, self.routes)

    def drawing(self, chosen: np.ndarray, rows: int) -> Callable[[torch.Generator], dict[str, Tensor]]:
        """What draws batches of clips of some drives.

        Raises:
            ValueError: None of them is long enough.
        """
        starts, ends = clip_starts(self.drives, chosen, self.ahead + 1, GAP)

        def batch(rng: torch.Generator) -> dict[str, Tensor]:
            return self.batch(
                drawn_starts(starts[torch.randint(len(starts), (rows,), generator=rng).numpy()], ends, rng)
            )

        return batch

    def batch(self, now: np.ndarray) -> dict[str, Tensor]:
        """Clips whose present states are `now` `[B]`.

        Returns:
            Of all states `[B, n, ...]`: uint8 `frames` `[.., H, W, C]`, `pose` (x, y, yaw), and what led to each,
            `motion` in its unit, `control`, `reward` and `ended`; `telemetry`; `others` `[.., A, 8]` with their speeds
            and `ids` `[.., A]`; the `arc` on the route; and the fields of the `Route`s.
        """
        index = now[:, None] + np.arange(-GAP, self.ahead + 1)
        drives = self.drives
        arrays = {
            "frames": np.stack([drives.frames[row[0] : row[-1] + 1] for row in index]),
            "pose": np.array(drives.pose[index], np.float32), "motion": self.motion[index],
            "control": np.array(drives.control[index], np.float32), "telemetry": self.telemetry[index],
            "reward": self.reward[index].astype(np.float32), "arc": self.arc[index],
            "ended": np.asarray(drives.ended)[index].astype(np.float32),
            "others": self._moving(index), "ids": self.ids[index],
        }  # fmt: skip
        rows = torch.from_numpy(self.drive[now])
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()} | vars(
            self.routes.rows(rows)
        )

    def _moving(self, index: np.ndarray) -> np.ndarray:
        """Others at states `[B, n]` with their speeds since the state before, `[B, n, A, 8]`."""
        before = np.maximum(index - 1, self.drives.first[self.drive[index]])
        boxes, ids = self.boxes[index], self.ids[index]
        same = (ids[..., :, None] == self.ids[before][..., None, :]) & (ids[..., :, None] != NONE)
        old = np.take_along_axis(self.boxes[before], same.argmax(-1)[..., None], -2)
        gone = boxes[..., :2] - old[..., :2]
        along = gone[..., 0] * np.cos(boxes[..., 6]) + gone[..., 1] * np.sin(boxes[..., 6])
        speed = np.where(same.any(-1), along / self.world.spec.dt, 0.0)
        assert SPEED == boxes.shape[-1]
        return np.concatenate([boxes, speed[..., None]], -1).astype(np.float32)
