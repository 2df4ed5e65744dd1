"""Tables of controls with damage and odd values: each is refused with `ValueError`, or gives controls in [-1, 1]."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from drivedit.data.exchange.control_table import ControlTable

from .damage import Outcomes, counted, damaged, tried

KNOWN = ("x", "x", "speed", "reward")  # columns without which poses, routes, speeds and rewards are not known
ODD = [
    "",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-320",
    "-0",
    "0x10",
    "1_000",
    "１",
    "1,5",
    "twelve",
    " ",
    "1e300",
    "-1e300",
    '"',
]


def small_table(rng: np.random.Generator) -> list[list[str]]:
    """Thirty lines, all columns."""
    time = np.cumsum(rng.uniform(0.05, 0.15, 30))
    values = np.column_stack(
        [
            time, *rng.uniform(-1, 1, (2, 30)), rng.uniform(0, 30, 30), 20 * time, time, np.full(30, 0.05),
            rng.random(30), np.arange(30) == 20,
        ]
    )  # fmt: skip
    head = ["time", "steering", "throttle", "speed", "x", "y", "yaw", "reward", "terminated"]
    return [head, *([f"{value:.6g}" for value in row] for row in values)]


def run(files: int, seed: int) -> Outcomes:
    """Damages tables and reads what a film needs of them.

    Args:
        files: How many damaged tables.
        seed: Decides them all.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drive.csv"

        def usable() -> bool:
            with np.errstate(all="ignore"):
                table = ControlTable(path, 0.1)
                times = np.linspace(table.time[0], table.time[0] + 2, 21)
                controls = table.controls(times)
                places, rest = (table.poses(times), table.route(times[0], times[-1])), table.telemetry(times)
                told = [*places, rest.get("speed", np.zeros(1)), table.reward(times)]  # damage can rename a column
            sane = all(np.isfinite(part).all() for part, name in zip(told, KNOWN, strict=True) if name in table.columns)
            return controls.shape == (20, 2) and bool((np.abs(controls) <= 1).all()) and sane

        def one(index: int, rng: np.random.Generator) -> str:
            rows = small_table(rng)
            for _ in range(rng.integers(1, 4) if index % 3 else 0):
                row = rows[rng.integers(index % 3 - 1, len(rows))]
                at = rng.integers(len(row))
                row[at] = str(rng.choice(ODD)) if index % 3 == 1 else f"{float(row[at]) * 10 ** rng.normal():.6g}"
            content = "\n".join(",".join(row) for row in rows).encode()
            path.write_bytes(content if index % 3 else damaged(content, rng))
            outcome = tried(usable, (ValueError,))  # "same" says: usable
            return "numbers that cannot be" if outcome == "read as something else" else outcome

        return counted(files, seed, one)
