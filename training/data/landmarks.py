"""Drives of two laps past coloured landmarks, from above: what only memory can know about the second lap.

Which colour a landmark has is drawn anew for every drive, and nothing but an earlier look at it tells.

Legend: N drives, T frames, L landmarks, H rows and W columns of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from drivedit.config import all_domains, find_domain
from drivedit.utils import load_object


class LandmarkDrive(NamedTuple):
    """One drive of about two laps.

    Attributes:
        frames: uint8 `[T, H, W, 3]`.
        poses: float32 `[T, 3]`, x and y in m and yaw.
        lap: The first frame of the second lap.
        places: Middles of the landmarks, `[L, 2]`.
        colours: Their colours, indices of the palette, `[L]`.
    """

    frames: np.ndarray
    poses: np.ndarray
    lap: int
    places: np.ndarray
    colours: np.ndarray


@dataclass
class LandmarkDrives:
    """Several drives, equally long.

    Attributes:
        landmarks: What they go past.
        frames: uint8 `[N, T, H, W, 3]`.
        poses: float32 `[N, T, 3]`, x and y in m and yaw.
        lap: int `[N]`, the first frame of the second lap.
        places: Middles of the landmarks of each drive, `[L, 2]`.
        colours: Their colours, indices of the palette, `[L]`.
    """

    landmarks: Landmarks
    frames: np.ndarray
    poses: np.ndarray
    lap: np.ndarray
    places: list[np.ndarray]
    colours: list[np.ndarray]


@dataclass(frozen=True)
class Landmarks:
    """The landmarks of a domain, and the pictures from above in which a drive shows them; the car heads to row 0.

    Attributes:
        rows: Height H of a picture in pixels, a multiple of 4.
        columns: Its width W, a multiple of 4.
        metres: Of a row and of a column.
        car: Row and column of the car.
        middle: Of what is asked of memory, m before and to the right of the car.
        reach: How far from the middle what memory knows is told, m along and across.
        near: How far from the middle a landmark is judged, m along and across.
        motion: Units of the ego-motion between two frames: m ahead, m to the right, rad.
        field: m; larger than the tracks.
        palette: The colours of landmarks by name, red, green and blue from 0 to 255.
        drive: Records one drive, a function of the seed of its track: seed, frames, and whether every landmark gets
            another colour than it has otherwise while all else stays. Raises ValueError where it has no second lap.
    """

    rows: int
    columns: int
    metres: tuple[float, float]
    car: tuple[int, int]
    middle: tuple[float, float]
    reach: tuple[float, float]
    near: tuple[float, float]
    motion: tuple[float, float, float]
    field: float
    palette: Mapping[str, tuple[int, int, int]]
    drive: Callable[[int, int, bool], LandmarkDrive]

    def record(self, seeds: range, frames: int, repainted: bool = False) -> LandmarkDrives:
        """Drives on the tracks of some seeds.

        Args:
            seeds: Seeds of the tracks; those from `DomainConfig.held_out_from` on are for judging.
            frames: Frames of a drive.
            repainted: Give every landmark another colour than it has otherwise, and leave all else as it is.

        Raises:
            ValueError: A drive does not reach its second lap.
        """
        drives = [self.drive(seed, frames, repainted) for seed in tqdm(seeds, desc="drives", mininterval=5)]
        pictures, poses, lap, places, colours = zip(*drives, strict=True)
        return LandmarkDrives(self, np.stack(pictures), np.stack(poses), np.array(lap), list(places), list(colours))

    def pixel_of(self, forward: float, right: float) -> tuple[int, int]:
        """Row and column of the pixel that shows a point so many metres before and to the right of the car."""
        row = self.car[0] - float(forward) / self.metres[0]
        return int(np.floor(row)), int(np.floor(self.car[1] + float(right) / self.metres[1]))

    def named(self, frame: np.ndarray, row: int, column: int) -> int:
        """Index of the landmark colour that the 3 x 3 pixels around a pixel of `[H, W, 3]` resemble most."""
        seen = spot(frame, row, column).mean((0, 1))
        return int(np.square(np.array(list(self.palette.values())) - seen).sum(1).argmin())


def spot(frame: np.ndarray, row: int, column: int) -> np.ndarray:
    """The 3 x 3 pixels around a pixel of `[H, W, 3]`, float."""
    return frame[row - 1 : row + 2, column - 1 : column + 2].astype(np.float64)


def find_landmarks(domain: str) -> Landmarks:
    """The landmarks of a domain.

    Raises:
        ValueError: There is no such domain, or it has none; those that have are named.
    """
    path = find_domain(domain).landmarks
    if not path:
        known = ", ".join(name for name, config in all_domains().items() if config.landmarks)
        raise ValueError(f"the domain {domain} has no landmarks to judge memory by; those that have: {known or 'none'}")
    return load_object(path)
