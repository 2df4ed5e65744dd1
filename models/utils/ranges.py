"""Range images: what a turning LiDAR measures, as a picture; from points to pictures, and back.

A picture has metres and a mask. Columns run clockwise from straight ahead minus half a turn, so the middle one looks
straight ahead; rows run from the highest beam down. Points are x ahead, y left, z up, in metres from the sensor.

Legend: N points, H W rows and columns of a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivedit.utils.checks import real_numbers

BEAMS = 64  # of the sensor; pictures with fewer rows take every second of them, every fourth, ...


@dataclass(frozen=True)
class RangeView:
    """How a LiDAR looks around; unless told otherwise one of 64 beams, as on cars of many recordings.

    Attributes:
        rows: H.
        columns: W.
        highest: Elevation of the highest beam, radians.
        lowest: Of the lowest of 64.
        reach: The greatest distance in metres; what is farther did not come back.
    """

    rows: int = 32
    columns: int = 256
    highest: float = math.radians(3.0)
    lowest: float = math.radians(-25.0)
    reach: float = 85.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or not self.highest > self.lowest or not self.reach > 0:
            raise ValueError(f"a view has rows, columns, a reach, and its highest beam above its lowest, got {self}")

    @property
    def elevations(self) -> np.ndarray:
        """Of the beams of each row, radians, float64 `[H]`, falling."""
        return self.highest - np.arange(self.rows) * self._apart

    @property
    def azimuths(self) -> np.ndarray:
        """Of the beams of each column, radians clockwise from straight ahead, float64 `[W]`."""
        return (np.arange(self.columns) / self.columns - 0.5) * 2 * math.pi

    @property
    def _apart(self) -> float:
        """Radians from one row to the next."""
        return (self.highest - self.lowest) / (BEAMS - 1) * BEAMS / self.rows

    def project(self, points: np.ndarray) -> np.ndarray:
        """The range image of points, each in the cell of the beam next to it; the nearest one of a cell stays.

        Points beyond the reach, or more than half a row above or below all beams, are left out.

        Args:
            points: `[N, 3]` or with more columns, of which the first three count.

        Returns:
            float32 `[H, W, 2]`: metres (0 where nothing came back) and a mask.

        Raises:
            ValueError: These are no points, one of them is not finite, or all lie behind the sensor.
        """
        xyz = check_points(points)
        distance = np.linalg.norm(xyz, axis=1)
        seen = (distance > 0) & (distance <= self.reach)
        xyz, distance = xyz[seen], distance[seen]
        right = -np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * math.pi)
        column = np.floor((right + 0.5) * self.columns + 0.5).astype(np.int64) % self.columns
        row = np.floor((self.highest - np.arcsin(xyz[:, 2] / distance)) / self._apart + 0.5).astype(np.int64)
        inside = (row >= 0) & (row < self.rows)
        metres = np.full(self.rows * self.columns, np.inf)
        np.minimum.at(metres, row[inside] * self.columns + column[inside], distance[inside])
        metres = metres.reshape(self.rows, self.columns)
        mask = np.isfinite(metres)
        return np.stack([np.where(mask, metres, 0.0), mask], -1).astype(np.float32)

    def unproject(self, image: np.ndarray) -> np.ndarray:
        """The points of a range image, each in the middle of its cell.

        Args:
            image: `[H, W, 2]`: metres and a mask; a cell counts where the mask is above one half.

        Returns:
            float64 `[N, 3]`, row by row.

        Raises:
            ValueError: The picture is of another size, or holds no numbers.
        """
        image = real_numbers(image, f"a range image must be [{self.rows}, {self.columns}, 2]")
        if image.shape != (self.rows, self.columns, 2):
            raise ValueError(f"a range image must be [{self.rows}, {self.columns}, 2], got {list(image.shape)}")
        row, column = np.nonzero(image[..., 1] > 0.5)
        up, right = self.elevations[row], self.azimuths[column]
        beam = np.stack([np.cos(up) * np.cos(right), -np.cos(up) * np.sin(right), np.sin(up)], -1)
        return image[row, column, :1].astype(np.float64) * beam


def check_points(points: np.ndarray) -> np.ndarray:
    """Points as float64 `[N, 3]`.

    Raises:
        ValueError: They have another shape, one is not finite, or all lie behind the sensor.
    """
    xyz = real_numbers(points, "points must be [N >= 1, 3 or more]")
    if xyz.ndim != 2 or not len(xyz) or xyz.shape[1] < 3:
        raise ValueError(f"points must be [N >= 1, 3 or more], got {list(xyz.shape)}")
    xyz = xyz[:, :3].astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(xyz).all(1))
    if len(wrong):
        raise ValueError(f"{len(wrong)} of {len(xyz)} points are not finite, the first is number {wrong[0]}")
    if (xyz[:, 0] < 0).all():
        raise ValueError(f"all {len(xyz)} points lie behind the sensor (x < 0); x must point ahead, y left, z up")
    return xyz
