"""Units, signs and clocks of a table that cannot be meant, told from what the table and the film say themselves.

What is certain is an error; what is only odd is a warning. Each says what was found and how to mend it.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Protocol

import numpy as np

from drivedit.data.exchange.control_table import ControlTable

CLOCKS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
SPEEDS = {"km/h": 3.6, "miles per hour": 2.237, "knots": 1.944}
NEAR = 0.06  # a ratio that is that near to a unit's is that unit
FASTEST = 80.0  # m/s; beyond it a speed is no car's
WINDOW = 1.0  # seconds over which motion is told from positions
DRIVES = 1.0  # m/s from which on a car drives
EXTENT = 0.5  # metres within which no drive stays
LEAST = 0.02  # steering that never goes beyond it says little

log = logging.getLogger(__name__)


class Filmed(Protocol):
    """What lasts for some time at some rate: a video, or scans.

    Attributes:
        path: Where it is.
        seconds: How long it lasts.
        rate: Frames per second.
    """

    path: Path
    seconds: float
    rate: float


def check_clock(video: Filmed, table: ControlTable, offset: float, fps: float) -> None:
    """Raises ValueError unless the table's clock is in seconds and covers the film, but for one frame at either end."""
    first, last = offset, offset + video.seconds
    lasts, pause = table.time[-1] - table.time[0], float(np.median(np.diff(table.time)))
    found = f"{table.path} lasts {lasts:g} by its column time, {video.path} {video.seconds:.2f} s"
    for name, unit in CLOCKS.items():
        if pause >= 1 and abs(math.log(lasts / unit / video.seconds)) < 0.5:
            raise ValueError(f"{found}: time seems to be in {name}; divide it by {unit:.0f}")
    if pause == 1 and video.rate > 2 and abs(lasts / video.rate - video.seconds) <= 0.05 * video.seconds + 1:
        raise ValueError(f"{found}: time seems to count frames; divide it by {video.rate:.6g}, the film's frames/s")
    if not table.covers(first + 1 / fps, last - 1 / fps):
        raise ValueError(
            f"{table.path} covers {table.time[0]:.2f} to {table.time[-1]:.2f} s, but {video.path} shows "
            f"{first:.2f} to {last:.2f} s of that clock; shift the clock (offset, the table's time at the first frame) "
            "or cut the video"
        )
    if lasts > 2 * video.seconds + 10:
        log.warning("%s: the rest of the table is not used; is its time in seconds?", found)


def check_units(table: ControlTable) -> None:
    """Compares steering, speed, positions and yaw of a table with each other.

    Raises:
        ValueError: Speed is not in m/s, yaw not in radians counter-clockwise from +x, or positions are not in metres.
    """
    steering, throttle = table.columns["steering"], table.columns["throttle"]
    for name, values, full in (("steering", steering, "full lock"), ("throttle", throttle, "full throttle and brake")):
        if 0 < np.abs(values).max() < LEAST:
            log.warning("%s in %s never leaves +-%g; is 1 %s?", name, table.path, np.abs(values).max(), full)
        elif np.ptp(values) == 0:
            log.warning("%s in %s is always %g: no world can learn what it does", name, table.path, values[0])
    speed = table.columns.get("speed")
    if speed is not None and np.abs(speed).max() > FASTEST:
        log.warning("speed in %s reaches %g m/s; is it in km/h?", table.path, np.abs(speed).max())
    if "x" not in table.columns:
        return
    moved, heading, middle = _motion(table)
    driving = moved > DRIVES
    if speed is not None:
        _check_speed(table, np.interp(middle, table.time, speed), moved)
    if not driving.any():
        extent = max(np.ptp(table.columns["x"]), np.ptp(table.columns["y"]))
        if 0 < extent < EXTENT:
            log.warning(
                "positions in %s lie within %.3g m; are they degrees? They must be metres on a plane",
                table.path,
                extent,
            )
        return
    if "yaw" in table.columns:
        _check_yaw(table, middle, heading, driving)
    turned = -(np.diff(np.unwrap(heading)))[driving[1:] & driving[:-1]]  # to the right
    steered = np.interp(middle, table.time, steering)
    steered = (0.5 * (steered[1:] + steered[:-1]))[driving[1:] & driving[:-1]]
    if len(turned) > 10 and np.abs(turned).sum() > 1 and steered.std() > 0:
        alike = float((turned * steered).sum() / math.sqrt((turned**2).sum() * (steered**2).sum()))
        if alike < -0.5:
            log.warning(
                "the car in %s turns left when steering is positive: +1 must be right, and y left of x", table.path
            )


def _motion(table: ControlTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Speed and direction of the positions' motion over a second each, and the times in the middle of it."""
    starts = np.arange(table.time[0], table.time[-1] - WINDOW, WINDOW)
    starts = starts[[not table.cut_between(t, t + WINDOW) for t in starts]] if len(starts) else starts
    x, y = (
        np.interp(starts + WINDOW, table.time, c) - np.interp(starts, table.time, c)
        for c in (table.columns["x"], table.columns["y"])
    )
    return np.hypot(x, y) / WINDOW, np.arctan2(y, x), starts + WINDOW / 2


def _check_speed(table: ControlTable, speed: np.ndarray, moved: np.ndarray) -> None:
    fast = np.abs(speed) > DRIVES
    if not fast.any():
        return
    found = f"speed in {table.path} is {np.abs(speed[fast]).mean():.4g} m/s on average, its positions move at"
    found += f" {moved[fast].mean():.4g} m/s"
    if moved[fast].mean() < 1e-3 * np.abs(speed[fast]).mean():
        raise ValueError(f"{found}; x and y must be metres on a plane (degrees must be projected, by UTM for instance)")
    ratio = float(np.median(np.abs(speed[fast]) / np.maximum(moved[fast], 1e-9)))
    for name, unit in SPEEDS.items():
        if abs(ratio / unit - 1) < NEAR:
            raise ValueError(f"{found}: speed seems to be in {name}; divide it by {unit:g}")
    if not 0.8 < ratio < 1.25:
        log.warning("%s, %.3g times less; is one of them in other units?", found, ratio)


def _check_yaw(table: ControlTable, middle: np.ndarray, heading: np.ndarray, driving: np.ndarray) -> None:
    yaw = table.columns["yaw"][np.searchsorted(table.time, middle[driving]).clip(max=len(table.time) - 1)]
    meant = {
        "radians": yaw,
        "degrees": np.radians(yaw),
        "a compass heading in radians": np.pi / 2 - yaw,
        "a compass heading in degrees": np.pi / 2 - np.radians(yaw),
    }
    fits = {name: float(np.cos(angle - heading[driving]).mean()) for name, angle in meant.items()}
    best = max(fits, key=lambda name: fits[name])
    if fits[best] > 0.95 and fits["radians"] < fits[best] - 0.05:
        raise ValueError(
            f"yaw in {table.path} fits its positions as {best}; it must be in radians, counter-clockwise from +x"
        )
    if fits["radians"] < 0.5:
        log.warning(
            "yaw in %s does not point where the positions move; it must be in radians, counter-clockwise from +x",
            table.path,
        )
