"""The route ahead: a centre line in the plane, and where the car is on it.

Legend: B rows, M points, K arc-length offsets. Poses are (x, y, yaw) with yaw counter-clockwise from +x; everything
told to networks and people is right-positive, like steering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

SPACING = 2.0  # metres between the points of a resampled route
CAPACITY = 768  # points kept of a route; longer ones are told with wider steps
REACH = 12  # points searched on either side of the last foot point
UNBOUNDED = np.array([-np.inf, -np.inf, np.inf, np.inf], np.float32)


@dataclass
class Route:
    """Routes of B rows, resampled to equal steps and padded to M = `CAPACITY` points.

    Attributes:
        points: `[B, M, 2]` in metres.
        count: `[B]` points that count; 0 means that the row has no route.
        spacing: `[B]` metres between two points.
        closed: `[B]` whether the last point leads to the first.
        bounds: `[B, 4]` of the playfield: x and y at least, x and y at most; infinite where there are none.
    """

    points: Tensor
    count: Tensor
    spacing: Tensor
    closed: Tensor
    bounds: Tensor

    @classmethod
    def from_points(
        cls,
        routes: Sequence[np.ndarray | None],
        closed: Sequence[bool],
        bounds: Sequence[np.ndarray | None] | None = None,
    ) -> Route:
        """Resamples polylines to steps of about two metres.

        Args:
            routes: One array `[m, 2]` (m >= 2) per row, or None for a row without a route.
            closed: Whether each one is a loop.
            bounds: The playfield of each row, `[4]` or None; None: none has bounds.

        Raises:
            ValueError: A polyline has the wrong shape, is not finite, or has no length.
        """
        lines = [_resample(line, loop) for line, loop in zip(routes, closed, strict=True)]
        stacked = np.zeros((len(lines), CAPACITY, 2), np.float32)
        for row, (points, _) in enumerate(lines):
            stacked[row, : len(points)] = points
        edges = [UNBOUNDED if b is None else np.asarray(b, np.float32) for b in bounds or [None] * len(lines)]
        return cls(
            torch.from_numpy(stacked),
            torch.tensor([len(points) for points, _ in lines]),
            torch.tensor([step for _, step in lines], dtype=torch.float32),
            torch.tensor([bool(c) for c in closed]),
            torch.from_numpy(np.stack(edges)),
        )

    def to(self, device: torch.device | str) -> Route:
        """Moves the routes to a device."""
        return Route(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def rows(self, where: Tensor) -> Route:
        """Some of the rows; one may be named several times."""
        return Route(**{f.name: getattr(self, f.name)[where] for f in fields(self)})

    def at(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Points and unit tangents at arc lengths.

        Open routes go on straight beyond their ends.

        Args:
            s: Arc lengths `[B, K]` in metres.

        Returns:
            Points `[B, K, 2]` and tangents `[B, K, 2]`.
        """
        position = s / self.spacing[:, None]
        count = self.count.clamp(min=2)[:, None]
        loop = self.closed[:, None]
        low = torch.floor(position)
        low = torch.where(loop, low, low.clamp(min=0).minimum((count - 2).to(low)))
        fraction = position - low
        first = torch.where(loop, low.long() % count, low.long())
        second = torch.where(loop, (first + 1) % count, first + 1)
        start = _gather(self.points, first)
        step = _gather(self.points, second) - start
        return start + fraction[..., None] * step, torch.nn.functional.normalize(step, dim=-1)

    def ahead(self, s: Tensor, yaw: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Points and unit tangents some way ahead, the way that cars face.

        Args:
            s: Arc lengths `[B]` of the cars' foot points in metres.
            yaw: `[B]` where they face, which may be against the route.
            offsets: Metres ahead `[K]`, negative behind.

        Returns:
            Points `[B, K, 2]` and tangents `[B, K, 2]`.
        """
        _, tangent = self.at(s[:, None])
        facing = torch.stack([yaw.cos(), yaw.sin()], -1)
        sign = torch.where((tangent[:, 0] * facing).sum(-1) < 0, -1.0, 1.0)
        points, tangents = self.at(s[:, None] + sign[:, None] * offsets)
        return points, tangents * sign[:, None, None]

    def locate(self, xy: Tensor, s: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Foot points of positions on the routes, as `foot` finds them, and where the positions are beside them.

        Returns:
            Arc length `[B]`, offset to the right in metres `[B]`, and tangent `[B, 2]`.
        """
        arc = self.foot(xy, s)
        point, tangent = self.at(arc[:, None])
        delta, tangent = xy - point[:, 0], tangent[:, 0]
        return arc, delta[:, 0] * tangent[:, 1] - delta[:, 1] * tangent[:, 0], tangent

    def foot(self, xy: Tensor, s: Tensor | None) -> Tensor:
        """Arc lengths `[B]` of the foot points of positions.

        The foot point moves continuously from `s`; it jumps to another stretch only when the car is far from the old
        one and clearly nearer to the other.

        Args:
            xy: Positions `[B, 2]`.
            s: Last arc lengths `[B]`, or None to search everywhere.
        """
        width = self.points.shape[1]
        slots = torch.arange(width, device=xy.device)
        distance = (self.points - xy[:, None]).norm(dim=-1)
        distance = distance.masked_fill(slots >= self.count[:, None].clamp(min=1), torch.inf)
        index = distance.argmin(1)
        if s is not None:
            position = torch.round(s / self.spacing).long()
            near = position[:, None] + torch.arange(-REACH, REACH + 1, device=xy.device)
            count = self.count.clamp(min=2)[:, None]
            near = torch.where(self.closed[:, None], near % count, near.clamp(min=0).minimum(count - 1))
            local, best = distance.gather(1, near).min(1)
            jump = (local > 15) & (distance.gather(1, index[:, None])[:, 0] < 0.6 * local)
            index = torch.where(jump, index, near.gather(1, best[:, None])[:, 0])
        arc = index * self.spacing
        for _ in range(2):  # slide along the tangent from the nearest point to the foot point
            point, tangent = self.at(arc[:, None])
            delta = xy - point[:, 0]
            arc = arc + (delta * tangent[:, 0]).sum(-1).clamp(-SPACING, SPACING)
        return torch.where(self.closed, arc % (self.count * self.spacing).clamp(min=SPACING), arc)


def advance_pose(pose: Tensor, motion: Tensor) -> Tensor:
    """Moves poses `[..., 3]` by ego-motions `[..., 3]`: forward and right in m, turn to the right in rad."""
    forward, right, turn = motion.unbind(-1)
    cos, sin = pose[..., 2].cos(), pose[..., 2].sin()
    x = pose[..., 0] + forward * cos + right * sin
    y = pose[..., 1] + forward * sin - right * cos
    return torch.stack([x, y, pose[..., 2] - turn], -1)


def motion_between(before: Tensor, after: Tensor) -> Tensor:
    """The ego-motion `[..., 3]` that leads from one pose to the next; the inverse of `advance_pose`."""
    delta = after[..., :2] - before[..., :2]
    cos, sin = before[..., 2].cos(), before[..., 2].sin()
    turn = torch.remainder(before[..., 2] - after[..., 2] + torch.pi, 2 * torch.pi) - torch.pi
    return torch.stack([delta[..., 0] * cos + delta[..., 1] * sin, delta[..., 0] * sin - delta[..., 1] * cos, turn], -1)


def _gather(points: Tensor, index: Tensor) -> Tensor:
    return points.gather(1, index[..., None].expand(*index.shape, 2))


def _resample(line: np.ndarray | None, closed: bool) -> tuple[np.ndarray, float]:
    if line is None:
        return np.zeros((0, 2), np.float32), SPACING
    line = np.asarray(line, np.float64)
    if line.ndim != 2 or line.shape[1] != 2 or len(line) < 2 or not np.isfinite(line).all():
        raise ValueError(f"a route must be a finite array [m >= 2, 2] of points, got shape {line.shape}")
    if closed:
        line = np.concatenate([line, line[:1]])
    keep = np.concatenate([[True], np.linalg.norm(np.diff(line, axis=0), axis=1) > 1e-6])
    line = line[keep]
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    if arc[-1] < 2 * SPACING:
        raise ValueError(f"a route must be longer than {2 * SPACING} m, got {arc[-1]:.2f} m")
    steps = min(max(int(round(arc[-1] / SPACING)), 2), CAPACITY - 1)
    s = np.linspace(0, arc[-1], steps + 1)
    points = np.stack([np.interp(s, arc, line[:, i]) for i in range(2)], -1).astype(np.float32)
    return points[:-1] if closed else points, float(arc[-1] / steps)
