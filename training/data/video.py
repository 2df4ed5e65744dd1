"""Filmed drives: the frames of a video at equal times, and a table of timestamped controls brought to them.

The table is a CSV file with a header and the columns `time` (seconds, increasing), `steering` and `throttle` (in
[-1, 1]; +1 is right, -1 is full brake), and, where they are known, `speed` (m/s) and `x`, `y` (metres, on a plane with
yaw counter-clockwise from +x) with or without `yaw` (radians). Frames get the time that the video gives them.

Legend: N rows of the table, n steps between n + 1 frames.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from drivedit.data.pictures import resized

NEEDED = ("time", "steering", "throttle")
KNOWN = (*NEEDED, "speed", "x", "y", "yaw")
MOVED = 0.5  # metres after which the direction of motion tells the heading
POINT_STEP = 2.0  # metres between the points of a route
BEFORE, AFTER = 10.0, 30.0  # seconds of the driven path before and after some frames that are their route


class ControlTable:
    """Timestamped controls, and what else was logged with them.

    Args:
        path: The CSV file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing or unknown, a value is no number, the time does not increase, or controls lie
            outside [-1, 1].
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no table of controls {self.path}")
        with open(self.path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
        names = [name.strip().lower() for name in rows[0]] if rows else []
        missing, unknown = [n for n in NEEDED if n not in names], [n for n in names if n not in KNOWN]
        if missing or unknown or len(set(names)) < len(names) or len({"x", "y"} & set(names)) == 1:
            raise ValueError(
                f"{self.path} must have the columns {', '.join(NEEDED)} and may have {', '.join(KNOWN[3:])} "
                f"(x and y together), got {', '.join(names) or 'nothing'}"
            )
        self.columns = dict(zip(names, self._numbers(rows, len(names)).T, strict=True))
        self.time = self.columns["time"]
        if len(self.time) < 2 or not (np.diff(self.time) > 0).all():
            late = np.flatnonzero(np.diff(self.time) <= 0)
            where = (
                f"line {late[0] + 3} has {self.time[late[0] + 1]:g} after {self.time[late[0]]:g}" if len(late) else ""
            )
            raise ValueError(
                f"the time in {self.path} must increase over at least 2 lines; {where or 'there are fewer'}"
            )
        controls = np.stack([self.columns[name] for name in NEEDED[1:]], -1)
        if np.abs(controls).max() > 1:
            raise ValueError(
                f"steering and throttle in {self.path} must lie in [-1, 1], the largest is {np.abs(controls).max():g}; "
                "divide them by what full lock and full throttle or brake are"
            )
        self._controls = controls

    def covers(self, start: float, end: float) -> bool:
        """Whether the table reaches from one time to another."""
        return self.time[0] <= start and end <= self.time[-1]

    def controls(self, times: np.ndarray) -> np.ndarray:
        """Mean controls between n + 1 increasing times, float32 `[n, 2]`; between two lines they change evenly.

        Means, not samples: what the wheel did between two frames is what moves the second one.
        """
        grid = np.union1d(self.time, times)
        values = np.stack([np.interp(grid, self.time, column) for column in self._controls.T], -1)
        areas = 0.5 * (values[1:] + values[:-1]) * np.diff(grid)[:, None]
        total = np.concatenate([np.zeros((1, 2)), np.cumsum(areas, 0)])[np.searchsorted(grid, times)]
        return np.clip(np.diff(total, axis=0) / np.diff(times)[:, None], -1, 1).astype(np.float32)

    def speed(self, times: np.ndarray) -> np.ndarray:
        """Speed at some times; NaN where it was not logged."""
        return self._at("speed", times)

    def poses(self, times: np.ndarray) -> np.ndarray:
        """x, y and yaw at some times, float64 `[n + 1, 3]`; NaN where positions were not logged.

        Without a column `yaw` the heading is the direction of motion, kept while the car stands.
        """
        if "x" not in self.columns:
            return np.full((len(times), 3), np.nan)
        x, y = self._at("x", times), self._at("y", times)
        return np.stack([x, y, np.interp(times, self.time, self._yaw())], -1)

    def route(self, start: float, end: float) -> np.ndarray:
        """The driven path around a stretch of time, float32 `[M, 2]`; empty where it is not known or not left."""
        if "x" not in self.columns:
            return np.zeros((0, 2), np.float32)
        near = (self.time >= start - BEFORE) & (self.time <= end + AFTER)
        path = np.stack([self.columns["x"], self.columns["y"]], -1)[near]
        kept = [0] if len(path) else []
        for index in range(1, len(path)):
            if np.linalg.norm(path[index] - path[kept[-1]]) >= POINT_STEP:
                kept.append(index)
        return path[kept].astype(np.float32) if len(kept) > 3 else np.zeros((0, 2), np.float32)

    def _at(self, name: str, times: np.ndarray) -> np.ndarray:
        if name not in self.columns:
            return np.full(len(times), np.nan)
        return np.interp(times, self.time, self.columns[name])

    def _yaw(self) -> np.ndarray:
        """Yaw of every line, without jumps."""
        if "yaw" in self.columns:
            return np.unwrap(self.columns["yaw"])
        path = np.stack([self.columns["x"], self.columns["y"]], -1)
        times, yaws, last = [], [], 0
        for index in range(1, len(path)):
            step = path[index] - path[last]
            if np.hypot(*step) >= MOVED:
                times.append(0.5 * (self.time[last] + self.time[index]))
                yaws.append(math.atan2(step[1], step[0]))
                last = index
        return np.interp(self.time, times, np.unwrap(yaws)) if yaws else np.zeros(len(path))

    def _numbers(self, rows: list[list[str]], width: int) -> np.ndarray:
        """The lines below the header, float64 `[N, width]`."""
        values = np.empty((len(rows) - 1, width))
        for number, row in enumerate(rows[1:]):
            try:
                values[number] = [float(cell) for cell in row]
            except ValueError:
                values[number] = np.nan
            if not np.isfinite(values[number]).all():
                raise ValueError(f"line {number + 2} of {self.path} must hold {width} numbers, got {','.join(row)!r}")
        return values


class Video:
    """The frames of a video file at equal times.

    Args:
        path: The file; anything that FFmpeg decodes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no video.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no video {self.path}")
        try:
            with av.open(str(self.path)) as container:
                streams = container.streams.video
                rate = streams[0].average_rate or streams[0].guessed_rate if streams else None
                self.count = streams[0].frames if streams else 0  # 0: the file does not say
        except FFmpegError as error:
            raise ValueError(f"{self.path} cannot be decoded ({error}); is it a whole video file?") from error
        if not streams or not rate:
            raise ValueError(f"{self.path} has no pictures with a frame rate; is it a video file?")
        self.rate = float(rate)

    def frames(self, fps: float, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Goes through the video at a rate of its own.

        Args:
            fps: Frames per second, at most the video's own rate.
            size: Height and width to bring the pictures to.

        Yields:
            Number k and picture uint8 `[H, W, 3]` of the frame nearest to second k / fps after the first frame. Where
            the video has a hole, numbers are missing.

        Raises:
            ValueError: `fps` is too high, or the video is damaged, stored rotated, or has no times.
        """
        if not 0 < fps <= 1.01 * self.rate:
            raise ValueError(
                f"{self.path} has {self.rate:.4g} frames per second, so fps can be at most that, got {fps}"
            )
        best: tuple[int, float, np.ndarray] | None = None
        first, last = None, 0.0
        try:
            with av.open(str(self.path)) as container:
                for frame in container.decode(video=0):
                    if frame.time is None or frame.rotation:
                        raise ValueError(
                            f"{self.path} is stored {_fault(frame)}: write it anew, upright and with times"
                        )
                    first = frame.time if first is None else first
                    last = frame.time - first
                    number = math.floor(last * fps + 0.5)
                    off = abs(last * fps - number)
                    if best is not None and number != best[0]:
                        yield best[0], best[2]
                        best = None
                    if best is None or off < best[1]:
                        best = number, off, resized(frame.to_ndarray(format="rgb24"), size)
        except FFmpegError as error:
            raise ValueError(f"{self.path} cannot be decoded beyond second {last:.2f} ({error})") from error
        if best is not None:
            yield best[0], best[2]


def _fault(frame: av.VideoFrame) -> str:
    return "without times" if frame.time is None else f"rotated by {frame.rotation} degrees"
