"""The state of a `WarpWorld`: the last two pictures, a memory, the car on its route; constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, uint8

from drivedit.models.conditions.route import route_checks
from drivedit.models.road import RoadState

LARGEST = 1e9  # of numbers that have no smaller bound
LARGEST_MOTION = 1e6  # of the ego-motion
FRAMES = 2**53  # most frames that a clock counts, exact in float64


@dataclass
class WarpState(RoadState):
    """State of B independent worlds.

    Attributes:
        frames: `[B, 2, C, H, W]` the last two pictures in [-1, 1], the newest at the end.
        memory: `[B, M, h, w]` in [-1, 1].
        clock: `[B]` frames so far.
        seeds: `[B]` seeds of the random streams.
        control: `[B, A]` the last control.
        motion: `[B, 3]` the last ego-motion, in units of `WarpWorldConfig.motion_scale`.
        pose: `[B, 3]` (x, y, yaw) on the route's plane.
        arc: `[B]` foot point on the route in metres.
        points: `[B, P, 2]` the route.
        count: `[B]` points of the route that count; 0: no route.
        spacing: `[B]` metres between two points.
        closed: `[B]` whether the route is a loop.
        bounds: `[B, 4]` of the playfield: x and y at least, x and y at most.
        others: `[B, A, 8]` boxes of others and their speeds, as `drivedit.models.conditions.layout` has them.
        told: `[B]` whether the world is told who is there; else it dreams others as it likes.
    """

    COUNT: ClassVar[str] = "clock"

    frames: Tensor
    memory: Tensor
    clock: Tensor
    seeds: Tensor
    control: Tensor
    motion: Tensor
    pose: Tensor
    arc: Tensor
    points: Tensor
    count: Tensor
    spacing: Tensor
    closed: Tensor
    bounds: Tensor
    others: Tensor
    told: Tensor

    def check_values(self, control: float) -> None:
        """Checks the ranges of all fields; the layout has been checked.

        Args:
            control: Largest size of a control.

        Raises:
            ValueError: A value cannot be part of a world's present moment.
        """
        self.check_whole(clock=FRAMES, count=self.points.shape[1])
        self.check_sizes(
            frames=1, memory=1, control=control, motion=LARGEST_MOTION, pose=LARGEST, arc=LARGEST, points=LARGEST,
            spacing=LARGEST, others=LARGEST,
        )  # fmt: skip
        for check in (*route_checks(self.route), ("told", "True or False", self.told.view(uint8) < 2)):
            self.check_rows(*check)
