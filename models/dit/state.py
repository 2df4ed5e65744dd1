"""The state of a `DiTWorld`: the ring of keys and values, the last latents, the car on its route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, uint8

from drivedit.models.conditions.route import route_checks
from drivedit.models.road import RoadState

LARGEST = 1e9  # of all other numbers but seeds and clocks: their squares still fit into float32
LARGEST_MOTION = 1e6  # it sets scales and gates of the network, whose products multiply
LARGEST_CACHED = 1e12  # of keys and values, which a step makes of numbers up to `LARGEST`
FRAMES = 2**53  # most frames that a clock counts, exact in float64


@dataclass
class DiTState(RoadState):
    """State of B independent worlds.

    Attributes:
        k: Attention keys `[L, B, H, W, P, E / H]`, a ring of the last W frames.
        v: Attention values, likewise.
        clock: `[B]` frames in the ring so far.
        seeds: `[B]` seeds of the random streams.
        latents: `[B, max(history, 1), C, h, w]` last clean latents, the latest first.
        control: `[B, A]` the last control.
        motion: `[B, 3]` the last ego-motion, in units of `WorldConfig.motion_scale`.
        pose: `[B, 3]` (x, y, yaw) on the route's plane.
        arc: `[B]` foot point on the route in metres.
        points: `[B, M, 2]` the route.
        count: `[B]` points of the route that count; 0: no route.
        spacing: `[B]` metres between two points.
        closed: `[B]` whether the route is a loop.
        bounds: `[B, 4]` of the playfield: x and y at least, x and y at most.
        others: `[B, A, 8]` boxes of others and their speeds, as `drivedit.models.conditions.layout` has them.
        told: `[B]` whether the world is told who is there; else it dreams others as it likes.
    """

    COUNT: ClassVar[str] = "clock"

    k: Tensor = field(metadata={"rows": 1})
    v: Tensor = field(metadata={"rows": 1})
    clock: Tensor
    seeds: Tensor
    latents: Tensor
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

    def check_indices(self) -> None:
        """Checks the values that say where memory is read and written; the layout has been checked.

        Raises:
            ValueError: A value is out of its range.
        """
        self.check_whole(clock=FRAMES, count=self.points.shape[1])

    def check_values(self, control: float) -> None:
        """Checks the ranges of all fields; layout and indices have been checked.

        Args:
            control: Largest size of a control.

        Raises:
            ValueError: A value cannot be part of a world's present moment.
        """
        numbers = ("k", "v", "latents", "control", "motion", "pose", "arc", "points", "spacing", "others")
        own = {"k": LARGEST_CACHED, "v": LARGEST_CACHED, "motion": LARGEST_MOTION, "control": control}
        self.check_sizes(**{name: own.get(name, LARGEST) for name in numbers})
        for check in (*route_checks(self.route), ("told", "True or False", self.told.view(uint8) < 2)):
            self.check_rows(*check)
