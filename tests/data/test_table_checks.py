"""Clocks, units and signs of a table that cannot be meant are named, and what can be meant passes without a word."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from drivedit.data.exchange.control_table import ControlTable
from drivedit.data.exchange.table_checks import check_clock, check_units

SECONDS, RATE = 60.0, 30.0


@dataclass
class Film:
    path: Path = Path("drive.mp4")
    seconds: float = SECONDS
    rate: float = RATE


def drive(path: Path, rate: int = 20, **changed) -> ControlTable:
    """A drive of a minute at 8 to 12 m/s through bends to both sides; columns are replaced, or dropped by None."""
    time = np.arange(0, SECONDS + 1, 1 / rate)
    speed = 10 + 2 * np.sin(time / 7)
    steering = 0.5 * np.sin(time / 5)
    yaw = 0.3 - np.concatenate([[0], np.cumsum(0.03 * steering[:-1] * speed[:-1] / rate)])
    step = speed[:-1] / rate
    middle = 0.5 * (yaw[1:] + yaw[:-1])
    x, y = (np.concatenate([[0], np.cumsum(step * f(middle))]) for f in (np.cos, np.sin))
    columns = {"time": time, "steering": steering, "throttle": 0.3 + 0.1 * np.sin(time), "speed": speed, "x": x, "y": y}
    columns["yaw"] = yaw
    changes = {name: change(columns) if callable(change) else change for name, change in changed.items()}
    columns = {name: values for name, values in {**columns, **changes}.items() if values is not None}
    np.savetxt(path, np.stack(list(columns.values()), -1), "%.15g", ",", header=",".join(columns), comments="")
    return ControlTable(path)


def checked(table: ControlTable, film: Film | None = None) -> None:
    check_clock(film or Film(), table, 0.0, 10.0)  # type: ignore[arg-type]
    check_units(table)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"yaw": None, "speed": None},
        {"x": None, "y": None, "yaw": None},
        {"x": lambda c: c["x"] + 500_000, "y": lambda c: c["y"] + 5_400_000},
        {"yaw": lambda c: (c["yaw"] + np.pi) % (2 * np.pi) - np.pi},
        {"speed": lambda c: 1.05 * c["speed"]},
        {"speed": lambda c: 0 * c["x"], "x": lambda c: 0 * c["x"], "y": lambda c: 0 * c["y"], "yaw": None},
    ],
)
def test_what_can_be_meant_passes_without_a_word(tmp_path, caplog, changed):
    checked(drive(tmp_path / "drive.csv", **changed))
    assert not caplog.records


REFUSED = {
    "milliseconds": (
        {"time": lambda c: 1e3 * c["time"]},
        r"lasts 60950 .* be in milliseconds; divide it by 1000",
    ),
    "nanoseconds": ({"time": lambda c: 1e9 * c["time"]}, "seems to be in nanoseconds"),
    "frames": ({"rate": 30, "time": lambda c: np.arange(len(c["time"]))}, "count frames; divide it by 30"),
    "epoch": ({"time": lambda c: c["time"] + 1.7e9}, r"covers 1700000000.00 to .* the table's time at the first frame"),
    "km/h": (
        {"speed": lambda c: 3.6 * c["speed"]},
        r"is 37\S+ m/s .* move at 10\S+ m/s: .* km/h; divide it by 3.6",
    ),
    "mph": ({"speed": lambda c: 2.237 * c["speed"]}, "in miles per hour"),
    "x, y in degrees": ({n: lambda c, n=n: 1e-5 * c[n] for n in "xy"}, "must be metres on a plane"),
    "yaw in degrees": (
        {"yaw": lambda c: np.degrees(c["yaw"]) % 360},
        "as degrees; it must be in radians",
    ),
    "compass": ({"yaw": lambda c: np.pi / 2 - c["yaw"]}, "as a compass heading in radians"),
    "compass degrees": ({"yaw": lambda c: 90 - np.degrees(c["yaw"])}, "as a compass heading in degrees"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path, kind):
    changed, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        checked(drive(tmp_path / "drive.csv", **changed))


ODD = {
    "other way": ({"steering": lambda c: -c["steering"]}, r"turns left when steering is positive: \+1 must be right"),
    "mirrored": ({"y": lambda c: -c["y"], "yaw": lambda c: -c["yaw"]}, "must be right, and y left of x"),
    "tiny": ({"steering": lambda c: 0.01 * c["steering"]}, "steering in .* never leaves"),
    "constant": ({"throttle": lambda c: 0 * c["time"]}, "throttle in .* is always 0"),
    "fast": ({"speed": lambda c: 10 * c["speed"], "x": None, "y": None, "yaw": None}, "reaches 12.* is it in km/h"),
    "speed": ({"speed": lambda c: 1.5 * c["speed"]}, "1.5 times"),
    "degrees": ({"speed": None, **{n: lambda c, n=n: 1e-5 * c[n] for n in "xy"}}, "within .* are they degrees"),
    "backwards": ({"yaw": lambda c: c["yaw"] + np.pi}, "does not point where the positions move"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_said(tmp_path, caplog, kind):
    changed, message = ODD[kind]
    checked(drive(tmp_path / "drive.csv", **changed))
    (record,) = caplog.records
    assert re.search(message, record.getMessage())


def test_a_table_that_lasts_far_longer_than_its_film(tmp_path, caplog):
    table = drive(tmp_path / "drive.csv")
    checked(table, Film(seconds=20.0))
    assert "lasts 60.95 by its column time, drive.mp4 20.00 s: the rest of the table is not used" in caplog.text
