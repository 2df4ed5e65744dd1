"""The state of a `RangeWorld`: motion field, last two scans, clock and seed, the car on its route; constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from drivedit.models.conditions.route import route_checks
from drivedit.models.road import RoadState

LARGEST = 1e9  # of numbers that have no smaller bound
LARGEST_MOTION = 1e6  # of the motion state and the ego-motion
LONGEST = 1e12  # of clocks: their parts of a unit still count in float64
FRAMES = 2**53


@dataclass
class RangeState(RoadState):
    """State of B independent worlds. Times are in units of the spec's `dt`.

    Attributes:
        motion: `[B, M, h, w]`, corrected by the last scan.
        scans: `[B, 2, 2, H, W]` the last two as networks see them (`encode_range`), the newest at the end.
        clock: float64 `[B]`, of the newest one; a scene ends at 0.
        painted: int64 `[B]` scans painted so far.
        seeds: int64 `[B]` seeds of the random streams.
        rates: `[B, 3]` ego-motion of a unit of time, in units of `RangeWorldConfig.rate_scale`.
        pose: `[B, 3]` (x, y, yaw) on the route's plane.
        arc: `[B]` foot point on the route in metres.
        points: `[B, P, 2]` the route.
        count: `[B]` points of the route that count; 0: no route.
        spacing: `[B]` metres between two points.
        closed: `[B]` whether the route is a loop.
        bounds: `[B, 4]` of the playfield: x and y at least, x and y at most.
    """

    COUNT: ClassVar[str] = "clock"

    motion: Tensor
    scans: Tensor
    clock: Tensor
    painted: Tensor
    seeds: Tensor
    rates: Tensor
    pose: Tensor
    arc: Tensor
    points: Tensor
    count: Tensor
    spacing: Tensor
    closed: Tensor
    bounds: Tensor

    def check_values(self) -> None:
        """Checks the ranges of all fields; the layout has been checked.

        Raises:
            ValueError: A value cannot be part of a world's present moment.
        """
        self.check_whole(painted=FRAMES, count=self.points.shape[1])
        self.check_sizes(
            motion=LARGEST_MOTION, scans=1, clock=LONGEST, rates=LARGEST_MOTION, pose=LARGEST, arc=LARGEST,
            points=LARGEST, spacing=LARGEST,
        )  # fmt: skip
        mask = self.scans[:, :, 1]
        self.check_rows("scans", "with a mask of -1 or 1", (mask.abs() == 1).flatten(1).all(1))
        for check in route_checks(self.route):
            self.check_rows(*check)
