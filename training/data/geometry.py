"""The centre line of a track: foot points, headings and curvature in plain numpy.

Everything is right-positive: an offset is positive to the right of the line, a heading error is positive when the car
points to the right of the line. Shapes: `M` points on the line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivedit.utils import Truth


def wrap_angle(angle: float) -> float:
    """Brings an angle in radians into [-pi, pi)."""
    return float((angle + np.pi) % (2.0 * np.pi) - np.pi)


@dataclass(frozen=True)
class Projection:
    """The point of the centre line that is nearest to the car.

    Attributes:
        index: the segment that holds the point; it runs from point `index` to the next one.
        arc: arc length from point 0 to the foot point, in metres.
        offset: signed distance of the car from the line in metres, positive to the right.
        yaw: direction of the segment in radians, counter-clockwise from +x.
    """

    index: int
    arc: float
    offset: float
    yaw: float


class CentreLine:
    """A closed line through `points`, in driving direction.

    Args:
        points: world coordinates in metres, [M, 2].
    """

    def __init__(self, points: np.ndarray) -> None:
        self.points = np.asarray(points, dtype=np.float64)  # [M, 2]
        if self.points.ndim != 2 or self.points.shape[1] != 2 or len(self.points) < 3:
            raise ValueError(f"a centre line needs at least 3 points [M, 2], got an array of shape {self.points.shape}")
        self.vectors = np.roll(self.points, -1, axis=0) - self.points  # [M, 2]
        self.lengths = np.maximum(np.hypot(self.vectors[:, 0], self.vectors[:, 1]), 1e-9)  # [M]
        self.yaws = np.arctan2(self.vectors[:, 1], self.vectors[:, 0])  # [M]
        self.arcs = np.concatenate([[0.0], np.cumsum(self.lengths)])  # [M + 1]
        turns = (self.yaws - np.roll(self.yaws, 1) + np.pi) % (2.0 * np.pi) - np.pi
        self.curvature = turns / self.lengths  # [M], 1/m, positive to the left

    @property
    def length(self) -> float:
        """Length of one lap in metres."""
        return float(self.arcs[-1])

    def project(self, x: float, y: float) -> Projection:
        """Finds the nearest point of the line to `(x, y)`."""
        gaps = np.array([x, y]) - self.points  # [M, 2]
        along = (gaps * self.vectors).sum(1) / self.lengths**2
        along = np.clip(along, 0.0, 1.0)
        rest = gaps - along[:, None] * self.vectors
        index = int(np.argmin((rest * rest).sum(1)))
        dx, dy = rest[index]
        yaw = float(self.yaws[index])
        side = dx * np.sin(yaw) - dy * np.cos(yaw)
        distance = float(np.hypot(dx, dy))
        return Projection(
            index=index,
            arc=float(self.arcs[index] + along[index] * self.lengths[index]),
            offset=distance if side >= 0.0 else -distance,
            yaw=yaw,
        )

    def at(self, arc: float) -> tuple[float, float, float]:
        """The point at an arc length (wrapped round the lap).

        Returns:
            (x, y, yaw) in metres and radians.
        """
        arc = arc % self.length
        index = min(int(np.searchsorted(self.arcs, arc, side="right")) - 1, len(self.points) - 1)
        part = (arc - self.arcs[index]) / self.lengths[index]
        x, y = self.points[index] + part * self.vectors[index]
        return float(x), float(y), float(self.yaws[index])

    def bend(self, arc: float, ahead: float, smooth: int = 3) -> float:
        """The sharpest curvature (1/m, unsigned) between `arc` and `arc + ahead`, averaged over `smooth` points."""
        arcs = np.arange(arc, arc + ahead, self.length / len(self.points)) % self.length
        index = np.minimum(np.searchsorted(self.arcs, arcs, side="right") - 1, len(self.points) - 1)
        window = (index[:, None] + np.arange(smooth)) % len(self.points)
        return float(np.abs(self.curvature[window].mean(1)).max())


@dataclass(frozen=True)
class RoadTruth(Truth):
    """What a simulator of a road knows, with the geometry of its centre line.

    Attributes:
        line: The centre line.
    """

    line: CentreLine | None = None

    @property
    def road(self) -> tuple[np.ndarray, CentreLine]:
        """Pose and centre line of a car on a road.

        Raises:
            ValueError: There is none.
        """
        if self.pose is None or self.line is None:
            raise ValueError("this driver follows a road: the simulator must tell a pose and a centre line")
        return self.pose, self.line
