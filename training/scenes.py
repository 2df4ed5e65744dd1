"""Choice of the start scenes that a world ships."""

from __future__ import annotations

import numpy as np

from drivedit.config import WorldConfig
from drivedit.data.clips import Drives
from drivedit.models import Scene

SPEED, OFFSET, HEADING, WHEELS = range(4)


def pick_scenes(drives: Drives, chosen: np.ndarray, world: WorldConfig, count: int = 48) -> list[Scene]:
    """Picks moments on the road, one per drive, spread evenly over the speeds that occur.

    Args:
        drives: Recordings with telemetry of speed, lateral offset, heading error and wheels on the road.
        chosen: Numbers of the drives to pick from.
        world: Gives the length of a context.
        count: Most scenes.
    """
    context = (world.student.window or 8) + 1
    found: list[tuple[float, int, int]] = []
    for drive in chosen:
        states = drives.states(int(drive))
        telemetry = np.asarray(drives.telemetry[states])
        steady = (
            (np.abs(telemetry[:, HEADING]) < 0.3) & (np.abs(telemetry[:, OFFSET]) < 4) & (telemetry[:, WHEELS] == 1)
        )
        steady[: context - 1] = False
        for index in np.flatnonzero(steady)[:: max(1, steady.sum() // 3)]:
            found.append((float(telemetry[index, SPEED]), int(drive), states.start + int(index)))
    found.sort()
    picked, used = [], set()
    for index in np.linspace(0, len(found) - 1, 4 * count).astype(int):
        if found[index][1] not in used and len(picked) < count:
            used.add(found[index][1])
            picked.append(found[index])
    return [_scene(drives, drive, now, context) for _, drive, now in picked]


def _scene(drives: Drives, drive: int, now: int, context: int) -> Scene:
    states = slice(now - context + 1, now + 1)
    controls = np.array(drives.control[now - context + 2 : now + 1])
    poses = np.array(drives.pose[states], np.float32)
    bounds = drives.bounds[drive] if np.isfinite(drives.bounds[drive]).any() else None
    frames, closed = np.array(drives.frames[states]), bool(drives.closed[drive])
    return Scene(frames, controls, drives.routes[drive], closed, poses, bounds)
