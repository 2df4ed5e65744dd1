"""Choice of the start scenes that a world ships."""

from __future__ import annotations

import numpy as np

from drivedit.config import WorldConfig
from drivedit.data.clips import Drives
from drivedit.models import Scene, check_scene

STEADY = ("speed", "lateral_offset", "heading_error", "wheels_on_road")  # telemetry that says where a dream can begin


def pick_scenes(drives: Drives, chosen: np.ndarray, world: WorldConfig, count: int = 48) -> list[Scene]:
    """Picks moments, on the road where the recordings know it, spread evenly over the speeds that occur.

    Every drive gives one, or more where there are few drives; without telemetry they are spread over time.

    Args:
        drives: The recordings.
        chosen: Numbers of the drives to pick from.
        world: Gives the length of a context.
        count: Most scenes.
    """
    context = _context(world)
    most = max(1, count // len(chosen))  # per drive
    found: list[tuple[float, int, int]] = []
    for drive in chosen:
        states = drives.states(int(drive))
        speeds, offset, heading, wheels = (drives.told(name)[states] for name in STEADY)
        steady = ~((np.abs(heading) >= 0.3) | (np.abs(offset) >= 4) | (wheels < 1))  # what is not known hinders nothing
        steady[: context - 1] = False
        for index in np.flatnonzero(steady)[:: max(1, steady.sum() // (3 * most))]:
            speed = float(np.nan_to_num(speeds[index]))
            found.append((speed, int(drive), states.start + int(index)))
    if not found:
        raise ValueError(f"no validation drive has {context} states on the road to begin a dream with; record more")
    found.sort()
    picked: list[tuple[float, int, int]] = []
    used: dict[int, int] = {}
    for index in dict.fromkeys(np.linspace(0, len(found) - 1, 4 * count).astype(int).tolist()):
        drive = found[index][1]
        if used.get(drive, 0) < most and len(picked) < count:
            used[drive] = used.get(drive, 0) + 1
            picked.append(found[index])
    return [scene_at(drives, drive, now, world) for _, drive, now in picked]


def _context(world: WorldConfig) -> int:
    """Frames of a scene."""
    return (world.student.window or 8) + 1


def scene_at(drives: Drives, drive: int, now: int, world: WorldConfig) -> Scene:
    """The scene of a moment: the state `now` of a drive and what came before it, as far as the world looks back."""
    first = max(now - _context(world) + 1, drives.states(drive).start)
    states = slice(first, now + 1)
    controls = np.array(drives.control[first + 1 : now + 1])
    frames, poses = np.array(drives.frames[states]), np.array(drives.pose[states])
    route, bounds = drives.routes[drive], drives.bounds[drive]
    routed = len(route) > 0 and world.student.route_dim > 0
    scene = Scene(
        frames,
        controls,
        route if routed else None,
        bool(drives.closed[drive]) and routed,
        poses if np.isfinite(poses).all() else None,
        bounds if np.isfinite(bounds).any() else None,
    )
    return check_scene(scene, world.spec)
