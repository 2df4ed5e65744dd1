"""Scans of a LiDAR become recordings of range images: a folder of point files, and a table of controls.

Scans are taken in the order of their names. When each was taken stands in `times.txt` in the folder or beside it, a
line of seconds for each, or else they follow each other evenly. Each is drawn as a range image of
`drivedit.utils.ranges`.

Legend: n steps between n + 1 scans, H W rows and columns of a range image.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from drivedit.config import Modality
from drivedit.data.exchange.control_table import ControlTable
from drivedit.data.exchange.points import READERS, read_points
from drivedit.utils.ranges import RangeView

SIZE = (32, 256)  # of range images, unless one is asked for
FPS = 10.0  # of scans without times
BEAMS = (3.0, -25.0)  # degrees of the highest and lowest beam, unless told

log = logging.getLogger(__name__)


class ScanDrive:
    """The scans of one drive.

    Args:
        path: The folder.
        fps: Scans per second; None: what `times.txt` says, or 10.

    Attributes:
        path: The folder.
        files: The point files, in order.
        times: When each was taken, seconds from the first one, float64 `[n + 1]`.
        seconds: From the first scan to the last.
        rate: Scans per second, in the middle, of intervals in whole milliseconds.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds fewer than two scans, or times do not fit them.
    """

    def __init__(self, path: str | Path, fps: float | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no folder of point files {self.path}")
        self.files = sorted((file for file in self.path.iterdir() if file.suffix in READERS), key=_in_order)
        if len(self.files) < 2:
            raise ValueError(f"{self.path} must hold at least 2 files {', '.join(READERS)}, got {len(self.files)}")
        told = [place / "times.txt" for place in (self.path, self.path.parent)]
        found = next((place for place in told if fps is None and place.is_file()), None)
        self.times = np.arange(len(self.files)) / (fps or FPS) if found is None else self._read(found)
        self.seconds = float(self.times[-1])
        middle = max(1e-3, round(float(np.median(np.diff(self.times))), 3))
        self.rate = fps or FPS if found is None else 1 / middle

    def frames(self, view: RangeView, progress: bool = False) -> Iterator[tuple[int, float, np.ndarray]]:
        """Number, second and range image `[H, W, 2]` of each scan; a pause among them leaves out a number.

        Raises:
            ValueError: A file is damaged, or none of its points lies within the view.
        """
        number, longest = 0, 1.5 / self.rate
        for index, file in enumerate(tqdm(self.files, self.path.name, unit=" scan", disable=not progress)):
            image = view.project(read_points(file))
            if not image[..., 1].any():
                raise ValueError(
                    f"{file}: no point lies within {view.reach:g} m and the beams, {math.degrees(view.highest):g} to "
                    f"{math.degrees(view.lowest):g} degrees; x must point ahead, y left, z up"
                )
            number += 1 + (index > 0 and self.times[index] - self.times[index - 1] > longest)
            yield number, float(self.times[index]), image

    def _read(self, path: Path) -> np.ndarray:
        """The times of a file, from the first one."""
        try:
            times = np.array([float(line) for line in path.read_text().split()])
        except ValueError:
            raise ValueError(f"{path} must hold a line of seconds for each scan, and nothing else") from None
        if len(times) != len(self.files):
            raise ValueError(f"{path} has {len(times)} times for {len(self.files)} scans in {self.path}")
        if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
            late = int(np.argmin(np.diff(times) > 0)) + 1
            raise ValueError(f"times in {path} must rise, scan {late} has {times[late]:g} after {times[late - 1]:g}")
        return times - times[0]


def view_of(size: tuple[int, int] | None, beams: tuple[float, float]) -> RangeView:
    """The view of range images of a size, between two beams in degrees.

    Raises:
        ValueError: They make none.
    """
    rows, columns = size or SIZE
    return RangeView(rows, columns, math.radians(beams[0]), math.radians(beams[1]))


def modality(view: RangeView) -> Modality:
    """What range images of a view are."""
    return Modality((view.rows, view.columns, 2), "float32", 0.0, view.reach, "m")


def say(drive: ScanDrive, view: RangeView, table: ControlTable) -> None:
    """Says what is done to scans."""
    told = ", ".join(table.told) or "none"
    log.info(
        "%s: %d scans at %.4g a second for %.1f s -> %d x %d (rows x columns), nearest return per cell; telemetry %s",
        drive.path, len(drive.files), drive.rate, drive.seconds, view.rows, view.columns, told,
    )  # fmt: skip


def _in_order(file: Path) -> list[tuple[bool, int, str]]:
    """Names by the numbers in them, `scan_9` before `scan_10`."""
    parts = re.findall(r"\d+|\D+", file.name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
