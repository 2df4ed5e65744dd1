"""The state of a `BevWorld`: the ground around the car, the start picture, others and how they look; constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, uint8

from drivedit.models.bev.parts import Scenery
from drivedit.models.conditions.route import route_checks
from drivedit.models.road import RoadState

LARGEST = 1e9  # of numbers that have no smaller bound
LARGEST_MOTION = 1e6  # of the ego-motion
FRAMES = 2**53  # most frames that a clock counts, exact in float64


@dataclass
class BevState(RoadState):
    """State of B independent worlds.

    Attributes:
        frame: `[B, C, H, W]` the last picture in [-1, 1].
        ground: `[B, G, X, Y]` what is remembered of the ground, in [-1, 1].
        anchor: `[B, 3]` (x, y, yaw) from where its window is seen.
        code: `[B, E]` of the start scene as a whole.
        key: `[B, C + 1, H, W]` the start picture, and where it shows others.
        key_pose: `[B, 3]` from where it was seen.
        looks: `[B, A, L + 4]` how others look, and where the start picture shows them.
        clock: `[B]` frames so far.
        seeds: `[B]` seeds of the random streams.
        control: `[B, A]` the last control.
        motion: `[B, 3]` the last ego-motion, in units of `BevWorldConfig.motion_scale`.
        pose: `[B, 3]` (x, y, yaw) on the route's plane.
        arc: `[B]` foot point on the route in metres.
        points: `[B, P, 2]` the route.
        count: `[B]` points of the route that count; 0: no route.
        spacing: `[B]` metres between two points.
        closed: `[B]` whether the route is a loop.
        bounds: `[B, 4]` of the playfield: x and y at least, x and y at most.
        others: `[B, A, 8]` boxes of others and their speeds, as `drivedit.models.conditions.layout` has them.
        told: `[B]` whether they were told; else the world has read them off its start scene.
    """

    COUNT: ClassVar[str] = "clock"

    frame: Tensor
    ground: Tensor
    anchor: Tensor
    code: Tensor
    key: Tensor
    key_pose: Tensor
    looks: Tensor
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

    @property
    def scenery(self) -> Scenery:
        """What pictures are rendered of."""
        return Scenery(self.ground, self.anchor, self.code, self.key, self.key_pose)

    def check_values(self, control: float) -> None:
        """Checks the ranges of all fields; the layout has been checked.

        Args:
            control: Largest size of a control.

        Raises:
            ValueError: A value cannot be part of a world's present moment.
        """
        self.check_whole(clock=FRAMES, count=self.points.shape[1])
        self.check_sizes(
            frame=1, ground=1, key=1, code=LARGEST, looks=LARGEST, anchor=LARGEST, key_pose=LARGEST, control=control,
            motion=LARGEST_MOTION, pose=LARGEST, arc=LARGEST, points=LARGEST, spacing=LARGEST, others=LARGEST,
        )  # fmt: skip
        for check in (*route_checks(self.route), ("told", "True or False", self.told.view(uint8) < 2)):
            self.check_rows(*check)
