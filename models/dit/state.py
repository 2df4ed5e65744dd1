"""The state of a `DiTWorld`: the ring of keys and values, the last latents, the car on its route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, uint8

from drivedit.models.state import RowState
from drivedit.utils import Route

LARGEST = 1e9  # of all other numbers but seeds and clocks: their squares still fit into float32
LARGEST_MOTION = 1e6  # it sets scales and gates of the network, whose products multiply
LARGEST_CACHED = 1e12  # of keys and values, which a step makes of numbers up to `LARGEST`
FRAMES = 2**53  # most frames that a clock counts, exact in float64


@dataclass
class DiTState(RowState):
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

    @property
    def route(self) -> Route:
        """The routes of all rows."""
        return Route(self.points, self.count, self.spacing, self.closed, self.bounds)

    def check_indices(self) -> None:
        """Checks the values that say where memory is read and written; the layout has been checked.

        Raises:
            ValueError: A value is out of its range.
        """
        for name, most in (("clock", FRAMES), ("count", self.points.shape[1])):
            values = getattr(self, name).tolist()
            if min(values) < 0 or max(values) > most:
                raise ValueError(f"the state's {name} must be from 0 to {most}, got {values}")

    def check_values(self, control: float) -> None:
        """Checks the ranges of all fields; layout and indices have been checked.

        Args:
            control: Largest size of a control.

        Raises:
            ValueError: A value cannot be part of a world's present moment.
        """
        most_of = {"k": LARGEST_CACHED, "v": LARGEST_CACHED, "motion": LARGEST_MOTION, "control": control}
        for name in ("k", "v", "latents", "control", "motion", "pose", "arc", "points", "spacing", "others"):
            value, most = getattr(self, name), most_of.get(name, LARGEST)
            least, largest = (end.item() for end in value.aminmax()) if value.numel() else (0.0, 0.0)
            if not (-most <= least and largest <= most):  # NaN is neither
                got = f"{least:g} to {largest:g}"
                raise ValueError(f"the state's {name} must be finite, from {-most:g} to {most:g}, got {got}")
        for name, wanted, values, good in (
            ("count", "0 or at least 2 points", self.count, lambda count: count != 1),
            ("spacing", "more than 0 m", self.spacing, lambda spacing: spacing > 0),
            ("closed", "True or False", self.closed.view(uint8), lambda byte: byte < 2),
            ("told", "True or False", self.told.view(uint8), lambda byte: byte < 2),
            ("bounds", "[x_min, y_min, x_max, y_max]", self.bounds, lambda at: at[0] < at[2] and at[1] < at[3]),
        ):
            for value in values.tolist():
                if not good(value):
                    raise ValueError(f"the state's {name} must be {wanted}, got {value}")
