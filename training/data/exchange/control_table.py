"""Tables of timestamped controls, brought to the times of a film's frames.

A table is a CSV file with a header and the columns `time` (seconds, increasing), `steering` and `throttle` (in [-1, 1];
+1 is right, -1 is full brake), and, where they are known,

- `speed` (m/s), `x` and `y` (metres, on a plane with yaw counter-clockwise from +x), `yaw` (radians);
- `reward`: what was earned since the line before; what a frame's interval gets is the sum of that over the interval,
  where a line's reward counts evenly over the time since the line before, so none is lost or counted twice;
- `terminated`: 1 where a drive ended (0 elsewhere); the next line begins another one;
- whatever else was logged, in numbers, which becomes telemetry of the same name.

Between two lines values change evenly. Where lines are missing there is a hole, and the film is cut there.

Legend: N lines of the table, n steps between n + 1 frames, C controls.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NEEDED = ("time", "steering", "throttle")
KNOWN = (*NEEDED, "speed", "x", "y", "yaw", "reward", "terminated")
MOVED = 0.5  # metres after which the direction of motion tells the heading
POINT_STEP = 2.0  # metres between the points of a route
BEFORE, AFTER = 10.0, 30.0  # seconds of the driven path before and after some frames that are their route
HOLE = 4.0  # times the median time between two lines, and longer than a frame lasts: that many lines are missing
FULL = {"steering": "full lock", "throttle": "full throttle and full brake"}
LARGEST = 1e9  # of what anything but the time can be in its unit: the earth is 4e7 metres around
EDGE = 0.1  # share of a frame's time by which frames and lines may miss each other


class ControlTable:
    """Timestamped controls, and what else was logged with them.

    Args:
        path: The CSV file.
        interval: Seconds between two frames of the film; no shorter pause between lines is a hole.
        controls: Names of further columns that are controls, in [-1, 1].

    Attributes:
        path: The file.
        columns: The columns, float64 `[N]` each.
        time: The column `time`.
        holes: float64 `[K, 2]`, beginnings and ends of the pauses without lines.
        told: Names of the columns that become telemetry.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing or stands twice, a value is no number, the time does not increase, controls
            lie outside [-1, 1], or `terminated` is neither 0 nor 1.
    """

    def __init__(self, path: str | Path, interval: float = 0.0, controls: Sequence[str] = ()) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no table of controls {self.path}")
        with open(self.path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
        names = [name.strip().lower() for name in rows[0]] if rows else []
        needed = [*NEEDED, *controls]
        missing = [name for name in needed if name not in names]
        if missing or not all(names) or len(set(names)) < len(names) or len({"x", "y"} & set(names)) == 1:
            raise ValueError(
                f"{self.path} must have the columns {', '.join(needed)} and may have {', '.join(KNOWN[3:])} "
                f"(x and y together) and others with names of their own, got {', '.join(names) or 'nothing'}"
            )
        self.told = [n for n in names if n not in controls and (n == "speed" or n not in KNOWN)]
        self.columns = dict(zip(names, self._numbers(rows, len(names)).T, strict=True))
        self.time = self.columns["time"]
        if len(self.time) < 2 or not (np.diff(self.time) > 0).all():
            late = np.flatnonzero(np.diff(self.time) <= 0)
            where = (
                f"line {late[0] + 3} has {self.time[late[0] + 1]:.15g} after {self.time[late[0]]:.15g}"
                if len(late)
                else ""
            )
            raise ValueError(
                f"the time in {self.path} must increase over at least 2 lines; {where or 'there are fewer'}"
            )
        for name, column in self.columns.items():
            if name != "time" and np.abs(column).max() > LARGEST:
                raise ValueError(f"{name} in {self.path} cannot be {column[np.abs(column).argmax()]:g}; mend the line")
        for name in needed[1:]:
            largest = self.columns[name][np.abs(self.columns[name]).argmax()]
            if abs(largest) > 1:
                raise ValueError(
                    f"{name} in {self.path} must lie in [-1, 1], got {largest:g} (degrees, percent?); divide it by "
                    f"what {FULL.get(name, 'its largest value')} is in its own unit"
                )
        ended = self.columns.get("terminated", np.zeros(len(self.time)))
        if not np.isin(ended, (0, 1)).all():
            raise ValueError(f"terminated in {self.path} must be 0 or 1, got {ended[~np.isin(ended, (0, 1))][0]:g}")
        self._controls, self._edge = np.stack([self.columns[name] for name in needed[1:]], -1), EDGE * interval
        pauses = np.diff(self.time)
        self._missing = pauses > max(HOLE * float(np.median(pauses)), interval)
        self._ended = ended[:-1] == 1
        cut = self._missing | self._ended
        self._part = np.concatenate([[0], np.cumsum(cut)])  # lines of one part follow each other
        self.holes = np.stack([self.time[:-1][cut], self.time[1:][cut]], -1)
        self._ends = self.time[ended == 1]

    def covers(self, start: float, end: float) -> bool:
        """Whether the table reaches from one time to another."""
        return self.time[0] <= start and end <= self.time[-1]

    def left_out(self, start: float, end: float) -> tuple[float, int]:
        """Seconds without lines between two times, and in how many pauses; drives that end do not count."""
        low, high = self.time[:-1][self._missing], self.time[1:][self._missing]
        overlap = np.minimum(high, end) - np.maximum(low, start)
        return float(overlap[overlap > 0].sum()), int((overlap > 0).sum())

    def within_hole(self, time: float) -> bool:
        """Whether a time lies in a hole."""
        return bool(((self.holes[:, 0] + self._edge < time) & (time < self.holes[:, 1] - self._edge)).any())

    def cut_between(self, before: float, after: float) -> bool:
        """Whether a hole lies between two times."""
        overlap = np.minimum(self.holes[:, 1], after) - np.maximum(self.holes[:, 0], before)
        return bool((overlap > self._edge).any())

    def ends(self, time: float, interval: float) -> bool:
        """Whether a drive ends with the frame that is shown from some time on."""
        return bool(((self._ends >= time - self._edge) & (self._ends < time - self._edge + interval)).any())

    def controls(self, times: np.ndarray) -> np.ndarray:
        """Mean controls between n + 1 increasing times, float32 `[n, C]`.

        Means, not samples: what the wheel did between two frames is what moves the second one.
        """
        grid = np.union1d(self.time, times)
        values = np.stack([np.interp(grid, self.time, column) for column in self._controls.T], -1)
        areas = 0.5 * (values[1:] + values[:-1]) * np.diff(grid)[:, None]
        total = np.concatenate([np.zeros((1, areas.shape[1])), np.cumsum(areas, 0)])[np.searchsorted(grid, times)]
        return np.clip(np.diff(total, axis=0) / np.diff(times)[:, None], -1, 1).astype(np.float32)

    def reward(self, times: np.ndarray) -> np.ndarray:
        """Reward earned between n + 1 increasing times, float32 `[n]`; NaN where it was not logged."""
        if "reward" not in self.columns:
            return np.full(len(times) - 1, np.nan, np.float32)
        earned = np.concatenate([[0.0], np.cumsum(self.columns["reward"][1:])])
        return np.diff(np.interp(times, self.time, earned)).astype(np.float32)

    def telemetry(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """What was logged beside, at some times, float32 `[n + 1]` by name."""
        return {name: self._at(name, times).astype(np.float32) for name in self.told}

    def poses(self, times: np.ndarray) -> np.ndarray:
        """x, y and yaw at some times, float64 `[n + 1, 3]`; NaN where positions were not logged.

        Without a column `yaw` the heading is the direction of motion, kept while the car stands.
        """
        if "x" not in self.columns:
            return np.full((len(times), 3), np.nan)
        x, y = self._at("x", times), self._at("y", times)
        return np.stack([x, y, np.interp(times, self.time, self._yaw())], -1)

    def route(self, start: float, end: float) -> np.ndarray:
        """The driven path around a stretch of time, float64 `[M, 2]`; empty where it is not known or not left."""
        if "x" not in self.columns:
            return np.zeros((0, 2))
        near = (self.time >= start - BEFORE) & (self.time <= end + AFTER)
        near &= self._part == self._part[np.abs(self.time - 0.5 * (start + end)).argmin()]
        path = np.stack([self.columns["x"], self.columns["y"]], -1)[near]
        kept = [0] if len(path) else []
        for index in range(1, len(path)):
            if np.linalg.norm(path[index] - path[kept[-1]]) >= POINT_STEP:
                kept.append(index)
        return path[kept] if len(kept) > 3 else np.zeros((0, 2))

    def _at(self, name: str, times: np.ndarray) -> np.ndarray:
        return np.interp(times, self.time, self.columns[name])

    def _yaw(self) -> np.ndarray:
        """Yaw of every line, without jumps."""
        if "yaw" in self.columns:
            return np.unwrap(self.columns["yaw"])
        path = np.stack([self.time, self.columns["x"], self.columns["y"]], -1)
        return np.concatenate([_headings(part) for part in np.split(path, np.flatnonzero(np.diff(self._part)) + 1)])

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


def _headings(path: np.ndarray) -> np.ndarray:
    """Yaw `[M]` of the motion along times and positions `[M, 3]`; 0 where there is none."""
    times, yaws, last = [], [], 0
    for index in range(1, len(path)):
        _, x, y = path[index] - path[last]
        if math.hypot(x, y) >= MOVED:
            times.append(0.5 * (path[last, 0] + path[index, 0]))
            yaws.append(math.atan2(y, x))
            last = index
    return np.interp(path[:, 0], times, np.unwrap(yaws)) if yaws else np.zeros(len(path))
