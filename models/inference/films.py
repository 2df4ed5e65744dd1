"""Clips as films, and the tables that they are made from; a folder of films goes on where it was interrupted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from drivedit.config import WorldSpec
from drivedit.utils import enlarged, locked, rgb, write_atomically
from drivedit.utils.video import VideoWriter

SETTINGS = "clips.json"  # of a folder of films: what they are made from


def read_table(path: str | Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Columns of a CSV file with a header, float64 `[N]` each; others are passed over.

    Args:
        path: The file.
        columns: Names of the columns that are needed.
        optional: Names of those that are read where they are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, there is no line, or a value is no finite number.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no table {path}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    names = [name.strip().lower() for name in rows[0]] if rows else []
    missing = [name for name in columns if name not in names]
    if missing or len(rows) < 2:
        raise ValueError(
            f"the table {path} must have the columns {', '.join(columns)} and at least one line of numbers, got "
            f"{', '.join(names) or 'nothing'} and {max(len(rows) - 1, 0)} lines"
        )
    wanted = [name for name in (*columns, *optional) if name in names]
    table = {name: [] for name in wanted}
    for number, row in enumerate(rows[1:], 2):
        for name in wanted:
            try:
                value = float(row[names.index(name)])
            except (ValueError, IndexError):
                value = math.nan
            if not math.isfinite(value):
                raise ValueError(f"{name} in line {number} of {path} must be a finite number, the line is {row}")
            table[name].append(value)
    return {name: np.array(values) for name, values in table.items()}


def read_controls(path: str | Path, spec: WorldSpec) -> np.ndarray:
    """Controls float32 `[T, A]` of a table: its lines are steps, or stand at their times and change evenly.

    Args:
        path: CSV file with a column for each control; with a column `time`, in seconds, its lines stand at these times.
        spec: Whose controls and time step they are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, a value is no number, or the time does not increase.
    """
    names = spec.names("controls")
    table = read_table(path, names, ["time"])
    driven = np.stack([table[name] for name in names], 1)
    if "time" in table:
        time = table["time"]
        if not (np.diff(time) > 0).all():
            raise ValueError(f"the time in {path} must increase from line to line")
        steps = time[0] + spec.dt * np.arange(round((time[-1] - time[0]) / spec.dt) + 1)
        driven = np.stack([np.interp(steps, time, column) for column in driven.T], 1)
    return driven.astype(np.float32)


def write_film(path: str | Path, clip: Tensor, fps: float, height: int | None = None) -> None:
    """Writes a clip as a film, whole or not at all.

    Args:
        path: The film: `*.mp4` or `*.webp`.
        clip: `[C, T, H, W]` in [0, 1], C of 1 or 3.
        fps: Frames per second.
        height: Of the film in pixels; None: that of the clip.
    """
    frames = (clip * 255).round().byte().permute(1, 2, 3, 0).numpy()
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.write(np.ascontiguousarray(rgb(frame)) if height is None else enlarged(frame, height))


def write_films(
    folder: str | Path,
    count: int,
    together: int,
    settings: Mapping[str, Any],
    make: Callable[[range], Iterable[Tensor]],
    write: Callable[[Path, Tensor], None],
) -> None:
    """Writes clips to a folder, `clip-00000.mp4` and on; those that are there already stay.

    Clips are made in the same groups whether or not an earlier run was interrupted, so they are the same.

    Args:
        folder: The folder; it notes in `clips.json` what its films are made from.
        count: Number of clips.
        together: Clips of a group.
        settings: What they are made from, but for their number.
        make: Gives the clips of a group.
        write: Writes one.

    Raises:
        ValueError: The folder has films that were made from something else; what differs is named.
        RuntimeError: Another process writes there.
    """
    folder = Path(folder)
    with locked(folder / ".clips.lock", f"writing clips to {folder}", 0):
        noted, told = folder / SETTINGS, json.loads(json.dumps(dict(settings)))
        before = json.loads(noted.read_text()) if noted.is_file() else told
        differ = sorted(name for name in {*told, *before} if told.get(name) != before.get(name))
        if differ:
            raise ValueError(f"{folder} has clips with another {', '.join(differ)}: choose another folder")
        write_atomically(noted, lambda file: file.write((json.dumps(told) + "\n").encode()))
        files = [folder / f"clip-{number:05d}.mp4" for number in range(count)]
        with tqdm(total=count, initial=sum(map(Path.exists, files)), desc="clips", disable=None) as bar:
            for first in range(0, count, together):
                group = range(first, min(first + together, count))
                if all(files[number].exists() for number in group):
                    continue
                for number, clip in zip(group, make(group), strict=True):
                    if not files[number].exists():
                        write(files[number], clip)
                        bar.update()
